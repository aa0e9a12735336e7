//! Device memory: buffers, and textures that hold plain bytes.

use super::Gpu;
use crate::base::{DeviceFault, Error, Result, TEXELS};
use crate::plan;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Bytes of a texture's row.
const ROW: u64 = TEXELS as u64 * 16;

/// Memory of a planned buffer; its size counts until it is released with its owner.
#[derive(Clone)]
pub(super) enum Memory {
    Buffer(wgpu::Buffer),
    Texels(wgpu::Texture, wgpu::TextureView),
}

impl Memory {
    /// Bytes.
    pub fn size(&self) -> u64 {
        match self {
            Memory::Buffer(b) => b.size(),
            Memory::Texels(t, _) => t.height() as u64 * ROW,
        }
    }
    pub fn destroy(&self) {
        match self {
            Memory::Buffer(b) => b.destroy(),
            Memory::Texels(t, _) => t.destroy(),
        }
    }
    /// Offsets and lengths of writes are multiples of this.
    pub fn unit(&self) -> usize {
        match self {
            Memory::Buffer(_) => 4,
            Memory::Texels(..) => 16,
        }
    }
    /// # Errors
    /// A texture: copies and states take buffers.
    pub fn buffer(&self) -> Result<&wgpu::Buffer> {
        match self {
            Memory::Buffer(b) => Ok(b),
            Memory::Texels(..) => {
                Err(Error::usage("the value lies in a texture, where it can be written, but not copied from"))
            }
        }
    }

    /// Writes whole units.
    pub fn write(&self, gpu: &Gpu, mut at: u64, mut bytes: &[u8]) {
        match self {
            Memory::Buffer(b) => gpu.upload(b, at, bytes),
            // The end of a row, whole rows, the start of one.
            Memory::Texels(texture, _) => {
                while !bytes.is_empty() {
                    let (x, len) = (at % ROW, bytes.len() as u64);
                    let now = if x > 0 || len < ROW { len.min(ROW - x) } else { len / ROW * ROW };
                    let (here, rest) = bytes.split_at(now as usize);
                    write_rows(gpu, texture, (x / 16, at / ROW), here);
                    (at, bytes) = (at + now, rest);
                }
            }
        }
    }
}

/// A buffer that is released with its guard.
pub(super) struct Lent<'a> {
    pub buffer: wgpu::Buffer,
    gpu: &'a Gpu,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.gpu.release(self.buffer.size());
        self.buffer.destroy();
    }
}

/// Memory that no store owns; it is released with its owner, also where a program could not be loaded to its end.
pub(super) struct Own {
    gpu: Arc<Gpu>,
    all: Vec<Memory>,
}

impl Own {
    pub fn new(gpu: Arc<Gpu>) -> Own {
        Own { gpu, all: vec![] }
    }
    pub fn push(&mut self, memory: Memory) {
        self.all.push(memory);
    }
    /// Bytes.
    pub fn size(&self) -> u64 {
        self.all.iter().map(Memory::size).sum()
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        for memory in &self.all {
            self.gpu.release(memory.size());
            memory.destroy();
        }
    }
}

/// Part of a row, or whole rows.
fn write_rows(gpu: &Gpu, texture: &wgpu::Texture, (x, y): (u64, u64), bytes: &[u8]) {
    let rows = (bytes.len() as u64).div_ceil(ROW);
    let width = (bytes.len() as u64).min(ROW) / 16;
    gpu.made(|m| &m.uploads);
    gpu.queue.write_texture(
        wgpu::TexelCopyTextureInfo {
            origin: wgpu::Origin3d { x: x as u32, y: y as u32, z: 0 },
            ..texture.as_image_copy()
        },
        bytes,
        wgpu::TexelCopyBufferLayout { offset: 0, bytes_per_row: Some(width as u32 * 16), rows_per_image: None },
        wgpu::Extent3d { width: width as u32, height: rows as u32, depth_or_array_layers: 1 },
    );
}

impl Gpu {
    /// A buffer, whose size counts until it is released.
    pub(super) async fn buffer(&self, label: &str, bytes: u64, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer> {
        let size = bytes.max(16).next_multiple_of(16);
        let descriptor = wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false };
        self.allocate(label, size, |d| d.create_buffer(&descriptor)).await
    }

    /// Memory for a planned buffer that kernels read and write, or for one in texels, that they read.
    pub(super) async fn memory(&self, planned: &plan::Buffer) -> Result<Memory> {
        if !planned.texels {
            let usage = wgpu::BufferUsages::STORAGE
                | wgpu::BufferUsages::UNIFORM
                | wgpu::BufferUsages::COPY_DST
                | wgpu::BufferUsages::COPY_SRC;
            return Ok(Memory::Buffer(self.buffer(&planned.label, planned.bytes, usage).await?));
        }
        let rows = planned.bytes.div_ceil(ROW).max(1);
        let descriptor = wgpu::TextureDescriptor {
            label: Some(&planned.label),
            size: wgpu::Extent3d { width: TEXELS, height: rows as u32, depth_or_array_layers: 1 },
            mip_level_count: 1,
            sample_count: 1,
            dimension: wgpu::TextureDimension::D2,
            format: wgpu::TextureFormat::Rgba32Uint,
            usage: wgpu::TextureUsages::TEXTURE_BINDING | wgpu::TextureUsages::COPY_DST,
            view_formats: &[],
        };
        let texture = self.allocate(&planned.label, rows * ROW, |d| d.create_texture(&descriptor)).await?;
        let view = texture.create_view(&Default::default());
        Ok(Memory::Texels(texture, view))
    }

    /// Makes something of `size` bytes and counts them.
    async fn allocate<T>(&self, label: &str, size: u64, make: impl FnOnce(&wgpu::Device) -> T) -> Result<T> {
        let left = self.failing.load(Ordering::Relaxed);
        self.failing.store(left.saturating_sub(1), Ordering::Relaxed);
        if left == 1 {
            return Err(self.full(label, size, "on purpose"));
        }
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let valid = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let made = make(&self.device);
        let (invalid, full) = (valid.pop().await, memory.pop().await);
        if let Some(e) = full {
            return Err(self.full(label, size, &e.to_string()));
        }
        if let Some(e) = invalid {
            return Err(Error::device(
                DeviceFault::Limit,
                &self.report.name,
                format!("refused a buffer of {size} bytes for \"{label}\": {e}"),
            ));
        }
        self.check()?;
        self.made(|m| &m.buffers);
        let used = self.used.fetch_add(size, Ordering::Relaxed) + size;
        self.peak.fetch_max(used, Ordering::Relaxed);
        Ok(made)
    }

    fn full(&self, label: &str, size: u64, why: &str) -> Error {
        let used = self.used_bytes();
        let what = format!("no memory left for {size} bytes of \"{label}\" ({used} bytes are in use): {why}");
        Error::device(DeviceFault::OutOfMemory, &self.report.name, what)
    }

    /// A buffer for a moment: it is given back where its guard ends.
    pub(super) async fn lent(&self, label: &str, bytes: u64, usage: wgpu::BufferUsages) -> Result<Lent<'_>> {
        Ok(Lent { buffer: self.buffer(label, bytes, usage).await?, gpu: self })
    }

    pub(super) fn release(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

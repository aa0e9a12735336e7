//! What plans of one session share on a device: weights, literals, states and scratch.

use super::Gpu;
use super::gpu::Buffer;
use crate::base::{DType, Error, Result, Weights, block};
use crate::plan::{self, Role};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// Bytes that one upload stages on the host.
const STAGE: usize = 8 << 20;

#[derive(PartialEq, Eq, Hash)]
enum Key {
    Weight(Vec<String>, DType, Range<usize>),
    Data(usize),
    State(String),
}

/// Buffers by what they hold. Loading a second plan of the same model uploads nothing anew.
pub struct Store {
    gpu: Arc<Gpu>,
    shared: HashMap<Key, Buffer>,
    /// Keeps literals alive, so that their addresses stay their names.
    data: Vec<Arc<[f32]>>,
    scratch: Vec<Buffer>,
}

impl Store {
    pub fn new(gpu: Arc<Gpu>) -> Self {
        Store { gpu, shared: HashMap::new(), data: vec![], scratch: vec![] }
    }
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// Sets all states to zeros.
    pub fn reset(&self) {
        let states = self.shared.iter().filter(|(k, _)| matches!(k, Key::State(_)));
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        states.for_each(|(_, b)| encoder.clear_buffer(&b.inner, 0, None));
        self.gpu.submit(Some(encoder.finish()));
    }

    /// The buffer of a planned one; weights are read and uploaded on first use.
    /// `taken` are the scratch buffers that this program already uses.
    pub(super) async fn get(&mut self, buffer: &plan::Buffer, weights: &dyn Weights, taken: &mut Vec<usize>) -> Result<Buffer> {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
        let key = match &buffer.role {
            Role::Weight { parts, dtype, rows, .. } => Key::Weight(parts.clone(), *dtype, rows.clone()),
            Role::Data(data) => Key::Data(data.as_ptr() as usize),
            Role::State(name) => Key::State(name.clone()),
            Role::Input(_) | Role::Output(_) => return self.gpu.buffer(&buffer.label, buffer.bytes, usage).await,
            Role::Scratch => return self.scratch(buffer, usage, taken).await,
        };
        if let Some(known) = self.shared.get(&key) {
            if known.inner.size() < buffer.bytes {
                return Err(Error::usage(format!("state \"{}\" is {} bytes here and {} in another plan", buffer.label, buffer.bytes, known.inner.size())));
            }
            return Ok(known.clone());
        }
        let made = self.gpu.buffer(&buffer.label, buffer.bytes, usage).await?;
        match &buffer.role {
            Role::Weight { parts, dtype, rows, .. } => upload(&self.gpu, &made, parts, *dtype, rows, weights)?,
            Role::Data(data) => {
                let mut writer = Writer::new(&self.gpu, &made, 0);
                for piece in data.chunks(STAGE / 4) {
                    writer.pending.extend_from_slice(bytemuck::cast_slice(piece));
                    writer.flush(true);
                }
                self.data.push(data.clone());
            }
            _ => {}
        }
        self.shared.insert(key, made.clone());
        Ok(made)
    }

    async fn scratch(&mut self, buffer: &plan::Buffer, usage: wgpu::BufferUsages, taken: &mut Vec<usize>) -> Result<Buffer> {
        let fits = |i: &usize| !taken.contains(i) && self.scratch[*i].inner.size() >= buffer.bytes;
        let found = (0..self.scratch.len()).filter(fits).min_by_key(|&i| self.scratch[i].inner.size());
        let index = match found {
            Some(i) => i,
            None => {
                self.scratch.push(self.gpu.buffer(&buffer.label, buffer.bytes, usage).await?);
                self.scratch.len() - 1
            }
        };
        taken.push(index);
        Ok(self.scratch[index].clone())
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        for b in self.shared.values().chain(&self.scratch) {
            self.gpu.release(b.inner.size());
            b.inner.destroy();
        }
    }
}

/// Streams rows of the concatenated file tensors to the device, a bounded piece at a time.
fn upload(gpu: &Gpu, to: &Buffer, parts: &[String], dtype: DType, rows: &Range<usize>, weights: &dyn Weights) -> Result<()> {
    let mut scale_at = 0;
    let mut first_row = 0;
    let mut total = 0u64;
    let mut infos = vec![];
    for part in parts {
        let info = weights.info(part)?;
        let dims = info.shape.known().unwrap_or_default();
        let (n, row) = (dims.first().copied().unwrap_or(1), dims.iter().skip(1).product::<usize>());
        if dtype != info.dtype {
            return Err(Error::op("weight", part, format!("is {}, it must be {dtype}", info.dtype)));
        }
        let here = rows.start.max(first_row)..rows.end.min(first_row + n);
        if here.start < here.end {
            total += (here.len() * row) as u64;
            infos.push((part, here.start - first_row..here.end - first_row, row));
        }
        first_row += n;
    }
    if first_row < rows.end {
        return Err(Error::op("weight", &parts.join(" + "), format!("has {first_row} rows, the plan needs {}", rows.end)));
    }
    if dtype.is_quantised() {
        scale_at = block::Planes::new(dtype, total / dtype.block() as u64).scale_offset;
    }
    let (mut quants, mut scales) = (Writer::new(gpu, to, 0), Writer::new(gpu, to, scale_at));
    for (part, range, row) in infos {
        let row_bytes = (dtype.bytes(row as u64).unwrap_or(0) as usize).max(1);
        let step = (STAGE / row_bytes).max(1);
        for start in range.clone().step_by(step) {
            let bytes = weights.read(part, start..(start + step).min(range.end))?;
            if dtype.is_quantised() {
                block::split(dtype, &bytes, &mut quants.pending, &mut scales.pending);
                scales.flush(false);
            } else {
                quants.pending.extend_from_slice(&bytes);
            }
            quants.flush(false);
        }
    }
    quants.flush(true);
    scales.flush(true);
    gpu.check()
}

/// Writes bytes one after another, whole words at a time; submits so that staging memory is given back.
struct Writer<'a> {
    gpu: &'a Gpu,
    to: &'a Buffer,
    at: u64,
    pending: Vec<u8>,
}

impl<'a> Writer<'a> {
    fn new(gpu: &'a Gpu, to: &'a Buffer, at: u64) -> Self {
        Writer { gpu, to, at, pending: vec![] }
    }
    fn flush(&mut self, all: bool) {
        if all {
            self.pending.resize(self.pending.len().next_multiple_of(4), 0);
        }
        let whole = self.pending.len() / 4 * 4;
        if whole == 0 {
            return;
        }
        self.gpu.upload(&self.to.inner, self.at, &self.pending[..whole]);
        self.gpu.submit(None);
        let _ = self.gpu.device.poll(wgpu::PollType::wait_indefinitely());
        self.at += whole as u64;
        self.pending.drain(..whole);
    }
}

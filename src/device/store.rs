//! What plans of one session share on a device: weights, literals, states and scratch.

use super::Gpu;
use super::gpu::Buffer;
use crate::base::{DType, Error, Part, Piece, Result, Seat, Weights, block};
use crate::plan::{self, Role};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// Bytes that one upload stages on the host.
const STAGE: usize = 8 << 20;

#[derive(PartialEq, Eq, Hash)]
enum Key {
    Weight(Vec<Part>, DType, Range<usize>),
    Data(usize),
    State(String),
}

/// Buffers by what they hold. Loading a second plan of the same model uploads nothing anew.
pub struct Store {
    gpu: Arc<Gpu>,
    /// Whose pieces of weights these are.
    seat: Seat,
    shared: HashMap<Key, Buffer>,
    /// Keeps literals alive, so that their addresses stay their names.
    data: Vec<Arc<[f32]>>,
    scratch: Vec<Buffer>,
}

impl Store {
    pub fn new(gpu: Arc<Gpu>) -> Self {
        Store::at(gpu, Seat::default())
    }
    /// For one rank of a mesh: it loads its own pieces of weights only.
    pub fn at(gpu: Arc<Gpu>, seat: Seat) -> Self {
        Store { gpu, seat, shared: HashMap::new(), data: vec![], scratch: vec![] }
    }
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// Bytes of weights, literals, states and scratch.
    pub fn bytes(&self) -> u64 {
        self.shared.values().chain(&self.scratch).map(|b| b.inner.size()).sum()
    }
    pub fn seat(&self) -> &Seat {
        &self.seat
    }

    /// Sets all states to zeros.
    pub fn reset(&self) {
        let states = self.shared.iter().filter(|(k, _)| matches!(k, Key::State(_)));
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        states.for_each(|(_, b)| encoder.clear_buffer(&b.inner, 0, None));
        self.gpu.queue.submit([encoder.finish()]);
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
            Role::Weight { parts, dtype, rows, .. } => self.upload(&made, (parts, *dtype, rows), weights)?,
            Role::Data(data) => {
                self.gpu.queue.write_buffer(&made.inner, 0, bytemuck::cast_slice(data));
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

impl Store {
    /// Streams rows of the pieces, one after another, to the device, a bounded number of bytes at a time.
    fn upload(&self, to: &Buffer, (parts, dtype, rows): (&[Part], DType, &Range<usize>), weights: &dyn Weights) -> Result<()> {
        let (mut first_row, mut total) = (0, 0u64);
        let mut wanted = vec![];
        for part in parts {
            let piece = Piece::new(weights, part, &self.seat)?;
            if dtype != piece.dtype {
                return Err(Error::op("weight", &part.name, format!("is {}, it must be {dtype}", piece.dtype)));
            }
            let n = piece.rows();
            let here = rows.start.max(first_row)..rows.end.min(first_row + n);
            if here.start < here.end {
                total += (here.len() * piece.row()) as u64;
                wanted.push((piece, here.start - first_row..here.end - first_row));
            }
            first_row += n;
        }
        if first_row < rows.end {
            let names: Vec<&str> = parts.iter().map(|p| p.name.as_str()).collect();
            return Err(Error::op("weight", &names.join(" + "), format!("has {first_row} rows, the plan needs {}", rows.end)));
        }
        let scale_at = if dtype.is_quantised() { block::Planes::new(dtype, total / dtype.block() as u64).scale_offset } else { 0 };
        let (mut quants, mut scales) = (Writer::new(&self.gpu, to, 0), Writer::new(&self.gpu, to, scale_at));
        for (piece, range) in wanted {
            let row_bytes = (dtype.bytes(piece.row() as u64).unwrap_or(0) as usize).max(1);
            let step = (STAGE / row_bytes).max(1);
            for start in range.clone().step_by(step) {
                let bytes = piece.read(start..(start + step).min(range.end))?;
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
        self.gpu.check()
    }
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
        self.gpu.queue.write_buffer(&self.to.inner, self.at, &self.pending[..whole]);
        self.gpu.queue.submit([]);
        let _ = self.gpu.device.poll(wgpu::PollType::wait_indefinitely());
        self.at += whole as u64;
        self.pending.drain(..whole);
    }
}

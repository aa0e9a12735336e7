//! What plans of one session share on a device: weights, literals, states and scratch.

use super::Gpu;
use super::memory::Memory;
use super::upload::{STAGE, Uploads};
use crate::base::{DType, Error, Part, Result, Seat, Weights};
use crate::plan::{self, Role};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

#[derive(PartialEq, Eq, Hash)]
enum Key {
    /// With whether it lies in texels.
    Weight(Vec<Part>, DType, Range<usize>, bool),
    Data(usize),
    State(String),
}

/// Buffers by what they hold. Loading a second plan of the same model uploads nothing anew.
pub struct Store {
    gpu: Arc<Gpu>,
    /// Whose pieces of weights these are.
    seat: Seat,
    shared: HashMap<Key, Memory>,
    /// Keeps literals alive, so that their addresses stay their names.
    data: Vec<Arc<[f32]>>,
    scratch: Vec<Memory>,
    /// Weights whose bytes are not there yet.
    uploads: Uploads,
}

impl Store {
    pub fn new(gpu: Arc<Gpu>) -> Self {
        Store::at(gpu, Seat::default())
    }
    /// For one rank of a mesh: it loads its own pieces of weights only.
    pub fn at(gpu: Arc<Gpu>, seat: Seat) -> Self {
        Store { gpu, seat, shared: HashMap::new(), data: vec![], scratch: vec![], uploads: Uploads::default() }
    }
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// Bytes of weights, literals, states and scratch.
    pub fn bytes(&self) -> u64 {
        self.shared.values().chain(&self.scratch).map(Memory::size).sum()
    }
    pub fn seat(&self) -> &Seat {
        &self.seat
    }

    /// Sets all states to zeros.
    pub fn reset(&self) {
        let states =
            self.shared.iter().filter(|(k, _)| matches!(k, Key::State(_))).filter_map(|(_, m)| m.buffer().ok());
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        states.for_each(|b| encoder.clear_buffer(b, 0, None));
        self.gpu.submit(Some(encoder.finish()));
    }

    /// The buffer of a planned one; what a weight holds is uploaded by [`Store::fill`] or [`Store::feed`].
    /// `taken` are the scratch buffers that this program already uses.
    pub(super) async fn get(
        &mut self,
        buffer: &plan::Buffer,
        weights: &dyn Weights,
        taken: &mut Vec<usize>,
    ) -> Result<Memory> {
        let key = match &buffer.role {
            Role::Weight { parts, dtype, rows, .. } => Key::Weight(parts.clone(), *dtype, rows.clone(), buffer.texels),
            Role::Data(data) => Key::Data(data.as_ptr() as usize),
            Role::State(name) => Key::State(name.clone()),
            Role::Input(_) | Role::Output(_) => return self.gpu.memory(buffer).await,
            Role::Scratch => return self.scratch(buffer, taken).await,
        };
        if let Some(known) = self.shared.get(&key) {
            if known.size() < buffer.bytes {
                return Err(Error::usage(format!(
                    "state \"{}\" is {} bytes here and {} in another plan",
                    buffer.label,
                    buffer.bytes,
                    known.size()
                )));
            }
            return Ok(known.clone());
        }
        let made = self.gpu.memory(buffer).await?;
        if let Err(e) = self.begin(&made, buffer, weights).await {
            self.gpu.release(made.size());
            made.destroy();
            return Err(e);
        }
        self.shared.insert(key, made.clone());
        Ok(made)
    }

    /// Writes literals, and expects the bytes of a weight.
    async fn begin(&mut self, made: &Memory, buffer: &plan::Buffer, weights: &dyn Weights) -> Result<()> {
        match &buffer.role {
            Role::Weight { parts, dtype, rows, .. } => {
                self.uploads.expect(made, (parts, *dtype, rows), weights, &self.seat)?
            }
            Role::Data(data) => {
                for (i, piece) in data.chunks(STAGE / 4).enumerate() {
                    made.write(&self.gpu, (i * STAGE) as u64, bytemuck::cast_slice(piece));
                    self.gpu.submit(None);
                    self.gpu.done().await?;
                }
                self.data.push(data.clone());
            }
            _ => {}
        }
        Ok(())
    }

    /// Reads and uploads all weights that were asked for since the last time.
    pub(super) async fn fill(&mut self, weights: &dyn Weights) -> Result<()> {
        self.uploads.fill(&self.gpu, weights).await
    }

    /// Uploads blocks of a file's tensor that have arrived, wherever plans need them: bytes as the file's type stores
    /// them, from block `block` of the tensor on. Tensors may come in any order, each block once.
    pub async fn feed(&mut self, tensor: &str, block: u64, bytes: &[u8]) -> Result<()> {
        self.uploads.feed(&self.gpu, tensor, block, bytes).await
    }

    /// Ends the uploads of weights that were fed.
    ///
    /// # Errors
    /// A weight of which not every block came.
    pub async fn finish(&mut self) -> Result<()> {
        self.uploads.finish(&self.gpu).await
    }

    async fn scratch(&mut self, buffer: &plan::Buffer, taken: &mut Vec<usize>) -> Result<Memory> {
        let fits = |i: &usize| !taken.contains(i) && self.scratch[*i].size() >= buffer.bytes;
        let found = (0..self.scratch.len()).filter(fits).min_by_key(|&i| self.scratch[i].size());
        let index = match found {
            Some(i) => i,
            None => {
                self.scratch.push(self.gpu.memory(buffer).await?);
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
            self.gpu.release(b.size());
            b.destroy();
        }
    }
}

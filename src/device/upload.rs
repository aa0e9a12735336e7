//! Weights on their way to a device: which bytes of which file tensor belong where.

use super::Gpu;
use super::gpu::Buffer;
use crate::base::{DType, Error, Result, Weights, block};
use std::collections::HashMap;
use std::ops::Range;

/// Bytes that are staged on the host before the device is waited for.
const STAGE: usize = 8 << 20;

/// Buffers that expect bytes.
#[derive(Default)]
pub struct Uploads {
    targets: Vec<Target>,
    /// Tensor → indices into `targets`.
    index: HashMap<String, Vec<usize>>,
    /// Words of which one part of several has come, by buffer and offset: blocks need not end on a word.
    seams: HashMap<(usize, u64), Seam>,
    buffers: Vec<Buffer>,
    /// Bytes staged since the device was last waited for.
    staged: usize,
}

/// Rows of one file tensor that go into one buffer.
struct Target {
    tensor: String,
    dtype: DType,
    rows: Range<usize>,
    /// Blocks of a row.
    row: u64,
    /// Index into `buffers`.
    buffer: usize,
    /// The block of the buffer with which they start.
    at: u64,
    /// Where the buffer's scales begin.
    scales: u64,
    /// Blocks that have come.
    got: u64,
}

#[derive(Default)]
struct Seam {
    word: [u8; 4],
    /// Bytes of the word that have come, a bit each.
    have: u8,
}

impl Uploads {
    /// Notes what a buffer of rows of the concatenated `parts` has to get.
    ///
    /// # Errors
    /// Parts that do not exist, are of another type or have too few rows.
    pub fn expect(&mut self, to: &Buffer, parts: &[String], dtype: DType, rows: &Range<usize>, weights: &dyn Weights) -> Result<()> {
        let (mut first, mut at) = (0, 0);
        let fresh = self.targets.len();
        for part in parts {
            let info = weights.info(part)?;
            let dims = info.shape.known().unwrap_or_default();
            let (n, row) = (dims.first().copied().unwrap_or(1), dims.iter().skip(1).map(|d| *d as u64).product::<u64>());
            if dtype != info.dtype {
                return Err(Error::op("weight", part, format!("is {}, it must be {dtype}", info.dtype)));
            }
            let here = rows.start.max(first)..rows.end.min(first + n);
            if here.start < here.end {
                let rows = here.start - first..here.end - first;
                let (row, count) = (row / dtype.block() as u64, rows.len() as u64);
                self.targets.push(Target { tensor: part.clone(), dtype, rows, row, buffer: self.buffers.len(), at, scales: 0, got: 0 });
                at += count * row;
            }
            first += n;
        }
        if first < rows.end {
            return Err(Error::op("weight", &parts.join(" + "), format!("has {first} rows, the plan needs {}", rows.end)));
        }
        for (i, target) in self.targets.iter_mut().enumerate().skip(fresh) {
            if dtype.is_quantised() {
                target.scales = block::Planes::new(dtype, at).scale_offset;
            }
            self.index.entry(target.tensor.clone()).or_default().push(i);
        }
        self.buffers.push(to.clone());
        Ok(())
    }

    /// Reads all that is expected, a bounded piece at a time.
    pub async fn fill(&mut self, gpu: &Gpu, weights: &dyn Weights) -> Result<()> {
        for i in 0..self.targets.len() {
            let t = &self.targets[i];
            let (name, rows, row) = (t.tensor.clone(), t.rows.clone(), t.row);
            let row_bytes = (row as usize * t.dtype.block_bytes()).max(1);
            let step = (STAGE / row_bytes).max(1);
            for start in rows.clone().step_by(step) {
                let bytes = weights.read(&name, start..(start + step).min(rows.end))?;
                self.write(gpu, i, start as u64 * row, &bytes);
                self.settle(gpu, STAGE).await?;
            }
        }
        self.finish(gpu).await
    }

    /// Writes blocks of a tensor into every buffer that expects them.
    pub async fn feed(&mut self, gpu: &Gpu, tensor: &str, block: u64, bytes: &[u8]) -> Result<()> {
        for i in self.index.get(tensor).cloned().unwrap_or_default() {
            self.write(gpu, i, block, bytes);
        }
        self.settle(gpu, STAGE).await
    }

    /// Ends: half words are written, and nothing is expected any more.
    pub async fn finish(&mut self, gpu: &Gpu) -> Result<()> {
        for ((buffer, at), seam) in self.seams.drain() {
            gpu.queue.write_buffer(&self.buffers[buffer].inner, at, &seam.word);
        }
        let lacks = |t: &&Target| t.got != t.rows.len() as u64 * t.row;
        if let Some(t) = self.targets.iter().find(lacks) {
            let what = format!("{} of {} blocks of rows {:?} have come", t.got, t.rows.len() as u64 * t.row, t.rows);
            return Err(Error::op("weight", &t.tensor, what));
        }
        self.settle(gpu, 0).await?;
        *self = Uploads::default();
        gpu.check()
    }

    /// Writes the blocks that target `i` expects out of those from `block` on.
    fn write(&mut self, gpu: &Gpu, i: usize, block: u64, bytes: &[u8]) {
        let t = &mut self.targets[i];
        let unit = t.dtype.block_bytes();
        let expected = t.rows.start as u64 * t.row..t.rows.end as u64 * t.row;
        let (from, to) = (expected.start.max(block), expected.end.min(block + (bytes.len() / unit) as u64));
        if from >= to {
            return;
        }
        t.got += to - from;
        let bytes = &bytes[(from - block) as usize * unit..(to - block) as usize * unit];
        let at = t.at + from - expected.start;
        let (buffer, dtype, scales_at) = (t.buffer, t.dtype, t.scales);
        if !dtype.is_quantised() {
            return self.put(gpu, buffer, at * unit as u64, bytes);
        }
        let (mut quants, mut scales) = (vec![], vec![]);
        block::split(dtype, bytes, &mut quants, &mut scales);
        let (quant, scale) = block::plane_bytes(dtype);
        self.put(gpu, buffer, at * quant as u64, &quants);
        self.put(gpu, buffer, scales_at + at * scale as u64, &scales);
    }

    /// Writes bytes anywhere; devices take whole words, so the ends wait for their neighbours.
    fn put(&mut self, gpu: &Gpu, buffer: usize, at: u64, bytes: &[u8]) {
        let head = ((4 - at % 4) % 4).min(bytes.len() as u64) as usize;
        let (head, rest) = bytes.split_at(head);
        let (body, tail) = rest.split_at(rest.len() / 4 * 4);
        let start = at + head.len() as u64;
        self.part(gpu, buffer, at, head);
        if !body.is_empty() {
            gpu.queue.write_buffer(&self.buffers[buffer].inner, start, body);
        }
        self.part(gpu, buffer, start + body.len() as u64, tail);
        self.staged += bytes.len();
    }

    /// Up to three bytes of one word.
    fn part(&mut self, gpu: &Gpu, buffer: usize, at: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let word = at / 4 * 4;
        let seam = self.seams.entry((buffer, word)).or_default();
        for (i, b) in bytes.iter().enumerate() {
            let place = (at - word) as usize + i;
            seam.word[place] = *b;
            seam.have |= 1 << place;
        }
        if seam.have == 15 {
            gpu.queue.write_buffer(&self.buffers[buffer].inner, word, &seam.word);
            self.seams.remove(&(buffer, word));
        }
    }

    /// Waits for the device where more than `most` bytes are staged, so that staging memory is given back.
    async fn settle(&mut self, gpu: &Gpu, most: usize) -> Result<()> {
        if self.staged > most {
            gpu.queue.submit([]);
            gpu.done().await?;
            self.staged = 0;
        }
        Ok(())
    }
}

//! Weights on their way to a device: which bytes of which file tensor belong where.

use super::Gpu;
use super::memory::Memory;
use crate::base::{DType, Error, Part, Piece, Result, Seat, Weights};
use crate::format::Planes;
use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

/// Bytes that are staged on the host before the device is waited for.
pub const STAGE: usize = 8 << 20;

/// Buffers that expect bytes.
#[derive(Default)]
pub struct Uploads {
    targets: Vec<Target>,
    /// Tensor → indices into `targets`.
    index: HashMap<String, Vec<usize>>,
    /// Words or texels of which one part of several has come, by buffer and offset: blocks need not end on one.
    seams: HashMap<(usize, u64), Seam>,
    buffers: Vec<Memory>,
    /// Bytes staged since the device was last waited for.
    staged: usize,
}

/// Rows of one file tensor that go into one buffer, or some columns of them.
struct Target {
    tensor: String,
    dtype: DType,
    rows: Range<usize>,
    /// Blocks of a whole row, and those that are wanted.
    row: u64,
    columns: Range<u64>,
    /// Index into `buffers`.
    buffer: usize,
    /// The block of the buffer with which they start.
    at: u64,
    /// Where the buffer's planes lie.
    planes: Planes,
    /// Blocks that have come.
    got: u64,
}

#[derive(Default)]
struct Seam {
    bytes: [u8; 16],
    /// Bytes that have come, a bit each.
    have: u16,
}

impl Target {
    fn blocks(&self) -> u64 {
        self.rows.len() as u64 * (self.columns.end - self.columns.start)
    }

    /// The wanted blocks of the tensor between two of its blocks: from, to, and where in the buffer they go.
    fn wanted(&self, first: u64, end: u64) -> Vec<(u64, u64, u64)> {
        let (rows, row, wide) =
            (self.rows.start as u64..self.rows.end as u64, self.row, self.columns.end - self.columns.start);
        let run = |from: u64, to: u64, at: u64| {
            let (a, b) = (from.max(first), to.min(end));
            (a < b).then(|| (a, b, at + a - from))
        };
        if wide == row {
            return run(rows.start * row, rows.end * row, self.at).into_iter().collect();
        }
        let near = rows.start.max(first / row.max(1))..rows.end.min(end.div_ceil(row.max(1)));
        near.filter_map(|r| {
            run(r * row + self.columns.start, r * row + self.columns.end, self.at + (r - rows.start) * wide)
        })
        .collect()
    }
}

impl Uploads {
    /// Notes what a buffer of rows of the concatenated `parts` has to get.
    ///
    /// # Errors
    /// Parts that do not exist, are of another type or have too few rows.
    pub fn expect(
        &mut self,
        to: &Memory,
        (parts, dtype, rows): (&[Part], DType, &Range<usize>),
        weights: &dyn Weights,
        seat: &Seat,
    ) -> Result<()> {
        let fresh = self.targets.len();
        let at = self.find((parts, dtype, rows), weights, seat).inspect_err(|_| self.targets.truncate(fresh))?;
        for (i, target) in self.targets.iter_mut().enumerate().skip(fresh) {
            if dtype.is_quantised() {
                target.planes = Planes::new(dtype, at);
            }
            self.index.entry(target.tensor.clone()).or_default().push(i);
        }
        self.buffers.push(to.clone());
        Ok(())
    }

    /// Adds the rows that the next buffer expects, without their planes; gives their blocks.
    fn find(
        &mut self,
        (parts, dtype, rows): (&[Part], DType, &Range<usize>),
        weights: &dyn Weights,
        seat: &Seat,
    ) -> Result<u64> {
        let (mut first, mut at) = (0, 0);
        for part in parts {
            let piece = Piece::new(weights, part, seat)?;
            let n = piece.rows();
            if dtype != piece.dtype {
                return Err(Error::op("weight", &part.name, format!("is {}, it must be {dtype}", piece.dtype)));
            }
            let here = rows.start.max(first)..rows.end.min(first + n);
            if here.start < here.end {
                let rows = piece.first_row() + here.start - first..piece.first_row() + here.end - first;
                let (row, columns) = piece.row_blocks();
                at += here.len() as u64 * (columns.end - columns.start);
                let start = at - here.len() as u64 * (columns.end - columns.start);
                self.targets.push(Target {
                    tensor: part.name.clone(),
                    dtype,
                    rows,
                    row,
                    columns,
                    buffer: self.buffers.len(),
                    at: start,
                    planes: Planes::default(),
                    got: 0,
                });
            }
            first += n;
        }
        if first < rows.end {
            let names: Vec<&str> = parts.iter().map(|p| p.name.as_str()).collect();
            return Err(Error::op(
                "weight",
                &names.join(" + "),
                format!("has {first} rows, the plan needs {}", rows.end),
            ));
        }
        Ok(at)
    }

    /// Reads all that is expected, a bounded piece at a time. What an earlier try left half done is done anew.
    pub async fn fill(&mut self, gpu: &Gpu, weights: &dyn Weights) -> Result<()> {
        self.seams.clear();
        for i in 0..self.targets.len() {
            let t = &mut self.targets[i];
            t.got = 0;
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
            let to = &self.buffers[buffer];
            to.write(gpu, at, &seam.bytes[..to.unit()]);
        }
        let lacks = |t: &&Target| t.got != t.blocks();
        if let Some(t) = self.targets.iter().find(lacks) {
            let what = format!("{} of {} blocks of rows {:?} have come", t.got, t.blocks(), t.rows);
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
        let mut runs: Vec<(u64, Cow<[u8]>)> = vec![];
        for (from, to, at) in t.wanted(block, block + (bytes.len() / unit) as u64) {
            t.got += to - from;
            let here = &bytes[(from - block) as usize * unit..(to - block) as usize * unit];
            match runs.last_mut() {
                // Pieces of rows lie one after another on the device.
                Some((start, run)) if *start + (run.len() / unit) as u64 == at => run.to_mut().extend_from_slice(here),
                _ => runs.push((at, Cow::Borrowed(here))),
            }
        }
        let (buffer, dtype, planes) = (t.buffer, t.dtype, t.planes);
        for (at, bytes) in runs {
            if !dtype.is_quantised() {
                self.put(gpu, buffer, at * unit as u64, &bytes);
                continue;
            }
            for plane in 0..Planes::count(dtype) {
                let each = Planes::block_bytes(dtype, plane);
                let mut part = Vec::with_capacity(bytes.len() / unit * each);
                Planes::take(dtype, plane, &bytes, &mut part);
                self.put(gpu, buffer, planes.offsets[plane] + at * each as u64, &part);
            }
        }
    }

    /// Writes bytes anywhere; devices take whole words or texels, so the ends wait for their neighbours.
    fn put(&mut self, gpu: &Gpu, buffer: usize, at: u64, bytes: &[u8]) {
        let unit = self.buffers[buffer].unit();
        let head = ((unit - at as usize % unit) % unit).min(bytes.len());
        let (head, rest) = bytes.split_at(head);
        let (body, tail) = rest.split_at(rest.len() / unit * unit);
        let start = at + head.len() as u64;
        self.part(gpu, buffer, at, head);
        if !body.is_empty() {
            self.buffers[buffer].write(gpu, start, body);
        }
        self.part(gpu, buffer, start + body.len() as u64, tail);
        self.staged += bytes.len();
    }

    /// Some bytes of one word or texel.
    fn part(&mut self, gpu: &Gpu, buffer: usize, at: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let to = &self.buffers[buffer];
        let unit = to.unit();
        let start = at / unit as u64 * unit as u64;
        let seam = self.seams.entry((buffer, start)).or_default();
        for (i, b) in bytes.iter().enumerate() {
            let place = (at - start) as usize + i;
            seam.bytes[place] = *b;
            seam.have |= 1 << place;
        }
        if seam.have.count_ones() as usize == unit {
            to.write(gpu, start, &seam.bytes[..unit]);
            self.seams.remove(&(buffer, start));
        }
    }

    /// Waits for the device where more than `most` bytes are staged, so that staging memory is given back.
    async fn settle(&mut self, gpu: &Gpu, most: usize) -> Result<()> {
        if self.staged > most {
            gpu.submit(None);
            gpu.done().await?;
            self.staged = 0;
        }
        Ok(())
    }
}

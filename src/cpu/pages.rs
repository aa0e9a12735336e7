//! Attention of rows of many sequences to keys and values in pages. Rows of a sequence that follow each other share its keys.
//!
//! A row's result has the same bits whichever rows share its block and its step: chunks of keys begin at the same keys,
//! and what others of the block see adds nothing but zeros.

use super::attend::{self, Attend, Heads, Table};
use super::isa::{Isa, Kernel};
use super::view::View;
use crate::op::Attention;
use std::ops::Range;

/// Units below which each chunk of keys is a unit of its own, so that all threads have some.
const FEW: usize = 16;

/// How the rows are cut.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    n: usize,
    h: usize,
    d: usize,
    g: usize,
    /// Sequences, pages of one, keys of a page, pages of the pool.
    sequences: usize,
    per: usize,
    page: usize,
    pages: usize,
    /// Keys that some row may see at most.
    keys: usize,
    /// Rows of a block.
    block: usize,
    /// Chunks of keys that are units of their own; 0 where a unit goes through all of them.
    chunks: usize,
}

impl Cut {
    /// `reach`: keys that some row of the step sees at most.
    pub fn of(q: &View, k: &View, tables: &View, page: usize, reach: usize) -> Cut {
        let (n, h, d) = (q.shape[0], q.shape[1], q.shape[2]);
        let (g, page) = (k.shape[1].max(1), page.max(1));
        // Few rows go one by one, so that all threads have some.
        let block = attend::Cut::rows_of_block(h / g).min(n.div_ceil(8)).max(1);
        let (sequences, per) = (tables.shape[0], tables.shape[1]);
        let keys = (per * page).min(reach);
        let chunks = keys.div_ceil(attend::CHUNK);
        let chunks = if chunks > 1 && n.div_ceil(block) * g < FEW { chunks } else { 0 };
        Cut { n, h, d, g, sequences, per, page, pages: k.shape[0] / page, keys, block, chunks }
    }
    /// Blocks of each key head.
    fn blocks(&self) -> usize {
        self.n.div_ceil(self.block) * self.g
    }
    pub fn units(&self) -> usize {
        self.blocks() * self.chunks.max(1)
    }
    /// Floats of all parts, and which rows they become, where chunks are units of their own.
    pub fn part_floats(&self) -> usize {
        self.rows() * self.chunks * self.run(self.block, 1, 0, None).part()
    }
    pub fn rows(&self) -> usize {
        self.n * self.h
    }
    pub fn merge_ns(&self) -> usize {
        self.chunks * self.d / 8
    }
    /// How parts become rows.
    pub fn merged(&self) -> attend::Cut {
        self.run(self.n, 1, 0, None).in_chunks(self.chunks)
    }
    pub fn unit_ns(&self) -> usize {
        let keys = if self.chunks > 0 { attend::CHUNK } else { self.keys };
        keys * self.d * (self.h / self.g * self.block + 8) / 16 + 200
    }
    fn run(&self, rows: usize, t: usize, past: usize, window: Option<u32>) -> attend::Cut {
        attend::Cut::run(rows, [self.h, self.d, self.g], t, past, window)
    }
    pub fn scratch_floats(&self) -> usize {
        self.run(self.block, 1, 0, None).scratch_floats()
    }
}

/// Some units of it.
pub struct Pages {
    pub cut: Cut,
    pub q: View,
    /// The pools: views `[rows, g, d]`, or states by heads.
    pub k: Heads,
    pub v: Heads,
    pub tables: *const u32,
    pub sequences: *const u32,
    pub positions: *const u32,
    pub how: Attention,
    pub sinks: Option<*const f32>,
    pub out: *mut f32,
    pub parts: *mut f32,
    pub scratch: *mut f32,
    pub units: Range<usize>,
}

impl Kernel for Pages {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Isa>(self) {
        unsafe {
            let c = self.cut;
            for unit in self.units.clone() {
                // The chunks of one block are far apart: those that no row reaches are the last.
                let (chunk, unit) = (unit / c.blocks(), unit % c.blocks());
                let (g, mut row) = (unit % c.g, unit / c.g * c.block);
                let end = (row + c.block).min(c.n);
                while row < end {
                    let rows = self.together(row, end);
                    self.some::<S>(g, (row, rows), (c.chunks > 0).then_some(chunk));
                    row += rows;
                }
            }
        }
    }
}

impl Pages {
    /// How many rows from `row` on follow each other in one sequence.
    unsafe fn together(&self, row: usize, end: usize) -> usize {
        unsafe {
            let (sequence, position) = (*self.sequences.add(row), *self.positions.add(row) as usize);
            let follows = |i: &usize| {
                *self.sequences.add(*i) == sequence && *self.positions.add(*i) as usize == position + i - row
            };
            (row..end).take_while(follows).count()
        }
    }

    #[inline(always)]
    unsafe fn some<S: Isa>(&self, g: usize, (row, rows): (usize, usize), chunk: Option<usize>) {
        unsafe {
            let (c, each) = (self.cut, self.cut.h / self.cut.g);
            let (sequence, past) = (*self.sequences.add(row) as usize, *self.positions.add(row) as usize);
            let out = self.out.add(row * c.h * c.d);
            let exists = sequence < c.sequences && c.per > 0;
            if !exists && chunk.is_none() {
                for i in 0..rows {
                    std::slice::from_raw_parts_mut(out.add((i * c.h + g * each) * c.d), each * c.d).fill(0.0);
                }
                return;
            }
            // Of a sequence that there is not no key is seen.
            let sequence = if exists { sequence } else { 0 };
            let t = if exists { (past + rows).min(c.per * c.page) } else { 0 };
            let cut = c.run(rows, t, past, self.how.window);
            let pages = self.tables.add(sequence * c.per);
            let mut q = batched(self.q);
            q.ptr = q.ptr.add(row * q.strides[1]);
            let attend = Attend {
                cut: if chunk.is_some() { cut.in_chunks(c.chunks) } else { cut },
                q,
                k: heads(self.k),
                v: heads(self.v),
                mask: None,
                table: Some(Table { pages, page: c.page, last: c.pages - 1 }),
                scale: self.how.scale,
                softcap: self.how.softcap,
                sinks: self.sinks,
                out,
                parts: self.parts.add(row * c.h * c.chunks * cut.part()),
                scratch: self.scratch,
                units: 0..0,
            };
            attend.one::<S>(g, chunk);
        }
    }
}

/// The view as that of a batch of one.
fn batched(x: View) -> View {
    let mut out = View { rank: 4, ..x };
    for i in (0..3).rev() {
        (out.shape[i + 1], out.strides[i + 1]) = (x.shape[i], x.strides[i]);
    }
    (out.shape[0], out.strides[0]) = (1, 0);
    out
}

fn heads(x: Heads) -> Heads {
    match x {
        Heads::View(v) => Heads::View(batched(v)),
        other => other,
    }
}

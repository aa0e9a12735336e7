//! Attention that reads keys and values once, a chunk of keys at a time.
//!
//! Each chunk gives a part: the largest score, the sum of weights and the weighted sum of values. Parts are merged in the
//! order of their chunks, whether one task goes through all of them or each is a task's: the bits are the same.

use super::isa::{Isa, Kernel, LANES, math};
use super::panels::{self, Floats, Scaled};
use super::view::View;
use std::ops::Range;

/// Keys of a part.
pub const CHUNK: usize = 256;
/// Queries that a task reads keys for, about.
const QUERIES: usize = 24;

/// Where keys lie that are in pages.
#[derive(Clone, Copy)]
pub struct Table {
    /// The sequence's pages, keys of one, and the pool's last page: what entries beyond it stand for.
    pub pages: *const u32,
    pub page: usize,
    pub last: usize,
}

impl Table {
    /// The pool's row of a key.
    ///
    /// # Safety
    /// The table has an entry for the key.
    #[inline(always)]
    unsafe fn row(&self, key: usize) -> usize {
        // SAFETY: as promised.
        let page = unsafe { *self.pages.add(key / self.page) } as usize;
        page.min(self.last) * self.page + key % self.page
    }
}

/// How an attention is cut.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    pub s: usize,
    pub h: usize,
    pub d: usize,
    pub t: usize,
    pub g: usize,
    batch: usize,
    /// Query heads of a key head, and rows of queries of a task.
    each: usize,
    block: usize,
    pub chunks: usize,
    /// Whether each chunk is a task of its own.
    split: bool,
    past: Option<i64>,
    window: Option<usize>,
}

impl Cut {
    pub fn of(q: &View, k: &View, past: Option<usize>, window: Option<u32>) -> Cut {
        let ([batch, s, h, d], [t, g]) = ([q.shape[0], q.shape[1], q.shape[2], q.shape[3]], [k.shape[1], k.shape[2]]);
        let each = h / g.max(1);
        let block = (QUERIES / each.max(1)).clamp(1, s.max(1));
        let chunks = t.div_ceil(CHUNK).max(1);
        let split = chunks > 1 && batch * g * s.div_ceil(block) < 8;
        let (past, window) = (past.map(|p| p as i64), window.map(|w| w as usize));
        Cut { s, h, d, t, g, batch, each, block, chunks, split, past, window }
    }
    /// Rows of one sequence from position `past` on, `rows` of them, all in one block, over the first `t` keys.
    pub fn run(rows: usize, [h, d, g]: [usize; 3], t: usize, past: usize, window: Option<u32>) -> Cut {
        let (each, chunks) = (h / g.max(1), t.div_ceil(CHUNK).max(1));
        let (past, window) = (Some(past as i64), window.map(|w| w as usize));
        Cut { s: rows, h, d, t, g, batch: 1, each, block: rows, chunks, split: false, past, window }
    }
    /// The same with so many chunks, each a task of its own.
    pub fn in_chunks(self, chunks: usize) -> Cut {
        Cut { chunks, split: true, ..self }
    }
    /// Rows of queries of a task, for so many query heads of a key head.
    pub fn rows_of_block(each: usize) -> usize {
        (QUERIES / each.max(1)).max(1)
    }
    fn blocks(&self) -> usize {
        self.s.div_ceil(self.block.max(1))
    }
    /// Queries of all heads.
    pub fn rows(&self) -> usize {
        self.batch * self.s * self.h
    }
    pub fn units(&self) -> usize {
        self.batch * self.g * self.blocks() * if self.split { self.chunks } else { 1 }
    }
    pub fn unit_ns(&self) -> usize {
        let keys = if self.split { CHUNK } else { self.t };
        keys * self.d * (self.each * self.block + 8) / 16 + 200
    }
    fn queries(&self) -> usize {
        self.each * self.block
    }
    /// Padded so that every row begins at a vector.
    fn width(&self) -> usize {
        self.d.next_multiple_of(LANES)
    }
    /// Floats that all parts take: a maximum, a sum, and values.
    pub fn part_floats(&self) -> usize {
        if self.split { self.rows() * self.chunks * self.part() } else { 0 }
    }
    pub fn part(&self) -> usize {
        self.width() + LANES
    }
    pub fn scratch_floats(&self) -> usize {
        self.queries() * (self.width() + CHUNK + 2 * self.part()) + self.d * LANES + CHUNK * LANES
    }
    /// Keys that a row of queries sees.
    fn sees(&self, row: usize) -> Range<usize> {
        let Some(past) = self.past else { return 0..self.t };
        let end = (past + row as i64 + 1).clamp(0, self.t as i64) as usize;
        let start = self.window.map_or(0, |w| (past + row as i64 + 1 - w as i64).clamp(0, self.t as i64) as usize);
        start.min(end)..end
    }
}

/// Where keys or values lie: `[b, t, g, d]`, or a state by heads, which has one batch.
#[derive(Clone, Copy)]
pub enum Heads {
    View(View),
    Wide(*const f32),
    Narrow(*const u16),
    Scaled(*const u8),
}

/// Some units of an attention.
pub struct Attend {
    pub cut: Cut,
    pub q: View,
    pub k: Heads,
    pub v: Heads,
    /// The mask, and whether it is of truth.
    pub mask: Option<(View, bool)>,
    /// Where keys lie, if not one behind another.
    pub table: Option<Table>,
    pub scale: f32,
    /// Scores are bent to within ± this.
    pub softcap: Option<f32>,
    /// A score for each head that adds to the sum of weights only.
    pub sinks: Option<*const f32>,
    pub out: *mut f32,
    pub parts: *mut f32,
    pub scratch: *mut f32,
    pub units: Range<usize>,
}

/// The memory of a task.
#[derive(Clone, Copy)]
struct Room {
    q: *mut f32,
    scores: *mut f32,
    /// Parts of a chunk and of all chunks so far.
    fresh: *mut f32,
    all: *mut f32,
    panel: *mut f32,
    values: *mut f32,
}

/// Rows of queries of a batch and a key head.
#[derive(Clone, Copy)]
struct Block {
    batch: usize,
    g: usize,
    first: usize,
    rows: usize,
}

impl Kernel for Attend {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Isa>(self) {
        unsafe {
            let c = self.cut;
            let room = self.room();
            for unit in self.units.clone() {
                let (unit, chunk) = if c.split { (unit / c.chunks, Some(unit % c.chunks)) } else { (unit, None) };
                let (blocks, g) = (c.blocks(), unit / c.blocks() % c.g);
                let first = unit % blocks * c.block;
                let block = Block { batch: unit / blocks / c.g, g, first, rows: c.block.min(c.s - first) };
                self.queries(block, room);
                match chunk {
                    Some(chunk) => {
                        self.chunk::<S>(block, chunk, room);
                        self.keep(block, chunk, room);
                    }
                    None => self.all::<S>(block, room),
                }
            }
        }
    }
}

impl Attend {
    /// A run of rows ([`Cut::run`]) of the heads that share key head `g`: over all keys, or over a chunk of them, whose parts are kept.
    #[inline(always)]
    pub unsafe fn one<S: Isa>(&self, g: usize, chunk: Option<usize>) {
        unsafe {
            let (room, block) = (self.room(), Block { batch: 0, g, first: 0, rows: self.cut.s });
            self.queries(block, room);
            match chunk {
                Some(chunk) => {
                    self.chunk::<S>(block, chunk, room);
                    self.keep(block, chunk, room);
                }
                None => self.all::<S>(block, room),
            }
        }
    }

    /// Where a key lies.
    #[inline(always)]
    unsafe fn row(&self, key: usize) -> usize {
        unsafe { self.table.map_or(key, |t| t.row(key)) }
    }

    unsafe fn room(&self) -> Room {
        unsafe {
            let c = self.cut;
            let n = c.queries();
            let q = self.scratch;
            let scores = q.add(n * c.width());
            let fresh = scores.add(n * CHUNK);
            let all = fresh.add(n * c.part());
            let panel = all.add(n * c.part());
            Room { q, scores, fresh, all, panel, values: panel.add(c.d * LANES) }
        }
    }

    /// The block's queries side by side.
    unsafe fn queries(&self, b: Block, room: Room) {
        unsafe {
            let (c, q) = (self.cut, self.q);
            for i in 0..b.rows * c.each {
                let (row, head) = (b.first + i / c.each, b.g * c.each + i % c.each);
                let from = q.f32s().add(b.batch * q.strides[0] + row * q.strides[1] + head * q.strides[2]);
                for j in 0..c.d {
                    *room.q.add(i * c.width() + j) = *from.add(j * q.strides[3]);
                }
            }
        }
    }

    /// Goes through all chunks and writes the result.
    #[inline(always)]
    unsafe fn all<S: Isa>(&self, b: Block, room: Room) {
        unsafe {
            let (c, n) = (self.cut, b.rows * self.cut.each);
            for i in 0..n {
                *room.all.add(i * c.part() + 1) = 0.0;
            }
            for chunk in 0..c.chunks {
                if self.chunk::<S>(b, chunk, room) {
                    for i in 0..n {
                        merge(room.all.add(i * c.part()), room.fresh.add(i * c.part()), c.d);
                    }
                }
            }
            for i in 0..n {
                let (row, head) = (b.first + i / c.each, b.g * c.each + i % c.each);
                let to = self.out.add(((b.batch * c.s + row) * c.h + head) * c.d);
                finish(room.all.add(i * c.part()), to, c.d, self.sinks.map(|s| *s.add(head)));
            }
        }
    }

    /// Keeps a chunk's parts for [`Merge`].
    unsafe fn keep(&self, b: Block, chunk: usize, room: Room) {
        unsafe {
            let c = self.cut;
            for i in 0..b.rows * c.each {
                let (row, head) = (b.first + i / c.each, b.g * c.each + i % c.each);
                let at = ((b.batch * c.s + row) * c.h + head) * c.chunks + chunk;
                let (from, to) = (room.fresh.add(i * c.part()), self.parts.add(at * c.part()));
                std::ptr::copy_nonoverlapping(from, to, c.part());
            }
        }
    }

    /// A chunk's parts; false where no query sees a key of it, when their sums are zero.
    #[inline(always)]
    unsafe fn chunk<S: Isa>(&self, b: Block, chunk: usize, room: Room) -> bool {
        unsafe {
            let (c, n) = (self.cut, b.rows * self.cut.each);
            let seen = c.sees(b.first).start..c.sees(b.first + b.rows - 1).end;
            let (from, to) = (chunk * CHUNK, ((chunk + 1) * CHUNK).min(c.t));
            // Whole vectors of keys from a multiple of sixteen on.
            let (first, end) = (from.max(seen.start / LANES * LANES), to.min(seen.end));
            for i in 0..n {
                *room.fresh.add(i * c.part()) = f32::NEG_INFINITY;
                *room.fresh.add(i * c.part() + 1) = 0.0;
            }
            if first >= end {
                return false;
            }
            let (x, scores) = ((room.q.cast_const(), c.width()), (room.scores.add(first - from), CHUNK));
            let (mut panels, count) = ([0; CHUNK / LANES], (end - first).div_ceil(LANES));
            if !matches!((self.k, self.v), (Heads::View(_), Heads::View(_))) {
                for (i, panel) in panels[..count].iter_mut().enumerate() {
                    *panel = self.row(first + i * LANES) / LANES * c.g + b.g;
                }
            }
            let panels = &panels[..count];
            match self.k {
                Heads::View(k) => {
                    for key in (first..end).step_by(LANES) {
                        self.panel(k, b, key, room);
                        let to = (room.scores.add(key - from), CHUNK);
                        panels::scores::<S, _>(Floats(room.panel.cast_const()), n, x, &[0], c.d, to);
                    }
                }
                Heads::Wide(k) => panels::scores::<S, _>(Floats(k), n, x, panels, c.d, scores),
                Heads::Narrow(k) => panels::scores::<S, _>(Floats(k), n, x, panels, c.d, scores),
                Heads::Scaled(k) => panels::scores::<S, _>(Scaled(k), n, x, panels, c.d, scores),
            }
            for i in 0..n {
                let row = c.sees(b.first + i / c.each);
                let sees = row.start.clamp(first, end)..row.end.clamp(first, end);
                self.weights::<S>((b, i), from, (first..end, sees), room);
            }
            let (x, keys) = ((room.scores.add(first - from).cast_const(), CHUNK), (panels, end - first));
            let to = (room.fresh.add(LANES), c.part());
            match self.v {
                Heads::View(v) => self.rows::<S>(v, b, (from, first..end), room),
                Heads::Wide(v) => panels::sums::<S, _>(Floats(v), n, x, keys, c.d, to),
                Heads::Narrow(v) => panels::sums::<S, _>(Floats(v), n, x, keys, c.d, to),
                Heads::Scaled(v) => panels::sums::<S, _>(Scaled(v), n, x, keys, c.d, to),
            }
            true
        }
    }

    /// Sixteen keys by their elements.
    unsafe fn panel(&self, k: View, b: Block, key: usize, room: Room) {
        unsafe {
            let c = self.cut;
            let from = k.f32s().add(b.batch * k.strides[0] + b.g * k.strides[2]);
            let n = LANES.min(c.t - key);
            for j in 0..LANES {
                let row = if j < n { self.row(key + j) * k.strides[1] } else { 0 };
                for e in 0..c.d {
                    let x = if j < n { *from.add(row + e * k.strides[3]) } else { 0.0 };
                    *room.panel.add(e * LANES + j) = x;
                }
            }
        }
    }

    /// Scores of a query become weights; its part's maximum and sum.
    #[inline(always)]
    unsafe fn weights<S: Isa>(
        &self,
        (b, i): (Block, usize),
        from: usize,
        (keys, sees): (Range<usize>, Range<usize>),
        room: Room,
    ) {
        unsafe {
            let c = self.cut;
            let scores = room.scores.add(i * CHUNK);
            let end = keys.end.next_multiple_of(LANES).min(from + CHUNK);
            for key in (keys.start..end).step_by(LANES) {
                let p = scores.add(key - from);
                let mut x = S::mul(S::load(p), S::splat(self.scale));
                if let Some(cap) = self.softcap {
                    x = S::mul(math::tanh::<S>(S::div(x, S::splat(cap))), S::splat(cap));
                }
                S::store(p, x);
            }
            if let Some((mask, truth)) = &self.mask {
                let (row, head) = (b.first + i / c.each, b.g * c.each + i % c.each);
                let at = b.batch * mask.strides[0] + head * mask.strides[1] + row * mask.strides[2];
                for key in sees.clone() {
                    let word = *mask.ptr.add(at + key * mask.strides[3]);
                    let score = scores.add(key - from);
                    match truth {
                        true if word == 0 => *score = -f32::MAX,
                        true => {}
                        false => *score += f32::from_bits(word),
                    }
                }
            }
            // Lanes that the query does not see weigh nothing.
            for key in (keys.start..sees.start).chain(sees.end..end) {
                *scores.add(key - from) = f32::NEG_INFINITY;
            }
            if sees.is_empty() {
                for key in keys.start..end {
                    *scores.add(key - from) = 0.0;
                }
                return;
            }
            let mut most = S::splat(f32::NEG_INFINITY);
            for key in (keys.start..end).step_by(LANES) {
                most = S::max(most, S::load(scores.add(key - from)));
            }
            let most = S::largest(most);
            if most <= -f32::MAX {
                // The mask hides all keys of the chunk: it weighs nothing.
                for key in keys.start..end {
                    *scores.add(key - from) = 0.0;
                }
                return;
            }
            let mut sum = S::splat(0.0);
            for key in (keys.start..end).step_by(LANES) {
                let p = scores.add(key - from);
                let e = math::exp::<S>(S::sub(S::load(p), S::splat(most)));
                S::store(p, e);
                sum = S::add(sum, e);
            }
            for key in (keys.start..sees.start).chain(sees.end..end) {
                *scores.add(key - from) = 0.0;
            }
            *room.fresh.add(i * c.part()) = most;
            *room.fresh.add(i * c.part() + 1) = S::sum(sum);
        }
    }

    /// Weighted sums of the values of any view.
    #[inline(always)]
    unsafe fn rows<S: Isa>(&self, v: View, b: Block, (from, keys): (usize, Range<usize>), room: Room) {
        unsafe {
            let (c, n) = (self.cut, b.rows * self.cut.each);
            let base = v.f32s().add(b.batch * v.strides[0] + b.g * v.strides[2]).cast_const();
            let x = (room.scores.add(keys.start - from).cast_const(), CHUNK);
            let to = (room.fresh.add(LANES), c.part());
            if v.strides[3] == 1 && c.d.is_multiple_of(LANES) && self.table.is_none() {
                let rows = (base.add(keys.start * v.strides[1]), v.strides[1]);
                return panels::sums_of_rows::<S>(rows, n, x, keys.len(), c.d, to);
            }
            for e in (0..c.d).step_by(LANES) {
                let rows = self.padded(v, base, e, keys.clone(), room);
                panels::sums_of_rows::<S>(rows, n, x, keys.len(), LANES, (to.0.add(e), to.1));
            }
        }
    }

    /// Elements of values that do not fill a vector, with zeros behind them.
    unsafe fn padded(
        &self,
        v: View,
        base: *const f32,
        e: usize,
        keys: Range<usize>,
        room: Room,
    ) -> (*const f32, usize) {
        unsafe {
            let c = self.cut;
            for (i, key) in keys.enumerate() {
                let row = base.add(self.row(key) * v.strides[1]);
                for j in 0..LANES {
                    let x = if e + j < c.d { *row.add((e + j) * v.strides[3]) } else { 0.0 };
                    *room.values.add(i * LANES + j) = x;
                }
            }
            (room.values, LANES)
        }
    }
}

/// Adds a part to those before.
unsafe fn merge(all: *mut f32, fresh: *const f32, d: usize) {
    unsafe {
        let (sum, more) = (*all.add(1), *fresh.add(1));
        if more == 0.0 {
            return;
        }
        if sum == 0.0 {
            std::ptr::copy_nonoverlapping(fresh, all, LANES + d);
            return;
        }
        let (a, b) = (*all, *fresh);
        let most = if a > b { a } else { b };
        let (u, v) = ((a - most).exp(), (b - most).exp());
        (*all, *all.add(1)) = (most, sum * u + more * v);
        for i in LANES..LANES + d {
            *all.add(i) = *all.add(i) * u + *fresh.add(i) * v;
        }
    }
}

/// Values over the sum of weights, and of a sink's.
unsafe fn finish(all: *const f32, to: *mut f32, d: usize, sink: Option<f32>) {
    unsafe {
        let (most, mut sum, mut scale) = (*all, *all.add(1), 1.0);
        if sum == 0.0 {
            // No key was seen.
            return std::slice::from_raw_parts_mut(to, d).fill(0.0);
        }
        if let Some(sink) = sink {
            let top = if sink > most { sink } else { most };
            scale = (most - top).exp();
            sum = sum * scale + (sink - top).exp();
        }
        for i in 0..d {
            *to.add(i) = *all.add(LANES + i) * scale / sum;
        }
    }
}

/// Parts of some queries become their results.
///
/// # Safety
/// `parts` holds those of the cut, `out` its rows, and `sinks` one number for each head.
pub unsafe fn merge_rows(cut: Cut, parts: *mut f32, out: *mut f32, sinks: Option<*const f32>, rows: Range<usize>) {
    unsafe {
        for row in rows {
            let first = parts.add(row * cut.chunks * cut.part());
            for chunk in 1..cut.chunks {
                merge(first, first.add(chunk * cut.part()), cut.d);
            }
            finish(first, out.add(row * cut.d), cut.d, sinks.map(|s| *s.add(row % cut.h)));
        }
    }
}

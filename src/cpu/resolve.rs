//! A step's numbers: where each value lies, and into how many tasks each instruction is cut. Without allocation, unless a
//! step is larger than those before.

use super::isa::LANES;
use super::lines::Lines;
use super::pack::Packed;
use super::product::scratch_floats;
use super::program::*;
pub use super::view::View;
use super::{RANK, attend, delta, pages};
use crate::base::{Bindings, Error, Result};

/// Strides that show the elements of `view` under the shape of `to` without a copy, where there are any.
fn restride(view: &View, to: &mut View) -> bool {
    if view.count() == 0 {
        *to = to.densely();
        return true;
    }
    // Axes of length 1 have no say.
    let (mut sizes, mut strides, mut n) = ([1; RANK], [0; RANK], 0);
    for i in (0..view.rank).filter(|i| view.shape[*i] != 1) {
        (sizes[n], strides[n]) = (view.shape[i], view.strides[i]);
        n += 1;
    }
    let (mut i, mut j) = (0, 0);
    while i < n && j < to.rank {
        // The shortest runs of axes, on both sides, of equally many elements.
        let (mut a, mut b, from_i, from_j) = (sizes[i], to.shape[j], i, j);
        (i, j) = (i + 1, j + 1);
        while a != b {
            if b < a {
                b *= to.shape[j];
                j += 1;
            } else {
                a *= sizes[i];
                i += 1;
            }
        }
        if (from_i + 1..i).any(|x| strides[x - 1] != sizes[x] * strides[x]) {
            return false;
        }
        let mut stride = strides[i - 1];
        for axis in (from_j..j).rev() {
            to.strides[axis] = stride;
            stride *= to.shape[axis];
        }
    }
    for axis in j..to.rank {
        to.strides[axis] = 1;
    }
    true
}

/// How an instruction is cut: `tasks` times `per` of its `units`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Span {
    pub units: usize,
    pub per: usize,
    pub tasks: usize,
}

impl Span {
    pub fn units(&self, task: usize) -> std::ops::Range<usize> {
        task * self.per..((task + 1) * self.per).min(self.units)
    }
    /// As many tasks as pay, of units that take some nanoseconds each. The same for any number of threads.
    fn of(units: usize, ns: usize) -> Span {
        const LEAST_NS: usize = 1500;
        let total = units.saturating_mul(ns.max(1));
        let tasks = (total / LEAST_NS).clamp(1, 192).min(units.max(1));
        let per = units.div_ceil(tasks).max(1);
        Span { units, per, tasks: units.div_ceil(per) }
    }
}

/// What a program works on.
#[derive(Default)]
pub struct Memory {
    /// Dimensions of this step.
    pub sizes: Vec<usize>,
    /// Keys in pages that some row of the step sees at most.
    pub reach: usize,
    pub views: Vec<View>,
    pub spans: Vec<Span>,
    /// Words of each value that has memory of its own in the arena, where they begin, and for which words that was planned.
    words: Vec<usize>,
    planned: Vec<usize>,
    starts: Vec<usize>,
    arena: Lines,
    pub states: Vec<Lines>,
    pub weights: Vec<Lines>,
    pub packed: Vec<Option<Packed>>,
    /// Constants and literals by value.
    pub literals: Vec<Lines>,
    /// For each worker some floats.
    pub scratch: Vec<Lines>,
    /// Words that values take in the largest step so far.
    pub peak: usize,
}

impl Memory {
    pub fn bytes(&self) -> u64 {
        let held = self.states.iter().chain(&self.weights).map(Lines::len).sum::<usize>();
        let packed = self.packed.iter().flatten().map(Packed::len).sum::<usize>();
        (held + packed + self.arena.len()) as u64
    }

    fn empty(&self, p: &Program, id: Id) -> View {
        let mut view =
            View { ptr: std::ptr::null_mut(), rank: p.vals[id].shape.len(), shape: [1; RANK], strides: [0; RANK] };
        for (i, d) in p.vals[id].shape.iter().enumerate() {
            view.shape[i] = self.sizes[*d];
        }
        view
    }

    /// Prepares a step.
    ///
    /// # Errors
    /// Variables out of bounds; slices and rows that reach past their ends; memory that is not there.
    pub fn resolve(&mut self, p: &Program, bindings: &Bindings) -> Result<()> {
        let n = p.vals.len();
        self.sizes.clear();
        for d in &p.dims {
            // An iota's start may be negative: such a number wraps, and is used as an i64.
            let mut sum = d.base();
            for (v, c) in d.terms() {
                sum = sum.wrapping_add(c.wrapping_mul(bindings.get(v)? as i64));
            }
            self.sizes.push(sum as usize);
        }
        self.words.clear();
        self.words.resize(n, 0);
        self.views.clear();
        for id in 0..n {
            let bad = p.vals[id].shape.iter().find(|d| (self.sizes[**d] as isize) < 0);
            if let Some(d) = bad {
                p.dims[*d].eval(bindings)?;
            }
            let view = self.place(p, id)?;
            self.views.push(view);
        }
        for at in 0..p.instrs.len() {
            self.check(p, at)?;
        }
        if self.words != self.planned {
            self.plan(p)?;
        }
        self.point(p);
        self.spans.clear();
        let mut floats = 0;
        for instr in &p.instrs {
            let (span, scratch) = self.span(p, instr);
            floats = floats.max(scratch);
            self.spans.push(span);
        }
        for lines in &mut self.scratch {
            if lines.len() < floats * 4 {
                *lines = Lines::new(floats * 4)?;
            }
        }
        Ok(())
    }

    /// Shape, strides, and the place within the value that it looks at, as a pointer from null on.
    fn place(&mut self, p: &Program, id: Id) -> Result<View> {
        let mut view = self.empty(p, id);
        Ok(match &p.vals[id].from {
            From::Input | From::Made => {
                self.words[id] = view.count();
                view.densely()
            }
            From::Const(_) | From::Data(_) | From::Weight(_) => view.densely(),
            From::State(s) => {
                for (n, d) in view.shape.iter_mut().zip(p.states[*s].ty.shape.iter()) {
                    *n = d.bound().max(0) as usize;
                }
                view.densely()
            }
            From::Bytes { of } => {
                let x = &self.views[*of];
                self.words[id] = bytes_words(x.rows(), x.width());
                view
            }
            From::Parts { attention } => {
                if let Op::Attention { q, k, past, how, .. } = &p.instrs[*attention].op {
                    let past = past.map(|d| self.sizes[d]);
                    self.words[id] =
                        attend::Cut::of(&self.views[*q], &self.views[k.id()], past, how.window).part_floats();
                } else {
                    self.words[id] = self.pages(&p.instrs[*attention].op).map_or(0, |cut| cut.part_floats());
                }
                view
            }
            From::Alias { of } => self.views[*of],
            From::Perm { of, perm } => {
                let x = self.views[*of];
                for (i, from) in perm.iter().enumerate() {
                    (view.shape[i], view.strides[i]) = (x.shape[*from], x.strides[*from]);
                }
                View { ptr: x.ptr, ..view }
            }
            From::Slice { of, axis, start, len, step } => {
                let (x, start, len) = (self.views[*of], self.sizes[*start], self.sizes[*len]);
                let reaches = (start as isize) < 0
                    || len > 0 && (len - 1).checked_mul(*step).is_none_or(|n| start + n >= x.shape[*axis])
                    || start > x.shape[*axis];
                if reaches {
                    let what = format!("{len} from {start} by {step} reaches past axis {axis} of {:?}", x.shape());
                    return Err(Error::op("slice", "", what));
                }
                view.strides = x.strides;
                view.strides[*axis] *= step;
                View { ptr: x.ptr.wrapping_add(start * x.strides[*axis]), ..view }
            }
            From::Broadcast { of } => self.views[*of].broadcast(&view.shape[..view.rank]),
            From::Reshape { of } => {
                let x = self.views[*of];
                if restride(&x, &mut view) { View { ptr: x.ptr, ..view } } else { self.copied(id, view) }
            }
            From::Dense { of } => {
                let x = self.views[*of];
                if x.is_dense() { View { ptr: x.ptr, ..view.densely() } } else { self.copied(id, view) }
            }
        })
    }

    /// How attention over pages is cut.
    pub fn pages(&self, op: &Op) -> Option<pages::Cut> {
        let Op::Pages { q, k, tables, page, .. } = op else { return None };
        let view = |id: Id| &self.views[id];
        Some(pages::Cut::of(view(*q), view(k.id()), view(*tables), *page, self.reach))
    }

    fn copied(&mut self, id: Id, view: View) -> View {
        // An empty copy is none.
        self.words[id] = view.count().max(1);
        view.densely()
    }
    fn is_copied(&self, id: Id) -> bool {
        self.words[id] > 0
    }

    fn check(&self, p: &Program, at: usize) -> Result<()> {
        if let Op::Append { state, rows, at: At::Behind(at) } = &p.instrs[at].op {
            let (have, n, at) = (p.states[*state].ty.shape[0].bound(), self.views[*rows].shape[0], self.sizes[*at]);
            if (at as isize) < 0 || (at + n) as i64 > have {
                let what = format!("{n} rows at {at} reach past the state's {have}");
                return Err(Error::op("append", &p.states[*state].name, what));
            }
        }
        Ok(())
    }

    /// Gives values their places in the arena: a place is free again behind the last instruction that needs it.
    fn plan(&mut self, p: &Program) -> Result<()> {
        let n = p.vals.len();
        self.starts.clear();
        self.starts.resize(n, 0);
        let (mut free, mut end): (Vec<(usize, usize)>, usize) = (vec![], 0);
        let mut ends: Vec<Vec<Id>> = vec![vec![]; p.instrs.len()];
        let mut begins: Vec<Vec<Id>> = vec![vec![]; p.instrs.len() + 1];
        for id in (0..n).filter(|id| self.words[*id] > 0) {
            begins[if p.made_at[id] == usize::MAX { 0 } else { p.made_at[id] }].push(id);
            if p.last_use[id] < p.instrs.len() {
                ends[p.last_use[id]].push(id);
            }
        }
        for at in 0..=p.instrs.len() {
            for &id in &begins[at] {
                let want = self.words[id].next_multiple_of(LANES) + LANES;
                let found = (0..free.len()).filter(|i| free[*i].1 >= want).min_by_key(|i| free[*i].1);
                self.starts[id] = match found {
                    Some(i) => {
                        let (start, len) = free[i];
                        if len == want {
                            free.swap_remove(i);
                        } else {
                            free[i] = (start + want, len - want);
                        }
                        start
                    }
                    None => {
                        end += want;
                        end - want
                    }
                };
            }
            for &id in ends.get(at).into_iter().flatten() {
                free.push((self.starts[id], self.words[id].next_multiple_of(LANES) + LANES));
            }
            join(&mut free);
        }
        if self.arena.len() < end * 4 {
            self.arena = Lines::default();
            self.planned.clear();
            self.arena = Lines::new(end * 4)?;
        }
        self.peak = self.peak.max(end);
        self.planned.clone_from(&self.words);
        Ok(())
    }

    /// Turns places into addresses.
    fn point(&mut self, p: &Program) {
        let arena = self.arena.as_mut_ptr().cast::<u32>();
        for id in 0..p.vals.len() {
            let mut root = id;
            while !self.is_copied(root) {
                let Some(of) = p.base(root) else { break };
                root = of;
            }
            let base: *mut u32 = match &p.vals[root].from {
                _ if self.words[root] > 0 => arena.wrapping_add(self.starts[root]),
                From::Const(_) | From::Data(_) => self.literals[root].as_mut_ptr().cast(),
                From::Weight(w) => self.weights[*w].as_mut_ptr().cast(),
                From::State(s) => self.states[*s].as_mut_ptr().cast(),
                _ => arena,
            };
            self.views[id].ptr = base.wrapping_byte_add(self.views[id].ptr as usize);
        }
    }

    /// How an instruction is cut, and the floats that a worker needs beside it.
    fn span(&self, p: &Program, instr: &Instr) -> (Span, usize) {
        let view = |id: &Id| &self.views[*id];
        let out = view(&instr.out);
        let count = out.count();
        // Elements in runs of a vector's length.
        let runs = |ns: usize| Span::of(count.div_ceil(64), ns);
        match &instr.op {
            Op::Copy { .. } if !self.is_copied(instr.out) => (Span::default(), 0),
            Op::Copy { .. } => (runs(60), 0),
            Op::Quantise { x } => (Span::of(view(x).rows(), view(x).width() / 8), 0),
            Op::Linear { x, parts, bytes } => {
                let x = view(x);
                let groups: usize = parts.iter().map(|p| p.out).map(|o| view(&o).width().div_ceil(LANES)).sum();
                let macs = x.rows() * x.width() * LANES;
                let weights = || parts.iter().filter_map(|p| self.packed[p.weight].as_ref());
                // A group takes its products, or the way from memory at some 16 bytes in a nanosecond.
                let read = weights().map(|w| w.group_bytes() / 16).max().unwrap_or(0);
                let ns = read.max(if bytes.is_some() { macs / 100 } else { macs / 25 });
                let scratch = weights().map(|w| scratch_floats(w, x.rows(), bytes.is_some())).max().unwrap_or(0);
                if x.rows() == 0 { (Span::default(), 0) } else { (Span::of(groups, ns), scratch) }
            }
            Op::Matmul { a, .. } => {
                let (k, m) = (view(a).width(), out.shape[out.rank - 2]);
                let columns = out.width().div_ceil(LANES);
                let batches: usize = out.shape[..out.rank - 2].iter().product();
                let span = if m == 0 { Span::default() } else { Span::of(batches * columns, k * (m + 8)) };
                (span, k * LANES + k * 8)
            }
            Op::Norm { .. } | Op::Softmax { .. } => (Span::of(out.rows(), out.width() / 2 + 20), 0),
            Op::Rope { .. } => (Span::of(out.rows(), out.width() + 10), 0),
            Op::Attention { q, k, past, how, .. } => {
                let cut = attend::Cut::of(view(q), view(&k.id()), past.map(|d| self.sizes[d]), how.window);
                (Span::of(cut.units(), cut.unit_ns()), cut.scratch_floats())
            }
            Op::Pages { .. } => match self.pages(&instr.op) {
                Some(cut) => (Span::of(cut.units(), cut.unit_ns()), cut.scratch_floats()),
                None => (Span::default(), 0),
            },
            Op::Delta { operands: [q, _, v, _, states, slots, _] } => {
                let cut = delta::Cut::of(view(q), view(v), view(states), view(slots));
                (Span::of(cut.units(), cut.unit_ns()), 0)
            }
            Op::Merge { attention } => match &p.instrs[*attention].op {
                Op::Attention { q, k, past, how, .. } => {
                    let cut = attend::Cut::of(view(q), view(&k.id()), past.map(|d| self.sizes[d]), how.window);
                    let units = if cut.part_floats() > 0 { cut.rows() } else { 0 };
                    (Span::of(units, cut.chunks * cut.d / 8), 0)
                }
                paged => {
                    let cut = self.pages(paged).filter(|c| c.part_floats() > 0);
                    (cut.map_or(Span::default(), |c| Span::of(c.rows(), c.merge_ns())), 0)
                }
            },
            Op::Map { .. } => (runs(60), 0),
            Op::Reduce { x, .. } => (Span::of(count, (view(x).count() / count.max(1)).max(1) * 2), 0),
            Op::Gather { .. } => (Span::of(out.count() / self.row_of(p, instr).max(1), 200), 0),
            Op::Experts { x, .. } => {
                let (k, n) = (view(x).width(), out.width());
                let groups = n.div_ceil(LANES) * out.shape[0] * out.shape[1];
                (Span::of(if count == 0 { 0 } else { groups }, k / 4), k)
            }
            Op::ScatterAdd { x, .. } => (Span { units: 1, per: 1, tasks: (view(x).count() + count > 0) as usize }, 0),
            Op::Concat { .. } | Op::Pad { .. } | Op::Iota { .. } => (Span { units: 1, per: 1, tasks: 1 }, 0),
            Op::Cast { .. } => (runs(200), 0),
            Op::Append { rows, .. } => (Span::of(view(rows).shape[0], view(rows).count() / 16), 0),
            Op::Assign { x, .. } => (Span::of(view(x).count().div_ceil(64), 20), 0),
        }
    }

    /// Elements of a row of a gather's result.
    pub fn row_of(&self, _: &Program, instr: &Instr) -> usize {
        let Op::Gather { table, ids } = &instr.op else { return 1 };
        match table {
            Table::Packed(w) => self.packed[*w].as_ref().map_or(1, |p| p.k),
            Table::Value(t) => {
                let (t, _) = (&self.views[*t], ids);
                t.shape()[1..].iter().product()
            }
        }
    }
}

/// Neighbours among free places become one.
fn join(free: &mut Vec<(usize, usize)>) {
    free.sort_unstable();
    let mut kept = 0;
    for i in 1..free.len() {
        let (start, len) = free[i];
        if free[kept].0 + free[kept].1 == start {
            free[kept].1 += len;
        } else {
            kept += 1;
            free[kept] = (start, len);
        }
    }
    free.truncate(if free.is_empty() { 0 } else { kept + 1 });
}

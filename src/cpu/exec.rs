//! Running a program: the tasks of its instructions.

use super::attend::{self, Attend, Heads};
use super::blocks::BLOCK;
use super::columns::Columns;
use super::delta::{self, Delta};
use super::isa::{LANES, Set};
use super::kv::{Append, Kept, Layout, Place};
use super::map::{Map, RUN, number, word};
use super::pages::Pages;
use super::pool::Work;
use super::product::{Left, Post, Product, Quantise, Quantised};
use super::program::*;
use super::resolve::Memory;
use super::rows::{Norm, Rope, Softmax};
use super::view::View;
use crate::base::{DType, Error};
use crate::op::Reduce;
use std::cell::UnsafeCell;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use web_time::Instant;

/// A program with its memory: what a pool's threads share.
pub struct Core {
    pub program: Program,
    pub set: Set,
    /// Whether a step stops at the first value that is not finite.
    pub check: bool,
    state: UnsafeCell<State>,
}

/// What changes while a step runs. Tasks read it; only [`Work::next`] and whoever owns the pool between steps write it.
#[derive(Default)]
pub struct State {
    pub memory: Memory,
    /// The instruction whose tasks are done now, and the next.
    current: Option<usize>,
    pub at: usize,
    pub error: Option<Error>,
    /// When to give the thread back.
    pub until: Option<(Instant, Duration)>,
    pub cancel: Option<*const AtomicBool>,
}

// SAFETY: tasks of one phase write different elements and read what earlier phases wrote; the pool calls `next` while no
// task runs. Addresses in the memory point into that memory.
unsafe impl Sync for Core {}
unsafe impl Send for Core {}

impl Core {
    pub fn new(program: Program, set: Set, check: bool, state: State) -> Core {
        Core { program, set, check, state: UnsafeCell::new(state) }
    }
    /// # Safety
    /// No step is under way.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn state(&self) -> &mut State {
        unsafe { &mut *self.state.get() }
    }
    /// # Safety
    /// Only from within a task.
    unsafe fn memory(&self) -> &Memory {
        unsafe { &(*self.state.get()).memory }
    }
}

impl Work for Core {
    unsafe fn task(&self, task: usize, worker: usize) {
        // SAFETY: the phase at hand is this instruction's.
        unsafe {
            if let Some(at) = (*self.state.get()).current {
                self.run(at, task, worker);
            }
        }
    }

    unsafe fn next(&self, worker: usize) -> usize {
        // SAFETY: no task is under way.
        let state = unsafe { self.state() };
        if let Some(at) = state.current.take()
            && self.check
            && !self.is_finite(state, at)
        {
            return 0;
        }
        while state.at < self.program.instrs.len() {
            // SAFETY: the flag outlives the step.
            if state.cancel.is_some_and(|c| unsafe { (*c).load(Ordering::Relaxed) }) {
                state.error = Some(Error::Cancelled);
                return 0;
            }
            if state.until.is_some_and(|(start, most)| start.elapsed() > most) {
                return 0;
            }
            let at = state.at;
            state.at += 1;
            match state.memory.spans[at].tasks {
                0 => {}
                1 => {
                    // SAFETY: the only task, and nothing else runs.
                    unsafe { self.run(at, 0, worker) };
                    if self.check && !self.is_finite(state, at) {
                        return 0;
                    }
                }
                n => {
                    state.current = Some(at);
                    return n;
                }
            }
        }
        0
    }
}

impl Core {
    /// Looks at what an instruction made.
    fn is_finite(&self, state: &mut State, at: usize) -> bool {
        let instr = &self.program.instrs[at];
        for id in self.program.writes(instr) {
            let val = &self.program.vals[id];
            if val.dtype != DType::F32 || !matches!(val.from, From::Made) || id != instr.out {
                continue;
            }
            let view = state.memory.views[id];
            for index in 0..view.count() {
                // SAFETY: within the value.
                let x = unsafe { *view.f32s().add(index) };
                if !x.is_finite() {
                    // Node and op are filled in by whoever knows the graph.
                    state.error =
                        Some(Error::NotFinite { op: String::new(), node: at.to_string(), index, value: x.to_string() });
                    return false;
                }
            }
        }
        true
    }

    unsafe fn run(&self, at: usize, task: usize, worker: usize) {
        unsafe {
            let m = self.memory();
            let instr = &self.program.instrs[at];
            let units = m.spans[at].units(task);
            let view = |id: &Id| m.views[*id];
            let dtype = |id: &Id| self.program.vals[*id].dtype;
            let out = view(&instr.out);
            match &instr.op {
                Op::Copy { from } => {
                    let from = view(from);
                    for i in runs(units, out.count()) {
                        *out.ptr.add(i) = *from.ptr.add(from.offset(i));
                    }
                }
                Op::Quantise { x } => self.quantise(&view(x), out, units),
                Op::Linear { x, bytes, parts } => {
                    let scratch = m.scratch[worker].as_ptr().cast_mut().cast();
                    self.linear(m, (*x, *bytes), parts, scratch, units)
                }
                Op::Matmul { a, b } => {
                    let scratch = m.scratch[worker].as_ptr().cast_mut().cast();
                    self.set.run(Columns { a: view(a), b: view(b), out, scratch, units })
                }
                Op::Norm { x, w, b, eps, centred } => self.set.run(Norm {
                    x: view(x).f32s(),
                    w: view(w).f32s(),
                    b: b.map(|b| view(&b).f32s().cast_const()),
                    out: out.f32s(),
                    width: out.width(),
                    eps: *eps,
                    centred: *centred,
                    rows: units,
                }),
                Op::Softmax { x, log } => self.set.run(Softmax {
                    x: view(x).f32s(),
                    out: out.f32s(),
                    width: out.width(),
                    log: *log,
                    rows: units,
                }),
                Op::Rope { x, cos, sin, layout } => self.set.run(Rope {
                    x: view(x).f32s(),
                    cos: view(cos).f32s(),
                    sin: view(sin).f32s(),
                    out: out.f32s(),
                    s: out.shape[out.rank - 3],
                    h: out.shape[out.rank - 2],
                    d: out.width(),
                    layout: *layout,
                    rows: units,
                }),
                Op::Attention { .. } => self.attention(m, &instr.op, (out, worker), units),
                Op::Pages { .. } => self.pages(m, &instr.op, (out, worker), units),
                Op::Delta { operands } => self.delta(m, operands, out, units),
                Op::Merge { attention } => self.merge(m, &self.program.instrs[*attention].op, out, units),
                Op::Map { def, args } => {
                    let mut views = [(out, DType::F32); 3];
                    views.iter_mut().zip(args).for_each(|(to, a)| *to = (view(a), dtype(a)));
                    if let Some(scalar) = def.scalar() {
                        let args = &views[..args.len().min(3)];
                        self.set.run(Map { def, scalar, dtype: dtype(&instr.out), out, args, units });
                    }
                }
                Op::Append { state, rows, at } => self.append(m, *state, view(rows), *at, units),
                Op::Assign { state, x } => {
                    let x = view(x);
                    let r = runs(units, x.count());
                    let to = m.states[*state].as_ptr().cast_mut().cast::<u32>();
                    std::ptr::copy_nonoverlapping(x.ptr.add(r.start), to.add(r.start), r.len());
                }
                Op::Experts { x, bytes, table, first } => {
                    let scratch = m.scratch[worker].as_ptr().cast_mut().cast();
                    self.experts(m, (*x, *bytes), *table, (view(first), dtype(first)), (out, scratch), units);
                }
                rare => self.rare(m, rare, instr, units),
            }
        }
    }

    /// Rows of a state replaced.
    unsafe fn append(&self, m: &Memory, state: usize, rows: View, at: At, units: Range<usize>) {
        let info = &self.program.states[state];
        let to = m.states[state].as_ptr().cast_mut();
        let at = match at {
            At::Behind(at) => Place::Behind(m.sizes[at]),
            At::Ids(ids) => Place::Ids(m.views[ids].ptr, info.ty.shape[0].bound().max(0) as usize),
        };
        // SAFETY: the caller's: the step was refused if these rows reached past the state; ids that do are passed over.
        unsafe {
            if info.layout != Layout::Plain {
                return self.set.run(Append { layout: info.layout, x: rows, to, at, rows: units });
            }
            let row = rows.count() / rows.shape[0].max(1);
            for r in units {
                let Some(at) = at.of(r) else { continue };
                std::ptr::copy_nonoverlapping(rows.ptr.add(r * row), to.cast::<u32>().add(at * row), row);
            }
        }
    }

    /// A task of the gated delta rule.
    unsafe fn delta(&self, m: &Memory, operands: &[Id; 7], out: View, units: Range<usize>) {
        let [q, k, v, gates, states, slots, owners] = operands.map(|id| m.views[id]);
        // SAFETY: the caller's: the views are of this step's memory, and no other task has these columns.
        unsafe {
            self.set.run(Delta {
                cut: delta::Cut::of(&q, &v, &states, &slots),
                q: q.f32s(),
                k: k.f32s(),
                v: v.f32s(),
                gates: gates.f32s(),
                states: states.f32s(),
                slots: slots.ptr,
                owners: owners.ptr,
                out: out.f32s(),
                units,
            })
        }
    }

    /// A task of attention over pages.
    unsafe fn pages(&self, m: &Memory, op: &Op, (out, worker): (View, usize), units: Range<usize>) {
        let Op::Pages { q, k, v, tables, sequences, positions, sinks, how, parts, .. } = op else { return };
        let Some(cut) = m.pages(op) else { return };
        let view = |id: &Id| m.views[*id];
        // SAFETY: the caller's: the views are of this step's memory, and no other task has these rows.
        unsafe {
            self.set.run(Pages {
                cut,
                q: view(q),
                k: self.heads(m, *k),
                v: self.heads(m, *v),
                tables: view(tables).ptr,
                sequences: view(sequences).ptr,
                positions: view(positions).ptr,
                how: *how,
                sinks: sinks.map(|s| view(&s).f32s().cast_const()),
                out: out.f32s(),
                parts: view(parts).f32s(),
                scratch: m.scratch[worker].as_ptr().cast_mut().cast(),
                units,
            })
        }
    }

    /// A task of attention: some rows of queries, over all keys or a part of them.
    unsafe fn attention(&self, m: &Memory, op: &Op, (out, worker): (View, usize), units: Range<usize>) {
        let Op::Attention { q, k, v, mask, how, past, parts } = op else { return };
        let view = |id: &Id| m.views[*id];
        let crate::op::Attention { scale, causal: _, window, softcap, sinks } = *how;
        let cut = attend::Cut::of(&view(q), &view(&k.id()), past.map(|d| m.sizes[d]), window);
        let truth = mask.map(|m| self.program.vals[m].dtype);
        let shape = [out.shape[0], cut.h, cut.s, cut.t];
        let sinks = mask.filter(|_| sinks).map(|s| view(&s).f32s().cast_const());
        let mask = mask.filter(|_| sinks.is_none());
        let mask = mask.map(|m| (view(&m).broadcast(&shape), truth == Some(DType::Bool)));
        // SAFETY: the caller's: the views are of this step's memory, and no other task has these rows.
        unsafe {
            self.set.run(Attend {
                cut,
                q: view(q),
                k: self.heads(m, *k),
                v: self.heads(m, *v),
                mask,
                table: None,
                scale,
                softcap,
                sinks,
                out: out.f32s(),
                parts: view(parts).f32s(),
                scratch: m.scratch[worker].as_ptr().cast_mut().cast(),
                units,
            })
        }
    }

    /// Parts of an attention over ranges of keys become rows of its result.
    unsafe fn merge(&self, m: &Memory, attention: &Op, out: View, units: Range<usize>) {
        let view = |id: &Id| m.views[*id];
        if let (Op::Pages { parts, sinks, .. }, Some(cut)) = (attention, m.pages(attention)) {
            let sinks = sinks.map(|s| view(&s).f32s().cast_const());
            // SAFETY: the caller's, as above.
            return unsafe { attend::merge_rows(cut.merged(), view(parts).f32s(), out.f32s(), sinks, units) };
        }
        let Op::Attention { q, k, how, past, parts, mask, .. } = attention else { return };
        let cut = attend::Cut::of(&view(q), &view(&k.id()), past.map(|d| m.sizes[d]), how.window);
        let sinks = mask.filter(|_| how.sinks).map(|s| view(&s).f32s().cast_const());
        // SAFETY: the caller's, as above.
        unsafe { attend::merge_rows(cut, view(parts).f32s(), out.f32s(), sinks, units) }
    }

    fn heads(&self, m: &Memory, kv: Kv) -> Heads {
        let Kv::State(state, id) = kv else { return Heads::View(m.views[kv.id()]) };
        let at = m.states[state].as_ptr();
        match self.program.states[state].layout {
            Layout::Plain => Heads::View(m.views[id]),
            Layout::Heads { kept: Kept::F32, .. } => Heads::Wide(at.cast()),
            Layout::Heads { kept: Kept::F16, .. } => Heads::Narrow(at.cast()),
            Layout::Heads { kept: Kept::Scaled, .. } => Heads::Scaled(at),
        }
    }

    unsafe fn quantise(&self, x: &View, out: View, rows: Range<usize>) {
        unsafe {
            let k = x.width();
            let to = in_bytes(x, out);
            let blocks = k / BLOCK;
            let to = Quantised { q: to.q.add(rows.start * k), scales: to.scales.add(rows.start * blocks) };
            self.set.run(Quantise { x: x.f32s().add(rows.start * k), blocks: blocks * rows.len(), to });
        }
    }

    /// Units are groups of the parts, one part after another.
    unsafe fn linear(
        &self,
        m: &Memory,
        (x, bytes): (Id, Option<Id>),
        parts: &[Part],
        scratch: *mut f32,
        units: Range<usize>,
    ) {
        unsafe {
            let x = m.views[x];
            let q = bytes.map(|b| in_bytes(&x, m.views[b]));
            let left = Left { x: x.f32s(), stride: x.width(), m: x.rows(), q };
            let mut first = 0;
            for part in parts {
                let Some(weight) = &m.packed[part.weight] else { continue };
                let n = weight.groups();
                let groups = units.start.clamp(first, first + n) - first..units.end.clamp(first, first + n) - first;
                first += n;
                if groups.is_empty() {
                    continue;
                }
                let mut post = [const { Post::Act(super::product::Act::Relu) }; 8];
                for (to, then) in post.iter_mut().zip(&part.then) {
                    *to = match then {
                        Then::Row(v) => Post::Row(m.views[*v].f32s()),
                        Then::Full(v) => Post::Full(m.views[*v].f32s()),
                        Then::Act(a) => Post::Act(*a),
                    };
                }
                let (out, post) = (m.views[part.out].f32s(), &post[..part.then.len()]);
                Product { left, weight, out, post, scratch }.groups(self.set, groups);
            }
        }
    }

    /// Units are groups of sixteen outputs of a token and a slot.
    unsafe fn experts(
        &self,
        m: &Memory,
        (x, bytes): (Id, Option<Id>),
        table: Table,
        (first, ty): (View, DType),
        (out, scratch): (View, *mut f32),
        units: Range<usize>,
    ) {
        unsafe {
            let x = m.views[x];
            let (slots, n, k) = (out.shape[1], out.shape[2], x.shape[2]);
            let groups = n.div_ceil(LANES);
            for unit in units {
                let (place, column) = (unit / groups, unit % groups * LANES);
                let row = place / slots * x.shape[1] + if x.shape[1] == 1 { 0 } else { place % slots };
                let at = number(ty, *first.ptr.add(place)) as i64 + column as i64;
                let (x_row, y) = (x.f32s().add(row * k), out.f32s().add(place * n + column));
                let count = LANES.min(n - column);
                if let Table::Packed(w) = table {
                    let Some(weight) = &m.packed[w] else { continue };
                    let whole = at >= 0 && at % LANES as i64 == 0 && count == LANES;
                    if whole && at as usize + LANES <= weight.n {
                        let q = bytes.map(|b| {
                            let all = in_bytes(&x, m.views[b]);
                            Quantised { q: all.q.add(row * k), scales: all.scales.add(row * k / BLOCK) }
                        });
                        let left = Left { x: x_row, stride: k, m: 1, q };
                        let group = at as usize / LANES;
                        let out = y.wrapping_sub(at as usize);
                        Product { left, weight, out, post: &[], scratch }.groups(self.set, group..group + 1);
                        continue;
                    }
                }
                for j in 0..count {
                    let at = at + j as i64;
                    let row = match table {
                        Table::Packed(w) => m.packed[w].as_ref().filter(|p| at >= 0 && (at as usize) < p.n).map(|p| {
                            p.row(at as usize, std::slice::from_raw_parts_mut(scratch, k));
                            scratch.cast_const()
                        }),
                        Table::Value(t) => {
                            let t = m.views[t];
                            (at >= 0 && (at as usize) < t.shape[0]).then(|| t.f32s().add(at as usize * k).cast_const())
                        }
                    };
                    *y.add(j) = row.map_or(0.0, |w| plain_dot(x_row, w, k));
                }
            }
        }
    }

    /// Rows of a table; an id outside of it gives zeros.
    unsafe fn gather(&self, m: &Memory, (table, ids): (&Table, &Id), instr: &Instr, units: Range<usize>) {
        let view = |id: &Id| m.views[*id];
        let (out, ty, ids) = (view(&instr.out), self.program.vals[*ids].dtype, view(ids));
        let row = m.row_of(&self.program, instr);
        for i in units {
            // SAFETY: the caller's: units are rows of the result, and ids within the table are rows of it.
            unsafe {
                let id = number(ty, *ids.ptr.add(i));
                let within = |rows: usize| id >= 0.0 && (id as usize) < rows;
                let to = std::slice::from_raw_parts_mut(out.f32s().add(i * row), row);
                match table {
                    Table::Packed(w) => match &m.packed[*w] {
                        Some(p) if within(p.n) => p.row(id as usize, to),
                        _ => to.fill(0.0),
                    },
                    Table::Value(t) if within(view(t).shape[0]) => {
                        let from = view(t).f32s().add(id as usize * row);
                        to.copy_from_slice(std::slice::from_raw_parts(from, row));
                    }
                    Table::Value(_) => to.fill(0.0),
                }
            }
        }
    }

    /// Ops that no model spends its time in: element by element.
    unsafe fn rare(&self, m: &Memory, op: &Op, instr: &Instr, units: Range<usize>) {
        unsafe {
            let view = |id: &Id| m.views[*id];
            let dtype = |id: &Id| self.program.vals[*id].dtype;
            let (out, to) = (view(&instr.out), dtype(&instr.out));
            match op {
                Op::Reduce { x, axes, kind } => reduce(&view(x), axes, *kind, (out, to), units),
                Op::Gather { table, ids } => self.gather(m, (table, ids), instr, units),
                Op::ScatterAdd { x, ids } => {
                    let (x, ids, ty) = (view(x), view(ids), dtype(ids));
                    let width: usize = out.shape()[1..].iter().product();
                    std::slice::from_raw_parts_mut(out.f32s(), out.count()).fill(0.0);
                    for i in 0..ids.count() {
                        let id = number(ty, *ids.ptr.add(i));
                        if id >= 0.0 && (id as usize) < out.shape[0] {
                            for j in 0..width {
                                *out.f32s().add(id as usize * width + j) += *x.f32s().add(i * width + j);
                            }
                        }
                    }
                }
                Op::Concat { axis, args } => {
                    let outer: usize = out.shape[..*axis].iter().product();
                    let inner: usize = out.shape()[axis + 1..].iter().product();
                    let mut at = 0;
                    for o in 0..outer {
                        for a in args {
                            let a = view(a);
                            let run = a.shape[*axis] * inner;
                            std::ptr::copy_nonoverlapping(a.ptr.add(o * run), out.ptr.add(at), run);
                            at += run;
                        }
                    }
                }
                Op::Pad { x, axis, before, value } => {
                    let (x, value) = (view(x), word(to, *value as f64));
                    std::slice::from_raw_parts_mut(out.ptr, out.count()).fill(value);
                    let outer: usize = out.shape[..*axis].iter().product();
                    let inner: usize = out.shape()[axis + 1..].iter().product();
                    let (run, whole) = (x.shape[*axis] * inner, out.shape[*axis] * inner);
                    for o in 0..outer {
                        let to = out.ptr.add(o * whole + before * inner);
                        std::ptr::copy_nonoverlapping(x.ptr.add(o * run), to, run);
                    }
                }
                Op::Cast { x } => {
                    let (x, from) = (view(x), dtype(x));
                    for i in runs(units, out.count()) {
                        let v = number(from, *x.ptr.add(i));
                        let v = match to {
                            DType::Bool => (v != 0.0) as u8 as f64,
                            DType::I32 => v.trunc().clamp(i32::MIN as f64, i32::MAX as f64),
                            DType::U32 => v.trunc().clamp(0.0, u32::MAX as f64),
                            _ => v,
                        };
                        *out.ptr.add(i) = word(to, v);
                    }
                }
                Op::Iota { axis, start } => {
                    let start = m.sizes[*start] as i64 as f64;
                    let inner: usize = out.shape()[axis + 1..].iter().product();
                    for i in 0..out.count() {
                        let at = i / inner.max(1) % out.shape[*axis].max(1);
                        *out.ptr.add(i) = word(to, start + at as f64);
                    }
                }
                _ => {}
            }
        }
    }
}

/// Σ x·w by sixteen sums.
unsafe fn plain_dot(x: *const f32, w: *const f32, k: usize) -> f32 {
    let mut sums = [0.0; LANES];
    for i in 0..k {
        // SAFETY: both rows have `k` elements.
        sums[i % LANES] += unsafe { *x.add(i) * *w.add(i) };
    }
    sums.iter().sum()
}

/// The elements of some runs.
fn runs(units: Range<usize>, count: usize) -> Range<usize> {
    (units.start * RUN).min(count)..(units.end * RUN).min(count)
}

/// Where rows in bytes have their bytes and scales.
fn in_bytes(x: &View, bytes: View) -> Quantised {
    let n = x.count().div_ceil(4).next_multiple_of(LANES);
    Quantised { q: bytes.ptr.cast(), scales: bytes.ptr.wrapping_add(n).cast() }
}

unsafe fn reduce(x: &View, axes: &[usize], kind: Reduce, (out, to): (View, DType), units: Range<usize>) {
    unsafe {
        let part = |keep: bool| {
            let mut v = View { rank: 0, ..*x };
            for i in (0..x.rank).filter(|i| axes.contains(i) != keep) {
                (v.shape[v.rank], v.strides[v.rank]) = (x.shape[i], x.strides[i]);
                v.rank += 1;
            }
            v
        };
        let (outer, inner) = (part(true), part(false));
        let n = inner.count();
        for i in units {
            let base = x.f32s().add(outer.offset(i));
            let items = (0..n).map(|j| *base.add(inner.offset(j)) as f64);
            let y = match kind {
                Reduce::Sum => items.sum(),
                Reduce::Mean => items.sum::<f64>() / n as f64,
                // A NaN wins, whichever is asked for.
                Reduce::Max => items.fold(f64::NEG_INFINITY, |b, v| if v > b || v.is_nan() { v } else { b }),
                Reduce::Min => items.fold(f64::INFINITY, |b, v| if v < b || v.is_nan() { v } else { b }),
                Reduce::Argmax => {
                    let larger = |v: f64, b: f64| v > b || (v.is_nan() && !b.is_nan());
                    let best = |b: (usize, f64), (i, v): (usize, f64)| if larger(v, b.1) { (i, v) } else { b };
                    items.enumerate().fold((0, f64::NEG_INFINITY), best).0 as f64
                }
            };
            *out.ptr.add(i) = word(to, y);
        }
    }
}

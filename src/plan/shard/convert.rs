//! A value from one placement to another, by the collective that does it.

use super::{Held, Placed, Sharder};
use crate::base::{Combine, Cut, DType, Dim, Error, Expr, LocalKind, Placement, Result, Type};
use crate::op::{
    self, ALL_GATHER, ALL_REDUCE, ALL_TO_ALL, Attrs, Build, Collective, OpDef, OtherAxis, REDUCE_SCATTER, Value,
};
use Placement::{Partial, Split, Whole};

impl Sharder {
    /// `v` as `want` along one mesh axis: itself, a copy made before, or one made now.
    pub fn convert(&mut self, v: Value, axis: usize, want: Placed) -> Result<Value> {
        let now = self.get(v).placed[axis];
        let same = now.0 == want.0 && (now.1 == want.1 || !matches!(now.0, Split(_)));
        if same || self.axes[axis].1 == 1 {
            return Ok(v);
        }
        if let Some(copy) = self.copies.get(&(v, axis, want)) {
            return Ok(*copy);
        }
        let local = self.get(v).local;
        self.why = format!("{} becomes {}", now.0, want.0);
        let copy = match (now, want) {
            ((Whole, _), (Split(dim), cut)) => self.cut_out(v, axis, dim, cut)?,
            // Halves travel as f32: two of them share a word.
            _ if self.out.ty(local).dtype.is_narrow() => {
                let stored = self.out.ty(local).dtype;
                let wide = self.add(&op::CAST, Attrs::Cast(DType::F32), &[local])?;
                let wide = self.changed(v, axis, wide, now);
                let moved = self.convert(wide, axis, want)?;
                let local = self.get(moved).local;
                let narrow = self.add(&op::CAST, Attrs::Cast(stored), &[local])?;
                self.changed(moved, axis, narrow, want)
            }
            ((Split(dim), cut), (Whole, _)) => self.gather_pieces(v, axis, dim, cut)?,
            ((Partial(c), _), (Whole, _)) => self.combine(v, axis, c)?,
            ((Partial(c), _), (Split(dim), cut)) if !cut.is_stripe() => self.scatter(v, axis, dim, c, cut)?,
            ((Split(a), c), (Split(b), d)) if a != b && !c.is_stripe() && !d.is_stripe() => {
                self.swap(v, axis, (a, c), (b, d))?
            }
            ((Split(_) | Partial(_), _), (Split(_), _)) => {
                let whole = self.convert(v, axis, (Whole, Cut::ONES))?;
                self.convert(whole, axis, want)?
            }
            _ => {
                let what = format!(
                    "lies {} along {}, it cannot become {}: placements contradict each other",
                    now.0, self.axes[axis].0, want.0
                );
                return Err(Error::op("shard", "", what));
            }
        };
        self.copies.insert((v, axis, want), copy);
        Ok(copy)
    }

    /// A new value: the local one under a placement changed along one axis.
    pub(super) fn changed(&mut self, v: Value, axis: usize, local: Value, placed: Placed) -> Value {
        let mut held = self.get(v).clone();
        held.local = local;
        held.placed[axis] = placed;
        self.hold(held)
    }

    /// Adds a local op.
    pub(super) fn add(&mut self, def: &'static OpDef, attrs: Attrs, args: &[Value]) -> Result<Value> {
        self.out.apply(def, attrs, args)
    }

    /// A collective among the ranks of one axis, on local values.
    pub(super) fn collective(&mut self, def: &'static OpDef, axis: usize, x: Value, c: Collective) -> Result<Value> {
        let (over, _) = self.axes[axis];
        self.moved.push(format!("{} over {over}, {}: {} → {}", def.name, self.why, self.out.ty(x), c.to));
        self.add(def, Attrs::Collective(Box::new(c)), &[x])
    }

    pub(super) fn how(&mut self, axis: usize, cut: Cut, rows: Dim, to: Type) -> Collective {
        let (over, ways) = self.axes[axis];
        self.tag += 1;
        Collective { over, ways, combine: Combine::Sum, cut, rows, to, peer: 0, other: None, tag: self.tag }
    }

    /// The rank's own piece of a whole value.
    fn cut_out(&mut self, v: Value, axis: usize, dim: usize, cut: Cut) -> Result<Value> {
        let held = self.get(v).clone();
        let whole = held.ty.shape[dim];
        let len = self.len(whole, cut, axis, "a value")?;
        let start = self.start(whole, cut, axis);
        let step = if cut.is_stripe() { self.axes[axis].1 as u32 } else { 1 };
        let local = self.add(&op::SLICE, Attrs::Slice { axis: dim, start, len, step }, &[held.local])?;
        Ok(self.changed(v, axis, local, (Split(dim), cut)))
    }

    /// Axis `dim` first, all others in order.
    fn front(&mut self, x: Value, dim: usize) -> Result<Value> {
        if dim == 0 {
            return Ok(x);
        }
        let rank = self.out.ty(x).shape.rank();
        let perm: Vec<usize> = std::iter::once(dim).chain((0..rank).filter(|i| *i != dim)).collect();
        self.add(&op::TRANSPOSE, Attrs::Perm(perm), &[x])
    }

    /// The first axis back to where it was.
    fn back(&mut self, x: Value, dim: usize) -> Result<Value> {
        if dim == 0 {
            return Ok(x);
        }
        let rank = self.out.ty(x).shape.rank();
        let perm: Vec<usize> = (1..=dim).chain(std::iter::once(0)).chain(dim + 1..rank).collect();
        self.add(&op::TRANSPOSE, Attrs::Perm(perm), &[x])
    }

    /// Every rank's rows on every rank.
    fn gather_pieces(&mut self, v: Value, axis: usize, dim: usize, cut: Cut) -> Result<Value> {
        let held = self.get(v).clone();
        let whole = held.ty.shape[dim];
        let mut x = self.front(held.local, dim)?;
        let mut to = self.out.ty(x);
        if cut.is_stripe() {
            // A state has room for more than it holds.
            let len = self.number(axis, cut, whole, LocalKind::Len { before: 0 });
            if to.shape[0] != len {
                x = self.add(&op::SLICE, Attrs::Slice { axis: 0, start: 0.into(), len, step: 1 }, &[x])?;
            }
        }
        // Pieces may overlap, where several ranks hold one key head: then each counts by itself.
        let pieces: Vec<std::ops::Range<u64>> = match whole.known() {
            Some(n) if !cut.is_stripe() => {
                (0..self.axes[axis].1).map(|i| cut.range(n.max(0) as u64, self.axes[axis].1, i)).collect()
            }
            _ => vec![],
        };
        let packed: u64 = pieces.iter().map(|r| r.end - r.start).sum();
        let overlap = whole.known().is_some_and(|n| packed > n.max(0) as u64);
        to.shape.0[0] = if overlap { packed.into() } else { whole };
        let c = self.how(axis, cut, whole, to);
        let mut y = self.collective(&ALL_GATHER, axis, x, c)?;
        if let Cut::Stripe { from } = cut {
            y = self.unstripe(y, axis, whole, from)?;
        } else if overlap {
            y = self.once(y, &pieces)?;
        }
        let y = self.back(y, dim)?;
        Ok(self.changed(v, axis, y, (Whole, Cut::ONES)))
    }

    /// Of pieces that lie one after another each row once.
    fn once(&mut self, y: Value, pieces: &[std::ops::Range<u64>]) -> Result<Value> {
        let (mut runs, mut have, mut at) = (vec![], 0, 0);
        for r in pieces {
            let fresh = r.start.max(have)..r.end;
            if fresh.start < fresh.end {
                let (start, len) = (at + fresh.start - r.start, fresh.end - fresh.start);
                runs.push(self.add(
                    &op::SLICE,
                    Attrs::Slice { axis: 0, start: start.into(), len: len.into(), step: 1 },
                    &[y],
                )?);
                have = fresh.end;
            }
            at += r.end - r.start;
        }
        self.add(&op::CONCAT, Attrs::Axis(0), &runs)
    }

    /// Rows that lie rank after rank into the order of the sequence: row s is number (s − first)/n of its rank.
    fn unstripe(&mut self, y: Value, axis: usize, whole: Dim, from: Dim) -> Result<Value> {
        let ways = self.axes[axis].1;
        let count = |start| Attrs::Iota { shape: [whole].into(), axis: 0, start, dtype: DType::I32 };
        let number = |start: Dim| Attrs::Iota { shape: [Dim::new(1)].into(), axis: 0, start, dtype: DType::I32 };
        let position = self.add(&op::IOTA, count(from), &[])?;
        let n = self.add(&op::IOTA, number(ways.into()), &[])?;
        let round = self.add(&op::DIV, Attrs::None, &[position, n])?;
        let times = self.add(&op::MUL, Attrs::None, &[round, n])?;
        let owner = self.add(&op::SUB, Attrs::None, &[position, times])?;
        // Rounds before `from` were finished by ranks below from modulo n.
        let mut ids: Option<Value> = None;
        let mut before = self.add(&op::IOTA, number(0.into()), &[])?;
        for rank in 0..ways {
            let of = Cut::Stripe { from: 0.into() };
            let past = self.fixed(axis, of, from, rank)?;
            let past = self.add(&op::IOTA, number(past), &[])?;
            let base = self.add(&op::SUB, Attrs::None, &[before, past])?;
            let id = self.add(&op::ADD, Attrs::None, &[round, base])?;
            ids = Some(match ids {
                None => id,
                Some(others) => {
                    let me = self.add(&op::IOTA, number(rank.into()), &[])?;
                    let mine = self.add(&op::EQ, Attrs::None, &[owner, me])?;
                    self.add(&op::WHERE, Attrs::None, &[mine, id, others])?
                }
            });
            let here = self.fixed(axis, Cut::Stripe { from }, whole, rank)?;
            let here = self.add(&op::IOTA, number(here), &[])?;
            before = self.add(&op::ADD, Attrs::None, &[before, here])?;
        }
        let ids = ids.ok_or_else(|| Error::op("shard", "", "an axis of no ranks"))?;
        self.add(&op::GATHER, Attrs::None, &[y, ids])
    }

    /// The length of the piece of a given rank, the same number on every rank.
    fn fixed(&mut self, axis: usize, cut: Cut, of: Dim, rank: usize) -> Result<Dim> {
        Ok(self.number(axis, cut, of, LocalKind::LenOf { rank }))
    }

    fn combine(&mut self, v: Value, axis: usize, combine: Combine) -> Result<Value> {
        let local = self.get(v).local;
        let to = self.out.ty(local);
        let rows = to.shape.first().copied().unwrap_or(Dim::new(1));
        let mut c = self.how(axis, Cut::ONES, rows, to);
        c.combine = combine;
        let y = self.collective(&ALL_REDUCE, axis, local, c)?;
        Ok(self.changed(v, axis, y, (Whole, Cut::ONES)))
    }

    fn scatter(&mut self, v: Value, axis: usize, dim: usize, combine: Combine, cut: Cut) -> Result<Value> {
        let held = self.get(v).clone();
        let whole = held.ty.shape[dim];
        let len = self.len(whole, cut, axis, "a value")?;
        let x = self.front(held.local, dim)?;
        let mut to = self.out.ty(x);
        to.shape.0[0] = len;
        let mut c = self.how(axis, cut, whole, to);
        c.combine = combine;
        let y = self.collective(&REDUCE_SCATTER, axis, x, c)?;
        let y = self.back(y, dim)?;
        Ok(self.changed(v, axis, y, (Split(dim), cut)))
    }

    /// Split along `a` becomes split along `b`: rank i's piece of `b` goes to each, rows of `a` come together.
    fn swap(&mut self, v: Value, axis: usize, (a, cut_a): (usize, Cut), (b, cut_b): (usize, Cut)) -> Result<Value> {
        let held = self.get(v).clone();
        let (whole_a, whole_b) = (held.ty.shape[a], held.ty.shape[b]);
        let ways = self.axes[axis].1;
        // For each receiver the rows [a, its piece of b, rest], one after another as flat runs.
        let x = self.front(held.local, a)?;
        let b_in_x = if b < a { b + 1 } else { b };
        let mut runs = vec![];
        let mut start = Dim::new(0);
        for rank in 0..ways {
            let len = self.piece_len(axis, cut_b, whole_b, rank)?;
            let piece = self.add(&op::SLICE, Attrs::Slice { axis: b_in_x, start, len, step: 1 }, &[x])?;
            start = start + len;
            let ty = self.out.ty(piece);
            let rows = ty.shape[0];
            let rest = ty.shape.count();
            let flat = flat_dim(&rest).ok_or_else(|| {
                Error::op(
                    "shard",
                    "",
                    format!("a piece of {} rows cannot be exchanged: its size is no affine number", rows),
                )
            })?;
            runs.push(self.add(&op::RESHAPE, Attrs::Shape([flat].into()), &[piece])?);
        }
        let packed = self.add(&op::CONCAT, Attrs::Axis(0), &runs)?;
        let mut to = self.out.ty(x);
        to.shape.0[0] = whole_a;
        to.shape.0[b_in_x] = self.len(whole_b, cut_b, axis, "a value")?;
        let count = flat_dim(&to.shape.count())
            .ok_or_else(|| Error::op("shard", "", "an exchanged size is no affine number"))?;
        // Rows of the whole along `a` are what each rank's result is made of.
        let mut c = self.how(axis, cut_a, whole_a, Type::new(to.dtype, [count]));
        let others = self.out.ty(x).shape;
        let rest = Expr::product(others.iter().enumerate().filter(|(i, _)| *i != 0 && *i != b_in_x).map(|(_, d)| d));
        let rest = flat_dim(&rest).ok_or_else(|| Error::op("shard", "", "an exchanged size is no affine number"))?;
        c.other = Some(OtherAxis { cut: cut_b, whole: whole_b, rest });
        let y = self.collective(&ALL_TO_ALL, axis, packed, c)?;
        let y = self.add(&op::RESHAPE, Attrs::Shape(to.shape), &[y])?;
        let y = self.back(y, a)?;
        Ok(self.changed(v, axis, y, (Split(b), cut_b)))
    }

    /// The length of a given rank's piece.
    fn piece_len(&mut self, axis: usize, cut: Cut, whole: Dim, rank: usize) -> Result<Dim> {
        match whole.known() {
            Some(n) => {
                let r = cut.range(n.max(0) as u64, self.axes[axis].1, rank);
                Ok((r.end - r.start).into())
            }
            None => self.fixed(axis, cut, whole, rank),
        }
    }
}

/// A product of dims as a dim, where at most one of them is a variable.
fn flat_dim(e: &Expr) -> Option<Dim> {
    e.as_dim()
}

impl Held {
    pub fn local(&self) -> Value {
        self.local
    }
}

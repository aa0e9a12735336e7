//! The op that a rank runs on its pieces: mostly the same op, with sizes and starts that are its own.

use super::{Held, Placed, Sharder};
use crate::base::{Cut, DType, Dim, Error, LocalKind, Placement, Result, Shape, Type};
use crate::op::{self, Attention, Attrs, Build, OpDef, PERMUTE, Value};
use Placement::{Partial, Split};

impl Sharder {
    /// Adds the local op of `def`, its operands where the chosen strategies need them.
    pub fn emit(
        &mut self,
        def: &'static OpDef,
        attrs: Attrs,
        args: &[Value],
        ty: Type,
        placed: Vec<Placed>,
    ) -> Result<Value> {
        let locals: Vec<Value> = args.iter().map(|a| self.get(*a).local()).collect();
        let local = if def.is(&op::ARGMAX) {
            self.argmax(attrs, args, &locals)?
        } else if def.is(&op::GATHER) {
            self.gather(attrs, args, &locals)?
        } else if def.is(&op::EXPERT_MATMUL) {
            self.expert_matmul(attrs, args, &locals)?
        } else if def.is(&op::MEAN) {
            self.mean(attrs, args, &locals, &placed)?
        } else if def.is(&op::ATTENTION) {
            self.attention(attrs, args, &locals)?
        } else if def.is(&op::APPEND) {
            self.append(attrs, args, &locals)?
        } else if def.is(&op::SLICE) {
            self.slice(attrs, args, &locals, &placed)?
        } else if def.is(&op::RESHAPE) || def.is(&op::BROADCAST) {
            let shape = self.local_type(&ty, &placed, def.name)?.shape;
            self.add(def, Attrs::Shape(shape), &locals)?
        } else {
            self.add(def, attrs, &locals)?
        };
        Ok(self.hold(Held { local, ty, placed }))
    }

    /// The mesh axes that split tensor axis `dim` of a value, with their cuts.
    fn splits(&self, v: Value, dim: usize) -> Option<(usize, Cut)> {
        let placed = &self.get(v).placed;
        (0..self.axes.len()).find(|i| self.axes[*i].1 > 1 && placed[*i].0 == Split(dim)).map(|i| (i, placed[i].1))
    }

    /// A whole number of the rank, as i32 `[1]`.
    fn number_tensor(&mut self, n: Dim, dtype: DType) -> Result<Value> {
        self.add(&op::IOTA, Attrs::Iota { shape: [1].into(), axis: 0, start: n, dtype }, &[])
    }

    /// First rows of a weight that is split by rows count from the piece's first row; others fall outside of it.
    fn expert_matmul(&mut self, attrs: Attrs, args: &[Value], locals: &[Value]) -> Result<Value> {
        let Some((axis, cut)) = self.splits(args[1], 0) else { return self.add(&op::EXPERT_MATMUL, attrs, locals) };
        let rows = self.get(args[1]).ty.shape[0];
        let start = self.start(rows, cut, axis);
        let start = self.number_tensor(start, DType::I32)?;
        let first = self.add(&op::CAST, Attrs::Cast(DType::I32), &[locals[2]])?;
        let first = self.add(&op::SUB, Attrs::None, &[first, start])?;
        self.add(&op::EXPERT_MATMUL, attrs, &[locals[0], locals[1], first])
    }

    /// Ids of a table that is split by rows count from the piece's first row; others fall outside of it and give zeros.
    fn gather(&mut self, attrs: Attrs, args: &[Value], locals: &[Value]) -> Result<Value> {
        let Some((axis, cut)) = self.splits(args[0], 0) else { return self.add(&op::GATHER, attrs, locals) };
        let rows = self.get(args[0]).ty.shape[0];
        let start = self.start(rows, cut, axis);
        let start = self.number_tensor(start, DType::I32)?;
        let ids = self.add(&op::CAST, Attrs::Cast(DType::I32), &[locals[1]])?;
        let ids = self.add(&op::SUB, Attrs::None, &[ids, start])?;
        self.add(&op::GATHER, attrs, &[locals[0], ids])
    }

    /// Parts of a mean: the sum of the piece over the count of the whole.
    fn mean(&mut self, attrs: Attrs, args: &[Value], locals: &[Value], placed: &[Placed]) -> Result<Value> {
        let split = placed
            .iter()
            .zip(&self.get(args[0]).placed)
            .any(|(out, x)| matches!(out.0, Partial(_)) && matches!(x.0, Split(_)));
        if !split {
            return self.add(&op::MEAN, attrs, locals);
        }
        let Attrs::Reduce { axes, .. } = &attrs else { return Err(Error::op("mean", "", "lacks its axes")) };
        let whole = self.get(args[0]).ty.shape.clone();
        let axes = axes.clone();
        let sum = self.add(&op::SUM, attrs, locals)?;
        let mut y = sum;
        for axis in axes {
            let n = match whole[axis].known() {
                Some(n) => self.out.constant(n as f32),
                None => self.number_tensor(whole[axis], DType::F32)?,
            };
            y = self.add(&op::DIV, Attrs::None, &[y, n])?;
        }
        let shape = self.out.ty(sum).shape;
        self.add(&op::RESHAPE, Attrs::Shape(shape), &[y])
    }

    /// Over a split axis: each rank's best and where it is, gathered; the first of the largest wins.
    fn argmax(&mut self, attrs: Attrs, args: &[Value], locals: &[Value]) -> Result<Value> {
        let Attrs::Reduce { axes, keep } = &attrs else { return Err(Error::op("argmax", "", "lacks its axis")) };
        let dim = axes[0];
        let Some((axis, cut)) = self.splits(args[0], dim) else { return self.add(&op::ARGMAX, attrs, locals) };
        let (ways, whole) = (self.axes[axis].1, self.get(args[0]).ty.shape[dim]);
        let reduce = Attrs::Reduce { axes: axes.clone(), keep: *keep };
        let best = self.add(&op::MAX, reduce.clone(), locals)?;
        let at = self.add(&op::ARGMAX, reduce, locals)?;
        let start = self.start(whole, cut, axis);
        let start = self.number_tensor(start, DType::U32)?;
        let at = self.add(&op::ADD, Attrs::None, &[at, start])?;
        let shape = self.out.ty(best).shape;
        self.why = "each rank's largest are compared".into();
        let all = |s: &mut Sharder, x: Value, dtype: DType| {
            let mut row = shape.0.clone();
            row.insert(0, Dim::new(1));
            let x = s.add(&op::RESHAPE, Attrs::Shape(Shape(row.clone())), &[x])?;
            row[0] = ways.into();
            let c = s.how(axis, Cut::ONES, ways.into(), Type::new(dtype, Shape(row)));
            s.collective(&op::ALL_GATHER, axis, x, c)
        };
        let (best, at) = (all(self, best, DType::F32)?, all(self, at, DType::U32)?);
        let winner = self.add(&op::ARGMAX, Attrs::Reduce { axes: vec![0], keep: true }, &[best])?;
        // The winner's entry of `at`: one after another, since tables are of floats.
        let row = |s: &mut Sharder, i: usize| {
            s.add(&op::SLICE, Attrs::Slice { axis: 0, start: i.into(), len: 1.into(), step: 1 }, &[at])
        };
        let mut y = row(self, 0)?;
        for i in 1..ways {
            let me = self.number_tensor(i.into(), DType::U32)?;
            let mine = self.add(&op::EQ, Attrs::None, &[winner, me])?;
            let own = row(self, i)?;
            y = self.add(&op::WHERE, Attrs::None, &[mine, own, y])?;
        }
        self.add(&op::RESHAPE, Attrs::Shape(shape), &[y])
    }

    /// Each rank appends the rows that are its own, behind those it has.
    fn append(&mut self, attrs: Attrs, args: &[Value], locals: &[Value]) -> Result<Value> {
        let Attrs::Append { at } = attrs else { return Err(Error::op("append", "", "lacks its attribute")) };
        let at = match self.splits(args[0], 0) {
            Some((axis, cut)) => self.number(axis, cut, at, LocalKind::Len { before: 0 }),
            None => at,
        };
        self.add(&op::APPEND, Attrs::Append { at }, locals)
    }

    fn slice(&mut self, attrs: Attrs, args: &[Value], locals: &[Value], placed: &[Placed]) -> Result<Value> {
        let Attrs::Slice { axis: dim, start, len, step } = attrs else {
            return Err(Error::op("slice", "", "lacks its attributes"));
        };
        let Some((axis, cut)) = self.splits(args[0], dim) else { return self.add(&op::SLICE, attrs, locals) };
        if placed[axis].0 == Split(dim) {
            let len = self.number(axis, cut, len, LocalKind::Len { before: 0 });
            return self.add(&op::SLICE, Attrs::Slice { axis: dim, start, len, step }, locals);
        }
        // One index, which one rank has: a row of a table, zeros elsewhere.
        let whole = self.get(args[0]).ty.shape[dim];
        let row = self.number(axis, cut, whole, LocalKind::Row { index: start });
        let id = self.number_tensor(row, DType::U32)?;
        let rank = self.out.ty(locals[0]).shape.rank();
        let front: Vec<usize> = std::iter::once(dim).chain((0..rank).filter(|i| *i != dim)).collect();
        let x = self.add(&op::TRANSPOSE, Attrs::Perm(front), &[locals[0]])?;
        let y = self.add(&op::GATHER, Attrs::None, &[x, id])?;
        let back: Vec<usize> = (1..=dim).chain(std::iter::once(0)).chain(dim + 1..rank).collect();
        self.add(&op::TRANSPOSE, Attrs::Perm(back), &[y])
    }

    fn attention(&mut self, attrs: Attrs, args: &[Value], locals: &[Value]) -> Result<Value> {
        let Attrs::Attention(how) = attrs else { return Err(Error::op("attention", "", "lacks its attributes")) };
        match (self.splits(args[0], 1), self.splits(args[1], 1)) {
            (Some((axis, _)), Some(_)) => self.ring(axis, how, args, locals),
            _ => self.add(&op::ATTENTION, Attrs::Attention(how), locals),
        }
    }

    /// Keys and values go round the ring while each rank attends with its own queries (ring attention: Liu et al.,
    /// 2023, over stripes: Brandon et al., 2023). With stripes query s of rank i sees key t of rank j where
    /// t ≤ past + s, less one where j > i.
    fn ring(&mut self, axis: usize, how: Attention, args: &[Value], locals: &[Value]) -> Result<Value> {
        self.why = "keys go round the ring of queries".into();
        let ways = self.axes[axis].1;
        let past = how
            .causal
            .ok_or_else(|| Error::op("attention", "", "is split by positions, which needs causal attention"))?;
        let keys = self.get(args[1]).ty.shape[1];
        let stripe = Cut::Stripe { from: 0.into() };
        let own = self.number(axis, stripe, past, LocalKind::Len { before: 0 });
        let (mut k, mut v) = (locals[1], locals[2]);
        let mut parts = vec![];
        for before in 0..ways {
            let mut causal = own;
            if before > 0 {
                let len = self.number(axis, stripe, keys, LocalKind::Len { before });
                k = self.shifted(axis, k, len, keys)?;
                v = self.shifted(axis, v, len, keys)?;
                causal = causal - self.number(axis, stripe, 0.into(), LocalKind::Around { before });
            }
            let part = Attention { causal: Some(causal), ..how };
            parts.push(self.add(&op::ATTENTION_PART, Attrs::Attention(part), &[locals[0], k, v])?);
        }
        self.merge(&parts)
    }

    /// The piece of the rank before, `len` rows of axis 1.
    fn shifted(&mut self, axis: usize, x: Value, len: Dim, whole: Dim) -> Result<Value> {
        let mut to = self.out.ty(x);
        to.shape.0[1] = len;
        // Rows must come first; the batch is 1 wherever positions are split.
        let flat = Type::new(to.dtype, Shape(to.shape[1..].to_vec()));
        let own = Shape(self.out.ty(x).shape[1..].to_vec());
        let x = self.add(&op::RESHAPE, Attrs::Shape(own), &[x])?;
        let mut c = self.how(axis, Cut::Stripe { from: 0.into() }, whole, flat);
        c.peer = 1;
        let y = self.collective(&PERMUTE, axis, x, c)?;
        self.add(&op::RESHAPE, Attrs::Shape(to.shape), &[y])
    }

    /// Parts `[…, width + 1]` with the logarithm of their weight behind them: Σ eˡᵢ·yᵢ / Σ eˡᵢ.
    fn merge(&mut self, parts: &[Value]) -> Result<Value> {
        let shape = self.out.ty(parts[0]).shape;
        let (last, width) = (shape.rank() - 1, shape[shape.rank() - 1] - Dim::new(1));
        let cut = |s: &mut Sharder, x: Value, start: Dim, len: Dim| {
            s.add(&op::SLICE, Attrs::Slice { axis: last, start, len, step: 1 }, &[x])
        };
        let mut logs = vec![];
        for p in parts {
            logs.push(cut(self, *p, width, 1.into())?);
        }
        let mut most = logs[0];
        for l in &logs[1..] {
            most = self.add(&op::MAXIMUM, Attrs::None, &[most, *l])?;
        }
        let (mut sum, mut all): (Option<Value>, Option<Value>) = (None, None);
        for (p, l) in parts.iter().zip(&logs) {
            let less = self.add(&op::SUB, Attrs::None, &[*l, most])?;
            let weight = self.add(&op::EXP, Attrs::None, &[less])?;
            let y = cut(self, *p, 0.into(), width)?;
            let y = self.add(&op::MUL, Attrs::None, &[y, weight])?;
            sum = Some(match sum {
                None => y,
                Some(s) => self.add(&op::ADD, Attrs::None, &[s, y])?,
            });
            all = Some(match all {
                None => weight,
                Some(a) => self.add(&op::ADD, Attrs::None, &[a, weight])?,
            });
        }
        let (Some(sum), Some(all)) = (sum, all) else { return Err(Error::op("attention", "", "has no parts")) };
        self.add(&op::DIV, Attrs::None, &[sum, all])
    }
}

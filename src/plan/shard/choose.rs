//! Which strategy an op takes along one mesh axis: the one that moves the fewest bytes.

use super::{Placed, Sharder};
use crate::base::{Cut, Placement, Result, Type};
use crate::op::{self, Attrs, OpDef, Strategy, Value};
use Placement::{Partial, Split, Whole};

/// What a collective costs beside its bytes, in bytes: of two ways that move as much, the one with fewer collectives.
const LATENCY: f64 = 16384.0;

/// Where operands must lie, and where the result does.
pub struct Choice {
    pub args: Vec<Placed>,
    pub out: Placed,
}

impl Sharder {
    /// A row op over an axis that is split is computed by its definition, whose reductions leave parts.
    pub fn splits_rows(&self, def: &OpDef, args: &[Value]) -> bool {
        let row_op = [&op::SOFTMAX, &op::LOG_SOFTMAX, &op::LAYER_NORM, &op::RMS_NORM].iter().any(|d| def.is(d));
        row_op
            && self.axes.iter().enumerate().any(|(axis, (_, ways))| {
                let x = self.get(args[0]);
                *ways > 1 && x.placed[axis].0 == Split(x.ty.shape.rank() - 1)
            })
    }

    pub fn choose(
        &mut self,
        def: &'static OpDef,
        attrs: &Attrs,
        (types, ty): (&[Type], &Type),
        args: &[Value],
        axis: usize,
    ) -> Result<Choice> {
        let whole = Choice { args: vec![(Whole, Cut::ONES); args.len()], out: (Whole, Cut::ONES) };
        if self.axes[axis].1 == 1 {
            return Ok(whole);
        }
        let wanted = self.wanted.iter().find(|w| w.0 == axis).map(|w| w.1);
        let mut best = (self.cost(args, &whole.args, axis).unwrap_or(f64::INFINITY), whole);
        for strategy in (def.shard)(attrs, types, ty) {
            let Some(choice) = self.complete(def, attrs, &strategy, (types, ty), args, axis, wanted) else { continue };
            // A state is written where it lies: of a copy nothing would be left.
            let moves_state =
                (def.is(&op::APPEND) || def.is(&op::ASSIGN)) && choice.args[0] != self.get(args[0]).placed[axis];
            if moves_state {
                continue;
            }
            let Some(cost) = self.cost(args, &choice.args, axis) else { continue };
            let cost = cost + self.debt(def, &choice, ty, axis);
            // Of equals, the one that shares the work.
            let shares = best.1.out.0 == Whole && !matches!(choice.out.0, Partial(_));
            if cost < best.0 || (cost == best.0 && shares) {
                best = (cost, choice);
            }
        }
        Ok(best.1)
    }

    /// The strategy with cuts; `None` where nothing asks for it, or the cuts do not fit.
    #[allow(clippy::too_many_arguments)]
    fn complete(
        &self,
        def: &OpDef,
        attrs: &Attrs,
        s: &Strategy,
        (types, ty): (&[Type], &Type),
        args: &[Value],
        axis: usize,
        wanted: Option<Placed>,
    ) -> Option<Choice> {
        let now = |i: usize| self.get(args[i]).placed[axis];
        // Something must lie this way already, or the result be wanted so: whole values are not cut for their own sake.
        let lead = (0..args.len()).find(|i| s.args[*i] != Whole && now(*i).0 == s.args[*i]);
        let cut = match (lead, wanted) {
            (Some(i), _) => Some((i, now(i).1)),
            (None, Some((p, c)))
                if p == s.out && matches!(p, Split(_)) && s.args.iter().any(|a| matches!(a, Split(_))) =>
            {
                self.cut_back(def, s, (types, ty), c)
            }
            _ => return None,
        };
        let (from, cut) = cut?;
        if taken(self, s, args, axis) {
            return None;
        }
        let mut placed = vec![];
        for (i, place) in s.args.iter().enumerate() {
            placed.push(match place {
                Split(_) => (*place, self.cut_for(def, attrs, s, (types, ty), from, cut, Some(i))?),
                _ => (*place, Cut::ONES),
            });
        }
        // Ranks that share a key head hold the same piece: their parts would count it twice.
        let shared =
            |p: &Placed| matches!(*p, (Split(_), Cut::Key { groups, .. }) if self.axes[axis].1 > groups as usize);
        if matches!(s.out, Partial(_)) && placed.iter().any(shared) {
            return None;
        }
        let out = match s.out {
            Split(_) => (s.out, self.cut_for(def, attrs, s, (types, ty), from, cut, None)?),
            _ => (s.out, Cut::ONES),
        };
        Some(Choice { args: placed, out })
    }

    /// From the result's cut to that of a split operand.
    fn cut_back(&self, def: &OpDef, s: &Strategy, (types, ty): (&[Type], &Type), cut: Cut) -> Option<(usize, Cut)> {
        let i = s.args.iter().position(|a| matches!(a, Split(_)))?;
        if def.is(&op::RESHAPE) {
            let (Split(a), Split(b)) = (s.args[i], s.out) else { return None };
            return rescaled(cut, ty.shape[b], types[i].shape[a]).map(|c| (i, c));
        }
        Some((i, cut))
    }

    /// The cut of operand `to` (of the result: `None`), given that of operand `from`.
    #[allow(clippy::too_many_arguments)]
    fn cut_for(
        &self,
        def: &OpDef,
        attrs: &Attrs,
        s: &Strategy,
        (types, ty): (&[Type], &Type),
        from: usize,
        cut: Cut,
        to: Option<usize>,
    ) -> Option<Cut> {
        if def.is(&op::RESHAPE) && to.is_none() {
            let (Split(a), Split(b)) = (s.args[0], s.out) else { return None };
            return rescaled(cut, types[0].shape[a], ty.shape[b]);
        }
        if def.is(&op::ATTENTION) && s.args[0] == Split(2) {
            return heads(types, from == 0 || from == 3, cut, matches!(to, None | Some(0 | 3)));
        }
        if def.is(&op::PAGED_ATTENTION) {
            let of_queries = |i: usize| i == 0 || i == 6;
            return heads(types, of_queries(from), cut, to.is_none_or(of_queries));
        }
        if def.is(&op::DELTA_RULE) {
            // Heads of values stand for those of queries, with all that is theirs.
            let of_values = |i: usize| i > 1;
            let types = [types[2].clone(), types[0].clone()];
            return heads(&types, of_values(from), cut, to.is_none_or(of_values));
        }
        if def.is(&op::ATTENTION) && s.args[0] == Split(1) {
            // Queries from `past` on, keys from the first: stripes of one sequence.
            let Attrs::Attention(how) = attrs else { return None };
            let past = how.causal?;
            let queries = Cut::Stripe { from: past };
            let keys = Cut::Stripe { from: 0.into() };
            let have = if from == 0 { queries } else { keys };
            return (cut == have && how.window.is_none()).then_some(if matches!(to, None | Some(0)) {
                queries
            } else {
                keys
            });
        }
        if let (Attrs::Append { at }, Split(0)) = (attrs, s.out) {
            let (state, rows) = (Cut::Stripe { from: 0.into() }, Cut::Stripe { from: *at });
            let have = if from == 0 { state } else { rows };
            return (cut == have).then_some(if to == Some(1) { rows } else { state });
        }
        if let Attrs::Slice { axis, .. } = attrs
            && s.args[0] == Split(*axis)
            && s.out == Split(*axis)
            && cut != (Cut::Stripe { from: 0.into() })
        {
            return None;
        }
        Some(cut)
    }

    /// What it costs later to have computed on parts: a product or a scatter does its whole work on every rank then, and
    /// its result, which may be far larger than the operand, is still to be reduced. What is elementwise passes parts on
    /// for nothing: they are reduced once, where they meet.
    fn debt(&self, def: &OpDef, choice: &Choice, ty: &Type, axis: usize) -> f64 {
        let parts = |p: &Placed| matches!(p.0, Partial(_));
        let heavy = def.is(&op::MATMUL) || def.is(&op::SCATTER_ADD);
        if heavy && choice.args.iter().any(parts) && parts(&choice.out) {
            reduction(ty, self.axes[axis].1)
        } else {
            0.0
        }
    }

    /// Bytes to bring every operand where it must be; `None` where that cannot be.
    fn cost(&self, args: &[Value], want: &[Placed], axis: usize) -> Option<f64> {
        let mut sum = 0.0;
        for (a, want) in args.iter().zip(want) {
            sum += self.conversion(*a, *want, axis)?;
        }
        Some(sum)
    }

    fn conversion(&self, v: Value, want: Placed, axis: usize) -> Option<f64> {
        let held = self.get(v);
        let n = self.axes[axis].1 as f64;
        let known = self.copies.contains_key(&(v, axis, want));
        let bytes = held.ty.shape.count().bound() as f64 * 4.0;
        Some(match (held.placed[axis], want) {
            _ if known => 0.0,
            ((Whole, _), (Whole, _)) | ((Whole, _), (Split(_), _)) => 0.0,
            ((Partial(a), _), (Partial(b), _)) if a == b => 0.0,
            ((Split(a), c), (Split(b), d)) if a == b && c == d => 0.0,
            ((Split(_), c), (Split(_), d)) if c.is_stripe() || d.is_stripe() => (n - 1.0) / n * bytes + LATENCY,
            ((Split(_), _), (Split(_), _)) => (n - 1.0) / n * bytes / n + LATENCY,
            ((Split(_), _), (Whole, _)) => (n - 1.0) / n * bytes + LATENCY,
            ((Partial(_), _), (Whole, _)) => reduction(&held.ty, self.axes[axis].1),
            // Parts are scattered only towards a stated split: see `convert`.
            ((Partial(_), _), (Split(_), _))
                if self.wanted.iter().any(|w| w.0 == axis && matches!(w.1.0, Split(_))) =>
            {
                (n - 1.0) / n * bytes + LATENCY
            }
            _ => return None,
        })
    }
}

/// Bytes that an all-reduce sends per rank.
fn reduction(ty: &Type, ways: usize) -> f64 {
    let n = ways as f64;
    2.0 * (n - 1.0) / n * ty.shape.count().bound() as f64 * 4.0 + LATENCY
}

/// Whether another mesh axis already cuts a tensor axis that this strategy would cut.
fn taken(s: &Sharder, strategy: &Strategy, args: &[Value], axis: usize) -> bool {
    args.iter().zip(&strategy.args).any(|(a, place)| {
        let other = |(i, p): (usize, &Placed)| i != axis && s.axes[i].1 > 1 && p.0 == *place;
        matches!(place, Split(_)) && s.get(*a).placed.iter().enumerate().any(other)
    })
}

/// Cuts of queries and of keys of grouped heads belong together.
fn heads(types: &[Type], from_queries: bool, cut: Cut, to_queries: bool) -> Option<Cut> {
    // [batch, sequence, heads, width], or [rows, heads, width] over pages.
    let axis = types[0].shape.rank().checked_sub(2)?;
    let each = (types[0].shape[axis].known()? / types[1].shape[axis].known()?.max(1)) as u32;
    match (cut, from_queries, to_queries) {
        (Cut::Query { groups, each, width }, true, false) => Some(Cut::Key { groups, each, width }),
        (Cut::Key { groups, each, width }, false, true) => Some(Cut::Query { groups, each, width }),
        (Cut::Even { unit }, true, false) if unit.is_multiple_of(each) => Some(Cut::Even { unit: unit / each }),
        (Cut::Even { unit }, false, true) => Some(Cut::Even { unit: unit * each }),
        (c, a, b) if a == b => Some(c),
        _ => None,
    }
}

/// The cut of an axis of `from` as one of `to`.
fn rescaled(cut: Cut, from: crate::base::Dim, to: crate::base::Dim) -> Option<Cut> {
    match op::shard::ratio(from, to)? {
        (n, true) => (n == 1 || !cut.is_stripe()).then(|| cut.merged(n)),
        (n, false) => cut.divided(n),
    }
}

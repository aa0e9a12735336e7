//! What one mesh axis may do to an op: for each way its operands may lie on the ranks, how the result lies.
//!
//! A strategy holds for the op as it stands, run by each rank on its own pieces, unless a comment says what the
//! sharding pass changes (`plan::shard`). All operands whole, result whole, is always possible and not listed.

use super::{Attrs, Type};
use crate::base::{Combine, Dim, Expr, Placement, Shape};
use Placement::{Partial, Split, Whole};

/// Operands and result along one mesh axis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strategy {
    pub args: Vec<Placement>,
    pub out: Placement,
}

fn strategy(args: Vec<Placement>, out: Placement) -> Strategy {
    Strategy { args, out }
}

const SUM: Placement = Partial(Combine::Sum);

/// Only whole.
pub fn none(_: &Attrs, _: &[Type], _: &Type) -> Vec<Strategy> {
    vec![]
}

/// Elementwise: any axis of the result; operands that broadcast along it stay whole.
pub fn pointwise(_: &Attrs, types: &[Type], out: &Type) -> Vec<Strategy> {
    let rank = out.shape.rank();
    let split = |axis: usize| {
        let one = |t: &Type| match (axis + t.shape.rank()).checked_sub(rank) {
            Some(own) if !t.shape[own].is(1) || out.shape[axis].is(1) => Split(own),
            _ => Whole,
        };
        strategy(types.iter().map(one).collect(), Split(axis))
    };
    (0..rank).filter(|a| !out.shape[*a].is(1)).map(split).collect()
}

/// Elementwise and linear in all operands together: sums of parts are parts of the sum.
pub fn linear(attrs: &Attrs, types: &[Type], out: &Type) -> Vec<Strategy> {
    let mut all = pointwise(attrs, types, out);
    all.push(strategy(vec![SUM; types.len()], SUM));
    all
}

/// Elementwise and linear in each operand by itself.
pub fn product(attrs: &Attrs, types: &[Type], out: &Type) -> Vec<Strategy> {
    let mut all = pointwise(attrs, types, out);
    all.extend([strategy(vec![SUM, Whole], SUM), strategy(vec![Whole, SUM], SUM)]);
    all
}

/// Elementwise and linear in the first operand.
pub fn quotient(attrs: &Attrs, types: &[Type], out: &Type) -> Vec<Strategy> {
    let mut all = pointwise(attrs, types, out);
    all.push(strategy(vec![SUM, Whole], SUM));
    all
}

/// Over the last axis: all axes but that; further operands belong to it and stay whole.
pub fn rows(_: &Attrs, types: &[Type], out: &Type) -> Vec<Strategy> {
    let one = |axis| {
        let mut args = vec![Whole; types.len()];
        args[0] = Split(axis);
        strategy(args, Split(axis))
    };
    (0..out.shape.rank().saturating_sub(1)).filter(|a| !out.shape[*a].is(1)).map(one).collect()
}

/// Batch axes, rows of a, columns of b, and the inner axis, which leaves parts of a sum.
pub fn matmul(attrs: &Attrs, types: &[Type], out: &Type) -> Vec<Strategy> {
    let Attrs::Matmul { ta, tb } = *attrs else { return vec![] };
    let (a, b) = (types[0].shape.rank(), types[1].shape.rank());
    let last = |r: usize, t: bool| if t { (r - 1, r - 2) } else { (r - 2, r - 1) };
    let ((am, ak), (bk, bn)) = (last(a, ta), last(b, tb));
    let rank = out.shape.rank();
    let mut all = vec![
        strategy(vec![Whole, Split(bn)], Split(rank - 1)),
        strategy(vec![Split(am), Whole], Split(rank - 2)),
        strategy(vec![Split(ak), Split(bk)], SUM),
        strategy(vec![SUM, Whole], SUM),
        strategy(vec![Whole, SUM], SUM),
    ];
    for axis in (0..rank - 2).filter(|x| !out.shape[*x].is(1)) {
        let own = |s: &Shape| match (axis + s.rank()).checked_sub(rank) {
            Some(i) if !s[i].is(1) => Split(i),
            _ => Whole,
        };
        all.push(strategy(vec![own(&types[0].shape), own(&types[1].shape)], Split(axis)));
    }
    all
}

/// Kept axes, and for sum, max and min the reduced ones, which leave parts; a mean's parts are divided by the whole
/// count, an argmax's are compared (`plan::shard`).
pub fn reduce(attrs: &Attrs, types: &[Type], _: &Type, combine: Option<Combine>) -> Vec<Strategy> {
    let Attrs::Reduce { axes, keep } = attrs else { return vec![] };
    let rank = types[0].shape.rank();
    let result_axis = |axis: usize| if *keep { axis } else { axis - axes.iter().filter(|a| **a < axis).count() };
    let mut all = vec![];
    for axis in (0..rank).filter(|a| !types[0].shape[*a].is(1)) {
        match (axes.contains(&axis), combine) {
            (false, _) => all.push(strategy(vec![Split(axis)], Split(result_axis(axis)))),
            (true, Some(c)) => all.push(strategy(vec![Split(axis)], Partial(c))),
            (true, None) => all.push(strategy(vec![Split(axis)], Whole)),
        }
    }
    if let Some(c) = combine {
        all.push(strategy(vec![Partial(c)], Partial(c)));
    }
    all
}

/// Ids split as they are; a table split by rows gives parts (an id outside of a piece gives zeros, ids are moved by
/// the piece's start); a table split by columns gives columns.
pub fn gather(_: &Attrs, types: &[Type], _: &Type) -> Vec<Strategy> {
    let ids = types[1].shape.rank();
    // Parts are sums of floats.
    let mut all = if types[0].dtype.is_float() { vec![strategy(vec![Split(0), Whole], SUM)] } else { vec![] };
    all.extend((0..ids).map(|a| strategy(vec![Whole, Split(a)], Split(a))));
    all.extend((1..types[0].shape.rank()).map(|a| strategy(vec![Split(a), Whole], Split(ids + a - 1))));
    all
}

/// Tokens with their choices; a weight split by rows gives parts (first rows are moved by the piece's start); the inner axis.
pub fn expert_matmul(_: &Attrs, types: &[Type], _: &Type) -> Vec<Strategy> {
    let mut all = vec![
        strategy(vec![Whole, Split(0), Whole], SUM),
        strategy(vec![Split(2), Split(1), Whole], SUM),
        strategy(vec![Split(0), Whole, Split(0)], Split(0)),
    ];
    if !types[0].shape[1].is(1) {
        all.push(strategy(vec![Split(1), Whole, Split(1)], Split(1)));
    }
    all
}

/// Rows and ids split alike leave parts; columns split as they are; parts of rows are parts of the sums.
pub fn scatter_add(_: &Attrs, types: &[Type], _: &Type) -> Vec<Strategy> {
    let ids = types[1].shape.rank();
    let mut all = vec![strategy(vec![SUM, Whole], SUM)];
    all.extend((0..ids).filter(|a| !types[1].shape[*a].is(1)).map(|a| strategy(vec![Split(a), Split(a)], SUM)));
    all.extend((ids..types[0].shape.rank()).map(|a| strategy(vec![Split(a), Whole], Split(a - ids + 1))));
    all
}

/// Any axis, state and value alike: the state stays where it is (`plan::shard`).
pub fn assign(_: &Attrs, types: &[Type], out: &Type) -> Vec<Strategy> {
    all_but(types, out, usize::MAX)
}

/// All operands along one axis, but the given one.
pub fn all_but(types: &[Type], out: &Type, but: usize) -> Vec<Strategy> {
    let same = |axis| strategy(vec![Split(axis); types.len()], Split(axis));
    (0..out.shape.rank()).filter(|a| *a != but && !out.shape[*a].is(1)).map(same).collect()
}

pub fn concat(attrs: &Attrs, types: &[Type], out: &Type) -> Vec<Strategy> {
    let Attrs::Axis(axis) = *attrs else { return vec![] };
    let mut all = all_but(types, out, axis);
    all.push(strategy(vec![SUM; types.len()], SUM));
    all
}

pub fn pad(attrs: &Attrs, types: &[Type], out: &Type) -> Vec<Strategy> {
    let Attrs::Pad { axis, .. } = *attrs else { return vec![] };
    all_but(types, out, axis)
}

/// Columns of the state; or its rows in stripes, where each rank appends what is its own (`plan::shard`). Rows that go where ids
/// say go there on every rank.
pub fn append(_: &Attrs, types: &[Type], out: &Type) -> Vec<Strategy> {
    if types.len() == 3 {
        let columns = |axis| strategy(vec![Split(axis), Split(axis), Whole], Split(axis));
        return (1..out.shape.rank()).filter(|a| !out.shape[*a].is(1)).map(columns).collect();
    }
    let mut all = all_but(types, out, 0);
    all.push(strategy(vec![Split(0), Split(0)], Split(0)));
    all
}

/// Batch and heads; queries in stripes over keys in stripes are computed around a ring (`plan::shard`).
pub fn attention(attrs: &Attrs, types: &[Type], _: &Type) -> Vec<Strategy> {
    if matches!(attrs, Attrs::Attention(a) if a.sinks) {
        // Sinks are [h].
        let by = |axis: usize, sinks| strategy(vec![Split(axis), Split(axis), Split(axis), sinks], Split(axis));
        return vec![by(0, Whole), by(2, Split(0))];
    }
    let mask = |axis: usize| {
        types.get(3).map(|m| match (axis + m.shape.rank()).checked_sub(4) {
            Some(own) if !m.shape[own].is(1) => Split(own),
            _ => Whole,
        })
    };
    let mut all = vec![];
    // The mask is [b, h, s, t].
    for (axis, mask_axis) in [(0, 0), (2, 1)] {
        let mut args = vec![Split(axis); 3];
        args.extend(mask(mask_axis));
        all.push(strategy(args, Split(axis)));
    }
    if types.len() == 3 {
        all.push(strategy(vec![Split(1); 3], Split(1)));
    }
    all
}

/// Heads: of queries, of the pools of keys and values, and of sinks.
pub fn paged_attention(_: &Attrs, types: &[Type], _: &Type) -> Vec<Strategy> {
    let mut args = vec![Split(1), Split(1), Split(1), Whole, Whole, Whole];
    args.extend(types.get(6).map(|_| Split(0)));
    vec![strategy(args, Split(1))]
}

/// Heads: of keys, of values with their gates and states.
pub fn delta_rule(_: &Attrs, _: &[Type], _: &Type) -> Vec<Strategy> {
    vec![strategy(vec![Split(1), Split(1), Split(1), Split(1), Split(2), Whole, Whole], Split(1))]
}

pub fn transpose(attrs: &Attrs, _: &[Type], _: &Type) -> Vec<Strategy> {
    let Attrs::Perm(perm) = attrs else { return vec![] };
    let mut all: Vec<Strategy> =
        perm.iter().enumerate().map(|(to, from)| strategy(vec![Split(*from)], Split(to))).collect();
    all.push(strategy(vec![SUM], SUM));
    all
}

pub fn broadcast(_: &Attrs, types: &[Type], out: &Type) -> Vec<Strategy> {
    let mut all = pointwise(&Attrs::None, types, out);
    all.retain(|s| s.args[0] != Whole);
    all.push(strategy(vec![SUM], SUM));
    all
}

/// All axes but the sliced one; from a split one, a single index (every other rank gives zeros), or the first
/// indices of stripes (`plan::shard`).
pub fn slice(attrs: &Attrs, types: &[Type], out: &Type) -> Vec<Strategy> {
    let Attrs::Slice { axis, len, start, step } = attrs else { return vec![] };
    let mut all = all_but(types, out, *axis);
    all.push(strategy(vec![SUM], SUM));
    if start.is(0) && *step == 1 {
        all.push(strategy(vec![Split(*axis)], Split(*axis)));
    }
    if len.is(1) {
        all.push(strategy(vec![Split(*axis)], SUM));
    }
    all
}

/// An axis that begins where one of the result begins: `[seq, heads · width]` split by heads is `[seq, heads, width]`
/// split by heads.
pub fn reshape(_: &Attrs, types: &[Type], out: &Type) -> Vec<Strategy> {
    let mut all: Vec<Strategy> =
        matches(&types[0].shape, &out.shape).into_iter().map(|(a, b)| strategy(vec![Split(a)], Split(b))).collect();
    all.push(strategy(vec![SUM], SUM));
    all
}

/// Pairs of axes with the same product of dims before them.
fn matches(from: &Shape, to: &Shape) -> Vec<(usize, usize)> {
    let before = |s: &Shape, axis: usize| Expr::product(&s[..axis]);
    let mut all = vec![];
    for a in (0..from.rank()).filter(|a| !from[*a].is(1)) {
        let same = (0..to.rank()).find(|b| !to[*b].is(1) && before(to, *b) == before(from, a));
        all.extend(same.map(|b| (a, b)));
    }
    all
}

/// How a cut axis of `from` elements becomes one of `to`: each index of the smaller stands for this many of the larger.
pub fn ratio(from: Dim, to: Dim) -> Option<(u32, bool)> {
    if from == to {
        return Some((1, true));
    }
    let (a, b) = (from.known()?, to.known()?);
    match (a % b.max(1), b % a.max(1)) {
        (0, _) if b > 0 => u32::try_from(a / b).ok().map(|n| (n, false)),
        (_, 0) if a > 0 => u32::try_from(b / a).ok().map(|n| (n, true)),
        _ => None,
    }
}

/// All axes behind the first, of the first operand and the last; the one between them is whole.
pub fn columns(types: &[Type]) -> Vec<Strategy> {
    let axes = (1..types[0].shape.rank()).filter(|a| !types[0].shape[*a].is(1));
    axes.map(|a| strategy(vec![Split(a), Whole, Split(a)], Split(a))).collect()
}

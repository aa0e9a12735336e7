//! Views: the same elements under other indices.

use super::case::{f32s, of};
use super::*;
use crate::base::{DType, Dim, Shape};

ops! {
    RESHAPE = OpDef {
        name: "reshape",
        doc: "The same elements in row-major order under another shape of equal count.",
        rule: reshape_rule,
        shard: shard::reshape,
        cost: rule::free,
        body: Body::View,
        grad: Grad::Rule(grad::reshape),
        within: Within::EXACT,
        cases: || vec![
            view(f32s([3, 4]), Attrs::Shape([12].into())),
            view(f32s([2, 3, 17]), Attrs::Shape([17, 6].into())),
            view(f32s([1]), Attrs::Shape(Shape::default())),
            view(f32s([0, 3]), Attrs::Shape([3, 0].into())),
            view(of(DType::F16, [5, 4]), Attrs::Shape([2, 10].into())),
        ],
        errors: || vec![ErrorCase::new(vec![f32s([3, 4])], Attrs::Shape([5, 2].into()), "[3, 4] has 12 elements, [5, 2] has 10")],
    };
    TRANSPOSE = OpDef {
        name: "transpose",
        doc: "Axes in another order: axis i of the result is axis perm[i] of x.",
        rule: transpose_rule,
        shard: shard::transpose,
        cost: rule::free,
        body: Body::View,
        grad: Grad::Rule(grad::transpose),
        within: Within::EXACT,
        cases: || vec![
            view(f32s([3, 17]), Attrs::Perm(vec![1, 0])),
            view(f32s([2, 3, 5]), Attrs::Perm(vec![2, 0, 1])),
            view(f32s([129, 1]), Attrs::Perm(vec![1, 0])),
            view(f32s([0, 2]), Attrs::Perm(vec![1, 0])),
            view(of(DType::F16, [3, 4]), Attrs::Perm(vec![1, 0])),
            view(of(DType::I32, [3, 3]), Attrs::Perm(vec![1, 0])),
        ],
        errors: || vec![
            ErrorCase::new(vec![f32s([3, 4])], Attrs::Perm(vec![0, 0]), "[0, 0] is not an order of the axes of [3, 4]"),
            ErrorCase::new(vec![f32s([3, 4])], Attrs::Perm(vec![0]), "[0] is not an order of the axes of [3, 4]"),
        ],
    };
    BROADCAST = OpDef {
        name: "broadcast",
        doc: "x repeated along axes of length 1 and along new leading axes, as numpy does.",
        rule: broadcast_rule,
        shard: shard::broadcast,
        cost: rule::free,
        body: Body::View,
        grad: Grad::Rule(grad::broadcast),
        within: Within::EXACT,
        cases: || vec![
            view(f32s([17]), Attrs::Shape([3, 17].into())),
            view(f32s([3, 1, 5]), Attrs::Shape([2, 3, 4, 5].into())),
            view(f32s([]), Attrs::Shape([129].into())),
            view(f32s([1]), Attrs::Shape([0].into())),
        ],
        errors: || vec![ErrorCase::new(vec![f32s([3])], Attrs::Shape([4].into()), "[3] does not broadcast to [4]")],
    };
    SLICE = OpDef {
        name: "slice",
        doc: "`len` indices of one axis from `start`, `step` apart; `start` and `len` may hold variables.",
        rule: slice_rule,
        shard: shard::slice,
        cost: rule::free,
        body: Body::View,
        grad: Grad::Rule(grad::slice),
        within: Within::EXACT,
        cases: || vec![
            view(f32s([17]), slice(0, 3, 9)),
            view(f32s([3, 129]), slice(1, 128, 1)),
            view(f32s([4, 3, 5]), slice(1, 1, 2)),
            view(f32s([4, 3]), slice(0, 4, 0)),
            view(of(DType::F16, [3, 8]), slice(1, 1, 5)),
            view(f32s([17, 3]), Attrs::Slice { axis: 0, start: 2.into(), len: 4.into(), step: 4 }),
        ],
        errors: || vec![
            ErrorCase::new(vec![f32s([5])], Attrs::Slice { axis: 0, start: 1.into(), len: 3.into(), step: 2 }, "3 from 1 by 2 reaches past axis 0 of [5]"),
            ErrorCase::new(vec![f32s([5])], slice(0, 3, 3), "3 from 3 reaches past axis 0 of [5]"),
            ErrorCase::new(vec![f32s([5])], slice(1, 0, 1), "axis 1 is outside of [5], rank 1"),
            ErrorCase::new(vec![f32s([5])], slice(0, -1, 2), "start -1 is negative"),
        ],
    };
}

fn slice(axis: usize, start: i64, len: i64) -> Attrs {
    Attrs::Slice { axis, start: start.into(), len: len.into(), step: 1 }
}
fn view(ty: Type, attrs: Attrs) -> Case {
    Case::new(vec![(ty, Fill::Normal)], attrs)
}

fn one<'a>(op: &str, types: &'a [Type]) -> Result<&'a Type> {
    rule::arity(op, types, 1)?;
    if types[0].dtype.is_quantised() {
        return rule::err(op, format!("operand is {}, quantised blocks cannot be taken apart", types[0].dtype));
    }
    Ok(&types[0])
}

fn reshape_rule(attrs: &Attrs, types: &[Type]) -> Result<Type> {
    let x = one("reshape", types)?;
    let Attrs::Shape(to) = attrs else { return rule::wrong_attrs("reshape", attrs) };
    let (have, want) = (x.shape.count(), to.count());
    if have != want {
        return rule::err("reshape", format!("{} has {have} elements, {to} has {want}", x.shape));
    }
    Ok(Type::new(x.dtype, to.clone()))
}

fn transpose_rule(attrs: &Attrs, types: &[Type]) -> Result<Type> {
    let x = one("transpose", types)?;
    let Attrs::Perm(perm) = attrs else { return rule::wrong_attrs("transpose", attrs) };
    let mut sorted = perm.clone();
    sorted.sort_unstable();
    if sorted != (0..x.shape.rank()).collect::<Vec<_>>() {
        return rule::err("transpose", format!("{perm:?} is not an order of the axes of {}", x.shape));
    }
    Ok(Type::new(x.dtype, perm.iter().map(|&p| x.shape[p]).collect::<Vec<_>>()))
}

fn broadcast_rule(attrs: &Attrs, types: &[Type]) -> Result<Type> {
    let x = one("broadcast", types)?;
    let Attrs::Shape(to) = attrs else { return rule::wrong_attrs("broadcast", attrs) };
    let reaches = x.shape.rank() <= to.rank()
        && x.shape.iter().rev().zip(to.iter().rev()).all(|(from, to)| from == to || from.is(1));
    if !reaches {
        return rule::err("broadcast", format!("{} does not broadcast to {to}", x.shape));
    }
    Ok(Type::new(x.dtype, to.clone()))
}

fn slice_rule(attrs: &Attrs, types: &[Type]) -> Result<Type> {
    let x = one("slice", types)?;
    let Attrs::Slice { axis, start, len, step } = attrs else { return rule::wrong_attrs("slice", attrs) };
    rule::axis("slice", *axis, &x.shape)?;
    if start.known().is_some_and(|n| n < 0) {
        return rule::err("slice", format!("start {start} is negative"));
    }
    if *step == 0 {
        return rule::err("slice", "a step of 0 goes nowhere");
    }
    // The last index and one more. A rank's own numbers are within the axis, but not each at its bound.
    let end = if len.is(0) { *start } else { *start + (*len - Dim::new(1)) * *step as i64 + Dim::new(1) };
    let trusted = start.terms().chain(len.terms()).any(|(v, _)| v.is_local());
    if (!trusted && end.bound() > x.shape[*axis].bound()) || len.known().is_some_and(|n| n < 0) {
        let by = if *step == 1 { String::new() } else { format!(" by {step}") };
        return rule::err("slice", format!("{len} from {start}{by} reaches past axis {axis} of {}", x.shape));
    }
    let mut shape = x.shape.clone();
    shape.0[*axis] = *len;
    Ok(Type::new(x.dtype, shape))
}

//! Reductions over any axes.

use super::case::{f32s, of};
use super::*;
use crate::base::{Combine, DType, Dim};

macro_rules! reduce {
    ($name:literal, $doc:literal, $kind:expr, $combine:expr, $grad:expr, $within:expr) => {
        OpDef {
            name: $name,
            doc: $doc,
            rule: |a, t| reduce_rule($name, a, t),
            shard: |a, t, o| shard::reduce(a, t, o, $combine),
            cost: rule::one_per_operand_element,
            body: Body::Primitive(Primitive::Reduce($kind)),
            grad: $grad,
            within: $within,
            cases: || cases($kind == Reduce::Argmax),
            errors,
        }
    };
}

ops! {
    SUM = reduce!("sum", "Σ x over the given axes; 0 over none. A NaN among them makes it NaN.", Reduce::Sum, Some(Combine::Sum), Grad::Rule(grad::sum), Within { abs: 1e-4, rel: 1e-5 });
    MEAN = reduce!("mean", "Σ x / count over the given axes. A NaN among them makes it NaN.", Reduce::Mean, Some(Combine::Sum), Grad::Rule(grad::mean), Within { abs: 1e-5, rel: 1e-5 });
    MAX = reduce!("max", "The largest x over the given axes, −∞ over none. A NaN among them makes it NaN.", Reduce::Max, Some(Combine::Max), Grad::Rule(grad::extreme), Within::EXACT);
    MIN = reduce!("min", "The smallest x over the given axes, ∞ over none. A NaN among them makes it NaN.", Reduce::Min, Some(Combine::Min), Grad::Rule(grad::extreme), Within::EXACT);
    ARGMAX = reduce!("argmax", "The index (u32) of the largest x over one axis, the first of equals; of the first NaN where there is one; 0 over none.", Reduce::Argmax, None, Grad::None("an index has no slope"), Within::EXACT);
}

fn reduce_rule(op: &str, attrs: &Attrs, types: &[Type]) -> Result<Type> {
    rule::arity(op, types, 1)?;
    let Attrs::Reduce { axes, keep } = attrs else { return rule::wrong_attrs(op, attrs) };
    let x = &types[0];
    rule::real(op, "operand", x)?;
    if axes.is_empty() {
        return rule::err(op, "no axis is given");
    }
    for (i, &axis) in axes.iter().enumerate() {
        rule::axis(op, axis, &x.shape)?;
        if axes[..i].contains(&axis) {
            return rule::err(op, format!("axis {axis} is given twice"));
        }
        if op != "sum" && x.shape[axis].is(0) {
            return rule::err(op, format!("axis {axis} of {} is empty", x.shape));
        }
    }
    if op == "argmax" && axes.len() != 1 {
        return rule::err(op, format!("takes one axis, got {}", axes.len()));
    }
    let kept = |i: usize, d: &Dim| match (axes.contains(&i), keep) {
        (false, _) => Some(*d),
        (true, true) => Some(Dim::new(1)),
        (true, false) => None,
    };
    let dims = x.shape.iter().enumerate().filter_map(|(i, d)| kept(i, d)).collect::<Vec<_>>();
    Ok(Type::new(if op == "argmax" { DType::U32 } else { DType::F32 }, dims))
}

fn cases(one_axis: bool) -> Vec<Case> {
    let fill = if one_axis { Fill::Ties } else { Fill::Normal };
    let case =
        |ty: Type, axes: &[usize], keep| Case::new(vec![(ty, fill)], Attrs::Reduce { axes: axes.to_vec(), keep });
    let mut cases = vec![
        case(f32s([17]), &[0], false),
        case(f32s([3, 129]), &[1], true),
        case(f32s([129, 3]), &[0], false),
        case(f32s([2, 17, 5]), &[1], false),
        case(f32s([1, 1]), &[1], false),
        case(f32s([0, 3]), &[1], false),
        case(f32s([1, 5000]), &[1], false),
        case(of(DType::F16, [3, 18]), &[1], true),
    ];
    if !one_axis {
        cases.push(case(f32s([2, 17, 5]), &[0, 2], false));
        cases.push(case(f32s([2, 3, 4]), &[0, 1, 2], true));
        cases.push(case(f32s([4, 3, 2, 5]), &[3, 1], false));
    }
    cases
}

fn errors() -> Vec<ErrorCase> {
    let reduce = |axes: &[usize]| Attrs::Reduce { axes: axes.to_vec(), keep: false };
    vec![
        ErrorCase::new(vec![f32s([2, 3])], reduce(&[2]), "axis 2 is outside of [2, 3], rank 2"),
        ErrorCase::new(vec![f32s([2, 3])], reduce(&[0, 0]), "axis 0 is given twice"),
        ErrorCase::new(vec![f32s([2, 3])], reduce(&[]), "no axis is given"),
        ErrorCase::new(vec![of(DType::Bool, [2])], reduce(&[0]), "operand is bool, it must be f32 or f16"),
    ]
}

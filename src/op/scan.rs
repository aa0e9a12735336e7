//! Ops that go along one axis: running sums and products, products, reductions of integers, the largest few.

use super::build::{Build, Value};
use super::case::{f32s, of};
use super::*;
use crate::base::{DType, Dim, Error, Shape};

macro_rules! running {
    ($name:literal, $doc:literal, $define:expr, $within:expr) => {
        OpDef {
            name: $name,
            doc: $doc,
            rule: |a, t| running_rule($name, a, t),
            shard: |a, t, o| shard::all_but(t, o, axis_of(a).unwrap_or(0)),
            cost: |a, t, o| rule::one_per_element(a, t, o),
            body: Body::Composite { define: $define, fused: Fused::Parts },
            grad: Grad::Definition,
            within: $within,
            cases: running_cases,
            errors: || {
                vec![
                    ErrorCase::new(vec![f32s([3])], Attrs::Axis(1), "axis 1 is outside of [3], rank 1"),
                    ErrorCase::new(vec![of(DType::Bool, [3])], Attrs::Axis(0), "operand is bool, it must be a number"),
                ]
            },
        }
    };
}
macro_rules! folded {
    ($name:literal, $doc:literal, $define:expr, $floats:literal) => {
        OpDef {
            name: $name,
            doc: $doc,
            rule: |a, t| folded_rule($name, a, t, $floats),
            shard: kept_axes,
            cost: rule::one_per_operand_element,
            body: Body::Composite { define: $define, fused: Fused::Parts },
            grad: if $floats { Grad::Definition } else { Grad::None("whole numbers have no slope") },
            within: Within { abs: 1e-6, rel: 1e-5 },
            cases: || folded_cases($floats),
            errors: || {
                let reduce = |axes: &[usize]| Attrs::Reduce { axes: axes.to_vec(), keep: false };
                vec![
                    ErrorCase::new(vec![of(DType::I32, [2, 3])], reduce(&[2]), "axis 2 is outside of [2, 3], rank 2"),
                    ErrorCase::new(vec![of(DType::I32, [2, 3])], reduce(&[1, 1]), "axis 1 is given twice"),
                ]
            },
        }
    };
}

ops! {
    CUMSUM = running!("cumsum", "y[i] = Σ x[j] over j ≤ i, along the given axis. Integers wrap. Written as log₂ n sums of shifted copies (Hillis and Steele, 1986).",
        |b, a, x| running(b, "cumsum", a, x[0], &ADD, 0.0), Within { abs: 1e-5, rel: 1e-5 });
    CUMPROD = running!("cumprod", "y[i] = Π x[j] over j ≤ i, along the given axis. Integers wrap. Written as log₂ n products of shifted copies.",
        |b, a, x| running(b, "cumprod", a, x[0], &MUL, 1.0), Within { abs: 1e-6, rel: 1e-4 });
    PROD = folded!("prod", "Π x over the given axes, whose lengths must be known; 1 over none. Floats or integers, which wrap.", |b, a, x| folded(b, a, x[0], &MUL, 1.0), true);
    INT_SUM = folded!("int_sum", "Σ x of integers over the given axes, whose lengths must be known; 0 over none. It wraps.", |b, a, x| folded(b, a, x[0], &ADD, 0.0), false);
    INT_MAX = folded!("int_max", "The largest x of integers over the given axes, whose lengths must be known and not 0.", |b, a, x| folded(b, a, x[0], &MAXIMUM, 0.0), false);
    INT_MIN = folded!("int_min", "The smallest x of integers over the given axes, whose lengths must be known and not 0.", |b, a, x| folded(b, a, x[0], &MINIMUM, 0.0), false);
    TOP_INDICES = OpDef {
        name: "top_indices",
        doc: "Where the `rows` largest x along the last axis are (u32), largest first, of equals the first; NaN is larger than all. Written as a walk: the largest of \
              what is left, again and again.",
        rule: top_rule,
        shard: |_, t, o| shard::all_but(t, o, t[0].shape.rank().saturating_sub(1)),
        cost: |a, t, o| rule::one_per_operand_element(a, t, o) * 4,
        body: Body::Composite { define: top_indices, fused: Fused::Parts },
        grad: Grad::None("an index has no slope"),
        within: Within::EXACT,
        cases: || {
            let case = |ty: Type, fill, k: i64| Case::new(vec![(ty, fill)], Attrs::Rows(k.into()));
            vec![
                case(f32s([17]), Fill::Normal, 3),
                case(f32s([3, 129]), Fill::Ties, 5),
                case(f32s([2, 3, 4]), Fill::Normal, 4),
                case(f32s([5, 1]), Fill::Wide, 1),
                case(f32s([0, 3]), Fill::Normal, 2),
                case(of(DType::F16, [3, 18]), Fill::Normal, 2),
            ]
        },
        errors: || vec![
            ErrorCase::new(vec![f32s([3, 4])], Attrs::Rows(5.into()), "5 are asked for of 4 along the last axis of [3, 4]"),
            ErrorCase::new(vec![of(DType::I32, [3])], Attrs::Rows(1.into()), "operand is i32, it must be f32 or f16"),
            ErrorCase::new(vec![f32s([])], Attrs::Rows(1.into()), "operand is a scalar, it must have an axis"),
        ],
    };
}

/// Most that a walk of `top_indices` takes: each is four kernels.
const MOST: i64 = 1024;

fn axis_of(attrs: &Attrs) -> Option<usize> {
    match attrs {
        Attrs::Axis(axis) => Some(*axis),
        _ => None,
    }
}

fn running_rule(op: &str, attrs: &Attrs, types: &[Type]) -> Result<Type> {
    rule::arity(op, types, 1)?;
    let Attrs::Axis(axis) = *attrs else { return rule::wrong_attrs(op, attrs) };
    let x = &types[0];
    rule::axis(op, axis, &x.shape)?;
    match x.dtype {
        int if int.is_int() => Ok(x.clone()),
        float if float.is_real() => Ok(rule::float_result(x.shape.clone())),
        other => rule::err(op, format!("operand is {other}, it must be a number")),
    }
}

/// A scalar of a type.
fn literal(b: &mut dyn Build, x: f32, dtype: DType) -> Result<Value> {
    let c = b.constant(x);
    if dtype == DType::F32 { Ok(c) } else { b.apply(&CAST, Attrs::Cast(dtype), &[c]) }
}

/// Floats in f32: narrow ones would be summed as they are stored.
fn wide(b: &mut dyn Build, x: Value) -> Result<Value> {
    if b.ty(x).dtype.is_narrow() { b.apply(&CAST, Attrs::Cast(DType::F32), &[x]) } else { Ok(x) }
}

/// After `k` rounds each element holds its own and the 2ᵏ − 1 before it.
fn running(b: &mut dyn Build, op: &str, attrs: &Attrs, x: Value, with: &'static OpDef, none: f32) -> Result<Value> {
    let Some(axis) = axis_of(attrs) else { return rule::wrong_attrs(op, attrs) };
    let mut y = wide(b, x)?;
    let len = b.shape(y)[axis];
    let mut by = 1usize;
    while (by as i64) < len.bound() {
        let pad = Attrs::Pad { axis, before: by, after: 0, value: none };
        let moved = b.apply(&PAD, pad, &[y])?;
        let moved = b.slice(moved, axis, 0, len)?;
        y = b.binary(with, y, moved)?;
        by *= 2;
    }
    Ok(y)
}

fn folded_rule(op: &str, attrs: &Attrs, types: &[Type], floats: bool) -> Result<Type> {
    rule::arity(op, types, 1)?;
    let Attrs::Reduce { axes, keep } = attrs else { return rule::wrong_attrs(op, attrs) };
    let x = &types[0];
    if !(x.dtype.is_int() || (floats && x.dtype.is_real())) {
        return rule::err(
            op,
            format!("operand is {}, it must be {}", x.dtype, if floats { "a number" } else { "i32 or u32" }),
        );
    }
    for (i, &axis) in axes.iter().enumerate() {
        rule::axis(op, axis, &x.shape)?;
        if axes[..i].contains(&axis) {
            return rule::err(op, format!("axis {axis} is given twice"));
        }
        match x.shape[axis].known() {
            None => return rule::err(op, format!("axis {axis} of {} varies between steps", x.shape)),
            Some(0) if matches!(op, "int_max" | "int_min") => {
                return rule::err(op, format!("axis {axis} of {} is empty", x.shape));
            }
            Some(_) => {}
        }
    }
    let kept = |i: usize, d: Dim| match (axes.contains(&i), keep) {
        (false, _) => Some(d),
        (true, true) => Some(Dim::new(1)),
        (true, false) => None,
    };
    let dims: Vec<Dim> = x.shape.iter().enumerate().filter_map(|(i, d)| kept(i, *d)).collect();
    Ok(Type::new(if x.dtype.is_int() { x.dtype } else { DType::F32 }, dims))
}

/// The first half with the second, until one is left.
fn folded(b: &mut dyn Build, attrs: &Attrs, x: Value, with: &'static OpDef, none: f32) -> Result<Value> {
    let Attrs::Reduce { axes, keep } = attrs else { return rule::wrong_attrs("prod", attrs) };
    let mut y = wide(b, x)?;
    for &axis in axes {
        let mut len = b.shape(y)[axis].known().unwrap_or(0);
        if len == 0 {
            let mut shape = b.shape(y);
            shape.0[axis] = Dim::new(1);
            let dtype = b.ty(y).dtype;
            let c = literal(b, none, dtype)?;
            y = b.broadcast(c, shape)?;
        }
        while len > 1 {
            let half = len / 2;
            let first = b.slice(y, axis, 0, half)?;
            let second = b.slice(y, axis, half, half)?;
            let both = b.binary(with, first, second)?;
            y = if len % 2 == 0 {
                both
            } else {
                let last = b.slice(y, axis, len - 1, 1)?;
                b.concat(&[both, last], axis)?
            };
            len = half + len % 2;
        }
    }
    if *keep {
        return Ok(y);
    }
    let shape = b.shape(y);
    let left: Vec<Dim> = shape.iter().enumerate().filter(|(i, _)| !axes.contains(i)).map(|(_, d)| *d).collect();
    b.reshape(y, left)
}

fn kept_axes(attrs: &Attrs, types: &[Type], out: &Type) -> Vec<Strategy> {
    let reduced = match attrs {
        Attrs::Reduce { axes, .. } => axes.clone(),
        _ => (0..types[0].shape.rank()).collect(),
    };
    let all = shard::reduce(attrs, types, out, None);
    let within = |s: &Strategy| matches!(s.args[0], crate::base::Placement::Split(a) if !reduced.contains(&a));
    all.into_iter().filter(within).collect()
}

fn top_rule(attrs: &Attrs, types: &[Type]) -> Result<Type> {
    rule::arity("top_indices", types, 1)?;
    let Attrs::Rows(k) = *attrs else { return rule::wrong_attrs("top_indices", attrs) };
    let x = &types[0];
    rule::real("top_indices", "operand", x)?;
    let Some(last) = x.shape.rank().checked_sub(1) else {
        return rule::err("top_indices", "operand is a scalar, it must have an axis");
    };
    match (k.known(), x.shape[last].known()) {
        (Some(k), _) if k < 1 => rule::err("top_indices", format!("{k} are asked for, it must be 1 or more")),
        (Some(k), Some(n)) if k > n => {
            rule::err("top_indices", format!("{k} are asked for of {n} along the last axis of {}", x.shape))
        }
        (Some(k), _) if k > MOST => rule::err("top_indices", format!("{k} are asked for, at most {MOST} can be")),
        (Some(_), _) => {
            let mut shape = x.shape.clone();
            shape.0[last] = k;
            Ok(Type::new(DType::U32, shape))
        }
        (None, _) => {
            Err(Error::op("top_indices", "", format!("{k} are asked for: the number may not vary between steps")))
        }
    }
}

fn top_indices(b: &mut dyn Build, attrs: &Attrs, args: &[Value]) -> Result<Value> {
    let Attrs::Rows(k) = *attrs else { return rule::wrong_attrs("top_indices", attrs) };
    let x = wide(b, args[0])?;
    let shape = b.shape(x);
    let last = shape.rank() - 1;
    let row: Vec<Dim> = (0..last).map(|_| Dim::new(1)).chain([shape[last]]).collect();
    let places =
        b.apply(&IOTA, Attrs::Iota { shape: Shape(row), axis: last, start: 0.into(), dtype: DType::U32 }, &[])?;
    let (lowest, zero, one) = (b.constant(f32::NEG_INFINITY), b.constant(0.0), b.constant(1.0));
    let nan = b.unary(&IS_NAN, x)?;
    let mut taken: Option<Value> = None;
    let mut found = vec![];
    for _ in 0..k.known().unwrap_or(0) {
        let left = match taken {
            Some(taken) => b.apply(&WHERE, Attrs::None, &[taken, lowest, x])?,
            None => x,
        };
        let most = b.reduce_last(&MAX, left)?;
        let same = b.binary(&EQ, x, most)?;
        let odd = b.unary(&IS_NAN, most)?;
        let odd = b.binary(&AND, nan, odd)?;
        let same = b.binary(&OR, same, odd)?;
        let mut hit = b.apply(&WHERE, Attrs::None, &[same, one, zero])?;
        if let Some(taken) = taken {
            hit = b.apply(&WHERE, Attrs::None, &[taken, zero, hit])?;
        }
        let at = b.apply(&ARGMAX, Attrs::Reduce { axes: vec![last], keep: true }, &[hit])?;
        let here = b.binary(&EQ, places, at)?;
        taken = Some(match taken {
            Some(taken) => b.binary(&OR, taken, here)?,
            None => here,
        });
        found.push(at);
    }
    if found.len() == 1 { Ok(found[0]) } else { b.concat(&found, last) }
}

fn running_cases() -> Vec<Case> {
    let case = |ty: Type, fill, axis| Case::new(vec![(ty, fill)], Attrs::Axis(axis));
    vec![
        case(f32s([17]), Fill::Normal, 0),
        case(f32s([3, 33]), Fill::Normal, 1),
        case(f32s([5, 2, 3]), Fill::Normal, 0),
        case(f32s([1, 4]), Fill::Normal, 0),
        case(f32s([0, 4]), Fill::Normal, 1),
        case(of(DType::I32, [2, 19]), Fill::Ties, 1),
        case(of(DType::F16, [3, 6]), Fill::Normal, 1),
    ]
}

fn folded_cases(floats: bool) -> Vec<Case> {
    let case =
        |ty: Type, fill, axes: &[usize], keep| Case::new(vec![(ty, fill)], Attrs::Reduce { axes: axes.to_vec(), keep });
    let mut cases = vec![
        case(of(DType::I32, [17]), Fill::Ties, &[0], false),
        case(of(DType::I32, [3, 33]), Fill::Ties, &[1], true),
        case(of(DType::U32, [2, 7, 5]), Fill::Below(99), &[0, 2], false),
        case(of(DType::I32, [0, 4]), Fill::Ties, &[1], false),
    ];
    if floats {
        cases.push(case(f32s([3, 18]), Fill::Positive, &[1], false));
        cases.push(case(f32s([4, 3, 2]), Fill::Normal, &[2, 0], true));
        cases.push(case(of(DType::F16, [3, 6]), Fill::Positive, &[0], false));
    }
    cases
}

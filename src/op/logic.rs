//! Truth, bits and remainders: elementwise ops that models use beside arithmetic.

use super::case::{f32s, of};
use super::{Attrs, Body, Case, ErrorCase, Fill, Grad, OpDef, Scalar, Within, grad, ops, rule, shard};
use crate::base::{DType, Result, Type};

macro_rules! bits {
    ($name:literal, $doc:literal, $wgsl:literal, $cpu:expr, $truth:literal) => {
        OpDef {
            name: $name,
            doc: $doc,
            rule: |_, t| bits_rule($name, t, $truth),
            shard: shard::pointwise,
            cost: rule::one_per_element,
            body: Body::Scalar(Scalar { wgsl: $wgsl, cpu: |a| $cpu(a[0] as i64, a[1] as i64) as f64 }),
            grad: Grad::None("bits have no slope"),
            within: Within::EXACT,
            cases: || bits_cases($truth),
            errors: || bits_errors($truth),
        }
    };
}
macro_rules! remainder {
    ($name:literal, $doc:literal, $wgsl:literal, $cpu:expr) => {
        OpDef {
            name: $name,
            doc: $doc,
            rule: |_, t| remainder_rule($name, t),
            shard: shard::pointwise,
            cost: rule::one_per_element,
            body: Body::Scalar(Scalar { wgsl: $wgsl, cpu: |a| $cpu(a[0], a[1]) }),
            grad: Grad::Rule(grad::remainder),
            within: Within { abs: 2e-6, rel: 1e-6 },
            cases: remainder_cases,
            errors: || {
                vec![
                    ErrorCase::new(
                        vec![f32s([2, 3]), f32s([4])],
                        Attrs::None,
                        "shapes [2, 3] and [4] do not broadcast",
                    ),
                    ErrorCase::new(
                        vec![f32s([2]), of(DType::I32, [2])],
                        Attrs::None,
                        "operands are f32 and i32, they must be floats or of one integer type",
                    ),
                ]
            },
        }
    };
}

ops! {
    AND = bits!("and", "x ∧ y of truth, or of each bit of integers, element by element; operands broadcast.", "x & y", |x, y| x & y, true);
    OR = bits!("or", "x ∨ y of truth, or of each bit of integers, element by element; operands broadcast.", "x | y", |x, y| x | y, true);
    XOR = bits!("xor", "Whether x and y differ, of truth, or of each bit of integers, element by element; operands broadcast.", "x ^ y", |x, y| x ^ y, true);
    SHL = bits!("shl", "The bits of x moved up by y places, element by element; operands broadcast, of one integer type. 0 where y is beyond 31.",
        "select(x << (u32(y) & 31u), x - x, u32(y) > 31u)", |x: i64, y: i64| if (0..32).contains(&y) { (x << y) as u32 as i64 } else { 0 }, false);
    SHR = bits!("shr", "The bits of x moved down by y places, element by element; operands broadcast, of one integer type. An i32 keeps its sign. y beyond 31 is \
        as far as bits go.",
        "select(x >> min(u32(y), 31u), x - x, u32(y) > 31u && x >= x - x)", |x: i64, y: i64| if (0..32).contains(&y) { x >> y } else { x >> 63 }, false);
    NOT = OpDef {
        name: "not",
        doc: "¬x of truth, element by element.",
        rule: not_rule,
        shard: shard::pointwise,
        cost: rule::one_per_element,
        body: Body::Scalar(Scalar { wgsl: "x ^ 1u", cpu: |a| (a[0] == 0.0) as u8 as f64 }),
        grad: Grad::None("truth has no slope"),
        within: Within::EXACT,
        cases: || [of(DType::Bool, [3, 17]), of(DType::Bool, [129]), of(DType::Bool, [0, 4])].map(|t| Case::new(vec![(t, Fill::Truth)], Attrs::None)).to_vec(),
        errors: || vec![ErrorCase::new(vec![f32s([2])], Attrs::None, "operand is f32, it must be bool")],
    };
    REM = remainder!("rem", "x − y · trunc(x / y), element by element; operands broadcast. Its sign is that of x, as in C. Integers over 0 give 0.", "x % y",
        |x: f64, y: f64| x % y);
    MOD = remainder!("mod", "x − y · ⌊x / y⌋, element by element; operands broadcast. Its sign is that of y, as in Python. Integers over 0 give 0.",
        "select(x % y, x % y + y, x % y != 0 && (x % y < 0) != (y < 0))", |x: f64, y: f64| {
            let r = x % y;
            if r != 0.0 && (r < 0.0) != (y < 0.0) { r + y } else { r }
        });
}

/// Both of one integer type, or, where `truth` may be told, both bool.
fn bits_rule(op: &str, types: &[Type], truth: bool) -> Result<Type> {
    rule::arity(op, types, 2)?;
    let (a, b) = (types[0].dtype, types[1].dtype);
    if a != b || !(a.is_int() || (truth && a == DType::Bool)) {
        let want = if truth { "they must be bool or of one integer type" } else { "they must be of one integer type" };
        return rule::err(op, format!("operands are {a} and {b}, {want}"));
    }
    Ok(Type::new(a, rule::broadcast(op, types)?))
}

fn not_rule(_: &Attrs, types: &[Type]) -> Result<Type> {
    rule::arity("not", types, 1)?;
    match types[0].dtype {
        DType::Bool => Ok(types[0].clone()),
        other => rule::err("not", format!("operand is {other}, it must be bool")),
    }
}

fn remainder_rule(op: &str, types: &[Type]) -> Result<Type> {
    rule::arity(op, types, 2)?;
    let (a, b) = (types[0].dtype, types[1].dtype);
    let dtype = match a == b && a.is_int() {
        true => a,
        false if a.is_real() && b.is_real() => DType::F32,
        false => {
            return rule::err(op, format!("operands are {a} and {b}, they must be floats or of one integer type"));
        }
    };
    Ok(Type::new(dtype, rule::broadcast(op, types)?))
}

fn bits_cases(truth: bool) -> Vec<Case> {
    let case = |dtype, fill, other| Case::new(vec![(of(dtype, [3, 17]), fill), (of(dtype, [17]), other)], Attrs::None);
    let mut cases = vec![
        case(DType::I32, Fill::Ties, Fill::Below(40)),
        case(DType::U32, Fill::Below(1 << 20), Fill::Below(40)),
        Case::new(vec![(of(DType::U32, [0]), Fill::Below(9)), (of(DType::U32, [1]), Fill::Below(9))], Attrs::None),
    ];
    if truth {
        cases.push(case(DType::Bool, Fill::Truth, Fill::Truth));
    }
    cases
}

fn bits_errors(truth: bool) -> Vec<ErrorCase> {
    let message = match truth {
        true => "operands are f32 and i32, they must be bool or of one integer type",
        false => "operands are f32 and i32, they must be of one integer type",
    };
    vec![
        ErrorCase::new(vec![f32s([2]), of(DType::I32, [2])], Attrs::None, message),
        ErrorCase::new(
            vec![of(DType::U32, [2]), of(DType::U32, [3])],
            Attrs::None,
            "shapes [2] and [3] do not broadcast",
        ),
    ]
}

fn remainder_cases() -> Vec<Case> {
    vec![
        Case::new(vec![(f32s([3, 17]), Fill::Normal), (f32s([17]), Fill::Positive)], Attrs::None),
        Case::new(vec![(of(DType::F16, [17]), Fill::Normal), (f32s([1]), Fill::Positive)], Attrs::None),
        Case::new(vec![(of(DType::I32, [3, 17]), Fill::Ties), (of(DType::I32, [17]), Fill::Ties)], Attrs::None),
        Case::new(vec![(of(DType::U32, [129]), Fill::Below(99)), (of(DType::U32, [129]), Fill::Positive)], Attrs::None),
        Case::new(vec![(f32s([0]), Fill::Normal), (f32s([1]), Fill::Positive)], Attrs::None),
    ]
}

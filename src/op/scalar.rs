//! Elementwise ops: arithmetic, comparison, choice and the usual functions.

use super::case::{f32s, normal, of};
use super::{Attrs, Body, Case, ErrorCase, Fill, Grad, OpDef, Scalar, Within, grad, ops, rule, shard};
use crate::base::{DType, Result, Type};

macro_rules! unary {
    ($name:literal, $doc:literal, $wgsl:literal, $cpu:expr, $grad:expr, $within:expr, $fill:expr) => {
        unary!($name, $doc, $wgsl, $cpu, $grad, $within, $fill, shard::pointwise)
    };
    ($name:literal, $doc:literal, $wgsl:literal, $cpu:expr, $grad:expr, $within:expr, $fill:expr, $shard:expr) => {
        OpDef {
            name: $name,
            doc: $doc,
            rule: |_, t| float_unary($name, t),
            shard: $shard,
            cost: rule::one_per_element,
            body: Body::Scalar(Scalar { wgsl: $wgsl, cpu: |a| $cpu(a[0]) }),
            grad: Grad::Rule($grad),
            within: $within,
            cases: || unary_cases($fill),
            errors: || {
                vec![
                    ErrorCase::new(vec![of(DType::I32, [2])], Attrs::None, "operand is i32, it must be f32 or f16"),
                    ErrorCase::new(vec![], Attrs::None, "takes 1 operand, got 0"),
                ]
            },
        }
    };
}
/// Steps: nothing flows back through them.
macro_rules! step {
    ($name:literal, $doc:literal, $wgsl:literal, $cpu:expr) => {
        OpDef {
            grad: Grad::None("it is constant between its steps"),
            ..unary!($name, $doc, $wgsl, $cpu, grad::neg, Within::EXACT, Fill::Wide)
        }
    };
}
macro_rules! arithmetic {
    ($name:literal, $doc:literal, $wgsl:literal, $cpu:expr, $grad:expr, $within:expr, $fill:expr, $shard:expr) => {
        OpDef {
            name: $name,
            doc: $doc,
            rule: |_, t| binary_rule($name, t, false),
            shard: $shard,
            cost: rule::one_per_element,
            body: Body::Scalar(Scalar { wgsl: $wgsl, cpu: |a| $cpu(a[0], a[1]) }),
            grad: Grad::Rule($grad),
            within: $within,
            cases: || binary_cases($fill),
            errors: binary_errors,
        }
    };
}
macro_rules! compare {
    ($name:literal, $doc:literal, $wgsl:literal, $cpu:expr) => {
        OpDef {
            name: $name,
            doc: $doc,
            rule: |_, t| binary_rule($name, t, true),
            shard: shard::pointwise,
            cost: rule::one_per_element,
            body: Body::Scalar(Scalar { wgsl: $wgsl, cpu: |a| $cpu(&a[0], &a[1]) as u8 as f64 }),
            grad: Grad::None("truth has no slope"),
            within: Within::EXACT,
            cases: || binary_cases(Fill::Ties),
            errors: binary_errors,
        }
    };
}

ops! {
    ADD = arithmetic!("add", "x + y, element by element; operands broadcast.", "x + y", |x, y| x + y, grad::add, Within::rel(1e-6), Fill::Normal, shard::linear);
    SUB = arithmetic!("sub", "x − y, element by element; operands broadcast.", "x - y", |x, y| x - y, grad::sub, Within::abs(1e-6), Fill::Normal, shard::linear);
    MUL = arithmetic!("mul", "x · y, element by element; operands broadcast.", "x * y", |x, y| x * y, grad::mul, Within::rel(1e-6), Fill::Normal, shard::product);
    DIV = arithmetic!("div", "x / y, element by element; operands broadcast. Integers round toward zero.", "x / y", |x, y| x / y, grad::div, Within::rel(1e-6), Fill::Positive, shard::quotient);
    MAXIMUM = arithmetic!("maximum", "The larger of x and y, element by element; operands broadcast.", "max(x, y)", f64::max, grad::maximum, Within::EXACT, Fill::Ties, shard::pointwise);
    MINIMUM = arithmetic!("minimum", "The smaller of x and y, element by element; operands broadcast.", "min(x, y)", f64::min, grad::minimum, Within::EXACT, Fill::Ties, shard::pointwise);
    EQ = compare!("eq", "x = y as bool, element by element; operands broadcast.", "select(0u, 1u, x == y)", f64::eq);
    NE = compare!("ne", "x ≠ y as bool, element by element; operands broadcast.", "select(1u, 0u, x == y)", f64::ne);
    LT = compare!("lt", "x < y as bool, element by element; operands broadcast.", "select(0u, 1u, x < y)", f64::lt);
    LE = compare!("le", "x ≤ y as bool, element by element; operands broadcast.", "select(0u, 1u, x <= y)", f64::le);
    GT = compare!("gt", "x > y as bool, element by element; operands broadcast.", "select(0u, 1u, x > y)", f64::gt);
    GE = compare!("ge", "x ≥ y as bool, element by element; operands broadcast.", "select(0u, 1u, x >= y)", f64::ge);
    WHERE = OpDef {
        name: "where",
        doc: "y where the condition x is true, else z, element by element; operands broadcast. x is bool, y and z of one type.",
        rule: where_rule,
        shard: shard::pointwise,
        cost: rule::free,
        body: Body::Scalar(Scalar { wgsl: "select(z, y, x != 0u)", cpu: |a| if a[0] != 0.0 { a[1] } else { a[2] } }),
        grad: Grad::Rule(grad::select),
        within: Within::EXACT,
        cases: || vec![
            Case::new(vec![(of(DType::Bool, [3, 17]), Fill::Truth), normal([3, 17]), normal([3, 17])], Attrs::None),
            Case::new(vec![(of(DType::Bool, [17, 1]), Fill::Truth), normal([17, 129]), normal([])], Attrs::None),
            Case::new(vec![(of(DType::Bool, [5]), Fill::Truth), (of(DType::I32, [5]), Fill::Below(9)), (of(DType::I32, [1]), Fill::Below(9))], Attrs::None),
            Case::new(vec![(of(DType::Bool, [0]), Fill::Truth), normal([0]), normal([0])], Attrs::None),
        ],
        errors: || vec![
            ErrorCase::new(vec![f32s([2]), f32s([2]), f32s([2])], Attrs::None, "the condition is f32, it must be bool"),
            ErrorCase::new(vec![of(DType::Bool, [2]), f32s([2]), of(DType::I32, [2])], Attrs::None, "the choices are f32 and i32, they must be of one type"),
            ErrorCase::new(vec![of(DType::Bool, [2]), f32s([3]), f32s([3])], Attrs::None, "shapes [2] and [3] do not broadcast"),
        ],
    };
    NEG = unary!("neg", "−x, element by element.", "-x", |x: f64| -x, grad::neg, Within::EXACT, Fill::Wide, shard::linear);
    ABS = unary!("abs", "|x|, element by element.", "abs(x)", f64::abs, grad::abs, Within::EXACT, Fill::Wide);
    EXP = unary!("exp", "eˣ, element by element.", "exp(x)", f64::exp, grad::exp, Within::rel(1e-5), Fill::Normal);
    LOG = unary!("log", "The natural logarithm, element by element; −∞ at 0.", "log(x)", f64::ln, grad::log, Within { abs: 1e-6, rel: 1e-5 }, Fill::Positive);
    SQRT = unary!("sqrt", "√x, element by element.", "sqrt(x)", f64::sqrt, grad::sqrt, Within::rel(2e-6), Fill::Positive);
    RSQRT = unary!("rsqrt", "1/√x, element by element.", "inverseSqrt(x)", |x: f64| 1.0 / x.sqrt(), grad::rsqrt, Within::rel(2e-6), Fill::Positive);
    // Beyond ±15 tanh is ±1 in f32, and some drivers overflow in exp there.
    TANH = unary!("tanh", "The hyperbolic tangent, element by element.", "tanh(clamp(x, -15.0, 15.0))", f64::tanh, grad::tanh, Within { abs: 1e-6, rel: 1e-5 }, Fill::Wide);
    // WGSL promises sin and cos within 2⁻¹¹, and only for |x| ≤ π: the argument is brought there first.
    SIN = unary!("sin", "sin x, element by element, x in radians. Within 2⁻¹¹ as WGSL promises.", "sin(x - 6.2831853 * round(x * 0.15915494))", f64::sin, grad::sin, Within::abs(5e-4), Fill::Normal);
    COS = unary!("cos", "cos x, element by element, x in radians. Within 2⁻¹¹ as WGSL promises.", "cos(x - 6.2831853 * round(x * 0.15915494))", f64::cos, grad::cos, Within::abs(5e-4), Fill::Normal);
    ATAN = unary!("atan", "The angle in radians whose tangent is x, element by element. Within 4096 units in the last place, as WGSL promises.", "atan(x)", f64::atan, grad::atan, Within { abs: 1e-6, rel: 6e-4 }, Fill::Wide);
    SIGMOID = unary!("sigmoid", "1 / (1 + e⁻ˣ), element by element.", "1.0 / (1.0 + exp(-clamp(x, -80.0, 80.0)))", |x: f64| 1.0 / (1.0 + (-x).exp()), grad::sigmoid, Within { abs: 1e-6, rel: 1e-5 }, Fill::Wide);
    SILU = unary!("silu", "x · sigmoid(x), element by element.", "x / (1.0 + exp(-clamp(x, -80.0, 80.0)))", |x: f64| x / (1.0 + (-x).exp()), grad::silu, Within { abs: 1e-6, rel: 1e-5 }, Fill::Wide);
    GELU = unary!("gelu", "x · Φ(x) = x/2 · (1 + erf(x/√2)), element by element (Hendrycks and Gimpel, 2016).", "0.5 * x * (1.0 + erf_series(x * 0.70710678))", |x: f64| 0.5 * x * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2)), grad::gelu, Within { abs: 2e-6, rel: 1e-5 }, Fill::Wide);
    ERF = unary!("erf", "The error function 2/√π · ∫₀ˣ e^(−t²) dt, element by element. Within 1.5e-7 (Abramowitz and Stegun 7.1.26).", "erf_series(x)", libm::erf, grad::erf, Within { abs: 5e-7, rel: 1e-6 }, Fill::Wide);
    GELU_TANH = unary!("gelu_tanh", "x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³))), element by element.", "0.5 * x * (1.0 + tanh(clamp(0.7978845608 * (x + 0.044715 * x * x * x), -15.0, 15.0)))", |x: f64| 0.5 * x * (1.0 + (0.7978845608028654 * (x + 0.044715 * x * x * x)).tanh()), grad::gelu_tanh, Within { abs: 2e-6, rel: 1e-5 }, Fill::Normal);
    LOG1P = unary!("log1p", "ln(1 + x), element by element, also for small x.", "select(log(1.0 + x), x - x * x * (0.5 - x * (0.33333334 - x * 0.25)), abs(x) < 0.03)", f64::ln_1p, grad::log1p, Within { abs: 1e-6, rel: 1e-5 }, Fill::Positive);
    SOFTPLUS = unary!("softplus", "ln(1 + eˣ), element by element.", "max(x, 0.0) + log(1.0 + exp(-abs(x)))", |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p(), grad::softplus, Within { abs: 1e-6, rel: 1e-5 }, Fill::Wide);
    FLOOR = step!("floor", "The largest whole number that is at most x, element by element.", "floor(x)", f64::floor);
    CEIL = step!("ceil", "The smallest whole number that is at least x, element by element.", "ceil(x)", f64::ceil);
    ROUND = step!("round", "The nearest whole number, of two the even one, element by element.", "round(x)", f64::round_ties_even);
    // WGSL's pow is undefined below 0 and may be anything at 0⁰.
    POW = OpDef {
        rule: |_, t| float_binary("pow", t),
        cases: || [f32s([3, 17]), f32s([129]), f32s([0, 4]), of(DType::F16, [17])].map(|x| Case::new(vec![(x, Fill::Positive), normal([1])], Attrs::None)).to_vec(),
        errors: || vec![
            ErrorCase::new(vec![f32s([2, 3]), f32s([4])], Attrs::None, "shapes [2, 3] and [4] do not broadcast"),
            ErrorCase::new(vec![f32s([2]), of(DType::I32, [2])], Attrs::None, "operand is i32, it must be f32 or f16"),
        ],
        ..arithmetic!("pow", "x to the power y, element by element; operands broadcast. Of a negative x a power that is not whole is NaN; 0⁰ is 1.",
            "select(select(1.0, -1.0, x < 0.0 && abs(y) % 2.0 == 1.0) * pow(abs(x), y) + select(0.0, sqrt(x), x < 0.0 && y != floor(y)), 1.0, y == 0.0)",
            f64::powf, grad::pow, Within { abs: 1e-6, rel: 1e-4 }, Fill::Positive, shard::pointwise)
    };
    IS_NAN = OpDef {
        name: "is_nan",
        doc: "Whether x is NaN, as bool, element by element.",
        rule: |_, t| Ok(Type::new(DType::Bool, float_unary("is_nan", t)?.shape)),
        shard: shard::pointwise,
        cost: rule::one_per_element,
        // Comparing x with itself is what compilers with relaxed rules leave out.
        body: Body::Scalar(Scalar { wgsl: "select(0u, 1u, (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u)", cpu: |a| a[0].is_nan() as u8 as f64 }),
        grad: Grad::None("truth has no slope"),
        within: Within::EXACT,
        cases: || unary_cases(Fill::Wide),
        errors: || vec![
            ErrorCase::new(vec![of(DType::I32, [2])], Attrs::None, "operand is i32, it must be f32 or f16"),
            ErrorCase::new(vec![], Attrs::None, "takes 1 operand, got 0"),
        ],
    };
    RELU = unary!("relu", "max(x, 0), element by element.", "max(x, 0.0)", |x: f64| x.max(0.0), grad::relu, Within::EXACT, Fill::Wide);
}

fn float_unary(op: &str, types: &[Type]) -> Result<Type> {
    rule::arity(op, types, 1)?;
    rule::real(op, "operand", &types[0])?;
    Ok(rule::float_result(types[0].shape.clone()))
}

fn float_binary(op: &str, types: &[Type]) -> Result<Type> {
    rule::arity(op, types, 2)?;
    types.iter().try_for_each(|t| rule::real(op, "operand", t))?;
    Ok(rule::float_result(rule::broadcast(op, types)?))
}

/// Both operands float, or both of the same integer type; a comparison gives bool.
fn binary_rule(op: &str, types: &[Type], compares: bool) -> Result<Type> {
    rule::arity(op, types, 2)?;
    let (a, b) = (types[0].dtype, types[1].dtype);
    let result = if a.is_real() && b.is_real() {
        DType::F32
    } else if a == b && a.is_int() {
        a
    } else {
        return rule::err(op, format!("operands are {a} and {b}, they must be floats or of one integer type"));
    };
    Ok(Type::new(if compares { DType::Bool } else { result }, rule::broadcast(op, types)?))
}

fn where_rule(_: &Attrs, types: &[Type]) -> Result<Type> {
    rule::arity("where", types, 3)?;
    let (c, y, z) = (types[0].dtype, types[1].dtype, types[2].dtype);
    if c != DType::Bool {
        return rule::err("where", format!("the condition is {c}, it must be bool"));
    }
    if y != z || y.is_quantised() {
        return rule::err("where", format!("the choices are {y} and {z}, they must be of one type"));
    }
    let dtype = if y.is_narrow() { DType::F32 } else { y };
    Ok(Type::new(dtype, rule::broadcast("where", types)?))
}

fn unary_cases(fill: Fill) -> Vec<Case> {
    let shapes = [f32s([]), f32s([1]), f32s([3, 17]), f32s([129]), f32s([0, 4]), of(DType::F16, [17]), f32s([5, 700])];
    shapes.into_iter().map(|s| Case::new(vec![(s, fill)], Attrs::None)).collect()
}

fn binary_cases(fill: Fill) -> Vec<Case> {
    let case = |a, b| Case::new(vec![(a, fill), (b, fill)], Attrs::None);
    vec![
        case(f32s([3, 17]), f32s([3, 17])),
        case(f32s([129, 1]), f32s([1, 17])),
        case(f32s([2, 3, 17]), f32s([17])),
        case(f32s([1]), f32s([])),
        case(f32s([0, 3]), f32s([3])),
        case(of(DType::F16, [3, 5]), f32s([5])),
        // The right operand is never 0: integer division by it would be undefined.
        Case::new(vec![(of(DType::I32, [17]), Fill::Below(99)), (of(DType::I32, [17]), Fill::Positive)], Attrs::None),
    ]
}

fn binary_errors() -> Vec<ErrorCase> {
    vec![
        ErrorCase::new(vec![f32s([2, 3]), f32s([4])], Attrs::None, "shapes [2, 3] and [4] do not broadcast"),
        ErrorCase::new(
            vec![f32s([2]), of(DType::I32, [2])],
            Attrs::None,
            "operands are f32 and i32, they must be floats or of one integer type",
        ),
        ErrorCase::new(vec![f32s([2])], Attrs::None, "takes 2 operands, got 1"),
    ]
}

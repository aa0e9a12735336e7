//! Softmax and normalisation over the last axis: composites with kernels of their own.

use super::build::{Build, Value};
use super::case::{f32s, normal, of};
use super::*;
use crate::base::{DType, Error};

ops! {
    SOFTMAX = OpDef {
        name: "softmax",
        doc: "exp(x − max) / Σ exp(x − max) over the last axis.",
        rule: |_, t| last_axis("softmax", t),
        shard: shard::rows,
        cost: |a, t, o| rule::one_per_element(a, t, o) * 4,
        body: Body::Composite { define: softmax, fused: Fused::Softmax },
        grad: Grad::Rule(grad::softmax),
        within: Within { abs: 1e-6, rel: 2e-5 },
        cases: rows,
        errors: || row_errors("softmax"),
    };
    LOG_SOFTMAX = OpDef {
        name: "log_softmax",
        doc: "x − max − ln Σ exp(x − max) over the last axis.",
        rule: |_, t| last_axis("log_softmax", t),
        shard: shard::rows,
        cost: |a, t, o| rule::one_per_element(a, t, o) * 4,
        body: Body::Composite { define: log_softmax, fused: Fused::LogSoftmax },
        grad: Grad::Rule(grad::log_softmax),
        within: Within { abs: 1e-5, rel: 1e-5 },
        cases: rows,
        errors: || row_errors("log_softmax"),
    };
    LAYER_NORM = OpDef {
        name: "layer_norm",
        doc: "(x − mean) / √(variance + eps) · w + b over the last axis, w and b of that axis's length (Ba et al., 2016).",
        rule: |a, t| norm_rule("layer_norm", a, t, 3),
        shard: shard::rows,
        cost: |a, t, o| rule::one_per_element(a, t, o) * 8,
        body: Body::Composite { define: layer_norm, fused: Fused::LayerNorm },
        grad: Grad::Definition,
        within: Within { abs: 2e-5, rel: 2e-5 },
        cases: || norm_cases(2),
        errors: || norm_errors(3),
    };
    RMS_NORM = OpDef {
        name: "rms_norm",
        doc: "x / √(mean(x²) + eps) · w over the last axis, w of that axis's length (Zhang and Sennrich, 2019).",
        rule: |a, t| norm_rule("rms_norm", a, t, 2),
        shard: shard::rows,
        cost: |a, t, o| rule::one_per_element(a, t, o) * 4,
        body: Body::Composite { define: rms_norm, fused: Fused::RmsNorm },
        grad: Grad::Definition,
        within: Within { abs: 1e-5, rel: 1e-5 },
        cases: || norm_cases(1),
        errors: || norm_errors(2),
    };
}

fn last_axis(op: &str, types: &[Type]) -> Result<Type> {
    rule::arity(op, types, 1)?;
    rule::real(op, "operand", &types[0])?;
    if types[0].shape.rank() == 0 {
        return rule::err(op, "operand is a scalar, it must have an axis");
    }
    Ok(rule::float_result(types[0].shape.clone()))
}

fn norm_rule(op: &str, attrs: &Attrs, types: &[Type], arity: usize) -> Result<Type> {
    rule::arity(op, types, arity)?;
    let Attrs::Norm { eps } = *attrs else { return rule::wrong_attrs(op, attrs) };
    if eps.is_nan() || eps < 0.0 {
        return Err(Error::op(op, "", format!("eps is {eps}, it must be 0 or more")));
    }
    let out = last_axis(op, &types[..1])?;
    let width = out.shape[out.shape.rank() - 1];
    for (ty, name) in types[1..].iter().zip(["weight", "bias"]) {
        rule::real(op, name, ty)?;
        if ty.shape.0 != [width] {
            return rule::err(op, format!("{name} is {}, it must be [{width}] like the last axis", ty.shape));
        }
    }
    Ok(out)
}

fn eps(attrs: &Attrs) -> f32 {
    match attrs {
        Attrs::Norm { eps } => *eps,
        _ => 0.0,
    }
}

/// x − max over the last axis.
fn shifted(b: &mut dyn Build, x: Value) -> Result<Value> {
    let max = b.reduce_last(&MAX, x)?;
    b.binary(&SUB, x, max)
}

fn softmax(b: &mut dyn Build, _: &Attrs, args: &[Value]) -> Result<Value> {
    let x = shifted(b, args[0])?;
    let e = b.unary(&EXP, x)?;
    let sum = b.reduce_last(&SUM, e)?;
    b.binary(&DIV, e, sum)
}

fn log_softmax(b: &mut dyn Build, _: &Attrs, args: &[Value]) -> Result<Value> {
    let x = shifted(b, args[0])?;
    let e = b.unary(&EXP, x)?;
    let sum = b.reduce_last(&SUM, e)?;
    let log = b.unary(&LOG, sum)?;
    b.binary(&SUB, x, log)
}

fn layer_norm(b: &mut dyn Build, attrs: &Attrs, args: &[Value]) -> Result<Value> {
    let mean = b.reduce_last(&MEAN, args[0])?;
    let x = b.binary(&SUB, args[0], mean)?;
    let square = b.binary(&MUL, x, x)?;
    let variance = b.reduce_last(&MEAN, square)?;
    let variance = b.add_const(variance, eps(attrs))?;
    let scale = b.unary(&RSQRT, variance)?;
    let x = b.binary(&MUL, x, scale)?;
    let x = b.binary(&MUL, x, args[1])?;
    b.binary(&ADD, x, args[2])
}

fn rms_norm(b: &mut dyn Build, attrs: &Attrs, args: &[Value]) -> Result<Value> {
    let square = b.binary(&MUL, args[0], args[0])?;
    let mean = b.reduce_last(&MEAN, square)?;
    let mean = b.add_const(mean, eps(attrs))?;
    let scale = b.unary(&RSQRT, mean)?;
    let x = b.binary(&MUL, args[0], scale)?;
    b.binary(&MUL, x, args[1])
}

fn rows() -> Vec<Case> {
    let shapes = [
        f32s([1, 1]),
        f32s([3, 17]),
        f32s([129]),
        f32s([2, 3, 300]),
        f32s([0, 5]),
        f32s([17, 64]),
        of(DType::F16, [2, 18]),
    ];
    shapes.into_iter().map(|s| Case::new(vec![(s, Fill::Normal)], Attrs::None)).collect()
}

fn row_errors(_: &str) -> Vec<ErrorCase> {
    vec![
        ErrorCase::new(vec![f32s([])], Attrs::None, "operand is a scalar, it must have an axis"),
        ErrorCase::new(vec![of(DType::U32, [3])], Attrs::None, "operand is u32, it must be f32 or f16"),
    ]
}

fn norm_cases(params: usize) -> Vec<Case> {
    let mut cases = vec![];
    for (rows, width) in [(1, 1), (3, 17), (17, 129), (2, 576), (0, 8), (5, 64)] {
        let mut operands = vec![normal([rows, width])];
        operands.extend((0..params).map(|_| normal([width])));
        cases.push(Case::new(operands, Attrs::Norm { eps: 1e-5 }));
    }
    cases
}

fn norm_errors(arity: usize) -> Vec<ErrorCase> {
    let with = |w: Type, attrs| {
        let mut types = vec![f32s([3, 8])];
        types.extend(vec![w; arity - 1]);
        (types, attrs)
    };
    let (short, a) = with(f32s([7]), Attrs::Norm { eps: 1e-5 });
    let (whole, b) = with(f32s([8]), Attrs::Norm { eps: -1.0 });
    vec![
        ErrorCase::new(short, a, "weight is [7], it must be [8] like the last axis"),
        ErrorCase::new(whole, b, "eps is -1, it must be 0 or more"),
    ]
}

//! Elementwise ops and reductions of ONNX, written with tensors.

use super::Call;
use super::proto::kind;
use std::f32::consts::FRAC_PI_2;
use warpweft::{DType, Tensor};

type Made<'g> = Result<Vec<(Tensor<'g>, u64)>, String>;

fn one<'g>(x: Tensor<'g>, kind: u64) -> Made<'g> {
    Ok(vec![(x, kind)])
}

/// The ops of this file; `None` for others.
pub fn op<'g>(c: &Call<'g, '_>) -> Option<Made<'g>> {
    if let Some(made) = unary(c) {
        return Some(made.and_then(|x| one(x, c.kind(0))));
    }
    Some(match &*c.node.op {
        "Add" | "Sub" | "Mul" | "Div" | "Mod" | "Pow" | "PRelu" => binary(c).and_then(|x| one(x, c.kind(0))),
        "And" | "Or" | "Xor" | "BitwiseAnd" | "BitwiseOr" | "BitwiseXor" | "BitShift" => {
            bits(c).and_then(|x| one(x, c.kind(0)))
        }
        "Equal" | "Greater" | "Less" | "GreaterOrEqual" | "LessOrEqual" => compare(c).and_then(|x| one(x, kind::BOOL)),
        "Max" | "Min" | "Sum" | "Mean" => variadic(c).and_then(|x| one(x, c.kind(0))),
        "Where" => where_(c),
        "IsNaN" => c.x(0).and_then(|x| one(x.is_nan(), kind::BOOL)),
        "IsInf" => is_inf(c).and_then(|x| one(x, kind::BOOL)),
        "Not" => c.x(0).and_then(|x| one(x.logical_not(), kind::BOOL)),
        "Clip" => clip(c).and_then(|x| one(x, c.kind(0))),
        "Cast" | "CastLike" => cast(c),
        name if name.starts_with("Reduce") => reduce(c).and_then(|x| one(x, c.kind(0))),
        "ArgMax" | "ArgMin" => arg(c).and_then(|x| one(x, kind::I64)),
        "CumSum" | "CumProd" => running(c).and_then(|x| one(x, c.kind(0))),
        "SwiGLU" => swiglu(c).and_then(|x| one(x, c.kind(0))),
        _ => return None,
    })
}

#[expect(clippy::too_many_lines, reason = "a table: a line for each op")]
fn unary<'g>(c: &Call<'g, '_>) -> Option<Result<Tensor<'g>, String>> {
    let n = c.node;
    let f = |name, default| n.float(name, default);
    let known = [
        "Abs",
        "Neg",
        "Exp",
        "Log",
        "Sqrt",
        "Reciprocal",
        "Floor",
        "Ceil",
        "Round",
        "Sin",
        "Cos",
        "Tan",
        "Sinh",
        "Cosh",
        "Asinh",
        "Acosh",
        "Atanh",
        "Asin",
        "Acos",
        "Atan",
        "Tanh",
        "Sigmoid",
        "Erf",
        "Sign",
        "Relu",
        "Softplus",
        "Softsign",
        "Identity",
        "HardSwish",
        "HardSigmoid",
        "Elu",
        "Selu",
        "Celu",
        "LeakyRelu",
        "ThresholdedRelu",
        "Shrink",
        "Mish",
        "Swish",
        "Gelu",
        "BitwiseNot",
    ];
    if !known.contains(&&*n.op) {
        return None;
    }
    let x = match c.x(0) {
        Ok(x) => x,
        Err(e) => return Some(Err(e)),
    };
    let of = |v: f32| c.g.constant(v);
    let int = x.dtype().is_int();
    let whole = |v: i32| c.g.integer(x.dtype(), v);
    let above = |low: f32| x.gt(of(low));
    let odd = |half: Tensor<'g>| x.lt(of(0.0)).select(-half, half);
    Some(Ok(match &*n.op {
        "Abs" if x.dtype() == DType::U32 => x,
        "Abs" if int => x.maximum(whole(0) - x),
        "Neg" if int => whole(0) - x,
        "Sign" if x.dtype() == DType::U32 => x.minimum(whole(1)),
        "Sign" if int => x.maximum(whole(-1)).minimum(whole(1)),
        "BitwiseNot" if x.dtype() == DType::U32 => (whole(0) - whole(1)) - x,
        "BitwiseNot" => whole(-1) - x,
        "Relu" if int => x.maximum(whole(0)),
        "Identity" => x,
        "Abs" => x.abs(),
        "Neg" => -x,
        "Exp" => x.exp(),
        "Log" => x.log(),
        "Sqrt" => x.sqrt(),
        "Reciprocal" => 1.0 / x,
        "Floor" => x.floor(),
        "Ceil" => x.ceil(),
        "Round" => x.round(),
        "Sin" => x.sin(),
        "Cos" => x.cos(),
        "Tan" => x.sin() / x.cos(),
        "Sinh" => (x.exp() - (-x).exp()) * 0.5,
        "Cosh" => (x.exp() + (-x).exp()) * 0.5,
        "Asinh" => odd((x.abs() + (x * x + 1.0).sqrt()).log()),
        "Acosh" => (x + (x * x - 1.0).sqrt()).log(),
        "Atanh" => (x.log1p() - (-x).log1p()) * 0.5,
        "Atan" => x.atan(),
        "Asin" => x.asin(),
        "Acos" => of(FRAC_PI_2) - x.asin(),
        "Tanh" => x.tanh(),
        "Sigmoid" => x.sigmoid(),
        "Erf" => x.erf(),
        "Sign" => x.sign(),
        "Relu" => x.relu(),
        "Softplus" => x.softplus(),
        "Softsign" => x / (x.abs() + 1.0),
        "HardSigmoid" => (x * f("alpha", 0.2) + f("beta", 0.5)).clamp(0.0, 1.0),
        "HardSwish" => x * (x * (1.0 / 6.0) + 0.5).clamp(0.0, 1.0),
        "Elu" => above(0.0).select(x, (x.exp() - 1.0) * f("alpha", 1.0)),
        "Selu" => {
            let (alpha, gamma) = (f("alpha", 1.673_263_2), f("gamma", 1.050_701));
            above(0.0).select(x * gamma, (x.exp() - 1.0) * (alpha * gamma))
        }
        "Celu" => {
            let alpha = f("alpha", 1.0);
            x.relu() + (((x * (1.0 / alpha)).exp() - 1.0) * alpha).minimum(of(0.0))
        }
        "LeakyRelu" => above(0.0).select(x, x * f("alpha", 0.01)),
        "ThresholdedRelu" => above(f("alpha", 1.0)).select(x, of(0.0)),
        "Shrink" => {
            let (x, bias, lambda) = (x.cast(DType::F32), f("bias", 0.0), f("lambd", 0.5));
            let up = x.lt(of(-lambda)).select(x + bias, of(0.0));
            x.gt(of(lambda)).select(x - bias, up)
        }
        "Mish" => x * x.softplus().tanh(),
        "Swish" => x * (x * f("alpha", 1.0)).sigmoid(),
        "Gelu" if n.text("approximate", "none") == "tanh" => x.gelu_tanh(),
        _ => x.gelu(),
    }))
}

fn swiglu<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let x = c.x(0)?;
    Ok(x * (x * c.node.float("alpha", 1.0)).sigmoid() * c.x(1)?)
}

fn binary<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let (x, y) = (c.x(0)?, c.x(1)?);
    let int = x.dtype().is_int();
    Ok(match &*c.node.op {
        "Add" => x + y,
        "Sub" => x - y,
        "Mul" => x * y,
        "Div" => x / y,
        "Mod" if c.node.int("fmod", 0) == 1 => x.rem(y),
        "Mod" => x.modulo(y),
        "PRelu" if int => x.lt(c.g.integer(x.dtype(), 0)).select(x * y, x),
        "PRelu" => x.lt(c.g.constant(0.0)).select(x * y, x),
        // Powers of whole numbers: exact where f32 is.
        _ if int => x.cast(DType::F32).pow(y.cast(DType::F32)).round().cast(x.dtype()),
        _ => x.pow(y.cast(DType::F32)),
    })
}

fn bits<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let (x, y) = (c.x(0)?, c.x(1)?);
    Ok(match &*c.node.op {
        "And" | "BitwiseAnd" => x.and(y),
        "Or" | "BitwiseOr" => x.or(y),
        "Xor" | "BitwiseXor" => x.xor(y),
        _ if c.node.text("direction", "") == "LEFT" => x.shl(y),
        _ => x.shr(y),
    })
}

fn compare<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let (mut x, mut y) = (c.x(0)?, c.x(1)?);
    if x.dtype() == DType::Bool {
        (x, y) = (x.cast(DType::U32), y.cast(DType::U32));
    }
    Ok(match &*c.node.op {
        "Equal" => x.eq(y),
        "Greater" => x.gt(y),
        "Less" => x.lt(y),
        "GreaterOrEqual" => x.ge(y),
        _ => x.le(y),
    })
}

fn variadic<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let n = c.node.inputs.len();
    let mut y = c.x(0)?;
    for i in 1..n {
        let x = c.x(i)?;
        y = match &*c.node.op {
            "Max" => y.maximum(x),
            "Min" => y.minimum(x),
            _ => y + x,
        };
    }
    Ok(if c.node.op == "Mean" { y * (1.0 / n as f32) } else { y })
}

fn where_<'g>(c: &Call<'g, '_>) -> Made<'g> {
    one(c.x(0)?.select(c.x(1)?, c.x(2)?), c.kind(1))
}

fn is_inf<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let x = c.x(0)?;
    let of = |v: f32| c.g.constant(v);
    Ok(match (c.node.int("detect_positive", 1), c.node.int("detect_negative", 1)) {
        (1, 1) => x.is_inf(),
        (1, _) => x.eq(of(f32::INFINITY)),
        (_, 1) => x.eq(of(f32::NEG_INFINITY)),
        _ => x.is_inf().and(x.is_nan()),
    })
}

fn clip<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let mut x = c.x(0)?;
    let bound = |i: usize, name: &str| match (c.has(i), c.node.attribute(name)) {
        (true, _) => c.x(i).map(Some),
        (false, Some(a)) => Ok(Some(c.g.constant(a.float))),
        _ => Ok(None),
    };
    if let Some(low) = bound(1, "min")? {
        x = x.maximum(low);
    }
    if let Some(high) = bound(2, "max")? {
        x = x.minimum(high);
    }
    Ok(x)
}

fn cast<'g>(c: &Call<'g, '_>) -> Made<'g> {
    let to = if c.node.op == "Cast" { c.node.int("to", 0) as u64 } else { c.host(1)?.kind };
    let x = c.x(0)?;
    let (from, dtype) = (c.kind(0), super::dtype(to).ok_or(format!("cast to type {to}"))?);
    if !kind::is_float(to) && kind::is_float(from) && c.host(0)?.data.iter().any(|v| !v.is_finite() || v.abs() >= 2e9) {
        return Err("a float beyond 32 bits becomes a whole number".into());
    }
    one(x.cast(dtype), to)
}

/// The axes of a reduction, by attribute or input.
fn axes(c: &Call, rank: usize) -> Result<Vec<usize>, String> {
    let given = match (c.node.ints("axes"), c.has(1)) {
        (Some(axes), _) => axes,
        (None, true) => c.host(1)?.ints(),
        (None, false) => vec![],
    };
    if given.is_empty() {
        return Ok(if c.node.int("noop_with_empty_axes", 0) == 1 { vec![] } else { (0..rank).collect() });
    }
    Ok(given.iter().map(|a| super::at(*a, rank)).collect())
}

fn reduce<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let x = c.x(0)?;
    let shape = x.shape();
    let axes = axes(c, shape.rank())?;
    let name = c.node.op.trim_start_matches("Reduce");
    let int = x.dtype().is_int();
    let empty = axes.iter().any(|a| shape[*a].is(0));
    let sum = |x: Tensor<'g>| if axes.is_empty() { x } else { x.sum(&axes) };
    let y = match name {
        "Sum" => sum(x),
        "L1" if int => sum(x.maximum(c.g.integer(x.dtype(), 0) - x)),
        "L1" => sum(x.abs()),
        "L2" => sum(x.cast(DType::F32) * x.cast(DType::F32)).sqrt().cast(x.dtype()),
        "SumSquare" => sum(x * x),
        "LogSum" => sum(x.cast(DType::F32)).log(),
        "LogSumExp" if empty || axes.is_empty() => sum(x.cast(DType::F32).exp()).log(),
        "LogSumExp" => {
            let x = x.cast(DType::F32);
            let most = x.max_keep(&axes);
            let kept = x.max(&axes);
            (x - most).exp().sum(&axes).log() + kept
        }
        "Prod" if axes.is_empty() => x,
        "Prod" => x.prod(&axes),
        "Mean" if axes.is_empty() => x,
        "Mean" => x.cast(DType::F32).mean(&axes),
        _ if empty => return Err("the largest of nothing".into()),
        "Max" if x.dtype() == DType::Bool => x.any(&axes),
        "Min" if x.dtype() == DType::Bool => x.all(&axes),
        "Max" if axes.is_empty() => x,
        "Min" if axes.is_empty() => x,
        "Max" => x.max(&axes),
        "Min" => x.min(&axes),
        other => return Err(format!("Reduce{other}")),
    };
    if c.node.int("keepdims", 1) == 0 || axes.is_empty() {
        return Ok(y);
    }
    let kept: Vec<i64> =
        (0..shape.rank()).map(|i| if axes.contains(&i) { 1 } else { shape[i].known().unwrap_or(1) }).collect();
    Ok(y.reshape(&kept[..]))
}

fn arg<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let mut x = c.x(0)?.cast(DType::F32);
    let axis = super::at(c.node.int("axis", 0), x.shape().rank());
    if c.node.op == "ArgMin" {
        x = -x;
    }
    let last = c.node.int("select_last_index", 0) == 1;
    let n = x.dim(axis).known().unwrap_or(1) as i32;
    let mut y = if last { x.flip(axis) } else { x }.argmax(axis).cast(DType::I32);
    if last {
        y = c.g.integer(DType::I32, n - 1) - y;
    }
    Ok(if c.node.int("keepdims", 1) == 1 { y.unsqueeze(axis) } else { y })
}

fn running<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let mut x = c.x(0)?;
    let rank = x.shape().rank();
    let axis = super::at(c.host(1)?.ints()[0], rank);
    let backwards = c.node.int("reverse", 0) == 1;
    if backwards {
        x = x.flip(axis);
    }
    let sums = c.node.op == "CumSum";
    let mut y = if sums { x.cumsum(axis) } else { x.cumprod(axis) };
    if c.node.int("exclusive", 0) == 1 {
        let n = x.dim(axis);
        y = y.pad(axis, 1, 0, if sums { 0.0 } else { 1.0 }).slice(axis, 0, n);
    }
    Ok(if backwards { y.flip(axis) } else { y })
}

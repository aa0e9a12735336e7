//! The gradient of each op: reverse mode, written in ops of the table. All gradients are f32.

use super::build::{Build, Value};
use super::*;
use crate::base::{DType, Dim, Shape};

/// What carries the gradient of an op's result to its operands.
pub enum Grad {
    /// The result has no derivative, and why.
    None(&'static str),
    /// Ops that compute it: an entry an operand, none for operands without a derivative.
    Rule(Rule),
    /// That of the composite's definition, which is written out for it.
    Definition,
}

pub type Rule = fn(&mut dyn Build, &Pull) -> Result<Vec<Option<Value>>>;

/// An op whose result's gradient is known.
pub struct Pull<'a> {
    pub attrs: &'a Attrs,
    pub args: &'a [Value],
    pub out: Value,
    /// The gradient of the result: f32, of its shape.
    pub up: Value,
    /// The operands whose gradients are asked for.
    pub wants: &'a [bool],
}

/// The gradient of one operand, made only where it is asked for and brought to the operand's shape.
fn to(
    b: &mut dyn Build,
    p: &Pull,
    i: usize,
    make: impl FnOnce(&mut dyn Build) -> Result<Value>,
) -> Result<Option<Value>> {
    if !p.wants[i] {
        return Ok(None);
    }
    let g = make(b)?;
    let shape = b.shape(p.args[i]);
    unbroadcast(b, g, &shape).map(Some)
}

/// Sums `g` over what broadcasting to its shape has repeated.
fn unbroadcast(b: &mut dyn Build, g: Value, to: &Shape) -> Result<Value> {
    let from = b.shape(g);
    if from == *to {
        return Ok(g);
    }
    let lead = from.rank() - to.rank();
    let axes: Vec<usize> = (0..from.rank()).filter(|&i| !from[i].is(1) && (i < lead || to[i - lead].is(1))).collect();
    let g = if axes.is_empty() { g } else { b.apply(&SUM, Attrs::Reduce { axes, keep: true }, &[g])? };
    b.reshape(g, to.clone())
}

/// `g` where the condition holds, else 0.
fn only(b: &mut dyn Build, condition: Value, g: Value) -> Result<Value> {
    let zero = b.constant(0.0);
    b.apply(&WHERE, Attrs::None, &[condition, g, zero])
}

// ---- elementwise ------------------------------------------------------------------------------------------------

pub fn add(b: &mut dyn Build, p: &Pull) -> Result<Vec<Option<Value>>> {
    Ok(vec![to(b, p, 0, |_| Ok(p.up))?, to(b, p, 1, |_| Ok(p.up))?])
}
pub fn sub(b: &mut dyn Build, p: &Pull) -> Result<Vec<Option<Value>>> {
    Ok(vec![to(b, p, 0, |_| Ok(p.up))?, to(b, p, 1, |b| b.unary(&NEG, p.up))?])
}
pub fn mul(b: &mut dyn Build, p: &Pull) -> Result<Vec<Option<Value>>> {
    Ok(vec![to(b, p, 0, |b| b.binary(&MUL, p.up, p.args[1]))?, to(b, p, 1, |b| b.binary(&MUL, p.up, p.args[0]))?])
}
/// d(x/y) = dx/y − (x/y)/y · dy.
pub fn div(b: &mut dyn Build, p: &Pull) -> Result<Vec<Option<Value>>> {
    let y = p.args[1];
    let second = |b: &mut dyn Build| {
        let g = b.binary(&MUL, p.up, p.out)?;
        let g = b.binary(&DIV, g, y)?;
        b.unary(&NEG, g)
    };
    Ok(vec![to(b, p, 0, |b| b.binary(&DIV, p.up, y))?, to(b, p, 1, second)?])
}
/// To x where it is the result; of equals to x alone.
pub fn maximum(b: &mut dyn Build, p: &Pull) -> Result<Vec<Option<Value>>> {
    choice(b, p, &GE, &LT)
}
pub fn minimum(b: &mut dyn Build, p: &Pull) -> Result<Vec<Option<Value>>> {
    choice(b, p, &LE, &GT)
}
fn choice(b: &mut dyn Build, p: &Pull, first: &'static OpDef, second: &'static OpDef) -> Result<Vec<Option<Value>>> {
    let part = |b: &mut dyn Build, which: &'static OpDef| {
        let mine = b.binary(which, p.args[0], p.args[1])?;
        only(b, mine, p.up)
    };
    Ok(vec![to(b, p, 0, |b| part(b, first))?, to(b, p, 1, |b| part(b, second))?])
}
pub fn select(b: &mut dyn Build, p: &Pull) -> Result<Vec<Option<Value>>> {
    let other = |b: &mut dyn Build| {
        let zero = b.constant(0.0);
        b.apply(&WHERE, Attrs::None, &[p.args[0], zero, p.up])
    };
    Ok(vec![None, to(b, p, 1, |b| only(b, p.args[0], p.up))?, to(b, p, 2, other)?])
}

/// up · f′, where `slope` writes f′ from x and y = f(x).
fn times(
    b: &mut dyn Build,
    p: &Pull,
    slope: impl FnOnce(&mut dyn Build, Value, Value) -> Result<Value>,
) -> Result<Vec<Option<Value>>> {
    let g = to(b, p, 0, |b| {
        let s = slope(b, p.args[0], p.out)?;
        b.binary(&MUL, p.up, s)
    })?;
    Ok(vec![g])
}
pub fn neg(b: &mut dyn Build, p: &Pull) -> Result<Vec<Option<Value>>> {
    Ok(vec![to(b, p, 0, |b| b.unary(&NEG, p.up))?])
}
/// The sign; 0 at 0.
pub fn abs(b: &mut dyn Build, p: &Pull) -> Result<Vec<Option<Value>>> {
    times(b, p, |b, x, _| {
        let (zero, plus, minus) = (b.constant(0.0), b.constant(1.0), b.constant(-1.0));
        let (above, below) = (b.binary(&GT, x, zero)?, b.binary(&LT, x, zero)?);
        let rest = b.apply(&WHERE, Attrs::None, &[below, minus, zero])?;
        b.apply(&WHERE, Attrs::None, &[above, plus, rest])
    })
}
pub fn exp(b: &mut dyn Build, p: &Pull) -> Result<Vec<Option<Value>>> {
    times(b, p, |_, _, y| Ok(y))
}
pub fn log(b: &mut dyn Build, p: &Pull) -> Result<Vec<Option<Value>>> {
    Ok(vec![to(b, p, 0, |b| b.binary(&DIV, p.up, p.args[0]))?])
}
pub fn sqrt(b: &mut dyn Build, p: &Pull) -> Result<Vec<Option<Value>>> {
    times(b, p, |b, _, y| {
        let half = b.constant(0.5);
        b.binary(&DIV, half, y)
    })
}
/// −y³/2.
pub fn rsqrt(b: &mut dyn Build, p: &Pull) -> Result<Vec<Option<Value>>> {
    times(b, p, |b, _, y| {
        let square = b.binary(&MUL, y, y)?;
        let cube = b.binary(&MUL, square, y)?;
        b.mul_const(cube, -0.5)
    })
}
fn one_less_square(b: &mut dyn Build, y: Value) -> Result<Value> {
    let (one, square) = (b.constant(1.0), b.binary(&MUL, y, y)?);
    b.binary(&SUB, one, square)
}
pub fn tanh(b: &mut dyn Build, p: &Pull) -> Result<Vec<Option<Value>>> {
    times(b, p, |b, _, y| one_less_square(b, y))
}
pub fn sin(b: &mut dyn Build, p: &Pull) -> Result<Vec<Option<Value>>> {
    times(b, p, |b, x, _| b.unary(&COS, x))
}
pub fn cos(b: &mut dyn Build, p: &Pull) -> Result<Vec<Option<Value>>> {
    times(b, p, |b, x, _| {
        let s = b.unary(&SIN, x)?;
        b.unary(&NEG, s)
    })
}
/// 1 / (1 + x²).
pub fn atan(b: &mut dyn Build, p: &Pull) -> Result<Vec<Option<Value>>> {
    times(b, p, |b, x, _| {
        let (one, square) = (b.constant(1.0), b.binary(&MUL, x, x)?);
        let sum = b.binary(&ADD, one, square)?;
        b.binary(&DIV, one, sum)
    })
}
/// 1 / (1 + x).
pub fn log1p(b: &mut dyn Build, p: &Pull) -> Result<Vec<Option<Value>>> {
    times(b, p, |b, x, _| {
        let one = b.constant(1.0);
        let sum = b.binary(&ADD, one, x)?;
        b.binary(&DIV, one, sum)
    })
}
pub fn softplus(b: &mut dyn Build, p: &Pull) -> Result<Vec<Option<Value>>> {
    times(b, p, |b, x, _| b.unary(&SIGMOID, x))
}
/// y · x^(y−1), and xʸ · ln x.
pub fn pow(b: &mut dyn Build, p: &Pull) -> Result<Vec<Option<Value>>> {
    let (x, y) = (p.args[0], p.args[1]);
    let base = to(b, p, 0, |b| {
        let one = b.constant(1.0);
        let less = b.binary(&SUB, y, one)?;
        let power = b.binary(&POW, x, less)?;
        let slope = b.binary(&MUL, y, power)?;
        b.binary(&MUL, p.up, slope)
    })?;
    let exponent = to(b, p, 1, |b| {
        let ln = b.unary(&LOG, x)?;
        let slope = b.binary(&MUL, p.out, ln)?;
        b.binary(&MUL, p.up, slope)
    })?;
    Ok(vec![base, exponent])
}
/// x by 1, y by minus the whole number that was taken off: (r − x) / y.
pub fn remainder(b: &mut dyn Build, p: &Pull) -> Result<Vec<Option<Value>>> {
    let times = |b: &mut dyn Build| {
        let taken = b.binary(&SUB, p.out, p.args[0])?;
        let taken = b.binary(&DIV, taken, p.args[1])?;
        b.binary(&MUL, p.up, taken)
    };
    Ok(vec![to(b, p, 0, |_| Ok(p.up))?, to(b, p, 1, times)?])
}
/// y (1 − y).
pub fn sigmoid(b: &mut dyn Build, p: &Pull) -> Result<Vec<Option<Value>>> {
    times(b, p, |b, _, y| {
        let square = b.binary(&MUL, y, y)?;
        b.binary(&SUB, y, square)
    })
}
/// s + y (1 − s) with s = sigmoid(x).
pub fn silu(b: &mut dyn Build, p: &Pull) -> Result<Vec<Option<Value>>> {
    times(b, p, |b, x, y| {
        let s = b.unary(&SIGMOID, x)?;
        let one = b.constant(1.0);
        let rest = b.binary(&SUB, one, s)?;
        let rest = b.binary(&MUL, y, rest)?;
        b.binary(&ADD, s, rest)
    })
}
/// 2/√π · e^(−x²).
pub fn erf(b: &mut dyn Build, p: &Pull) -> Result<Vec<Option<Value>>> {
    times(b, p, |b, x, _| {
        let bell = bell(b, x, 1.0)?;
        b.mul_const(bell, std::f32::consts::FRAC_2_SQRT_PI)
    })
}
/// e^(−c·x²).
fn bell(b: &mut dyn Build, x: Value, c: f32) -> Result<Value> {
    let square = b.binary(&MUL, x, x)?;
    let power = b.mul_const(square, -c)?;
    b.unary(&EXP, power)
}
/// Φ(x) + x φ(x), Φ the normal distribution and φ its density.
pub fn gelu(b: &mut dyn Build, p: &Pull) -> Result<Vec<Option<Value>>> {
    times(b, p, |b, x, _| {
        let z = b.mul_const(x, std::f32::consts::FRAC_1_SQRT_2)?;
        let e = b.unary(&ERF, z)?;
        let twice = b.add_const(e, 1.0)?;
        let below = b.mul_const(twice, 0.5)?;
        let density = bell(b, x, 0.5)?;
        let density = b.binary(&MUL, x, density)?;
        let density = b.mul_const(density, 0.398_942_3)?;
        b.binary(&ADD, below, density)
    })
}
/// (1 + t)/2 + x/2 · (1 − t²) · u′ with u = √(2/π) (x + 0.044715 x³) and t = tanh u.
pub fn gelu_tanh(b: &mut dyn Build, p: &Pull) -> Result<Vec<Option<Value>>> {
    times(b, p, |b, x, _| {
        const C: f32 = 0.797_884_6;
        let square = b.binary(&MUL, x, x)?;
        let inner = b.mul_const(square, 0.044715 * C)?;
        let inner = b.add_const(inner, C)?;
        let u = b.binary(&MUL, x, inner)?;
        let t = b.unary(&TANH, u)?;
        let slope = b.mul_const(square, 3.0 * 0.044715 * C)?;
        let slope = b.add_const(slope, C)?;
        let bend = one_less_square(b, t)?;
        let second = b.binary(&MUL, bend, slope)?;
        let second = b.binary(&MUL, x, second)?;
        let first = b.add_const(t, 1.0)?;
        let sum = b.binary(&ADD, first, second)?;
        b.mul_const(sum, 0.5)
    })
}
/// 0 at 0.
pub fn relu(b: &mut dyn Build, p: &Pull) -> Result<Vec<Option<Value>>> {
    let g = to(b, p, 0, |b| {
        let zero = b.constant(0.0);
        let above = b.binary(&GT, p.args[0], zero)?;
        only(b, above, p.up)
    })?;
    Ok(vec![g])
}

// ---- rows -------------------------------------------------------------------------------------------------------

/// y · (up − Σ up · y).
pub fn softmax(b: &mut dyn Build, p: &Pull) -> Result<Vec<Option<Value>>> {
    let g = to(b, p, 0, |b| {
        let weighed = b.binary(&MUL, p.up, p.out)?;
        let sum = b.reduce_last(&SUM, weighed)?;
        let less = b.binary(&SUB, p.up, sum)?;
        b.binary(&MUL, p.out, less)
    })?;
    Ok(vec![g])
}
/// up − eʸ · Σ up.
pub fn log_softmax(b: &mut dyn Build, p: &Pull) -> Result<Vec<Option<Value>>> {
    let g = to(b, p, 0, |b| {
        let sum = b.reduce_last(&SUM, p.up)?;
        let share = b.unary(&EXP, p.out)?;
        let share = b.binary(&MUL, share, sum)?;
        b.binary(&SUB, p.up, share)
    })?;
    Ok(vec![g])
}

// ---- reductions -------------------------------------------------------------------------------------------------

/// A reduction's result, or a gradient of its shape, with the reduced axes as 1; and the operand's shape.
fn kept(b: &mut dyn Build, p: &Pull, v: Value) -> Result<(Value, Shape)> {
    let Attrs::Reduce { axes, .. } = p.attrs else { return rule::wrong_attrs("reduce", p.attrs) };
    let whole = b.shape(p.args[0]);
    let dims: Vec<Dim> = whole.iter().enumerate().map(|(i, d)| if axes.contains(&i) { 1.into() } else { *d }).collect();
    Ok((b.reshape(v, dims)?, whole))
}
pub fn sum(b: &mut dyn Build, p: &Pull) -> Result<Vec<Option<Value>>> {
    let g = to(b, p, 0, |b| {
        let (up, whole) = kept(b, p, p.up)?;
        b.broadcast(up, whole)
    })?;
    Ok(vec![g])
}
pub fn mean(b: &mut dyn Build, p: &Pull) -> Result<Vec<Option<Value>>> {
    let Attrs::Reduce { axes, .. } = p.attrs else { return rule::wrong_attrs("mean", p.attrs) };
    let g = to(b, p, 0, |b| {
        let (mut up, whole) = kept(b, p, p.up)?;
        for axis in axes {
            let n = match whole[*axis].known() {
                Some(n) => b.constant(n as f32),
                None => b.apply(
                    &IOTA,
                    Attrs::Iota { shape: [1].into(), axis: 0, start: whole[*axis], dtype: DType::F32 },
                    &[],
                )?,
            };
            up = b.binary(&DIV, up, n)?;
        }
        b.broadcast(up, whole)
    })?;
    Ok(vec![g])
}
/// Shared among all elements that are the largest or smallest.
pub fn extreme(b: &mut dyn Build, p: &Pull) -> Result<Vec<Option<Value>>> {
    let Attrs::Reduce { axes, .. } = p.attrs else { return rule::wrong_attrs("reduce", p.attrs) };
    let g = to(b, p, 0, |b| {
        let ((up, _), (y, _)) = (kept(b, p, p.up)?, kept(b, p, p.out)?);
        let best = b.binary(&EQ, p.args[0], y)?;
        let one = b.constant(1.0);
        let ties = only(b, best, one)?;
        let ties = b.apply(&SUM, Attrs::Reduce { axes: axes.clone(), keep: true }, &[ties])?;
        let share = b.binary(&DIV, up, ties)?;
        only(b, best, share)
    })?;
    Ok(vec![g])
}

// ---- products ---------------------------------------------------------------------------------------------------

/// With Y = A·B: dA = dY·Bᵀ and dB = Aᵀ·dY, transposed where the operand is, summed over broadcast batches. Left operands
/// are transposed as views, so that a planner may lay them out anew; right ones are rows or columns as they come.
pub fn matmul(b: &mut dyn Build, p: &Pull) -> Result<Vec<Option<Value>>> {
    let Attrs::Matmul { ta, tb } = *p.attrs else { return rule::wrong_attrs("matmul", p.attrs) };
    let (x, y) = (p.args[0], p.args[1]);
    let left = to(b, p, 0, |b| {
        let y = plain(b, y)?;
        let (args, tb) = if ta { ([turned(b, y, tb)?, p.up], true) } else { ([p.up, y], !tb) };
        b.apply(&MATMUL, Attrs::Matmul { ta: false, tb }, &args)
    })?;
    let right = to(b, p, 1, |b| {
        let (args, tb) = if tb { ([turned(b, p.up, true)?, x], ta) } else { ([turned(b, x, !ta)?, p.up], false) };
        b.apply(&MATMUL, Attrs::Matmul { ta: false, tb }, &args)
    })?;
    Ok(vec![left, right])
}

/// The last two axes swapped, where asked for.
fn turned(b: &mut dyn Build, x: Value, yes: bool) -> Result<Value> {
    if !yes {
        return Ok(x);
    }
    let rank = b.rank(x);
    let mut perm: Vec<usize> = (0..rank).collect();
    perm.swap(rank - 2, rank - 1);
    b.transpose(x, &perm)
}

/// Quantised rows decoded: kernels read blocks along their rows only.
fn plain(b: &mut dyn Build, x: Value) -> Result<Value> {
    let ty = b.ty(x);
    if !ty.dtype.is_quantised() {
        return Ok(x);
    }
    let ids = Attrs::Iota { shape: [ty.shape[0]].into(), axis: 0, start: 0.into(), dtype: DType::U32 };
    let ids = b.apply(&IOTA, ids, &[])?;
    b.binary(&GATHER, x, ids)
}

// ---- by index ---------------------------------------------------------------------------------------------------

/// Rows of the gradient added where the rows came from.
pub fn gather(b: &mut dyn Build, p: &Pull) -> Result<Vec<Option<Value>>> {
    let g = to(b, p, 0, |b| {
        let rows = b.shape(p.args[0])[0];
        b.apply(&SCATTER_ADD, Attrs::Rows(rows), &[p.up, p.args[1]])
    })?;
    Ok(vec![g, None])
}
pub fn scatter_add(b: &mut dyn Build, p: &Pull) -> Result<Vec<Option<Value>>> {
    Ok(vec![to(b, p, 0, |b| b.binary(&GATHER, p.up, p.args[1]))?, None])
}
pub fn concat(b: &mut dyn Build, p: &Pull) -> Result<Vec<Option<Value>>> {
    let Attrs::Axis(axis) = *p.attrs else { return rule::wrong_attrs("concat", p.attrs) };
    let mut start = Dim::new(0);
    let mut all = vec![];
    for i in 0..p.args.len() {
        let len = b.shape(p.args[i])[axis];
        all.push(to(b, p, i, |b| b.slice(p.up, axis, start, len))?);
        start = start + len;
    }
    Ok(all)
}
pub fn pad(b: &mut dyn Build, p: &Pull) -> Result<Vec<Option<Value>>> {
    let Attrs::Pad { axis, before, .. } = *p.attrs else { return rule::wrong_attrs("pad", p.attrs) };
    let g = to(b, p, 0, |b| {
        let len = b.shape(p.args[0])[axis];
        b.slice(p.up, axis, before, len)
    })?;
    Ok(vec![g])
}
/// The new rows' part to them, the rest to the state as it was.
pub fn append(b: &mut dyn Build, p: &Pull) -> Result<Vec<Option<Value>>> {
    let Attrs::Append { at } = *p.attrs else { return rule::wrong_attrs("append", p.attrs) };
    let (state, rows) = (b.shape(p.args[0]), b.shape(p.args[1])[0]);
    if let Some(&ids) = p.args.get(2) {
        return append_by_ids(b, p, (state, rows), ids);
    }
    let before = to(b, p, 0, |b| {
        let mut column = vec![Dim::new(1); state.rank()];
        column[0] = state[0];
        let row = b.iota(Shape(column), 0, Dim::new(0))?;
        let (first, end) = (b.iota([1].into(), 0, at)?, b.iota([1].into(), 0, at + rows)?);
        let (early, late) = (b.binary(&LT, row, first)?, b.binary(&GE, row, end)?);
        let late = only(b, late, p.up)?;
        b.apply(&WHERE, Attrs::None, &[early, p.up, late])
    })?;
    Ok(vec![before, to(b, p, 1, |b| b.slice(p.up, 0, at, rows))?])
}
/// The same of rows that went where ids say: rows that none went to keep theirs.
fn append_by_ids(b: &mut dyn Build, p: &Pull, (state, rows): (Shape, Dim), ids: Value) -> Result<Vec<Option<Value>>> {
    let before = to(b, p, 0, |b| {
        let (one, zero) = (b.constant(1.0), b.constant(0.0));
        let ones = b.broadcast(one, vec![rows])?;
        let written = b.apply(&SCATTER_ADD, Attrs::Rows(state[0]), &[ones, ids])?;
        let mut column = vec![Dim::new(1); state.rank()];
        column[0] = state[0];
        let written = b.reshape(written, column)?;
        let kept = b.binary(&LE, written, zero)?;
        only(b, kept, p.up)
    })?;
    let new = to(b, p, 1, |b| b.apply(&GATHER, Attrs::None, &[p.up, ids]))?;
    Ok(vec![before, new, None])
}
/// All to the new value: of the old one nothing is left.
pub fn assign(b: &mut dyn Build, p: &Pull) -> Result<Vec<Option<Value>>> {
    Ok(vec![None, to(b, p, 1, |_| Ok(p.up))?])
}
pub fn cast(b: &mut dyn Build, p: &Pull) -> Result<Vec<Option<Value>>> {
    Ok(vec![to(b, p, 0, |_| Ok(p.up))?])
}

// ---- views ------------------------------------------------------------------------------------------------------

pub fn reshape(b: &mut dyn Build, p: &Pull) -> Result<Vec<Option<Value>>> {
    let shape = b.shape(p.args[0]);
    Ok(vec![to(b, p, 0, |b| b.reshape(p.up, shape))?])
}
pub fn transpose(b: &mut dyn Build, p: &Pull) -> Result<Vec<Option<Value>>> {
    let Attrs::Perm(perm) = p.attrs else { return rule::wrong_attrs("transpose", p.attrs) };
    let mut back = vec![0; perm.len()];
    perm.iter().enumerate().for_each(|(i, &from)| back[from] = i);
    Ok(vec![to(b, p, 0, |b| b.transpose(p.up, &back))?])
}
pub fn broadcast(b: &mut dyn Build, p: &Pull) -> Result<Vec<Option<Value>>> {
    Ok(vec![to(b, p, 0, |_| Ok(p.up))?])
}
/// Zeros around it where numbers say how many; else, or with gaps between, each index added to its place.
pub fn slice(b: &mut dyn Build, p: &Pull) -> Result<Vec<Option<Value>>> {
    let Attrs::Slice { axis, start, len, step } = *p.attrs else { return rule::wrong_attrs("slice", p.attrs) };
    let whole = b.shape(p.args[0]);
    let g = to(b, p, 0, |b| {
        if let (Some(before), Some(after), 1) = (start.known(), (whole[axis] - start - len).known(), step) {
            let attrs = Attrs::Pad { axis, before: before.max(0) as usize, after: after.max(0) as usize, value: 0.0 };
            return b.apply(&PAD, attrs, &[p.up]);
        }
        let front: Vec<usize> = std::iter::once(axis).chain((0..whole.rank()).filter(|i| *i != axis)).collect();
        let back: Vec<usize> = (1..=axis).chain(std::iter::once(0)).chain(axis + 1..whole.rank()).collect();
        let number = |b: &mut dyn Build, n: Dim| b.iota([1].into(), 0, n);
        let (count, by, first) = (b.iota([len].into(), 0, Dim::new(0))?, number(b, step.into())?, number(b, start)?);
        let ids = b.binary(&MUL, count, by)?;
        let ids = b.binary(&ADD, ids, first)?;
        let x = b.transpose(p.up, &front)?;
        let x = b.apply(&SCATTER_ADD, Attrs::Rows(whole[axis]), &[x, ids])?;
        b.transpose(x, &back)
    })?;
    Ok(vec![g])
}

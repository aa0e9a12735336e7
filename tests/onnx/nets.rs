//! Ops of ONNX that networks are made of, written with tensors.

use super::proto::{Host, kind};
use super::{Call, at};
use warpweft::{DType, Tensor, Window};

type Made<'g> = Result<Vec<(Tensor<'g>, u64)>, String>;

/// The ops of this file; `None` for others.
pub fn op<'g>(c: &Call<'g, '_>) -> Option<Made<'g>> {
    let made = match &*c.node.op {
        "MatMul" => matmul(c),
        "Gemm" => gemm(c),
        "Softmax" | "LogSoftmax" | "Hardmax" => softmax(c),
        "LayerNormalization" => return Some(layer_norm(c)),
        "RMSNormalization" => rms_norm(c),
        "BatchNormalization" => batch_norm(c),
        "InstanceNormalization" => instance_norm(c),
        "GroupNormalization" => group_norm(c),
        "MeanVarianceNormalization" => mean_variance(c),
        "LpNormalization" => lp_norm(c),
        "LRN" => lrn(c),
        "Dropout" => return Some(dropout(c)),
        "Conv" => conv(c),
        "ConvTranspose" => conv_transpose(c),
        "MaxPool" if c.node.outputs.len() == 1 => pool(c),
        "AveragePool" | "LpPool" => pool(c),
        "GlobalAveragePool" | "GlobalMaxPool" => global_pool(c),
        "Einsum" => einsum(c),
        "Resize" | "Upsample" => super::resize::resize(c),
        "RotaryEmbedding" => rotary(c),
        "Attention" => return Some(super::attention::attention(c)),
        "NegativeLogLikelihoodLoss" => c.x(0).and_then(|x| loss(c, x)),
        "SoftmaxCrossEntropyLoss" => return Some(cross_entropy(c)),
        "QuantizeLinear" => return Some(quantize(c)),
        "DequantizeLinear" => return Some(dequantize(c)),
        "MatMulInteger" => return Some(matmul_integer(c)),
        _ => return None,
    };
    Some(made.map(|x| vec![(x, c.kind(0))]))
}

fn known(x: Tensor) -> Vec<usize> {
    x.shape().known().unwrap_or_default()
}

/// numpy's product: vectors are matrices of one row or column.
pub fn product<'g>(a: Tensor<'g>, b: Tensor<'g>) -> Tensor<'g> {
    let (rows, columns) = (a.shape().rank() == 1, b.shape().rank() == 1);
    let a = if rows { a.unsqueeze(0) } else { a };
    let b = if columns { b.unsqueeze(1) } else { b };
    let y = a.matmul(b);
    let y = if rows { y.squeeze(y.shape().rank() - 2) } else { y };
    if columns { y.squeeze(y.shape().rank() - 1) } else { y }
}

/// Products of whole numbers as floats: exact while sums are below 2²⁴.
fn exact<'g>(c: &Call<'g, '_>, i: usize) -> Result<Tensor<'g>, String> {
    let x = c.x(i)?;
    if x.dtype().is_int() && c.host(i)?.data.iter().any(|v| v.abs() > 1024.0) {
        return Err("a product of large whole numbers".into());
    }
    Ok(x.cast(DType::F32))
}

fn matmul<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let y = product(exact(c, 0)?, exact(c, 1)?);
    Ok(if c.x(0)?.dtype().is_int() { y.cast(c.x(0)?.dtype()) } else { y })
}

fn gemm<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let of = |i: usize, flag: &str| {
        Ok::<_, String>(match c.node.int(flag, 0) {
            1 => c.x(i)?.transpose(&[1, 0]),
            _ => c.x(i)?,
        })
    };
    let y = of(0, "transA")?.matmul(of(1, "transB")?) * c.node.float("alpha", 1.0);
    Ok(if c.has(2) { y + c.x(2)? * c.node.float("beta", 1.0) } else { y })
}

fn softmax<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let x = c.x(0)?;
    let shape = known(x);
    let old = c.version < 13;
    let axis = at(c.node.int("axis", if old { 1 } else { -1 }), shape.len());
    let make = |x: Tensor<'g>, axis: usize| match &*c.node.op {
        "Softmax" => x.softmax_over(axis),
        "LogSoftmax" => x.log_softmax_over(axis),
        _ => {
            let n = known(x)[axis];
            let rank = x.shape().rank();
            let hot = x.argmax(axis).one_hot(n);
            let perm: Vec<usize> = (0..axis).chain([rank - 1]).chain(axis..rank - 1).collect();
            hot.transpose(&perm)
        }
    };
    if !old {
        return Ok(make(x, axis));
    }
    let (a, b): (usize, usize) = (shape[..axis].iter().product(), shape[axis..].iter().product());
    Ok(make(x.reshape([a, b]), 1).reshape(&shape[..]))
}

fn layer_norm<'g>(c: &Call<'g, '_>) -> Made<'g> {
    let x = c.x(0)?.cast(DType::F32);
    let shape = known(x);
    let axis = at(c.node.int("axis", -1), shape.len());
    let axes: Vec<usize> = (axis..shape.len()).collect();
    let mean = x.mean_keep(&axes);
    let distance = x - mean;
    let scale = 1.0 / ((distance * distance).mean_keep(&axes) + c.node.float("epsilon", 1e-5)).sqrt();
    let mut y = distance * scale * c.x(1)?;
    if c.has(2) {
        y = y + c.x(2)?;
    }
    let all = vec![(y, c.kind(0)), (mean, kind::F32), (scale, kind::F32)];
    Ok(all.into_iter().take(c.node.outputs.len()).collect())
}

fn rms_norm<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let x = c.x(0)?.cast(DType::F32);
    let rank = x.shape().rank();
    let axes: Vec<usize> = (at(c.node.int("axis", -1), rank)..rank).collect();
    let square = (x * x).mean_keep(&axes) + c.node.float("epsilon", 1e-5);
    Ok(x * square.rsqrt() * c.x(1)?)
}

/// Numbers of channels along axis 1 of a tensor of this rank.
fn channels(x: Tensor, rank: usize) -> Tensor {
    let n = known(x)[0];
    let shape: Vec<usize> = std::iter::once(n).chain(std::iter::repeat_n(1, rank - 2)).collect();
    x.reshape(&shape[..])
}

fn batch_norm<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    if c.node.int("training_mode", 0) == 1 || c.node.outputs.len() > 1 {
        return Err("batch statistics of training".into());
    }
    let x = c.x(0)?;
    let rank = x.shape().rank();
    let of = |i: usize| c.x(i).map(|v| channels(v.cast(DType::F32), rank));
    let scale = of(1)? * (of(4)? + c.node.float("epsilon", 1e-5)).rsqrt();
    Ok((x - of(3)?) * scale + of(2)?)
}

/// Zero mean and unit variance over axes.
fn standard<'g>(x: Tensor<'g>, axes: &[usize], eps: f32) -> Tensor<'g> {
    let distance = x - x.mean_keep(axes);
    distance * ((distance * distance).mean_keep(axes) + eps).rsqrt()
}

fn instance_norm<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let x = c.x(0)?;
    let rank = x.shape().rank();
    let axes: Vec<usize> = (2..rank).collect();
    let y = standard(x, &axes, c.node.float("epsilon", 1e-5));
    Ok(y * channels(c.x(1)?, rank) + channels(c.x(2)?, rank))
}

fn group_norm<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let x = c.x(0)?;
    let shape = known(x);
    let groups = c.node.int("num_groups", 1) as usize;
    let each: usize = shape[1..].iter().product::<usize>() / groups;
    let y = standard(x.cast(DType::F32).reshape([shape[0], groups, each]), &[2], c.node.float("epsilon", 1e-5));
    let (scale, bias) = (c.x(1)?, c.x(2)?);
    if known(scale)[0] != shape[1] {
        return Err("numbers of groups, not of channels".into());
    }
    Ok(y.reshape(&shape[..]) * channels(scale, shape.len()) + channels(bias, shape.len()))
}

fn mean_variance<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let axes = c.node.ints("axes").unwrap_or_else(|| vec![0, 2, 3]).iter().map(|a| *a as usize).collect::<Vec<_>>();
    let x = c.x(0)?;
    let distance = x - x.mean_keep(&axes);
    Ok(distance / ((distance * distance).mean_keep(&axes).sqrt() + 1e-9))
}

fn lp_norm<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let x = c.x(0)?;
    let axis = at(c.node.int("axis", -1), x.shape().rank());
    let norm = match c.node.int("p", 2) {
        1 => x.abs().sum_keep(&[axis]),
        _ => (x * x).sum_keep(&[axis]).sqrt(),
    };
    let zero = norm.eq(c.g.constant(0.0));
    Ok(zero.select(c.g.constant(0.0), x / norm))
}

fn lrn<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let x = c.x(0)?;
    let size = c.node.int("size", 1) as usize;
    let n = known(x)[1];
    let (before, after) = ((size - 1) / 2, size - 1 - (size - 1) / 2);
    let square = (x * x).pad(1, before, after, 0.0);
    let sum = (1..size).fold(square.slice(1, 0, n), |sum, i| sum + square.slice(1, i, n));
    let scale = sum * (c.node.float("alpha", 1e-4) / size as f32) + c.node.float("bias", 1.0);
    Ok(x / scale.pow(c.g.constant(c.node.float("beta", 0.75))))
}

fn dropout<'g>(c: &Call<'g, '_>) -> Made<'g> {
    let training = c.has(2) && c.host(2)?.data.first() == Some(&1.0);
    let ratio = if c.has(1) { c.host(1)?.data.first().copied().unwrap_or(0.5) } else { 0.5 };
    if training && ratio != 0.0 {
        return Err("random numbers".into());
    }
    let x = c.x(0)?;
    let mut out = vec![(x, c.kind(0))];
    if c.node.outputs.len() > 1 {
        out.push((x.eq(x).or(x.is_nan()), kind::BOOL));
    }
    Ok(out)
}

/// A window as ONNX describes it, over spatial axes of these lengths.
fn window(c: &Call, size: &[usize], spatial: &[usize]) -> Window {
    let list = |name: &str, default: usize| {
        c.node.ints(name).map_or(vec![default; size.len()], |l| l.iter().map(|v| *v as usize).collect::<Vec<_>>())
    };
    let (stride, dilation) = (list("strides", 1), list("dilations", 1));
    let reach = |i: usize| (size[i] - 1) * dilation[i] + 1;
    let (mut before, mut after) = (vec![0; size.len()], vec![0; size.len()]);
    match c.node.text("auto_pad", "NOTSET") {
        auto @ ("SAME_UPPER" | "SAME_LOWER") => {
            for i in 0..size.len() {
                let all = ((spatial[i].div_ceil(stride[i]) - 1) * stride[i] + reach(i)).saturating_sub(spatial[i]);
                let low = if auto == "SAME_UPPER" { all / 2 } else { all.div_ceil(2) };
                (before[i], after[i]) = (low, all - low);
            }
        }
        "VALID" => {}
        _ => {
            let pads = c.node.ints("pads").unwrap_or_else(|| vec![0; 2 * size.len()]);
            for i in 0..size.len() {
                (before[i], after[i]) = (pads[i] as usize, pads[i + size.len()] as usize);
            }
        }
    }
    Window::of(size).stride(&stride).dilation(&dilation).pad(&before, &after)
}

fn conv<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let (x, w) = (c.x(0)?, c.x(1)?);
    let (xs, ws) = (known(x), known(w));
    let bias = if c.has(2) { Some(c.x(2)?) } else { None };
    Ok(x.conv(w, bias, window(c, &ws[2..], &xs[2..]).groups(c.node.int("group", 1) as usize)))
}

/// The gradient of a convolution: zeros between elements, then a convolution with the weights backwards.
fn conv_transpose<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let (mut x, w) = (c.x(0)?, c.x(1)?);
    let (xs, ws) = (known(x), known(w));
    let (rank, groups) = (xs.len() - 2, c.node.int("group", 1) as usize);
    let win = window(c, &ws[2..], &xs[2..]);
    let mut extra = c.node.ints("output_padding").unwrap_or_else(|| vec![0; rank]);
    let auto = c.node.text("auto_pad", "NOTSET").to_string();
    let mut pads: Vec<(i64, i64)> = (0..rank).map(|i| (win.before[i] as i64, win.after[i] as i64)).collect();
    for i in 0..rank {
        let reach = ((ws[2 + i] - 1) * win.dilation[i] + 1) as i64;
        let whole = (win.stride[i] * (xs[2 + i] - 1)) as i64 + extra[i] + reach;
        let want = match (c.node.ints("output_shape"), &*auto) {
            (Some(shape), _) => Some(shape[shape.len() - rank + i]),
            (None, "SAME_UPPER" | "SAME_LOWER") => Some((xs[2 + i] * win.stride[i]) as i64),
            _ => None,
        };
        if let Some(want) = want {
            extra[i] += (want - whole).max(0);
            let all = (whole - want).max(0);
            pads[i] = if auto == "SAME_UPPER" { (all / 2, all - all / 2) } else { (all - all / 2, all / 2) };
        }
    }
    let mut w = w;
    for i in 0..rank {
        let (axis, stride) = (2 + i, win.stride[i]);
        if stride > 1 {
            let n = xs[axis];
            x = x.unsqueeze(axis + 1).pad(axis + 1, 0, stride - 1, 0.0).flatten(axis, axis + 1);
            x = x.slice(axis, 0, (n - 1) * stride + 1);
        }
        let reach = ((ws[axis] - 1) * win.dilation[i]) as i64;
        let (before, after) = (reach - pads[i].0, reach - pads[i].1 + extra[i]);
        x = x.pad(axis, before.max(0) as usize, after.max(0) as usize, 0.0);
        if before < 0 || after < 0 {
            let n = known(x)[axis] as i64;
            let (from, to) = ((-before).max(0), n - (-after).max(0));
            x = x.slice(axis, from, to - from);
        }
        w = w.flip(axis);
    }
    // [in, out / groups, …] as [out, in / groups, …].
    let apart: Vec<usize> = [&[groups, ws[0] / groups], &ws[1..]].concat();
    let joined: Vec<usize> = [&[groups * ws[1], ws[0] / groups], &ws[2..]].concat();
    let perm: Vec<usize> = [0, 2, 1].into_iter().chain(3..apart.len()).collect();
    let w = w.reshape(&apart[..]).transpose(&perm).reshape(&joined[..]);
    let bias = if c.has(2) { Some(c.x(2)?) } else { None };
    Ok(x.conv(w, bias, Window::of(&ws[2..]).dilation(&win.dilation).groups(groups)))
}

fn pool<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let x = c.x(0)?;
    let xs = known(x);
    let size: Vec<usize> = c.node.ints("kernel_shape").unwrap_or_default().iter().map(|v| *v as usize).collect();
    let mut w = window(c, &size, &xs[2..]);
    let counts = c.node.int("count_include_pad", 0) == 1;
    let mut beyond = false;
    if c.node.int("ceil_mode", 0) == 1 {
        for i in 0..size.len() {
            let reach = (size[i] - 1) * w.dilation[i] + 1;
            let room = xs[2 + i] + w.before[i] + w.after[i] - reach;
            let mut steps = room.div_ceil(w.stride[i]);
            // A window that begins behind the end does not count.
            if steps * w.stride[i] >= xs[2 + i] + w.before[i] {
                steps -= 1;
            }
            let more = (steps * w.stride[i]).saturating_sub(room);
            beyond |= more > 0;
            w.after[i] += more;
        }
    }
    if counts && beyond {
        return Err("an average that counts some of what is added".into());
    }
    Ok(match &*c.node.op {
        "MaxPool" if x.dtype() == DType::I32 => x.cast(DType::F32).max_pool(w).cast(DType::I32),
        "MaxPool" => x.max_pool(w),
        "AveragePool" => x.avg_pool(Window { count_padding: counts, ..w }),
        _ => {
            let p = c.node.int("p", 2) as f32;
            let power = x.abs().pow(c.g.constant(p));
            let n = size.iter().product::<usize>() as f32;
            (power.avg_pool(Window { count_padding: true, ..w }) * n).pow(c.g.constant(1.0 / p))
        }
    })
}

fn global_pool<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let x = c.x(0)?;
    let axes: Vec<usize> = (2..x.shape().rank()).collect();
    Ok(if c.node.op == "GlobalMaxPool" { x.max_keep(&axes) } else { x.mean_keep(&axes) })
}

fn einsum<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let all = (0..c.node.inputs.len()).map(|i| c.x(i)).collect::<Result<Vec<_>, _>>()?;
    Ok(c.g.einsum(c.node.text("equation", ""), &all))
}

fn rotary<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let x = c.x(0)?;
    let shape = known(x);
    let heads = c.node.int("num_heads", 0) as usize;
    // [batch, sequence, heads, width].
    let y = match shape.len() {
        4 => x.transpose(&[0, 2, 1, 3]),
        _ => x.reshape([shape[0], shape[1], heads, shape[2] / heads]),
    };
    let [b, s, h, d] = known(y)[..] else { return Err("shape".into()) };
    let turned = match c.node.int("rotary_embedding_dim", 0) as usize {
        0 => d,
        n => n,
    };
    let table = |i: usize| -> Result<Tensor<'g>, String> {
        let t = c.x(i)?;
        let t = if c.has(3) { t.gather(c.x(3)?) } else { t };
        Ok(t.reshape([b, s, 1, turned / 2]))
    };
    let (cos, sin) = (table(1)?, table(2)?);
    let (first, rest) = (y.slice(3, 0, turned), y.slice(3, turned, d - turned));
    let pairs = c.node.int("interleaved", 0) == 1;
    let half = turned / 2;
    let (p, q) = match pairs {
        true => (first.slice_step(3, 0, half, 2), first.slice_step(3, 1, half, 2)),
        false => (first.slice(3, 0, half), first.slice(3, half, half)),
    };
    let (u, v) = (p * cos - q * sin, p * sin + q * cos);
    let y = match pairs {
        true => c.g.stack(&[u, v], 4).reshape([b, s, h, turned]),
        false => c.g.concat(&[u, v], 3),
    };
    let y = if turned < d { c.g.concat(&[y, rest.cast(DType::F32)], 3) } else { y };
    Ok(if shape.len() == 4 { y.transpose(&[0, 2, 1, 3]) } else { y.reshape(&shape[..]) })
}

/// −w[target] · log p[target], by mean, sum or each.
fn loss<'g>(c: &Call<'g, '_>, log: Tensor<'g>) -> Result<Tensor<'g>, String> {
    let shape = known(log);
    let (classes, skip) = (shape[1], c.node.attribute("ignore_index").map(|a| a.int as f64));
    let target = c.host(1)?.clone();
    let kept: Vec<f64> = target.data.iter().map(|t| (Some(*t) != skip) as u8 as f64).collect();
    let safe: Vec<f64> = target.data.iter().zip(&kept).map(|(t, k)| t * k).collect();
    let kept = c.literal(Host::new(kind::F32, &target.shape, kept))?;
    let id = c.literal(Host::new(kind::I32, &target.shape, safe))?;
    let hot = id.one_hot(classes);
    let rank = shape.len();
    let perm: Vec<usize> = [0, rank - 1].into_iter().chain(1..rank - 1).collect();
    let picked = (log * hot.transpose(&perm)).sum(&[1]);
    let weight = if c.has(2) { c.x(2)?.gather(id) * kept } else { kept };
    let each = -(picked * weight);
    let axes: Vec<usize> = (0..rank - 1).collect();
    Ok(match c.node.text("reduction", "mean") {
        "none" => each,
        "sum" => each.sum(&axes),
        _ => each.sum(&axes) / weight.sum(&axes),
    })
}

fn cross_entropy<'g>(c: &Call<'g, '_>) -> Made<'g> {
    let log = c.x(0)?.log_softmax_over(1);
    let out = vec![(loss(c, log)?, c.kind(0)), (log, c.kind(0))];
    Ok(out.into_iter().take(c.node.outputs.len()).collect())
}

/// A scale or zero point along an axis of `rank` axes.
fn along<'g>(c: &Call<'g, '_>, i: usize, rank: usize) -> Result<Tensor<'g>, String> {
    let x = c.x(i)?.cast(DType::F32);
    if c.node.int("block_size", 0) != 0 {
        return Err("scales of blocks".into());
    }
    let n = known(x);
    if n.is_empty() || n == [1] {
        return Ok(x.reshape(&vec![1usize; rank][..]));
    }
    let mut shape = vec![1; rank];
    shape[at(c.node.int("axis", 1), rank)] = n[0];
    Ok(x.reshape(&shape[..]))
}

fn quantize<'g>(c: &Call<'g, '_>) -> Made<'g> {
    let x = c.x(0)?.cast(DType::F32);
    let rank = x.shape().rank();
    let to = if c.has(2) { c.host(2)?.kind } else { c.node.int("output_dtype", 2) as u64 };
    let (low, high) = match to {
        kind::U8 => (0.0, 255.0),
        kind::I8 => (-128.0, 127.0),
        kind::U16 => (0.0, 65535.0),
        kind::I16 => (-32768.0, 32767.0),
        _ => return Err(format!("type {to}")),
    };
    let mut y = (x / along(c, 1, rank)?).round();
    if c.has(2) {
        y = y + along(c, 2, rank)?;
    }
    Ok(vec![(y.clamp(low, high).cast(DType::I32), to)])
}

fn dequantize<'g>(c: &Call<'g, '_>) -> Made<'g> {
    let x = c.x(0)?.cast(DType::F32);
    let rank = x.shape().rank();
    let x = if c.has(2) { x - along(c, 2, rank)? } else { x };
    Ok(vec![(x * along(c, 1, rank)?, c.kind(1))])
}

fn matmul_integer<'g>(c: &Call<'g, '_>) -> Made<'g> {
    let of = |i: usize| -> Result<Tensor<'g>, String> {
        let x = exact(c, i)?;
        if !c.has(i + 2) {
            return Ok(x);
        }
        let zero = exact(c, i + 2)?;
        Ok(if i == 0 && zero.shape().rank() == 1 && known(zero)[0] > 1 { x - zero.unsqueeze(1) } else { x - zero })
    };
    Ok(vec![(product(of(0)?, of(1)?).round().cast(DType::I32), kind::I32)])
}

//! ONNX's `Attention`, written out: products, masks, a soft cap, softmax.

use super::Call;
use warpweft::{DType, Tensor};

type Made<'g> = Result<Vec<(Tensor<'g>, u64)>, String>;

fn known(x: Tensor) -> Vec<usize> {
    x.shape().known().unwrap_or_default()
}

/// `[batch, heads, rows, width]` of either form of an operand.
fn heads<'g>(x: Tensor<'g>, heads: usize) -> Result<Tensor<'g>, String> {
    match known(x)[..] {
        [_, _, _, _] => Ok(x),
        [b, s, w] if heads > 0 => Ok(x.reshape([b, s, heads, w / heads]).transpose(&[0, 2, 1, 3])),
        _ => Err("neither three nor four axes".into()),
    }
}

/// The mask, as wide as there are keys: those beyond it are hidden.
fn mask<'g>(c: &Call<'g, '_>, keys: usize) -> Result<Option<Tensor<'g>>, String> {
    if !c.has(3) {
        return Ok(None);
    }
    let mask = c.x(3)?;
    let truth = mask.dtype() == DType::Bool;
    let last = mask.shape().rank() - 1;
    let have = known(mask)[last];
    if have >= keys {
        return Ok(Some(if truth { mask } else { mask.cast(DType::F32) }));
    }
    let none = if truth { 0.0 } else { f32::NEG_INFINITY };
    let wide = mask.cast(DType::F32).pad(last, 0, keys - have, none);
    Ok(Some(if truth { wide.cast(DType::Bool) } else { wide }))
}

/// What hides keys behind a query, outside of its window or beyond a sequence's length: 0 or −∞.
fn bias<'g>(c: &Call<'g, '_>, b: usize, (s, t): (usize, usize), past: usize) -> Result<Option<Tensor<'g>>, String> {
    let hidden = c.g.constant(f32::NEG_INFINITY);
    let lengths = if c.has(6) { Some(c.x(6)?.reshape([b, 1, 1, 1])) } else { None };
    let row = c.g.iota(DType::I32, [s, 1], 0, past as i64);
    let row = lengths.map_or(row, |n| row + n - c.g.integer(DType::I32, s as i32));
    let key = c.g.iota(DType::I32, [1, t], 1, 0);
    let mut bias = None;
    let mut keep = |seen: Tensor<'g>| {
        let before = bias.unwrap_or(c.g.constant(0.0).broadcast([s, t]));
        bias = Some(seen.select(before, hidden));
    };
    if c.node.int("is_causal", 0) == 1 {
        keep(key.le(row));
    }
    if let Some(n) = lengths {
        keep(key.lt(n));
    }
    for (side, far) in [("left_window_size", row - key), ("right_window_size", key - row)] {
        let most = c.node.int(side, -1);
        if most >= 0 {
            keep(far.le(c.g.integer(DType::I32, most as i32)));
        }
    }
    Ok(bias)
}

pub fn attention<'g>(c: &Call<'g, '_>) -> Made<'g> {
    let flat = c.x(0)?.shape().rank() == 3;
    let (qh, kh) = (c.node.int("q_num_heads", 0) as usize, c.node.int("kv_num_heads", 0) as usize);
    let q = heads(c.x(0)?, qh)?.cast(DType::F32);
    let (mut k, mut v) = (heads(c.x(1)?, kh)?.cast(DType::F32), heads(c.x(2)?, kh)?.cast(DType::F32));
    let mut past = 0;
    if c.has(4) && c.has(5) {
        let (pk, pv) = (c.x(4)?.cast(DType::F32), c.x(5)?.cast(DType::F32));
        past = known(pk)[2];
        (k, v) = (c.g.concat(&[pk, k], 2), c.g.concat(&[pv, v], 2));
    }
    let present = (k, v);
    let [b, h, s, d] = known(q)[..] else { return Err("the queries' shape".into()) };
    let (groups, t) = (known(k)[1], known(k)[2]);
    let repeat = |x: Tensor<'g>| if groups == h { x } else { x.repeat_each(1, h / groups) };
    let (k, v) = (repeat(k), repeat(v));
    let scale = c.node.attribute("scale").map_or(1.0 / (d as f32).sqrt(), |a| a.float);
    let raw = (q * scale.sqrt()).matmul_t(k * scale.sqrt());
    let mut scores = raw;
    let cap = c.node.float("softcap", 0.0);
    let hidden = c.g.constant(f32::NEG_INFINITY);
    let masked = mask(c, t)?;
    let apply = |x: Tensor<'g>, mask: Tensor<'g>| match mask.dtype() {
        DType::Bool => mask.select(x, hidden),
        _ => x + mask,
    };
    let bias = bias(c, b, (s, t), past)?;
    if cap != 0.0 {
        scores = (scores * (1.0 / cap)).tanh() * cap;
    }
    let capped = scores;
    if let Some(mask) = masked {
        scores = apply(scores, mask);
    }
    if let Some(bias) = bias {
        scores = scores + bias;
    }
    let weights = scores.softmax();
    // A row that sees nothing is zeros.
    let blind = scores.max_keep(&[3]).eq(hidden);
    let weights = blind.select(c.g.constant(0.0), weights);
    let y = weights.matmul(v);
    let width = known(v)[3];
    let y = if flat { y.transpose(&[0, 2, 1, 3]).reshape([b, s, h * width]) } else { y };
    let shown = match c.node.int("qk_matmul_output_mode", 0) {
        0 => raw,
        1 => capped,
        2 => scores,
        _ => weights,
    };
    let all = [(y, c.kind(0)), (present.0, c.kind(1)), (present.1, c.kind(2)), (shown, c.kind(0))];
    Ok(all.into_iter().take(c.node.outputs.len()).collect())
}

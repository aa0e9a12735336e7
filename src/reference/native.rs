//! The fallback's short cuts: composites and elementwise ops that run on contiguous f32 rows.

use super::call::Call;
use super::dot;
use super::value::{Data, Real, Tensor};
use crate::base::{DType, Result};
use crate::op::{Attrs, Fused};
use rayon::prelude::*;
use std::borrow::Cow;

/// Elements from which splitting over threads pays.
pub const MANY: usize = 1 << 14;

/// A composite that the interpreter keeps whole.
pub fn run<T: Real>(call: &Call<T>, fused: Fused) -> Result<Tensor<T>> {
    match fused {
        Fused::Softmax => Ok(rows(call, |x, _, y| softmax(x, y, false))),
        Fused::LogSoftmax => Ok(rows(call, |x, _, y| softmax(x, y, true))),
        Fused::LayerNorm => norm(call, true),
        Fused::RmsNorm => norm(call, false),
        Fused::Attention => attention(call),
        Fused::ExpertMatmul => expert_matmul(call),
        // Run as their definitions.
        Fused::Parts | Fused::PagedAttention => Err(call.wrong()),
    }
}

/// Elementwise arithmetic on contiguous f32 operands of one shape.
pub fn scalar<T: Real>(call: &Call<T>) -> Option<Tensor<T>> {
    let same = |t: &&Tensor<T>| matches!(t.data, Data::Floats(_)) && t.shape == call.shape && t.is_contiguous();
    if !T::FALLBACK || call.dtype != DType::F32 || !call.operands.iter().all(same) {
        return None;
    }
    let x = call.operands[0].slice();
    let binary = |f: fn(f32, f32) -> f32| {
        let y = call.operands[1].slice();
        x.iter().zip(y.iter()).map(|(a, b)| T::of(f(a.get() as f32, b.get() as f32) as f64)).collect()
    };
    let unary = |f: fn(f32) -> f32| -> Vec<T> {
        let one = |a: &T| T::of(f(a.get() as f32) as f64);
        if x.len() >= MANY { x.par_iter().map(one).collect() } else { x.iter().map(one).collect() }
    };
    let out = match call.def.name {
        "add" => binary(|a, b| a + b),
        "sub" => binary(|a, b| a - b),
        "mul" => binary(|a, b| a * b),
        "div" => binary(|a, b| a / b),
        "silu" => unary(|a| a / (1.0 + (-a).exp())),
        "gelu" => unary(|a| 0.5 * a * (1.0 + libm::erff(a * std::f32::consts::FRAC_1_SQRT_2))),
        _ => return None,
    };
    Some(Tensor::floats(out, &call.shape))
}

/// Applies `f` to every row of the last axis.
fn rows<T: Real>(call: &Call<T>, f: impl Fn(&[T], usize, &mut [T]) + Sync) -> Tensor<T> {
    let x = call.operands[0].slice();
    let width = call.shape[call.shape.len() - 1].max(1);
    let mut out = vec![T::default(); x.len()];
    out.par_chunks_mut(width).zip(x.par_chunks(width)).enumerate().for_each(|(i, (y, x))| f(x, i, y));
    Tensor::floats(out, &call.shape)
}

fn softmax<T: Real>(x: &[T], y: &mut [T], log: bool) {
    let most = x.iter().fold(f64::NEG_INFINITY, |m, v| m.max(v.get()));
    let sum: f64 = x.iter().map(|v| (v.get() - most).exp()).sum();
    for (y, x) in y.iter_mut().zip(x) {
        let shifted = x.get() - most;
        *y = T::of(if log { shifted - sum.ln() } else { shifted.exp() / sum });
    }
}

fn norm<T: Real>(call: &Call<T>, centred: bool) -> Result<Tensor<T>> {
    let Attrs::Norm { eps } = *call.attrs else { return Err(call.wrong()) };
    let w = call.operands[1].slice();
    let b = call.operands.get(2).map(|b| b.slice());
    Ok(rows(call, |x, _, y| {
        let n = x.len() as f64;
        let mean = if centred { x.iter().map(|v| v.get()).sum::<f64>() / n } else { 0.0 };
        let square = x.iter().map(|v| (v.get() - mean).powi(2)).sum::<f64>() / n;
        let scale = 1.0 / (square + eps as f64).sqrt();
        for (i, (y, x)) in y.iter_mut().zip(x).enumerate() {
            *y = T::of((x.get() - mean) * scale * w[i].get() + b.as_ref().map_or(0.0, |b| b[i].get()));
        }
    }))
}

/// The `d` elements of the last axis from `start` on, without a copy where they lie side by side in f32.
fn row_of<'a, T: Real>(data: &'a [T], t: &Tensor<T>, start: usize, d: usize) -> Cow<'a, [f32]> {
    let stride = t.strides[3];
    match T::as_f32s(data) {
        Some(x) if stride == 1 => Cow::Borrowed(&x[start..start + d]),
        _ => (0..d).map(|j| data[start + j * stride].get() as f32).collect(),
    }
}

/// Each token by itself: its experts' rows, read once.
fn expert_matmul<T: Real>(call: &Call<T>) -> Result<Tensor<T>> {
    let (x, w, first) = (call.operands[0], call.operands[1], call.operands[2]);
    let [_, slots, out] = call.shape[..] else { return Err(call.wrong()) };
    let (rows, k) = (w.shape[0], w.shape[1]);
    let places: Vec<f64> = first.offsets().map(|i| first.at(i)).collect();
    let mut y = vec![T::default(); call.shape.iter().product()];
    y.par_chunks_mut(out.max(1)).enumerate().try_for_each(|(i, y)| {
        let slot = if x.shape[1] == 1 { 0 } else { i % slots };
        let from = x.offset + (i / slots) * x.strides[0] + slot * x.strides[1];
        let token: Vec<f32> = (0..k).map(|c| x.at(from + c * x.strides[2]) as f32).collect();
        let mut row = vec![0.0f32; k];
        for (j, y) in y.iter_mut().enumerate() {
            let at = places[i] + j as f64;
            if at < 0.0 || at >= rows as f64 {
                continue;
            }
            match &w.data {
                Data::Rows(held) => held.row(at as usize, &mut row)?,
                _ => {
                    let base = w.offset + at as usize * w.strides[0];
                    row.iter_mut().enumerate().for_each(|(c, r)| *r = w.at(base + c * w.strides[1]) as f32);
                }
            }
            *y = T::of(dot::plain(&token, &row) as f64);
        }
        Ok(())
    })?;
    Ok(Tensor::floats(y, &call.shape))
}

/// Each query of each head by itself, over the keys that it sees.
fn attention<T: Real>(call: &Call<T>) -> Result<Tensor<T>> {
    let Attrs::Attention(how) = call.attrs else { return Err(call.wrong()) };
    let (q, k, v) = (call.operands[0], call.operands[1], call.operands[2]);
    let [_, s, h, d] = q.shape[..] else { return Err(call.wrong()) };
    let (t, groups) = (k.shape[1], k.shape[2]);
    let past = match how.causal {
        Some(past) => Some(past.eval(call.bindings)? as usize),
        None => None,
    };
    let extra = call.operands.get(3);
    let sinks = extra.filter(|_| how.sinks);
    let mask = extra.filter(|_| !how.sinks).map(|m| m.broadcast(&[q.shape[0], h, s, t]));
    let truth = mask.as_ref().is_some_and(|m| matches!(m.data, Data::Ints(_)));
    let (Data::Floats(qd), Data::Floats(kd), Data::Floats(vd)) = (&q.data, &k.data, &v.data) else {
        return Err(call.wrong());
    };
    let at = |x: &Tensor<T>, b: usize, row: usize, head: usize| {
        x.offset + b * x.strides[0] + row * x.strides[1] + head * x.strides[2]
    };
    let mut out = vec![T::default(); q.count()];
    out.par_chunks_mut(d.max(1)).enumerate().for_each(|(i, y)| {
        let (b, row, head) = (i / (s * h), i / h % s, i % h);
        let g = head / (h / groups);
        let end = past.map_or(t, |p| (p + row + 1).min(t));
        let start = match (past, how.window) {
            (Some(p), Some(w)) => (p + row + 1).saturating_sub(w as usize),
            _ => 0,
        };
        let q0 = at(q, b, row, head);
        let query: Vec<f32> = (0..d).map(|j| qd[q0 + j * q.strides[3]].get() as f32).collect();
        let mut scores: Vec<f32> = (start..end)
            .map(|key| {
                let score = dot::plain(&query, &row_of(kd, k, at(k, b, key, g), d)) * how.scale;
                let score = how.softcap.map_or(score, |cap| cap * (score / cap).tanh());
                match &mask {
                    Some(m) => {
                        let seen = m.at(m.offset
                            + b * m.strides[0]
                            + head * m.strides[1]
                            + row * m.strides[2]
                            + key * m.strides[3]);
                        if truth { if seen != 0.0 { score } else { -f32::MAX } } else { score + seen as f32 }
                    }
                    None => score,
                }
            })
            .collect();
        let own = sinks.map(|s| s.at(s.offset + head * s.strides[0]) as f32);
        let most = scores.iter().fold(f32::NEG_INFINITY, |m, x| m.max(*x));
        if most <= -f32::MAX {
            // Nothing is seen: zeros, as they stand.
            return;
        }
        let most = own.map_or(most, |own| own.max(most));
        scores.iter_mut().for_each(|x| *x = (*x - most).exp());
        let sum: f32 = scores.iter().sum::<f32>() + own.map_or(0.0, |s| (s - most).exp());
        let mut acc = vec![0.0f32; d];
        for (key, weight) in (start..end).zip(&scores) {
            dot::add_scaled(*weight, &row_of(vd, v, at(v, b, key, g), d), &mut acc);
        }
        y.iter_mut().zip(acc).for_each(|(y, a)| *y = T::of((a / sum) as f64));
    });
    Ok(Tensor::floats(out, &call.shape))
}

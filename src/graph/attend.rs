//! Attention, rotary positions and norms where the ops of those names have no form: written in other ops.

use super::{Attention, RopeLayout, Tensor};
use crate::base::{DType, Dim, Error};

/// What no score can be below: hidden keys have it.
const HIDDEN: f32 = -f32::MAX;

impl<'g> Tensor<'g> {
    /// Attention with its weights, for values of any width and rows with keys of their own number.
    ///
    /// Queries `self` `[b, s, h, d]`, keys `[b, t, g, d]`, values `[b, t, g, e]`, a mask as [`Tensor::attention`] takes it, and
    /// `lengths` u32 `[b]`, of which each says how many keys its row has. Gives `[b, s, h, e]`, and the weights `[b, h, s, t]`:
    /// the softmax of the scores, zeros where nothing is seen. Slower than [`Tensor::attention`], which keeps no weights.
    pub fn attention_with_weights(
        self,
        k: Tensor<'_>,
        v: Tensor<'_>,
        mask: Option<Tensor<'_>>,
        lengths: Option<Tensor<'_>>,
        how: Attention,
    ) -> (Self, Self) {
        let g = self.builder();
        if g.has_failed() {
            return (self, self);
        }
        let [(q, k), (v, _)] = [(self, g.adopt(k)), (g.adopt(v), self)];
        let shapes = [q.shape(), k.shape(), v.shape()];
        let heads = |i: usize| shapes[i].get(2).and_then(|d| d.known()).filter(|n| *n > 0).unwrap_or(0);
        let fits = shapes.iter().all(|s| s.rank() == 4)
            && heads(1) > 0
            && heads(0) % heads(1) == 0
            && shapes[1][..3] == shapes[2][..3]
            && shapes[0][3] == shapes[1][3]
            && !how.sinks;
        if !fits {
            let [q, k, v] = shapes;
            let what = format!(
                "q is {q}, k is {k} and v is {v}: they must be [b, s, h, d], [b, t, g, d] and [b, t, g, e] with heads that \
                 share keys evenly, and no sinks"
            );
            let failed = g.fail(Error::op("attention_with_weights", "", what));
            return (failed, failed);
        }
        let ([b, s, h, d], [t, groups, e]) = ([0, 1, 2, 3].map(|i| q.dim(i)), [k.dim(1), k.dim(2), v.dim(3)]);
        let (one, each) = (Dim::new(1), Dim::new(heads(0) / heads(1)));
        let rows = |x: Self, width: Dim| x.transpose(&[0, 2, 1, 3]).reshape(vec![b, groups, one, t, width]);
        let grouped = q.cast(DType::F32).reshape(vec![b, s, groups, each, d]).transpose(&[0, 2, 3, 1, 4]);
        let products = grouped.matmul_t(rows(k.cast(DType::F32), d)).reshape(vec![b, h, s, t]);
        let mut scores = products * how.scale;
        if let Some(cap) = how.softcap {
            scores = (scores * (1.0 / cap)).tanh() * cap;
        }
        let hidden = g.constant(HIDDEN);
        if let Some(mask) = mask.map(|m| g.adopt(m)) {
            scores = if mask.dtype() == DType::Bool { mask.select(scores, hidden) } else { scores + mask };
        }
        let keys = |from: Dim| g.iota(DType::U32, vec![one, one, one, t], 3, from);
        if let Some(past) = how.causal {
            let queries = g.iota(DType::U32, vec![one, one, s, one], 2, past);
            scores = keys(Dim::new(0)).le(queries).select(scores, hidden);
            if let Some(window) = how.window {
                scores = keys(Dim::from(window)).gt(queries).select(scores, hidden);
            }
        }
        if let Some(lengths) = lengths {
            let lengths = g.adopt(lengths).reshape(vec![b, one, one, one]);
            scores = keys(Dim::new(0)).lt(lengths).select(scores, hidden);
        }
        let seen = scores.max_keep(&[3]).gt(hidden);
        let weights = seen.select(scores.softmax(), g.constant(0.0));
        let y = weights.reshape(vec![b, groups, each, s, t]).matmul(rows(v.cast(DType::F32), e));
        (y.reshape(vec![b, h, s, e]).transpose(&[0, 2, 1, 3]), weights)
    }

    /// Rotary positions with tables of each row's own: `self` `[..., s, h, d]`, tables `[..., s, d/2]`.
    pub(super) fn rope_by_rows(self, cos: Tensor<'_>, sin: Tensor<'_>, layout: RopeLayout) -> Self {
        let g = self.builder();
        let shape = self.shape();
        let last = shape.rank().saturating_sub(1);
        let half = shape.get(last).and_then(|d| d.known()).filter(|d| *d % 2 == 0).map(|d| d / 2);
        let (Some(half), true) = (half, cos.shape().rank() == last && shape.rank() > 2) else {
            let what =
                format!("x is {shape} and the tables {}: they must be [..., s, h, d] and [..., s, d/2]", cos.shape());
            return g.fail(Error::op("rope", "", what));
        };
        let [cos, sin] = [cos, sin].map(|table| g.adopt(table).unsqueeze(last - 1));
        let turned = |a: Self, b: Self| [a * cos - b * sin, b * cos + a * sin];
        match layout {
            RopeLayout::Half => {
                let part = |i: i64| self.slice(last, i * half, half);
                g.concat(&turned(part(0), part(1)), last)
            }
            RopeLayout::Interleaved => {
                let mut pairs = shape.0[..last].to_vec();
                pairs.extend([Dim::new(half), Dim::new(2)]);
                let pairs = self.reshape(pairs);
                let part = |i: i64| pairs.slice(last + 1, i, 1).squeeze(last + 1);
                g.stack(&turned(part(0), part(1)), last + 1).reshape(shape)
            }
        }
    }

    /// Less the mean and divided by the standard deviation over `axes`: `(x − mean) / √(variance + eps)`. A norm over any axes
    /// (of groups, of instances, of batches) is this with a weight and a bias behind it; [`Tensor::layer_norm`] has a kernel.
    pub fn normalized(self, axes: &[usize], eps: f32) -> Self {
        let distance = self - self.mean_keep(axes);
        distance * ((distance * distance).mean_keep(axes) + eps).rsqrt()
    }
    /// Divided by the root of the mean square over `axes`: `x / √(mean(x²) + eps)`. [`Tensor::rms_norm`] has a kernel.
    pub fn rms_normalized(self, axes: &[usize], eps: f32) -> Self {
        self * ((self * self).mean_keep(axes) + eps).rsqrt()
    }
    /// The smallest over axes, which stay with one element.
    pub fn min_keep(self, axes: &[usize]) -> Self {
        self.reduced(&crate::op::MIN, &crate::op::INT_MIN, axes, true)
    }
}

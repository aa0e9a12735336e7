//! Multi-head latent attention (DeepSeek-AI, 2024): keys and values of all heads are made of one short vector of each token,
//! which is all that is kept of it, beside the part of its key that turns.

use super::{Blocks, Norm, Rope, Rows, Side};
use crate::base::{Cut, DType, Dim, Error, MeshAxis, Placement::Split};
use crate::graph::Tensor;

/// The options of a layer's attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LatentAttention {
    pub width: usize,
    pub heads: usize,
    /// Elements of the latent vector that queries are made of; without, they are made of the token.
    pub query_rank: Option<usize>,
    /// Elements of that of keys and values.
    pub rank: usize,
    /// Elements of a head's key that stay, and those that turn, which all heads share.
    pub still: usize,
    pub turning: usize,
    /// Elements of a head's value.
    pub value: usize,
    /// What scores are multiplied by.
    pub scale: f32,
    /// Of the latent vectors.
    pub norm: Norm,
    /// Whether the products that make latent vectors and the last one have biases.
    pub bias: bool,
    /// Whether the matrices of keys lie by columns, apart from those of values.
    pub split: bool,
}

impl LatentAttention {
    /// Elements that are kept of a token.
    pub fn kept(&self) -> usize {
        self.rank + self.turning
    }

    /// `h`: the tokens of the step `[rows, width]`; so is the result.
    ///
    /// Keys and values are never made: a query is brought into the latent space instead, `q·(W·c) = (qᵀW)·c`, and what is
    /// read there is brought out of it by the heads' own matrices.
    pub fn build<'g>(&self, b: &Blocks<'_, 'g>, layer: usize, rope: &Rope, h: Tensor<'g>) -> Tensor<'g> {
        let n = b.rows.count();
        let (batch, seq) = match b.rows {
            Rows::Cached { seq, .. } | Rows::Paged { rows: seq } => (Dim::new(1), seq),
            Rows::Whole { batch, seq } => (batch.into(), Dim::from(seq)),
        };
        let q =
            self.queries(b, layer, h).reshape(vec![batch, seq, self.heads.into(), (self.still + self.turning).into()]);
        b.at(layer, "attention.latent");
        let kept = b.linear(Some(layer), "attn_kv_a_mqa", h, [self.kept(), self.width], Side::Whole, self.bias);
        let latent = self.norm.build(b, Some(layer), "attn_kv_a_norm", kept.slice(1, 0, self.rank as i64), self.rank);
        let turning = kept.slice(1, self.rank as i64, self.turning as i64);
        b.at(layer, "attention.rope");
        let (cos, sin) = b.angles[0];
        let turning = turning.reshape(vec![batch, seq, 1.into(), self.turning.into()]).rope(cos, sin, rope.layout);
        let q_turned = q.slice(3, self.still as i64, self.turning as i64).rope(cos, sin, rope.layout);
        let turning = turning.reshape(vec![n, self.turning.into()]);
        let (latent, turning, past) = self.kept_rows(b, layer, latent, turning, batch);

        b.at(layer, "attention");
        let by_head = [0, 2, 1, 3];
        let still = q.slice(3, 0, self.still as i64).transpose(&by_head);
        let inward = match self.split {
            false => still.matmul(self.matrices(b, layer, "attn_k_b", [self.still, self.rank])),
            true => still.matmul_t(self.matrices(b, layer, "attn_k_b", [self.rank, self.still])),
        };
        let scores = inward.matmul_t(latent) + q_turned.transpose(&by_head).matmul_t(turning);
        let (one, total) = (Dim::new(1), latent.dim(2));
        let (keys, queries) =
            (b.g.iota(DType::I32, vec![one, total], 1, 0), b.g.iota(DType::I32, vec![seq, one], 0, past));
        let scores = keys.le(queries).select(scores * self.scale, b.g.constant(-f32::MAX));
        let read = scores.softmax().matmul(latent);
        let y = read.matmul_t(self.matrices(b, layer, "attn_v_b", [self.value, self.rank])).transpose(&by_head);
        b.at(layer, "attention.output");
        let width = self.heads * self.value;
        let y = y.reshape(vec![n, width.into()]);
        let heads = Cut::Even { unit: self.value as u32 };
        b.linear(Some(layer), "attn_output", y, [self.width, width], Side::Inputs(heads), self.bias)
    }

    /// `[rows, heads · (still + turning)]`.
    fn queries<'g>(&self, b: &Blocks<'_, 'g>, layer: usize, h: Tensor<'g>) -> Tensor<'g> {
        b.at(layer, "attention.q");
        let head = self.still + self.turning;
        let (to, heads) = (self.heads * head, Side::Outputs(Cut::Even { unit: head as u32 }));
        let Some(rank) = self.query_rank else {
            return b.linear(Some(layer), "attn_q", h, [to, self.width], heads, false);
        };
        let q = b.linear(Some(layer), "attn_q_a", h, [rank, self.width], Side::Whole, self.bias);
        let q = self.norm.build(b, Some(layer), "attn_q_a_norm", q, rank);
        b.linear(Some(layer), "attn_q_b", q, [to, rank], heads, false)
    }

    /// A matrix of each head between the latent space and elements of the head, `[1, heads, rows, columns]`.
    fn matrices<'g>(&self, b: &Blocks<'_, 'g>, layer: usize, part: &str, [rows, columns]: [usize; 2]) -> Tensor<'g> {
        let lies = Some((Split(0), Cut::Even { unit: rows as u32 }));
        let w = b.part(Some(layer), part, "weight", &[self.heads * rows, columns], lies);
        let w = match w.dtype().is_quantised() {
            true => w.gather(b.g.iota(DType::U32, [self.heads * rows], 0, 0)),
            false => w.cast(DType::F32),
        };
        w.reshape([1, self.heads, rows, columns])
    }

    /// New rows behind those before, all `[batch, 1, tokens, ...]`, and how many were there.
    fn kept_rows<'g>(
        &self,
        b: &Blocks<'_, 'g>,
        layer: usize,
        latent: Tensor<'g>,
        turning: Tensor<'g>,
        batch: Dim,
    ) -> (Tensor<'g>, Tensor<'g>, Dim) {
        let one = Dim::new(1);
        match b.rows {
            Rows::Cached { seq, total, context } => {
                let state = |name: &str, rows: Tensor<'g>, width: usize| {
                    let state = b.g.state(&format!("layers.{layer}.{name}"), DType::F32, [context, width]);
                    let stripes = Cut::Stripe { from: 0.into() };
                    let state = state.cut(MeshAxis::Context, Split(0), stripes);
                    let all = state.append(rows, total - seq).slice(0, 0, total);
                    all.reshape(vec![one, one, total, width.into()])
                };
                (state("latent", latent, self.rank), state("turning", turning, self.turning), total - seq)
            }
            Rows::Paged { .. } => {
                let what = "keeps latent vectors, which lie in no pages: a step takes one of its sequences only";
                let x = b.g.fail(Error::model(b.model, what));
                (x, x, 0.into())
            }
            Rows::Whole { seq, .. } => {
                let rows = |x: Tensor<'g>, width: usize| x.reshape(vec![batch, one, seq.into(), width.into()]);
                (rows(latent, self.rank), rows(turning, self.turning), 0.into())
            }
        }
    }
}

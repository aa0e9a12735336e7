//! Attention of tokens to those before them (Vaswani et al., 2017), with shared key heads (Ainslie et al., 2023), rotary
//! positions, and keys and values kept between steps.

use super::{Blocks, Names, Norm, Rope, Rows, Side};
use crate::base::{Cut, DType, Dim, MeshAxis, Placement::Split, Result};
use crate::graph::{self, RopeLayout, Tensor};
use crate::model::keys::Keys;

/// The options of a layer's attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attention {
    pub width: usize,
    pub heads: usize,
    /// Heads of keys and values, each of which as many query heads share.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head: usize,
    /// What scores are multiplied by: `1/√head` mostly.
    pub scale: f32,
    /// A query sees this many of the newest keys at most (Beltagy et al., 2020).
    pub window: Option<u32>,
    /// Which of the model's rotations turns queries and keys.
    pub rope: Option<usize>,
    /// Scores are bent to within ± this.
    pub softcap: Option<f32>,
    /// Whether each head has a learnt score beside those of its keys.
    pub sinks: bool,
    pub qk_norm: QkNorm,
    /// Whether what a head reads is multiplied by the sigmoid of a gate, a product of its own (Qiu et al., 2025).
    pub gated: bool,
    pub biases: Biases,
}

/// Norms of queries and keys before they turn (Dehghani et al., 2023).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum QkNorm {
    None,
    /// Of each head.
    Head(Norm),
    /// Of all heads together.
    Whole(Norm),
}

/// Which projections have biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Biases {
    pub qkv: bool,
    pub out: bool,
}

impl Biases {
    /// A GGUF file shows them by its tensors, a config.json by `attention_bias`, else they are the family's.
    pub fn read(at: &Keys, names: &Names, default: Biases) -> Result<Biases> {
        let has = |part: &str| at.has_tensor(&names.tensor(Some(0), part, "bias"));
        Ok(match at.flag("", "attention_bias")? {
            _ if at.is_gguf() => Biases { qkv: has("attn_q"), out: has("attn_output") },
            Some(all) => Biases { qkv: all, out: all },
            None => default,
        })
    }
}

/// Of each layer: Qwen's later layers slide where `use_sliding_window` says so.
pub fn late_windows(at: &Keys, layers: usize) -> Result<Vec<Option<u32>>> {
    let on = at.is_gguf() || at.flag("", "use_sliding_window")?.unwrap_or(false);
    let window = at.window(Some(4096))?.filter(|_| on);
    let from = at.number("", "max_window_layers")?.unwrap_or(28.0);
    let slides = at.sliding_layers(layers, |i| i as f64 >= from)?;
    Ok(slides.iter().map(|slides| window.filter(|_| *slides).map(|n| n as u32)).collect())
}

impl Attention {
    /// Which elements of queries, and of keys and values, a tensor rank has: whole heads, groups together.
    fn cuts(&self) -> (Cut, Cut) {
        let (groups, each, width) = (self.kv_heads as u32, (self.heads / self.kv_heads) as u32, self.head as u32);
        (Cut::Query { groups, each, width }, Cut::Key { groups, each, width })
    }

    /// `h`: the tokens of the step `[rows, width]`; so is the result.
    pub fn build<'g>(&self, b: &Blocks<'_, 'g>, layer: usize, ropes: &[Rope], h: Tensor<'g>) -> Tensor<'g> {
        let (q_width, kv_width) = (self.heads * self.head, self.kv_heads * self.head);
        let (queries, keys) = self.cuts();
        b.at(layer, "attention.qkv");
        let project = |part: &str, rows: usize, cut: Cut| {
            b.linear(Some(layer), part, h, [rows, self.width], Side::Outputs(cut), self.biases.qkv)
        };
        let (q, k, v) =
            (project("attn_q", q_width, queries), project("attn_k", kv_width, keys), project("attn_v", kv_width, keys));
        let q = self.normed(b, layer, "attn_q_norm", q, self.heads);
        let k = self.normed(b, layer, "attn_k_norm", k, self.kv_heads);
        let gate = self.gated.then(|| project("attn_q_gate", q_width, queries));
        b.at(layer, "attention.rope");
        let layout = self.rope.and_then(|i| ropes.get(i)).map(|r| (r.layout, r.width));
        let y = match b.rows {
            Rows::Cached { seq, total, context } => self.cached(b, layer, [q, k, v], layout, (seq, total, context)),
            Rows::Paged { rows } => self.paged(b, layer, [q, k, v], layout, rows),
            Rows::Whole { batch, seq } => self.uncached(b, layer, [q, k, v], layout, (batch, seq)),
        };
        b.at(layer, "attention.output");
        let y = gate.map_or(y, |gate| y * gate.sigmoid());
        b.linear(Some(layer), "attn_output", y, [self.width, q_width], Side::Inputs(queries), self.biases.out)
    }

    fn normed<'g>(&self, b: &Blocks<'_, 'g>, layer: usize, part: &str, x: Tensor<'g>, heads: usize) -> Tensor<'g> {
        match self.qk_norm {
            QkNorm::None => x,
            QkNorm::Whole(norm) => norm.build(b, Some(layer), part, x, heads * self.head),
            QkNorm::Head(norm) => {
                let x = x.reshape(vec![b.rows.count(), heads.into(), self.head.into()]);
                let x = norm.build(b, Some(layer), part, x, self.head);
                x.reshape(vec![b.rows.count(), (heads * self.head).into()])
            }
        }
    }

    /// Turns the first elements of each head; x is `[..., seq, heads, head]`.
    fn turned<'g>(&self, b: &Blocks<'_, 'g>, x: Tensor<'g>, layout: Option<(RopeLayout, usize)>) -> Tensor<'g> {
        let (Some((layout, width)), Some(i)) = (layout, self.rope) else { return x };
        let (cos, sin) = b.angles[i];
        if width == self.head {
            return x.rope(cos, sin, layout);
        }
        let axis = x.shape().rank().saturating_sub(1);
        let turning = x.slice(axis, 0, width as i64).rope(cos, sin, layout);
        b.g.concat(&[turning, x.slice(axis, width as i64, (self.head - width) as i64)], axis)
    }

    /// New rows join the keys and values of those before, and see them all.
    fn cached<'g>(
        &self,
        b: &Blocks<'_, 'g>,
        layer: usize,
        [q, k, v]: [Tensor<'g>; 3],
        layout: Option<(RopeLayout, usize)>,
        (seq, total, context): (Dim, Dim, usize),
    ) -> Tensor<'g> {
        let (q_width, kv_width, (_, keys)) = (self.heads * self.head, self.kv_heads * self.head, self.cuts());
        let rope =
            |t: Tensor<'g>, heads: usize| self.turned(b, t.reshape(vec![seq, heads.into(), self.head.into()]), layout);
        let (q, k) = (rope(q, self.heads), rope(k, self.kv_heads).reshape(vec![seq, kv_width.into()]));
        let state = |name: &str, rows: Tensor<'g>| {
            let state = b.g.state(&format!("layers.{layer}.{name}"), DType::F32, [context, kv_width]);
            let stripes = Cut::Stripe { from: 0.into() };
            let state = state.cut(MeshAxis::Tensor, Split(1), keys).cut(MeshAxis::Context, Split(0), stripes);
            let all = state.append(rows, total - seq).slice(0, 0, total);
            all.reshape(vec![1.into(), total, self.kv_heads.into(), self.head.into()])
        };
        let (k, v) = (state("k", k), state("v", v));
        b.at(layer, "attention");
        let q = q.reshape(vec![1.into(), seq, self.heads.into(), self.head.into()]);
        self.scores(b, layer, [q, k, v], total - seq).reshape(vec![seq, q_width.into()])
    }

    /// New rows of many sequences go into pages, and see those of their own.
    fn paged<'g>(
        &self,
        b: &Blocks<'_, 'g>,
        layer: usize,
        [q, k, v]: [Tensor<'g>; 3],
        layout: Option<(RopeLayout, usize)>,
        rows: Dim,
    ) -> Tensor<'g> {
        let Some(pages) = &b.pages else { return q };
        let (q_width, kv_width, (_, keys)) = (self.heads * self.head, self.kv_heads * self.head, self.cuts());
        let rope =
            |t: Tensor<'g>, heads: usize| self.turned(b, t.reshape(vec![rows, heads.into(), self.head.into()]), layout);
        let (q, k) = (rope(q, self.heads), rope(k, self.kv_heads).reshape(vec![rows, kv_width.into()]));
        let pool = |name: &str, new: Tensor<'g>| {
            let name = format!("layers.{layer}.{name}");
            if pages.kv.is_quantised() {
                // Blocks end where heads do.
                let pool = b.g.state(&name, pages.kv, [pages.pool, self.kv_heads, self.head]);
                let new = new.reshape(vec![rows, self.kv_heads.into(), self.head.into()]);
                return pool.append_at(new, pages.places);
            }
            let pool = b.g.state(&name, pages.kv, [pages.pool, kv_width]);
            let all = pool.cut(MeshAxis::Tensor, Split(1), keys).append_at(new, pages.places);
            all.reshape([pages.pool, self.kv_heads, self.head])
        };
        let at = pages.of(pool("k", k), pool("v", v));
        b.at(layer, "attention");
        let y = q.paged_attention(at, self.sinks(b, layer), pages.page, self.how(None));
        y.reshape(vec![rows, q_width.into()])
    }

    /// Sequences from their first token on.
    fn uncached<'g>(
        &self,
        b: &Blocks<'_, 'g>,
        layer: usize,
        [q, k, v]: [Tensor<'g>; 3],
        layout: Option<(RopeLayout, usize)>,
        (batch, seq): (usize, usize),
    ) -> Tensor<'g> {
        let heads = |t: Tensor<'g>, heads: usize| t.reshape([batch, seq, heads, self.head]);
        let (q, k, v) = (
            self.turned(b, heads(q, self.heads), layout),
            self.turned(b, heads(k, self.kv_heads), layout),
            heads(v, self.kv_heads),
        );
        b.at(layer, "attention");
        self.scores(b, layer, [q, k, v], 0.into()).reshape([batch * seq, self.heads * self.head])
    }

    fn scores<'g>(&self, b: &Blocks<'_, 'g>, layer: usize, [q, k, v]: [Tensor<'g>; 3], past: Dim) -> Tensor<'g> {
        match self.sinks(b, layer) {
            Some(sinks) => q.attention_with_sinks(k, v, sinks, self.how(Some(past))),
            None => q.attention(k, v, None, self.how(Some(past))),
        }
    }

    fn how(&self, causal: Option<Dim>) -> graph::Attention {
        let (window, softcap) = (self.window, self.softcap);
        graph::Attention { scale: self.scale, causal, window, softcap, sinks: false }
    }

    /// A score for each head, where it has them.
    fn sinks<'g>(&self, b: &Blocks<'_, 'g>, layer: usize) -> Option<Tensor<'g>> {
        let Cut::Query { groups, each, .. } = self.cuts().0 else { return None };
        let heads = Cut::Query { groups, each, width: 1 };
        let part = || b.part(Some(layer), "attn_sinks", b.sinks_kind(), &[self.heads], Some((Split(0), heads)));
        self.sinks.then(part)
    }
}

//! Granite (IBM, 2024): llama with constants on the embedding, on scores, on what blocks add, and on logits.

use super::{Architecture, Family};
use crate::base::Result;
use crate::graph::{RopeLayout, Tensor};
use crate::model::keys::Keys;
use crate::model::layers::{Attention, Blocks, Common, Decoder, Defaults, Mlp, Names, Rope};

pub static FAMILY: Family = Family {
    name: "granite",
    gguf: &["granite"],
    hugging_face: &["granite"],
    read: |at| Ok(Architecture::Decoder(Box::new(Granite::read(at)?))),
    harmless: &[],
};

#[derive(Debug)]
struct Granite {
    common: Common,
    rope: Rope,
    embedding: f32,
    scores: f32,
    residual: f32,
    logits: f32,
    mlp_bias: bool,
}

impl Granite {
    fn read(at: &Keys) -> Result<Granite> {
        let d = Defaults { gguf_rope: RopeLayout::Interleaved, ..Defaults::default() };
        let mut common = Common::read(at, Names::new(at.is_gguf(), &[]), &d)?;
        let number = |gguf: &str, json: &str| at.real(gguf, json, 0.0, 1.0).map(|x| x as f32);
        let scores = at.optional_real("attention.scale", "attention_multiplier", 0.0)?.filter(|x| *x > 0.0);
        let scores = scores.unwrap_or(if at.is_gguf() { 1.0 / (common.sizes.head as f64).sqrt() } else { 1.0 });
        let logits = number("logit_scale", "logits_scaling")?;
        if logits == 0.0 {
            return Err(at.error("divides its logits by 0"));
        }
        Ok(Granite {
            embedding: number("embedding_scale", "embedding_multiplier")?,
            scores: scores as f32,
            residual: number("residual_scale", "residual_multiplier")?,
            logits,
            mlp_bias: at.flag("", "mlp_bias")?.unwrap_or(false),
            rope: common.rope(at, &d)?,
            common,
        })
    }
}

impl Decoder for Granite {
    fn common(&self) -> &Common {
        &self.common
    }
    fn ropes(&self) -> &[Rope] {
        std::slice::from_ref(&self.rope)
    }
    fn embedded<'g>(&self, b: &Blocks<'_, 'g>, x: Tensor<'g>) -> Tensor<'g> {
        b.residual(x * self.embedding)
    }
    fn logits<'g>(&self, _: &Blocks<'_, 'g>, x: Tensor<'g>) -> Tensor<'g> {
        x * (1.0 / self.logits)
    }
    fn layer<'g>(&self, b: &Blocks<'_, 'g>, n: usize, x: Tensor<'g>) -> Tensor<'g> {
        let c = &self.common;
        let attention = Attention { scale: self.scores, ..c.attention() };
        let h = c.normed(b, n, "attn_norm", x);
        let x = b.add(x, attention.build(b, n, self.ropes(), h) * self.residual);
        let h = c.normed(b, n, "ffn_norm", x);
        b.add(x, Mlp { bias: self.mlp_bias, ..c.mlp() }.build(b, n, h) * self.residual)
    }
}

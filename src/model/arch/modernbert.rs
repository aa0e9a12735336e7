//! ModernBERT (Warner et al., 2024): rotary positions, gated GELU, norms before each block; most layers see near tokens only,
//! every third one all.

use super::{Architecture, Family};
use crate::base::Result;
use crate::graph::{RopeLayout, Tensor};
use crate::model::keys::Keys;
use crate::model::layers::{
    Encoder, EncoderCommon, EncoderDefaults, Linear, Network, Rope, RopeDefaults, SelfAttention, Texts,
};

pub static FAMILY: Family = Family {
    name: "modernbert",
    gguf: &[],
    hugging_face: &["modernbert"],
    read: |at| Ok(Architecture::Encoder(Box::new(ModernBert::read(at)?))),
    harmless: &[
        "initializer_cutoff_factor",
        "cls_token_id",
        "sep_token_id",
        "mlp_dropout",
        "decoder_bias",
        "classifier_pooling",
        "classifier_bias",
        "classifier_activation",
        "deterministic_flash_attn",
        "sparse_prediction",
        "sparse_pred_ignore_index",
        "reference_compile",
        "repad_logits_with_grad",
        "tie_word_embeddings",
        "position_embedding_type",
    ],
};

#[derive(Debug)]
struct ModernBert {
    common: EncoderCommon,
    /// Of layers that see all, and of those that see near tokens.
    ropes: [Rope; 2],
    /// Which layers see near tokens only, and how far on either side.
    slides: Vec<bool>,
    reach: usize,
    attention_bias: bool,
    mlp_bias: bool,
    norm_bias: bool,
}

impl ModernBert {
    fn read(at: &Keys) -> Result<ModernBert> {
        let d = EncoderDefaults {
            layers: 22,
            ffn: 1152,
            vocab: 50_368,
            context: 8192,
            eps: 1e-5,
            ..EncoderDefaults::default()
        };
        let common = EncoderCommon::read(at, &d)?;
        let every = at.optional_size("", "global_attn_every_n_layers")?.unwrap_or(3);
        let base = |key: &str, default: f64| at.real("", key, 1.0, default);
        let rope = RopeDefaults {
            share: 1.0,
            base: base("global_rope_theta", 160_000.0)?,
            head: common.head(),
            gguf: RopeLayout::Half,
            context: common.context,
            yarn_truncate: true,
        };
        let local = base("local_rope_theta", 10_000.0)?;
        let flag = |key: &str| Ok(at.flag("", key)?.unwrap_or(false));
        Ok(ModernBert {
            ropes: [Rope::read_kind(at, &rope, None)?, Rope::read_kind(at, &rope, Some(local))?],
            slides: at.sliding_layers(common.layers, |i| i % every != 0)?,
            reach: at.optional_size("", "local_attention")?.unwrap_or(128) / 2,
            attention_bias: flag("attention_bias")?,
            mlp_bias: flag("mlp_bias")?,
            norm_bias: flag("norm_bias")?,
            common,
        })
    }
}

impl Encoder for ModernBert {
    fn common(&self) -> &EncoderCommon {
        &self.common
    }
    fn root(&self) -> (&'static str, &'static str) {
        ("model.", "embeddings.tok_embeddings")
    }
    fn hidden<'g>(&self, b: &Texts<'_, 'g>) -> Tensor<'g> {
        let (c, w) = (&self.common, self.common.width);
        let x = b.norm(b.words("embeddings.tok_embeddings", c), "embeddings.norm", self.norm_bias);
        let angles = [b.angles(&self.ropes[0], "rope"), b.angles(&self.ropes[1], "rope1")];
        let masks = [b.all_real(), b.near(self.reach)];
        let x = b.layers(c.layers, x, |n, x| {
            let (at, slides) = (format!("layers.{n}"), self.slides[n] as usize);
            let qkv = |i: usize| Linear::new(format!("{at}.attn.Wqkv"), self.attention_bias).rows(i * w..(i + 1) * w);
            let how = SelfAttention {
                parts: [qkv(0), qkv(1), qkv(2), Linear::new(format!("{at}.attn.Wo"), self.attention_bias)],
                width: w,
                heads: c.heads,
                mask: Some(masks[slides]),
                rope: Some(angles[slides]),
            };
            // The embedding is normed already.
            let h = if n == 0 { x } else { b.norm(x, &format!("{at}.attn_norm"), self.norm_bias) };
            let x = b.whole(x + b.attention(&at, h, &how));
            let wi = |i: usize| Linear::new(format!("{at}.mlp.Wi"), self.mlp_bias).rows(i * c.ffn..(i + 1) * c.ffn);
            let network =
                Network { gate: Some(wi(0)), up: wi(1), down: Linear::new(format!("{at}.mlp.Wo"), self.mlp_bias) };
            let h = b.norm(x, &format!("{at}.mlp_norm"), self.norm_bias);
            b.whole(x + b.network(c, h, &network))
        });
        b.norm(x, "final_norm", self.norm_bias)
    }
}

//! GPT-2 (Radford et al., 2019): learnt positions, layer norms, biases everywhere, a network without gates. Model folders
//! hold matrices by columns, and queries, keys and values in one.

use super::{Architecture, Family};
use crate::base::Result;
use crate::graph::Tensor;
use crate::model::keys::Keys;
use crate::model::layers::{
    Activation, Biases, Blocks, Common, Decoder, Mlp, Names, Norm, Rope, Rows, SizeDefaults, Sizes, tied,
};

pub static FAMILY: Family = Family {
    name: "gpt2",
    gguf: &["gpt2"],
    hugging_face: &["gpt2"],
    read: |at| Ok(Architecture::Decoder(Box::new(Gpt2::read(at)?))),
    harmless: &["scale_attn_weights", "n_inner", "feed_forward_length"],
};

#[derive(Debug)]
struct Gpt2 {
    common: Common,
}

impl Gpt2 {
    fn read(at: &Keys) -> Result<Gpt2> {
        let sizes = Sizes::read(at, &SizeDefaults::default())?;
        for (key, default) in [("scale_attn_weights", true), ("scale_attn_by_inverse_layer_idx", false)] {
            if at.flag("", key)?.unwrap_or(default) != default {
                return Err(at.error(format!("has {key} = {}, which this version does not compute with", !default)));
            }
        }
        let parts = &[
            ("token_embd", "wte"),
            ("position_embd", "wpe"),
            ("output_norm", "ln_f"),
            ("attn_norm", "ln_1"),
            ("attn_qkv", "attn.c_attn"),
            ("attn_output", "attn.c_proj"),
            ("ffn_norm", "ln_2"),
            ("ffn_up", "mlp.c_fc"),
            ("ffn_down", "mlp.c_proj"),
        ];
        let w = sizes.width;
        let root = if at.has_tensor("transformer.wte.weight") { "transformer." } else { "" };
        let mut names = Names::new(at.is_gguf(), parts).under(root, "h.");
        names = names.with_fused("attn_qkv", &[("attn_q", w), ("attn_k", w), ("attn_v", w)]);
        names.transposed = true;
        let eps = at.real("attention.layer_norm_epsilon", "layer_norm_epsilon", 0.0, 1e-5)?;
        let common = Common {
            ffn: at.optional_size("feed_forward_length", "n_inner")?.unwrap_or(4 * w),
            norm: Norm::Layer(eps as f32),
            activation: Activation::read(at, "activation_function", Activation::GeluTanh)?,
            biases: Biases { qkv: true, out: true },
            tied: tied(at, &names, Some(true))?,
            names,
            sizes,
        };
        Ok(Gpt2 { common })
    }
}

impl Decoder for Gpt2 {
    fn common(&self) -> &Common {
        &self.common
    }
    fn ropes(&self) -> &[Rope] {
        &[]
    }
    fn embedded<'g>(&self, b: &Blocks<'_, 'g>, x: Tensor<'g>) -> Tensor<'g> {
        let s = &self.common.sizes;
        let table = b.part(None, "position_embd", "weight", &[s.context, s.width], None);
        b.residual(match b.rows {
            Rows::Cached { seq, total, .. } => x + table.slice(0, total - seq, seq),
            Rows::Paged { .. } => match &b.pages {
                Some(pages) => x + table.gather(pages.positions),
                None => x,
            },
            Rows::Whole { batch, seq } => {
                let rows = table.slice(0, 0, seq as i64).reshape([1, seq, s.width]).broadcast([batch, seq, s.width]);
                x + rows.reshape([batch * seq, s.width])
            }
        })
    }
    fn layer<'g>(&self, b: &Blocks<'_, 'g>, n: usize, x: Tensor<'g>) -> Tensor<'g> {
        let c = &self.common;
        let attention = crate::model::layers::Attention { rope: None, ..c.attention() };
        c.pre_norm_layer(b, n, x, (&attention, &Mlp { gated: false, bias: true, ..c.mlp() }), self.ropes())
    }
}

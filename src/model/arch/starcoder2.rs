//! StarCoder2 (Lozhkov et al., 2024): layer norms, biases, a network without gates, a sliding window.

use super::{Architecture, Family};
use crate::base::Result;
use crate::graph::{RopeLayout, Tensor};
use crate::model::keys::Keys;
use crate::model::layers::{
    Activation, Attention, Biases, Blocks, Common, Decoder, Mlp, Names, Norm, Rope, RopeDefaults, SizeDefaults, Sizes,
    tied,
};

pub static FAMILY: Family = Family {
    name: "starcoder2",
    gguf: &["starcoder2"],
    hugging_face: &["starcoder2"],
    read: |at| Ok(Architecture::Decoder(Box::new(StarCoder2::read(at)?))),
    harmless: &["residual_dropout", "use_bias"],
};

#[derive(Debug)]
struct StarCoder2 {
    common: Common,
    rope: Rope,
    window: Option<u32>,
    bias: bool,
}

impl StarCoder2 {
    fn read(at: &Keys) -> Result<StarCoder2> {
        let sizes = Sizes::read(at, &SizeDefaults { kv_heads: Some(2), ..SizeDefaults::default() })?;
        let names = Names::new(at.is_gguf(), &[("ffn_up", "mlp.c_fc"), ("ffn_down", "mlp.c_proj")]);
        let eps = at.real("attention.layer_norm_epsilon", "norm_epsilon", 0.0, 1e-5)?;
        let bias = match at.is_gguf() {
            true => at.has_tensor("blk.0.attn_q.bias"),
            false => at.flag("", "use_bias")?.unwrap_or(true),
        };
        let defaults = RopeDefaults {
            share: 1.0,
            base: 1e4,
            head: sizes.head,
            gguf: RopeLayout::Half,
            context: sizes.context,
            yarn_truncate: true,
        };
        let rope = Rope::read(at, &defaults)?;
        let window = at.window(None)?.map(|n| n as u32);
        let common = Common {
            ffn: at.size("feed_forward_length", "intermediate_size")?,
            norm: Norm::Layer(eps as f32),
            activation: Activation::read(at, "hidden_act", Activation::GeluTanh)?,
            biases: Biases { qkv: bias, out: bias },
            tied: tied(at, &names, Some(true))?,
            names,
            sizes,
        };
        Ok(StarCoder2 { rope, window, bias, common })
    }
}

impl Decoder for StarCoder2 {
    fn common(&self) -> &Common {
        &self.common
    }
    fn ropes(&self) -> &[Rope] {
        std::slice::from_ref(&self.rope)
    }
    fn layer<'g>(&self, b: &Blocks<'_, 'g>, n: usize, x: Tensor<'g>) -> Tensor<'g> {
        let c = &self.common;
        let attention = Attention { window: self.window, ..c.attention() };
        c.pre_norm_layer(b, n, x, (&attention, &Mlp { gated: false, bias: self.bias, ..c.mlp() }), self.ropes())
    }
}

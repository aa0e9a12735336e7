//! gpt-oss (OpenAI, 2025): experts with a clamped gate, every other layer with a window, a learnt score in each head that
//! nothing is read at (attention sinks), biases, YaRN.

use super::{Architecture, Family};
use crate::base::Result;
use crate::graph::Tensor;
use crate::model::keys::Keys;
use crate::model::layers::{
    Attention, Biases, Blocks, Common, Decoder, Defaults, Experts, Gate, Names, Rope, SizeDefaults,
};

pub static FAMILY: Family = Family {
    name: "gpt_oss",
    gguf: &["gpt-oss"],
    hugging_face: &["gpt_oss"],
    read: |at| Ok(Architecture::Decoder(Box::new(GptOss::read(at)?))),
    harmless: &["swiglu_alpha", "initial_context_length", "experts_per_token", "feed_forward_length", "swiglu_limit"],
};

#[derive(Debug)]
struct GptOss {
    common: Common,
    rope: Rope,
    /// Of each layer.
    windows: Vec<Option<u32>>,
    experts: Experts,
}

impl GptOss {
    fn read(at: &Keys) -> Result<GptOss> {
        let sizes = SizeDefaults { kv_heads: Some(8), head: Some(64), ..SizeDefaults::default() };
        let d = Defaults {
            sizes,
            eps: 1e-5,
            rope_base: 1.5e5,
            biases: Biases { qkv: true, out: true },
            yarn_truncate: false,
            ..Defaults::default()
        };
        // Gate and up are every other column of one matrix, whose rows are the token's elements; every other row where the
        // file has blocks of 4 bits.
        let packed = at.is_packed("model.layers.0.mlp.experts.gate_up_proj");
        let [gate, up, down] = match packed {
            true => [
                "every(0/2, [mlp.experts.gate_up_proj])",
                "every(1/2, [mlp.experts.gate_up_proj])",
                "every(0/1, [mlp.experts.down_proj])",
            ],
            false => [
                "columns(0/2, [mlp.experts.gate_up_proj])",
                "columns(1/2, [mlp.experts.gate_up_proj])",
                "columns(0/1, [mlp.experts.down_proj])",
            ],
        };
        let parts = &[
            ("attn_sinks", "self_attn.sinks"),
            ("post_attention_norm", "post_attention_layernorm"),
            ("ffn_gate_inp", "mlp.router"),
            ("ffn_gate_exps", gate),
            ("ffn_up_exps", up),
            ("ffn_down_exps", down),
        ];
        let mut common = Common::read(at, Names::new(at.is_gguf(), parts), &d)?;
        let mut experts = Experts::read(at, &common, common.ffn)?;
        experts.gate = Gate::Clamped {
            alpha: at.real("", "swiglu_alpha", 0.0, 1.702)? as f32,
            limit: at.real("", "swiglu_limit", 0.0, 7.0)? as f32,
        };
        experts.bias = true;
        if !at.is_gguf() && at.json_value("rope_parameters").or(at.json_value("rope_scaling")).is_none() {
            return Err(at.error("lacks rope_parameters, which say how its positions are stretched"));
        }
        let slides = at.sliding_layers(common.sizes.layers, |i| i % 2 == 0)?;
        let window = at.window(Some(128))?.map(|n| n as u32);
        Ok(GptOss {
            rope: common.rope(at, &d)?,
            windows: slides.iter().map(|slides| window.filter(|_| *slides)).collect(),
            experts,
            common,
        })
    }
}

impl Decoder for GptOss {
    fn common(&self) -> &Common {
        &self.common
    }
    fn ropes(&self) -> &[Rope] {
        std::slice::from_ref(&self.rope)
    }
    fn layer<'g>(&self, b: &Blocks<'_, 'g>, n: usize, x: Tensor<'g>) -> Tensor<'g> {
        let c = &self.common;
        let attention = Attention { window: self.windows[n], sinks: true, ..c.attention() };
        let h = c.normed(b, n, "attn_norm", x);
        let x = b.add(x, attention.build(b, n, self.ropes(), h));
        let h = c.normed(b, n, "post_attention_norm", x);
        b.add(x, self.experts.build(b, n, h))
    }
}

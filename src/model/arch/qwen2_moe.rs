//! Qwen1.5-MoE and Qwen2-MoE (Yang et al., 2024): qwen2 with experts, and a network beside them that every token has, behind a
//! gate of its own.

use super::{Architecture, Family};
use crate::base::Result;
use crate::graph::Tensor;
use crate::model::keys::Keys;
use crate::model::layers::{
    Attention, Biases, Blocks, Common, Decoder, Defaults, Experts, Mlp, Names, Rope, SizeDefaults, late_windows,
};

pub static FAMILY: Family = Family {
    name: "qwen2_moe",
    gguf: &["qwen2moe"],
    hugging_face: &["qwen2_moe"],
    read: |at| Ok(Architecture::Decoder(Box::new(Qwen2Moe::read(at)?))),
    harmless: &[
        "max_window_layers",
        "use_sliding_window",
        "sliding_window",
        "decoder_sparse_step",
        "mlp_only_layers",
        "norm_topk_prob",
        "intermediate_size",
        "qkv_bias",
    ],
};

#[derive(Debug)]
struct Qwen2Moe {
    common: Common,
    rope: Rope,
    windows: Vec<Option<u32>>,
    experts: Experts,
    /// Inner elements of the network that every token has.
    shared: usize,
}

impl Qwen2Moe {
    fn read(at: &Keys) -> Result<Qwen2Moe> {
        let sizes = SizeDefaults { kv_heads: Some(16), ..SizeDefaults::default() };
        let qkv = at.flag("", "qkv_bias")?.unwrap_or(true);
        let d = Defaults { sizes, biases: Biases { qkv, out: false }, ..Defaults::default() };
        let dense = at.integers("mlp_only_layers")?.is_some_and(|l| !l.is_empty());
        if dense || at.optional_size("", "decoder_sparse_step")?.unwrap_or(1) != 1 {
            return Err(at.error("has layers without experts beside those with: only experts in all layers can be run"));
        }
        let parts = &[
            ("ffn_gate_inp", "mlp.gate"),
            ("ffn_gate_exps", "mlp.experts.*.gate_proj"),
            ("ffn_up_exps", "mlp.experts.*.up_proj"),
            ("ffn_down_exps", "mlp.experts.*.down_proj"),
            ("ffn_gate_inp_shexp", "mlp.shared_expert_gate"),
            ("ffn_gate_shexp", "mlp.shared_expert.gate_proj"),
            ("ffn_up_shexp", "mlp.shared_expert.up_proj"),
            ("ffn_down_shexp", "mlp.shared_expert.down_proj"),
        ];
        let mut common = Common::read(at, Names::new(at.is_gguf(), parts), &d)?;
        let mut experts = Experts::read(at, &common, 1408)?;
        experts.normalised = at.flag("expert_weights_norm", "norm_topk_prob")?.unwrap_or(false);
        common.names.experts = experts.count;
        let default = if at.is_gguf() { experts.inner * experts.used } else { 5632 };
        let (gguf, json) = ("expert_shared_feed_forward_length", "shared_expert_intermediate_size");
        let shared = at.optional_size(gguf, json)?.unwrap_or(default);
        let windows = late_windows(at, common.sizes.layers)?;
        Ok(Qwen2Moe { rope: common.rope(at, &d)?, windows, experts, shared, common })
    }
}

impl Decoder for Qwen2Moe {
    fn common(&self) -> &Common {
        &self.common
    }
    fn ropes(&self) -> &[Rope] {
        std::slice::from_ref(&self.rope)
    }
    fn layer<'g>(&self, b: &Blocks<'_, 'g>, n: usize, x: Tensor<'g>) -> Tensor<'g> {
        let c = &self.common;
        let attention = Attention { window: self.windows[n], ..c.attention() };
        let h = c.normed(b, n, "attn_norm", x);
        let x = b.add(x, attention.build(b, n, self.ropes(), h));
        let h = c.normed(b, n, "ffn_norm", x);
        let every = self.experts.beside(b, n, h, Mlp { inner: self.shared, ..c.mlp() });
        b.add(b.add(x, every), self.experts.build(b, n, h))
    }
}

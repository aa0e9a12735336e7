//! Qwen3 with experts in every layer (Yang et al., 2025).

use super::{Architecture, Family};
use crate::base::Result;
use crate::graph::Tensor;
use crate::model::keys::Keys;
use crate::model::layers::{
    Attention, Blocks, Common, Decoder, Defaults, Experts, Names, QkNorm, Rope, SizeDefaults, late_windows,
};

pub static FAMILY: Family = Family {
    name: "qwen3_moe",
    gguf: &["qwen3moe"],
    hugging_face: &["qwen3_moe"],
    read: |at| Ok(Architecture::Decoder(Box::new(Qwen3Moe::read(at)?))),
    harmless: &[
        "max_window_layers",
        "use_sliding_window",
        "sliding_window",
        "decoder_sparse_step",
        "mlp_only_layers",
        "norm_topk_prob",
        "intermediate_size",
    ],
};

#[derive(Debug)]
struct Qwen3Moe {
    common: Common,
    rope: Rope,
    windows: Vec<Option<u32>>,
    experts: Experts,
}

impl Qwen3Moe {
    fn read(at: &Keys) -> Result<Qwen3Moe> {
        let sizes = SizeDefaults { kv_heads: Some(4), ..SizeDefaults::default() };
        let d = Defaults { sizes, ..Defaults::default() };
        let dense = at.integers("mlp_only_layers")?.is_some_and(|l| !l.is_empty());
        if dense || at.optional_size("", "decoder_sparse_step")?.unwrap_or(1) != 1 {
            return Err(at.error("has layers without experts beside those with: only experts in all layers can be run"));
        }
        let parts = &[
            ("ffn_gate_inp", "mlp.gate"),
            ("ffn_gate_exps", "mlp.experts.*.gate_proj"),
            ("ffn_up_exps", "mlp.experts.*.up_proj"),
            ("ffn_down_exps", "mlp.experts.*.down_proj"),
        ];
        let mut common = Common::read(at, Names::new(at.is_gguf(), parts), &d)?;
        let mut experts = Experts::read(at, &common, 768)?;
        experts.normalised = at.flag("expert_weights_norm", "norm_topk_prob")?.unwrap_or(at.is_gguf());
        common.names.experts = experts.count;
        let windows = late_windows(at, common.sizes.layers)?;
        Ok(Qwen3Moe { rope: common.rope(at, &d)?, windows, experts, common })
    }
}

impl Decoder for Qwen3Moe {
    fn common(&self) -> &Common {
        &self.common
    }
    fn ropes(&self) -> &[Rope] {
        std::slice::from_ref(&self.rope)
    }
    fn layer<'g>(&self, b: &Blocks<'_, 'g>, n: usize, x: Tensor<'g>) -> Tensor<'g> {
        let c = &self.common;
        let attention = Attention { window: self.windows[n], qk_norm: QkNorm::Head(c.norm), ..c.attention() };
        let h = c.normed(b, n, "attn_norm", x);
        let x = b.add(x, attention.build(b, n, self.ropes(), h));
        let h = c.normed(b, n, "ffn_norm", x);
        b.add(x, self.experts.build(b, n, h))
    }
}

//! GLM-4.5 (Zhipu AI, 2025): grouped-query attention that turns half of each head; behind the first layers experts as DeepSeek-V3 chooses
//! them, beside a network that every token has.

use super::{Architecture, Family};
use crate::base::Result;
use crate::graph::Tensor;
use crate::model::keys::Keys;
use crate::model::layers::{
    Attention, Biases, Blocks, Common, Decoder, Defaults, Experts, Groups, Mlp, Names, QkNorm, Rope, Scoring,
    SizeDefaults,
};

pub static FAMILY: Family = Family {
    name: "glm4_moe",
    gguf: &[],
    hugging_face: &["glm4_moe"],
    read: |at| Ok(Architecture::Decoder(Box::new(Glm4Moe::read(at)?))),
    harmless: &["num_experts"],
};

const PARTS: &[(&str, &str)] = &[
    ("ffn_gate_inp", "mlp.gate"),
    ("exp_probs_b", "mlp.gate.e_score_correction_bias"),
    ("ffn_gate_exps", "mlp.experts.*.gate_proj"),
    ("ffn_up_exps", "mlp.experts.*.up_proj"),
    ("ffn_down_exps", "mlp.experts.*.down_proj"),
    ("ffn_gate_shexp", "mlp.shared_experts.gate_proj"),
    ("ffn_up_shexp", "mlp.shared_experts.up_proj"),
    ("ffn_down_shexp", "mlp.shared_experts.down_proj"),
];

#[derive(Debug)]
struct Glm4Moe {
    common: Common,
    rope: Rope,
    qk_norm: QkNorm,
    /// Layers without experts, the first ones.
    dense: usize,
    experts: Experts,
    /// Inner elements of the network that every token has.
    shared: usize,
    /// Layers behind the last one that guess further tokens.
    ahead: usize,
}

impl Glm4Moe {
    fn read(at: &Keys) -> Result<Glm4Moe> {
        let sizes = SizeDefaults { kv_heads: Some(8), ..SizeDefaults::default() };
        let d = Defaults { sizes, eps: 1e-5, tied: Some(false), rope_share: 0.5, ..Defaults::default() };
        let mut common = Common::read(at, Names::new(false, PARTS), &d)?;
        let number = |key: &str, default: f64| Ok(at.number("", key)?.unwrap_or(default));
        let size = |key: &str, default: usize| Ok(at.optional_size("", key)?.unwrap_or(default));
        common.biases = Biases { qkv: at.flag("", "attention_bias")?.unwrap_or(false), out: false };
        let inner = size("moe_intermediate_size", 1408)?;
        let mut experts =
            Experts::new(at, &common, [size("n_routed_experts", 128)?, size("num_experts_per_tok", 8)?, inner])?;
        let (count, kept) = (size("n_group", 1)?, size("topk_group", 1)?);
        experts.groups = (count > 1).then_some(Groups { count, kept, by_two: true });
        experts.check_groups(at)?;
        experts.scoring = Scoring::Sigmoid;
        experts.normalised = at.flag("", "norm_topk_prob")?.unwrap_or(true);
        experts.scale = at.real("", "routed_scaling_factor", 0.0, 1.0)? as f32;
        common.names.experts = experts.count;
        let qk_norm = at.flag("", "use_qk_norm")?.unwrap_or(false);
        Ok(Glm4Moe {
            rope: common.rope(at, &d)?,
            qk_norm: if qk_norm { QkNorm::Head(common.norm) } else { QkNorm::None },
            dense: number("first_k_dense_replace", 1.0)? as usize,
            experts,
            shared: number("n_shared_experts", 1.0)? as usize * inner,
            ahead: number("num_nextn_predict_layers|num_mtp_layers", 1.0)? as usize,
            common,
        })
    }
}

impl Decoder for Glm4Moe {
    fn common(&self) -> &Common {
        &self.common
    }
    fn ropes(&self) -> &[Rope] {
        std::slice::from_ref(&self.rope)
    }
    fn is_spare(&self, name: &str) -> bool {
        let number = |n: &str| n.split_once('.')?.0.parse::<usize>().ok();
        let layers = self.common.sizes.layers;
        let layer = name.strip_prefix("model.layers.").and_then(number);
        layer.is_some_and(|n| (layers..layers.saturating_add(self.ahead)).contains(&n))
    }
    fn layer<'g>(&self, b: &Blocks<'_, 'g>, n: usize, x: Tensor<'g>) -> Tensor<'g> {
        let c = &self.common;
        let attention = Attention { qk_norm: self.qk_norm, ..c.attention() };
        if n < self.dense {
            return c.pre_norm_layer(b, n, x, (&attention, &c.mlp()), self.ropes());
        }
        let h = c.normed(b, n, "attn_norm", x);
        let x = b.add(x, attention.build(b, n, self.ropes(), h));
        let h = c.normed(b, n, "ffn_norm", x);
        let chosen = b.add(x, self.experts.build(b, n, h));
        if self.shared == 0 {
            return chosen;
        }
        let parts = ["ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"];
        b.add(chosen, b.residual(Mlp { inner: self.shared, parts, ..c.mlp() }.build(b, n, h)))
    }
}

//! DeepSeek-V2 and V3 (DeepSeek-AI, 2024): latent attention; behind the first layers experts, chosen within groups, beside a
//! network that every token has.

use super::{Architecture, Family};
use crate::base::Result;
use crate::graph::{RopeLayout, Tensor};
use crate::model::keys::{Keys, short};
use crate::model::layers::{
    Blocks, Common, Decoder, Defaults, Experts, Groups, LatentAttention, Mlp, Names, Norm, Rope, RopeDefaults, Scoring,
    SizeDefaults,
};

pub static V2: Family = Family {
    name: "deepseek_v2",
    gguf: &["deepseek2"],
    hugging_face: &["deepseek_v2"],
    read: |at| Ok(Architecture::Decoder(Box::new(DeepSeek::read(at, false)?))),
    harmless: HARMLESS,
};

pub static V3: Family = Family {
    name: "deepseek_v3",
    gguf: &[],
    hugging_face: &["deepseek_v3"],
    read: |at| Ok(Architecture::Decoder(Box::new(DeepSeek::read(at, true)?))),
    harmless: HARMLESS,
};

const HARMLESS: &[&str] =
    &["head_dim", "ep_size", "aux_loss_alpha", "seq_aux", "mlp_bias", "qk_head_dim", "rope_theta", "num_experts"];

/// The published code norms latent vectors with its own number, whatever config.json says of the others.
const LATENT_EPS: f32 = 1e-6;

const PARTS: &[(&str, &str)] = &[
    ("attn_q_a", "self_attn.q_a_proj"),
    ("attn_q_a_norm", "self_attn.q_a_layernorm"),
    ("attn_q_b", "self_attn.q_b_proj"),
    ("attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa"),
    ("attn_kv_a_norm", "self_attn.kv_a_layernorm"),
    ("attn_kv_b", "self_attn.kv_b_proj"),
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
struct DeepSeek {
    common: Common,
    rope: Rope,
    attention: LatentAttention,
    /// Layers without experts, the first ones.
    dense: usize,
    experts: Experts,
    /// Inner elements of the network that every token has.
    shared: usize,
    /// Layers behind the last one that guess further tokens.
    ahead: usize,
}

impl DeepSeek {
    fn read(at: &Keys, v3: bool) -> Result<DeepSeek> {
        // A GGUF file of either says how its experts are scored: 2 is by sigmoids.
        let gating = at.optional_size("expert_gating_func", "")?.unwrap_or(1);
        let v3 = if at.is_gguf() { gating == 2 } else { v3 };
        if gating > 2 {
            return Err(at.error(format!("has expert_gating_func = {gating}: 1 (softmax) and 2 (sigmoid) can be run")));
        }
        let sizes = SizeDefaults { head: Some(64), latent: true, ..SizeDefaults::default() };
        let d = Defaults { sizes, tied: Some(false), gguf_rope: RopeLayout::Interleaved, ..Defaults::default() };
        let size = |key: &str, default: usize| Ok(at.optional_size("", key)?.unwrap_or(default));
        let mut common = Common::read(at, Names::new(at.is_gguf(), PARTS), &d)?;
        let attention = read_attention(at, &common)?;
        let (still, value) = (attention.still, attention.value);
        if !attention.split {
            common.names = common.names.with_heads("attn_kv_b", &[("attn_k_b", still), ("attn_v_b", value)]);
        }
        (common.sizes.head, common.sizes.kv_heads) = (attention.turning, common.sizes.heads);
        let rope = RopeDefaults { head: attention.turning, ..common.rope_defaults(&d) };
        let mut rope = Rope::read(at, &rope)?;
        if !v3 || at.flag("", "rope_interleave")?.unwrap_or(true) {
            rope.layout = RopeLayout::Interleaved;
        }
        if at.is_gguf() {
            // What is multiplied by it is in the scale of scores.
            rope.scale = 1.0;
        }
        let experts = read_experts(at, &common, v3)?;
        common.names.experts = experts.count;
        let shared = at.number("expert_shared_count", "n_shared_experts")?.unwrap_or(if v3 { 1.0 } else { 2.0 });
        let shared = shared as usize * experts.inner;
        if size("moe_layer_freq", 1)? != 1 {
            return Err(
                at.error("has moe_layer_freq, and only experts in every layer behind the first ones can be run")
            );
        }
        let dense =
            at.number("leading_dense_block_count", "first_k_dense_replace")?.unwrap_or(if v3 { 3.0 } else { 0.0 })
                as usize;
        let ahead = at.number("", "num_nextn_predict_layers|num_mtp_layers")?.unwrap_or(0.0) as usize;
        Ok(DeepSeek { rope, attention, dense, experts, shared, ahead, common })
    }
}

/// From the keys of a GGUF file: matrices of keys and values apart, or, in older files, one behind the other a head.
fn read_gguf_attention(at: &Keys, common: &Common) -> Result<LatentAttention> {
    let (rank, turning) = (at.size("attention.kv_lora_rank", "")?, at.size("rope.dimension_count", "")?);
    let (whole, value) = (at.size("attention.key_length", "")?, at.size("attention.value_length", "")?);
    let key = at.optional_size("attention.key_length_mla", "")?.unwrap_or(whole);
    let value = at.optional_size("attention.value_length_mla", "")?.unwrap_or(value);
    let still = key.checked_sub(turning).filter(|n| *n > 0);
    let still = still.ok_or_else(|| at.error(format!("has keys of {key} elements, of which {turning} turn")))?;
    let factor = at.optional_real("rope.scaling.factor", "", 0.0)?.unwrap_or(1.0);
    let stretch = match at.optional_real("rope.scaling.yarn_log_multiplier", "", 0.0)? {
        Some(x) => x * factor.max(1.0).ln() + 1.0,
        None if factor > 1.0 && at.text("rope.scaling.type", "")?.as_deref() == Some("yarn") => {
            return Err(at.error("has yarn rope scaling without yarn_log_multiplier: convert the model anew"));
        }
        None => 1.0,
    };
    Ok(LatentAttention {
        width: common.sizes.width,
        heads: common.sizes.heads,
        query_rank: at.optional_size("attention.q_lora_rank", "")?,
        rank,
        still,
        turning,
        value,
        scale: (stretch * stretch / (key as f64).sqrt()) as f32,
        norm: common.norm,
        bias: common.biases.out,
        split: at.has_tensor("blk.0.attn_k_b.weight"),
    })
}

fn read_attention(at: &Keys, common: &Common) -> Result<LatentAttention> {
    if at.is_gguf() {
        return read_gguf_attention(at, common);
    }
    let size = |key: &str, default: usize| Ok(at.optional_size("", key)?.unwrap_or(default));
    let query_rank = match at.says_none("q_lora_rank") {
        true => None,
        false => Some(size("q_lora_rank", 1536)?),
    };
    let (still, turning) = (size("qk_nope_head_dim", 128)?, size("qk_rope_head_dim", 64)?);
    let mut scale = 1.0 / ((still + turning) as f64).sqrt();
    // A longer context makes scores steeper.
    let stretch = at.json_value("rope_parameters").or(at.json_value("rope_scaling"));
    let number = |key: &str| stretch.and_then(|s| s.get(key)?.as_f64()).unwrap_or(0.0);
    let kind = stretch.and_then(|s| s.get("rope_type").or(s.get("type"))?.as_str()).unwrap_or("default");
    if kind != "default" && number("mscale_all_dim") != 0.0 && number("factor") > 1.0 {
        scale *= (0.1 * number("mscale_all_dim") * number("factor").ln() + 1.0).powi(2);
    }
    Ok(LatentAttention {
        width: common.sizes.width,
        heads: common.sizes.heads,
        query_rank,
        rank: size("kv_lora_rank", 512)?,
        still,
        turning,
        value: size("v_head_dim", 128)?,
        scale: scale as f32,
        norm: Norm::Rms(LATENT_EPS),
        bias: common.biases.out,
        split: false,
    })
}

fn read_experts(at: &Keys, common: &Common, v3: bool) -> Result<Experts> {
    let size = |gguf: &str, json: &str, default: usize| match at.is_gguf() {
        true => at.size(gguf, json),
        false => Ok(at.optional_size(gguf, json)?.unwrap_or(default)),
    };
    let count = size("expert_count", "n_routed_experts", if v3 { 256 } else { 64 })?;
    let used = at.optional_size("expert_used_count", "num_experts_per_tok")?.or(v3.then_some(8));
    let used = used.ok_or_else(|| at.error("lacks num_experts_per_tok"))?;
    let inner = size("expert_feed_forward_length", "moe_intermediate_size", if v3 { 2048 } else { 1407 })?;
    let mut experts = Experts::new(at, common, [count, used, inner])?;
    let expected = |key: &str, right: &[&str]| match at.text("", key)? {
        Some(other) if !right.contains(&other.as_str()) => {
            Err(at.error(format!("has {key} = {}: {} can be run", short(&other, 40), right.join(", "))))
        }
        given => Ok(given),
    };
    let method = if v3 { "noaux_tc" } else { "greedy" };
    let methods: &[&str] = if v3 { &["noaux_tc"] } else { &["greedy", "group_limited_greedy"] };
    let method = expected("topk_method", methods)?.unwrap_or(method.into());
    expected("scoring_func", if v3 { &["sigmoid"] } else { &["softmax"] })?;
    let scale = if v3 && !at.is_gguf() { 2.5 } else { 1.0 };
    let scale = at.optional_real("expert_weights_scale", "routed_scaling_factor", 0.0)?.unwrap_or(scale);
    // Converters write 0 for none.
    experts.scale = if at.is_gguf() && scale == 0.0 { 1.0 } else { scale as f32 };
    experts.scoring = if v3 { Scoring::Sigmoid } else { Scoring::Softmax };
    experts.normalised = at.flag("expert_weights_norm", "norm_topk_prob")?.unwrap_or(v3 && !at.is_gguf());
    if experts.normalised && !v3 {
        // Its authors' code and that of others differ.
        return Err(at.error("has norm_topk_prob = true, which publishers of this family compute in different ways"));
    }
    let groups = (
        at.optional_size("expert_group_count", "n_group")?,
        at.optional_size("expert_group_used_count", "topk_group")?,
    );
    experts.groups = match (groups, v3) {
        ((Some(count), kept), _) if at.is_gguf() && count > 1 => {
            Some(Groups { count, kept: kept.unwrap_or(count), by_two: v3 })
        }
        _ if at.is_gguf() => None,
        ((n, kept), true) => Some(Groups { count: n.unwrap_or(8), kept: kept.unwrap_or(4), by_two: true }),
        ((Some(count), Some(kept)), false) if method != "greedy" => Some(Groups { count, kept, by_two: false }),
        (_, false) if method != "greedy" => {
            return Err(at.error("chooses within groups, and lacks n_group or topk_group"));
        }
        _ => None,
    };
    experts.check_groups(at)?;
    Ok(experts)
}

impl Decoder for DeepSeek {
    fn common(&self) -> &Common {
        &self.common
    }
    fn ropes(&self) -> &[Rope] {
        std::slice::from_ref(&self.rope)
    }
    fn state_bytes_per_token(&self) -> u64 {
        (self.common.sizes.layers * self.attention.kept() * 4) as u64
    }
    fn is_spare(&self, name: &str) -> bool {
        let number = |n: &str| n.split_once('.')?.0.parse::<usize>().ok();
        let layer = name.strip_prefix("model.layers.").and_then(number);
        layer.is_some_and(|l| (self.common.sizes.layers..self.common.sizes.layers + self.ahead).contains(&l))
    }
    /// Latent vectors lie in no pages.
    fn has_pages(&self) -> bool {
        false
    }
    fn layer<'g>(&self, b: &Blocks<'_, 'g>, n: usize, x: Tensor<'g>) -> Tensor<'g> {
        let c = &self.common;
        let h = c.normed(b, n, "attn_norm", x);
        let x = b.add(x, self.attention.build(b, n, &self.rope, h));
        let h = c.normed(b, n, "ffn_norm", x);
        if n < self.dense {
            return b.add(x, c.mlp().build(b, n, h));
        }
        let parts = ["ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"];
        let every = b.residual(Mlp { inner: self.shared, parts, ..c.mlp() }.build(b, n, h));
        b.add(b.add(x, every), self.experts.build(b, n, h))
    }
}

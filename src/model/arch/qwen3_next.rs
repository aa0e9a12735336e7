//! Qwen3-Next (Qwen Team, 2025) and Qwen3.5, its text model: Gated DeltaNet in most layers, gated attention in every fourth; norms
//! whose weights are stored less one; a network, or experts beside one that every token has.

use super::{Architecture, Family};
use crate::base::Result;
use crate::graph::Tensor;
use crate::model::gguf::Value;
use crate::model::keys::{Keys, short};
use crate::model::layers::{
    Attention, Blocks, Common, Decoder, Defaults, Experts, GatedDelta, Mlp, Names, QkNorm, Rope, SizeDefaults,
};

pub static NEXT: Family = Family {
    name: "qwen3_next",
    gguf: &["qwen3next"],
    hugging_face: &["qwen3_next"],
    read: |at| Ok(Architecture::Decoder(Box::new(Qwen3Next::read(at, false)?))),
    harmless: HARMLESS,
};

pub static FIVE: Family = Family {
    name: "qwen3_5",
    gguf: &["qwen35", "qwen35moe"],
    hugging_face: &["qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"],
    read: |at| Ok(Architecture::Decoder(Box::new(Qwen3Next::read(at, true)?))),
    harmless: HARMLESS,
};

/// Sections of the rotation differ where there are pictures only.
const HARMLESS: &[&str] = &[
    "intermediate_size",
    "full_attention_interval",
    "rope.dimension_sections",
    "mamba_ssm_dtype",
    "mtp_num_hidden_layers",
    "mtp_use_dedicated_embeddings",
    "attn_output_gate",
    "linear_conv_kernel_dim",
    "linear_key_head_dim",
    "linear_value_head_dim",
    "linear_num_value_heads",
    "mlp_only_layers",
    "decoder_sparse_step",
];

const PARTS: &[(&str, &str)] = &[
    ("attn_q_and_gate", "self_attn.q_proj"),
    ("delta_qkvz", "linear_attn.in_proj_qkvz"),
    ("delta_ba", "linear_attn.in_proj_ba"),
    ("delta_qkv", "linear_attn.in_proj_qkv"),
    ("delta_z", "linear_attn.in_proj_z"),
    ("delta_b", "linear_attn.in_proj_b"),
    ("delta_a", "linear_attn.in_proj_a"),
    ("delta_conv", "linear_attn.conv1d"),
    ("delta_dt", "linear_attn.dt_bias"),
    ("delta_decay", "linear_attn.A_log"),
    ("delta_scale", "linear_attn.norm"),
    ("delta_out", "linear_attn.out_proj"),
    ("ffn_gate_inp", "mlp.gate"),
    ("ffn_gate_exps", "mlp.experts.*.gate_proj"),
    ("ffn_up_exps", "mlp.experts.*.up_proj"),
    ("ffn_down_exps", "mlp.experts.*.down_proj"),
    ("ffn_gate_inp_shexp", "mlp.shared_expert_gate"),
    ("ffn_gate_shexp", "mlp.shared_expert.gate_proj"),
    ("ffn_up_shexp", "mlp.shared_expert.up_proj"),
    ("ffn_down_shexp", "mlp.shared_expert.down_proj"),
];
/// Experts' matrices one behind another in one tensor, gates above the others.
const STACKED: &[(&str, &str)] =
    &[("ffn_gate_up_exps", "flat([mlp.experts.gate_up_proj])"), ("ffn_down_exps", "flat([mlp.experts.down_proj])")];

const GGUF_NAMES: &[(&str, &str)] = &[
    ("attn_q_and_gate", "attn_q"),
    ("ffn_norm", "post_attention_norm"),
    ("delta_qkvz", "ssm_in"),
    ("delta_ba", "ssm_ba"),
    ("delta_qkv", "attn_qkv"),
    ("delta_z", "attn_gate"),
    ("delta_b", "ssm_beta"),
    ("delta_a", "ssm_alpha"),
    ("delta_conv", "ssm_conv1d"),
    ("delta_dt", "ssm_dt"),
    ("delta_decay", "ssm_a"),
    ("delta_scale", "ssm_norm"),
    ("delta_out", "ssm_out"),
];

#[derive(Debug)]
struct Qwen3Next {
    common: Common,
    rope: Rope,
    delta: GatedDelta,
    /// Whether each layer attends; the others have the delta rule.
    attends: Vec<bool>,
    experts: Option<Experts>,
    /// Inner elements of the network that every token has beside its experts.
    shared: usize,
    /// Layers behind the last one that guess further tokens.
    ahead: usize,
}

impl Qwen3Next {
    fn read(at: &Keys, five: bool) -> Result<Qwen3Next> {
        let sizes =
            SizeDefaults { kv_heads: Some(if five { 4 } else { 2 }), head: Some(256), ..SizeDefaults::default() };
        let tied = (!five).then_some(false);
        let d = Defaults { sizes, tied, rope_base: 1e4, rope_share: 0.25, ..Defaults::default() };
        let stacked = !at.is_gguf() && STACKED.iter().any(|s| at.has_any(s.1));
        let parts = if stacked { [STACKED, PARTS].concat() } else { PARTS.to_vec() };
        let root = ["model.language_model."].into_iter();
        let root = root.into_iter().find(|r| at.has_tensor(&format!("{r}embed_tokens.weight"))).unwrap_or("model.");
        let mut names = Names::new(at.is_gguf(), &parts).under(root, "layers.");
        names.less_one = true;
        names.gguf_names = GGUF_NAMES.to_vec();
        let mut common = Common::read(at, names, &d)?;
        let ahead = at.optional_size("nextn_predict_layers", "")?.unwrap_or(0);
        common.sizes.layers = common.sizes.layers.checked_sub(ahead).filter(|n| *n > 0).ok_or_else(|| {
            at.error(format!("has {} layers, {ahead} of which guess further tokens", common.sizes.layers))
        })?;
        let delta = read_delta(at, &common, five)?;
        let attends = attends(at, common.sizes.layers)?;
        let experts = read_experts(at, &common, five)?;
        let shared = at.optional_size("expert_shared_feed_forward_length", "shared_expert_intermediate_size")?;
        let inner = experts.as_ref().map_or(0, |e| e.inner);
        common.names.experts = experts.as_ref().map_or(0, |e| e.count);
        let head = common.sizes.head;
        let names = common.names.with_heads("attn_q_and_gate", &[("attn_q", head), ("attn_q_gate", head)]);
        let (names, stack) = (named(names, at, &delta, five), [("ffn_gate_exps", inner), ("ffn_up_exps", inner)]);
        common.names = if stacked { names.with_heads("ffn_gate_up_exps", &stack) } else { names };
        Ok(Qwen3Next {
            rope: common.rope(at, &d)?,
            delta,
            attends,
            experts,
            shared: shared.unwrap_or(512),
            ahead,
            common,
        })
    }
}

/// Which rows of which matrices the delta rule's parts are.
fn named(names: Names, at: &Keys, d: &GatedDelta, five: bool) -> Names {
    let (keys, values, each) = (d.key_heads * d.key, d.heads * d.value, d.heads / d.key_heads);
    let names =
        names.with_fused("delta_conv", &[("delta_conv_q", keys), ("delta_conv_k", keys), ("delta_conv_v", values)]);
    let qkv = [("delta_q", keys), ("delta_k", keys), ("delta_v", values)];
    if five {
        return names.with_fused("delta_qkv", &qkv);
    }
    let names = names.with_heads("delta_ba", &[("delta_b", each), ("delta_a", each)]);
    let old = (0..64).any(|n| at.has_tensor(&format!("blk.{n}.ssm_in.weight")));
    if at.is_gguf() && !old {
        return names.with_fused("delta_qkv", &qkv);
    }
    let (key, value) = (d.key, each * d.value);
    names.with_heads("delta_qkvz", &[("delta_q", key), ("delta_k", key), ("delta_v", value), ("delta_z", value)])
}

fn read_delta(at: &Keys, c: &Common, five: bool) -> Result<GatedDelta> {
    let size = |gguf: &str, json: &str, default: usize| match at.is_gguf() {
        true => at.size(gguf, json),
        false => Ok(at.optional_size(gguf, json)?.unwrap_or(default)),
    };
    let key_heads = size("ssm.group_count", "linear_num_key_heads", 16)?;
    let heads = size("ssm.time_step_rank", "linear_num_value_heads", 32)?;
    let key = size("ssm.state_size", "linear_key_head_dim", 128)?;
    let value = match at.is_gguf() {
        true => at.size("ssm.inner_size", "")? / heads,
        false => size("", "linear_value_head_dim", 128)?,
    };
    let taps = size("ssm.conv_kernel", "linear_conv_kernel_dim", 4)?;
    if heads % key_heads != 0 || key > 256 || value == 0 || value > 1024 || heads > 4096 {
        let what = format!("has {heads} heads of values {value} wide over {key_heads} of keys {key} wide");
        return Err(at.error(format!("{what}: evenly shared ones up to 1024 and 256 wide can be run")));
    }
    if taps > 64 {
        return Err(at.error(format!("convolves {taps} tokens: up to 64 can be run")));
    }
    // Converters lay the heads of values out anew for this one.
    let turns = at.is_gguf() && five && heads != key_heads;
    Ok(GatedDelta { width: c.sizes.width, key_heads, key, heads, value, taps, norm: c.norm, turns })
}

/// Whether each layer attends.
fn attends(at: &Keys, layers: usize) -> Result<Vec<bool>> {
    let interval = at.optional_size("full_attention_interval", "full_attention_interval")?.unwrap_or(4);
    let wrong = |n: usize| at.error(format!("says of {n} layers which attend, and has {layers}"));
    if at.is_gguf() {
        return match at.gguf_value("attention.recurrent_layers") {
            Some(Value::Ints(all)) if all.len() < layers => Err(wrong(all.len())),
            Some(Value::Ints(all)) => Ok(all[..layers].iter().map(|recurrent| *recurrent == 0).collect()),
            _ => Ok((1..=layers).map(|i| i % interval == 0).collect()),
        };
    }
    let Some(types) = at.texts("layer_types")? else { return Ok((1..=layers).map(|i| i % interval == 0).collect()) };
    if types.len() != layers {
        return Err(wrong(types.len()));
    }
    let one = |t: &String| match t.as_str() {
        "full_attention" => Ok(true),
        "linear_attention" => Ok(false),
        other => Err(at.error(format!(
            "has layers of the type \"{}\": full_attention and linear_attention can be run",
            short(other, 40)
        ))),
    };
    types.iter().map(one).collect()
}

/// Experts in every layer, or in none.
fn read_experts(at: &Keys, c: &Common, five: bool) -> Result<Option<Experts>> {
    let moe = match at.is_gguf() {
        true => at.number("expert_count", "")?.unwrap_or(0.0) > 0.0,
        false => !five || at.architecture()?.is_some_and(|a| a.contains("moe")),
    };
    if !moe {
        return Ok(None);
    }
    let dense = at.integers("mlp_only_layers")?.is_some_and(|l| !l.is_empty());
    if dense || at.optional_size("", "decoder_sparse_step")?.unwrap_or(1) != 1 {
        return Err(at.error("has layers without experts beside those with: only experts in all layers can be run"));
    }
    let mut experts = Experts::read(at, c, 512)?;
    experts.normalised = at.flag("expert_weights_norm", "norm_topk_prob")?.unwrap_or(true);
    Ok(Some(experts))
}

impl Decoder for Qwen3Next {
    fn common(&self) -> &Common {
        &self.common
    }
    fn ropes(&self) -> &[Rope] {
        std::slice::from_ref(&self.rope)
    }
    fn state_bytes_per_token(&self) -> u64 {
        let s = &self.common.sizes;
        let attend = self.attends.iter().filter(|a| **a).count();
        (2 * attend * s.kv_heads * s.head * 4) as u64
    }
    fn keeps(&self) -> Option<usize> {
        self.attends.contains(&false).then_some(self.delta.taps - 1)
    }
    fn own_bytes(&self) -> u64 {
        (self.attends.iter().filter(|a| !**a).count() * self.delta.kept() * 4) as u64
    }
    fn is_spare(&self, name: &str) -> bool {
        let number = |n: &str| n.split_once('.')?.0.parse::<usize>().ok();
        let layers = self.common.sizes.layers;
        let behind =
            name.strip_prefix("blk.").and_then(number).is_some_and(|n| (layers..layers + self.ahead).contains(&n));
        behind || name.starts_with("mtp.")
    }
    fn layer<'g>(&self, b: &Blocks<'_, 'g>, n: usize, x: Tensor<'g>) -> Tensor<'g> {
        let c = &self.common;
        let h = c.normed(b, n, "attn_norm", x);
        let attention = Attention { qk_norm: QkNorm::Head(c.norm), gated: true, ..c.attention() };
        let x = b.add(
            x,
            match self.attends[n] {
                true => attention.build(b, n, self.ropes(), h),
                false => self.delta.build(b, n, h),
            },
        );
        let h = c.normed(b, n, "ffn_norm", x);
        let Some(experts) = &self.experts else { return b.add(x, c.mlp().build(b, n, h)) };
        let every = experts.beside(b, n, h, Mlp { inner: self.shared, ..c.mlp() });
        b.add(b.add(x, every), experts.build(b, n, h))
    }
}

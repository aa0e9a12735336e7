//! LFM2 (Liquid AI, 2025): gated short convolutions in most layers, attention with norms of query and key heads in the others; larger
//! ones have experts behind their first layers.

use super::{Architecture, Family};
use crate::base::Result;
use crate::graph::Tensor;
use crate::model::gguf::Value;
use crate::model::keys::Keys;
use crate::model::layers::{
    Attention, Blocks, Common, Decoder, Defaults, Experts, Names, Norm, QkNorm, Rope, Scoring, ShortConv, SizeDefaults,
};

pub static FAMILY: Family = Family {
    name: "lfm2",
    gguf: &["lfm2"],
    hugging_face: &["lfm2"],
    read: |at| Ok(Architecture::Decoder(Box::new(Lfm2::read(at, false)?))),
    harmless: HARMLESS,
};

pub static MOE: Family = Family {
    name: "lfm2_moe",
    gguf: &[],
    hugging_face: &["lfm2_moe"],
    read: |at| Ok(Architecture::Decoder(Box::new(Lfm2::read(at, true)?))),
    harmless: HARMLESS,
};

/// Keys that change nothing.
const HARMLESS: &[&str] = &[
    "norm_eps",
    "conv_bias",
    "conv_dim",
    "conv_dim_out",
    "block_dim",
    "block_norm_eps",
    "block_use_swiglu",
    "block_use_xavier_init",
    "block_mlp_init_scale",
    "block_out_init_scale",
    "block_ff_dim",
    "use_pos_enc",
    "conv_use_xavier_init",
    "num_heads",
    "tie_embedding",
    "theta",
    "full_attn_idxs",
    "block_auto_adjust_ff_dim",
    "block_multiple_of",
    "block_ffn_dim_multiplier",
    "intermediate_size",
];

#[derive(Debug)]
struct Lfm2 {
    common: Common,
    rope: Rope,
    conv: ShortConv,
    /// Whether each layer attends; the others convolve.
    attends: Vec<bool>,
    /// Layers without experts, the first ones, and the experts of the others.
    experts: Option<(usize, Experts)>,
}

impl Lfm2 {
    fn read(at: &Keys, moe: bool) -> Result<Lfm2> {
        let sizes = SizeDefaults { kv_heads: Some(8), ..SizeDefaults::default() };
        let d = Defaults { sizes, eps: 1e-5, tied: Some(true), rope_base: 1e6, ..Defaults::default() };
        let width = at.size("embedding_length", "hidden_size")?;
        let parts = &[
            ("output_norm", "embedding_norm"),
            ("attn_norm", "operator_norm"),
            ("attn_q_norm", "self_attn.q_layernorm"),
            ("attn_k_norm", "self_attn.k_layernorm"),
            ("attn_output", "self_attn.out_proj"),
            ("ffn_norm", "ffn_norm"),
            ("ffn_gate", "feed_forward.w1"),
            ("ffn_up", "feed_forward.w3"),
            ("ffn_down", "feed_forward.w2"),
            ("ffn_gate_inp", "feed_forward.gate"),
            ("exp_probs_b", "feed_forward.expert_bias"),
            ("ffn_gate_exps", "feed_forward.experts.*.w1"),
            ("ffn_up_exps", "feed_forward.experts.*.w3"),
            ("ffn_down_exps", "feed_forward.experts.*.w2"),
            ("shortconv.in_proj", "conv.in_proj"),
            ("shortconv.conv", "conv.conv"),
            ("shortconv.out_proj", "conv.out_proj"),
        ];
        let mut names = Names::new(at.is_gguf(), parts);
        if at.is_gguf() && at.has_tensor("token_embd_norm.weight") {
            names.gguf_names = vec![("output_norm", "token_embd_norm")];
        }
        let names = names.with_fused("shortconv.in_proj", &[("conv_b", width), ("conv_c", width), ("conv_x", width)]);
        let mut common = Common::read(at, names, &d)?;
        if !at.is_gguf() {
            common.norm = Norm::Rms(at.real("", "norm_eps", 0.0, 1e-5)? as f32);
            common.ffn = if moe { common.ffn } else { inner(at, common.ffn)? };
        }
        let n = common.sizes.layers;
        let types = at.texts("layer_types")?;
        let attends: Vec<bool> = match (types, at.integers("full_attn_idxs")?) {
            (Some(types), _) => types.iter().map(|t| t == "full_attention").collect(),
            // GGUF files give a layer that convolves no key heads.
            (None, None) if at.is_gguf() => match at.gguf_value("attention.head_count_kv") {
                Some(Value::Ints(heads)) => heads.iter().map(|n| *n != 0).collect(),
                _ => vec![true; n],
            },
            (None, Some(full)) => (0..n).map(|i| full.contains(&(i as i64))).collect(),
            (None, None) => vec![true; n],
        };
        if attends.len() != n {
            return Err(at.error(format!("layer_types has {} entries for {n} layers", attends.len())));
        }
        if at.flag("", "conv_bias")?.unwrap_or(false) {
            return Err(at.error("has conv_bias = true, which this version does not compute with"));
        }
        let taps = at.optional_size("shortconv.l_cache", "conv_L_cache")?.unwrap_or(3);
        if taps > 64 {
            return Err(at.error(format!("convolves {taps} tokens: up to 64 can be run")));
        }
        let experts = if moe { Some(read_experts(at, &mut common)?) } else { None };
        Ok(Lfm2 { rope: common.rope(at, &d)?, conv: ShortConv { width, taps }, attends, experts, common })
    }
}

impl Decoder for Lfm2 {
    fn common(&self) -> &Common {
        &self.common
    }
    fn ropes(&self) -> &[Rope] {
        std::slice::from_ref(&self.rope)
    }
    fn looks_back(&self) -> usize {
        if self.attends.iter().all(|a| *a) { 0 } else { self.conv.taps.saturating_sub(1) }
    }
    fn layer<'g>(&self, b: &Blocks<'_, 'g>, n: usize, x: Tensor<'g>) -> Tensor<'g> {
        let c = &self.common;
        let h = c.normed(b, n, "attn_norm", x);
        let x = b.add(
            x,
            match self.attends[n] {
                true => Attention { qk_norm: QkNorm::Head(c.norm), ..c.attention() }.build(b, n, self.ropes(), h),
                false => self.conv.build(b, n, h),
            },
        );
        let h = c.normed(b, n, "ffn_norm", x);
        match &self.experts {
            Some((dense, experts)) if n >= *dense => b.add(x, experts.build(b, n, h)),
            _ => b.add(x, c.mlp().build(b, n, h)),
        }
    }
}

/// How many of the first layers have none, and the experts of the others: chosen as DeepSeek-V3 does, without groups.
fn read_experts(at: &Keys, common: &mut Common) -> Result<(usize, Experts)> {
    if !at.flag("", "use_expert_bias")?.unwrap_or(true) {
        return Err(at.error("has use_expert_bias = false: only experts chosen with a bias can be run"));
    }
    let mut experts = Experts::read(at, common, 1792)?;
    experts.scoring = Scoring::Sigmoid;
    experts.floor = 1e-6;
    experts.normalised = at.flag("", "norm_topk_prob")?.unwrap_or(true);
    experts.scale = at.real("", "routed_scaling_factor", 0.0, 1.0)? as f32;
    common.names.experts = experts.count;
    Ok((at.number("", "num_dense_layers")?.unwrap_or(2.0) as usize, experts))
}

/// Inner elements of the network: two thirds of what the file says, in whole multiples.
fn inner(at: &Keys, said: usize) -> Result<usize> {
    let said = at.optional_size("", "block_ff_dim")?.unwrap_or(said);
    if !at.flag("", "block_auto_adjust_ff_dim")?.unwrap_or(true) {
        return Ok(said);
    }
    let factor = at.optional_real("", "block_ffn_dim_multiplier", 0.0)?.unwrap_or(1.0);
    let multiple = at.optional_size("", "block_multiple_of")?.unwrap_or(256);
    Ok((((2 * said / 3) as f64 * factor) as usize).div_ceil(multiple) * multiple)
}

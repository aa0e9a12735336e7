//! The shape of a model from its config.json, as published beside weights, or from key-value metadata of a model file.

use super::shape::{Latent, Shape};
use crate::base::{Error, Result};
use serde_json::Value;

/// Sizes by their names in a file.
struct Sizes<'a> {
    name: &'a str,
    get: &'a dyn Fn(&str) -> Option<Value>,
}

/// No size of a model is larger.
const MOST: f64 = (1u64 << 28) as f64;

impl Sizes<'_> {
    /// The first of these names that the file has; a whole number from 0 on. Null is absent.
    fn maybe(&self, names: &[&str]) -> Result<Option<usize>> {
        for name in names {
            let Some(value) = (self.get)(name).filter(|v| !v.is_null()) else { continue };
            let number = value.as_f64().filter(|v| v.fract() == 0.0 && (0.0..=MOST).contains(v));
            let shown: String = value.to_string().chars().take(40).collect();
            return number.map(|v| Some(v as usize)).ok_or_else(|| {
                Error::model(self.name, format!("{name} is {shown}, must be a whole number from 0 to {MOST}"))
            });
        }
        Ok(None)
    }
    fn must(&self, names: &[&str]) -> Result<usize> {
        self.maybe(names)?.ok_or_else(|| Error::model(self.name, format!("lacks {}", names.join(", which some call "))))
    }
    fn or(&self, names: &[&str], default: usize) -> Result<usize> {
        Ok(self.maybe(names)?.unwrap_or(default))
    }
    fn flag(&self, name: &str, default: bool) -> bool {
        (self.get)(name).and_then(|v| v.as_bool()).unwrap_or(default)
    }
}

/// How families differ where their configs do not say.
#[derive(Clone, Copy)]
struct Kind {
    gated: bool,
    rope: bool,
    biases: bool,
    tied: bool,
    /// Heads of keys and values, 0 for as many as of queries; elements of a head, 0 for the width's share.
    kv_heads: usize,
    head: usize,
    /// Attention, router and experts have biases. Experts are published in 4 bits, all else in 16.
    linear_biases: bool,
    narrow_experts: bool,
}

/// By `model_type`. Every family that can be run is here or refused by name (a test holds it): encoders and layers without
/// attention are no shapes, but their plans can be priced.
fn kind(name: &str, model_type: &str) -> Result<Kind> {
    let modern = Kind {
        gated: true,
        rope: true,
        biases: false,
        tied: false,
        kv_heads: 0,
        head: 0,
        linear_biases: false,
        narrow_experts: false,
    };
    match model_type {
        "llama" | "qwen2" | "qwen3" | "qwen3_moe" | "deepseek_v2" | "deepseek_v3" | "phi3" | "internlm2" | "olmo"
        | "olmo2" | "olmo3" | "granite" => Ok(modern),
        "mistral" | "mixtral" => Ok(Kind { kv_heads: 8, ..modern }),
        "seed_oss" => Ok(Kind { kv_heads: 8, head: 128, ..modern }),
        "ernie4_5" => Ok(Kind { tied: true, kv_heads: 2, head: 128, ..modern }),
        "glm4_moe" => Ok(Kind { kv_heads: 8, ..modern }),
        "qwen2_moe" => Ok(Kind { kv_heads: 16, ..modern }),
        "smollm3" => Ok(Kind { tied: true, kv_heads: 4, ..modern }),
        "gemma" | "cohere" => Ok(Kind { tied: true, ..modern }),
        "gemma2" | "gemma3" | "gemma3_text" => Ok(Kind { tied: true, kv_heads: 4, head: 256, ..modern }),
        "gpt_oss" => Ok(Kind { kv_heads: 8, head: 64, linear_biases: true, narrow_experts: true, ..modern }),
        "gpt2" | "opt" | "bloom" | "gpt_bigcode" => {
            Ok(Kind { gated: false, rope: false, biases: true, tied: true, ..modern })
        }
        "starcoder2" => Ok(Kind { gated: false, biases: true, tied: true, kv_heads: 2, ..modern }),
        "gpt_neox" | "gptj" | "phi" => Ok(Kind { gated: false, biases: true, ..modern }),
        "falcon" => Ok(Kind { gated: false, tied: true, ..modern }),
        "nemotron" => Ok(Kind { gated: false, ..modern }),
        "bert" | "roberta" | "xlm-roberta" | "camembert" | "distilbert" | "mpnet" | "nomic_bert" | "modernbert"
        | "clip" | "siglip" | "whisper" => Err(Error::model(
            name,
            format!(
                "is an encoder, or has one ({model_type}): its plan can be priced (--plan), layers written down from a shape are decoders'"
            ),
        )),
        "qwen3_next" | "qwen3_5" | "qwen3_5_text" | "qwen3_5_moe" | "qwen3_5_moe_text" => Err(Error::model(
            name,
            format!(
                "has layers with a recurrent state in place of attention ({model_type}): its plan can be priced (--plan), layers written down from a shape all attend"
            ),
        )),
        "lfm2" | "lfm2_moe" => Err(Error::model(
            name,
            "convolves in some of its layers (lfm2): its plan can be priced (--plan), layers written down from a shape all attend",
        )),
        other => {
            let other: String = other.chars().take(40).collect();
            Err(Error::model(
                name,
                format!(
                    "is of the type \"{other}\": known are llama, mistral, mixtral, qwen2, qwen3 (and _moe), deepseek_v2 and _v3, gemma, gemma2, gemma3, gpt_oss, phi, phi3, gpt2, gpt_neox, gptj, gpt_bigcode, opt, bloom, falcon, nemotron, olmo, olmo2, olmo3, granite, cohere, seed_oss, ernie4_5, glm4_moe, smollm3, starcoder2"
                ),
            ))
        }
    }
}

/// From a config.json. `name` is for people.
///
/// # Errors
/// A model type that is not known; a size that is missing, no whole number or beyond 2²⁸; sizes that do not fit together.
pub fn from_config(json: &Value, name: &str) -> Result<Shape> {
    // Models that see and hear keep the text model's sizes apart.
    let inner = json.get("text_config").filter(|t| t.get("hidden_size").is_some()).unwrap_or(json);
    let get = |key: &str| inner.get(key).cloned();
    let s = Sizes { name, get: &get };
    let model_type = inner
        .get("model_type")
        .or(json.get("model_type"))
        .and_then(Value::as_str)
        .ok_or_else(|| Error::model(name, "lacks model_type, which names its architecture"))?;
    let kind = kind(name, model_type)?;
    let hidden = s.must(&["hidden_size", "n_embd", "d_model"])?;
    let experts = s.or(&["n_routed_experts", "num_local_experts", "num_experts"], 0)?;
    let layers = s.must(&["num_hidden_layers", "n_layer", "n_layers"])?;
    let dense_ffn = s
        .maybe(&["intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"])?
        .filter(|f| *f > 0)
        .unwrap_or(4 * hidden);
    let expert_ffn =
        s.maybe(&["moe_intermediate_size"])?.unwrap_or(if model_type == "qwen2_moe" { 1408 } else { dense_ffn });
    let latent = match s.maybe(&["kv_lora_rank"])? {
        Some(kv) if kv > 0 => Some(Latent {
            query: s.or(&["q_lora_rank"], 0)?,
            kv,
            nope: s.must(&["qk_nope_head_dim"])?,
            rope: s.must(&["qk_rope_head_dim"])?,
            value: s.must(&["v_head_dim"])?,
        }),
        _ => None,
    };
    let heads = s.must(&["num_attention_heads", "n_head"])?;
    let one_kv = model_type == "falcon" && s.flag("multi_query", true) || s.flag("multi_query", false);
    let kv_heads = if latent.is_some() {
        heads
    } else {
        // A null is as many as of queries, whatever the family has where nothing is said.
        let said = (s.get)("num_key_value_heads").is_some();
        let default = if one_kv {
            1
        } else if said {
            0
        } else {
            kind.kv_heads
        };
        s.or(&["num_key_value_heads", "num_kv_heads"], default)?
    };
    let (window, full_every) = windows(&s, model_type, layers)?;
    let shape = Shape {
        name: name.into(),
        source: "config.json".into(),
        window,
        full_every,
        layers,
        hidden,
        heads,
        kv_heads,
        head: s.or(&["head_dim"], kind.head)?,
        ffn: if experts > 0 { expert_ffn } else { dense_ffn },
        vocab: s.must(&["vocab_size"])?,
        gated: kind.gated,
        rope: kind.rope,
        positions: if kind.rope { 0 } else { s.or(&["n_positions", "max_position_embeddings"], 0)? },
        biases: kind.biases,
        linear_biases: kind.linear_biases,
        tied: s.flag("tie_word_embeddings", kind.tied),
        experts,
        top_k: s.or(&["num_experts_per_tok"], 0)?,
        narrow_experts: kind.narrow_experts,
        wide_attention: kind.narrow_experts,
        shared_experts: match s
            .maybe(&["shared_expert_intermediate_size"])?
            .or((model_type == "qwen2_moe").then_some(5632))
        {
            // Told by its width: as many experts side by side.
            Some(width) if experts > 0 && expert_ffn > 0 => width.div_ceil(expert_ffn),
            _ => s.or(&["n_shared_experts"], 0)?,
        },
        dense_layers: if experts > 0 { s.or(&["first_k_dense_replace"], 0)?.min(layers) } else { 0 },
        dense_ffn: if experts > 0 { dense_ffn } else { 0 },
        latent,
        ..Shape::default()
    };
    shape.check()?;
    Ok(shape)
}

/// Keys that a query sees at most, 0 for all, and the one layer of how many that sees all, 0 for none: as each type's published
/// code reads `sliding_window` and `layer_types`.
fn windows(s: &Sizes, model_type: &str, layers: usize) -> Result<(usize, usize)> {
    let window = s.maybe(&["sliding_window"])?;
    if let Some(Value::Array(types)) = (s.get)("layer_types") {
        let sliding = types.iter().filter(|t| *t == "sliding_attention").count();
        if let Some(other) = types.iter().find(|t| *t != "sliding_attention" && *t != "full_attention") {
            let other: String = other.to_string().chars().take(40).collect();
            let what = format!(
                "has layers of the type {other} in layer_types: priced from a shape are full_attention and sliding_attention"
            );
            return Err(Error::model(s.name, what));
        }
        let every = if sliding == layers { 0 } else { layers.div_ceil((layers - sliding.min(layers)).max(1)) };
        return Ok(if sliding == 0 { (0, 0) } else { (window.unwrap_or(0), every) });
    }
    Ok(match model_type {
        "mistral" | "mixtral" | "phi3" => (window.unwrap_or(0), 0),
        "starcoder2" => (window.unwrap_or(0), 0),
        "gpt_oss" => (window.unwrap_or(128), 2),
        "gemma2" => (window.unwrap_or(4096), 2),
        "gemma3" | "gemma3_text" => (window.unwrap_or(4096), s.or(&["sliding_window_pattern"], 6)?),
        _ if s.flag("use_sliding_window", false) && window.is_some() => {
            let what = "uses sliding windows in some of its layers: say in which by layer_types";
            return Err(Error::model(s.name, what));
        }
        // Types that have the key and see all keys.
        _ => (0, 0),
    })
}

/// From metadata whose keys are `<architecture>.block_count` and kin, as GGUF files have them. `tied`: there is no head of
/// its own; `vocab`: rows of the embedding.
///
/// # Errors
/// As [`from_config`]'s.
pub fn from_metadata(get: &dyn Fn(&str) -> Option<Value>, name: &str, vocab: usize, tied: bool) -> Result<Shape> {
    let architecture = get("general.architecture")
        .and_then(|v| v.as_str().map(String::from))
        .ok_or_else(|| Error::model(name, "lacks general.architecture"))?;
    let known = kind(
        name,
        match architecture.as_str() {
            "deepseek2" => "deepseek_v3",
            "qwen2moe" => "qwen2_moe",
            "qwen3moe" => "qwen3_moe",
            "phi2" => "phi",
            "gpt-oss" => "gpt_oss",
            "gptneox" => "gpt_neox",
            "command-r" => "cohere",
            other => other,
        },
    )?;
    let of = |key: &str| get(&format!("{architecture}.{key}"));
    let s = Sizes { name, get: &of };
    let experts = s.or(&["expert_count"], 0)?;
    let hidden = s.must(&["embedding_length"])?;
    let dense = s.or(&["feed_forward_length"], 4 * hidden)?;
    let layers = s.must(&["block_count"])?;
    let heads = s.must(&["attention.head_count"])?;
    let latent = match s.maybe(&["attention.kv_lora_rank"])? {
        Some(kv) if kv > 0 => {
            let (key, rope) =
                (s.must(&["attention.key_length_mla", "attention.key_length"])?, s.must(&["rope.dimension_count"])?);
            let value = s.must(&["attention.value_length_mla", "attention.value_length"])?;
            Some(Latent {
                query: s.or(&["attention.q_lora_rank"], 0)?,
                kv,
                nope: key.saturating_sub(rope),
                rope,
                value,
            })
        }
        _ => None,
    };
    // As ggml's graphs of each architecture read it: one layer of so many sees all keys, of others none does.
    let window = s.maybe(&["attention.sliding_window"])?.unwrap_or(0);
    let full_every = match architecture.as_str() {
        "gemma2" | "gpt-oss" => 2,
        "gemma3" => 6,
        _ => 0,
    };
    let shape = Shape {
        name: name.into(),
        source: "metadata".into(),
        window,
        full_every: if window > 0 { full_every } else { 0 },
        layers,
        hidden,
        heads,
        kv_heads: if latent.is_some() { heads } else { s.or(&["attention.head_count_kv"], 0)? },
        head: if latent.is_some() { 0 } else { s.or(&["attention.key_length"], 0)? },
        ffn: if experts > 0 { s.or(&["expert_feed_forward_length"], dense)? } else { dense },
        vocab,
        gated: known.gated,
        rope: known.rope,
        positions: if known.rope { 0 } else { s.or(&["context_length"], 0)? },
        biases: known.biases,
        linear_biases: known.linear_biases,
        tied,
        experts,
        top_k: s.or(&["expert_used_count"], 0)?,
        shared_experts: s.or(&["expert_shared_count"], 0)?,
        dense_layers: if experts > 0 { s.or(&["leading_dense_block_count"], 0)?.min(layers) } else { 0 },
        dense_ffn: if experts > 0 { dense } else { 0 },
        narrow_experts: known.narrow_experts,
        wide_attention: known.narrow_experts,
        latent,
        ..Shape::default()
    };
    shape.check()?;
    Ok(shape)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::preset;

    /// Configs as published, cut to the sizes, against the presets that were written from papers.
    #[test]
    fn published_configs_are_the_presets() {
        let llama = r#"{"model_type":"llama","hidden_size":4096,"intermediate_size":14336,"num_hidden_layers":32,"num_attention_heads":32,"num_key_value_heads":8,"vocab_size":128256,"tie_word_embeddings":false}"#;
        let mixtral = r#"{"model_type":"mixtral","hidden_size":4096,"intermediate_size":14336,"num_hidden_layers":32,"num_attention_heads":32,"num_key_value_heads":8,"vocab_size":32000,"num_local_experts":8,"num_experts_per_tok":2}"#;
        let deepseek = r#"{"model_type":"deepseek_v3","hidden_size":7168,"intermediate_size":18432,"moe_intermediate_size":2048,"num_hidden_layers":61,"num_attention_heads":128,"num_key_value_heads":128,
            "vocab_size":129280,"n_routed_experts":256,"num_experts_per_tok":8,"n_shared_experts":1,"first_k_dense_replace":3,"q_lora_rank":1536,"kv_lora_rank":512,"qk_nope_head_dim":128,"qk_rope_head_dim":64,"v_head_dim":128}"#;
        for (text, name) in [(llama, "llama-3-8b"), (mixtral, "mixtral-8x7b"), (deepseek, "deepseek-v3")] {
            let got = from_config(&serde_json::from_str(text).unwrap(), name).unwrap();
            let want = preset(name).unwrap();
            assert_eq!(
                (got.parameters(), got.active_parameters(), got.kv_bytes(2.0)),
                (want.parameters(), want.active_parameters(), want.kv_bytes(2.0)),
                "{name}"
            );
        }
        let gpt2 = r#"{"model_type":"gpt2","n_embd":768,"n_layer":12,"n_head":12,"n_inner":null,"vocab_size":50257,"n_positions":1024}"#;
        let small = from_config(&serde_json::from_str(gpt2).unwrap(), "gpt2").unwrap();
        // 124,439,808 by its authors' code, final norm included.
        assert!((small.parameters() / 124_439_808.0 - 1.0).abs() < 1e-4, "{}", small.parameters());
    }

    /// What a file's header says of a model is what its config.json says.
    #[test]
    fn metadata_are_the_preset() {
        let known: serde_json::Value = serde_json::json!({
            "general.architecture": "gpt-oss", "gpt-oss.block_count": 36, "gpt-oss.embedding_length": 2880, "gpt-oss.feed_forward_length": 2880,
            "gpt-oss.expert_feed_forward_length": 2880, "gpt-oss.attention.head_count": 64, "gpt-oss.attention.head_count_kv": 8,
            "gpt-oss.attention.key_length": 64, "gpt-oss.expert_count": 128, "gpt-oss.expert_used_count": 4, "gpt-oss.attention.sliding_window": 128
        });
        let got = from_metadata(&|key| known.get(key).cloned(), "gpt-oss-120b", 201088, false).unwrap();
        let want = preset("gpt-oss-120b").unwrap();
        let figures = |s: &Shape| {
            (s.parameters(), s.forward_flops(8192.0, true), s.kv_bytes(2.0), s.stored(crate::topology::Precision::Bf16))
        };
        assert_eq!(figures(&got), figures(&want));
    }

    #[test]
    fn odd_configs_are_refused_by_name() {
        let said = |text: &str| from_config(&serde_json::from_str(text).unwrap(), "m").unwrap_err().to_string();
        assert!(said("{}").contains("lacks model_type"));
        assert!(said(r#"{"model_type":"t5"}"#).contains("known are llama"));
        assert!(said(r#"{"model_type":"bert"}"#).contains("--plan"));
        assert!(said(r#"{"model_type":"llama"}"#).contains("lacks hidden_size, which some call n_embd"));
        assert!(said(r#"{"model_type":"llama","hidden_size":-1}"#).contains("hidden_size is -1"));
        assert!(said(r#"{"model_type":"llama","hidden_size":1e300}"#).contains("must be a whole number"));
        assert!(said(r#"{"model_type":"llama","hidden_size":4096,"num_hidden_layers":2,"num_attention_heads":0,"vocab_size":10}"#).contains("heads is 0"));
    }
}

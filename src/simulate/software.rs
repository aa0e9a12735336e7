//! Software as an input: what a training or serving stack overlaps, fuses and costs on the host. One file a stack in
//! assets/stacks, each figure with its source.

use super::layout::{Gathers, Stack};
use crate::base::units::Seconds;
use crate::base::{Error, Result};
use serde::Deserialize;

macro_rules! shipped {
    ($($name:literal),*) => { [$(($name, include_str!(concat!("../../assets/stacks/", $name, ".toml")))),*] };
}

/// The stacks that come along: name and file text.
pub const SHIPPED: [(&str, &str); 12] = shipped![
    "megatron-core",
    "megatron-core-26.06",
    "deepspeed-2021",
    "fsdp2",
    "torchtitan",
    "nemo",
    "llm-foundry",
    "trtllm",
    "vllm",
    "sglang",
    "transformers",
    "warpweft"
];

/// What answers static batches where nothing names it.
pub const LOOP: &str = "transformers";

/// A stack of software.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Software {
    /// By which a row or `--stack` names it: the file's name.
    #[serde(skip)]
    pub name: String,
    pub title: String,
    pub source: String,
    training: Option<Training>,
    /// What it did differently on some generations of devices.
    #[serde(default)]
    on: Vec<Era>,
    /// What it does differently with some models.
    #[serde(default)]
    family: Vec<Family>,
    serving: Option<Serving>,
    #[serde(rename = "loop")]
    plain: Option<Loop>,
}

/// A loop over static batches: a step at a time, each kernel launched by the host.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Loop {
    /// Host time of a layer in a step.
    pub host_layer: Seconds,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Training {
    fused_attention: bool,
    pytorch: bool,
    overlap_gradients: bool,
    overlap_tensor: f64,
    dropout: bool,
    sequence_parallel: bool,
    zero: usize,
    gathers: Gathers,
    prefetch: bool,
    reshard: bool,
    host: Seconds,
    dispatch: f64,
    #[serde(default)]
    once_per_node: bool,
    #[serde(default)]
    overlap_experts: f64,
    #[serde(default)]
    overlap_experts_near: f64,
    #[serde(default = "sorted_once")]
    permutes: f64,
    #[serde(default)]
    host_experts: Seconds,
    #[serde(default)]
    host_expert: Seconds,
    #[serde(default)]
    bias_bytes: (f64, f64),
    passes: f64,
}

/// Tokens travel in 16 bits.
fn wide() -> f64 {
    2.0
}

/// There and back.
fn sorted_once() -> f64 {
    2.0
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Family {
    /// What names of models begin with.
    models: Vec<String>,
    once_per_node: Option<bool>,
    overlap_experts: Option<f64>,
    overlap_experts_near: Option<f64>,
    permutes: Option<f64>,
    host_experts: Option<Seconds>,
    host_expert: Option<Seconds>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Era {
    devices: Vec<String>,
    fused_attention: Option<bool>,
    overlap_gradients: Option<bool>,
    overlap_tensor: Option<f64>,
    dropout: Option<bool>,
    sequence_parallel: Option<bool>,
    zero: Option<usize>,
    overlap_experts_near: Option<f64>,
    host_experts: Option<Seconds>,
    host_expert: Option<Seconds>,
}

/// How a stack trains on a generation of devices, and what it does unless a run says otherwise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trains {
    pub stack: Stack,
    pub sequence_parallel: bool,
    pub zero: usize,
}

/// How an engine serves: its scheduler and what its host costs.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Serving {
    /// Prompts run in steps of their own, before sequences that decode; otherwise both share a step.
    pub prefill_first: bool,
    /// Prompts may be cut where a step is full.
    pub chunked: bool,
    /// Tokens of a step at most, and sequences at once.
    pub tokens: usize,
    pub sequences: usize,
    /// Share of the memory that weights and cache may take together.
    pub memory: f64,
    /// Of the answer, the share that has its cache reserved before a prompt is admitted.
    pub reserve: f64,
    /// Keys and values are cached in 8 bits beside narrow weights on devices before Blackwell, too.
    pub narrow_cache: bool,
    /// With data-parallel attention: decode steps that prompts wait at most until every rank has one.
    pub balance: usize,
    /// Requests that came together do not stay together: those of a closed loop are spread over its rounds from the start.
    #[serde(default)]
    pub staggered: bool,
    /// Bytes an element of tokens that are sent to experts of 8 bits or fewer, where ranks attend for themselves; 2 otherwise.
    #[serde(default = "wide")]
    pub dispatch: f64,
    /// Small kernels of a layer (norms, rope, casts), and those around its experts.
    pub kernels: f64,
    pub expert_kernels: f64,
    /// Host time of a step, of each sequence in it, and of a step that takes in prompts.
    pub host: Seconds,
    pub host_sequence: Seconds,
    pub host_prompt: Seconds,
    /// Around a first token: the request's way in and out; more where attention is latent.
    pub request: Seconds,
    pub request_latent: Seconds,
}

/// The stack of this name; spelling is taken lightly (`TensorRT-LLM` is `trtllm`).
///
/// # Errors
/// A name that no stack has, with those that there are.
pub fn named(name: &str) -> Result<Software> {
    let plain =
        |text: &str| -> String { text.to_ascii_lowercase().chars().filter(char::is_ascii_alphanumeric).collect() };
    const ALSO: [(&str, &str); 10] = [
        ("tensorrtllm", "trtllm"),
        ("trt", "trtllm"),
        ("megatron", "megatron-core"),
        ("megatronlm", "megatron-core"),
        ("mcore", "megatron-core"),
        ("deepspeed", "deepspeed-2021"),
        ("zero3", "deepspeed-2021"),
        ("fsdp", "fsdp2"),
        ("pytorch", "fsdp2"),
        ("composer", "llm-foundry"),
    ];
    let wanted = plain(name);
    let alias = ALSO.iter().find(|a| a.0 == wanted).map(|a| plain(a.1)).unwrap_or(wanted);
    let known = || SHIPPED.map(|s| s.0).join(", ");
    // Versions and launchers are spelled around a name: `megatron-bridge`, `vllm 0.12`, `nemo-24.07`.
    let within = || {
        SHIPPED.iter().find(|s| alias.starts_with(&plain(s.0))).or_else(|| {
            let also = ALSO.iter().find(|a| a.0.len() > 3 && alias.starts_with(a.0))?;
            SHIPPED.iter().find(|s| s.0 == also.1)
        })
    };
    let (name, text) = SHIPPED
        .iter()
        .find(|s| plain(s.0) == alias)
        .or_else(within)
        .ok_or_else(|| Error::usage(format!("there is no stack \"{name}\": there are {}", known())))?;
    let read: Software = toml::from_str(text)
        .map_err(|e| Error::file(format!("assets/stacks/{name}.toml"), e.message().replace('\n', ", ")))?;
    Ok(Software { name: name.to_string(), ..read })
}

/// The training stack where nothing names one: PyTorch's where weights are spread (ZeRO 3), else Megatron's.
pub fn training_default(zero: Option<usize>) -> &'static str {
    if zero == Some(3) { "fsdp2" } else { "megatron-core" }
}

impl Software {
    /// How it trains a model on devices of a generation (`a100`, `h100` …).
    ///
    /// # Errors
    /// A stack that only serves.
    pub fn trains(&self, generation: &str, model: &str) -> Result<Trains> {
        let t = self.training.as_ref().ok_or_else(|| {
            let all = SHIPPED.iter().filter(|s| s.1.contains("[training]")).map(|s| s.0).collect::<Vec<_>>();
            Error::usage(format!("{} does not train: stacks that do are {}", self.name, all.join(", ")))
        })?;
        let era = self.on.iter().find(|e| e.devices.iter().any(|d| d == generation));
        let flag = |of: fn(&Era) -> Option<bool>, default: bool| era.and_then(of).unwrap_or(default);
        let model = model.to_ascii_lowercase();
        let family = self.family.iter().find(|f| f.models.iter().any(|m| model.starts_with(m.as_str())));
        let share = |of: fn(&Family) -> Option<f64>, default: f64| family.and_then(of).unwrap_or(default);
        let host = |mine: fn(&Family) -> Option<Seconds>, there: fn(&Era) -> Option<Seconds>, default: Seconds| {
            family.and_then(mine).or(era.and_then(there)).unwrap_or(default)
        };
        let near = era.and_then(|e| e.overlap_experts_near).unwrap_or(t.overlap_experts_near);
        Ok(Trains {
            stack: Stack {
                fused_attention: flag(|e| e.fused_attention, t.fused_attention),
                pytorch: t.pytorch,
                overlap_gradients: flag(|e| e.overlap_gradients, t.overlap_gradients),
                overlap_tensor: era.and_then(|e| e.overlap_tensor).unwrap_or(t.overlap_tensor),
                dropout: flag(|e| e.dropout, t.dropout),
                gathers: t.gathers,
                prefetch: t.prefetch,
                reshard: t.reshard,
                host: t.host,
                dispatch: t.dispatch,
                once_per_node: family.and_then(|f| f.once_per_node).unwrap_or(t.once_per_node),
                overlap_experts: share(|f| f.overlap_experts, t.overlap_experts),
                overlap_experts_near: share(|f| f.overlap_experts_near, near),
                permutes: share(|f| f.permutes, t.permutes),
                host_experts: host(|f| f.host_experts, |e| e.host_experts, t.host_experts),
                host_expert: host(|f| f.host_expert, |e| e.host_expert, t.host_expert),
                bias_bytes: t.bias_bytes,
                passes: t.passes,
            },
            sequence_parallel: flag(|e| e.sequence_parallel, t.sequence_parallel),
            zero: era.and_then(|e| e.zero).unwrap_or(t.zero),
        })
    }

    /// How it answers static batches.
    ///
    /// # Errors
    /// A stack that is no such loop.
    pub fn loops(&self) -> Result<Loop> {
        self.plain.ok_or_else(|| {
            let all = SHIPPED.iter().filter(|s| s.1.contains("[loop]")).map(|s| s.0).collect::<Vec<_>>();
            Error::usage(format!("{} is no loop over static batches: those are {}", self.name, all.join(", ")))
        })
    }

    /// How it serves.
    ///
    /// # Errors
    /// A stack that only trains.
    pub fn serves(&self) -> Result<Serving> {
        self.serving.ok_or_else(|| {
            let all = SHIPPED.iter().filter(|s| s.1.contains("[serving]")).map(|s| s.0).collect::<Vec<_>>();
            Error::usage(format!("{} does not serve: stacks that do are {}", self.name, all.join(", ")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_read_and_does_something() {
        for (name, _) in SHIPPED {
            let s = named(name).unwrap();
            assert!(s.trains("h100", "").is_ok() || s.serves().is_ok() || s.loops().is_ok(), "{name}");
        }
        assert_eq!(named("TensorRT-LLM").unwrap().name, "trtllm");
        assert_eq!(named("Megatron-Bridge 0.2").unwrap().name, "megatron-core");
        assert_eq!(named("vLLM 0.12").unwrap().name, "vllm");
        assert!(named("vllm").unwrap().trains("h100", "").unwrap_err().to_string().contains("megatron-core"));
        assert!(named("nemo").unwrap().serves().unwrap_err().to_string().contains("vllm"));
        let dispatch = |stack: &str, model: &str| named(stack).unwrap().trains("b200", model).unwrap().stack;
        assert!(dispatch("megatron-core", "qwen3-30b-a3b").once_per_node);
        assert!(!dispatch("megatron-core", "gpt-oss-120b").once_per_node);
        assert!(named("jax").unwrap_err().to_string().contains("torchtitan"));
    }
}

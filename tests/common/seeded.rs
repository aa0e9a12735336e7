//! A seeded llama small enough for every test.

use std::collections::HashMap;
use warpweft::base::{Array, DType, Var};
use warpweft::format;
use warpweft::graph::Graph;
use warpweft::model::StepShape;
use warpweft::model::layers::{Activation, EncoderCommon, Sentence, Sizes};
use warpweft::model::llama::{Config, build};
use warpweft::reference::sample::Random;

pub struct Tiny {
    pub config: Config,
    pub weights: HashMap<String, Array>,
}

/// `heads` of 8 elements over `kv_heads`, 96 inner elements, a vocabulary of 41 without a head of its own.
pub fn llama(heads: usize, kv_heads: usize, layers: usize, seed: u64) -> Tiny {
    quantised(heads, kv_heads, layers, seed, DType::F32)
}

/// With matrices in a quantised type; widths are of whole blocks then.
pub fn quantised(heads: usize, kv_heads: usize, layers: usize, seed: u64, dtype: DType) -> Tiny {
    let block = dtype.block();
    let head_width = if block > 1 { block.div_ceil(heads).max(32) } else { 8 };
    let width = if block > 1 { block.max(64) } else { 24 };
    let sizes = Sizes { layers, width, heads, kv_heads, head: head_width, vocab: 41, context: 64 };
    let config = Config::new(sizes, 192_usize.next_multiple_of(block), true);
    let mut r = Random::new(seed);
    let mut weights = HashMap::new();
    let mut add = |name: String, shape: &[usize], dtype: DType, scale: f64, shift: f64| {
        let n: usize = shape.iter().product();
        let values: Vec<f32> = (0..n).map(|_| (r.normal() * scale + shift) as f32).collect();
        weights.insert(name, Array::new(dtype, shape, format::encode(dtype, &values)).unwrap());
    };
    add("token_embd.weight".into(), &[config.common.sizes.vocab, width], dtype, 0.5, 0.0);
    add("output_norm.weight".into(), &[width], DType::F32, 0.1, 1.0);
    let (q, kv) = (heads * head_width, kv_heads * head_width);
    for l in 0..layers {
        let name = |part: &str| format!("blk.{l}.{part}.weight");
        add(name("attn_norm"), &[width], DType::F32, 0.1, 1.0);
        add(name("ffn_norm"), &[width], DType::F32, 0.1, 1.0);
        for (part, shape) in [
            ("attn_q", [q, width]),
            ("attn_k", [kv, width]),
            ("attn_v", [kv, width]),
            ("attn_output", [width, q]),
            ("ffn_gate", [config.common.ffn, width]),
            ("ffn_up", [config.common.ffn, width]),
            ("ffn_down", [width, config.common.ffn]),
        ] {
            add(name(part), &shape, dtype, 1.0 / (shape[1] as f64).sqrt(), 0.0);
        }
    }
    Tiny { config, weights }
}

impl Tiny {
    /// A step of up to `seq` tokens in a context of `context`.
    pub fn graph(&self, seq: u32, context: usize, sequence_parallel: bool, last_only: bool) -> Graph {
        let step = StepShape {
            seq: Var::new("seq", seq).into(),
            total: Var::new("total", context as u32),
            context,
            last_only,
            sequence_parallel,
        };
        build(&self.config, &self.weights, "tiny", &step).unwrap()
    }
}

/// A seeded encoder of `heads` heads of 8 elements: its sizes and weights.
pub fn bert(heads: usize, layers: usize, seed: u64) -> (warpweft::model::bert::Config, HashMap<String, Array>) {
    let common = EncoderCommon {
        layers,
        width: heads * 8,
        heads,
        ffn: 160,
        vocab: 41,
        context: 32,
        eps: 1e-6,
        activation: Activation::Gelu,
        sentence: Sentence::mean(32),
    };
    let c = common.clone();
    let mut r = Random::new(seed);
    let mut weights = HashMap::new();
    let mut add = |name: &str, shape: &[usize], scale: f64, shift: f64| {
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| (r.normal() * scale + shift) as f32).collect();
        weights.insert(name.to_string(), Array::f32(shape, &values));
    };
    let (w, f) = (c.width, c.ffn);
    for (name, rows) in [("word", c.vocab), ("position", c.context), ("token_type", 2)] {
        add(&format!("embeddings.{name}_embeddings.weight"), &[rows, w], 0.5, 0.0);
    }
    let mut norms = vec!["embeddings.LayerNorm".to_string()];
    for l in 0..layers {
        let at = |part: &str| format!("encoder.layer.{l}.{part}");
        norms.extend([at("attention.output.LayerNorm"), at("output.LayerNorm")]);
        let square = ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"]
            .map(|p| (p, w, w));
        for (part, to, from) in square.into_iter().chain([("intermediate.dense", f, w), ("output.dense", w, f)]) {
            add(&at(&format!("{part}.weight")), &[to, from], 1.0 / (from as f64).sqrt(), 0.0);
            add(&at(&format!("{part}.bias")), &[to], 0.1, 0.0);
        }
    }
    for name in norms {
        add(&format!("{name}.weight"), &[w], 0.1, 1.0);
        add(&format!("{name}.bias"), &[w], 0.1, 0.0);
    }
    (warpweft::model::bert::Config { common, kinds: 2 }, weights)
}

//! BERT (Devlin et al., 2018): learned positions, layer norms behind each block, erf-GELU.

use super::{Architecture, Family};
use crate::base::{Result, Var, Weights};
use crate::graph::{Graph, Tensor};
use crate::model::keys::{Keys, short};
use crate::model::layers::{Encoder, EncoderCommon, EncoderDefaults, PostNorm, Texts, encode};

pub static FAMILY: Family = Family {
    name: "bert",
    gguf: &["bert"],
    hugging_face: &["bert"],
    read: |at| Ok(Architecture::Encoder(Box::new(Config::read(at)?))),
    harmless: HARMLESS,
};

/// Keys of BERT and its kin that change nothing here.
pub const HARMLESS: &[&str] = &[
    "directionality",
    "pooler_fc_size",
    "pooler_num_attention_heads",
    "pooler_num_fc_layers",
    "pooler_size_per_head",
    "pooler_type",
    "tie_word_embeddings",
];

/// What blocks are called.
pub const BLOCK: PostNorm = PostNorm {
    attention: ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"],
    attention_norm: "attention.output.LayerNorm",
    up: "intermediate.dense",
    down: "output.dense",
    norm: "output.LayerNorm",
};

/// The sizes and constants of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub common: EncoderCommon,
    /// Kinds of tokens (first and second sentence).
    pub kinds: usize,
}

impl Config {
    /// From a config.json, and what sentence-transformers puts beside it.
    fn read(at: &Keys) -> Result<Config> {
        check_positions(at)?;
        let common = EncoderCommon::read(at, &EncoderDefaults::default())?;
        Ok(Config { common, kinds: at.optional_size("", "type_vocab_size")?.unwrap_or(2) })
    }
}

/// Absolute positions are the only kind that is computed.
pub fn check_positions(at: &Keys) -> Result<()> {
    match at.text("", "position_embedding_type")?.as_deref().unwrap_or("absolute") {
        "absolute" => Ok(()),
        kind => Err(at.error(format!("has {} positions: absolute ones can be run", short(kind, 40)))),
    }
}

impl Encoder for Config {
    fn common(&self) -> &EncoderCommon {
        &self.common
    }
    fn root(&self) -> (&'static str, &'static str) {
        ("bert.", "embeddings.word_embeddings")
    }
    fn gguf_name(&self, name: &str) -> String {
        const LAYER: &[(&str, &str)] = &[
            ("attention.self.query", "attn_q"),
            ("attention.self.key", "attn_k"),
            ("attention.self.value", "attn_v"),
            ("attention.output.dense", "attn_output"),
            ("attention.output.LayerNorm", "attn_output_norm"),
            ("intermediate.dense", "ffn_up"),
            ("output.dense", "ffn_down"),
            ("output.LayerNorm", "layer_output_norm"),
        ];
        const MODEL: &[(&str, &str)] = &[
            ("embeddings.word_embeddings", "token_embd"),
            ("embeddings.position_embeddings", "position_embd"),
            ("embeddings.token_type_embeddings", "token_types"),
            ("embeddings.LayerNorm", "token_embd_norm"),
        ];
        let of = |table: &[(&str, &str)], part: &str| {
            table.iter().find(|t| t.0 == part).map_or(part.into(), |t| t.1.to_string())
        };
        match name.strip_prefix("encoder.layer.").and_then(|n| n.split_once('.')) {
            Some((layer, part)) => format!("blk.{layer}.{}", of(LAYER, part)),
            None => of(MODEL, name),
        }
    }
    fn hidden<'g>(&self, b: &Texts<'_, 'g>) -> Tensor<'g> {
        let c = &self.common;
        let words = b.words("embeddings.word_embeddings", c);
        let kinds = b.first_row("embeddings.token_type_embeddings.weight", [self.kinds, c.width]);
        let x = words + b.positions("embeddings.position_embeddings", c) + kinds;
        let x = b.norm(x, "embeddings.LayerNorm", true);
        b.layers(c.layers, x, |n, x| BLOCK.build(b, c, &format!("encoder.layer.{n}"), x, b.all_real()))
    }
}

/// The graph of a batch, as [`encode`] makes it.
///
/// # Errors
/// Tensors that are missing or have other shapes.
pub fn build(config: &Config, weights: &dyn Weights, model: &str, batch: Var, seq: Var) -> Result<Graph> {
    encode(config, weights, model, batch, seq)
}

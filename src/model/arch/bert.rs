//! BERT (Devlin et al., 2018) as a sentence encoder (Reimers and Gurevych, 2019): learned positions, layer-norm after
//! each block, erf-GELU; one vector of a text's tokens, normalised to length one.

use super::{Architecture, Encoder, EncoderSizes, Family};
use crate::base::Placement::{self, Split};
use crate::base::{Cut, DType, Dim, MeshAxis, Result, Var, Weights};
use crate::graph::{Attention, Graph, GraphBuilder, Tensor};
use crate::model::keys::{Keys, short};
use crate::model::layers::{Activation, BLOCKS, declare};
use serde_json::Value as Json;

pub static FAMILY: Family = Family {
    name: "bert",
    gguf: &[],
    hugging_face: &["bert"],
    read: |at| Ok(Architecture::Encoder(Box::new(Config::read(at)?))),
    harmless: &[
        "pad_token_id",
        "type_vocab_size",
        "position_embedding_type",
        "directionality",
        "pooler_fc_size",
        "pooler_num_attention_heads",
        "pooler_num_fc_layers",
        "pooler_size_per_head",
        "pooler_type",
    ],
};

/// The sizes and constants of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub layers: usize,
    pub width: usize,
    pub heads: usize,
    pub ffn: usize,
    pub vocab: usize,
    pub context: usize,
    /// Kinds of tokens (first and second sentence).
    pub kinds: usize,
    pub eps: f32,
    pub activation: Activation,
    pub pooling: Pooling,
    /// Tokens of a text that are read.
    pub max_tokens: usize,
}

/// How the vectors of a text's tokens become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    Mean,
    /// The sum by the root of the length.
    MeanSqrt,
    /// That of the first token.
    Cls,
    /// The largest of each element.
    Max,
}

/// Tokens of a text that are read where a folder does not say.
const MAX_TOKENS: usize = 256;

impl Config {
    /// From a config.json, and what sentence-transformers puts beside it.
    pub fn read(at: &Keys) -> Result<Config> {
        let kind = at.text("", "position_embedding_type")?.unwrap_or("absolute".into());
        if kind != "absolute" {
            return Err(at.error(format!("has {} positions: absolute ones can be run", short(&kind, 40))));
        }
        let context = at.size("", "max_position_embeddings")?;
        let config = Config {
            layers: at.size("", "num_hidden_layers")?,
            width: at.size("", "hidden_size")?,
            heads: at.size("", "num_attention_heads")?,
            ffn: at.size("", "intermediate_size")?,
            vocab: at.size("", "vocab_size")?,
            context,
            kinds: at.optional_size("", "type_vocab_size")?.unwrap_or(2),
            eps: at.real("", "layer_norm_eps", 0.0, 1e-12)? as f32,
            activation: Activation::read(at, "hidden_act", Activation::Gelu)?,
            pooling: Pooling::read(at)?,
            max_tokens: max_tokens(at)?.unwrap_or(MAX_TOKENS).min(context),
        };
        if !config.width.is_multiple_of(config.heads) || config.width / config.heads > 256 {
            return Err(at.error(format!(
                "a width of {} does not split into {} heads of up to 256",
                config.width, config.heads
            )));
        }
        Ok(config)
    }
}

impl Pooling {
    /// From modules.json and 1_Pooling/config.json; the mean where there are none.
    fn read(at: &Keys) -> Result<Pooling> {
        if let Some(modules) = at.side_json("modules.json")? {
            let types = modules.as_array().into_iter().flatten().filter_map(|m| m.get("type")?.as_str());
            for kind in types.map(|t| t.rsplit('.').next().unwrap_or(t)) {
                if !matches!(kind, "Transformer" | "Pooling" | "Normalize") {
                    let what =
                        format!("has a module {}: Transformer, Pooling and Normalize can be run", short(kind, 40));
                    return Err(at.error(what));
                }
            }
        }
        let Some(config) = at.side_json("1_Pooling/config.json")? else { return Ok(Pooling::Mean) };
        let on = config.as_object().into_iter().flatten().filter(|(_, v)| **v == Json::Bool(true));
        let modes: Vec<&str> = on.filter_map(|(k, _)| k.strip_prefix("pooling_mode_")).collect();
        match (modes[..].iter().copied().next(), modes.len()) {
            (None, _) | (Some("mean_tokens"), 1) => Ok(Pooling::Mean),
            (Some("cls_token"), 1) => Ok(Pooling::Cls),
            (Some("max_tokens"), 1) => Ok(Pooling::Max),
            (Some("mean_sqrt_len_tokens"), 1) => Ok(Pooling::MeanSqrt),
            _ => Err(at.error(format!(
                "has the pooling {}: one of mean_tokens, mean_sqrt_len_tokens, cls_token and max_tokens can be run",
                short(&modes.join(" with "), 80)
            ))),
        }
    }
}

fn max_tokens(at: &Keys) -> Result<Option<usize>> {
    let Some(config) = at.side_json("sentence_bert_config.json")? else { return Ok(None) };
    let Some(n) = config.get("max_seq_length").filter(|n| !n.is_null()) else { return Ok(None) };
    let size = n.as_u64().filter(|n| *n > 0).and_then(|n| usize::try_from(n).ok());
    let wrong =
        || at.error(format!("max_seq_length is {}, it must be a whole number from 1 on", short(&n.to_string(), 40)));
    size.map(Some).ok_or_else(wrong)
}

impl Encoder for Config {
    fn sizes(&self) -> EncoderSizes {
        EncoderSizes {
            layers: self.layers,
            width: self.width,
            heads: self.heads,
            vocab: self.vocab,
            context: self.context,
            max_tokens: self.max_tokens,
        }
    }
    fn build(&self, weights: &dyn Weights, model: &str, batch: Var, seq: Var) -> Result<Graph> {
        build(self, weights, model, batch, seq)
    }
}

/// The graph of a batch.
///
/// Inputs: `tokens` u32 `[batch, seq]`, `mask` bool `[batch, seq]`, true at real tokens. Output: `embeddings` f32
/// `[batch, width]`.
pub fn build(config: &Config, weights: &dyn Weights, model: &str, batch: Var, seq: Var) -> Result<Graph> {
    let builder = GraphBuilder::new();
    let prefix = if weights.info("bert.embeddings.word_embeddings.weight").is_ok() { "bert." } else { "" };
    Transformer { c: config, weights, model, prefix, g: &builder, batch: batch.into(), seq: seq.into() }.build();
    builder.finish()
}

/// Over tensor ranks a product's weight lies by its outputs (then its bias does) or by its inputs.
#[derive(Clone, Copy)]
enum Side {
    Outputs(Cut),
    Inputs(Cut),
}

struct Transformer<'a, 'g> {
    c: &'a Config,
    weights: &'a dyn Weights,
    model: &'a str,
    /// Some files hold the encoder inside of a larger model.
    prefix: &'static str,
    g: &'g GraphBuilder,
    batch: Dim,
    seq: Dim,
}

impl<'g> Transformer<'_, 'g> {
    fn build(&self) {
        let (g, c) = (self.g, self.c);
        let tokens = g.input("tokens", DType::U32, vec![self.batch, self.seq]);
        let mask = g.input("mask", DType::Bool, vec![self.batch, self.seq]);
        g.at("embeddings");
        let words = self.weight("embeddings.word_embeddings.weight", &[c.vocab, c.width]).gather(tokens);
        let positions =
            self.weight("embeddings.position_embeddings.weight", &[c.context, c.width]).slice(0, 0, self.seq);
        let kinds = self.weight("embeddings.token_type_embeddings.weight", &[c.kinds, c.width]).slice(0, 0, 1);
        let x = words + positions + kinds;
        let mut x = self.norm(x, "embeddings.LayerNorm");
        for layer in 0..c.layers {
            if g.has_failed() {
                return;
            }
            g.layer(layer as u32 + 1);
            let at = format!("encoder.layer.{layer}");
            x = self.attention(&at, x, mask);
            x = self.network(&at, x);
        }
        g.layer(c.layers as u32 + 1);
        g.at("pooling");
        let real = mask.cast(DType::F32).reshape(vec![self.batch, self.seq, 1.into()]);
        let pooled = match c.pooling {
            Pooling::Cls => x.slice(1, 0, 1).reshape(vec![self.batch, c.width.into()]),
            Pooling::Max => {
                let unread = (real - 1.0) * f32::MAX;
                (x * real + unread).max(&[1])
            }
            Pooling::Mean => (x * real).sum(&[1]) / real.sum(&[1]).maximum(g.constant(1e-9)),
            Pooling::MeanSqrt => (x * real).sum(&[1]) / real.sum(&[1]).maximum(g.constant(1e-9)).sqrt(),
        };
        let length = (pooled * pooled).sum(&[1]).sqrt().maximum(g.constant(1e-12));
        g.output("embeddings", pooled / length.reshape(vec![self.batch, 1.into()]));
    }

    fn attention(&self, at: &str, x: Tensor<'g>, mask: Tensor<'g>) -> Tensor<'g> {
        let c = self.c;
        let head = c.width / c.heads;
        let heads = Cut::Even { unit: head as u32 };
        let split = |name: &str| {
            let y = self.linear(&format!("{at}.attention.self.{name}"), x, [c.width, c.width], Side::Outputs(heads));
            y.reshape(vec![self.batch, self.seq, c.heads.into(), head.into()])
        };
        let (q, k, v) = (split("query"), split("key"), split("value"));
        self.g.at(format!("{at}.attention"));
        let mask = mask.reshape(vec![self.batch, 1.into(), 1.into(), self.seq]);
        let how = Attention::scaled(1.0 / (head as f32).sqrt());
        let y = q.attention(k, v, Some(mask), how).reshape(vec![self.batch, self.seq, c.width.into()]);
        let y = self.linear(&format!("{at}.attention.output.dense"), y, [c.width, c.width], Side::Inputs(heads));
        self.norm(self.whole(y + x), &format!("{at}.attention.output.LayerNorm"))
    }

    fn network(&self, at: &str, x: Tensor<'g>) -> Tensor<'g> {
        let up = &format!("{at}.intermediate.dense");
        let h = self.c.activation.of(self.linear(up, x, [self.c.ffn, self.c.width], Side::Outputs(BLOCKS)));
        let y = self.linear(&format!("{at}.output.dense"), h, [self.c.width, self.c.ffn], Side::Inputs(BLOCKS));
        self.norm(self.whole(y + x), &format!("{at}.output.LayerNorm"))
    }

    /// `x · wᵀ + b`.
    fn linear(&self, name: &str, x: Tensor<'g>, [to, from]: [usize; 2], side: Side) -> Tensor<'g> {
        self.g.at(name);
        let w = self.weight(&format!("{name}.weight"), &[to, from]);
        let b = self.weight(&format!("{name}.bias"), &[to]);
        match side {
            Side::Outputs(cut) => {
                x.matmul_t(w.cut(MeshAxis::Tensor, Split(0), cut)) + b.cut(MeshAxis::Tensor, Split(0), cut)
            }
            // The bias is added once, to the sum.
            Side::Inputs(cut) => self.whole(x.matmul_t(w.cut(MeshAxis::Tensor, Split(1), cut))) + b,
        }
    }

    /// The stream between blocks lies whole on every tensor rank.
    fn whole(&self, x: Tensor<'g>) -> Tensor<'g> {
        x.place(MeshAxis::Tensor, Placement::Whole)
    }

    fn norm(&self, x: Tensor<'g>, name: &str) -> Tensor<'g> {
        self.g.at(name);
        let w = self.weight(&format!("{name}.weight"), &[self.c.width]);
        x.layer_norm(w, self.weight(&format!("{name}.bias"), &[self.c.width]), self.c.eps)
    }

    fn weight(&self, name: &str, shape: &[usize]) -> Tensor<'g> {
        let name = format!("{}{name}", self.prefix);
        self.g.or_fail(declare(self.g, self.weights, self.model, &name, shape))
    }
}

//! BERT (Devlin et al., 2018) as a sentence encoder (Reimers and Gurevych, 2019): learned positions, layer-norm after
//! each block, erf-GELU; the mean over real tokens, normalised to length one.

use super::family::Lookup;
use crate::base::Placement::{self, Split};
use crate::base::{Cut, DType, Dim, Error, MeshAxis, Result, Var, Weights};
use crate::graph::{Attention, Graph, GraphBuilder, Tensor};

/// The sizes and constants of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub layers: usize,
    pub width: usize,
    pub heads: usize,
    pub ffn: usize,
    pub vocab: usize,
    pub context: usize,
    pub eps: f32,
}

impl Config {
    /// From a config.json.
    pub fn read(at: &Lookup) -> Result<Config> {
        let kind = at.text("position_embedding_type").unwrap_or("absolute".into());
        let act = at.text("hidden_act").unwrap_or("gelu".into());
        if kind != "absolute" || act != "gelu" {
            return Err(at.error(format!("has {kind} positions and activation {act}: absolute and gelu can be run")));
        }
        let config = Config {
            layers: at.size("", "num_hidden_layers")?,
            width: at.size("", "hidden_size")?,
            heads: at.size("", "num_attention_heads")?,
            ffn: at.size("", "intermediate_size")?,
            vocab: at.size("", "vocab_size")?,
            context: at.size("", "max_position_embeddings")?,
            eps: at.real("", "layer_norm_eps", 0.0, 1e-12)? as f32,
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

/// The graph of a batch.
///
/// Inputs: `tokens` u32 `[batch, seq]`, `mask` bool `[batch, seq]`, true at real tokens. Output: `embeddings` f32
/// `[batch, width]`.
pub fn build(config: &Config, weights: &dyn Weights, model: &str, batch: Var, seq: Var) -> Result<Graph> {
    let builder = GraphBuilder::new();
    let prefix = if weights.info("bert.embeddings.word_embeddings.weight").is_ok() { "bert." } else { "" };
    Encoder { c: config, weights, model, prefix, g: &builder, batch: batch.into(), seq: seq.into() }.build();
    builder.finish()
}

/// How much of the MLP stays together on a tensor rank.
const BLOCKS: Cut = Cut::Even { unit: 32 };

/// Over tensor ranks a product's weight lies by its outputs (then its bias does) or by its inputs.
#[derive(Clone, Copy)]
enum Side {
    Outputs(Cut),
    Inputs(Cut),
}

struct Encoder<'a, 'g> {
    c: &'a Config,
    weights: &'a dyn Weights,
    model: &'a str,
    /// Some files hold the encoder inside of a larger model.
    prefix: &'static str,
    g: &'g GraphBuilder,
    batch: Dim,
    seq: Dim,
}

impl<'g> Encoder<'_, 'g> {
    fn build(&self) {
        let (g, c) = (self.g, self.c);
        let tokens = g.input("tokens", DType::U32, vec![self.batch, self.seq]);
        let mask = g.input("mask", DType::Bool, vec![self.batch, self.seq]);
        g.at("embeddings");
        let words = self.weight("embeddings.word_embeddings.weight", &[c.vocab, c.width]).gather(tokens);
        let positions =
            self.weight("embeddings.position_embeddings.weight", &[c.context, c.width]).slice(0, 0, self.seq);
        let kinds = self.weight("embeddings.token_type_embeddings.weight", &[2, c.width]).slice(0, 0, 1);
        let x = words + positions + kinds;
        let mut x = self.norm(x, "embeddings.LayerNorm");
        for layer in 0..c.layers {
            g.layer(layer as u32 + 1);
            let at = format!("encoder.layer.{layer}");
            x = self.attention(&at, x, mask);
            x = self.network(&at, x);
        }
        g.layer(c.layers as u32 + 1);
        g.at("pooling");
        let real = mask.cast(DType::F32).reshape(vec![self.batch, self.seq, 1.into()]);
        let sum = (x * real).sum(&[1]);
        let mean = sum / real.sum(&[1]).maximum(g.constant(1e-9));
        let length = (mean * mean).sum(&[1]).sqrt().maximum(g.constant(1e-12));
        g.output("embeddings", mean / length.reshape(vec![self.batch, 1.into()]));
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
        let how = Attention { scale: 1.0 / (head as f32).sqrt(), causal: None, window: None };
        let y = q.attention(k, v, Some(mask), how).reshape(vec![self.batch, self.seq, c.width.into()]);
        let y = self.linear(&format!("{at}.attention.output.dense"), y, [c.width, c.width], Side::Inputs(heads));
        self.norm(self.whole(y + x), &format!("{at}.attention.output.LayerNorm"))
    }

    fn network(&self, at: &str, x: Tensor<'g>) -> Tensor<'g> {
        let h = self
            .linear(&format!("{at}.intermediate.dense"), x, [self.c.ffn, self.c.width], Side::Outputs(BLOCKS))
            .gelu();
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
        match super::family::check(self.weights, self.model, &name, shape) {
            Ok(dtype) if dtype.is_quantised() && shape.len() < 2 => {
                self.g.fail(Error::model(self.model, format!("tensor \"{name}\" is {dtype}, it must be a float type")))
            }
            Ok(dtype) => self.g.weight(&name, dtype, shape),
            Err(e) => self.g.fail(e),
        }
    }
}

//! Llama (Touvron et al., 2023): RMS-norm before each block, rotary positions, grouped-query attention, a gated SiLU network.
//! Mistral (Jiang et al., 2023) is the same with a sliding window.

use super::{Architecture, Family};
use crate::base::{Result, Weights};
use crate::graph::{Graph, RopeLayout, Tensor};
use crate::model::keys::Keys;
use crate::model::layers::{
    self, Activation, Attention, Biases, Blocks, Decoder, Mlp, Names, Norm, QkNorm, Rope, RopeDefaults, Sizes,
};

pub use crate::model::layers::{StepShape, Training, TrainingStep};

pub static FAMILY: Family = Family {
    name: "llama",
    gguf: &["llama"],
    hugging_face: &["llama", "mistral"],
    read: |at| Ok(Architecture::Decoder(Box::new(Config::read(at)?))),
    harmless: &["head_dim"],
};

/// The sizes and constants of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub sizes: Sizes,
    pub ffn: usize,
    pub eps: f32,
    pub rope: Rope,
    pub activation: Activation,
    /// A query sees this many of the newest keys at most.
    pub window: Option<u32>,
    pub biases: Biases,
    pub mlp_bias: bool,
    pub tied: bool,
    pub names: Names,
}

impl Config {
    /// Of these sizes, all else as published.
    pub fn new(sizes: Sizes, ffn: usize, gguf: bool) -> Config {
        let layout = if gguf { RopeLayout::Interleaved } else { RopeLayout::Half };
        Config {
            ffn,
            eps: 1e-5,
            rope: Rope::plain(1e4, sizes.head, layout),
            activation: Activation::Silu,
            window: None,
            biases: Biases::default(),
            mlp_bias: false,
            tied: true,
            names: Names::new(gguf, &[]),
            sizes,
        }
    }

    /// From GGUF metadata or a config.json.
    pub fn read(at: &Keys) -> Result<Config> {
        let mut sizes = Sizes::read(at, None)?;
        let names = Names::new(at.is_gguf(), &[]);
        let defaults =
            RopeDefaults { base: 1e4, head: sizes.head, gguf: RopeLayout::Interleaved, context: sizes.context };
        let rope = Rope::read(at, &defaults)?;
        sizes.context = layers::context(at, sizes.context)?;
        // Llama's own code has no window, and reads none.
        let mistral = at.is_gguf() || at.architecture()?.as_deref() == Some("mistral");
        let window = at.size_or_none("attention.sliding_window", "sliding_window")?.filter(|_| mistral);
        let biases = Biases::read(at, &names, Biases::default())?;
        Ok(Config {
            ffn: at.size("feed_forward_length", "intermediate_size")?,
            eps: at.real(
                "attention.layer_norm_rms_epsilon",
                "rms_norm_eps",
                0.0,
                if at.is_gguf() { 1e-5 } else { 1e-6 },
            )? as f32,
            activation: Activation::read(at, "hidden_act", Activation::Silu)?,
            window: window.map(|n| n as u32),
            biases,
            mlp_bias: match at.is_gguf() {
                true => at.has_tensor("blk.0.ffn_down.bias"),
                false => at.flag("", "mlp_bias")?.unwrap_or(false),
            },
            tied: layers::tied(at, &names, None)?,
            rope,
            names,
            sizes,
        })
    }

    fn attention(&self) -> Attention {
        let s = &self.sizes;
        Attention {
            width: s.width,
            heads: s.heads,
            kv_heads: s.kv_heads,
            head: s.head,
            scale: 1.0 / (s.head as f32).sqrt(),
            window: self.window,
            rope: Some(0),
            qk_norm: QkNorm::None,
            biases: self.biases,
        }
    }
}

impl Decoder for Config {
    fn sizes(&self) -> &Sizes {
        &self.sizes
    }
    fn names(&self) -> &Names {
        &self.names
    }
    fn ropes(&self) -> &[Rope] {
        std::slice::from_ref(&self.rope)
    }
    fn tied(&self) -> bool {
        self.tied
    }
    fn layer<'g>(&self, b: &Blocks<'_, 'g>, n: usize, x: Tensor<'g>) -> Tensor<'g> {
        let (norm, width) = (Norm::Rms(self.eps), self.sizes.width);
        let h = norm.build(b, Some(n), "attn_norm", x, width);
        let x = b.add(x, self.attention().build(b, n, self.ropes(), h));
        let h = norm.build(b, Some(n), "ffn_norm", x, width);
        let mlp = Mlp { width, inner: self.ffn, activation: self.activation, gated: true, bias: self.mlp_bias };
        b.add(x, mlp.build(b, n, h))
    }
    fn last_norm<'g>(&self, b: &Blocks<'_, 'g>, x: Tensor<'g>) -> Tensor<'g> {
        Norm::Rms(self.eps).build(b, None, "output_norm", x, self.sizes.width)
    }
}

/// The graph of a step.
pub fn build(config: &Config, weights: &dyn Weights, model: &str, step: &StepShape) -> Result<Graph> {
    layers::step(config, weights, model, step)
}

/// A training step of sizes alone.
pub fn training(config: &Config, model: &str, step: &TrainingStep) -> Result<Training> {
    layers::training(config, model, step)
}

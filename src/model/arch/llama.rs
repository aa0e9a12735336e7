//! Llama (Touvron et al., 2023): RMS-norm before each block, rotary positions, grouped-query attention, a gated SiLU network.
//! GGUF files of Mistral (Jiang et al., 2023) and of other kin that llama.cpp converts are of this architecture.

use super::{Architecture, Family};
use crate::base::{Result, Weights};
use crate::graph::{Graph, RopeLayout, Tensor};
use crate::model::keys::Keys;
use crate::model::layers::{
    self, Activation, Biases, Blocks, Common, Decoder, Defaults, Experts, Mlp, Names, Norm, Rope, Sizes,
};

pub use crate::model::layers::{Passes, StepShape, Training, TrainingStep};

pub static FAMILY: Family = Family {
    name: "llama",
    gguf: &["llama"],
    hugging_face: &["llama"],
    read: |at| Ok(Architecture::Decoder(Box::new(Config::read(at)?))),
    // Llama's own code has no window, and reads none.
    harmless: &["sliding_window"],
};

/// The sizes and constants of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub common: Common,
    pub rope: Rope,
    /// A query sees this many of the newest keys at most (GGUF files of Mistral).
    pub window: Option<u32>,
    pub mlp_bias: bool,
    /// Experts in place of the network (GGUF files of Mixtral).
    pub experts: Option<Experts>,
}

const DEFAULTS: fn() -> Defaults = || Defaults { gguf_rope: RopeLayout::Interleaved, ..Defaults::default() };

impl Config {
    /// Of these sizes, all else as published.
    pub fn new(sizes: Sizes, ffn: usize, gguf: bool) -> Config {
        let layout = if gguf { RopeLayout::Interleaved } else { RopeLayout::Half };
        let rope = Rope::plain(1e4, sizes.head, layout);
        let common = Common {
            ffn,
            norm: Norm::Rms(1e-5),
            activation: Activation::Silu,
            biases: Biases::default(),
            tied: true,
            names: Names::new(gguf, &[]),
            sizes,
        };
        Config { common, rope, window: None, mlp_bias: false, experts: None }
    }

    /// From GGUF metadata or a config.json.
    pub fn read(at: &Keys) -> Result<Config> {
        let mut d = DEFAULTS();
        d.eps = if at.is_gguf() { 1e-5 } else { 1e-6 };
        let mut common = Common::read(at, Names::new(at.is_gguf(), &[]), &d)?;
        let window = if at.is_gguf() { at.window(None)? } else { None };
        Ok(Config {
            rope: common.rope(at, &d)?,
            window: window.map(|n| n as u32),
            mlp_bias: match at.is_gguf() {
                true => at.has_tensor("blk.0.ffn_down.bias"),
                false => at.flag("", "mlp_bias")?.unwrap_or(false),
            },
            experts: if at.is_gguf() { Experts::read_optional(at, &common)? } else { None },
            common,
        })
    }
}

impl Decoder for Config {
    fn common(&self) -> &Common {
        &self.common
    }
    fn ropes(&self) -> &[Rope] {
        std::slice::from_ref(&self.rope)
    }
    fn layer<'g>(&self, b: &Blocks<'_, 'g>, n: usize, x: Tensor<'g>) -> Tensor<'g> {
        let c = &self.common;
        let attention = layers::Attention { window: self.window, ..c.attention() };
        let h = c.normed(b, n, "attn_norm", x);
        let x = b.add(x, attention.build(b, n, self.ropes(), h));
        let h = c.normed(b, n, "ffn_norm", x);
        b.add(
            x,
            match &self.experts {
                Some(experts) => experts.build(b, n, h),
                None => Mlp { bias: self.mlp_bias, ..c.mlp() }.build(b, n, h),
            },
        )
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

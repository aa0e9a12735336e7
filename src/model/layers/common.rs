//! What most decoders have: sizes, an inner network, one kind of norm, names.

use super::{Activation, Attention, Biases, Blocks, Mlp, Names, Norm, QkNorm, Rope, RopeDefaults, SizeDefaults, Sizes};
use super::{context, tied};
use crate::base::Result;
use crate::graph::{RopeLayout, Tensor};
use crate::model::keys::Keys;

/// The configuration that families share.
#[derive(Debug, Clone, PartialEq)]
pub struct Common {
    pub sizes: Sizes,
    /// Inner elements of the network behind attention.
    pub ffn: usize,
    pub norm: Norm,
    pub activation: Activation,
    pub biases: Biases,
    /// Whether the head is the embedding.
    pub tied: bool,
    pub names: Names,
}

/// What a family's own definition says where a file says nothing.
#[derive(Debug, Clone, Copy)]
pub struct Defaults {
    pub sizes: SizeDefaults,
    pub eps: f64,
    pub activation: Activation,
    pub biases: Biases,
    /// Whether the head is the embedding; `None`: as the file's tensors show.
    pub tied: Option<bool>,
    pub rope_base: f64,
    /// Which share of a head's elements turns.
    pub rope_share: f64,
    /// How rows of q and k are ordered in GGUF files.
    pub gguf_rope: RopeLayout,
    /// Whether YaRN's range of pairs is cut to whole ones where a file does not say.
    pub yarn_truncate: bool,
}

impl Default for Defaults {
    fn default() -> Self {
        Defaults {
            sizes: SizeDefaults::default(),
            eps: 1e-6,
            activation: Activation::Silu,
            biases: Biases::default(),
            tied: None,
            rope_base: 1e4,
            rope_share: 1.0,
            gguf_rope: RopeLayout::Half,
            yarn_truncate: true,
        }
    }
}

/// Inner elements of the network; where all layers have experts a file may say those of one only.
fn ffn(at: &Keys) -> Result<usize> {
    let (gguf, json) = ("feed_forward_length", "intermediate_size");
    match at.optional_size(gguf, json)? {
        Some(n) => Ok(n),
        None => match at.optional_size("expert_feed_forward_length", "moe_intermediate_size")? {
            Some(n) => Ok(n),
            None => at.size(gguf, json),
        },
    }
}

impl Common {
    /// From GGUF metadata or a config.json, with RMS norms.
    pub fn read(at: &Keys, names: Names, d: &Defaults) -> Result<Common> {
        let names = names.found(|name| at.has_tensor(name));
        let sizes = Sizes::read(at, &d.sizes)?;
        let eps = at.real("attention.layer_norm_rms_epsilon", "rms_norm_eps", 0.0, d.eps)?;
        Ok(Common {
            ffn: ffn(at)?,
            norm: Norm::Rms(eps as f32),
            activation: Activation::read(at, "hidden_act|hidden_activation", d.activation)?,
            biases: Biases::read(at, &names, d.biases)?,
            tied: tied(at, &names, d.tied)?,
            names,
            sizes,
        })
    }

    /// The one rotation of all layers; shortens the context where it must.
    pub fn rope(&mut self, at: &Keys, d: &Defaults) -> Result<Rope> {
        let rope = Rope::read(at, &self.rope_defaults(d))?;
        self.sizes.context = context(at, self.sizes.context)?;
        Ok(rope)
    }
    pub fn rope_defaults(&self, d: &Defaults) -> RopeDefaults {
        RopeDefaults {
            base: d.rope_base,
            share: d.rope_share,
            head: self.sizes.head,
            gguf: d.gguf_rope,
            context: self.sizes.context,
            yarn_truncate: d.yarn_truncate,
        }
    }

    /// Attention of these sizes with scores by `1/√head`, turned by the first rotation.
    pub fn attention(&self) -> Attention {
        let s = &self.sizes;
        Attention {
            width: s.width,
            heads: s.heads,
            kv_heads: s.kv_heads,
            head: s.head,
            scale: 1.0 / (s.head as f32).sqrt(),
            window: None,
            rope: Some(0),
            softcap: None,
            sinks: false,
            qk_norm: QkNorm::None,
            gated: false,
            biases: self.biases,
        }
    }
    /// A gated network without biases.
    pub fn mlp(&self) -> Mlp {
        Mlp {
            width: self.sizes.width,
            inner: self.ffn,
            activation: self.activation,
            gated: true,
            bias: false,
            parts: ["ffn_gate", "ffn_up", "ffn_down"],
        }
    }
    /// A norm of the residual stream.
    pub fn normed<'g>(&self, b: &Blocks<'_, 'g>, layer: usize, part: &str, x: Tensor<'g>) -> Tensor<'g> {
        self.norm.build(b, Some(layer), part, x, self.sizes.width)
    }

    /// The layer that most families have: `x + attention(norm(x))`, then `x + mlp(norm(x))`.
    pub fn pre_norm_layer<'g>(
        &self,
        b: &Blocks<'_, 'g>,
        layer: usize,
        x: Tensor<'g>,
        (attention, mlp): (&Attention, &Mlp),
        ropes: &[Rope],
    ) -> Tensor<'g> {
        let h = self.normed(b, layer, "attn_norm", x);
        let x = b.add(x, attention.build(b, layer, ropes, h));
        let h = self.normed(b, layer, "ffn_norm", x);
        b.add(x, mlp.build(b, layer, h))
    }
}

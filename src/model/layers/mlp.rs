//! The network behind attention.

use super::{Blocks, Side};
use crate::base::Result;
use crate::graph::Tensor;
use crate::model::keys::{Keys, short};

/// What bends the inner elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    Silu,
    /// By the error function (Hendrycks and Gimpel, 2016).
    Gelu,
    /// Its approximation by tanh.
    GeluTanh,
    /// Its approximation `x · σ(1.702 · x)`.
    QuickGelu,
    Relu,
}

impl Activation {
    /// As config.json names it; GGUF files leave it to the family.
    ///
    /// # Errors
    /// A name that is not known, or no name.
    pub fn read(at: &Keys, key: &str, default: Activation) -> Result<Activation> {
        Ok(match at.text("", key)?.as_deref() {
            None => default,
            Some("silu" | "swish") => Activation::Silu,
            Some("gelu" | "gelu_python") => Activation::Gelu,
            Some("gelu_new" | "gelu_pytorch_tanh" | "gelu_fast") => Activation::GeluTanh,
            Some("quick_gelu") => Activation::QuickGelu,
            Some("relu") => Activation::Relu,
            Some(other) => {
                return Err(at.error(format!(
                    "has the activation {}: silu, gelu, gelu_new, quick_gelu and relu can be run",
                    short(other, 40)
                )));
            }
        })
    }

    pub fn of<'g>(self, x: Tensor<'g>) -> Tensor<'g> {
        match self {
            Activation::Silu => x.silu(),
            Activation::Gelu => x.gelu(),
            Activation::GeluTanh => x.gelu_tanh(),
            Activation::QuickGelu => x * (x * 1.702).sigmoid(),
            Activation::Relu => x.relu(),
        }
    }
}

/// `down(act(gate(x)) · up(x))` (Shazeer, 2020), or `down(act(up(x)))` without a gate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mlp {
    pub width: usize,
    pub inner: usize,
    pub activation: Activation,
    pub gated: bool,
    pub bias: bool,
    /// The names of gate, up and down.
    pub parts: [&'static str; 3],
}

impl Mlp {
    pub fn build<'g>(&self, b: &Blocks<'_, 'g>, layer: usize, h: Tensor<'g>) -> Tensor<'g> {
        b.at(layer, "network.up");
        let blocks = b.blocks(layer, self.parts[2]);
        let project =
            |part: &str| b.linear(Some(layer), part, h, [self.inner, self.width], Side::Outputs(blocks), self.bias);
        let h = match self.gated {
            true => self.activation.of(project(self.parts[0])) * project(self.parts[1]),
            false => self.activation.of(project(self.parts[1])),
        };
        b.at(layer, "network.down");
        b.linear(Some(layer), self.parts[2], h, [self.width, self.inner], Side::Inputs(blocks), self.bias)
    }
}

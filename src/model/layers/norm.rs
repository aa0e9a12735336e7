//! Norms over the elements of a token or of a head.

use super::Blocks;
use crate::graph::Tensor;

/// Which norm, and what is added below the root.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Norm {
    /// By the root of the mean square (Zhang and Sennrich, 2019).
    Rms(f32),
    /// By mean and variance, with a bias (Ba et al., 2016).
    Layer(f32),
}

impl Norm {
    /// Of the last axis, which is `width` long.
    pub fn build<'g>(
        self,
        b: &Blocks<'_, 'g>,
        layer: Option<usize>,
        part: &str,
        x: Tensor<'g>,
        width: usize,
    ) -> Tensor<'g> {
        if let Some(layer) = layer {
            b.at(
                layer,
                match part {
                    "attn_norm" => "attention.norm",
                    "ffn_norm" => "network.norm",
                    other => other,
                },
            );
        }
        let w = b.part(layer, part, "weight", &[width], None);
        match self {
            Norm::Rms(eps) => x.rms_norm(w, eps),
            Norm::Layer(eps) => x.layer_norm(w, b.part(layer, part, "bias", &[width], None), eps),
        }
    }
}

//! A gated short convolution over tokens in place of attention (Liquid AI, 2025).

use super::{BLOCKS, Blocks, Rows, Side};
use crate::base::{DType, MeshAxis, Placement::Split};
use crate::graph::Tensor;

/// `out(c · conv(b · x))`, b, c and x from one projection; the convolution is of each element by itself and sees the newest
/// `taps` tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ShortConv {
    pub width: usize,
    pub taps: usize,
}

impl ShortConv {
    /// `h`: the tokens of the step `[rows, width]`; so is the result. Products b · x are kept for the steps that follow,
    /// behind `taps − 1` rows of zeros.
    pub fn build<'g>(&self, g: &Blocks<'_, 'g>, layer: usize, h: Tensor<'g>) -> Tensor<'g> {
        let (width, before) = (self.width, self.taps - 1);
        g.at(layer, "conv.in");
        let project = |part: &str| g.linear(Some(layer), part, h, [width, width], Side::Outputs(BLOCKS), false);
        let (b, c, x) = (project("conv_b"), project("conv_c"), project("conv_x"));
        g.at(layer, "conv");
        // Model folders have an axis for the one input of each element.
        let (whole, flat) = ([width, 1, self.taps], [width, self.taps]);
        let shape: &[usize] = if g.names.is_gguf() { &flat } else { &whole };
        let w = g.part(Some(layer), "shortconv.conv", "weight", shape, Some((Split(0), BLOCKS)));
        let tap = |j: usize| w.slice(shape.len() - 1, j as i64, 1).reshape([1, width]);
        let gated = b * x;
        let y = match g.rows {
            Rows::Cached { seq, total, context } => {
                let state = g.g.state(&format!("layers.{layer}.conv"), DType::F32, [context + before, width]);
                let past = total - seq;
                let all = state.cut(MeshAxis::Tensor, Split(1), BLOCKS).append(gated, past + before.into());
                let seen = |j: usize| all.slice(0, past + j.into(), seq) * tap(j);
                (1..self.taps).fold(seen(0), |y, j| y + seen(j))
            }
            // Products lie in pages, as keys do.
            Rows::Paged { .. } => {
                let Some(pages) = &g.pages else { return h };
                let state = g.g.state(&format!("layers.{layer}.conv"), DType::F32, [pages.pool, width]);
                let all = state.cut(MeshAxis::Tensor, Split(1), BLOCKS).append_at(gated, pages.places);
                let seen =
                    |y: Tensor<'g>, (back, at): (usize, &Tensor<'g>)| y + all.gather(*at) * tap(before - 1 - back);
                pages.earlier.iter().take(before).enumerate().fold(gated * tap(before), seen)
            }
            Rows::Whole { batch, seq } => {
                let all = gated.reshape([batch, seq, width]).pad(1, before, 0, 0.0);
                let seen = |j: usize| all.slice(1, j as i64, seq as i64) * tap(j).reshape([1, 1, width]);
                (1..self.taps).fold(seen(0), |y, j| y + seen(j)).reshape([batch * seq, width])
            }
        };
        g.at(layer, "conv.out");
        g.linear(Some(layer), "shortconv.out_proj", c * y, [width, width], Side::Inputs(BLOCKS), false)
    }
}

//! A mixture of experts in place of the network (Shazeer et al., 2017): a router chooses a few of many networks for each
//! token, and only their weights are read.

use super::{Activation, Blocks, Common, Side};
use crate::base::{Cut, DType, Dim, Placement::Split, Result};
use crate::graph::Tensor;
use crate::model::keys::Keys;

/// The options of a layer of experts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Experts {
    /// How many there are, and how many a token has.
    pub count: usize,
    pub used: usize,
    pub width: usize,
    /// Inner elements of each.
    pub inner: usize,
    pub gate: Gate,
    /// Whether the weights of a token's experts add up to one; else they are shares of all experts.
    pub normalised: bool,
    /// Whether router and experts have biases.
    pub bias: bool,
}

/// How an expert's gate meets its other half.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Gate {
    /// `act(gate) · up`.
    Plain(Activation),
    /// `gate · σ(alpha · gate) · (up + 1)`, both kept within ± `limit` (OpenAI, 2025).
    Clamped { alpha: f32, limit: f32 },
}

/// First rows of experts are counted in f32.
const MOST_ROWS: usize = 1 << 24;

impl Experts {
    /// As most families name them; `inner` where the file says nothing else.
    ///
    /// # Errors
    /// Numbers that are missing or do not fit together.
    pub fn read(at: &Keys, c: &Common, inner: usize) -> Result<Experts> {
        let count = at.size("expert_count", "num_experts|num_local_experts")?;
        let used = at.size("expert_used_count", "num_experts_per_tok|experts_per_token")?;
        let inner = at.optional_size("expert_feed_forward_length", "moe_intermediate_size")?.unwrap_or(inner);
        if used > count || count * inner.max(c.sizes.width) > MOST_ROWS {
            return Err(
                at.error(format!("{used} of {count} experts of {inner} inner elements are more than can be run"))
            );
        }
        Ok(Experts {
            count,
            used,
            width: c.sizes.width,
            inner,
            gate: Gate::Plain(c.activation),
            normalised: true,
            bias: false,
        })
    }

    /// Those of a GGUF file, if it has any.
    pub fn read_optional(at: &Keys, c: &Common) -> Result<Option<Experts>> {
        if at.number("expert_count", "")?.unwrap_or(0.0) == 0.0 {
            at.number("expert_used_count", "")?;
            return Ok(None);
        }
        Experts::read(at, c, c.ffn).map(Some)
    }

    /// `h`: tokens `[rows, width]`; so is the result.
    pub fn build<'g>(&self, b: &Blocks<'_, 'g>, layer: usize, h: Tensor<'g>) -> Tensor<'g> {
        let n = b.rows.count();
        let dims = |last: usize| -> Vec<Dim> { vec![n, self.used.into(), last.into()] };
        b.at(layer, "experts.router");
        let scores = b.linear(Some(layer), "ffn_gate_inp", h, [self.count, self.width], Side::Whole, self.bias);
        let scores = if self.normalised { scores } else { scores.softmax() };
        let (ids, chosen) = self.top(b, scores);
        let shares = if self.normalised { chosen.softmax() } else { chosen };

        b.at(layer, "experts.up");
        let x = h.reshape(vec![n, 1.into(), self.width.into()]);
        let gate = self.project(b, layer, "ffn_gate_exps", x, ids, [self.inner, self.width]);
        let up = self.project(b, layer, "ffn_up_exps", x, ids, [self.inner, self.width]);
        let h = match self.gate {
            Gate::Plain(activation) => activation.of(gate) * up,
            Gate::Clamped { alpha, limit } => {
                let (low, high) = (b.g.constant(-limit), b.g.constant(limit));
                let (gate, up) = (gate.minimum(high), up.minimum(high).maximum(low));
                gate * (gate * alpha).sigmoid() * (up + 1.0)
            }
        };
        b.at(layer, "experts.down");
        let y = self.project(b, layer, "ffn_down_exps", h.reshape(dims(self.inner)), ids, [self.width, self.inner]);
        (y * shares.reshape(dims(1))).sum(&[1])
    }

    /// The largest of each row of scores `[rows, count]`: their places and values, `[rows, used]` each, the largest first.
    fn top<'g>(&self, b: &Blocks<'_, 'g>, scores: Tensor<'g>) -> (Tensor<'g>, Tensor<'g>) {
        let n = b.rows.count();
        let column = |x: Tensor<'g>| x.reshape(vec![n, 1.into()]);
        let place = b.g.iota(DType::U32, [1, self.count], 1, 0);
        let (mut left, mut ids, mut values) = (scores, vec![], vec![]);
        for i in 0..self.used {
            let best = column(left.argmax(1));
            values.push(column(left.max(&[1])));
            ids.push(best);
            if i + 1 < self.used {
                left = place.eq(best).select(b.g.constant(-f32::MAX), left);
            }
        }
        (b.g.concat(&ids, 1), b.g.concat(&values, 1))
    }

    /// A matrix of each chosen expert times its row of x, `[rows, used, to]`; over tensor ranks lie whole experts.
    fn project<'g>(
        &self,
        b: &Blocks<'_, 'g>,
        layer: usize,
        part: &str,
        x: Tensor<'g>,
        ids: Tensor<'g>,
        [to, from]: [usize; 2],
    ) -> Tensor<'g> {
        let lies = Some((Split(0), Cut::Even { unit: to as u32 }));
        let w = b.part(Some(layer), part, "weight", &[self.count * to, from], lies);
        let first = (ids.cast(DType::F32) * to as f32).cast(DType::U32);
        let y = x.expert_matmul(w, first, to);
        match self.bias {
            true => y + b.part(Some(layer), part, "bias", &[self.count, to], None).gather(ids),
            false => y,
        }
    }
}

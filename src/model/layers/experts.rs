//! A mixture of experts in place of the network (Shazeer et al., 2017): a router chooses a few of many networks for each
//! token, and only their weights are read.

use super::{Activation, Blocks, Common, Mlp, Side};
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
    pub scoring: Scoring,
    /// Experts are chosen within a few groups of them.
    pub groups: Option<Groups>,
    /// What is added to the sum by which the weights of a token's experts are divided, where they are sigmoids.
    pub floor: f32,
    /// What the weights are multiplied by.
    pub scale: f32,
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

/// What a router's results mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scoring {
    /// Shares of all experts.
    Softmax,
    /// Each for itself; a learned bias takes part in the choice only (Wang et al., 2024).
    Sigmoid,
}

/// Group-limited routing (DeepSeek-AI, 2024): a token's experts are of the best groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Groups {
    pub count: usize,
    pub kept: usize,
    /// Whether a group is as good as its two best experts together, else as its best one.
    pub by_two: bool,
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
        Experts::new(at, c, [count, used, inner])
    }

    /// Of these numbers: how many there are, how many a token has, and inner elements of each.
    ///
    /// # Errors
    /// Numbers that do not fit together.
    pub fn new(at: &Keys, c: &Common, [count, used, inner]: [usize; 3]) -> Result<Experts> {
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
            scoring: Scoring::Softmax,
            groups: None,
            floor: 1e-20,
            scale: 1.0,
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
        let (ids, shares) = self.choose(b, layer, scores);

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

    /// The network that every token has beside its experts, behind a gate of its own; `mlp` has its inner elements.
    pub fn beside<'g>(&self, b: &Blocks<'_, 'g>, layer: usize, h: Tensor<'g>, mlp: Mlp) -> Tensor<'g> {
        let parts = ["ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"];
        let every = b.residual(Mlp { parts, ..mlp }.build(b, layer, h));
        // A GGUF file has the gate as a vector.
        let width = self.width;
        let shape: &[usize] = if b.names.is_gguf() { &[width] } else { &[1, width] };
        let gate = b.part(Some(layer), "ffn_gate_inp_shexp", "weight", shape, None).reshape([1, width]);
        every * h.matmul_t(gate).sigmoid()
    }

    /// Which experts a token has and what each counts, `[rows, used]` each, of a router's results `[rows, count]`.
    fn choose<'g>(&self, b: &Blocks<'_, 'g>, layer: usize, scores: Tensor<'g>) -> (Tensor<'g>, Tensor<'g>) {
        let (ids, shares) = match (self.scoring, self.groups) {
            // Shares of the chosen are the softmax of their scores alone.
            (Scoring::Softmax, None) if self.normalised => {
                let (ids, chosen) = top(b, scores, [self.count, self.used]);
                (ids, chosen.softmax())
            }
            (Scoring::Softmax, groups) => {
                let shares = scores.softmax();
                let open = groups.map_or(shares, |g| g.limit(b, shares, self.count, 0.0));
                let (ids, chosen) = top(b, open, [self.count, self.used]);
                (
                    ids,
                    if self.normalised {
                        chosen / chosen.sum(&[1]).reshape(vec![b.rows.count(), 1.into()])
                    } else {
                        chosen
                    },
                )
            }
            (Scoring::Sigmoid, groups) => {
                let shares = scores.sigmoid();
                let kind = if b.names.is_gguf() { "bias" } else { "" };
                let best = shares + b.part(Some(layer), "exp_probs_b", kind, &[self.count], None);
                let open = groups.map_or(best, |g| g.limit(b, best, self.count, -f32::MAX));
                let (ids, _) = top(b, open, [self.count, self.used]);
                let chosen = self.values_at(b, shares, ids);
                let sum = chosen.sum(&[1]).reshape(vec![b.rows.count(), 1.into()]) + self.floor;
                (ids, if self.normalised { chosen / sum } else { chosen })
            }
        };
        (ids, if self.scale == 1.0 { shares } else { shares * self.scale })
    }

    /// Elements of rows `[rows, count]` at places `[rows, used]`.
    fn values_at<'g>(&self, b: &Blocks<'_, 'g>, x: Tensor<'g>, ids: Tensor<'g>) -> Tensor<'g> {
        let n = b.rows.count();
        let place = b.g.iota(DType::U32, [1, 1, self.count], 2, 0);
        let here = place.eq(ids.reshape(vec![n, self.used.into(), 1.into()]));
        here.select(x.reshape(vec![n, 1.into(), self.count.into()]), b.g.constant(0.0)).sum(&[2])
    }

    /// # Errors
    /// Groups that are not even, or hold too few experts.
    pub fn check_groups(&self, at: &Keys) -> Result<()> {
        let Some(g) = self.groups else { return Ok(()) };
        let least = if g.by_two { 2 } else { 1 };
        let even = self.count.is_multiple_of(g.count) && self.count / g.count >= least && g.kept <= g.count;
        if !even || self.count / g.count * g.kept < self.used {
            return Err(at.error(format!(
                "{} of {} groups of {} experts, {} of which a token has, cannot be run",
                g.kept, g.count, self.count, self.used
            )));
        }
        Ok(())
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

impl Groups {
    /// Scores `[rows, count]` with `closed` in place of those of experts outside of the best groups.
    fn limit<'g>(self, b: &Blocks<'_, 'g>, scores: Tensor<'g>, count: usize, closed: f32) -> Tensor<'g> {
        let (n, one, each) = (b.rows.count(), Dim::new(1), count / self.count);
        let by_group = scores.reshape(vec![n, self.count.into(), each.into()]);
        let mut best = by_group.max(&[2]);
        if self.by_two {
            let place = b.g.iota(DType::U32, [1, 1, each], 2, 0);
            let first = place.eq(by_group.argmax(2).reshape(vec![n, self.count.into(), one]));
            best = best + first.select(b.g.constant(-f32::MAX), by_group).max(&[2]);
        }
        let (kept, _) = top(b, best, [self.count, self.kept]);
        let place = b.g.iota(DType::U32, [1, self.count, 1], 1, 0);
        let open = place.eq(kept.reshape(vec![n, one, self.kept.into()])).cast(DType::F32).sum(&[2]);
        let open = open.reshape(vec![n, self.count.into(), one]).gt(b.g.constant(0.5));
        open.select(by_group, b.g.constant(closed)).reshape(vec![n, count.into()])
    }
}

/// The largest of each row of scores `[rows, count]`: their places and values, `[rows, used]` each, the largest first.
fn top<'g>(b: &Blocks<'_, 'g>, scores: Tensor<'g>, [count, used]: [usize; 2]) -> (Tensor<'g>, Tensor<'g>) {
    let n = b.rows.count();
    let column = |x: Tensor<'g>| x.reshape(vec![n, 1.into()]);
    let place = b.g.iota(DType::U32, [1, count], 1, 0);
    let (mut left, mut ids, mut values) = (scores, vec![], vec![]);
    for i in 0..used {
        let best = column(left.argmax(1));
        values.push(column(left.max(&[1])));
        ids.push(best);
        if i + 1 < used {
            left = place.eq(best).select(b.g.constant(-f32::MAX), left);
        }
    }
    (b.g.concat(&ids, 1), b.g.concat(&values, 1))
}

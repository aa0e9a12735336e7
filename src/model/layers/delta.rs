//! Gated DeltaNet in place of attention (Yang et al., 2024): what a sequence keeps is a matrix a head, of the same size
//! however long it is, and the last few rows of three short convolutions.

use super::{Blocks, Norm, Rows, Side};
use crate::base::{Cut, DType, Dim, MeshAxis, Placement::Split};
use crate::graph::{Recurrence, Tensor};

/// The options of a layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GatedDelta {
    pub width: usize,
    /// Heads of queries and keys, and elements of one.
    pub key_heads: usize,
    pub key: usize,
    /// Heads of values, of which as many share a key head, and elements of one.
    pub heads: usize,
    pub value: usize,
    /// Rows that the convolutions see.
    pub taps: usize,
    /// Of the results' heads.
    pub norm: Norm,
    /// Whether heads of values lie by turns of the key heads, `0 1 … 0 1 …`, as some files have them; else one key head's
    /// behind another's.
    pub turns: bool,
}

/// Below the root of what queries and keys are divided by.
const LENGTH_EPS: f32 = 1e-6;

impl GatedDelta {
    /// Which elements of keys, and of values, a tensor rank has.
    fn cuts(&self) -> (Cut, Cut) {
        if self.turns {
            return (Cut::Even { unit: self.key as u32 }, Cut::Even { unit: self.value as u32 });
        }
        let (groups, each) = (self.key_heads as u32, (self.heads / self.key_heads) as u32);
        (Cut::Key { groups, each, width: self.key as u32 }, Cut::Query { groups, each, width: self.value as u32 })
    }

    /// What a sequence keeps of a layer, in elements.
    pub fn kept(&self) -> usize {
        let channels = 2 * self.key_heads * self.key + self.heads * self.value;
        self.heads * self.key * self.value + (self.taps - 1) * channels
    }

    /// `h`: the tokens of the step `[rows, width]`; so is the result.
    pub fn build<'g>(&self, b: &Blocks<'_, 'g>, layer: usize, h: Tensor<'g>) -> Tensor<'g> {
        let (keys, values) = self.cuts();
        let (of_keys, of_values) = (self.key_heads * self.key, self.heads * self.value);
        let heads = values.divided(self.value as u32).unwrap_or(Cut::ONES);
        b.at(layer, "delta.in");
        let project = |part: &str, to: usize, cut: Cut| {
            b.linear(Some(layer), part, h, [to, self.width], Side::Outputs(cut), false)
        };
        let all = [("q", of_keys, keys), ("k", of_keys, keys), ("v", of_values, values)];
        let mixed = [
            project("delta_q", of_keys, keys),
            project("delta_k", of_keys, keys),
            project("delta_v", of_values, values),
        ];
        let z = project("delta_z", of_values, values);
        let (rate, speed) = (project("delta_b", self.heads, heads), project("delta_a", self.heads, heads));
        b.at(layer, "delta.conv");
        let convolved = [0, 1, 2].map(|i| {
            let (part, width, cut) = all[i];
            self.convolved(b, layer, part, mixed[i], (width, cut)).silu()
        });
        b.at(layer, "delta.gates");
        let gates = self.gates(b, layer, (rate, speed), heads);
        b.at(layer, "delta");
        let y = self.recurrence(b, layer, convolved, gates);
        b.at(layer, "delta.out");
        let n = b.rows.count();
        let (Norm::Rms(eps) | Norm::Layer(eps)) = self.norm;
        let y = y.rms_norm(b.part(Some(layer), "delta_scale", "weight", &[self.value], None), eps);
        let y = y.reshape(vec![n, of_values.into()]) * z.silu();
        b.linear(Some(layer), "delta_out", y, [self.width, of_values], Side::Inputs(values), false)
    }

    /// A causal convolution of each element by itself over the newest `taps` rows.
    fn convolved<'g>(
        &self,
        b: &Blocks<'_, 'g>,
        layer: usize,
        part: &str,
        x: Tensor<'g>,
        (width, cut): (usize, Cut),
    ) -> Tensor<'g> {
        let before = self.taps - 1;
        let name = format!("delta_conv_{part}");
        // Model folders have an axis for the one input of each element.
        let (whole, flat) = ([width, 1, self.taps], [width, self.taps]);
        let shape: &[usize] = if b.names.is_gguf() { &flat } else { &whole };
        let w = b.part(Some(layer), &name, "weight", shape, Some((Split(0), cut)));
        let tap = |j: usize| w.slice(shape.len() - 1, j as i64, 1).reshape([1, width]);
        let kept = |rows: usize| {
            let state = b.g.state(&format!("layers.{layer}.conv_{part}"), DType::F32, [rows, width]);
            state.cut(MeshAxis::Tensor, Split(1), cut)
        };
        match b.rows {
            _ if before == 0 => x * tap(0),
            Rows::Cached { seq, total, .. } => {
                // Rows from before the first token are zeros, whatever another conversation has left.
                let position = b.g.iota(DType::I32, [before, 1], 0, total - seq);
                let state = kept(before);
                let is_there = position.ge(b.g.iota(DType::I32, [1], 0, before as i64));
                let all = b.g.concat(&[is_there.select(state, b.g.constant(0.0)), x], 0);
                let y =
                    (1..self.taps).fold(all.slice(0, 0, seq) * tap(0), |y, j| y + all.slice(0, j as i64, seq) * tap(j));
                state.assign(all.slice(0, seq, before as i64));
                y
            }
            Rows::Paged { .. } => {
                let Some(own) = b.pages.as_ref().and_then(|p| p.own.as_ref()) else { return x };
                let state = kept(own.slots * before);
                let all = b.g.concat(&[state, x], 0);
                let seen =
                    |y: Tensor<'g>, (back, at): (usize, &Tensor<'g>)| y + all.gather(*at) * tap(before - 1 - back);
                let y = own.earlier.iter().enumerate().fold(x * tap(before), seen);
                state.append_at(all.gather(own.kept), own.kept_at);
                y
            }
            Rows::Whole { batch, seq } => {
                let all = x.reshape([batch, seq, width]).pad(1, before, 0, 0.0);
                let seen = |j: usize| all.slice(1, j as i64, seq as i64) * tap(j).reshape([1, 1, width]);
                (1..self.taps).fold(seen(0), |y, j| y + seen(j)).reshape([batch * seq, width])
            }
        }
    }

    /// A decay and a rate of each row and head, `[rows, heads, 2]`; a sequence's first row has a decay of 0.
    fn gates<'g>(
        &self,
        b: &Blocks<'_, 'g>,
        layer: usize,
        (rate, speed): (Tensor<'g>, Tensor<'g>),
        heads: Cut,
    ) -> Tensor<'g> {
        let lies = Some((Split(0), heads));
        let vector = |part: &str, kind: &str| b.part(Some(layer), part, kind, &[self.heads], lies).cast(DType::F32);
        let (bias, a) = match b.names.is_gguf() {
            true => (vector("delta_dt", "bias"), vector("delta_decay", "")),
            false => (vector("delta_dt", ""), vector("delta_decay", "").exp().neg()),
        };
        let decay = ((speed + bias).softplus() * a).exp();
        let n = b.rows.count();
        let first = match b.rows {
            Rows::Cached { seq, total, .. } => b.g.iota(DType::F32, vec![seq, 1.into()], 0, total - seq),
            Rows::Paged { rows } => match &b.pages {
                Some(pages) => pages.positions.cast(DType::F32).reshape(vec![rows, 1.into()]),
                None => return decay,
            },
            Rows::Whole { batch, seq } => b.g.iota(DType::F32, [batch, seq], 1, 0).reshape([batch * seq, 1]),
        };
        let decay = first.lt(b.g.constant(0.5)).select(b.g.constant(0.0), decay);
        let shape = vec![n, self.heads.into(), Dim::new(1)];
        b.g.concat(&[decay.reshape(shape.clone()), rate.sigmoid().reshape(shape)], 2)
    }

    /// What heads read from their matrices behind each row, `[rows, heads, value]`; the matrices stay behind the last.
    fn recurrence<'g>(
        &self,
        b: &Blocks<'_, 'g>,
        layer: usize,
        [q, k, v]: [Tensor<'g>; 3],
        gates: Tensor<'g>,
    ) -> Tensor<'g> {
        let (n, d, h, e) = (b.rows.count(), self.key, self.heads, self.value);
        let (q, k) = (self.unit(b, q, 1.0 / (d as f32).sqrt()), self.unit(b, k, 1.0));
        let values = v.reshape(vec![n, h.into(), e.into()]);
        let (_, cut) = self.cuts();
        let state = |slots: usize| {
            let state = b.g.state(&format!("layers.{layer}.delta"), DType::F32, [slots, d, h, e]);
            state.cut(MeshAxis::Tensor, Split(2), cut.divided(e as u32).unwrap_or(Cut::ONES))
        };
        let words = |shape: Vec<Dim>| b.g.iota(DType::U32, shape, 0, 0);
        let (states, slots, owners) = match b.rows {
            Rows::Cached { seq, .. } => (state(1), words(vec![1.into()]), words(vec![1.into()]).broadcast(vec![seq])),
            Rows::Paged { .. } => match b.pages.as_ref().and_then(|p| p.own.as_ref()) {
                Some(own) => (state(own.slots), own.active, own.owners),
                None => return values,
            },
            Rows::Whole { batch, seq } => (
                b.g.constant(0.0).broadcast([batch, d, h, e]),
                words(vec![batch.into()]),
                words(vec![batch.into(), seq.into()]).reshape([batch * seq]),
            ),
        };
        let sequences = slots.dim(0);
        let made = q.delta_rule(Recurrence { keys: k, values, gates, states, slots, owners });
        let behind = || made.slice(0, n, sequences * d as i64).reshape(vec![sequences, d.into(), h.into(), e.into()]);
        match b.rows {
            Rows::Cached { .. } => _ = states.assign(behind()),
            Rows::Paged { .. } => _ = states.append_at(behind(), slots),
            Rows::Whole { .. } => {}
        }
        made.slice(0, 0, n)
    }

    /// Heads `[rows, heads, key]` of one length, and where heads of values lie by turns, a key head for each.
    fn unit<'g>(&self, b: &Blocks<'_, 'g>, x: Tensor<'g>, length: f32) -> Tensor<'g> {
        let d = self.key as f32;
        let x = x.reshape(vec![b.rows.count(), self.key_heads.into(), self.key.into()]);
        // x / √(Σx² + eps) is an RMS norm whose weight is 1/√d.
        let x = x.rms_norm(b.g.constant(length / d.sqrt()).broadcast([self.key]), LENGTH_EPS / d);
        match self.turns {
            true => b.g.concat(&vec![x; self.heads / self.key_heads], 1),
            false => x,
        }
    }
}

//! What a training step does, counted from a model's shape over all ranks: the same lists that are priced. Plans are
//! counted apart ([`plans`](super::plans)); a test holds the two against each other.

use super::layer::{
    Axis, Work, embedding, gather_weights, head, hop, layer, scatter_gradients, share_embedding, share_gradients,
};
use super::layout::Layout;
use super::shape::Shape;
use crate::base::Result;
use crate::topology::collective::Kind;
use std::collections::BTreeMap;

/// Counts of a step.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Counts {
    /// FLOPs of matrix products outside of attention's core, and within it.
    pub products: f64,
    pub attention: f64,
    /// By axis and kind: collectives, and the bytes that each works on, summed (all of a vector that is reduced, gathered
    /// or scattered, as nccl-tests count).
    pub collectives: BTreeMap<(&'static str, &'static str), (f64, f64)>,
}

impl Counts {
    /// Work that `ranks` ranks do, where each collective has `group` of them.
    fn add(&mut self, work: &[Work], l: &Layout, times: f64, ranks: f64) {
        for w in work {
            match w {
                Work::Gemm { name: "scores" | "weighted sum", batch, m, n, k, .. } => {
                    self.attention += 2.0 * batch * m * n * k * times * ranks
                }
                Work::Gemm { batch, m, n, k, .. } => self.products += 2.0 * batch * m * n * k * times * ranks,
                Work::Attention { flops, .. } => self.attention += flops * times * ranks,
                Work::Collective { kind, bytes, axis, .. } => {
                    let group = ways(l, *axis);
                    if group > 1 && *bytes > 0.0 {
                        self.travels(*axis, *kind, times * ranks / group as f64, *bytes);
                    }
                }
                Work::Tokens { bytes, .. } => {
                    if l.ep > 1 && *bytes > 0.0 {
                        self.travels(Axis::Expert, Kind::AllToAll, times * ranks / l.ep as f64, *bytes);
                    }
                }
                Work::Stream { .. } | Work::Host { .. } => {}
            }
        }
    }

    fn travels(&mut self, axis: Axis, kind: Kind, times: f64, bytes: f64) {
        let entry = self.collectives.entry((name(axis), kind.name())).or_default();
        *entry = (entry.0 + times, entry.1 + times * bytes);
    }
}

fn ways(l: &Layout, axis: Axis) -> usize {
    match axis {
        Axis::Tensor => l.tp,
        Axis::Context => l.cp,
        Axis::Expert => l.ep,
        Axis::Data => l.dp * l.cp,
        Axis::ExpertData => l.expert_copies(),
        // A copy of the embedding at either end.
        Axis::Pipeline => l.pp.min(2),
    }
}

fn name(axis: Axis) -> &'static str {
    match axis {
        Axis::Tensor => "tensor",
        Axis::Context => "context",
        Axis::Expert => "expert",
        Axis::Data | Axis::ExpertData => "data",
        Axis::Pipeline => "pipeline",
    }
}

/// Counts a pass that answers: all layers over the layout's tokens, the head over `rows` of them, on all tensor ranks.
///
/// # Errors
/// A layout that cannot be on this model ([`Layout::check`]).
pub fn forward(shape: &Shape, l: &Layout, rows: usize) -> Result<Counts> {
    l.check(shape)?;
    let (mut out, ranks) = (Counts::default(), l.tp as f64);
    (0..shape.layers).for_each(|i| out.add(&layer(shape, l, i).forward, l, 1.0, ranks));
    let last = Layout { micro_batch: rows, seq: 1, ..l.clone() };
    let products: Vec<Work> =
        head(shape, &last).forward.into_iter().filter(|w| matches!(w, Work::Gemm { .. })).collect();
    out.add(&products, l, 1.0, ranks);
    Ok(out)
}

/// Counts a step.
///
/// # Errors
/// A layout that cannot be on this model ([`Layout::check`]).
pub fn counts(shape: &Shape, l: &Layout) -> Result<Counts> {
    l.check(shape)?;
    let mut out = Counts::default();
    let (times, ranks) = (l.micro_batches() as f64, (l.devices() / l.pp) as f64);
    let parts = l.layers(shape);
    for (s, stage) in parts.iter().enumerate() {
        let mut all: Vec<_> = stage.iter().flatten().map(|i| layer(shape, l, *i)).collect();
        if s == 0 {
            all.push(embedding(shape, l));
        }
        if s + 1 == l.pp {
            all.push(head(shape, l));
        }
        for layer in &all {
            for pass in [&layer.forward, &layer.backward, &layer.recompute] {
                out.add(pass, l, times, ranks);
            }
            let gathered = gather_weights(l, layer);
            [gathered.clone(), gathered, scatter_gradients(l, layer)].iter().for_each(|w| out.add(w, l, times, ranks));
        }
        let parameters = all.iter().fold((0.0, 0.0), |sum, l| (sum.0 + l.parameters.0, sum.1 + l.parameters.1));
        out.add(&share_gradients(l, parameters), l, 1.0, ranks);
    }
    if let Some(work) = share_embedding(shape, l) {
        // The first stage and the last take part.
        out.add(&[work], l, 1.0, 2.0 * ranks);
    }
    let hops = (l.pp * l.chunks - 1) as f64 * 2.0 * times * ranks;
    if hops > 0.0 {
        out.travels(Axis::Pipeline, Kind::SendRecv { from: 0, to: 1 }, hops, hop(shape, l));
    }
    Ok(out)
}

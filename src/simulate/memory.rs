//! What a device holds at the fullest moment of a step, line by line, for every stage.

use super::chip::Chip;
use super::layout::Layout;
use super::pipeline::{in_flight, order};
use crate::base::units::Bytes;

/// Memory of a device of one stage. Lines add up.
#[derive(Debug, Clone, PartialEq)]
pub struct Memory {
    pub weights: Bytes,
    pub gradients: Bytes,
    pub optimizer: Bytes,
    /// Kept from forward to backward passes, for as many micro-batches as are in flight.
    pub activations: Bytes,
    /// Keys and values of sequences that are being answered.
    pub cache: Bytes,
    /// What lives while one layer or the loss runs, and what collectives work in.
    pub buffers: Bytes,
    /// What the allocator cannot use.
    pub slack: Bytes,
}

impl Memory {
    pub fn lines(&self) -> [(&'static str, Bytes); 7] {
        [
            ("weights", self.weights),
            ("gradients", self.gradients),
            ("optimizer", self.optimizer),
            ("activations", self.activations),
            ("cache", self.cache),
            ("buffers", self.buffers),
            ("slack", self.slack),
        ]
    }
    pub fn total(&self) -> Bytes {
        self.lines().iter().map(|l| l.1).sum()
    }
}

/// What a stage's layers come to.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    /// Of a rank: replicated over data-parallel ranks, and of experts.
    pub parameters: (f64, f64),
    /// Bytes that a chunk of layers keeps for a micro-batch.
    pub kept: f64,
    /// Bytes that live while a layer runs backward.
    pub working: f64,
    /// Parameters of the largest layer.
    pub largest: f64,
}

/// Memory of each stage. Weights are 16 bits wide (fp8 keeps an 8-bit copy and its transpose beside them), gradients and
/// optimiser states 32 (18 bytes a parameter in all: Megatron-LM theoretical_memory_usage.py). ZeRO spreads optimiser (1),
/// gradients (2) and weights (3) over data-parallel ranks.
pub fn memory(l: &Layout, chip: &Chip, stages: &[Held]) -> Vec<Memory> {
    let (d, e) = ((l.dp * l.cp) as f64, l.expert_copies() as f64);
    let of = |(stage, h): (usize, &Held)| {
        let spread = |from: usize| {
            let (a, b) = if l.zero >= from { (d, e) } else { (1.0, 1.0) };
            h.parameters.0 / a + h.parameters.1 / b
        };
        let narrow = if l.precision.bytes() < 2.0 { 2.0 } else { 0.0 };
        let wide = if l.precision.bytes() >= 4.0 { 4.0 } else { 2.0 };
        // ZeRO 3 keeps its shard of weights in 32 bits only (beside the optimiser, where weights are narrower); copies are
        // gathered layer by layer.
        let weights = if l.zero == 3 && wide < 4.0 { 0.0 } else { spread(3) * (wide + narrow) };
        let gradients = spread(2) * 4.0;
        let optimizer = if l.offload { 0.0 } else { spread(1) * if wide == 4.0 { 8.0 } else { 12.0 } };
        let gathered = if l.zero == 3 { h.largest * (2.0 * wide + 4.0) } else { 0.0 };
        let passes = in_flight(&order(l.schedule, l.pp, l.chunks, bounded(l), stage)) as f64;
        let activations = passes * h.kept;
        let buffers = h.working + gathered;
        let slack = chip.constants.runtime.slack * (activations + buffers);
        Memory {
            weights: Bytes(weights),
            gradients: Bytes(gradients),
            optimizer: Bytes(optimizer),
            activations: Bytes(activations),
            cache: Bytes(0.0),
            buffers: Bytes(buffers),
            slack: Bytes(slack),
        }
    };
    stages.iter().enumerate().map(of).collect()
}

/// In flight are never more than a few rounds of the pipeline: longer runs need not be spelled out.
fn bounded(l: &Layout) -> usize {
    let m = l.micro_batches().max(1);
    let enough = 4 * l.pp;
    if m > enough { enough } else { m }
}

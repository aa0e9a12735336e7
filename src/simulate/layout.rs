//! How a run is laid out on devices, and checks that it can be.

use super::shape::Shape;
use crate::base::units::Seconds;
use crate::base::{Error, Result};
use crate::topology::{Mesh, Precision};
use serde::Deserialize;

/// What is computed again in the backward pass instead of kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Recompute {
    None,
    /// What is cheap for its size: the attention core (Korthikanti 2022); under ZeRO 3, every other product and all
    /// elementwise work, as PyTorch's selective checkpointing does.
    Selective,
    /// All but each layer's input.
    Full,
}

/// The order of forward and backward passes along a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Schedule {
    /// One forward, one backward; interleaved where a device has several chunks of layers.
    OneForwardOneBackward,
    /// Weight gradients are put off to fill the bubble (ZB-H1, Qi et al. 2023).
    ZeroBubble,
}

impl Recompute {
    /// As people spell it.
    pub fn name(self) -> &'static str {
        match self {
            Recompute::None => "none",
            Recompute::Selective => "selective",
            Recompute::Full => "full",
        }
    }
}

impl Schedule {
    /// As people spell it.
    pub fn name(self) -> &'static str {
        match self {
            Schedule::OneForwardOneBackward => "1f1b",
            Schedule::ZeroBubble => "zero-bubble",
        }
    }
}

/// What ZeRO 3 gathers at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gathers {
    /// Each parameter tensor where it is used.
    Tensor,
    /// All of a layer.
    Layer,
}

/// What the training software does beyond arithmetic (read from assets/stacks).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stack {
    /// Attention in one kernel that keeps no scores.
    pub fused_attention: bool,
    /// Attention and loss as PyTorch brings them, rather than the vendor's library and Megatron's loss.
    pub pytorch: bool,
    /// Gradients are reduced while the backward pass still runs, weights gathered while the forward pass does.
    pub overlap_gradients: bool,
    /// Share of tensor-parallel collectives that runs behind products.
    pub overlap_tensor: f64,
    /// Dropout in training.
    pub dropout: bool,
    pub gathers: Gathers,
    /// A gather runs beside the layer before; otherwise the layer waits for it.
    pub prefetch: bool,
    /// Weights are freed after the forward pass and gathered again for the backward pass.
    pub reshard: bool,
    /// Host time of a gather or scatter that nothing hides.
    pub host: Seconds,
    /// Bytes an element of tokens on their way to experts.
    pub dispatch: f64,
    /// A token goes to each node, and there to each rank, once, however many of its experts are there.
    pub once_per_node: bool,
    /// Share of the tokens' way to experts and back that runs behind other work: where it crosses a network, and within a
    /// node or rack.
    pub overlap_experts: f64,
    pub overlap_experts_near: f64,
    /// Copies of routed tokens, each read and written, that sorting them by expert and back makes a pass.
    pub permutes: f64,
    /// Host time of a layer of experts that nothing hides, both passes: once, and for each expert that a rank holds.
    pub host_experts: Seconds,
    pub host_expert: Seconds,
    /// Bytes an element of what experts put out that adding their last bias moves forward and backward, where they have one.
    pub bias_bytes: (f64, f64),
    /// Passes over memory of norms, rotations and gated activations, against one fused kernel each.
    pub passes: f64,
}

impl Stack {
    /// Fused kernels, gradients behind the backward pass, layers gathered ahead: what any present software does.
    pub const PRESENT: Stack = Stack {
        fused_attention: true,
        pytorch: false,
        overlap_gradients: true,
        overlap_tensor: 0.0,
        dropout: false,
        gathers: Gathers::Layer,
        prefetch: true,
        reshard: true,
        host: Seconds(0.0),
        dispatch: 2.0,
        once_per_node: false,
        overlap_experts: 0.0,
        overlap_experts_near: 0.0,
        permutes: 2.0,
        host_experts: Seconds(0.0),
        host_expert: Seconds(0.0),
        bias_bytes: (0.0, 0.0),
        passes: 1.0,
    };
}

/// A training run's layout.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    pub dp: usize,
    pub tp: usize,
    pub pp: usize,
    pub cp: usize,
    /// Ranks that share a layer's experts; they are data-parallel ranks otherwise.
    pub ep: usize,
    /// Chunks of layers a device.
    pub chunks: usize,
    /// ZeRO stage 0 to 3: what is spread over data-parallel ranks (1 optimiser, 2 gradients, 3 weights, too).
    pub zero: usize,
    pub sequence_parallel: bool,
    pub seq: usize,
    pub micro_batch: usize,
    pub global_batch: usize,
    pub precision: Precision,
    pub recompute: Recompute,
    /// Optimiser states live on the host.
    pub offload: bool,
    pub schedule: Schedule,
    /// Tokens of the busiest expert rank over their mean: 1 where routing is even.
    pub imbalance: f64,
    pub stack: Stack,
}

impl Layout {
    /// A layout of one device and one sequence.
    pub fn single(seq: usize) -> Layout {
        Layout {
            dp: 1,
            tp: 1,
            pp: 1,
            cp: 1,
            ep: 1,
            chunks: 1,
            zero: 0,
            sequence_parallel: false,
            seq,
            micro_batch: 1,
            global_batch: 1,
            precision: Precision::Bf16,
            recompute: Recompute::None,
            offload: false,
            schedule: Schedule::OneForwardOneBackward,
            imbalance: 1.0,
            stack: Stack::PRESENT,
        }
    }

    /// The sizes of a mesh; `ep` multiplies the data-parallel ranks, `sp` is context parallel.
    pub fn with_mesh(self, mesh: &Mesh) -> Layout {
        let of = |axis: &str| mesh.size(axis);
        Layout { dp: of("dp") * of("ep"), tp: of("tp"), pp: of("pp"), cp: of("cp").max(of("sp")), ep: of("ep"), ..self }
    }

    pub fn devices(&self) -> usize {
        self.dp * self.tp * self.pp * self.cp
    }

    /// Ranks that share the width of an expert: the tensor ranks, unless experts are spread over these, too.
    pub fn expert_tensor(&self) -> usize {
        if self.dp.is_multiple_of(self.ep) { self.tp } else { 1 }
    }

    /// Ranks that hold the same experts.
    pub fn expert_copies(&self) -> usize {
        if self.dp.is_multiple_of(self.ep) { self.dp / self.ep } else { self.dp * self.tp * self.cp / self.ep }
    }

    /// Micro-batches that a pipeline takes a step.
    pub fn micro_batches(&self) -> usize {
        self.global_batch / (self.dp * self.micro_batch)
    }

    /// Tokens of a micro-batch on one rank.
    pub fn tokens(&self) -> f64 {
        (self.micro_batch * self.seq) as f64 / self.cp as f64
    }

    /// Layers of each chunk on each stage: `[stage][chunk]`. Where they do not divide, the parts nearest to the ends have one
    /// less (the last first): embedding and head are there, too.
    pub fn layers(&self, shape: &Shape) -> Vec<Vec<Vec<usize>>> {
        let parts = self.pp * self.chunks;
        let (each, more) = (shape.layers / parts, shape.layers % parts);
        // From the last: 0, from the first: 1, from the last but one: 2 …
        let rank = |i: usize| if i >= parts / 2 { 2 * (parts - 1 - i) } else { 2 * i + 1 };
        let part = |i: usize| each + usize::from(rank(i) >= parts - more);
        let mut first = 0;
        let mut out = vec![vec![vec![]; self.chunks]; self.pp];
        for i in 0..parts {
            out[i % self.pp][i / self.pp] = (first..first + part(i)).collect();
            first += part(i);
        }
        out
    }

    /// What cannot be, with the nearest thing that works.
    pub fn check(&self, shape: &Shape) -> Result<()> {
        shape.check()?;
        let bad = |what: String| Err(Error::usage(what));
        let sizes = [
            ("dp", self.dp),
            ("tp", self.tp),
            ("pp", self.pp),
            ("cp", self.cp),
            ("ep", self.ep),
            ("vpp", self.chunks),
            ("seq", self.seq),
            ("micro_batch", self.micro_batch),
        ];
        if let Some((what, _)) = sizes.iter().find(|s| s.1 == 0) {
            return bad(format!("{what} is 0, must be 1 or more"));
        }
        let chunks = self.pp.saturating_mul(self.chunks);
        let limits = [
            ("seq", self.seq, 1 << 28),
            ("micro_batch", self.micro_batch, 1 << 24),
            ("global_batch", self.global_batch, 1 << 30),
            ("pp × vpp", chunks, 512),
        ];
        if let Some((what, size, most)) = limits.iter().find(|l| l.1 > l.2) {
            return bad(format!("{what} is {size}: no more than {most} is priced"));
        }
        let once = self.dp.saturating_mul(self.micro_batch);
        if self.global_batch < once || !self.global_batch.is_multiple_of(once) {
            let near = (self.global_batch / once).max(1).saturating_mul(once);
            return bad(format!(
                "a global batch of {} is no multiple of dp {} × micro-batch {}: the nearest is {near}",
                self.global_batch, self.dp, self.micro_batch
            ));
        }
        self.check_stages(shape)?;
        self.check_experts(shape)?;
        if !self.seq.is_multiple_of(self.cp) {
            return bad(format!("cp {} does not divide a sequence of {}", self.cp, self.seq));
        }
        if self.chunks > 1 && self.pp == 1 {
            return bad(format!("{} chunks need a pipeline: pp is 1", self.chunks));
        }
        if self.chunks > 1 && !self.micro_batches().is_multiple_of(self.pp) {
            return bad(format!(
                "interleaving needs micro-batches in multiples of pp {}: there are {}",
                self.pp,
                self.micro_batches()
            ));
        }
        if !(1.0..=1024.0).contains(&self.imbalance) {
            return bad(format!(
                "an imbalance of {}: the busiest expert rank has 1 to 1024 times the mean",
                self.imbalance
            ));
        }
        if self.zero > 3 {
            return bad(format!("ZeRO stage {} is none of 0, 1, 2, 3", self.zero));
        }
        Ok(())
    }

    fn check_stages(&self, shape: &Shape) -> Result<()> {
        let bad = |what: String| Err(Error::usage(what));
        if self.tp > shape.heads {
            return bad(format!("tp {} splits {} heads: at most {}", self.tp, shape.heads, shape.heads));
        }
        // Where there are more parts than layers, embedding and head take one each.
        if self.pp * self.chunks > shape.layers + if self.pp > 1 { 2 } else { 0 } {
            return bad(format!(
                "pp {} × {} chunks splits {} layers, embedding and head: at most {} stages",
                self.pp,
                self.chunks,
                shape.layers,
                shape.layers + 2
            ));
        }
        Ok(())
    }

    fn check_experts(&self, shape: &Shape) -> Result<()> {
        let bad = |what: String| Err(Error::usage(what));
        if self.ep > 1 && shape.experts == 0 {
            return bad(format!(
                "ep {} needs experts, {} has none: take ep 1",
                self.ep,
                if shape.name.is_empty() { "the model" } else { &shape.name }
            ));
        }
        let spread = self.dp.saturating_mul(self.tp).saturating_mul(self.cp);
        if self.ep > 1
            && (!shape.experts.is_multiple_of(self.ep)
                || !self.dp.is_multiple_of(self.ep) && !spread.is_multiple_of(self.ep))
        {
            return bad(format!(
                "ep {} must divide the {} experts, and dp {} or dp × tp × cp = {spread}",
                self.ep, shape.experts, self.dp
            ));
        }
        Ok(())
    }
}

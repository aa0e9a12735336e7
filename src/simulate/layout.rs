//! How a run is laid out on devices, and checks that it can be.

use super::shape::Shape;
use crate::base::{Error, Result};
use crate::topology::{Mesh, Precision};

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

/// What the training software does beyond arithmetic. It differs by its time, not by layout.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stack {
    /// Attention in one kernel that keeps no scores.
    pub fused_attention: bool,
    /// Gradients are reduced while the backward pass still runs, weights gathered while the forward pass does.
    pub overlap_gradients: bool,
    /// Share of tensor-parallel collectives that runs behind products.
    pub overlap_tensor: f64,
    /// Dropout in training.
    pub dropout: bool,
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
            stack: Stack { fused_attention: true, overlap_gradients: true, overlap_tensor: 0.0, dropout: false },
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
        if self.global_batch < once || self.global_batch % once != 0 {
            let near = (self.global_batch / once).max(1).saturating_mul(once);
            return bad(format!(
                "a global batch of {} is no multiple of dp {} × micro-batch {}: the nearest is {near}",
                self.global_batch, self.dp, self.micro_batch
            ));
        }
        if self.tp > shape.heads {
            return bad(format!("tp {} splits {} heads: at most {}", self.tp, shape.heads, shape.heads));
        }
        if self.pp * self.chunks > shape.layers {
            return bad(format!(
                "pp {} × {} chunks splits {} layers: at most {} stages",
                self.pp, self.chunks, shape.layers, shape.layers
            ));
        }
        if self.ep > 1 && shape.experts == 0 {
            return bad(format!(
                "ep {} needs experts, {} has none: take ep 1",
                self.ep,
                if shape.name.is_empty() { "the model" } else { &shape.name }
            ));
        }
        if self.ep > 1 && (shape.experts % self.ep != 0 || self.dp % self.ep != 0) {
            return bad(format!("ep {} must divide the {} experts and dp {}", self.ep, shape.experts, self.dp));
        }
        if self.seq % self.cp != 0 {
            return bad(format!("cp {} does not divide a sequence of {}", self.cp, self.seq));
        }
        if self.chunks > 1 && self.pp == 1 {
            return bad(format!("{} chunks need a pipeline: pp is 1", self.chunks));
        }
        if self.chunks > 1 && self.micro_batches() % self.pp != 0 {
            return bad(format!(
                "interleaving needs micro-batches in multiples of pp {}: there are {}",
                self.pp,
                self.micro_batches()
            ));
        }
        if self.zero > 3 {
            return bad(format!("ZeRO stage {} is none of 0, 1, 2, 3", self.zero));
        }
        Ok(())
    }
}

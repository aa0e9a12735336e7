//! `simulate --plan --train`: the plan of a training step, from a model's sizes alone.

use super::plan::{Planned, caps};
use super::{RecomputeFlag, ScheduleFlag, Simulate};
use crate::base::{Bindings, Error, Result};
use crate::graph::{Optimiser, Zero};
use crate::model::layers::Sizes;
use crate::model::llama::{self, Config, Passes, TrainingStep};
use crate::plan;
use crate::plan::shard::shard;
use crate::simulate::Shape;
use crate::simulate::plans::Of;
use crate::topology::Mesh;

/// Every layer of every micro-batch is written out.
const MOST_LAYERS: usize = 1024;
const MOST_MICRO_BATCHES: usize = 64;

/// A llama of this shape. Constants that no price depends on are the family's usual ones.
pub fn config(shape: &Shape, context: usize) -> Result<Config> {
    let lacks = [
        (shape.experts > 0, "experts"),
        (shape.latent.is_some(), "low-rank attention"),
        (!shape.gated, "a network without gates"),
        (!shape.rope, "learnt positions"),
        (shape.biases, "biases"),
    ];
    if let Some((_, what)) = lacks.iter().find(|l| l.0) {
        return Err(Error::usage(format!(
            "{} has {what}: training steps are planned for llama-type models; leave --plan out to price it from its shape",
            shape.name
        )));
    }
    if !shape.head().is_multiple_of(2) || shape.head() > 256 {
        return Err(Error::usage(format!(
            "{} has heads {} wide: an even width up to 256 can be planned",
            shape.name,
            shape.head()
        )));
    }
    let sizes = Sizes {
        layers: shape.layers,
        width: shape.hidden,
        heads: shape.heads,
        kv_heads: shape.kv_heads(),
        head: shape.head(),
        vocab: shape.vocab,
        context,
    };
    Ok(Config::new(sizes, shape.ffn, false))
}

impl Simulate {
    /// What the plan of a step cannot have, by the flag that asks for it.
    fn check_training_plan(&self, mesh: &Mesh) -> Result<()> {
        let t = &self.training;
        let refused = [
            (t.search, "--search"),
            (t.ablate, "--ablate"),
            (t.chunks != 1, "--chunks"),
            (t.offload, "--offload"),
            (self.sequence_parallel, "--sequence-parallel"),
            (matches!(t.schedule, ScheduleFlag::ZeroBubble), "--schedule"),
            (matches!(t.recompute, Some(RecomputeFlag::Selective)), "--recompute selective"),
        ];
        if let Some((_, flag)) = refused.iter().find(|r| r.0) {
            return Err(Error::usage(format!(
                "{flag} is no part of a training step's plan: leave it out, or leave --plan out to price the step from the model's shape"
            )));
        }
        if let Some((axis, n)) = mesh.axes().iter().find(|(a, n)| *n > 1 && !["dp", "tp", "pp"].contains(&a.as_str())) {
            return Err(Error::usage(format!("{axis}={n}: training steps are planned over dp, tp and pp")));
        }
        let batch = t.micro_batch.unwrap_or(1).saturating_mul(mesh.size("dp"));
        match t.global_batch {
            Some(n) if batch == 0 || n % batch != 0 || n / batch > MOST_MICRO_BATCHES => Err(Error::usage(format!(
                "--global-batch is {n}: a planned step takes 1 to {MOST_MICRO_BATCHES} micro-batches of {batch} sequences"
            ))),
            _ => Ok(()),
        }
    }

    /// Plans the step over a mesh.
    pub fn planned_training(&self, mesh: Mesh) -> Result<Planned> {
        self.check_training_plan(&mesh)?;
        let (shape, t) = (self.shape()?, &self.training);
        shape.check()?;
        let batch = t.micro_batch.unwrap_or(1).saturating_mul(mesh.size("dp"));
        let micro_batches = t.global_batch.unwrap_or(batch) / batch.max(1);
        if shape.layers.saturating_mul(micro_batches) > MOST_LAYERS {
            return Err(Error::usage(format!(
                "{} has {} layers, which go through {micro_batches} micro-batches: up to {MOST_LAYERS} in all are planned, --layers takes fewer",
                shape.name, shape.layers
            )));
        }
        // Positions and ids are counted in 32 bits.
        let most = 1usize << 24;
        if t.seq == 0 || batch == 0 || batch.saturating_mul(t.seq).saturating_mul(micro_batches) > most {
            return Err(Error::usage(format!(
                "a step of {batch} sequences of {} tokens: 1 to {most} tokens in all can be planned",
                t.seq
            )));
        }
        let zero = match t.zero.unwrap_or(0) {
            0 => Zero::Off,
            1 => Zero::Moments,
            2 => Zero::Gradients,
            3 => Zero::Weights,
            n => return Err(Error::usage(format!("ZeRO stage {n} is none of 0, 1, 2, 3"))),
        };
        let passes = Passes {
            micro_batches,
            recompute: matches!(t.recompute, Some(RecomputeFlag::Full)),
            forward_first: mesh.size("pp") > 1,
        };
        let step = TrainingStep { batch, seq: t.seq, optimiser: Optimiser::ADAMW, zero, tied: shape.tied, passes };
        let training = llama::training(&config(&shape, t.seq)?, &shape.name, &step)?;
        let layout = self.plans.layout(mesh, false)?;
        let sharded = shard(&training.graph, &layout.axes()?)?;
        let caps = caps();
        let plans = sharded
            .classes
            .iter()
            .map(|c| plan::plan(&c.graph, &caps, &plan::Options::for_caps(&caps)))
            .collect::<Result<_>>()?;
        let of = Of::Training { parameters: training.parameters.into_iter().map(|p| p.0).collect() };
        Ok(Planned {
            model: shape.name.clone(),
            layout,
            sharded,
            plans,
            bindings: Bindings::new(),
            tokens: batch * t.seq * micro_batches,
            of,
        })
    }
}

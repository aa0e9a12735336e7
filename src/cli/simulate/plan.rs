//! `simulate --plan`: the plan that devices run, in virtual time on a machine that is not here.

use super::Simulate;
use crate::base::{AdapterKind, Bindings, Caps, Error, Result};
use crate::cli::{Cache, fetch, interrupt::Interrupt};
use crate::model::{Model, ModelSource};
use crate::plan::shard::Sharded;
use crate::plan::{self, Plan};
use crate::session::{self, Layout};
use crate::simulate::page::roof;
use crate::simulate::plans::{self, Machine, Of, Outcome, Rank, Rates, Told};
use crate::topology::{Mesh, Precision, Topology};
use crate::trace::Trace;
use clap::Args;

/// The step that a plan is made for.
#[derive(Args)]
#[command(next_help_heading = "Plans")]
pub struct Plans {
    /// Price the very plan that `run` runs, dispatch by dispatch and message by message: MODEL is a file, a folder or of the catalogue
    #[arg(long)]
    pub plan: bool,
    /// With --plan: a step that trains instead (forward, loss, gradients, AdamW) of --micro-batch sequences of --seq tokens a data-parallel rank, with --zero; llama-type models by their sizes, presets too
    #[arg(long, requires = "plan", conflicts_with_all = ["step", "past"])]
    pub train: bool,
    /// Tokens of the step: 1 decodes, more read a prompt
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub step: usize,
    /// Tokens in the cache before the step
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub past: usize,
    /// How collectives are done: ring, halving-doubling, tree, direct, hierarchical or in-switch [default: the cheapest for each]
    #[arg(long, value_name = "NAME")]
    pub algorithm: Option<String>,
    #[command(flatten)]
    pub cache: Cache,
}

/// A model's step over the ranks of a mesh, planned.
pub struct Planned {
    pub model: String,
    pub layout: Layout,
    pub sharded: Sharded,
    /// One a class of ranks.
    pub plans: Vec<Plan>,
    pub bindings: Bindings,
    /// Tokens of the step over all replicas, and what becomes of them.
    pub tokens: usize,
    pub of: Of,
}

/// Every rank is gone through by itself.
const MOST_RANKS: usize = 4096;

/// What devices of machines offer to plans: buffers as large as wgpu counts.
pub fn caps() -> Caps {
    Caps {
        kind: AdapterKind::Discrete,
        binding_bytes: (2 << 30) - 4,
        buffer_bytes: 1 << 40,
        storage_buffers: 16,
        ..Caps::FLOOR
    }
}

impl Plans {
    pub fn open(&self, model: &str) -> Result<Model> {
        Model::new(ModelSource::open(fetch::resolve(model, &self.cache, &Interrupt::new())?)?)
    }

    pub fn layout(&self, mesh: Mesh, sequence_parallel: bool) -> Result<Layout> {
        Ok(Layout {
            mesh,
            algorithm: self.algorithm.as_deref().map(session::algorithm).transpose()?,
            sequence_parallel,
            ..Layout::default()
        })
    }

    /// Plans the step over a mesh for devices of these abilities.
    pub fn planned(
        &self,
        model: &Model,
        mesh: Mesh,
        sequence_parallel: bool,
        caps: &Caps,
        options: &plan::Options,
    ) -> Result<Planned> {
        let info = model.info();
        let (step, total) = (self.step, self.past.saturating_add(self.step));
        if step == 0 || total > info.context {
            return Err(Error::usage(format!(
                "a step of {step} tokens after {} does not fit: {} takes 1 to {} in all",
                self.past, info.name, info.context
            )));
        }
        let encodes = model.sentence().is_some();
        if encodes && self.past > 0 {
            return Err(Error::usage(format!("{} is an encoder: it has no cache, leave --past out", info.name)));
        }
        let layout = self.layout(mesh, sequence_parallel)?;
        let sharded = session::sharded(model, total, step, &layout)?;
        let plans = sharded.classes.iter().map(|c| plan::plan(&c.graph, caps, options)).collect::<Result<_>>()?;
        let bindings = if encodes {
            Bindings::new().with("batch", 1).with("seq", step as u64)
        } else {
            Bindings::new().with("seq", step as u64).with("total", total as u64)
        };
        // Replicas answer prompts of their own.
        let tokens = step * layout.mesh.size("dp");
        Ok(Planned { model: info.name, layout, sharded, plans, bindings, tokens, of: Of::Answer { total } })
    }
}

impl Planned {
    pub fn ranks(&self) -> Result<Vec<Rank<'_>>> {
        let one = |r: usize| {
            Ok(Rank {
                seat: self.sharded.seats[r].clone(),
                plan: &self.plans[self.sharded.class_of[r]],
                bindings: self.sharded.bindings(r, &self.bindings)?,
            })
        };
        (0..self.sharded.ranks()).map(one).collect()
    }

    pub fn run(&self, ranks: &[Rank], rates: &dyn Rates) -> Result<Outcome> {
        plans::run(ranks, &session::policy(&self.layout), rates)
    }

    /// Under the names of real runs: dispatches of one device, segments and messages of several ranks.
    pub fn trace(&self, outcome: &Outcome, ranks: &[Rank], track: &str) -> Trace {
        if ranks.len() == 1 { plans::dispatches(outcome, ranks, track) } else { plans::segments(outcome, ranks) }
    }
}

impl Simulate {
    /// On a machine that is not here.
    pub fn price_plan(&self, topology: &Topology) -> Result<()> {
        let mesh = Mesh::parse(self.mesh.as_deref().unwrap_or(""))?;
        let caps = caps();
        // Plans compute in 32 bits whatever their weights are stored in.
        let machine = Machine::new(topology, mesh.ranks(), self.dtype.unwrap_or(Precision::Fp32))?;
        if mesh.ranks() > MOST_RANKS {
            return Err(Error::usage(format!(
                "mesh {mesh} has {} ranks: plans are priced rank by rank, up to {MOST_RANKS}; leave --plan out to price more from the model's shape",
                mesh.ranks()
            )));
        }
        if self.layers.is_some() && !self.plans.train {
            return Err(Error::usage(
                "--layers changes a model's sizes, a plan that answers has its file's: leave it out, or add --train",
            ));
        }
        let planned = if self.plans.train {
            self.planned_training(mesh)?
        } else {
            let model = self.plans.open(&self.model)?;
            self.plans.planned(&model, mesh, self.sequence_parallel, &caps, &plan::Options::for_caps(&caps))?
        };
        let ranks = planned.ranks()?;
        let outcome = planned.run(&ranks, &machine)?;
        let on = format!("{} × {}", ranks.len(), topology.slowest().title);
        let mesh = if ranks.len() > 1 { planned.layout.mesh.to_string() } else { String::new() };
        let told = Told {
            model: &planned.model,
            on: &on,
            mesh,
            tokens: planned.tokens as f64,
            of: &planned.of,
            prices: self.prices(),
        };
        let mut more = String::new();
        if self.sensitivity {
            let seconds =
                |t: &Topology| Ok(planned.run(&ranks, &Machine::new(t, ranks.len(), machine.precision)?)?.seconds);
            more += &super::sensitivity(topology, &seconds)?;
        }
        let trace = planned.trace(&outcome, &ranks, &on);
        let capacity = machine.chip.device.memory.0;
        let page =
            || Ok(plans::page(&outcome, &ranks, &told, roof(&machine.chip, machine.precision)?, capacity, &trace));
        let compared = self.pictures(&|| Ok(trace.clone()), &page)?;
        self.print(
            compared,
            || plans::text(&outcome, &ranks, &told, Some(&machine.chip)) + &more,
            || plans::json(&outcome, &ranks, &told, Some(&machine.chip)),
        );
        Ok(())
    }
}

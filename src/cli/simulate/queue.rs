//! `simulate --serve continuous` with requests in virtual time: first token and time per token as distributions.

use super::Simulate;
use crate::base::{Error, Result};
use crate::simulate::inference::{Mode, Serving};
use crate::simulate::serving::{Apart, Arrivals, Formats, Outcome, Parallel, Requests, Steps, handover, run};
use crate::simulate::{Chip, Shape, software};
use crate::topology::{Mesh, Precision, Topology};

/// How an engine of these sizes spreads a model: with expert ranks each attends to sequences of its own.
fn parallel(tp: usize, pp: usize, ep: usize) -> Parallel {
    let (moe_tp, moe_ep) = if ep > 1 { (1, tp * ep) } else { (tp, 1) };
    Parallel { tp, pp, attention_dp: ep, moe_tp, moe_ep }
}

impl Simulate {
    /// Runs the queue where a load or a concurrency is asked for.
    pub(super) fn queued(&self, shape: &Shape, topology: &Topology, s: &Serving) -> Result<Option<Outcome>> {
        let copies = s.replicas as f64;
        let arrivals = match (self.serving.concurrency, s.load) {
            (Some(c), _) => Arrivals::Concurrency(((c as f64 / copies).round() as usize).max(1)),
            (None, Some(load)) => Arrivals::PerSecond(load / copies),
            (None, None) if self.serving.prefill.is_some() => {
                return Err(Error::usage("--prefill is for requests in virtual time: add --concurrency or --load"));
            }
            (None, None) => return Ok(None),
        };
        if s.mode != Mode::Continuous {
            return Ok(None);
        }
        let chip = Chip::new(topology.slowest())?;
        let serves = software::named(self.stack.as_deref().unwrap_or("vllm"))?.serves()?;
        let dense = if s.precision == Precision::Fp16 { Precision::Bf16 } else { s.precision };
        let formats = Formats { dense, experts: dense, cache: s.kv_precision };
        let steps = |p: Parallel| Steps::new(shape, topology, &chip, serves, p, formats);
        let decodes = steps(parallel(s.tp, s.pp, s.ep.max(1)))?;
        let requests = Requests { arrivals, input: s.input, output: s.output, spread: 0.2 };
        let Some(axes) = &self.serving.prefill else { return run(&decodes, None, &requests).map(Some) };
        let mesh = Mesh::parse(axes)?;
        let of = |axis: &str| mesh.size(axis);
        let mine = s.tp * s.pp * s.ep.max(1) * s.replicas;
        if mesh.ranks().saturating_add(mine) > topology.devices() {
            return Err(Error::usage(format!(
                "--prefill {axes} takes {} devices beside {mine} that decode, {} has {}",
                mesh.ranks(),
                topology.name,
                topology.devices()
            )));
        }
        let reads = steps(parallel(of("tp"), of("pp"), of("ep")))?;
        let apart = Apart { handover: handover(&reads, topology), steps: reads, engines: of("dp") as f64 / copies };
        run(&decodes, Some(&apart), &requests).map(Some)
    }
}

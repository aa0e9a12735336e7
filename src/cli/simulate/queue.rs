//! `simulate --serve continuous` with requests in virtual time: first token and time per token as distributions.

use super::Simulate;
use crate::base::Result;
use crate::simulate::inference::{Mode, Serving};
use crate::simulate::serving::{Arrivals, Formats, Outcome, Parallel, Requests, Steps, run};
use crate::simulate::{Chip, Shape, software};
use crate::topology::{Precision, Topology};

impl Simulate {
    /// Runs the queue where a load or a concurrency is asked for.
    pub(super) fn queued(&self, shape: &Shape, topology: &Topology, s: &Serving) -> Result<Option<Outcome>> {
        let copies = s.replicas as f64;
        let arrivals = match (self.serving.concurrency, s.load) {
            (Some(c), _) => Arrivals::Concurrency(((c as f64 / copies).round() as usize).max(1)),
            (None, Some(load)) => Arrivals::PerSecond(load / copies),
            (None, None) => return Ok(None),
        };
        if s.mode != Mode::Continuous {
            return Ok(None);
        }
        let chip = Chip::new(topology.slowest())?;
        let stack = software::named(self.stack.as_deref().unwrap_or("vllm"))?;
        let (tp, ep) = (s.tp, s.ep.max(1));
        let parallel =
            Parallel { tp, pp: s.pp, attention_dp: ep, moe_tp: if ep > 1 { 1 } else { tp }, moe_ep: tp * ep };
        let parallel = if ep > 1 { parallel } else { Parallel { moe_ep: 1, ..parallel } };
        let dense = if s.precision == Precision::Fp16 { Precision::Bf16 } else { s.precision };
        let formats = Formats { dense, experts: dense, cache: s.kv_precision };
        let steps = Steps::new(shape, topology, &chip, stack.serves()?, parallel, formats)?;
        let requests = Requests { arrivals, input: s.input, output: s.output, spread: 0.2 };
        run(&steps, None, &requests).map(Some)
    }
}

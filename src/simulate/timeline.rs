//! A predicted step as a trace, in the format of real runs.

use super::inference::Answering;
use super::layout::Layout;
use super::pipeline::{Pass, run};
use super::training::Step;
use crate::base::Result;
use crate::trace::{Span, Trace};

/// Micro-batches that a trace spells out; a pipeline repeats itself.
const MOST: usize = 256;

/// One track a stage: the passes of its micro-batches.
pub fn trace(l: &Layout, step: &Step) -> Result<Trace> {
    let m = l.micro_batches();
    let shown = if m > MOST { (MOST / l.pp).max(1) * l.pp } else { m };
    let span = |r: &super::pipeline::Ran| Span {
        name: format!(
            "{} {}",
            match r.slot.pass {
                Pass::Forward => "forward",
                Pass::Backward => "backward",
                Pass::Weights => "weights",
            },
            r.slot.micro_batch
        ),
        track: format!("stage {}", r.stage),
        start_us: r.start * 1e6,
        duration_us: (r.end - r.start) * 1e6,
        details: vec![("chunk".into(), r.slot.chunk.to_string())],
    };
    let mut spans: Vec<Span> = run(l.schedule, &step.passes, shown)?.iter().map(span).collect();
    let end = spans.iter().map(|s| s.start_us + s.duration_us).fold(0.0, f64::max);
    for stage in 0..l.pp {
        let seconds = (step.seconds.0 - step.pipeline).max(0.0);
        let details = vec![("what".into(), "gradients over data ranks, optimiser".into())];
        spans.push(Span {
            name: "update".into(),
            track: format!("stage {stage}"),
            start_us: end,
            duration_us: seconds * 1e6,
            details,
        });
    }
    Ok(Trace { spans })
}

/// One pass of serving: its work one after the other.
pub fn serving_trace(a: &Answering) -> Trace {
    let mut at = 0.0;
    let mut span = |c: &super::training::Cost| {
        let start_us = at;
        at += c.seconds * 1e6;
        Span { name: c.name.clone(), track: "a pass".into(), start_us, duration_us: c.seconds * 1e6, details: vec![] }
    };
    Trace { spans: a.costs.iter().map(&mut span).collect() }
}

//! What a step's ranks and links did, and when.

use crate::device::Executed;
use crate::plan::count::name as exchange_name;
use crate::plan::{Rounds, Traffic, Transfer};
use crate::trace::{Span, Trace};
use std::collections::BTreeMap;
use web_time::Instant;

/// Counts what is sent always, what ranks compute where asked; takes times where asked, which makes every rank wait after
/// each thing it does.
#[derive(Debug, Default)]
pub struct Watch {
    pub traffic: Traffic,
    /// What each rank's device was told to do, by its commands.
    pub executed: BTreeMap<usize, Executed>,
    /// Whether the ranks' work is counted, too.
    pub(super) work: bool,
    clock: Option<Instant>,
    trace: Trace,
}

impl Watch {
    /// Counts only, all that there is.
    pub fn counting() -> Self {
        Watch { work: true, ..Watch::default() }
    }
    /// Takes times, too.
    pub fn timing() -> Self {
        Watch { clock: Some(Instant::now()), ..Watch::counting() }
    }
    pub fn is_on(&self) -> bool {
        self.clock.is_some()
    }
    pub fn into_trace(self) -> Trace {
        self.trace
    }

    /// Now, in microseconds.
    pub(super) fn start(&self) -> f64 {
        self.clock.map_or(0.0, |c| c.elapsed().as_secs_f64() * 1e6)
    }

    fn span(&mut self, track: String, name: String, start: f64, details: Vec<(String, String)>) {
        if self.clock.is_some() {
            let duration_us = self.start() - start;
            self.trace.spans.push(Span { name, track, start_us: start, duration_us, details });
        }
    }

    pub(super) fn told(&mut self, rank: usize, executed: Executed) {
        if self.work {
            self.executed.entry(rank).or_default().add(executed);
        }
    }

    pub(super) fn compute(&mut self, rank: usize, label: &str, dispatches: usize, start: f64) {
        self.span(format!("rank {rank}"), label.into(), start, vec![("dispatches".into(), dispatches.to_string())]);
    }

    pub(super) fn wait(&mut self, rank: usize, t: &Transfer, start: f64) {
        // Less than this is the clock's own.
        if self.start() - start > 2.0 {
            self.span(format!("rank {rank}"), format!("wait {} {}", exchange_name(t.exchange), t.label), start, vec![]);
        }
    }

    pub(super) fn message(
        &mut self,
        t: &Transfer,
        rounds: Option<&Rounds>,
        from: usize,
        to: usize,
        bytes: u64,
        start: f64,
    ) {
        if !self.traffic.sent(t.exchange, (from, to), bytes) {
            return;
        }
        let name = format!("{} {}", exchange_name(t.exchange), t.label);
        let mut details = vec![("bytes".to_string(), bytes.to_string())];
        if let Some(r) = rounds {
            details.push(("algorithm".into(), r.algorithm.name().into()));
            // As nccl-tests has it: what each link carried over the time.
            let seconds = (self.start() - start) / 1e6;
            details.push(("bus MB/s".into(), format!("{:.2}", bytes as f64 / seconds.max(1e-9) / 1e6)));
        }
        self.span(format!("link {from}→{to}"), name, start, details);
    }
}

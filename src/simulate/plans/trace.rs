//! A predicted step in the format, and under the names, of real runs.

use super::{Moved, Outcome, Rank};
use crate::plan::count::name;
use crate::trace::{Span, Trace};

/// One rank's dispatches, each a span: as `run --profile` writes them on one device.
pub fn dispatches(outcome: &Outcome, ranks: &[Rank], track: &str) -> Trace {
    let span = |r: &super::Ran| {
        let rank = &ranks[r.rank];
        let d = &rank.plan.dispatches[r.dispatch];
        let kernel = rank.plan.kernels[d.kernel].name();
        let work = d.work(&rank.bindings).unwrap_or_default();
        let details = [
            ("kernel", kernel.to_string()),
            ("ops", d.ops.join(" + ")),
            ("FLOP", work.flops.to_string()),
            ("bytes", work.bytes.to_string()),
        ];
        Span {
            name: format!("{kernel} {}", d.label),
            track: track.into(),
            start_us: r.start * 1e6,
            duration_us: (r.end - r.start) * 1e6,
            details: details.map(|(k, v)| (k.to_string(), v)).to_vec(),
        }
    };
    Trace { spans: outcome.ran.iter().map(span).collect() }
}

/// What ranks and links do: as `run --mesh --profile` writes it, dispatches between two transfers as one span.
pub fn segments(outcome: &Outcome, ranks: &[Rank]) -> Trace {
    let mut spans: Vec<Span> = vec![];
    for (rank, r) in ranks.iter().enumerate() {
        let mut from = 0;
        let ends = r.plan.transfers.iter().map(|t| t.before).chain([r.plan.dispatches.len()]);
        let mine: Vec<&super::Ran> = outcome.ran.iter().filter(|x| x.rank == rank).collect();
        for to in ends {
            let part: Vec<&&super::Ran> = mine.iter().filter(|x| (from..to).contains(&x.dispatch)).collect();
            if let (Some(first), Some(last)) = (part.first(), part.last()) {
                spans.push(Span {
                    name: r.plan.dispatches[from].label.clone(),
                    track: format!("rank {rank}"),
                    start_us: first.start * 1e6,
                    duration_us: (last.end - first.start) * 1e6,
                    details: vec![("dispatches".into(), part.len().to_string())],
                });
            }
            from = to;
        }
    }
    let timed = |m: &Moved, name: String, track: String, details| Span {
        name,
        track,
        start_us: m.start * 1e6,
        duration_us: (m.end - m.start) * 1e6,
        details,
    };
    spans.extend(
        outcome
            .waits
            .iter()
            .map(|w| timed(w, format!("wait {} {}", name(w.exchange), w.label), format!("rank {}", w.from), vec![])),
    );
    spans.extend(outcome.messages.iter().map(|m| {
        let mut details = vec![("bytes".to_string(), m.bytes.to_string())];
        details.extend(m.algorithm.map(|a| ("algorithm".into(), a.into())));
        let to = if m.to < ranks.len() { m.to.to_string() } else { "switch".into() };
        let from = if m.from < ranks.len() { m.from.to_string() } else { "switch".into() };
        timed(m, format!("{} {}", name(m.exchange), m.label), format!("link {from}→{to}"), details)
    }));
    Trace { spans }
}

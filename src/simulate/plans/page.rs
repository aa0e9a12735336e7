//! The page of a plan's step.

use super::report::{costs, memory};
use super::{Outcome, Rank, Told};
use crate::base::units::{Bytes, Seconds};
use crate::simulate::page::{Page, Point, Roof};
use crate::trace::Trace;

/// Dispatches of the first rank, layers that are alike as one.
fn points(o: &Outcome, ranks: &[Rank]) -> Vec<Point> {
    let mut out: Vec<(Point, u64)> = vec![];
    for r in o.ran.iter().filter(|r| r.rank == 0) {
        let rank = &ranks[r.rank];
        let d = &rank.plan.dispatches[r.dispatch];
        let work = d.work(&rank.bindings).unwrap_or_default();
        let name = format!("{} {}", rank.plan.kernels[d.kernel].name(), d.label.rsplit('.').next().unwrap_or(&d.label));
        match out.iter_mut().find(|p| p.0.name == name && p.1 == work.flops) {
            Some(p) => p.0.times += 1.0,
            None => out.push((
                Point {
                    name,
                    flops: work.flops as f64,
                    bytes: work.bytes as f64,
                    seconds: r.end - r.start,
                    times: 1.0,
                },
                work.flops,
            )),
        }
    }
    out.into_iter().map(|p| p.0).collect()
}

/// One HTML page. `capacity`: bytes that a device has, 0 where nobody knows.
pub fn page(o: &Outcome, ranks: &[Rank], told: &Told, roof: Roof, capacity: f64, trace: &Trace) -> String {
    let held = |(i, r): (usize, &Rank)| {
        (format!("rank {i}"), memory(r.plan, told.of).into_iter().map(|(n, b)| (n.to_string(), b as f64)).collect())
    };
    let mesh = if told.mesh.is_empty() { String::new() } else { format!(" over {}", told.mesh) };
    let all: u64 = o.traffic.work.values().map(|w| w.bytes).sum();
    Page {
        title: format!("{} on {}", told.model, told.on),
        subtitle: format!("Predicted, dispatch by dispatch{mesh}: {}.", told.of.words(told.tokens)),
        figures: vec![
            ("step", Seconds(o.seconds).to_string()),
            ("tokens per second", format!("{:.1}", told.tokens / o.seconds)),
            ("computed", format!("{:.3} GFLOP", o.traffic.all_flops() as f64 / 1e9)),
            ("moved", Bytes(all as f64).to_string()),
            ("sent", format!("{} in {} messages", Bytes(o.traffic.bytes() as f64), o.traffic.messages)),
        ],
        trace,
        costs: costs(o, ranks).into_iter().map(|c| (c.name, c.seconds)).collect(),
        roof,
        points: points(o, ranks),
        memory: ranks.iter().enumerate().map(held).collect(),
        capacity,
    }
    .html()
}

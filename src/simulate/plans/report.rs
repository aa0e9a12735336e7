//! A plan's step for people and for programs.

use super::{Of, Outcome, Rank, Told};
use crate::base::units::{Bytes, Seconds};
use crate::plan::{Plan, Role};
use crate::simulate::energy::{Energy, Spent, energy};
use crate::simulate::report::interval;
use crate::simulate::score::Interval;
use crate::simulate::{Chip, Cost};
use serde_json::{Value, json};
use std::fmt::Write;

/// No plan was measured on machines that are not here: its products are what others' measurements say something of.
const PRODUCTS: (&str, &str) = ("gemm.csv", "seconds");

/// Bytes of a plan on its rank, by what they hold. Gradients are among the activations: they share their buffers.
pub fn memory(plan: &Plan, of: &Of) -> Vec<(&'static str, u64)> {
    let mut out = vec![("weights", plan.bytes_where(|r| matches!(r, Role::Weight { .. } | Role::Data(_))))];
    match of {
        Of::Answer { .. } => out.push(("states", plan.bytes_where(|r| matches!(r, Role::State(_))))),
        Of::Training { parameters } => {
            let state =
                |is: bool| plan.bytes_where(|r| matches!(r, Role::State(name) if parameters.contains(name) == is));
            out.extend([("parameters", state(true)), ("optimiser", state(false))]);
        }
    }
    out.extend([
        (
            if matches!(of, Of::Training { .. }) { "activations and gradients" } else { "activations" },
            plan.bytes_where(|r| matches!(r, Role::Scratch)),
        ),
        ("inputs and outputs", plan.bytes_where(|r| matches!(r, Role::Input(_) | Role::Output(_)))),
    ]);
    out
}

fn fullest<'a>(ranks: &'a [Rank]) -> Option<(usize, &'a Plan)> {
    ranks.iter().map(|r| r.plan).enumerate().max_by_key(|r| r.1.total_bytes())
}

/// Where the busiest rank's time goes: kernels by name, waiting for others by collective, largest first.
pub fn costs(o: &Outcome, ranks: &[Rank]) -> Vec<Cost> {
    let busy = |rank: usize| o.ran.iter().filter(move |r| r.rank == rank).map(|r| r.end - r.start).sum::<f64>();
    let busiest = (0..ranks.len()).max_by(|a, b| busy(*a).total_cmp(&busy(*b))).unwrap_or(0);
    let mut out: Vec<Cost> = vec![];
    let mut add = |name: String, seconds: f64| match out.iter_mut().find(|c| c.name == name) {
        Some(c) => c.seconds += seconds,
        None => out.push(Cost { name, seconds }),
    };
    for r in o.ran.iter().filter(|r| r.rank == busiest) {
        let d = &ranks[r.rank].plan.dispatches[r.dispatch];
        // Layers are alike: `layers.3.q` and `layers.4.q` are one line.
        let part = d.label.rsplit('.').next().unwrap_or(&d.label);
        add(format!("{} {part}", ranks[r.rank].plan.kernels[d.kernel].name()), r.end - r.start);
    }
    for w in o.waits.iter().filter(|w| w.from == busiest) {
        add(format!("wait for {}", crate::plan::count::name(w.exchange)), w.end - w.start);
    }
    out.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    out
}

fn spent(o: &Outcome) -> Spent {
    let work = |f: fn(&crate::plan::Work) -> u64| o.traffic.work.values().map(f).sum::<u64>() as f64;
    // Energies are an operation in 16 bits: plans compute in 32.
    Spent { flops: 2.0 * work(|w| w.flops), bytes: work(|w| w.bytes), link_bytes: o.traffic.bytes() as f64 }
}

/// Numbers carry their units. `chip` prices energy; none where the devices' power is not known.
pub fn text(o: &Outcome, ranks: &[Rank], told: &Told, chip: Option<&Chip>) -> String {
    let mut out = format!(
        "{}{} on {}\n",
        told.model,
        if told.mesh.is_empty() { String::new() } else { format!(" over {}", told.mesh) },
        told.on
    );
    let _ = writeln!(out, "{}\n", told.of.words(told.tokens));
    let _ = writeln!(out, "step                  {}", Seconds(o.seconds));
    if let (Some(_), Some(i)) = (chip, Interval::known(PRODUCTS.0, PRODUCTS.1)) {
        let _ = writeln!(out, "                      {}", i.text(o.seconds, |s| Seconds(s).to_string()));
    }
    let _ = writeln!(out, "tokens                {:.1} per second", told.tokens / o.seconds);
    let dispatches: usize = o.traffic.work.values().map(|w| w.dispatches).sum();
    let moved: u64 = o.traffic.work.values().map(|w| w.bytes).sum();
    let _ = writeln!(
        out,
        "computed              {} FLOP in {dispatches} dispatches, {} moved",
        o.traffic.all_flops(),
        Bytes(moved as f64)
    );
    let _ =
        writeln!(out, "sent                  {} in {} messages", Bytes(o.traffic.bytes() as f64), o.traffic.messages);
    for (name, v) in &o.traffic.volumes {
        let _ = writeln!(
            out,
            "    {name:<34} {:>9}  {} times, {} messages",
            Bytes(v.bytes as f64),
            v.collectives,
            v.messages
        );
    }
    if let Some(chip) = chip {
        let e = energy(chip, spent(o), o.seconds, o.seconds, ranks.len());
        let _ = writeln!(
            out,
            "energy                {} per step ({} to {}), {} per device; devices only",
            e.joules, e.low, e.high, e.watts
        );
        money(&mut out, &e, o, ranks.len(), told);
    }
    let _ = writeln!(out, "\nwhere the time goes, on the busiest rank");
    for c in costs(o, ranks).iter().filter(|c| c.seconds > 0.0).take(5) {
        let _ = writeln!(out, "    {:<34} {:>9}  {:>5.1} %", c.name, Seconds(c.seconds), 100.0 * c.seconds / o.seconds);
    }
    if let Some((rank, plan)) = fullest(ranks) {
        let _ = writeln!(out, "\nmemory of the fullest rank ({rank} of {})", ranks.len());
        for (name, bytes) in memory(plan, told.of).into_iter().filter(|m| m.1 > 0) {
            let _ = writeln!(out, "    {name:<34} {:>9}", Bytes(bytes as f64));
        }
        let verdict = chip.map_or(String::new(), |c| {
            let held = c.device.memory;
            format!("  of {held}: {}", if plan.total_bytes() as f64 > held.0 { "does not fit" } else { "fits" })
        });
        let _ = writeln!(out, "    {:<34} {:>9}{verdict}", "total", Bytes(plan.total_bytes() as f64));
    }
    out
}

fn money(out: &mut String, e: &Energy, o: &Outcome, devices: usize, told: &Told) {
    if let Some(price) = told.prices.device_hour {
        let step = price * devices as f64 * o.seconds / 3600.0;
        let _ = writeln!(
            out,
            "cost                  {:.3} USD per million tokens, at {price:.2} USD a device-hour",
            step / told.tokens * 1e6
        );
    }
    if let Some(grams) = told.prices.carbon {
        let _ = writeln!(
            out,
            "carbon                {:.3e} g CO2 per step, at {grams:.0} g/kWh",
            e.joules.0 / 3.6e6 * grams
        );
    }
}

/// Units are in the keys.
pub fn json(o: &Outcome, ranks: &[Rank], told: &Told, chip: Option<&Chip>) -> Value {
    let work: Value = o
        .traffic
        .work
        .iter()
        .map(|(r, w)| json!({ "rank": r, "dispatches": w.dispatches, "flops": w.flops, "bytes": w.bytes }))
        .collect();
    let links: Value =
        o.traffic.links.iter().map(|((from, to), b)| json!({ "from": from, "to": to, "bytes": b })).collect();
    let collectives: Value = o
        .traffic
        .volumes
        .iter()
        .map(|(n, v)| json!({ "kind": n, "count": v.collectives, "messages": v.messages, "bytes": v.bytes }))
        .collect();
    let bytes: Value = ranks
        .iter()
        .map(|r| {
            json!(
                memory(r.plan, told.of)
                    .into_iter()
                    .map(|(n, b)| (format!("{}_bytes", n.replace(' ', "_")), json!(b)))
                    .collect::<serde_json::Map<_, _>>()
            )
        })
        .collect();
    let cached = match told.of {
        Of::Answer { total } => Some(*total),
        Of::Training { .. } => None,
    };
    let joules = chip.map(|c| energy(c, spent(o), o.seconds, o.seconds, ranks.len()).joules.0);
    let interval = chip.map(|_| interval(PRODUCTS.0, PRODUCTS.1, o.seconds));
    json!({
        "step_seconds_interval": interval, "model": told.model, "on": told.on, "mesh": told.mesh, "tokens": told.tokens, "cache_tokens": cached, "step_seconds": o.seconds,
        "tokens_per_second": told.tokens / o.seconds, "flops": o.traffic.all_flops(), "messages": o.traffic.messages, "sent_bytes": o.traffic.bytes(),
        "energy_joules": joules, "ranks": work, "links": links, "collectives": collectives, "memory": bytes,
        "costs": costs(o, ranks).iter().map(|c| json!({ "name": c.name, "seconds": c.seconds })).collect::<Vec<_>>(),
    })
}

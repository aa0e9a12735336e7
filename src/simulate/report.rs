//! Predictions as text and as JSON.

use super::inference::Answering;
use super::layout::{Layout, Schedule};
use super::memory::Memory;
use super::score::Interval;
use super::search::Found;
use super::serving::{Outcome, Quantiles};
use super::shape::Shape;
use super::training::{Cost, Step};
use crate::base::units::{Bytes, Seconds};
use crate::topology::Topology;
use serde_json::{Value, json};
use std::fmt::Write;

/// What energy costs the world, if anybody says.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Prices {
    /// Dollars a device-hour.
    pub device_hour: Option<f64>,
    /// Grams of CO₂ a kilowatt-hour.
    pub carbon: Option<f64>,
}

/// The range that held-out measurements leave around a figure in seconds.
fn range(out: &mut String, table: &str, figure: &str, seconds: f64) {
    if let Some(i) = Interval::known(table, figure) {
        let _ = writeln!(out, "                      {}", i.text(seconds, |s| Seconds(s).to_string()));
    }
}

/// The same for programs; null where nothing was measured.
pub(super) fn interval(table: &str, figure: &str, value: f64) -> Value {
    Interval::known(table, figure).map_or(
        Value::Null,
        |i| json!({ "low": value * i.low, "high": value * i.high, "share": 0.8, "measurements": i.rows, "table": table, "figure": figure }),
    )
}

/// The figure that steps of a model are scored as.
fn steps(shape: &Shape) -> &'static str {
    if shape.experts > 0 { "s, experts" } else { "seconds" }
}

/// Of a pipeline's step: what the busiest stage stands still, and what an even pipeline of this length would.
fn bubbles(l: &Layout, s: &Step) -> (f64, f64) {
    let (p, rounds) = (l.pp as f64 - 1.0, (l.chunks * l.micro_batches()) as f64);
    let found = s.costs.iter().find(|c| c.name == "pipeline bubble").map_or(0.0, |c| c.seconds);
    (found / s.seconds.0, p / (rounds + p))
}

/// Whether a layout fits its devices.
fn fits(t: &Topology, memory: &[Memory]) -> bool {
    fullest(memory).1.total().0 <= t.slowest().memory.0
}

/// Where sizes are from.
fn sources(out: &mut String, shape: &Shape, t: &Topology) {
    if !shape.source.is_empty() {
        let _ = writeln!(out, "sizes of the model    {}", shape.source);
    }
    if !t.slowest().source.is_empty() {
        let _ = writeln!(out, "sizes of the device   {}", t.slowest().source);
    }
}

fn fullest(memory: &[Memory]) -> (usize, &Memory) {
    memory.iter().enumerate().max_by(|a, b| a.1.total().0.total_cmp(&b.1.total().0)).expect("a step has stages")
}

fn share(part: f64, of: f64) -> String {
    format!("{:.1} %", 100.0 * part / of)
}

fn costs(out: &mut String, costs: &[Cost], whole: f64) {
    for c in costs.iter().filter(|c| c.seconds > 0.0).take(5) {
        let _ = writeln!(out, "    {:<34} {:>9}  {:>7}", c.name, Seconds(c.seconds), share(c.seconds, whole));
    }
}

fn memory_text(out: &mut String, m: &Memory, device: Bytes) {
    for (name, bytes) in m.lines().into_iter().filter(|l| l.1.0 > 0.0) {
        let _ = writeln!(out, "    {name:<34} {bytes:>9}");
    }
    let verdict = if m.total().0 > device.0 { "does not fit" } else { "fits" };
    let _ = writeln!(out, "    {:<34} {:>9}  of {device}: {verdict}", "total", m.total());
}

pub fn layout_text(l: &Layout) -> String {
    let mut out = format!("pp={},dp={},cp={},tp={}", l.pp, l.dp, l.cp, l.tp);
    if l.ep > 1 {
        let _ = write!(out, " (ep={} within dp)", l.ep);
    }
    let _ = write!(out, ", micro-batch {} × {} per step", l.micro_batch, l.micro_batches());
    if l.chunks > 1 {
        let _ = write!(out, ", {} chunks a stage", l.chunks);
    }
    if l.schedule == Schedule::ZeroBubble {
        out += ", zero-bubble";
    }
    let _ = write!(out, ", ZeRO {}, recompute {}", l.zero, l.recompute.name());
    if l.sequence_parallel { out + ", sequence parallel" } else { out }
}

/// A training step for people. Numbers carry their units.
pub fn training_text(shape: &Shape, t: &Topology, l: &Layout, s: &Step, prices: Prices) -> String {
    let mut out =
        format!("{} ({:.3e} parameters) on {} × {}\n", shape.name, shape.parameters(), s.devices, t.slowest().title);
    let _ = writeln!(
        out,
        "{}, {} of {} tokens per step in {}\n",
        layout_text(l),
        l.global_batch,
        l.seq,
        l.precision.name()
    );
    let seconds = s.seconds.0;
    let _ = writeln!(out, "step                  {}", s.seconds);
    range(&mut out, "training.csv", steps(shape), seconds);
    let _ = writeln!(
        out,
        "tokens                {:.0} per second, {:.1} per device",
        s.tokens / seconds,
        s.tokens / seconds / s.devices as f64
    );
    let tflops = s.model_flops / seconds / s.devices as f64 / 1e12;
    let _ = writeln!(
        out,
        "model FLOP/s          {tflops:.1} T per device, {:.1} % of its peak in {} (MFU)",
        100.0 * s.mfu,
        l.precision.name()
    );
    let e = &s.energy;
    let _ = writeln!(
        out,
        "energy                {} per step ({} to {}), {} per device; devices only",
        e.joules, e.low, e.high, e.watts
    );
    money(&mut out, t, seconds, s.devices, e.joules.0, s.tokens, prices);
    let _ = writeln!(out, "\nwhere the time goes, on the busiest stage");
    costs(&mut out, &s.costs, seconds);
    if l.pp > 1 {
        let ideal = bubbles(l, s).1;
        let _ = writeln!(out, "an even pipeline of this length would stand still for {:.1} %", 100.0 * ideal);
    }
    let (stage, m) = fullest(&s.memory);
    let _ = writeln!(out, "\nmemory of the fullest stage ({stage} of {})", l.pp);
    memory_text(&mut out, m, t.slowest().memory);
    if let Some(i) = Interval::known("training.csv", "peak GiB") {
        let _ = writeln!(out, "    {}", i.text(m.total().0, |b| Bytes(b).to_string()));
    }
    out.push('\n');
    sources(&mut out, shape, t);
    out
}

fn money(out: &mut String, t: &Topology, seconds: f64, devices: usize, joules: f64, tokens: f64, prices: Prices) {
    if let Some(price) = prices.device_hour.or(t.slowest().price.map(|p| p.0)) {
        let step = price * devices as f64 * seconds / 3600.0;
        let _ = writeln!(
            out,
            "cost                  {step:.4} USD per step, {:.3} USD per million tokens, at {price:.2} USD a device-hour",
            step / tokens * 1e6
        );
    }
    if let Some(grams) = prices.carbon {
        let _ =
            writeln!(out, "carbon                {:.1} g CO2 per step, at {grams:.0} g/kWh", joules / 3.6e6 * grams);
    }
}

fn costs_json(all: &[Cost]) -> Value {
    all.iter().map(|c| json!({ "name": c.name, "seconds": c.seconds })).collect()
}

fn memory_json(m: &Memory) -> Value {
    let mut lines: serde_json::Map<String, Value> =
        m.lines().iter().map(|(n, b)| (format!("{n}_bytes"), json!(b.0))).collect();
    lines.insert("total_bytes".into(), json!(m.total().0));
    Value::Object(lines)
}

fn layout_json(l: &Layout) -> Value {
    json!({
        "dp": l.dp, "tp": l.tp, "pp": l.pp, "cp": l.cp, "ep": l.ep, "chunks": l.chunks, "zero": l.zero, "sequence_parallel": l.sequence_parallel, "seq": l.seq,
        "schedule": l.schedule.name(), "micro_batch": l.micro_batch, "global_batch": l.global_batch, "dtype": l.precision.name(), "recompute": l.recompute.name(),
        "fused_attention": l.stack.fused_attention, "overlap_gradients": l.stack.overlap_gradients, "overlap_tensor": l.stack.overlap_tensor,
    })
}

/// A training step for programs. Units are in the keys.
pub fn training_json(shape: &Shape, t: &Topology, l: &Layout, s: &Step) -> Value {
    let peak = fullest(&s.memory).1.total().0;
    let (bubble, ideal) = bubbles(l, s);
    json!({
        "step_seconds_interval": interval("training.csv", steps(shape), s.seconds.0), "peak_bytes": peak,
        "peak_bytes_interval": interval("training.csv", "peak GiB", peak), "fits": fits(t, &s.memory),
        "bubble_share": bubble, "even_pipeline_bubble_share": ideal, "model_source": shape.source, "device_source": t.slowest().source,
        "model": shape.name, "parameters": shape.parameters(), "cluster": t.name, "devices": s.devices, "layout": layout_json(l), "step_seconds": s.seconds.0,
        "tokens_per_second": s.tokens / s.seconds.0, "mfu": s.mfu, "model_flops": s.model_flops, "hardware_flops": s.hardware_flops,
        "energy_joules": s.energy.joules.0, "energy_low_joules": s.energy.low.0, "energy_high_joules": s.energy.high.0, "watts_per_device": s.energy.watts.0,
        "stages": s.memory.iter().map(memory_json).collect::<Vec<_>>(), "costs": costs_json(&s.costs),
    })
}

/// Serving for people.
pub fn serving_text(shape: &Shape, t: &Topology, a: &Answering, prices: Prices) -> String {
    let mut out =
        format!("{} ({:.3e} parameters) on {} × {}\n\n", shape.name, shape.parameters(), a.devices, t.slowest().title);
    let _ = writeln!(
        out,
        "tokens                {:.1} per second, {:.1} per device",
        a.tokens_per_second,
        a.tokens_per_second / a.devices as f64
    );
    if let Some(i) = Interval::known("inference.csv", "tokens/s") {
        let _ = writeln!(out, "                      {}", i.text(a.tokens_per_second, |v| format!("{v:.1}")));
    }
    let _ = writeln!(out, "first token           {}", a.first_token);
    range(&mut out, "inference.csv", "first token s", a.first_token.0);
    let _ = writeln!(out, "between tokens        {}", a.between_tokens);
    let _ = writeln!(out, "sequences at once     {} a copy; its cache holds {:.0} tokens", a.batch, a.cache_tokens);
    if a.busy < 1.0 {
        let _ = writeln!(out, "load                  {:.1} % of what it could answer", 100.0 * a.busy);
    }
    let e = &a.energy;
    let _ = writeln!(
        out,
        "energy                {} per sequence ({} to {}), {:.3} J per token answered, {} per device; devices only",
        e.joules,
        e.low,
        e.high,
        a.joules_per_token(),
        e.watts
    );
    if let Some(grams) = prices.carbon {
        let _ = writeln!(
            out,
            "carbon                {:.3} g CO2 per sequence, at {grams:.0} g/kWh",
            e.joules.0 / 3.6e6 * grams
        );
    }
    if let Some(price) = prices.device_hour.or(t.slowest().price.map(|p| p.0)) {
        let _ = writeln!(
            out,
            "cost                  {:.3} USD per million tokens, at {price:.2} USD a device-hour",
            price * a.devices as f64 / 3600.0 / a.tokens_per_second * 1e6
        );
    }
    let _ = writeln!(out, "\nwhere a pass's time goes");
    costs(&mut out, &a.costs, a.costs.iter().map(|c| c.seconds).sum());
    let _ = writeln!(out, "\nmemory of a device");
    memory_text(&mut out, &a.memory, t.slowest().memory);
    out.push('\n');
    sources(&mut out, shape, t);
    out
}

/// Serving for programs.
pub fn serving_json(shape: &Shape, t: &Topology, a: &Answering, queued: Option<&Outcome>) -> Value {
    let mut out = json!({
        "model": shape.name, "parameters": shape.parameters(), "cluster": t.name, "devices": a.devices, "tokens_per_second": a.tokens_per_second,
        "first_token_seconds": a.first_token.0, "between_tokens_seconds": a.between_tokens.0, "batch": a.batch, "busy": a.busy, "cache_tokens": a.cache_tokens,
        "tokens_per_second_interval": interval("inference.csv", "tokens/s", a.tokens_per_second),
        "first_token_seconds_interval": interval("inference.csv", "first token s", a.first_token.0),
        "fits": a.memory.total().0 <= t.slowest().memory.0, "model_source": shape.source, "device_source": t.slowest().source,
        "energy_joules_per_sequence": a.energy.joules.0, "energy_joules_per_token": a.joules_per_token(),
        "energy_low_joules_per_sequence": a.energy.low.0, "energy_high_joules_per_sequence": a.energy.high.0, "watts_per_device": a.energy.watts.0, "memory": memory_json(&a.memory), "costs": costs_json(&a.costs),
    });
    if let (Some(o), Some(object)) = (queued, out.as_object_mut()) {
        let of = |q: &Quantiles| json!({ "mean_seconds": q.mean, "p50_seconds": q.p50, "p90_seconds": q.p90, "p99_seconds": q.p99 });
        object.insert(
            "queue".into(),
            json!({
                "first_token": of(&o.first_token), "per_token": of(&o.per_token),
                "first_token_interval": interval("serving.csv", "first token ms", o.first_token.mean),
                "per_token_interval": interval("serving.csv", "per token ms", o.per_token.mean),
                "tokens_per_second_per_copy": o.tokens_per_second, "requests": o.requests, "preempted": o.preempted,
                "joules_per_token": o.joules_per_token, "watts_per_device": o.watts,
            }),
        );
    }
    out
}

/// Requests in virtual time, for people.
pub fn queue_text(o: &Outcome) -> String {
    let line = |name: &str, q: &Quantiles| {
        let all = [q.mean, q.p50, q.p90, q.p99].map(|s| format!("{:>11}", Seconds(s).to_string())).concat();
        format!("{name:<18}{all}\n")
    };
    let mut out = format!("\n{} requests, one copy        mean        p50        p90        p99\n", o.requests);
    out += &line("first token", &o.first_token);
    range(&mut out, "serving.csv", "first token ms", o.first_token.mean);
    out += &line("per token", &o.per_token);
    range(&mut out, "serving.csv", "per token ms", o.per_token.mean);
    let _ = writeln!(
        out,
        "energy            {:.3} J per token answered, {:.0} W per device; devices only",
        o.joules_per_token, o.watts
    );
    if o.preempted > 0 {
        let _ = writeln!(out, "{} times a sequence was put off for want of cache", o.preempted);
    }
    out
}

/// The front of time, memory and energy, as a table.
pub fn search_text(found: &[Found], tried: usize) -> String {
    let mut out = format!("{tried} layouts tried; these are beaten by none in time, memory and energy at once\n\n");
    let _ = writeln!(out, "{:>9} {:>7} {:>10} {:>10}   layout", "step", "MFU", "memory", "energy");
    for f in found.iter().take(20) {
        let _ = writeln!(
            out,
            "{:>9} {:>5.1} % {:>10} {:>10}   {}",
            f.step.seconds,
            100.0 * f.step.mfu,
            Bytes(f.bytes()),
            f.step.energy.joules,
            layout_text(&f.layout)
        );
    }
    out
}

/// The front for programs.
pub fn search_json(found: &[Found], tried: usize) -> Value {
    let one = |f: &Found| json!({ "layout": layout_json(&f.layout), "step_seconds": f.step.seconds.0, "step_seconds_interval": interval("training.csv", f.figure, f.step.seconds.0), "mfu": f.step.mfu, "bytes": f.bytes(), "energy_joules": f.step.energy.joules.0 });
    json!({ "tried": tried, "front": found.iter().map(one).collect::<Vec<_>>() })
}

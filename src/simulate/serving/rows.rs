//! Rows that describe an engine under load: columns as in assets/validation/serving.csv.

use super::queue::{Apart, Arrivals, Outcome, Requests, run};
use super::steps::{Formats, Parallel, Steps};
use crate::base::{Error, Result};
use crate::simulate::chip::Chip;
use crate::simulate::constants::Constants;
use crate::simulate::known::{self, Machines};
use crate::simulate::runs;
use crate::simulate::shape::Shape;
use crate::simulate::software;
use crate::simulate::table::{Figure, Row};
use crate::topology::{Precision, Topology};

/// Changes constants of a device and of a stack (by its name) before a row is priced.
pub type Change<'a> = &'a dyn Fn(&mut Constants, &mut software::Serving, &str);

/// The stack where a row names none.
const DEFAULT: &str = "vllm";
/// Where a row does not say how lengths differ.
const SPREAD: f64 = 0.2;

/// A number format of a row; none where it has none or leaves it open.
fn format(row: &Row, column: &str) -> Result<Option<Precision>> {
    row.text(column).map_or(Ok(None), known::precision)
}

/// How a row spreads a model, from columns with a prefix (`prefill_`, `decode_`, or none), and over how many devices.
fn spread(row: &Row, prefix: &str, shape: &Shape, machine: &Topology) -> Result<(Parallel, usize)> {
    let of = |column: &str| -> Result<Option<usize>> {
        match row.some_count(&format!("{prefix}{column}"))? {
            Some(v) => Ok(Some(v)),
            None if !prefix.is_empty() && column != "gpus" => row.some_count(column),
            None => Ok(None),
        }
    };
    let (mut tp, pp) = (of("tp")?.unwrap_or(1), of("pp")?.unwrap_or(1));
    let mut dp = of("attention_dp")?.unwrap_or(1);
    let (mut moe_tp, mut moe_ep) = (of("moe_tp")?, of("moe_ep")?);
    let gpus = of("gpus")?;
    let ranks = |a: usize, b: usize| a.checked_mul(b).filter(|n| *n <= 1 << 16);
    let too_many = || Error::usage(format!("tp {tp} × attention_dp {dp} are more devices than any machine has"));
    let together = ranks(tp, dp).ok_or_else(too_many)?;
    let near = machine.levels().first().map_or(1, |l| l.devices);
    // Some tables write n ranks that hold pieces of experts as well as whole ones as tp = n · n, moe_tp = moe_ep = n.
    if let (Some(a), Some(b)) = (moe_tp, moe_ep)
        && a == b
        && a > 1
        && a * b == together
        && gpus.map_or(together > near, |g| g < together)
    {
        (tp, dp) = if dp == 1 { (a, 1) } else { ((tp / a).max(1), a) };
        (moe_tp, moe_ep) = (Some(1), Some(a));
    }
    let together = ranks(tp, dp).ok_or_else(|| Error::usage("more devices than any machine has"))?;
    if shape.experts == 0 {
        (moe_tp, moe_ep) = (Some(together), Some(1));
    }
    let (moe_tp, moe_ep) = match (moe_tp, moe_ep) {
        (Some(a), Some(b)) if a * b == together => (a, b),
        (_, Some(b)) if together % b == 0 => (together / b, b),
        (Some(a), _) if together % a == 0 => (a, together / a),
        _ if dp > 1 => (1, together),
        _ => (together, 1),
    };
    let devices = ranks(together, pp).ok_or_else(|| Error::usage("more devices than any machine has"))?;
    Ok((Parallel { tp, pp, attention_dp: dp, moe_tp, moe_ep }, gpus.unwrap_or(devices).max(devices)))
}

/// An engine of a row: its step times, how many copies there are, and devices in all.
fn engine(row: &Row, prefix: &str, machines: Machines, change: Change) -> Result<(Steps, f64, usize, Shape)> {
    let shape = runs::shape(row)?;
    let machine = machines(row.need("cluster")?)?;
    let (parallel, devices) = spread(row, prefix, &shape, &machine)?;
    let topology = machine.with_devices(devices)?;
    let mut chip = Chip::new(topology.slowest())?;
    let stack = software::named(row.text("stack").unwrap_or(DEFAULT))?;
    let mut serving = stack.serves()?;
    change(&mut chip.constants, &mut serving, &stack.name);
    let column = |name: &str| {
        let own = format(row, &format!("{prefix}{name}"))?;
        if own.is_some() || prefix.is_empty() { Ok::<_, Error>(own) } else { format(row, name) }
    };
    let dense = match column("gemm_dtype")? {
        Some(p) => p,
        None => format(row, "dtype")?.unwrap_or(Precision::Bf16),
    };
    let experts = column("moe_dtype")?.unwrap_or(dense);
    let narrow = dense.bytes() < 2.0 && (serving.narrow_cache || chip.constants.generation == "b200");
    let cache = column("kv_dtype")?.unwrap_or(if narrow { Precision::Fp8 } else { Precision::Bf16 });
    let steps = Steps::new(&shape, &topology, &chip, serving, parallel, Formats { dense, experts, cache })?;
    let one = parallel.tp * parallel.pp * parallel.attention_dp;
    Ok((steps, (devices / one).max(1) as f64, devices, shape))
}

/// Runs a row's requests. Also how many devices it takes, and the model.
pub fn predict(row: &Row, machines: Machines, change: Change) -> Result<(Outcome, usize, Shape)> {
    let mode = row.text("mode").unwrap_or("aggregated").to_ascii_lowercase();
    let apart = match mode.as_str() {
        m if m.starts_with("agg") || m == "continuous" || m == "ifb" => false,
        m if m.starts_with("disagg") || m == "pd" => true,
        other => return Err(Error::usage(format!("mode is \"{other}\": there are aggregated, disaggregated"))),
    };
    let concurrency = match row.some_count("concurrency")? {
        Some(c) => c,
        None => row.count("batch", 1)?,
    };
    let requests = |copies: f64| -> Result<Requests> {
        let spread = row.number("spread")?.unwrap_or(SPREAD);
        if !(0.0..1.0).contains(&spread) {
            return Err(Error::usage(format!("spread is {spread}, must be 0 or more and below 1")));
        }
        Ok(Requests {
            arrivals: Arrivals::Concurrency(((concurrency as f64 / copies).round() as usize).max(1)),
            input: row.count("input", 1024)?,
            output: row.count("output", 128)?,
            spread,
        })
    };
    if !apart {
        let (steps, copies, devices, shape) = engine(row, "", machines, change)?;
        return Ok((run(&steps, None, &requests(copies)?)?, devices, shape));
    }
    let (reads, readers, reading, _) = engine(row, "prefill_", machines, change)?;
    let (writes, writers, writing, shape) = engine(row, "decode_", machines, change)?;
    // So many engines as there are workers, whatever one takes.
    let workers = |column: &str, steps: &Steps, engines: f64, devices: usize| -> Result<(f64, usize)> {
        let named = row.some_count(column)?.filter(|w| *w <= 1 << 16);
        Ok(named.map_or((engines, devices), |w| (w as f64, w * steps.devices() as usize)))
    };
    let (readers, reading) = workers("prefill_workers", &reads, readers, reading)?;
    let (writers, writing) = workers("decode_workers", &writes, writers, writing)?;
    let apart = Apart {
        handover: handover(&reads, &machines(row.need("cluster")?)?),
        steps: reads,
        engines: readers / writers,
    };
    Ok((run(&writes, Some(&apart), &requests(writers)?)?, reading + writing, shape))
}

/// Seconds that handing over a token of a prompt takes: each device sends what it holds of it, over the farthest way.
pub fn handover(reads: &Steps, machine: &Topology) -> f64 {
    reads.token.0 / machine.levels().last().map_or(f64::INFINITY, |l| l.way.bandwidth.0)
}

/// The figures of a row: mean first token and mean time per token under its load.
///
/// # Errors
/// What cannot be run or does not fit, and rows that measure neither.
pub fn figures(row: &Row, machines: Machines) -> Result<Vec<Figure>> {
    let (first, token) = (row.positive("ttft_ms")?, row.positive("tpot_ms")?);
    if first.is_none() && token.is_none() {
        return Err(Error::usage("neither ttft_ms nor tpot_ms is given"));
    }
    let (outcome, devices, shape) = predict(row, machines, &|_, _, _| {})?;
    let (input, output) = (row.count("input", 1024)? as f64, row.count("output", 128)? as f64);
    let work = shape.forward_flops(input + output / 2.0, false) / devices as f64;
    let mut out = vec![];
    if let Some(measured) = first {
        let predicted = outcome.first_token.mean * 1e3;
        out.push(Figure { what: "first token ms", measured, predicted, work: work * input });
    }
    if let Some(measured) = token {
        out.push(Figure { what: "per token ms", measured, predicted: outcome.per_token.mean * 1e3, work });
    }
    Ok(out)
}

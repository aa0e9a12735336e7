//! Which constants are fitted on which table, and how.

use super::chip::Chip;
use super::collective::{Placed, price};
use super::constants::{Collectives, Constants, Protocol};
use super::fit::{Unknown, minimise};
use super::gemm::Engine;
use super::layout::Stack;
use super::runs;
use super::table::{Row, Table};
use crate::base::units::{Bytes, Joules, Seconds};
use crate::base::{Error, Result};
use crate::topology::collective::{Algorithm, Kind};
use crate::topology::{self, Precision};
use rayon::prelude::*;

/// Fits the constants of one device on the rows of a table that concern it and that `split` (where there is such a
/// column) does not keep for scoring. Returns TOML for its file. Kinds: gemm, stream, collective.
pub fn fit_table(table: &Table, kind: &str, device: &str) -> Result<String> {
    if kind == "serving" {
        return super::serving::fit::fit(table, 4);
    }
    let chip = Chip::named(device)?;
    let mine = |r: &&Row| {
        r.text("split") != Some("score") && r.text("device").or(r.text("cluster")).is_some_and(|d| same(d, &chip))
    };
    let rows: Vec<&Row> = table.rows.iter().filter(mine).collect();
    if rows.is_empty() {
        return Err(Error::usage(format!("{}: no row of {device} to fit on", table.name)));
    }
    match kind {
        "gemm" => gemm(&chip, &rows),
        "stream" => stream(&chip, &rows),
        "collective" => collective(&chip, &rows),
        "training" => training(&chip, &rows),
        "energy" => energy(&chip, &rows),
        other => Err(Error::usage(format!(
            "there is no fit for \"{other}\": there are gemm, stream, collective, training, energy, serving"
        ))),
    }
}

fn same(name: &str, chip: &Chip) -> bool {
    Chip::named(name).is_ok_and(|c| c.constants.title == chip.constants.title)
}

fn unknown(name: &'static str, start: f64, low: f64, high: f64) -> Unknown {
    Unknown { name, start, low, high }
}

/// The mean of |ln(predicted / measured)|: relative, the same both ways, and calm about outliers.
fn mean_log(pairs: impl Iterator<Item = (f64, f64)>) -> f64 {
    let (sum, n) = pairs.fold((0.0, 0.0), |(sum, n), (p, m)| (sum + (p / m).ln().abs(), n + 1.0));
    sum / f64::max(n, 1.0)
}

fn need(row: &Row, column: &str) -> Result<f64> {
    row.positive(column)?.ok_or_else(|| Error::usage(format!("line {}: {column} is empty", row.line)))
}

fn toml(section: &str, unknowns: &[Unknown], values: &[f64], loss: f64, rows: usize) -> String {
    let line = |(u, v): (&Unknown, &f64)| match u.name {
        n if ["prologue", "launch", "split", "base", "step"].contains(&n) => format!("{n} = \"{:.4}us\"\n", v * 1e6),
        n if ["memory_half", "half"].contains(&n) => format!("{n} = \"{:.0}B\"\n", v),
        n => format!("{n} = {v:.4}\n"),
    };
    format!(
        "# mean |ln error| {loss:.4} over {rows} rows\n[{section}]\n{}",
        unknowns.iter().zip(values).map(line).collect::<String>()
    )
}

fn gemm(chip: &Chip, rows: &[&Row]) -> Result<String> {
    let cases = rows
        .iter()
        .map(|r| {
            Ok((
                r.need("dtype")?.parse::<Precision>()?,
                need(r, "m")?,
                need(r, "n")?,
                need(r, "k")?,
                need(r, "seconds")?,
            ))
        })
        .collect::<Result<Vec<_>>>()?;
    let wide: Vec<_> = cases.iter().filter(|c| c.0.bytes() >= 2.0).copied().collect();
    let unknowns = [
        unknown("efficiency", 0.75, 0.3, 1.0),
        unknown("intensity_half", 22.0, 0.0, 80.0),
        unknown("prologue", 0.6e-6, 0.0, 2e-5),
        unknown("launch", 2.5e-6, 5e-7, 1.5e-5),
        unknown("memory", 0.83, 0.4, 1.0),
        unknown("memory_half", 2e6, 0.0, 2e7),
        unknown("join", 3.0, 1.0, 20.0),
        unknown("wave", 0.5, 0.0, 1.0),
        unknown("split", 4e-6, 0.0, 2e-5),
    ];
    let build = |z: &[f64]| super::constants::Gemm {
        efficiency: z[0],
        intensity_half: z[1],
        prologue: Seconds(z[2]),
        launch: Seconds(z[3]),
        memory: z[4],
        memory_half: Bytes(z[5]),
        join: z[6],
        wave: z[7],
        split: Seconds(z[8]),
        efficiency_8bit: chip.constants.gemm.efficiency_8bit,
    };
    let base = chip.engine(Precision::Fp16)?;
    let loss = |z: &[f64]| {
        let constants = build(z);
        mean_log(wide.iter().map(|(p, m, n, k, s)| {
            (Engine { constants: &constants, precision: *p, ..base }.seconds(1.0, *m, *n, *k), *s)
        }))
    };
    let (values, left) = minimise(&unknowns, 8, &loss);
    let mut out = toml("gemm", &unknowns, &values, left, wide.len());
    let narrow: Vec<_> = cases.iter().filter(|c| c.0.bytes() < 2.0).copied().collect();
    if !narrow.is_empty() {
        let peak = chip.engine(Precision::Fp8)?.peak;
        let only = [unknown("efficiency_8bit", 0.7, 0.2, 1.0)];
        let loss = |z: &[f64]| {
            let constants = super::constants::Gemm { efficiency_8bit: z[0], ..build(&values) };
            mean_log(narrow.iter().map(|(p, m, n, k, s)| {
                (Engine { constants: &constants, precision: *p, peak, ..base }.seconds(1.0, *m, *n, *k), *s)
            }))
        };
        let (v, left) = minimise(&only, 4, &loss);
        out += &toml("gemm", &only, &v, left, narrow.len());
    }
    Ok(out)
}

fn stream(chip: &Chip, rows: &[&Row]) -> Result<String> {
    // What no cache holds says something about memory, what is tiny about launching.
    let told = |b: f64| !(65536.0..6e7).contains(&b);
    let cases = rows
        .iter()
        .map(|r| Ok((r.need("op")? == "rows", need(r, "bytes")?, need(r, "seconds")?)))
        .collect::<Result<Vec<_>>>()?;
    let cases: Vec<_> = cases.into_iter().filter(|c| told(c.1)).collect();
    let unknowns =
        [unknown("plain", 0.85, 0.2, 1.0), unknown("rows", 0.5, 0.1, 1.0), unknown("launch", 2e-6, 0.0, 1e-5)];
    let loss = |z: &[f64]| {
        let mut c: Constants = chip.constants.clone();
        (c.stream.plain, c.stream.rows, c.stream.launch) = (z[0], z[1], Seconds(z[2]));
        let chip = Chip { constants: c, ..chip.clone() };
        mean_log(cases.iter().map(|(rows, bytes, s)| (chip.stream(*bytes, *rows), *s)))
    };
    let (values, left) = minimise(&unknowns, 8, &loss);
    Ok(toml("stream", &unknowns, &values, left, cases.len()))
}

/// Of the rate forward, what fused attention reaches backward: 63 % for 73 % of peak in FlashAttention 2's paper (from memory).
const BACKWARD: f64 = 0.86;

/// What only whole steps show: fused attention, hiding (overlap), and joules an operation, which set the clocks of a long run.
fn training(chip: &Chip, rows: &[&Row]) -> Result<String> {
    let machines = |name: &str| topology::shipped(name);
    let tensor = rows.iter().any(|r| r.text("fsdp") != Some("3")) && chip.constants.generation != "a100";
    let a = &chip.constants.attention;
    let mut unknowns = vec![
        unknown("pytorch_forward", a.pytorch_forward, 0.05, 0.9),
        unknown("flop", chip.constants.energy.flop.0 * 1e12, 0.1, 2.0),
    ];
    if tensor {
        unknowns.push(unknown("overlap_tensor", 0.5, 0.0, 1.0));
    }
    let value =
        |z: &[f64], name: &str, default: f64| unknowns.iter().position(|u| u.name == name).map_or(default, |i| z[i]);
    let loss = |z: &[f64]| {
        let change = |c: &mut Constants, s: &mut Stack| {
            let a = &mut c.attention;
            (a.pytorch_forward, a.pytorch_backward) = (z[0], z[0] * BACKWARD);
            c.energy.flop = Joules(z[1] * 1e-12);
            if s.overlap_tensor > 0.0 {
                s.overlap_tensor = value(z, "overlap_tensor", s.overlap_tensor);
            }
        };
        let figures = rows
            .par_iter()
            .filter_map(|r| runs::run_with(r, &machines, &change).ok().zip(runs::seconds(r, &machines)))
            .map(|(run, measured)| (run.step.seconds.0, measured))
            .collect::<Vec<_>>();
        mean_log(figures.into_iter())
    };
    let (values, left) = minimise(&unknowns, 2, &loss);
    Ok(toml("attention, or as the names say", &unknowns, &values, left, rows.len()))
}

/// Joules a byte, on rows of decoding. What being awake takes cannot be told from it there: kernels that read run as long as
/// they read.
fn energy(chip: &Chip, rows: &[&Row]) -> Result<String> {
    let machines = |name: &str| topology::shipped(name);
    let unknowns = [unknown("byte", chip.constants.energy.byte.0, 1e-11, 1e-9)];
    let awake = chip.constants.energy.awake.0;
    let loss = |z: &[f64]| {
        let watts =
            |r: &&&Row| runs::watts_with(r, &machines, awake, z[0]).ok().zip(r.positive("watts").ok().flatten());
        mean_log(rows.iter().filter_map(|r| watts(&r)))
    };
    let (values, left) = minimise(&unknowns, 6, &loss);
    Ok(format!("# mean |ln error| {left:.4} over {} rows\nbyte = \"{:.1}pJ\"\n", rows.len(), values[0] * 1e12))
}

fn protocol(z: &[f64]) -> Protocol {
    Protocol {
        base: Seconds(z[0]),
        step: Seconds(z[1]),
        efficiency: z[2],
        half: Bytes(z[3]),
        exponent: z[4],
        spread: z[5],
    }
}

fn protocol_unknowns(base: f64, efficiency: f64) -> Vec<Unknown> {
    vec![
        unknown("base", base, 0.0, 1e-4),
        unknown("step", 1e-6, 0.0, 1e-5),
        unknown("efficiency", efficiency, 0.05, 1.0),
        unknown("half", 2e6, 0.0, 1e9),
        unknown("exponent", 0.6, 0.15, 2.0),
        unknown("spread", 0.5, 0.0, 1.0),
    ]
}

/// Rings (1 MiB and more), then small messages, then the switch and peers, one protocol after the other.
fn collective(chip: &Chip, rows: &[&Row]) -> Result<String> {
    let mut cases = vec![];
    for r in rows {
        let machine = super::known::machine_of(r)?;
        let placed = Placed::new(&machine, r.count("ranks", 1)?, 1);
        let kind = super::known::kind(r.need("kind")?)?;
        let algorithm = super::known::algorithm(r.text("algorithm"))?;
        cases.push((placed, kind, need(r, "bytes")?, algorithm, need(r, "seconds")?));
    }
    let mut c: Collectives = chip.constants.collective.clone();
    let mut out = String::new();
    let flat = |p: &Placed| p.levels.len() == 1;
    type Set = fn(&mut Collectives) -> &mut Protocol;
    let stages: [(&str, Set, Option<Algorithm>, f64); 4] = [
        ("collective.ring", |c| &mut c.ring, Some(Algorithm::Ring), 3e-5),
        ("collective.switch", |c| &mut c.switch, Some(Algorithm::InSwitch), 4e-5),
        ("collective.low_latency", |c| &mut c.low_latency, Some(Algorithm::Ring), 1e-5),
        ("collective.peer", |c| &mut c.peer, None, 1.5e-5),
    ];
    for (name, slot, algorithm, base) in stages {
        let peer = name.ends_with("peer");
        let small = name.ends_with("low_latency");
        let sums = name.ends_with("switch");
        let concerns = |(p, kind, bytes, wanted, _): &&(Placed, Kind, f64, Option<Algorithm>, f64)| {
            let send = matches!(kind, Kind::SendRecv { .. });
            // What the library chose by itself: the switch where it sums, from 2 MiB on (the tables' own note).
            let switched = p.levels[0].1.reduction
                && (*wanted == Some(Algorithm::InSwitch)
                    || (wanted.is_none() && *bytes >= 2097152.0 && p.ranks() > 4 && *kind == Kind::AllReduce));
            flat(p) && peer == send && (peer || (sums == switched && small == (*bytes < 1048576.0)))
        };
        let used: Vec<_> = cases.iter().filter(concerns).cloned().collect();
        if used.is_empty() {
            continue;
        }
        let mut unknowns = protocol_unknowns(base, if small { 0.3 } else { 0.85 });
        if small {
            unknowns.truncate(3);
        }
        let build = |z: &[f64]| {
            if small {
                Protocol { half: Bytes(0.0), exponent: 1.0, spread: 0.0, ..protocol(&[z, &[0.0; 3]].concat()) }
            } else {
                protocol(z)
            }
        };
        let loss = |z: &[f64]| {
            let mut trial = c.clone();
            *slot(&mut trial) = build(z);
            if !small {
                // Not yet fitted: out of the way.
                trial.low_latency.base = Seconds(1.0);
            }
            mean_log(used.iter().map(|(p, kind, bytes, wanted, s)| {
                (price(&trial, p, *kind, *bytes, wanted.or(algorithm)).seconds.0, *s)
            }))
        };
        let (values, left) = minimise(&unknowns, 12, &loss);
        *slot(&mut c) = build(&values);
        out += &toml(name, &unknowns, &values, left, used.len());
    }
    Ok(out)
}

//! Constants of engines under load, found on rows of assets/validation/serving.csv: one after the other, each by steps that
//! shrink, held near where they start so that a constant which few rows concern stays what it was.

use super::queue::Outcome;
use super::rows::predict;
use crate::base::units::Seconds;
use crate::base::{Error, Result};
use crate::simulate::constants::Constants;
use crate::simulate::known;
use crate::simulate::software;
use crate::simulate::table::{Row, Table};
use rayon::prelude::*;

/// A constant of a generation of devices or of a stack, with its bounds as factors of where it starts.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Unknown {
    owner: &'static str,
    name: &'static str,
    /// Natural logarithm of the factor by which it differs from where it started.
    moved: f64,
    step: f64,
}

const DEVICES: [&str; 2] = ["h100", "b200"];
const OF_DEVICE: [&str; 11] =
    ["gap", "launch", "wide", "narrow", "experts", "hop", "links", "cache", "attention", "prompt", "latent"];
const STACKS: [&str; 3] = ["trtllm", "vllm", "sglang"];
const OF_STACK: [&str; 7] =
    ["kernels", "expert_kernels", "host", "host_sequence", "host_prompt", "request", "request_latent"];
/// What a move by a factor of e costs, against errors of a row's logarithm.
const HELD: f64 = 0.02;
/// Errors beyond this count no more: rows that something else explains.
const MOST: f64 = 0.8;
/// What a first token's error weighs against a time per token's.
const FIRST: f64 = 0.5;

fn device(c: &mut Constants, name: &str, factor: f64) {
    let t = &mut c.serving;
    let time = |s: &mut Seconds| s.0 *= factor;
    let share = |s: &mut f64| *s = (*s * factor).min(1.2);
    match name {
        "gap" => time(&mut t.gap),
        "launch" => time(&mut t.launch),
        "hop" => time(&mut t.hop),
        "attention" => time(&mut t.attention),
        "wide" => share(&mut t.wide),
        "narrow" => share(&mut t.narrow),
        "experts" => share(&mut t.experts),
        "links" => share(&mut t.links),
        "cache" => share(&mut t.cache),
        "prompt" => share(&mut t.prompt),
        _ => share(&mut t.latent),
    }
}

fn stack(s: &mut software::Serving, name: &str, factor: f64) {
    let time = |s: &mut Seconds| s.0 *= factor;
    match name {
        "kernels" => s.kernels *= factor,
        "expert_kernels" => s.expert_kernels *= factor,
        "host" => time(&mut s.host),
        "host_sequence" => time(&mut s.host_sequence),
        "host_prompt" => time(&mut s.host_prompt),
        "request" => time(&mut s.request),
        _ => time(&mut s.request_latent),
    }
}

struct Case<'a> {
    row: &'a Row,
    generation: String,
    stack: String,
    first: f64,
    token: f64,
}

impl Case<'_> {
    fn loss(&self, unknowns: &[Unknown]) -> f64 {
        let change = |c: &mut Constants, s: &mut software::Serving, name: &str| {
            for u in unknowns.iter().filter(|u| u.moved != 0.0) {
                let factor = u.moved.exp();
                if u.owner == c.generation {
                    device(c, u.name, factor);
                } else if u.owner == name {
                    stack(s, u.name, factor);
                }
            }
        };
        let off = |p: f64, m: f64| (p / m).ln().abs().min(MOST);
        let of =
            |o: &Outcome| off(o.per_token.mean * 1e3, self.token) + FIRST * off(o.first_token.mean * 1e3, self.first);
        predict(self.row, &|n| known::machine(n), &change).map_or(MOST * (1.0 + FIRST), |(o, ..)| of(&o))
    }
}

/// Fits on the rows that `split` does not keep for scoring. Returns what became of each constant, for its file.
///
/// # Errors
/// A table without rows to fit on.
pub fn fit(table: &Table, rounds: usize) -> Result<String> {
    let mut cases = vec![];
    for row in table.rows.iter().filter(|r| r.text("split") != Some("score")) {
        let machine = known::machine(row.need("cluster")?)?;
        cases.push(Case {
            row,
            generation: crate::simulate::constants::of(machine.slowest())?.generation,
            stack: software::named(row.need("stack")?)?.name,
            first: row.required("ttft_ms")?,
            token: row.required("tpot_ms")?,
        });
    }
    if cases.is_empty() {
        return Err(Error::usage(format!("{}: no row to fit on", table.name)));
    }
    let unknown = |owner, name| Unknown { owner, name, moved: 0.0, step: 0.3 };
    let mut unknowns: Vec<Unknown> = DEVICES
        .iter()
        .flat_map(|d| OF_DEVICE.iter().map(move |n| unknown(*d, *n)))
        .chain(STACKS.iter().flat_map(|s| OF_STACK.iter().map(move |n| unknown(*s, *n))))
        .collect();
    let mut losses: Vec<f64> = cases.par_iter().map(|c| c.loss(&unknowns)).collect();
    let mean = |l: &[f64]| l.iter().sum::<f64>() / l.len() as f64;
    let start = mean(&losses);
    for _ in 0..rounds {
        for at in 0..unknowns.len() {
            let u = unknowns[at];
            let mine: Vec<usize> =
                (0..cases.len()).filter(|i| cases[*i].generation == u.owner || cases[*i].stack == u.owner).collect();
            let held = |moved: f64| HELD * moved * moved * cases.len() as f64;
            let before = mine.iter().map(|i| losses[*i]).sum::<f64>() + held(u.moved);
            let mut better = false;
            for step in [u.step, -u.step] {
                let mut tried = unknowns.clone();
                tried[at].moved += step;
                let new: Vec<f64> = mine.par_iter().map(|i| cases[*i].loss(&tried)).collect();
                if new.iter().sum::<f64>() + held(tried[at].moved) < before {
                    mine.iter().zip(new).for_each(|(i, l)| losses[*i] = l);
                    unknowns = tried;
                    better = true;
                    break;
                }
            }
            if !better {
                unknowns[at].step /= 2.0;
            }
        }
    }
    let mut out = format!("# loss {start:.4} to {:.4} over {} rows\n", mean(&losses), cases.len());
    for u in unknowns {
        out += &format!("{} {} x {:.4}\n", u.owner, u.name, u.moved.exp());
    }
    Ok(out)
}

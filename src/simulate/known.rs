//! What tables call things: machines by the names of their devices, collectives and algorithms in our words or others'.

use super::table::Row;
use crate::base::{Error, Result};
use crate::topology::collective::{Algorithm, Kind};
use crate::topology::{self, Precision, Topology};

/// Finds machines by name or file.
pub type Machines<'a> = &'a (dyn Fn(&str) -> Result<Topology> + Sync);

/// What people call devices and machines, without the words of [`FILLING`].
const ALSO: [(&str, &str); 25] = [
    ("gb300", "gb300-nvl72"),
    ("gb300nvl72", "gb300-nvl72"),
    ("gb200", "gb200-nvl72"),
    ("gb200nvl72", "gb200-nvl72"),
    ("b300", "dgx-b300"),
    ("b200", "dgx-b200"),
    ("gh200", "gh200"),
    ("h200", "dgx-h200"),
    ("h100", "dgx-h100"),
    ("eos", "dgx-h100"),
    ("h20", "h20-8"),
    ("a10040gb", "dgx-a100-40gb"),
    ("a10080gb", "dgx-a100"),
    ("a100pcie", "pcie-8"),
    ("a100pcie80gb", "pcie-8"),
    ("a100", "dgx-a100"),
    ("selene", "dgx-a100"),
    ("v100", "dgx-v100"),
    ("2v100", "dgx-v100"),
    ("2", "dgx-v100"),
    ("mi300x", "mi300x-8"),
    ("mi355x", "mi355x-8"),
    ("l40s", "l40s-8"),
    ("rtxpro6000", "rtx-pro-6000-8"),
    ("spark", "dgx-spark"),
];

/// Words that say nothing of which device it is.
const FILLING: [&str; 27] = [
    "nvidia",
    "amd",
    "tensor",
    "core",
    "gpu",
    "gpus",
    "dgx",
    "hgx",
    "superpod",
    "server",
    "blackwell",
    "hopper",
    "ampere",
    "instinct",
    "sxm",
    "sxm2",
    "sxm4",
    "sxm5",
    "sxm6",
    "hbm2e",
    "hbm3",
    "hbm3e",
    "8x",
    "edition",
    "16gb",
    "32gb",
    "per",
];

fn plain(text: &str) -> String {
    text.to_ascii_lowercase().chars().filter(char::is_ascii_alphanumeric).collect()
}

/// A machine by the name that a table gives it: one that comes along, or what people call its devices
/// (`DGX A100 80GB`, `h200_sxm`, `NVIDIA H200 SXM 141GB`).
///
/// # Errors
/// A name that is none of these, with the nearest: a machine is never taken for another.
pub fn machine(name: &str) -> Result<Topology> {
    if let Some(s) = topology::SHIPPED.iter().find(|s| plain(s.0) == plain(name)) {
        return topology::shipped(s.0);
    }
    let words: Vec<String> = name
        .to_ascii_lowercase()
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|w| !w.is_empty() && !FILLING.contains(w))
        .map(str::to_string)
        .collect();
    // The size of the memory tells A100s apart and says nothing of others.
    let sized = |w: &str| w.ends_with("gb") && w[..w.len() - 2].chars().all(|c| c.is_ascii_digit());
    let whole = words.concat();
    let bare: String = words.iter().filter(|w| !sized(w)).cloned().collect();
    let find = |text: &str| ALSO.iter().find(|a| a.0 == text).map(|a| a.1);
    if let Some(found) = find(&whole).or_else(|| find(&bare)) {
        return topology::shipped(found);
    }
    let near = topology::SHIPPED
        .iter()
        .map(|s| (super::shape::distance(&plain(s.0), &plain(name)), s.0))
        .chain(ALSO.iter().map(|a| (super::shape::distance(a.0, &bare), a.1)))
        .min_by_key(|n| n.0)
        .map_or("", |n| n.1);
    topology::shipped(name).map_err(|e| Error::usage(format!("{e}; the nearest is {near}")))
}

/// The machine of a row, among those that come along.
pub fn machine_of(row: &Row) -> Result<Topology> {
    machine(row.need("cluster")?)?.with_nodes(row.count("nodes", 1)?)
}

/// `all_reduce`, `all-reduce`, `AllReduce`.
pub fn kind(text: &str) -> Result<Kind> {
    let plain: String = text.to_ascii_lowercase().chars().filter(char::is_ascii_alphabetic).collect();
    match plain.as_str() {
        "allreduce" => Ok(Kind::AllReduce),
        "allgather" => Ok(Kind::AllGather),
        "reducescatter" => Ok(Kind::ReduceScatter),
        "alltoall" => Ok(Kind::AllToAll),
        "broadcast" | "reduce" => Ok(Kind::Broadcast { root: 0 }),
        "sendrecv" | "send" | "ptp" | "p2p" => Ok(Kind::SendRecv { from: 0, to: 1 }),
        _ => Err(Error::usage(format!(
            "there is no collective \"{text}\": there are all_reduce, all_gather, reduce_scatter, all_to_all, broadcast, send_recv"
        ))),
    }
}

/// The algorithm that a row names, in our words or NCCL's; none where it leaves the choice open.
pub fn algorithm(text: Option<&str>) -> Result<Option<Algorithm>> {
    let plain = text.unwrap_or("").to_ascii_lowercase();
    let has = |what: &[&str]| what.iter().any(|w| plain.contains(w));
    // Protocols and plug-ins leave the algorithm open.
    let open = ["default", "auto", "any", "nccl", "rccl", "simple", "ll128", "ll", "pat", "none", "-"];
    Ok(match (has(&["nvls", "switch", "sharp", "collnet"]), has(&["ring"])) {
        (true, false) => Some(Algorithm::InSwitch),
        (false, true) => Some(Algorithm::Ring),
        (true, true) => None,
        _ if has(&["tree"]) => Some(Algorithm::Tree),
        _ if plain.is_empty() || open.contains(&plain.as_str()) => None,
        _ => Some(plain.parse()?),
    })
}

/// A number format as configurations spell it (`nvfp4`, `fp8_block`, `mxfp8`, `bfloat16`); none for `auto`.
pub fn precision(text: &str) -> Result<Option<Precision>> {
    let plain = text.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|w| plain.contains(w));
    if let Ok(exact) = plain.parse() {
        return Ok(Some(exact));
    }
    Ok(Some(if has(&["auto", "none"]) {
        return Ok(None);
    } else if has(&["fp4", "int4", "w4", "4bit"]) {
        Precision::Fp4
    } else if has(&["fp8", "w8", "8bit", "e4m3", "e5m2"]) {
        Precision::Fp8
    } else if has(&["bf16", "bfloat16"]) {
        Precision::Bf16
    } else if has(&["fp16", "float16"]) {
        Precision::Fp16
    } else {
        plain.parse()?
    }))
}

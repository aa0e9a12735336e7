//! Calibration: what a kind of device makes of its peak figures. One frozen file a device in assets/devices.

use crate::base::units::{Bytes, Joules, Seconds};
use crate::base::{Error, Result};
use crate::topology::{Device, Precision};
use serde::Deserialize;

macro_rules! shipped {
    ($($name:literal),*) => { [$(($name, include_str!(concat!("../../assets/devices/", $name, ".toml")))),*] };
}

/// The calibrations that come along.
pub const SHIPPED: [(&str, &str); 8] = shipped!["v100", "a100", "h100", "b200", "mi300x", "mi355x", "ada", "generic"];

/// Everything that is fitted or assumed about a kind of device. Each file says where every constant is from.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Constants {
    pub title: String,
    /// By which stacks say what they did on it: v100, a100, h100, b200, generic.
    pub generation: String,
    pub multiprocessors: f64,
    /// The power limit that products were measured at, and how the rate follows another limit: (limit / measured_at)^throttle.
    pub measured_at: crate::base::units::Watts,
    pub throttle: f64,
    /// A new kernel on a stream that is fed without pause.
    pub launch: Seconds,
    pub gemm: Gemm,
    pub stream: Stream,
    pub attention: Attention,
    pub collective: Collectives,
    pub energy: Energy,
    pub runtime: Runtime,
    pub serving: super::serving::Tuning,
}

/// Matrix products: see [`super::gemm`].
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gemm {
    /// Share of the peak rate that a 128 × 128 tile reaches along an endless k.
    pub efficiency: f64,
    /// The same for 8-bit and 4-bit operands.
    pub efficiency_8bit: f64,
    /// Products a loaded element (tile m·n/(m+n)) at which a tile would reach half of its best.
    pub intensity_half: f64,
    /// Filling and draining a tile's pipeline.
    pub prologue: Seconds,
    pub launch: Seconds,
    /// Share of the memory bandwidth, and the traffic at which half of it is reached.
    pub memory: f64,
    pub memory_half: Bytes,
    /// How compute and memory overlap: 1 adds them, ∞ takes the larger.
    pub join: f64,
    /// How much of a partly filled wave is lost, 0 to 1.
    pub wave: f64,
    /// Summing up the pieces of a split k.
    pub split: Seconds,
}

/// Kernels that only move bytes.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stream {
    /// Share of the memory bandwidth: plain elementwise kernels, and kernels that work by rows (norms, softmax, gated activations).
    pub plain: f64,
    pub rows: f64,
    pub launch: Seconds,
}

/// Fused attention kernels, share of the peak rate, forward and backward.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attention {
    /// Elements a head at which a kernel reaches half of what it would for endless ones; `forward` and `backward` are for 128.
    pub head_half: f64,
    /// Keys of a sequence at which a kernel reaches half of what it would for endless ones.
    pub length_half: f64,
    pub forward: f64,
    pub backward: f64,
    /// The same two as PyTorch brings it, beside FSDP.
    pub pytorch_forward: f64,
    pub pytorch_backward: f64,
    /// Share of the memory bandwidth that a decode step reaches while it reads the KV cache.
    pub decode: f64,
}

/// A protocol: `base + rounds · step + wire / (efficiency · bandwidth · ramp)`, ramp = x^e / (x^e + half^e) of the
/// bytes x = total / ranks^spread.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Protocol {
    pub base: Seconds,
    pub step: Seconds,
    pub efficiency: f64,
    pub half: Bytes,
    pub exponent: f64,
    pub spread: f64,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Collectives {
    /// Small messages: flags travel with the data.
    pub low_latency: Protocol,
    /// Rings over links within a node.
    pub ring: Protocol,
    /// Sums in the switch, from `switch_from` ranks and `switch_bytes` on.
    pub switch: Protocol,
    pub switch_from: usize,
    pub switch_bytes: Bytes,
    /// One rank to another within a node.
    pub peer: Protocol,
    /// Rings and peers over the network.
    pub network: Protocol,
    /// Share of the compute rate that is lost while a collective runs beside it.
    pub tax: f64,
}

/// Where the power goes.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Energy {
    /// Beyond idle, while anything runs: clocks are up.
    pub awake: crate::base::units::Watts,
    /// Of a 16-bit operation at the clocks of a short benchmark; it falls with the square of the clocks.
    pub flop: Joules,
    /// What an 8-bit operation takes of that, and a 4-bit one of an 8-bit one.
    pub narrow: f64,
    pub byte: Joules,
    pub link_byte: Joules,
    /// A range of ± this share stands around every figure.
    pub spread: f64,
}

/// What frameworks add.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Runtime {
    /// Memory that context, libraries and communicators take.
    pub context: Bytes,
    /// Allocator slack, as a share of activations.
    pub slack: f64,
    /// Host time an engine step takes between decode steps.
    pub engine: Seconds,
}

/// The calibration of this name.
pub fn named(name: &str) -> Result<Constants> {
    let known = || SHIPPED.map(|s| s.0).join(", ");
    let (name, text) = SHIPPED
        .iter()
        .find(|s| s.0 == name)
        .ok_or_else(|| Error::usage(format!("there are no constants \"{name}\": there are {}", known())))?;
    toml::from_str(text)
        .map_err(|e| Error::file(format!("assets/devices/{name}.toml"), e.message().replace('\n', ", ")))
}

/// The calibration of a device: the one that it names, else that of the generation whose peak rate is nearest.
pub fn of(device: &Device) -> Result<Constants> {
    if let Some(name) = &device.constants {
        return named(name);
    }
    let rate = device.peak(Precision::Fp16).map_or(1e12, |r| r.0);
    let near = [("v100", 125e12), ("a100", 312e12), ("h100", 989e12), ("b200", 2250e12)];
    let distance = |r: f64| (r / rate).ln().abs();
    let best = near.iter().min_by(|a, b| distance(a.1).total_cmp(&distance(b.1))).filter(|b| distance(b.1) < 2.0);
    named(best.map_or("generic", |b| b.0))
}

impl Energy {
    /// Energy of an operation in units of a 16-bit one.
    pub fn weight(&self, precision: Precision) -> f64 {
        let bytes = precision.bytes();
        if bytes > 1.0 {
            bytes / 2.0
        } else if bytes == 1.0 {
            self.narrow
        } else {
            self.narrow * self.narrow
        }
    }
}

impl Protocol {
    /// Seconds for `wire` bytes a rank over a link of `bandwidth`, in `rounds` rounds, of `total` bytes on `ranks` ranks.
    pub fn seconds(&self, rounds: f64, wire: f64, bandwidth: f64, total: f64, ranks: f64) -> f64 {
        let x = total / ranks.powf(self.spread);
        let ramp = if self.half.0 > 0.0 && x > 0.0 { 1.0 / (1.0 + (self.half.0 / x).powf(self.exponent)) } else { 1.0 };
        self.base.0 + rounds * self.step.0 + if wire > 0.0 { wire / (self.efficiency * bandwidth * ramp) } else { 0.0 }
    }
}

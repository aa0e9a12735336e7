//! What a machine is made of. One node is described; `nodes` says how many there are.

use crate::base::units::{Bytes, BytesPerSecond, FlopsPerSecond, PricePerHour, Seconds, Watts};
use crate::base::{Error, Result};

/// Number formats that devices have rates for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Precision {
    Fp64,
    Fp32,
    Tf32,
    Fp16,
    Bf16,
    Fp8,
    Int8,
    Fp4,
}

pub const PRECISIONS: [Precision; 8] = [
    Precision::Fp64,
    Precision::Fp32,
    Precision::Tf32,
    Precision::Fp16,
    Precision::Bf16,
    Precision::Fp8,
    Precision::Int8,
    Precision::Fp4,
];

impl Precision {
    pub fn name(self) -> &'static str {
        match self {
            Precision::Fp64 => "fp64",
            Precision::Fp32 => "fp32",
            Precision::Tf32 => "tf32",
            Precision::Fp16 => "fp16",
            Precision::Bf16 => "bf16",
            Precision::Fp8 => "fp8",
            Precision::Int8 => "int8",
            Precision::Fp4 => "fp4",
        }
    }
    /// Bytes that an element takes in memory.
    pub fn bytes(self) -> f64 {
        match self {
            Precision::Fp64 => 8.0,
            Precision::Fp32 | Precision::Tf32 => 4.0,
            Precision::Fp16 | Precision::Bf16 => 2.0,
            Precision::Fp8 | Precision::Int8 => 1.0,
            Precision::Fp4 => 0.5,
        }
    }
}

impl std::str::FromStr for Precision {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let plain = text.trim().to_ascii_lowercase().replace(['-', '_', ' '], "");
        let plain = match plain.as_str() {
            "float16" | "half" | "f16" => "fp16",
            "bfloat16" | "ampbf16" => "bf16",
            "float32" | "float" | "f32" => "fp32",
            "f64" => "fp64",
            "float8" | "f8" | "e4m3" | "e5m2" => "fp8",
            "nvfp4" | "f4" | "mxfp4" => "fp4",
            "i8" => "int8",
            other => other,
        };
        let known = PRECISIONS.map(Precision::name).join(", ");
        PRECISIONS
            .into_iter()
            .find(|p| p.name() == plain)
            .ok_or_else(|| Error::usage(format!("there is no number format \"{text}\": there are {known}")))
    }
}

/// One accelerator.
#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    pub title: String,
    /// Dense peak rates (no sparsity).
    pub peak: Vec<(Precision, FlopsPerSecond)>,
    pub memory: Bytes,
    pub bandwidth: BytesPerSecond,
    /// Power when nothing runs, and the limit that it is held to.
    pub idle: Watts,
    pub limit: Watts,
    pub price: Option<PricePerHour>,
    /// The calibration that prices it, by name (assets/devices); the nearest one is taken where none is named.
    pub constants: Option<String>,
    pub source: String,
}

impl Device {
    /// The rate for a format; where the device has none of its own, of the next wider one that it has.
    pub fn peak(&self, precision: Precision) -> Option<FlopsPerSecond> {
        let order: &[Precision] = match precision {
            Precision::Fp64 => &[Precision::Fp64],
            Precision::Fp32 => &[Precision::Fp32],
            Precision::Tf32 => &[Precision::Tf32, Precision::Fp32],
            Precision::Bf16 => &[Precision::Bf16, Precision::Fp16, Precision::Fp32],
            Precision::Fp16 => &[Precision::Fp16, Precision::Bf16, Precision::Fp32],
            Precision::Fp8 => &[Precision::Fp8, Precision::Fp16, Precision::Bf16, Precision::Fp32],
            Precision::Int8 => &[Precision::Int8, Precision::Fp16, Precision::Fp32],
            Precision::Fp4 => &[Precision::Fp4, Precision::Fp8, Precision::Fp16, Precision::Bf16, Precision::Fp32],
        };
        order.iter().find_map(|p| self.peak.iter().find(|q| q.0 == *p)).map(|q| q.1)
    }
}

/// How many of a group there are: so many in each node, in each rack, or in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Node,
    Rack,
    Cluster,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Role {
    Device(Box<Device>),
    /// `reduction`: it can sum and multicast what passes through.
    Switch {
        reduction: bool,
    },
    Host,
    Nic,
}

/// Equal parts of the machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    pub name: String,
    pub count: usize,
    pub scope: Scope,
    pub role: Role,
    pub source: String,
}

/// Wires between two groups. One part to many where a group has one part; else part to part, or neighbours to one part
/// where the counts divide; within a group, all pairs or those that `pairs` names (with their lanes).
#[derive(Debug, Clone, PartialEq)]
pub struct Link {
    /// Indices into [`Topology::groups`].
    pub from: usize,
    pub to: usize,
    /// Only these parts of the two groups, where the file names one (`cpu0`).
    pub only: [Option<usize>; 2],
    pub kind: String,
    pub lanes: u32,
    /// Of one lane, in one direction.
    pub lane: BytesPerSecond,
    pub latency: Seconds,
    pub pairs: Vec<(usize, usize, u32)>,
    pub source: String,
}

impl Link {
    /// All lanes, one direction.
    pub fn bandwidth(&self) -> BytesPerSecond {
        self.lane * self.lanes as f64
    }
}

/// A machine of one or more nodes.
#[derive(Debug, Clone, PartialEq)]
pub struct Topology {
    pub name: String,
    pub title: String,
    pub nodes: usize,
    /// Nodes of a rack, where racks matter.
    pub rack: Option<usize>,
    pub groups: Vec<Group>,
    pub links: Vec<Link>,
}

impl Topology {
    pub fn device_groups(&self) -> impl Iterator<Item = (&Group, &Device)> {
        self.groups.iter().filter_map(|g| if let Role::Device(d) = &g.role { Some((g, &**d)) } else { None })
    }

    /// Devices in one node.
    pub fn devices_per_node(&self) -> usize {
        self.device_groups().map(|(g, _)| g.count).sum()
    }

    pub fn devices(&self) -> usize {
        self.nodes * self.devices_per_node()
    }

    /// The device that a step waits for: the one with the lowest peak rate, as all ranks march in step.
    pub fn slowest(&self) -> &Device {
        let rate = |d: &Device| d.peak(Precision::Fp16).map_or(0.0, |p| p.0);
        let first = |a: &&Device, b: &&Device| rate(a).total_cmp(&rate(b));
        self.device_groups()
            .map(|g| g.1)
            .min_by(first)
            .expect("a topology has a device: the reader refuses one without")
    }

    /// The same machine with another number of nodes.
    pub fn with_nodes(&self, nodes: usize) -> Result<Topology> {
        if nodes == 0 || nodes > super::MOST_NODES {
            return Err(Error::usage(format!("{}: {nodes} nodes, must be 1 to {}", self.name, super::MOST_NODES)));
        }
        Ok(Topology { nodes, ..self.clone() })
    }

    /// As many nodes as `devices` need; the last may have some to spare.
    pub fn with_devices(&self, devices: usize) -> Result<Topology> {
        self.with_nodes(devices.div_ceil(self.devices_per_node()).max(1))
    }
}

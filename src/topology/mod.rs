//! Machines and how work is laid out on them: devices, links, switches, meshes, and the rounds of collectives.
//! Pure data: what runs a plan and what prices one read the same facts here.

pub mod collective;
mod level;
mod machine;
mod mesh;
mod net;
#[cfg(feature = "simulate")]
mod read;
#[cfg(feature = "simulate")]
mod svg;
#[cfg(feature = "simulate")]
mod text;

pub use level::Level;
pub use machine::{Device, Group, Link, PRECISIONS, Precision, Role, Scope, Topology};
pub use mesh::{AXES, Mesh};
pub use net::{Net, Part, Way, Wire};
#[cfg(feature = "simulate")]
pub use read::read;

#[cfg(feature = "simulate")]
use crate::base::{Error, Result};

/// More nodes than any machine has, more parts of a kind and more wires than any node has.
pub const MOST_NODES: usize = 1_000_000;
pub const MOST_DEVICES: usize = 256;
pub const MOST_WIRES: usize = 250_000;

macro_rules! shipped {
    ($($name:literal),*) => { [$(($name, include_str!(concat!("../../assets/clusters/", $name, ".toml")))),*] };
}

/// The machines that come along: name and file text.
pub const SHIPPED: [(&str, &str); 21] = shipped![
    "dgx1-v100",
    "dgx-v100",
    "dgx-a100",
    "dgx-a100-40gb",
    "dgx-h100",
    "h100-hbm2e",
    "dgx-h200",
    "h20-8",
    "gh200",
    "dgx-b200",
    "dgx-b300",
    "gb200-nvl72",
    "gb300-nvl72",
    "mi300x-8",
    "mi355x-8",
    "l40s-8",
    "rtx-pro-6000-8",
    "dgx-spark",
    "pcie-8",
    "laptops-2",
    "browser-tab"
];

/// A machine that comes along, by name.
#[cfg(feature = "simulate")]
pub fn shipped(name: &str) -> Result<Topology> {
    let known = || SHIPPED.map(|s| s.0).join(", ");
    let found = SHIPPED.iter().find(|s| s.0 == name);
    let (name, text) = found.ok_or_else(|| {
        Error::usage(format!("there is no machine \"{name}\": there are {}, or give a .toml file", known()))
    })?;
    read(&format!("{name}.toml"), text)
}

//! `cluster`: machines as text and as pictures.

use super::style;
use crate::base::{Error, Result};
use crate::topology::{self, Topology};
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};

#[derive(Args)]
pub struct Cluster {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// List the machines that come along
    List,
    /// Draw a machine: its parts, links and what a device sees of the others
    Show(Show),
}

#[derive(Args)]
struct Show {
    /// A name of `cluster list`, or a .toml file
    machine: String,
    /// That many nodes instead of the file's
    #[arg(long, value_name = "N")]
    nodes: Option<usize>,
    /// Write a picture, too
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

impl Cluster {
    pub fn run(&self) -> Result<()> {
        match &self.what {
            What::List => list(),
            What::Show(s) => s.run(),
        }
    }
}

/// More is not a machine file: what is read refuses those that are smaller and still too large.
const MOST_BYTES: u64 = 1 << 20;

/// Opens a machine: a name that comes along or what people call its devices, or else a file. A name that is neither is refused
/// with the nearest.
pub fn open(machine: &str) -> Result<Topology> {
    let path = Path::new(machine);
    if topology::SHIPPED.iter().any(|s| s.0 == machine) || !(machine.ends_with(".toml") || path.exists()) {
        return crate::simulate::known::machine(machine);
    }
    let text = super::read_text(path, "machine file", (MOST_BYTES, "1 MiB"))?;
    topology::read(machine, &text)
}

fn list() -> Result<()> {
    for (name, _) in topology::SHIPPED {
        let t = topology::shipped(name)?;
        if !style::out(&format!(
            "{name:<14} {:>3} device{}  {}\n",
            t.devices(),
            if t.devices() == 1 { " " } else { "s" },
            t.title
        )) {
            break;
        }
    }
    Ok(())
}

impl Show {
    fn run(&self) -> Result<()> {
        let mut t = open(&self.machine)?;
        if let Some(n) = self.nodes {
            t = t.with_nodes(n)?;
        }
        style::out(&t.to_text());
        if let Some(path) = &self.svg {
            std::fs::write(path, t.to_svg()).map_err(|e| Error::file(path, e.to_string()))?;
            style::note(&format!("wrote {}", path.display()));
        }
        Ok(())
    }
}

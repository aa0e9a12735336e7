//! How a model is spread over ranks.

use super::style;
use crate::base::Result;
use crate::session::{DeviceChoice, Layout, algorithm, mesh};
use clap::Args;

/// Over how many ranks a model runs, and how.
#[derive(Args, Clone)]
pub struct Spread {
    /// Axes of a mesh of ranks, such as tp=3 or pp=2,tp=3: dp, pp, tp, cp (or sp), ep
    #[arg(long, value_name = "AXES")]
    mesh: Option<String>,
    /// The adapter of each rank, such as 0,0,1 [default: virtual devices on the chosen adapter]
    #[arg(long, value_name = "WHICH,…", value_delimiter = ',')]
    devices: Vec<DeviceChoice>,
    /// How collectives are done: ring, halving-doubling, tree, direct or hierarchical [default: the cheapest for each]
    #[arg(long, value_name = "NAME")]
    algorithm: Option<String>,
    /// Tensor ranks share the norms between blocks by tokens
    #[arg(long)]
    sequence_parallel: bool,
}

impl Spread {
    pub fn layout(&self) -> Result<Layout> {
        Ok(Layout {
            mesh: mesh(self.mesh.as_deref().unwrap_or(""))?,
            devices: self.devices.clone(),
            algorithm: self.algorithm.as_deref().map(algorithm).transpose()?,
            sequence_parallel: self.sequence_parallel,
            processes: launched(),
        })
    }
}

fn number(names: [&str; 2]) -> Option<usize> {
    names.iter().find_map(|name| std::env::var(name).ok()?.parse().ok())
}

/// Whether an MPI launcher started this process beside others.
fn launched() -> bool {
    number(["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"]).is_some_and(|n| n > 1)
}

/// Of many processes the first does the talking, until it is known who leads.
pub fn hush() {
    style::quiet(launched() && number(["OMPI_COMM_WORLD_RANK", "PMI_RANK"]).is_some_and(|r| r > 0));
}

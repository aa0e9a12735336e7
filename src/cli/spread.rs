//! How a model is spread over ranks.

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

/// Whether an MPI launcher started this process beside others.
fn launched() -> bool {
    let more = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<usize>().ok()).is_some_and(|n| n > 1);
    more("OMPI_COMM_WORLD_SIZE") || more("PMI_SIZE")
}

//! Runs plans on adapters: the only room that knows of wgpu.

pub mod cluster;
mod executed;
mod gpu;
mod memory;
mod pace;
mod params;
mod pipeline;
mod probe;
mod program;
mod read;
mod store;
mod transport;
mod upload;

pub use gpu::{AdapterReport, Counts, Gpu, adapters};

pub use cluster::Cluster;
pub use executed::Executed;
pub use probe::{Probes, probe};
pub use program::{DispatchTime, Program, Recorded};
pub use store::Store;
pub use transport::{Nobody, Post, Transport};

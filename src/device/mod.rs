//! Runs plans on adapters: the only room that knows of wgpu.

mod gpu;
mod pace;
mod pipeline;
mod probe;
mod program;
mod read;
mod store;
mod upload;

pub use gpu::{AdapterReport, Gpu, adapters};
pub use probe::{Probes, probe};
pub use program::{DispatchTime, Program};
pub use store::Store;

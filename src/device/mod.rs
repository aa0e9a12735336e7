//! Runs plans on adapters: the only room that knows of wgpu.

mod gpu;
mod pipeline;

mod program;
mod read;
mod store;

pub use gpu::{AdapterReport, Gpu, adapters};

pub use program::{DispatchTime, Program};
pub use store::Store;

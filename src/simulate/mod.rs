//! What running would take on hardware that is not here: time, memory, energy, by calibrated models of kernels, links and
//! schedules. Nothing in here measures; constants come from assets/devices, machines from [`crate::topology`].

pub mod check;
pub mod chip;
pub mod collective;
pub mod compare;
pub mod config;
pub mod constants;
pub mod counts;
pub mod energy;
pub mod fit;
mod fits;
pub mod gemm;
pub mod inference;
pub mod known;
pub mod layer;
mod layout;
mod memory;
pub mod page;
pub mod pipeline;
pub mod plans;
pub mod report;
mod runs;
pub mod score;
pub mod search;
pub mod serving;
mod shape;
pub mod software;
pub mod table;
mod timeline;
mod training;
pub mod whatif;

pub use chip::Chip;
pub use fits::fit_table;
pub use layout::{Gathers, Layout, Recompute, Schedule, Stack};
pub use memory::Memory;
pub use shape::{Latent, Shape, preset, presets};
pub use timeline::{serving_trace, trace};
pub use training::{Cost, Step, step, step_on};

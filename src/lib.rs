//! Warpweft: a portable GPU tensor engine on wgpu.

pub mod base;
pub mod device;
pub mod graph;
pub mod kernel;
pub mod model;
pub mod op;
pub mod plan;
pub mod reference;

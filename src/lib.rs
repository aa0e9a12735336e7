//! Warpweft: a portable GPU tensor engine on wgpu.

pub mod base;
pub mod graph;
pub mod kernel;
pub mod op;

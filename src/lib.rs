//! Warpweft: a portable GPU tensor engine on wgpu.

pub mod base;
pub mod kernel;

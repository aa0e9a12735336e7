#![doc = include_str!("../README.md")]

pub mod base;
#[cfg(feature = "cli")]
pub mod cli;
pub mod device;
pub mod graph;
pub mod kernel;
pub mod model;
pub mod op;
pub mod plan;
pub mod reference;
pub mod session;
pub mod simulate;
pub mod text;
pub mod topology;
pub mod trace;

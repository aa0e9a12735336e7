//! Machines and how work is laid out on them: devices, links, switches, meshes, and the rounds of collectives.
//! Pure data: what runs a plan and what prices one read the same facts here.

pub mod collective;
mod mesh;

pub use mesh::{AXES, Mesh};

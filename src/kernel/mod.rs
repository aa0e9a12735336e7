//! WGSL templates, filled and reflected.
//!
//! A template in `shaders/` is valid WGSL as it stands. Two things in it may be replaced, and nothing else:
//!
//! - a **hole**: the lines between `//{ name` and `//}`;
//! - a **number**: the value of a module constant `const NAME: u32 = 4u;` (or `i32`, `f32`).
//!
//! A [`Kernel`] is a template with its holes and numbers: hashable, so it is the pipeline cache's key.
//! Bindings, parameter offsets and the workgroup's size are read back from the filled text by naga
//! ([`Kernel::reflect`]), never typed a second time in Rust.

pub mod attention;
pub mod delta;
pub mod flash;
pub mod grid;
pub mod int8;
pub mod matmul;
mod operands;
pub mod reach;
mod reflect;
pub mod row;
mod template;
pub mod tiles;
pub mod turns;
mod variants;
pub mod vector;

pub use reflect::{Access, Binding, Field, Reflection};
pub use template::{Kernel, Template};
pub use variants::{FEW, MOST_ROWS, Problem};

pub static MAP: Template = Template { name: "map", source: include_str!("../../shaders/map.wgsl") };
pub static REDUCE: Template = Template { name: "reduce", source: include_str!("../../shaders/reduce.wgsl") };
/// Fills the form hole of [`REDUCE`] where a workgroup makes an output.
pub static WORKGROUP_REDUCE: &str = include_str!("../../shaders/shared/workgroup_reduce.wgsl");
pub static SCATTER_ADD: Template =
    Template { name: "scatter_add", source: include_str!("../../shaders/scatter_add.wgsl") };
pub static GATHER: Template = Template { name: "gather", source: include_str!("../../shaders/gather.wgsl") };

pub static EXPERT_MATMUL: Template =
    Template { name: "expert_matmul", source: include_str!("../../shaders/expert_matmul.wgsl") };

/// Functions that fused expressions may call: the name, and the text that defines it.
pub static FUNCTIONS: &[(&str, &str)] = &[("erf_series", include_str!("../../shaders/shared/erf.wgsl"))];

pub static PROBE: Template = Template { name: "probe", source: include_str!("../../shaders/probe.wgsl") };

/// Every template there is.
pub static TEMPLATES: &[&Template] = &[
    &PROBE,
    &MAP,
    &REDUCE,
    &GATHER,
    &SCATTER_ADD,
    &EXPERT_MATMUL,
    &delta::DELTA_RULE,
    &row::SOFTMAX,
    &row::LAYER_NORM,
    &row::RMS_NORM,
    &attention::ATTENTION,
    &flash::TILES,
    &flash::MERGE,
    &matmul::ROWS,
    &vector::VECTOR,
    &vector::SUBGROUP,
    &vector::INT8,
    &vector::SUBGROUP_INT8,
    &int8::QUANTISE,
    &int8::TILES,
    &tiles::TILES,
    &tiles::HALF_TILES,
    &tiles::SUM,
];

#[cfg(test)]
mod tests {
    #[test]
    fn every_template_is_valid_as_it_stands() {
        for t in super::TEMPLATES {
            super::Kernel::new(t).reflect().unwrap_or_else(|e| panic!("{e}"));
        }
    }
}

//! Softmax and the norms: one row an invocation, or one row a workgroup.

use super::{Kernel, Template};

pub static SOFTMAX: Template = Template { name: "softmax", source: include_str!("../../shaders/softmax.wgsl") };
pub static LAYER_NORM: Template =
    Template { name: "layer_norm", source: include_str!("../../shaders/layer_norm.wgsl") };
pub static RMS_NORM: Template = Template { name: "rms_norm", source: include_str!("../../shaders/rms_norm.wgsl") };

/// Invocations of a workgroup.
pub const GROUP: u32 = 64;

/// The form hole of kernels that give a row, or a query, to a workgroup.
pub static WORKGROUP_ROW: &str = include_str!("../../shaders/shared/workgroup_row.wgsl");

/// The kernel, and the rows that one workgroup makes.
pub fn kernel(template: &'static Template, serial: bool) -> (Kernel, u32) {
    let kernel = Kernel::new(template).set("WG", GROUP);
    if serial { (kernel, GROUP) } else { (kernel.hole("form", WORKGROUP_ROW), 1) }
}

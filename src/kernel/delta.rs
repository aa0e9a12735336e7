//! The gated delta rule: a head's matrix stays in registers while a workgroup goes through a sequence's rows.

use super::{Kernel, Template};

pub static DELTA_RULE: Template =
    Template { name: "delta_rule", source: include_str!("../../shaders/delta_rule.wgsl") };

/// Columns of a workgroup, and lanes of each.
pub const COLUMNS: u32 = 16;
const PARTS: u32 = 4;
/// The widest keys: more vectors than these would not stay in registers.
pub const MAX_WIDTH: u32 = 256;

/// The kernel for keys of this width.
pub fn kernel(width: u32) -> Kernel {
    let vectors = width.div_ceil(4 * PARTS).max(1);
    let each = |line: &dyn Fn(u32) -> String| (0..vectors).map(line).collect::<String>();
    Kernel::new(&DELTA_RULE)
        .set("VECTORS", vectors)
        .hole("load", each(&|i| format!("    var s{i} = load_state(begin, (part0 + {i}u) * 4u, held);\n")))
        .hole("forget", format!("            if (decay == 0.0) {{\n{}            }}\n", each(&|i| format!("                s{i} = vec4<f32>(0.0);\n"))))
        .hole(
            "sum",
            each(&|i| {
                format!("            let q{i} = queries[mine0 + {i}u];\n            let k{i} = keys[mine0 + {i}u];\n            sum += vec4<f32>(dot(k{i}, s{i}), dot(q{i}, s{i}), dot(q{i}, k{i}), 0.0);\n")
            }),
        )
        .hole("change", each(&|i| format!("                s{i} = decay * s{i} + keys[mine0 + {i}u] * change;\n")))
        .hole("store", each(&|i| format!("        store_state(to, (part0 + {i}u) * 4u, s{i});\n")))
}

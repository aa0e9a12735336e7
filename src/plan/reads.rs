//! Which layouts of their operands kernels read.

use crate::base::{DType, Layout};
use crate::graph::{Graph, Source};
use crate::op::{Attrs, Value};

/// Whether the kernel of `v` can read operand `index` under `layout`, and should.
pub fn reads(graph: &Graph, v: Value, index: usize, layout: &Layout, serial: bool) -> bool {
    let node = graph.node(v);
    let arg = graph.node(node.args()[index]);
    let rank = arg.ty.shape.rank();
    match node.kind() {
        // Any strides. Without barriers, rows of the left operand that lie apart cost more than laying them together.
        "matmul" if serial && index == 0 && arg.is_view() && arg.ty.dtype == DType::F32 => {
            let rows = layout.strides[rank - 1].is(1)
                && !matches!(&node.source, Source::Op { attrs: Attrs::Matmul { ta: true, .. }, .. });
            rows || arg.ty.shape[rank - 1].is(1) || arg.ty.shape[rank - 2].is(1)
        }
        "matmul" => true,
        // The weight as gather's table, x by any strides, first rows as plain words.
        "expert_matmul" if index == 0 => arg.ty.dtype == DType::F32,
        "expert_matmul" => layout.is_contiguous(&arg.ty.shape),
        "attention" if index == 3 => match &node.source {
            Source::Op { attrs: Attrs::Attention(a), .. } if a.sinks => {
                layout.is_contiguous(&arg.ty.shape) && arg.ty.dtype == DType::F32
            }
            _ => true,
        },
        "delta_rule" if index < 3 => layout.strides[rank - 1].is(1),
        "paged_attention" if index < 3 => arg.ty.dtype == DType::F32 && layout.strides[rank - 1].is(1),
        "attention" => arg.ty.dtype == DType::F32 && (layout.strides[rank - 1].is(1) || arg.ty.shape[rank - 1].is(1)),
        // The row kernels and gather's ids read plain rows of f32 or words.
        _ => layout.is_contiguous(&arg.ty.shape) && (!arg.ty.dtype.is_narrow() || node.kind() == "gather"),
    }
}

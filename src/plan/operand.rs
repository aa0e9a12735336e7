//! What all kernels of their own share: operands in memory, bindings, and the dispatch that is sent off.

use super::code::{Bound, Space};
use super::fuse::resolve;
use super::lowering::Lower;
use super::{BufferId, Ceil, Dispatch, Param, Role};
use crate::base::{DType, Error, Expr, Layout, Result, Shape};
use crate::format::Planes;
use crate::kernel::Kernel;
use crate::kernel::matmul::{Form, Right};
use crate::op::Value;

/// A stored operand: its value, buffer and layout.
pub struct Operand {
    pub base: Value,
    pub buffer: BufferId,
    pub layout: Layout,
    pub shape: Shape,
    pub dtype: DType,
}

pub fn operand(l: &Lower, v: Value) -> Result<Operand> {
    let node = l.graph.node(v);
    let found = resolve(l.graph, v, &l.fusion.stored).filter(|(base, _)| l.fusion.stored[base.0 as usize]);
    let (base, layout) =
        found.ok_or_else(|| Error::op(node.kind(), &node.name, "is not in memory where a kernel needs it"))?;
    Ok(Operand { base, buffer: l.buffers(base)[0], layout, shape: node.ty.shape.clone(), dtype: node.ty.dtype })
}

pub(super) fn bound(name: &str, buffer: BufferId, element: &'static str, write: bool) -> Bound {
    Bound { name: name.into(), buffer, element, write, range: None, space: Space::Storage }
}

pub(super) fn u(name: &str, e: impl Into<Expr>) -> (String, Param) {
    (name.into(), Param::U(e.into()))
}

/// Sends a dispatch off: everything that all ops share.
pub(super) struct Launch {
    pub kernel: Kernel,
    pub bound: Vec<Bound>,
    pub params: Vec<(String, Param)>,
    pub grid: [Ceil; 3],
    pub bytes: Expr,
}

pub(super) fn launch(l: &mut Lower, anchor: Value, root: Value, launch: Launch) {
    let args = launch.bound.iter().map(|b| l.arg(b)).collect();
    let (ops, flops) = if anchor == root { l.expression(root) } else { l.epilogue_expression(anchor, root) };
    let label = l.graph.node(anchor).name.clone();
    let dispatch =
        Dispatch { label, ops, kernel: 0, args, params: launch.params, grid: launch.grid, flops, bytes: launch.bytes };
    l.push(launch.kernel, dispatch);
}

pub(super) fn ceil(n: impl Into<Expr>, by: u32) -> Ceil {
    Ceil { n: n.into(), by }
}

/// Bytes of an operand as read: quantised ones by their blocks.
pub(super) fn read_bytes(o: &Operand) -> Expr {
    match o.dtype {
        d if d.is_quantised() => {
            Expr::new((o.shape.count().bound() / d.block() as u64 * d.block_bytes() as u64) as i64)
        }
        d => o.shape.count() * d.block_bytes() as i64,
    }
}

/// The bindings of a table or right operand with rows of `row` elements in one buffer.
pub(super) fn right_bounds(l: &Lower, right: Right, buffer: BufferId, row: u64, form: Form) -> Vec<Bound> {
    right_bounds_as(l, right, buffer, row, right.elements(form))
}

/// The same, with elements of these types.
pub(super) fn right_bounds_as(
    l: &Lower,
    right: Right,
    buffer: BufferId,
    row: u64,
    (element, beside): (&'static str, Option<&'static str>),
) -> Vec<Bound> {
    let mut b = bound("b", buffer, element, false);
    if right.texels {
        return vec![Bound { space: Space::Texels, ..b }];
    }
    let Some(planes) = planes(l, right.dtype, buffer, row) else { return vec![b] };
    b.range = Some((0, planes.bytes[0].max(16)));
    let Some(words) = beside else { return vec![b] };
    let s = Bound { range: planes.beside(), ..bound("s", buffer, words, false) };
    vec![b, s]
}

/// The words with which the planes beside the first begin: in a texture, or in the binding that holds them.
pub(super) fn beside_at(l: &Lower, dtype: DType, buffer: BufferId, row: u64) -> [i64; 2] {
    let Some(planes) = planes(l, dtype, buffer, row) else { return [0; 2] };
    let start = if l.plan.buffer(buffer).texels { 0 } else { planes.offsets[1] };
    [1, 2].map(|i| (planes.offsets[i].saturating_sub(start) / 4) as i64)
}

fn planes(l: &Lower, dtype: DType, buffer: BufferId, row: u64) -> Option<Planes> {
    match &l.plan.buffer(buffer).role {
        Role::Weight { rows, .. } if dtype.is_quantised() => {
            Some(Planes::new(dtype, rows.len() as u64 * (row / dtype.block() as u64)))
        }
        _ => None,
    }
}

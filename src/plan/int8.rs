//! Products of integers: the dispatch that rounds the left operand to bytes, and those that multiply.

use super::code::Coord;
use super::heavy::{Launch, bound, ceil, launch, read_bytes, right_bounds_as, u};
use super::lower::{Lower, interface};
use super::product::{FIELDS, Piece, Product, is_long, params, vector_spec};
use super::{Buffer, BufferId, Role};
use crate::base::Expr;
use crate::format::RUN;
use crate::kernel::int8::{self, QUANTISE, Spec};
use crate::kernel::matmul::{Form, Variant};
use crate::kernel::{Kernel, grid};
use crate::op::Value;

/// Blocks of a row.
fn runs(p: &Product) -> i64 {
    p.k().bound() / RUN as i64
}

/// Rows of k elements as bytes, by blocks of 32: 16 bytes in three vectors each.
fn left_bytes(p: &Product) -> Expr {
    Expr::from(p.m()) * runs(p) * (16 * int8::VECTORS as i64)
}

/// Rounds the left operand to bytes, in a buffer of its own.
pub fn quantise(l: &mut Lower, p: &Product) -> BufferId {
    let k = p.k().bound();
    let bytes = int8::left_bytes(p.m().bound().max(0) as u64, k.max(0) as u64).max(16);
    let label = format!("{} bytes", l.graph.node(p.node).name);
    l.plan.buffers.push(Buffer { role: Role::Scratch, bytes, texels: false, label });
    let buffer = BufferId(l.plan.buffers.len() as u32 - 1);
    let bounds = vec![bound("a", p.a.buffer, "vec4<f32>", false), bound("y", buffer, "vec4<u32>", true)];
    let kernel = Kernel::new(&QUANTISE).hole("interface", interface(&bounds, &[], &["m", "k", "a0", "a_row"]));
    let params = vec![
        u("m", p.m()),
        u("k", p.k()),
        u("a0", p.a.layout.offset.clone()),
        u("a_row", p.a.layout.strides[p.am].clone()),
        u("blocks", runs(p)),
    ];
    let grid = [ceil(Expr::from(p.m()) * runs(p), int8::GROUP), ceil(1, 1), ceil(1, 1)];
    let bytes = read_bytes(&p.a) + left_bytes(p);
    launch(l, p.node, p.node, Launch { kernel, bound: bounds, params, grid, bytes });
    // The product's own dispatch has all of the work.
    l.share(|_| Expr::new(0));
    if let Some(last) = l.plan.dispatches.last_mut() {
        last.ops = vec!["quantise"];
    }
    buffer
}

/// The dispatch of a piece of the weight, with the rounded rows in `left`.
pub fn emit(l: &mut Lower, (anchor, root): (Value, Value), p: &Product, v: Variant, piece: &Piece, left: BufferId) {
    let mut code = l.code();
    code.bound.push(bound("a", left, "vec4<u32>", false));
    let elements = p.right.elements(Form::Tiled);
    code.bound.extend(right_bounds_as(l, p.right, piece.buffer, p.k().bound() as u64, elements));
    code.bound.push(bound("y", l.buffers(root)[0], "f32", true));
    let epilogue = match anchor == root {
        true => "fn epilogue(acc: f32, o: u32) -> f32 { return acc; }\n".to_string(),
        false => code.epilogue("epilogue", "acc: f32, o: u32", root, anchor, &Coord::Flat("o".into())),
    };
    let body = code.helpers.clone() + &epilogue;
    let (mut kernel, grid) = match v.form {
        Form::Tiled => {
            let kernel = Spec { tile: v.tile(), right: p.right }.kernel(&body);
            (kernel, [ceil(piece.n.clone(), v.bn), ceil(p.m(), v.bm), ceil(1, 1)])
        }
        _ => {
            let spec = vector_spec(l, p, v);
            (spec.kernel(&body), [ceil(piece.n.clone(), spec.group()), ceil(1, 1), ceil(1, 1)])
        }
    };
    kernel = kernel.hole("interface", interface(&code.bound, &code.params, FIELDS));
    if v.form == Form::Tiled && is_long(l, &grid) {
        kernel = kernel.hole("grid", grid::unfold((v.bn, v.bm)));
    }
    let mut numbers = params(p, piece, p.m().into(), 0);
    numbers.push(u("blocks", runs(p)));
    numbers.extend(code.params.iter().cloned());
    let written = Expr::product(&p.out[..p.out.rank() - 1]) * piece.n.clone() * 4;
    let bytes = left_bytes(p) + piece.weights(l, p) + code.read_bytes() + written;
    launch(l, anchor, root, Launch { kernel, bound: code.bound, params: numbers, grid, bytes });
    piece.share(l, p);
}

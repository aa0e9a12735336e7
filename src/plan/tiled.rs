//! Products by tiles in workgroup memory: how their operands may be loaded, and their dispatches.

use super::code::{Bound, Coord};
use super::heavy::{Launch, bound, ceil, launch, read_bytes, right_bounds_as, u};
use super::lower::{Lower, interface};
use super::product::{FIELDS, Piece, Product, batch, is_long, params};
use super::{Buffer, BufferId, Role};
use crate::base::{Expr, Precision};
use crate::kernel::matmul::Variant;
use crate::kernel::tiles::{Lay, STEPS, SUM, Spec};
use crate::kernel::{Kernel, grid};
use crate::op::Value;

/// Invocations of a workgroup that adds up parts.
const GROUP: u32 = 64;

/// The dispatch of a piece, or two where k is cut into `parts`: their results lie in a buffer of their own, and are summed.
pub fn emit(l: &mut Lower, (anchor, root): (Value, Value), p: &Product, (v, parts): (Variant, u64), piece: &Piece) {
    let part = p.k().known().unwrap_or(0).unsigned_abs().div_ceil(parts.max(1)).next_multiple_of(STEPS as u64);
    let parts = if parts > 1 { p.k().known().unwrap_or(0).unsigned_abs().div_ceil(part.max(1)) } else { 1 };
    let spec = spec(p, v, piece, parts > 1);
    let result = match parts {
        0 | 1 => l.buffers(root)[0],
        _ => partial_sums(l, p, parts),
    };
    let mut code = l.code();
    code.bound.push(bound("a", p.a.buffer, spec.left_element(), false));
    code.bound.extend(right_bounds_as(l, p.right, piece.buffer, p.k().bound() as u64, spec.right_elements()));
    code.bound.push(bound("y", result, spec.result_element(), true));
    let epilogue = match anchor == root || parts > 1 {
        true => "fn epilogue(acc: f32, o: u32) -> f32 { return acc; }\n".to_string(),
        false => code.epilogue("epilogue", "acc: f32, o: u32", root, anchor, &Coord::Flat("o".into())),
    };
    let mut body = code.helpers.clone() + &epilogue;
    body += &batch(&mut code, "batch_a", &p.a, &p.lead);
    body += &batch(&mut code, "batch_b", &p.b, &p.lead);
    let fields = [FIELDS, &["batches", "part"]].concat();
    let batches = p.lead.count() * parts.max(1) as i64;
    let grid = [ceil(piece.n.clone(), v.bn), ceil(p.m(), v.bm), ceil(batches.clone(), 1)];
    let mut kernel = spec.kernel(&body).hole("interface", interface(&code.bound, &code.params, &fields));
    if is_long(l, &grid) {
        kernel = kernel.hole("grid", grid::unfold((v.bn, v.bm)));
    }
    let mut numbers = params(p, piece, p.m().into(), 0);
    numbers.retain(|(name, _)| name != "batch");
    numbers.push(u("batch", batches));
    numbers.extend([u("batches", p.lead.count()), u("part", part as i64)]);
    numbers.extend(code.params.iter().cloned());
    let written = Expr::product(&p.out[..p.out.rank() - 1]) * piece.n.clone() * 4;
    let bytes = read_bytes(&p.a) + piece.weights(l, p) + code.read_bytes() + written.clone() * parts.max(1) as i64;
    launch(l, anchor, root, Launch { kernel, bound: code.bound, params: numbers, grid, bytes });
    piece.share(l, p);
    if parts > 1 {
        sum(l, (anchor, root), result, p, parts);
    }
}

/// How an operand may be loaded: `edge` is its axis that is not k.
fn lay(p: &Product, left: bool) -> Lay {
    let (o, edge, k) = if left { (&p.a, p.am, p.ak) } else { (&p.b, p.bn, p.bk) };
    if o.dtype.is_quantised() {
        return Lay::Along;
    }
    let whole = |e: &Expr| e.divisible_by(4);
    let even = whole(&o.layout.offset) && o.layout.strides[..o.shape.rank() - 2].iter().all(whole);
    let vectors = |inner: usize, outer: usize| {
        even && o.layout.strides[inner].is(1)
            && whole(&Expr::from(o.shape[inner]))
            && (o.shape[outer].is(1) || whole(&o.layout.strides[outer]))
    };
    match (vectors(k, edge), vectors(edge, k)) {
        (true, _) => Lay::Along,
        (_, true) => Lay::Across,
        _ => Lay::Loose,
    }
}

fn spec(p: &Product, v: Variant, piece: &Piece, split: bool) -> Spec {
    let n = Expr::from(p.n());
    Spec {
        tile: v.tile(),
        left: lay(p, true),
        left_dtype: p.a.dtype,
        right: p.right,
        lay: lay(p, false),
        whole: Expr::from(p.k()).divisible_by(STEPS as i64),
        wide: n.divisible_by(4) && piece.first % 4 == 0 && piece.n.divisible_by(4),
        split,
        half: v.precision == Precision::F16,
    }
}

/// A buffer for the results of all parts.
fn partial_sums(l: &mut Lower, p: &Product, parts: u64) -> BufferId {
    let bytes = p.out.count().bound() * 4 * parts;
    let label = format!("{} parts", l.graph.node(p.node).name);
    l.plan.buffers.push(Buffer { role: Role::Scratch, bytes, texels: false, label });
    BufferId(l.plan.buffers.len() as u32 - 1)
}

/// Adds the parts up, with the epilogue.
fn sum(l: &mut Lower, (anchor, root): (Value, Value), from: BufferId, p: &Product, parts: u64) {
    let mut code = l.code();
    let bounds: [Bound; 2] = [bound("x", from, "f32", false), bound("y", l.buffers(root)[0], "f32", true)];
    code.bound.extend(bounds);
    let epilogue = match anchor == root {
        true => "fn epilogue(acc: f32, o: u32) -> f32 { return acc; }\n".to_string(),
        false => code.epilogue("epilogue", "acc: f32, o: u32", root, anchor, &Coord::Flat("o".into())),
    };
    let body = code.helpers.clone() + &epilogue;
    let kernel = Kernel::new(&SUM)
        .hole("interface", interface(&code.bound, &code.params, &["count", "parts", "y0"]))
        .hole("body", body);
    let count = p.out.count();
    let mut params = vec![u("count", count.clone()), u("parts", parts as i64), u("y0", 0)];
    params.extend(code.params.iter().cloned());
    let bytes = count.clone() * 4 * (parts as i64 + 1) + code.read_bytes();
    let grid = [ceil(count, GROUP), ceil(1, 1), ceil(1, 1)];
    launch(l, anchor, root, Launch { kernel, bound: code.bound, params, grid, bytes });
    // The product's dispatch has all of the work.
    l.share(|_| Expr::new(0));
}

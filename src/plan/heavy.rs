//! Ops with kernels of their own: which layouts they read, and their dispatches.

use super::code::{Bound, Coord, Space, scalar_type};
use super::fuse::resolve;
use super::lower::{Lower, interface};
use super::{BufferId, Ceil, Dispatch, Param, attend};
use crate::base::{AdapterKind, DType, DeviceFault, Error, Expr, Layout, Result, Shape};
use crate::format::Planes;
use crate::graph::{Graph, Source};
use crate::kernel::matmul::{Form, Right};
use crate::kernel::{Kernel, Template, attention, matmul, row, turns};
use crate::op::{Attrs, Body, Fused, Primitive, Reduce, Value};

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

/// The dispatch of `anchor` with everything up to `root` as its epilogue.
pub fn emit(l: &mut Lower, anchor: Value, root: Value) -> Result<()> {
    let graph = l.graph;
    let Source::Op { def, attrs, args } = &graph.node(anchor).source else {
        return Err(Error::op("plan", &graph.node(anchor).name, "is not an op"));
    };
    match &def.body {
        Body::Primitive(Primitive::Matmul) => super::product::emit(l, anchor, root, attrs, args),
        Body::Primitive(Primitive::Reduce(kind)) => emit_reduce(l, anchor, root, *kind, attrs, args),
        Body::Primitive(Primitive::Gather) => emit_gather(l, root, args),
        Body::Primitive(Primitive::DeltaRule) => super::delta::emit(l, root, args),
        Body::Primitive(Primitive::ScatterAdd) => emit_scatter_add(l, root, args),
        Body::Composite { fused: Fused::ExpertMatmul, .. } => emit_expert_matmul(l, root, attrs, args),
        Body::Composite { fused: Fused::Attention, .. } => emit_attention(l, root, attrs, args),
        Body::Composite { fused: Fused::PagedAttention, .. } => attend::emit_pages(l, root, attrs, args),
        Body::Composite { fused, .. } => emit_rows(l, root, *fused, attrs, args),
        _ => Err(Error::op(def.name, &graph.node(anchor).name, "has no kernel")),
    }
}

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

// ---- rows -------------------------------------------------------------------------------------------------------

fn emit_rows(l: &mut Lower, v: Value, fused: Fused, attrs: &Attrs, args: &[Value]) -> Result<()> {
    let template: &'static Template = match fused {
        Fused::LayerNorm => &row::LAYER_NORM,
        Fused::RmsNorm => &row::RMS_NORM,
        _ => &row::SOFTMAX,
    };
    let operands = args.iter().map(|a| operand(l, *a)).collect::<Result<Vec<_>>>()?;
    let shape = &operands[0].shape;
    let cols = Expr::from(shape[shape.rank() - 1]);
    let rows = Expr::product(&shape[..shape.rank() - 1]);
    let serial = l.options.tuning.serial && cols.bound() <= turns::LONG / 3;
    let whole = cols.divisible_by(4) && operands.iter().all(|o| o.layout.offset.divisible_by(4));
    let log = fused == Fused::LogSoftmax;
    let wide = (!serial && whole).then(|| row::wide(template, cols.bound(), log, l.caps.subgroup >= 4)).flatten();
    let element = if wide.is_some() { "vec4<f32>" } else { "f32" };
    let (mut kernel, per_group) = match wide {
        Some(kernel) => (kernel, 1),
        None => row::kernel(template, serial),
    };
    if log && element == "f32" {
        kernel = kernel.set("LOG", 1);
    }
    let names = ["x", "w", "b"];
    let mut bounds: Vec<Bound> = operands.iter().zip(names).map(|(o, n)| bound(n, o.buffer, element, false)).collect();
    bounds.push(bound("y", l.buffers(v)[0], element, true));
    let mut params = vec![u("rows", rows.clone()), u("cols", cols), u("y0", 0)];
    params.extend(operands.iter().zip(["x0", "w0", "b0"]).map(|(o, n)| u(n, o.layout.offset.clone())));
    if let Attrs::Norm { eps } = attrs {
        params.push(("eps".into(), Param::F(*eps)));
    }
    let bytes = operands.iter().fold(shape.count() * 4, |sum, o| sum + read_bytes(o));
    launch(
        l,
        v,
        v,
        Launch { kernel, bound: bounds, params, grid: [ceil(rows, per_group), ceil(1, 1), ceil(1, 1)], bytes },
    );
    Ok(())
}

// ---- reductions -------------------------------------------------------------------------------------------------

fn emit_reduce(l: &mut Lower, anchor: Value, root: Value, kind: Reduce, attrs: &Attrs, args: &[Value]) -> Result<()> {
    let Attrs::Reduce { axes, .. } = attrs else {
        return Err(Error::op("reduce", &l.graph.node(anchor).name, "lacks its axes"));
    };
    let shape = l.graph.node(args[0]).ty.shape.clone();
    let kept: Vec<usize> = (0..shape.rank()).filter(|i| !axes.contains(i)).collect();
    let mut reduced = axes.clone();
    reduced.sort_unstable();
    let pick = |which: &[usize]| Shape(which.iter().map(|&i| shape[i]).collect());
    let (outer, inner) = (pick(&kept), pick(&reduced));
    let mut code = l.code();
    let load = code.reduce_load("load", args[0], &shape, (&kept, &outer), (&reduced, &inner));
    let finish = if anchor == root {
        "fn finish(acc: f32, o: u32) -> f32 { return acc; }\n".to_string()
    } else {
        code.epilogue("finish", "acc: f32, o: u32", root, anchor, &Coord::Flat("o".into()))
    };
    let dtype = l.graph.node(root).ty.dtype;
    let reads = code.read_bytes();
    code.bound.push(bound("r0", l.buffers(root)[0], scalar_type(dtype), true));
    let text =
        interface(&code.bound, &code.params, &["n", "len", "y0"]) + &format!("alias R = {};\n", scalar_type(dtype));
    let number = match kind {
        Reduce::Sum => 0,
        Reduce::Mean => 1,
        Reduce::Max => 2,
        Reduce::Min => 3,
        Reduce::Argmax => 4,
    };
    // Lanes along what is reduced, where that is long beside the number of outputs or where it lies side by side.
    let (many, len) = (outer.count().bound(), inner.count().bound());
    let inward = reduced.last().is_some_and(|axis| axis + 1 == shape.rank());
    let together = match l.options.tuning.serial {
        true => len > turns::LONG,
        false => len >= 256 && many < 4096 || inward && len >= 32,
    };
    let mut kernel = Kernel::new(&crate::kernel::REDUCE);
    if together {
        kernel = kernel.hole("form", crate::kernel::WORKGROUP_REDUCE);
    }
    let kernel =
        kernel.set("KIND", number).hole("interface", text).hole("body", code.helpers.clone() + &load + &finish);
    let n = outer.count();
    let mut params = vec![u("n", n.clone()), u("len", inner.count()), u("y0", 0)];
    params.extend(code.params.iter().cloned());
    let bytes = reads + n.clone() * 4;
    launch(
        l,
        anchor,
        root,
        Launch {
            kernel,
            bound: code.bound,
            params,
            grid: [ceil(n, if together { 1 } else { 64 }), ceil(1, 1), ceil(1, 1)],
            bytes,
        },
    );
    Ok(())
}

// ---- gather -----------------------------------------------------------------------------------------------------

fn emit_gather(l: &mut Lower, v: Value, args: &[Value]) -> Result<()> {
    let (table, ids) = (operand(l, args[0])?, operand(l, args[1])?);
    if table.dtype.is_quantised() && table.shape.rank() != 2 {
        let what = format!("\"{}\" reads a table {} of {}", l.graph.node(v).name, table.shape, table.dtype);
        return Err(Error::device(DeviceFault::Limit, "gather", format!("{what}: adapters take [rows, width]")));
    }
    let width = Expr::product(&table.shape[1..]);
    let n = ids.shape.count();
    let pieces = l.buffers(table.base);
    let mut row0 = 0u64;
    let all = Expr::from(table.shape[0]);
    let split = pieces.len() > 1;
    for buffer in pieces {
        let rows = match &l.plan.buffer(buffer).role {
            // A table in several pieces is the whole weight; one in a single piece may be a view of it.
            super::Role::Weight { rows, .. } if split => Expr::new(rows.len() as i64),
            _ => all.clone(),
        };
        let element = scalar_type(table.dtype);
        let mut bounds = vec![bound("ids", ids.buffer, "u32", false), bound("y", l.buffers(v)[0], element, true)];
        let right = Right { dtype: table.dtype, rows: true, texels: l.plan.buffer(buffer).texels };
        let load = if table.dtype.is_float() {
            bounds.extend(right_bounds(l, right, buffer, width.bound(), Form::Tiled));
            right.access(Form::Tiled) + &matmul::load_b(right)
        } else {
            bounds.push(bound("b", buffer, element, false));
            format!("fn load_b(zb: u32, i: u32, row: u32) -> {element} {{ return b[zb + row * p.b_row + i]; }}\n")
        };
        let beside = beside_at(l, right.dtype, buffer, width.bound());
        let text = interface(
            &bounds,
            &[],
            &["n", "width", "ids0", "y0", "row0", "rows", "all", "b0", "k", "b_row", "b_col", "s0", "s1"],
        ) + &load
            + &format!("alias R = {element};\nfn element(row: u32, i: u32) -> R {{ return load_b(p.b0, i, row); }}\n");
        let kernel = Kernel::new(&crate::kernel::GATHER).hole("table", text);
        let params = vec![
            u("n", n.clone()),
            u("width", width.clone()),
            u("ids0", ids.layout.offset.clone()),
            u("y0", 0),
            u("row0", row0 as i64),
            u("rows", rows.clone()),
            u("all", all.clone()),
            u("b0", table.layout.offset.clone()),
            u("k", width.clone()),
            u("b_row", width.clone()),
            u("b_col", 1),
            u("s0", beside[0]),
            u("s1", beside[1]),
        ];
        let count = n.clone() * width.clone();
        let bytes = count.clone() * 8 + n.clone() * 4;
        launch(
            l,
            v,
            v,
            Launch { kernel, bound: bounds, params, grid: [ceil(count, 64), ceil(1, 1), ceil(1, 1)], bytes },
        );
        row0 += rows.bound();
    }
    Ok(())
}

fn emit_expert_matmul(l: &mut Lower, v: Value, attrs: &Attrs, args: &[Value]) -> Result<()> {
    let Attrs::Rows(out) = *attrs else {
        return Err(Error::op("expert_matmul", &l.graph.node(v).name, "lacks its rows"));
    };
    let (x, w, first) = (operand(l, args[0])?, operand(l, args[1])?, operand(l, args[2])?);
    let (k, all) = (Expr::from(w.shape[1]), Expr::from(w.shape[0]));
    let n = first.shape.count();
    // One row of x may stand for all slots of a token.
    let slot = if x.shape[1].is(1) { Expr::new(0) } else { x.layout.strides[1].clone() };
    let mut row0 = 0u64;
    for buffer in l.buffers(w.base) {
        let rows = match &l.plan.buffer(buffer).role {
            super::Role::Weight { rows, .. } => Expr::new(rows.len() as i64),
            _ => all.clone(),
        };
        let mut bounds = vec![
            bound("first", first.buffer, "u32", false),
            bound("x", x.buffer, "f32", false),
            bound("y", l.buffers(v)[0], "f32", true),
        ];
        let right = Right { dtype: w.dtype, rows: true, texels: l.plan.buffer(buffer).texels };
        bounds.extend(right_bounds(l, right, buffer, k.bound(), Form::Tiled));
        let names = [
            "n", "slots", "outs", "k", "first0", "x0", "x_row", "x_slot", "x_col", "y0", "row0", "rows", "all", "b0",
            "b_row", "b_col", "s0", "s1",
        ];
        let text = interface(&bounds, &[], &names)
            + &right.access(Form::Tiled)
            + &matmul::load_b(right)
            + "fn element(row: u32, i: u32) -> f32 { return load_b(p.b0, i, row); }\n";
        let beside = beside_at(l, right.dtype, buffer, k.bound());
        let kernel = Kernel::new(&crate::kernel::EXPERT_MATMUL).hole("table", text);
        let params = vec![
            u("n", n.clone()),
            u("slots", first.shape[1]),
            u("outs", out),
            u("k", k.clone()),
            u("first0", first.layout.offset.clone()),
            u("x0", x.layout.offset.clone()),
            u("x_row", x.layout.strides[0].clone()),
            u("x_slot", slot.clone()),
            u("x_col", x.layout.strides[2].clone()),
            u("y0", 0),
            u("row0", row0 as i64),
            u("rows", rows.clone()),
            u("all", all.clone()),
            u("b0", w.layout.offset.clone()),
            u("b_row", k.clone()),
            u("b_col", 1),
            u("s0", beside[0]),
            u("s1", beside[1]),
        ];
        let count = n.clone() * Expr::from(out);
        let row_bytes = w.dtype.bytes(k.bound()).unwrap_or(0) as i64;
        let bytes = count.clone() * row_bytes + count.clone() * 4;
        let grid = [ceil(count, 64), ceil(1, 1), ceil(1, 1)];
        launch(l, v, v, Launch { kernel, bound: bounds, params, grid, bytes });
        row0 += rows.bound();
    }
    Ok(())
}

fn emit_scatter_add(l: &mut Lower, v: Value, args: &[Value]) -> Result<()> {
    let (x, ids) = (operand(l, args[0])?, operand(l, args[1])?);
    let shape = l.graph.node(v).ty.shape.clone();
    let (n, width) = (ids.shape.count(), Expr::product(&shape[1..]));
    let bounds = vec![
        bound("ids", ids.buffer, "u32", false),
        bound("x", x.buffer, "f32", false),
        bound("y", l.buffers(v)[0], "f32", true),
    ];
    let params = vec![
        u("rows", shape[0]),
        u("width", width),
        u("ids0", ids.layout.offset.clone()),
        u("x0", x.layout.offset.clone()),
    ];
    let bytes = (x.shape.count() + n.clone() + shape.count()) * 4;
    let grid = [ceil(shape.count(), 64), ceil(1, 1), ceil(1, 1)];
    // Ids go in parts where one walk would be too long; of an unknown number, parts are those that its bound asks for.
    let whole = if l.caps.kind == AdapterKind::Software { n.bound().clamp(1, turns::LONG) } else { n.bound().max(1) };
    let known = n.known();
    if known.is_none() && n.bound() > whole {
        let what = format!(
            "\"{}\" scatters up to {} rows: this adapter takes {whole} where their number is not fixed",
            l.graph.node(v).name,
            n.bound()
        );
        return Err(Error::device(DeviceFault::Limit, "scatter_add", what));
    }
    for first in (0..n.bound().max(1)).step_by(whole as usize) {
        let mut params = params.clone();
        let part = known.map_or(n.clone(), |all| Expr::new((all - first as i64).clamp(0, whole as i64)));
        params.extend([u("first", first as i64), u("n", part)]);
        let kernel = Kernel::new(&crate::kernel::SCATTER_ADD);
        let (bound, grid) = (bounds.clone(), grid.clone());
        let of = n.bound().max(1) as i64;
        let share = first as i64..(first + whole).min(of as u64) as i64;
        launch(l, v, v, Launch { kernel, bound, params, grid, bytes: bytes.portion(share.clone(), of) });
        l.share(|flops| flops.portion(share.clone(), of));
    }
    Ok(())
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
        super::Role::Weight { rows, .. } if dtype.is_quantised() => {
            Some(Planes::new(dtype, rows.len() as u64 * (row / dtype.block() as u64)))
        }
        _ => None,
    }
}

// ---- attention --------------------------------------------------------------------------------------------------

fn emit_attention(l: &mut Lower, v: Value, attrs: &Attrs, args: &[Value]) -> Result<()> {
    let name = l.graph.node(v).name.clone();
    let Attrs::Attention(how) = attrs else { return Err(Error::op("attention", &name, "lacks its attributes")) };
    let o = args.iter().map(|a| operand(l, *a)).collect::<Result<Vec<_>>>()?;
    let (q, k) = (&o[0].shape, &o[1].shape);
    let width = attend::head_width("attention", &name, q[3])?;
    let spec = attention::Spec {
        width,
        causal: how.causal.is_some(),
        window: how.window.is_some(),
        mask: o.get(3).filter(|_| !how.sinks).map(|m| m.dtype == DType::Bool),
        softcap: how.softcap.is_some(),
        sinks: how.sinks,
        pages: false,
        serial: l.options.tuning.serial && k[1].bound() as u64 <= attention::serial_keys(width),
    };
    let mut bounds: Vec<Bound> = o.iter().zip(["q", "k", "v"]).map(|(x, n)| bound(n, x.buffer, "f32", false)).collect();
    bounds.push(bound("y", l.buffers(v)[0], "f32", true));
    let mut params = vec![
        u("batch", q[0]),
        u("queries", q[1]),
        u("heads", q[2]),
        u("keys", k[1]),
        u("kv_heads", k[2]),
        u("width", q[3]),
        u("y0", 0),
        ("scale".to_string(), Param::F(how.scale)),
        u("past", how.causal.unwrap_or(0.into())),
        u("window", how.window.unwrap_or(0) as i64),
    ];
    for (x, n) in o.iter().zip(["q", "k", "v"]) {
        params.push(u(&format!("{n}0"), x.layout.offset.clone()));
        for (axis, part) in ["batch", "row", "head"].iter().enumerate() {
            params.push(u(&format!("{n}_{part}"), x.layout.strides[axis].clone()));
        }
    }
    if let Some(sinks) = o.get(3).filter(|_| how.sinks) {
        bounds.push(bound("sinks", sinks.buffer, "f32", false));
    }
    let sinks = o.get(3).filter(|_| how.sinks).map_or(Expr::new(0), |s| s.layout.offset.clone());
    params.push(u("sinks0", sinks));
    params.push(("softcap".to_string(), Param::F(how.softcap.unwrap_or(0.0))));
    if let Some(m) = o.get(3).filter(|_| !how.sinks) {
        bounds.push(bound("mask", m.buffer, scalar_type(m.dtype), false));
    }
    let scores = Shape(vec![q[0], q[2], q[1], k[1]]);
    params.extend(mask_params(o.get(3).filter(|_| !how.sinks), &scores));
    if spec.serial || !attend::fits(&o) {
        let pages = ["pool", "page", "per", "sequences", "tables0", "sequences0", "positions0"];
        params.extend(pages.map(|n| u(n, 0)));
    }
    if !spec.serial && attend::fits(&o) {
        let mask = (bounds.len() > 4).then(|| bounds.remove(4));
        attend::emit(l, v, attend::Attention { operands: &o, holes: attention::holes(spec), params, mask });
        return Ok(());
    }
    let (kernel, per_group) = attention::kernel(spec);
    let queries = Expr::from(q[0]) * Expr::from(q[1]) * Expr::from(q[2]);
    let bytes = o.iter().fold(q.count() * 4, |sum, x| sum + read_bytes(x));
    launch(
        l,
        v,
        v,
        Launch { kernel, bound: bounds, params, grid: [ceil(queries, per_group), ceil(1, 1), ceil(1, 1)], bytes },
    );
    Ok(())
}

/// Where a mask lies, as if it had the shape of the scores `[batch, heads, queries, keys]`.
fn mask_params(mask: Option<&Operand>, scores: &Shape) -> [(String, Param); 5] {
    let mask = mask.map(|m| m.layout.broadcast(&m.shape, scores));
    let stride = |axis: usize| mask.as_ref().map_or(Expr::new(0), |m| m.strides[axis].clone());
    [
        u("mask0", mask.as_ref().map_or(Expr::new(0), |m| m.offset.clone())),
        u("mask_batch", stride(0)),
        u("mask_head", stride(1)),
        u("mask_row", stride(2)),
        u("mask_key", stride(3)),
    ]
}

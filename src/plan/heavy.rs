//! Ops with kernels of their own: which layouts they read, and their dispatches.

use super::code::{Bound, Code, Coord, scalar_type};
use super::fuse::resolve;
use super::lower::{Lower, interface};
use super::{BufferId, Ceil, Dispatch, Param};
use crate::base::{DType, DeviceFault, Dim, Error, Expr, Layout, Result, Shape, block::Planes};
use crate::graph::{Graph, Source};
use crate::kernel::matmul::{Form, Right, VARIANTS, Variant};
use crate::kernel::{Kernel, Template, attention, matmul, row};
use crate::op::{Attrs, Body, Fused, Primitive, Reduce, Value};

/// Whether the kernel of `v` can read operand `index` under `layout`, and should.
pub fn reads(graph: &Graph, v: Value, index: usize, layout: &Layout, serial: bool) -> bool {
    let node = graph.node(v);
    let arg = graph.node(node.args()[index]);
    let rank = arg.ty.shape.rank();
    match node.kind() {
        // Any strides. Without barriers, rows of the left operand that lie apart cost more than laying them together.
        "matmul" if serial && index == 0 && arg.is_view() && arg.ty.dtype == DType::F32 => {
            let rows = layout.strides[rank - 1].is(1) && !matches!(&node.source, Source::Op { attrs: Attrs::Matmul { ta: true, .. }, .. });
            rows || arg.ty.shape[rank - 1].is(1) || arg.ty.shape[rank - 2].is(1)
        }
        "matmul" => true,
        "attention" if index == 3 => true,
        "attention" => arg.ty.dtype == DType::F32 && (layout.strides[rank - 1].is(1) || arg.ty.shape[rank - 1].is(1)),
        // The row kernels and gather's ids read plain rows of f32 or words.
        _ => layout.is_contiguous(&arg.ty.shape) && (arg.ty.dtype != DType::F16 || node.kind() == "gather"),
    }
}

/// The dispatch of `anchor` with everything up to `root` as its epilogue.
pub fn emit(l: &mut Lower, anchor: Value, root: Value) -> Result<()> {
    let graph = l.graph;
    let Source::Op { def, attrs, args } = &graph.node(anchor).source else {
        return Err(Error::op("plan", &graph.node(anchor).name, "is not an op"));
    };
    match &def.body {
        Body::Primitive(Primitive::Matmul) => emit_matmul(l, anchor, root, attrs, args),
        Body::Primitive(Primitive::Reduce(kind)) => emit_reduce(l, anchor, root, *kind, attrs, args),
        Body::Primitive(Primitive::Gather) => emit_gather(l, root, args),
        Body::Primitive(Primitive::ScatterAdd) => emit_scatter_add(l, root, args),
        Body::Composite { fused: Fused::Attention, .. } => emit_attention(l, root, attrs, args),
        Body::Composite { fused, .. } => emit_rows(l, root, *fused, attrs, args),
        _ => Err(Error::op(def.name, &graph.node(anchor).name, "has no kernel")),
    }
}

/// A stored operand: its value, buffer and layout.
pub struct Operand {
    base: Value,
    pub buffer: BufferId,
    pub layout: Layout,
    shape: Shape,
    dtype: DType,
}

pub fn operand(l: &Lower, v: Value) -> Result<Operand> {
    let node = l.graph.node(v);
    let found = resolve(l.graph, v, &l.fusion.stored).filter(|(base, _)| l.fusion.stored[base.0 as usize]);
    let (base, layout) = found.ok_or_else(|| Error::op(node.kind(), &node.name, "is not in memory where a kernel needs it"))?;
    Ok(Operand { base, buffer: l.buffers(base)[0], layout, shape: node.ty.shape.clone(), dtype: node.ty.dtype })
}

fn bound(name: &str, buffer: BufferId, element: &'static str, write: bool) -> Bound {
    Bound { name: name.into(), buffer, element, write, range: None, uniform: None }
}

fn u(name: &str, e: impl Into<Expr>) -> (String, Param) {
    (name.into(), Param::U(e.into()))
}

/// Sends a dispatch off: everything that all ops share.
struct Launch {
    kernel: Kernel,
    bound: Vec<Bound>,
    params: Vec<(String, Param)>,
    grid: [Ceil; 3],
    bytes: Expr,
}

fn launch(l: &mut Lower, anchor: Value, root: Value, launch: Launch) {
    let args = launch.bound.iter().map(|b| l.arg(b)).collect();
    let (ops, flops) = if anchor == root { l.expression(root) } else { l.epilogue_expression(anchor, root) };
    let label = l.graph.node(anchor).name.clone();
    let dispatch = Dispatch { label, ops, kernel: 0, args, params: launch.params, grid: launch.grid, flops, bytes: launch.bytes };
    l.push(launch.kernel, dispatch);
}

fn ceil(n: impl Into<Expr>, by: u32) -> Ceil {
    Ceil { n: n.into(), by }
}

fn element_bytes(dtype: DType) -> i64 {
    if dtype == DType::F16 { 2 } else { 4 }
}

/// Bytes of an operand as read: quantised ones by their blocks.
fn read_bytes(o: &Operand) -> Expr {
    match o.dtype {
        d if d.is_quantised() => Expr::new((o.shape.count().bound() / 32 * d.block_bytes() as u64) as i64),
        d => o.shape.count() * element_bytes(d),
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
    let (mut kernel, per_group) = row::kernel(template, l.options.tuning.serial);
    if fused == Fused::LogSoftmax {
        kernel = kernel.set("LOG", 1);
    }
    let names = ["x", "w", "b"];
    let mut bounds: Vec<Bound> = operands.iter().zip(names).map(|(o, n)| bound(n, o.buffer, "f32", false)).collect();
    bounds.push(bound("y", l.buffers(v)[0], "f32", true));
    let mut params = vec![u("rows", rows.clone()), u("cols", cols), u("y0", 0)];
    params.extend(operands.iter().zip(["x0", "w0", "b0"]).map(|(o, n)| u(n, o.layout.offset.clone())));
    if let Attrs::Norm { eps } = attrs {
        params.push(("eps".into(), Param::F(*eps)));
    }
    let bytes = operands.iter().fold(shape.count() * 4, |sum, o| sum + read_bytes(o));
    launch(l, v, v, Launch { kernel, bound: bounds, params, grid: [ceil(rows, per_group), ceil(1, 1), ceil(1, 1)], bytes });
    Ok(())
}

// ---- reductions -------------------------------------------------------------------------------------------------

fn emit_reduce(l: &mut Lower, anchor: Value, root: Value, kind: Reduce, attrs: &Attrs, args: &[Value]) -> Result<()> {
    let Attrs::Reduce { axes, .. } = attrs else { return Err(Error::op("reduce", &l.graph.node(anchor).name, "lacks its axes")) };
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
    let text = interface(&code.bound, &code.params, &["n", "len", "y0"]) + &format!("alias R = {};\n", scalar_type(dtype));
    let number = match kind {
        Reduce::Sum => 0,
        Reduce::Mean => 1,
        Reduce::Max => 2,
        Reduce::Min => 3,
        Reduce::Argmax => 4,
    };
    let kernel = Kernel::new(&crate::kernel::REDUCE).set("KIND", number).hole("interface", text).hole("body", code.helpers.clone() + &load + &finish);
    let n = outer.count();
    let mut params = vec![u("n", n.clone()), u("len", inner.count()), u("y0", 0)];
    params.extend(code.params.iter().map(|(name, e)| u(name, e.clone())));
    let bytes = reads + n.clone() * 4;
    launch(l, anchor, root, Launch { kernel, bound: code.bound, params, grid: [ceil(n, 64), ceil(1, 1), ceil(1, 1)], bytes });
    Ok(())
}

// ---- gather -----------------------------------------------------------------------------------------------------

fn emit_gather(l: &mut Lower, v: Value, args: &[Value]) -> Result<()> {
    let (table, ids) = (operand(l, args[0])?, operand(l, args[1])?);
    let width = Expr::product(&table.shape[1..]);
    let n = ids.shape.count();
    let pieces = l.buffers(table.base);
    let mut row0 = 0u64;
    let all = Expr::from(table.shape[0]);
    for buffer in pieces {
        let rows = match &l.plan.buffer(buffer).role {
            super::Role::Weight { rows, .. } => Expr::new(rows.len() as i64),
            _ => all.clone(),
        };
        let mut bounds = vec![bound("ids", ids.buffer, "u32", false), bound("y", l.buffers(v)[0], "f32", true)];
        bounds.extend(right_bounds(l, table.dtype, buffer, Form::Tiled));
        let text = interface(&bounds, &[], &["n", "width", "ids0", "y0", "row0", "rows", "all", "b0", "k", "b_row", "b_col"])
            + &matmul::load_b(Right { dtype: table.dtype, rows: true })
            + "fn element(row: u32, i: u32) -> f32 { return load_b(p.b0, i, row); }\n";
        let kernel = Kernel::new(&crate::kernel::GATHER).hole("table", text);
        let params = vec![
            u("n", n.clone()), u("width", width.clone()), u("ids0", ids.layout.offset.clone()), u("y0", 0),
            u("row0", row0 as i64), u("rows", rows.clone()), u("all", all.clone()),
            u("b0", table.layout.offset.clone()), u("k", width.clone()), u("b_row", width.clone()), u("b_col", 1),
        ];
        let count = n.clone() * width.clone();
        let bytes = count.clone() * 8 + n.clone() * 4;
        launch(l, v, v, Launch { kernel, bound: bounds, params, grid: [ceil(count, 64), ceil(1, 1), ceil(1, 1)], bytes });
        row0 += rows.bound();
    }
    Ok(())
}

fn emit_scatter_add(l: &mut Lower, v: Value, args: &[Value]) -> Result<()> {
    let (x, ids) = (operand(l, args[0])?, operand(l, args[1])?);
    let shape = l.graph.node(v).ty.shape.clone();
    let (n, width) = (ids.shape.count(), Expr::product(&shape[1..]));
    let bounds = vec![bound("ids", ids.buffer, "u32", false), bound("x", x.buffer, "f32", false), bound("y", l.buffers(v)[0], "f32", true)];
    let params = vec![
        u("n", n.clone()), u("rows", shape[0]), u("width", width), u("ids0", ids.layout.offset.clone()), u("x0", x.layout.offset.clone()),
    ];
    let bytes = (x.shape.count() + n + shape.count()) * 4;
    let grid = [ceil(shape.count(), 64), ceil(1, 1), ceil(1, 1)];
    launch(l, v, v, Launch { kernel: Kernel::new(&crate::kernel::SCATTER_ADD), bound: bounds, params, grid, bytes });
    Ok(())
}

/// The bindings of a table or right operand in one buffer.
fn right_bounds(l: &Lower, dtype: DType, buffer: BufferId, form: Form) -> Vec<Bound> {
    let (element, scales) = Right { dtype, rows: true }.elements(form);
    let mut b = bound("b", buffer, element, false);
    let mut out = vec![];
    if let (Some(words), super::Role::Weight { rows, .. }) = (scales, &l.plan.buffer(buffer).role) {
        let total = l.plan.buffer(buffer).bytes;
        let blocks = blocks_of(dtype, total, rows.len());
        let planes = Planes::new(dtype, blocks);
        b.range = Some((0, planes.quant_bytes.max(16)));
        out.push(Bound { name: "s".into(), buffer, element: words, write: false, range: Some((planes.scale_offset, planes.scale_bytes)), uniform: None });
    }
    out.insert(0, b);
    out
}

/// Blocks in a quantised buffer of `total` bytes: the number whose planes take just that.
fn blocks_of(dtype: DType, total: u64, rows: usize) -> u64 {
    let (quant, scale) = crate::base::block::plane_bytes(dtype);
    let mut blocks = total / (quant + scale) as u64;
    while Planes::new(dtype, blocks).total() > total || blocks % rows.max(1) as u64 != 0 {
        blocks -= 1;
    }
    blocks
}

// ---- attention --------------------------------------------------------------------------------------------------

fn emit_attention(l: &mut Lower, v: Value, attrs: &Attrs, args: &[Value]) -> Result<()> {
    let name = l.graph.node(v).name.clone();
    let Attrs::Attention(how) = attrs else { return Err(Error::op("attention", &name, "lacks its attributes")) };
    let o = args.iter().map(|a| operand(l, *a)).collect::<Result<Vec<_>>>()?;
    let (q, k) = (&o[0].shape, &o[1].shape);
    let width = q[3].known().unwrap_or(0) as u32;
    if width == 0 || width > attention::MAX_WIDTH {
        return Err(Error::device(DeviceFault::Limit, "attention", format!("\"{name}\" has heads of {}, kernels take up to {}", q[3], attention::MAX_WIDTH)));
    }
    let spec = attention::Spec {
        width,
        causal: how.causal.is_some(),
        window: how.window.is_some(),
        mask: o.get(3).map(|m| m.dtype == DType::Bool),
        serial: l.options.tuning.serial,
    };
    let (kernel, per_group) = attention::kernel(spec);
    let mut bounds: Vec<Bound> = o.iter().zip(["q", "k", "v"]).map(|(x, n)| bound(n, x.buffer, "f32", false)).collect();
    bounds.push(bound("y", l.buffers(v)[0], "f32", true));
    let mut params = vec![
        u("batch", q[0]), u("queries", q[1]), u("heads", q[2]), u("keys", k[1]), u("kv_heads", k[2]), u("width", q[3]), u("y0", 0),
        ("scale".to_string(), Param::F(how.scale)),
        u("past", how.causal.unwrap_or(0.into())), u("window", how.window.unwrap_or(0) as i64),
    ];
    for (x, n) in o.iter().zip(["q", "k", "v"]) {
        params.push(u(&format!("{n}0"), x.layout.offset.clone()));
        for (axis, part) in ["batch", "row", "head"].iter().enumerate() {
            params.push(u(&format!("{n}_{part}"), x.layout.strides[axis].clone()));
        }
    }
    let full = Shape(vec![q[0], q[2], q[1], k[1]]);
    let mask = o.get(3).map(|m| m.layout.broadcast(&m.shape, &full));
    if let Some(m) = o.get(3) {
        bounds.push(bound("mask", m.buffer, scalar_type(m.dtype), false));
    }
    let at = |i: Option<usize>| match (&mask, i) {
        (Some(m), Some(i)) => m.strides[i].clone(),
        (Some(m), None) => m.offset.clone(),
        (None, _) => Expr::new(0),
    };
    params.extend([u("mask0", at(None)), u("mask_batch", at(Some(0))), u("mask_head", at(Some(1))), u("mask_row", at(Some(2))), u("mask_key", at(Some(3)))]);
    let queries = Expr::from(q[0]) * Expr::from(q[1]) * Expr::from(q[2]);
    let bytes = o.iter().fold(q.count() * 4, |sum, x| sum + read_bytes(x));
    launch(l, v, v, Launch { kernel, bound: bounds, params, grid: [ceil(queries, per_group), ceil(1, 1), ceil(1, 1)], bytes });
    Ok(())
}

// ---- matmul -----------------------------------------------------------------------------------------------------

fn emit_matmul(l: &mut Lower, anchor: Value, root: Value, attrs: &Attrs, args: &[Value]) -> Result<()> {
    let name = l.graph.node(anchor).name.clone();
    let Attrs::Matmul { ta, tb } = *attrs else { return Err(Error::op("matmul", &name, "lacks its attributes")) };
    let (a, b) = (operand(l, args[0])?, operand(l, args[1])?);
    let out = l.graph.node(anchor).ty.shape.clone();
    let rank = out.rank();
    let axes = |o: &Operand, swapped: bool| {
        let r = o.shape.rank();
        if swapped { (r - 1, r - 2) } else { (r - 2, r - 1) }
    };
    let ((am, ak), (bk, bn)) = (axes(&a, ta), axes(&b, tb));
    let m = out[rank - 2];
    let k = a.shape[ak];
    let right = Right { dtype: b.dtype, rows: b.layout.strides[bk].is(1) || b.dtype.is_quantised() };
    let lead = Shape(out[..rank - 2].to_vec());
    let fits = Fits::of(&a, &b, (am, ak), (bk, bn), right, &lead);
    let pieces = l.buffers(b.base);
    let split = pieces.len() > 1;
    let direct = b.layout == Layout::contiguous(&b.shape) && right.rows && b.shape.rank() == 2;
    if split && !direct {
        return Err(Error::device(DeviceFault::Limit, "matmul", format!("\"{name}\" reads a weight in {} pieces otherwise than by rows", pieces.len())));
    }
    let mut n0 = 0i64;
    for buffer in pieces {
        let n = match &l.plan.buffer(buffer).role {
            super::Role::Weight { rows, .. } if split => Expr::new(rows.len() as i64),
            _ => Expr::from(out[rank - 1]),
        };
        let variant = choose(l, right, &fits, &m);
        let mut code = l.code();
        let y = l.buffers(root)[0];
        let form = variant.form;
        let a_element = match (form, a.dtype) {
            (Form::Tiled, DType::F16) => "u32",
            (Form::Tiled, _) => "f32",
            _ => "vec4<f32>",
        };
        let strips = strips(l, &a, form, a_element, (&m, &k, &lead));
        let variant = if strips.len() > 1 && !right.dtype.is_quantised() { tall(&strips[0]) } else { variant };
        code.bound.push(strips[0].left.clone());
        code.bound.extend(right_bounds(l, b.dtype, buffer, form));
        code.bound.push(bound("y", y, "f32", true));
        let epilogue = if anchor == root {
            "fn epilogue(acc: f32, o: u32) -> f32 { return acc; }\n".to_string()
        } else {
            code.epilogue("epilogue", "acc: f32, o: u32", root, anchor, &Coord::Flat("o".into()))
        };
        let mut body = code.helpers.clone() + &epilogue;
        if form != Form::Vector {
            body += &batch(&mut code, "batch_a", &a, &lead);
            body += &batch(&mut code, "batch_b", &b, &lead);
        }
        let fixed = ["m", "n", "k", "a0", "a_row", "a_col", "b0", "b_row", "b_col", "y0", "y_row", "m0", "n0", "four"];
        let (kernel, grid) = match form {
            Form::Tiled => {
                body += &matmul::load_b(right);
                body += if a.dtype == DType::F16 {
                    "fn load_a(at: u32) -> f32 {\n    let pair = unpack2x16float(a[at >> 1u]);\n    return select(pair.x, pair.y, (at & 1u) == 1u);\n}\n"
                } else {
                    "fn load_a(at: u32) -> f32 { return a[at]; }\n"
                };
                (Kernel::new(&matmul::TILED), [ceil(n.clone(), 64), ceil(m, 64), ceil(lead.count(), 1)])
            }
            Form::Rows => {
                body += &matmul::tile(right, variant);
                let kernel = Kernel::new(&matmul::ROWS).set("TM", variant.tm).set("TN", variant.tn);
                (kernel, [ceil(n.clone(), 32 * variant.tn), ceil(m, variant.tm), ceil(lead.count(), 1)])
            }
            Form::Vector => {
                body += &matmul::block_dot(b.dtype);
                let kernel = Kernel::new(&matmul::VECTOR).set("TN", variant.tn);
                (kernel, [ceil(n.clone(), variant.tn), ceil(Expr::from(m), 1), ceil(1, 1)])
            }
        };
        let kernel = kernel.hole("interface", interface(&code.bound, &code.params, &fixed)).hole("body", body);
        let mut bytes = read_bytes(&a) + Expr::new(if split { l.plan.buffer(buffer).bytes as i64 } else { 0 })
            + if split { Expr::new(0) } else { read_bytes(&b) } + Expr::product(&out[..rank - 1]) * n.clone() * 4 + code.read_bytes();
        for (i, strip) in strips.into_iter().enumerate() {
            let (first, end) = strip.rows;
            let mut params = vec![
                u("m", end.clone()), u("n", n.clone()), u("k", k), u("a0", a.layout.offset.clone()), u("a_row", a.layout.strides[am].clone()),
                u("a_col", a.layout.strides[ak].clone()), u("b0", if split { Expr::new(0) } else { b.layout.offset.clone() }),
                u("b_row", b.layout.strides[bn].clone()), u("b_col", b.layout.strides[bk].clone()), u("y0", 0), u("y_row", out[rank - 1]),
                u("m0", first.clone()), u("n0", n0), u("four", 4),
            ];
            params.extend(code.params.iter().map(|(name, e)| u(name, e.clone())));
            let mut bound = code.bound.clone();
            bound[0] = strip.left;
            let mut grid = grid.clone();
            if form == Form::Rows {
                grid[1].n = end + first * -1;
            }
            launch(l, anchor, root, Launch { kernel: kernel.clone(), bound, params, grid, bytes });
            // The work of the whole op is counted once.
            if n0 > 0 || i > 0 {
                l.uncount();
            }
            bytes = Expr::new(0);
        }
        n0 += n.bound() as i64;
    }
    Ok(())
}

/// Rows of the left operand that one dispatch takes, and how it binds them.
struct Strip {
    rows: (Expr, Expr),
    left: Bound,
}

/// The left operand, whole or in strips. Where shaders run on a CPU, the row form reads it from uniform memory: all lanes of a
/// vector read one address, which is one load there, while loads from storage are done lane by lane. What does not fit
/// into a uniform binding is cut by rows, if their number is known.
fn strips(l: &mut Lower, a: &Operand, form: Form, element: &'static str, (m, k, lead): (&Dim, &Dim, &Shape)) -> Vec<Strip> {
    let mut left = bound("a", a.buffer, element, false);
    let buffer = &mut l.plan.buffers[a.buffer.0 as usize];
    let grows = matches!(buffer.role, super::Role::Scratch | super::Role::Input(_) | super::Role::Output(_));
    let whole = |left| vec![Strip { rows: (Expr::new(0), Expr::from(*m)), left }];
    if form != Form::Rows || !l.options.tuning.serial || !grows {
        return whole(left);
    }
    // Few sizes, so that shapes share kernels.
    if let Some(size) = matmul::UNIFORM_BYTES.iter().copied().find(|n| buffer.bytes <= *n) {
        buffer.bytes = size;
        left.uniform = Some((size / 16) as u32);
        return whole(left);
    }
    let plain = a.layout == Layout::contiguous(&a.shape) && lead.count().is(1);
    let (Some(m), Some(k), true) = (m.known(), k.known(), plain) else { return whole(left) };
    // Bindings start at multiples of 256 bytes: sixteen rows of whole vectors do.
    let rows = (matmul::UNIFORM_BYTES[1] as i64 / (k * 4).max(1) / 16 * 16).min(m);
    if rows < 16 {
        return vec![Strip { rows: (Expr::new(0), Expr::new(m)), left }];
    }
    let bytes = (rows * k * 4) as u64;
    buffer.bytes = buffer.bytes.max(bytes * (m as u64).div_ceil(rows as u64));
    left.uniform = Some((bytes / 16) as u32);
    let strip = |i: i64| Strip {
        rows: (Expr::new(i * rows), Expr::new(((i + 1) * rows).min(m))),
        left: Bound { range: Some((i as u64 * bytes, bytes)), ..left.clone() },
    };
    (0..(m + rows - 1) / rows).map(strip).collect()
}

fn batch(code: &mut Code, name: &str, o: &Operand, lead: &Shape) -> String {
    let r = o.shape.rank() - 2;
    let own = Shape(o.shape[..r].to_vec());
    let layout = Layout { offset: Expr::new(0), strides: o.layout.strides[..r].to_vec() };
    code.offset_function(name, lead, &layout.broadcast(&own, lead))
}

/// Which forms the operands' layouts allow.
struct Fits {
    rows: bool,
    vector: bool,
}

impl Fits {
    fn of(a: &Operand, b: &Operand, (am, ak): (usize, usize), (bk, bn): (usize, usize), right: Right, lead: &Shape) -> Fits {
        let by = |e: &Expr, n: i64| e.known().is_some_and(|x| x % n == 0);
        let k = Expr::from(a.shape[ak]);
        let k_known = k.known().unwrap_or(0);
        // Offsets and strides may depend on the step, as long as each of their terms is a multiple.
        let whole = |e: &Expr| e.divisible_by(4);
        let lead_by_four = |o: &Operand| o.layout.strides[..o.shape.rank() - 2].iter().all(whole);
        let left = a.dtype == DType::F32 && a.layout.strides[ak].is(1) && by(&k, 4) && k_known > 0
            && (a.shape[am].is(1) || whole(&a.layout.strides[am])) && whole(&a.layout.offset) && lead_by_four(a);
        let b_lead = lead_by_four(b) && whole(&b.layout.offset);
        let rows_right = match b.dtype {
            d if d.is_quantised() => true,
            _ if right.rows => b_lead && whole(&b.layout.strides[bn]) && b.layout.strides[bk].is(1),
            DType::F32 => b_lead && b.layout.strides[bn].is(1) && by(&Expr::from(b.shape[bn]), 4) && whole(&b.layout.strides[bk]),
            _ => false,
        };
        let contiguous_rows = right.rows && b.shape.rank() == 2 && b.layout == Layout::contiguous(&b.shape);
        let vector = left && k_known % 32 == 0 && contiguous_rows && lead.count().is(1);
        Fits { rows: left && rows_right && (right.rows || by(&Expr::from(b.shape[bn]), 4)), vector }
    }
}

/// The variant for strips of many rows: what a lane loads is worth the more, the more rows use it.
fn tall(strip: &Strip) -> Variant {
    let rows = strip.rows.1.known().unwrap_or(0);
    Variant { form: Form::Rows, tm: if rows >= 32 { 32 } else { 16 }, tn: 8 }
}

/// The tuned variant of this class of matmul, else a guess.
fn choose(l: &Lower, right: Right, fits: &Fits, m: &crate::base::Dim) -> Variant {
    let tall = m.bound() > 4;
    let tuned = l.options.tuning.matmul(right, tall);
    let allowed = |v: &Variant| match v.form {
        Form::Tiled => true,
        Form::Vector => fits.vector && !tall,
        Form::Rows => fits.rows && (right.rows || v.tn % 4 == 0),
    };
    if let Some(v) = tuned.map(|i| VARIANTS[i.min(VARIANTS.len() - 1)]).filter(allowed) {
        return v;
    }
    let find = |form, tm, tn| VARIANTS.iter().copied().find(|v| v.form == form && v.tm == tm && v.tn == tn).filter(allowed);
    let guess = match (l.options.tuning.serial, tall, right.rows) {
        (true, true, true) => find(Form::Rows, 4, 4),
        (true, true, false) => find(Form::Rows, 8, 8),
        (true, false, true) => find(Form::Rows, 1, 2),
        (true, false, false) => find(Form::Rows, 1, 4),
        (false, false, _) => find(Form::Vector, 1, 4),
        _ => None,
    };
    guess.unwrap_or(VARIANTS[0])
}

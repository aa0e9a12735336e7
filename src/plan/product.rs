//! Matrix products: which form and variant a product takes, and its dispatches.

use super::code::{Bound, Code, Coord, Space};
use super::heavy::{
    Launch, Operand, beside_at, bound, ceil, launch, operand, read_bytes, right_bounds, right_bounds_as, u,
};
use super::lower::{Lower, interface};
use super::pair::Pair;
use super::{BufferId, Ceil, Param, Role, int8};
use crate::base::{AdapterKind, DType, DeviceFault, Dim, Error, Expr, Layout, Precision, Result, Shape};
use crate::format::RUN;
use crate::graph::Source;
use crate::kernel::matmul::{self, Form, Right, VARIANTS, Variant};
use crate::kernel::{FEW, Kernel, MOST_ROWS, Problem, grid, vector};
use crate::op::{Attrs, Value};

/// A product and its axes: rows and inner of the left operand, inner and columns of the right one.
pub(super) struct Product {
    pub node: Value,
    pub a: Operand,
    pub b: Operand,
    pub am: usize,
    pub ak: usize,
    pub bk: usize,
    pub bn: usize,
    pub out: Shape,
    pub lead: Shape,
    pub right: Right,
}

impl Product {
    fn of(l: &Lower, anchor: Value, (ta, tb): (bool, bool), args: &[Value]) -> Result<Product> {
        let (a, b) = (operand(l, args[0])?, operand(l, args[1])?);
        let out = l.graph.node(anchor).ty.shape.clone();
        let axes = |o: &Operand, swapped: bool| {
            let r = o.shape.rank();
            if swapped { (r - 1, r - 2) } else { (r - 2, r - 1) }
        };
        let ((am, ak), (bk, bn)) = (axes(&a, ta), axes(&b, tb));
        let texels = l.plan.buffer(b.buffer).texels;
        let right = Right { dtype: b.dtype, rows: b.layout.strides[bk].is(1) || b.dtype.is_quantised(), texels };
        let lead = Shape(out[..out.rank() - 2].to_vec());
        Ok(Product { node: anchor, a, b, am, ak, bk, bn, out, lead, right })
    }
    pub fn m(&self) -> Dim {
        self.out[self.out.rank() - 2]
    }
    pub fn n(&self) -> Dim {
        self.out[self.out.rank() - 1]
    }
    pub fn k(&self) -> Dim {
        self.a.shape[self.ak]
    }
    /// The words with which the planes beside the first begin in a buffer of the right operand's.
    fn beside(&self, l: &Lower, buffer: BufferId) -> [i64; 2] {
        beside_at(l, self.b.dtype, buffer, self.k().bound() as u64)
    }
}

/// The buffer that holds outputs `first` and on of the right operand's.
pub(super) struct Piece {
    pub buffer: BufferId,
    pub first: i64,
    pub n: Expr,
    /// The words with which its planes beside the first begin.
    pub beside: [i64; 2],
    /// Whether it is one of several.
    pub split: bool,
}

impl Piece {
    /// Bytes of the right operand that it reads.
    pub fn weights(&self, l: &Lower, p: &Product) -> Expr {
        if self.split { Expr::new(l.plan.buffer(self.buffer).bytes as i64) } else { read_bytes(&p.b) }
    }
    /// Leaves the last dispatch this piece's share of the product's work.
    pub fn share(&self, l: &mut Lower, p: &Product) {
        let n = p.n().bound();
        l.share(|flops| flops.portion(self.first..self.first + self.n.bound() as i64, n));
    }
}

/// The dispatches of the product `anchor`, with everything up to `root` as their epilogue: one for each piece of a weight that
/// lies in several buffers, and for each strip of rows.
pub fn emit(l: &mut Lower, anchor: Value, root: Value, attrs: &Attrs, args: &[Value]) -> Result<()> {
    let name = l.graph.node(anchor).name.clone();
    let Attrs::Matmul { ta, tb } = *attrs else { return Err(Error::op("matmul", &name, "lacks its attributes")) };
    let p = Product::of(l, anchor, (ta, tb), args)?;
    let buffers = l.buffers(p.b.base);
    let split = buffers.len() > 1;
    if split && !(p.right.rows && p.b.shape.rank() == 2 && p.b.layout == Layout::contiguous(&p.b.shape)) {
        return Err(Error::device(
            DeviceFault::Limit,
            "matmul",
            format!("\"{name}\" reads a weight in {} pieces otherwise than by rows", buffers.len()),
        ));
    }
    let chosen = choose(l, &p);
    let bytes = (chosen.0.precision == Precision::Int8).then(|| int8::quantise(l, &p));
    let mut first = 0;
    for buffer in buffers {
        let n = match &l.plan.buffer(buffer).role {
            Role::Weight { rows, .. } if split => Expr::new(rows.len() as i64),
            _ => Expr::from(p.n()),
        };
        let next = first + n.bound() as i64;
        let piece = Piece { buffer, first, n, beside: p.beside(l, buffer), split };
        match bytes {
            Some(left) => int8::emit(l, (anchor, root), &p, chosen.0, &piece, left),
            None => emit_piece(l, (anchor, root), &p, chosen, piece),
        }
        first = next;
    }
    Ok(())
}

fn emit_piece(
    l: &mut Lower,
    (anchor, root): (Value, Value),
    p: &Product,
    (chosen, parts): (Variant, u64),
    piece: Piece,
) {
    if chosen.form == Form::Tiled {
        let parts = if piece.split { 1 } else { parts };
        return super::tiled::emit(l, (anchor, root), p, (chosen, parts), &piece);
    }
    let strips = strips(l, p, chosen.form);
    let variant =
        if strips.len() > 1 && !p.right.dtype.is_quantised() { tall(&strips[0], p.right.texels) } else { chosen };
    let mut code = l.code();
    let norm = Norm::of(l, p);
    code.bound.push(norm.as_ref().map_or_else(|| strips[0].left.clone(), |n| n.left.clone()));
    code.bound.extend(norm.iter().map(|n| n.factors.clone()));
    let row = p.k().bound() as u64;
    code.bound.extend(match variant.form {
        Form::Rows => right_bounds(l, p.right, piece.buffer, row, variant.form),
        _ => right_bounds_as(l, p.right, piece.buffer, row, vector_spec(l, p, variant).right_elements()),
    });
    code.bound.push(bound("y", l.buffers(root)[0], "f32", true));
    let subgroups = l.caps.subgroup >= matmul::ROWS_LANES;
    let (mut kernel, grid) = kernel(l, &mut code, p, (variant, subgroups), &piece.n, (anchor, root));
    // A grid that may go beyond the device's is folded when it is dispatched; a single row of groups finds its place by itself.
    if variant.form == Form::Rows && is_long(l, &grid) {
        kernel = kernel.hole("grid", grid::unfold((grid[0].by, grid[1].by)));
    }
    let written = Expr::product(&p.out[..p.out.rank() - 1]) * piece.n.clone() * 4;
    let bytes = read_bytes(&p.a) + piece.weights(l, p) + written + code.read_bytes();
    let n = p.n().bound();
    for strip in strips {
        let mut params = params(p, &piece, strip.rows.clone(), strip.first);
        params.extend(code.params.iter().cloned());
        let (mut bound, mut grid) = (code.bound.clone(), grid.clone());
        match &norm {
            Some(norm) => norm.set(&mut params),
            None => bound[0] = strip.left.clone(),
        }
        if variant.form == Form::Rows {
            grid[1].n = strip.rows.clone();
        }
        launch(l, anchor, root, Launch { kernel: kernel.clone(), bound, params, grid, bytes: strip.of(&bytes) });
        l.share(|flops| strip.of(&flops.portion(piece.first..piece.first + piece.n.bound() as i64, n)));
    }
    if piece.first == 0 {
        norm.iter().for_each(|n| n.count(l, p));
    }
}

/// The filled kernel of a variant and its grid over all rows. `subgroups`: whether all lanes of a rows form are in one.
fn kernel(
    l: &Lower,
    code: &mut Code,
    p: &Product,
    (v, subgroups): (Variant, bool),
    n: &Expr,
    (anchor, root): (Value, Value),
) -> (Kernel, [Ceil; 3]) {
    let epilogue = if anchor == root {
        "fn epilogue(acc: f32, o: u32) -> f32 { return acc; }\n".to_string()
    } else {
        code.epilogue("epilogue", "acc: f32, o: u32", root, anchor, &Coord::Flat("o".into()))
    };
    let mut body = code.helpers.clone() + &epilogue;
    if v.form == Form::Rows {
        body += &p.right.access(v.form);
        body += &batch(code, "batch_a", &p.a, &p.lead);
        body += &batch(code, "batch_b", &p.b, &p.lead);
    }
    let (kernel, grid) = match v.form {
        Form::Rows | Form::Tiled => {
            let broadcast = subgroups && v.tm.is_multiple_of(matmul::ROWS_LANES);
            body += &matmul::tile(p.right, v, broadcast, false);
            let mut kernel = Kernel::new(&matmul::ROWS).set("WG", matmul::ROWS_LANES).set("TM", v.tm).set("TN", v.tn);
            if broadcast {
                kernel = kernel.hole("entry", matmul::SUBGROUP_ROWS);
            }
            let kernel = kernel.hole("body", body);
            (kernel, [ceil(n.clone(), matmul::ROWS_LANES * v.tn), ceil(p.m(), v.tm), ceil(p.lead.count(), 1)])
        }
        Form::Vector | Form::Subgroup => {
            let spec = vector_spec(l, p, v);
            let kernel = spec.kernel(&body);
            (kernel, [ceil(n.clone(), spec.group()), ceil(1, 1), ceil(1, 1)])
        }
    };
    (kernel.hole("interface", interface(&code.bound, &code.params, fields(l, p))), grid)
}

/// The numbers of a product, with those of a norm where it computes one.
fn fields(l: &Lower, p: &Product) -> &'static [&'static str] {
    if l.norms.contains(&p.a.base) { NORM_FIELDS } else { FIELDS }
}

/// Whether a grid may go beyond the device's along an axis.
pub(super) fn is_long(l: &Lower, grid: &[Ceil; 3]) -> bool {
    grid.iter().any(|c| c.n.bound().div_ceil(c.by as u64) > l.caps.grid as u64)
}

/// All rows, whose number is small at its bound.
pub(super) fn vector_spec(l: &Lower, p: &Product, v: Variant) -> vector::Spec {
    vector::Spec {
        right: p.right,
        rows: p.m().bound().max(1) as u32,
        outputs: v.tn,
        along: vector::LANES * v.tn / v.bn,
        subgroups: v.form == Form::Subgroup,
        int8: v.precision == Precision::Int8,
        pair: false,
        norm: l.norms.contains(&p.a.base),
    }
}

/// The numbers that [`params`] gives.
pub(super) const FIELDS: &[&str] = &[
    "m", "n", "k", "a0", "a_row", "a_col", "b0", "b_row", "b_col", "y0", "y_row", "m0", "n0", "four", "s0", "s1",
    "batch",
];
const NORM_FIELDS: &[&str] = &[
    "m", "n", "k", "a0", "a_row", "a_col", "b0", "b_row", "b_col", "y0", "y_row", "m0", "n0", "four", "s0", "s1",
    "batch", "g0", "eps",
];

/// The numbers of a dispatch that makes `rows` rows from row `m0` on.
pub(super) fn params(p: &Product, piece: &Piece, rows: Expr, m0: i64) -> Vec<(String, Param)> {
    let (a, b) = (&p.a.layout, &p.b.layout);
    vec![
        u("m", rows),
        u("n", piece.n.clone()),
        u("k", p.k()),
        u("a0", a.offset.clone()),
        u("a_row", a.strides[p.am].clone()),
        u("a_col", a.strides[p.ak].clone()),
        u("b0", if piece.split { Expr::new(0) } else { b.offset.clone() }),
        u("b_row", b.strides[p.bn].clone()),
        u("b_col", b.strides[p.bk].clone()),
        u("y0", 0),
        u("y_row", p.n()),
        u("m0", m0),
        u("n0", piece.first),
        u("four", 4),
        u("s0", piece.beside[0]),
        u("s1", piece.beside[1]),
        u("batch", p.lead.count()),
    ]
}

/// An RMS-norm that a product computes of what it reads.
struct Norm {
    left: Bound,
    /// What elements are multiplied by.
    factors: Bound,
    numbers: [(String, Param); 4],
}

impl Norm {
    /// The norm that is the left operand, where [`takes_norm`] has let it wait.
    fn of(l: &Lower, p: &Product) -> Option<Norm> {
        if !l.norms.contains(&p.a.base) {
            return None;
        }
        let Source::Op { attrs: Attrs::Norm { eps }, args, .. } = &l.graph.node(p.a.base).source else { return None };
        let (x, w) = (operand(l, args[0]).ok()?, operand(l, args[1]).ok()?);
        let (at, first) = (x.layout.offset.clone(), w.layout.offset.clone());
        Some(Norm {
            left: bound("a", x.buffer, "vec4<f32>", false),
            factors: bound("g", w.buffer, "vec4<f32>", false),
            numbers: [u("a0", at), u("a_row", p.k()), u("g0", first), ("eps".into(), Param::F(*eps))],
        })
    }

    /// Adds its work to the last dispatch.
    fn count(&self, l: &mut Lower, p: &Product) {
        let (mut ops, flops) = l.expression(p.a.base);
        if let Some(last) = l.plan.dispatches.last_mut() {
            ops.append(&mut last.ops);
            (last.ops, last.flops) = (ops, last.flops.clone() + flops);
        }
    }

    fn set(&self, params: &mut Vec<(String, Param)>) {
        params.retain(|p| self.numbers.iter().all(|n| n.0 != p.0));
        params.extend(self.numbers.iter().cloned());
    }
}

/// Whether product `user` of few rows computes the RMS-norm that is its left operand: lanes along k read all of a row anyway.
pub fn takes_norm(l: &Lower, user: Value, norm: Value) -> bool {
    let Some(p) = product_of(l, user).filter(|p| p.a.base == norm) else { return false };
    let (v, _) = choose(l, &p);
    let vector = matches!(v.form, Form::Vector | Form::Subgroup) && v.precision == Precision::F32;
    let plain = |o: &Operand| {
        !is_written(l, o)
            && o.dtype == DType::F32
            && o.layout.is_contiguous(&o.shape)
            && o.layout.offset.divisible_by(4)
    };
    let operands: Option<Vec<Operand>> = l.graph.node(norm).args().iter().map(|a| operand(l, *a).ok()).collect();
    vector
        && p.a.layout == Layout::contiguous(&p.a.shape)
        && operands.is_some_and(|o| o.len() == 2 && o.iter().all(plain))
}

/// Whether a step writes an operand: a dispatch that reads it may not be put off.
fn is_written(l: &Lower, o: &Operand) -> bool {
    let node = l.graph.node(o.base);
    matches!(node.source, Source::State) || matches!(node.kind(), "append" | "assign")
}

fn product_of(l: &Lower, v: Value) -> Option<Product> {
    let Source::Op { attrs: Attrs::Matmul { ta, tb }, args, .. } = &l.graph.node(v).source else { return None };
    Product::of(l, v, (*ta, *tb), args).ok()
}

/// Whether a product of few rows makes one result of both halves of its columns: its weight is whole, and its form has the text for it.
pub fn takes_pair(l: &Lower, product: Value) -> bool {
    let Some(p) = product_of(l, product) else { return false };
    let few = p.m().bound() <= MOST_ROWS as i64 && p.lead.count().is(1) && p.right.rows;
    let whole = l.buffers(p.b.base).len() == 1 && p.b.shape.rank() == 2 && p.b.layout == Layout::contiguous(&p.b.shape);
    let fits = |v: Variant| match v.form {
        Form::Vector | Form::Subgroup => true,
        Form::Rows => (p.m().bound() * p.k().bound() * 4) as u64 <= matmul::UNIFORM_BYTES[1],
        Form::Tiled => false,
    };
    // It is computed where its result is made, later than it stands.
    few && whole && !is_written(l, &p.a) && !is_written(l, &p.b) && fits(choose(l, &p).0)
}

/// The dispatch of a product and of what makes one result of both halves of its columns.
pub fn emit_pair(l: &mut Lower, pair: &Pair) -> Result<()> {
    let name = &l.graph.node(pair.product).name;
    let p = product_of(l, pair.product).ok_or_else(|| Error::op("matmul", name, "is no product"))?;
    let (v, _) = choose(l, &p);
    let v = Variant { tn: v.tn.max(2), ..v };
    let (buffer, half) = (l.buffers(p.b.base)[0], p.n().bound() / 2);
    let piece = Piece { buffer, first: 0, n: Expr::new(half), beside: p.beside(l, buffer), split: false };
    let norm = Norm::of(l, &p);
    let left = match (&norm, v.precision) {
        (Some(norm), _) => norm.left.clone(),
        (None, Precision::Int8) => bound("a", int8::quantise(l, &p), "vec4<u32>", false),
        (None, _) => match &strips(l, &p, v.form)[..] {
            [whole] => whole.left.clone(),
            // Rows of a larger buffer, which may be cut elsewhere.
            _ => bound("a", p.a.buffer, "vec4<f32>", false),
        },
    };
    let mut code = l.code();
    code.bound.push(left);
    code.bound.extend(norm.iter().map(|n| n.factors.clone()));
    let spec = (v.form != Form::Rows).then(|| vector::Spec { pair: true, ..vector_spec(l, &p, v) });
    code.bound.extend(match &spec {
        None => right_bounds(l, p.right, buffer, p.k().bound() as u64, v.form),
        Some(spec) => right_bounds_as(l, p.right, buffer, p.k().bound() as u64, spec.right_elements()),
    });
    code.bound.push(bound("y", l.buffers(pair.root)[0], "f32", true));
    let given = [(pair.halves[0], "acc"), (pair.halves[1], "other")];
    let arguments = ("epilogue", "acc: f32, other: f32, o: u32");
    let epilogue = code.epilogue_of(arguments, pair.root, &given, &Coord::Flat("o".into()));
    let mut body = code.helpers.clone() + &epilogue;
    let (mut kernel, grid) = match &spec {
        None => {
            let broadcast = l.caps.subgroup >= matmul::ROWS_LANES && v.tm.is_multiple_of(matmul::ROWS_LANES);
            body += &p.right.access(v.form);
            body += &batch(&mut code, "batch_a", &p.a, &p.lead);
            body += &batch(&mut code, "batch_b", &p.b, &p.lead);
            body += &matmul::tile(p.right, v, broadcast, true);
            let kernel = Kernel::new(&matmul::ROWS).set("WG", matmul::ROWS_LANES).set("TM", v.tm).set("TN", v.tn / 2);
            let kernel = if broadcast { kernel.hole("entry", matmul::SUBGROUP_ROWS) } else { kernel };
            let by = matmul::ROWS_LANES * v.tn / 2;
            let kernel = kernel.hole("body", body).hole("store", matmul::PAIR_STORE);
            (kernel, [ceil(half, by), ceil(p.m(), v.tm), ceil(1, 1)])
        }
        Some(spec) => (spec.kernel(&body), [ceil(half, spec.group()), ceil(1, 1), ceil(1, 1)]),
    };
    if v.form == Form::Rows && is_long(l, &grid) {
        kernel = kernel.hole("grid", grid::unfold((grid[0].by, grid[1].by)));
    }
    let kernel =
        kernel.hole("interface", interface(&code.bound, &code.params, &[fields(l, &p), &["columns"]].concat()));
    let mut numbers = params(&p, &piece, p.m().into(), 0);
    numbers.retain(|n| n.0 != "y_row");
    numbers.extend([u("y_row", half), u("columns", p.n()), u("blocks", p.k().bound() / RUN as i64)]);
    numbers.extend(code.params.iter().cloned());
    norm.iter().for_each(|n| n.set(&mut numbers));
    let written = Expr::from(p.m()) * half * 4;
    let bytes = read_bytes(&p.a) + piece.weights(l, &p) + written;
    let (mut ops, flops) = l.expression(pair.product);
    launch(l, pair.root, pair.root, Launch { kernel, bound: code.bound, params: numbers, grid, bytes });
    if let Some(last) = l.plan.dispatches.last_mut() {
        ops.append(&mut last.ops);
        (last.ops, last.flops) = (ops, last.flops.clone() + flops);
    }
    norm.iter().for_each(|n| n.count(l, &p));
    Ok(())
}

/// Rows of the left operand that one dispatch takes, and how it binds them.
struct Strip {
    /// The first, where there are several strips.
    first: i64,
    rows: Expr,
    /// Rows of all strips, where there are several.
    of: Option<i64>,
    left: Bound,
}

impl Strip {
    /// This strip's share of work that all strips do.
    fn of(&self, whole: &Expr) -> Expr {
        match (self.of, self.rows.known()) {
            (Some(all), Some(rows)) => whole.portion(self.first..self.first + rows, all),
            _ => whole.clone(),
        }
    }
}

/// The left operand, whole or in strips. Where shaders run on a CPU, the row form reads it from uniform memory: all lanes of a
/// vector read one address, which is one load there, while loads from storage are done lane by lane. What does not fit
/// into a uniform binding is cut by rows, if their number is known.
fn strips(l: &mut Lower, p: &Product, form: Form) -> Vec<Strip> {
    let (a, m) = (&p.a, p.m());
    let mut left = bound("a", a.buffer, "vec4<f32>", false);
    let buffer = &mut l.plan.buffers[a.buffer.0 as usize];
    let grows = matches!(buffer.role, Role::Scratch | Role::Input(_) | Role::Output(_));
    let whole = |left| vec![Strip { first: 0, rows: Expr::from(m), of: None, left }];
    if form != Form::Rows || !l.options.tuning.serial || !grows {
        return whole(left);
    }
    // Few sizes, so that shapes share kernels.
    if let Some(size) = matmul::UNIFORM_BYTES.iter().copied().find(|n| buffer.bytes <= *n) {
        buffer.bytes = size;
        left.space = Space::Uniform((size / 16) as u32);
        return whole(left);
    }
    let plain = a.layout == Layout::contiguous(&a.shape) && p.lead.count().is(1);
    let (Some(m), Some(k), true) = (m.known(), p.k().known(), plain) else { return whole(left) };
    // Bindings start at multiples of 256 bytes.
    let fit = matmul::UNIFORM_BYTES[1] as i64 / (k * 4).max(1);
    let Some(step) = [16, 8, 4].into_iter().find(|n| *n <= fit && n * k * 4 % 256 == 0) else { return whole(left) };
    let rows = (fit / step * step).min(m);
    let bytes = (rows * k * 4) as u64;
    buffer.bytes = buffer.bytes.max(bytes * (m as u64).div_ceil(rows as u64));
    left.space = Space::Uniform((bytes / 16) as u32);
    let strip = |first: i64| Strip {
        first,
        rows: Expr::new(rows.min(m - first)),
        of: Some(m),
        left: Bound { range: Some(((first / rows) as u64 * bytes, bytes)), ..left.clone() },
    };
    (0..m).step_by(rows as usize).map(strip).collect()
}

pub(super) fn batch(code: &mut Code, name: &str, o: &Operand, lead: &Shape) -> String {
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
    fn of(p: &Product) -> Fits {
        let &Product { ref a, ref b, am, ak, bk, bn, ref lead, right, .. } = p;
        let by = |e: &Expr, n: i64| e.known().is_some_and(|x| x % n == 0);
        let k = Expr::from(a.shape[ak]);
        let k_known = k.known().unwrap_or(0);
        // Offsets and strides may depend on the step, as long as each of their terms is a multiple.
        let whole = |e: &Expr| e.divisible_by(4);
        let lead_by_four = |o: &Operand| o.layout.strides[..o.shape.rank() - 2].iter().all(whole);
        let left = a.dtype == DType::F32
            && a.layout.strides[ak].is(1)
            && by(&k, 4)
            && k_known > 0
            && (a.shape[am].is(1) || whole(&a.layout.strides[am]))
            && whole(&a.layout.offset)
            && lead_by_four(a);
        let b_lead = lead_by_four(b) && whole(&b.layout.offset);
        let rows_right = match b.dtype {
            d if d.is_quantised() => true,
            _ if right.rows => b_lead && whole(&b.layout.strides[bn]) && b.layout.strides[bk].is(1),
            DType::F32 => {
                b_lead && b.layout.strides[bn].is(1) && by(&Expr::from(b.shape[bn]), 4) && whole(&b.layout.strides[bk])
            }
            _ => false,
        };
        let contiguous_rows = right.rows && b.shape.rank() == 2 && b.layout == Layout::contiguous(&b.shape);
        let vector = left && k_known % RUN as i64 == 0 && contiguous_rows && lead.count().is(1);
        Fits { rows: left && rows_right && (right.rows || by(&Expr::from(b.shape[bn]), 4)), vector }
    }
}

/// The variant for strips of many rows: what a lane loads is worth the more, the more rows use it, and a word of storage
/// more than one of a texture.
fn tall(strip: &Strip, texels: bool) -> Variant {
    let tm = if !texels && strip.rows.known().is_some_and(|n| n >= 32) { 32 } else { 16 };
    Variant { name: "rows-tall", form: Form::Rows, precision: Precision::F32, tm, tn: 8, bm: 0, bn: 0 }
}

/// The tuned variant of this class of matmul, else a guess; and the parts into which it cuts k.
fn choose(l: &Lower, p: &Product) -> (Variant, u64) {
    let (right, fits) = (p.right, Fits::of(p));
    let bound = |d: Dim| d.bound().max(0) as u64;
    let problem = Problem {
        m: bound(p.m()),
        n: bound(p.n()),
        k: bound(p.k()),
        batches: p.lead.count().bound(),
        right,
        rows: fits.rows,
        vector: fits.vector,
        parts: p.k().known().is_some() && l.options.fuse,
    };
    let tall = problem.m > FEW;
    if let Some(chosen) = narrow(l, &problem) {
        return chosen;
    }
    let allowed = |v: &Variant| v.precision == Precision::F32 && v.requires(l.caps) && v.fits(&problem);
    let with_parts =
        |v: Variant| (v, if v.form == Form::Tiled && !l.options.tuning.serial { v.cost(&problem).1 } else { 1 });
    if let Some(v) = l.options.tuning.matmul(right, tall).filter(allowed) {
        return with_parts(v);
    }
    let find = |name: &str| Variant::find(name).filter(allowed);
    // Tiles of many rows are worth it where it is known that there are as many.
    let many = p.m().known().is_some_and(|m| m >= 16);
    let guess = match (l.options.tuning.serial, tall, right.rows) {
        (true, true, rows) if many => find(if rows { "rows-16x2" } else { "rows-16x4" }),
        (true, true, true) if right.texels => find("rows-8x4"),
        (true, false, true) if right.texels => find("rows-1x4"),
        (true, true, true) => find("rows-4x4"),
        (true, true, false) => find("rows-8x8"),
        (true, false, true) => find("rows-1x2"),
        (true, false, false) => find("rows-1x4"),
        (false, ..) => vector_guess(l, &problem).and_then(find),
    };
    if let Some(v) = guess.or(l.options.tuning.serial.then_some(VARIANTS[0])) {
        return (v, 1);
    }
    let tiled = VARIANTS.iter().filter(|v| v.form == Form::Tiled && allowed(v));
    tiled.map(|v| (*v, v.cost(&problem))).min_by_key(|(_, c)| c.0).map_or((VARIANTS[0], 1), |(v, c)| (v, c.1))
}

/// The variant of a precision below f32, where one was asked for and there is one; with the parts of k.
fn narrow(l: &Lower, problem: &Problem) -> Option<(Variant, u64)> {
    let precision = l.options.precision;
    let allowed =
        |v: &Variant| v.precision == precision && precision != Precision::F32 && v.requires(l.caps) && v.fits(problem);
    let parts = |v: &Variant| if v.form == Form::Tiled { v.cost(problem).1 } else { 1 };
    if let Some(v) = l.options.tuning.matmul(problem.right, problem.m > FEW).filter(allowed) {
        return Some((v, parts(&v)));
    }
    // In f16 few rows are multiplied as in f32: what takes the time there is reading weights.
    if problem.m <= MOST_ROWS {
        let guess = vector_guess(l, problem).map(|name| match name {
            "subgroup-4" => "int8-subgroup-4",
            "vector-4" => "int8-vector-4",
            _ => "int8-vector-4x16",
        });
        return guess.and_then(Variant::find).filter(allowed).map(|v| (v, 1));
    }
    // Large texts take a CPU's compiler seconds, and win nothing there.
    let small = |v: &Variant| l.caps.kind != AdapterKind::Software || v.tm * v.tn <= 16;
    let tiled = VARIANTS.iter().filter(|v| v.form == Form::Tiled && allowed(v) && small(v));
    tiled.map(|v| (*v, v.cost(problem))).min_by_key(|(_, c)| c.0).map(|(v, c)| (v, c.1))
}

/// The vector variant that a GPU is given before anything is measured: lanes along k as far as there is work for them.
fn vector_guess(l: &Lower, problem: &Problem) -> Option<&'static str> {
    let chunks = problem.k / vector::chunk(problem.right.dtype) as u64;
    Some(match chunks {
        0..16 => "vector-4x32",
        16..64 => "vector-4x16",
        _ if l.caps.subgroup >= 8 => "subgroup-4",
        _ => "vector-4",
    })
}

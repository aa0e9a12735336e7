//! Each stored value becomes a dispatch; elementwise ones side by side become one.

use super::code::{Bound, Code, Coord, Space};
use super::fuse::{self, Fusion};
use super::pair::{self, Pair};
use super::scatter::{Rows, scattered};
use super::{
    Arg, Buffer, BufferId, Ceil, Dispatch, Kept, Options, Param, Plan, Port, Role, Transfer, heavy, join, memory,
    product,
};
use crate::base::{AdapterKind, Caps, DType, DeviceFault, Error, Expr, Part, Result, Type};
use crate::format::Planes;
use crate::graph::{Graph, Source};
use crate::kernel::{Kernel, MAP};
use crate::op::{Attrs, Body, Exchange, Fused, OpDef, Primitive, Value};
use std::collections::{HashMap, HashSet};

/// Invocations of a map's workgroup.
const MAP_GROUP: u32 = 64;
/// And where shaders run on a CPU, which takes longer from one workgroup to the next than within one.
const SERIAL_GROUP: u32 = 256;
/// Results that one map may write.
const MAX_RESULTS: usize = 4;

/// Plans `graph` for a device with `caps`.
///
/// # Errors
/// A value or weight beyond the device's limits, by name; an op that no kernel can do.
pub fn plan(graph: &Graph, caps: &Caps, options: &Options) -> Result<Plan> {
    let keep =
        |def: &OpDef| options.fuse && matches!(&def.body, Body::Composite { fused, .. } if *fused != Fused::Parts);
    let joined;
    let mut graph = graph;
    if options.fuse {
        joined = join::join(graph)?;
        graph = &joined;
    }
    let graph = graph.expand(&keep)?;
    let fusion = fuse::fuse(&graph, options.fuse, options.tuning.serial)?;
    let mut places =
        Places { map: HashMap::new(), chunks: HashMap::new(), buffers: vec![], texels: options.tuning.texels };
    for v in graph.values().filter(|v| fusion.stored[v.0 as usize]) {
        places.add(&graph, v, caps)?;
    }
    let mut lower = Lower::new(&graph, &fusion, &places, caps, options);
    for v in graph.values().filter(|v| fusion.stored[v.0 as usize]) {
        lower.emit(v)?;
    }
    lower.outputs()?;
    lower.flush()?;
    let mut plan = lower.plan;
    memory::assign(&mut plan, options.keep_values);
    super::verify(&plan, caps)?;
    Ok(plan)
}

/// Where stored values lie.
pub struct Places {
    map: HashMap<Value, BufferId>,
    /// Weights beyond the binding limit lie in several buffers, by rows.
    chunks: HashMap<Value, Vec<BufferId>>,
    buffers: Vec<Buffer>,
    /// Whether what the host writes and only products (on the right) and gathers read goes into textures.
    texels: bool,
}

/// Bytes of `ty` on a device at its bounds, whole words.
pub fn device_bytes(ty: &Type) -> u64 {
    let count = ty.shape.count().bound();
    match ty.dtype {
        d if d.is_quantised() => Planes::new(d, count / d.block() as u64).total(),
        d => count.saturating_mul(d.block_bytes() as u64).div_ceil(4).saturating_mul(4),
    }
    .max(4)
}

/// Elements of a weight that one dispatch of a software adapter reads.
const MOST_ELEMENTS: usize = 1 << 24;

impl Places {
    fn add(&mut self, graph: &Graph, v: Value, caps: &Caps) -> Result<()> {
        let node = graph.node(v);
        let role = match &node.source {
            Source::Const(_) | Source::Op { .. } => Role::Scratch,
            Source::Input => Role::Input(node.name.clone()),
            Source::State => Role::State(node.name.clone()),
            Source::Data(data) => Role::Data(data.clone()),
            Source::Weight { parts } => return self.add_weight(graph, v, parts, caps),
        };
        if let Source::Op { def, args, .. } = &node.source
            && matches!(def.body, Body::Primitive(Primitive::Append | Primitive::Assign))
        {
            self.map.insert(v, self.map[&args[0]]);
            return Ok(());
        }
        let bytes = device_bytes(&node.ty);
        let limit = caps.binding_bytes.min(caps.buffer_bytes);
        if bytes > limit {
            let what = format!(
                "\"{}\" {} takes {bytes} bytes, this device binds at most {limit}: use shorter sequences or a smaller context",
                node.name, node.ty
            );
            return Err(Error::device(DeviceFault::Limit, node.kind(), what));
        }
        let texels = matches!(role, Role::Input(_)) && self.in_texels(graph, v, bytes, caps);
        let id = self.push(Buffer { role, bytes, texels, label: node.name.clone() });
        self.map.insert(v, id);
        Ok(())
    }

    /// A weight in one buffer, or in several by rows where the binding limit asks for it, or a software adapter's speed: there
    /// one dispatch over all of a large one would keep the device for too long.
    fn add_weight(&mut self, graph: &Graph, v: Value, parts: &[Part], caps: &Caps) -> Result<()> {
        let (ty, name) = (&graph.node(v).ty, &graph.node(v).name);
        let limit = caps.binding_bytes.min(caps.buffer_bytes);
        let dims = ty.shape.known().ok_or_else(|| Error::op("weight", name, format!("{} is not known", ty.shape)))?;
        let rows = dims.first().copied().unwrap_or(1);
        let by_rows = graph.is_read_by_rows(v);
        let bytes_of = |rows: usize| {
            let mut shape = ty.shape.clone();
            shape.0.iter_mut().take(1).for_each(|d| *d = rows.into());
            device_bytes(&Type::new(ty.dtype, shape))
        };
        // Pieces of whole rows, a multiple of 64 so that every plane and packed word starts evenly.
        let mut most = rows;
        while bytes_of(most) > limit {
            most = if most > 64 { (most / 2).next_multiple_of(64).min(most - 1) / 64 * 64 } else { 0 };
            if most == 0 {
                let what = format!("weight \"{name}\" {ty} has rows beyond the {limit} bytes that this device binds");
                return Err(Error::device(DeviceFault::Limit, "weight", what));
            }
        }
        // Only what reads a weight row by row may find it in pieces.
        if most < rows && !by_rows {
            let what = format!(
                "weight \"{name}\" {ty} takes {} bytes, this device binds at most {limit}: only gathers of its rows and products with them read it in pieces, and something else reads it",
                bytes_of(rows)
            );
            return Err(Error::device(DeviceFault::Limit, "weight", what));
        }
        if caps.kind == AdapterKind::Software && by_rows {
            let slice = MOST_ELEMENTS / dims.get(1).copied().unwrap_or(1).max(1) / 64 * 64;
            most = most.min(slice.max(64));
        }
        let texels = self.in_texels(graph, v, bytes_of(most), caps);
        let mut ids = vec![];
        let mut start = 0;
        loop {
            let end = (start + most).min(rows);
            let role = Role::Weight { parts: parts.to_vec(), dtype: ty.dtype, rows: start..end, of_rows: rows };
            ids.push(self.push(Buffer { role, bytes: bytes_of(end - start), texels, label: name.into() }));
            start = end;
            if start >= rows {
                break;
            }
        }
        self.map.insert(v, ids[0]);
        self.chunks.insert(v, ids);
        Ok(())
    }

    /// Whether what the host writes goes into textures, of which the largest has `bytes`.
    fn in_texels(&self, graph: &Graph, v: Value, bytes: u64, caps: &Caps) -> bool {
        // Texels hold the bits of floats.
        let floats = graph.node(v).ty.dtype.is_float();
        self.texels && floats && bytes <= caps.texture_bytes() && graph.is_right_or_table(v)
    }

    fn push(&mut self, buffer: Buffer) -> BufferId {
        self.buffers.push(buffer);
        BufferId(self.buffers.len() as u32 - 1)
    }
}

/// The graph on its way to a plan.
pub struct Lower<'a> {
    pub graph: &'a Graph,
    pub fusion: &'a Fusion,
    pub caps: &'a Caps,
    pub options: &'a Options,
    pub plan: Plan,
    places: &'a Places,
    pending: Option<Map<'a>>,
    kernels: HashMap<Kernel, usize>,
    /// Pairs whose product waits for their root.
    pairs: Vec<Pair>,
    /// Norms that are computed within the product that reads them.
    pub norms: HashSet<Value>,
}

/// A map that more segments may join.
#[derive(Clone)]
struct Map<'a> {
    code: Code<'a>,
    functions: String,
    run: String,
    count: Expr,
    results: Vec<BufferId>,
    ops: Vec<&'static str>,
    label: String,
    flops: Expr,
    written: Expr,
}

/// Where a segment's elements go.
struct Target {
    buffer: BufferId,
    dtype: DType,
    offset: Expr,
    count: Expr,
    /// Where ids say which rows of the target are written.
    rows: Option<Rows>,
}

impl<'a> Lower<'a> {
    fn new(graph: &'a Graph, fusion: &'a Fusion, places: &'a Places, caps: &'a Caps, options: &'a Options) -> Self {
        let buffers = places.buffers.clone();
        let plan = Plan {
            kernels: vec![],
            buffers,
            dispatches: vec![],
            transfers: vec![],
            inputs: vec![],
            outputs: vec![],
            kept: vec![],
        };
        Lower {
            graph,
            fusion,
            caps,
            options,
            plan,
            places,
            pending: None,
            kernels: HashMap::new(),
            pairs: vec![],
            norms: HashSet::new(),
        }
    }

    /// The buffers of a stored value: several only for a split weight.
    pub fn buffers(&self, v: Value) -> Vec<BufferId> {
        self.places.chunks.get(&v).cloned().unwrap_or_else(|| vec![self.places.map[&v]])
    }
    /// A binding as a kernel argument.
    pub fn arg(&self, b: &Bound) -> Arg {
        let (offset, bytes) = b.range.unwrap_or((0, self.plan.buffer(b.buffer).bytes));
        Arg { name: b.name.clone(), buffer: b.buffer, offset, bytes, write: b.write }
    }
    pub fn code(&self) -> Code<'a> {
        Code::new(self.graph, self.fusion, &self.places.map)
    }

    fn emit(&mut self, v: Value) -> Result<()> {
        let graph = self.graph;
        let node = graph.node(v);
        match &node.source {
            Source::Input => {
                let buffer = self.places.map[&v];
                self.plan.inputs.push(Port { name: node.name.clone(), ty: node.ty.clone(), buffer });
                Ok(())
            }
            Source::Weight { .. } | Source::State | Source::Data(_) => Ok(()),
            Source::Const(_) => self.segment(v, v, self.whole(v)),
            Source::Op { def, attrs, args } => {
                self.emit_op(v, def, attrs, args)?;
                if self.options.keep_values {
                    let buffer = self.places.map[&v];
                    self.plan.kept.push(Kept { op: def.name, name: node.name.clone(), ty: node.ty.clone(), buffer });
                }
                Ok(())
            }
        }
    }

    fn emit_op(&mut self, v: Value, def: &'static OpDef, attrs: &Attrs, args: &[Value]) -> Result<()> {
        if let Some(anchor) = self.fusion.anchor[v.0 as usize] {
            self.flush()?;
            return heavy::emit(self, anchor, v);
        }
        if let Some(pair) = self.pairs.iter().copied().find(|p| p.root == v) {
            self.flush()?;
            return product::emit_pair(self, &pair);
        }
        if self.waits(v, def)? {
            return Ok(());
        }
        match &def.body {
            Body::Primitive(Primitive::Append) => self.append(v, attrs, args),
            Body::Primitive(Primitive::Assign) => self.segment(v, args[1], self.whole(v)),
            Body::Collective(exchange) => self.transfer(v, *exchange, attrs, args),
            Body::Primitive(
                Primitive::Matmul
                | Primitive::Gather
                | Primitive::ScatterAdd
                | Primitive::DeltaRule
                | Primitive::Reduce(_),
            )
            | Body::Composite { .. } => {
                self.flush()?;
                heavy::emit(self, v, v)
            }
            Body::Scalar(_) | Body::View | Body::Primitive(_) => self.segment(v, v, self.whole(v)),
        }
    }

    /// Whether a value is no dispatch of its own: a product that what follows makes one result of, or a norm that its product computes.
    fn waits(&mut self, v: Value, def: &OpDef) -> Result<bool> {
        if !self.options.fuse || self.options.keep_values {
            return Ok(false);
        }
        match &def.body {
            Body::Primitive(Primitive::Matmul) => {
                let found = pair::pair(self.graph, self.fusion, v);
                let Some(pair) = found.filter(|_| product::takes_pair(self, v)) else { return Ok(false) };
                self.pairs.push(pair);
            }
            Body::Composite { fused: Fused::RmsNorm, .. } => {
                let Some(user) = pair::only_product(self.graph, self.fusion, v) else { return Ok(false) };
                if !product::takes_norm(self, user, v) {
                    return Ok(false);
                }
                self.norms.insert(v);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Rows that travel: no dispatch, but a place between dispatches.
    fn transfer(&mut self, v: Value, exchange: Exchange, attrs: &Attrs, args: &[Value]) -> Result<()> {
        self.flush()?;
        let node = self.graph.node(v);
        let Attrs::Collective(how) = attrs else {
            return Err(Error::op(node.kind(), &node.name, "lacks its attributes"));
        };
        let from = match args.first() {
            Some(a) => {
                let o = heavy::operand(self, *a)?;
                Some((o.buffer, o.layout.offset))
            }
            None => None,
        };
        let work = match (exchange, args.first()) {
            (Exchange::ReduceScatter, Some(a)) => {
                let bytes = device_bytes(&self.graph.node(*a).ty);
                self.plan.buffers.push(Buffer {
                    role: Role::Scratch,
                    bytes,
                    texels: false,
                    label: format!("{} parts", node.name),
                });
                Some(BufferId(self.plan.buffers.len() as u32 - 1))
            }
            _ => None,
        };
        let transfer = Transfer {
            before: self.plan.dispatches.len(),
            exchange,
            how: (**how).clone(),
            label: node.name.clone(),
            from,
            to: self.places.map[&v],
            work,
            row: Expr::product(how.to.shape.iter().skip(1)),
        };
        self.plan.transfers.push(transfer);
        Ok(())
    }

    fn whole(&self, v: Value) -> Target {
        let ty = &self.graph.node(v).ty;
        Target {
            buffer: self.places.map[&v],
            dtype: ty.dtype,
            offset: Expr::new(0),
            count: ty.shape.count(),
            rows: None,
        }
    }

    fn append(&mut self, v: Value, attrs: &Attrs, args: &[Value]) -> Result<()> {
        let Attrs::Append { at } = attrs else {
            return Err(Error::op("append", &self.graph.node(v).name, "lacks its attribute"));
        };
        let (state, rows) = (&self.graph.node(args[0]).ty, &self.graph.node(args[1]).ty);
        let row = Expr::product(&state.shape[1..]);
        if state.dtype.is_quantised() {
            let what = format!("keeps rows in {}: adapters keep them in f32 or f16", state.dtype);
            return Err(Error::op("append", &self.graph.node(v).name, what));
        }
        if state.dtype.is_narrow() && row.known().is_none_or(|n| n % 2 != 0) {
            return Err(Error::op(
                "append",
                &self.graph.node(v).name,
                format!("rows of {row} {} elements do not fill whole words", state.dtype),
            ));
        }
        let (dtype, count) = (state.dtype, rows.shape.count());
        let (buffer, all) = (self.places.map[&v], Expr::from(state.shape[0]));
        let rows = match args.get(2) {
            Some(ids) => {
                let o = heavy::operand(self, *ids)?;
                Some(Rows { ids: o.buffer, dtype: o.dtype, first: o.layout.offset, row: row.clone(), all })
            }
            None => None,
        };
        let target = Target { buffer, dtype, offset: Expr::from(*at) * row, count, rows };
        self.segment(v, args[1], target)
    }

    /// Adds one result to the pending map, or starts a new one.
    fn segment(&mut self, v: Value, from: Value, target: Target) -> Result<()> {
        if let Some(map) = &self.pending {
            let mut joined = map.clone();
            let reads_fresh = self.add_segment(&mut joined, v, from, &target);
            let bound = joined.code.bound.len() as u32;
            if self.options.fuse
                && !reads_fresh
                && joined.results.len() <= MAX_RESULTS
                && bound <= self.caps.storage_buffers
            {
                self.pending = Some(joined);
                return Ok(());
            }
            self.flush()?;
        }
        let mut map = Map {
            code: self.code(),
            functions: String::new(),
            run: String::new(),
            count: Expr::new(0),
            results: vec![],
            ops: vec![],
            label: String::new(),
            flops: Expr::new(0),
            written: Expr::new(0),
        };
        self.add_segment(&mut map, v, from, &target);
        if map.code.bound.len() as u32 > self.caps.storage_buffers {
            let what =
                format!("needs {} buffers, this device binds {}", map.code.bound.len(), self.caps.storage_buffers);
            return Err(Error::op(self.graph.node(v).kind(), &self.graph.node(v).name, what));
        }
        self.pending = Some(map);
        Ok(())
    }

    /// Writes the segment's text. True where it touches what another segment writes.
    fn add_segment(&self, map: &mut Map<'a>, v: Value, from: Value, target: &Target) -> bool {
        let k = map.results.len();
        let earlier_bound = map.code.bound.len();
        let earlier_reads = map.code.reads();
        let coord = Coord::Flat("i".into());
        let text = match from == v {
            true => map.code.function(&format!("f{k}"), "i: u32", v, &coord),
            false => map.code.operand_function(&format!("f{k}"), "i: u32", from, &coord),
        };
        // What an earlier segment writes may not be read here, nor written what an earlier one reads or writes. A segment
        // may read what it writes itself: an assigned state, each element at its own place.
        let touches = map.results.iter().any(|r| map.code.read_since(earlier_reads, *r))
            || map.code.bound[..earlier_bound].iter().any(|b| b.buffer == target.buffer)
            || target.rows.as_ref().is_some_and(|r| map.results.contains(&r.ids));
        map.functions.push_str(&text);
        let y = map.code.bind(target.buffer, target.dtype, true);
        let n = map.code.param(&target.count);
        if let Some(rows) = &target.rows {
            map.run.push_str(&scattered(&mut map.code, rows, (k, &y, &n), target.dtype));
            self.count(map, v, target);
            return touches;
        }
        let offset = if target.offset.is(0) { String::new() } else { format!("{} + ", map.code.param(&target.offset)) };
        map.run.push_str(&match target.dtype.store() {
            Some(store) => format!(
                "    if (j < {n}) {{\n        if (2u * j < {n}) {{\n            let a = f{k}(2u * j);\n            let b = f{k}(min(2u * j + 1u, {n} - 1u));\n            {y}[({offset}0u) / 2u + j] = {};\n        }}\n        return;\n    }}\n    j -= {n};\n",
                (store.pack)("a", "b")
            ),
            None => format!("    if (j < {n}) {{ {y}[{offset}j] = f{k}(j); return; }}\n    j -= {n};\n"),
        });
        self.count(map, v, target);
        touches
    }

    /// What a segment adds to its map beside text.
    fn count(&self, map: &mut Map<'a>, v: Value, target: &Target) {
        map.count = map.count.clone() + target.count.clone();
        map.written = map.written.clone() + target.count.clone() * target.dtype.block_bytes() as i64;
        map.results.push(target.buffer);
        self.describe(v, map);
    }

    /// Ops, cost and label of the expression that ends at `v`.
    fn describe(&self, v: Value, map: &mut Map<'a>) {
        let (ops, flops) = self.expression(v);
        map.ops.extend(ops);
        map.flops = map.flops.clone() + flops;
        map.label = self.graph.node(v).name.clone();
    }

    /// The ops computed by the expression with root `v`, in order, and their cost.
    pub fn expression(&self, v: Value) -> (Vec<&'static str>, Expr) {
        let node = self.graph.node(v);
        let Source::Op { def, attrs, args } = &node.source else { return (vec![node.kind()], Expr::new(0)) };
        let (mut ops, mut flops) = (vec![], Expr::new(0));
        for a in args.iter().filter(|a| !self.fusion.stored[a.0 as usize] && self.graph.node(**a).def().is_some()) {
            let (inner, cost) = self.expression(*a);
            ops.extend(inner);
            flops = flops + cost;
        }
        if !node.is_view() || self.fusion.stored[v.0 as usize] {
            ops.push(def.name);
        }
        let types: Vec<Type> = args.iter().map(|a| self.graph.node(*a).ty.clone()).collect();
        (ops, flops + (def.cost)(attrs, &types, &node.ty))
    }

    /// The ops from `anchor` on that end at `root`, and their cost with the anchor's.
    pub fn epilogue_expression(&self, anchor: Value, root: Value) -> (Vec<&'static str>, Expr) {
        debug_assert!(!self.fusion.stored[anchor.0 as usize]);
        // The anchor is an unstored operand of the chain, so the chain's own walk meets it.
        self.expression(root)
    }

    /// Turns the pending map into a dispatch.
    pub fn flush(&mut self) -> Result<()> {
        let Some(map) = self.pending.take() else { return Ok(()) };
        let interface = interface(&map.code.bound, &map.code.params, &[]);
        let body =
            format!("{}{}fn run(index: u32) {{\n    var j = index;\n{}}}\n", map.code.helpers, map.functions, map.run);
        let group = if self.options.tuning.serial { SERIAL_GROUP } else { MAP_GROUP };
        let kernel = Kernel::new(&MAP).set("WG", group).hole("interface", interface).hole("body", body);
        let args = map.code.bound.iter().map(|b| self.arg(b)).collect();
        let params = map.code.params.clone();
        let one = || Ceil { n: Expr::new(1), by: 1 };
        let grid = [Ceil { n: map.count.clone(), by: group }, one(), one()];
        let bytes = map.code.read_bytes() + map.written;
        self.push(
            kernel,
            Dispatch { label: map.label, ops: map.ops, kernel: 0, args, params, grid, flops: map.flops, bytes },
        );
        Ok(())
    }

    /// Adds a dispatch; equal kernels are one.
    pub fn push(&mut self, kernel: Kernel, mut dispatch: Dispatch) {
        let next = self.kernels.len();
        dispatch.kernel = *self.kernels.entry(kernel.clone()).or_insert(next);
        if dispatch.kernel == next {
            self.plan.kernels.push(kernel);
        }
        self.plan.dispatches.push(dispatch);
    }

    /// Leaves the last dispatch a share of its op's FLOPs: others do the rest.
    pub fn share(&mut self, of: impl FnOnce(&Expr) -> Expr) {
        if let Some(last) = self.plan.dispatches.last_mut() {
            last.flops = of(&last.flops);
        }
    }

    /// Gives every output a buffer of its own; values that are not computed here, or are named twice, are copied.
    fn outputs(&mut self) -> Result<()> {
        let graph = self.graph;
        for (name, v) in &graph.outputs {
            let node = graph.node(*v);
            if node.ty.dtype.is_quantised() {
                return Err(Error::op("output", name, format!("is {}, cast or gather it first", node.ty.dtype)));
            }
            let own = self.places.map[v];
            let buffer = if self.plan.buffer(own).role == Role::Scratch {
                self.plan.buffers[own.0 as usize].role = Role::Output(name.clone());
                own
            } else {
                let bytes = device_bytes(&node.ty);
                self.plan.buffers.push(Buffer {
                    role: Role::Output(name.clone()),
                    bytes,
                    texels: false,
                    label: name.clone(),
                });
                let buffer = BufferId(self.plan.buffers.len() as u32 - 1);
                self.flush()?;
                let target = Target {
                    buffer,
                    dtype: node.ty.dtype,
                    offset: Expr::new(0),
                    count: node.ty.shape.count(),
                    rows: None,
                };
                self.copy(*v, target)?;
                buffer
            };
            self.plan.outputs.push(Port { name: name.clone(), ty: node.ty.clone(), buffer });
        }
        Ok(())
    }

    /// A stored value into another buffer.
    fn copy(&mut self, v: Value, target: Target) -> Result<()> {
        // A fresh root that reads `v`: an append's own form.
        let mut map = Map {
            code: self.code(),
            functions: String::new(),
            run: String::new(),
            count: Expr::new(0),
            results: vec![],
            ops: vec![],
            label: String::new(),
            flops: Expr::new(0),
            written: Expr::new(0),
        };
        let text = map.code.operand_function("f0", "i: u32", v, &Coord::Flat("i".into()));
        map.functions = text;
        let y = map.code.bind(target.buffer, target.dtype, true);
        let n = map.code.param(&target.count);
        map.run = match target.dtype.store() {
            Some(store) => format!(
                "    if (2u * j < {n}) {{\n        let a = f0(2u * j);\n        let b = f0(min(2u * j + 1u, {n} - 1u));\n        {y}[j] = {};\n    }}\n",
                (store.pack)("a", "b")
            ),
            None => format!("    if (j < {n}) {{ {y}[j] = f0(j); }}\n"),
        };
        map.count = target.count.clone();
        map.written = target.count * 4;
        map.ops = vec!["copy"];
        map.label = self.graph.node(v).name.clone();
        self.pending = Some(map);
        self.flush()
    }
}

/// The bindings and the parameter block of a generated kernel. `fixed` fields come first.
pub fn interface(bound: &[Bound], params: &[(String, Param)], fixed: &[&str]) -> String {
    let mut out = String::new();
    if !params.is_empty() || !fixed.is_empty() {
        let fields = fixed.iter().map(|f| f.to_string()).chain(params.iter().map(|(n, _)| n.clone()));
        let fields: Vec<String> = fields.map(|f| format!("{f}: u32")).collect();
        out += &format!("struct Params {{ {} }}\n@group(0) @binding(0) var<uniform> p: Params;\n", fields.join(", "));
    }
    for (i, b) in bound.iter().enumerate() {
        let access = if b.write { "read_write" } else { "read" };
        let (space, ty) = match b.space {
            Space::Storage => (format!("<storage, {access}>"), format!("array<{}>", b.element)),
            Space::Uniform(n) => ("<uniform>".into(), format!("array<{}, {n}>", b.element)),
            Space::Texels => (String::new(), "texture_2d<u32>".into()),
        };
        out += &format!("@group(0) @binding({}) var{space} {}: {ty};\n", i + 1, b.name);
    }
    out
}

//! Each stored value becomes a dispatch; elementwise ones side by side become one.

use super::code::Coord;
use super::fuse;
use super::lowering::{Lower, Map};
use super::operand::operand;
use super::places::{Places, device_bytes};
use super::scatter::{Rows, scattered};
use super::{Buffer, BufferId, Kept, Options, Plan, Port, Role, Transfer, heavy, join, memory};
use crate::base::{Caps, DType, Error, Expr, Result};
use crate::graph::{Graph, Source};
use crate::op::{Attrs, Body, Exchange, Fused, OpDef, Primitive, Value};
use std::collections::HashMap;

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

    /// Rows that travel: no dispatch, but a place between dispatches.
    fn transfer(&mut self, v: Value, exchange: Exchange, attrs: &Attrs, args: &[Value]) -> Result<()> {
        self.flush()?;
        let node = self.graph.node(v);
        let Attrs::Collective(how) = attrs else {
            return Err(Error::op(node.kind(), &node.name, "lacks its attributes"));
        };
        let from = match args.first() {
            Some(a) => {
                let o = operand(self, *a)?;
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
                let o = operand(self, *ids)?;
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

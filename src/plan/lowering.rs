//! A graph on its way to a plan: what every emitter reads and adds to.

use super::code::{Bound, Code, Space};
use super::fuse::Fusion;
use super::places::Places;
use super::{Arg, BufferId, Ceil, Dispatch, Options, Param, Plan};
use crate::base::{Caps, Expr, Result, Type};
use crate::graph::{Graph, Source};
use crate::kernel::{Kernel, MAP};
use crate::op::Value;
use std::collections::HashMap;

/// Invocations of a map's workgroup.
const MAP_GROUP: u32 = 64;

/// And where shaders run on a CPU, which takes longer from one workgroup to the next than within one.
const SERIAL_GROUP: u32 = 256;

/// The graph on its way to a plan.
pub struct Lower<'a> {
    pub graph: &'a Graph,
    pub fusion: &'a Fusion,
    pub caps: &'a Caps,
    pub options: &'a Options,
    pub plan: Plan,
    pub places: &'a Places,
    pub pending: Option<Map<'a>>,
    pub kernels: HashMap<Kernel, usize>,
}

/// A map that more segments may join.
#[derive(Clone)]
pub struct Map<'a> {
    pub code: Code<'a>,
    pub functions: String,
    pub run: String,
    pub count: Expr,
    pub results: Vec<BufferId>,
    pub ops: Vec<&'static str>,
    pub label: String,
    pub flops: Expr,
    pub written: Expr,
}

impl<'a> Lower<'a> {
    pub fn new(graph: &'a Graph, fusion: &'a Fusion, places: &'a Places, caps: &'a Caps, options: &'a Options) -> Self {
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
        Lower { graph, fusion, caps, options, plan, places, pending: None, kernels: HashMap::new() }
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

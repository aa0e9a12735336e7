//! What is stored and what is computed where it is used.
//!
//! One pass forward over the nodes. Views and elementwise values stay inline until something needs them in memory:
//! a kernel operand, a second user, an output, or a fused expression that grows past what a dispatch may bind.
//! A matmul or reduction whose only user is elementwise of the same shape is *absorbed*: the chain that follows
//! becomes its epilogue, and the dispatch happens where the chain ends.

use super::heavy;
use crate::base::{DType, Error, Layout, Result};
use crate::graph::{Graph, Source};
use crate::op::{Attrs, Body, Fused, IOTA, Primitive, Value};
use std::collections::BTreeSet;

/// Loads that one fused expression may make: 8 storage buffers less results and room for merging.
const MAX_LOADS: usize = 5;
/// Extra operands of an epilogue.
pub const MAX_EPILOGUE: usize = 4;
/// Nodes of one fused expression: WGSL compilers slow down faster than bodies grow.
const MAX_NODES: usize = 48;
/// Views of one chain that are looked through: what walks a chain does so by recursion.
const MAX_VIEWS: usize = 32;

/// The decisions, by node.
pub struct Fusion {
    /// The value has a place in memory of its own.
    pub stored: Vec<bool>,
    /// The matmul or reduction that this node's chain continues.
    pub anchor: Vec<Option<Value>>,
    /// The nodes that use this one.
    pub users: Vec<Vec<Value>>,
}

struct Pass<'a> {
    graph: &'a Graph,
    uses: Vec<usize>,
    out: Fusion,
    /// Stored values that an inline expression reads.
    loads: Vec<BTreeSet<Value>>,
    /// Nodes in an inline expression.
    size: Vec<usize>,
    /// Views between a value and what it looks at.
    views: Vec<usize>,
    fuse: bool,
    /// Whether kernels are planned for adapters that run shaders on a CPU.
    serial: bool,
}

pub fn fuse(graph: &Graph, fuse: bool, serial: bool) -> Result<Fusion> {
    let n = graph.nodes.len();
    let mut pass = Pass {
        graph,
        uses: graph.uses(),
        out: Fusion { stored: vec![false; n], anchor: vec![None; n], users: graph.all_users() },
        loads: vec![BTreeSet::new(); n],
        size: vec![0; n],
        views: vec![0; n],
        fuse,
        serial,
    };
    for v in graph.values() {
        pass.visit(v)?;
    }
    for (_, v) in &graph.outputs {
        pass.operand_expression(&[*v]);
        pass.store(*v);
    }
    Ok(pass.out)
}

/// A view chain followed down to a stored or computed value, with the layout that it amounts to.
pub fn resolve(graph: &Graph, v: Value, stored: &[bool]) -> Option<(Value, Layout)> {
    let node = graph.node(v);
    if !node.is_view() || stored[v.0 as usize] {
        return Some((v, Layout::contiguous(&node.ty.shape)));
    }
    let from = node.args()[0];
    let (base, layout) = resolve(graph, from, stored)?;
    let shape = &graph.node(from).ty.shape;
    let Source::Op { attrs, .. } = &node.source else { return None };
    let layout = match attrs {
        Attrs::Perm(perm) => layout.permuted(perm),
        Attrs::Slice { axis, start, step, .. } => layout.sliced(*axis, *start, *step),
        Attrs::Shape(to) if node.kind() == "broadcast" => layout.broadcast(shape, to),
        Attrs::Shape(to) => layout.reshaped(shape, to)?,
        _ => return None,
    };
    Some((base, layout))
}

impl Pass<'_> {
    fn visit(&mut self, v: Value) -> Result<()> {
        let node = self.graph.node(v);
        match &node.source {
            Source::Const(_) => Ok(()),
            Source::Input | Source::Weight { .. } | Source::State | Source::Data(_) => {
                self.store(v);
                Ok(())
            }
            Source::Op { def, args, .. } => {
                let args = args.clone();
                match &def.body {
                    Body::View => self.view(v, args[0]),
                    Body::Primitive(Primitive::Append) => {
                        self.operand_expression(&[args[1]]);
                        if let Some(&ids) = args.get(2) {
                            self.ids(ids);
                            self.settle(v, args[0]);
                        }
                        self.store(v);
                    }
                    Body::Primitive(Primitive::Assign) => self.assign(v, &args),
                    Body::Primitive(Primitive::Reduce(_)) => {
                        self.loads[v.0 as usize] = self.operand_expression(&args).0;
                        self.heavy(v);
                    }
                    Body::Primitive(
                        Primitive::Matmul | Primitive::Gather | Primitive::ScatterAdd | Primitive::DeltaRule,
                    ) => self.kernel(v, &args)?,
                    Body::Composite { fused, .. } if *fused != Fused::Parts => self.kernel(v, &args)?,
                    Body::Collective(_) => self.kernel(v, &args)?,
                    Body::Composite { .. } => return Err(Error::op(def.name, &node.name, "was not expanded")),
                    Body::Scalar(_) | Body::Primitive(_) => self.inline(v, &args),
                }
                if !self.fuse && !node.is_view() {
                    self.store(v);
                }
                Ok(())
            }
        }
    }

    /// A state's new contents are written over the old ones: who still reads those must be done.
    fn assign(&mut self, v: Value, args: &[Value]) {
        let (state, x) = (args[0], args[1]);
        self.settle(v, state);
        self.operand_expression(&[x]);
        if !self.in_place(x, state) {
            self.store(x);
        }
        self.store(v);
    }

    /// Whatever reads the state and is used behind `v`, which writes it, is computed before.
    fn settle(&mut self, v: Value, state: Value) {
        let last = self.last_uses();
        for u in (0..v.0).map(Value) {
            if last[u.0 as usize] > v.0 && !self.stored(u) && self.sees(u, state) {
                self.store(u);
            }
        }
    }

    /// The last node that uses each; outputs are used at the end.
    fn last_uses(&self) -> Vec<u32> {
        let mut last = vec![0; self.graph.nodes.len()];
        for u in self.graph.values() {
            self.graph.node(u).args().iter().for_each(|a| last[a.0 as usize] = u.0);
        }
        self.graph.outputs.iter().for_each(|(_, v)| last[v.0 as usize] = u32::MAX);
        last
    }

    /// Whether computing the unstored `u` reads `state`.
    fn sees(&self, u: Value, state: Value) -> bool {
        self.graph.node(u).args().iter().any(|a| *a == state || (!self.stored(*a) && self.sees(*a, state)))
    }

    /// Whether each element of the expression `x` reads no element of `state` but that of its own place.
    fn in_place(&self, x: Value, state: Value) -> bool {
        if self.stored(x) {
            return true;
        }
        let node = self.graph.node(x);
        let elementwise = node.def().is_some_and(|d| d.scalar().is_some());
        node.args().iter().all(|a| match elementwise && self.graph.node(*a).ty.shape == node.ty.shape {
            true => self.in_place(*a, state),
            false => *a != state && (self.stored(*a) || !self.sees(*a, state)),
        })
    }

    fn store(&mut self, v: Value) {
        self.out.stored[v.0 as usize] = true;
    }
    fn stored(&self, v: Value) -> bool {
        self.out.stored[v.0 as usize]
    }
    fn base(&self, mut v: Value) -> Value {
        while !self.stored(v) && self.graph.node(v).is_view() {
            v = self.graph.node(v).args()[0];
        }
        v
    }

    /// What reading `v` inside an expression costs: its loads and its nodes.
    fn reading(&self, v: Value) -> (BTreeSet<Value>, usize) {
        let base = self.base(v);
        if self.stored(base) {
            (BTreeSet::from([base]), 1)
        } else {
            (self.loads[base.0 as usize].clone(), self.size[base.0 as usize] + 1)
        }
    }

    /// A view of something computed that several nodes look through would compute it several times.
    fn view(&mut self, v: Value, arg: Value) {
        if self.views[arg.0 as usize] == MAX_VIEWS {
            self.store(arg);
        }
        self.views[v.0 as usize] = if self.stored(arg) { 1 } else { self.views[arg.0 as usize] + 1 };
        let base = self.base(arg);
        let repeats = self.graph.node(v).kind() == "broadcast"
            && self.graph.node(arg).ty.shape.count() != self.graph.node(v).ty.shape.count();
        let computed = !self.stored(base)
            && !matches!(self.graph.node(base).source, Source::Const(_))
            && !self.graph.node(base).def().is_some_and(|d| d.is(&IOTA));
        if computed && (self.uses[v.0 as usize] > 1 || repeats) {
            self.store(base);
        }
    }

    /// Operands that are written into one kernel's text must stay within what it may bind.
    fn operand_expression(&mut self, args: &[Value]) -> (BTreeSet<Value>, usize) {
        for a in args {
            let base = self.base(*a);
            // A chain that ends here is a dispatch of its own.
            if self.anchors(base) || self.out.anchor[base.0 as usize].is_some() {
                self.store(base);
            }
        }
        loop {
            let mut all = (BTreeSet::new(), 0);
            for a in args {
                let (loads, size) = self.reading(*a);
                all.0.extend(loads);
                all.1 += size;
            }
            if all.0.len() <= MAX_LOADS && all.1 <= MAX_NODES {
                return all;
            }
            let bases = args.iter().map(|a| self.base(*a)).filter(|b| !self.stored(*b));
            match bases.max_by_key(|b| (self.loads[b.0 as usize].len(), self.size[b.0 as usize])) {
                Some(largest) => self.store(largest),
                None => return all,
            }
        }
    }

    fn inline(&mut self, v: Value, args: &[Value]) {
        let shape = &self.graph.node(v).ty.shape;
        for a in args {
            let base = self.base(*a);
            let repeats = &self.graph.node(*a).ty.shape != shape
                && self.graph.node(v).def().is_some_and(|d| d.scalar().is_some());
            // An operand that broadcasts would be computed once for each repetition.
            if repeats && !self.stored(base) && self.size[base.0 as usize] > 1 {
                self.store(base);
            }
        }
        self.extend_anchor(v, args);
        let operands: Vec<Value> = args.iter().copied().filter(|a| self.absorbed(v, *a).is_none()).collect();
        let limit_anchor = self.out.anchor[v.0 as usize].is_some();
        let (mut loads, size) = self.operand_expression(&operands);
        if let (true, Some(chain)) = (limit_anchor, args.iter().find(|a| self.absorbed(v, **a).is_some())) {
            loads.extend(self.loads[chain.0 as usize].iter().copied());
            if loads.len() > MAX_EPILOGUE {
                self.out.anchor[v.0 as usize] = None;
                self.store(*chain);
                let (all, size) = self.operand_expression(args);
                (self.loads[v.0 as usize], self.size[v.0 as usize]) = (all, size + 1);
                self.store_if_shared(v);
                return;
            }
        }
        self.loads[v.0 as usize] = loads;
        self.size[v.0 as usize] = size + 1;
        self.store_if_shared(v);
    }

    /// A value that several nodes use is computed once.
    fn store_if_shared(&mut self, v: Value) {
        let cheap = self.graph.node(v).def().is_some_and(|d| d.is(&IOTA));
        if self.uses[v.0 as usize] > 1 && !cheap {
            self.store(v);
        }
    }

    /// The anchor that `v` continues through operand `a`.
    fn absorbed(&self, v: Value, a: Value) -> Option<Value> {
        let anchor = self.out.anchor[v.0 as usize]?;
        (a == anchor || (self.out.anchor[a.0 as usize] == Some(anchor) && !self.stored(a))).then_some(anchor)
    }

    /// Continues the chain of a matmul or reduction that only this node uses; of two, the one computed later.
    fn extend_anchor(&mut self, v: Value, args: &[Value]) {
        let node = self.graph.node(v);
        let scalar = node.def().is_some_and(|d| d.scalar().is_some());
        let mut best = None;
        for a in args {
            let anchor =
                if self.anchors(*a) { Some(*a) } else { self.out.anchor[a.0 as usize].filter(|_| !self.stored(*a)) };
            let fits = self.graph.node(*a).ty == node.ty && self.uses[a.0 as usize] == 1;
            best = best.max(anchor.filter(|_| fits && scalar && self.fuse));
        }
        for a in args {
            let anchor =
                if self.anchors(*a) { Some(*a) } else { self.out.anchor[a.0 as usize].filter(|_| !self.stored(*a)) };
            if anchor.is_some() && anchor != best {
                self.store(*a);
            }
        }
        if node.ty.dtype == DType::F32 {
            self.out.anchor[v.0 as usize] = best;
        }
    }

    /// An unstored matmul or reduction.
    fn anchors(&self, v: Value) -> bool {
        !self.stored(v)
            && self
                .graph
                .node(v)
                .def()
                .is_some_and(|d| matches!(d.body, Body::Primitive(Primitive::Matmul | Primitive::Reduce(_))))
    }

    /// Ids of rows that are appended: read as plain words.
    fn ids(&mut self, ids: Value) {
        let base = self.base(ids);
        self.store(base);
        let plain = |(_, layout): (Value, Layout)| layout.is_contiguous(&self.graph.node(ids).ty.shape);
        if !resolve(self.graph, ids, &self.out.stored).is_some_and(plain) {
            self.store(ids);
        }
    }

    /// A matmul or reduction: stored, unless its one user can be its epilogue.
    fn heavy(&mut self, v: Value) {
        let node = self.graph.node(v);
        let is_output = self.graph.outputs.iter().any(|o| o.1 == v);
        let absorbable = self.fuse
            && !is_output
            && node.ty.dtype == DType::F32
            && self.uses[v.0 as usize] == 1
            && self.out.users[v.0 as usize].first().is_some_and(|u| {
                let user = self.graph.node(*u);
                user.def().is_some_and(|d| d.scalar().is_some()) && user.ty == node.ty
            });
        if !absorbable {
            self.store(v);
        }
    }

    /// An op with a kernel of its own: operands must lie in memory as the kernel can read them.
    fn kernel(&mut self, v: Value, args: &[Value]) -> Result<()> {
        for (i, a) in args.iter().enumerate() {
            let base = self.base(*a);
            self.store(base);
            let fits = resolve(self.graph, *a, &self.out.stored)
                .is_some_and(|(_, layout)| heavy::reads(self.graph, v, i, &layout, self.serial));
            if !fits {
                self.store(*a);
            }
        }
        if self.graph.node(v).kind() == "matmul" {
            self.heavy(v)
        } else {
            self.store(v)
        }
        Ok(())
    }
}

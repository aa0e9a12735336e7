//! From a graph to a program: products with weights take what follows them along, and those of the same rows go together.

use super::isa::LANES;
use super::kv::{Kept, Layout};
use super::pack::Form;
use super::product::Act;
use super::program::*;
use super::{Precision, RANK};
use crate::base::{DType, Dim, Error, Result, Shape, Type};
use crate::graph::{Graph, Node, Source};
use crate::op::{self, Attrs, Body, Fused, OpDef, Primitive, Value};
use std::collections::HashMap;

/// Composites that the CPU computes whole; all others run as their definitions.
fn is_whole(def: &OpDef) -> bool {
    let Body::Composite { fused, .. } = &def.body else { return false };
    match fused {
        Fused::Softmax | Fused::LogSoftmax | Fused::LayerNorm | Fused::RmsNorm => true,
        Fused::Attention | Fused::PagedAttention | Fused::ExpertMatmul => true,
        _ => def.is(&op::ROPE),
    }
}

/// A graph of what [`compile`] knows.
pub fn expanded(graph: &Graph) -> Result<Graph> {
    // Pools are read as they are kept.
    graph.expand_for(&is_whole, &|def, i| def.is(&op::PAGED_ATTENTION) && (1..3).contains(&i))
}

/// Makes a program of an expanded graph. Without `fuse` each op is an instruction of its own.
///
/// # Errors
/// Ops that need other ranks; more axes than can be run.
pub fn compile(graph: &Graph, precision: Precision, fuse: bool) -> Result<Program> {
    let mut c = Compiler {
        uses: graph.uses(),
        graph,
        precision: precision_of(graph, precision),
        fuse,
        p: Program::default(),
        ids: HashMap::new(),
        pending: vec![],
        dims: HashMap::new(),
        bytes: HashMap::new(),
        dense: HashMap::new(),
        assigns: vec![],
    };
    for v in graph.values() {
        c.node(v).map_err(|e| e.at_node(&graph.node(v).name))?;
    }
    for (name, v) in &graph.outputs {
        let id = c.id(*v)?;
        c.p.outputs.push((name.clone(), graph.node(*v).ty.dtype, id));
    }
    // What is still to come is part of no output, but states may depend on it.
    while let Some(first) = c.pending.first().map(|p| p.node) {
        c.id(first)?;
    }
    c.p.instrs.append(&mut c.assigns);
    c.check_states()?;
    c.p.find_lives();
    Ok(c.p)
}

/// A graph without quantised weights is computed in f32, keys and values too: there is nothing to be gained by rounding.
fn precision_of(graph: &Graph, asked: Precision) -> Precision {
    let quantised = |v: Value| {
        let node = graph.node(v);
        matches!(node.source, Source::Weight { .. }) && Form::of(node.ty.dtype).is_some_and(Form::is_quantised)
    };
    if graph.values().any(quantised) { asked } else { Precision::F32 }
}

/// A product with a weight that may still take what follows it along.
struct Pending {
    /// The node whose value it will be.
    node: Value,
    x: Id,
    weight: usize,
    then: Vec<Then>,
}

struct Compiler<'a> {
    graph: &'a Graph,
    uses: Vec<usize>,
    precision: Precision,
    fuse: bool,
    p: Program,
    ids: HashMap<Value, Id>,
    pending: Vec<Pending>,
    dims: HashMap<Dim, DimId>,
    /// Rows that are in bytes, and dense forms, by the value they are made of.
    bytes: HashMap<Id, Id>,
    dense: HashMap<Id, Id>,
    assigns: Vec<Instr>,
}

impl Compiler<'_> {
    fn dim(&mut self, d: Dim) -> DimId {
        let dims = &mut self.p.dims;
        *self.dims.entry(d).or_insert_with(|| {
            dims.push(d);
            dims.len() - 1
        })
    }
    fn shape(&mut self, shape: &Shape) -> Vec<DimId> {
        shape.iter().map(|d| self.dim(*d)).collect()
    }
    fn val(&mut self, from: From, dtype: DType, shape: Vec<DimId>, node: Value) -> Id {
        self.p.vals.push(Val { from, dtype, shape, node });
        self.p.vals.len() - 1
    }
    /// A value for a node's result.
    fn result(&mut self, from: From, v: Value) -> Id {
        let ty = self.graph.node(v).ty.clone();
        let shape = self.shape(&ty.shape);
        let id = self.val(from, ty.dtype, shape, v);
        self.ids.insert(v, id);
        id
    }
    fn emit(&mut self, op: Op, out: Id, node: Value) {
        self.p.instrs.push(Instr { op, out, node });
    }

    /// The value of a node, computed by now.
    fn id(&mut self, v: Value) -> Result<Id> {
        if let Some(at) = self.pending.iter().position(|p| p.node == v) {
            self.flush(at);
        }
        let node = self.graph.node(v);
        self.ids.get(&v).copied().ok_or_else(|| Error::op(node.kind(), &node.name, "was not computed"))
    }

    /// Emits a pending product, and with it all others of the same rows.
    fn flush(&mut self, at: usize) {
        let x = self.pending[at].x;
        let (together, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.pending)
            .into_iter()
            .enumerate()
            .partition(|(i, p)| *i == at || (p.x == x && self.fuse));
        self.pending = rest.into_iter().map(|p| p.1).collect();
        let form = |p: &Pending| Form::of(self.p.weights[p.weight].ty.dtype);
        let quantised = together.iter().any(|(_, p)| form(p).is_some_and(Form::is_quantised));
        let node = together[0].1.node;
        let bytes = (quantised && self.precision == Precision::Int8).then(|| self.in_bytes(x, node));
        let parts: Vec<Part> = together
            .into_iter()
            .map(|(_, p)| {
                let out = self.result(From::Made, p.node);
                Part { weight: p.weight, out, then: p.then }
            })
            .collect();
        let out = parts[0].out;
        self.emit(Op::Linear { x, bytes, parts }, out, node);
    }

    fn in_bytes(&mut self, x: Id, node: Value) -> Id {
        if let Some(id) = self.bytes.get(&x) {
            return *id;
        }
        let id = self.val(From::Bytes { of: x }, DType::F32, vec![], node);
        self.emit(Op::Quantise { x }, id, node);
        self.bytes.insert(x, id);
        id
    }

    /// The value in row-major order.
    fn dense(&mut self, of: Id) -> Id {
        if matches!(self.p.vals[of].from, From::Made | From::Dense { .. } | From::Input | From::Data(_)) {
            return of;
        }
        if let Some(id) = self.dense.get(&of) {
            return *id;
        }
        let val = self.p.vals[of].clone();
        let id = self.val(From::Dense { of }, val.dtype, val.shape, val.node);
        self.emit(Op::Copy { from: of }, id, val.node);
        self.dense.insert(of, id);
        id
    }
    fn dense_of(&mut self, v: Value) -> Result<Id> {
        let id = self.id(v)?;
        Ok(self.dense(id))
    }

    fn node(&mut self, v: Value) -> Result<()> {
        let graph = self.graph;
        let node = graph.node(v);
        if node.ty.shape.rank() > RANK {
            let what = format!("has {} axes: up to {RANK} can be run on the CPU", node.ty.shape.rank());
            return Err(Error::op(node.kind(), &node.name, what));
        }
        match &node.source {
            Source::Input => {
                let id = self.result(From::Input, v);
                self.p.inputs.push((node.name.clone(), node.ty.clone(), id));
            }
            Source::Const(x) => {
                self.result(From::Const(*x), v);
            }
            Source::Data(data) => {
                self.result(From::Data(data.clone()), v);
            }
            Source::Weight { .. } => {
                let wide = node.ty.shape.known().is_some_and(|s| s.len() == 2 && s[1] > 0);
                let packed = wide && self.is_read_by_rows(v) && Form::of(node.ty.dtype).is_some();
                self.result(From::Weight(self.p.weights.len()), v);
                let (name, ty) = (node.name.clone(), node.ty.clone());
                self.p.weights.push(WeightInfo { node: v, name, ty, packed });
            }
            Source::State => {
                self.result(From::State(self.p.states.len()), v);
                let (name, ty) = (node.name.clone(), node.ty.clone());
                self.p.states.push(StateInfo { name, ty, layout: Layout::Plain });
            }
            Source::Op { def, attrs, args } => {
                if !(self.fuse && self.takes_along(v, def, args)?) {
                    self.op(v, node, (def, attrs, args))?;
                }
            }
        }
        Ok(())
    }

    /// Whether an elementwise node becomes part of the product that only it uses.
    fn takes_along(&mut self, v: Value, def: &OpDef, args: &[Value]) -> Result<bool> {
        let sole = |c: &Self, a: Value| {
            let at = c.pending.iter().position(|p| p.node == a)?;
            (c.uses[a.0 as usize] == 1 && c.graph.node(a).ty == c.graph.node(v).ty).then_some(at)
        };
        if let ("add", [a, b]) = (def.name, args) {
            for (product, other) in [(*a, *b), (*b, *a)] {
                if product == other || sole(self, product).is_none() {
                    continue;
                }
                let (ty, mine) = (self.graph.node(other).ty.clone(), self.graph.node(v).ty.clone());
                let row = ty.shape.rank() == 1 && mine.shape.last() == ty.shape.last();
                if ty.dtype != DType::F32 || !(ty == mine || row) {
                    continue;
                }
                // The other operand is there from here on; this may have emitted the product itself.
                let other = self.dense_of(other)?;
                let Some(at) = sole(self, product) else { return Ok(false) };
                let p = &mut self.pending[at];
                p.then.push(if ty == mine { Then::Full(other) } else { Then::Row(other) });
                p.node = v;
                return Ok(true);
            }
        }
        let act = match def.name {
            "silu" => Act::Silu,
            "gelu" => Act::Gelu,
            "gelu_tanh" => Act::GeluTanh,
            "relu" => Act::Relu,
            "sigmoid" => Act::Sigmoid,
            _ => return Ok(false),
        };
        let Some(at) = sole(self, args[0]) else { return Ok(false) };
        self.pending[at].then.push(Then::Act(act));
        self.pending[at].node = v;
        Ok(true)
    }

    fn op(&mut self, v: Value, node: &Node, (def, attrs, args): (&'static OpDef, &Attrs, &[Value])) -> Result<()> {
        match &def.body {
            Body::Scalar(_) => {
                let args = args.iter().map(|a| self.id(*a)).collect::<Result<Vec<_>>>()?;
                let out = self.result(From::Made, v);
                self.emit(Op::Map { def, args }, out, v);
            }
            Body::View => self.view(v, def, attrs, args)?,
            Body::Collective(_) => {
                if matches!(attrs, Attrs::Collective(c) if c.ways > 1) {
                    let what = "needs the other ranks of its mesh: run all of them together";
                    return Err(Error::op(def.name, &node.name, what));
                }
                let of = self.id(args[0])?;
                self.result(From::Alias { of }, v);
            }
            Body::Composite { .. } => self.composite(v, def, attrs, args)?,
            Body::Primitive(p) => self.primitive(v, *p, (def, attrs, args))?,
        }
        Ok(())
    }

    fn view(&mut self, v: Value, def: &OpDef, attrs: &Attrs, args: &[Value]) -> Result<()> {
        let of = self.id(args[0])?;
        let from = match attrs {
            Attrs::Perm(perm) => From::Perm { of, perm: perm.clone() },
            Attrs::Slice { axis, start, len, step } => {
                let (start, len) = (self.dim(*start), self.dim(*len));
                From::Slice { of, axis: *axis, start, len, step: *step as usize }
            }
            Attrs::Shape(_) if def.is(&op::BROADCAST) => From::Broadcast { of },
            Attrs::Shape(_) => From::Reshape { of },
            _ => return Err(wrong(def, attrs)),
        };
        let copies = matches!(from, From::Reshape { .. });
        let out = self.result(from, v);
        if copies {
            self.emit(Op::Copy { from: of }, out, v);
        }
        Ok(())
    }

    /// Keys or values that are a state's rows and nothing else's: the state may lie as attention likes it.
    fn heads(&mut self, v: Value, keys: bool) -> Result<Kv> {
        let shape = &self.graph.node(v).ty.shape;
        let (heads, width) = (shape[2].known().unwrap_or(0) as usize, shape[3].known().unwrap_or(0) as usize);
        let fits = |path: &[(&str, &Attrs)]| match path {
            [("reshape", _), ("slice", Attrs::Slice { axis: 0, start, step: 1, .. }), ("append", _)] => start.is(0),
            _ => false,
        };
        self.state_of(v, (heads, width, keys), shape[0].is(1), fits)
    }

    /// The same of a pool of pages, which hold whole panels.
    fn pool(&mut self, v: Value, keys: bool, page: usize) -> Result<Kv> {
        let shape = &self.graph.node(v).ty.shape;
        let (heads, width) = (shape[1].known().unwrap_or(0) as usize, shape[2].known().unwrap_or(0) as usize);
        let fits = |path: &[(&str, &Attrs)]| matches!(path, [("reshape", _), ("append", _)] | [("append", _)]);
        self.state_of(v, (heads, width, keys), page.is_multiple_of(LANES), fits)
    }

    /// Where a path from attention back to a state has nothing but what `fits` allows, the state lies by heads. One that is read behind others (three
    /// steps) is rounded with what products round; pools are of the type that they are to be kept in.
    fn state_of(
        &mut self,
        v: Value,
        (heads, width, keys): (usize, usize, bool),
        may: bool,
        fits: impl Fn(&[(&str, &Attrs)]) -> bool,
    ) -> Result<Kv> {
        let id = self.id(v)?;
        let mut at = v;
        let mut path = vec![];
        while let Source::Op { def, attrs, args } = &self.graph.node(at).source {
            if self.uses[at.0 as usize] != 1 || args.is_empty() {
                break;
            }
            path.push((def.name, attrs));
            at = args[0];
        }
        let known = self.ids.get(&at).map(|id| &self.p.vals[*id].from);
        let (Some(From::State(state)), true) = (known, self.uses[at.0 as usize] == 1) else {
            return Ok(Kv::Value(self.dense(id)));
        };
        let state = *state;
        let ty = &self.graph.node(at).ty;
        let row: Option<i64> = ty.shape.iter().skip(1).map(|d| d.known()).product();
        let rows = ty.shape.rank() > 1 && row == Some((heads * width) as i64);
        let kept = match ty.dtype {
            DType::F32 if self.precision == Precision::Int8 && path.len() > 2 => Some(Kept::F16),
            DType::F32 => Some(Kept::F32),
            DType::F16 => Some(Kept::F16),
            blocks if Kept::is_scaled(blocks) && width.is_multiple_of(blocks.block()) => Some(Kept::Scaled),
            _ => None,
        };
        let Some(kept) = kept.filter(|_| may && fits(&path) && rows && width > 0 && width.is_multiple_of(LANES)) else {
            return Ok(Kv::Value(self.dense(id)));
        };
        self.p.states[state].layout = Layout::Heads { keys, heads, width, kept };
        Ok(Kv::State(state, id))
    }

    /// Refuses states that are to keep less than f32 where they cannot lie by heads: they would lie in words.
    fn check_states(&self) -> Result<()> {
        for instr in &self.p.instrs {
            let Op::Append { state, rows, .. } = instr.op else { continue };
            let (s, given) = (&self.p.states[state], self.p.vals[rows].dtype);
            if s.ty.dtype != given && s.layout == Layout::Plain {
                let what = format!(
                    "keeps rows in {}: that needs whole pages of {LANES} rows, and heads of whole blocks of {} elements; leave f32",
                    s.ty.dtype,
                    s.ty.dtype.block().max(LANES)
                );
                return Err(Error::op("append", &s.name, what));
            }
        }
        Ok(())
    }

    fn composite(&mut self, v: Value, def: &OpDef, attrs: &Attrs, args: &[Value]) -> Result<()> {
        if let Attrs::Attention(how) = attrs {
            let past = how.causal.map(|d| self.dim(d));
            let (q, k, w) = (self.dense_of(args[0])?, self.heads(args[1], true)?, self.heads(args[2], false)?);
            // A mask is read by its strides, sinks one by one.
            let mask = match args.get(3) {
                Some(sinks) if how.sinks => Some(self.dense_of(*sinks)?),
                Some(mask) => Some(self.id(*mask)?),
                None => None,
            };
            let attention = self.p.instrs.len();
            let parts = self.val(From::Parts { attention }, DType::F32, vec![], v);
            let out = self.result(From::Made, v);
            self.emit(Op::Attention { q, k, v: w, mask, how: *how, past, parts }, out, v);
            self.emit(Op::Merge { attention }, out, v);
            return Ok(());
        }
        if let Attrs::Pages { how, page } = attrs {
            let page = *page as usize;
            let (q, k, w) =
                (self.dense_of(args[0])?, self.pool(args[1], true, page)?, self.pool(args[2], false, page)?);
            let (tables, sequences) = (self.dense_of(args[3])?, self.dense_of(args[4])?);
            let positions = self.dense_of(args[5])?;
            let sinks = args.get(6).map(|s| self.dense_of(*s)).transpose()?;
            let attention = self.p.instrs.len();
            let parts = self.val(From::Parts { attention }, DType::F32, vec![], v);
            let out = self.result(From::Made, v);
            self.emit(Op::Pages { q, k, v: w, tables, sequences, positions, sinks, how: *how, page, parts }, out, v);
            self.emit(Op::Merge { attention }, out, v);
            return Ok(());
        }
        if matches!(&def.body, Body::Composite { fused: Fused::ExpertMatmul, .. }) {
            return self.experts(v, args);
        }
        let ids = args.iter().map(|a| self.dense_of(*a)).collect::<Result<Vec<_>>>()?;
        let fused = match &def.body {
            Body::Composite { fused, .. } => *fused,
            _ => return Err(wrong(def, attrs)),
        };
        let op = match (fused, attrs) {
            (Fused::Softmax, _) => Op::Softmax { x: ids[0], log: false },
            (Fused::LogSoftmax, _) => Op::Softmax { x: ids[0], log: true },
            (Fused::LayerNorm, Attrs::Norm { eps }) => {
                Op::Norm { x: ids[0], w: ids[1], b: Some(ids[2]), eps: *eps, centred: true }
            }
            (Fused::RmsNorm, Attrs::Norm { eps }) => {
                Op::Norm { x: ids[0], w: ids[1], b: None, eps: *eps, centred: false }
            }
            (Fused::Parts, Attrs::Rope(layout)) => Op::Rope { x: ids[0], cos: ids[1], sin: ids[2], layout: *layout },
            _ => return Err(wrong(def, attrs)),
        };
        let out = self.result(From::Made, v);
        self.emit(op, out, v);
        Ok(())
    }

    fn experts(&mut self, v: Value, args: &[Value]) -> Result<()> {
        let (x, table, first) = (self.dense_of(args[0])?, self.id(args[1])?, self.dense_of(args[2])?);
        let (table, mut bytes) = (self.table(table), None);
        if let (Table::Packed(w), Precision::Int8) = (table, self.precision)
            && Form::of(self.p.weights[w].ty.dtype).is_some_and(Form::is_quantised)
        {
            bytes = Some(self.in_bytes(x, v));
        }
        let out = self.result(From::Made, v);
        self.emit(Op::Experts { x, bytes, table, first }, out, v);
        Ok(())
    }

    fn table(&mut self, table: Id) -> Table {
        match self.p.vals[table].from {
            From::Weight(w) if self.p.weights[w].packed => Table::Packed(w),
            _ => Table::Value(self.dense(table)),
        }
    }

    /// Whether a matrix is used, and row by row by all that use it: products with its transpose, gathers, experts.
    fn is_read_by_rows(&self, v: Value) -> bool {
        let by_rows = |n: &Node| match (&n.source, n.args()) {
            (Source::Op { def, attrs, .. }, [x, w, rest @ ..]) if !rest.contains(&v) => match def.name {
                "matmul" => *x != v && *w == v && *attrs == Attrs::Matmul { ta: false, tb: true },
                "gather" => *x == v && *w != v,
                "expert_matmul" => *x != v && *w == v,
                _ => false,
            },
            _ => false,
        };
        let mut users = self.graph.nodes.iter().filter(|n| n.args().contains(&v)).peekable();
        users.peek().is_some() && users.all(by_rows) && self.graph.outputs.iter().all(|o| o.1 != v)
    }

    fn primitive(&mut self, v: Value, p: Primitive, (def, attrs, args): (&OpDef, &Attrs, &[Value])) -> Result<()> {
        let op = match (p, attrs) {
            (Primitive::Matmul, Attrs::Matmul { ta, tb }) => return self.matmul(v, args, *ta, *tb),
            (Primitive::Reduce(kind), Attrs::Reduce { axes, .. }) => {
                Op::Reduce { x: self.id(args[0])?, axes: axes.clone(), kind }
            }
            (Primitive::Gather, _) => {
                let ids = self.dense_of(args[1])?;
                let table = self.id(args[0])?;
                let table = self.table(table);
                Op::Gather { table, ids }
            }
            (Primitive::ScatterAdd, _) => Op::ScatterAdd { x: self.dense_of(args[0])?, ids: self.dense_of(args[1])? },
            (Primitive::DeltaRule, _) => {
                let ids = args.iter().map(|a| self.dense_of(*a)).collect::<Result<Vec<_>>>()?;
                Op::Delta { operands: ids.try_into().map_err(|_| wrong(def, attrs))? }
            }
            (Primitive::Concat, Attrs::Axis(axis)) => {
                let args = args.iter().map(|a| self.dense_of(*a)).collect::<Result<_>>()?;
                Op::Concat { axis: *axis, args }
            }
            (Primitive::Pad, Attrs::Pad { axis, before, value, .. }) => {
                Op::Pad { x: self.dense_of(args[0])?, axis: *axis, before: *before, value: *value }
            }
            (Primitive::Cast, _) => Op::Cast { x: self.dense_of(args[0])? },
            (Primitive::Iota, Attrs::Iota { axis, start, .. }) => Op::Iota { axis: *axis, start: self.dim(*start) },
            (Primitive::Append, Attrs::Append { at }) => {
                let (of, rows) = (self.id(args[0])?, self.dense_of(args[1])?);
                let at = match args.get(2) {
                    Some(ids) => At::Ids(self.dense_of(*ids)?),
                    None => At::Behind(self.dim(*at)),
                };
                let From::State(state) = self.p.vals[of].from else { return Err(wrong(def, attrs)) };
                let out = self.result(From::Alias { of }, v);
                self.emit(Op::Append { state, rows, at }, out, v);
                return Ok(());
            }
            (Primitive::Assign, _) => return self.assign(v, args),
            _ => return Err(wrong(def, attrs)),
        };
        let out = self.result(From::Made, v);
        self.emit(op, out, v);
        Ok(())
    }

    /// The state takes its new contents at the step's end: whoever reads the result reads what it is made of.
    fn assign(&mut self, v: Value, args: &[Value]) -> Result<()> {
        let (of, mut x) = (self.id(args[0])?, self.dense_of(args[1])?);
        let From::State(state) = self.p.vals[of].from else {
            return Err(Error::op("assign", "", "its first operand is no state"));
        };
        let mut base = x;
        while let Some(of) = self.p.base(base) {
            base = of;
        }
        if matches!(self.p.vals[base].from, From::State(_)) {
            // Another state's contents, which may be replaced before this one's are.
            let val = self.p.vals[x].clone();
            let copy = self.val(From::Made, val.dtype, val.shape, v);
            self.emit(Op::Copy { from: x }, copy, v);
            x = copy;
        }
        let out = self.result(From::Alias { of: x }, v);
        self.assigns.push(Instr { op: Op::Assign { state, x }, out, node: v });
        Ok(())
    }

    fn matmul(&mut self, v: Value, args: &[Value], ta: bool, tb: bool) -> Result<()> {
        let weight = self.id(args[1])?;
        if let From::Weight(weight) = self.p.vals[weight].from
            && self.p.weights[weight].packed
        {
            let x = self.dense_of(args[0])?;
            self.pending.push(Pending { node: v, x, weight, then: vec![] });
            if !self.fuse {
                self.flush(self.pending.len() - 1);
            }
            return Ok(());
        }
        let a = self.swapped(args[0], ta)?;
        let b = self.swapped(args[1], tb)?;
        let out = self.result(From::Made, v);
        self.emit(Op::Matmul { a, b }, out, v);
        Ok(())
    }

    /// The operand of a product with its last two axes in place.
    fn swapped(&mut self, v: Value, swap: bool) -> Result<Id> {
        let of = self.id(v)?;
        if !swap {
            return Ok(of);
        }
        let Type { dtype, .. } = self.graph.node(v).ty;
        let mut shape = self.p.vals[of].shape.clone();
        let n = shape.len();
        let mut perm: Vec<usize> = (0..n).collect();
        perm.swap(n - 1, n - 2);
        shape.swap(n - 1, n - 2);
        Ok(self.val(From::Perm { of, perm }, dtype, shape, v))
    }
}

fn wrong(def: &OpDef, attrs: &Attrs) -> Error {
    Error::op(def.name, "", format!("got the wrong attributes: {attrs:?}"))
}

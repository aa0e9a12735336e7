//! The graph: an arena of nodes in the order they were added, so every operand comes before its user.

mod attend;
mod builder;
mod einsum;
mod expand;
mod grad;
mod index;
mod optimiser;
mod rewrite;
mod shape;
mod text;

pub use crate::op::{Attention, RopeLayout, Window};
pub use builder::{GraphBuilder, Paged, Recurrence, Tensor};
pub use optimiser::{Optimiser, Parameters, Zero};
pub use rewrite::{Renamed, Rewritten};

use crate::base::{Bindings, Cut, DType, Dim, Error, MeshAxis, Part, Placement, Result, Shape, Type};
use crate::op::{APPEND, ASSIGN, Attrs, Body, Build, OpDef, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where a node's value comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// Given anew each step.
    Input,
    /// Read once from the model file: the named tensors, or pieces of them, one after another along axis 0.
    Weight {
        parts: Vec<Part>,
    },
    /// Outlives the step; zeros at first; written by `append` and `assign`.
    State,
    /// One f32 number.
    Const(f32),
    /// Literal f32 elements.
    Data(Arc<[f32]>),
    Op {
        def: &'static OpDef,
        attrs: Attrs,
        args: Vec<Value>,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub source: Source,
    pub ty: Type,
    /// Where in the model this is, for people: inputs and states by their own name, ops by their place.
    pub name: String,
    /// The layer that it belongs to: pipeline stages end between layers.
    pub layer: u32,
}

/// How a value should lie along a mesh axis, stated by whoever built the graph. Without the axis in the mesh it means nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Hint {
    pub value: Value,
    pub over: MeshAxis,
    pub placement: Placement,
    pub cut: Cut,
}

impl Node {
    pub fn args(&self) -> &[Value] {
        match &self.source {
            Source::Op { args, .. } => args,
            _ => &[],
        }
    }
    pub fn def(&self) -> Option<&'static OpDef> {
        match &self.source {
            Source::Op { def, .. } => Some(def),
            _ => None,
        }
    }
    pub fn is_view(&self) -> bool {
        self.def().is_some_and(|d| matches!(d.body, Body::View))
    }
    /// Whether it writes a state.
    pub fn writes(&self) -> bool {
        self.def().is_some_and(|d| d.is(&APPEND) || d.is(&ASSIGN))
    }
    /// The op's name, or the kind of source.
    pub fn kind(&self) -> &'static str {
        match &self.source {
            Source::Input => "input",
            Source::Weight { .. } => "weight",
            Source::State => "state",
            Source::Const(_) => "const",
            Source::Data(_) => "data",
            Source::Op { def, .. } => def.name,
        }
    }
}

/// A computation: nodes and named outputs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Graph {
    /// In the order in which they were added: operands come before their users.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub nodes: Vec<Node>,
    /// Named results.
    pub outputs: Vec<(String, Value)>,
    /// What was stated of how values lie along mesh axes.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub hints: Vec<Hint>,
    place: String,
    layer: u32,
    /// Bounds of the variables in it, by name.
    variables: BTreeMap<&'static str, u32>,
}

/// Elements along one axis: kernels count in 32 bits.
const MAX_AXIS: i64 = u32::MAX as i64;

impl Graph {
    /// The node of a handle.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn node(&self, v: Value) -> &Node {
        &self.nodes[v.0 as usize]
    }
    /// All handles, in the order of nodes.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn values(&self) -> impl Iterator<Item = Value> + use<> {
        (0..self.nodes.len() as u32).map(Value)
    }
    /// The input of this name.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn find_input(&self, name: &str) -> Option<Value> {
        self.values().find(|v| self.node(*v).name == name && self.node(*v).source == Source::Input)
    }
    /// How often each node is used, outputs counted.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn uses(&self) -> Vec<usize> {
        let mut uses = vec![0; self.nodes.len()];
        let used = self.nodes.iter().flat_map(Node::args).chain(self.outputs.iter().map(|o| &o.1));
        used.for_each(|v| uses[v.0 as usize] += 1);
        uses
    }
    /// The nodes that use each node, in their order: one walk for whoever asks of many.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn all_users(&self) -> Vec<Vec<Value>> {
        let mut users: Vec<Vec<Value>> = vec![vec![]; self.nodes.len()];
        for u in self.values() {
            for v in self.node(u).args() {
                let of = &mut users[v.0 as usize];
                if of.last() != Some(&u) {
                    of.push(u);
                }
            }
        }
        users
    }
    fn users(&self, v: Value) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(move |n| n.args().contains(&v))
    }
    /// Whether a value is used, but only on the right of products and as the table of gathers.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn is_right_or_table(&self, v: Value) -> bool {
        let fits = |n: &Node| match n.kind() {
            "matmul" => n.args()[0] != v,
            "gather" => n.args()[1] != v,
            _ => false,
        };
        self.users(v).next().is_some() && self.users(v).all(fits) && self.outputs.iter().all(|o| o.1 != v)
    }
    /// Whether whatever uses a matrix uses it row by row: products with its transpose, and gathers of its rows.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn is_read_by_rows(&self, matrix: Value) -> bool {
        let across = |n: &Node| {
            matches!(
                n.source,
                Source::Op { attrs: Attrs::Matmul { ta: true, .. } | Attrs::Matmul { tb: false, .. }, .. }
            )
        };
        self.node(matrix).ty.shape.rank() == 2 && self.is_right_or_table(matrix) && !self.users(matrix).any(across)
    }
    /// Every variable at its bound: the largest step.
    pub fn largest(&self) -> Bindings {
        let mut out = Bindings::new();
        let vars =
            self.nodes.iter().flat_map(|n| n.ty.shape.iter().flat_map(|d| d.terms()).map(|t| t.0).collect::<Vec<_>>());
        vars.filter(|v| !v.is_local()).for_each(|v| out.set(v.name, v.max as u64));
        out
    }
    /// Names the part of the model that following ops belong to.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn set_place(&mut self, place: impl Into<String>) {
        self.place = place.into();
    }
    /// Names the layer that following nodes belong to; the first is 0.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn set_layer(&mut self, layer: u32) {
        self.layer = layer;
    }
    /// The layer that following nodes belong to.
    pub fn current_layer(&self) -> u32 {
        self.layer
    }
    /// States how a value should lie along a mesh axis.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn hint(&mut self, value: Value, over: MeshAxis, placement: Placement, cut: Cut) {
        self.hints.push(Hint { value, over, placement, cut });
    }

    /// Adds a node that is known to be right; passes of the planner do.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn push(&mut self, source: Source, ty: Type, name: impl Into<String>) -> Value {
        for (v, _) in ty.shape.iter().flat_map(Dim::terms) {
            self.variables.entry(v.name).or_insert(v.max);
        }
        self.nodes.push(Node { source, ty, name: name.into(), layer: self.layer });
        Value(self.nodes.len() as u32 - 1)
    }
    /// Adds an input, weight, state or literal; a name may be used once a kind.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn source(&mut self, source: Source, ty: Type, name: &str) -> Result<Value> {
        let kind = std::mem::discriminant(&source);
        if name.is_empty() || self.nodes.iter().any(|n| n.name == name && std::mem::discriminant(&n.source) == kind) {
            return Err(Error::op("graph", name, "this name is empty or taken by another of its kind"));
        }
        self.check_dims(ty.shape.iter(), &ty).map_err(|what| Error::op("graph", name, what))?;
        if let Source::Data(data) = &source {
            let count = ty.shape.known().map(|d| d.iter().product::<usize>());
            if count != Some(data.len()) || ty.dtype != DType::F32 {
                return Err(Error::op("data", name, format!("{} elements do not fill {ty}", data.len())));
            }
        }
        Ok(self.push(source, ty, name))
    }
    /// Names a result. A name may be used once.
    pub fn output(&mut self, name: &str, v: Value) -> Result<()> {
        if self.outputs.iter().any(|(n, _)| n == name) {
            return Err(Error::op("output", name, "this name is taken"));
        }
        self.outputs.push((name.into(), v));
        Ok(())
    }
}

impl Build for Graph {
    fn apply(&mut self, def: &'static OpDef, attrs: Attrs, args: &[Value]) -> Result<Value> {
        let types: Vec<Type> = args.iter().map(|a| self.node(*a).ty.clone()).collect();
        let name = if self.place.is_empty() { self.made_by(def, args) } else { self.place.clone() };
        let ty = (def.rule)(&attrs, &types).map_err(|e| e.at_node(&name))?;
        let dims = ty.shape.iter().copied().chain(attrs.places()).collect::<Vec<_>>();
        self.check_dims(dims.iter(), &ty).map_err(|what| Error::op(def.name, &name, what))?;
        if def.is(&APPEND) {
            self.check_append(args, &name)?;
        }
        self.check_written(def, args, &name)?;
        Ok(self.push(Source::Op { def, attrs, args: args.to_vec() }, ty, name))
    }
    fn ty(&self, v: Value) -> Type {
        self.node(v).ty.clone()
    }
    fn constant(&mut self, x: f32) -> Value {
        let same = |n: &Node| matches!(n.source, Source::Const(y) if y.to_bits() == x.to_bits());
        match self.nodes.iter().position(same) {
            Some(at) => Value(at as u32),
            None => self.push(Source::Const(x), Type::f32(Shape::default()), format!("{x}")),
        }
    }
}

impl Graph {
    /// Why dimensions of a node of type `ty` cannot be planned.
    fn check_dims<'a>(&self, dims: impl Iterator<Item = &'a Dim>, ty: &Type) -> Result<(), String> {
        for d in dims {
            if d.bound() > MAX_AXIS {
                return Err(format!(
                    "{ty} has an axis of up to {} elements, at most {MAX_AXIS} can be counted",
                    d.bound()
                ));
            }
            for (v, _) in d.terms() {
                if let Some(max) = self.variables.get(v.name).filter(|max| **max != v.max) {
                    let what = format!("variable {} is bounded by {} here and by {max} before", v.name, v.max);
                    return Err(format!("{what}: give it one bound in a graph"));
                }
            }
        }
        Ok(())
    }

    /// What a node outside of any place is called: its op and its operands, `gelu(matmul(x, w))`; long operands by their
    /// op alone.
    fn made_by(&self, def: &OpDef, args: &[Value]) -> String {
        const LONG: usize = 32;
        const MANY: usize = 4;
        let mut operands: Vec<&str> = args
            .iter()
            .take(MANY)
            .map(|a| match self.node(*a) {
                node if node.def().is_some() && node.name.len() > LONG => node.kind(),
                node => &node.name,
            })
            .collect();
        operands.extend((args.len() > MANY).then_some("…"));
        format!("{}({})", def.name, operands.join(", "))
    }
    /// What a value is called.
    fn name_of(&self, v: Value) -> String {
        self.node(v).name.clone()
    }

    /// A state is assigned by whoever has it, and not read afterwards.
    fn check_written(&self, def: &OpDef, args: &[Value], name: &str) -> Result<()> {
        if let (true, Some(state)) = (def.is(&ASSIGN), args.first().map(|a| self.node(*a)))
            && state.source != Source::State
        {
            return Err(Error::op(
                "assign",
                name,
                format!("\"{}\" is {}, it must be a state", state.name, state.kind()),
            ));
        }
        for a in args.iter().filter(|a| self.node(**a).source == Source::State) {
            if self.nodes.iter().any(|n| n.writes() && n.args()[0] == *a) {
                return Err(Error::op(
                    def.name,
                    name,
                    format!("state \"{}\" was written before: read the result of that instead", self.node(*a).name),
                ));
            }
        }
        Ok(())
    }

    /// `append` writes in place, so it may follow only a state that nothing has read or written before. Where ids say which rows
    /// are replaced, ops may have read the old ones: all but views, which would see the new.
    fn check_append(&self, args: &[Value], name: &str) -> Result<()> {
        let state = args[0];
        let node = self.node(state);
        if node.source != Source::State {
            return Err(Error::op("append", name, format!("\"{}\" is {}, it must be a state", node.name, node.kind())));
        }
        let writes = |n: &Node| n.def().is_some_and(|d| d.is(&crate::op::APPEND) || d.is(&crate::op::ASSIGN));
        let late = |n: &Node| args.len() < 3 || n.is_view() || writes(n);
        if self.nodes.iter().any(|n| n.args().contains(&state) && late(n)) {
            return Err(Error::op(
                "append",
                name,
                format!("state \"{}\" was read or written before: append first, then read the result", node.name),
            ));
        }
        Ok(())
    }
}

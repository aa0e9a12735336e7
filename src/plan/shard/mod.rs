//! Graph → the graph of each rank of a mesh, with collectives as ordinary ops.
//!
//! One pass forward. Each value has a placement along every axis of the mesh; each op takes the strategy of its table
//! entry that moves the fewest bytes from where its operands are (the idea of GSPMD: Xu et al., 2021). What is stated
//! in the graph ([`crate::graph::Hint`]) is obeyed. `choose` picks strategies, `convert` moves values between
//! placements, `local` writes the op that a rank runs on its pieces, `stages` cuts the result into pipeline stages.
//!
//! All numbers that differ between ranks with pieces of one size are variables ([`Local`]), so that such ranks share
//! one graph and one plan: a class.

mod choose;
mod convert;
mod local;
mod stages;

use crate::base::{
    Array, Bindings, Cut, Dim, ELSEWHERE, Error, Local, LocalKind, MeshAxis, Part, PartSplit, Placement, Result, Seat,
    Type, Var, take,
};
use crate::graph::{Graph, Source};
use crate::op::{Attrs, Body, Build, Fused, OpDef, Value};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

/// A placement along one mesh axis, and whose piece is which.
pub type Placed = (Placement, Cut);

/// A graph sharded over a mesh.
#[derive(Debug, Clone, PartialEq)]
pub struct Sharded {
    pub axes: Vec<(MeshAxis, usize)>,
    pub classes: Vec<Class>,
    /// The class of each rank.
    pub class_of: Vec<usize>,
    pub seats: Vec<Seat>,
    /// What became of each value, for people: a line a node.
    pub explained: Vec<String>,
    /// The pipeline stage of each layer.
    pub stage_of_layer: BTreeMap<u32, usize>,
}

/// Ranks that play the same part: one graph, other numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Class {
    pub graph: Graph,
    pub locals: Vec<Local>,
    /// How the whole value of each input lies.
    pub inputs: Vec<InputPieces>,
    /// How the whole contents of each state lie.
    pub states: Vec<InputPieces>,
    /// The pipeline stage.
    pub stage: usize,
}

/// How an input or a state is given out.
#[derive(Debug, Clone, PartialEq)]
pub struct InputPieces {
    pub name: String,
    pub ty: Type,
    pub splits: Vec<(MeshAxis, usize, Placement, Cut)>,
}

/// Shards `graph` over the axes of a mesh, outermost first: ranks count along the last axis fastest.
///
/// # Errors
/// Axes given twice; a dim too small for its cut; stated placements that contradict each other or the op.
pub fn shard(graph: &Graph, axes: &[(MeshAxis, usize)]) -> Result<Sharded> {
    let pipeline = axes.iter().find(|a| a.0 == MeshAxis::Pipeline).map_or(1, |a| a.1);
    shard_in_stages(graph, axes, stages::balance(graph, pipeline)?)
}

/// Like [`shard`], with given pipeline stages: graphs that share states must be cut between the same layers.
pub fn shard_in_stages(
    graph: &Graph,
    axes: &[(MeshAxis, usize)],
    stage_of_layer: BTreeMap<u32, usize>,
) -> Result<Sharded> {
    check_axes(axes)?;
    let seats = seats(axes);
    let splitting: Vec<(MeshAxis, usize)> = axes.iter().copied().filter(|a| a.0 != MeshAxis::Pipeline).collect();
    let first = Sharder::run(graph, &splitting, &Seat::default())?;
    let pipeline = axes.iter().find(|a| a.0 == MeshAxis::Pipeline).map_or(1, |a| a.1);
    let mut out = Sharded {
        axes: axes.to_vec(),
        classes: vec![],
        class_of: vec![],
        seats,
        explained: first.explained.clone(),
        stage_of_layer,
    };
    let mut known: HashMap<(usize, Vec<u64>), usize> = HashMap::new();
    let mut whole: HashMap<Vec<u64>, Sharder> = HashMap::new();
    for seat in out.seats.clone() {
        let stage = seat.index(MeshAxis::Pipeline);
        let sizes = first.sizes(&seat);
        let class = match known.get(&(stage, sizes.clone())) {
            Some(class) => *class,
            None => {
                if !whole.contains_key(&sizes) {
                    whole.insert(sizes.clone(), Sharder::run(graph, &splitting, &seat)?);
                }
                let all = &whole[&sizes];
                let graph = if pipeline == 1 {
                    all.out.clone()
                } else {
                    stages::cut(&all.out, &out.stage_of_layer, stage, pipeline)?
                };
                let here = |i: &&InputPieces| graph.find_input(&i.name).is_some();
                let inputs = all.inputs.iter().filter(here).cloned().collect();
                let here = |s: &&InputPieces| graph.nodes.iter().any(|n| n.source == Source::State && n.name == s.name);
                let states = all.states.iter().filter(here).cloned().collect();
                out.classes.push(Class { graph, locals: all.locals.clone(), inputs, states, stage });
                known.insert((stage, sizes), out.classes.len() - 1);
                out.classes.len() - 1
            }
        };
        out.class_of.push(class);
    }
    Ok(out)
}

fn check_axes(axes: &[(MeshAxis, usize)]) -> Result<()> {
    for (i, (axis, n)) in axes.iter().enumerate() {
        if axes[..i].iter().any(|a| a.0 == *axis) {
            return Err(Error::usage(format!("mesh axis {axis} is given twice")));
        }
        if *n == 0 {
            return Err(Error::usage(format!("mesh axis {axis} has 0 ranks, it needs 1 or more")));
        }
    }
    Ok(())
}

/// Every rank's seat.
pub fn seats(axes: &[(MeshAxis, usize)]) -> Vec<Seat> {
    let ranks: usize = axes.iter().map(|a| a.1).product();
    let seat = |rank: usize| {
        let mut rest = rank;
        let mut index: Vec<(MeshAxis, usize, usize)> = axes
            .iter()
            .rev()
            .map(|(a, n)| {
                (*a, *n, {
                    let i = rest % n;
                    rest /= n;
                    i
                })
            })
            .collect();
        index.reverse();
        Seat::new(index)
    };
    (0..ranks).map(seat).collect()
}

impl Sharded {
    pub fn ranks(&self) -> usize {
        self.seats.len()
    }
    pub fn class(&self, rank: usize) -> &Class {
        &self.classes[self.class_of[rank]]
    }
    /// The ranks that differ from this one only along `axis`, in order.
    pub fn group(&self, rank: usize, axis: MeshAxis) -> Vec<usize> {
        let seat = &self.seats[rank];
        let same = |i: usize| self.seats.iter().position(|s| *s == seat.moved(axis, i));
        (0..seat.ways(axis)).filter_map(same).collect()
    }
    /// The step's bindings with the rank's own numbers.
    pub fn bindings(&self, rank: usize, bindings: &Bindings) -> Result<Bindings> {
        let mut out = bindings.clone();
        for local in &self.class(rank).locals {
            out.set(local.var.name, local.value(bindings, &self.seats[rank])?);
        }
        Ok(out)
    }
    /// The rank's pieces of the step's inputs.
    pub fn inputs<'a>(
        &self,
        rank: usize,
        bindings: &Bindings,
        inputs: &[(&'a str, Array)],
    ) -> Result<Vec<(&'a str, Array)>> {
        self.pieces(rank, &self.class(rank).inputs, bindings, inputs)
    }
    /// The rank's pieces of states' whole contents, for those that it has.
    ///
    /// # Errors
    /// A state in stripes: it is filled by appending.
    pub fn states<'a>(&self, rank: usize, contents: &[(&'a str, Array)]) -> Result<Vec<(&'a str, Array)>> {
        let states = &self.class(rank).states;
        let striped =
            |s: &&InputPieces| s.splits.iter().any(|x| x.3.is_stripe()) && contents.iter().any(|c| c.0 == s.name);
        if let Some(s) = states.iter().find(striped) {
            return Err(Error::op("shard", &s.name, "lies in stripes: it is filled by appending, not set"));
        }
        self.pieces(rank, states, &Bindings::new(), contents)
    }
    fn pieces<'a>(
        &self,
        rank: usize,
        lie: &[InputPieces],
        bindings: &Bindings,
        whole: &[(&'a str, Array)],
    ) -> Result<Vec<(&'a str, Array)>> {
        let mut out = vec![];
        for (name, array) in whole {
            let Some(pieces) = lie.iter().find(|i| i.name == *name) else { continue };
            let mut array = array.clone();
            for (over, ways, placement, cut) in &pieces.splits {
                let Placement::Split(axis) = placement else { continue };
                let len = array.shape.get(*axis).copied().unwrap_or(0) as u64;
                array = take(&array, *axis, &cut.indices(len, bindings, *ways, self.seats[rank].index(*over))?);
            }
            out.push((*name, array));
        }
        Ok(out)
    }
    /// What became of each value, and why.
    pub fn explain(&self) -> String {
        self.explained.join("\n") + "\n"
    }
}

/// A value of the whole graph as one rank holds it.
#[derive(Clone)]
pub(super) struct Held {
    local: Value,
    /// Type of the whole.
    ty: Type,
    /// One for each axis.
    placed: Vec<Placed>,
}

/// Writes a rank's graph. [`Value`]s given to ops are indices into `held`.
pub(super) struct Sharder {
    axes: Vec<(MeshAxis, usize)>,
    seat: Seat,
    out: Graph,
    held: Vec<Held>,
    locals: Vec<Local>,
    inputs: Vec<InputPieces>,
    states: Vec<InputPieces>,
    /// Cuts of known dims, whose sizes make ranks differ: (axis, length, cut).
    cuts: Vec<(usize, u64, Cut)>,
    /// Copies of values under other placements.
    copies: HashMap<(Value, usize, Placed), Value>,
    explained: Vec<String>,
    /// Collectives put in for the node at hand, and what the next is for.
    moved: Vec<String>,
    why: String,
    tag: u32,
    /// What the node at hand is asked to be.
    wanted: Vec<(usize, Placed)>,
}

impl Sharder {
    fn run(graph: &Graph, axes: &[(MeshAxis, usize)], seat: &Seat) -> Result<Sharder> {
        let mut s = Sharder {
            axes: axes.to_vec(),
            seat: seat.clone(),
            out: Graph::default(),
            held: vec![],
            locals: vec![],
            inputs: vec![],
            states: vec![],
            cuts: vec![],
            copies: HashMap::new(),
            explained: vec![],
            moved: vec![],
            why: String::new(),
            tag: 0,
            wanted: vec![],
        };
        let mut map: HashMap<Value, Value> = HashMap::new();
        for v in graph.values() {
            let node = graph.node(v);
            s.out.set_place(node.name.clone());
            s.out.set_layer(node.layer);
            s.wanted = s.hints(graph, v)?;
            let new = match &node.source {
                Source::Op { def, attrs, args } => {
                    let args: Vec<Value> = args.iter().map(|a| map[a]).collect();
                    let y = s.apply(def, attrs.clone(), &args).map_err(|e| e.at_node(&node.name))?;
                    let mut y = y;
                    for (axis, placed) in s.wanted.clone() {
                        y = s.convert(y, axis, placed)?;
                    }
                    y
                }
                _ => s.source(graph, v)?,
            };
            s.explain(node.kind(), &node.name, new);
            map.insert(v, new);
        }
        s.out.set_place("output");
        for (name, v) in &graph.outputs {
            let mut y = map[v];
            for axis in 0..s.axes.len() {
                y = s.convert(y, axis, (Placement::Whole, Cut::ONES))?;
            }
            let local = s.held[y.0 as usize].local;
            s.out.output(name, local)?;
            s.explain("output", name, y);
        }
        Ok(s)
    }

    /// What the graph states of a node.
    fn hints(&self, graph: &Graph, v: Value) -> Result<Vec<(usize, Placed)>> {
        let mut out: Vec<(usize, Placed)> = vec![];
        for h in graph.hints.iter().filter(|h| h.value == v) {
            let Some(axis) = self.axes.iter().position(|a| a.0 == h.over) else { continue };
            let name = &graph.node(v).name;
            let cut = whole_groups(h.cut, self.axes[axis].1);
            if let Placement::Split(dim) = h.placement {
                if dim >= graph.node(v).ty.shape.rank() {
                    return Err(Error::op(
                        graph.node(v).kind(),
                        name,
                        format!("is to be split along axis {dim}, it is {}", graph.node(v).ty.shape),
                    ));
                }
                if let Some((other, _)) = out
                    .iter()
                    .find(|(a, p)| *a != axis && p.0 == h.placement && self.axes[*a].1 > 1 && self.axes[axis].1 > 1)
                {
                    let what = format!(
                        "is to be split along axis {dim} by {} and by {}: placements contradict each other",
                        self.axes[*other].0, h.over
                    );
                    return Err(Error::op(graph.node(v).kind(), name, what));
                }
            }
            if let Some((_, other)) = out.iter().find(|(a, p)| *a == axis && *p != (h.placement, cut)) {
                let what = format!(
                    "is to be {} and {} along {}: placements contradict each other",
                    other.0, h.placement, h.over
                );
                return Err(Error::op(graph.node(v).kind(), name, what));
            }
            // The keys of one group are everybody's.
            let placed = if matches!(h.cut, Cut::Key { groups: 1, .. }) {
                (Placement::Whole, Cut::ONES)
            } else {
                (h.placement, cut)
            };
            out.push((axis, placed));
        }
        Ok(out)
    }

    /// An input, weight, state or literal, placed as stated.
    fn source(&mut self, graph: &Graph, v: Value) -> Result<Value> {
        let node = graph.node(v);
        let mut placed = vec![(Placement::Whole, Cut::ONES); self.axes.len()];
        for (axis, p) in self.wanted.clone() {
            placed[axis] = p;
        }
        let mut ty = self.local_type(&node.ty, &placed, &node.name)?;
        let (row, block) = (ty.shape.last().and_then(|d| d.known()).unwrap_or(0), node.ty.dtype.block() as i64);
        if row % block != 0 {
            return Err(Error::op(
                node.kind(),
                &node.name,
                format!("is {}, its rows cannot be cut to {row}: blocks of {block} stay whole", node.ty),
            ));
        }
        for ((_, ways), (placement, cut)) in self.axes.iter().zip(&placed) {
            // A state in stripes: everyone has room for the most.
            if let (Source::State, Placement::Split(dim), true) = (&node.source, placement, cut.is_stripe()) {
                ty.shape.0[*dim] = cut.bound(node.ty.shape[*dim].bound().max(0) as u64, *ways).into();
            }
        }
        let local = match &node.source {
            Source::Const(x) => self.out.constant(*x),
            Source::Weight { parts } => {
                let parts = parts.iter().map(|p| self.piece(p, &placed)).collect();
                self.out.push(Source::Weight { parts }, ty, node.name.clone())
            }
            Source::Data(_) if placed.iter().any(|p| p.0 != Placement::Whole) => {
                return Err(Error::op(
                    "data",
                    &node.name,
                    "literals lie whole on every rank: do not state a placement",
                ));
            }
            source => self.out.push(source.clone(), ty, node.name.clone()),
        };
        if matches!(node.source, Source::Input | Source::State) {
            let splits = self.axes.iter().zip(&placed).map(|((a, n), (p, c))| (*a, *n, *p, *c)).collect();
            let pieces = InputPieces { name: node.name.clone(), ty: node.ty.clone(), splits };
            if node.source == Source::Input { self.inputs.push(pieces) } else { self.states.push(pieces) }
        }
        Ok(self.hold(Held { local, ty: node.ty.clone(), placed }))
    }

    fn piece(&self, part: &Part, placed: &[Placed]) -> Part {
        let mut out = part.clone();
        for ((over, ways), (placement, cut)) in self.axes.iter().zip(placed) {
            if let (Placement::Split(axis), true) = (placement, *ways > 1) {
                out.splits.push(PartSplit { axis: *axis, over: *over, ways: *ways, cut: *cut });
            }
        }
        out
    }

    fn hold(&mut self, held: Held) -> Value {
        self.held.push(held);
        Value(self.held.len() as u32 - 1)
    }
    fn get(&self, v: Value) -> &Held {
        &self.held[v.0 as usize]
    }

    /// The piece's type.
    fn local_type(&mut self, ty: &Type, placed: &[Placed], name: &str) -> Result<Type> {
        let mut out = ty.clone();
        for (axis, (placement, cut)) in placed.iter().enumerate() {
            if let Placement::Split(dim) = placement {
                out.shape.0[*dim] = self.len(ty.shape[*dim], *cut, axis, name)?;
            }
        }
        Ok(out)
    }

    /// The length of this rank's piece: a number where pieces of known dims are, else a variable.
    fn len(&mut self, whole: Dim, cut: Cut, axis: usize, name: &str) -> Result<Dim> {
        let (over, ways) = self.axes[axis];
        if ways == 1 {
            return Ok(whole);
        }
        match whole.known() {
            Some(n) if !cut.is_stripe() => {
                let n = n.max(0) as u64;
                cut.check(n, over, ways, &format!("an axis of \"{name}\""))?;
                if !self.cuts.contains(&(axis, n, cut)) {
                    self.cuts.push((axis, n, cut));
                }
                let r = cut.range(n, ways, self.seat.index(over));
                Ok((r.end - r.start).into())
            }
            _ => Ok(self.number(axis, cut, whole, LocalKind::Len { before: 0 })),
        }
    }

    /// The first index of this rank's piece.
    fn start(&mut self, whole: Dim, cut: Cut, axis: usize) -> Dim {
        if self.axes[axis].1 == 1 {
            return 0.into();
        }
        self.number(axis, cut, whole, LocalKind::Start)
    }

    /// A variable for a number of the rank.
    fn number(&mut self, axis: usize, cut: Cut, of: Dim, what: LocalKind) -> Dim {
        let (over, ways) = self.axes[axis];
        let bound = of.bound().max(0) as u64;
        let max = match what {
            LocalKind::Len { .. } | LocalKind::LenOf { .. } => cut.bound(bound, ways),
            LocalKind::Start => bound,
            LocalKind::Around { .. } => 1,
            LocalKind::Row { .. } => ELSEWHERE,
        };
        let found = self.locals.iter().find(|l| (l.over, l.cut, l.of, l.what) == (over, cut, of, what));
        if let Some(known) = found {
            return known.var.into();
        }
        let name = match (what, cut) {
            (LocalKind::Len { before }, _) => format!(
                "{over}.len{}({of}){}",
                if before > 0 { format!("-{before}") } else { String::new() },
                cut_name(cut)
            ),
            (LocalKind::LenOf { rank }, _) => format!("{over}.len{rank}({of}){}", cut_name(cut)),
            (LocalKind::Start, _) => format!("{over}.start({of}){}", cut_name(cut)),
            (LocalKind::Around { before }, _) => format!("{over}.around{before}"),
            (LocalKind::Row { index }, _) => format!("{over}.row({index} of {of}){}", cut_name(cut)),
        };
        let var = Var::local(&name, max.min(u32::MAX as u64) as u32);
        self.locals.push(Local { var, over, ways, cut, of, what });
        var.into()
    }

    /// What makes ranks differ: the sizes of their pieces.
    fn sizes(&self, seat: &Seat) -> Vec<u64> {
        let size = |(axis, len, cut): &(usize, u64, Cut)| {
            let (over, ways) = self.axes[*axis];
            let r = cut.range(*len, ways, seat.index(over));
            r.end - r.start
        };
        self.cuts.iter().map(size).collect()
    }

    fn explain(&mut self, kind: &str, name: &str, v: Value) {
        let held = self.get(v);
        let mut line = format!("{:<16} {:<40} {:<24}", kind, name, held.ty.to_string());
        for ((axis, _), (placement, _)) in self.axes.iter().zip(&held.placed) {
            let _ = write!(line, " {axis}:{placement}");
        }
        for moved in std::mem::take(&mut self.moved) {
            let _ = write!(line, "\n    ← {moved}");
        }
        self.explained.push(line);
    }
}

/// Where every rank has whole groups of heads, queries and keys are cut by one rule: an axis of heads may become one of
/// groups then, and back.
fn whole_groups(cut: Cut, ways: usize) -> Cut {
    match cut {
        Cut::Query { groups, each, width } if ways <= groups as usize => Cut::Even { unit: each * width },
        Cut::Key { groups, width, .. } if ways <= groups as usize => Cut::Even { unit: width },
        cut => cut,
    }
}

fn cut_name(cut: Cut) -> String {
    match cut {
        Cut::Even { unit: 1 } => String::new(),
        Cut::Even { unit } => format!("/{unit}"),
        Cut::Query { groups, each, width } => format!("/q{groups}x{each}x{width}"),
        Cut::Key { groups, width, .. } => format!("/k{groups}x{width}"),
        Cut::Stripe { from } => format!("/stripe{from}"),
    }
}

impl Build for Sharder {
    fn apply(&mut self, def: &'static OpDef, attrs: Attrs, args: &[Value]) -> Result<Value> {
        let types: Vec<Type> = args.iter().map(|a| self.get(*a).ty.clone()).collect();
        let ty = (def.rule)(&attrs, &types)?;
        if let Body::Composite { define, fused } = &def.body
            && (*fused == Fused::Parts || self.splits_rows(def, args))
        {
            return define(self, &attrs, args);
        }
        let mut args = args.to_vec();
        let mut placed = vec![];
        for axis in 0..self.axes.len() {
            let choice = self.choose(def, &attrs, (&types, &ty), &args, axis)?;
            for (arg, want) in args.iter_mut().zip(&choice.args) {
                *arg = self.convert(*arg, axis, *want)?;
            }
            placed.push(choice.out);
        }
        self.emit(def, attrs, &args, ty, placed)
    }
    fn ty(&self, v: Value) -> Type {
        self.get(v).ty.clone()
    }
    fn constant(&mut self, x: f32) -> Value {
        let local = self.out.constant(x);
        let placed = vec![(Placement::Whole, Cut::ONES); self.axes.len()];
        self.hold(Held { local, ty: Type::f32(crate::base::Shape::default()), placed })
    }
}

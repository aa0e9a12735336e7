//! Collectives: ops whose operand and result lie on several ranks of a mesh axis. `plan::shard` puts them into a
//! graph; nobody writes them by hand. All of them work on whole rows (indices of axis 0).

use super::case::{f32s, normal, of};
use super::*;
use crate::base::{Combine, Cut, DType, Dim, MeshAxis, TYPICAL};
use std::fmt;

/// What a collective does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Exchange {
    AllReduce,
    AllGather,
    ReduceScatter,
    AllToAll,
    Broadcast,
    Permute,
    Send,
    Receive,
}

/// Among whom, and how the rows lie.
#[derive(Debug, Clone, PartialEq)]
pub struct Collective {
    pub over: MeshAxis,
    /// Ranks along that axis.
    pub ways: usize,
    /// How partial values combine.
    pub combine: Combine,
    /// Which rows are whose, where pieces are taken or put together.
    pub cut: Cut,
    /// Rows of the whole.
    pub rows: Dim,
    /// This rank's result.
    pub to: Type,
    /// Permute: ranks go up by this much. Broadcast: the root. Send, receive: the other stage.
    pub peer: usize,
    /// All-to-all: the axis that is cut afterwards.
    pub other: Option<OtherAxis>,
    /// One number a collective of a graph, the same on all its ranks.
    pub tag: u32,
}

/// The axis that an all-to-all cuts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OtherAxis {
    pub cut: Cut,
    /// Its length.
    pub whole: Dim,
    /// Elements for each pair of indices of the two axes.
    pub rest: Dim,
}

impl fmt::Display for Collective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={} rows={} tag={}", self.over, self.ways, self.rows, self.tag)?;
        if self.peer > 0 { write!(f, " peer={}", self.peer) } else { Ok(()) }
    }
}

macro_rules! collective {
    ($name:literal, $doc:literal, $exchange:expr, $grad:expr, $operands:expr) => {
        OpDef {
            name: $name,
            doc: $doc,
            rule: |attrs, types| collective_rule($name, $exchange, attrs, types),
            shard: shard::none,
            cost: rule::free,
            body: Body::Collective($exchange),
            grad: Grad::Rule($grad),
            within: Within { abs: 1e-6, rel: 1e-6 },
            cases: || cases($operands),
            errors: || errors($operands),
        }
    };
}

ops! {
    ALL_REDUCE = collective!("all_reduce", "The values of all ranks of a mesh axis combined (sum, max or min), on every rank.", Exchange::AllReduce, adjoint::all_reduce, 1);
    ALL_GATHER = collective!("all_gather", "The rows of all ranks one after another, on every rank. Pieces may differ in size.", Exchange::AllGather, adjoint::all_gather, 1);
    REDUCE_SCATTER = collective!("reduce_scatter", "The values of all ranks combined, each rank keeping its own rows.", Exchange::ReduceScatter, adjoint::reduce_scatter, 1);
    ALL_TO_ALL = collective!("all_to_all", "Piece j of rank i's rows becomes piece i of rank j's.", Exchange::AllToAll, adjoint::all_to_all, 1);
    BROADCAST_FROM = collective!("broadcast_from", "One rank's value on every rank of a mesh axis. Ranks other than the root have no operand.", Exchange::Broadcast, adjoint::broadcast_from, 1);
    PERMUTE = collective!("permute", "The value of the rank `peer` places before, around the end: a step of a ring.", Exchange::Permute, adjoint::permute, 1);
    SEND = collective!("send", "Gives a value to the stage `peer`. The result is the operand, for nobody to use.", Exchange::Send, adjoint::send, 1);
    RECEIVE = collective!("receive", "The value that the stage `peer` sends under the same tag.", Exchange::Receive, adjoint::receive, 0);
}

fn collective_rule(op: &str, exchange: Exchange, attrs: &Attrs, types: &[Type]) -> Result<Type> {
    let Attrs::Collective(c) = attrs else { return rule::wrong_attrs(op, attrs) };
    match exchange {
        Exchange::Receive => rule::arity(op, types, 0)?,
        Exchange::Broadcast if types.is_empty() => {}
        _ => rule::arity(op, types, 1)?,
    }
    if c.ways == 0 {
        return rule::err(op, "an axis of 0 ranks");
    }
    let Some(x) = types.first() else { return Ok(c.to.clone()) };
    if x.dtype.is_quantised() || x.dtype.is_narrow() {
        return rule::err(op, format!("operand is {}, 4-byte elements can travel", x.dtype));
    }
    if matches!(exchange, Exchange::AllReduce | Exchange::ReduceScatter) && x.dtype != DType::F32 {
        return rule::err(op, format!("operand is {}, f32 can be combined", x.dtype));
    }
    let moves_rows = matches!(exchange, Exchange::AllGather | Exchange::ReduceScatter | Exchange::AllToAll);
    if moves_rows && (x.shape.rank() == 0 || x.shape.rank() != c.to.shape.rank() || x.shape[1..] != c.to.shape[1..]) {
        return rule::err(op, format!("rows of {} do not become rows of {}", x.shape, c.to.shape));
    }
    Ok(c.to.clone())
}

/// A group of one: tests of several ranks are in tests/shard.rs.
fn alone(ty: &Type) -> Attrs {
    let rows = ty.shape.first().copied().unwrap_or(Dim::new(1));
    Attrs::Collective(Box::new(Collective {
        over: MeshAxis::Tensor,
        ways: 1,
        combine: Combine::Sum,
        cut: Cut::ONES,
        rows,
        to: ty.clone(),
        peer: 0,
        other: None,
        tag: 0,
    }))
}

fn cases(operands: usize) -> Vec<Case> {
    let one = |ty: Type| Case::new(vec![(ty.clone(), Fill::Normal); operands], alone(&ty));
    [normal([3, 5]).0, f32s([17]), f32s([0, 4]), f32s([129, 3])].into_iter().map(one).collect()
}

fn errors(operands: usize) -> Vec<ErrorCase> {
    let attrs = alone(&f32s([2]));
    if operands == 0 {
        return vec![ErrorCase::new(vec![f32s([2])], attrs, "takes 0 operands, got 1")];
    }
    vec![
        ErrorCase::new(vec![of(TYPICAL, [32])], attrs.clone(), "operand is q4_1, 4-byte elements can travel"),
        ErrorCase::new(vec![f32s([2]), f32s([2])], attrs, "takes 1 operand, got 2"),
    ]
}

//! Gradients of collectives: what is to be minimised is the sum of all ranks' losses, so each collective is a linear
//! map over all ranks' values together and its gradient the transposed one. Every rank runs it, whether or not its
//! own loss depends on the result (`graph::grad`).

use super::build::{Build, Value};
use super::*;
use crate::base::{Combine, Error};

/// Tags of collectives on the way back.
const BACK: u32 = 1 << 31;
const TIES: u32 = 1 << 29;

type Gradient = Result<Vec<Option<Value>>>;

/// How the result was made, to be changed into how its gradient is; the tag is the way back's.
fn how(p: &Pull) -> Result<Collective> {
    let Attrs::Collective(c) = p.attrs else { return rule::wrong_attrs("collective", p.attrs) };
    if c.tag & BACK != 0 {
        return Err(Error::op("gradients", "", "a collective of a gradient has no gradient of its own"));
    }
    Ok(Collective { tag: c.tag | BACK, ..(**c).clone() })
}

fn run(b: &mut dyn Build, def: &'static OpDef, c: Collective, x: Value) -> Gradient {
    b.apply(def, Attrs::Collective(Box::new(c)), &[x]).map(|g| vec![Some(g)])
}

/// A sum gives every rank's gradient to every rank. A largest or smallest gives it to the ranks that have it, shared
/// among equals.
pub fn all_reduce(b: &mut dyn Build, p: &Pull) -> Gradient {
    let c = how(p)?;
    let combine = c.combine;
    let c = Collective { combine: Combine::Sum, ..c };
    let up = b.apply(&ALL_REDUCE, Attrs::Collective(Box::new(c.clone())), &[p.up])?;
    if combine == Combine::Sum {
        return Ok(vec![Some(up)]);
    }
    let (zero, one) = (b.constant(0.0), b.constant(1.0));
    let best = b.binary(&EQ, p.args[0], p.out)?;
    let ties = b.apply(&WHERE, Attrs::None, &[best, one, zero])?;
    let c = Collective { tag: c.tag | TIES, ..c };
    let ties = b.apply(&ALL_REDUCE, Attrs::Collective(Box::new(c)), &[ties])?;
    let share = b.binary(&DIV, up, ties)?;
    b.apply(&WHERE, Attrs::None, &[best, share, zero]).map(|g| vec![Some(g)])
}

pub fn all_gather(b: &mut dyn Build, p: &Pull) -> Gradient {
    let c = how(p)?;
    if c.cut.is_stripe() || c.to.shape[0] != c.rows {
        return Err(Error::op(
            "all_gather",
            "",
            "of stripes or of pieces that overlap has no gradient: take the gradient first, then shard",
        ));
    }
    let c = Collective { to: f32_like(b, p.args[0]), ..c };
    run(b, &REDUCE_SCATTER, c, p.up)
}

pub fn reduce_scatter(b: &mut dyn Build, p: &Pull) -> Gradient {
    let c = how(p)?;
    if c.combine != Combine::Sum {
        return Err(Error::op(
            "reduce_scatter",
            "",
            "only sums have a gradient: reduce with all_reduce, then take the rows",
        ));
    }
    let c = Collective { to: f32_like(b, p.args[0]), ..c };
    run(b, &ALL_GATHER, c, p.up)
}

/// The exchange the other way round: the axis that was cut is whole again.
pub fn all_to_all(b: &mut dyn Build, p: &Pull) -> Gradient {
    let c = how(p)?;
    let Some(other) = c.other else { return rule::wrong_attrs("all_to_all", p.attrs) };
    let back = OtherAxis { cut: c.cut, whole: c.rows, rest: other.rest };
    let c = Collective { cut: other.cut, rows: other.whole, other: Some(back), to: f32_like(b, p.args[0]), ..c };
    run(b, &ALL_TO_ALL, c, p.up)
}

/// The root gets the sum; the others only take part.
pub fn broadcast_from(b: &mut dyn Build, p: &Pull) -> Gradient {
    let c = Collective { combine: Combine::Sum, peer: 0, ..how(p)? };
    let g = run(b, &ALL_REDUCE, c, p.up)?;
    Ok(if p.args.is_empty() { vec![] } else { g })
}

pub fn permute(b: &mut dyn Build, p: &Pull) -> Gradient {
    let c = how(p)?;
    let peer = (c.ways - c.peer % c.ways) % c.ways;
    let c = Collective { to: f32_like(b, p.args[0]), peer, ..c };
    run(b, &PERMUTE, c, p.up)
}

/// The stage that got the value sends its gradient back.
pub fn send(b: &mut dyn Build, p: &Pull) -> Gradient {
    let c = Collective { to: f32_like(b, p.args[0]), ..how(p)? };
    let g = b.apply(&RECEIVE, Attrs::Collective(Box::new(c)), &[])?;
    b.binary(&ADD, g, p.up).map(|g| vec![Some(g)])
}

pub fn receive(b: &mut dyn Build, p: &Pull) -> Gradient {
    run(b, &SEND, how(p)?, p.up).map(|_| vec![])
}

fn f32_like(b: &mut dyn Build, x: Value) -> Type {
    Type::f32(b.shape(x))
}

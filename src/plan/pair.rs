//! What a product of few rows takes along that would be dispatches of their own: an RMS-norm before it, and behind a product of
//! two weights with one operand (gate and up of a gated network) what makes one result of both.

use super::fuse::Fusion;
use crate::base::Type;
use crate::graph::{Graph, Source};
use crate::op::{Attrs, Body, Value};

/// Both halves of a product's columns, which become one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    pub product: Value,
    /// The slices of the first and of the second half.
    pub halves: [Value; 2],
    /// The stored value that is made of them, element by element.
    pub root: Value,
}

/// The pair that a stored product is the beginning of, if nothing else reads it.
pub fn pair(graph: &Graph, fusion: &Fusion, product: Value) -> Option<Pair> {
    let ty = &graph.node(product).ty;
    let (axis, n) = (ty.shape.rank().checked_sub(1)?, ty.shape.last()?.known()?);
    let slices: [Value; 2] = fusion.users[product.0 as usize][..].try_into().ok()?;
    let start = |v: Value| match &graph.node(v).source {
        Source::Op { attrs: Attrs::Slice { axis: of, start, len, step: 1 }, .. }
            if *of == axis && len.known() == Some(n / 2) && n % 2 == 0 && !fusion.stored[v.0 as usize] =>
        {
            start.known()
        }
        _ => None,
    };
    let halves = match (start(slices[0])?, start(slices[1])?) {
        (0, second) if second == n / 2 => slices,
        (second, 0) if second == n / 2 => [slices[1], slices[0]],
        _ => return None,
    };
    let is_output = graph.outputs.iter().any(|o| o.1 == product);
    let paths = [path(graph, fusion, halves[0])?, path(graph, fusion, halves[1])?];
    let root = *paths[0].last()?;
    let inside = |v: &Value| paths.iter().any(|p| p.contains(v));
    let constant = |v: &Value| matches!(graph.node(*v).source, Source::Const(_));
    // Nothing but the two halves and constants goes into it.
    let closed =
        paths.iter().flat_map(|p| &p[1..]).all(|v| graph.node(*v).args().iter().all(|a| inside(a) || constant(a)));
    (!is_output && closed && paths[1].last() == Some(&root)).then_some(Pair { product, halves, root })
}

/// From a slice through elementwise ops, each the only user of the one before, to the first that is stored.
fn path(graph: &Graph, fusion: &Fusion, from: Value) -> Option<Vec<Value>> {
    let ty: &Type = &graph.node(from).ty;
    let mut out = vec![from];
    loop {
        let &[next] = &fusion.users[out.last()?.0 as usize][..] else { return None };
        let node = graph.node(next);
        let scalar = node.def().is_some_and(|d| matches!(d.body, Body::Scalar(_)));
        if !scalar || node.ty != *ty || fusion.anchor[next.0 as usize].is_some() {
            return None;
        }
        out.push(next);
        if fusion.stored[next.0 as usize] {
            return Some(out);
        }
    }
}

/// The stored product whose left operand a norm is, if nothing else reads it.
pub fn only_product(graph: &Graph, fusion: &Fusion, norm: Value) -> Option<Value> {
    let &[user] = &fusion.users[norm.0 as usize][..] else { return None };
    let node = graph.node(user);
    let left = node.kind() == "matmul" && node.args()[0] == norm && node.args()[1] != norm;
    let is_output = graph.outputs.iter().any(|o| o.1 == norm);
    (left && !is_output && fusion.stored[user.0 as usize]).then_some(user)
}

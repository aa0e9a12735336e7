//! Matmuls of one left operand with several weights become one matmul with the weights one after another: queries,
//! keys and values of a layer, gate and up of a gated network. A device does one large product better than three small.

use crate::base::{DType, Part, Result, Type};
use crate::graph::{Graph, Rewritten, Source};
use crate::op::{Attrs, Build, MATMUL, SLICE, Value};
use std::collections::HashMap;

/// The graph with such matmuls joined; their results are slices of the joined one's.
pub fn join(graph: &Graph) -> Result<Graph> {
    let groups = groups(graph);
    // Member → (its group, columns before it).
    let mut member: HashMap<Value, (usize, i64)> = HashMap::new();
    for (g, group) in groups.iter().enumerate() {
        let mut before = 0;
        for v in group {
            member.insert(*v, (g, before));
            before += columns(graph, *v);
        }
    }
    let mut joined: HashMap<usize, Value> = HashMap::new();
    graph.rewrite(|out, v, map| {
        let node = graph.node(v);
        let (Source::Op { args, .. }, Some(&(g, start))) = (&node.source, member.get(&v)) else {
            return Ok(Rewritten::Same);
        };
        let y = match joined.get(&g) {
            Some(y) => *y,
            None => {
                let w = weight(graph, out, &groups[g]);
                let y = out.apply(&MATMUL, Attrs::Matmul { ta: false, tb: true }, &[map[&args[0]], w])?;
                joined.insert(g, y);
                y
            }
        };
        let axis = node.ty.shape.rank() - 1;
        let columns = Attrs::Slice { axis, start: start.into(), len: node.ty.shape[axis], step: 1 };
        out.apply(&SLICE, columns, &[y]).map(Rewritten::As)
    })
}

fn columns(graph: &Graph, v: Value) -> i64 {
    graph.node(v).ty.shape.last().and_then(|d| d.known()).unwrap_or(0)
}

/// Sets of two or more matmuls that can be one.
fn groups(graph: &Graph) -> Vec<Vec<Value>> {
    let (uses, users) = (graph.uses(), graph.all_users());
    let mut all: Vec<((Value, DType), Vec<Value>)> = vec![];
    for v in graph.values() {
        let Source::Op { def, attrs: Attrs::Matmul { ta: false, tb: true }, args } = &graph.node(v).source else {
            continue;
        };
        let w = graph.node(args[1]);
        let own = matches!(w.source, Source::Weight { .. })
            && w.ty.shape.rank() == 2
            && w.ty.shape.known().is_some()
            && uses[args[1].0 as usize] == 1;
        if !def.is(&MATMUL) || !own || has_bias(graph, &users[v.0 as usize]) {
            continue;
        }
        let key = (args[0], w.ty.dtype);
        match all.iter_mut().find(|g| g.0 == key) {
            Some(group) => group.1.push(v),
            None => all.push((key, vec![v])),
        }
    }
    all.into_iter().map(|g| g.1).filter(|g| g.len() > 1).collect()
}

/// A bias is added in the matmul's own epilogue, which beats joining.
fn has_bias(graph: &Graph, users: &[Value]) -> bool {
    let &[user] = users else { return false };
    let user = graph.node(user);
    let stored = |a: &Value| matches!(graph.node(*a).source, Source::Weight { .. } | Source::Data(_));
    user.def().is_some_and(|d| d.scalar().is_some()) && user.args().iter().any(stored)
}

fn weight(graph: &Graph, out: &mut Graph, group: &[Value]) -> Value {
    let (mut parts, mut rows, mut names): (Vec<Part>, i64, Vec<&str>) = (vec![], 0, vec![]);
    let weights = group.iter().map(|v| graph.node(graph.node(*v).args()[1]));
    let mut shape = Type::f32([0, 0]);
    for w in weights {
        if let Source::Weight { parts: own } = &w.source {
            parts.extend(own.iter().cloned());
        }
        rows += w.ty.shape[0].known().unwrap_or(0);
        names.push(&w.name);
        shape = w.ty.clone();
    }
    shape.shape.0[0] = rows.into();
    out.push(Source::Weight { parts }, shape, names.join(" + "))
}

#[cfg(test)]
mod tests {
    use crate::base::{DType, TYPICAL};
    use crate::graph::GraphBuilder;

    #[test]
    fn products_of_one_operand_become_one() {
        let g = GraphBuilder::new();
        let x = g.input("x", DType::F32, [2, 64]);
        let w = |name: &str, n: usize, dtype| g.weight(name, dtype, [n, 64]);
        let (a, b, c) = (w("a", 5, TYPICAL), w("b", 7, TYPICAL), w("c", 3, DType::F32));
        g.output("y", x.matmul_t(a));
        g.output("z", x.matmul_t(b).exp());
        g.output("u", x.matmul_t(c));
        let text = super::join(&g.finish().unwrap()).unwrap().to_string();
        assert!(text.contains("weight of a + b : q4_1[12, 64]  \"a + b\""), "{text}");
        assert_eq!(text.matches("= matmul").count(), 2, "{text}");
        assert!(text.contains("axis=1 start=5 len=7"), "{text}");
    }
}

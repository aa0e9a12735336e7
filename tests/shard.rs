//! Sharded graphs against whole ones, in the f64 reference: every placement that an op's rule allows, and a model under
//! many meshes. Exactly equal where no sum is reordered, else within 1e-9.

mod common;

use common::seeded;
use warpweft::base::{Array, Bindings, Combine, Cut, DType, MeshAxis, Placement};
use warpweft::graph::Graph;
use warpweft::op::{self, Attrs, OpDef, Strategy, Value};
use warpweft::plan::shard::{Sharded, shard};
use warpweft::reference::sample::{CaseGraph, Random, case_graph};
use warpweft::reference::{Interpreter, Ranks};

const MESHES: [usize; 4] = [2, 3, 4, 8];

/// Each rank's pieces of the inputs; parts of a sum are made up, but add up.
fn parts<'a>(
    sharded: &Sharded,
    bindings: &Bindings,
    inputs: &[(&'a str, Array)],
) -> Vec<Option<(Bindings, Vec<(&'a str, Array)>)>> {
    let one = |rank: usize| {
        let mut own = sharded.inputs(rank, bindings, inputs).unwrap();
        for (name, array) in &mut own {
            let pieces = sharded.class(rank).inputs.iter().find(|i| i.name == *name).unwrap();
            for (over, ways, placement, _) in &pieces.splits {
                if let Placement::Partial(c) = placement {
                    *array = partial(array, *c, *ways, sharded.seats[rank].index(*over));
                }
            }
        }
        Some((sharded.bindings(rank, bindings).unwrap(), own))
    };
    (0..sharded.ranks()).map(one).collect()
}

fn partial(whole: &Array, combine: Combine, ways: usize, index: usize) -> Array {
    let values = whole.to_f32().into_iter().enumerate().map(|(i, v)| {
        let other = |k: usize| ((i * 7 + k * 3) % 5) as f32 * 0.5;
        match combine {
            // Halves, quarters and so on: exact, so that parts add up to the whole whatever its size.
            Combine::Sum if index == 0 => v * 0.5f32.powi(ways as i32 - 1),
            Combine::Sum => v * 0.5f32.powi(index as i32),
            _ if index == i % ways => v,
            Combine::Max => v - other(index),
            Combine::Min => v + other(index),
        }
    });
    Array::f32(&whole.shape, &values.collect::<Vec<_>>())
}

/// Cuts that belong together for the operands of one strategy.
fn cut_of(def: &OpDef, graph: &Graph, args: &[Value], i: usize, s: &Strategy) -> Option<Cut> {
    let dim = |v: Value, axis: usize| graph.node(v).ty.shape[axis].known().unwrap() as u32;
    if def.name.starts_with("attention") {
        let (h, g) = (dim(args[0], 2), dim(args[1], 2));
        return match (s.args[0], i) {
            (Placement::Split(1), _) => None,
            (Placement::Split(2), 0 | 3) => Some(Cut::Query { groups: g, each: h / g, width: 1 }),
            (Placement::Split(2), _) => Some(Cut::Key { groups: g, each: h / g, width: 1 }),
            _ => Some(Cut::ONES),
        };
    }
    if def.name == "paged_attention" {
        let (h, g) = (dim(args[0], 1), dim(args[1], 1));
        return Some(match (s.args[i], i) {
            (Placement::Split(_), 0 | 6) => Cut::Query { groups: g, each: h / g, width: 1 },
            (Placement::Split(_), _) => Cut::Key { groups: g, each: h / g, width: 1 },
            _ => Cut::ONES,
        });
    }
    if def.name == "delta_rule" {
        let (h, g) = (dim(args[2], 1), dim(args[0], 1));
        return Some(match (s.args[i], i) {
            (Placement::Split(_), 0 | 1) => Cut::Key { groups: g, each: h / g, width: 1 },
            (Placement::Split(_), _) => Cut::Query { groups: g, each: h / g, width: 1 },
            _ => Cut::ONES,
        });
    }
    let in_rows = |v: &Value, p: &Placement| graph.node(*v).ty.dtype.is_quantised() && *p == Placement::Split(1);
    if args.iter().zip(&s.args).any(|(v, p)| in_rows(v, p)) {
        return Some(Cut::Even { unit: 32 });
    }
    match (def.name, s.args[i], s.out) {
        // A merged axis is cut where its outer index is.
        ("reshape", Placement::Split(a), Placement::Split(b)) => {
            let out = &graph.node(graph.outputs[0].1).ty.shape;
            let (from, to) = (dim(args[0], a), out[b].known().unwrap() as u32);
            Some(Cut::Even { unit: (from / to.max(1)).max(1) })
        }
        ("append", Placement::Split(0), _) | ("slice", Placement::Split(_), Placement::Split(_))
            if s.out == s.args[i] =>
        {
            stripes(def, graph, args, i, s)
        }
        _ => Some(Cut::ONES),
    }
}

fn stripes(def: &OpDef, graph: &Graph, _: &[Value], i: usize, s: &Strategy) -> Option<Cut> {
    let op::Attrs::Append { at } = attrs(graph) else {
        let Attrs::Slice { axis, .. } = attrs(graph) else { return Some(Cut::ONES) };
        return Some(if s.args[0] == Placement::Split(axis) { Cut::Stripe { from: 0.into() } } else { Cut::ONES });
    };
    assert_eq!(def.name, "append");
    Some(Cut::Stripe { from: if i == 0 { 0.into() } else { at } })
}

fn attrs(graph: &Graph) -> Attrs {
    match &graph.node(graph.outputs[0].1).source {
        warpweft::graph::Source::Op { attrs, .. } => attrs.clone(),
        _ => unreachable!(),
    }
}

fn whole(case: &CaseGraph, inputs: &[(&str, Array)]) -> Vec<f64> {
    let mut oracle = Interpreter::<f64>::new(&case.graph, &case.weights).unwrap();
    case.states.iter().for_each(|(n, a)| oracle.set_state(n, a));
    oracle.step_values(&Bindings::new(), inputs).unwrap().remove(0).1
}

/// The piece of a state that rank `r` of `n` holds where an op is sharded by `s`.
fn piece_of(a: &Array, placed: Placement, cut: Option<Cut>, n: usize, r: usize) -> Array {
    let (Placement::Split(axis), Some(cut)) = (placed, cut) else { return a.clone() };
    let len = a.shape[axis] as u64;
    let mut piece = warpweft::base::take(a, axis, &cut.indices(len, &Bindings::new(), n, r).unwrap());
    // Stripes have room for the most that any rank holds.
    let rows = if cut.is_stripe() { cut.bound(len, n) as usize } else { piece.shape[axis] };
    if rows > piece.shape[axis] {
        let row = piece.bytes.len() / piece.shape[0].max(1);
        piece.bytes.resize(rows * row.max(4), 0);
        piece.shape[axis] = rows;
    }
    piece
}

/// Whether all ranks gave what the whole gives: exactly, or nearly where partial sums are rounded in another order.
fn ranks_agree(what: &str, sharded: &Sharded, s: &Strategy, got: &[Vec<(String, Vec<f64>)>], want: &[f64]) {
    let partial = s.args.iter().any(|p| matches!(p, Placement::Partial(_)));
    let exact = !sharded.explain().contains("reduce") && !partial;
    for (rank, outputs) in got.iter().enumerate() {
        let y = &outputs[0].1;
        assert_eq!(y.len(), want.len(), "{what}, rank {rank}\n{}", sharded.explain());
        for (j, (g, w)) in y.iter().zip(want).enumerate() {
            let within = |rel: f64| (g - w).abs() <= rel * (1.0 + w.abs());
            let near = within(1e-9) || (partial && within(1e-5));
            let same = g == w || (g.is_nan() && w.is_nan());
            assert!(
                same || (!exact && near),
                "{what}, rank {rank}: element {j} is {g}, {w} is right\n{}\n{}",
                sharded.explain(),
                sharded.class(rank).graph
            );
        }
    }
}

/// Runs an op's case over `n` ranks as `s` says; `None` where that cannot be written down, false where pieces are too small.
fn placed(def: &OpDef, case: &CaseGraph, s: &Strategy, n: usize, what: &str, want: &[f64]) -> Option<bool> {
    let mut g = case.graph.clone();
    let args = g.node(g.outputs[0].1).args().to_vec();
    let cuts: Vec<Cut> = (0..args.len()).map(|i| cut_of(def, &g, &args, i, s)).collect::<Option<_>>()?;
    for ((a, place), cut) in args.iter().zip(&s.args).zip(cuts) {
        g.hint(*a, MeshAxis::Tensor, *place, cut);
    }
    let sharded = match shard(&g, &[(MeshAxis::Tensor, n)]) {
        Ok(sharded) => sharded,
        // Where a piece would end inside of a block, it is refused by name.
        Err(e) if ["too few", "stay whole"].iter().any(|why| e.to_string().contains(why)) => return Some(false),
        Err(e) => panic!("{what}: {e}"),
    };
    let graphs: Vec<&Graph> = (0..n).map(|r| &sharded.class(r).graph).collect();
    let mut ranks = Ranks::<f64>::new(&graphs, &sharded.seats, &case.weights).unwrap_or_else(|e| panic!("{what}: {e}"));
    for (name, a) in &case.states {
        for r in 0..n {
            ranks.set_state(r, name, &piece_of(a, s.args[0], cut_of(def, &g, &args, 0, s), n, r));
        }
    }
    let inputs: Vec<(&str, Array)> = case.inputs.iter().map(|(n, a)| (n.as_str(), a.clone())).collect();
    let parts = parts(&sharded, &Bindings::new(), &inputs);
    let got = ranks.step_values(&parts).unwrap_or_else(|e| panic!("{what}: {e}\n{}", sharded.explain()));
    ranks_agree(what, &sharded, s, &got, want);
    Some(true)
}

#[test]
fn every_placement_that_a_rule_allows_gives_what_the_whole_gives() {
    let (mut tried, mut small) = (0, 0);
    for def in op::computing() {
        let mut of_this = 0;
        for (i, case) in (def.cases)().iter().enumerate() {
            let graph = case_graph(def, case, 2000 + i as u64).unwrap();
            let inputs: Vec<(&str, Array)> = graph.inputs.iter().map(|(n, a)| (n.as_str(), a.clone())).collect();
            let want = whole(&graph, &inputs);
            for s in (def.shard)(&case.attrs, &case.types(), &graph.graph.node(graph.graph.outputs[0].1).ty) {
                // Parts are f32; halves and whole numbers are not summed.
                let mut placements = s.args.iter().zip(case.types());
                if placements.any(|(p, t)| matches!(p, Placement::Partial(_)) && t.dtype != DType::F32) {
                    continue;
                }
                for n in MESHES {
                    let what = format!("{} case {i} {:?} {s:?} over {n}", def.name, case.types());
                    match placed(def, &graph, &s, n, &what, &want) {
                        Some(true) => of_this += 1,
                        Some(false) => small += 1,
                        None => {}
                    }
                }
            }
        }
        let without = ["iota", "rope"];
        assert!(of_this > 0 || without.contains(&def.name), "{} has no rule that could be tried", def.name);
        tried += of_this;
    }
    assert!(tried > 2000, "only {tried} were tried, {small} were too small");
}

/// A step of a tiny llama: whole, and under a mesh; logits of every step of a short conversation.
fn conversation(mesh: &[(MeshAxis, usize)], sequence_parallel: bool, heads: (usize, usize)) {
    let model = seeded::llama(heads.0, heads.1, 3, 7);
    let what = format!("{mesh:?} sp={sequence_parallel} heads={heads:?}");
    let graph = model.graph(6, 16, sequence_parallel, true);
    let plain = model.graph(6, 16, false, true);
    let mut oracle = Interpreter::<f64>::new(&plain, &model.weights).unwrap();
    let sharded = shard(&graph, mesh).unwrap_or_else(|e| panic!("{what}: {e}"));
    let graphs: Vec<&Graph> = (0..sharded.ranks()).map(|r| &sharded.class(r).graph).collect();
    let mut ranks =
        Ranks::<f64>::new(&graphs, &sharded.seats, &model.weights).unwrap_or_else(|e| panic!("{what}: {e}"));
    let mut r = Random::new(3);
    let mut total = 0;
    for n in [5usize, 1, 1, 3, 1] {
        total += n;
        let tokens: Vec<u32> = (0..n).map(|_| r.below(model.config.common.sizes.vocab) as u32).collect();
        let bindings = Bindings::new().with("seq", n as u64).with("total", total as u64);
        let inputs = [("tokens", Array::u32(&[n], &tokens))];
        let want = oracle.step_values(&bindings, &inputs).unwrap().remove(0).1;
        let parts = parts(&sharded, &bindings, &inputs);
        let got =
            ranks.step_values(&parts).unwrap_or_else(|e| panic!("{what} total={total}: {e}\n{}", sharded.explain()));
        for (rank, outputs) in got.iter().enumerate() {
            assert_eq!(outputs[0].1.len(), want.len());
            for (g, w) in outputs[0].1.iter().zip(&want) {
                assert!((g - w).abs() < 1e-6, "{what} total={total} rank {rank}: {g} for {w}\n{}", sharded.explain());
            }
        }
    }
}

#[test]
fn a_model_answers_alike_under_every_mesh() {
    use MeshAxis::{Context, Data, Pipeline, Tensor};
    for heads in [(6, 3), (4, 4), (8, 1)] {
        for n in [2, 3, 4] {
            conversation(&[(Tensor, n)], false, heads);
            conversation(&[(Context, n)], false, heads);
        }
    }
    conversation(&[(Tensor, 6)], false, (6, 3));
    conversation(&[(Tensor, 5)], false, (6, 3));
    for n in [2, 3, 4, 5] {
        conversation(&[(Pipeline, n)], false, (6, 3));
    }
    for n in [2, 3, 4] {
        conversation(&[(Tensor, n)], true, (6, 3));
    }
    conversation(&[(Pipeline, 2), (Tensor, 3)], false, (6, 3));
    conversation(&[(Tensor, 3), (Pipeline, 2)], false, (6, 3));
    conversation(&[(Context, 2), (Tensor, 2)], false, (6, 3));
    conversation(&[(Pipeline, 2), (Context, 2), (Tensor, 2)], false, (6, 3));
    conversation(&[(Data, 2), (Tensor, 3)], false, (6, 3));
    conversation(&[(Pipeline, 2), (Tensor, 2)], true, (6, 3));
}

//! Every op's gradient against central finite differences in the f64 reference, and the same gradient over a mesh.

use std::collections::HashMap;
use warpweft::base::{Array, Bindings, Combine, Cut, DType, MeshAxis, Placement, Result, Shape, Type};
use warpweft::graph::{Graph, GraphBuilder, Source};
use warpweft::op::{
    self, Attrs, Body, Build, Case, Collective, Exchange, Fill, Grad, OpDef, OtherAxis, Strategy, Value,
};
use warpweft::plan::shard::{seats, shard};
use warpweft::reference::sample::{Random, operand};
use warpweft::reference::{Interpreter, Ranks};

/// How far operands are moved along a direction: the error of a central difference is of the order of its square.
const STEP: f64 = 1.0 / 65536.0;

fn array(shape: &[usize], r: &mut Random) -> Array {
    let n = shape.iter().product();
    Array::f32(shape, &(0..n).map(|_| r.normal() as f32).collect::<Vec<_>>())
}

/// A graph that computes a loss, and the gradients in its moved operands.
struct Slope {
    graph: Graph,
    inputs: Vec<(String, Array)>,
    weights: HashMap<String, Array>,
    states: Vec<(String, Array)>,
    args: Vec<Value>,
    /// Operands that are moved, and along which input.
    moved: Vec<(Value, String)>,
}

/// Kinks, ties and zeros have no finite differences: operands are smooth random ones.
fn smooth(ty: &Type, fill: Fill) -> Fill {
    match fill {
        Fill::Wide | Fill::Ties if ty.dtype.is_float() => Fill::Normal,
        other => other,
    }
}

/// loss = Σ c ⊙ op(x + e·d, …): x, d and c random, e a number of the step. Halves are taken as f32: rounding has no slope.
fn slope(def: &'static OpDef, case: &Case, seed: u64) -> Result<Slope> {
    let mut s = Slope {
        graph: Graph::default(),
        inputs: vec![],
        weights: HashMap::new(),
        states: vec![],
        args: vec![],
        moved: vec![],
    };
    let g = &mut s.graph;
    let mut r = Random::new(seed);
    let e = g.source(Source::Input, Type::f32(Shape::default()), "e")?;
    let mut args = vec![];
    for (i, (ty, fill)) in case.operands.iter().enumerate() {
        let (name, direction) = (format!("x{i}"), format!("d{i}"));
        let ty = if ty.dtype == DType::F16 { Type::f32(ty.shape.clone()) } else { ty.clone() };
        let x = operand(&ty, smooth(&ty, *fill), seed + i as u64);
        if ty.dtype.is_quantised() {
            args.push(g.source(Source::Weight { parts: vec![warpweft::base::Part::whole(&name)] }, ty, &name)?);
            s.weights.insert(name, x);
            continue;
        }
        if matches!(def.name, "append" | "assign") && i == 0 {
            args.push(g.source(Source::State, ty, &name)?);
            s.states.push((name, x));
            continue;
        }
        let v = g.source(Source::Input, ty.clone(), &name)?;
        s.inputs.push((name, x));
        if ty.dtype != DType::F32 {
            args.push(v);
            continue;
        }
        let d = g.source(Source::Input, ty.clone(), &direction)?;
        s.inputs.push((direction.clone(), array(&ty.shape.known().unwrap(), &mut r)));
        let step = g.apply(&op::MUL, Attrs::None, &[d, e])?;
        let moved = g.apply(&op::ADD, Attrs::None, &[v, step])?;
        s.moved.push((moved, direction));
        args.push(moved);
    }
    let y = g.apply(def, case.attrs.clone(), &args)?;
    let ty = g.ty(y);
    let c = g.source(Source::Input, Type::f32(ty.shape.clone()), "c")?;
    s.inputs.push(("c".into(), array(&ty.shape.known().unwrap(), &mut r)));
    let weighed = g.apply(&op::MUL, Attrs::None, &[y, c])?;
    let n = ty.shape.known().unwrap().iter().product::<usize>();
    let flat = g.apply(&op::RESHAPE, Attrs::Shape([n].into()), &[weighed])?;
    let loss = g.apply(&op::SUM, Attrs::Reduce { axes: vec![0], keep: false }, &[flat])?;
    g.output("loss", loss)?;
    s.args = args.clone();
    let mut wrt: Vec<Value> = s.moved.iter().map(|m| m.0).collect();
    if def.name == "assign" {
        // A state's old contents are gone: the loss does not depend on them.
        assert!(g.gradients(loss, &[args[0]]).is_err());
    }
    if def.name == "append" {
        wrt.push(args[0]);
    }
    for (i, v) in g.gradients(loss, &wrt)?.into_iter().enumerate() {
        let of = g.ty(wrt[i]).shape;
        assert_eq!((g.ty(v).dtype, g.ty(v).shape), (DType::F32, of), "{}: a gradient's type", def.name);
        g.output(&format!("g{i}"), v)?;
    }
    Ok(s)
}

fn inputs_at(inputs: &[(String, Array)], e: f64) -> Vec<(&str, Array)> {
    let mut all: Vec<(&str, Array)> = inputs.iter().map(|(n, a)| (n.as_str(), a.clone())).collect();
    all.push(("e", Array::f32(&[], &[e as f32])));
    all
}

impl Slope {
    fn run_with(&self, state: &dyn Fn(&Array) -> Array) -> Vec<(String, Vec<f64>)> {
        let mut oracle = Interpreter::<f64>::new(&self.graph, &self.weights).unwrap();
        self.states.iter().for_each(|(n, a)| oracle.set_state(n, &state(a)));
        oracle.step_values(&Bindings::new(), &inputs_at(&self.inputs, 0.0)).unwrap()
    }
    fn run(&self, e: f64) -> Vec<(String, Vec<f64>)> {
        let mut oracle = Interpreter::<f64>::new(&self.graph, &self.weights).unwrap();
        self.states.iter().for_each(|(n, a)| oracle.set_state(n, a));
        oracle.step_values(&Bindings::new(), &inputs_at(&self.inputs, e)).unwrap()
    }
    fn direction(&self, i: usize) -> Vec<f32> {
        self.inputs.iter().find(|(n, _)| *n == self.moved[i].1).unwrap().1.to_f32()
    }
}

fn dot(a: &[f64], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * *y as f64).sum()
}

/// A cast to halves rounds and one to whole numbers cuts: their gradients are not what differences would show.
fn steps(case: &Case) -> bool {
    matches!(case.attrs, Attrs::Cast(to) if to != DType::F32)
}

fn has_float(case: &Case) -> bool {
    case.types().iter().any(|t| matches!(t.dtype, DType::F32 | DType::F16))
}

#[test]
fn every_gradient_equals_finite_differences() {
    let mut tried = 0;
    for def in op::computing() {
        let why = match def.grad {
            Grad::None(why) => Some(why),
            _ => None,
        };
        let mut of_this = 0;
        for (i, case) in (def.cases)().iter().enumerate() {
            if why.is_some() || !has_float(case) || steps(case) {
                continue;
            }
            let what = format!("{} case {i} {:?}", def.name, case.types());
            let s = slope(def, case, 500 + 10 * i as u64).unwrap_or_else(|e| panic!("{what}: {e}"));
            let (here, above, below) = (s.run(0.0), s.run(STEP), s.run(-STEP));
            let want = (above[0].1[0] - below[0].1[0]) / (2.0 * STEP);
            let parts: Vec<f64> = (0..s.moved.len()).map(|i| dot(&here[1 + i].1, &s.direction(i))).collect();
            let size: f64 = parts.iter().map(|p| p.abs()).sum::<f64>() + 1.0;
            let got: f64 = parts.iter().sum();
            assert!((got - want).abs() < 1e-6 * size, "{what}: {got}, differences say {want}\n{}", s.graph);
            if def.name == "append" {
                // The loss is linear in the state's old contents: any step shows its slope.
                let mut moved =
                    s.run_with(&|a| Array::f32(&a.shape, &a.to_f32().iter().map(|x| x + 1.0).collect::<Vec<_>>()));
                let (slope, want) = (here.last().unwrap().1.iter().sum::<f64>(), moved.remove(0).1[0] - here[0].1[0]);
                assert!((slope - want).abs() < 1e-5, "{what}: {slope} in the state, differences say {want}");
            }
            of_this += 1;
        }
        assert!(of_this > 0 || why.is_some(), "{}: no case has a gradient", def.name);
        assert!(why.is_none_or(|w| w.len() > 5), "{} has no gradient and does not say why", def.name);
        tried += of_this;
    }
    assert!(tried > 250, "only {tried} were tried");
}

/// Cuts that the pieces of a strategy need, where runs of ones do not do; `None` for what needs a cut of its own
/// (tests/shard.rs has those).
fn cut(def: &OpDef, case: &Case, s: &Strategy, out: &Shape) -> Option<Cut> {
    let dim = |shape: &Shape, axis: usize| shape[axis].known().unwrap() as u32;
    let types = case.types();
    match (def.name, s.args[0], s.out) {
        ("attention" | "attention_part", Placement::Split(1), _) => None,
        ("attention" | "attention_part", _, _) => (types[0].shape[2] == types[1].shape[2]).then_some(Cut::ONES),
        ("paged_attention", _, _) => (types[0].shape[1] == types[1].shape[1]).then_some(Cut::ONES),
        ("append" | "slice", Placement::Split(0), Placement::Split(0)) => None,
        ("slice", Placement::Split(_), Placement::Split(_)) => Some(Cut::ONES),
        ("reshape", Placement::Split(a), Placement::Split(b)) => {
            Some(Cut::Even { unit: (dim(&types[0].shape, a) / dim(out, b).max(1)).max(1) })
        }
        _ => Some(Cut::ONES),
    }
}

/// The gradients of one case with its operands in pieces: those of the whole.
fn sharded_as_whole(def: &'static OpDef, case: &Case, s: &Strategy, n: usize, seed: u64) -> bool {
    let mut whole = slope(def, case, seed).unwrap();
    let ty = (def.rule)(&case.attrs, &case.types()).unwrap();
    let Some(cut) = cut(def, case, s, &ty.shape) else { return false };
    for (v, place) in whole.args.clone().into_iter().zip(&s.args) {
        whole.graph.hint(v, MeshAxis::Tensor, *place, cut);
    }
    let what = format!("{} {:?} {s:?} over {n}", def.name, case.types());
    let sharded = match shard(&whole.graph, &[(MeshAxis::Tensor, n)]) {
        Ok(sharded) => sharded,
        Err(e) if e.to_string().contains("too few") => return false,
        Err(e) => panic!("{what}: {e}"),
    };
    let want = whole.run(0.0);
    let graphs: Vec<&Graph> = (0..n).map(|r| &sharded.class(r).graph).collect();
    let mut ranks =
        Ranks::<f64>::new(&graphs, &sharded.seats, &whole.weights).unwrap_or_else(|e| panic!("{what}: {e}"));
    let contents: Vec<(&str, Array)> = whole.states.iter().map(|(n, a)| (n.as_str(), a.clone())).collect();
    for r in 0..n {
        sharded.states(r, &contents).unwrap().iter().for_each(|(name, piece)| ranks.set_state(r, name, piece));
    }
    let inputs = inputs_at(&whole.inputs, 0.0);
    let part = |r: usize| {
        Some((sharded.bindings(r, &Bindings::new()).unwrap(), sharded.inputs(r, &Bindings::new(), &inputs).unwrap()))
    };
    let got = ranks.step_values(&(0..n).map(part).collect::<Vec<_>>()).unwrap_or_else(|e| panic!("{what}: {e}"));
    for (rank, outputs) in got.iter().enumerate() {
        for ((name, got), (_, want)) in outputs.iter().zip(&want) {
            assert_eq!(got.len(), want.len(), "{what}, rank {rank}: {name}");
            for (g, w) in got.iter().zip(want) {
                assert!(
                    (g - w).abs() <= 1e-9 * (1.0 + w.abs()),
                    "{what}, rank {rank}: {name} is {g}, {w} is right\n{}",
                    sharded.explain()
                );
            }
        }
    }
    true
}

#[test]
fn gradients_of_pieces_are_those_of_the_whole() {
    let mut tried = 0;
    for def in op::computing().filter(|d| !matches!(d.grad, Grad::None(_))) {
        for (i, case) in (def.cases)().iter().enumerate().filter(|(_, c)| has_float(c) && !steps(c)) {
            // Halves have become f32: strategies are those of what is run.
            let types: Vec<Type> =
                case.types().into_iter().map(|t| if t.dtype == DType::F16 { Type::f32(t.shape) } else { t }).collect();
            let ty = (def.rule)(&case.attrs, &types).unwrap();
            let small = ty.shape.count().bound() < 10_000
                && types.iter().all(|t| t.shape.count().bound() < 10_000 && !t.dtype.is_quantised());
            for s in (def.shard)(&case.attrs, &types, &ty).into_iter().filter(|_| small) {
                let whole_parts = s.args.iter().all(|p| !matches!(p, Placement::Partial(_)));
                if whole_parts && s.args.iter().any(|p| matches!(p, Placement::Split(_))) {
                    tried += [2, 3].into_iter().filter(|n| sharded_as_whole(def, case, &s, *n, 900 + i as u64)).count();
                }
            }
        }
    }
    assert!(tried > 500, "only {tried} were tried");
}

/// One rank's part of a collective: its operand's shape and its attributes; no operand where it has none.
fn part_of(exchange: Exchange, combine: Combine, n: usize, rank: usize) -> Option<(Option<Vec<usize>>, Collective)> {
    let len = |whole: u64, i: usize| (Cut::ONES.range(whole, n, i).end - Cut::ONES.range(whole, n, i).start) as usize;
    let (mine, rows) = (len(7, rank), 7usize);
    let (from, to): (Option<Vec<usize>>, Vec<usize>) = match exchange {
        Exchange::AllReduce | Exchange::Permute => (Some(vec![rows, 3]), vec![rows, 3]),
        Exchange::AllGather => (Some(vec![mine, 3]), vec![rows, 3]),
        Exchange::ReduceScatter => (Some(vec![rows, 3]), vec![mine, 3]),
        Exchange::AllToAll => (Some(vec![mine * 5 * 2]), vec![rows * len(5, rank) * 2]),
        Exchange::Broadcast => ((rank == 1).then(|| vec![rows, 3]), vec![rows, 3]),
        Exchange::Send if rank == 0 => (Some(vec![rows, 3]), vec![rows, 3]),
        Exchange::Receive if rank == 1 => (None, vec![rows, 3]),
        Exchange::Send | Exchange::Receive => return None,
    };
    let other =
        (exchange == Exchange::AllToAll).then_some(OtherAxis { cut: Cut::ONES, whole: 5.into(), rest: 2.into() });
    // A stage sends to the next, and that receives from it.
    let peer = if exchange == Exchange::Receive { 0 } else { 1 };
    let to = Type::f32(Shape(to.into_iter().map(Into::into).collect()));
    Some((
        from,
        Collective {
            over: MeshAxis::Tensor,
            ways: n,
            combine,
            cut: Cut::ONES,
            rows: rows.into(),
            to,
            peer,
            other,
            tag: 5,
        },
    ))
}

/// A rank's graph: loss = Σ c ⊙ collective(x + e·d), with x's own part where it only sends.
fn rank_graph(
    def: &'static OpDef,
    exchange: Exchange,
    combine: Combine,
    n: usize,
    rank: usize,
) -> (Graph, Vec<(String, Array)>) {
    let g = GraphBuilder::new();
    let r = &mut Random::new(77 + rank as u64);
    let e = g.input("e", DType::F32, Shape::default());
    let mut inputs = vec![];
    let mut input = |name: &str, shape: &[usize]| {
        inputs.push((name.to_string(), array(shape, r)));
        g.input(name, DType::F32, Shape::new(shape))
    };
    // Of a pair of stages each does its own half.
    let (def, exchange) = match (exchange, rank) {
        (Exchange::Send, 1) => (&op::RECEIVE, Exchange::Receive),
        (Exchange::Receive, 0) => (&op::SEND, Exchange::Send),
        _ => (def, exchange),
    };
    let part = part_of(exchange, combine, n, rank);
    let shape = part.as_ref().map_or(Some(vec![2, 3]), |p| p.0.clone());
    let moved = shape.map(|s| input("x", &s) + input("d", &s) * e);
    let made = part.map(|(_, c)| g.op(def, Attrs::Collective(Box::new(c)), moved.as_slice()));
    // What is sent is for nobody here to use.
    let y = if exchange == Exchange::Send { moved } else { made.or(moved) }.unwrap();
    let dims = y.shape().known().unwrap();
    let weighed = y * input("c", &dims);
    let loss = weighed.reshape([dims.iter().product::<usize>()]).sum(&[0]);
    g.output("loss", loss);
    for v in g.gradients(loss, moved.as_slice()) {
        g.output("g", v);
    }
    (g.finish().unwrap(), inputs)
}

#[test]
fn collectives_have_the_gradient_of_the_sum_of_all_ranks_losses() {
    for def in op::table() {
        let Body::Collective(exchange) = def.body else { continue };
        let combines = if exchange == Exchange::AllReduce {
            vec![Combine::Sum, Combine::Max, Combine::Min]
        } else {
            vec![Combine::Sum]
        };
        for (combine, n) in combines.into_iter().flat_map(|c| [2, 3, 4].map(|n| (c, n))) {
            let all: Vec<_> = (0..n).map(|r| rank_graph(def, exchange, combine, n, r)).collect();
            let graphs: Vec<&Graph> = all.iter().map(|a| &a.0).collect();
            let run = |e: f64| {
                let mut ranks =
                    Ranks::<f64>::new(&graphs, &seats(&[(MeshAxis::Tensor, n)]), &HashMap::<String, Array>::new())
                        .unwrap();
                let parts: Vec<_> = all.iter().map(|a| Some((Bindings::new(), inputs_at(&a.1, e)))).collect();
                ranks.step_values(&parts).unwrap_or_else(|e| panic!("{} over {n}: {e}", def.name))
            };
            let loss = |e: f64| run(e).iter().map(|o| o[0].1[0]).sum::<f64>();
            let want = (loss(STEP) - loss(-STEP)) / (2.0 * STEP);
            let part = |(o, a): (&Vec<(String, Vec<f64>)>, &(Graph, Vec<(String, Array)>))| {
                let d = a.1.iter().find(|(n, _)| n == "d");
                o.get(1).map_or(0.0, |g| dot(&g.1, &d.unwrap().1.to_f32()))
            };
            let got: f64 = run(0.0).iter().zip(&all).map(part).sum();
            assert!(
                (got - want).abs() < 1e-6 * (1.0 + want.abs()),
                "{} {combine:?} over {n}: {got}, differences say {want}",
                def.name
            );
            assert!(want.abs() > 1e-3, "{} over {n}: nothing depends on the operand", def.name);
        }
    }
}

#[test]
fn what_has_no_gradient_is_refused_by_name() {
    let g = GraphBuilder::new();
    let (x, ids) = (g.input("x", DType::F32, [2, 3]), g.input("ids", DType::U32, [2]));
    let w = g.weight("w", DType::Q8_0, [4, 32]);
    let refused = |_| g.take_error().unwrap().to_string();
    assert_eq!(
        refused(g.gradients(x, &[x])),
        "gradients \"x\": the loss is f32[2, 3], it must be one f32 element: sum it or take its mean"
    );
    let loss = x.sum(&[0, 1]);
    assert_eq!(
        refused(g.gradients(loss, &[ids])),
        "gradients \"ids\": is u32[2], only f32 and f16 values have a gradient"
    );
    assert_eq!(
        refused(g.gradients(loss, &[w])),
        "gradients \"w\": is q8_0[4, 32], only f32 and f16 values have a gradient"
    );
    let other = g.input("other", DType::F32, [2]);
    let alone = "gradients \"other\": the loss does not depend on it through ops that have a gradient";
    assert_eq!(refused(g.gradients(loss, &[other])), alone);
    g.at("pick");
    let best = other.argmax(0).reshape([1]);
    let picked = x.gather(best).sum(&[0, 1]);
    assert_eq!(
        refused(g.gradients(picked, &[other])),
        format!("{alone}; argmax \"pick\" has none, an index has no slope")
    );
}

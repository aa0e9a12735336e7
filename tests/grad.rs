//! Every op's gradient against central finite differences in the f64 reference, and the same gradient over a mesh.

use std::collections::HashMap;
use warpweft::base::{Array, Bindings, Combine, Cut, DType, Dim, MeshAxis, Placement, Result, Type};
use warpweft::graph::{Attention, Graph, GraphBuilder, Source, Tensor};
use warpweft::op::{self, Attrs, Body, Build, Case, Collective, Fill, Grad, OpDef, OtherAxis, Value};
use warpweft::plan::shard::shard;
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
    /// Operand, direction input, and shape of each gradient.
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
    let mut s = Slope { graph: Graph::default(), inputs: vec![], weights: HashMap::new(), states: vec![], moved: vec![] };
    let g = &mut s.graph;
    let mut r = Random::new(seed);
    let e = g.source(Source::Input, Type::f32(warpweft::base::Shape::default()), "e")?;
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
            of_this += 1;
        }
        assert!(of_this > 0 || why.is_some(), "{}: no case has a gradient", def.name);
        assert!(why.is_none_or(|w| w.len() > 5), "{} has no gradient and does not say why", def.name);
        tried += of_this;
    }
    assert!(tried > 250, "only {tried} were tried");
}

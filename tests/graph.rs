//! What a graph refuses, and chains that are longer than any stack.

use std::collections::HashMap;
use warpweft::base::{Array, Bindings, Caps, DType, Dim, Type, Var};
use warpweft::graph::{Graph, Source};
use warpweft::op::{self, Attrs, Build, Value};
use warpweft::plan::{Options, plan};
use warpweft::reference::Interpreter;

fn input(graph: &mut Graph, name: &str, ty: Type) -> Value {
    graph.source(Source::Input, ty, name).unwrap()
}

fn run(graph: &Graph, inputs: &[(&str, Array)]) -> Vec<f64> {
    let mut oracle = Interpreter::<f64>::new(graph, &HashMap::new()).unwrap();
    oracle.step_values(&Bindings::new(), inputs).unwrap().remove(0).1
}

#[test]
fn a_chain_of_views_of_any_length_is_planned_and_computed() {
    let mut graph = Graph::default();
    let mut x = input(&mut graph, "x", Type::f32([2, 3]));
    for _ in 0..20_000 {
        x = graph.apply(&op::TRANSPOSE, Attrs::Perm(vec![1, 0]), &[x]).unwrap();
        x = graph.apply(&op::RESHAPE, Attrs::Shape([2, 3].into()), &[x]).unwrap();
    }
    graph.output("y", x).unwrap();
    let caps = Caps::FLOOR;
    let made = plan(&graph, &caps, &Options::for_caps(&caps)).unwrap();
    assert!(!made.dispatches.is_empty());
    let mut want = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0];
    for _ in 0..20_000 {
        want = [want[0], want[3], want[1], want[4], want[2], want[5]];
    }
    let got = run(&graph, &[("x", Array::f32(&[2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]))]);
    assert_eq!(got, want);
}

#[test]
fn one_variable_has_one_bound_in_a_graph() {
    let mut graph = Graph::default();
    let of = |max: u32| Type::f32(vec![Dim::from(Var::new("seq", max))]);
    input(&mut graph, "x", of(8));
    input(&mut graph, "y", of(8));
    let e = graph.source(Source::Input, of(9), "z").unwrap_err();
    assert_eq!(
        e.to_string(),
        "graph \"z\": variable seq is bounded by 9 here and by 8 before: give it one bound in a graph"
    );
}

#[test]
fn an_axis_beyond_32_bits_is_refused_and_never_wraps() {
    for before in [usize::MAX, usize::MAX - 1, 1 << 32, 1 << 63] {
        let mut graph = Graph::default();
        let x = input(&mut graph, "x", Type::f32([3]));
        let pad = Attrs::Pad { axis: 0, before, after: before, value: 0.0 };
        let e = graph.apply(&op::PAD, pad, &[x]).unwrap_err().to_string();
        assert!(e.starts_with("pad \"pad(x)\": f32[") && e.ends_with("at most 4294967295 can be counted"), "{e}");
    }
}

#[test]
fn seven_variables_make_one_axis() {
    let mut graph = Graph::default();
    let names = ["a", "b", "c", "d", "e", "f", "g"];
    let xs: Vec<Value> =
        names.iter().map(|n| input(&mut graph, n, Type::f32(vec![Dim::from(Var::new(n, 2))]))).collect();
    let y = graph.apply(&op::CONCAT, Attrs::Axis(0), &xs).unwrap();
    graph.output("y", y).unwrap();
    assert_eq!(graph.ty(y).shape[0].bound(), 14);
    let bindings = names.iter().enumerate().fold(Bindings::new(), |b, (i, n)| b.with(n, i as u64 % 3));
    let piece = |i: usize| Array::f32(&[i % 3], &vec![i as f32; i % 3]);
    let inputs: Vec<(&str, Array)> = names.iter().enumerate().map(|(i, n)| (*n, piece(i))).collect();
    let mut oracle = Interpreter::<f64>::new(&graph, &HashMap::new()).unwrap();
    let got = oracle.step_values(&bindings, &inputs).unwrap().remove(0).1;
    assert_eq!(got, [1.0, 2.0, 2.0, 4.0, 5.0, 5.0]);
}

#[test]
fn integers_wrap_in_the_oracle_as_on_a_device() {
    let mut graph = Graph::default();
    let ty = Type::new(DType::U32, [3]);
    let (x, y) = (input(&mut graph, "x", ty.clone()), input(&mut graph, "y", ty));
    let z = graph.apply(&op::MUL, Attrs::None, &[x, y]).unwrap();
    graph.output("z", z).unwrap();
    let (a, b) = ([u32::MAX, 4_000_000_007, 65_537], [u32::MAX, 4_000_000_009, 65_537]);
    let got = run(&graph, &[("x", Array::u32(&[3], &a)), ("y", Array::u32(&[3], &b))]);
    let want: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a.wrapping_mul(*b) as f64).collect();
    assert_eq!(got, want);
}

//! What a graph refuses, and chains that are longer than any stack.

use std::collections::HashMap;
use warpweft::base::{Array, Bindings, Caps, DType, Dim, Type, Var};
use warpweft::graph::{Attention, Graph, GraphBuilder, RopeLayout, Source, Tensor};
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

/// What a formula makes of x = 0, 1, … of this shape.
fn made<'g>(g: &'g GraphBuilder, shape: &[usize], formula: impl Fn(Tensor<'g>) -> Tensor<'g>) {
    let x = g.input("x", DType::F32, shape.iter().map(|n| Dim::from(*n)).collect::<Vec<_>>());
    g.output("y", formula(x));
}
fn counted(shape: &[usize]) -> Array {
    let n: usize = shape.iter().product();
    Array::of(shape, &(0..n).map(|i| i as f32).collect::<Vec<_>>()).unwrap()
}
macro_rules! holds {
    ($shape:expr, $formula:expr, $want:expr) => {{
        let g = GraphBuilder::new();
        made(&g, &$shape, $formula);
        let got = run(&g.finish().unwrap(), &[("x", counted(&$shape))]);
        let want: Vec<f64> = $want.to_vec();
        assert_eq!(got, want);
    }};
}

#[test]
fn shapes_and_functions_as_other_libraries_have_them() {
    holds!([2, 3], |x| x.reshape([-1, 2]).transpose(&[1, 0]).flatten(0, 1), [0.0, 2.0, 4.0, 1.0, 3.0, 5.0]);
    holds!([1, 3], |x| x.squeeze(0).unsqueeze(1).sum(&[1]), [0.0, 1.0, 2.0]);
    holds!([5], |x| x.split(0, &[2, 3])[1], [2.0, 3.0, 4.0]);
    holds!([6], |x| x.chunk(0, 3)[1], [2.0, 3.0]);
    holds!([6], |x| x.slice_step(0, 1, 3, 2), [1.0, 3.0, 5.0]);
    holds!([4], |x| x.clamp(1.0, 2.0), [1.0, 1.0, 2.0, 2.0]);
    holds!([2, 2], |x| x - x.mean_keep(&[1]), [-0.5, 0.5, -0.5, 0.5]);
    holds!([2, 2], |x| x / x.max_keep(&[0]), [0.0, 1.0 / 3.0, 1.0, 1.0]);
    holds!([2, 2], |x| x.variance(&[0]), [1.0, 1.0]);
    holds!([2, 2], |x| x.std(&[1]), [0.5, 0.5]);
    holds!([2, 3], |x| x.tril(0), [0.0, 0.0, 0.0, 3.0, 4.0, 0.0]);
    holds!([2, 3], |x| x.triu(1), [0.0, 1.0, 2.0, 0.0, 0.0, 5.0]);
    holds!([2], |x| 1.0 - x * 2.0, [1.0, -1.0]);
}

#[test]
fn a_dimension_is_inferred_beside_variables() {
    let g = GraphBuilder::new();
    let seq = Dim::from(Var::new("seq", 8));
    let x = g.input("x", DType::F32, vec![seq, Dim::new(6)]);
    assert_eq!(x.reshape(vec![seq, Dim::new(2), Dim::new(-1)]).shape().to_string(), "[seq, 2, 3]");
    assert_eq!(x.reshape([-1]).shape().to_string(), "[6*seq]");
    assert_eq!(x.flatten(0, 1).shape().to_string(), "[6*seq]");
}

#[test]
fn shapes_that_cannot_be_are_refused_by_name() {
    let refused = |formula: fn(Tensor) -> Tensor| {
        let g = GraphBuilder::new();
        formula(g.input("x", DType::F32, [2, 3]));
        g.finish().unwrap_err().to_string()
    };
    assert!(refused(|x| x.squeeze(0)).ends_with("axis 0 of [2, 3] is not of one element"));
    assert!(refused(|x| x.unsqueeze(3)).ends_with("axis 3 is outside of [2, 3], rank 2"));
    assert!(refused(|x| x.flatten(1, 2)).ends_with("axes 1 to 2 are not in [2, 3], rank 2"));
    assert!(refused(|x| x.split(1, &[1, 1])[0]).ends_with("pieces of [1, 1] do not fill axis 1 of [2, 3]"));
    assert!(refused(|x| x.chunk(1, 2)[0]).ends_with("axis 1 of [2, 3] is not 2 equal pieces"));
    assert!(refused(|x| x.reshape([-1, 4])).starts_with("reshape "));
}

#[test]
fn arrays_hold_every_element_type_and_give_it_back() {
    let f16 = half::f16::from_f32;
    assert_eq!(Array::from(vec![1.5f32, -2.0]).to_vec::<f32>().unwrap(), [1.5, -2.0]);
    assert_eq!(Array::from(&[-3i32, 7][..]).to_f64(), [-3.0, 7.0]);
    assert_eq!(Array::from(vec![u32::MAX]).to_f64(), [u32::MAX as f64]);
    assert_eq!(Array::from(vec![true, false]).to_vec::<bool>().unwrap(), [true, false]);
    assert_eq!(Array::from(vec![f16(0.5)]).to_f32(), [0.5]);
    assert_eq!(Array::of(&[2, 1], &[1i32, 2]).unwrap().shape, [2, 1]);
    let e = Array::of(&[3], &[1i32, 2]).unwrap_err().to_string();
    assert_eq!(e, "8 bytes do not fill i32[3]");
    let e = Array::from(vec![1.0f32]).to_vec::<i32>().unwrap_err().to_string();
    assert_eq!(e, "the array holds f32, i32 was asked for");
}

/// What a graph of one output makes of its inputs, in f64.
fn computed(build: impl FnOnce(&GraphBuilder), inputs: &[(&str, Array)]) -> Vec<f64> {
    let g = GraphBuilder::new();
    build(&g);
    run(&g.finish().unwrap(), inputs)
}

fn near(got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() < 1e-6, "element {i} is {got}, not {want}");
    }
}

/// Numbers that are neither alike nor in order.
fn mixed(shape: &[usize]) -> Array {
    let n: usize = shape.iter().product();
    Array::of(shape, &(0..n).map(|i| ((i * 37 % 23) as f32 - 11.0) / 8.0).collect::<Vec<_>>()).unwrap()
}

#[test]
fn attention_with_weights_is_attention() {
    let (q, k) = (mixed(&[2, 3, 4, 8]), mixed(&[2, 5, 2, 8]));
    let inputs = [("q", q), ("k", k.clone()), ("v", k)];
    for how in [
        Attention::scaled(0.3),
        Attention::scaled(0.3).softcap(0.5),
        Attention::scaled(0.3).causal(2),
        Attention::scaled(0.3).causal(1).window(2),
    ] {
        let ask = |with: bool| {
            computed(
                |g| {
                    let q = g.input("q", DType::F32, [2, 3, 4, 8]);
                    let [k, v] = ["k", "v"].map(|name| g.input(name, DType::F32, [2, 5, 2, 8]));
                    let y = if with {
                        q.attention_with_weights(k, v, None, None, how).0
                    } else {
                        q.attention(k, v, None, how)
                    };
                    g.output("y", y);
                },
                &inputs,
            )
        };
        near(&ask(true), &ask(false));
    }
}

#[test]
fn attention_takes_values_of_another_width_and_keys_of_each_rows_own_number() {
    let inputs = [("q", mixed(&[2, 3, 2, 4])), ("k", mixed(&[2, 5, 2, 4])), ("v", mixed(&[2, 5, 2, 8]))];
    let lengths = ("lengths", Array::u32(&[2], &[5, 2]));
    let how = Attention::scaled(0.5);
    let wide = computed(
        |g| {
            let (q, k) = (g.input("q", DType::F32, [2, 3, 2, 4]), g.input("k", DType::F32, [2, 5, 2, 4]));
            let (v, n) = (g.input("v", DType::F32, [2, 5, 2, 8]), g.input("lengths", DType::U32, [2]));
            g.output("y", q.attention_with_weights(k, v, None, Some(n), how).0);
        },
        &[&inputs[..], std::slice::from_ref(&lengths)].concat(),
    );
    // The same in halves of the values, under a mask.
    let halves = computed(
        |g| {
            let (q, k) = (g.input("q", DType::F32, [2, 3, 2, 4]), g.input("k", DType::F32, [2, 5, 2, 4]));
            let (v, n) = (g.input("v", DType::F32, [2, 5, 2, 8]), g.input("lengths", DType::U32, [2]));
            let mask = g.iota(DType::U32, [1, 1, 1, 5], 3, 0).lt(n.reshape([2, 1, 1, 1]));
            let half = |i: i64| q.attention(k, v.slice(3, i * 4, 4), Some(mask), how);
            g.output("y", g.concat(&[half(0), half(1)], 3));
        },
        &[&inputs[..], std::slice::from_ref(&lengths)].concat(),
    );
    near(&wide, &halves);
    let sums = computed(
        |g| {
            let (q, k) = (g.input("q", DType::F32, [2, 3, 2, 4]), g.input("k", DType::F32, [2, 5, 2, 4]));
            let (v, n) = (g.input("v", DType::F32, [2, 5, 2, 8]), g.input("lengths", DType::U32, [2]));
            let weights = q.attention_with_weights(k, v, None, Some(n), how).1;
            g.output("y", g.concat(&[weights.sum(&[3]), weights.slice(3, 2, 3).sum(&[3])], 0));
        },
        &[&inputs[..], &[lengths]].concat(),
    );
    near(&sums[..12], &[1.0; 12]);
    near(&sums[18..], &[0.0; 6]);
    let g = GraphBuilder::new();
    let (q, k) = (g.input("q", DType::F32, [2, 3, 3, 4]), g.input("k", DType::F32, [2, 5, 2, 4]));
    q.attention_with_weights(k, k, None, None, how);
    let e = g.finish().unwrap_err().to_string();
    assert!(e.starts_with("attention_with_weights") && e.contains("[2, 3, 3, 4]") && e.contains("[2, 5, 2, 4]"), "{e}");
}

#[test]
fn rotary_tables_may_be_of_each_rows_own() {
    let inputs = [("x", mixed(&[2, 3, 2, 4])), ("c", mixed(&[2, 3, 2])), ("s", mixed(&[2, 3, 2]))];
    for layout in [RopeLayout::Half, RopeLayout::Interleaved] {
        let ask = |whole: bool| {
            computed(
                |g| {
                    let x = g.input("x", DType::F32, [2, 3, 2, 4]);
                    let [c, s] = ["c", "s"].map(|name| g.input(name, DType::F32, [2, 3, 2]));
                    let row = |i: i64| {
                        let [c, s] = [c, s].map(|table| table.slice(0, i, 1).reshape([3, 2]));
                        x.slice(0, i, 1).rope(c, s, layout)
                    };
                    g.output("y", if whole { x.rope(c, s, layout) } else { g.concat(&[row(0), row(1)], 0) });
                },
                &inputs,
            )
        };
        near(&ask(true), &ask(false));
    }
}

#[test]
fn norms_go_over_any_axes() {
    let x = [1.0f32, 5.0, 3.0, 1.0];
    let over = |axes: &[usize], rms: bool| {
        computed(
            |g| {
                let x = g.input("x", DType::F32, [2, 2]);
                g.output("y", if rms { x.rms_normalized(axes, 0.0) } else { x.normalized(axes, 0.0) });
            },
            &[("x", Array::f32(&[2, 2], &x))],
        )
    };
    near(&over(&[0], false), &[-1.0, 1.0, 1.0, -1.0]);
    near(&over(&[1], false), &[-1.0, 1.0, 1.0, -1.0]);
    let all = over(&[0, 1], false);
    near(&all, &[-1.5, 2.5, 0.5, -1.5].map(|d: f64| d / 2.75f64.sqrt()));
    let root = |a: f64, b: f64| ((a * a + b * b) / 2.0).sqrt();
    near(&over(&[0], true), &[1.0 / root(1.0, 3.0), 5.0 / root(5.0, 1.0), 3.0 / root(1.0, 3.0), 1.0 / root(5.0, 1.0)]);
    holds!([2, 2], |x| x.min_keep(&[0]), [0.0, 1.0]);
    let sums = |g: &GraphBuilder| g.output("y", g.input("x", DType::F32, [2, 2]).softmax_over(0).sum(&[0]));
    near(&computed(sums, &[("x", mixed(&[2, 2]))]), &[1.0, 1.0]);
}

#[test]
fn einsum_knows_axes_without_letters() {
    let batched = |spec: &str| {
        computed(
            |g| {
                let (a, b) = (g.input("a", DType::F32, [2, 2, 3]), g.input("b", DType::F32, [2, 3, 2]));
                g.output("y", g.einsum(spec, &[a, b]));
            },
            &[("a", mixed(&[2, 2, 3])), ("b", mixed(&[2, 3, 2]))],
        )
    };
    assert_eq!(batched("...ij,...jk->...ik"), batched("bij,bjk->bik"));
    assert_eq!(batched("...ij,...jk"), batched("bij,bjk->bik"));
    assert_eq!(batched("...j,bjk->...bk"), batched("xyj,bjk->xybk"));
    let g = GraphBuilder::new();
    let x = g.input("x", DType::F32, [2, 3]);
    g.einsum("...i->i", &[x]);
    assert_eq!(g.finish().unwrap_err().to_string(), "einsum \"...i->i\": the result lacks the \"...\" of the operands");
}

#[test]
fn literals_are_of_any_plain_type() {
    let whole = [i32::MIN, -1, 0, 7, 1 << 24, (1 << 24) + 1, i32::MAX];
    let made = |array: &Array| computed(|g| g.output("y", g.literal("n", array)), &[]);
    assert_eq!(made(&Array::from(&whole[..])), whole.map(f64::from));
    let words = [0, 1 << 31, u32::MAX];
    assert_eq!(made(&Array::from(&words[..])), words.map(f64::from));
    assert_eq!(made(&Array::from(&[true, false][..])), [1.0, 0.0]);
    assert_eq!(made(&Array::from(&[half::f16::from_f32(0.1)][..])), [half::f16::from_f32(0.1).to_f64()]);
    assert_eq!(made(&Array::from(&[0.5f32][..])), [0.5]);
    let g = GraphBuilder::new();
    assert_eq!(g.literal("n", &Array::from(&[true][..])).dtype(), DType::Bool);
    // And a result is f16 where it is asked for.
    let half = g.literal("h", &Array::from(&[1.0f32, 3.0][..])) / 3.0;
    g.output("y", half.cast(DType::F16));
    let mut oracle = Interpreter::<f64>::new(&g.finish().unwrap(), &HashMap::new()).unwrap();
    let y = oracle.step(&Bindings::new(), &[]).unwrap().remove(0).1;
    assert_eq!((y.dtype, y.to_f32()), (DType::F16, vec![half::f16::from_f32(1.0 / 3.0).to_f32(), 1.0]));
}

//! What once gave wrong results without a word, over shapes and forms: views of weights, weights in pieces, long rows, NaN, empty
//! axes, keys that nobody sees, outputs that are asked for twice, numbers that wrap.

mod common;

use common::{Found, device};
use pollster::block_on;
use std::collections::HashMap;
use std::sync::Arc;
use warpweft::base::{Array, Bindings, Caps, DType, Result, Var};
use warpweft::device::{Gpu, Program, Store};
use warpweft::graph::{Graph, GraphBuilder, Tensor};
use warpweft::op::{self, Attention, Attrs};
use warpweft::plan::{Options, plan};
use warpweft::reference::Interpreter;

type Memory = HashMap<String, Array>;
type Inputs = Vec<(&'static str, Array)>;

/// Options that take each form of a kernel.
fn forms(gpu: &Gpu) -> Vec<Options> {
    let one = |(fuse, serial): (bool, bool)| {
        let mut options = Options::for_caps(gpu.caps());
        (options.fuse, options.tuning.serial) = (fuse, serial);
        options
    };
    [(true, true), (true, false), (false, true)].map(one).to_vec()
}

fn run(
    gpu: &Arc<Gpu>,
    graph: &Graph,
    weights: &Memory,
    options: &Options,
    step: (&Bindings, &Inputs),
) -> Result<Vec<f32>> {
    let mut store = Store::new(gpu.clone());
    block_on(async {
        let made = plan(graph, gpu.caps(), options)?;
        let mut program = Program::load(made, &mut store, weights, &mut |_, _| {}).await?;
        program.poison();
        Ok(program.step(step.0, step.1, &["y"]).await?.remove(0).to_f32())
    })
}

/// The graph on the adapter in all forms, and the f32 fallback, against the f64 reference.
fn hold(gpu: &Arc<Gpu>, what: &str, graph: &Graph, weights: &Memory, bindings: &Bindings, inputs: &Inputs) -> Vec<f64> {
    let want = Interpreter::<f64>::new(graph, weights).unwrap().step_values(bindings, inputs).unwrap().remove(0).1;
    let alike = |how: &str, got: &[f32]| {
        assert_eq!(got.len(), want.len(), "{what} {how}");
        for (i, (g, w)) in got.iter().zip(&want).enumerate() {
            let (g, near) = (*g as f64, 1e-4 + 1e-4 * w.abs());
            let same = g == *w || (g.is_nan() && w.is_nan()) || (g - w).abs() <= near;
            assert!(same, "{what} {how}: element {i} is {g}, the reference says {w}");
        }
    };
    let fallback = Interpreter::<f32>::new(graph, weights).unwrap().step(bindings, inputs).unwrap().remove(0).1;
    alike("on the fallback", &fallback.to_f32());
    for options in forms(gpu) {
        let how = format!("fuse={} serial={}", options.fuse, options.tuning.serial);
        alike(
            &how,
            &run(gpu, graph, weights, &options, (bindings, inputs)).unwrap_or_else(|e| panic!("{what} {how}: {e}")),
        );
    }
    want
}

/// A graph with one input of this shape.
fn of_input(shape: &[usize], make: impl Fn(Tensor<'_>) -> Tensor<'_>) -> Graph {
    let g = GraphBuilder::new();
    let x = g.input("x", DType::F32, shape.iter().map(|d| (*d).into()).collect::<Vec<warpweft::base::Dim>>());
    g.output("y", make(x));
    g.finish().unwrap()
}

#[test]
fn gathers_read_views_of_weights_as_they_are() {
    let Found::Device(gpu) = device(None) else { return };
    for (rows, width) in [(2, 2), (4, 1), (5, 6), (64, 3)] {
        let views: [(&str, usize, fn(Tensor<'_>, usize, usize) -> Tensor<'_>); 4] = [
            ("reshaped", rows * width, |w, rows, width| w.reshape([rows * width])),
            ("the first half", rows / 2, |w, rows, _| w.slice(0, 0, rows / 2)),
            ("the second half", rows / 2, |w, rows, _| w.slice(0, rows - rows / 2, rows / 2)),
            ("transposed", width, |w, _, _| w.transpose(&[1, 0])),
        ];
        for dtype in [DType::F32, DType::F16] {
            for (what, len, view) in views {
                let g = GraphBuilder::new();
                let w = g.weight("w", dtype, [rows, width]);
                // One id is beyond the view: it gives zeros, not what lies behind.
                let ids = g.input("ids", DType::U32, [len + 1]);
                g.output("y", view(w, rows, width).gather(ids));
                let graph = g.finish().unwrap();
                let values: Vec<f32> = (0..rows * width).map(|i| i as f32 + 1.0).collect();
                let table = Array { dtype, ..Array::new(dtype, &[rows, width], encoded(dtype, &values)).unwrap() };
                let ids = Array::u32(&[len + 1], &(0..=len as u32).collect::<Vec<_>>());
                let what = format!("{dtype}[{rows}, {width}] {what}");
                hold(&gpu, &what, &graph, &Memory::from([("w".into(), table)]), &Bindings::new(), &vec![("ids", ids)]);
            }
        }
    }
}

fn encoded(dtype: DType, values: &[f32]) -> Vec<u8> {
    match dtype {
        DType::F16 => values.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
    }
}

#[test]
fn a_weight_beyond_the_binding_limit_is_refused_where_only_its_first_piece_would_be_read() {
    let caps = Caps { binding_bytes: 1 << 20, ..Caps::FLOOR };
    let readers: [(&str, fn(Tensor<'_>) -> Tensor<'_>); 5] = [
        ("map", |w| w + 1.0),
        ("reduce", |w| w.sum(&[1])),
        ("view", |w| w.transpose(&[1, 0]) * 2.0),
        ("row", |w| w.softmax()),
        ("columns", |w| w.slice(0, 0, 8).matmul(w.slice(0, 0, 64))),
    ];
    for (what, read) in readers {
        let g = GraphBuilder::new();
        g.output("y", read(g.weight("w", DType::F32, [9000, 64])));
        let refused = plan(&g.finish().unwrap(), &caps, &Options::for_caps(&caps)).unwrap_err().to_string();
        assert!(refused.contains("\"w\"") && refused.contains("2304000 bytes"), "{what}: {refused}");
    }
}

#[test]
fn long_rows_are_whole_where_loops_end_early() {
    let Found::Device(gpu) = device(None) else { return };
    let makes: [(&str, usize, fn(Tensor<'_>) -> Tensor<'_>); 9] = [
        ("sum", 100_000, |x| x.sum(&[1])),
        ("mean", 70_000, |x| x.mean(&[1])),
        ("max", 100_000, |x| x.max(&[1])),
        ("min", 66_000, |x| x.min(&[1])),
        ("argmax", 100_000, |x| x.argmax(1).cast(DType::F32)),
        ("softmax", 33_000, |x| x.softmax().max(&[1])),
        ("log_softmax", 22_000, |x| x.log_softmax().slice(1, 21_000, 1000)),
        ("softmax of a vocabulary", 128_256, |x| x.softmax().slice(1, 128_000, 256)),
        ("a product", 100_000, |x| x.matmul_t(x)),
    ];
    for (what, len, make) in makes {
        // The last element is the largest.
        let values: Vec<f32> = (0..len).map(|i| if i + 1 == len { 2.0 } else { (i % 7) as f32 * 0.125 }).collect();
        let inputs = vec![("x", Array::f32(&[1, len], &values))];
        hold(&gpu, what, &of_input(&[1, len], make), &Memory::new(), &Bindings::new(), &inputs);
    }
    let norms = |len: usize| {
        let g = GraphBuilder::new();
        let x = g.input("x", DType::F32, [1, len]);
        let ones = g.data("ones", [len], vec![1.0; len]);
        g.output("y", x.rms_norm(ones, 1e-5).layer_norm(ones, ones, 1e-5).slice(1, len - 100, 100));
        g.finish().unwrap()
    };
    let values: Vec<f32> = (0..40_000).map(|i| (i % 13) as f32 - 5.0).collect();
    let inputs = vec![("x", Array::f32(&[1, 40_000], &values))];
    hold(&gpu, "norms", &norms(40_000), &Memory::new(), &Bindings::new(), &inputs);
}

#[test]
fn many_ids_and_many_keys_are_all_seen() {
    let Found::Device(gpu) = device(None) else { return };
    let n = 130_000;
    let g = GraphBuilder::new();
    let (ids, x) = (g.input("ids", DType::U32, [n]), g.input("x", DType::F32, [n, 1]));
    g.output("y", g.op(&op::SCATTER_ADD, Attrs::Rows(3.into()), &[x, ids]));
    let ids: Vec<u32> = (0..n as u32).map(|i| i % 4).collect();
    let inputs = vec![("ids", Array::u32(&[n], &ids)), ("x", Array::f32(&[n, 1], &vec![0.25; n]))];
    hold(&gpu, "scatter_add", &g.finish().unwrap(), &Memory::new(), &Bindings::new(), &inputs);
    for width in [4, 12, 128] {
        let t = if width == 128 { 1000 } else { 70_000 };
        let g = GraphBuilder::new();
        let q = g.input("q", DType::F32, [1, 1, 1, width]);
        let k = g.input("k", DType::F32, [1, t, 1, width]);
        let how = Attention::scaled(0.5);
        g.output("y", q.attention(k, k, None, how));
        let keys: Vec<f32> =
            (0..t * width).map(|i| if i / width + 1 == t { 4.0 } else { (i % 5) as f32 * 0.1 }).collect();
        let inputs =
            vec![("q", Array::f32(&[1, 1, 1, width], &vec![1.0; width])), ("k", Array::f32(&[1, t, 1, width], &keys))];
        let graph = g.finish().unwrap();
        let want = Interpreter::<f64>::new(&graph, &Memory::new()).unwrap().step_values(&Bindings::new(), &inputs);
        let want = want.unwrap().remove(0).1;
        for serial in [true, false] {
            let mut options = Options::for_caps(gpu.caps());
            options.tuning.serial = serial;
            // Keys by the tens of thousands are tiled where heads are whole vectors.
            let got = run(&gpu, &graph, &Memory::new(), &options, (&Bindings::new(), &inputs)).unwrap();
            assert!(
                got.iter().zip(&want).all(|(g, w)| (*g as f64 - w).abs() < 1e-3),
                "width {width}: {got:?} for {want:?}"
            );
        }
    }
}

#[test]
fn loops_that_no_form_can_keep_short_are_refused() {
    let caps = Caps { kind: warpweft::base::AdapterKind::Software, ..Caps::FLOOR };
    let g = GraphBuilder::new();
    g.output("y", g.input("x", DType::F32, [1, 6_000_000]).sum(&[1]));
    let refused = plan(&g.finish().unwrap(), &caps, &Options::for_caps(&caps)).unwrap_err().to_string();
    assert!(refused.contains("turns of its loops"), "{refused}");
}

#[test]
fn queries_that_see_no_key_give_zeros() {
    let Found::Device(gpu) = device(None) else { return };
    for (width, heads) in [(3, 1), (4, 2), (16, 2), (64, 1), (128, 2)] {
        let (s, t) = (3, 5);
        let q: Vec<f32> = (0..s * heads * width).map(|i| (i % 11) as f32 * 0.2 - 1.0).collect();
        let k: Vec<f32> = (0..t * heads * width).map(|i| (i % 7) as f32 * 0.3 - 1.0).collect();
        let operands =
            || vec![("q", Array::f32(&[1, s, heads, width], &q)), ("k", Array::f32(&[1, t, heads, width], &k))];
        let graph = |mask: Option<DType>, causal: Option<i64>, window| {
            let g = GraphBuilder::new();
            let q = g.input("q", DType::F32, [1, s, heads, width]);
            let k = g.input("k", DType::F32, [1, t, heads, width]);
            let mask = mask.map(|dtype| g.input("mask", dtype, [s, t]));
            let how = Attention { causal: causal.map(|past| past.into()), window, ..Attention::scaled(0.5) };
            g.output("y", q.attention(k, k, mask, how));
            g.finish().unwrap()
        };
        // The middle query sees nothing.
        let seen: Vec<u32> = (0..s * t).map(|i| (i / t != 1) as u32).collect();
        let truth = Array { dtype: DType::Bool, ..Array::u32(&[s, t], &seen) };
        let added: Vec<f32> = seen.iter().map(|x| if *x == 1 { 0.0 } else { f32::NEG_INFINITY }).collect();
        let middle = heads * width..2 * heads * width;
        for (what, dtype, mask) in [("bool", DType::Bool, truth), ("f32", DType::F32, Array::f32(&[s, t], &added))] {
            let inputs = [operands(), vec![("mask", mask)]].concat();
            let what = format!("{what} mask, heads of {width}");
            let want = hold(&gpu, &what, &graph(Some(dtype), None, None), &Memory::new(), &Bindings::new(), &inputs);
            assert!(want[middle.clone()].iter().all(|x| *x == 0.0) && want[0] != 0.0, "{what}: {want:?}");
        }
        let windowed = graph(None, Some(6), Some(3));
        let want = hold(&gpu, "a window behind all keys", &windowed, &Memory::new(), &Bindings::new(), &operands());
        assert!(want[middle].iter().all(|x| *x == 0.0), "{want:?}");
    }
}

#[test]
fn nan_differs_from_itself_and_wins_reductions() {
    let Found::Device(gpu) = device(None) else { return };
    let makes: [(&str, fn(Tensor<'_>) -> Tensor<'_>); 7] = [
        ("ne", |x| x.ne(x).cast(DType::F32)),
        ("eq", |x| x.eq(x).cast(DType::F32)),
        ("sum", |x| x.sum(&[1])),
        ("mean", |x| x.mean(&[1])),
        ("max", |x| x.max(&[1])),
        ("min", |x| x.min(&[1])),
        ("argmax", |x| x.argmax(1).cast(DType::F32)),
    ];
    for len in [1, 5, 100, 300] {
        for at in [0, len / 2, len - 1] {
            let values: Vec<f32> =
                (0..3 * len).map(|i| if i == len + at { f32::NAN } else { (i % 9) as f32 }).collect();
            for (what, make) in makes {
                let inputs = vec![("x", Array::f32(&[3, len], &values))];
                let what = format!("{what} over {len}, NaN at {at}");
                let want = hold(&gpu, &what, &of_input(&[3, len], make), &Memory::new(), &Bindings::new(), &inputs);
                if what.starts_with("argmax") {
                    assert_eq!(want[1], at as f64, "{what}");
                } else if want.len() == 3 && !what.starts_with("ne") && !what.starts_with("eq") {
                    assert!(want[1].is_nan() && !want[0].is_nan(), "{what}: {want:?}");
                }
            }
        }
    }
}

#[test]
fn reductions_over_an_axis_that_a_step_leaves_empty() {
    let Found::Device(gpu) = device(None) else { return };
    let n = Var::new("n", 300);
    let makes: [(&str, f64, fn(Tensor<'_>) -> Tensor<'_>); 4] = [
        ("sum", 0.0, |x| x.sum(&[1])),
        ("max", f64::NEG_INFINITY, |x| x.max(&[1])),
        ("min", f64::INFINITY, |x| x.min(&[1])),
        ("argmax", 0.0, |x| x.argmax(1).cast(DType::F32)),
    ];
    for (what, of_nothing, make) in makes {
        let g = GraphBuilder::new();
        g.output("y", make(g.input("x", DType::F32, vec![2.into(), n.into()])));
        let graph = g.finish().unwrap();
        for len in [0usize, 1, 300] {
            let inputs = vec![("x", Array::f32(&[2, len], &common::values(2 * len)))];
            let bindings = Bindings::new().with("n", len as u64);
            let want = hold(&gpu, what, &graph, &Memory::new(), &bindings, &inputs);
            assert!(len > 0 || want == [of_nothing; 2], "{what}: {want:?}");
        }
    }
}

#[test]
fn outputs_may_be_asked_for_twice() {
    let Found::Device(gpu) = device(None) else { return };
    let g = GraphBuilder::new();
    let x = g.input("x", DType::F32, [3]);
    g.output("y", x + 1.0);
    g.output("z", x * 2.0);
    let graph = g.finish().unwrap();
    let inputs = vec![("x", Array::f32(&[3], &[1.0, 2.0, 3.0]))];
    let mut store = Store::new(gpu.clone());
    let made = plan(&graph, gpu.caps(), &Options::for_caps(gpu.caps())).unwrap();
    let mut program = block_on(Program::load(made, &mut store, &Memory::new(), &mut |_, _| {})).unwrap();
    let asked = ["y", "z", "y", "y", "z"];
    let got = block_on(program.step(&Bindings::new(), &inputs, &asked)).unwrap();
    for (name, array) in asked.iter().zip(&got) {
        let want = if *name == "y" { [2.0, 3.0, 4.0] } else { [2.0, 4.0, 6.0] };
        assert_eq!(array.to_f32(), want, "{name}");
    }
}

#[test]
fn steps_whose_numbers_would_wrap_are_refused_by_every_back_end() {
    let Found::Device(gpu) = device(None) else { return };
    let (seq, total) = (Var::new("seq", 8), Var::new("total", 16));
    let past = warpweft::base::Dim::from(total) - seq.into();
    let g = GraphBuilder::new();
    let x = g.input("x", DType::F32, vec![1.into(), seq.into(), 1.into(), 4.into()]);
    let cache = g.state("cache", DType::F32, [16, 4]);
    let keys = cache.append(x.reshape(vec![seq.into(), 4.into()]), past).slice(0, 0, total);
    let keys = keys.reshape(vec![1.into(), total.into(), 1.into(), 4.into()]);
    g.output("y", x.attention(keys, keys, None, Attention { causal: Some(past), ..Attention::scaled(0.5) }));
    let graph = g.finish().unwrap();
    let inputs = vec![("x", Array::f32(&[1, 8, 1, 4], &[0.5; 32]))];
    let bindings = Bindings::new().with("seq", 8).with("total", 4);
    for options in forms(&gpu) {
        let refused = run(&gpu, &graph, &Memory::new(), &options, (&bindings, &inputs)).unwrap_err().to_string();
        assert!(refused.contains("may not be negative"), "{refused}");
    }
    let refused = Interpreter::<f32>::new(&graph, &Memory::new()).unwrap().step(&bindings, &inputs).unwrap_err();
    assert!(refused.to_string().contains("may not be negative"), "{refused}");
}

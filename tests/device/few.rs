//! What products of few rows take along: the norm before them, and one result of both halves of a gated network.

use super::{Memory, matrix};
use crate::common::{Found, device, large_gpu, model};
use pollster::block_on;
use std::sync::Arc;
use warpweft::base::{AdapterKind, Array, Bindings, Caps, DType, Var};
use warpweft::device::{Gpu, Program, Store};
use warpweft::graph::{Graph, GraphBuilder, Tensor};
use warpweft::kernel::{Kernel, Template};
use warpweft::model::{Model, ModelSource, PagedShape};
use warpweft::plan::{Options, Plan, plan};
use warpweft::reference::Interpreter;

/// `x + down(act(gate(norm(x))) · up(norm(x)))` of m rows, with its weights and x.
fn network(m: usize, dtype: DType, gelu: bool) -> (Graph, Memory, Array) {
    let (width, inner) = (256, 512);
    let g = GraphBuilder::new();
    let x = g.input("x", DType::F32, [m, width]);
    let factors = g.data("factors", [width], (0..width).map(|i| 0.5 + (i % 7) as f32 / 5.0).collect());
    let weight = |name: &str, n: usize, k: usize| g.weight(name, dtype, [n, k]);
    let h = x.rms_norm(factors, 1e-5);
    let (gate, up) = (h.matmul_t(weight("gate", inner, width)), h.matmul_t(weight("up", inner, width)));
    let h = if gelu { gate.gelu_tanh() } else { gate.silu() } * up;
    g.output("y", x + h.matmul_t(weight("down", width, inner)));
    let weights = [("gate", inner, width, 1), ("up", inner, width, 2), ("down", width, inner, 3)];
    let weights = weights.map(|(name, n, k, seed)| (name.to_string(), matrix(dtype, n, k, seed))).into();
    let x: Vec<f32> = (0..m * width).map(|i| ((i * 37 + i / 9) % 101) as f32 / 25.0 - 2.0).collect();
    (g.finish().unwrap(), weights, Array::f32(&[m, width], &x))
}

fn ways(gpu: &Gpu) -> Vec<Options> {
    let mut out = vec![];
    for (serial, variant) in [
        (true, None),
        (true, Some("rows-1x1")),
        (false, Some("vector-4")),
        (false, Some("vector-4x32")),
        (false, Some("subgroup-8")),
    ] {
        let mut options = Options::for_caps(gpu.caps());
        (options.tuning.serial, options.tuning.texels) = (serial, serial);
        variant.iter().for_each(|v| options.tuning.prefer(v));
        out.push(options);
    }
    out
}

fn run(gpu: &Arc<Gpu>, made: Plan, weights: &Memory, x: &Array) -> warpweft::base::Result<Vec<f32>> {
    block_on(async {
        let mut store = Store::new(gpu.clone());
        let mut program = Program::load(made, &mut store, weights, &mut |_, _| {}).await?;
        program.poison();
        Ok(program.step(&Bindings::new(), &[("x", x.clone())], &["y"]).await?.remove(0).to_f32())
    })
}

/// The first element that is further from the reference than sums of f32 are.
fn wrong(graph: &Graph, weights: &Memory, x: &Array, got: &[f32]) -> Option<String> {
    let mut oracle = Interpreter::<f64>::new(graph, weights).unwrap();
    let want = oracle.step_values(&Bindings::new(), &[("x", x.clone())]).unwrap().remove(0).1;
    let size = want.iter().fold(0.0, |most: f64, x| x.abs().max(most));
    let off = |i: &usize| (got[*i] as f64 - want[*i]).abs();
    (0..got.len())
        .find(|i| off(i) > 2e-5 * size || off(i).is_nan())
        .map(|i| format!("element {i} is {}, {} is right", got[i], want[i]))
}

#[test]
fn a_gated_network_of_few_rows_takes_two_dispatches_or_three_and_is_right() {
    let Found::Device(gpu) = device(None) else { return };
    for dtype in [DType::F32, DType::F16, DType::Q4_1, DType::Q6_K] {
        // Texts differ by rows: each number of them is compiled.
        let rows = [(3, true), (1, false), (8, false)];
        for (m, gelu) in rows.into_iter().take(if dtype == DType::Q4_1 { 3 } else { 1 }) {
            let (graph, weights, x) = network(m, dtype, gelu);
            for options in ways(&gpu) {
                let made = plan(&graph, gpu.caps(), &options).unwrap();
                let what = format!("{m} rows of {dtype}, {:?}", options.tuning.chosen.values().next());
                let most = if options.tuning.serial { 3 } else { 2 };
                assert_eq!(made.dispatches.len(), most, "{what}: {made}");
                let got = run(&gpu, made, &weights, &x).unwrap_or_else(|e| panic!("{what}: {e}"));
                if let Some(wrong) = wrong(&graph, &weights, &x, &got) {
                    panic!("{what}: {wrong}");
                }
            }
        }
    }
    // More rows, and plans whose values can all be read, compute everything apart.
    let (graph, ..) = network(9, DType::Q4_1, false);
    let options = Options { keep_values: true, ..Options::for_caps(gpu.caps()) };
    assert!(plan(&graph, gpu.caps(), &Options::for_caps(gpu.caps())).unwrap().dispatches.len() >= 4);
    assert!(plan(&network(1, DType::Q4_1, false).0, gpu.caps(), &options).unwrap().dispatches.len() >= 4);
}

/// `silu(a) · b` of both halves of a product.
fn gated(product: Tensor<'_>, half: i64) -> Tensor<'_> {
    product.slice(1, 0, half).silu() * product.slice(1, half, half)
}

#[test]
fn a_product_is_not_put_off_past_a_write_of_what_it_reads() {
    let Found::Device(gpu) = device(None) else { return };
    let g = GraphBuilder::new();
    let x = g.input("x", DType::F32, [1, 64]);
    let before = g.state("before", DType::F32, [1, 64]);
    let product = before.matmul_t(g.weight("w", DType::F32, [128, 64]));
    before.assign(x);
    g.output("y", gated(product, 64));
    let graph = g.finish().unwrap();
    let weights: Memory = [("w".to_string(), matrix(DType::F32, 128, 64, 1))].into();
    let x = Array::f32(&[1, 64], &[0.5; 64]);
    for options in ways(&gpu) {
        let got = run(&gpu, plan(&graph, gpu.caps(), &options).unwrap(), &weights, &x).unwrap();
        assert_eq!(wrong(&graph, &weights, &x, &got), None);
    }
}

#[test]
fn rows_of_a_larger_buffer_are_all_multiplied() {
    let Found::Device(gpu) = device(None) else { return };
    let (rows, k) = (100, 2304);
    let g = GraphBuilder::new();
    let x = g.input("x", DType::F32, [rows, k]).slice(0, 0, 6);
    g.output("y", gated(x.matmul_t(g.weight("w", DType::F32, [128, k])), 64));
    let graph = g.finish().unwrap();
    let weights: Memory = [("w".to_string(), matrix(DType::F32, 128, k, 2))].into();
    let values: Vec<f32> = (0..rows * k).map(|i| ((i * 37 + i / 9) % 101) as f32 / 50.0 - 1.0).collect();
    let x = Array::f32(&[rows, k], &values);
    for options in ways(&gpu) {
        let got = run(&gpu, plan(&graph, gpu.caps(), &options).unwrap(), &weights, &x).unwrap();
        assert_eq!(wrong(&graph, &weights, &x, &got), None);
    }
}

/// Whether forms without barriers are planned, what is replaced, by what.
const BREAKS: &[(bool, &str, &str)] = &[
    (true, "(p.n + min(n0 + 0u", "(min(n0 + 0u"),
    (true, "epilogue(acc, other, o)", "epilogue(other, acc, o)"),
    (false, "(p.n + min(n0 + 0u", "(min(n0 + 0u"),
    (false, "sum0[place + 2u]", "sum0[place]"),
    (false, "place < 2u", "place < 1u"),
    (false, "/ f32(p.k) + bitcast", "/ f32(p.k + 9u) + bitcast"),
    (false, "* g[p.g0 / 4u +", "* g[0u *"),
    (false, "sum0[place] * by0", "sum0[place]"),
    (false, "epilogue(sum, other, o)", "epilogue(other, sum, o)"),
];

#[test]
fn what_is_broken_of_it_is_seen() {
    let Found::Device(gpu) = device(None) else { return };
    let (graph, weights, x) = network(3, DType::Q4_1, false);
    for (serial, from, to) in BREAKS {
        let options = ways(&gpu).into_iter().find(|o| o.tuning.serial == *serial).unwrap();
        let mut made = plan(&graph, gpu.caps(), &options).unwrap();
        let mut changed = 0;
        for k in &mut made.kernels {
            let source = k.source().unwrap();
            if source.contains(from) {
                let source = source.replace(from, to).leak();
                *k = Kernel::new(Box::leak(Box::new(Template { name: k.name(), source })));
                changed += 1;
            }
        }
        assert!(changed > 0, "serial={serial}: no kernel holds {from:?}");
        // A kernel that no longer compiles is seen, too.
        let seen = run(&gpu, made, &weights, &x).map_or(true, |got| wrong(&graph, &weights, &x, &got).is_some());
        assert!(seen, "serial={serial}: {to:?} for {from:?} went unseen");
    }
}

#[test]
fn a_layer_over_pages_takes_at_most_eight_dispatches() {
    let Some(path) = model("smollm2-135m") else { return };
    let model = Model::new(ModelSource::open(path).unwrap()).unwrap();
    let (rows, outputs) = (Var::new("rows", 8).into(), Var::new("outputs", 8).into());
    let shape = PagedShape { rows, outputs, sequences: 8, context: 512, page: 32, pages: 128, kv: DType::F32 };
    let graph = model.paged_graph(&shape).unwrap();
    for caps in [Caps::FLOOR, large_gpu(), Caps { kind: AdapterKind::Software, ..large_gpu() }] {
        let made = plan(&graph, &caps, &Options::for_caps(&caps)).unwrap();
        for layer in 0..30 {
            let of = made.dispatches.iter().filter(|d| d.label.starts_with(&format!("layers.{layer}."))).count();
            assert!((1..=8).contains(&of), "{:?}: layer {layer} takes {of} dispatches", caps.kind);
        }
    }
}

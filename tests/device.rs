//! What a device does beside computing rightly: limits, faults, refusals by name, and what a step costs.

mod common;
#[path = "device/faults.rs"]
mod faults;
#[path = "device/few.rs"]
mod few;
#[path = "device/load.rs"]
mod load;
#[path = "device/steps.rs"]
mod steps;

use common::{Found, device};
use pollster::block_on;
use std::collections::HashMap;
use std::sync::Arc;
use warpweft::base::{AdapterKind, Array, Bindings, Caps, DType, Result, Var, Weights};
use warpweft::device::{Gpu, Program, Store};
use warpweft::format;
use warpweft::graph::{Graph, GraphBuilder};
use warpweft::plan::{Options, Plan, Role, plan};
use warpweft::reference::{Interpreter, sample::Random};

type Memory = HashMap<String, Array>;

fn planned(gpu: &Gpu, graph: &Graph) -> Result<Plan> {
    plan(graph, gpu.caps(), &Options::for_caps(gpu.caps()))
}

/// A plan of a graph, loaded; the store must outlive it.
fn loaded(gpu: &Arc<Gpu>, graph: &Graph, weights: &dyn Weights) -> Result<(Program, Store)> {
    let mut store = Store::new(gpu.clone());
    let program = block_on(Program::load(planned(gpu, graph)?, &mut store, weights, &mut |_, _| {}))?;
    Ok((program, store))
}

/// Seeded elements of a type, between -1 and 1.
fn matrix(dtype: DType, rows: usize, cols: usize, seed: u64) -> Array {
    let mut random = Random::new(seed);
    let values: Vec<f32> = (0..rows * cols).map(|_| (random.unit() * 2.0 - 1.0) as f32).collect();
    Array::new(dtype, &[rows, cols], format::encode(dtype, &values)).unwrap()
}

/// `y = x · wᵀ`, and the rows of `w` that `ids` name.
fn lookup_and_product(dtype: DType, rows: usize, width: usize) -> Result<Graph> {
    let g = GraphBuilder::new();
    g.at("head");
    let w = g.weight("w", dtype, [rows, width]);
    let x = g.input("x", DType::F32, [2, width]);
    let ids = g.input("ids", DType::U32, [4]);
    g.output("y", x.matmul_t(w));
    g.output("rows", w.gather(ids));
    g.finish()
}

#[test]
fn a_weight_beyond_the_binding_limit_is_split_and_right() {
    let caps = Caps { binding_bytes: 1 << 20, ..Caps::FLOOR };
    let Found::Device(gpu) = device(Some(&caps)) else { return };
    for (dtype, rows) in
        [(DType::F32, 9001), (DType::F16, 17_000), (DType::Q4_0, 60_000), (DType::Q4_1, 60_000), (DType::Q8_0, 34_001)]
    {
        let width = 64;
        let graph = lookup_and_product(dtype, rows, width).unwrap();
        let made = planned(&gpu, &graph).unwrap();
        let pieces = made.buffers.iter().filter(|b| matches!(b.role, Role::Weight { .. })).count();
        assert!(pieces >= 3, "{dtype}: {pieces} pieces");
        let weights = Memory::from([("w".into(), matrix(dtype, rows, width, 1))]);
        // The first and last rows, and both sides of a cut.
        let cut = made.buffers.iter().find_map(|b| match &b.role {
            Role::Weight { rows, .. } if rows.start == 0 => Some(rows.end as u32),
            _ => None,
        });
        let ids = [0, cut.unwrap() - 1, cut.unwrap(), rows as u32 - 1];
        let inputs = [("x", matrix(DType::F32, 2, width, 2)), ("ids", Array::u32(&[4], &ids))];
        let (mut program, _store) = loaded(&gpu, &graph, &weights).unwrap();
        program.poison();
        let got = block_on(program.step(&Bindings::new(), &inputs, &["y", "rows"])).unwrap();
        let want = Interpreter::<f64>::new(&graph, &weights).unwrap().step_values(&Bindings::new(), &inputs).unwrap();
        for (array, (name, want)) in got.iter().zip(&want) {
            let worst = array.to_f32().iter().zip(want).map(|(g, w)| (*g as f64 - w).abs()).fold(0.0, f64::max);
            assert!(worst < 1e-4 && array.count() == want.len(), "{dtype} {name}: {worst}");
        }
    }
}

#[test]
fn a_software_adapter_reads_a_large_weight_by_slices() {
    let graph = lookup_and_product(DType::Q4_0, 70_000, 1024).unwrap();
    let pieces = |kind| {
        let caps = Caps { kind, binding_bytes: 1 << 30, buffer_bytes: 1 << 30, ..Caps::FLOOR };
        let made = plan(&graph, &caps, &Options::for_caps(&caps)).unwrap();
        made.buffers.iter().filter(|b| matches!(b.role, Role::Weight { .. })).map(|b| b.bytes).collect::<Vec<_>>()
    };
    assert_eq!(pieces(AdapterKind::Discrete).len(), 1);
    let slices = pieces(AdapterKind::Software);
    assert!(slices.len() == 5 && slices.iter().all(|b| *b <= (1 << 24) / 32 * 18), "{slices:?}");
}

#[test]
fn two_devices_of_one_adapter_work_at_once() {
    let (Found::Device(a), Found::Device(b)) = (device(None), device(None)) else { return };
    let graph = lookup_and_product(DType::F32, 100, 32).unwrap();
    let run = |gpu: &Arc<Gpu>, seed: u64| {
        let weights = Memory::from([("w".into(), matrix(DType::F32, 100, 32, seed))]);
        let inputs = [("x", matrix(DType::F32, 2, 32, 3)), ("ids", Array::u32(&[4], &[0, 1, 2, 99]))];
        let (mut program, _store) = loaded(gpu, &graph, &weights).unwrap();
        let want = Interpreter::<f64>::new(&graph, &weights)
            .unwrap()
            .step_values(&Bindings::new(), &inputs)
            .unwrap()
            .remove(0)
            .1;
        for _ in 0..20 {
            let got = block_on(program.step(&Bindings::new(), &inputs, &["y"])).unwrap()[0].to_f32();
            assert!(got.iter().zip(&want).all(|(g, w)| (*g as f64 - w).abs() < 1e-4));
        }
    };
    std::thread::scope(|s| {
        s.spawn(|| run(&a, 10));
        s.spawn(|| run(&b, 20));
        // And two programs on one device.
        s.spawn(|| run(&a, 30));
    });
}

/// A row appended to a state at `at`, and the state's first three rows.
fn remembering() -> Graph {
    let g = GraphBuilder::new();
    let at = Var::new("at", 2);
    let row = g.input("row", DType::F32, [1, 4]);
    let state = g.state("memory", DType::F32, [3, 4]);
    g.output("all", state.append(row, at) * 1.0);
    g.finish().unwrap()
}

#[test]
fn states_survive_steps_and_are_zeros_at_first_and_after_a_reset() {
    let Found::Device(gpu) = device(None) else { return };
    let graph = remembering();
    let (mut program, store) = loaded(&gpu, &graph, &Memory::new()).unwrap();
    let mut step = |at: u64, x: f32| {
        let inputs = [("row", Array::f32(&[1, 4], &[x; 4]))];
        let all = block_on(program.step(&Bindings::new().with("at", at), &inputs, &["all"])).unwrap()[0].to_f32();
        [all[0], all[4], all[8]]
    };
    assert_eq!(step(0, 1.0), [1.0, 0.0, 0.0]);
    assert_eq!(step(2, 3.0), [1.0, 0.0, 3.0]);
    assert_eq!(step(1, 2.0), [1.0, 2.0, 3.0]);
    store.reset();
    assert_eq!(step(1, 5.0), [0.0, 5.0, 0.0]);
    // Another plan of the same store sees the same state.
    let mut store = store;
    let second = block_on(Program::load(planned(&gpu, &graph).unwrap(), &mut store, &Memory::new(), &mut |_, _| {}));
    let inputs = [("row", Array::f32(&[1, 4], &[7.0; 4]))];
    let all = block_on(second.unwrap().step(&Bindings::new().with("at", 0), &inputs, &["all"])).unwrap()[0].to_f32();
    assert_eq!([all[0], all[4], all[8]], [7.0, 5.0, 0.0]);
}

#[test]
fn buffers_are_counted_and_given_back() {
    let Found::Device(gpu) = device(None) else { return };
    let before = gpu.used_bytes();
    {
        let weights = Memory::from([("w".into(), matrix(DType::F32, 1000, 64, 1))]);
        let graph = lookup_and_product(DType::F32, 1000, 64).unwrap();
        let kept = loaded(&gpu, &graph, &weights).unwrap();
        assert!(gpu.used_bytes() >= before + 1000 * 64 * 4 && gpu.peak_bytes() >= gpu.used_bytes());
        drop(kept);
    }
    assert_eq!(gpu.used_bytes(), before);
}

#[test]
fn a_plan_reads_as_text() {
    let g = GraphBuilder::new();
    let rows = Var::new("rows", 8);
    g.at("network");
    let x = g.input("x", DType::F32, vec![rows.into(), 64.into()]);
    let up = g.weight("up", DType::Q4_1, [96, 64]);
    let down = g.weight("down", DType::F16, [64, 96]);
    let h = x.matmul_t(up).silu();
    let y = x + h.matmul_t(down);
    g.at("norm");
    let ones = g.data("ones", [64], vec![1.0; 64]);
    g.output("y", y.rms_norm(ones, 1e-5));
    let made = plan(&g.finish().unwrap(), &Caps::FLOOR, &Options::for_caps(&Caps::FLOOR)).unwrap();
    insta::assert_snapshot!(made);
}

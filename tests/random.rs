//! Seeded random graphs: fused = unfused = reference.

mod common;

use common::{Found, device};
use pollster::block_on;
use std::collections::{HashMap, HashSet};
use warpweft::base::{AdapterKind, Array, Bindings, Caps, DType, Result, Var};
use warpweft::device::{Program, Store};
use warpweft::graph::{Graph, GraphBuilder, Tensor};
use warpweft::plan::{BufferId, Options, Plan, Role, plan};
use warpweft::reference::Interpreter;
use warpweft::reference::sample::Random;
use warpweft::session::{DeviceChoice, Engine};

const GRAPHS: u64 = 1000;
const SEQ: Var = Var::new("seq", 5);

/// A graph of a dozen ops over small tensors, one dim of them a variable. Half way a state that some of them have read is
/// assigned what one of them has made; what was read before stays as it was.
fn random_graph(seed: u64) -> Result<Graph> {
    let r = &mut Random::new(seed);
    let g = GraphBuilder::new();
    let state = g.state("s", DType::F32, [7, 4]);
    let a = g.input("a", DType::F32, vec![SEQ.into(), 4.into()]);
    let b = g.input("b", DType::F32, [3, 4]);
    let c = g.input("c", DType::F32, [4]);
    let q = g.state("q", DType::F32, [3, 4]);
    let turned = q.transpose(&[1, 0]);
    let mut pool = vec![a, b, c, state.append(a.tanh(), 1).slice(0, 0, SEQ), q, turned, q * 0.5];
    let steps = 4 + r.below(12);
    for i in 0..steps {
        if i == steps / 2 {
            let fits: Vec<Tensor> = pool.iter().filter(|x| x.ty() == q.ty()).copied().collect();
            let new = fits[r.below(fits.len())].tanh() + b * 0.25;
            let new = if r.below(3) == 0 { new.maximum(turned.transpose(&[1, 0])) } else { new };
            pool.retain(|x| x.value() != q.value());
            pool.push(q.assign(new));
        }
        let x = pool[r.below(pool.len())];
        let y = pool[r.below(pool.len())];
        // Ops that do not fit these shapes are passed over.
        let z = step(&g, r, x, y);
        if g.take_error().is_none() {
            pool.push(z);
        }
    }
    let last = pool.len() - 1;
    g.output("y", pool[last]);
    g.output("x", pool[r.below(pool.len())]);
    g.finish()
}

fn step<'g>(g: &'g GraphBuilder, r: &mut Random, x: Tensor<'g>, y: Tensor<'g>) -> Tensor<'g> {
    let rank = x.shape().rank().max(1);
    let axis = r.below(rank);
    match r.below(26) {
        0 => x + y,
        1 => x * y,
        2 => x - y,
        3 => x.maximum(y),
        4 => x.tanh(),
        5 => x.sigmoid(),
        6 => x.silu(),
        7 => x.gelu(),
        8 => x * 0.5,
        9 => x.lt(y).select(x, y),
        10 => x.matmul_t(y),
        11 => x.matmul(y),
        12 => x.sum(&[axis]),
        13 => x.mean(&[axis]),
        14 => x.max(&[axis]),
        15 => x.softmax(),
        16 => x.transpose(&(0..rank).rev().collect::<Vec<_>>()),
        17 if x.shape().get(axis).is_some_and(|d| d.known().is_some()) => x.slice(axis, 1, 2),
        18 => x.pad(axis, 1, 1, 0.5),
        19 => g.concat(&[x, y], axis),
        20 => {
            let mut shape = x.shape();
            shape.0.insert(axis, 1.into());
            x.reshape(shape)
        }
        21 => x.reshape(vec![2.into(), 2.into()]),
        22 => x.broadcast([2, 3, 4]),
        23 => x.cast(DType::F16),
        24 => x.rms_norm(y, 1e-5),
        _ => x.relu(),
    }
}

fn inputs(seed: u64, seq: usize) -> Vec<(&'static str, Array)> {
    let mut r = Random::new(seed ^ 0xabcdef);
    let mut fill = |shape: &[usize]| {
        let n = shape.iter().product();
        Array::f32(shape, &(0..n).map(|_| r.normal() as f32).collect::<Vec<_>>())
    };
    vec![("a", fill(&[seq, 4])), ("b", fill(&[3, 4])), ("c", fill(&[4]))]
}

#[test]
fn fused_equals_unfused_equals_the_reference() {
    let Found::Device(gpu) = device(None) else { return };
    let mut dispatches = (0, 0);
    for seed in 0..GRAPHS {
        let graph = random_graph(seed).unwrap();
        let seq = 1 + (seed % 5) as usize;
        let (bindings, inputs) = (Bindings::new().with("seq", seq as u64), inputs(seed, seq));
        let mut oracle = Interpreter::<f64>::new(&graph, &std::collections::HashMap::new()).unwrap();
        // The second step reads what the first has written.
        oracle.step_values(&bindings, &inputs).unwrap();
        let want = oracle.step_values(&bindings, &inputs).unwrap();
        for fuse in [true, false] {
            let mut options = Options::for_caps(gpu.caps());
            options.fuse = fuse;
            let planned =
                plan(&graph, gpu.caps(), &options).unwrap_or_else(|e| panic!("seed {seed} fuse={fuse}: {e}\n{graph}"));
            if fuse {
                dispatches.0 += planned.dispatches.len()
            } else {
                dispatches.1 += planned.dispatches.len()
            }
            let mut store = Store::new(gpu.clone());
            let loaded =
                block_on(Program::load(planned, &mut store, &std::collections::HashMap::new(), &mut |_, _| {}));
            let mut program = loaded.unwrap_or_else(|e| panic!("seed {seed} fuse={fuse}: {e}\n{graph}"));
            block_on(program.step(&bindings, &inputs, &[])).unwrap();
            program.poison();
            let got = block_on(program.step(&bindings, &inputs, &["y", "x"])).unwrap();
            for (array, (name, want)) in got.iter().zip(&want) {
                for (i, (g, w)) in array.to_f32().iter().zip(want).enumerate() {
                    let f16 = array.dtype == DType::F16 || graph.nodes.iter().any(|n| n.ty.dtype == DType::F16);
                    let bound = if f16 { 2e-2 + 4e-3 * w.abs() } else { 1e-4 + 1e-4 * w.abs() };
                    assert!(
                        (*g as f64 - w).abs() <= bound,
                        "seed {seed} fuse={fuse} {name}[{i}]: {g} for {w}\n{graph}\n{}",
                        program.plan()
                    );
                }
            }
        }
    }
    assert!(dispatches.0 * 2 < dispatches.1, "fusing saves little: {dispatches:?}");
}

/// Sizes at which something begins or ends: of vectors, rows of tiles, workgroups.
const ODD: &[usize] = &[1, 2, 3, 5, 7, 8, 9, 15, 17, 31, 33, 63, 65, 127, 129, 257];

/// A graph over odd sizes with products, of which two axes vary; many values live for long.
fn odd_graph(seed: u64) -> (Graph, Bindings, Vec<(&'static str, Array)>, HashMap<String, Array>) {
    let r = &mut Random::new(seed);
    let mut odd = || ODD[r.below(ODD.len())];
    let (w, h, n, most) = (odd(), odd(), odd(), odd());
    let (rows, more) = (Var::new("rows", most as u32), Var::new("more", h as u32));
    let g = GraphBuilder::new();
    let a = g.input("a", DType::F32, vec![rows.into(), w.into()]);
    let b = g.input("b", DType::F32, vec![more.into(), w.into()]);
    let c = g.input("c", DType::F32, [w]);
    let weight = g.weight("w", DType::F32, [n, w]);
    let mut pool = vec![a, b, c, a.matmul_t(weight), b.matmul_t(weight), a.softmax()];
    for _ in 0..6 + r.below(14) {
        let (x, y) = (pool[r.below(pool.len())], pool[r.below(pool.len())]);
        let z = step(&g, r, x, y);
        if g.take_error().is_none() && z.ty().dtype == DType::F32 {
            pool.push(z.tanh());
        }
    }
    g.output("y", pool[pool.len() - 1]);
    g.output("x", pool[r.below(pool.len())]);
    g.output("z", pool[3 + r.below(pool.len() - 3)] * 0.5);
    let now = |r: &mut Random, most: usize| 1 + r.below(most);
    let (seq, other) = (now(r, most), now(r, h));
    let bindings = Bindings::new().with("rows", seq as u64).with("more", other as u64);
    let mut fill = |shape: &[usize]| {
        let n = shape.iter().product();
        Array::f32(shape, &(0..n).map(|_| r.normal() as f32 * 0.5).collect::<Vec<_>>())
    };
    let inputs = vec![("a", fill(&[seq, w])), ("b", fill(&[other, w])), ("c", fill(&[w]))];
    let weights = HashMap::from([("w".to_string(), fill(&[n, w]))]);
    (g.finish().unwrap(), bindings, inputs, weights)
}

/// From when to when each buffer is in use, dispatch by dispatch, told from a plan itself.
fn lives(plan: &Plan) -> HashMap<BufferId, (usize, usize)> {
    let mut out: HashMap<BufferId, (usize, usize)> = HashMap::new();
    for (i, d) in plan.dispatches.iter().enumerate() {
        for a in &d.args {
            out.entry(a.buffer).or_insert((i, i)).1 = i;
        }
    }
    out
}

/// Buffers that share memory, by the same plan twice: once every value has its own.
fn check_packing(apart: &Plan, packed: &Plan, what: &str) {
    assert_eq!(apart.dispatches.len(), packed.dispatches.len(), "{what}");
    let lives = lives(apart);
    let mut shared: HashMap<BufferId, HashSet<BufferId>> = HashMap::new();
    for (own, shares) in apart.dispatches.iter().zip(&packed.dispatches) {
        for (a, b) in own.args.iter().zip(&shares.args) {
            assert_eq!((&a.name, a.offset, a.bytes, a.write), (&b.name, b.offset, b.bytes, b.write), "{what}");
            let (own, to) = (apart.buffer(a.buffer), packed.buffer(b.buffer));
            assert!(to.bytes >= own.bytes && to.texels == own.texels, "{what}: {} in {}", own.label, to.label);
            assert_eq!(own.role == Role::Scratch, to.role == Role::Scratch, "{what}");
            shared.entry(b.buffer).or_default().insert(a.buffer);
        }
    }
    for (slot, values) in shared {
        if packed.buffer(slot).role != Role::Scratch {
            assert_eq!(values.len(), 1, "{what}: {} holds several values", packed.buffer(slot).label);
        }
        let mut turns: Vec<(usize, usize)> = values.iter().map(|v| lives[v]).collect();
        turns.sort_unstable();
        let apart = turns.windows(2).all(|w| w[0].1 < w[1].0);
        assert!(apart, "{what}: {} holds values that live together: {turns:?}", packed.buffer(slot).label);
    }
    let scratch = |p: &Plan| p.bytes_where(|r| *r == Role::Scratch);
    assert!(scratch(packed) <= scratch(apart), "{what}");
}

#[test]
fn values_that_live_together_never_share_memory() {
    let software = Caps { kind: AdapterKind::Software, ..Caps::FLOOR };
    let (mut values, mut slots) = (0, 0);
    for seed in 0..600 {
        let (graph, ..) = odd_graph(seed);
        for caps in [&Caps::FLOOR, &common::large_gpu(), &software] {
            for fuse in [true, false] {
                let mut options = Options { fuse, ..Options::for_caps(caps) };
                let packed = plan(&graph, caps, &options).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{graph}"));
                options.keep_values = true;
                let apart = plan(&graph, caps, &options).unwrap();
                check_packing(&apart, &packed, &format!("seed {seed} {:?} fuse={fuse}", caps.kind));
                let scratch = |p: &Plan| p.buffers.iter().filter(|b| b.role == Role::Scratch).count();
                (values, slots) = (values + scratch(&apart), slots + scratch(&packed));
            }
        }
    }
    assert!(slots * 3 < values * 2, "little is shared: {slots} for {values} values");
}

/// Odd sizes and steps smaller than they may be: the CPU and, of fewer graphs, the device.
#[test]
fn odd_sizes_give_what_the_reference_gives() {
    let gpu = match device(None) {
        Found::Device(gpu) => Some(gpu),
        Found::Skipped => None,
    };
    for seed in 0..400 {
        let (graph, bindings, inputs, weights) = odd_graph(seed);
        let want = Interpreter::<f64>::new(&graph, &weights).unwrap().step_values(&bindings, &inputs).unwrap();
        let names = ["y", "x", "z"];
        let mut all = vec![];
        let mut engine = block_on(Engine::open(&DeviceChoice::Cpu, &graph, &weights)).unwrap();
        all.push(("CPU", block_on(engine.run(&bindings, &inputs, &names)).unwrap()));
        if let Some(gpu) = gpu.as_ref().filter(|_| seed % 10 == 0) {
            let planned = plan(&graph, gpu.caps(), &Options::for_caps(gpu.caps())).unwrap();
            let mut store = Store::new(gpu.clone());
            let mut program = block_on(Program::load(planned, &mut store, &weights, &mut |_, _| {})).unwrap();
            program.poison();
            all.push(("device", block_on(program.step(&bindings, &inputs, &names)).unwrap()));
        }
        for (place, got) in all {
            for (array, (name, want)) in got.iter().zip(&want) {
                assert_eq!(array.count(), want.len(), "seed {seed} {place} {name}");
                for (i, (g, w)) in array.to_f32().iter().zip(want).enumerate() {
                    let close = (*g as f64 - w).abs() <= 2e-4 + 2e-4 * w.abs();
                    assert!(close, "seed {seed} {place} {name}[{i}]: {g} for {w} under {bindings}\n{graph}");
                }
            }
        }
    }
}

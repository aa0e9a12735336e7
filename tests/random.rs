//! Seeded random graphs: fused = unfused = reference.

mod common;

use common::{Found, device};
use pollster::block_on;
use warpweft::base::{Array, Bindings, DType, Result, Var};
use warpweft::device::{Program, Store};
use warpweft::graph::{Graph, GraphBuilder, Tensor};
use warpweft::plan::{Options, plan};
use warpweft::reference::Interpreter;
use warpweft::reference::sample::Random;

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

//! Training: optimisers against plain loops, a transformer's gradient against finite differences, and the same step over
//! meshes, in f64 and on virtual devices.

mod common;
#[path = "../examples/train/model.rs"]
mod model;

use common::{Found, device};
use model::{Sizes, Training, training};
use pollster::block_on;
use std::collections::HashMap;
use std::sync::Arc;
use warpweft::base::{Array, Bindings, DType, MeshAxis, Shape};
use warpweft::device::cluster::{RankPlan, Watch};
use warpweft::device::{Cluster, Gpu, Nobody, Program, Store};
use warpweft::graph::{Graph, GraphBuilder, Optimiser, Parameters, Source, Zero};
use warpweft::plan::shard::{Sharded, shard};
use warpweft::plan::{Options, Policy, plan};
use warpweft::reference::sample::Random;
use warpweft::reference::{Interpreter, Ranks};
use warpweft::simulate::plans::{self, Machine};
use warpweft::topology::{Precision, shipped};

const SIZES: Sizes = Sizes { vocab: 11, width: 16, heads: 4, layers: 2, batch: 4, seq: 5 };
const STEPS: usize = 4;
const ADAMW: Optimiser = Optimiser::AdamW { beta1: 0.9, beta2: 0.99, eps: 1e-6, decay: 0.1 };
const SGD: Optimiser = Optimiser::Sgd { momentum: 0.9, decay: 0.01 };

type Inputs = Vec<(&'static str, Array)>;

fn none() -> HashMap<String, Array> {
    HashMap::new()
}

fn number(x: f32) -> Array {
    Array::f32(&[], &[x])
}

fn step_inputs(step: usize, rate: f32) -> Inputs {
    let mut r = Random::new(step as u64);
    let mut samples = || {
        Array::u32(
            &[SIZES.batch, SIZES.seq],
            &(0..SIZES.batch * SIZES.seq).map(|_| r.below(SIZES.vocab) as u32).collect::<Vec<_>>(),
        )
    };
    vec![("tokens", samples()), ("targets", samples()), ("rate", number(rate)), ("step", number(step as f32))]
}

fn all_inputs() -> Vec<Inputs> {
    (1..=STEPS).map(|s| step_inputs(s, 0.02)).collect()
}

fn contents(t: &Training) -> Vec<(&str, Array)> {
    t.parameters.iter().map(|(n, a)| (n.as_str(), a.clone())).collect()
}

/// Losses of some steps on one machine in f64.
fn whole(how: Optimiser) -> Vec<f64> {
    let t = training(&SIZES, how, Zero::Off).unwrap();
    let mut oracle = Interpreter::<f64>::new(&t.graph, &none()).unwrap();
    t.parameters.iter().for_each(|(n, a)| oracle.set_state(n, a));
    all_inputs().iter().map(|i| oracle.step_values(&Bindings::new(), i).unwrap()[0].1[0]).collect()
}

#[test]
fn optimisers_follow_their_formulas() {
    let start = [0.5f32, -1.5, 2.0];
    let slopes = [1.0f32, 0.25, -2.0];
    let adamw = Optimiser::AdamW { beta1: 0.8, beta2: 0.9, eps: 1e-3, decay: 0.1 };
    for how in [Optimiser::Sgd { momentum: 0.0, decay: 0.1 }, Optimiser::Sgd { momentum: 0.75, decay: 0.1 }, adamw] {
        let g = GraphBuilder::new();
        let p = Parameters::new(&g, Zero::Off);
        let w = p.add("w", [3], &[]);
        let scalar = |name: &str| g.input(name, DType::F32, Shape::default());
        let c = g.input("c", DType::F32, [3]);
        // The gradient is 2·c·w.
        let loss = (w * w * c).sum(&[0]);
        g.output("loss", loss);
        p.update(loss, how, scalar("rate"), scalar("step"));
        let mut oracle = Interpreter::<f64>::new(&g.finish().unwrap(), &none()).unwrap();
        oracle.set_state("w", &Array::f32(&[3], &start));
        let (mut want, mut m, mut v) = (start.map(f64::from), [0.0; 3], [0.0; 3]);
        for step in 1..=5 {
            let rate = 0.5 / step as f32;
            let inputs = [("c", Array::f32(&[3], &slopes)), ("rate", number(rate)), ("step", number(step as f32))];
            let seen = oracle.step_values(&Bindings::new(), &inputs).unwrap()[0].1[0];
            let loss: f64 = (0..3).map(|i| slopes[i] as f64 * want[i] * want[i]).sum();
            assert!((seen - loss).abs() < 1e-5 * (1.0 + loss.abs()), "{how:?} step {step}: {seen} for {loss}");
            for i in 0..3 {
                let g = 2.0 * slopes[i] as f64 * want[i];
                let change = match how {
                    Optimiser::Sgd { momentum, decay } => {
                        m[i] = momentum as f64 * m[i] + g + decay as f64 * want[i];
                        m[i]
                    }
                    Optimiser::AdamW { beta1, beta2, eps, decay } => {
                        let (b1, b2) = (beta1 as f64, beta2 as f64);
                        m[i] = b1 * m[i] + (1.0 - b1) * g;
                        v[i] = b2 * v[i] + (1.0 - b2) * g * g;
                        let (m, v) = (m[i] / (1.0 - b1.powi(step)), v[i] / (1.0 - b2.powi(step)));
                        m / (v.sqrt() + eps as f64) + decay as f64 * want[i]
                    }
                };
                want[i] -= rate as f64 * change;
            }
            let got = oracle.state("w").unwrap().to_f32();
            (0..3).for_each(|i| {
                assert!(
                    (got[i] as f64 - want[i]).abs() < 1e-5 * (1.0 + want[i].abs()),
                    "{how:?} step {step}: {got:?} for {want:?}"
                )
            });
        }
    }
}

/// Each parameter moved along a direction of its own: the loss changes as its gradient says. The gradient is what plain
/// descent takes off.
#[test]
fn a_transformers_gradient_equals_finite_differences() {
    const RATE: f32 = 1024.0;
    let t = training(&SIZES, Optimiser::Sgd { momentum: 0.0, decay: 0.0 }, Zero::Off).unwrap();
    let inputs = step_inputs(1, RATE);
    let run = |changed: &str, values: &[f32]| {
        let mut oracle = Interpreter::<f64>::new(&t.graph, &none()).unwrap();
        for (name, a) in &t.parameters {
            oracle.set_state(name, &if name == changed { Array::f32(&a.shape, values) } else { a.clone() });
        }
        let loss = oracle.step_values(&Bindings::new(), &inputs).unwrap()[0].1[0];
        (loss, oracle)
    };
    let (_, after) = run("", &[]);
    let mut r = Random::new(9);
    for (name, start) in &t.parameters {
        let (from, to) = (start.to_f32(), after.state(name).unwrap().to_f32());
        let gradient = from.iter().zip(&to).map(|(a, b)| (*a as f64 - *b as f64) / RATE as f64);
        let direction: Vec<f32> = from.iter().map(|_| (r.normal() * 1e-3) as f32).collect();
        let moved = |sign: f32| from.iter().zip(&direction).map(|(w, d)| w + sign * d).collect::<Vec<f32>>();
        let (above, below) = (moved(1.0), moved(-1.0));
        let want = run(name, &above).0 - run(name, &below).0;
        let parts: Vec<f64> =
            gradient.zip(above.iter().zip(&below)).map(|(g, (a, b))| g * (*a as f64 - *b as f64)).collect();
        let (got, size) = (parts.iter().sum::<f64>(), parts.iter().map(|p| p.abs()).sum::<f64>());
        assert!(size > 0.0 && (got - want).abs() < 1e-4 * size, "{name}: {got}, differences say {want}, parts {size}");
    }
    assert_eq!(t.parameters.len(), 25);
}

fn meshes() -> Vec<(Vec<(MeshAxis, usize)>, Vec<Zero>)> {
    use MeshAxis::{Data, Pipeline, Tensor};
    let all = vec![Zero::Off, Zero::Moments, Zero::Gradients, Zero::Weights];
    vec![
        (vec![(Data, 2)], all.clone()),
        (vec![(Data, 4)], all.clone()),
        (vec![(Tensor, 2)], vec![Zero::Off]),
        (vec![(Tensor, 4)], vec![Zero::Off]),
        (vec![(Pipeline, 2)], vec![Zero::Off]),
        (vec![(Data, 2), (Tensor, 2)], all.clone()),
        (vec![(Pipeline, 2), (Data, 2)], all),
        (vec![(Pipeline, 2), (Tensor, 2)], vec![Zero::Off]),
        (vec![(Pipeline, 2), (Data, 2), (Tensor, 2)], vec![Zero::Weights]),
    ]
}

/// Elements of the states that a rank holds.
fn held(sharded: &Sharded, rank: usize) -> u64 {
    let nodes = &sharded.class(rank).graph.nodes;
    nodes.iter().filter(|n| n.source == Source::State).map(|n| n.ty.shape.count().bound()).sum()
}

#[test]
fn a_step_on_a_mesh_gives_the_losses_of_one_machine() {
    for how in [ADAMW, SGD] {
        let want = whole(how);
        assert!(want.windows(2).all(|w| w[0] != w[1]), "nothing is learnt: {want:?}");
        for (mesh, stages) in meshes() {
            for zero in stages {
                let what = format!("{how:?} {mesh:?} {zero:?}");
                let t = training(&SIZES, how, zero).unwrap();
                let sharded = shard(&t.graph, &mesh).unwrap_or_else(|e| panic!("{what}: {e}"));
                let graphs: Vec<&Graph> = (0..sharded.ranks()).map(|r| &sharded.class(r).graph).collect();
                let mut ranks =
                    Ranks::<f64>::new(&graphs, &sharded.seats, &none()).unwrap_or_else(|e| panic!("{what}: {e}"));
                for r in 0..sharded.ranks() {
                    sharded.states(r, &contents(&t)).unwrap().iter().for_each(|(n, a)| ranks.set_state(r, n, a));
                }
                for (inputs, want) in all_inputs().iter().zip(&want) {
                    let part = |r: usize| {
                        Some((
                            sharded.bindings(r, &Bindings::new()).unwrap(),
                            sharded.inputs(r, &Bindings::new(), inputs).unwrap(),
                        ))
                    };
                    let parts: Vec<_> = (0..sharded.ranks()).map(part).collect();
                    let got = ranks.step_values(&parts).unwrap_or_else(|e| panic!("{what}: {e}"));
                    for (rank, outputs) in got.iter().enumerate() {
                        let loss = outputs[0].1[0];
                        assert!((loss - want).abs() < 1e-9, "{what} rank {rank}: {loss} for {want}");
                    }
                }
            }
        }
    }
}

#[test]
fn states_are_assigned_set_and_read_by_name() {
    use warpweft::session::{DeviceChoice, Engine};
    let g = GraphBuilder::new();
    let (s, x) = (g.state("s", DType::F32, [2]), g.input("x", DType::F32, [2]));
    g.at("count");
    let old = s * 1.0;
    g.output("new", s.assign(s + x));
    g.output("old", old);
    s.exp();
    assert_eq!(
        g.take_error().unwrap().to_string(),
        "exp \"count\": state \"s\" was written before: read the result of that instead"
    );
    x.assign(x);
    assert_eq!(g.take_error().unwrap().to_string(), "assign \"count\": \"x\" is input, it must be a state");
    let graph = g.finish().unwrap();
    let mut devices = vec![DeviceChoice::Cpu];
    if let Found::Device(gpu) = device(None) {
        devices.push(DeviceChoice::Open(gpu));
    }
    for choice in devices {
        let mut engine = block_on(Engine::open(&choice, &graph, &none())).unwrap();
        let state = |e: &Engine| block_on(e.state("s")).unwrap().to_f32();
        assert_eq!(state(&engine), [0.0, 0.0]);
        engine.set_state("s", &Array::f32(&[2], &[5.0, 7.0])).unwrap();
        for step in 1..4 {
            let out = block_on(engine.run(&Bindings::new(), &[("x", Array::f32(&[2], &[1.0, -1.0]))], &["old", "new"]))
                .unwrap();
            let at = |n: f32| [5.0 + n, 7.0 - n];
            assert_eq!(
                (out[0].to_f32(), out[1].to_f32(), state(&engine)),
                (at(step as f32 - 1.0).to_vec(), at(step as f32).to_vec(), at(step as f32).to_vec())
            );
        }
        let wrong = engine.set_state("s", &Array::f32(&[3], &[0.0; 3])).unwrap_err();
        assert_eq!(wrong.to_string(), "state \"s\" is f32[2], it cannot hold f32[3]");
        assert_eq!(block_on(engine.state("t")).unwrap_err().to_string(), "there is no state \"t\", there are: s");
    }
}

/// A parameter that two stages use is one: the stage that has it sends it to the other, which sends its gradient back.
#[test]
fn a_parameter_of_two_stages_stays_one() {
    let g = GraphBuilder::new();
    let p = Parameters::new(&g, Zero::Off);
    let scalar = |name: &str| g.input(name, DType::F32, Shape::default());
    let (rate, step) = (scalar("rate"), scalar("step"));
    let table = p.add("table", [6, 4], &[]);
    let ids = g.input("ids", DType::U32, [5]);
    let x = table.gather(ids).matmul(p.add("mix", [4, 4], &[]));
    g.layer(1);
    let y = x.tanh().matmul_t(table).log_softmax();
    let loss = (y * y).mean(&[0, 1]);
    g.output("loss", loss);
    p.update(loss, SGD, rate, step);
    let graph = g.finish().unwrap();
    let mut r = Random::new(4);
    let mut filled = |shape: [usize; 2]| {
        Array::f32(&shape, &(0..shape[0] * shape[1]).map(|_| r.normal() as f32).collect::<Vec<_>>())
    };
    let states = [("table", filled([6, 4])), ("mix", filled([4, 4]))];
    let inputs = [("ids", Array::u32(&[5], &[3, 0, 5, 3, 1])), ("rate", number(0.02)), ("step", number(1.0))];
    let mut oracle = Interpreter::<f64>::new(&graph, &none()).unwrap();
    states.iter().for_each(|(n, a)| oracle.set_state(n, a));
    let sharded = shard(&graph, &[(MeshAxis::Pipeline, 2)]).unwrap();
    let graphs: Vec<&Graph> = (0..2).map(|r| &sharded.class(r).graph).collect();
    let mut ranks = Ranks::<f64>::new(&graphs, &sharded.seats, &none()).unwrap();
    (0..2).for_each(|r| sharded.states(r, &states).unwrap().iter().for_each(|(n, a)| ranks.set_state(r, n, a)));
    let mut losses = vec![];
    for _ in 0..4 {
        let want = oracle.step_values(&Bindings::new(), &inputs).unwrap()[0].1[0];
        let part = |r: usize| {
            Some((
                sharded.bindings(r, &Bindings::new()).unwrap(),
                sharded.inputs(r, &Bindings::new(), &inputs).unwrap(),
            ))
        };
        let got = ranks.step_values(&[part(0), part(1)]).unwrap();
        got.iter().for_each(|o| assert!((o[0].1[0] - want).abs() < 1e-12, "{} for {want}", o[0].1[0]));
        losses.push(want);
    }
    assert!(losses.is_sorted_by(|a, b| a > b), "the loss does not fall: {losses:?}");
    // Two parameters and their moments, all on the first stage.
    assert_eq!((held(&sharded, 0), held(&sharded, 1)), (2 * (24 + 16), 0));
}

/// What ZeRO is for: what each rank holds, and by which collectives gradients and parameters travel.
#[test]
fn each_stage_of_zero_holds_less() {
    let sharded = |zero| shard(&training(&SIZES, ADAMW, zero).unwrap().graph, &[(MeshAxis::Data, 4)]).unwrap();
    let t = training(&SIZES, ADAMW, Zero::Off).unwrap();
    let parameters: u64 = t.parameters.iter().map(|p| p.1.count() as u64).sum();
    let count = |s: &Sharded, op: &str| s.class(0).graph.nodes.iter().filter(|n| n.kind() == op).count();
    let many = t.parameters.len();
    for (zero, want) in [
        (Zero::Off, 3 * parameters),
        (Zero::Moments, parameters + 2 * parameters / 4),
        (Zero::Gradients, parameters + 2 * parameters / 4),
        (Zero::Weights, 3 * parameters / 4),
    ] {
        let s = sharded(zero);
        (0..4).for_each(|r| assert_eq!(held(&s, r), want, "{zero:?} rank {r}"));
        let scattered = count(&s, "reduce_scatter");
        let reduced = count(&s, "all_reduce");
        let gathered = count(&s, "all_gather");
        match zero {
            Zero::Off => {
                assert!(scattered == 0 && gathered == 0 && reduced >= many, "{scattered} {gathered} {reduced}")
            }
            Zero::Moments => {
                assert!(scattered == 0 && gathered >= many && reduced >= many, "{scattered} {gathered} {reduced}")
            }
            _ => assert!(
                scattered >= many && gathered >= many && reduced < many,
                "{zero:?} {scattered} {gathered} {reduced}"
            ),
        }
    }
}

#[test]
fn virtual_devices_train_as_the_reference_does() {
    let Found::Device(gpu) = device(None) else { return };
    let options = Options::for_caps(gpu.caps());
    let want = whole(ADAMW);
    let near = |what: &str, got: f32, want: f64| {
        assert!((got as f64 - want).abs() < 2e-4 * (1.0 + want.abs()), "{what}: {got} for {want}")
    };
    for fuse in [true, false] {
        let t = training(&SIZES, ADAMW, Zero::Off).unwrap();
        let options = Options { fuse, ..options.clone() };
        let mut store = Store::new(gpu.clone());
        let mut program =
            block_on(Program::load(plan(&t.graph, gpu.caps(), &options).unwrap(), &mut store, &none(), &mut |_, _| {}))
                .unwrap();
        t.parameters.iter().for_each(|(n, a)| assert!(program.set_state(n, a).unwrap()));
        for (inputs, want) in all_inputs().iter().zip(&want) {
            program.poison();
            near(
                &format!("one device, fuse={fuse}"),
                block_on(program.step(&Bindings::new(), inputs, &["loss"])).unwrap()[0].to_f32()[0],
                *want,
            );
        }
    }
    for (mesh, stages) in meshes() {
        for zero in stages {
            over_virtual_devices(&gpu, &mesh, zero, &want);
        }
    }
}

/// The losses of one machine, and in every step the FLOPs, bytes, dispatches, messages and collective volumes that the
/// simulator predicts of the same plans.
fn over_virtual_devices(gpu: &Arc<Gpu>, mesh: &[(MeshAxis, usize)], zero: Zero, want: &[f64]) {
    let what = format!("{mesh:?} {zero:?}");
    let t = training(&SIZES, ADAMW, zero).unwrap();
    let sharded = shard(&t.graph, mesh).unwrap();
    let options = Options::for_caps(gpu.caps());
    let rank_plan = |rank: usize| {
        let plan = plan(&sharded.class(rank).graph, gpu.caps(), &options).unwrap_or_else(|e| panic!("{what}: {e}"));
        RankPlan { rank, plan, largest: sharded.bindings(rank, &t.graph.largest()).unwrap() }
    };
    let readers: Vec<usize> = (0..sharded.ranks()).collect();
    let plans: Vec<RankPlan> = readers.iter().map(|r| rank_plan(*r)).collect();
    let mut stores: Vec<Store> = sharded.seats.iter().map(|s| Store::at(gpu.clone(), s.clone())).collect();
    let loaded =
        block_on(Cluster::load(sharded.seats.clone(), plans, &mut stores, &none(), Policy::default(), &mut |_, _| {}));
    let mut cluster = loaded.unwrap_or_else(|e| panic!("{what}: {e}"));
    for r in &readers {
        for (name, piece) in sharded.states(*r, &contents(&t)).unwrap() {
            assert!(cluster.set_state(*r, name, &piece).unwrap(), "{what}: rank {r} has no {name}");
        }
    }
    for (inputs, want) in all_inputs().iter().zip(want) {
        let bound = |r: usize| sharded.bindings(r, &Bindings::new()).unwrap();
        let parts: Vec<_> =
            readers.iter().map(|r| Some((bound(*r), sharded.inputs(*r, &Bindings::new(), inputs).unwrap()))).collect();
        let mut watch = Watch::counting();
        let got = block_on(cluster.step(&parts, (&readers, &["loss"]), &mut Nobody, &mut watch))
            .unwrap_or_else(|e| panic!("{what}: {e}"));
        for (r, o) in got.iter().enumerate() {
            let loss = o[0].to_f32()[0];
            assert!((loss as f64 - want).abs() < 2e-4 * (1.0 + want.abs()), "{what} rank {r}: {loss} for {want}");
        }
        let ranks: Vec<plans::Rank> = readers
            .iter()
            .map(|r| plans::Rank { seat: sharded.seats[*r].clone(), plan: cluster.plan(*r), bindings: bound(*r) })
            .collect();
        let machine =
            Machine::new(&shipped("dgx-h100").unwrap().with_nodes(1).unwrap(), ranks.len(), Precision::Fp32).unwrap();
        let predicted = plans::run(&ranks, &Policy::default(), &machine).unwrap().traffic;
        assert_eq!(watch.traffic, predicted, "{what}: counted and predicted");
        assert!(predicted.messages > 0 && predicted.work.values().all(|w| w.flops > 0), "{what}");
    }
}

//! The CPU back end against the f64 reference: every op, case and type, on every instruction set of this machine, fused and
//! not, with any number of threads.

mod common;

use warpweft::base::{Array, Bindings, DType};
use warpweft::cpu::{Options, Precision, Program, Set};
use warpweft::op::{self, OpDef, Within};
use warpweft::reference::Interpreter;
use warpweft::reference::sample::{CaseGraph, case_graph};

/// The sets to test: all that this machine has, or the one that WARPWEFT_CPU_SET names.
fn sets() -> Vec<Set> {
    let wanted = std::env::var("WARPWEFT_CPU_SET").ok();
    let sets: Vec<Set> = Set::all().into_iter().filter(|s| wanted.as_ref().is_none_or(|w| s.name() == w)).collect();
    assert!(!sets.is_empty(), "{wanted:?} is none of {:?}", Set::all());
    sets
}

fn numbers(a: &Array) -> Vec<f64> {
    match a.dtype {
        DType::I32 => a.to_u32().iter().map(|w| *w as i32 as f64).collect(),
        DType::U32 | DType::Bool => a.to_u32().iter().map(|w| *w as f64).collect(),
        _ => a.to_f32().iter().map(|x| *x as f64).collect(),
    }
}

fn inputs(case: &CaseGraph) -> Vec<(&str, Array)> {
    case.inputs.iter().map(|(n, a)| (n.as_str(), a.clone())).collect()
}

fn reference(case: &CaseGraph) -> Vec<f64> {
    let mut oracle = Interpreter::<f64>::new(&case.graph, &case.weights).unwrap();
    case.states.iter().for_each(|(n, a)| oracle.set_state(n, a));
    oracle.step_values(&Bindings::new(), &inputs(case)).unwrap().remove(0).1
}

fn run(case: &CaseGraph, options: &Options) -> Vec<f64> {
    let mut program = Program::new(&case.graph, &case.weights, options).unwrap();
    case.states.iter().for_each(|(n, a)| program.set_state(n, a));
    // What memory held before says nothing: the second step has the first one's leftovers.
    let first = program.step(&Bindings::new(), &inputs(case)).unwrap().remove(0).1;
    program.reset();
    case.states.iter().for_each(|(n, a)| program.set_state(n, a));
    let second = program.step(&Bindings::new(), &inputs(case)).unwrap().remove(0).1;
    assert_eq!(first.bytes, second.bytes);
    numbers(&first)
}

fn compare(what: &str, within: Within, got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!(within.holds(*g, *w), "{what}: element {i} is {g}, the reference says {w}");
    }
}

fn hold(def: &'static OpDef, options: &Options) {
    for (i, case) in (def.cases)().iter().enumerate() {
        let graph = case_graph(def, case, 1000 + i as u64).unwrap();
        let what = format!("{} case {i} {:?} {options:?}", def.name, case.types());
        compare(&what, def.within, &run(&graph, options), &reference(&graph));
    }
}

#[test]
fn every_op_equals_the_reference_on_every_instruction_set() {
    for set in sets() {
        for fuse in [true, false] {
            for def in op::computing() {
                hold(def, &Options { set, fuse, threads: 2, precision: Precision::F32, ..Options::default() });
            }
        }
    }
}

/// A product of `m` rows with a weight `[n, k]` of a type, in f64: its graph, and for each output the sum of |w| times the
/// largest |x| of the block of 32, and the sum of |x · w|.
struct Weighed {
    graph: warpweft::graph::Graph,
    weights: std::collections::HashMap<String, Array>,
    x: Array,
    want: Vec<f64>,
    rounding: Vec<f64>,
    size: Vec<f64>,
}

fn weighed(dtype: DType, (m, n, k): (usize, usize, usize)) -> Weighed {
    let mut r = warpweft::reference::sample::Random::new((m * 31 + n) as u64);
    let g = warpweft::GraphBuilder::new();
    let (x, w) = (g.input("x", DType::F32, [m as i64, k as i64]), g.weight("w", dtype, [n as i64, k as i64]));
    g.output("y", x.matmul_t(w));
    // Each block of the left operand has a size of its own.
    let x: Vec<f32> = (0..m * k).map(|i| (r.normal() * (1 + i / 32 % 5) as f64) as f32).collect();
    let values: Vec<f32> = (0..n * k).map(|_| r.normal() as f32).collect();
    let bytes = warpweft::format::encode(dtype, &values);
    let w = warpweft::format::decode(dtype, &bytes);
    let (mut want, mut rounding, mut size) = (vec![], vec![], vec![]);
    for row in x.chunks_exact(k) {
        let most: Vec<f64> = row.chunks(32).map(|b| b.iter().fold(0.0f32, |m, x| m.max(x.abs())) as f64).collect();
        for w in w.chunks_exact(k) {
            let terms = || row.iter().zip(w).map(|(x, w)| *x as f64 * *w as f64);
            want.push(terms().sum());
            size.push(terms().map(f64::abs).sum());
            rounding.push(w.iter().enumerate().map(|(i, w)| w.abs() as f64 * most[i / 32]).sum());
        }
    }
    let weights = [("w".to_string(), Array { dtype, shape: vec![n, k], bytes })].into();
    Weighed { graph: g.finish().unwrap(), weights, x: Array::f32(&[m, k], &x), want, rounding, size }
}

/// In f32 a sum is off by its rounding only; in int8 each of the left operand's numbers is off by half a step of its block at
/// most, which is 1/254 of the block's largest, so that Σ |w| · max |x| / 254 bounds a product.
#[test]
fn products_with_every_format_stay_within_their_bound_on_every_instruction_set() {
    for dtype in DType::weights() {
        // Rows that fill groups of sixteen and that do not; one row, a few, and more than a tile.
        for shape in [(1, 48, 512), (1, 37, 256), (3, 37, 512), (21, 50, 256)] {
            let case = weighed(dtype, shape);
            for set in sets() {
                for precision in [Precision::F32, Precision::Int8] {
                    let options = Options { set, precision, threads: 2, ..Options::default() };
                    let mut program = Program::new(&case.graph, &case.weights, &options).unwrap();
                    let y = program.step(&Bindings::new(), &[("x", case.x.clone())]).unwrap().remove(0).1;
                    let whole = precision == Precision::Int8 && dtype.is_quantised();
                    let mut rounded = 0.0f64;
                    for (i, y) in y.to_f32().into_iter().enumerate() {
                        let off = (y as f64 - case.want[i]).abs();
                        let within = 4e-6 * case.size[i] + if whole { case.rounding[i] / 254.0 } else { 0.0 };
                        let what = format!("{dtype} {shape:?} {set:?} {precision:?}: element {i}");
                        assert!(off <= within, "{what} is {y}, {} is right, within {within}", case.want[i]);
                        rounded = rounded.max(off / case.rounding[i]);
                    }
                    // Integers were multiplied where they should be, and nowhere else.
                    assert_eq!(rounded > 2e-5, whole, "{dtype} {shape:?} {set:?} {precision:?}: off by {rounded}");
                }
            }
        }
    }
}

/// A row has the same bits alone, where its weights are read as they lie, and among others, where they are opened first.
#[test]
fn a_row_has_the_same_bits_alone_and_among_others() {
    for dtype in DType::weights() {
        let (m, n, k) = (11, 37, 512);
        let (many, one) = (weighed(dtype, (m, n, k)), weighed(dtype, (1, n, k)));
        for set in sets() {
            for precision in [Precision::F32, Precision::Int8] {
                let options = Options { set, precision, threads: 2, ..Options::default() };
                let run = |case: &Weighed, x: Array| {
                    let mut program = Program::new(&case.graph, &many.weights, &options).unwrap();
                    program.step(&Bindings::new(), &[("x", x)]).unwrap().remove(0).1.to_f32()
                };
                let all = run(&many, many.x.clone());
                for (row, want) in many.x.to_f32().chunks_exact(k).zip(all.chunks_exact(n)) {
                    let got = run(&one, Array::f32(&[1, k], row));
                    let bits = |y: &[f32]| y.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                    assert_eq!(bits(&got), bits(want), "{dtype} {set:?} {precision:?}");
                }
            }
        }
    }
}

/// On cores that others keep busy, too.
#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..warpweft::cpu::available() {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    std::hint::spin_loop()
                }
            });
        }
        let same = std::panic::catch_unwind(threads_give_the_same_bits);
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(same.is_ok(), "bits depend on threads");
    });
}

fn threads_give_the_same_bits() {
    for def in op::computing() {
        for (i, case) in (def.cases)().iter().enumerate() {
            let graph = case_graph(def, case, 7 + i as u64).unwrap();
            for precision in [Precision::F32, Precision::Int8] {
                let of = |threads| run(&graph, &Options { threads, precision, ..Options::default() });
                let want: Vec<u64> = of(1).iter().map(|x| x.to_bits()).collect();
                for threads in [2, 3, 64] {
                    let got: Vec<u64> = of(threads).iter().map(|x| x.to_bits()).collect();
                    assert_eq!(got, want, "{} case {i} with {threads} threads", def.name);
                }
            }
        }
    }
}

/// Logits after every token of a text, by steps of 64.
fn logits(model: &warpweft::model::Model, tokens: &[u32], precision: Precision) -> Vec<Vec<f32>> {
    use warpweft::base::Var;
    use warpweft::model::StepShape;
    let context = tokens.len();
    let (seq, total) = (Var::new("seq", 64).into(), Var::new("total", context as u32));
    let graph =
        model.step_graph(&StepShape { seq, total, context, last_only: false, sequence_parallel: false }).unwrap();
    let mut program = Program::new(&graph, &model.source, &Options { precision, ..Options::default() }).unwrap();
    let mut out = vec![];
    for (i, tokens) in tokens.chunks(64).enumerate() {
        let n = tokens.len();
        let bindings = Bindings::new().with("seq", n as u64).with("total", (i * 64 + n) as u64);
        let made = program.step(&bindings, &[("tokens", Array::u32(&[n], tokens))]).unwrap().remove(0).1.to_f32();
        out.extend(made.chunks_exact(made.len() / n).map(<[f32]>::to_vec));
    }
    out
}

/// −ln of the probability of a token.
fn surprise(logits: &[f32], token: u32) -> f64 {
    let most = logits.iter().fold(f32::NEG_INFINITY, |m, x| m.max(*x)) as f64;
    let sum: f64 = logits.iter().map(|x| (*x as f64 - most).exp()).sum();
    most + sum.ln() - logits[token as usize] as f64
}

#[test]
fn int8_keeps_a_models_choices_and_its_perplexity() {
    use warpweft::model::{Model, ModelSource};
    let Some(path) = common::model("smollm2-135m") else { return };
    let model = Model::new(ModelSource::open(&path).unwrap()).unwrap();
    let best = |l: &Vec<f32>| (0..l.len()).max_by(|a, b| l[*a].total_cmp(&l[*b])).unwrap();
    let figures: serde_json::Value = serde_json::from_str(include_str!("figures/smollm2.json")).unwrap();
    let (mut same, mut all) = (0, 0);
    for case in figures["cases"].as_array().unwrap() {
        let ids = |key: &str| case[key].as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32);
        let tokens: Vec<u32> = ids("prompt_ids").chain(ids("output_ids")).collect();
        let (f32s, int8) = (logits(&model, &tokens, Precision::F32), logits(&model, &tokens, Precision::Int8));
        same += f32s.iter().zip(&int8).filter(|(a, b)| best(a) == best(b)).count();
        all += tokens.len();
    }
    println!("{same} of {all} tokens are the same");
    assert!(all > 200 && same * 100 >= all * 95, "{same} of {all} tokens are the same");

    let device = warpweft::session::DeviceChoice::Cpu;
    let options = warpweft::session::Options { device, context: Some(64), ..Default::default() };
    let words = pollster::block_on(warpweft::session::Generator::open(&path, &options)).unwrap();
    let mut tokens = words.raw_prompt(include_str!("../ARCHITECTURE.md")).unwrap();
    assert!(tokens.len() >= 2000, "the text has {} tokens", tokens.len());
    tokens.truncate(2000);
    let perplexity = |precision| {
        let all = logits(&model, &tokens, precision);
        let sum: f64 = all.iter().zip(&tokens[1..]).map(|(l, next)| surprise(l, *next)).sum();
        (sum / (tokens.len() - 1) as f64).exp()
    };
    let (f32s, int8) = (perplexity(Precision::F32), perplexity(Precision::Int8));
    println!("perplexity {f32s:.3} in f32, {int8:.3} in int8");
    assert!((int8 / f32s - 1.0).abs() < 0.01, "perplexity is {int8} in int8, {f32s} in f32");
}

//! Training of the llama family: the graph is the family's own, a step over a mesh gives the losses of one machine, and
//! what its plan counts is what pricing counts from the model's shape.

mod common;

use common::{large_gpu, seeded};
use std::collections::{BTreeMap, HashMap, HashSet};
use warpweft::base::{Array, Bindings, MeshAxis};
use warpweft::graph::{Graph, Optimiser, Zero};
use warpweft::model::layers::Sizes;
use warpweft::model::llama::{Config, Passes, Training, TrainingStep, training};
use warpweft::plan::count::name;
use warpweft::plan::shard::{Sharded, shard};
use warpweft::plan::{Exchange, Options, Plan, Policy, Role, plan};
use warpweft::reference::sample::Random;
use warpweft::reference::{Interpreter, Ranks};
use warpweft::simulate::counts::{Counts, counts};
use warpweft::simulate::{Layout, Recompute, Shape, step};
use warpweft::topology::{Precision, shipped};

use MeshAxis::{Data, Pipeline, Tensor};

fn none() -> HashMap<String, Array> {
    HashMap::new()
}

fn inputs(vocab: usize, batch: usize, seq: usize, step: usize) -> Vec<(&'static str, Array)> {
    let mut r = Random::new(step as u64);
    let mut samples =
        || Array::u32(&[batch, seq], &(0..batch * seq).map(|_| r.below(vocab) as u32).collect::<Vec<_>>());
    vec![
        ("tokens", samples()),
        ("targets", samples()),
        ("rate", Array::f32(&[], &[0.02])),
        ("step", Array::f32(&[], &[step as f32])),
    ]
}

/// Before anything is learnt the loss is the cross-entropy of the logits that the family gives with the same numbers.
#[test]
fn the_loss_is_that_of_the_familys_logits() {
    let model = seeded::llama(6, 3, 2, 7);
    let (batch, seq) = (3, 5);
    let step = TrainingStep {
        batch,
        seq,
        optimiser: Optimiser::ADAMW,
        zero: Zero::Off,
        tied: true,
        passes: Passes::default(),
    };
    let t = training(&model.config, "tiny", &step).unwrap();
    let mut oracle = Interpreter::<f64>::new(&t.graph, &none()).unwrap();
    for (name, shape) in &t.parameters {
        assert_eq!(shape.known().unwrap(), model.weights[name].shape, "{name}");
        oracle.set_state(name, &model.weights[name]);
    }
    let given = inputs(model.config.common.sizes.vocab, batch, seq, 1);
    let loss = oracle.step_values(&Bindings::new(), &given).unwrap()[0].1[0];
    let (tokens, targets) = (given[0].1.to_u32(), given[1].1.to_u32());
    let answers = model.graph(seq as u32, 16, false, false);
    let mut want = 0.0;
    for sequence in 0..batch {
        let mine = |all: &[u32]| all[sequence * seq..(sequence + 1) * seq].to_vec();
        let mut family = Interpreter::<f64>::new(&answers, &model.weights).unwrap();
        let bindings = Bindings::new().with("seq", seq as u64).with("total", seq as u64);
        let logits =
            family.step_values(&bindings, &[("tokens", Array::u32(&[seq], &mine(&tokens)))]).unwrap().remove(0).1;
        for (row, target) in logits.chunks(model.config.common.sizes.vocab).zip(mine(&targets)) {
            want += row.iter().map(|x| x.exp()).sum::<f64>().ln() - row[target as usize];
        }
    }
    want /= (batch * seq) as f64;
    assert!((loss - want).abs() < 1e-9, "{loss} for {want}");
}

#[test]
fn a_step_on_a_mesh_gives_the_losses_of_one_machine() {
    let model = seeded::llama(6, 3, 2, 7);
    let (batch, seq) = (4, 5);
    let of = |zero| {
        training(
            &model.config,
            "tiny",
            &TrainingStep { batch, seq, optimiser: Optimiser::ADAMW, zero, tied: true, passes: Passes::default() },
        )
        .unwrap()
    };
    let contents: Vec<(&str, Array)> = model.weights.iter().map(|(n, a)| (n.as_str(), a.clone())).collect();
    let steps: Vec<_> = (1..=3).map(|s| inputs(model.config.common.sizes.vocab, batch, seq, s)).collect();
    let whole = of(Zero::Off);
    let mut oracle = Interpreter::<f64>::new(&whole.graph, &none()).unwrap();
    contents.iter().for_each(|(n, a)| oracle.set_state(n, a));
    let want: Vec<f64> = steps.iter().map(|i| oracle.step_values(&Bindings::new(), i).unwrap()[0].1[0]).collect();
    assert!(want[0] != want[1] && want[1] != want[2], "nothing is learnt: {want:?}");
    let meshes: [(&[(MeshAxis, usize)], Zero); 8] = [
        (&[(Tensor, 2)], Zero::Off),
        (&[(Tensor, 3)], Zero::Off),
        (&[(Tensor, 4)], Zero::Off),
        (&[(Pipeline, 2)], Zero::Off),
        (&[(Data, 2), (Tensor, 3)], Zero::Moments),
        (&[(Data, 4)], Zero::Gradients),
        (&[(Data, 2), (Tensor, 2)], Zero::Weights),
        (&[(Pipeline, 2), (Data, 2), (Tensor, 3)], Zero::Weights),
    ];
    for (mesh, zero) in meshes {
        let what = format!("{mesh:?} {zero:?}");
        let sharded = shard(&of(zero).graph, mesh).unwrap_or_else(|e| panic!("{what}: {e}"));
        let graphs: Vec<&Graph> = (0..sharded.ranks()).map(|r| &sharded.class(r).graph).collect();
        let mut ranks = Ranks::<f64>::new(&graphs, &sharded.seats, &none()).unwrap_or_else(|e| panic!("{what}: {e}"));
        for r in 0..sharded.ranks() {
            sharded.states(r, &contents).unwrap().iter().for_each(|(n, a)| ranks.set_state(r, n, a));
        }
        for (inputs, want) in steps.iter().zip(&want) {
            let part = |r: usize| {
                Some((
                    sharded.bindings(r, &Bindings::new()).unwrap(),
                    sharded.inputs(r, &Bindings::new(), inputs).unwrap(),
                ))
            };
            let parts: Vec<_> = (0..sharded.ranks()).map(part).collect();
            for (rank, outputs) in
                ranks.step_values(&parts).unwrap_or_else(|e| panic!("{what}: {e}")).iter().enumerate()
            {
                let loss = outputs[0].1[0];
                assert!((loss - want).abs() < 1e-9, "{what} rank {rank}: {loss} for {want}");
            }
        }
    }
}

// ---- counts: the plan beside the shape ----------------------------------------------------------------------------

const SHAPE: (usize, usize, usize, usize, usize, usize) = (4, 256, 8, 4, 768, 2048);

fn shape(tied: bool) -> Shape {
    let (layers, hidden, heads, kv_heads, ffn, vocab) = SHAPE;
    let text = format!(
        r#"{{"model_type":"llama","hidden_size":{hidden},"intermediate_size":{ffn},"num_hidden_layers":{layers},"num_attention_heads":{heads},"num_key_value_heads":{kv_heads},"vocab_size":{vocab},"tie_word_embeddings":{tied}}}"#
    );
    warpweft::simulate::config::from_config(&serde_json::from_str(&text).unwrap(), "small").unwrap()
}

const SEQ: usize = 64;
/// Sequences of a data-parallel rank.
const EACH: usize = 2;

struct Planned {
    training: Training,
    sharded: Sharded,
    plans: Vec<Plan>,
    layout: Layout,
}

fn planned(mesh: &[(MeshAxis, usize)], zero: Zero, tied: bool, passes: Passes) -> Planned {
    let (layers, width, heads, kv_heads, ffn, vocab) = SHAPE;
    let sizes = Sizes { layers, width, heads, kv_heads, head: width / heads, vocab, context: SEQ };
    let config = Config::new(sizes, ffn, false);
    let ways = |axis: MeshAxis| mesh.iter().find(|a| a.0 == axis).map_or(1, |a| a.1);
    let dp = ways(Data);
    let training = training(
        &config,
        "small",
        &TrainingStep { batch: EACH * dp, seq: SEQ, optimiser: Optimiser::ADAMW, zero, tied, passes },
    )
    .unwrap();
    let sharded = shard(&training.graph, mesh).unwrap();
    let caps = large_gpu();
    let plans = sharded.classes.iter().map(|c| plan(&c.graph, &caps, &Options::for_caps(&caps)).unwrap()).collect();
    let zero = [Zero::Off, Zero::Moments, Zero::Gradients, Zero::Weights].iter().position(|z| *z == zero).unwrap();
    let layout = Layout {
        dp,
        tp: ways(Tensor),
        pp: ways(Pipeline),
        zero,
        micro_batch: EACH,
        global_batch: EACH * dp * passes.micro_batches,
        recompute: if passes.recompute { Recompute::Full } else { Recompute::None },
        precision: Precision::Fp32,
        ..Layout::single(SEQ)
    };
    Planned { training, sharded, plans, layout }
}

impl Planned {
    fn plan(&self, rank: usize) -> &Plan {
        &self.plans[self.sharded.class_of[rank]]
    }

    /// FLOPs of matrix products of all ranks, outside of attention's core and within it.
    fn products(&self) -> (f64, f64) {
        let (mut outside, mut within) = (0.0, 0.0);
        for rank in 0..self.sharded.ranks() {
            let bindings = self.sharded.bindings(rank, &Bindings::new()).unwrap();
            for d in &self.plan(rank).dispatches {
                let number = |name: &str| d.number(name, &bindings).unwrap().map(|n| n as f64);
                if d.ops.contains(&"attention") {
                    within += d.flops.eval(&bindings).unwrap() as f64;
                } else if d.ops.contains(&"matmul") {
                    // What adds up parts of products multiplies nothing.
                    let [Some(m), Some(n), Some(k)] = ["m", "n", "k"].map(number) else { continue };
                    let groups = d.grid[2].n.eval(&bindings).unwrap() as f64;
                    let flops = 2.0 * m * n * k * number("batches").unwrap_or(groups);
                    *(if d.label.ends_with(".attention") { &mut within } else { &mut outside }) += flops;
                }
            }
        }
        (outside, within)
    }

    /// Collectives of all groups by axis and kind, with the bytes that each works on.
    fn collectives(&self) -> BTreeMap<(&'static str, &'static str), Vec<u64>> {
        let mut out: BTreeMap<_, Vec<u64>> = BTreeMap::new();
        let mut seen = HashSet::new();
        for rank in 0..self.sharded.ranks() {
            let bindings = self.sharded.bindings(rank, &Bindings::new()).unwrap();
            for t in &self.plan(rank).transfers {
                let first = t.exchange == Exchange::Send
                    || (t.exchange != Exchange::Receive
                        && seen.insert((t.how.tag, self.sharded.group(rank, t.how.over))));
                if first {
                    let axis = match t.how.over {
                        Data => "data",
                        Tensor => "tensor",
                        _ => "pipeline",
                    };
                    out.entry((axis, name(t.exchange)))
                        .or_default()
                        .push(t.rounds(&bindings, &Policy::default()).unwrap().elements as u64 * 4);
                }
            }
        }
        out
    }
}

/// Several micro-batches, and layers that are computed again: the products are those that pricing counts, gradients and the
/// loss those of one pass, and what is kept is less.
#[test]
fn passes_in_parts_count_what_pricing_counts() {
    for (mesh, micro_batches, recompute) in [
        (vec![], 1, true),
        (vec![], 4, false),
        (vec![(Tensor, 2)], 2, true),
        (vec![(Data, 2)], 2, false),
        (vec![(Pipeline, 2)], 4, true),
    ] {
        let passes = Passes { micro_batches, recompute, forward_first: mesh.iter().any(|a| a.0 == Pipeline) };
        let what = format!("{mesh:?} {passes:?}");
        let p = planned(&mesh, Zero::Off, false, passes);
        let c = counts(&shape(false), &p.layout).unwrap();
        let (outside, within) = p.products();
        // The last product of a layer that is computed again gives what is there already: nothing runs it, unless tensor ranks
        // add it up, where each has to come.
        let spare = if recompute && p.layout.tp == 1 {
            let rows = (EACH * p.layout.dp * SEQ * micro_batches) as f64;
            2.0 * rows * (SHAPE.0 * SHAPE.1 * SHAPE.4) as f64
        } else {
            0.0
        };
        assert_eq!((outside, within), (c.products - spare, 2.0 * c.attention), "{what}");
    }
}

/// Of 32 sequences: all at once, eight at a time, and all at once with layers that are computed again.
#[test]
fn passes_in_parts_keep_less() {
    let scratch = |micro_batches: usize, recompute: bool| {
        let (layers, width, heads, kv_heads, ffn, vocab) = SHAPE;
        let sizes = Sizes { layers, width, heads, kv_heads, head: width / heads, vocab, context: SEQ };
        let step = TrainingStep {
            batch: 32 / micro_batches,
            seq: SEQ,
            optimiser: Optimiser::ADAMW,
            zero: Zero::Off,
            tied: false,
            passes: Passes { micro_batches, recompute, ..Passes::default() },
        };
        let t = training(&Config::new(sizes, ffn, false), "small", &step).unwrap();
        let caps = large_gpu();
        plan(&t.graph, &caps, &Options::for_caps(&caps)).unwrap().bytes_where(|r| *r == Role::Scratch) as f64
    };
    let (whole, parts, again) = (scratch(1, false), scratch(4, false), scratch(1, true));
    assert!(parts < 0.75 * whole && again < 0.8 * whole, "{parts}, {again} of {whole}");
}

/// In f64 against one pass over all of them.
#[test]
fn micro_batches_and_recomputing_give_the_losses_of_one_pass() {
    let model = seeded::llama(6, 3, 2, 7);
    let (batch, seq, vocab) = (4, 5, model.config.common.sizes.vocab);
    let losses = |n: usize, recompute, forward_first| -> Vec<f64> {
        let passes = Passes { micro_batches: n, recompute, forward_first };
        let step =
            TrainingStep { batch: batch / n, seq, optimiser: Optimiser::ADAMW, zero: Zero::Off, tied: true, passes };
        let t = training(&model.config, "tiny", &step).unwrap();
        let mut oracle = Interpreter::<f64>::new(&t.graph, &none()).unwrap();
        model.weights.iter().for_each(|(name, a)| oracle.set_state(name, a));
        let given = |s: usize| -> Vec<(&'static str, Array)> {
            let shaped = |(name, a): (&'static str, Array)| match name {
                "tokens" | "targets" if n > 1 => (name, Array::u32(&[n, batch / n, seq], &a.to_u32())),
                _ => (name, a),
            };
            inputs(vocab, batch, seq, s).into_iter().map(shaped).collect()
        };
        (1..=3).map(|s| oracle.step_values(&Bindings::new(), &given(s)).unwrap()[0].1[0]).collect()
    };
    let want = losses(1, false, false);
    for (n, recompute, forward_first) in [(1, true, false), (2, false, false), (4, true, true), (2, true, false)] {
        let found = losses(n, recompute, forward_first);
        let near = found.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-9);
        assert!(near, "{n} micro-batches, recompute {recompute}: {found:?} for {want:?}");
    }
}

/// Where both sides count one thing they count the same; where they do not, this says what differs and by how much:
/// * attention: the plan multiplies whole scores, a fused kernel skips what a causal mask hides, half of them;
/// * tensor ranks: besides what the shape counts, the plan sums the gradients of norms (of one element a column, of the
///   parts that it has not yet reduced then); of the loss it sums the scores of targets after their mean;
/// * ZeRO 1: the plan all-reduces gradients, where others scatter what they then update; ZeRO 3: it gathers weights once a
///   step and keeps them, others gather them again on the way back;
/// * stages: the plan's tensor ranks each send the whole stream, others their share; the loss goes to every stage.
#[test]
fn a_plan_counts_what_pricing_counts_from_the_shape() {
    let all = [Zero::Off, Zero::Moments, Zero::Gradients, Zero::Weights];
    let mut layouts = vec![
        (vec![], Zero::Off),
        (vec![(Tensor, 2)], Zero::Off),
        (vec![(Tensor, 4)], Zero::Off),
        (vec![(Pipeline, 2)], Zero::Off),
        (vec![(Pipeline, 4)], Zero::Off),
    ];
    layouts.extend(all.map(|z| (vec![(Data, 2)], z)));
    layouts.extend([Zero::Gradients, Zero::Weights].map(|z| (vec![(Data, 4), (Tensor, 2)], z)));
    layouts.push((vec![(Pipeline, 2), (Data, 2), (Tensor, 2)], Zero::Weights));
    for (mesh, zero) in layouts {
        let what = format!("{mesh:?} {zero:?}");
        let p = planned(&mesh, zero, false, Passes::default());
        let c: Counts = counts(&shape(false), &p.layout).unwrap();
        assert_eq!(p.products(), (c.products, 2.0 * c.attention), "{what}");

        let (layers, hidden) = (SHAPE.0 as u64, SHAPE.1 as u64);
        let (l, tokens) = (&p.layout, (EACH * SEQ) as u64);
        let found = p.collectives();
        let sum = |axis, kind| found.get(&(axis, kind)).map_or(0, |v: &Vec<u64>| v.iter().sum::<u64>());
        let shaped = |axis, kind| c.collectives.get(&(axis, kind)).map_or(0, |v| v.1 as u64);
        let groups = |n: usize| if n > 1 { (p.sharded.ranks() / n) as u64 } else { 0 };

        let stages = l.pp as u64;
        let of_tensor = groups(l.tp) / stages * (4 * (2 * layers + 1) * hidden + 4 - 4 * tokens);
        assert_eq!(sum("tensor", "all-reduce"), shaped("tensor", "all-reduce") + of_tensor, "{what}");
        // The loss, a number.
        let loss = groups(l.dp) / stages * 4;
        let gradients =
            shaped("data", "all-reduce") + if zero == Zero::Moments { shaped("data", "reduce-scatter") } else { 0 };
        assert_eq!(sum("data", "all-reduce"), gradients + loss, "{what}");
        let gathered = shaped("data", "all-gather") / if zero == Zero::Weights { 2 } else { 1 };
        assert_eq!(sum("data", "all-gather"), gathered, "{what}");
        assert_eq!(
            sum("data", "reduce-scatter"),
            if zero == Zero::Moments { 0 } else { shaped("data", "reduce-scatter") },
            "{what}"
        );
        let hops = sum("pipeline", "send");
        let want = shaped("pipeline", "send/recv") * l.tp as u64;
        assert!(hops >= want && hops <= want + 64 * groups(l.pp), "{what}: {hops} for {want}");
        assert_eq!(sum("pipeline", "broadcast"), groups(l.pp) * 4, "{what}");
        let known: u64 = [
            ("tensor", "all-reduce"),
            ("data", "all-reduce"),
            ("data", "all-gather"),
            ("data", "reduce-scatter"),
            ("pipeline", "send"),
            ("pipeline", "broadcast"),
        ]
        .iter()
        .map(|k| sum(k.0, k.1))
        .sum();
        assert_eq!(found.values().flatten().sum::<u64>(), known, "{what}: {found:?}");
        check_memory(&p, &what);
    }
}

/// Parameters and moments to the byte. The rest within a fourth: the plan writes scores out on the way back, and lets what is
/// never alive together share, gradients with activations. Under ZeRO 2 and 3 gradients are scattered, and freed, layer by
/// layer on both sides; of ZeRO 3 the plan keeps the weights that it gathered.
fn check_memory(p: &Planned, what: &str) {
    let machine = shipped("dgx-h100").unwrap().with_nodes(2).unwrap();
    let priced = step(&shape(false), &machine, &p.layout).unwrap();
    let names: HashSet<&str> = p.training.parameters.iter().map(|p| p.0.as_str()).collect();
    for (stage, m) in priced.memory.iter().enumerate() {
        let rank = (0..p.sharded.ranks()).find(|r| p.sharded.class(*r).stage == stage).unwrap();
        let plan = p.plan(rank);
        let state =
            |is: bool| plan.bytes_where(|r| matches!(r, Role::State(n) if names.contains(n.as_str()) == is)) as f64;
        assert_eq!((state(true), state(false)), (m.weights.0, m.optimizer.0), "{what}, stage {stage}");
        let gathered = if p.layout.zero == 3 { m.weights.0 * p.layout.dp as f64 } else { 0.0 };
        let gradients = if p.layout.zero >= 2 { m.gradients.0 + gathered } else { m.weights.0 };
        let rest = gradients + m.activations.0 + m.buffers.0 + m.slack.0;
        let ratio = plan.bytes_where(|r| *r == Role::Scratch) as f64 / rest;
        // While a layer's gradient is scattered, the whole of it is there.
        let (least, most) = if p.layout.zero >= 2 { (0.55, 1.4) } else { (0.75, 1.25) };
        assert!((least..most).contains(&ratio), "{what}, stage {stage}: {ratio:.2} of {rest}");
    }
}

//! Sharded plans on virtual devices of one adapter: the answers of one device, and the traffic that was planned.

mod common;

use common::{Found, device, seeded};
use pollster::block_on;
use std::sync::Arc;
use warpweft::base::{Array, Bindings, DType, MeshAxis, Var, Weights};
use warpweft::device::cluster::{RankPlan, Watch};
use warpweft::device::{Cluster, Gpu, Nobody, Store};
use warpweft::graph::Graph;
use warpweft::plan::shard::{Sharded, shard};
use warpweft::plan::{Facts, Options, Policy, Traffic, plan};
use warpweft::reference::Interpreter;
use warpweft::reference::sample::Random;
use warpweft::simulate::plans::{self, Machine};
use warpweft::simulate::{Layout, Shape, counts, whatif};
use warpweft::topology::collective::Algorithm;
use warpweft::topology::{Precision, shipped};

/// All ranks on one adapter.
struct Virtual {
    sharded: Sharded,
    cluster: Cluster,
    // Buffers live as long as their stores.
    stores: Vec<Store>,
    policy: Policy,
}

fn load(gpu: &Arc<Gpu>, graph: &Graph, mesh: &[(MeshAxis, usize)], weights: &dyn Weights, policy: Policy) -> Virtual {
    let sharded = shard(graph, mesh).unwrap();
    let options = Options::for_caps(gpu.caps());
    let largest = graph.largest();
    let plans: Vec<RankPlan> = (0..sharded.ranks())
        .map(|rank| RankPlan {
            rank,
            plan: plan(&sharded.class(rank).graph, gpu.caps(), &options).unwrap(),
            largest: sharded.bindings(rank, &largest).unwrap(),
        })
        .collect();
    let mut stores: Vec<Store> = sharded.seats.iter().map(|s| Store::at(gpu.clone(), s.clone())).collect();
    let cluster =
        block_on(Cluster::load(sharded.seats.clone(), plans, &mut stores, weights, policy.clone(), &mut |_, _| {}))
            .unwrap();
    Virtual { sharded, cluster, stores, policy }
}

impl Virtual {
    fn step(
        &mut self,
        bindings: &Bindings,
        inputs: &[(&str, Array)],
        output: &str,
        watch: &mut Watch,
    ) -> Vec<Vec<f32>> {
        let n = self.sharded.ranks();
        let parts: Vec<_> = (0..n)
            .map(|r| {
                Some((self.sharded.bindings(r, bindings).unwrap(), self.sharded.inputs(r, bindings, inputs).unwrap()))
            })
            .collect();
        let readers: Vec<usize> = (0..n).collect();
        let got = block_on(self.cluster.step(&parts, (&readers, &[output]), &mut Nobody, watch)).unwrap();
        got.iter().map(|o| o[0].to_f32()).collect()
    }

    /// What the plans of all ranks say that a step sends.
    fn planned(&self, bindings: &Bindings) -> Facts {
        let mut sum = Facts::default();
        let mut seen = std::collections::HashSet::new();
        for rank in 0..self.sharded.ranks() {
            let own = self.sharded.bindings(rank, bindings).unwrap();
            for t in &self.cluster.plan(rank).transfers {
                let group = self.sharded.group(rank, t.how.over);
                // A collective counts once a group; a send once.
                if t.exchange == warpweft::op::Exchange::Send || seen.insert((t.how.tag, group)) {
                    let f = t.facts(&own, &self.policy).unwrap();
                    sum = Facts {
                        rounds: 0,
                        messages: sum.messages + f.messages,
                        bytes: sum.bytes + f.bytes,
                        flops: sum.flops + f.flops,
                    };
                }
            }
        }
        sum
    }

    /// The same step in virtual time.
    fn simulated(&self, bindings: &Bindings, change: Option<&str>) -> plans::Outcome {
        let rank = |r: usize| plans::Rank {
            seat: self.sharded.seats[r].clone(),
            plan: self.cluster.plan(r),
            bindings: self.sharded.bindings(r, bindings).unwrap(),
        };
        let ranks: Vec<plans::Rank> = (0..self.sharded.ranks()).map(rank).collect();
        let mut topology = shipped("dgx-h100").unwrap().with_nodes(2).unwrap();
        change.iter().for_each(|c| whatif::set(&mut topology, c).unwrap());
        let machine = Machine::new(&topology, ranks.len(), Precision::Fp32).unwrap();
        plans::run(&ranks, &self.policy, &machine).unwrap()
    }

    /// What a run counted is what was planned and what is predicted: FLOPs, bytes and dispatches of every rank, bytes of
    /// every link, messages and bytes of every kind of collective.
    fn check_counts(&self, bindings: &Bindings, watch: &Watch, what: &str) {
        let planned = self.planned(bindings);
        let counted = &watch.traffic;
        assert_eq!(
            (counted.messages, counted.bytes(), counted.flops),
            (planned.messages, planned.bytes, planned.flops),
            "{what}: counted and planned"
        );
        let predicted = self.simulated(bindings, None);
        assert_eq!(*counted, predicted.traffic, "{what}: counted and predicted");
        self.check_executed(watch, &predicted.traffic, what);
        assert!(counted.work.values().all(|w| w.flops > 0 && w.dispatches > 0), "{what}");
        let latest =
            predicted.ran.iter().map(|r| r.end).chain(predicted.messages.iter().map(|m| m.end)).fold(0.0, f64::max);
        assert!(
            predicted.seconds > 0.0 && latest <= predicted.seconds + 1e-12,
            "{what}: {latest} of {}",
            predicted.seconds
        );
        for worse in ["link.bandwidth=x0.01", "device.hbm_bandwidth=x0.01", "device.peak=x0.0001"] {
            let slower = self.simulated(bindings, Some(worse));
            assert!(
                slower.traffic == predicted.traffic && slower.seconds >= predicted.seconds,
                "{what}, {worse}: {} < {}",
                slower.seconds,
                predicted.seconds
            );
        }
    }
}

impl Virtual {
    /// What the devices' commands came to, against what was predicted of the plans: the same dispatches, messages and copied
    /// bytes; products that are a part of the FLOPs; no bytes beyond the ranges that were bound.
    fn check_executed(&self, watch: &Watch, predicted: &Traffic, what: &str) {
        let mut sent = std::collections::BTreeMap::<usize, u64>::new();
        predicted.links.iter().for_each(|(link, bytes)| *sent.entry(link.0).or_default() += bytes);
        for (rank, work) in &predicted.work {
            let e = watch.executed[rank];
            assert_eq!(e.dispatches, work.dispatches, "{what}, rank {rank}");
            assert_eq!(e.copied_bytes, sent.get(rank).copied().unwrap_or(0), "{what}, rank {rank}");
            assert!(0 < e.product_flops && e.product_flops <= work.flops, "{what}, rank {rank}: {e:?} of {work:?}");
            assert!(e.invocations > 0 && work.bytes <= e.bound_bytes, "{what}, rank {rank}: {e:?} of {work:?}");
        }
        let copies: usize = watch.executed.values().map(|e| e.copies).sum();
        assert_eq!(copies, predicted.messages, "{what}");
    }
}

fn layout_of(mesh: &[(MeshAxis, usize)], seq: usize) -> Layout {
    let ways = |axis: MeshAxis| mesh.iter().find(|a| a.0 == axis).map_or(1, |a| a.1);
    Layout {
        dp: ways(MeshAxis::Data),
        global_batch: ways(MeshAxis::Data),
        precision: Precision::Fp32,
        ..Layout::single(seq)
    }
}

fn conversation(gpu: &Arc<Gpu>, dtype: DType, mesh: &[(MeshAxis, usize)], sequence_parallel: bool, policy: Policy) {
    let what = format!("{dtype} {mesh:?} sp={sequence_parallel} {:?}", policy.algorithm);
    let heads = if dtype.is_quantised() { (4, 2) } else { (6, 3) };
    let model = seeded::quantised(heads.0, heads.1, 2, 11, dtype);
    let graph = model.graph(6, 16, sequence_parallel, true);
    let mut oracle = Interpreter::<f64>::new(&graph, &model.weights).unwrap();
    let mut ranks = load(gpu, &graph, mesh, &model.weights, policy);
    let mut r = Random::new(5);
    let sizes = &model.config.common.sizes;
    let shape = Shape {
        layers: sizes.layers,
        hidden: sizes.width,
        heads: sizes.heads,
        kv_heads: sizes.kv_heads,
        head: sizes.head,
        ffn: model.config.common.ffn,
        vocab: sizes.vocab,
        gated: true,
        rope: true,
        ..Shape::default()
    };
    let mut total = 0;
    for n in [5usize, 1, 3] {
        total += n;
        let tokens: Vec<u32> = (0..n).map(|_| r.below(model.config.common.sizes.vocab) as u32).collect();
        let bindings = Bindings::new().with("seq", n as u64).with("total", total as u64);
        let inputs = [("tokens", Array::u32(&[n], &tokens))];
        let want = oracle.step_values(&bindings, &inputs).unwrap().remove(0).1;
        let mut watch = Watch::counting();
        for (rank, got) in ranks.step(&bindings, &inputs, "logits", &mut watch).iter().enumerate() {
            assert_eq!(got.len(), want.len());
            for (g, w) in got.iter().zip(&want) {
                assert!(
                    (*g as f64 - w).abs() < 2e-4 * (1.0 + w.abs()),
                    "{what} total={total} rank {rank}: {g} for {w}\n{}",
                    ranks.sharded.explain()
                );
            }
        }
        ranks.check_counts(&bindings, &watch, &format!("{what} total={total}"));
        // Products by the parameters that the devices were given, against those of the model's sizes: all ranks together do
        // the work of one, each replica anew.
        if !mesh.iter().any(|a| a.0 == MeshAxis::Context) {
            let layout = layout_of(mesh, n);
            let want =
                counts::forward(&shape, &Layout { dp: 1, global_batch: 1, ..layout.clone() }, 1).unwrap().products;
            let done = watch.executed.values().map(|e| e.product_flops).sum::<u64>() as f64;
            let want = want * layout.dp as f64;
            let ways = mesh.iter().find(|a| a.0 == MeshAxis::Tensor).map_or(1, |a| a.1);
            // Where there are fewer heads of keys than ranks, some make the same ones.
            let same = if ways <= sizes.kv_heads { done == want } else { done > want };
            assert!(same, "{what} total={total}: {done} executed, {want} by the shape");
        }
    }
    assert!(ranks.stores.iter().all(|s| s.bytes() > 0));
}

#[test]
fn virtual_devices_answer_as_one_does() {
    use MeshAxis::{Context, Data, Pipeline, Tensor};
    let Found::Device(gpu) = device(None) else { return };
    let run = |dtype, mesh: &[(MeshAxis, usize)], sp| conversation(&gpu, dtype, mesh, sp, Policy::default());
    for dtype in [DType::F32, DType::Q4_1] {
        for n in [2, 3] {
            run(dtype, &[(Tensor, n)], false);
            run(dtype, &[(Context, n)], false);
            run(dtype, &[(Pipeline, n)], false);
        }
    }
    run(DType::F32, &[(Tensor, 2)], true);
    run(DType::F32, &[(Pipeline, 2), (Tensor, 3)], false);
    run(DType::F32, &[(Context, 2), (Tensor, 2)], false);
    run(DType::F32, &[(Data, 2), (Tensor, 2)], false);
}

#[test]
fn an_encoder_over_virtual_devices_answers_as_one_does_and_costs_what_is_predicted() {
    use MeshAxis::{Data, Pipeline, Tensor};
    let Found::Device(gpu) = device(None) else { return };
    let (config, weights) = seeded::bert(4, 2, 3);
    let graph =
        warpweft::model::bert::build(&config, &weights, "tiny", Var::new("batch", 3), Var::new("seq", 9)).unwrap();
    let mut oracle = Interpreter::<f64>::new(&graph, &weights).unwrap();
    let mut flops = vec![];
    let meshes: [&[(MeshAxis, usize)]; 6] = [
        &[],
        &[(Tensor, 2)],
        &[(Tensor, 3)],
        &[(Pipeline, 2)],
        &[(Pipeline, 2), (Tensor, 2)],
        &[(Data, 2), (Tensor, 2)],
    ];
    for mesh in meshes {
        let mut ranks = load(&gpu, &graph, mesh, &weights, Policy::default());
        for (batch, seq) in [(2usize, 7usize), (3, 1)] {
            let mut r = Random::new(batch as u64);
            let tokens: Vec<u32> = (0..batch * seq).map(|_| r.below(config.common.vocab) as u32).collect();
            let mask: Vec<u32> = (0..batch * seq).map(|i| u32::from(i % seq < seq.max(2) - 1)).collect();
            let inputs = [
                ("tokens", Array::u32(&[batch, seq], &tokens)),
                ("mask", Array { dtype: DType::Bool, ..Array::u32(&[batch, seq], &mask) }),
            ];
            let bindings = Bindings::new().with("batch", batch as u64).with("seq", seq as u64);
            let want = oracle.step_values(&bindings, &inputs).unwrap().remove(0).1;
            let mut watch = Watch::counting();
            for (rank, got) in ranks.step(&bindings, &inputs, "embeddings", &mut watch).iter().enumerate() {
                let worst = got.iter().zip(&want).map(|(g, w)| (*g as f64 - w).abs()).fold(0.0, f64::max);
                assert!(
                    got.len() == want.len() && worst < 1e-4,
                    "{mesh:?} rank {rank}: {worst}\n{}",
                    ranks.sharded.explain()
                );
            }
            ranks.check_counts(&bindings, &watch, &format!("{mesh:?} {batch}×{seq}"));
            assert_eq!(watch.traffic.messages > 0, !mesh.is_empty(), "{mesh:?}");
            flops.push(watch.traffic.work.values().map(|w| w.flops).sum::<u64>());
        }
    }
    // Stages share out the work of one device, replicas do it again. (Per mesh two steps.)
    assert_eq!((flops[6], flops[7]), (flops[0], flops[1]));
    assert_eq!((flops[10], flops[11]), (2 * flops[2], 2 * flops[3]));
}

#[test]
fn every_algorithm_gives_the_same_answer() {
    let Found::Device(gpu) = device(None) else { return };
    for algorithm in
        [Algorithm::Ring, Algorithm::HalvingDoubling, Algorithm::Tree, Algorithm::Direct, Algorithm::Hierarchical]
    {
        for sp in [false, true] {
            let policy = Policy { algorithm: Some(algorithm), ..Policy::default() };
            conversation(&gpu, DType::F32, &[(MeshAxis::Tensor, 3)], sp, policy);
        }
    }
}

/// Sums, gathers, scatters and exchanges of 11 rows of 5 over 2 to 9 ranks, by every algorithm, against plain loops.
#[test]
fn collectives_equal_plain_loops_on_two_to_nine_ranks() {
    use warpweft::base::{Combine, Cut, Placement};
    let Found::Device(gpu) = device(None) else { return };
    let (rows, cols) = (11usize, 5usize);
    let values =
        |rank: usize| (0..rows * cols).map(move |i| ((i * 31 + rank * 17) % 23) as f32 - 11.0).collect::<Vec<f32>>();
    for n in 2..=9 {
        for algorithm in
            [Algorithm::Ring, Algorithm::HalvingDoubling, Algorithm::Tree, Algorithm::Direct, Algorithm::Hierarchical]
        {
            let g = warpweft::graph::GraphBuilder::new();
            let over = MeshAxis::Tensor;
            let x = g.input("x", DType::F32, [rows, cols]).place(over, Placement::Partial(Combine::Sum));
            // The same parts summed whole, scattered by rows, and those exchanged for columns.
            g.output("sum", (x * 2.0).place(over, Placement::Whole));
            let by_rows = (x * 3.0).place(over, Placement::Split(0));
            let by_columns = by_rows.transpose(&[1, 0]);
            g.output("rows", by_rows);
            g.output(
                "columns",
                if n <= cols { by_columns.cut(over, Placement::Split(0), Cut::ONES) } else { by_columns },
            );
            let policy = Policy { algorithm: Some(algorithm), ..Policy::default() };
            let mut ranks = load(
                &gpu,
                &g.finish().unwrap(),
                &[(over, n)],
                &std::collections::HashMap::<String, Array>::new(),
                policy,
            );
            let parts: Vec<_> = (0..n)
                .map(|r| {
                    Some((
                        ranks.sharded.bindings(r, &Bindings::new()).unwrap(),
                        vec![("x", Array::f32(&[rows, cols], &values(r)))],
                    ))
                })
                .collect();
            let readers: Vec<usize> = (0..n).collect();
            let got = block_on(ranks.cluster.step(
                &parts,
                (&readers, &["sum", "rows", "columns"]),
                &mut Nobody,
                &mut Watch::counting(),
            ))
            .unwrap();
            let sum: Vec<f32> = (0..rows * cols).map(|i| (0..n).map(|r| values(r)[i]).sum()).collect();
            for (rank, outputs) in got.iter().enumerate() {
                let what = format!("{} over {n}, rank {rank}", algorithm.name());
                assert_eq!(outputs[0].to_f32(), sum.iter().map(|v| v * 2.0).collect::<Vec<_>>(), "{what}: sum");
                assert_eq!(outputs[1].to_f32(), sum.iter().map(|v| v * 3.0).collect::<Vec<_>>(), "{what}: rows");
                let turned: Vec<f32> = (0..cols * rows).map(|i| sum[i % rows * cols + i / rows] * 3.0).collect();
                assert_eq!(outputs[2].to_f32(), turned, "{what}: columns");
            }
        }
    }
}

//! Prices of kernels, collectives and steps: that they follow the published measurements, and the laws that no fit may break.

use proptest::prelude::*;
use warpweft::base::Result;
use warpweft::simulate::check::{SHIPPED, Subject, check};
use warpweft::simulate::collective::{Placed, price};
use warpweft::simulate::inference::{Mode, Serving, answering};
use warpweft::simulate::known;
use warpweft::simulate::score::Interval;
use warpweft::simulate::search::{candidates, search};
use warpweft::simulate::serving::{Apart, Arrivals, Formats, Parallel, Quantiles, Requests, Steps, run};
use warpweft::simulate::software;
use warpweft::simulate::table::Table;
use warpweft::simulate::{Chip, Layout, Recompute, Schedule, Shape, preset, presets, step, whatif};
use warpweft::topology::collective::{Algorithm, Collective, Kind, sent};
use warpweft::topology::{self, Precision, Topology, shipped};

fn refusal<T: std::fmt::Debug>(result: Result<T>) -> String {
    result.map(|_| ()).expect_err("must be refused").to_string()
}

fn machine(name: &str, nodes: usize) -> Topology {
    shipped(name).unwrap().with_nodes(nodes).unwrap()
}

/// gpt3-175b on so many DGX A100, as the papers ran it.
fn megatron(nodes: usize, tp: usize, pp: usize) -> (Shape, Topology, Layout) {
    let dp = nodes * 8 / tp / pp;
    let layout = Layout {
        tp,
        pp,
        dp,
        global_batch: dp * 32,
        recompute: Recompute::Full,
        precision: Precision::Fp16,
        ..Layout::single(2048)
    };
    (preset("gpt3-175b").unwrap(), machine("dgx-a100", nodes), layout)
}

/// The aims, on the rows that nothing was fitted on; and that each beats one constant where that has a chance to fail.
#[test]
fn predictions_hold_what_is_promised_of_them() {
    let aims = [
        ("training", "seconds", 8.0, 3.0),
        ("training", "peak GiB", 5.0, 5.0),
        ("training", "s, experts", 15.0, 5.0),
        ("memory", "activations GiB", 2.0, 2.0),
        ("memory", "states GiB", 2.0, 2.0),
        ("memory", "weights GiB", 2.0, 2.0),
        ("memory", "cache GiB", 2.0, 2.0),
        ("inference", "tokens/s", 20.0, 20.0),
        ("inference", "first token s", 20.0, 20.0),
        ("energy", "joules", 15.0, 10.0),
        ("energy", "watts", 15.0, 10.0),
        ("gemm", "seconds", 12.0, 5.0),
        ("collective", "s, >= 1 MiB", 10.0, 5.0),
        ("serving", "per token ms", 20.0, 10.0),
        ("serving", "first token ms", 30.0, 12.0),
    ];
    let mut met = 0;
    for (subject, name, text) in SHIPPED {
        let report = check(subject, Table::parse(name, text).unwrap(), &topology::shipped).unwrap();
        assert!(report.outcomes.iter().all(|o| o.predicted.is_ok()), "{name}: a row is not priced");
        for line in report.lines(true).iter().filter(|l| l.split == "score") {
            let Some(aim) = aims.iter().find(|a| (a.0, a.1) == (subject.name(), line.what)) else { continue };
            let s = line.score;
            let (frozen, found) = (Interval::known(name, line.what).unwrap(), line.interval.clone().unwrap());
            assert!(
                (frozen.low - found.low).abs() < 0.02
                    && (frozen.high - found.high).abs() < 0.02
                    && frozen.rows == found.rows,
                "{name}, {}: assets/validation/intervals.toml has {frozen:?}, the rows leave {found:?}",
                line.what
            );
            assert!(
                s.mape <= aim.2 && s.bias.abs() <= aim.3,
                "{name}, {}: MAPE {:.1} %, bias {:+.1} %",
                line.what,
                s.mape,
                s.bias
            );
            let baseline = line.baseline.unwrap();
            assert!(
                s.mape < baseline.mape,
                "{name}, {}: {:.1} % against {:.1} % of one constant",
                line.what,
                s.mape,
                baseline.mape
            );
            met += 1;
        }
    }
    assert_eq!(met, aims.len());
}

#[test]
fn a_row_that_cannot_be_priced_is_told_and_counts() {
    let text = "model,cluster,gpus,tp,pp,global_batch,seconds\ngpt3-175b,dgx-a100,64,8,8,64,18\nnone-7b,dgx-a100,8,,,8,1\ngpt3-175b,dgx-a100,8,3,,8,1\n,dgx-a100,8,,,8,1\ngpt3-175b,dgx-q,8,,,8,1\n\
                gpt3-175b,dgx-a100,64,8,8,64,\ngpt3-175b,dgx-a100,64,8,8,64,fast\n";
    let report = check(Subject::Training, Table::parse("t.csv", text).unwrap(), &topology::shipped).unwrap();
    let line = &report.lines(false)[0];
    assert_eq!((line.score.rows, line.missed), (7, 6));
    let told: Vec<String> =
        report.outcomes.iter().filter_map(|o| o.predicted.as_ref().err()).map(|e| e.to_string()).collect();
    insta::assert_snapshot!(told.join("\n"), @r#"
    there is no model preset "none-7b" (nearest: gpt3-5b): there are gpt3-175b, gpt3-22b, gpt3-5b, gpt3-20b, mt-nlg-530b, gpt-1t, llama-2-7b, llama-2-13b, llama-2-70b, llama-3-8b, llama-3-70b, llama-3-405b, mixtral-8x7b, mixtral-8x22b, deepseek-v3, gpt-j-6b, falcon-180b, nemotron-8b, nemotron-22b, nemotron-340b, qwen3-32b, qwen3-235b-a22b, qwen3-30b-a3b, gpt-oss-20b, gpt-oss-120b, llama-4-scout, llama-4-maverick, kimi-k2, minimax-m2, glm-4.5, glm-4.5-air, qwen3-next-80b-a3b, glm-5
    dp 2 × tp 3 × pp 1 × cp 1 = 6, gpus is 8
    neither model nor layers and hidden are given
    there is no machine "dgx-q": there are dgx1-v100, dgx-v100, dgx-a100, dgx-a100-40gb, dgx-h100, h100-hbm2e, dgx-h200, h20-8, gh200, dgx-b200, dgx-b300, gb200-nvl72, gb300-nvl72, mi300x-8, mi355x-8, l40s-8, rtx-pro-6000-8, dgx-spark, pcie-8, laptops-2, browser-tab, or give a .toml file
    none of seconds, tokens_per_s_per_gpu and peak_gib is given
    seconds is "fast", not a number
    "#);
    let csv = report.rows_csv().unwrap();
    assert_eq!(csv.lines().count(), 8);
    insta::assert_snapshot!(refusal(check(Subject::Gemm, Table::parse("t.csv", "device,m,n,k,secs\na100,1,1,1,1\n").unwrap(), &topology::shipped)), @"t.csv: has none of the columns that gemm measures (seconds): it may have device, dtype, m, n, k, seconds");
    insta::assert_snapshot!(refusal(Table::parse("t.csv", "device,m,n,k,seconds\n")), @"t.csv: has no rows: a line of column names, then a line a measurement");
    // A column that means nothing is told, and no reason to refuse a table.
    let noted = check(
        Subject::Gemm,
        Table::parse("t.csv", "device,m,n,k,seconds,remark\na100,512,512,512,1e-5,hot\n").unwrap(),
        &topology::shipped,
    )
    .unwrap();
    assert_eq!((noted.ignored, noted.outcomes[0].predicted.is_ok()), (vec!["remark".to_string()], true));
    insta::assert_snapshot!(refusal(Table::parse("t.csv", "a,b\n1,2,3\n")), @"t.csv:2: CSV error: record 1 (line: 2, byte: 4): found record with 3 fields, but the previous record has 2 fields");
}

/// Rows that no machine and no model could be, each a reason rather than a hang or a number.
#[test]
fn odd_sizes_are_refused_at_once() {
    let text = "layers,hidden,heads,ffn,vocab,cluster,gpus,tp,pp,seq,global_batch,seconds\n268435456,4096,32,,,dgx-a100,8,,,2048,8,1\n32,4096,32,,,dgx-a100,1e14,1e7,1e7,2048,8,1\n\
                65536,64,1,64,64,dgx-a100,65536,1,65536,16,65536,1\n32,4096,32,,,dgx-a100,8,,,1e14,8,1\n32,4096,32,,,dgx-a100,8,,,2048,1e14,1\n32,1e300,32,,,dgx-a100,8,,,2048,8,1\n";
    let report = check(Subject::Training, Table::parse("t.csv", text).unwrap(), &topology::shipped).unwrap();
    let told: Vec<String> = report
        .outcomes
        .iter()
        .map(|o| o.predicted.as_ref().map_or_else(|e| e.to_string(), |p| p.to_string()))
        .collect();
    assert_eq!(report.lines(false)[0].missed, 6, "{told:?}");
    let huge = check(
        Subject::Gemm,
        Table::parse("t.csv", "device,m,n,k,seconds\na100,1e300,1e300,1e300,1\n").unwrap(),
        &topology::shipped,
    )
    .unwrap();
    assert!(huge.outcomes[0].predicted.is_err());
    for (kind, row, figure) in [
        (Subject::Collective, "cluster,kind,bytes,seconds\ndgx-a100,gossip,64,1\n", "s, < 1 MiB"),
        (Subject::Inference, "model,cluster,ttft_s\nnone,dgx-a100,1\n", "first token s"),
    ] {
        let report = check(kind, Table::parse("t.csv", row).unwrap(), &topology::shipped).unwrap();
        assert_eq!(report.lines(false)[0].what, figure, "a miss counts where it would have been scored");
    }
    assert_eq!(known::machine("DGX A100 80GB").unwrap().name, "dgx-a100");
    assert_eq!(known::machine("H200 SXM").unwrap().name, "dgx-h200");
}

/// What a rank puts on links, by the price and by the rounds that a run would send.
#[test]
fn prices_count_the_bytes_that_rounds_send() {
    for n in [2usize, 3, 4, 5, 8] {
        let c = &Chip::named("h100").unwrap().constants.collective;
        let placed = Placed::new(&machine("dgx-h100", 1), n, 1);
        let bytes = 840 * n;
        for kind in [Kind::AllReduce, Kind::AllGather, Kind::ReduceScatter, Kind::AllToAll] {
            for algorithm in [Algorithm::Ring, Algorithm::InSwitch, Algorithm::Direct] {
                let fits = match kind {
                    Kind::AllReduce => algorithm != Algorithm::Direct,
                    Kind::AllToAll => algorithm == Algorithm::Direct,
                    _ => algorithm == Algorithm::Ring,
                };
                if fits {
                    let rounds = Collective::even(kind, algorithm, n, bytes).rounds().unwrap();
                    let most = *sent(&rounds, n + 1)[..n].iter().max().unwrap();
                    let p = price(c, &placed, kind, bytes as f64, Some(algorithm));
                    assert!(
                        (p.near.0 - most as f64).abs() < 1e-6 && p.far.0 == 0.0,
                        "{kind:?} {algorithm:?} on {n}: {} for {most}",
                        p.near
                    );
                }
            }
        }
    }
    // Over nodes a ring goes through all n ranks: 2(n−1)/n · S on near links, and that over the g NICs of a node.
    let (g, n, s) = (8.0, 32.0, 1e6);
    let c = &Chip::named("a100").unwrap().constants.collective;
    let p = price(c, &Placed::new(&machine("dgx-a100", 4), 32, 1), Kind::AllReduce, s, Some(Algorithm::Ring));
    assert!(
        (p.near.0 - 2.0 * (n - 1.0) / n * s).abs() < 1e-3 && (p.far.0 - 2.0 * (n - 1.0) / n * s / g).abs() < 1e-3,
        "{p:?}"
    );
}

/// A plan's rounds, one by one, come to what the closed form of the whole collective says.
#[test]
fn rounds_of_plans_cost_what_collectives_do() {
    use warpweft::plan::{Exchange, Rounds};
    use warpweft::simulate::plans::{Machine, Rates};
    let c = |name: &str| Chip::named(name).unwrap().constants.collective;
    for (name, device, nodes) in [("dgx-h100", "h100", 1), ("dgx-a100", "a100", 4)] {
        let topology = machine(name, nodes);
        for n in [2usize, 4, 8] {
            let m = Machine::new(&topology, topology.devices(), Precision::Bf16).unwrap();
            // Within a node, and one rank a node.
            let groups: Vec<Vec<usize>> = [(0..n).collect::<Vec<_>>(), (0..n).map(|i| i * 8).collect()]
                .into_iter()
                .filter(|g| g[n - 1] < topology.devices())
                .collect();
            for group in groups {
                for (kind, exchange) in [
                    (Kind::AllReduce, Exchange::AllReduce),
                    (Kind::AllGather, Exchange::AllGather),
                    (Kind::ReduceScatter, Exchange::ReduceScatter),
                ] {
                    for elements in [840, 840_000, 84_000_000] {
                        let all = Collective::even(kind, Algorithm::Ring, n, elements);
                        let rounds = Rounds {
                            algorithm: Algorithm::Ring,
                            rounds: all.rounds().unwrap(),
                            parts: all.parts,
                            elements,
                        };
                        let seconds: f64 = m.rounds(exchange, &group, &rounds).unwrap().iter().sum();
                        let want = price(
                            &c(device),
                            &Placed::new(&topology, n, group[1] - group[0]),
                            kind,
                            elements as f64 * 4.0,
                            Some(Algorithm::Ring),
                        )
                        .seconds
                        .0;
                        assert!(
                            (seconds / want - 1.0).abs() < 1e-9,
                            "{name} {group:?} {kind:?} {elements}: {seconds} for {want}"
                        );
                    }
                }
            }
        }
    }
    let told = [
        refusal(Machine::new(&machine("dgx-h100", 1), 24, Precision::Fp32).map(|_| ())),
        refusal(Machine::new(&shipped("pcie-8").unwrap(), 2, Precision::Fp32).unwrap().rounds(
            Exchange::AllReduce,
            &[0, 1],
            &Rounds { algorithm: Algorithm::InSwitch, rounds: vec![vec![]], parts: vec![], elements: 8 },
        )),
    ];
    insta::assert_snapshot!(told.join("\n"), @r#"
    24 ranks take 24 devices, dgx-h100 has 8: --nodes 3 would do
    pcie-8: no switch between these ranks can add: choose another algorithm
    "#);
}

/// 126 layers over 16 stages as Llama 3 405B was trained: one less on the first and on the last.
#[test]
fn ends_of_a_pipeline_have_the_fewest_layers() {
    let shape = preset("llama-3-405b").unwrap();
    let of =
        |pp: usize| Layout { pp, ..Layout::single(8192) }.layers(&shape).iter().map(|s| s[0].len()).collect::<Vec<_>>();
    assert_eq!(of(16), [vec![7], vec![8; 14], vec![7]].concat());
    for pp in 1..40 {
        let all = of(pp);
        assert!(
            all.iter().sum::<usize>() == 126
                && all[pp - 1] == *all.iter().min().unwrap()
                && all.iter().max().unwrap() - all[pp - 1] <= 1,
            "{pp}: {all:?}"
        );
    }
}

#[test]
fn presets_have_the_parameters_of_their_names() {
    let billions = [
        ("gpt3-175b", 175.0),
        ("gpt3-22b", 22.0),
        ("mt-nlg-530b", 530.0),
        ("gpt-1t", 1008.0),
        ("llama-2-7b", 6.74),
        ("llama-2-13b", 13.0),
        ("llama-2-70b", 69.0),
        ("llama-3-8b", 8.03),
        ("llama-3-70b", 70.6),
        ("llama-3-405b", 405.9),
        ("mixtral-8x7b", 46.7),
        ("mixtral-8x22b", 141.0),
        ("deepseek-v3", 671.0),
        ("gpt-j-6b", 6.05),
        ("falcon-180b", 180.0),
        ("nemotron-340b", 341.0),
    ];
    for (name, want) in billions {
        let got = preset(name).unwrap().parameters() / 1e9;
        assert!((got / want - 1.0).abs() < 0.02, "{name}: {got:.2}");
    }
    let active = |name: &str| preset(name).unwrap().active_parameters() / 1e9;
    assert!(
        (active("mixtral-8x7b") / 12.9 - 1.0).abs() < 0.03 && (active("deepseek-v3") / 37.0 - 1.0).abs() < 0.05,
        "{} {}",
        active("mixtral-8x7b"),
        active("deepseek-v3")
    );
    for shape in presets() {
        assert!(shape.check().is_ok() && !shape.source.is_empty(), "{}", shape.name);
    }
    for spelling in ["Llama3.1-8B", "llama-3.1 8b", "LLAMA3-8B", "Meta-Llama-3-8B"] {
        assert_eq!(preset(spelling).unwrap().name, "llama-3-8b");
    }
    assert!(refusal(preset("lama-3-8b")).contains("nearest: llama-3-8b"));
}

/// Operations of a step against the closed form 96 B s l h² (1 + s/6h + V/16lh) with recompute (arXiv:2104.04473).
#[test]
fn a_step_does_the_operations_of_the_closed_form() {
    let (shape, machine, layout) = megatron(8, 8, 8);
    let stack = warpweft::simulate::Stack { fused_attention: false, ..layout.stack };
    let s = step(&shape, &machine, &Layout { stack, ..layout.clone() }).unwrap();
    let (b, q, l, h, v) = (layout.global_batch as f64, 2048.0, 96.0, 12288.0, 51200.0);
    let want = 96.0 * b * q * l * h * h * (1.0 + q / (6.0 * h) + v / (16.0 * l * h));
    assert!((s.hardware_flops / want - 1.0).abs() < 1e-9, "{:e} {want:e}", s.hardware_flops);
    assert!(s.hardware_flops > s.model_flops);
}

/// 10 + 24/t + 5 a s/(h t), then (34 + 5 a s/h)/t with sequence parallelism, 34/t when the core is recomputed: bytes of an
/// element of the layer's input (arXiv:2205.05198).
#[test]
fn activations_are_those_of_the_closed_forms() {
    let (shape, _, base) = megatron(1, 8, 1);
    let of = |recompute, sequence_parallel| {
        let stack = warpweft::simulate::Stack { fused_attention: false, dropout: true, ..base.stack };
        let l = Layout { recompute, sequence_parallel, stack, ..base.clone() };
        warpweft::simulate::layer::layer(&shape, &l, 1).kept / (2048.0 * 12288.0)
    };
    let (a, s, h, t) = (96.0, 2048.0, 12288.0, 8.0);
    let close = |got: f64, want: f64| assert!((got / want - 1.0).abs() < 1e-9, "{got} {want}");
    close(of(Recompute::None, false), 10.0 + 24.0 / t + 5.0 * a * s / (h * t));
    close(of(Recompute::None, true), (34.0 + 5.0 * a * s / h) / t);
    close(of(Recompute::Selective, true), 34.0 / t);
    close(of(Recompute::Full, false), 2.0);
}

fn seconds(shape: &Shape, machine: &Topology, layout: &Layout) -> f64 {
    step(shape, machine, layout).unwrap().seconds.0
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Less of anything never helps.
    #[test]
    fn worse_hardware_is_never_faster(figure in 0usize..4, factor in 0.1f64..0.99, tp in 0u32..4, pp in 0u32..3, zero in 0usize..4, sp in any::<bool>()) {
        let (shape, machine, base) = megatron(4, 1 << tp, 1 << pp);
        let layout = Layout { zero, sequence_parallel: sp, stack: warpweft::simulate::Stack { overlap_tensor: 0.5, ..base.stack }, ..base };
        let mut worse = machine.clone();
        let figure = ["device.peak", "device.hbm_bandwidth", "link.bandwidth", "network.bandwidth"][figure];
        whatif::set(&mut worse, &format!("{figure}=x{factor}")).unwrap();
        let (before, after) = (seconds(&shape, &machine, &layout), seconds(&shape, &worse, &layout));
        prop_assert!(after >= before * (1.0 - 1e-12), "{} at {}: {} < {}", figure, factor, after, before);
    }

    #[test]
    fn products_grow_with_their_sizes(m in 1usize..5000, n in 64usize..9000, k in 64usize..9000, more in 1usize..2000, device in 0usize..4) {
        let chip = Chip::named(["v100", "a100", "h100", "b200"][device]).unwrap();
        let s = |m: usize, n: usize, k: usize| chip.gemm(Precision::Fp16, 1.0, m as f64, n as f64, k as f64).unwrap();
        let base = s(m, n, k);
        prop_assert!(base > 0.0 && base >= 2.0 * (m * n * k) as f64 / chip.device.peak(Precision::Fp16).unwrap().0);
        // Whole tiles more are never faster (part of one may be: another tile fits better).
        prop_assert!(s(m + 256 * more, n, k) >= base * 0.999 && s(m, n + 256 * more, k) >= base * 0.999 && s(m, n, k + 512 * more) >= base * 0.999);
    }

    #[test]
    fn collectives_grow_with_bytes_and_shrink_with_bandwidth(bytes in 1.0f64..1e9, more in 1.01f64..10.0, ranks in 2usize..33, kind in 0usize..5) {
        let kind = [Kind::AllReduce, Kind::AllGather, Kind::ReduceScatter, Kind::AllToAll, Kind::Broadcast { root: 0 }][kind];
        let fast = machine("dgx-h100", 4);
        let mut slow = fast.clone();
        whatif::set(&mut slow, "link.bandwidth=x0.5").unwrap();
        whatif::set(&mut slow, "network.bandwidth=x0.5").unwrap();
        let c = &Chip::named("h100").unwrap().constants.collective;
        let s = |t: &Topology, bytes: f64| price(c, &Placed::new(t, ranks, 1), kind, bytes, None).seconds.0;
        prop_assert!(s(&fast, bytes * more) >= s(&fast, bytes) * 0.999);
        prop_assert!(s(&slow, bytes) >= s(&fast, bytes));
    }
}

#[test]
fn fewer_devices_and_smaller_micro_batches_are_slower() {
    let (shape, machine, layout) = megatron(16, 8, 8);
    let half = Layout { dp: 1, ..layout.clone() };
    assert!(seconds(&shape, &machine, &half) > 1.8 * seconds(&shape, &machine, &layout));
    let small = preset("llama-2-7b").unwrap();
    let at = |micro_batch| {
        seconds(&small, &machine, &Layout { dp: 8, global_batch: 256, micro_batch, ..Layout::single(512) })
    };
    assert!(at(1) > at(2) && at(2) > at(4));
    let overlapped = |overlap_gradients| {
        let l = Layout { dp: 64, global_batch: 64, ..Layout::single(2048) };
        seconds(&small, &machine, &Layout { stack: warpweft::simulate::Stack { overlap_gradients, ..l.stack }, ..l })
    };
    assert!(overlapped(true) < overlapped(false));
    let schedule = |schedule| seconds(&shape, &machine, &Layout { schedule, ..layout.clone() });
    assert!(schedule(Schedule::ZeroBubble) < schedule(Schedule::OneForwardOneBackward));
}

#[test]
fn serving_obeys_its_bounds() {
    let shape = preset("llama-3-70b").unwrap();
    let h100 = machine("dgx-h100", 1);
    let base = Serving {
        tp: 8,
        pp: 1,
        replicas: 1,
        ep: 1,
        precision: Precision::Bf16,
        kv_precision: Precision::Bf16,
        batch: Some(1),
        input: 512,
        output: 256,
        mode: Mode::Decode,
        cache_share: 0.95,
        load: None,
    };
    let of = |s: &Serving| answering(&shape, &h100, s).unwrap();
    // A step reads all weights once: 2 bytes each over eight times 3.35 TB/s.
    let bound = shape.parameters() * 2.0 / (8.0 * 3.35e12);
    let one = of(&base);
    assert!(one.between_tokens.0 > bound && one.between_tokens.0 < 6.0 * bound, "{} {bound}", one.between_tokens);
    let rate = |batch| of(&Serving { batch: Some(batch), ..base.clone() }).tokens_per_second;
    assert!(rate(32) > 10.0 * rate(1) && rate(64) > rate(32));
    let narrow = of(&Serving { precision: Precision::Fp8, kv_precision: Precision::Fp8, ..base.clone() });
    assert!(narrow.between_tokens < one.between_tokens && narrow.cache_tokens > one.cache_tokens);
    let longer = of(&Serving { input: 8192, batch: Some(32), ..base.clone() });
    assert!(longer.tokens_per_second < rate(32));
    let told = [
        refusal(answering(&shape, &h100, &Serving { tp: 1, ..base.clone() })),
        refusal(answering(&shape, &h100, &Serving { tp: 8, replicas: 2, ..base.clone() })),
        refusal(answering(&shape, &h100, &Serving { batch: Some(100000), ..base.clone() })),
        refusal(answering(&shape, &h100, &Serving { input: 0, ..base.clone() })),
    ];
    insta::assert_snapshot!(told.join("\n"), @r#"
    llama-3-70b in bf16 does not fit tp 1 × pp 1: weights and one sequence of 768 tokens need 134 GiB of 80 GiB per device; take more devices or a narrower format
    tp 8 × pp 1 × ep 1 × 2 copies take 16 devices, dgx-h100 has 8
    a batch of 100000 sequences of 768 tokens does not fit: the cache holds 2023 of them
    input is 0 and output 256 tokens, must be 1 or more
    "#);
}

#[test]
fn a_layout_that_cannot_be_is_refused_with_what_would() {
    let (shape, machine, base) = megatron(8, 8, 8);
    let told = [
        Layout { tp: 128, ..base.clone() },
        Layout { pp: 99, ..base.clone() },
        Layout { micro_batch: 5, ..base.clone() },
        Layout { ep: 2, ..base.clone() },
        Layout { cp: 3, ..base.clone() },
        Layout { chunks: 2, global_batch: 33, ..base.clone() },
        Layout { dp: 2, global_batch: 64, ..base.clone() },
        Layout { zero: 4, ..base.clone() },
    ]
    .map(|l| refusal(step(&shape, &machine, &l)));
    insta::assert_snapshot!(told.join("\n"), @r#"
    tp 128 splits 96 heads: at most 96
    pp 99 × 1 chunks splits 96 layers, embedding and head: at most 98 stages
    a global batch of 32 is no multiple of dp 1 × micro-batch 5: the nearest is 30
    ep 2 needs experts, gpt3-175b has none: take ep 1
    cp 3 does not divide a sequence of 2048
    interleaving needs micro-batches in multiples of pp 8: there are 33
    the layout takes 128 devices, dgx-a100 has 64
    ZeRO stage 4 is none of 0, 1, 2, 3
    "#);
    let mut t = machine.clone();
    let told = [
        "device.hbm_bandwidth=8TB",
        "device.speed=2",
        "link.bandwidth=x0",
        "link.bandwidth",
        "device.peak=2PFLOP/s",
        "device.peak.fp12=2PFLOP/s",
        "network.bandwidth=-1GB/s",
    ]
    .map(|s| refusal(whatif::set(&mut t, s)));
    insta::assert_snapshot!(told.join("\n"), @r#"
    --set device.hbm_bandwidth=8TB: "8TB" is an amount of bytes; expected bytes per second, such as 3.35TB/s (units: B/s, kB/s, MB/s, GB/s, TB/s, MiB/s, GiB/s, b/s, kb/s, Mb/s, Gb/s, Tb/s)
    --set device.speed=2: there is no figure "device.speed": there are device.peak, device.peak.PRECISION, device.hbm_bandwidth, device.memory, device.limit, device.idle, device.price, link.bandwidth, link.latency, network.bandwidth, network.latency
    --set link.bandwidth=x0: x0 is no factor above zero
    --set link.bandwidth: is not FIGURE=VALUE, such as device.hbm_bandwidth=8TB/s
    --set device.peak=2PFLOP/s: device.peak takes a factor for all formats (x2); for one, name it: device.peak.bf16=2PFLOP/s
    --set device.peak.fp12=2PFLOP/s: there is no number format "fp12": there are fp64, fp32, tf32, fp16, bf16, fp8, int8, fp4
    --set network.bandwidth=-1GB/s: -1000000000 must be above zero
    "#);
    assert_eq!(t, machine);
    let lone = shipped("browser-tab").unwrap();
    insta::assert_snapshot!(refusal(whatif::set(&mut lone.clone(), "network.bandwidth=x2")), @"--set network.bandwidth=x2: browser-tab has no such links");
}

#[test]
fn what_if_changes_what_it_says() {
    let mut t = machine("dgx-h100", 2);
    for change in [
        "device.hbm_bandwidth=8TB/s",
        "link.bandwidth=1.8TB/s",
        "network.bandwidth=x2",
        "device.peak.fp8=4PFLOP/s",
        "device.price=2USD/h",
    ] {
        whatif::set(&mut t, change).unwrap();
    }
    let levels = t.levels();
    let near = |got: f64, want: f64| (got / want - 1.0).abs() < 1e-9;
    assert!(near(levels[0].way.bandwidth.0, 1.8e12), "{}", levels[0].way.bandwidth);
    // A NIC of 100 GB/s behind a PCIe link of 63.
    assert!(near(levels[1].way.bandwidth.0, 63e9), "{}", levels[1].way.bandwidth);
    let d = t.slowest();
    assert_eq!((d.bandwidth.0, d.peak(Precision::Fp8).unwrap().0, d.price.unwrap().0), (8e12, 4e15, 2.0));
}

#[test]
fn the_search_finds_nothing_worse_than_what_it_tried() {
    let (shape, machine, base) = megatron(32, 8, 8);
    let base = Layout { global_batch: 512, ..base };
    let (found, tried) = search(&shape, &machine, &base).unwrap();
    assert!(tried == candidates(&shape, &machine, &base).len() && tried > 100 && !found.is_empty());
    let room = machine.slowest().memory.0;
    assert!(found.iter().all(|f| f.bytes() <= room && f.layout.devices() == machine.devices()));
    // On the front, whoever is slower needs less memory or less energy.
    for pair in found.windows(2) {
        assert!(pair[0].step.seconds <= pair[1].step.seconds);
        assert!(pair[1].bytes() < pair[0].bytes() || pair[1].step.energy.joules < pair[0].step.energy.joules);
    }
    // What the papers took is no faster than the best.
    let paper = Layout { dp: 4, global_batch: 512, ..base };
    assert!(found[0].step.seconds.0 <= seconds(&shape, &machine, &paper));
    let small = shipped("laptops-2").unwrap();
    insta::assert_snapshot!(refusal(search(&shape, &small, &Layout { global_batch: 2, ..Layout::single(2048) })), @"none of 21 layouts of gpt3-175b fits 2 devices: the nearest, pp=1,dp=2,tp=1 with micro-batch 1, takes 1.29 TiB of 12 GiB; take more devices");
}

#[test]
fn names_of_collectives_are_read_as_people_write_them() {
    for name in ["all_reduce", "AllReduce", "all-reduce"] {
        assert_eq!(known::kind(name).unwrap(), Kind::AllReduce);
    }
    let a = |t: &str| known::algorithm(Some(t)).unwrap();
    assert_eq!(
        [a("NVLS"), a("Ring (NCCL pick)"), a("tree"), a("default"), a("RING/LL<=1MiB, NVLS>=2MiB")],
        [Some(Algorithm::InSwitch), Some(Algorithm::Ring), Some(Algorithm::Tree), None, None]
    );
    assert!(known::algorithm(Some("carrier pigeon")).is_err());
}

/// What software does differently: gathers per tensor that nothing hides make ZeRO 3 fall behind pipeline and tensor
/// parallelism as devices double (arXiv:2104.04473, figure 10), layers gathered ahead do not.
#[test]
fn stacks_differ_by_how_they_gather() {
    let shape = preset("gpt3-175b").unwrap();
    let step_of = |stack: &str, nodes: usize, l: Layout| {
        let trains = software::named(stack).unwrap().trains("a100", "").unwrap();
        let layout = Layout {
            stack: trains.stack,
            recompute: Recompute::Full,
            precision: Precision::Fp16,
            global_batch: 1536,
            ..l
        };
        step(&shape, &machine("dgx-a100", nodes), &layout).unwrap().seconds.0
    };
    let ratio = |nodes: usize, micro_batch: usize| {
        let spread = Layout { dp: nodes * 8, zero: 3, micro_batch, ..Layout::single(2048) };
        let cut = Layout { tp: 8, pp: 12, dp: nodes * 8 / 96, ..Layout::single(2048) };
        step_of("deepspeed-2021", nodes, spread) / step_of("megatron-core", nodes, cut)
    };
    let ratios = [ratio(48, 4), ratio(96, 2), ratio(192, 1)];
    // Published: 1.06, 1.69 and 3.2 (table 2 there).
    let near = |r: f64, published: f64| (r / published - 1.0).abs() < 0.2;
    assert!(near(ratios[0], 1.06) && near(ratios[1], 1.69) && near(ratios[2], 3.2), "{ratios:?}");
    let spread = Layout { dp: 384, zero: 3, micro_batch: 4, ..Layout::single(2048) };
    assert!(step_of("fsdp2", 48, spread.clone()) < step_of("deepspeed-2021", 48, spread));
    assert!(
        software::named("vllm").unwrap().trains("h100", "").is_err()
            && software::named("nemo").unwrap().serves().is_err()
    );
}

/// The power limit holds a long run back: joules follow, a short benchmark's rates do not change.
#[test]
fn long_runs_settle_at_the_clocks_that_the_power_limit_allows() {
    let (shape, l) =
        (preset("llama-3-8b").unwrap(), Layout { dp: 8, global_batch: 64, zero: 1, ..Layout::single(8192) });
    let at = |limit: &str| {
        let mut m = machine("dgx-h100", 1);
        whatif::set(&mut m, &format!("device.limit={limit}")).unwrap();
        let s = step(&shape, &m, &l).unwrap();
        assert!(s.energy.watts.0 <= m.slowest().limit.0 * 1.001, "{}", s.energy.watts);
        s.seconds.0
    };
    let (low, full, free) = (at("500W"), at("700W"), at("2000W"));
    assert!(low > full * 1.05 && full > free * 1.05, "{low} {full} {free}");
}

/// Requests in virtual time: the laws that no engine breaks.
#[test]
fn a_queue_obeys_its_laws() {
    let shape = preset("llama-3-70b").unwrap();
    let engine = |tp: usize, stack: &str| {
        let m = machine("dgx-h200", 1);
        let chip = Chip::new(m.slowest()).unwrap();
        let p = Parallel { tp, pp: 1, attention_dp: 1, moe_tp: tp, moe_ep: 1 };
        let f = Formats { dense: Precision::Fp8, experts: Precision::Fp8, cache: Precision::Fp8 };
        Steps::new(&shape, &m, &chip, software::named(stack).unwrap().serves().unwrap(), p, f).unwrap()
    };
    let asked = |arrivals| Requests { arrivals, input: 1024, output: 256, spread: 0.2 };
    for stack in ["trtllm", "vllm", "sglang"] {
        let steps = engine(4, stack);
        let mut before = (0.0, 0.0);
        for c in [1usize, 8, 64, 256] {
            let o = run(&steps, None, &asked(Arrivals::Concurrency(c))).unwrap();
            let q = |q: &Quantiles| q.p50 <= q.p90 && q.p90 <= q.p99 && q.p50 > 0.0;
            assert!(q(&o.first_token) && q(&o.per_token), "{o:?}");
            // More at once: each slower, all together faster.
            assert!(
                o.per_token.mean >= before.0 && o.tokens_per_second > before.1,
                "{stack} {c}: {o:?} after {before:?}"
            );
            before = (o.per_token.mean, o.tokens_per_second);
        }
        // Little's law: what is answered at once is what comes per second times how long each takes.
        let rate = 2.0;
        let o = run(&steps, None, &asked(Arrivals::PerSecond(rate))).unwrap();
        let alone = run(&steps, None, &asked(Arrivals::Concurrency(1))).unwrap();
        assert!(
            o.per_token.mean >= alone.per_token.mean && o.tokens_per_second < rate * 256.0 * 1.05,
            "{stack}: {o:?}"
        );
        assert!(run(&engine(8, stack), None, &asked(Arrivals::Concurrency(8))).unwrap().per_token.mean < before.0);
    }
    // A cache that is too small for all at once puts sequences off rather than overflow; one that holds none refuses.
    let mut small = engine(4, "vllm");
    small.capacity = 20_000.0;
    let o = run(&small, None, &asked(Arrivals::Concurrency(64))).unwrap();
    assert!(o.first_token.p90 > 10.0 * o.first_token.p50.min(1.0) || o.preempted > 0, "{o:?}");
    small.capacity = 100.0;
    assert!(refusal(run(&small, None, &asked(Arrivals::Concurrency(1)))).contains("does not fit"));
    assert!(run(&engine(4, "vllm"), None, &asked(Arrivals::PerSecond(f64::NAN))).is_err());
    // Prompts on engines of their own leave the time per token alone.
    let apart = Apart { steps: engine(4, "vllm"), engines: 1.0, handover: 1e-8 };
    let asked = asked(Arrivals::Concurrency(64));
    let (with, without) =
        (run(&engine(4, "vllm"), Some(&apart), &asked).unwrap(), run(&engine(4, "vllm"), None, &asked).unwrap());
    assert!(with.per_token.p99 < without.per_token.p99, "{with:?} {without:?}");
}

/// Names as they are published.
#[test]
fn presets_are_found_by_the_names_of_releases() {
    for (name, preset_name) in [
        ("moonshotai/Kimi-K2-Instruct-0905", "kimi-k2"),
        ("Qwen/Qwen3-235B-A22B-Instruct-2507", "qwen3-235b-a22b"),
        ("nvidia/DeepSeek-R1-0528-FP4-v2", "deepseek-v3"),
        ("meta-llama/Llama-3.3-70B-Instruct", "llama-3-70b"),
        ("zai-org/GLM-4.6-FP8", "glm-4.5"),
        ("MiniMaxAI/MiniMax-M2.1", "minimax-m2"),
        ("openai/gpt-oss-20b", "gpt-oss-20b"),
        ("meta-llama/Llama-4-Scout-17B-16E-Instruct", "llama-4-scout"),
    ] {
        assert_eq!(preset(name).unwrap().name, preset_name);
    }
    // As publishers count them: without their heads for several tokens at once and without what sees pictures.
    let exact = |name: &str| preset(name).unwrap().parameters();
    for (name, all) in [
        ("qwen3-32b", 32.762e9),
        ("qwen3-235b-a22b", 235.094e9),
        ("qwen3-30b-a3b", 30.532e9),
        ("gpt-oss-120b", 116.829e9),
        ("gpt-oss-20b", 20.915e9),
        ("llama-4-scout", 107.77e9),
        ("deepseek-v3", 671.026e9),
        ("kimi-k2", 1026.47e9),
        ("minimax-m2", 228.7e9),
        ("qwen3-next-80b-a3b", 79.67e9),
    ] {
        assert!((exact(name) / all - 1.0).abs() < 1e-3, "{name}: {} for {all}", exact(name));
    }
    // As many parameters as their names or papers say.
    let billions = |name: &str| preset(name).unwrap().parameters() / 1e9;
    for (name, all) in [
        ("qwen3-32b", 32.8),
        ("qwen3-235b-a22b", 235.0),
        ("qwen3-30b-a3b", 30.5),
        ("gpt-oss-120b", 117.0),
        ("gpt-oss-20b", 21.0),
        ("llama-4-scout", 108.0),
        ("llama-4-maverick", 400.0),
        ("kimi-k2", 1026.0),
        ("minimax-m2", 229.0),
        ("glm-4.5", 355.0),
        ("glm-4.5-air", 107.0),
        ("glm-5", 744.0),
        ("qwen3-next-80b-a3b", 80.0),
    ] {
        assert!((billions(name) / all - 1.0).abs() < 0.03, "{name}: {} for {all}", billions(name));
    }
}

/// Rows of other tables: spelled otherwise, with columns that are absent, spread and disaggregated.
#[test]
fn rows_of_serving_are_read_as_they_come() {
    let text = "model,cluster,gpus,stack,tp,attention_dp,moe_tp,moe_ep,gemm_dtype,moe_dtype,kv_dtype,input,output,concurrency,mode,prefill_gpus,prefill_tp,decode_gpus,decode_tp,ttft_ms,tpot_ms,remark\n\
                Llama3.1-70B,h200_sxm,,TensorRT-LLM,4,,,,fp8,,,1024,256,16,agg,,,,,200,9,x\n\
                deepseek-r1,B200,,trtllm,64,1,8,8,nvfp4,nvfp4,fp8,1024,256,16,,,,,,200,9,\n\
                llama-3-70b,gb200-nvl72,,vllm,,,,,nvfp4,,,1024,256,32,disaggregated,8,2,16,4,200,9,\n\
                qwen3-235b-a22b,dgx-b300,8,sglang,8,1,1,8,fp8,fp8,,1024,256,8,aggregated,,,,,,9,\n\
                llama-3-70b,h100 nvl,,vllm,8,,,,fp8,,,1024,256,8,,,,,,200,9,\n\
                llama-3-70b,dgx-h100,,nemo,8,,,,fp8,,,1024,256,8,,,,,,200,9,\n\
                llama-3-405b,dgx-h100,,vllm,1,,,,bf16,,,1024,256,8,,,,,,200,9,\n";
    let report = check(Subject::Serving, Table::parse("t.csv", text).unwrap(), &known::machine).unwrap();
    assert_eq!(report.ignored, ["remark"]);
    let priced: Vec<usize> = report.outcomes.iter().filter(|o| o.predicted.is_ok()).map(|o| o.row).collect();
    assert_eq!(priced, [0, 0, 1, 1, 2, 2, 3], "{:?}", report.outcomes);
    let mut told: Vec<String> =
        report.outcomes.iter().filter_map(|o| o.predicted.as_ref().err()).map(|e| e.to_string()).collect();
    told.dedup();
    assert!(
        told[0].contains("there is no machine \"h100 nvl\"") && told[0].contains("the nearest is dgx-h100"),
        "{told:?}"
    );
    assert!(told[1].contains("nemo does not serve") && told[2].contains("does not fit"), "{told:?}");
}

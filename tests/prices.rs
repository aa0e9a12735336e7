//! Prices of experts, prompts apart, energy, and what outputs say of themselves.

use serde_json::Value;
use warpweft::simulate::check::{Subject, check};
use warpweft::simulate::collective::price_tokens;
use warpweft::simulate::inference::{Mode, Serving, answering};
use warpweft::simulate::known;
use warpweft::simulate::report::{Prices, serving_json, training_json, training_text};
use warpweft::simulate::table::Table;
use warpweft::simulate::{Chip, Layout, Shape, preset, software, step};
use warpweft::topology::{Precision, Topology, shipped};

fn machine(name: &str, nodes: usize) -> Topology {
    shipped(name).unwrap().with_nodes(nodes).unwrap()
}

fn experts(ep: usize, imbalance: f64) -> (Shape, Layout) {
    let stack = software::named("megatron-core").unwrap().trains("h100", "").unwrap().stack;
    let layout = Layout { dp: 32, ep, global_batch: 128, imbalance, stack, zero: 1, ..Layout::single(4096) };
    (preset("qwen3-30b-a3b").unwrap(), layout)
}

#[test]
fn experts_cost_what_their_tokens_do() {
    let m = machine("dgx-h100", 4);
    let seconds = |ep, imbalance, change: &dyn Fn(&mut Layout)| {
        let (shape, mut layout) = experts(ep, imbalance);
        change(&mut layout);
        step(&shape, &m, &layout).unwrap().seconds.0
    };
    let even = seconds(32, 1.0, &|_| {});
    // A rank with more tokens than the others keeps them waiting; it does not take longer than its share.
    let uneven = seconds(32, 1.5, &|_| {});
    assert!(uneven > even && uneven < 1.5 * even, "{even} {uneven}");
    // Tokens that go to each node once take less of the network, and of the links those that go to each rank once.
    let all = |l: &mut Layout| l.stack.once_per_node = false;
    assert!(seconds(32, 1.0, &all) > 1.05 * even);
    assert!(seconds(8, 1.0, &all) > seconds(8, 1.0, &|_| {}));
    // The host's part is its time a layer and micro-batch, and nothing of models without experts.
    let quick = seconds(32, 1.0, &|l| (l.stack.host_experts.0, l.stack.host_expert.0) = (0.0, 0.0));
    let waits = experts(32, 1.0).1.stack;
    let host = (waits.host_experts.0 + 128.0 / 32.0 * waits.host_expert.0) * 48.0 * 4.0;
    assert!((even - quick - host).abs() < 0.05 * host, "{even} {quick} {host}");
    // Narrower tokens travel faster.
    assert!(seconds(32, 1.0, &|l| l.stack.dispatch = 1.0) < even);
    let (shape, layout) = experts(32, 0.5);
    assert!(step(&shape, &m, &layout).unwrap_err().to_string().contains("imbalance"));
}

/// Of N nodes, k throws hit N (1 − (1 − 1/N)^k): two nodes get eight copies of a token as one each, nearly, and hand it on to
/// each of 16 ranks once.
#[test]
fn copies_of_a_token_go_to_a_node_and_to_a_rank_once() {
    let m = machine("dgx-h100", 2);
    let chip = Chip::new(m.slowest()).unwrap();
    let priced = |m: &Topology, ranks: usize, copies: f64| {
        let placed = warpweft::simulate::collective::Placed::new(m, ranks, 1);
        price_tokens(&chip.constants.collective, &placed, 1e9, copies)
    };
    let hit = |n: f64| n * (1.0 - (1.0 - 1.0 / n).powi(8)) / 8.0;
    let (all, once) = (priced(&m, 16, 1.0), priced(&m, 16, 8.0));
    assert!((once.far.0 / all.far.0 - hit(2.0)).abs() < 1e-12);
    // What came over the network goes on over the links, so that a rank's share there is that of all 16 ranks.
    assert!((once.near.0 - 1e9 * hit(16.0) * 7.0 / 8.0).abs() < 1.0, "{}", once.near);
    // On links alone, too, a rank gets a token once.
    let one = machine("dgx-h100", 1);
    assert!((priced(&one, 8, 8.0).near.0 / priced(&one, 8, 1.0).near.0 - hit(8.0)).abs() < 1e-12);
}

fn between(v: &Value, x: f64) {
    let (low, high) = (v["low"].as_f64().unwrap(), v["high"].as_f64().unwrap());
    assert!(low > 0.0 && low < high && low < 1.3 * x && high > 0.7 * x, "{v} around {x}");
    assert!(v["measurements"].as_u64().unwrap() > 0 && v["table"].as_str().unwrap().ends_with(".csv"));
}

#[test]
fn outputs_say_how_sure_they_are_and_whose_sizes_they_took() {
    let m = machine("dgx-h100", 4);
    let (shape, layout) = experts(8, 1.0);
    let s = step(&shape, &m, &layout).unwrap();
    let json = training_json(&shape, &m, &layout, &s);
    between(&json["step_seconds_interval"], s.seconds.0);
    between(&json["peak_bytes_interval"], json["peak_bytes"].as_f64().unwrap());
    assert_eq!(json["step_seconds_interval"]["figure"], "s, experts");
    let held = m.slowest().memory.0;
    assert_eq!(json["fits"].as_bool().unwrap(), json["peak_bytes"].as_f64().unwrap() <= held);
    assert!(json["model_source"].as_str().unwrap().contains("config.json"));
    assert!(!json["device_source"].as_str().unwrap().is_empty());
    let text = training_text(&shape, &m, &layout, &s, Prices::default());
    assert!(text.contains("sizes of the model") && text.contains("sizes of the device"), "{text}");
    // A pipeline stands still for what an even one would, and for what its longest stage adds.
    let dense = preset("gpt3-175b").unwrap();
    let stack = layout.stack;
    let piped = Layout { tp: 8, pp: 4, global_batch: 16, stack, ..Layout::single(2048) };
    let s = step(&dense, &m, &piped).unwrap();
    let json = training_json(&dense, &m, &piped, &s);
    let (found, ideal) = (json["bubble_share"].as_f64().unwrap(), json["even_pipeline_bubble_share"].as_f64().unwrap());
    assert!((ideal - 3.0 / 19.0).abs() < 1e-12 && found > 0.5 * ideal && found < 2.0 * ideal, "{found} {ideal}");
    // The busiest stage: no other has more to do.
    let busiest = s.seconds.0 * (1.0 - found);
    for stage in 0..4 {
        let work = 16.0 * (s.passes.forward[stage][0] + s.passes.backward[stage][0]);
        assert!(work <= busiest * (1.0 + 1e-9), "stage {stage}: {work} of {busiest}");
    }
    let served = Serving {
        tp: 8,
        pp: 1,
        replicas: 2,
        ep: 1,
        precision: Precision::Bf16,
        kv_precision: Precision::Bf16,
        batch: None,
        input: 1024,
        output: 256,
        mode: Mode::Continuous,
        cache_share: 0.95,
        load: None,
    };
    let a = answering(&preset("llama-3-70b").unwrap(), &m, &served).unwrap();
    let json = serving_json(&preset("llama-3-70b").unwrap(), &m, &a, None);
    between(&json["tokens_per_second_interval"], a.tokens_per_second);
    between(&json["first_token_seconds_interval"], a.first_token.0);
    assert_eq!(json["fits"], true);
    let per_token = json["energy_joules_per_token"].as_f64().unwrap();
    let limit = m.slowest().limit.0 * 16.0 / a.tokens_per_second;
    assert!(per_token > 0.1 * limit && per_token <= limit * (1.0 + 1e-9), "{per_token} {limit}");
}

#[test]
fn prompts_on_devices_of_their_own_are_rows_too() {
    let text = "model,cluster,stack,input,output,concurrency,mode,gpus,tp,prefill_workers,prefill_tp,decode_workers,decode_tp,gemm_dtype,ttft_ms,tpot_ms\n\
                llama-3-70b,h200,trtllm,3000,300,32,disaggregated,,,2,2,1,4,fp8,100,10\n\
                llama-3-70b,h200,trtllm,3000,300,32,disaggregated,,,4,2,1,4,fp8,100,10\n\
                llama-3-70b,h200,trtllm,3000,300,32,aggregated,4,4,,,,,fp8,100,10\n\
                llama-3-70b,h200,trtllm,3000,300,32,apart,4,4,,,,,fp8,100,10\n";
    let report = check(Subject::Serving, Table::parse("t.csv", text).unwrap(), &known::machine).unwrap();
    assert!(report.ignored.is_empty(), "{:?}", report.ignored);
    let of = |row: usize, what: &str| -> f64 {
        let o = report.outcomes.iter().find(|o| o.row == row && o.what == what).unwrap();
        *o.predicted.as_ref().unwrap()
    };
    // Answers are not held up by prompts; twice the engines read prompts sooner.
    assert!(of(0, "per token ms") < of(2, "per token ms"));
    assert!(of(1, "first token ms") < of(0, "first token ms"));
    let refused = report.outcomes.iter().find(|o| o.row == 3).unwrap().predicted.clone().unwrap_err().to_string();
    assert!(refused.contains("there are aggregated, disaggregated"), "{refused}");
}

/// An A100 answering one at a time: a host that takes longer costs idle power, not more of what is computed.
#[test]
fn waiting_for_the_host_is_idle() {
    let row = |rate: f64| {
        let text = format!(
            "model,cluster,gpus,dtype,batch,input,output,mode,tokens_per_s,joules,watts\nllama-2-7b,dgx-a100,1,fp16,1,100,200,static,{rate},1,1\n"
        );
        let report = check(Subject::Energy, Table::parse("t.csv", &text).unwrap(), &known::machine).unwrap();
        let of = |what: &str| *report.outcomes.iter().find(|o| o.what == what).unwrap().predicted.as_ref().unwrap();
        (of("joules"), of("watts"))
    };
    let (fast, slow) = (row(50.0), row(25.0));
    let idle = shipped("dgx-a100").unwrap().slowest().idle.0;
    assert!((slow.0 - fast.0 - idle * 4.0).abs() < 1e-6 * slow.0, "{fast:?} {slow:?}");
    assert!(slow.1 < fast.1 && slow.1 > idle);
}

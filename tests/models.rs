//! Real models against figures from elsewhere (tests/figures, with their provenance): on the device, within the floor
//! that all devices have, and on the CPU fallback.

mod common;

use common::{Found, adapter, device, model};
use pollster::block_on;
use serde_json::Value as Json;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use warpweft::base::{Caps, DType};
use warpweft::plan::{Options as PlanOptions, plan};
use warpweft::session::{DeviceChoice, Embedder, Generator, Options, Precision, Request};
use warpweft::text::{Message, Sampling};

fn figures(name: &str) -> Json {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/figures").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn ids(v: &Json) -> Vec<u32> {
    v.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect()
}

fn options(device: DeviceChoice) -> Options {
    // Figures were made in f32.
    Options { device, context: Some(256), precision: Precision::F32, ..Options::default() }
}

/// Greedy tokens of each figure, ids compared where the reference's margin exceeds 0.05, and the first step's logits.
fn smollm2_matches(path: &Path, device: DeviceChoice, positions: bool) {
    let mut model = block_on(Generator::open(path, &options(device))).unwrap();
    for case in figures("smollm2.json")["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let prompt = ids(&case["prompt_ids"]);
        let text = case["prompt"].as_str().unwrap();
        assert_eq!(model.tokenizer().encode(text, false).unwrap(), prompt, "{name}: prompt ids");
        let wanted = ids(&case["output_ids"]);
        let request =
            Request { prompt: prompt.clone(), sampling: Sampling::greedy(), max_tokens: Some(wanted.len()), top: 10 };
        let (mut got, mut top, mut out) = (vec![], vec![], String::new());
        let never = AtomicBool::new(false);
        let mut on_token = |t: &warpweft::session::Token| {
            if got.is_empty() {
                top = t.top.iter().map(|a| (a.id, a.logprob as f64)).collect();
            }
            got.push(t.id);
            out.push_str(&t.text);
            Ok(())
        };
        block_on(model.generate(&request, &never, &mut on_token)).unwrap();
        // Log-probabilities and logits differ by one constant.
        let figures = case["first_step_top10"].as_array().unwrap();
        let shift = top[0].1 - figures[0][1].as_f64().unwrap();
        for f in figures {
            let (id, want) = (f[0].as_u64().unwrap() as u32, f[1].as_f64().unwrap());
            let found = top.iter().find(|t| t.0 == id);
            if let Some((_, got)) = found {
                assert!(
                    (got - shift - want).abs() < 2e-2,
                    "{name}: token {id} has the logit {}, {want} is right",
                    got - shift
                );
            }
        }
        let close = figures.windows(2).any(|w| (w[0][1].as_f64().unwrap() - w[1][1].as_f64().unwrap()).abs() < 2e-2);
        assert!(
            close || top.iter().map(|t| t.0 as u64).eq(figures.iter().map(|f| f[0].as_u64().unwrap())),
            "{name}: the order of the top ten"
        );
        let margins = case["step_margin"].as_array().unwrap();
        for (i, (g, w)) in got.iter().zip(&wanted).enumerate() {
            if g != w {
                let margin = margins.get(i).and_then(Json::as_f64).unwrap_or(1.0);
                assert!(margin <= 0.05, "{name}: token {i} is {g}, {w} is right with a margin of {margin}");
                break;
            }
        }
        assert_eq!(out.trim(), case["output_text"].as_str().unwrap().replace("<|im_end|>", "").trim(), "{name}: text");
        if positions {
            let each = block_on(model.logits(&prompt)).unwrap();
            let best = |l: &Vec<f32>| (0..l.len()).max_by(|a, b| l[*a].total_cmp(&l[*b])).unwrap() as u32;
            let got: Vec<u32> = each.iter().map(best).collect();
            assert_eq!(got, ids(&case["prompt_argmax_each_pos"]), "{name}: the likeliest token at each position");
        }
    }
}

#[test]
fn smollm2_on_the_device_is_right() {
    let (Some(path), Found::Device(_)) = (model("smollm2-135m"), device(None)) else { return };
    smollm2_matches(&path, DeviceChoice::Index(adapter().unwrap()), false);
}

#[test]
fn smollm2_on_the_fallback_is_right() {
    let Some(path) = model("smollm2-135m") else { return };
    smollm2_matches(&path, DeviceChoice::Cpu, true);
}

/// How far logits are from those with keys and values in f32, over all positions of a prompt: the largest difference, the root of
/// the mean square, and how often the likeliest token is the same.
#[test]
fn smollm2_keeps_its_logits_with_keys_and_values_in_less_than_f32() {
    let Some(path) = model("smollm2-135m") else { return };
    let figures = figures("smollm2.json");
    let prompt =
        figures["cases"].as_array().unwrap().iter().map(|c| ids(&c["prompt_ids"])).max_by_key(Vec::len).unwrap();
    let logits = |kv| {
        let options = Options { kv: Some(kv), ..options(DeviceChoice::Cpu) };
        block_on(block_on(Generator::open(&path, &options)).unwrap().logits(&prompt)).unwrap()
    };
    let best = |l: &Vec<f32>| (0..l.len()).max_by(|a, b| l[*a].total_cmp(&l[*b])).unwrap();
    let exact = logits(DType::F32);
    for (kv, [most, mean, same]) in [(DType::F16, [0.1, 0.02, 0.98]), (DType::Q8_0, [2.0, 0.3, 0.9])] {
        let near = logits(kv);
        let off = exact.iter().flatten().zip(near.iter().flatten()).map(|(a, b)| (*a as f64 - *b as f64).abs());
        let (largest, square, n) = off.fold((0.0f64, 0.0, 0), |(m, s, n), d| (m.max(d), s + d * d, n + 1));
        let agree = exact.iter().zip(&near).filter(|(a, b)| best(a) == best(b)).count() as f64 / exact.len() as f64;
        let root = (square / n as f64).sqrt();
        println!(
            "{kv}: logits off by {largest:.4} at most, {root:.5} in the mean; {:.1} % of tokens the same",
            agree * 100.0
        );
        assert!(largest <= most && root <= mean && agree >= same, "{kv}: {largest}, {root}, {agree}");
    }
}

#[test]
fn smollm2_answers_in_its_chat_form_the_same_for_the_same_seed() {
    let Some(path) = model("smollm2-135m") else { return };
    let mut model = block_on(Generator::open(&path, &options(DeviceChoice::Cpu))).unwrap();
    let prompt = model.chat_prompt(&[Message::new("user", "What is the capital of France?")]).unwrap();
    assert_eq!(prompt, ids(&figures("smollm2.json")["cases"][2]["prompt_ids"]));
    let mut say = |seed| {
        let sampling = Sampling { seed, temperature: 1.5, ..Sampling::default() };
        let request = Request { prompt: prompt.clone(), sampling, max_tokens: Some(12), top: 0 };
        let mut text = String::new();
        let mut on_token = |t: &warpweft::session::Token| {
            text.push_str(&t.text);
            Ok(())
        };
        block_on(model.generate(&request, &AtomicBool::new(false), &mut on_token)).unwrap();
        text
    };
    let (a, b, c) = (say(7), say(7), say(8));
    assert_eq!(a, b);
    assert_ne!(a, c);
}

fn minilm_matches(path: &Path, device: DeviceChoice) {
    let mut model = block_on(Embedder::open(path, &options(device))).unwrap();
    let figures = figures("minilm.json");
    let cases = figures["cases"].as_array().unwrap();
    let texts: Vec<&str> = cases.iter().map(|c| c["text"].as_str().unwrap()).collect();
    for case in cases {
        assert_eq!(model.tokenizer().encode(case["text"].as_str().unwrap(), true).unwrap(), ids(&case["ids"]));
    }
    // All at once, of unequal lengths, and one by one.
    let together = block_on(model.embed(&texts)).unwrap();
    for (i, case) in cases.iter().enumerate() {
        let alone = block_on(model.embed(&texts[i..=i])).unwrap().remove(0);
        let want = case["embedding"].as_array().unwrap();
        assert_eq!(want.len(), 384);
        for (j, w) in want.iter().enumerate() {
            for got in [together[i][j], alone[j]] {
                assert!((got as f64 - w.as_f64().unwrap()).abs() < 1e-4, "text {i}, number {j}: {got} for {w}");
            }
        }
    }
}

#[test]
fn minilm_on_the_device_is_right() {
    let (Some(path), Found::Device(_)) = (model("minilm"), device(None)) else { return };
    minilm_matches(&path, DeviceChoice::Index(adapter().unwrap()));
}

#[test]
fn minilm_on_the_fallback_is_right() {
    let Some(path) = model("minilm") else { return };
    minilm_matches(&path, DeviceChoice::Cpu);
}

#[test]
fn models_fit_and_run_within_the_floor() {
    use warpweft::base::{Array, Bindings, DType};
    use warpweft::device::{Program, Store};
    use warpweft::model::{Model, ModelSource};
    use warpweft::reference::Interpreter;
    let Found::Device(gpu) = device(Some(&Caps::FLOOR)) else { return };
    for name in ["smollm2-135m", "minilm"] {
        let Some(path) = model(name) else { return };
        let model = Model::new(ModelSource::open(&path).unwrap()).unwrap();
        let (graph, _) = model.typical_step(64).unwrap();
        let planned = plan(&graph, &Caps::FLOOR, &PlanOptions::for_caps(&Caps::FLOOR)).unwrap();
        for d in &planned.dispatches {
            assert!(d.args.len() <= 8, "{name}: {} binds {} buffers", d.label, d.args.len());
            assert!(d.args.iter().all(|a| a.bytes <= Caps::FLOOR.binding_bytes && a.offset % 256 == 0));
        }
        assert!(planned.buffers.iter().all(|b| b.bytes <= Caps::FLOOR.buffer_bytes));
        let (bindings, inputs) = if name == "minilm" {
            let tokens = Array::u32(&[1, 4], &[101, 2023, 2003, 102]);
            let mask = Array { dtype: DType::Bool, ..Array::u32(&[1, 4], &[1; 4]) };
            (Bindings::new().with("batch", 1).with("seq", 4), vec![("tokens", tokens), ("mask", mask)])
        } else {
            (Bindings::new().with("seq", 1).with("total", 1), vec![("tokens", Array::u32(&[1], &[504]))])
        };
        let mut store = Store::new(gpu.clone());
        let mut program = block_on(Program::load(planned, &mut store, &model.source, &mut |_, _| {})).unwrap();
        program.poison();
        let output = graph.outputs[0].0.clone();
        let got = block_on(program.step(&bindings, &inputs, &[&output])).unwrap()[0].to_f32();
        let want =
            Interpreter::<f32>::new(&graph, &model.source).unwrap().step(&bindings, &inputs).unwrap()[0].1.to_f32();
        let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 2e-2 && got.iter().all(|x| x.is_finite()), "{name}: off by {worst}");
    }
}

#[test]
fn layers_of_a_llama_take_at_most_eight_dispatches_and_a_decode_step_plans_nothing_anew() {
    use warpweft::model::{Model, ModelSource};
    let Some(path) = model("smollm2-135m") else { return };
    let model = Model::new(ModelSource::open(&path).unwrap()).unwrap();
    let (graph, _) = model.typical_step(512).unwrap();
    let planned = plan(&graph, &Caps::FLOOR, &PlanOptions::for_caps(&Caps::FLOOR)).unwrap();
    for layer in 0..30 {
        let of = planned.dispatches.iter().filter(|d| d.label.starts_with(&format!("layers.{layer}."))).count();
        assert!((1..=8).contains(&of), "layer {layer} takes {of} dispatches");
    }
    assert!(planned.kernels.len() <= 16, "{} kernels: every one is compiled at start", planned.kernels.len());
}

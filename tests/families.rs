//! Every family of decoders against figures that transformers computed of small seeded checkpoints (tests/figures/families,
//! with the script that made them): as a model folder and as a GGUF file, on the CPU, on the device, over tensor ranks and
//! over stages. The test fills the same weights by the same rule.

mod common;

use common::gguf::{GgufFile, Meta, RawTensor};
use common::{Found, device, tiny};
use pollster::block_on;
use serde_json::{Value as Json, json};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use warpweft::session::{Batch, BatchOptions, DeviceChoice, Generator, Layout, Options, Precision, Request, mesh};
use warpweft::text::Sampling;

/// How far a log-probability may be off, and the margin from which greedy ids must be equal.
const NEAR: f64 = 2e-3;
const MARGIN: f64 = 0.05;

struct Case {
    name: String,
    figures: Json,
    /// Shape and elements of each tensor of the checkpoint.
    tensors: HashMap<String, (Vec<usize>, Vec<f32>)>,
    /// Types of those that are no f32: their elements are bytes.
    types: HashMap<String, String>,
}

fn cases() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/figures/families");
    let files = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let mut files: Vec<PathBuf> = files.filter(|p| p.extension().is_some_and(|e| e == "json")).collect();
    files.sort();
    assert!(files.len() >= 15, "figures are missing");
    let case = |path: PathBuf| {
        let figures: Json = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let tensor = |t: &Json| {
            let name = t[0].as_str().unwrap();
            let shape: Vec<usize> = t[1].as_array().unwrap().iter().map(|d| d.as_u64().unwrap() as usize).collect();
            let values = tiny::fill(name, shape.iter().product(), t[2].as_f64().unwrap(), t[3].as_f64().unwrap());
            (name.to_string(), (shape, values))
        };
        let list = figures["tensors"].as_array().unwrap();
        let tensors = list.iter().map(tensor).collect();
        let kind = |t: &Json| Some((t[0].as_str()?.to_string(), t[4].as_str().filter(|k| *k != "F32")?.to_string()));
        let types = list.iter().filter_map(kind).collect();
        Case { name: path.file_stem().unwrap().to_string_lossy().into_owned(), figures, tensors, types }
    };
    files.into_iter().map(case).collect()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// Whole numbers as bytes; those that would be no number in floats of 8 bits are nothing.
fn small(kind: &str, values: &[f32]) -> Vec<u8> {
    let byte = |x: &f32| x.floor().clamp(0.0, 255.0) as u8;
    let odd = |b: u8| kind == "F8_E4M3" && b & 127 == 127;
    values.iter().map(byte).map(|b| if odd(b) { 0 } else { b }).collect()
}

impl Case {
    fn vocab(&self) -> usize {
        self.figures["config"]["vocab_size"].as_u64().unwrap() as usize
    }

    /// The checkpoint as it is published.
    fn folder(&self, at: &Path) -> PathBuf {
        let at = at.join(&self.name);
        std::fs::create_dir_all(&at).unwrap();
        std::fs::write(at.join("config.json"), self.figures["config"].to_string()).unwrap();
        std::fs::write(at.join("tokenizer.json"), tokenizer(self.vocab()).to_string()).unwrap();
        std::fs::write(at.join("tokenizer_config.json"), "{}").unwrap();
        let tensor = |(name, (shape, values)): (&String, &(Vec<usize>, Vec<f32>))| match self.types.get(name) {
            None => (name.clone(), "F32", shape.clone(), bytes(values)),
            Some(kind) => (name.clone(), kind.as_str(), shape.clone(), small(kind, values)),
        };
        let tensors: Vec<_> = self.tensors.iter().map(tensor).collect();
        std::fs::write(at.join("model.safetensors"), tiny::safetensors(&tensors)).unwrap();
        at
    }

    /// The same as a converter writes it, if the figures say how.
    fn gguf(&self, at: &Path) -> Option<PathBuf> {
        let how = self.figures["gguf"].as_object()?;
        let arch = how["architecture"].as_str().unwrap();
        let mut file = GgufFile::default();
        file.set("general.architecture", Meta::Text(arch.into()));
        let each = |kind: &str| how[kind].as_object().unwrap().clone();
        for (k, v) in each("keys") {
            let value = match v.as_array() {
                Some(all) => Meta::Ints(all.iter().map(|n| n.as_i64().unwrap() as i32).collect()),
                None => Meta::U32(v.as_u64().unwrap() as u32),
            };
            file.set(&format!("{arch}.{k}"), value);
        }
        for (k, v) in each("reals") {
            file.set(&format!("{arch}.{k}"), Meta::F32(v.as_f64().unwrap() as f32));
        }
        for (k, v) in each("texts") {
            file.set(&format!("{arch}.{k}"), Meta::Text(v.as_str().unwrap().into()));
        }
        let tokens = words(self.vocab());
        file.set("tokenizer.ggml.model", Meta::Text("gpt2".into()));
        file.set("tokenizer.ggml.pre", Meta::Text("default".into()));
        file.set("tokenizer.ggml.token_type", Meta::Ints(vec![1; tokens.len()]));
        file.set("tokenizer.ggml.tokens", Meta::Texts(tokens));
        file.set("tokenizer.ggml.merges", Meta::Texts(vec![]));
        file.set("tokenizer.ggml.add_bos_token", Meta::Bool(0));
        for t in how["tensors"].as_array().unwrap() {
            let of: Vec<&str> = t[2].as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect();
            let (shape, values) = self.converted(t[1].as_str().unwrap(), &of);
            file.tensors.push(RawTensor {
                name: t[0].as_str().unwrap().into(),
                dims: shape.iter().rev().map(|d| *d as u64).collect(),
                ty: 0,
                data: bytes(&values),
                offset: None,
            });
        }
        let path = at.join(format!("{}.gguf", self.name));
        std::fs::write(&path, file.bytes()).unwrap();
        Some(path)
    }

    /// What a converter does to tensors on their way into a GGUF file.
    fn converted(&self, how: &str, of: &[&str]) -> (Vec<usize>, Vec<f32>) {
        how.split(" | ").fold(self.tensors[of[0]].clone(), |x, how| self.convert(how, of, &x))
    }

    fn convert(&self, how: &str, of: &[&str], (shape, values): &(Vec<usize>, Vec<f32>)) -> (Vec<usize>, Vec<f32>) {
        let (what, number) = how.split_once(' ').unwrap_or((how, ""));
        match what {
            "copy" => (shape.clone(), values.clone()),
            "squeeze" => (shape.iter().copied().filter(|d| *d != 1).collect(), values.clone()),
            "plus_one" => (shape.clone(), values.iter().map(|x| x + 1.0).collect()),
            "neg_exp" => (shape.clone(), values.iter().map(|x| -x.exp()).collect()),
            "heads" | "blocks" | "tile" | "tile_columns" => by_blocks(what, number, shape, values),
            "transpose" => {
                let (rows, cols) = (shape[0], shape[1]);
                (vec![cols, rows], (0..cols * rows).map(|i| values[i % rows * cols + i / rows]).collect())
            }
            // Rows of each head from halves to pairs.
            "permute" => {
                let heads: usize = number.parse().unwrap();
                let (head, width) = (shape[0] / heads, shape.get(1).copied().unwrap_or(1));
                let row = |r: usize| (r / head) * head + (r % head) / 2 + (r % 2) * head / 2;
                let rows = (0..shape[0]).flat_map(|r| values[row(r) * width..(row(r) + 1) * width].iter().copied());
                (shape.clone(), rows.collect())
            }
            // Columns of matrices one behind another, from one on, some apart; of a vector its elements.
            "columns" => {
                let (start, step) = number.split_once('/').unwrap();
                let (start, step): (usize, usize) = (start.parse().unwrap(), step.parse().unwrap());
                let cols = shape[shape.len() - 1] / step;
                if let [rows, all] = shape[..] {
                    let picked = (0..rows * cols).map(|i| values[i / cols * all + start + i % cols * step]);
                    return (vec![rows, cols], picked.collect());
                }
                let (experts, inner, all) = (shape[0], shape[1], shape[2]);
                let at = |i: usize| {
                    let (e, j, k) = (i / (cols * inner), i / inner % cols, i % inner);
                    values[(e * inner + k) * all + start + j * step]
                };
                (vec![experts, cols, inner], (0..experts * cols * inner).map(at).collect())
            }
            "stack" => {
                let all = of.iter().flat_map(|n| self.tensors[*n].1.iter().copied()).collect();
                ([&[of.len()], &shape[..]].concat(), all)
            }
            other => panic!("{other} is no way to convert"),
        }
    }

    /// The first step's likeliest tokens and the greedy ones.
    fn check(&self, path: &Path, device: DeviceChoice, axes: &str, tokens: usize) {
        let what =
            format!("{} {} {axes}", self.name, path.extension().map_or("folder".into(), |e| e.to_string_lossy()));
        let layout = Layout { mesh: mesh(axes).unwrap(), ..Layout::default() };
        let options = Options { device, context: Some(64), layout, precision: Precision::F32, ..Options::default() };
        let mut model = block_on(Generator::open(path, &options)).unwrap_or_else(|e| panic!("{what}: {e}"));
        let list = |key: &str| self.figures[key].as_array().unwrap().clone();
        let prompt = list("prompt").iter().map(|x| x.as_u64().unwrap() as u32).collect();
        let request = Request { prompt, sampling: Sampling::greedy(), max_tokens: Some(tokens), top: 12 };
        let (mut ids, mut top) = (vec![], HashMap::new());
        let mut on_token = |t: &warpweft::session::Token| {
            if ids.is_empty() {
                top = t.top.iter().map(|a| (a.id as u64, a.logprob as f64)).collect();
            }
            ids.push(t.id as u64);
            Ok(())
        };
        block_on(model.generate(&request, &AtomicBool::new(false), &mut on_token))
            .unwrap_or_else(|e| panic!("{what}: {e}"));
        self.judge(&what, &ids, &top);
    }

    /// The same of a batch, beside sequences that are no business of the figures'.
    fn check_batch(&self, path: &Path, device: DeviceChoice, tokens: usize) {
        let what = format!("{} in a batch", self.name);
        let options = Options { device, context: Some(64), precision: Precision::F32, ..Options::default() };
        let how = BatchOptions { sequences: 3, ..BatchOptions::default() };
        let opened = block_on(Batch::open(path, &options, &how, &mut |_| {}));
        if self.name.starts_with("deepseek") {
            let refused = opened.err().map(|e| e.to_string()).unwrap_or_default();
            assert!(refused.ends_with("a step takes one of its sequences only"), "{what}: {refused}");
            return;
        }
        let mut batch = opened.unwrap_or_else(|e| panic!("{what}: {e}"));
        let prompt: Vec<u32> =
            self.figures["prompt"].as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect();
        let backwards: Vec<u32> = prompt.iter().rev().copied().collect();
        let mut mine = 0;
        for (i, prompt) in [backwards[..1].to_vec(), prompt, backwards].into_iter().enumerate() {
            let request = Request { prompt, sampling: Sampling::greedy(), max_tokens: Some(tokens), top: 12 };
            let id = batch.add(batch.begin(&request).unwrap()).unwrap();
            mine = if i == 1 { id } else { mine };
        }
        let (mut ids, mut top) = (vec![], HashMap::new());
        while !batch.is_empty() {
            let made = block_on(batch.step(&AtomicBool::new(false))).unwrap_or_else(|e| panic!("{what}: {e}"));
            for t in made.into_iter().filter(|m| m.id == mine).filter_map(|m| m.token) {
                if ids.is_empty() {
                    top = t.top.iter().map(|a| (a.id as u64, a.logprob as f64)).collect();
                }
                ids.push(t.id as u64);
            }
        }
        assert!(!ids.is_empty(), "{what}: no token came");
        self.judge(&what, &ids, &top);
    }

    /// Holds the first token's likeliest ones, and the greedy ones, to the figures.
    fn judge(&self, what: &str, ids: &[u64], top: &HashMap<u64, f64>) {
        let list = |key: &str| self.figures[key].as_array().unwrap().clone();
        let least = top.values().fold(f64::INFINITY, |m: f64, x| m.min(*x));
        for pair in list("top") {
            let (id, want) = (pair[0].as_u64().unwrap(), pair[1].as_f64().unwrap());
            match top.get(&id) {
                Some(got) => assert!((got - want).abs() <= NEAR, "{what}: token {id} has {got}, right is {want}"),
                None => {
                    assert!(want < least + NEAR, "{what}: token {id} of {want} is not among the likeliest: {top:?}")
                }
            }
        }
        for (i, (got, want)) in ids.iter().zip(list("greedy")).enumerate() {
            if *got != want.as_u64().unwrap() {
                let margin = list("margins")[i].as_f64().unwrap();
                assert!(margin <= MARGIN, "{what}: token {i} is {got}, right is {want} with a margin of {margin}");
                break;
            }
        }
    }
}

/// Rows or columns of a matrix of blocks, in another order.
fn by_blocks(what: &str, number: &str, shape: &[usize], values: &[f32]) -> (Vec<usize>, Vec<f32>) {
    match what {
        // Some rows of each block, a matrix for each; turned, by columns.
        "heads" => {
            let n: Vec<&str> = number.split(' ').collect();
            let (size, (a, b)): (usize, _) = (n[0].parse().unwrap(), n[1].split_once("..").unwrap());
            let (a, b): (usize, usize) = (a.parse().unwrap(), b.parse().unwrap());
            let (heads, rows, cols) = (shape[0] / size, b - a, shape[1]);
            let at = |head: usize, row: usize, col: usize| values[(head * size + a + row) * cols + col];
            let all = heads * rows * cols;
            match n.len() {
                2 => (
                    vec![heads, rows, cols],
                    (0..all).map(|i| at(i / cols / rows, i / cols % rows, i % cols)).collect(),
                ),
                _ => (
                    vec![heads, cols, rows],
                    (0..all).map(|i| at(i / cols / rows, i % rows, i / rows % cols)).collect(),
                ),
            }
        }
        // Some rows of each block, one range behind another.
        "blocks" => {
            let (size, ranges) = number.split_once(' ').unwrap();
            let (size, cols): (usize, usize) = (size.parse().unwrap(), shape[1]);
            let mut out = vec![];
            for range in ranges.split(' ') {
                let (a, b) = range.split_once("..").unwrap();
                let (a, b): (usize, usize) = (a.parse().unwrap(), b.parse().unwrap());
                (0..shape[0] / size).for_each(|i| out.extend(&values[(i * size + a) * cols..(i * size + b) * cols]));
            }
            (vec![out.len() / cols, cols], out)
        }
        // Rows behind the first ones, or columns: of each key head the values behind each other, then by turns.
        _ => {
            let mut n: Vec<usize> = number.split(' ').map(|n| n.parse().unwrap()).collect();
            let start = if what == "tile" { n.remove(0) } else { 0 };
            let (heads, each, width) = (n[0], n[1], n[2]);
            let from = |i: usize| match i.checked_sub(start) {
                None => i,
                Some(i) => start + (i / width % heads * each + i / width / heads) * width + i % width,
            };
            let cols = if shape.len() > 1 { shape[1] } else { 1 };
            let at = |i: usize| match what {
                "tile" => from(i / cols) * cols + i % cols,
                _ => i / cols * cols + from(i % cols),
            };
            (shape.to_vec(), (0..values.len()).map(|i| values[at(i)]).collect())
        }
    }
}

/// A word a token, none of them a marker.
fn words(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("w{i}")).collect()
}

fn tokenizer(n: usize) -> Json {
    let vocab: serde_json::Map<_, _> = words(n).into_iter().enumerate().map(|(i, t)| (t, i.into())).collect();
    json!({
        "version": "1.0", "normalizer": null, "post_processor": null, "added_tokens": [],
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "decoder": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "model": { "type": "BPE", "vocab": vocab, "merges": [] },
    })
}

/// Runs a check on every case, or on those that WARPWEFT_FAMILY names; tells all that fail.
fn all(test: &str, check: impl Fn(&Case, &Path)) {
    let folder = std::env::temp_dir().join(format!("warpweft-families-{test}-{}", std::process::id()));
    let only = std::env::var("WARPWEFT_FAMILY").unwrap_or_default();
    let mut failed = vec![];
    for case in cases().iter().filter(|c| c.name.starts_with(&only)) {
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(case, &folder)));
        if let Err(e) = run {
            let text = e.downcast_ref::<String>().cloned().unwrap_or_default();
            failed.push(text);
        }
    }
    std::fs::remove_dir_all(&folder).ok();
    assert!(failed.is_empty(), "{} of the families fail:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn folders_are_right_on_the_cpu() {
    all("cpu", |case, at| case.check(&case.folder(at), DeviceChoice::Cpu, "", 8));
}

#[test]
fn batches_are_right_on_the_cpu() {
    all("batch", |case, at| case.check_batch(&case.folder(at), DeviceChoice::Cpu, 8));
}

#[test]
fn batches_are_right_on_the_device() {
    let Found::Device(gpu) = device(None) else { return };
    all("batch-device", |case, at| case.check_batch(&case.folder(at), DeviceChoice::Open(gpu.clone()), 3));
}

#[test]
fn gguf_files_are_right_on_the_cpu() {
    all("gguf", |case, at| {
        std::fs::create_dir_all(at).unwrap();
        if let Some(path) = case.gguf(at) {
            case.check(&path, DeviceChoice::Cpu, "", 8);
        }
    });
}

#[test]
fn meshes_are_right() {
    all("mesh", |case, at| {
        let folder = case.folder(at);
        case.check(&folder, DeviceChoice::Cpu, "tp=2", 3);
        case.check(&folder, DeviceChoice::Cpu, "pp=2", 3);
    });
}

#[test]
fn the_device_is_right() {
    let Found::Device(gpu) = device(None) else { return };
    all("device", |case, at| case.check(&case.folder(at), DeviceChoice::Open(gpu.clone()), "", 3));
}

/// Keys that change what is computed are refused by name where their family does not read them; others are told.
#[test]
fn what_nothing_reads_is_refused_or_told() {
    use warpweft::model::{Model, ModelSource};
    let folder = std::env::temp_dir().join(format!("warpweft-families-keys-{}", std::process::id()));
    let case = cases().into_iter().find(|c| c.name == "mistral").unwrap();
    let path = case.folder(&folder);
    let open = |key: &str, value: Json| {
        let mut config = case.figures["config"].clone();
        config[key] = value;
        std::fs::write(path.join("config.json"), config.to_string()).unwrap();
        Model::new(ModelSource::open(&path).unwrap())
    };
    let refused = [
        ("clip_qkv", json!(8.0)),
        ("attn_logit_softcapping", json!(30.0)),
        ("num_local_experts", json!(4)),
        ("attention_multiplier", json!(0.5)),
        ("quantization_config", json!({ "bits": 4 })),
        ("hidden_act", json!(3)),
        ("hidden_act", json!("mish")),
        ("rope_parameters", json!({ "rope_type": "unheard", "rope_theta": 1e4 })),
        ("rope_parameters", json!({ "rope_type": "linear", "factor": 2.0, "rope_theta": 1e4, "odd": 3 })),
        ("num_hidden_layers", json!(1u64 << 31)),
    ];
    for (key, value) in refused {
        let e = open(key, value.clone()).err().unwrap_or_else(|| panic!("{key} = {value} went through")).to_string();
        let named = ["activation", "rope scaling", "layers"].iter().any(|w| e.contains(w)) || e.contains(key);
        assert!(named && !e.contains('\n'), "{key} = {value}: {e}");
    }
    for (key, value) in [("clip_qkv", json!(null)), ("num_local_experts", json!(0)), ("hidden_act", json!("swish"))] {
        assert!(open(key, value).unwrap().notes().is_empty(), "{key} says nothing");
    }
    let notes = open("a_new_key", json!("x")).unwrap().notes().to_vec();
    assert!(notes.len() == 1 && notes[0].contains("a_new_key"), "{notes:?}");
    std::fs::remove_dir_all(&folder).ok();
}

/// Real weights in mixed formats, where someone has fetched them: their licence is their own.
#[test]
fn gemma3_270m_is_right() {
    let path = common::cache().join("gemma-3-270m-q4_k_m.gguf");
    if !path.is_file() {
        return common::skip("WARPWEFT_REQUIRE_GEMMA", "gemma-3-270m-q4_k_m.gguf is not in the cache");
    }
    let figures: Json = serde_json::from_str(include_str!("figures/gemma3_270m.json")).unwrap();
    let options =
        Options { device: DeviceChoice::Cpu, context: Some(64), precision: Precision::F32, ..Options::default() };
    let mut model = block_on(Generator::open(&path, &options)).unwrap();
    for case in figures["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let list = |key: &str| case[key].as_array().unwrap().clone();
        let prompt: Vec<u32> = list("prompt_ids").iter().map(|x| x.as_u64().unwrap() as u32).collect();
        let request = Request { prompt, sampling: Sampling::greedy(), max_tokens: Some(8), top: 10 };
        let (mut ids, mut top) = (vec![], HashMap::new());
        let mut on_token = |t: &warpweft::session::Token| {
            if ids.is_empty() {
                top = t.top.iter().map(|a| (a.id as u64, a.logprob as f64)).collect();
            }
            ids.push(t.id as u64);
            Ok(())
        };
        block_on(model.generate(&request, &AtomicBool::new(false), &mut on_token)).unwrap();
        for pair in list("top") {
            let (id, want) = (pair[0].as_u64().unwrap(), pair[1].as_f64().unwrap());
            if let Some(got) = top.get(&id) {
                assert!((got - want).abs() < 2e-2, "{name}: token {id} has {got}, right is {want}");
            }
        }
        for (i, (got, want)) in ids.iter().zip(list("greedy")).enumerate() {
            if *got != want.as_u64().unwrap() {
                let margin = list("margins")[i].as_f64().unwrap();
                assert!(margin <= MARGIN, "{name}: token {i} is {got}, right is {want} with a margin of {margin}");
                break;
            }
        }
    }
}

//! Every family of encoders, with what sentence-transformers puts behind it, against figures of transformers and torch
//! (tests/figures/encoders, with the script that made them): on the CPU, on the device, and over tensor ranks and stages.

mod common;

use common::gguf::{GgufFile, Meta, RawTensor};
use common::{Folder, Found, device, tiny};
use pollster::block_on;
use serde_json::{Value as Json, json};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use warpweft::base::{Array, Bindings, DType, MeshAxis, Var};
use warpweft::graph::Graph;
use warpweft::model::{Model, ModelSource};
use warpweft::plan::shard::shard;
use warpweft::reference::{Interpreter, Ranks};
use warpweft::session::{DeviceChoice, Embedder, Options, Precision};

/// How far an element of a vector of length one may be off.
const NEAR: f64 = 2e-4;

struct Case {
    name: String,
    figures: Json,
    tokenizer: Vec<u8>,
}

fn cases() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/figures/encoders");
    let files = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path());
    let of_case =
        |p: &PathBuf| p.extension().is_some_and(|e| e == "json") && !p.to_string_lossy().contains(".tokenizer.");
    let mut files: Vec<PathBuf> = files.filter(of_case).collect();
    files.sort();
    assert!(files.len() >= 10, "figures are missing");
    let only = std::env::var("WARPWEFT_FAMILY").unwrap_or_default();
    let case = |path: PathBuf| {
        let figures: Json = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let tokenizer = folder.join(format!("{}.tokenizer.json", figures["tokenizer"].as_str().unwrap()));
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        Case { name, figures, tokenizer: std::fs::read(tokenizer).unwrap() }
    };
    files.into_iter().map(case).filter(|c| c.name.starts_with(&only)).collect()
}

impl Case {
    /// The checkpoint as it is published. Dense layers have files of their own.
    fn write(&self, at: &Folder) -> PathBuf {
        at.file("config.json", self.figures["config"].to_string());
        at.file("tokenizer.json", &self.tokenizer);
        for (name, content) in self.figures["files"].as_object().unwrap() {
            std::fs::create_dir_all(at.path().join(name).parent().unwrap()).unwrap();
            at.file(name, content.to_string());
        }
        let mut files: HashMap<String, Vec<(String, &str, Vec<usize>, Vec<u8>)>> = HashMap::new();
        for t in self.figures["tensors"].as_array().unwrap() {
            let name = t[0].as_str().unwrap();
            let shape: Vec<usize> = t[1].as_array().unwrap().iter().map(|d| d.as_u64().unwrap() as usize).collect();
            let values = tiny::fill(name, shape.iter().product(), t[2].as_f64().unwrap(), t[3].as_f64().unwrap());
            let (folder, own) = name.split_once('/').unwrap_or(("", name));
            let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            files.entry(folder.into()).or_default().push((own.into(), "F32", shape, bytes));
        }
        for (folder, tensors) in files {
            let name = Path::new(&folder).join("model.safetensors");
            at.file(&name.to_string_lossy(), tiny::safetensors(&tensors));
        }
        at.path().into()
    }

    fn texts(&self) -> Vec<&str> {
        self.figures["texts"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect()
    }

    /// BERT as a converter writes it: words begin with a mark, and what goes on has none.
    fn gguf(&self, at: &Folder) -> PathBuf {
        let (mut file, config) = (GgufFile::default(), &self.figures["config"]);
        file.set("general.architecture", Meta::Text("bert".into()));
        let number = |key: &str| Meta::U32(config[key].as_u64().unwrap() as u32);
        for (gguf, key) in [
            ("block_count", "num_hidden_layers"),
            ("embedding_length", "hidden_size"),
            ("feed_forward_length", "intermediate_size"),
            ("attention.head_count", "num_attention_heads"),
            ("context_length", "max_position_embeddings"),
        ] {
            file.set(&format!("bert.{gguf}"), number(key));
        }
        file.set("bert.attention.layer_norm_epsilon", Meta::F32(config["layer_norm_eps"].as_f64().unwrap() as f32));
        file.set("bert.attention.causal", Meta::Bool(0));
        file.set("bert.pooling_type", Meta::U32(1));
        let tokenizer: Json = serde_json::from_slice(&self.tokenizer).unwrap();
        let vocab = tokenizer["model"]["vocab"].as_object().unwrap();
        let mut tokens = vec![String::new(); vocab.len()];
        let special = |t: &str| t.starts_with('<') && t.ends_with('>');
        for (token, id) in vocab {
            let stored = match token.strip_prefix("##") {
                Some(rest) => rest.into(),
                None if special(token) => token.clone(),
                None => format!("▁{token}"),
            };
            tokens[id.as_u64().unwrap() as usize] = stored;
        }
        let kinds = tokens.iter().map(|t| if special(t) { 3 } else { 1 }).collect();
        file.set("tokenizer.ggml.model", Meta::Text("bert".into()));
        file.set("tokenizer.ggml.tokens", Meta::Texts(tokens));
        file.set("tokenizer.ggml.token_type", Meta::Ints(kinds));
        for (key, id) in [("bos", 1), ("cls", 1), ("eos", 2), ("seperator", 2), ("unknown", 3)] {
            file.set(&format!("tokenizer.ggml.{key}_token_id"), Meta::U32(id));
        }
        for t in self.figures["tensors"].as_array().unwrap() {
            let name = t[0].as_str().unwrap();
            let mut dims: Vec<u64> = t[1].as_array().unwrap().iter().map(|d| d.as_u64().unwrap()).collect();
            let count = dims.iter().product::<u64>() as usize;
            let values = tiny::fill(name, count, t[2].as_f64().unwrap(), t[3].as_f64().unwrap());
            dims.reverse();
            let Some(name) = in_gguf(name) else { continue };
            let data = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            file.tensors.push(RawTensor { name, dims, ty: 0, data, offset: None });
        }
        at.file("bert.gguf", file.bytes())
    }

    /// The vectors of all texts in one batch, in which each but the longest is padded.
    fn check(&self, device: DeviceChoice) {
        let folder = Folder::new("encoders");
        self.check_file(self.write(&folder), device);
    }

    fn check_file(&self, path: PathBuf, device: DeviceChoice) {
        let options = Options { device, precision: Precision::F32, ..Options::default() };
        let mut model = block_on(Embedder::open(path, &options)).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        let got = block_on(model.embed(&self.texts())).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        let want = self.figures["vectors"].as_array().unwrap();
        assert_eq!(got.len(), want.len());
        for (i, (got, want)) in got.iter().zip(want).enumerate() {
            let want: Vec<f64> = want.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
            assert_eq!(got.len(), want.len(), "{}: elements of text {i}", self.name);
            for (j, (g, w)) in got.iter().zip(&want).enumerate() {
                assert!((*g as f64 - w).abs() < NEAR, "{}: text {i}, element {j} is {g}, right is {w}", self.name);
            }
        }
    }
}

/// What llama.cpp's converter calls a tensor of BERT; the pooler it leaves out.
fn in_gguf(name: &str) -> Option<String> {
    let (path, kind) = name.rsplit_once('.').unwrap();
    let pairs = [
        ("embeddings.word_embeddings", "token_embd"),
        ("embeddings.position_embeddings", "position_embd"),
        ("embeddings.token_type_embeddings", "token_types"),
        ("embeddings.LayerNorm", "token_embd_norm"),
        ("attention.self.query", "attn_q"),
        ("attention.self.key", "attn_k"),
        ("attention.self.value", "attn_v"),
        ("attention.output.dense", "attn_output"),
        ("attention.output.LayerNorm", "attn_output_norm"),
        ("intermediate.dense", "ffn_up"),
        ("output.dense", "ffn_down"),
        ("output.LayerNorm", "layer_output_norm"),
    ];
    let layer = path.strip_prefix("encoder.layer.").and_then(|p| p.split_once('.'));
    let part = layer.map_or(path, |l| l.1);
    let own = pairs.iter().find(|p| p.0 == part)?.1;
    Some(layer.map_or(format!("{own}.{kind}"), |(n, _)| format!("blk.{n}.{own}.{kind}")))
}

/// Runs a check on every case; tells all that fail.
fn all(check: impl Fn(&Case)) {
    let mut failed = vec![];
    for case in &cases() {
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(case)));
        if let Err(e) = run {
            failed.push(e.downcast_ref::<String>().cloned().unwrap_or_default());
        }
    }
    assert!(failed.is_empty(), "{} of the encoders fail:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn encoders_are_right_on_the_cpu() {
    all(|case| case.check(DeviceChoice::Cpu));
}

#[test]
fn a_gguf_file_of_an_encoder_is_right() {
    let cases = cases();
    let Some(case) = cases.iter().find(|c| c.name == "bert") else { return };
    let folder = Folder::new("encoders");
    case.check_file(case.gguf(&folder), DeviceChoice::Cpu);
}

#[test]
fn encoders_are_right_on_the_device() {
    let Found::Device(gpu) = device(None) else { return };
    all(|case| case.check(DeviceChoice::Open(gpu.clone())));
}

/// In f64 pieces give what the whole gives.
#[test]
fn encoders_answer_alike_under_every_mesh() {
    use MeshAxis::{Data, Pipeline, Tensor};
    all(|case| {
        let folder = Folder::new("encoders");
        let model = Model::new(ModelSource::open(case.write(&folder)).unwrap()).unwrap_or_else(|e| panic!("{e}"));
        let graph = model.embed_graph(Var::new("batch", 2), Var::new("seq", 24)).unwrap();
        // A decoder takes one text at a time.
        let (batch, seq) = (if model.decoder().is_some() { 1usize } else { 2 }, 21usize);
        let ids: Vec<u32> = (0..batch * seq).map(|i| (i * 37 + 5) as u32 % model.info().vocab as u32).collect();
        let mask: Vec<u32> = (0..batch * seq).map(|i| u32::from(i < 30)).collect();
        let mask = Array { dtype: DType::Bool, ..Array::u32(&[batch, seq], &mask) };
        let inputs = [("tokens", Array::u32(&[batch, seq], &ids)), ("mask", mask)];
        let bindings = Bindings::new().with("batch", batch as u64).with("seq", seq as u64);
        let mut whole = Interpreter::<f64>::new(&graph, &model.source).unwrap();
        let want = whole.step_values(&bindings, &inputs).unwrap().remove(0).1;
        let mut meshes = vec![vec![(Tensor, 2)], vec![(Tensor, 3)], vec![(Pipeline, 2)]];
        meshes.extend((batch > 1).then(|| vec![(Data, 2), (Tensor, 2)]));
        for mesh in meshes {
            let what = format!("{} {mesh:?}", case.name);
            let sharded = shard(&graph, &mesh).unwrap_or_else(|e| panic!("{what}: {e}"));
            let graphs: Vec<&Graph> = (0..sharded.ranks()).map(|r| &sharded.class(r).graph).collect();
            let mut ranks =
                Ranks::<f64>::new(&graphs, &sharded.seats, &model.source).unwrap_or_else(|e| panic!("{what}: {e}"));
            let part = |r: usize| {
                Some((sharded.bindings(r, &bindings).unwrap(), sharded.inputs(r, &bindings, &inputs).unwrap()))
            };
            let parts: Vec<_> = (0..sharded.ranks()).map(part).collect();
            let got = ranks.step_values(&parts).unwrap_or_else(|e| panic!("{what}: {e}"));
            for (rank, outputs) in got.iter().enumerate() {
                assert_eq!(outputs[0].1.len(), want.len(), "{what}");
                for (g, w) in outputs[0].1.iter().zip(&want) {
                    assert!((g - w).abs() < 1e-9, "{what} rank {rank}: {g} for {w}");
                }
            }
        }
    });
}

/// What modules.json and its folders say is obeyed, or refused by name.
#[test]
fn modules_that_cannot_be_run_are_refused_by_name() {
    let cases = cases();
    let Some(case) = cases.iter().find(|c| c.name == "bert_dense") else { return };
    let open = |change: &dyn Fn(&Path)| {
        let folder = Folder::new("encoders");
        let path = case.write(&folder);
        change(&path);
        ModelSource::open(&path).and_then(Model::new).map(|_| ()).map_err(|e| e.to_string())
    };
    let files = &case.figures["files"];
    let edit = |file: &'static str, key: &'static str, value: Json| {
        let mut content = files[file].clone();
        content[key] = value;
        move |at: &Path| std::fs::write(at.join(file), content.to_string()).unwrap()
    };
    let module = |i: usize, key: &'static str, value: &str| {
        let mut content = files["modules.json"].clone();
        content[i][key] = value.into();
        move |at: &Path| std::fs::write(at.join("modules.json"), content.to_string()).unwrap()
    };
    open(&|_| {}).unwrap();
    let dense = "2_Dense/config.json";
    let pooling = "1_Pooling/config.json";
    let refused: [(&str, Box<dyn Fn(&Path)>); 12] = [
        ("WordWeights", Box::new(module(2, "type", "sentence_transformers.models.WordWeights"))),
        ("0_Transformer", Box::new(module(0, "path", "0_Transformer"))),
        ("../x", Box::new(module(2, "path", "../x"))),
        ("9_Dense", Box::new(module(2, "path", "9_Dense"))),
        ("activation_function", Box::new(edit(dense, "activation_function", json!("torch.nn.Mish")))),
        ("in_features", Box::new(edit(dense, "in_features", json!(null)))),
        ("63", Box::new(edit(dense, "in_features", json!(63)))),
        ("gate", Box::new(edit(dense, "gate", json!(true)))),
        ("pooling_mode_odd", Box::new(edit(pooling, "pooling_mode_odd", json!(true)))),
        ("32", Box::new(edit(pooling, "word_embedding_dimension", json!(32)))),
        ("switches", Box::new(edit(pooling, "pooling_mode_cls_token", json!(false)))),
        ("linear.bias", Box::new(edit(dense, "bias", json!(false)))),
    ];
    for (word, change) in refused {
        let e = open(&*change).err().unwrap_or_else(|| panic!("{word} went through"));
        let word = word.trim_start_matches("pooling_mode_");
        assert!(e.contains(word) && !e.contains('\n'), "{word}: {e}");
    }
}

//! Model folders broken in one place each: safetensors and config.json.

use super::{bytes_at, message, within};
use crate::common::Folder;
use crate::common::tiny::{Tiny, safetensors, with_header};
use proptest::prelude::*;
use serde_json::{Value as Json, json};
use std::path::Path;
use warpweft::base::{Result, Var};
use warpweft::model::{Model, ModelSource, StepShape};

fn open(path: &Path) -> Result<Model> {
    let model = Model::new(ModelSource::open(path)?)?;
    let context = model.info().context.min(64);
    let total = Var::new("total", context as u32);
    model.step_graph(&StepShape { seq: 1.into(), total, context, last_only: true, sequence_parallel: false })?;
    Ok(model)
}

fn refused(folder: &Folder, what: &str) -> String {
    let at = folder.path();
    within(what, bytes_at(at), || message(folder, open(at)))
}

fn tiny(name: &str) -> Folder {
    let folder = Folder::new(name);
    Tiny { layers: 1, ..Tiny::default() }.folder(folder.path(), false);
    folder
}

/// A file made from the header's text and the data of a whole one.
type Remake<'a> = &'a dyn Fn(&str, &[u8]) -> Vec<u8>;
/// What is broken in a JSON file, and how.
type Case = (&'static str, Box<dyn Fn(&mut Json)>);

/// What is said of each file that is made in place of the tiny model's.
fn weights(cases: &[(&str, Remake)]) -> String {
    let folder = tiny("weights");
    let whole = std::fs::read(folder.path().join("model.safetensors")).unwrap();
    let header = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let (text, data) = (std::str::from_utf8(&whole[8..8 + header]).unwrap(), &whole[8 + header..]);
    let mut out = String::new();
    for (what, change) in cases {
        folder.file("model.safetensors", change(text, data));
        out += &format!("{what}\n    {}\n", refused(&folder, what));
    }
    out
}

/// The header with one tensor's entry changed.
fn entry(header: &str, name: &str, change: impl Fn(&mut Json)) -> String {
    let mut json: Json = serde_json::from_str(header).unwrap();
    change(&mut json[name]);
    json.to_string()
}

const NORM: &str = "model.norm.weight";

#[test]
fn lying_safetensors() {
    let norm = |change: fn(&mut Json)| move |h: &str, d: &[u8]| with_header(&entry(h, NORM, change), d);
    let said = weights(&[
        ("nothing", &|_, _| vec![]),
        ("7 bytes", &|_, _| vec![0; 7]),
        ("a header of 2^64 - 1 bytes", &|_, d| [&u64::MAX.to_le_bytes(), d].concat()),
        ("a header longer than the file", &|h, d| {
            [&((h.len() + d.len() + 1) as u64).to_le_bytes(), h.as_bytes(), d].concat()
        }),
        ("a header one byte short", &|h, d| [&(h.len() as u64 - 1).to_le_bytes(), h.as_bytes(), d].concat()),
        ("a header of no bytes", &|_, d| with_header("", d)),
        ("a header that is a list", &|_, d| with_header("[]", d)),
        ("a header that is no UTF-8", &|_, d| [&2u64.to_le_bytes()[..], &[0xff, 0xfe], d].concat()),
        ("NaN in the header", &|h, d| with_header(&h.replacen("\"shape\":[64]", "\"shape\":[NaN]", 1), d)),
        ("lists 100,000 deep", &|_, d| {
            with_header(&format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000)), d)
        }),
        ("the data cut by a byte", &|h, d| with_header(h, &d[..d.len() - 1])),
        ("the data cut to nothing", &|h, _| with_header(h, &[])),
        ("a byte more than is named", &|h, d| with_header(h, &[d, &[0]].concat())),
        ("a name twice", &|h, d| {
            with_header(
                &h.replacen("{", "{\"model.norm.weight\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]},", 1),
                d,
            )
        }),
        ("an unknown type", &norm(|t| t["dtype"] = json!("F31"))),
        ("a type of another size", &norm(|t| t["dtype"] = json!("F16"))),
        ("8-bit floats", &norm(|t| (t["dtype"], t["shape"]) = (json!("F8_E4M3"), json!([256])))),
        ("a shape that is larger than its bytes", &norm(|t| t["shape"] = json!([65]))),
        ("a shape that wraps to its bytes", &norm(|t| t["shape"] = json!([64, 1u64 << 32, 1u64 << 32]))),
        ("a shape of no dimensions", &norm(|t| t["shape"] = json!([]))),
        ("a negative shape", &norm(|t| t["shape"] = json!([-64]))),
        ("a shape of fractions", &norm(|t| t["shape"] = json!([64.5]))),
        (
            "offsets the wrong way round",
            &norm(|t| t["data_offsets"] = json!([t["data_offsets"][1], t["data_offsets"][0]])),
        ),
        ("offsets behind the file", &norm(|t| t["data_offsets"] = json!([1u64 << 40, (1u64 << 40) + 256]))),
        ("an offset of 2^64 - 1", &norm(|t| t["data_offsets"] = json!([u64::MAX - 256, u64::MAX]))),
        ("offsets that overlap", &norm(|t| t["data_offsets"] = json!([0, 256]))),
        ("offsets missing", &norm(|t| *t = json!({ "dtype": "F32", "shape": [64] }))),
        ("a gap", &|_, _| {
            let head = json!({ "a": { "dtype": "F32", "shape": [1], "data_offsets": [0, 4] }, "b": { "dtype": "F32", "shape": [1], "data_offsets": [8, 12] } });
            with_header(&head.to_string(), &[0; 12])
        }),
        ("a tensor that is missing", &|_, _| safetensors(&[("a".into(), "F32", vec![1], vec![0; 4])])),
        ("a tensor of integers", &|h, d| {
            with_header(&entry(h, "model.layers.0.mlp.up_proj.weight", |t| t["dtype"] = json!("I32")), d)
        }),
    ]);
    insta::assert_snapshot!(said);
}

#[test]
fn lying_configs() {
    let set = |key: &'static str, value: Json| move |c: &mut Json| c[key] = value.clone();
    let cases: Vec<Case> = vec![
        ("a list", Box::new(|c| *c = json!([]))),
        ("null", Box::new(|c| *c = Json::Null)),
        ("no type", Box::new(set("model_type", Json::Null))),
        ("a type that is a number", Box::new(set("model_type", json!(3)))),
        ("another type", Box::new(set("model_type", json!("gpt_neox")))),
        ("-1 layers", Box::new(set("num_hidden_layers", json!(-1)))),
        ("layers as text", Box::new(set("num_hidden_layers", json!("1")))),
        ("1e300 layers", Box::new(set("num_hidden_layers", json!(1e300)))),
        ("2^31 layers", Box::new(set("num_hidden_layers", json!(1u64 << 31)))),
        ("a million layers", Box::new(set("num_hidden_layers", json!(1_000_000)))),
        ("no width", Box::new(set("hidden_size", Json::Null))),
        ("a width of 64.5", Box::new(set("hidden_size", json!(64.5)))),
        ("0 heads", Box::new(set("num_attention_heads", json!(0)))),
        ("heads a list", Box::new(set("num_attention_heads", json!([4])))),
        ("-2 key heads", Box::new(set("num_key_value_heads", json!(-2)))),
        ("heads of width 17", Box::new(set("head_dim", json!(17)))),
        ("a vocabulary of 2^31", Box::new(set("vocab_size", json!(1u64 << 31)))),
        ("a vocabulary of -1", Box::new(set("vocab_size", json!(-1)))),
        ("a context of 2^40", Box::new(set("max_position_embeddings", json!(1u64 << 40)))),
        ("epsilon as text", Box::new(set("rms_norm_eps", json!("1e-5")))),
        ("epsilon beyond f32", Box::new(set("rms_norm_eps", json!(1e300)))),
        ("rope base -1", Box::new(set("rope_theta", json!(-1)))),
        ("llama 3's scaling", Box::new(set("rope_scaling", json!({ "rope_type": "llama3", "factor": 8 })))),
        ("scaling by text", Box::new(set("rope_scaling", json!("linear")))),
        ("scaling without a type", Box::new(set("rope_scaling", json!({ "factor": 2 })))),
        ("linear scaling without a factor", Box::new(set("rope_scaling", json!({ "type": "linear" })))),
        ("a window of true", Box::new(set("sliding_window", json!(true)))),
        ("another activation", Box::new(set("hidden_act", json!("gelu")))),
        ("a head of its own that is missing", Box::new(set("tie_word_embeddings", json!(false)))),
    ];
    let folder = tiny("configs");
    let whole: Json = serde_json::from_slice(&std::fs::read(folder.path().join("config.json")).unwrap()).unwrap();
    let mut out = String::new();
    for (what, change) in cases {
        let mut config = whole.clone();
        change(&mut config);
        folder.file("config.json", config.to_string());
        out += &format!("{what}\n    {}\n", refused(&folder, what));
    }
    let deep = format!("{}{}", "{\"a\":".repeat(100_000), "}".repeat(100_000));
    for (what, text) in
        [("no JSON", "{"), ("nothing", ""), ("objects 100,000 deep", &deep), ("NaN", "{\"rms_norm_eps\":NaN}")]
    {
        folder.file("config.json", text);
        out += &format!("{what}\n    {}\n", refused(&folder, what));
    }
    insta::assert_snapshot!(out);
}

#[test]
fn lying_berts() {
    let config = json!({
        "model_type": "bert", "num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64,
        "vocab_size": 128, "max_position_embeddings": 16, "layer_norm_eps": 1e-12,
    });
    let set = |key: &'static str, value: Json| move |c: &mut Json| c[key] = value.clone();
    let cases: Vec<Case> = vec![
        ("no tensors of it", Box::new(|_| ())),
        ("0 heads", Box::new(set("num_attention_heads", json!(0)))),
        ("3 heads", Box::new(set("num_attention_heads", json!(3)))),
        ("relative positions", Box::new(set("position_embedding_type", json!("relative_key")))),
        ("relu", Box::new(set("hidden_act", json!("relu")))),
        ("2^31 layers", Box::new(set("num_hidden_layers", json!(1u64 << 31)))),
        ("epsilon NaN", Box::new(set("layer_norm_eps", json!("NaN")))),
    ];
    let folder = tiny("berts");
    let mut out = String::new();
    for (what, change) in cases {
        let mut config = config.clone();
        change(&mut config);
        folder.file("config.json", config.to_string());
        let said = within(what, bytes_at(folder.path()), || {
            let model = ModelSource::open(folder.path()).and_then(Model::new);
            message(&folder, model.and_then(|m| m.embed_graph(Var::new("batch", 2), Var::new("seq", 8))))
        });
        out += &format!("{what}\n    {said}\n");
    }
    insta::assert_snapshot!(out);
}

#[test]
fn folders_that_lack_or_misname_files() {
    let mut out = String::new();
    for missing in ["config.json", "tokenizer.json", "model.safetensors"] {
        let folder = tiny("lacks");
        std::fs::remove_file(folder.path().join(missing)).unwrap();
        out += &format!("without {missing}\n    {}\n", refused(&folder, missing));
    }
    let indexes = [
        ("an index that is no JSON", "{"),
        ("an index without a map", "{}"),
        ("an index of a file that is missing", r#"{"weight_map":{"a":"model-1.safetensors"}}"#),
        ("an index that leads outside", r#"{"weight_map":{"a":"../../etc/passwd"}}"#),
        ("an index of nothing", r#"{"weight_map":{}}"#),
    ];
    for (what, text) in indexes {
        let folder = tiny("index");
        std::fs::rename(folder.path().join("model.safetensors"), folder.path().join("kept")).unwrap();
        folder.file("model.safetensors.index.json", text);
        out += &format!("{what}\n    {}\n", refused(&folder, what));
    }
    let folder = tiny("twice");
    std::fs::rename(folder.path().join("model.safetensors"), folder.path().join("a.safetensors")).unwrap();
    std::fs::copy(folder.path().join("a.safetensors"), folder.path().join("b.safetensors")).unwrap();
    folder.file("model.safetensors.index.json", r#"{"weight_map":{"x":"a.safetensors","y":"b.safetensors"}}"#);
    out += &format!("a tensor in two files\n    {}\n", refused(&folder, "twice"));
    let folder = tiny("directory");
    std::fs::remove_file(folder.path().join("config.json")).unwrap();
    std::fs::create_dir(folder.path().join("config.json")).unwrap();
    out += &format!("config.json a folder\n    {}\n", refused(&folder, "directory"));
    insta::assert_snapshot!(out);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn flipped_bytes_never_panic(flips in prop::collection::vec((0usize..1400, any::<u8>()), 1..4), config in any::<bool>()) {
        let folder = tiny("flips");
        let name = if config { "config.json" } else { "model.safetensors" };
        let mut bytes = std::fs::read(folder.path().join(name)).unwrap();
        for (at, to) in flips {
            let at = at % bytes.len();
            bytes[at] = to;
        }
        folder.file(name, bytes);
        refused(&folder, "flips");
    }
}

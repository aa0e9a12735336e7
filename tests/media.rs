//! Images and texts in one space: CLIP and SigLIP against figures of transformers (tests/figures/media, with the script that
//! made them), on the CPU, on the device and over meshes; what is done to pictures; files that are damaged. Speech is beside it.

mod common;
#[path = "media/speech.rs"]
mod speech;

use common::{Folder, Found, device, tiny};
use pollster::block_on;
use serde_json::{Value as Json, json};
use std::path::{Path, PathBuf};
use warpweft::base::{Array, Bindings, DType, MeshAxis, Result, Var};
use warpweft::graph::Graph;
use warpweft::media::{self, Family, Picture, Preprocess};
use warpweft::model::{Model, ModelSource};
use warpweft::plan::shard::shard;
use warpweft::reference::{Interpreter, Ranks};
use warpweft::session::{Cancel, DeviceChoice, Embedder, ImageEmbedder, Options, Precision};

/// How far an element of a vector of length one may be off.
const NEAR: f64 = 2e-4;
/// The same of a picture that was compressed: decoders of JPEG round in ways of their own.
const DECODED: f64 = 4e-3;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/figures/media")
}

fn figures(name: &str) -> Json {
    let path = folder().join(format!("{name}.json"));
    serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap()
}

fn floats(v: &Json) -> Vec<f64> {
    v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

const CASES: [&str; 4] = ["clip", "clip_first", "siglip", "siglip2"];

/// The checkpoint as it is published, its matrices as f32 or bf16.
fn write(figures: &Json, at: &Folder, narrow: bool) -> PathBuf {
    at.file("config.json", figures["config"].to_string());
    let tokenizer = format!("../encoders/{}.tokenizer.json", figures["tokenizer"].as_str().unwrap());
    at.file("tokenizer.json", std::fs::read(folder().join(tokenizer)).unwrap());
    for (name, content) in figures["files"].as_object().unwrap() {
        at.file(name, content.to_string());
    }
    let mut tensors = vec![];
    for t in figures["tensors"].as_array().unwrap() {
        let name = t[0].as_str().unwrap();
        let shape: Vec<usize> = t[1].as_array().unwrap().iter().map(|d| d.as_u64().unwrap() as usize).collect();
        let values = tiny::fill(name, shape.iter().product(), t[2].as_f64().unwrap(), t[3].as_f64().unwrap());
        let wide = |x: &f32| x.to_le_bytes().to_vec();
        let short = |x: &f32| x.to_le_bytes()[2..].to_vec();
        let (kind, bytes) = match narrow && shape.len() > 1 {
            true => ("BF16", values.iter().flat_map(short).collect()),
            false => ("F32", values.iter().flat_map(wide).collect()),
        };
        tensors.push((name.to_string(), kind, shape, bytes));
    }
    at.file("model.safetensors", tiny::safetensors(&tensors));
    at.path().into()
}

fn options(device: &DeviceChoice) -> Options {
    Options { device: device.clone(), precision: Precision::F32, ..Options::default() }
}

fn images(path: &Path, device: &DeviceChoice, files: &[PathBuf]) -> Result<Vec<Vec<f32>>> {
    block_on(async {
        let mut model = ImageEmbedder::open(path, &options(device)).await?;
        model.embed_files(files, &Cancel::new()).await
    })
}

fn texts(path: &Path, device: &DeviceChoice, texts: &[&str]) -> Result<Vec<Vec<f32>>> {
    block_on(async { Embedder::open(path, &options(device)).await?.embed(texts).await })
}

fn hold(what: &str, got: &[f32], want: &[f64], near: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((f64::from(*g) - w).abs() < near, "{what}: element {i} is {g}, right is {w}");
    }
}

fn pictures(figures: &Json) -> Vec<PathBuf> {
    figures["pictures"].as_array().unwrap().iter().map(|p| folder().join(p.as_str().unwrap())).collect()
}

fn check(device: &DeviceChoice) {
    for name in CASES {
        let (figures, at) = (figures(name), Folder::new("media"));
        let path = write(&figures, &at, false);
        let asked: Vec<&str> = figures["texts"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
        let got = texts(&path, device, &asked).unwrap_or_else(|e| panic!("{name}: {e}"));
        for (i, got) in got.iter().enumerate() {
            hold(&format!("{name}: text {i}"), got, &floats(&figures["text_vectors"][i]), NEAR);
        }
        let files = pictures(&figures);
        let got = images(&path, device, &files).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(got.len(), files.len());
        for (i, got) in got.iter().enumerate() {
            let near = if files[i].extension().is_some_and(|e| e == "jpg") { DECODED } else { NEAR };
            hold(&format!("{name}: {}", files[i].display()), got, &floats(&figures["image_vectors"][i]), near);
        }
    }
}

#[test]
fn images_and_texts_are_right_on_the_cpu() {
    check(&DeviceChoice::Cpu);
}

#[test]
fn images_and_texts_are_right_on_the_device() {
    let Found::Device(gpu) = device(None) else { return };
    check(&DeviceChoice::Open(gpu));
}

/// Matrices of 16 bits stay so: the CPU and the device agree on them, and with the values that were cut.
#[test]
fn matrices_of_16_bits_are_read_as_they_are() {
    let (figures, at) = (figures("siglip"), Folder::new("media"));
    let path = write(&figures, &at, true);
    let files = pictures(&figures);
    let cpu = images(&path, &DeviceChoice::Cpu, &files[..2]).unwrap();
    hold("bf16", &cpu[0], &floats(&figures["image_vectors"][0]), 3e-2);
    let Found::Device(gpu) = device(None) else { return };
    let there = images(&path, &DeviceChoice::Open(gpu), &files[..2]).unwrap();
    for (a, b) in cpu.iter().zip(&there) {
        hold("bf16 on the device", a, &b.iter().map(|x| f64::from(*x)).collect::<Vec<_>>(), NEAR);
    }
}

/// In f64 pieces give what the whole gives.
#[test]
fn both_towers_answer_alike_under_every_mesh() {
    use MeshAxis::{Data, Pipeline, Tensor};
    for name in CASES {
        let (figures, at) = (figures(name), Folder::new("media"));
        let model = Model::new(ModelSource::open(write(&figures, &at, false)).unwrap()).unwrap();
        let tower = model.vision().unwrap();
        let (batch, seq) = (2usize, 11usize);
        let ids: Vec<u32> = (0..batch * seq).map(|i| (i * 37 + 5) as u32 % 60).collect();
        let mask = Array { dtype: DType::Bool, ..Array::u32(&[batch, seq], &vec![1; batch * seq]) };
        let shape = [batch, tower.side() * tower.side(), tower.patch_elements()];
        let pixels = tiny::fill("pixels", shape.iter().product(), 1.0, 0.0);
        let steps = [
            (
                model.embed_graph(Var::new("batch", 2), Var::new("seq", 12)).unwrap(),
                Bindings::new().with("batch", 2).with("seq", seq as u64),
                vec![("tokens", Array::u32(&[batch, seq], &ids)), ("mask", mask)],
            ),
            (
                model.image_graph(Var::new("batch", 2)).unwrap(),
                Bindings::new().with("batch", 2),
                vec![("patches", Array::f32(&shape, &pixels))],
            ),
        ];
        for (graph, bindings, inputs) in &steps {
            let mut whole = Interpreter::<f64>::new(graph, &model.source).unwrap();
            let want = whole.step_values(bindings, inputs).unwrap().remove(0).1;
            for mesh in [vec![(Tensor, 2)], vec![(Tensor, 3)], vec![(Pipeline, 2)], vec![(Data, 2), (Tensor, 2)]] {
                let what = format!("{name} {mesh:?}");
                let sharded = shard(graph, &mesh).unwrap_or_else(|e| panic!("{what}: {e}"));
                let graphs: Vec<&Graph> = (0..sharded.ranks()).map(|r| &sharded.class(r).graph).collect();
                let mut ranks = Ranks::<f64>::new(&graphs, &sharded.seats, &model.source).unwrap();
                let part = |r: usize| {
                    Some((sharded.bindings(r, bindings).unwrap(), sharded.inputs(r, bindings, inputs).unwrap()))
                };
                let parts: Vec<_> = (0..sharded.ranks()).map(part).collect();
                let got = ranks.step_values(&parts).unwrap_or_else(|e| panic!("{what}: {e}"));
                for outputs in got {
                    assert_eq!(outputs[0].1.len(), want.len(), "{what}");
                    outputs[0].1.iter().zip(&want).for_each(|(g, w)| assert!((g - w).abs() < 1e-9, "{what}"));
                }
            }
        }
    }
}

/// Every step of a processor, number by number; crops that are not square and larger than the picture among them.
#[test]
fn pictures_become_the_numbers_that_transformers_makes() {
    let rows = figures("processors");
    let rows = rows.as_array().unwrap();
    assert!(rows.len() > 40);
    for row in rows {
        let (name, family) = (row["picture"].as_str().unwrap(), row["family"].as_str().unwrap());
        let family = if family == "clip" { Family::Clip } else { Family::Siglip };
        let what = format!("{name} {}", row["config"]);
        let picture = media::decode(&std::fs::read(folder().join(name)).unwrap(), Path::new(name)).unwrap();
        let steps = Preprocess::read(&row["config"], family, Path::new("preprocessor_config.json")).unwrap();
        let pixels = steps.apply(&picture).unwrap();
        assert_eq!(steps.sides(&picture), [pixels.height, pixels.width]);
        assert_eq!(json!([3, pixels.height, pixels.width]), row["shape"], "{what}");
        let every = row["every"].as_u64().unwrap() as usize;
        let got: Vec<f32> = pixels.values.iter().copied().step_by(every).collect();
        let want = floats(&row["values"]);
        let scale = want.iter().fold(1.0, |m: f64, x| m.max(x.abs()));
        hold(&what, &got, &want, scale * if name.ends_with("jpg") { 6e-2 } else { 2e-6 });
    }
}

#[test]
fn what_a_processor_says_is_obeyed_or_refused_by_name() {
    let read = |family, json: Json| Preprocess::read(&json, family, Path::new("p.json")).map_err(|e| e.to_string());
    let harmless = json!({"image_processor_type": "x", "do_convert_rgb": true, "do_pad": false, "size": null});
    read(Family::Siglip, harmless).unwrap();
    for (word, json) in [
        ("do_pad", json!({"do_pad": true})),
        ("patch_size", json!({"patch_size": {"height": 14, "width": 14}})),
        ("resample", json!({"resample": 6})),
        ("resample", json!({"resample": "bicubic"})),
        ("size", json!({"size": {"shortest_edge": 3, "longest_edge": 5}})),
        ("size", json!({"size": {"max_height": 3, "max_width": 5}})),
        ("size", json!({"size": {"height": 0, "width": 5}})),
        ("size", json!({"size": 1e9})),
        ("crop_size", json!({"crop_size": {"shortest_edge": 4}})),
        ("do_resize", json!({"do_resize": "yes"})),
        ("rescale_factor", json!({"rescale_factor": "1/255"})),
        ("image_mean", json!({"image_mean": [0.5, 0.5]})),
        ("image_std", json!({"image_std": [0.5, 0.0, 0.5]})),
    ] {
        let e = read(Family::Clip, json.clone()).err().unwrap_or_else(|| panic!("{json} went through"));
        assert!(e.contains(word) && !e.contains('\n'), "{json}: {e}");
    }
    // A sliver would become millions of rows.
    let thin = Picture { width: 1, height: 30_000, rgb: vec![0; 90_000] };
    let shortest = read(Family::Clip, json!({"size": 8000, "do_center_crop": false})).unwrap();
    assert!(shortest.apply(&thin).is_err());
}

#[test]
fn models_of_images_are_refused_by_name() {
    let figures = figures("siglip");
    let open = |change: &dyn Fn(&Path)| {
        let at = Folder::new("media");
        let path = write(&figures, &at, false);
        change(&path);
        images(&path, &DeviceChoice::Cpu, &[folder().join("photo.png")]).map(|_| ()).map_err(|e| e.to_string())
    };
    let config = |part: &'static str, key: &'static str, value: Json| {
        let mut config = figures["config"].clone();
        config[part][key] = value;
        move |at: &Path| std::fs::write(at.join("config.json"), config.to_string()).unwrap()
    };
    open(&|_| {}).unwrap();
    let refused: [(&str, Box<dyn Fn(&Path)>); 9] = [
        ("vision_use_head", Box::new(config("vision_config", "vision_use_head", json!(false)))),
        ("num_channels|channels", Box::new(config("vision_config", "num_channels", json!(1)))),
        ("patches", Box::new(config("vision_config", "patch_size", json!(31)))),
        ("patch_embedding", Box::new(config("vision_config", "patch_size", json!(6)))),
        ("hidden_act|mish", Box::new(config("vision_config", "hidden_act", json!("mish")))),
        ("one space", Box::new(config("text_config", "projection_size", json!(40)))),
        ("attention_bias", Box::new(config("text_config", "attention_bias", json!(true)))),
        ("preprocessor_config", Box::new(|at| std::fs::remove_file(at.join("preprocessor_config.json")).unwrap())),
        (
            "30 × 30",
            Box::new(|at| {
                std::fs::write(at.join("preprocessor_config.json"), r#"{"size": {"height": 31, "width": 30}}"#).unwrap()
            }),
        ),
    ];
    for (words, change) in refused {
        let e = open(&*change).err().unwrap_or_else(|| panic!("{words} went through"));
        assert!(words.split('|').any(|w| e.contains(w)) && !e.contains('\n'), "{words}: {e}");
    }
}

/// A PNG's header for a picture of any size, with nothing behind it.
fn claims(width: u32, height: u32) -> Vec<u8> {
    let mut head = b"IHDR".to_vec();
    head.extend(width.to_be_bytes());
    head.extend(height.to_be_bytes());
    head.extend([8, 2, 0, 0, 0]);
    let mut out = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
    out.extend(&head);
    out.extend(crc(&head).to_be_bytes());
    out
}

fn crc(bytes: &[u8]) -> u32 {
    !bytes
        .iter()
        .fold(!0u32, |c, b| (0..8).fold(c ^ u32::from(*b), |c, _| (c >> 1) ^ (0xedb8_8320 & (c & 1).wrapping_neg())))
}

#[test]
fn damaged_images_are_one_line_of_error() {
    let told = |bytes: &[u8]| {
        let e = media::decode(bytes, Path::new("photo")).map(|p| (p.width, p.height)).unwrap_err().to_string();
        assert!(e.starts_with("photo: ") && !e.contains('\n') && e.len() < 600, "{e}");
        e
    };
    told(b"");
    told(b"GIF89a");
    told(b"<html>");
    for size in [(0, 5), (100_000, 1), (30_000, 30_000), (u32::MAX, u32::MAX)] {
        told(&claims(size.0, size.1));
    }
    for name in ["photo.png", "turned.jpg", "photo.webp"] {
        let whole = std::fs::read(folder().join(name)).unwrap();
        media::decode(&whole, Path::new(name)).unwrap();
        for cut in [1, 9, 40, whole.len() / 2, whole.len() - 30] {
            told(&whole[..cut]);
        }
    }
}

/// The program with these arguments: whether it succeeded, and what it wrote.
fn program(args: &[&str]) -> (bool, String, String) {
    let made = std::process::Command::new(env!("CARGO_BIN_EXE_warpweft")).args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (made.status.success(), text(made.stdout), text(made.stderr))
}

#[test]
fn the_command_line_embeds_images_beside_texts() {
    let (figures, at) = (figures("clip"), Folder::new("media"));
    let model = write(&figures, &at, false);
    let model = model.to_str().unwrap();
    let (photo, text) = (folder().join("photo.png"), figures["texts"][0].as_str().unwrap());
    let common = ["--device", "cpu", "--cache", model];
    let args = [&["embed", model, "--image", photo.to_str().unwrap(), text, "--json"][..], &common].concat();
    let (ok, out, err) = program(&args);
    assert!(ok, "{err}");
    let got: Vec<Vec<f32>> = serde_json::from_str(&out).unwrap();
    assert_eq!(got.len(), 2);
    hold("photo", &got[0], &floats(&figures["image_vectors"][0]), NEAR);
    hold("text", &got[1], &floats(&figures["text_vectors"][0]), NEAR);
    let missing = at.path().join("nothing.png");
    let other = at.file("config.png", b"{}");
    for wrong in [missing, other] {
        let (ok, _, err) = program(&[&["embed", model, "--image", wrong.to_str().unwrap()][..], &common].concat());
        assert!(!ok && err.contains(wrong.file_name().unwrap().to_str().unwrap()), "{err}");
    }
}

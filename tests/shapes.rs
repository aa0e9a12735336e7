//! Every family of decoders, priced from its config.json and planned from its checkpoint: both say the same of its products,
//! its cache and its parameters, or the shape is refused by name.

mod common;

use common::{large_gpu, tiny};
use serde_json::Value as Json;
use std::path::{Path, PathBuf};
use warpweft::base::Bindings;
use warpweft::model::arch::{FAMILIES, find};
use warpweft::model::{Model, ModelSource};
use warpweft::plan::{Options, Role, plan};
use warpweft::session::{self, Layout as Ranks};
use warpweft::simulate::config::from_config;
use warpweft::simulate::counts::forward;
use warpweft::simulate::{Layout, Shape};
use warpweft::topology::{Mesh, Precision};

const SEQ: usize = 24;
const CONTEXT: usize = 64;

/// The configurations and tensors of tests/figures/families, whose figures tests/families.rs holds the engine to.
fn cases() -> Vec<(String, Json)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/figures/families");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "json"));
    files.sort();
    let read = |p: PathBuf| {
        let name = p.file_stem().unwrap().to_string_lossy().into_owned();
        (name, serde_json::from_str(&std::fs::read_to_string(&p).unwrap()).unwrap())
    };
    files.into_iter().map(read).collect()
}

/// A checkpoint of zeros, and how many elements it has.
fn folder(at: &Path, name: &str, figures: &Json) -> (PathBuf, f64) {
    let at = at.join(name);
    std::fs::create_dir_all(&at).unwrap();
    std::fs::write(at.join("config.json"), figures["config"].to_string()).unwrap();
    let mut elements = 0;
    let tensor = |t: &Json| {
        let shape: Vec<usize> = t[1].as_array().unwrap().iter().map(|d| d.as_u64().unwrap() as usize).collect();
        let count: usize = shape.iter().product();
        elements += count;
        (t[0].as_str().unwrap().to_string(), "F32", shape, vec![0u8; 4 * count])
    };
    let tensors: Vec<_> = figures["tensors"].as_array().unwrap().iter().map(tensor).collect();
    std::fs::write(at.join("model.safetensors"), tiny::safetensors(&tensors)).unwrap();
    (at, elements as f64)
}

/// FLOPs of the products of a prefill of all ranks outside of attention, and bytes of the cache of the first.
fn planned(model: &Model, tp: usize) -> (f64, f64) {
    let mesh = if tp > 1 { format!("tp={tp}") } else { String::new() };
    let layout = Ranks { mesh: Mesh::parse(&mesh).unwrap(), ..Ranks::default() };
    let sharded = session::sharded(model, CONTEXT, SEQ, &layout).unwrap();
    let caps = large_gpu();
    let plans: Vec<_> =
        sharded.classes.iter().map(|c| plan(&c.graph, &caps, &Options::for_caps(&caps)).unwrap()).collect();
    let step = Bindings::new().with("seq", SEQ as u64).with("total", SEQ as u64);
    let mut flops = 0.0;
    for rank in 0..sharded.ranks() {
        let bindings = sharded.bindings(rank, &step).unwrap();
        for d in &plans[sharded.class_of[rank]].dispatches {
            let number = |name: &str| d.number(name, &bindings).unwrap().map(|n| n as f64);
            if d.ops.contains(&"attention") {
                continue;
            }
            if d.ops.contains(&"expert_matmul") {
                let [Some(n), Some(outs), Some(k)] = ["n", "outs", "k"].map(number) else { continue };
                flops += 2.0 * n * outs * k;
            } else if d.ops.contains(&"matmul") {
                // What adds up parts of products multiplies nothing; a product with a vector has no m.
                let [Some(n), Some(k)] = ["n", "k"].map(number) else { continue };
                let groups = d.grid[2].n.eval(&bindings).unwrap() as f64;
                flops += 2.0 * number("m").unwrap_or(1.0) * n * k * number("batches").unwrap_or(groups);
            }
        }
    }
    (flops, plans[0].bytes_where(|r| matches!(r, Role::State(_))) as f64)
}

/// What a plan multiplies beside the shape's products: the gate of a shared expert, a column; latent attention's core.
fn beside(config: &Json, shape: &Shape) -> f64 {
    let gate = config.get("shared_expert_intermediate_size").is_some();
    let gate = if gate { 2.0 * (SEQ * shape.hidden * shape.layers) as f64 } else { 0.0 };
    // Latent attention's core is written as products: scores and sums over what is cached of each token.
    let core = shape.latent.map_or(0, |l| 2 * SEQ * SEQ * shape.heads * (2 * l.kv + l.rope) * shape.layers);
    gate + core as f64
}

#[test]
fn plan_and_shape_say_the_same_of_every_family() {
    let at = std::env::temp_dir().join(format!("warpweft-shapes-{}", std::process::id()));
    let mut met: Vec<&str> = vec![];
    for (name, figures) in cases() {
        let config = &figures["config"];
        // The same shapes in formats of their own.
        if config.get("quantization_config").is_some() {
            continue;
        }
        let family = find(config["model_type"].as_str().unwrap(), false).unwrap();
        met.push(family.name);
        let shape = match from_config(config, &name) {
            Ok(shape) => shape,
            Err(e) => {
                let said = e.to_string();
                let others = ["lfm2", "lfm2_moe", "qwen3_next", "qwen3_5"];
                assert!(others.contains(&family.name) && said.contains("--plan"), "{name}: {said}");
                continue;
            }
        };
        let (folder, elements) = folder(&at, &name, &figures);
        let model = Model::new(ModelSource::open(&folder).unwrap()).unwrap();
        let ways: &[usize] = if shape.experts > 0 { &[1] } else { &[1, 2] };
        for tp in ways {
            let (flops, cache) = planned(&model, *tp);
            let layout = Layout { tp: *tp, precision: Precision::Fp32, ..Layout::single(SEQ) };
            let want = forward(&shape, &layout, 1).unwrap().products + beside(config, &shape);
            assert!((flops / want - 1.0).abs() < 1e-9, "{name}, tp {tp}: {flops} FLOP planned, {want} by the shape");
            let each = shape.kv_bytes(4.0) / *tp as f64;
            assert_eq!(cache, each * (shape.layers * CONTEXT) as f64, "{name}, tp {tp}");
        }
        // Biases, norms of heads and sinks are vectors that a shape leaves out.
        let off = shape.parameters() / elements - 1.0;
        assert!(off.abs() < 0.04, "{name}: {} parameters, the file has {elements}", shape.parameters());
    }
    std::fs::remove_dir_all(&at).ok();
    // Of all others there is no checkpoint here: they are encoders, and refused.
    for family in FAMILIES.iter().filter(|f| !met.contains(&f.name)) {
        for name in family.hugging_face {
            let said = from_config(&serde_json::json!({ "model_type": name }), name).unwrap_err().to_string();
            assert!(said.contains("is an encoder, or has one") && said.contains("--plan"), "{name}: {said}");
        }
    }
}

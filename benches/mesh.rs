//! What a mesh costs: planning for many ranks, and running over virtual devices that share one adapter.
//! `cargo bench --bench mesh` (a model is fetched first: `warpweft pull smollm2-135m`; `-- --device N` picks the adapter).

mod common;

use common::{cache, device, fetched, median};
use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::AtomicBool;
use std::time::Instant;
use warpweft::base::{Caps, DType, Error, MeshAxis, Result, Type, Var, Weights};
use warpweft::model::{StepShape, layers, llama};
use warpweft::plan::shard::shard;
use warpweft::plan::{Options as PlanOptions, plan};
use warpweft::session::{Generator, Layout, Options, Request, mesh};
use warpweft::text::Sampling;

/// Tensors by their sizes alone.
struct Sizes(HashMap<String, Type>);

impl Weights for Sizes {
    fn info(&self, name: &str) -> Result<Type> {
        self.0.get(name).cloned().ok_or_else(|| Error::usage(format!("there is no weight \"{name}\"")))
    }
    fn read(&self, name: &str, _: Range<usize>) -> Result<Cow<'_, [u8]>> {
        Err(Error::usage(format!("weight \"{name}\" has sizes only")))
    }
}

/// Llama 3 70B (Grattafiori et al., 2024, table 3): 80 layers.
fn large() -> (llama::Config, Sizes) {
    let s = layers::Sizes { layers: 80, width: 8192, heads: 64, kv_heads: 8, head: 128, vocab: 128256, context: 8192 };
    let mut c = llama::Config::new(s.clone(), 28672, true);
    c.common.tied = false;
    let mut all = HashMap::new();
    let mut add = |name: String, dtype, shape: &[usize]| all.insert(name, Type::new(dtype, shape));
    add("token_embd.weight".into(), DType::F16, &[s.vocab, s.width]);
    add("output.weight".into(), DType::F16, &[s.vocab, s.width]);
    add("output_norm.weight".into(), DType::F32, &[s.width]);
    let (q, kv) = (s.heads * s.head, s.kv_heads * s.head);
    for l in 0..s.layers {
        for (part, rows, cols) in [
            ("attn_q", q, s.width),
            ("attn_k", kv, s.width),
            ("attn_v", kv, s.width),
            ("attn_output", s.width, q),
            ("ffn_gate", c.common.ffn, s.width),
            ("ffn_up", c.common.ffn, s.width),
            ("ffn_down", s.width, c.common.ffn),
        ] {
            add(format!("blk.{l}.{part}.weight"), DType::F16, &[rows, cols]);
        }
        add(format!("blk.{l}.attn_norm.weight"), DType::F32, &[s.width]);
        add(format!("blk.{l}.ffn_norm.weight"), DType::F32, &[s.width]);
    }
    (c, Sizes(all))
}

fn planning() -> Result<()> {
    use MeshAxis::{Data, Pipeline, Tensor};
    let (config, sizes) = large();
    let step = StepShape {
        seq: 1.into(),
        total: Var::new("total", 4096),
        context: 4096,
        last_only: true,
        sequence_parallel: false,
    };
    let graph = llama::build(&config, &sizes, "llama-3-70b", &step)?;
    // A device that binds as much as a rank holds.
    let caps = Caps {
        binding_bytes: 4 << 30,
        buffer_bytes: 4 << 30,
        kind: warpweft::base::AdapterKind::Discrete,
        ..Caps::FLOOR
    };
    println!("planning Llama 3 70B, 80 layers ({} nodes)", graph.nodes.len());
    for axes in [vec![(Tensor, 8)], vec![(Data, 16), (Pipeline, 8), (Tensor, 8)]] {
        let ranks: usize = axes.iter().map(|a| a.1).product();
        let mut times = vec![];
        let (mut classes, mut dispatches) = (0, 0);
        for _ in 0..5 {
            let start = Instant::now();
            let sharded = shard(&graph, &axes)?;
            let plans = sharded
                .classes
                .iter()
                .map(|c| plan(&c.graph, &caps, &PlanOptions::for_caps(&caps)))
                .collect::<Result<Vec<_>>>()?;
            times.push(start.elapsed().as_secs_f64());
            (classes, dispatches) = (plans.len(), plans.iter().map(|p| p.dispatches.len()).sum::<usize>());
        }
        println!(
            "  {ranks:>5} ranks {axes:?}: {:.0} ms, {classes} kinds of rank, {dispatches} dispatches",
            median(times) * 1e3
        );
    }
    Ok(())
}

/// Prefill and decode of SmolLM2 over virtual devices, interleaved.
fn running() -> Result<()> {
    let path = fetched("smollm2-135m")?;
    let meshes = ["", "tp=1", "tp=2", "tp=4", "pp=2", "cp=2"];
    let mut models = vec![];
    for axes in meshes {
        let layout = Layout { mesh: mesh(axes)?, ..Layout::default() };
        let options =
            Options { device: device(), context: Some(256), cache: Some(cache()), layout, ..Options::default() };
        models.push(pollster::block_on(Generator::open(&path, &options))?);
    }
    println!("SmolLM2-135M over virtual devices on {} (they share its cores)", models[0].adapter());
    let (mut prompt, mut tokens) = (vec![vec![]; meshes.len()], vec![vec![]; meshes.len()]);
    let mut sent = vec![0; meshes.len()];
    for round in 0..3u32 {
        for (i, model) in models.iter_mut().enumerate() {
            // Another prompt each round, so that nothing is in the cache.
            let ids: Vec<u32> = (0..32).map(|k| 1000 + (k * 37 + round * 1009) % 20000).collect();
            let request = Request { prompt: ids, sampling: Sampling::greedy(), max_tokens: Some(4), top: 0 };
            let before = model.sent().map_or(0, |s| s.0);
            let done = pollster::block_on(model.generate(&request, &AtomicBool::new(false), &mut |_| Ok(())))?;
            sent[i] = model.sent().map_or(0, |s| s.0) - before;
            // The first round compiles.
            if round > 0 {
                prompt[i].push(done.prompt_per_second);
                tokens[i].push(done.tokens_per_second);
            }
        }
    }
    let layers = models[0].info().layers as f64;
    let base = (median(prompt[0].clone()), median(tokens[0].clone()));
    for (i, axes) in meshes.iter().enumerate() {
        let (p, t) = (median(prompt[i].clone()), median(tokens[i].clone()));
        println!(
            "  {:<6} prefill {p:>6.1} tokens/s ({:>4.0} %), decode {t:>5.2} tokens/s ({:>4.0} %, {:+.2} ms a layer), {:>6.2} MB sent",
            if axes.is_empty() { "plain" } else { axes },
            p / base.0 * 100.0,
            t / base.1 * 100.0,
            (1.0 / t - 1.0 / base.1) * 1e3 / layers,
            sent[i] as f64 / 1e6
        );
    }
    Ok(())
}

fn main() -> Result<()> {
    planning()?;
    running()
}

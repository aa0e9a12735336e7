//! What one device does, beside what it could: its own probes first, then kernels and a model as shares of them.
//! `cargo bench --bench engine` (the model is fetched first: `warpweft pull smollm2-135m`; `-- --device N` picks the adapter).

mod common;

use common::{device, fetched, median};
use std::collections::HashMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;
use warpweft::base::{Array, Bindings, DType, Result, Var};
use warpweft::device::{Gpu, Probes, Program, Store, probe};
use warpweft::graph::{Graph, GraphBuilder};
use warpweft::model::{Model, ModelSource, StepShape};
use warpweft::plan::{Options as PlanOptions, Tuning, plan};
use warpweft::session::{DeviceChoice, Generator, Options, Request, load_tuning, pick};
use warpweft::text::Sampling;

/// Rounds of each figure; the median is printed.
const ROUNDS: usize = 7;

/// One op on an adapter, with the work that it cannot do without.
struct Case {
    name: &'static str,
    program: Program,
    /// Holds the weights.
    _store: Store,
    flops: f64,
    bytes: f64,
    times: Vec<f64>,
}

async fn case(
    gpu: &Arc<Gpu>,
    tuning: &Tuning,
    name: &'static str,
    graph: Graph,
    inputs: &[(&str, Array)],
    weights: HashMap<String, Array>,
) -> Result<Case> {
    let mut options = PlanOptions::for_caps(gpu.caps());
    options.tuning = tuning.clone();
    let plan = plan(&graph, gpu.caps(), &options)?;
    let none = Bindings::new();
    let sum = |f: fn(&warpweft::plan::Dispatch) -> &warpweft::base::Expr| {
        plan.dispatches.iter().map(|d| f(d).eval(&none).unwrap_or(0) as f64).sum()
    };
    let (flops, bytes) = (sum(|d| &d.flops), sum(|d| &d.bytes));
    let mut store = Store::new(gpu.clone());
    let mut program = Program::load(plan, &mut store, &weights, &mut |_, _| {}).await?;
    program.step(&none, inputs, &[]).await?;
    Ok(Case { name, program, _store: store, flops, bytes, times: vec![] })
}

impl Case {
    /// Seconds of one step among several that are sent off together.
    async fn time(&mut self, gpu: &Gpu) -> Result<()> {
        const TOGETHER: usize = 4;
        let start = Instant::now();
        for _ in 0..TOGETHER {
            self.program.again(&Bindings::new())?;
        }
        gpu.done().await?;
        self.times.push(start.elapsed().as_secs_f64() / TOGETHER as f64);
        Ok(())
    }
    fn print(&self, p: &Probes) {
        let seconds = median(self.times.clone());
        let floor = (self.flops / p.flops).max(self.bytes / p.bandwidth);
        println!(
            "  {:<26} {:>9.1} µs {:>7.2} GFLOP/s {:>7.2} GB/s   floor {:>8.1} µs: {:>3.0} %",
            self.name,
            seconds * 1e6,
            self.flops / seconds / 1e9,
            self.bytes / seconds / 1e9,
            floor * 1e6,
            floor / seconds * 100.0
        );
    }
}

fn values(shape: &[usize]) -> Array {
    let n: usize = shape.iter().product();
    Array::f32(shape, &(0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect::<Vec<_>>())
}

async fn square(gpu: &Arc<Gpu>, tuning: &Tuning, name: &'static str, n: usize) -> Result<Case> {
    let g = GraphBuilder::new();
    let (a, b) = (g.input("a", DType::F32, [n, n]), g.input("b", DType::F32, [n, n]));
    g.output("y", a.matmul(b));
    case(gpu, tuning, name, g.finish()?, &[("a", values(&[n, n])), ("b", values(&[n, n]))], HashMap::new()).await
}

async fn rows(gpu: &Arc<Gpu>, tuning: &Tuning, name: &'static str) -> Result<Case> {
    const SIDE: usize = 1024;
    let g = GraphBuilder::new();
    let x = g.input("x", DType::F32, [SIDE, SIDE]);
    let weights = HashMap::from([("w".to_string(), values(&[SIDE])), ("b".to_string(), values(&[SIDE]))]);
    let weight = |name: &str| g.weight(name, DType::F32, [SIDE]);
    let y = match name {
        "softmax 1024 × 1024" => x.softmax(),
        "layer-norm 1024 × 1024" => x.layer_norm(weight("w"), weight("b"), 1e-5),
        _ => x.rms_norm(weight("w"), 1e-5),
    };
    g.output("y", y);
    case(gpu, tuning, name, g.finish()?, &[("x", values(&[SIDE, SIDE]))], weights).await
}

/// One row times a matrix of weights, as in decoding.
async fn matvec(gpu: &Arc<Gpu>, tuning: &Tuning, name: &'static str, dtype: DType) -> Result<Case> {
    let (n, k) = (1536, 1536);
    let g = GraphBuilder::new();
    let x = g.input("x", DType::F32, [1, k]);
    g.output("y", x.matmul_t(g.weight("w", dtype, [n, k])));
    let bytes = dtype.bytes((n * k) as u64).unwrap_or(0) as usize;
    let weights = HashMap::from([("w".to_string(), Array::new(dtype, &[n, k], vec![0x11; bytes])?)]);
    case(gpu, tuning, name, g.finish()?, &[("x", values(&[1, k]))], weights).await
}

async fn kernels(gpu: &Arc<Gpu>, tuning: &Tuning) -> Result<Probes> {
    let mut all = vec![
        square(gpu, tuning, "matmul 512³ f32", 512).await?,
        square(gpu, tuning, "matmul 1024³ f32", 1024).await?,
        rows(gpu, tuning, "softmax 1024 × 1024").await?,
        rows(gpu, tuning, "layer-norm 1024 × 1024").await?,
        rows(gpu, tuning, "RMS-norm 1024 × 1024").await?,
    ];
    for dtype in DType::weights().filter(|d| *d != DType::F32) {
        all.push(matvec(gpu, tuning, format!("mat-vec 1536² {dtype}").leak(), dtype).await?);
    }
    // Probes and kernels in turn: what disturbs one disturbs the other.
    let mut probes = vec![];
    for _ in 0..ROUNDS {
        probes.push(probe(gpu).await?);
        for case in &mut all {
            case.time(gpu).await?;
        }
    }
    let of = |f: fn(&Probes) -> f64| median(probes.iter().map(f).collect());
    let p = Probes {
        flops: of(|p| p.flops),
        bandwidth: of(|p| p.bandwidth),
        submit: of(|p| p.submit),
        dispatch: of(|p| p.dispatch),
    };
    println!("{} ({})", gpu.report.name, gpu.report.backend);
    println!(
        "  probes: {:.1} GFLOP/s of f32 FMA, {:.1} GB/s copied, submit and wait {:.0} µs, a dispatch {:.1} µs",
        p.flops / 1e9,
        p.bandwidth / 1e9,
        p.submit * 1e6,
        p.dispatch * 1e6
    );
    all.iter().for_each(|c| c.print(&p));
    Ok(p)
}

/// What the host does for one token: recording the dispatches of a decode step.
async fn recording(gpu: &Arc<Gpu>, tuning: &Tuning, model: &Model) -> Result<()> {
    let total = Var::new("total", 256);
    let step = StepShape { seq: 1.into(), total, context: 256, last_only: true, sequence_parallel: false };
    let mut options = PlanOptions::for_caps(gpu.caps());
    options.tuning = tuning.clone();
    let plan = plan(&model.step_graph(&step)?, gpu.caps(), &options)?;
    let dispatches = plan.dispatches.len();
    let mut store = Store::new(gpu.clone());
    let program = Program::load(plan, &mut store, &model.source, &mut |_, _| {}).await?;
    let bindings = Bindings::new().with("total", 64);
    let mut times = vec![];
    for _ in 0..40 {
        let start = Instant::now();
        let recorded = program.record_only(&bindings)?;
        times.push(start.elapsed().as_secs_f64());
        // What dropping it takes is no part of recording.
        drop(recorded);
    }
    println!(
        "  recording a decode step: {:.2} µs a dispatch ({dispatches} dispatches)",
        median(times) / dispatches as f64 * 1e6
    );
    Ok(())
}

/// Prefill and decode on the adapter and on the fallback, in turn. `probes` are the adapter's.
async fn model(path: &std::path::Path, choice: &DeviceChoice, probes: &Probes) -> Result<()> {
    let cache = common::cache();
    let options = |device| Options { device, context: Some(512), cache: Some(cache.clone()), ..Options::default() };
    let mut both = [
        Generator::open(path, &options(choice.clone())).await?,
        Generator::open(path, &options(DeviceChoice::Cpu)).await?,
    ];
    let (mut prompt, mut tokens) = (vec![vec![], vec![]], vec![vec![], vec![]]);
    for round in 0..ROUNDS as u32 {
        for (i, generator) in both.iter_mut().enumerate() {
            // Another prompt each round, so that nothing of it is in the state.
            let ids: Vec<u32> = (0..40).map(|k| 1000 + (k * 37 + round * 1009) % 20000).collect();
            let request = Request { prompt: ids, sampling: Sampling::greedy(), max_tokens: Some(12), top: 0 };
            let done = generator.generate(&request, &AtomicBool::new(false), &mut |_| Ok(())).await?;
            // The first round compiles.
            if round > 0 {
                prompt[i].push(done.prompt_per_second);
                tokens[i].push(done.tokens_per_second);
            }
        }
    }
    let (graph, bindings) = Model::new(ModelSource::open(path)?)?.typical_step(512)?;
    let step = plan(&graph, &warpweft::base::Caps::FLOOR, &PlanOptions::for_caps(&warpweft::base::Caps::FLOOR))?;
    let sum = |f: fn(&warpweft::plan::Dispatch) -> &warpweft::base::Expr| -> Result<f64> {
        step.dispatches.iter().map(|d| Ok(f(d).eval(&bindings)? as f64)).sum()
    };
    let (flops, bytes) = (sum(|d| &d.flops)?, sum(|d| &d.bytes)?);
    let (fastest_prompt, fastest) = (probes.flops / flops, 1.0 / (bytes / probes.bandwidth).max(flops / probes.flops));
    println!(
        "SmolLM2-135M, prompts of 40 tokens, 12 generated (the adapter's probes allow {fastest_prompt:.0} and {fastest:.0} tokens/s)"
    );
    for (i, generator) in both.iter().enumerate() {
        println!(
            "  {:<44} prompt {:>6.1} tokens/s, generated {:>5.1} tokens/s",
            generator.adapter(),
            median(prompt[i].clone()),
            median(tokens[i].clone())
        );
    }
    Ok(())
}

/// From the command's start to its first token, model and tuning being in the cache.
fn first_token(path: &std::path::Path, device: &str) {
    let mut times = vec![];
    for _ in 0..3 {
        let start = Instant::now();
        let out = Command::new(env!("CARGO_BIN_EXE_warpweft"))
            .arg("run")
            .arg(path)
            .args(["--device", device, "-n", "1", "--raw", "-p", "Paris is"])
            .output();
        if out.is_ok_and(|o| o.status.success()) {
            times.push(start.elapsed().as_secs_f64());
        }
    }
    println!("  `run` to its first token, --device {device}: {:.2} s", median(times));
}

fn main() -> Result<()> {
    pollster::block_on(async {
        let choice = device();
        let path = fetched("smollm2-135m")?;
        let picked = pick(&choice).await?;
        if let Some(gpu) = picked.gpu {
            let tuning = match load_tuning(&gpu, &common::cache()) {
                Some(known) => known,
                None => warpweft::session::tune(&gpu, &mut |_| {}).await?,
            };
            let probes = kernels(&gpu, &tuning).await?;
            recording(&gpu, &tuning, &Model::new(ModelSource::open(&path)?)?).await?;
            drop(gpu);
            model(&path, &choice, &probes).await?;
        }
        for device in ["0", "cpu"] {
            first_token(&path, device);
        }
        Ok(())
    })
}

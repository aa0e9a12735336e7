//! Every kernel family on an adapter, as shares of what the adapter's own probes reach, within a given time: what to run when a GPU is
//! at hand for minutes (scripts/gpu-bench.sh). Raw rows go to a JSON file after each case, so that a run that is cut leaves what it had.
//! `cargo bench --bench gpu -- [--device N] [--seconds S] [--out FOLDER]`

mod common;

use common::{device, median};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use warpweft::base::{AdapterKind, Array, Bindings, DType, Result, Var};
use warpweft::device::{Gpu, Probes, Program, Store, probe};
use warpweft::graph::{Graph, GraphBuilder};
use warpweft::op::Attention;
use warpweft::plan::{Options, plan};
use warpweft::session::pick;

/// What a figure is a share of.
#[derive(Clone, Copy)]
enum Of {
    Flops,
    Bytes,
    /// Whichever of both takes longer.
    Roofline,
}

struct Bench {
    gpu: Arc<Gpu>,
    probes: Probes,
    start: Instant,
    seconds: f64,
    rows: Vec<Value>,
    file: PathBuf,
}

fn argument(name: &str) -> Option<String> {
    let all: Vec<String> = std::env::args().collect();
    all.iter().position(|a| a == name).and_then(|i| all.get(i + 1)).cloned()
}

fn main() -> Result<()> {
    pollster::block_on(async {
        let start = Instant::now();
        let gpu = match pick(&device()).await?.gpu {
            Some(gpu) => gpu,
            None => return Err(warpweft::base::Error::usage("the bench needs an adapter: choose one with --device")),
        };
        let probes = probe(&gpu).await?;
        let plain = |s: &str| {
            s.chars().map(|c| if c.is_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect::<String>()
        };
        let folder = PathBuf::from(argument("--out").unwrap_or("benches/results".into()));
        let stamp = argument("--date").unwrap_or("undated".into());
        let file = folder.join(format!("{}-{stamp}.json", plain(&gpu.report.name)));
        let seconds = argument("--seconds").and_then(|s| s.parse().ok()).unwrap_or(420.0);
        println!("{} ({}, {})", gpu.report.name, gpu.report.backend, gpu.report.driver);
        println!(
            "  probes: {:.1} GFLOP/s of multiply-adds, {:.1} GB/s copied, {:.1} µs a submission, {:.2} µs a dispatch",
            probes.flops / 1e9,
            probes.bandwidth / 1e9,
            probes.submit * 1e6,
            probes.dispatch * 1e6
        );
        let mut bench = Bench { gpu, probes, start, seconds, rows: vec![], file };
        bench.all().await?;
        println!("  {} rows in {:.0} s: {}", bench.rows.len(), start.elapsed().as_secs_f64(), bench.file.display());
        Ok(())
    })
}

impl Bench {
    async fn all(&mut self) -> Result<()> {
        let small = self.gpu.caps().kind == AdapterKind::Software;
        // The adapter that software stands for is a CPU: sizes that it makes in a moment, by the forms that a GPU would take.
        let (n, ffn, keys) = if small { (512, 1024, 256) } else { (4096, 14_336, 8192) };
        for m in if small { vec![256] } else { vec![1024, 4096] } {
            self.case(&format!("matmul f32 {m} × {m} × {m}"), product(m, m, m, DType::F32), Of::Flops).await?;
        }
        for dtype in [DType::F32, DType::F16, DType::Q8_0, DType::Q4_0, DType::Q4_1] {
            self.case(&format!("mat-vec {dtype} {ffn} × {n}"), product(1, ffn, n, dtype), Of::Bytes).await?;
        }
        self.case(&format!("mat-vec q4_0, 8 rows, {ffn} × {n}"), product(8, ffn, n, DType::Q4_0), Of::Bytes).await?;
        self.case(&format!("matmul q4_0 512 × {ffn} × {n}"), product(512.min(n), ffn, n, DType::Q4_0), Of::Flops)
            .await?;
        for name in ["softmax", "rms_norm", "layer_norm"] {
            self.case(&format!("{name} {n} × {n}"), rows(name, n), Of::Bytes).await?;
        }
        for (queries, what) in [(1, "decode"), (512.min(keys), "prefill")] {
            let of = if queries == 1 { Of::Bytes } else { Of::Flops };
            self.case(&format!("attention {what}, {keys} keys"), attention(queries, keys), of).await?;
        }
        for (rows, what, keys) in [(1, "decode", 128), (1, "decode", keys.min(4096)), (512.min(n), "prefill", 512)] {
            let graph = layer(rows, keys.max(rows), n, ffn);
            self.case(&format!("layer of an 8B model's shape, {what}, {keys} keys"), graph, Of::Roofline).await?;
        }
        Ok(())
    }

    /// One case, if there is time left: the median of five rounds, each of as many steps as take a twentieth of a second.
    async fn case(&mut self, name: &str, graph: Result<Graph>, of: Of) -> Result<()> {
        if self.start.elapsed().as_secs_f64() > self.seconds {
            println!("  {name:<56} no time left");
            return Ok(());
        }
        let graph = graph?;
        let mut options = Options::for_caps(self.gpu.caps());
        options.tuning.serial = false;
        let plan = plan(&graph, self.gpu.caps(), &options)?;
        let bindings = graph.largest();
        let (flops, bytes) = plan.work(&bindings)?;
        let kernels: Vec<&str> = plan.dispatches.iter().map(|d| plan.kernels[d.kernel].name()).collect();
        let kernels = json!(kernels);
        let mut store = Store::new(self.gpu.clone());
        let weights = weights(&graph)?;
        let inputs = inputs(&graph)?;
        let given: Vec<(&str, Array)> = inputs.iter().map(|(n, a)| (n.as_str(), a.clone())).collect();
        let mut program = Program::load(plan, &mut store, &weights, &mut |_, _| {}).await?;
        program.step(&bindings, &given, &[]).await?;
        self.gpu.done().await?;
        let once = time(&self.gpu, &program, &bindings, 1).await?;
        let repeat = (0.05 / once.max(1e-6)).clamp(1.0, 2000.0) as usize;
        let mut times = vec![];
        for _ in 0..5 {
            times.push(time(&self.gpu, &program, &bindings, repeat).await?);
            if self.start.elapsed().as_secs_f64() > self.seconds {
                break;
            }
        }
        let seconds = median(times.clone());
        let (by_flops, by_bytes) = (flops as f64 / self.probes.flops, bytes as f64 / self.probes.bandwidth);
        let floor = match of {
            Of::Flops => by_flops,
            Of::Bytes => by_bytes,
            Of::Roofline => by_flops.max(by_bytes),
        };
        println!(
            "  {name:<56} {:>10.1} µs {:>9.1} GFLOP/s {:>8.1} GB/s {:>4.0} %",
            seconds * 1e6,
            flops as f64 / seconds / 1e9,
            bytes as f64 / seconds / 1e9,
            floor / seconds * 100.0
        );
        let of = match of {
            Of::Flops => "multiply-add probe",
            Of::Bytes => "copy bandwidth",
            Of::Roofline => "roofline",
        };
        self.rows.push(json!({ "case": name, "seconds": seconds, "rounds": times, "steps_per_round": repeat,
            "flops": flops, "bytes": bytes, "share": floor / seconds, "of": of, "kernels": kernels }));
        self.save()
    }

    fn save(&self) -> Result<()> {
        let report = &self.gpu.report;
        let all = json!({ "adapter": report.name, "backend": report.backend, "driver": report.driver,
            "probes": self.probes, "seconds": self.start.elapsed().as_secs_f64(), "rows": self.rows });
        let fail = |e: std::io::Error| warpweft::base::Error::file(&self.file, format!("cannot be written: {e}"));
        std::fs::create_dir_all(self.file.parent().unwrap_or(&self.file)).map_err(fail)?;
        std::fs::write(&self.file, serde_json::to_string_pretty(&all).unwrap_or_default() + "\n").map_err(fail)
    }
}

/// Seconds of one of `repeat` steps that are sent off together.
async fn time(gpu: &Gpu, program: &Program, bindings: &Bindings, repeat: usize) -> Result<f64> {
    let start = Instant::now();
    for _ in 0..repeat {
        program.again(bindings)?;
    }
    gpu.done().await?;
    Ok(start.elapsed().as_secs_f64() / repeat as f64)
}

/// Values that repeat: their numbers change nothing but must not grow without end.
fn filled(dtype: DType, shape: &[usize]) -> Result<Array> {
    let count: usize = shape.iter().product();
    match dtype {
        DType::F32 => Ok(Array::f32(shape, &(0..count).map(|i| (i % 17) as f32 * 0.01 - 0.08).collect::<Vec<_>>())),
        _ => Array::new(dtype, shape, vec![0x11; dtype.bytes(count as u64).unwrap_or(0) as usize]),
    }
}

fn weights(graph: &Graph) -> Result<HashMap<String, Array>> {
    let all = graph.nodes.iter().filter(|n| matches!(n.source, warpweft::graph::Source::Weight { .. }));
    all.map(|n| Ok((n.name.clone(), filled(n.ty.dtype, &n.ty.shape.known().unwrap_or_default())?))).collect()
}

fn inputs(graph: &Graph) -> Result<Vec<(String, Array)>> {
    let bindings = graph.largest();
    let all = graph.nodes.iter().filter(|n| matches!(n.source, warpweft::graph::Source::Input));
    all.map(|n| Ok((n.name.clone(), filled(n.ty.dtype, &n.ty.shape.eval(&bindings)?)?))).collect()
}

fn product(m: usize, n: usize, k: usize, dtype: DType) -> Result<Graph> {
    let g = GraphBuilder::new();
    g.output("y", g.input("x", DType::F32, [m, k]).matmul_t(g.weight("w", dtype, [n, k])));
    g.finish()
}

fn rows(name: &str, n: usize) -> Result<Graph> {
    let g = GraphBuilder::new();
    let x = g.input("x", DType::F32, [n, n]);
    let ones = g.data("ones", [n], vec![1.0; n]);
    g.output(
        "y",
        match name {
            "softmax" => x.softmax(),
            "rms_norm" => x.rms_norm(ones, 1e-5),
            _ => x.layer_norm(ones, ones, 1e-5),
        },
    );
    g.finish()
}

fn attention(queries: usize, keys: usize) -> Result<Graph> {
    let g = GraphBuilder::new();
    let q = g.input("q", DType::F32, [1, queries, 32, 128]);
    let kv = |name: &str| g.input(name, DType::F32, [1, keys, 8, 128]);
    let how = Attention { causal: Some((keys - queries).into()), ..Attention::scaled(0.088) };
    g.output("y", q.attention(kv("k"), kv("v"), None, how));
    g.finish()
}

/// A decoder layer of this width with weights of four bits, 4 query heads to a key head, heads of 128.
fn layer(rows: usize, keys: usize, width: usize, ffn: usize) -> Result<Graph> {
    let total = Var::new("total", keys as u32);
    let (heads, groups) = (width / 128, (width / 512).max(1));
    let past = warpweft::base::Dim::from(total) - warpweft::base::Dim::from(rows);
    let g = GraphBuilder::new();
    let x = g.input("x", DType::F32, [rows, width]);
    let w = |name: &str, n: usize, k: usize| g.weight(name, DType::Q4_0, [n, k]);
    let ones = g.data("ones", [width], vec![1.0; width]);
    let h = x.rms_norm(ones, 1e-5);
    let q = h.matmul_t(w("q", width, width)).reshape([1, rows, heads, 128]);
    let cache = |name: &str, rows_of: &str| {
        let fresh = h.matmul_t(w(rows_of, groups * 128, width));
        let all = g.state(name, DType::F32, [keys, groups * 128]).append(fresh, past).slice(0, 0, total);
        all.reshape(vec![1.into(), total.into(), groups.into(), 128.into()])
    };
    let how = Attention { causal: Some(past), ..Attention::scaled(0.088) };
    let a = q.attention(cache("keys", "k"), cache("values", "v"), None, how).reshape([rows, width]);
    let x = x + a.matmul_t(w("o", width, width));
    let h = x.rms_norm(ones, 1e-5);
    let up = h.matmul_t(w("gate", ffn, width)).silu() * h.matmul_t(w("up", ffn, width));
    g.output("y", x + up.matmul_t(w("down", width, ffn)));
    g.finish()
}

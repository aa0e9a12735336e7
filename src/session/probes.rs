//! What an adapter's kernel forms reach: each timed on sizes of its own, around those that a plan has, in turn with whatever
//! they are to predict. (Other programs share machines; medians of interleaved rounds compare.)

use crate::base::units::median;
use crate::base::{Array, Bindings, DType, Result};
use crate::device::{Gpu, Program, Store};
use crate::graph::{Attention, Graph, GraphBuilder, RopeLayout, Tensor};
use crate::kernel::matmul::VARIANTS;
use crate::plan::{self, Dispatch, Options, Plan, Role};
use std::collections::HashMap;
use std::sync::Arc;
use web_time::Instant;

/// Seconds that a probe's submission should take, and the most dispatches in it.
const LONG: f64 = 4e-3;
const MOST: usize = 64;
/// Weights of one probe differ, so that they come from memory as a model's do.
const COPIES: usize = 4;

/// A kernel form at one size, over and over.
struct Probe {
    form: String,
    /// As [`Dispatch::size`] has it.
    size: f64,
    repeat: usize,
    program: Program,
    times: Vec<f64>,
}

/// All probes of an adapter for some plans.
pub struct Probes {
    gpu: Arc<Gpu>,
    probes: Vec<Probe>,
    /// A step that computes next to nothing and reads so many bytes.
    reads: Vec<(u64, Program, Vec<f64>)>,
    /// Keeps the buffers.
    _stores: Vec<Store>,
}

/// Medians.
#[derive(Debug, Clone, PartialEq)]
pub struct Rate {
    pub form: String,
    pub size: f64,
    /// Of one dispatch among many.
    pub seconds: f64,
}

impl Probes {
    /// Probes of every form that these plans have, each made and run once.
    pub async fn open(
        gpu: &Arc<Gpu>,
        options: &Options,
        plans: &[(&Plan, &Bindings)],
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Probes> {
        let mut out = Probes { gpu: gpu.clone(), probes: vec![], reads: vec![], _stores: vec![] };
        let wanted = wanted(plans)?;
        for (i, w) in wanted.iter().enumerate() {
            progress(i, wanted.len());
            for graph in w.graphs()? {
                out.add(&graph, &w.form, options).await?;
            }
        }
        for bytes in [256u64, 1 << 20] {
            out.read(bytes, options).await?;
        }
        Ok(out)
    }

    /// The dispatches of `form` in a graph's plan, as often as takes a while.
    async fn add(&mut self, graph: &Graph, form: &str, options: &Options) -> Result<()> {
        let Some(mut plan) = self.plan_of(graph, form, options)? else { return Ok(()) };
        let mut mine: Vec<Dispatch> = plan.dispatches.iter().filter(|d| plan.form(d) == form).cloned().collect();
        let Some(first) = mine.first().cloned() else { return Ok(()) };
        // All write to one place, so that each waits for the one before, as a model's do.
        for (arg, to) in mine.iter_mut().flat_map(|d| d.args.iter_mut().zip(&first.args)).filter(|(arg, _)| arg.write) {
            *arg = to.clone();
        }
        let size = first.size(&first.work(&Bindings::new())?) as f64;
        plan.dispatches = mine.clone();
        let once = self.load(plan.clone(), graph).await?;
        let seconds = run(&self.gpu, &once).await?;
        let repeat = (LONG / seconds * mine.len() as f64).clamp(mine.len() as f64, MOST as f64) as usize;
        plan.dispatches = mine.iter().cycle().take(repeat).cloned().collect();
        let program = self.load(plan, graph).await?;
        self.probes.push(Probe { form: form.into(), size, repeat, program, times: vec![] });
        Ok(())
    }

    /// A plan of the graph that has this form. Where the tuning takes another one for these sizes (a model's layouts may not
    /// allow it), variants are asked for until one is of it; with none the plain rates stand in.
    fn plan_of(&self, graph: &Graph, form: &str, options: &Options) -> Result<Option<Plan>> {
        let has = |plan: &Plan| plan.dispatches.iter().any(|d| plan.form(d) == form);
        let plan = plan::plan(graph, self.gpu.caps(), options)?;
        if has(&plan) || !form.starts_with("mat") {
            return Ok(has(&plan).then_some(plan));
        }
        for variant in VARIANTS {
            let mut asked = options.clone();
            asked.tuning.prefer(variant.name);
            let plan = plan::plan(graph, self.gpu.caps(), &asked)?;
            if has(&plan) {
                return Ok(Some(plan));
            }
        }
        Ok(None)
    }

    /// Loads zeros; numbers do not change what a kernel takes.
    async fn load(&mut self, plan: Plan, graph: &Graph) -> Result<Program> {
        let mut weights: HashMap<String, Array> = HashMap::new();
        for b in &plan.buffers {
            if let Role::Weight { dtype, of_rows, .. } = &b.role {
                let node = graph.nodes.iter().find(|n| n.name == b.label);
                let shape = node.and_then(|n| n.ty.shape.known()).unwrap_or(vec![*of_rows]);
                let bytes = dtype.bytes(shape.iter().product::<usize>() as u64).unwrap_or(0) as usize;
                weights.insert(b.label.clone(), Array::new(*dtype, &shape, vec![0; bytes])?);
            }
        }
        let mut store = Store::new(self.gpu.clone());
        let mut program = Program::load(plan, &mut store, &weights, &mut |_, _| {}).await?;
        self._stores.push(store);
        let ports: Vec<(String, Array)> = program
            .plan()
            .inputs
            .iter()
            .map(|p| {
                let shape = p.ty.shape.known().unwrap_or_default();
                let zeros = Array { dtype: p.ty.dtype, ..Array::u32(&shape, &vec![0; shape.iter().product()]) };
                (p.name.clone(), zeros)
            })
            .collect();
        let inputs: Vec<(&str, Array)> = ports.iter().map(|(n, a)| (n.as_str(), a.clone())).collect();
        program.step(&Bindings::new(), &inputs, &[]).await?;
        self.gpu.done().await?;
        Ok(program)
    }

    async fn read(&mut self, bytes: u64, options: &Options) -> Result<()> {
        let g = GraphBuilder::new();
        let n = (bytes / 4) as usize;
        // The result is a constant's broadcast but for one element: little is computed, all is read.
        let x = g.input("x", DType::F32, [1]);
        g.output("y", (x * 2.0).broadcast([n]));
        let plan = plan::plan(&g.finish()?, self.gpu.caps(), options)?;
        let mut store = Store::new(self.gpu.clone());
        let program = Program::load(plan, &mut store, &HashMap::<String, Array>::new(), &mut |_, _| {}).await?;
        self._stores.push(store);
        self.reads.push((bytes, program, vec![]));
        Ok(())
    }

    /// Times everything once.
    pub async fn round(&mut self) -> Result<()> {
        for p in &mut self.probes {
            p.times.push(run(&self.gpu, &p.program).await?);
        }
        for (_, program, times) in &mut self.reads {
            let start = Instant::now();
            program.step(&Bindings::new(), &[("x", Array::f32(&[1], &[1.0]))], &["y"]).await?;
            times.push(start.elapsed().as_secs_f64());
        }
        Ok(())
    }

    /// Seconds of a step beside its dispatches where it reads nothing, and for each byte that it reads.
    pub fn step(&self) -> (f64, f64) {
        let [(small, _, a), (large, _, b)] = &self.reads[..] else { return (0.0, 0.0) };
        let (a, b) = (median(a.clone()), median(b.clone()));
        let byte = ((b - a) / (large - small) as f64).max(0.0);
        (a, byte)
    }

    /// What was measured, of all rounds.
    pub fn rates(&self) -> Vec<Rate> {
        let (submit, _) = self.step();
        self.probes
            .iter()
            .map(|p| Rate {
                form: p.form.clone(),
                size: p.size,
                seconds: (median(p.times.clone()) - submit).max(1e-9) / p.repeat as f64,
            })
            .collect()
    }
}

async fn run(gpu: &Arc<Gpu>, program: &Program) -> Result<f64> {
    let start = Instant::now();
    program.again(&Bindings::new())?;
    gpu.done().await?;
    Ok(start.elapsed().as_secs_f64())
}

/// A form that a plan has, with one of its dispatches, and the smallest and largest size.
struct Wanted {
    form: String,
    op: &'static str,
    numbers: HashMap<&'static str, usize>,
    dtype: DType,
    masked: bool,
    sizes: (f64, f64),
}

/// Parameters that sizes are taken from.
const NUMBERS: [&str; 9] = ["m", "rows", "batch", "queries", "keys", "heads", "kv_heads", "width", "n"];

fn wanted(plans: &[(&Plan, &Bindings)]) -> Result<Vec<Wanted>> {
    let mut out: Vec<Wanted> = vec![];
    for (plan, bindings) in plans {
        for d in &plan.dispatches {
            let (form, size) = (plan.form(d), d.size(&d.work(bindings)?) as f64);
            let mut numbers = HashMap::new();
            for name in NUMBERS {
                numbers.extend(d.number(name, bindings)?.map(|v| (name, v as usize)));
            }
            // Products of one form may have few rows or many: each wants its own.
            let same = |w: &&mut Wanted| w.form == form && w.numbers.get("m") == numbers.get("m");
            if let Some(w) = out.iter_mut().find(same) {
                w.sizes = (w.sizes.0.min(size), w.sizes.1.max(size));
                continue;
            }
            let right = d.args.iter().find(|a| a.name == "b").map(|a| &plan.buffer(a.buffer).role);
            let dtype = if let Some(Role::Weight { dtype, .. }) = right { *dtype } else { DType::F32 };
            let masked = d.args.iter().any(|a| a.name == "mask");
            let anchors = ["matmul", "attention", "rms_norm", "layer_norm", "softmax", "gather"];
            let op = anchors.into_iter().find(|a| d.ops.contains(a)).unwrap_or(if form.ends_with("rearranged") {
                "rearranged"
            } else {
                "map"
            });
            out.push(Wanted { form, op, numbers, dtype, masked, sizes: (size, size) });
        }
    }
    Ok(out)
}

/// Rungs from the last below `low` to the first from `high` on.
fn around<T: Copy>(ladder: &[T], (low, high): (f64, f64), size: impl Fn(T) -> f64) -> Vec<T> {
    let from = ladder.iter().rposition(|t| size(*t) <= low).unwrap_or(0);
    let to = ladder.iter().position(|t| size(*t) >= high).unwrap_or(ladder.len() - 1);
    ladder[from..=to.max(from)].to_vec()
}

impl Wanted {
    fn of(&self, name: &str) -> usize {
        self.numbers.get(name).copied().unwrap_or(1).max(1)
    }

    /// Graphs whose plans have this form, at sizes around the plan's.
    fn graphs(&self) -> Result<Vec<Graph>> {
        let graph = |build: &dyn Fn(&GraphBuilder)| {
            let g = GraphBuilder::new();
            build(&g);
            g.finish()
        };
        match self.op {
            "matmul" => {
                let m = self.of("m");
                const LADDER: [(usize, usize); 6] =
                    [(256, 256), (512, 512), (1024, 1024), (4096, 1024), (16384, 1024), (65536, 1024)];
                let size = |(n, k)| 2.0 * (m * n * k) as f64;
                around(&LADDER, self.sizes, size)
                    .into_iter()
                    .map(|(n, k)| graph(&|g| self.products(g, m, n, k)))
                    .collect()
            }
            "attention" => {
                let (b, q, t, w) = (self.of("batch"), self.of("queries"), self.of("keys"), self.of("width"));
                let each = self.of("heads") / self.of("kv_heads");
                let size = |h: usize| 4.0 * (b * q * t * w * h * each) as f64;
                around(&[1, 4, 16, 64], self.sizes, size)
                    .into_iter()
                    .map(|h| graph(&|g| self.attention(g, (b, q, t), (h * each, h, w))))
                    .collect()
            }
            "rms_norm" | "layer_norm" | "softmax" => {
                let rows = self.of("rows");
                around(&[256usize, 1024, 4096], self.sizes, |c| 8.0 * (rows * c) as f64)
                    .into_iter()
                    .map(|c| graph(&|g| self.rows(g, rows, c)))
                    .collect()
            }
            "gather" => {
                let n = self.of("n");
                around(&[128usize, 512, 2048], self.sizes, |w| 8.0 * (n * w) as f64)
                    .into_iter()
                    .map(|w| graph(&|g| self.gather(g, n, w)))
                    .collect()
            }
            "rearranged" => around(&[1usize, 8, 64, 512, 4096], self.sizes, |n| 512.0 * n as f64)
                .into_iter()
                .map(|n| graph(&|g| rearranged(g, n)))
                .collect(),
            _ => around(&[64usize, 1024, 16384, 262144], self.sizes, |n| 12.0 * n as f64)
                .into_iter()
                .map(|n| graph(&|g| elementwise(g, n)))
                .collect(),
        }
    }

    fn products(&self, g: &GraphBuilder, m: usize, n: usize, k: usize) {
        for i in 0..COPIES {
            let x = g.input(&format!("x{i}"), DType::F32, [m, k]);
            let w = g.weight(&format!("w{i}"), self.dtype, [n, k]);
            g.output(&format!("y{i}"), x.matmul_t(w));
        }
    }

    fn attention(&self, g: &GraphBuilder, (b, q, t): (usize, usize, usize), (heads, kv, w): (usize, usize, usize)) {
        let x = g.input("q", DType::F32, [b, q, heads, w]);
        let (k, v) = (g.input("k", DType::F32, [b, t, kv, w]), g.input("v", DType::F32, [b, t, kv, w]));
        let mask = if self.masked { Some(g.input("mask", DType::Bool, [b, t]).reshape([b, 1, 1, t])) } else { None };
        let causal = if self.masked { None } else { Some((t.saturating_sub(q)).into()) };
        g.output("y", x.attention(k, v, mask, Attention { causal, ..Attention::scaled(0.125) }));
    }

    fn rows(&self, g: &GraphBuilder, rows: usize, cols: usize) {
        let x = g.input("x", DType::F32, [rows, cols]);
        let w = || g.weight("w", DType::F32, [cols]);
        g.output(
            "y",
            match self.op {
                "rms_norm" => x.rms_norm(w(), 1e-5),
                "layer_norm" => x.layer_norm(w(), g.weight("b", DType::F32, [cols]), 1e-5),
                _ => x.softmax(),
            },
        );
    }

    fn gather(&self, g: &GraphBuilder, n: usize, width: usize) {
        let ids = g.input("ids", DType::U32, [n]);
        g.output("y", g.weight("w", self.dtype, [1024, width]).gather(ids));
    }
}

/// Rotations of `n` heads of 64 on their way into a cache, as decoders have them.
fn rearranged(g: &GraphBuilder, n: usize) {
    let (rows, heads) = if n > 64 { (n / 8, 8) } else { (1, n) };
    let x = g.input("x", DType::F32, [rows, heads * 64]);
    let table = |name: &str| g.input(name, DType::F32, [rows, 32]);
    let y = x
        .reshape([rows, heads, 64])
        .rope(table("cos"), table("sin"), RopeLayout::Interleaved)
        .reshape([rows, heads * 64]);
    let state = g.state("cache", DType::F32, [rows, heads * 64]);
    g.output("y", state.append(y, 0).slice(0, 0, 1));
}

fn elementwise(g: &GraphBuilder, n: usize) {
    let (x, z): (Tensor, Tensor) = (g.input("x", DType::F32, [n]), g.input("z", DType::F32, [n]));
    g.output("y", x.silu() * z);
}

//! `simulate`: what a model would take on a machine.

mod compare;
mod here;
mod model;
mod plan;
mod queue;
mod train;

use super::{cluster, style};
use crate::base::units::Bytes;
use crate::base::{Error, Result};
use crate::simulate::compare::Comparison;
use crate::simulate::inference::{Mode, Serving, answering};
use crate::simulate::page;
use crate::simulate::report::{self, Prices};
use crate::simulate::search::{ablate, nearest, search};
use crate::simulate::{self, Chip, Layout, Recompute, Schedule, Shape, Step, software, whatif};
use crate::topology::{Mesh, Precision, Topology};
use crate::trace::Trace;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

#[derive(Args)]
pub struct Simulate {
    /// A preset (gpt3-175b, gpt-1t, llama-3-8b, llama-3-70b, llama-3-405b, mixtral-8x7b, deepseek-v3, mt-nlg-530b …), a config.json or its folder, a .gguf file, or a name of the catalogue; no weights needed
    model: String,
    /// A name of `cluster list`, or a .toml file
    #[arg(long, value_name = "MACHINE")]
    cluster: Option<String>,
    /// That many nodes instead of the file's
    #[arg(long, value_name = "N")]
    nodes: Option<usize>,
    /// Axes over all devices, such as pp=8,tp=8,dp=16; tensor ranks lie nearest, whatever the order [default: dp alone, or tp when serving]
    #[arg(long, value_name = "AXES")]
    mesh: Option<String>,
    /// Norms are shared between tensor ranks by tokens (plans; training does where its software did)
    #[arg(long)]
    sequence_parallel: bool,
    /// That many layers instead of the model's (not for plans that answer, which have the file's)
    #[arg(long, value_name = "N")]
    layers: Option<usize>,
    /// Change a figure of the machine first: device.hbm_bandwidth=8TB/s, link.bandwidth=x2 …
    #[arg(long, value_name = "FIGURE=VALUE")]
    set: Vec<String>,
    /// Number format of weights and products [default: bf16 where the device has it]
    #[arg(long, value_name = "FORMAT")]
    dtype: Option<Precision>,
    /// The software: megatron-core, megatron-core-26.06, nemo, fsdp2, torchtitan, llm-foundry, deepspeed-2021 train; trtllm, vllm, sglang serve; warpweft does both [default: megatron-core, or fsdp2 with --zero 3]
    #[arg(long, value_name = "NAME")]
    stack: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Dollars a device-hour
    #[arg(long, value_name = "USD")]
    price: Option<f64>,
    /// Grams of CO2 a kWh
    #[arg(long, value_name = "G")]
    carbon: Option<f64>,
    /// What one per cent more of each figure of the machine does to the time
    #[arg(long)]
    sensitivity: bool,
    /// Write what runs when as a Chrome/Perfetto trace
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Lay a measured trace (of `run --profile`) beside the predicted one, op by op
    #[arg(long, value_name = "TRACE")]
    compare: Option<PathBuf>,
    /// Write a page with timeline, roofline and memory
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    #[command(flatten)]
    here: here::Here,
    #[command(flatten)]
    plans: plan::Plans,
    #[command(flatten)]
    training: Training,
    #[command(flatten)]
    serving: ServingFlags,
}

/// How a training step is laid out.
#[derive(Args)]
#[command(next_help_heading = "Training")]
struct Training {
    /// Tokens a sequence
    #[arg(long, default_value_t = 2048, value_name = "N")]
    seq: usize,
    /// Sequences of a micro-batch [default: the fastest of 1, 2, 4, 8 that fits]
    #[arg(long, value_name = "N")]
    micro_batch: Option<usize>,
    /// Sequences a step [default: 1,536, or what divides]
    #[arg(long, value_name = "N")]
    global_batch: Option<usize>,
    /// Chunks of layers a stage (interleaving)
    #[arg(long, default_value_t = 1, value_name = "N")]
    chunks: usize,
    /// What is spread over data-parallel ranks: 1 optimiser, 2 gradients, 3 weights [default: as the stack does]
    #[arg(long, value_name = "0-3")]
    zero: Option<usize>,
    /// What is computed again [default: the least that fits]
    #[arg(long, value_enum)]
    recompute: Option<RecomputeFlag>,
    /// Order of passes along the pipeline
    #[arg(long, value_enum, default_value_t = ScheduleFlag::OneF1b)]
    schedule: ScheduleFlag,
    /// Norms and residuals whole on each tensor rank
    #[arg(long)]
    no_sequence_parallel: bool,
    /// Optimiser states on the host
    #[arg(long)]
    offload: bool,
    /// Tokens of the busiest expert rank over their mean
    #[arg(long, default_value_t = 1.0, value_name = "X")]
    imbalance: f64,
    /// Price a layout that does not fit the memory all the same
    #[arg(long)]
    anyway: bool,
    /// The best layouts of all: a front of time, memory and energy
    #[arg(long)]
    search: bool,
    /// What each trick of the layout is worth
    #[arg(long)]
    ablate: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum RecomputeFlag {
    None,
    Selective,
    Full,
}

impl From<RecomputeFlag> for Recompute {
    fn from(flag: RecomputeFlag) -> Recompute {
        match flag {
            RecomputeFlag::None => Recompute::None,
            RecomputeFlag::Selective => Recompute::Selective,
            RecomputeFlag::Full => Recompute::Full,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum ScheduleFlag {
    #[value(name = "1f1b")]
    OneF1b,
    ZeroBubble,
}

/// Serving instead of training.
#[derive(Args)]
#[command(next_help_heading = "Serving")]
struct ServingFlags {
    /// Answer requests instead of training
    #[arg(long, value_enum, value_name = "MODE")]
    serve: Option<ModeFlag>,
    /// Sequences at once a copy [default: what fits]
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Requests a second of all copies, for continuous batches [default: as many as can be answered]
    #[arg(long, value_name = "R", requires = "serve")]
    load: Option<f64>,
    /// Requests at once, each followed by the next; with --serve continuous
    #[arg(long, value_name = "N", requires = "serve", conflicts_with = "load")]
    concurrency: Option<usize>,
    /// Prompts are read on devices of their own, spread so (tp=2,dp=4: four engines of two); with --concurrency or --load
    #[arg(long, value_name = "AXES", requires = "serve")]
    prefill: Option<String>,
    /// Tokens of a prompt
    #[arg(long, default_value_t = 1024, value_name = "N")]
    input: usize,
    /// Tokens of an answer
    #[arg(long, default_value_t = 256, value_name = "N")]
    output: usize,
    /// Number format of cached keys and values [default: as the weights]
    #[arg(long, value_name = "FORMAT")]
    kv_dtype: Option<Precision>,
}

#[derive(Clone, Copy, ValueEnum)]
enum ModeFlag {
    Static,
    Continuous,
    Prefill,
    Decode,
}

impl Simulate {
    pub async fn run(&self) -> Result<()> {
        if self.here.here {
            return self.predict_here().await;
        }
        let name = self.cluster.as_deref().ok_or_else(|| {
            Error::usage("--cluster is missing: name a machine of `cluster list` or a .toml file, or take --here")
        })?;
        let mut topology = cluster::open(name)?;
        if let Some(n) = self.nodes {
            topology = topology.with_nodes(n)?;
        }
        for change in &self.set {
            whatif::set(&mut topology, change)?;
        }
        for (what, v) in [("--price", self.price), ("--carbon", self.carbon)] {
            if v.is_some_and(|v| !v.is_finite() || v < 0.0) {
                return Err(Error::usage(format!("{what} must be zero or more")));
            }
        }
        if self.plans.plan {
            return self.price_plan(&topology);
        }
        let shape = self.shape()?;
        match self.serving.serve {
            Some(mode) => self.serve(&shape, &topology, mode),
            None => self.train(&shape, &topology),
        }
    }

    fn prices(&self) -> Prices {
        Prices { device_hour: self.price, carbon: self.carbon }
    }

    fn print(
        &self,
        compared: Option<Comparison>,
        text: impl FnOnce() -> String,
        json: impl FnOnce() -> serde_json::Value,
    ) {
        let beside = || compared.as_ref().map_or(String::new(), Comparison::text);
        if !self.json {
            style::out(&(text() + &beside()));
            return;
        }
        let mut out = json();
        if let (Some(c), Some(object)) = (&compared, out.as_object_mut()) {
            object.insert("compared".into(), c.json());
        }
        style::out(&format!("{out:#}\n"));
    }

    /// What --trace, --html and --compare ask for.
    fn pictures(
        &self,
        trace: &dyn Fn() -> Result<Trace>,
        page: &dyn Fn() -> Result<String>,
    ) -> Result<Option<Comparison>> {
        let write = |path: &PathBuf, text: String| {
            std::fs::write(path, text).map_err(|e| Error::file(path, format!("cannot be written: {e}")))
        };
        if let Some(path) = &self.trace {
            let trace = trace()?;
            write(path, trace.to_json())?;
            style::note(&format!("wrote {} spans to {}", trace.spans.len(), path.display()));
        }
        if let Some(path) = &self.html {
            write(path, page()?)?;
            style::note(&format!("wrote {}", path.display()));
        }
        self.compare.as_ref().map(|path| compare::against(&trace()?, path)).transpose()
    }

    fn layout(&self, shape: &Shape, topology: &Topology) -> Result<Layout> {
        let t = &self.training;
        let mesh = match &self.mesh {
            Some(text) => Mesh::parse(text)?,
            None => Mesh::parse(&format!("dp={}", topology.devices()))?,
        };
        if !t.search {
            mesh.fit(topology.devices()).map_err(|e| nearer(&mesh, topology, e))?;
            whole_heads(shape, mesh.size("tp"))?;
        }
        let chip = Chip::new(topology.slowest())?;
        let named = self.stack.as_deref().unwrap_or(software::training_default(t.zero));
        let soft = software::named(named)?.trains(&chip.constants.generation, &shape.name)?;
        let zero = t.zero.unwrap_or(soft.zero);
        let base = Layout::single(t.seq).with_mesh(&mesh);
        let each =
            base.dp.saturating_mul(t.micro_batch.unwrap_or(1)).saturating_mul(if t.chunks > 1 { base.pp } else { 1 });
        // A size of nothing is refused with the layout.
        let unit = if t.search { 1 } else { each.max(1) };
        let global_batch = t.global_batch.unwrap_or(1536usize.div_ceil(unit).saturating_mul(unit));
        let layout = Layout {
            chunks: t.chunks,
            zero,
            sequence_parallel: base.tp > 1 && !t.no_sequence_parallel && (soft.sequence_parallel || t.search),
            micro_batch: t.micro_batch.unwrap_or(1),
            global_batch,
            precision: self.precision(&chip),
            offload: t.offload,
            imbalance: t.imbalance,
            stack: soft.stack,
            schedule: match t.schedule {
                ScheduleFlag::OneF1b => Schedule::OneForwardOneBackward,
                ScheduleFlag::ZeroBubble => Schedule::ZeroBubble,
            },
            ..base
        };
        if t.search {
            return Ok(layout);
        }
        self.settle(shape, topology, &chip, layout)
    }

    /// Fills in what was left open: the fastest that fits of micro-batches and ways to recompute; where none fits, the last.
    fn settle(&self, shape: &Shape, topology: &Topology, chip: &Chip, layout: Layout) -> Result<Layout> {
        let ways = self
            .training
            .recompute
            .map_or(vec![Recompute::None, Recompute::Selective, Recompute::Full], |r| vec![r.into()]);
        let sizes = self.training.micro_batch.map_or(vec![1, 2, 4, 8], |m| vec![m]);
        let all: Vec<Layout> = ways
            .iter()
            .flat_map(|r| sizes.iter().map(|m| Layout { micro_batch: *m, recompute: *r, ..layout.clone() }))
            .collect();
        let fits =
            |s: &Step| s.memory.iter().all(|m| m.total().0 + chip.constants.runtime.context.0 <= chip.device.memory.0);
        let priced = all
            .iter()
            .filter(|l| l.check(shape).is_ok())
            .filter_map(|l| simulate::step_on(shape, topology, l, chip).ok().map(|s| (l, s)));
        let best = priced.filter(|p| fits(&p.1)).min_by(|a, b| a.1.seconds.0.total_cmp(&b.1.seconds.0));
        Ok(best.map_or(Layout { recompute: ways[ways.len() - 1], micro_batch: sizes[0], ..layout.clone() }, |b| {
            b.0.clone()
        }))
    }

    /// A layout that cannot be, with the nearest that can.
    fn check_memory(&self, shape: &Shape, topology: &Topology, layout: &Layout, step: &Step) -> Result<()> {
        let held = topology.slowest().memory.0;
        let (stage, need) = step
            .memory
            .iter()
            .map(|m| m.total().0)
            .enumerate()
            .fold((0, 0.0), |most, s| if s.1 > most.1 { s } else { most });
        if need <= held {
            return Ok(());
        }
        let all = |l: &Layout, nodes: usize| {
            let at = if nodes > topology.nodes { format!("--nodes {nodes} ") } else { String::new() };
            let ep = if l.ep > 1 { format!(",ep={}", l.ep) } else { String::new() };
            let recompute = l.recompute.name();
            let order = match (l.chunks, l.schedule) {
                (1, Schedule::ZeroBubble) => " --schedule zero-bubble".to_string(),
                (1, _) => String::new(),
                (chunks, _) => format!(" --chunks {chunks}"),
            };
            let cp = if l.cp > 1 { format!(",cp={}", l.cp) } else { String::new() };
            format!(
                "{at}--mesh pp={},dp={}{ep}{cp},tp={} --micro-batch {} --recompute {recompute} --zero {}{order} does",
                l.pp,
                l.dp / l.ep,
                l.tp,
                l.micro_batch,
                l.zero
            )
        };
        let near = nearest(shape, topology, layout)
            .map_or("no layout of up to 64 times as many nodes does".into(), |(nodes, l)| all(&l, nodes));
        let (need, held) = (Bytes(need), Bytes(held));
        Err(Error::usage(format!(
            "{} does not fit: stage {stage} of {} takes {need} of {held} per device; {near}; --anyway prices it all the same",
            shape.name, layout.pp
        )))
    }

    fn precision(&self, chip: &Chip) -> Precision {
        let has = |p: Precision| chip.device.peak.iter().any(|q| q.0 == p);
        self.dtype.unwrap_or(if has(Precision::Bf16) { Precision::Bf16 } else { Precision::Fp16 })
    }

    fn train(&self, shape: &Shape, topology: &Topology) -> Result<()> {
        let layout = self.layout(shape, topology)?;
        let t = &self.training;
        if t.search {
            let (found, tried) = search(shape, topology, &layout)?;
            self.print(None, || report::search_text(&found, tried), || report::search_json(&found, tried));
            return Ok(());
        }
        let step = simulate::step(shape, topology, &layout)?;
        if !t.anyway {
            self.check_memory(shape, topology, &layout, &step)?;
        }
        let mut more = String::new();
        if self.sensitivity {
            let seconds = |t: &Topology| Ok(simulate::step(shape, t, &layout)?.seconds.0);
            more += &sensitivity(topology, &seconds)?;
        }
        if t.ablate {
            more += "\nwithout                              step            memory          energy\n";
            let bytes = |s: &Step| s.memory.iter().map(|m| m.total().0).fold(0.0, f64::max);
            let percent = |new: f64, old: f64| format!("{:+.1} %", 100.0 * (new / old - 1.0));
            for w in ablate(shape, topology, &layout)? {
                let s = &w.step;
                more += &format!(
                    "{:<36} {:<15} {:<15} {}\n",
                    w.what,
                    percent(s.seconds.0, step.seconds.0),
                    percent(bytes(s), bytes(&step)),
                    percent(s.energy.joules.0, step.energy.joules.0)
                );
            }
        }
        let trace = || simulate::trace(&layout, &step);
        let page = || Ok(page::training(shape, topology, &layout, &step, &trace()?)?.html());
        let compared = self.pictures(&trace, &page)?;
        self.print(
            compared,
            || report::training_text(shape, topology, &layout, &step, self.prices()) + &more,
            || report::training_json(shape, topology, &layout, &step),
        );
        Ok(())
    }

    fn serve(&self, shape: &Shape, topology: &Topology, mode: ModeFlag) -> Result<()> {
        let devices = topology.devices();
        let mesh = match &self.mesh {
            Some(text) => Mesh::parse(text)?,
            None => Mesh::parse(&format!("tp={}", topology.devices_per_node().min(devices)))?,
        };
        let chip = Chip::new(topology.slowest())?;
        let precision = self.precision(&chip);
        let f = &self.serving;
        let serving = Serving {
            tp: mesh.size("tp"),
            pp: mesh.size("pp"),
            ep: mesh.size("ep"),
            replicas: mesh.size("dp"),
            precision,
            kv_precision: f.kv_dtype.unwrap_or(if precision.bytes() < 2.0 { Precision::Fp8 } else { precision }),
            batch: f.batch,
            input: f.input,
            output: f.output,
            mode: match mode {
                ModeFlag::Static => Mode::Static,
                ModeFlag::Continuous => Mode::Continuous,
                ModeFlag::Prefill => Mode::Prefill,
                ModeFlag::Decode => Mode::Decode,
            },
            cache_share: 0.95,
            load: f.load,
        };
        let a = answering(shape, topology, &serving)?;
        let queued = self.queued(shape, topology, &serving)?;
        let mut more = queued.as_ref().map_or(String::new(), report::queue_text);
        if self.sensitivity {
            more += &sensitivity(topology, &|t| Ok(1.0 / answering(shape, t, &serving)?.tokens_per_second))?;
        }
        let trace = simulate::serving_trace(&a);
        let page = || Ok(page::serving(shape, topology, precision, &a, &trace)?.html());
        let compared = self.pictures(&|| Ok(trace.clone()), &page)?;
        self.print(
            compared,
            || report::serving_text(shape, topology, &a, self.prices()) + &more,
            || report::serving_json(shape, topology, &a, queued.as_ref()),
        );
        Ok(())
    }
}

/// A mesh that is not of the machine's size, with one that is.
fn nearer(mesh: &Mesh, topology: &Topology, e: Error) -> Error {
    let (ranks, devices, per_node) = (mesh.ranks(), topology.devices(), topology.devices_per_node());
    if ranks < devices && devices % ranks == 0 {
        let axes = mesh.axes().iter().filter(|a| a.0 != "dp").map(|(a, n)| format!(",{a}={n}")).collect::<String>();
        return Error::usage(format!("{e}; --mesh dp={}{axes} fills them", mesh.size("dp") * devices / ranks));
    }
    if ranks % per_node == 0 {
        return Error::usage(format!("{e}; --nodes {} has as many", ranks / per_node));
    }
    let ways = (1..=ranks).rev().find(|n| devices % n == 0).unwrap_or(1);
    Error::usage(format!("{e}; the nearest size that divides them is {ways}"))
}

/// Tensor ranks that would share heads.
fn whole_heads(shape: &Shape, tp: usize) -> Result<()> {
    if shape.heads.is_multiple_of(tp) {
        return Ok(());
    }
    let near = |mut all: Box<dyn Iterator<Item = usize>>| all.find(|t| shape.heads.is_multiple_of(*t)).unwrap_or(1);
    let (below, above) =
        (near(Box::new((1..tp.min(shape.heads)).rev())), near(Box::new(tp.min(shape.heads)..=shape.heads)));
    Err(Error::usage(format!(
        "tp={tp} does not divide the {} heads of {}: tp={below} or tp={above} would",
        shape.heads, shape.name
    )))
}

fn sensitivity(topology: &Topology, seconds: &dyn Fn(&Topology) -> Result<f64>) -> Result<String> {
    let mut out = String::from("\none per cent more of           changes the time by\n");
    for (figure, per_cent) in whatif::sensitivities(topology, seconds)? {
        out += &format!("{figure:<30} {per_cent:+.3} %\n");
    }
    Ok(out)
}

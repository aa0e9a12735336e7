//! `devices`, `inspect`, `plan` and `tune`: what people ask before they wait.

use super::interrupt::Interrupt;
use super::{Cache, Place, fetch, style};
use crate::base::{AdapterKind, Bindings, Caps, Error, Result, plain};
use crate::device::{Gpu, adapters, probe};
use crate::model::{Model, ModelSource};
use crate::plan::{Options, Plan};
use crate::session::{self, DeviceChoice, Layout, pick};
use clap::Args;
use std::sync::Arc;

#[derive(Args)]
pub struct Devices {
    /// Measure each adapter too: FMA rate, bandwidth, cost of a submission and of a dispatch
    #[arg(long)]
    probe: bool,
}

impl Devices {
    pub async fn run(&self) -> Result<()> {
        let all = adapters().await;
        for (i, a) in all.iter().enumerate() {
            let c = &a.caps;
            let kind = match c.kind {
                AdapterKind::Discrete => "discrete GPU",
                AdapterKind::Integrated => "integrated GPU",
                AdapterKind::Other => "virtual or unknown GPU",
                AdapterKind::Software => "software: shaders run on the CPU",
            };
            let yes = |b: bool| if b { "yes" } else { "no" };
            let subgroups = if c.subgroup > 0 { format!("yes, {} wide", c.subgroup) } else { "no".into() };
            let cooperative = if a.cooperative.is_empty() { "no".into() } else { a.cooperative.join("; ") };
            let text = format!(
                "{i}: {}\n    backend              {}, {}\n    kind                 {kind}\n    buffers              up to {}, {} a binding, {} bindings\n    workgroups           {} invocations, {} of memory\n    f16                  {}\n    subgroups            {subgroups}\n    cooperative matrices {cooperative}\n    timestamps           {}\n",
                a.name,
                a.backend,
                if a.driver.is_empty() { "driver unnamed" } else { &a.driver },
                style::bytes(c.buffer_bytes),
                style::bytes(c.binding_bytes),
                c.storage_buffers,
                c.invocations,
                style::bytes(c.workgroup_bytes as u64),
                yes(c.f16),
                yes(c.timestamps)
            );
            if !style::out(&text) {
                return Ok(());
            }
            if self.probe {
                let p = probe(&Arc::new(Gpu::open(i).await?)).await?;
                style::out(&format!(
                    "    measured             {:.1} GFLOP/s f32, {:.1} GB/s, {:.0} µs per submission, {:.1} µs per dispatch\n",
                    p.flops / 1e9,
                    p.bandwidth / 1e9,
                    p.submit * 1e6,
                    p.dispatch * 1e6
                ));
            }
        }
        if all.is_empty() {
            style::note("no adapter: models run on the CPU fallback (cpu)");
        }
        style::out(&format!(
            "cpu: the CPU fallback, {} threads\n",
            std::thread::available_parallelism().map_or(1, |n| n.get())
        ));
        Ok(())
    }
}

#[derive(Args)]
pub struct Inspect {
    /// A name of the catalogue (see `models`), a .gguf file, or a model folder
    model: String,
    /// Name every tensor
    #[arg(long)]
    tensors: bool,
    #[command(flatten)]
    place: Place,
}

impl Inspect {
    pub async fn run(&self) -> Result<()> {
        let path = fetch::resolve(&self.model, &self.place.cache, &Interrupt::new())?;
        let source = ModelSource::open(path)?;
        let mut text = format!("{}\n", plain(&source.path().display().to_string(), 1024));
        for (key, value) in source.gguf().iter().flat_map(|g| &g.metadata) {
            text += &format!("  {:<42} {value}\n", plain(key, 160));
        }
        let mut kinds: Vec<(&str, usize, u64)> = vec![];
        for t in source.tensors() {
            match kinds.iter_mut().find(|k| k.0 == t.ty.name()) {
                Some(k) => (k.1, k.2) = (k.1 + 1, k.2 + t.bytes),
                None => kinds.push((t.ty.name(), 1, t.bytes)),
            }
            if self.tensors {
                text += &format!(
                    "  {:<42} {:<6} {:?}  {}\n",
                    plain(&t.name, 160),
                    t.ty.name(),
                    t.shape,
                    style::bytes(t.bytes)
                );
            }
        }
        for (name, n, bytes) in kinds {
            text +=
                &format!("  {n} {} of {name}: {}\n", if n == 1 { "tensor" } else { "tensors" }, style::bytes(bytes));
        }
        style::out(&text);
        let model = Model::new(source)?;
        let info = model.info();
        style::out(&format!(
            "{} parameters in {} layers of width {}, vocabulary {}, context {}; weights {}, {} per token of context\n",
            info.parameters,
            info.layers,
            info.width,
            info.vocab,
            info.context,
            style::bytes(info.weight_bytes),
            style::bytes(info.state_bytes_per_token)
        ));
        if info.state_bytes_per_sequence > 0 {
            let own = style::bytes(info.state_bytes_per_sequence);
            style::out(&format!("{own} per sequence of whatever length (recurrent states)\n"));
        }
        kept(&model, &self.place)?;
        outlook(&model, &self.place).await
    }
}

/// What `--kv` makes of the bytes of keys and values.
fn kept(model: &Model, place: &Place) -> Result<()> {
    let (Some(kv), true) = (place.kv, model.check_generates().is_ok()) else { return Ok(()) };
    let context = place.ctx.unwrap_or(model.info().context.min(4096)) as u64;
    let bytes = |kv| style::bytes(context * model.kv_bytes_per_token(kv));
    let (kv_bytes, all) = (bytes(kv), bytes(crate::base::DType::F32));
    style::out(&format!("keys and values of {context} tokens in {kv}: {kv_bytes}, in f32: {all}\n"));
    Ok(())
}

/// The variables of the step that `plan` and `inspect` speak of: one token (or one short text), half of the context.
fn typical(model: &Model, place: &Place) -> Result<(crate::graph::Graph, Bindings, usize)> {
    let info = model.info();
    let context = place.ctx.unwrap_or(info.context.min(4096));
    if context == 0 || context > info.context {
        return Err(Error::usage(format!(
            "the context is {context} tokens, {} was made for 1 to {}",
            info.name, info.context
        )));
    }
    let (graph, bindings) = model.typical_step(context)?;
    Ok((graph, bindings, context))
}

async fn device_caps(choice: &DeviceChoice) -> Result<(Caps, String, Option<Arc<Gpu>>)> {
    // What an adapter could do is asked of the software one, too, where it is the only one.
    let choice = match choice {
        DeviceChoice::Auto if !adapters().await.is_empty() => &DeviceChoice::Index(0),
        other => other,
    };
    let picked = pick(choice).await?;
    Ok(match picked.gpu {
        Some(gpu) => (gpu.caps().clone(), gpu.report.name.clone(), Some(gpu)),
        None => (Caps::FLOOR, "the floor that all devices have".into(), None),
    })
}

/// Whether it fits the adapter, and how fast a step could be at best.
async fn outlook(model: &Model, place: &Place) -> Result<()> {
    let (graph, bindings, context) = typical(model, place)?;
    let (caps, name, gpu) = device_caps(&place.device).await?;
    let mut options = Options::for_caps(&caps);
    options.precision = place.precision;
    let plan = match crate::plan::plan(&graph, &caps, &options) {
        Ok(plan) => plan,
        Err(e) => {
            style::out(&format!("does not fit {name} at a context of {context}: {e}\n"));
            return Ok(());
        }
    };
    let (flops, bytes) = plan.work(&bindings)?;
    style::out(&format!(
        "fits {name}: every buffer is within its limits, {} in all at a context of {context}\na step of {bindings}: {} dispatches, {:.3} GFLOP, {} moved\n",
        style::bytes(plan.total_bytes()),
        plan.dispatches.len(),
        flops as f64 / 1e9,
        style::bytes(bytes)
    ));
    match gpu {
        Some(gpu) => at_best(&plan, &bindings, &gpu).await,
        None => Ok(()),
    }
}

/// How fast a step could be: its work over what the adapter measures.
async fn at_best(plan: &Plan, bindings: &Bindings, gpu: &Arc<Gpu>) -> Result<()> {
    let ((flops, bytes), p) = (plan.work(bindings)?, probe(gpu).await?);
    let floor =
        (flops as f64 / p.flops).max(bytes as f64 / p.bandwidth) + p.submit + p.dispatch * plan.dispatches.len() as f64;
    style::out(&format!(
        "at best {:.1} ms per step, {:.1} per second (measured: {:.1} GFLOP/s, {:.1} GB/s, {:.1} µs per dispatch)\n",
        floor * 1e3,
        1.0 / floor,
        p.flops / 1e9,
        p.bandwidth / 1e9,
        p.dispatch * 1e6
    ));
    Ok(())
}

#[derive(Args)]
pub struct PlanCommand {
    /// A name of the catalogue (see `models`), a .gguf file, or a model folder
    model: String,
    /// Plan for the least that any browser or phone has
    #[arg(long)]
    floor: bool,
    /// Print the filled WGSL of kernel number K instead
    #[arg(long, value_name = "K")]
    wgsl: Option<usize>,
    /// With --mesh: each value's placement, each collective and why it is there
    #[arg(long)]
    explain: bool,
    #[command(flatten)]
    place: Place,
}

impl PlanCommand {
    pub async fn run(&self) -> Result<()> {
        let path = fetch::resolve(&self.model, &self.place.cache, &Interrupt::new())?;
        let model = Model::new(ModelSource::open(path)?)?;
        let layout = self.place.spread.layout()?;
        if self.explain && layout.mesh.axes().is_empty() {
            return Err(crate::base::Error::usage("--explain tells of a mesh: give one, such as --mesh tp=4"));
        }
        let (graph, bindings, context) = typical(&model, &self.place)?;
        let (caps, name, gpu) =
            if self.floor { (Caps::FLOOR, "the floor".into(), None) } else { device_caps(&self.place.device).await? };
        let mut options = Options::for_caps(&caps);
        options.precision = self.place.precision;
        if let Some(known) = gpu.as_deref().and_then(|g| self.known_tuning(g)) {
            options.tuning = known;
        }
        if !layout.mesh.axes().is_empty() {
            return self.sharded(&model, context, &layout, (&caps, &options), &bindings);
        }
        let plan: Plan = crate::plan::plan(&graph, &caps, &options)?;
        if let Some(k) = self.wgsl {
            let kernel = plan
                .kernels
                .get(k)
                .ok_or_else(|| Error::usage(format!("there is no kernel {k}: the plan has {}", plan.kernels.len())))?;
            style::out(&kernel.source()?);
            return Ok(());
        }
        kept(&model, &self.place)?;
        let (flops, bytes) = plan.work(&bindings)?;
        if !style::out(&format!("{plan}for {name}; a step of {bindings}: {flops} FLOP, {bytes} B\n")) {
            return Ok(());
        }
        match gpu {
            Some(gpu) => at_best(&plan, &bindings, &gpu).await,
            None => Ok(()),
        }
    }

    /// The plan of each kind of rank, and what travels between them.
    fn sharded(
        &self,
        model: &Model,
        context: usize,
        layout: &Layout,
        (caps, options): (&Caps, &Options),
        bindings: &Bindings,
    ) -> Result<()> {
        // The step that `typical` binds.
        let tokens = if model.check_generates().is_ok() { 1 } else { context.min(256) };
        let sharded = session::sharded(model, context, tokens, layout)?;
        if self.explain {
            style::out(&sharded.explain());
            return Ok(());
        }
        let (mut sent, mut seen) = (crate::plan::Facts::default(), std::collections::HashSet::new());
        for (c, class) in sharded.classes.iter().enumerate() {
            let ranks: Vec<usize> = (0..sharded.ranks()).filter(|r| sharded.class_of[*r] == c).collect();
            let plan = crate::plan::plan(&class.graph, caps, options)?;
            style::out(&format!("ranks {ranks:?}, stage {}\n{plan}\n", class.stage));
            for rank in ranks {
                let own = sharded.bindings(rank, bindings)?;
                for t in &plan.transfers {
                    if seen.insert((t.how.tag, sharded.group(rank, t.how.over), t.exchange)) {
                        let f = t.facts(&own, &session::policy(layout))?;
                        sent.messages += f.messages;
                        sent.bytes += f.bytes;
                        sent.flops += f.flops;
                    }
                }
            }
        }
        style::out(&format!(
            "{} ranks of {} kinds; a step of {bindings} sends {} in {} messages and adds {} numbers on the way\n",
            sharded.ranks(),
            sharded.classes.len(),
            style::bytes(sent.bytes),
            sent.messages,
            sent.flops
        ));
        Ok(())
    }

    fn known_tuning(&self, gpu: &Gpu) -> Option<crate::plan::Tuning> {
        session::load_tuning(gpu, &self.place.cache.folder().ok()?)
    }
}

#[derive(Args)]
pub struct Tune {
    /// An adapter's index (see `devices`) or a part of its name
    #[arg(long, default_value = "0", value_name = "WHICH")]
    device: DeviceChoice,
    #[command(flatten)]
    cache: Cache,
}

impl Tune {
    pub async fn run(&self) -> Result<()> {
        let Some(gpu) = pick(&self.device).await?.gpu else {
            style::note("the CPU fallback has nothing to tune");
            return Ok(());
        };
        let mut tell = |line: &str| {
            style::out(&format!("{line}\n"));
        };
        let tuning = session::tune(&gpu, &mut tell).await?;
        session::save_tuning(&gpu, &self.cache.folder()?, &tuning)
    }
}

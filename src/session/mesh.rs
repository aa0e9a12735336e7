//! An engine over the ranks of a mesh: virtual devices, several adapters, several processes, or the CPU.

use super::choose::picked;
use super::trust::trusted;
use super::{DeviceChoice, Notice, Options, tune};
use crate::base::{Array, Bindings, Error, MeshAxis, Precision, Result, Var, Weights};
use crate::device::cluster::{RankPlan, Traffic, Watch};
use crate::device::{Cluster, Gpu, Nobody, Store, Transport};
use crate::graph::Graph;
use crate::model::{Model, StepShape};
use crate::plan::shard::{Sharded, shard, shard_in_stages};
use crate::plan::{self, Plan, Policy};
use crate::reference::{Ranks, output_of};
use crate::topology::Mesh;
use crate::topology::collective::Algorithm;
use crate::trace::Trace;
use std::path::Path;
use std::sync::Arc;

/// The most ranks that one program runs or plans.
const MOST_RANKS: usize = 1024;

/// Reads axes such as `pp=2,tp=3`.
pub fn mesh(text: &str) -> Result<Mesh> {
    Mesh::parse(text)
}

/// Reads the name of a collective algorithm.
pub fn algorithm(text: &str) -> Result<Algorithm> {
    text.parse()
}

/// A step of up to `tokens` tokens over a mesh: a decoder's, or an encoder's of one text.
pub fn sharded(model: &Model, context: usize, tokens: usize, layout: &Layout) -> Result<Sharded> {
    layout.check(model, context)?;
    let seq = Var::new("seq", tokens as u32);
    if model.check_generates().is_err() {
        return shard(&model.embed_graph(Var::new("batch", 1), seq)?, &layout.axes()?);
    }
    let total = Var::new("total", context as u32);
    let step =
        StepShape { seq: seq.into(), total, context, last_only: true, sequence_parallel: layout.sequence_parallel };
    shard(&model.step_graph(&step)?, &layout.axes()?)
}

/// How the layout's collectives are done.
pub fn policy(layout: &Layout) -> Policy {
    Policy { algorithm: layout.algorithm, ..Policy::default() }
}

/// How a model is laid out over several ranks.
///
/// ```
/// use warpweft::{Device, Layout, Options};
///
/// let layout = Layout::over("pp=2,tp=3")?.sequence_parallel(true);
/// let options = Options::new().device(Device::Cpu).layout(layout);
/// assert!(!options.layout.is_single());
/// assert!(Layout::over("tp=").is_err());
/// # Ok::<(), warpweft::Error>(())
/// ```
#[derive(Debug, Clone)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct Layout {
    /// Axes with their sizes, such as `pp=2,tp=3`.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub mesh: Mesh,
    /// The adapter of each rank; empty puts all on the chosen one, as virtual devices.
    pub devices: Vec<DeviceChoice>,
    /// One algorithm for every collective that it can do; else the cheapest for each.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub algorithm: Option<Algorithm>,
    /// Tensor ranks share the norms between blocks by tokens.
    pub sequence_parallel: bool,
    /// One rank a process, under MPI's launcher.
    pub processes: bool,
}

impl Default for Layout {
    fn default() -> Self {
        Layout { mesh: Mesh::single(), devices: vec![], algorithm: None, sequence_parallel: false, processes: false }
    }
}

impl Layout {
    /// The mesh of these axes and sizes, such as `pp=2,tp=3`.
    ///
    /// # Errors
    /// Axes that no mesh has, sizes that are no numbers.
    pub fn over(axes: &str) -> Result<Layout> {
        Ok(Layout { mesh: mesh(axes)?, ..Layout::default() })
    }
    /// Sets the adapter of each rank.
    #[must_use]
    pub fn devices(self, devices: Vec<DeviceChoice>) -> Layout {
        Layout { devices, ..self }
    }
    /// Sets the algorithm of every collective that it can do, by its name: `ring`, `tree` and others.
    ///
    /// # Errors
    /// A name that no algorithm has.
    pub fn algorithm(self, name: &str) -> Result<Layout> {
        Ok(Layout { algorithm: Some(algorithm(name)?), ..self })
    }
    /// Sets [`Layout::sequence_parallel`].
    #[must_use]
    pub fn sequence_parallel(self, on: bool) -> Layout {
        Layout { sequence_parallel: on, ..self }
    }
    /// Sets [`Layout::processes`].
    #[must_use]
    pub fn processes(self, on: bool) -> Layout {
        Layout { processes: on, ..self }
    }
    /// Axes and their sizes.
    ///
    /// # Errors
    /// An axis that meshes do not have.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn axes(&self) -> Result<Vec<(MeshAxis, usize)>> {
        self.mesh.axes().iter().map(|(name, n)| Ok((MeshAxis::find(name)?, *n))).collect()
    }
    /// # Errors
    /// More ranks than one program can plan, more context ranks than tokens, expert ranks of a model without experts.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn check(&self, model: &Model, context: usize) -> Result<()> {
        let (ranks, mesh) = (self.mesh.ranks(), &self.mesh);
        if ranks > MOST_RANKS {
            let hint = "simulate predicts larger machines";
            return Err(Error::usage(format!(
                "mesh {mesh} has {ranks} ranks, at most {MOST_RANKS} can be run or planned: {hint}"
            )));
        }
        let split = self.mesh.size("cp").max(self.mesh.size("sp"));
        if split > context {
            return Err(Error::usage(format!(
                "mesh {mesh} splits the sequence over {split} ranks, the context has {context} tokens"
            )));
        }
        let expert = |name: &str| name.contains("_exps") || name.contains(".experts.");
        if self.mesh.size("ep") > 1 && !model.source.tensors().iter().any(|t| expert(&t.name)) {
            return Err(Error::usage(format!("mesh {mesh} has expert ranks (ep), {} has no experts", model.name)));
        }
        Ok(())
    }
    /// Whether there is more to it than one device.
    pub fn is_single(&self) -> bool {
        self.mesh.axes().is_empty() && self.devices.is_empty() && !self.processes
    }
}

/// Ranks of a mesh, loaded.
pub(super) struct MeshEngine {
    /// One a graph; seats are the same.
    sharded: Vec<Sharded>,
    runner: Runner,
    /// What all steps sent.
    traffic: Traffic,
    /// Whether steps take times, and those of the last one.
    timed: bool,
    last: Option<Trace>,
    adapter: String,
}

enum Runner {
    Devices { clusters: Vec<Cluster>, stores: Vec<Store>, local: Vec<usize>, transport: Box<dyn Transport> },
    Cpu(Box<Ranks<f32>>),
}

/// Whether the ranks run on devices; the fallback needs only the first graph.
pub(super) async fn pick_all(
    options: &Options,
    local: &[usize],
    notify: &mut dyn FnMut(Notice),
) -> Result<Vec<Option<Arc<Gpu>>>> {
    let layout = &options.layout;
    let ranks = layout.mesh.ranks();
    if !layout.devices.is_empty() && layout.devices.len() != ranks {
        return Err(Error::usage(format!(
            "--devices names {} devices, mesh {} has {ranks} ranks: name one a rank",
            layout.devices.len(),
            layout.mesh
        )));
    }
    let mut known: Vec<(DeviceChoice, Option<Arc<Gpu>>)> = vec![];
    let mut out = vec![];
    for rank in local {
        let choice = layout.devices.get(*rank).unwrap_or(&options.device).clone();
        if let Some((_, gpu)) = known.iter().find(|k| k.0 == choice) {
            out.push(gpu.clone());
            continue;
        }
        let gpu = picked(&choice, options, notify).await?;
        out.push(gpu.clone());
        known.push((choice, gpu));
    }
    let on_cpu = out.iter().filter(|g| g.is_none()).count();
    if on_cpu > 0 && on_cpu < out.len() {
        return Err(Error::usage(
            "some ranks are on adapters and some on the CPU fallback: a mesh is on one or the other",
        ));
    }
    Ok(out)
}

impl MeshEngine {
    /// Loads this process' ranks (`local`, one of `gpus` each) of the graphs.
    ///
    /// # Errors
    /// A mesh that the graph does not fit; those of loading a program.
    pub async fn new(
        options: &Options,
        (local, gpus): (Vec<usize>, Vec<Option<Arc<Gpu>>>),
        graphs: &[Graph],
        weights: &dyn Weights,
        transport: Option<Box<dyn Transport>>,
        notify: &mut dyn FnMut(Notice),
    ) -> Result<MeshEngine> {
        let (layout, cache) = (&options.layout, options.cache.as_deref());
        let axes = layout.axes()?;
        let on_cpu = gpus.first().is_none_or(Option::is_none);
        let wanted = if on_cpu { &graphs[..1] } else { graphs };
        // States are shared, so all graphs are cut into stages alike.
        let mut sharded = vec![shard(&wanted[0], &axes)?];
        for g in &wanted[1..] {
            sharded.push(shard_in_stages(g, &axes, sharded[0].stage_of_layer.clone())?);
        }
        if options.check_numerics {
            return Err(Error::usage("numerics are checked on one device only: leave --mesh out"));
        }
        let adapter = describe(layout, &local, &gpus, transport.as_deref());
        if on_cpu {
            if local.len() != sharded[0].ranks() {
                return Err(Error::usage(
                    "the CPU fallback runs all ranks in one process: give every process an adapter with --devices",
                ));
            }
            if options.precision != Precision::F32 {
                return Err(Error::usage(format!(
                    "the CPU fallback's ranks compute in f32: leave --precision {} out, or --mesh",
                    options.precision
                )));
            }
            let graphs: Vec<&Graph> = local.iter().map(|r| &sharded[0].class(*r).graph).collect();
            let ranks = Ranks::new(&graphs, &sharded[0].seats, weights)?;
            return Ok(MeshEngine {
                sharded,
                runner: Runner::Cpu(Box::new(ranks)),
                traffic: Traffic::default(),
                timed: false,
                last: None,
                adapter,
            });
        }
        let gpus: Vec<Arc<Gpu>> = gpus.into_iter().flatten().collect();
        let mut stores: Vec<Store> =
            local.iter().zip(&gpus).map(|(r, g)| Store::at(g.clone(), sharded[0].seats[*r].clone())).collect();
        let mut clusters = vec![];
        for (graph, s) in graphs.iter().zip(&sharded) {
            let plans = rank_plans(s, graph, (&local, &gpus), (cache, options.precision), notify).await?;
            let mut progress = |done, of| notify(Notice::Compiling { done, of });
            clusters.push(
                Cluster::load(s.seats.clone(), plans, &mut stores, weights, policy(layout), &mut progress).await?,
            );
        }
        let transport = transport.unwrap_or_else(|| Box::new(Nobody));
        let runner = Runner::Devices { clusters, stores, local, transport };
        Ok(MeshEngine { sharded, runner, traffic: Traffic::default(), timed: false, last: None, adapter })
    }

    /// Gives blocks of a tensor to the ranks that have a piece of it; ranks on the CPU read theirs when they are made.
    pub async fn feed(&mut self, tensor: &str, block: u64, bytes: &[u8]) -> Result<()> {
        if let Runner::Devices { stores, .. } = &mut self.runner {
            for store in stores {
                store.feed(tensor, block, bytes).await?;
            }
        }
        Ok(())
    }
    /// Ends the arrival of weights.
    pub async fn arrived(&mut self) -> Result<()> {
        if let Runner::Devices { stores, .. } = &mut self.runner {
            for store in stores {
                store.finish().await?;
            }
        }
        Ok(())
    }

    /// Runs a step of graph `which` on the ranks of one replica and reads outputs of its first rank here.
    pub async fn step(
        &mut self,
        which: usize,
        replica: usize,
        bindings: &Bindings,
        inputs: &[(&str, Array)],
        outputs: &[&str],
    ) -> Result<Vec<Array>> {
        let mut watch = if self.timed { Watch::timing() } else { Watch::default() };
        let out = self.watched(which, replica, bindings, inputs, outputs, &mut watch).await?;
        self.traffic.add(std::mem::take(&mut watch.traffic));
        self.last = self.timed.then(|| watch.into_trace());
        Ok(out)
    }

    /// From now on every step takes the times of all that ranks and links do, which makes each wait for it.
    pub fn time_steps(&mut self) -> Result<()> {
        self.can_trace()?;
        self.timed = true;
        Ok(())
    }
    /// What the last step did and when, once.
    pub fn take_last(&mut self) -> Option<Trace> {
        self.last.take()
    }

    pub fn can_trace(&self) -> Result<()> {
        match self.runner {
            Runner::Cpu(_) => {
                Err(Error::usage("the CPU fallback has no times of ranks and links: choose an adapter with --device"))
            }
            Runner::Devices { .. } => Ok(()),
        }
    }

    /// Like [`MeshEngine::step`], taking the time of everything that ranks and links do.
    pub async fn traced(
        &mut self,
        which: usize,
        replica: usize,
        bindings: &Bindings,
        inputs: &[(&str, Array)],
        outputs: &[&str],
    ) -> Result<Trace> {
        self.can_trace()?;
        let mut watch = Watch::timing();
        self.watched(which, replica, bindings, inputs, outputs, &mut watch).await?;
        Ok(watch.into_trace())
    }

    async fn watched(
        &mut self,
        which: usize,
        replica: usize,
        bindings: &Bindings,
        inputs: &[(&str, Array)],
        outputs: &[&str],
        watch: &mut Watch,
    ) -> Result<Vec<Array>> {
        let which = which.min(self.sharded.len() - 1);
        let s = &self.sharded[which];
        let plays = |rank: usize| s.seats[rank].index(MeshAxis::Data) == replica;
        let part = |rank: usize| -> Result<Option<(Bindings, Vec<(&str, Array)>)>> {
            if !plays(rank) {
                return Ok(None);
            }
            Ok(Some((s.bindings(rank, bindings)?, s.inputs(rank, bindings, inputs)?)))
        };
        match &mut self.runner {
            Runner::Devices { clusters, local, transport, .. } => {
                let parts = local.iter().map(|r| part(*r)).collect::<Result<Vec<_>>>()?;
                let reader: Vec<usize> = local.iter().position(|r| plays(*r)).into_iter().collect();
                Ok(clusters[which]
                    .step(&parts, (&reader, outputs), &mut **transport, watch)
                    .await?
                    .pop()
                    .unwrap_or_default())
            }
            Runner::Cpu(ranks) => {
                let parts = (0..s.ranks()).map(part).collect::<Result<Vec<_>>>()?;
                let mut made = ranks.step(&parts)?;
                let first = (0..s.ranks()).find(|r| plays(*r)).unwrap_or(0);
                let made = made.swap_remove(first);
                outputs.iter().map(|name| output_of(&made, name)).collect()
            }
        }
    }

    /// Whether other processes have ranks, too.
    pub fn is_shared(&self) -> bool {
        self.rank_bytes().len() < self.sharded[0].ranks()
    }
    /// What was sent so far; what ranks compute is not counted here.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }
    /// Takes leave of other processes, when all is done.
    pub fn close(&mut self) -> Result<()> {
        match &mut self.runner {
            Runner::Devices { transport, .. } => transport.close(),
            Runner::Cpu(_) => Ok(()),
        }
    }
    /// Whether this process has the first rank of the replica: the one that tells its text.
    pub fn leads(&self, replica: usize) -> bool {
        let first = self.sharded[0].seats.iter().position(|s| s.index(MeshAxis::Data) == replica);
        match &self.runner {
            Runner::Devices { local, .. } => local.iter().any(|r| Some(*r) == first),
            Runner::Cpu(_) => true,
        }
    }
    /// Whether this process has a rank of the replica.
    pub fn plays(&self, replica: usize) -> bool {
        let here = |rank: &usize| self.sharded[0].seats[*rank].index(MeshAxis::Data) == replica;
        match &self.runner {
            Runner::Devices { local, .. } => local.iter().any(here),
            Runner::Cpu(_) => true,
        }
    }
    pub fn adapter(&self) -> String {
        self.adapter.clone()
    }
    /// The device of the first rank here; `None` is the CPU.
    pub fn gpu(&self) -> Option<&Arc<Gpu>> {
        match &self.runner {
            Runner::Devices { stores, .. } => stores.first().map(Store::gpu),
            Runner::Cpu(_) => None,
        }
    }
    /// Bytes of each rank of this process.
    pub fn rank_bytes(&self) -> Vec<(usize, u64)> {
        match &self.runner {
            Runner::Devices { clusters, stores, local, .. } => {
                let own = |i: usize| clusters.iter().map(|c| c.own_bytes()[i]).sum::<u64>();
                local.iter().enumerate().map(|(i, rank)| (*rank, stores[i].bytes() + own(i))).collect()
            }
            Runner::Cpu(ranks) => ranks.memory_bytes().into_iter().enumerate().collect(),
        }
    }
}

/// Each local rank's plan; ranks of one class on one adapter share it.
async fn rank_plans(
    s: &Sharded,
    graph: &Graph,
    (local, gpus): (&[usize], &[Arc<Gpu>]),
    (cache, precision): (Option<&Path>, Precision),
    notify: &mut dyn FnMut(Notice),
) -> Result<Vec<RankPlan>> {
    let largest = graph.largest();
    let mut made: Vec<(usize, *const Gpu, Plan)> = vec![];
    let mut out = vec![];
    for (rank, gpu) in local.iter().zip(gpus) {
        let class = s.class_of[*rank];
        let key = (class, Arc::as_ptr(gpu));
        let plan = match made.iter().find(|m| (m.0, m.1) == key) {
            Some(m) => m.2.clone(),
            None => {
                let mut options = plan::Options::for_caps(gpu.caps());
                options.precision = trusted(gpu, precision).await?;
                if let Some(tuning) = tune::tuned(gpu, cache, notify).await? {
                    options.tuning = tuning;
                }
                let plan = plan::plan(&s.classes[class].graph, gpu.caps(), &options)?;
                made.push((key.0, key.1, plan.clone()));
                plan
            }
        };
        out.push(RankPlan { rank: *rank, plan, largest: s.bindings(*rank, &largest)? });
    }
    Ok(out)
}

fn describe(layout: &Layout, local: &[usize], gpus: &[Option<Arc<Gpu>>], transport: Option<&dyn Transport>) -> String {
    let mut names: Vec<(String, usize)> = vec![];
    for gpu in gpus {
        let name =
            gpu.as_ref().map_or("CPU fallback".to_string(), |g| format!("{} ({})", g.report.name, g.report.backend));
        match names.iter_mut().find(|n| n.0 == name) {
            Some(n) => n.1 += 1,
            None => names.push((name, 1)),
        }
    }
    let names: Vec<String> =
        names.into_iter().map(|(n, k)| if k > 1 { format!("{k} virtual devices on {n}") } else { n }).collect();
    let through = transport.map_or(String::new(), |t| {
        format!("; rank {} of {} through {}", local.first().copied().unwrap_or(0), layout.mesh.ranks(), t.name())
    });
    format!("{} on {}{through}", layout.mesh, names.join(", "))
}

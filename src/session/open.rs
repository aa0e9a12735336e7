//! From a decoder and options to an engine: which devices, which graphs, which plans.

#[cfg(feature = "text")]
use super::BatchOptions;
#[cfg(feature = "text")]
use super::Precision;
use super::cancel::Cancellable;
use super::choose::picked;
use super::engine::Engine;
#[cfg(feature = "text")]
use super::lookup::MOST;
use super::mesh::{MeshEngine, pick_all};
use super::{Notice, Options, processes, tune};
use crate::base::{AdapterKind, DType, Error, MeshAxis, Result, Var};
use crate::device::Gpu;
use crate::format::KEPT;
use crate::graph::Graph;
#[cfg(feature = "text")]
use crate::model::PagedShape;
use crate::model::{Model, StepShape};
use std::sync::Arc;

/// A decoder's engine for one conversation at a time.
pub(super) struct Opened {
    pub engine: Engine,
    /// How many tokens of a prompt it takes at a time.
    pub chunk: usize,
    /// Where steps are over pages; else keys lie one behind another, and steps are told how many there are.
    #[cfg(feature = "text")]
    pub pages: Option<PagedShape>,
}

/// The engine of one conversation: one sequence, and pages for its whole context; states of their own where steps are not over pages.
pub(super) async fn open_engine(
    model: &Model,
    context: usize,
    options: &Options,
    notify: &mut dyn FnMut(Notice),
) -> Result<Opened> {
    if !options.layout.is_single() {
        return open_mesh(model, context, options, notify).await;
    }
    let gpu = picked(&options.device, options, notify).await?;
    check_kv(gpu.as_deref(), options)?;
    let chunk = chunk(std::slice::from_ref(&gpu), context);
    #[cfg(feature = "text")]
    if pays(model, gpu.as_deref(), options) {
        let rows = Var::new("rows", chunk as u32).into();
        let pages = context.div_ceil(PAGE);
        let kv = kv_type(model, gpu.as_deref(), options);
        // The CPU's one graph makes logits behind guesses, too.
        let outputs = if gpu.is_none() { Var::new("outputs", 1 + MOST as u32).into() } else { 1.into() };
        let shape = PagedShape { rows, outputs, sequences: 1, context, page: PAGE, pages, kv };
        let mut graphs = vec![model.paged_graph(&shape)?];
        if gpu.is_some() {
            graphs.push(model.paged_graph(&PagedShape { rows: 1.into(), ..shape })?);
        }
        let engine = load(gpu, &graphs, model, options, notify).await?;
        return Ok(Opened { engine, chunk, pages: Some(shape) });
    }
    if let Some(kv) = narrow_kv(options) {
        let what = format!("keys and values in {kv} are for steps over pages on the CPU: {} has none here", model.name);
        return Err(Error::usage(what));
    }
    let graphs = graphs(model, context, chunk, (options, gpu.is_some()))?;
    let engine = load(gpu, &graphs, model, options, notify).await?;
    Ok(Opened {
        engine,
        chunk,
        #[cfg(feature = "text")]
        pages: None,
    })
}

/// The type in which keys and values are asked to be kept, where that is less than f32.
fn narrow_kv(options: &Options) -> Option<DType> {
    options.kv.filter(|kv| *kv != DType::F32)
}

/// # Errors
/// What only models that generate obey.
pub(super) fn check_alone(options: &Options, model: &str) -> Result<()> {
    if !options.layout.is_single() {
        return Err(Error::usage(format!("{model} runs on one device: leave --mesh and --devices out")));
    }
    match narrow_kv(options) {
        Some(kv) => Err(Error::usage(format!("keys and values in {kv} are for models that generate: leave --kv out"))),
        None => Ok(()),
    }
}

/// # Errors
/// A type in which keys and values cannot be kept there.
fn check_kv(gpu: Option<&Gpu>, options: &Options) -> Result<()> {
    let Some(kv) = options.kv else { return Ok(()) };
    match () {
        _ if !KEPT.contains(&kv) => {
            let known = KEPT.map(|kv| kv.to_string()).join(", ");
            Err(Error::usage(format!("keys and values cannot be kept in {kv}: give one of {known}")))
        }
        _ if gpu.is_some() && narrow_kv(options).is_some() => {
            Err(Error::usage(format!("adapters keep keys and values in f32: {kv} is for the CPU (--device cpu)")))
        }
        _ => Ok(()),
    }
}

/// Whether a conversation's steps are over pages. Attention by tiles, which GPUs have, and the interpreter of browsers do not
/// read pages as fast as rows one behind another.
#[cfg(feature = "text")]
fn pays(model: &Model, gpu: Option<&Gpu>, options: &Options) -> bool {
    let reads = match gpu {
        Some(gpu) => gpu.caps().kind == AdapterKind::Software,
        None => !cfg!(target_arch = "wasm32") && options.team.is_none(),
    };
    // States that go on with each token are in slots, which only batches tell steps of.
    reads && model.has_pages() && model.keeps().is_none()
}

/// In what keys and values are kept. The CPU rounds them to f16 where it rounds what it multiplies with weights, and where heads
/// consist of whole vectors.
#[cfg(feature = "text")]
fn kv_type(model: &Model, gpu: Option<&Gpu>, options: &Options) -> DType {
    let whole = || model.decoder().is_some_and(|d| d.common().sizes.head.is_multiple_of(16));
    let rounds = || gpu.is_none() && options.precision == Precision::Int8 && model.is_quantised() && whole();
    options.kv.unwrap_or_else(|| if rounds() { DType::F16 } else { DType::F32 })
}

/// Graphs with their weights on a device, or on the CPU.
async fn load(
    gpu: Option<Arc<Gpu>>,
    graphs: &[Graph],
    model: &Model,
    options: &Options,
    notify: &mut dyn FnMut(Notice),
) -> Result<Engine> {
    let tuning = match &gpu {
        Some(gpu) => tune::tuned(gpu, options.cache.as_deref(), notify).await?,
        None => None,
    };
    options.cancel.check()?;
    let weights = Cancellable { weights: &model.source, cancel: &options.cancel };
    Engine::new(gpu, graphs, &weights, options, tuning, notify).await
}

/// Tokens of a page.
#[cfg(feature = "text")]
const PAGE: usize = 32;
/// Bytes of keys and values where nobody says how many.
#[cfg(feature = "text")]
const KV_BYTES: u64 = 1 << 30;
/// Rows up to which an adapter has kernels of their own: those that multiply vectors.
#[cfg(feature = "text")]
const FEW: usize = 8;

/// The engine of steps over pages, its sizes, and up to how many rows its second graph takes.
#[cfg(feature = "text")]
pub(super) async fn open_paged(
    model: &Model,
    context: usize,
    options: &Options,
    how: &BatchOptions,
    notify: &mut dyn FnMut(Notice),
) -> Result<(Engine, PagedShape, usize)> {
    if !options.layout.is_single() {
        return Err(Error::usage("a batch of sequences runs on one device: a mesh answers one request at a time"));
    }
    let gpu = picked(&options.device, options, notify).await?;
    let rows = chunk(std::slice::from_ref(&gpu), context).max(how.sequences);
    check_kv(gpu.as_deref(), options)?;
    let kv = kv_type(model, gpu.as_deref(), options);
    let shape = PagedShape {
        rows: Var::new("rows", rows as u32).into(),
        outputs: Var::new("outputs", how.sequences as u32).into(),
        sequences: how.sequences,
        context,
        page: PAGE,
        pages: pages(model, context, how, (gpu.as_deref(), kv))?,
        kv,
    };
    let few = if gpu.is_some() && !how.deterministic { FEW.min(rows - 1) } else { 0 };
    let mut graphs = vec![model.paged_graph(&shape)?];
    if few > 0 {
        let outputs = Var::new("outputs", few.min(how.sequences) as u32).into();
        graphs.push(model.paged_graph(&PagedShape { rows: Var::new("rows", few as u32).into(), outputs, ..shape })?);
    }
    let engine = load(gpu, &graphs, model, options, notify).await?;
    Ok((engine, shape, few))
}

/// Pages of the pool: as many as all sequences could fill, within the bytes that there are and what a device binds at once.
#[cfg(feature = "text")]
fn pages(model: &Model, context: usize, how: &BatchOptions, (gpu, kv): (Option<&Gpu>, DType)) -> Result<usize> {
    let page_bytes = model.kv_bytes_per_token(kv).max(1) * PAGE as u64;
    let one = context.div_ceil(PAGE) as u64;
    let mut most = match how.kv_bytes {
        Some(bytes) => bytes / page_bytes,
        None => (KV_BYTES / page_bytes).max(one),
    };
    if let Some(gpu) = gpu {
        let caps = gpu.caps();
        let row = model.decoder().map_or(0, |d| d.common().sizes.kv_heads * d.common().sizes.head * 4);
        most = most.min(caps.binding_bytes.min(caps.buffer_bytes) / (row * PAGE).max(1) as u64);
    }
    if most < one {
        let what = format!(
            "keys and values of a context of {context} tokens take {} bytes, there is room for {}: give more with --kv-bytes, or a smaller --ctx",
            one * page_bytes,
            most * page_bytes
        );
        return Err(Error::usage(what));
    }
    Ok(most.min(one * how.sequences as u64) as usize)
}

async fn open_mesh(model: &Model, context: usize, options: &Options, notify: &mut dyn FnMut(Notice)) -> Result<Opened> {
    let layout = &options.layout;
    if narrow_kv(options).is_some() {
        return Err(Error::usage("keys and values of a mesh are f32: leave --kv or --mesh out"));
    }
    layout.check(model, context)?;
    let ranks = layout.mesh.ranks();
    let (local, transport) = match layout.processes {
        true => processes::join(ranks).map(|(rank, transport)| (vec![rank], Some(transport)))?,
        false => ((0..ranks).collect(), None),
    };
    let gpus = pick_all(options, &local, notify).await?;
    let chunk = chunk(&gpus, context);
    let graphs = graphs(model, context, chunk, (options, gpus.iter().any(Option::is_some)))?;
    let weights = Cancellable { weights: &model.source, cancel: &options.cancel };
    let mesh = MeshEngine::new(options, (local, gpus), &graphs, &weights, transport, notify).await?;
    Ok(Opened {
        engine: Engine::over(mesh),
        chunk,
        #[cfg(feature = "text")]
        pages: None,
    })
}

/// Tokens of a prompt in one step. A software adapter reads left operands from uniform memory only while they are small; the
/// fallback decodes weights once a step; and the first step, whose pace is not known yet, may not be long on slow devices.
fn chunk(gpus: &[Option<Arc<Gpu>>], context: usize) -> usize {
    let kind = |g: &Option<Arc<Gpu>>| match g.as_ref().map(|g| g.caps().kind) {
        Some(AdapterKind::Software) => 8,
        // An interpreter in a browser gives the thread back between nodes only.
        None if cfg!(target_arch = "wasm32") => 64,
        None => 256,
        Some(_) => 256,
    };
    gpus.iter().map(kind).min().unwrap_or(64).min(context)
}

/// The graphs of an engine: any number of tokens up to the chunk, and one. The fallback needs only the first.
fn graphs(model: &Model, context: usize, chunk: usize, (options, device): (&Options, bool)) -> Result<Vec<Graph>> {
    let total = Var::new("total", context as u32);
    let split = options.layout.axes()?.iter().any(|a| a.0 == MeshAxis::Context && a.1 > 1);
    let sequence_parallel = options.layout.sequence_parallel;
    let many =
        StepShape { seq: Var::new("seq", chunk as u32).into(), total, context, last_only: true, sequence_parallel };
    // One token belongs to one context rank: the others have none, so even then the number is a variable.
    let seq = if split { Var::new("seq", 1).into() } else { 1.into() };
    let one = StepShape { seq, sequence_parallel: false, ..many };
    let mut out = vec![model.step_graph(&many)?];
    if device {
        out.push(model.step_graph(&one)?);
    }
    Ok(out)
}

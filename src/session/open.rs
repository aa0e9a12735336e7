//! From a decoder and options to an engine: which devices, which graphs, which plans.

#[cfg(feature = "text")]
use super::BatchOptions;
use super::cancel::Cancellable;
use super::choose::picked;
use super::engine::Engine;
use super::mesh::{MeshEngine, pick_all};
use super::{Notice, Options, processes, tune};
#[cfg(feature = "text")]
use crate::base::Error;
use crate::base::{AdapterKind, MeshAxis, Result, Var};
use crate::device::Gpu;
use crate::graph::Graph;
#[cfg(feature = "text")]
use crate::model::PagedShape;
use crate::model::{Model, StepShape};
use std::sync::Arc;

/// The engine, and how many tokens of a prompt it takes at a time.
pub(super) async fn open_engine(
    model: &Model,
    context: usize,
    options: &Options,
    notify: &mut dyn FnMut(Notice),
) -> Result<(Engine, usize)> {
    if !options.layout.is_single() {
        return open_mesh(model, context, options, notify).await;
    }
    let gpu = picked(&options.device, options, notify).await?;
    let chunk = chunk(std::slice::from_ref(&gpu), context);
    let graphs = graphs(model, context, chunk, (options, gpu.is_some()))?;
    let engine = load(gpu, &graphs, model, options, notify).await?;
    Ok((engine, chunk))
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
    let shape = PagedShape {
        rows: Var::new("rows", rows as u32),
        outputs: Var::new("outputs", how.sequences as u32),
        sequences: how.sequences,
        context,
        page: PAGE,
        pages: pages(model, context, how, gpu.as_deref())?,
    };
    let few = if gpu.is_some() && !how.deterministic { FEW.min(rows - 1) } else { 0 };
    let mut graphs = vec![model.paged_graph(&shape)?];
    if few > 0 {
        let outputs = Var::new("outputs", few.min(how.sequences) as u32);
        graphs.push(model.paged_graph(&PagedShape { rows: Var::new("rows", few as u32), outputs, ..shape })?);
    }
    let engine = load(gpu, &graphs, model, options, notify).await?;
    Ok((engine, shape, few))
}

/// Pages of the pool: as many as all sequences could fill, within the bytes that there are and what a device binds at once.
#[cfg(feature = "text")]
fn pages(model: &Model, context: usize, how: &BatchOptions, gpu: Option<&Gpu>) -> Result<usize> {
    let info = model.info();
    let page_bytes = info.state_bytes_per_token.max(1) * PAGE as u64;
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

async fn open_mesh(
    model: &Model,
    context: usize,
    options: &Options,
    notify: &mut dyn FnMut(Notice),
) -> Result<(Engine, usize)> {
    let layout = &options.layout;
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
    Ok((Engine::over(mesh), chunk))
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

//! From a decoder and options to an engine: which devices, which graphs, which plans.

use super::cancel::Cancellable;
use super::engine::Engine;
use super::mesh::{MeshEngine, pick_all};
use super::{Notice, Options, pick_with, processes, tune};
use crate::base::{AdapterKind, MeshAxis, Result, Var};
use crate::device::Gpu;
use crate::graph::Graph;
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
    let picked = pick_with(&options.device, options.cache.as_deref(), notify).await?;
    picked.notice.into_iter().for_each(|n| notify(Notice::Say(n)));
    let chunk = chunk(std::slice::from_ref(&picked.gpu), context);
    let graphs = graphs(model, context, chunk, (options, picked.gpu.is_some()))?;
    let tuning = match &picked.gpu {
        Some(gpu) => tune::tuned(gpu, options.cache.as_deref(), notify).await?,
        None => None,
    };
    options.cancel.check()?;
    let weights = Cancellable { weights: &model.source, cancel: &options.cancel };
    let engine = Engine::new(picked.gpu, &graphs, &weights, options, tuning, notify).await?;
    Ok((engine, chunk))
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

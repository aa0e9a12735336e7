#![doc = include_str!("../README.md")]
// Rooms opened by `internals` promise nothing; what is public without it is documented.
#![cfg_attr(not(feature = "internals"), warn(missing_docs))]
#![cfg_attr(docsrs, feature(doc_cfg))]
// A room holds what belongs to it, whether or not this choice of features uses all of it.
#![cfg_attr(not(all(feature = "internals", feature = "cli")), allow(dead_code, unused_imports))]

// The rooms of the house (ARCHITECTURE.md) are private: what users hold is re-exported below. The feature `internals` opens
// them to the project's own tests, and to tools that need the oracle, plans or the op table; nothing is promised of them.
#[cfg(feature = "internals")]
pub mod base;
#[cfg(all(feature = "cli", feature = "internals"))]
pub mod cli;
#[cfg(feature = "internals")]
pub mod cpu;
#[cfg(feature = "internals")]
pub mod device;
#[cfg(feature = "internals")]
pub mod format;
#[cfg(feature = "internals")]
pub mod graph;
#[cfg(feature = "internals")]
pub mod kernel;
#[cfg(all(feature = "media", not(target_arch = "wasm32"), feature = "internals"))]
pub mod media;
#[cfg(feature = "internals")]
pub mod model;
#[cfg(feature = "internals")]
pub mod op;
#[cfg(feature = "internals")]
pub mod plan;
#[cfg(feature = "internals")]
pub mod reference;
#[cfg(feature = "serve")]
pub mod serve;
#[cfg(feature = "internals")]
pub mod session;
#[cfg(all(feature = "simulate", feature = "internals"))]
pub mod simulate;
#[cfg(all(feature = "text", feature = "internals"))]
pub mod text;
#[cfg(feature = "internals")]
pub mod topology;
#[cfg(feature = "internals")]
pub mod trace;
#[cfg(all(target_arch = "wasm32", feature = "internals"))]
pub mod web;

#[cfg(not(feature = "internals"))]
mod base;
#[cfg(all(feature = "cli", not(feature = "internals")))]
mod cli;
#[cfg(not(feature = "internals"))]
mod cpu;
#[cfg(not(feature = "internals"))]
mod device;
#[cfg(not(feature = "internals"))]
mod format;
#[cfg(not(feature = "internals"))]
mod graph;
#[cfg(not(feature = "internals"))]
mod kernel;
#[cfg(all(feature = "media", not(target_arch = "wasm32"), not(feature = "internals")))]
mod media;
#[cfg(not(feature = "internals"))]
mod model;
#[cfg(not(feature = "internals"))]
mod op;
#[cfg(not(feature = "internals"))]
mod plan;
#[cfg(not(feature = "internals"))]
mod reference;
#[cfg(not(feature = "internals"))]
mod session;
#[cfg(all(feature = "simulate", not(feature = "internals")))]
#[allow(missing_docs, reason = "fields of predictions are named as papers name them")]
mod simulate;
#[cfg(all(feature = "text", not(feature = "internals")))]
mod text;
#[cfg(not(feature = "internals"))]
#[allow(missing_docs, reason = "parts of machines are named as their makers name them")]
mod topology;
#[cfg(not(feature = "internals"))]
mod trace;
#[cfg(all(target_arch = "wasm32", not(feature = "internals")))]
mod web;

pub use base::{
    Array, Bindings, Combine, Cut, DType, DeviceFault, Dim, Element, Error, MeshAxis, Placement, Result, Shape, Type,
    Var, Weights,
};
/// Runs the command line.
#[cfg(feature = "cli")]
#[doc(hidden)]
pub use cli::main;
pub use graph::{Attention, Graph, GraphBuilder, Optimiser, Parameters, RopeLayout, Tensor, Window, Zero};
pub use model::{Model, ModelInfo, ModelSource};
#[cfg(feature = "text")]
pub use session::{
    Alternative, Embedder, Finished, Generation, Generator, Loading, Opened, Request, Stop, Token, Tokens, Words,
};
pub use session::{Cancel, DeviceChoice as Device, Engine, Layout, Notice, Notices, Options, Precision, Speculation};
#[cfg(all(feature = "media", not(target_arch = "wasm32")))]
pub use session::{ImageEmbedder, Listening, Segment, Transcriber};
#[cfg(feature = "text")]
pub use text::{Constraint, Dry, Message, Sampling, Tokenizer};
pub use trace::{Span, Trace};

/// Predictions of machines that are not here: what a training step or serving would take.
///
/// ```
/// use warpweft::predict::{Layout, Recompute, machine, preset, step};
///
/// let shape = preset("llama-3-8b")?;
/// let cluster = machine("dgx-h100")?.with_nodes(1)?;
/// let layout = Layout { tp: 8, global_batch: 16, recompute: Recompute::Full, ..Layout::single(4096) };
/// let step = step(&shape, &cluster, &layout)?;
/// assert!(step.seconds.0 > 0.0 && step.mfu < 1.0);
/// # Ok::<(), warpweft::Error>(())
/// ```
#[cfg(feature = "simulate")]
pub mod predict {
    pub use crate::simulate::inference::{Answering, Serving, answering};
    pub use crate::simulate::known::machine;
    pub use crate::simulate::{
        Cost, Gathers, Layout, Memory, Recompute, Schedule, Shape, Stack, Step, preset, presets, step,
    };
    pub use crate::topology::{Precision, Topology};
}

// Handles go to other threads: what stops being so does not build. (A browser's devices stay on theirs.)
#[cfg(not(target_arch = "wasm32"))]
const _: () = {
    const fn sends<T: Send>() {}
    sends::<(Array, Bindings, Cancel, DType, Device, Error, Graph, Layout, Model, Notices, Shape, Type, Trace)>();
    #[cfg(feature = "text")]
    sends::<(Generation, Request, Sampling, Token, Tokenizer, Words)>();
    #[cfg(feature = "serve")]
    sends::<(serve::Engine, serve::Answer, serve::Request)>();
};

//! What a library user holds: a model on a device, and what it can be asked.

#[cfg(feature = "text")]
mod batch;
mod cancel;
mod choose;
mod compare;
#[cfg(feature = "text")]
mod embed;
mod engine;
#[cfg(feature = "text")]
mod generate;
#[cfg(feature = "text")]
mod generation;
#[cfg(feature = "text")]
mod loading;
#[cfg(feature = "text")]
mod lookup;
mod mesh;
mod open;
#[cfg(feature = "text")]
mod pages;
#[cfg(feature = "text")]
mod perplexity;
mod probes;
mod processes;
#[cfg(not(target_arch = "wasm32"))]
mod quantize;
#[cfg(feature = "text")]
mod rows;
mod trial;
mod tune;
#[cfg(feature = "text")]
mod words;

use crate::base::DType;
pub use crate::cpu::Precision;
pub use crate::model::source::Head;
pub use crate::reference::{MOST_MADE, MOST_SHARED, Member, Team, WORDS, pays};
#[cfg(feature = "text")]
pub use batch::{Batch, BatchOptions, Made};
pub use cancel::Cancel;
pub use choose::{DeviceChoice, Picked, pick, pick_with};
pub use compare::Comparison;
#[cfg(feature = "text")]
pub use embed::Embedder;
pub use engine::Engine;
#[cfg(feature = "text")]
pub use generate::{Alternative, Finished, Generator, Request, Stop, Token};
#[cfg(feature = "text")]
pub use generation::Generation;
#[cfg(feature = "text")]
pub use loading::{Loading, Opened};
pub use mesh::{Layout, algorithm, mesh, policy, sharded};
#[cfg(feature = "text")]
pub use perplexity::{Perplexity, perplexity};
pub use probes::Rate;
#[cfg(not(target_arch = "wasm32"))]
pub use quantize::{Quantised, Sizes, quantize};
pub use trial::{Measured, Trial};
pub use tune::{load_tuning, save_tuning, tune};
#[cfg(feature = "text")]
pub use words::Words;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

/// How a model is opened.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where it runs.
    pub device: DeviceChoice,
    /// Tokens of context; the model's own, up to 4,096, where not given.
    pub context: Option<usize>,
    /// What the CPU computes products with quantised weights in: f32 unless said otherwise.
    pub precision: Precision,
    /// In what keys and values are kept: f32, f16 or q8_0; f32 where not given, f16 where the CPU rounds to int8. Others than f32 are
    /// for one device that is the CPU.
    pub kv: Option<DType>,
    /// Whether steps of a conversation compute tokens ahead that may follow.
    pub speculation: Speculation,
    /// Threads of the CPU; as many as this process may run at once where 0.
    pub threads: usize,
    /// After every step, look for the first value that is not finite. Slow; costs nothing when off.
    pub check_numerics: bool,
    /// Where timings are remembered; nowhere if `None`.
    pub cache: Option<PathBuf>,
    /// Over how many ranks, and how.
    pub layout: Layout,
    /// Set by another thread, it ends opening with [`Error::Cancelled`](crate::base::Error::Cancelled).
    pub cancel: Cancel,
    /// What a host with one thread does while the CPU computes for long.
    pub breathe: Option<Breathe>,
    /// Asked for others to compute with, where a model that arrives turns out to run on the CPU.
    pub gather: Option<Gather>,
    /// Who shares the weights that arrive; [`Loading`] sets what `gather` gave.
    pub team: Option<Arc<dyn Team>>,
}

/// Whether logits are made ahead of tokens that may follow. The text is the same with and without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Speculation {
    /// What followed the last tokens where they stood before, on the CPU, and as long as it saves time.
    #[default]
    Lookup,
    /// Token by token.
    Off,
}

/// Calls a team together; `None` where there is nobody else.
pub type Gather = fn() -> Pin<Box<dyn Future<Output = Option<Arc<dyn Team>>>>>;

/// Gives the thread back for a moment: browsers hear of a cancel only then.
pub type Breathe = fn() -> Pin<Box<dyn Future<Output = ()>>>;

/// What happens while a model opens, for whoever shows it.
#[derive(Debug, Clone, PartialEq)]
pub enum Notice {
    /// A sentence for people.
    Say(String),
    /// Pipelines compiled, of how many.
    Compiling {
        /// How many are.
        done: usize,
        /// How many there are.
        of: usize,
    },
}

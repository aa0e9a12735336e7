//! What a library user holds: a model on a device, and what it can be asked.

mod cancel;
mod choose;
mod compare;
mod embed;
mod engine;
mod generate;
mod generation;
mod loading;
mod mesh;
mod open;
mod probes;
mod processes;
mod trial;
mod tune;
mod words;

pub use cancel::Cancel;
pub use choose::{DeviceChoice, Picked, pick, pick_with};
pub use compare::Comparison;
pub use embed::Embedder;
pub use engine::Engine;
pub use mesh::{Layout, algorithm, mesh, policy, sharded};
pub use generation::Generation;
pub use loading::{Loading, Opened};
pub use generate::{Alternative, Finished, Generator, Request, Stop, Token};
pub use probes::Rate;
pub use trial::{Measured, Trial};
pub use tune::{load_tuning, save_tuning, tune};

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;

/// How a model is opened.
#[derive(Debug, Clone, Default)]
pub struct Options {
    pub device: DeviceChoice,
    /// Tokens of context; the model's own, up to 4,096, where not given.
    pub context: Option<usize>,
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
}

/// Gives the thread back for a moment: browsers hear of a cancel only then.
pub type Breathe = fn() -> Pin<Box<dyn Future<Output = ()>>>;

/// What happens while a model opens, for whoever shows it.
#[derive(Debug, Clone, PartialEq)]
pub enum Notice {
    /// A sentence for people.
    Say(String),
    /// Pipelines compiled, of how many.
    Compiling { done: usize, of: usize },
}

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
mod options;
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
#[cfg(all(feature = "media", not(target_arch = "wasm32")))]
mod see;
#[cfg(all(feature = "media", not(target_arch = "wasm32")))]
mod speaking;
#[cfg(feature = "text")]
mod stream;
#[cfg(all(feature = "media", not(target_arch = "wasm32")))]
mod transcribe;
mod trial;
mod trust;
mod tune;
#[cfg(feature = "text")]
mod words;

pub use crate::base::Precision;
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
pub use options::{Breathe, Gather, Notice, Notices, Options, Speculation};
#[cfg(feature = "text")]
pub use perplexity::{Perplexity, perplexity};
pub use probes::Rate;
#[cfg(not(target_arch = "wasm32"))]
pub use quantize::{Quantised, Sizes, quantize};
#[cfg(all(feature = "media", not(target_arch = "wasm32")))]
pub use see::ImageEmbedder;
#[cfg(all(feature = "media", not(target_arch = "wasm32")))]
pub use speaking::Listening;
#[cfg(feature = "text")]
pub use stream::Tokens;
#[cfg(all(feature = "media", not(target_arch = "wasm32")))]
pub use transcribe::{Segment, Transcriber};
pub use trial::{Measured, Trial};
pub use tune::{load_tuning, save_tuning, tune};
#[cfg(feature = "text")]
pub use words::Words;

//! One model, many callers: an engine thread with a bounded queue, and an HTTP server on top of it.
//!
//! ```no_run
//! use warpweft::serve::{Engine, Limits, Request};
//! use warpweft::Options;
//!
//! # async fn ask() -> warpweft::Result<()> {
//! let engine = Engine::open("model.gguf", &Options::default(), Limits::default());
//! let card = engine.ready().await?;
//! let prompt = card.words()?.raw_prompt("Once upon a time")?;
//! let mut answer = engine.submit(Request::new(prompt))?;
//! while let Some(token) = answer.next().await? {
//!     print!("{}", token.text);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Requests share steps, as many as [`Limits::parallel`] says; others wait, and who comes first is taken first, within a priority.

mod answer;
mod batching;
mod engine;
pub mod http;
mod metrics;
mod queue;
mod request;
mod state;
mod stops;
mod ticket;
mod worker;

pub use answer::Answer;
pub use engine::{Engine, Limits};
pub use metrics::{Histogram, Metrics};
pub use request::{Ended, Reason, Request};
pub use state::{Card, Kind, State};
pub use stops::{MOST_STOP_BYTES, MOST_STOPS};
pub use worker::Loaded;

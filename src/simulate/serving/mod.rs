//! Serving as a queue: requests arrive, are admitted by the room in the cache, their prompts run in chunks beside or before
//! the sequences that decode. First token and time per token come out as distributions.

pub mod fit;
mod queue;
mod rows;
mod steps;

pub use queue::{Apart, Arrivals, Outcome, Quantiles, Requests, run};
pub use rows::{figures, handover, predict};
pub use steps::{Formats, Parallel, Steps, Tuning};

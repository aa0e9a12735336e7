//! What a caller asks an engine for, and what comes back.

use crate::base::{Error, Result};
use crate::session::{Request as Generate, Stop, Token};
use crate::text::{Constraint, Sampling};
use std::time::{Duration, Instant};

/// A prompt, and how it is to be answered.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct Request {
    /// The prompt, how tokens are chosen, and how many.
    pub generate: Generate,
    /// The answer ends before the first of these; they are never given out.
    pub stop: Vec<String>,
    /// Higher is answered first; equals in the order in which they came.
    pub priority: i32,
    /// When the answer is of no use any more: the request then ends with [`Error::Deadline`].
    pub deadline: Option<Instant>,
    /// What the answer's tokens must obey.
    pub constraint: Option<Box<dyn Constraint>>,
}

impl Request {
    /// Greedy, up to the context's end.
    pub fn new(prompt: Vec<u32>) -> Request {
        Request { generate: Generate::new(prompt), stop: vec![], priority: 0, deadline: None, constraint: None }
    }
    /// Ends the answer before the first of these strings.
    #[must_use]
    pub fn stop(self, stop: Vec<String>) -> Request {
        Request { stop, ..self }
    }
    /// Sets how tokens are chosen.
    #[must_use]
    pub fn sampling(mut self, sampling: Sampling) -> Request {
        self.generate.sampling = sampling;
        self
    }
    /// Sets the most tokens to make.
    #[must_use]
    pub fn max_tokens(mut self, tokens: usize) -> Request {
        self.generate.max_tokens = Some(tokens);
        self
    }
    /// Sets [`Request::priority`].
    #[must_use]
    pub fn priority(self, priority: i32) -> Request {
        Request { priority, ..self }
    }
    /// Sets [`Request::deadline`].
    #[must_use]
    pub fn deadline(self, deadline: Instant) -> Request {
        Request { deadline: Some(deadline), ..self }
    }
    /// Lets only tokens come that `constraint` allows.
    #[must_use]
    pub fn constraint(self, constraint: Box<dyn Constraint>) -> Request {
        Request { constraint: Some(constraint), ..self }
    }
}

/// Why an answer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum Reason {
    /// The model ended its turn.
    End,
    /// This stop string came.
    StopString(String),
    /// As many tokens as were asked for.
    Length,
    /// The context is full.
    Context,
}

impl Reason {
    pub(super) fn of(stop: Stop) -> Result<Reason> {
        match stop {
            Stop::End => Ok(Reason::End),
            Stop::Length => Ok(Reason::Length),
            Stop::Context => Ok(Reason::Context),
            Stop::Cancelled => Err(Error::Cancelled),
        }
    }
}

/// An answer's figures.
#[derive(Debug, Clone)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct Ended {
    /// Why it ended.
    pub reason: Reason,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Of those, what was not computed again.
    pub cached_tokens: usize,
    /// Tokens made, with the one that ended the turn.
    pub tokens: usize,
    /// Time in the queue, from there to the first token, and of all later tokens.
    pub waited: Duration,
    /// From there to the first token.
    pub prefill: Duration,
    /// Of all later tokens.
    pub decode: Duration,
}

/// What goes from the engine to the caller.
pub(super) enum Event {
    Token(Token),
    End(Result<Ended>),
}

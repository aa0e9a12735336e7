//! The engine's own thread: it owns the model. Requests share its steps, or are computed one after another where a model or a mesh
//! has no steps over pages.

use super::metrics::Metrics;
use super::queue::{Embedded, Job, Shared, Work};
use super::request::{Ended, Event, Reason, Request};
use super::state::{Card, Kind, State};
use super::stops::Stops;
use super::ticket::Ticket;
use crate::base::{DeviceFault, Error, Result};
use crate::session::{Batch, Embedder, Generation, Generator, Notice, Token};
use pollster::block_on;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedSender;

/// A model that is open.
#[allow(clippy::large_enum_variant, reason = "there is one for each engine")]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[cfg_attr(not(feature = "internals"), doc(hidden))]
pub enum Loaded {
    /// Answers many requests at once.
    Batch(Box<Batch>),
    /// Answers one request after another.
    Generator(Generator),
    /// It makes embeddings.
    Embedder(Embedder),
}

pub(super) type Open = Box<dyn FnMut(&mut dyn FnMut(Notice)) -> Result<Loaded> + Send>;

/// How often a request may find its device lost before it fails.
pub(super) const MOST_LOSSES: usize = 3;

/// Runs until the engine is stopped.
pub(super) fn run(shared: &Arc<Shared>, open: Open) {
    // Whatever ends this thread, callers hear of it.
    let _last = LastWord(shared);
    let mut worker = Worker { shared, open, model: None };
    if let Err(e) = worker.load() {
        shared.state.send_replace(State::Failed(e.clone()));
        return shared.stop(e);
    }
    while let Some(job) = shared.take() {
        worker.job(job);
    }
}

struct LastWord<'a>(&'a Shared);

impl Drop for LastWord<'_> {
    fn drop(&mut self) {
        let ended = Error::closed("the engine has ended");
        if !matches!(&*self.0.state.borrow(), State::Failed(_)) {
            self.0.state.send_replace(State::Failed(ended.clone()));
        }
        self.0.stop(ended);
        self.0.ended();
    }
}

pub(super) struct Worker<'a> {
    pub(super) shared: &'a Shared,
    open: Open,
    /// None where a lost device could not be opened anew: the next request tries again.
    pub(super) model: Option<Loaded>,
}

impl Worker<'_> {
    fn load(&mut self) -> Result<()> {
        // The old device goes before a new one is asked for memory.
        self.model = None;
        let shared = self.shared;
        let first = matches!(&*shared.state.borrow(), State::Loading(_));
        let mut notify = |notice: Notice| {
            let text = match notice {
                Notice::Say(text) => text,
                Notice::Compiling { done, of } => format!("compiling kernels {done}/{of}"),
            };
            if first {
                shared.state.send_replace(State::Loading(text));
            }
        };
        let model = (self.open)(&mut notify)?;
        let card = match &model {
            Loaded::Batch(b) => Card {
                info: b.info().clone(),
                adapter: b.adapter(),
                kind: Kind::Decoder { words: b.words(), context: b.context() },
            },
            Loaded::Generator(g) => Card {
                info: g.info().clone(),
                adapter: g.adapter(),
                kind: Kind::Decoder { words: g.words(), context: g.context() },
            },
            Loaded::Embedder(e) => {
                Card { info: e.info().clone(), adapter: e.adapter(), kind: Kind::Encoder { tokens: e.max_tokens() } }
            }
        };
        self.model = Some(model);
        shared.state.send_replace(State::Ready(Arc::new(card)));
        Ok(())
    }

    fn job(&mut self, job: Job) {
        if self.model.is_none()
            && let Err(e) = self.load()
        {
            Metrics::one(count(&self.shared.metrics, Some(&e)));
            return job.work.fail(e);
        }
        if matches!(self.model, Some(Loaded::Batch(_))) {
            return self.together(job);
        }
        let Some(Job { work, ticket, since }) = self.still_wanted(job) else { return };
        match work {
            Work::Answer(request, to) => {
                let done = self.answer(*request, &ticket, since.elapsed(), &to);
                Metrics::one(count(&self.shared.metrics, done.as_ref().err()));
                drop(to.send(Event::End(done)));
            }
            embed => self.embeds(embed, &ticket),
        }
    }

    /// A job that is taken, unless nobody waits for it any more.
    pub(super) fn still_wanted(&self, job: Job) -> Option<Job> {
        let (metrics, ticket) = (&self.shared.metrics, &job.ticket);
        metrics.wait.add(job.since.elapsed());
        if ticket.deadline.is_some_and(|d| d <= Instant::now()) {
            ticket.expired.store(true, Ordering::Relaxed);
            ticket.cancel.cancel();
        }
        if !ticket.is_cancelled() {
            return Some(job);
        }
        let error = ticket.error();
        Metrics::one(count(metrics, Some(&error)));
        self.shared.done(ticket);
        job.work.fail(error);
        None
    }

    /// Computes embeddings, and tells them.
    pub(super) fn embeds(&mut self, work: Work, ticket: &Ticket) {
        let Work::Embed(texts) = work else { return };
        let done = self.embed(&texts.texts, ticket);
        Metrics::one(count(&self.shared.metrics, done.as_ref().err()));
        drop(texts.done.send(done));
    }

    fn generator(&mut self) -> Result<&mut Generator> {
        if self.model.is_none() {
            self.load()?;
        }
        match &mut self.model {
            Some(Loaded::Generator(g)) => Ok(g),
            Some(Loaded::Batch(_)) => Err(Error::closed("the model answers in batches")),
            Some(Loaded::Embedder(e)) => {
                Err(Error::model(&e.info().name, "is an encoder: it makes embeddings, it does not generate text"))
            }
            None => Err(Error::closed("no model is open")),
        }
    }

    fn answer(
        &mut self,
        request: Request,
        ticket: &Ticket,
        waited: Duration,
        to: &UnboundedSender<Event>,
    ) -> Result<Ended> {
        let mut generation = self.generator()?.begin(&request.generate)?;
        if let Some(constraint) = request.constraint {
            generation.constrain(constraint);
        }
        let mut stops = Stops::new(request.stop);
        let ends: Arc<_> = self.generator()?.words();
        let start = Instant::now();
        let mut first = None;
        let mut reason = None;
        let mut since = start;
        while let Some(token) = self.next(&mut generation, ticket)? {
            let metrics = &self.shared.metrics;
            let times = if first.is_none() { &metrics.prefill } else { &metrics.decode };
            times.add(since.elapsed());
            first.get_or_insert(since.elapsed());
            since = Instant::now();
            Metrics::one(&metrics.generated_tokens);
            // The marker that ends a turn is none of the text.
            let marks = ends.stops().contains(&token.id) && token.text.is_empty();
            let released = if marks { Default::default() } else { stops.push(token) };
            send(to, released.tokens);
            if let Some(stop) = released.hit {
                reason = Some(Reason::StopString(stop));
                break;
            }
        }
        if reason.is_none() {
            send(to, stops.finish());
        }
        let done = self.generator()?.finished(&generation);
        let metrics = &self.shared.metrics;
        metrics.prompt_tokens.fetch_add(done.prompt_tokens as u64, Ordering::Relaxed);
        metrics.cached_tokens.fetch_add(done.cached_tokens as u64, Ordering::Relaxed);
        let reason = match reason {
            Some(reason) => reason,
            None => Reason::of(done.stop).map_err(|_| ticket.error())?,
        };
        let prefill = first.unwrap_or(start.elapsed());
        Ok(Ended {
            reason,
            prompt_tokens: done.prompt_tokens,
            cached_tokens: done.cached_tokens,
            tokens: done.tokens,
            waited,
            prefill,
            decode: start.elapsed() - prefill,
        })
    }

    /// The next token. Where the device is lost the model is opened anew, and the generation goes on with the same tokens.
    fn next(&mut self, generation: &mut Generation, ticket: &Ticket) -> Result<Option<Token>> {
        let mut losses = 0;
        loop {
            match block_on(self.generator()?.next(generation, &ticket.cancel)) {
                Ok(token) => return Ok(token),
                Err(Error::Device { fault: DeviceFault::Lost, adapter, what }) if losses < MOST_LOSSES => {
                    losses += 1;
                    self.lost(&adapter, &what)?;
                }
                Err(e) => return Err(e),
            }
        }
    }

    pub(super) fn lost(&mut self, adapter: &str, what: &str) -> Result<()> {
        Metrics::one(&self.shared.metrics.devices_lost);
        log::warn!("{adapter}: {what}; opening the model anew");
        self.load()
    }

    fn embed(&mut self, texts: &[String], ticket: &Ticket) -> Result<Embedded> {
        let mut losses = 0;
        loop {
            if self.model.is_none() {
                self.load()?;
            }
            let embedder = match &mut self.model {
                Some(Loaded::Embedder(e)) => e,
                Some(Loaded::Generator(g)) => return Err(no_encoder(&g.info().name)),
                Some(Loaded::Batch(b)) => return Err(no_encoder(&b.info().name)),
                None => return Err(Error::closed("no model is open")),
            };
            match block_on(embedder.embed_until(texts, &ticket.cancel)) {
                Ok(vectors) => {
                    let most = embedder.max_tokens();
                    let count = |t: &String| embedder.tokenizer().encode(t, true).map(|ids| ids.len().min(most));
                    let tokens = texts.iter().map(count).sum::<Result<usize>>()?;
                    self.shared.metrics.embedded_texts.fetch_add(texts.len() as u64, Ordering::Relaxed);
                    return Ok(Embedded { vectors, tokens });
                }
                Err(Error::Cancelled) => return Err(ticket.error()),
                Err(Error::Device { fault: DeviceFault::Lost, adapter, what }) if losses < MOST_LOSSES => {
                    losses += 1;
                    self.lost(&adapter, &what)?;
                }
                Err(e) => return Err(e),
            }
        }
    }
}

fn no_encoder(name: &str) -> Error {
    Error::model(name, "is a decoder: it generates text, it makes no embeddings")
}

/// Who has gone does not hear it: the ticket says so at the next step.
pub(super) fn send(to: &UnboundedSender<Event>, tokens: Vec<Token>) {
    tokens.into_iter().for_each(|t| drop(to.send(Event::Token(t))));
}

/// Which counter a request's end belongs to.
pub(super) fn count<'a>(metrics: &'a Metrics, failed: Option<&Error>) -> &'a std::sync::atomic::AtomicU64 {
    match failed {
        None => &metrics.finished,
        Some(Error::Cancelled) => &metrics.cancelled,
        Some(Error::Deadline) => &metrics.expired,
        Some(_) => &metrics.failed,
    }
}

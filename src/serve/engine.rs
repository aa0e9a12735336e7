//! The engine as its callers hold it.

use super::answer::Answer;
use super::metrics::Metrics;
use super::queue::{Embedded, Owner, Shared, Texts, Work};
use super::request::Request;
use super::state::{Card, State};
use super::stops::{MOST_STOP_BYTES, MOST_STOPS};
use super::ticket::Ticket;
use super::worker::{self, Loaded};
use crate::base::{Error, Result};
use crate::model::{Model, ModelSource};
use crate::session::{Batch, BatchOptions, Embedder, Generator, Notice, Options};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{mpsc, oneshot};

/// What an engine may hold.
///
/// ```
/// let limits = warpweft::serve::Limits::default().parallel(4).queue(32);
/// assert_eq!((limits.parallel, limits.queue), (4, 32));
/// ```
#[derive(Debug, Clone)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct Limits {
    /// Requests that may wait; beyond it [`Error::Busy`].
    pub queue: usize,
    /// Requests whose sequences share a step.
    pub parallel: usize,
    /// Bytes of their keys and values; where not given as many as all sequences could need, up to 1 GiB or one whole context.
    pub kv_bytes: Option<u64>,
    /// On a device, too, a sequence gets the same bits whatever shares its steps: one plan for any number of rows.
    pub deterministic: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { queue: 256, parallel: 8, kv_bytes: None, deterministic: false }
    }
}

impl Limits {
    /// Sets [`Limits::queue`].
    #[must_use]
    pub fn queue(self, queue: usize) -> Limits {
        Limits { queue, ..self }
    }
    /// Sets [`Limits::parallel`].
    #[must_use]
    pub fn parallel(self, parallel: usize) -> Limits {
        Limits { parallel, ..self }
    }
    /// Sets [`Limits::kv_bytes`].
    #[must_use]
    pub fn kv_bytes(self, kv_bytes: u64) -> Limits {
        Limits { kv_bytes: Some(kv_bytes), ..self }
    }
    /// Sets [`Limits::deterministic`].
    #[must_use]
    pub fn deterministic(self, deterministic: bool) -> Limits {
        Limits { deterministic, ..self }
    }
}

/// A model on a thread of its own, which it never leaves. Clones are handles of the same engine; when the last one and all
/// answers are gone, the thread ends.
#[derive(Clone)]
pub struct Engine {
    pub(super) shared: Arc<Shared>,
    owner: Arc<Owner>,
}

impl Engine {
    /// Begins to open a model; [`Engine::ready`] waits for it. Requests may be submitted at once.
    pub fn open(path: impl Into<PathBuf>, options: &Options, limits: Limits) -> Engine {
        let path = path.into();
        let device = options.device.clone();
        let (context, check_numerics, cache) = (options.context, options.check_numerics, options.cache.clone());
        let (layout, cancel) = (options.layout.clone(), options.cancel.clone());
        let (precision, threads, kv) = (options.precision, options.threads, options.kv);
        let notices = options.notices.clone();
        let how = BatchOptions {
            sequences: limits.parallel.max(1),
            kv_bytes: limits.kv_bytes,
            deterministic: limits.deterministic,
        };
        Engine::spawn(limits, move |notify| {
            let options = Options {
                device: device.clone(),
                context,
                check_numerics,
                cache: cache.clone(),
                layout: layout.clone(),
                cancel: cancel.clone(),
                precision,
                threads,
                kv,
                ..Options::default()
            };
            let model = Model::new(ModelSource::open(&path)?)?;
            let (decodes, pages) = (model.check_generates().is_ok(), model.has_pages() && options.layout.is_single());
            drop(model);
            let notify = &mut |notice: Notice| {
                notices.tell(notice.clone());
                notify(notice);
            };
            if decodes && !pages {
                log::info!("{}: requests are answered one after another", path.display());
            }
            pollster::block_on(async {
                Ok(match decodes {
                    true if pages => Loaded::Batch(Box::new(Batch::open(&path, &options, &how, notify).await?)),
                    true => Loaded::Generator(Generator::open_telling(&path, &options, notify).await?),
                    false => Loaded::Embedder(Embedder::open_telling(&path, &options, notify).await?),
                })
            })
        })
    }

    /// The same for a model that the caller opens, on the engine's thread; it is asked again when a device was lost.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn spawn(
        limits: Limits,
        open: impl FnMut(&mut dyn FnMut(Notice)) -> Result<Loaded> + Send + 'static,
    ) -> Engine {
        let shared = Arc::new(Shared::new(limits.queue));
        let engine = Engine { shared: shared.clone(), owner: Arc::new(Owner(shared.clone())) };
        let own = shared.clone();
        let clock = std::thread::Builder::new().name("deadlines".into()).spawn(move || own.watch_deadlines());
        let own = shared.clone();
        let run = move || worker::run(&own, Box::new(open));
        let thread = std::thread::Builder::new().name("engine".into()).stack_size(16 << 20).spawn(run);
        if let Err(e) = clock.and(thread) {
            let e = Error::closed(format!("the engine's thread could not be started: {e}"));
            shared.state.send_replace(State::Failed(e.clone()));
            shared.stop(e);
        }
        engine
    }

    /// Submits a request; its answer comes as it is computed.
    ///
    /// # Errors
    /// [`Error::Busy`] where the queue is full, [`Error::Closed`] where the engine takes no more, numbers out of range.
    pub fn submit(&self, request: Request) -> Result<Answer> {
        request.generate.sampling.validate()?;
        if request.stop.len() > MOST_STOPS {
            return Err(Error::usage(format!("{} stop strings, at most {MOST_STOPS} are taken", request.stop.len())));
        }
        if let Some(stop) = request.stop.iter().find(|s| s.is_empty() || s.len() > MOST_STOP_BYTES) {
            return Err(Error::usage(format!(
                "a stop string has {} bytes, 1 to {MOST_STOP_BYTES} are taken",
                stop.len()
            )));
        }
        if request.deadline.is_some_and(|d| d <= Instant::now()) {
            return Err(Error::Deadline);
        }
        let (send, receive) = mpsc::unbounded_channel();
        let (priority, deadline) = (request.priority, request.deadline);
        let ticket = self.shared.push(Work::Answer(Box::new(request), send), priority, deadline)?;
        Ok(Answer::new(receive, ticket, self.owner.clone()))
    }

    /// One vector of length one for each text, in order, and how many tokens were read. Dropping the future cancels.
    ///
    /// # Errors
    /// Those of [`Engine::submit`]; a model that is no encoder; texts without tokens; device faults.
    pub async fn embed(
        &self,
        texts: Vec<String>,
        priority: i32,
        deadline: Option<Instant>,
    ) -> Result<(Vec<Vec<f32>>, usize)> {
        let (done, made) = oneshot::channel();
        let ticket = self.shared.push(Work::Embed(Texts { texts, done }), priority, deadline)?;
        let _gone = CancelOnDrop(&self.shared, ticket);
        let Embedded { vectors, tokens } =
            made.await.map_err(|_| Error::closed("the engine ended before it had answered"))??;
        Ok((vectors, tokens))
    }

    /// Where it stands now.
    pub fn state(&self) -> State {
        self.shared.state.borrow().clone()
    }

    /// What is known of the model, once it is open.
    ///
    /// # Errors
    /// Whatever kept it from opening.
    pub async fn ready(&self) -> Result<Arc<Card>> {
        let mut state = self.shared.state.subscribe();
        let found = state.wait_for(|s| !matches!(s, State::Loading(_))).await;
        match found.as_deref() {
            Ok(State::Ready(card)) => Ok(card.clone()),
            Ok(State::Failed(e)) => Err(e.clone()),
            _ => Err(Error::closed("the engine has ended")),
        }
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.shared.waiting()
    }
    /// What it has done so far.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Takes no more requests; those that it has are answered. Waits for that.
    pub async fn drain(&self) {
        self.shared.close("the server is shutting down");
        self.shared.until_idle().await;
    }

    /// Takes no more requests, cancels what runs and refuses what waits.
    pub fn stop(&self) {
        self.shared.stop(Error::closed("the server was stopped"));
    }
}

struct CancelOnDrop<'a>(&'a Shared, Arc<Ticket>);

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        self.0.cancel(&self.1);
    }
}

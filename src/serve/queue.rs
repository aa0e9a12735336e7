//! Requests that wait, in the order in which they will be computed; and who watches their deadlines.

use super::metrics::Metrics;
use super::request::{Event, Request};
use super::state::State;
use super::ticket::{Place, Ticket};
use crate::base::{Error, Result};
use crate::session::Cancel;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Instant;
use tokio::sync::{mpsc, oneshot, watch};

/// Texts to embed.
pub(super) struct Texts {
    pub texts: Vec<String>,
    pub done: oneshot::Sender<Result<Embedded>>,
}

/// Vectors, and tokens that were read for them.
#[derive(Debug)]
pub(super) struct Embedded {
    pub vectors: Vec<Vec<f32>>,
    pub tokens: usize,
}

pub(super) enum Work {
    Answer(Box<Request>, mpsc::UnboundedSender<Event>),
    Embed(Texts),
}

impl Work {
    pub fn fail(self, e: Error) {
        // Who has gone does not hear it.
        match self {
            Work::Answer(_, to) => drop(to.send(Event::End(Err(e)))),
            Work::Embed(texts) => drop(texts.done.send(Err(e))),
        }
    }
}

pub(super) struct Job {
    pub work: Work,
    pub ticket: Arc<Ticket>,
    pub since: Instant,
}

#[derive(Default)]
struct Queue {
    waiting: BTreeMap<Place, Job>,
    next: u64,
    running: Vec<Arc<Ticket>>,
    /// New requests are refused.
    closed: Option<&'static str>,
    /// The thread takes no more.
    stopped: bool,
}

/// What an engine's thread and its callers share.
pub(super) struct Shared {
    queue: Mutex<Queue>,
    /// Work has come, or the end.
    work: Condvar,
    /// A deadline has come or gone.
    clock: Condvar,
    most: usize,
    pub metrics: Metrics,
    pub state: watch::Sender<State>,
    /// Set while nothing waits or runs.
    idle: watch::Sender<bool>,
}

impl Shared {
    pub fn new(most: usize) -> Shared {
        Shared {
            queue: Mutex::default(),
            work: Condvar::new(),
            clock: Condvar::new(),
            most,
            metrics: Metrics::default(),
            state: watch::Sender::new(State::Loading("opening".into())),
            idle: watch::Sender::new(true),
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub fn waiting(&self) -> usize {
        self.queue().waiting.len()
    }

    pub fn push(&self, work: Work, priority: i32, deadline: Option<Instant>) -> Result<Arc<Ticket>> {
        let mut queue = self.queue();
        if let Some(why) = queue.closed {
            return Err(Error::closed(why));
        }
        if queue.waiting.len() >= self.most {
            Metrics::one(&self.metrics.busy);
            return Err(Error::Busy { waiting: queue.waiting.len() });
        }
        let place = (Reverse(priority), queue.next);
        queue.next += 1;
        let ticket = Arc::new(Ticket { place, deadline, cancel: Cancel::new(), expired: AtomicBool::new(false) });
        queue.waiting.insert(place, Job { work, ticket: ticket.clone(), since: Instant::now() });
        self.idle.send_replace(false);
        Metrics::one(&self.metrics.submitted);
        self.work.notify_one();
        self.clock.notify_one();
        Ok(ticket)
    }

    /// The next job; waits for one. `None` when there will be no more.
    pub fn take(&self) -> Option<Job> {
        let mut queue = self.queue();
        queue.running.clear();
        loop {
            if queue.stopped {
                return None;
            }
            if let Some(job) = self.first(&mut queue) {
                return Some(job);
            }
            self.metrics.running.store(0, Ordering::Relaxed);
            self.idle.send_replace(true);
            queue = self.work.wait(queue).unwrap_or_else(|e| e.into_inner());
        }
    }

    /// The next job if one waits, to be computed beside those that run.
    pub fn try_take(&self) -> Option<Job> {
        let mut queue = self.queue();
        if queue.stopped { None } else { self.first(&mut queue) }
    }

    fn first(&self, queue: &mut Queue) -> Option<Job> {
        let (_, job) = queue.waiting.pop_first()?;
        queue.running.push(job.ticket.clone());
        self.metrics.running.store(queue.running.len() as u64, Ordering::Relaxed);
        // Its deadline may be the next.
        self.clock.notify_one();
        Some(job)
    }

    /// A job that ran beside others has ended.
    pub fn done(&self, ticket: &Ticket) {
        let mut queue = self.queue();
        queue.running.retain(|t| !std::ptr::eq(&**t, ticket));
        self.metrics.running.store(queue.running.len() as u64, Ordering::Relaxed);
    }

    /// A caller has gone.
    pub fn cancel(&self, ticket: &Ticket) {
        ticket.cancel.cancel();
        let mut queue = self.queue();
        if queue.waiting.remove(&ticket.place).is_some() {
            Metrics::one(&self.metrics.cancelled);
            if queue.waiting.is_empty() && queue.running.is_empty() {
                self.idle.send_replace(true);
            }
        }
    }

    /// Refuses new requests from now on.
    pub fn close(&self, why: &'static str) {
        self.queue().closed.get_or_insert(why);
    }

    /// Ends the thread: what runs is cancelled within a step, what waits is told.
    pub fn stop(&self, why: Error) {
        let mut queue = self.queue();
        queue.closed.get_or_insert("the engine has ended");
        queue.stopped = true;
        queue.running.iter().for_each(|ticket| ticket.cancel.cancel());
        let left = std::mem::take(&mut queue.waiting);
        self.work.notify_all();
        self.clock.notify_all();
        drop(queue);
        left.into_values().for_each(|job| job.work.fail(why.clone()));
    }

    /// Waits until nothing waits or runs.
    pub async fn until_idle(&self) {
        // The sender lives as long as `self`.
        let _ = self.idle.subscribe().wait_for(|idle| *idle).await;
    }

    /// Marks the engine's last moment.
    pub fn ended(&self) {
        let mut queue = self.queue();
        queue.running.clear();
        self.metrics.running.store(0, Ordering::Relaxed);
        self.idle.send_replace(true);
    }

    /// Tells requests whose deadline has passed, until the engine stops: what a thread of its own does.
    pub fn watch_deadlines(&self) {
        let mut queue = self.queue();
        while !queue.stopped {
            let now = Instant::now();
            let late: Vec<Place> =
                queue.waiting.values().filter(|j| j.ticket.is_past(now)).map(|j| j.ticket.place).collect();
            for job in late.iter().filter_map(|place| queue.waiting.remove(place)).collect::<Vec<_>>() {
                Metrics::one(&self.metrics.expired);
                job.work.fail(Error::Deadline);
            }
            let running = queue.running.iter();
            for ticket in running.clone().filter(|t| t.is_past(now)) {
                ticket.expired.store(true, Ordering::Relaxed);
                ticket.cancel.cancel();
            }
            let ahead = queue.waiting.values().map(|j| &j.ticket).chain(running).filter_map(|t| t.deadline);
            let next = ahead.filter(|d| *d > now).min();
            queue = match next {
                Some(at) => self.clock.wait_timeout(queue, at - now).unwrap_or_else(|e| e.into_inner()).0,
                None => self.clock.wait(queue).unwrap_or_else(|e| e.into_inner()),
            };
        }
    }
}

/// Ends the thread with the last handle.
pub(super) struct Owner(pub Arc<Shared>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.stop(Error::closed("the engine was dropped"));
    }
}

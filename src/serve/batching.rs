//! Requests that share steps: they come and go between steps, as they are taken, end, or are given up.

use super::metrics::Metrics;
use super::queue::{Job, Work};
use super::request::{Ended, Event, Reason};
use super::stops::Stops;
use super::ticket::Ticket;
use super::worker::{Loaded, MOST_LOSSES, Worker, count, send};
use crate::base::{DeviceFault, Error, Result};
use crate::session::{Batch, Finished, Made};
use pollster::block_on;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedSender;

/// A request whose sequence is in the batch.
struct Live {
    id: u64,
    ticket: Arc<Ticket>,
    to: UnboundedSender<Event>,
    stops: Stops,
    waited: Duration,
    start: Instant,
    /// Time to the first token, and when the last one came.
    first: Option<Duration>,
    since: Instant,
}

impl Worker<'_> {
    fn batch(&mut self) -> Result<&mut Batch> {
        match &mut self.model {
            Some(Loaded::Batch(batch)) => Ok(batch),
            _ => Err(Error::closed("no model is open")),
        }
    }

    /// Answers this request and all that come before the last of them has ended.
    pub(super) fn together(&mut self, first: Job) {
        let (mut live, mut losses) = (vec![], 0);
        self.admit(first, &mut live);
        loop {
            self.drop_cancelled(&mut live);
            while self.batch().is_ok_and(|b| !b.is_full()) {
                let Some(job) = self.shared.try_take() else { break };
                self.admit(job, &mut live);
            }
            if live.is_empty() {
                return self.gauge();
            }
            match self.step(&mut live) {
                Ok(()) => losses = 0,
                Err(Error::Device { fault: DeviceFault::Lost, adapter, what }) if losses < MOST_LOSSES => {
                    losses += 1;
                    self.go_on(&mut live, &adapter, &what);
                }
                // Whoever was cancelled is found above.
                Err(Error::Cancelled) => {}
                Err(e) => self.fail(&mut live, &e),
            }
            self.gauge();
        }
    }

    fn gauge(&mut self) {
        let metrics = &self.shared.metrics;
        let Some(Loaded::Batch(batch)) = &self.model else { return };
        let (used, all) = batch.pages();
        metrics.pages_used.store(used as u64, Ordering::Relaxed);
        metrics.pages.store(all as u64, Ordering::Relaxed);
        metrics.preempted.store(batch.preempted(), Ordering::Relaxed);
    }

    /// Takes a request in, or ends it.
    fn admit(&mut self, job: Job, live: &mut Vec<Live>) {
        let Some(Job { work, ticket, since }) = self.still_wanted(job) else { return };
        let Work::Answer(request, to) = work else {
            self.embeds(work, &ticket);
            return self.shared.done(&ticket);
        };
        let request = *request;
        let added = self.batch().and_then(|batch| {
            let mut generation = batch.begin(&request.generate)?;
            if let Some(constraint) = request.constraint {
                generation.constrain(constraint);
            }
            batch.add(generation)
        });
        let (stops, waited, start) = (Stops::new(request.stop), since.elapsed(), Instant::now());
        let new = |id| Live { id, ticket, to, stops, waited, start, first: None, since: start };
        match added {
            Ok(id) => live.push(new(id)),
            Err(e) => self.end(new(0), Err(e)),
        }
    }

    /// Those whose caller has gone, or whose deadline has passed, give their pages back.
    fn drop_cancelled(&mut self, live: &mut Vec<Live>) {
        for at in (0..live.len()).rev().filter(|i| live[*i].ticket.is_cancelled()).collect::<Vec<_>>() {
            let gone = live.remove(at);
            if let Ok(batch) = self.batch() {
                batch.remove(gone.id);
            }
            let error = gone.ticket.error();
            self.end(gone, Err(error));
        }
    }

    fn step(&mut self, live: &mut Vec<Live>) -> Result<()> {
        let never = AtomicBool::new(false);
        let made = match &live[..] {
            // A step that only one waits for ends with it.
            [one] => block_on(self.batch()?.step(one.ticket.cancel.flag()))?,
            _ => block_on(self.batch()?.step(&never))?,
        };
        made.into_iter().try_for_each(|m| self.deliver(m, live))
    }

    fn deliver(&mut self, made: Made, live: &mut Vec<Live>) -> Result<()> {
        let Some(at) = live.iter().position(|l| l.id == made.id) else { return Ok(()) };
        let shared = self.shared;
        let words = self.batch()?.words();
        let (l, mut reason) = (&mut live[at], None);
        if let Some(token) = made.token {
            let times = if l.first.is_none() { &shared.metrics.prefill } else { &shared.metrics.decode };
            times.add(l.since.elapsed());
            l.first.get_or_insert(l.start.elapsed());
            l.since = Instant::now();
            Metrics::one(&shared.metrics.generated_tokens);
            // The marker that ends a turn is none of the text.
            let marks = words.stops().contains(&token.id) && token.text.is_empty();
            let released = if marks { Default::default() } else { l.stops.push(token) };
            send(&l.to, released.tokens);
            reason = released.hit.map(Reason::StopString);
        }
        let done = match (made.ended, &reason) {
            (Some(ended), _) => ended,
            (None, None) => return Ok(()),
            (None, Some(_)) => {
                let batch = self.batch()?;
                let generation = batch.remove(made.id).ok_or_else(|| Error::closed("a sequence was lost"))?;
                Ok(batch.finished(&generation))
            }
        };
        let mut l = live.remove(at);
        if reason.is_none() {
            send(&l.to, l.stops.finish());
        }
        let ended = done.and_then(|done| self.ended(&l, done, reason));
        self.end(l, ended);
        Ok(())
    }

    /// The figures of an answer.
    fn ended(&self, l: &Live, done: Finished, reason: Option<Reason>) -> Result<Ended> {
        let metrics = &self.shared.metrics;
        metrics.prompt_tokens.fetch_add(done.prompt_tokens as u64, Ordering::Relaxed);
        metrics.cached_tokens.fetch_add(done.cached_tokens as u64, Ordering::Relaxed);
        let reason = match reason {
            Some(reason) => reason,
            None => Reason::of(done.stop).map_err(|_| l.ticket.error())?,
        };
        let prefill = l.first.unwrap_or(l.start.elapsed());
        Ok(Ended {
            reason,
            prompt_tokens: done.prompt_tokens,
            cached_tokens: done.cached_tokens,
            tokens: done.tokens,
            waited: l.waited,
            prefill,
            decode: l.start.elapsed() - prefill,
        })
    }

    /// A request's last word.
    fn end(&self, l: Live, ended: Result<Ended>) {
        Metrics::one(count(&self.shared.metrics, ended.as_ref().err()));
        drop(l.to.send(Event::End(ended)));
        self.shared.done(&l.ticket);
    }

    /// Opens the model anew; all sequences go on with the same tokens.
    fn go_on(&mut self, live: &mut Vec<Live>, adapter: &str, what: &str) {
        let all = self.batch().map_or(vec![], Batch::take_all);
        if let Err(e) = self.lost(adapter, what) {
            return self.fail(live, &e);
        }
        for (old, generation) in all {
            let Some(at) = live.iter().position(|l| l.id == old) else { continue };
            // Ids of the new batch are told apart from old ones by the order of `all`: each is found before it is renamed.
            match self.batch().and_then(|b| b.add(generation)) {
                Ok(id) => live[at].id = id,
                Err(e) => {
                    let l = live.remove(at);
                    self.end(l, Err(e));
                }
            }
        }
    }

    fn fail(&mut self, live: &mut Vec<Live>, e: &Error) {
        for l in live.drain(..) {
            if let Ok(batch) = self.batch() {
                batch.remove(l.id);
            }
            self.end(l, Err(e.clone()));
        }
    }
}

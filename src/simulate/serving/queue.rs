//! Requests in virtual time. Between arrivals, ends and prompts nothing changes but the length of what is cached: those
//! steps are taken at once.

use super::steps::{Load, Steps};
use crate::base::{Error, Result};
use crate::simulate::energy::Spent;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// When requests come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arrivals {
    /// So many at once; each that ends is followed by the next.
    Concurrency(usize),
    /// So many per second, at random moments.
    PerSecond(f64),
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Requests {
    pub arrivals: Arrivals,
    pub input: usize,
    pub output: usize,
    /// Lengths lie evenly between (1 − spread) and 1 of `input` and `output`.
    pub spread: f64,
}

/// Prompts that run on devices of their own.
#[derive(Debug, Clone)]
pub struct Apart {
    pub steps: Steps,
    /// Engines that read prompts, for each that decodes.
    pub engines: f64,
    /// Handing the cache of a prompt over.
    pub handover: f64,
}

/// A distribution, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quantiles {
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
}

/// What came out.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub first_token: Quantiles,
    /// Per token after the first.
    pub per_token: Quantiles,
    /// Answer tokens per second of the engine.
    pub tokens_per_second: f64,
    /// Sequences that were put off for want of cache, once each time.
    pub preempted: usize,
    pub requests: usize,
    /// Of all devices, for a token of the answer; and the mean power of one (of those that decode, where others read prompts).
    pub joules_per_token: f64,
    pub watts: f64,
}

/// Requests of a run for each one at once, and of a run with a rate; no more than this.
const ROUNDS: usize = 10;
const AT_A_RATE: usize = 600;
const MOST_REQUESTS: usize = 20_000;
/// Steps and leaps of a run, beyond which it is given up.
const MOST_TURNS: usize = 4_000_000;

/// The golden ratio's multiples: evenly spread, and the same each time.
fn even(i: usize) -> f64 {
    (i as f64 * 0.618_033_988_749_894_9).fract()
}

fn quantiles(mut all: Vec<f64>) -> Quantiles {
    all.sort_by(f64::total_cmp);
    let at = |share: f64| all[((all.len() - 1) as f64 * share).round() as usize];
    Quantiles { mean: all.iter().sum::<f64>() / all.len() as f64, p50: at(0.5), p90: at(0.9), p99: at(0.99) }
}

struct Run<'a> {
    steps: &'a Steps,
    apart: Option<&'a Apart>,
    time: f64,
    /// Decode steps so far.
    step: u64,
    input: Vec<u64>,
    /// Tokens that are left to answer; what was answered before a sequence was put off is a part of its prompt.
    output: Vec<u64>,
    answers: Vec<u64>,
    arrival: Vec<f64>,
    arrival_step: Vec<u64>,
    first: Vec<f64>,
    end: Vec<f64>,
    waiting: VecDeque<usize>,
    /// Prompts that other engines read, by when they are handed over.
    handed: VecDeque<(f64, usize)>,
    free: Vec<f64>,
    /// The prompt that is cut, and how much of it is done.
    cut: Option<(usize, u64)>,
    /// By the step that ends them.
    decoding: BinaryHeap<Reverse<(u64, usize)>>,
    cached: f64,
    /// Cache of prompts that are being read, and that is reserved for answers.
    held: f64,
    reserved: f64,
    ended: usize,
    preempted: usize,
    /// Of one device, over the run; and of one that reads prompts elsewhere.
    spent: Spent,
    busy: f64,
    elsewhere: (Spent, f64),
}

/// Runs requests against an engine.
///
/// # Errors
/// A request that the cache cannot hold; a load beyond what a run can be followed through.
pub fn run(steps: &Steps, apart: Option<&Apart>, r: &Requests) -> Result<Outcome> {
    let count = match r.arrivals {
        Arrivals::Concurrency(0) => return Err(Error::usage("concurrency is 0, must be 1 or more")),
        Arrivals::Concurrency(c) => (c.saturating_mul(ROUNDS)).min(MOST_REQUESTS.max(c)),
        Arrivals::PerSecond(rate) if !rate.is_finite() || rate <= 0.0 => {
            return Err(Error::usage(format!("a load of {rate} requests per second must be above zero")));
        }
        Arrivals::PerSecond(_) => AT_A_RATE,
    };
    if r.input == 0 || r.output == 0 || r.input > 1 << 24 || r.output > 1 << 24 || count > 1 << 20 {
        return Err(Error::usage(format!(
            "input {}, output {} and {count} requests: each must be 1 to {}",
            r.input,
            r.output,
            1 << 24
        )));
    }
    let whole = (r.input + r.output) as f64;
    if steps.capacity < whole * steps.attention_dp {
        return Err(Error::usage(format!(
            "does not fit: beside {} of weights the cache of a device holds {:.0} tokens, a request has {whole}",
            steps.weights,
            steps.capacity / steps.attention_dp
        )));
    }
    let cut = |n: usize, i: usize| ((n as f64 * (1.0 - r.spread * even(i))).round() as u64).max(1);
    let mut run = Run {
        steps,
        apart,
        time: 0.0,
        step: 0,
        input: (0..count).map(|i| cut(r.input, i + 1)).collect(),
        output: (0..count).map(|i| cut(r.output, 7 * i + 3).max(2)).collect(),
        answers: vec![],
        arrival: vec![0.0; count],
        arrival_step: vec![0; count],
        first: vec![f64::NAN; count],
        end: vec![0.0; count],
        waiting: VecDeque::new(),
        handed: VecDeque::new(),
        free: apart.map_or(vec![], |a| vec![0.0; (a.engines.round() as usize).max(1)]),
        cut: None,
        decoding: BinaryHeap::new(),
        cached: 0.0,
        held: 0.0,
        reserved: 0.0,
        ended: 0,
        preempted: 0,
        spent: Spent::default(),
        busy: 0.0,
        elsewhere: (Spent::default(), 0.0),
    };
    if let (Arrivals::Concurrency(c), true) = (r.arrivals, steps.serving.staggered) {
        for (i, left) in run.output.iter_mut().enumerate().take(c) {
            *left = ((*left as f64 * even(i + 1)).ceil() as u64).max(2);
        }
    }
    run.answers = run.output.clone();
    if let Arrivals::PerSecond(rate) = r.arrivals {
        let mut at = 0.0;
        for (i, a) in run.arrival.iter_mut().enumerate() {
            *a = at;
            at -= (1.0 - even(13 * i + 5)).max(1e-9).ln() / rate;
        }
    }
    run.all(r.arrivals)?;
    Ok(run.outcome())
}

impl Run<'_> {
    fn all(&mut self, arrivals: Arrivals) -> Result<()> {
        let count = self.input.len();
        let mut next = 0;
        let at_once = if let Arrivals::Concurrency(c) = arrivals { c.min(count) } else { 0 };
        while next < at_once {
            self.arrive(next);
            next += 1;
        }
        let mut turns = 0;
        while self.ended < count {
            turns += 1;
            if turns > MOST_TURNS {
                return Err(Error::usage("requests do not come to an end: the cache is too small for them"));
            }
            // At a rate, what has come by now is queued; an idle engine waits for the next.
            if let Arrivals::PerSecond(_) = arrivals {
                if self.idle() && next < count {
                    self.time = self.time.max(self.arrival[next]);
                }
                while next < count && self.arrival[next] <= self.time {
                    self.arrive(next);
                    next += 1;
                }
            }
            self.take_over();
            let until = match arrivals {
                Arrivals::PerSecond(_) if next < count => self.arrival[next],
                _ => f64::INFINITY,
            };
            if !self.prompts() {
                self.decode(until)?;
            }
            for i in self.finish() {
                self.end[i] = self.time;
                self.ended += 1;
                if at_once > 0 && next < count {
                    self.arrival[next] = self.time;
                    self.arrive(next);
                    next += 1;
                }
            }
        }
        Ok(())
    }

    fn idle(&self) -> bool {
        self.waiting.is_empty() && self.decoding.is_empty() && self.cut.is_none() && self.handed.is_empty()
    }

    fn arrive(&mut self, i: usize) {
        self.arrival_step[i] = self.step;
        let Some(apart) = self.apart else { return self.waiting.push_back(i) };
        let n = self.input[i] as f64;
        let load = Load { prompt: n, pairs: n * n / 2.0, prompts: 1.0, sampled: 1.0, ..Load::default() };
        // A part of an engine takes as many times longer.
        let slower = (self.free.len() as f64 / apart.engines).max(1.0);
        let seconds = apart.steps.seconds(&load);
        self.elsewhere = (self.elsewhere.0 + apart.steps.spent(&load), self.elsewhere.1 + apart.steps.busy(&load));
        let Some(engine) = self.free.iter_mut().min_by(|a, b| a.total_cmp(b)) else { return };
        let start = engine.max(self.arrival[i]);
        *engine = start + seconds * slower;
        self.first[i] = start + seconds;
        let at = self.first[i] + apart.handover * n;
        let place = self.handed.partition_point(|h| h.0 <= at);
        self.handed.insert(place, (at, i));
    }

    /// Sequences whose prompts other engines have read join as soon as the cache has room.
    fn take_over(&mut self) {
        if self.decoding.is_empty()
            && let Some(h) = self.handed.front()
        {
            self.time = self.time.max(h.0);
        }
        while let Some((at, i)) = self.handed.front().copied() {
            let fits = self.cached + self.input[i] as f64 <= self.steps.capacity || self.decoding.is_empty();
            if at > self.time || !fits {
                break;
            }
            self.handed.pop_front();
            self.cached += self.input[i] as f64 + 1.0;
            self.decoding.push(Reverse((self.step + self.output[i] - 1, i)));
        }
    }

    /// One step with prompts in it, where any may run. False where none may.
    fn prompts(&mut self) -> bool {
        let s = &self.steps.serving;
        let dp = self.steps.attention_dp;
        let decoding = self.decoding.len() as f64;
        if let Some(i) = self.waiting.front()
            && dp > 1.0
            && s.balance > 0
            && decoding > 0.0
            && (self.waiting.len() as f64) < dp
            && self.step - self.arrival_step[*i] < s.balance as u64
        {
            return false;
        }
        let beside = if s.prefill_first { 0.0 } else { decoding };
        let mut room = s.tokens as f64 * dp - beside;
        let mut load = Load::default();
        let mut read = vec![];
        while room > 0.0 {
            let Some((i, done)) = self.cut.take().or_else(|| self.admit(load.prompts, room).map(|i| (i, 0))) else {
                break;
            };
            let left = self.input[i] - done;
            let take = if s.chunked { left.min(room.ceil() as u64) } else { left };
            load.prompt += take as f64;
            load.pairs += take as f64 * (done as f64 + take as f64 / 2.0);
            load.prompts += 1.0;
            room -= take as f64;
            if take < left {
                self.cut = Some((i, done + take));
                break;
            }
            read.push(i);
        }
        if load.prompt <= 0.0 {
            return false;
        }
        load.decoding = beside;
        load.cached = if beside > 0.0 { self.cached } else { 0.0 };
        load.sampled = beside + read.len() as f64;
        self.time += self.steps.seconds(&load);
        self.spend(&load, 1.0);
        if beside > 0.0 {
            self.pass(1);
        }
        for i in read {
            if self.first[i].is_nan() {
                self.first[i] = self.time;
            }
            let n = self.input[i] as f64;
            self.cached += n + 1.0;
            self.held -= n;
            self.decoding.push(Reverse((self.step + self.output[i] - 1, i)));
        }
        true
    }

    /// The first in the queue, where the step and the cache have room for it.
    fn admit(&mut self, prompts: f64, room: f64) -> Option<usize> {
        let s = &self.steps.serving;
        let i = *self.waiting.front()?;
        let (n, own) = (self.input[i] as f64, s.reserve * self.output[i] as f64);
        let alone = self.decoding.is_empty() && prompts == 0.0;
        let full = self.decoding.len() as f64 + prompts >= s.sequences as f64 * self.steps.attention_dp;
        let cached = self.cached + self.held + self.reserved + n + own > self.steps.capacity;
        if full || (!alone && cached) || (!s.chunked && n > room && prompts > 0.0) {
            return None;
        }
        self.waiting.pop_front();
        self.held += n;
        self.reserved += own;
        Some(i)
    }

    /// What so many steps of this load take of a device.
    fn spend(&mut self, load: &Load, steps: f64) {
        self.spent = self.spent + self.steps.spent(load) * steps;
        self.busy += self.steps.busy(load) * steps;
    }

    /// So many decode steps are over.
    fn pass(&mut self, steps: u64) {
        let new = self.decoding.len() as f64 * steps as f64;
        self.step += steps;
        self.cached += new;
        self.reserved = (self.reserved - new * self.steps.serving.reserve).max(0.0);
    }

    /// Decode steps until something changes.
    fn decode(&mut self, until: f64) -> Result<()> {
        let Some(Reverse((last, _))) = self.decoding.peek() else {
            return Err(Error::usage("a request waits for room in the cache that nothing will leave"));
        };
        let n = self.decoding.len() as f64;
        let mut steps = last.saturating_sub(self.step).max(1);
        if let Some(i) = self.waiting.front()
            && self.steps.attention_dp > 1.0
            && self.steps.serving.balance > 0
        {
            let waited = self.step - self.arrival_step[*i];
            let left = (self.steps.serving.balance as u64).saturating_sub(waited);
            steps = steps.min(if left > 0 { left } else { steps });
        }
        if self.cached + n * steps as f64 > self.steps.capacity && self.decoding.len() > 1 {
            let room = ((self.steps.capacity - self.cached) / n).floor();
            if room < 1.0 {
                self.put_off();
                return Ok(());
            }
            steps = steps.min(room as u64);
        }
        let load = |cached: f64| Load { decoding: n, cached, sampled: n, ..Load::default() };
        let each = |cached: f64| self.steps.seconds(&load(cached));
        let next = self.handed.front().map_or(until, |h| until.min(h.0));
        if next.is_finite() {
            let first = each(self.cached);
            steps = steps.min((((next - self.time) / first).ceil().max(1.0)) as u64);
        }
        let middle = self.cached + n * (steps - 1) as f64 / 2.0;
        self.time += steps as f64 * each(middle);
        self.spend(&load(middle), steps as f64);
        self.pass(steps);
        Ok(())
    }

    /// The newest sequence leaves the cache and queues again, with what it has answered as a part of its prompt.
    fn put_off(&mut self) {
        let mut all = std::mem::take(&mut self.decoding).into_vec();
        let newest = (0..all.len()).max_by(|a, b| self.first[all[*a].0.1].total_cmp(&self.first[all[*b].0.1]));
        if let Some(at) = newest {
            let Reverse((last, i)) = all.swap_remove(at);
            let left = last.saturating_sub(self.step).max(1);
            let answered = self.output[i].saturating_sub(left);
            self.cached -= (self.input[i] + answered) as f64;
            self.input[i] += answered;
            self.output[i] = left.max(2);
            self.waiting.push_front(i);
            self.preempted += 1;
        }
        self.decoding = all.into();
    }

    fn finish(&mut self) -> Vec<usize> {
        let mut out = vec![];
        while let Some(Reverse((last, i))) = self.decoding.peek().copied() {
            if last > self.step {
                break;
            }
            self.decoding.pop();
            self.cached = (self.cached - (self.input[i] + self.output[i]) as f64).max(0.0);
            out.push(i);
        }
        out
    }

    fn outcome(&self) -> Outcome {
        let s = &self.steps.serving;
        let way = s.request.0 + if self.steps.latent { s.request_latent.0 } else { 0.0 };
        let count = self.input.len();
        let first = (0..count).map(|i| self.first[i] - self.arrival[i] + way).collect();
        let token = |i: usize| (self.end[i] - self.first[i]) / (self.answers[i] - 1).max(1) as f64;
        let span = self.end.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        let tokens = self.answers.iter().sum::<u64>() as f64;
        let mine = self.steps.energy(self.spent, span, self.busy);
        let theirs = self.apart.map_or(0.0, |a| {
            a.engines * a.steps.energy(self.elsewhere.0 * (1.0 / a.engines), span, self.elsewhere.1 / a.engines)
        });
        Outcome {
            joules_per_token: (mine + theirs) / tokens,
            watts: mine / span / self.steps.devices(),
            first_token: quantiles(first),
            per_token: quantiles((0..count).map(token).collect()),
            tokens_per_second: tokens / span,
            preempted: self.preempted,
            requests: count,
        }
    }
}

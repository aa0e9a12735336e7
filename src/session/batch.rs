//! Many generations on one engine: each step takes rows of any of them (continuous batching: Yu et al., 2022).
//!
//! Sequences are kept by age. A step takes one row of each that decodes, and fills what is left of its rows with prompts, the
//! oldest first. Keys and values lie in pages of one pool. Where it is full the youngest sequence gives its pages back,
//! and computes them anew when there is room: it goes on with the same tokens. The oldest always goes on.

use super::engine::Engine;
use super::open::open_paged;
use super::pages::{PagePool, ROOT};
use super::rows::{StepRows, step_bindings, step_inputs};
use super::words::Words;
use super::{Finished, Generation, Notice, Options, Request, Stop, Token};
use crate::base::{Array, Bindings, Error, Result};
use crate::model::{Model, ModelInfo, PagedShape};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use web_time::Instant;

/// How many sequences at once, and in how much memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchOptions {
    /// Sequences that a step may have rows of.
    pub sequences: usize,
    /// Bytes of keys and values; where not given as many as all sequences could need, up to 1 GiB or one whole context.
    pub kv_bytes: Option<u64>,
    /// Whether a sequence's tokens are those that it gets alone, in every bit, on adapters too: all steps are computed by the
    /// same kernels then, few rows by those for many. On the CPU it is so anyway.
    pub deterministic: bool,
}

impl Default for BatchOptions {
    fn default() -> Self {
        BatchOptions { sequences: 8, kv_bytes: None, deterministic: false }
    }
}

/// Many sequences of a decoder, a step at a time.
pub struct Batch {
    engine: Engine,
    info: ModelInfo,
    words: Arc<Words>,
    context: usize,
    shape: PagedShape,
    /// Rows up to which the second graph is there.
    few: usize,
    back: usize,
    /// Rows that convolutions keep of each sequence, where sequences have states of their own.
    keeps: Option<usize>,
    pool: PagePool,
    /// The oldest first.
    running: Vec<Sequence>,
    next: u64,
    preempted: u64,
}

struct Sequence {
    id: u64,
    /// Its place in tables and states, for as long as it is under way.
    slot: usize,
    generation: Generation,
    pages: Vec<u32>,
    /// Tokens whose keys and values are in its pages.
    computed: usize,
    /// Full pages that are published, and the name of the last.
    published: usize,
    name: u64,
}

/// What a step made of a sequence.
pub struct Made {
    /// The sequence's number.
    pub id: u64,
    /// The token that it goes on with.
    pub token: Option<Token>,
    /// Set with the last: the sequence is gone.
    pub ended: Option<Result<Finished>>,
}

/// Rows of a step: of which sequence, and its tokens.
type Share = (usize, Range<usize>);

impl Sequence {
    fn wanted(&self) -> usize {
        self.generation.tokens().len() - self.computed
    }
}

impl Batch {
    /// Opens a .gguf file or a model folder.
    ///
    /// # Errors
    /// Those of [`super::Generator::open`]; a mesh; memory for fewer tokens than the context.
    #[cfg(not(target_arch = "wasm32"))]
    pub async fn open(
        path: impl AsRef<std::path::Path>,
        options: &Options,
        how: &BatchOptions,
        notify: &mut dyn FnMut(Notice),
    ) -> Result<Batch> {
        Batch::with(&Model::new(crate::model::ModelSource::open(path)?)?, options, how, notify).await
    }

    /// From a model whose weights are there.
    pub async fn with(
        model: &Model,
        options: &Options,
        how: &BatchOptions,
        notify: &mut dyn FnMut(Notice),
    ) -> Result<Batch> {
        let (info, context, words) = super::generate::prepare(model, options, notify)?;
        if how.sequences == 0 {
            return Err(Error::usage("a batch of no sequences computes nothing: give one or more"));
        }
        let (engine, shape, few) = open_paged(model, context, options, how, notify).await?;
        let pool = PagePool::new(shape.pages, shape.page);
        let (back, keeps) = (model.looks_back(), model.keeps());
        let (running, next, preempted) = (vec![], 0, 0);
        Ok(Batch { engine, info, words, context, shape, few, back, keeps, pool, running, next, preempted })
    }

    /// The sizes of the model.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }
    /// Tokens of a sequence.
    pub fn context(&self) -> usize {
        self.context
    }
    /// What it runs on.
    pub fn adapter(&self) -> String {
        self.engine.adapter()
    }
    /// The most bytes that were in use at once.
    pub fn peak_bytes(&self) -> u64 {
        self.engine.peak_bytes()
    }
    /// What makes prompts: other threads may hold it while this one computes.
    pub fn words(&self) -> Arc<Words> {
        self.words.clone()
    }
    /// Sequences that are under way.
    pub fn len(&self) -> usize {
        self.running.len()
    }
    /// Whether no sequence is under way.
    pub fn is_empty(&self) -> bool {
        self.running.is_empty()
    }
    /// Whether no other sequence can be added.
    pub fn is_full(&self) -> bool {
        self.running.len() >= self.shape.sequences
    }
    /// Pages that sequences have, and pages that there are.
    pub fn pages(&self) -> (usize, usize) {
        (self.pool.used(), self.pool.len())
    }
    /// How often a sequence had to give its pages back.
    pub fn preempted(&self) -> u64 {
        self.preempted
    }

    /// A generation that [`Batch::add`] takes.
    ///
    /// # Errors
    /// An empty prompt or one longer than the context.
    pub fn begin(&self, request: &Request) -> Result<Generation> {
        super::generate::check_prompt(&request.prompt, self.context, &self.info)?;
        Generation::new(0, request)
    }

    /// Adds a generation, new or under way; its number.
    ///
    /// # Errors
    /// [`Error::Busy`] where there are as many as there may be.
    pub fn add(&mut self, generation: Generation) -> Result<u64> {
        if self.is_full() {
            return Err(Error::Busy { waiting: self.running.len() });
        }
        let id = self.next;
        self.next += 1;
        let taken = |slot: &usize| self.running.iter().any(|s| s.slot == *slot);
        let slot = (0..self.shape.sequences).find(|slot| !taken(slot)).unwrap_or(0);
        self.running.push(Sequence { id, slot, generation, pages: vec![], computed: 0, published: 0, name: ROOT });
        Ok(id)
    }

    /// Takes a sequence out: its pages are free at once.
    pub fn remove(&mut self, id: u64) -> Option<Generation> {
        let at = self.running.iter().position(|s| s.id == id)?;
        let sequence = self.running.remove(at);
        self.pool.release(&sequence.pages);
        Some(sequence.generation)
    }

    /// Takes all sequences out, the oldest first, to go on elsewhere.
    pub fn take_all(&mut self) -> Vec<(u64, Generation)> {
        let all: Vec<u64> = self.running.iter().map(|s| s.id).collect();
        all.into_iter().filter_map(|id| Some((id, self.remove(id)?))).collect()
    }

    /// The figures of a generation.
    pub fn finished(&self, g: &Generation) -> Finished {
        g.finished(self.adapter(), self.peak_bytes())
    }

    /// Computes one step, and what it made: nothing where only prompts went on.
    ///
    /// # Errors
    /// Device faults; [`Error::Cancelled`]. All sequences are as they were before the step.
    pub async fn step(&mut self, cancel: &AtomicBool) -> Result<Vec<Made>> {
        let mut made = self.end_full();
        if !made.is_empty() {
            return Ok(made);
        }
        let shares = self.schedule()?;
        if shares.is_empty() {
            return Ok(made);
        }
        let start = Instant::now();
        let outputs: Vec<bool> =
            shares.iter().map(|(i, rows)| rows.end == self.running[*i].generation.tokens().len()).collect();
        let logits = match self.compute(&shares, &outputs, cancel).await {
            Ok(logits) => logits,
            Err(e) => {
                self.forget(&shares);
                return Err(e);
            }
        };
        let elapsed = start.elapsed();
        let mut ended = vec![];
        let mut rows: Vec<Option<usize>> = vec![None; self.running.len()];
        for (n, (i, _)) in shares.iter().zip(&outputs).filter(|(_, output)| **output).map(|(s, _)| s).enumerate() {
            rows[*i] = Some(n);
        }
        for (i, part) in shares {
            self.running[i].generation.spent(part.len(), elapsed);
            self.keep(i, part);
        }
        for (i, chosen) in self.choose(&logits, &rows).into_iter().enumerate() {
            let Some(chosen) = chosen else { continue };
            let sequence = &self.running[i];
            if chosen.is_err() || sequence.generation.stop().is_some() {
                ended.push((made.len(), chosen.as_ref().err().cloned()));
            }
            made.push(Made { id: sequence.id, token: chosen.ok(), ended: None });
        }
        for (at, error) in ended {
            if let Some(g) = self.remove(made[at].id) {
                made[at].ended = Some(error.map_or_else(|| Ok(self.finished(&g)), Err));
            }
        }
        Ok(made)
    }

    /// States that a step may have left half-way are of no use: their sequences are computed from the beginning.
    fn forget(&mut self, shares: &[Share]) {
        if self.keeps.is_some() {
            shares.iter().for_each(|(i, _)| self.give_back(*i));
        }
    }

    /// The next token of each sequence that has a row of logits; sequences share no state, so they choose side by side.
    fn choose(&mut self, logits: &[f32], rows: &[Option<usize>]) -> Vec<Option<Result<Token>>> {
        let (words, context, vocab) = (&self.words, self.context, self.info.vocab);
        let one = |(sequence, row): (&mut Sequence, &Option<usize>)| {
            let row = logits.get((*row)? * vocab..).and_then(|rest| rest.get(..vocab));
            let row = row.ok_or_else(|| Error::usage("the step gave too few logits: this is a bug"));
            Some(row.and_then(|row| sequence.generation.choose(words, context, row)))
        };
        match rows.iter().flatten().count() {
            0 | 1 => self.running.iter_mut().zip(rows).map(one).collect(),
            _ => self.running.par_iter_mut().zip(rows).map(one).collect(),
        }
    }

    /// Ends those that were asked for no token at all.
    fn end_full(&mut self) -> Vec<Made> {
        let full: Vec<u64> = self.running.iter().filter(|s| s.generation.is_full()).map(|s| s.id).collect();
        let end = |id: u64| {
            let mut g = self.remove(id)?;
            g.end(Stop::Length);
            Some(Made { id, token: None, ended: Some(Ok(self.finished(&g))) })
        };
        full.into_iter().filter_map(end).collect()
    }

    /// Which tokens of which sequences the next step computes.
    fn schedule(&mut self) -> Result<Vec<Share>> {
        let decoding = self.running.iter().filter(|s| s.computed > 0 && s.wanted() == 1).count();
        let prompts = decoding < self.running.len();
        let mut left = if prompts { self.budget(decoding)? } else { decoding };
        let mut reserved = decoding;
        let mut shares = vec![];
        for i in 0..self.running.len() {
            let decodes = self.running[i].computed > 0 && self.running[i].wanted() == 1;
            reserved -= decodes as usize;
            if !self.start(i) {
                continue;
            }
            let most = left.saturating_sub(reserved);
            let n = self.grow(i, self.running[i].wanted().min(most));
            if n > 0 {
                let from = self.running[i].computed;
                shares.push((i, from..from + n));
                left -= n;
            }
        }
        Ok(shares)
    }

    /// Rows that a step may have: as many as keep no device for too long.
    fn budget(&self, decoding: usize) -> Result<usize> {
        let mut n = self.shape.rows.bound() as usize;
        while n > decoding + 1 {
            let bindings = self.bindings(n, self.running.len().min(n), self.running.len().min(n));
            if self.engine.is_brisk(self.which(n), &bindings)?.unwrap_or(true) {
                break;
            }
            n = (n / 2).max(decoding + 1);
        }
        Ok(n)
    }

    /// Gives a sequence that has no pages those of the prefix that is there; false where it must wait for room. The oldest
    /// never waits.
    fn start(&mut self, i: usize) -> bool {
        let sequence = &self.running[i];
        if !sequence.pages.is_empty() {
            return true;
        }
        let tokens = sequence.generation.tokens();
        // The last token is computed in any case, for its logits.
        // States of their own are those behind a sequence's last token: prefixes share none.
        let shared = if self.keeps.is_some() { 0 } else { tokens.len() - 1 };
        let (pages, name) = self.pool.share(&tokens[..shared]);
        let needed = (tokens.len() + 1).div_ceil(self.shape.page) - pages.len();
        if i > 0 && needed > self.pool.available() {
            self.pool.release(&pages);
            return false;
        }
        let sequence = &mut self.running[i];
        (sequence.published, sequence.name) = (pages.len(), name);
        sequence.computed = pages.len() * self.shape.page;
        sequence.pages = pages;
        true
    }

    /// Gives a sequence pages for its next `n` tokens, or for as many of them as there is room for: younger ones give theirs back.
    fn grow(&mut self, i: usize, n: usize) -> usize {
        let end = self.running[i].computed + n;
        while self.running[i].pages.len() * self.shape.page < end {
            if let Some(page) = self.pool.take() {
                self.running[i].pages.push(page);
                continue;
            }
            let youngest = (i + 1..self.running.len()).rev().find(|j| !self.running[*j].pages.is_empty());
            let Some(youngest) = youngest else { break };
            self.preempt(youngest);
        }
        end.min(self.running[i].pages.len() * self.shape.page).saturating_sub(self.running[i].computed)
    }

    fn preempt(&mut self, i: usize) {
        self.give_back(i);
        self.preempted += 1;
    }

    fn give_back(&mut self, i: usize) {
        let sequence = &mut self.running[i];
        self.pool.release(&std::mem::take(&mut sequence.pages));
        (sequence.computed, sequence.published, sequence.name) = (0, 0, ROOT);
    }

    /// Notes that tokens are computed, and publishes pages that are full.
    fn keep(&mut self, i: usize, part: Range<usize>) {
        let (sequence, page) = (&mut self.running[i], self.shape.page);
        sequence.computed = part.end;
        if self.keeps.is_some() {
            return;
        }
        while (sequence.published + 1) * page <= sequence.computed {
            let at = sequence.published;
            let tokens = &sequence.generation.tokens()[at * page..(at + 1) * page];
            sequence.name = self.pool.publish(sequence.pages[at], sequence.name, tokens);
            sequence.published += 1;
        }
    }

    fn which(&self, rows: usize) -> usize {
        (rows <= self.few) as usize
    }

    /// Logits of the last rows of those shares that `outputs` names, one behind another.
    async fn compute(&mut self, shares: &[Share], outputs: &[bool], cancel: &AtomicBool) -> Result<Vec<f32>> {
        let (inputs, bindings, rows) = self.inputs(shares, outputs);
        let which = self.which(rows);
        let wanted: &[&str] = if outputs.contains(&true) { &["logits"] } else { &[] };
        let made = self.engine.step(which, 0, &bindings, &inputs, wanted, cancel).await?;
        Ok(made.first().map_or(vec![], Array::to_f32))
    }

    fn inputs(&self, shares: &[Share], outputs: &[bool]) -> (Vec<(&'static str, Array)>, Bindings, usize) {
        let part = |((i, part), output): (&Share, &bool)| {
            let s = &self.running[*i];
            StepRows {
                sequence: s.slot,
                tokens: &s.generation.tokens()[part.clone()],
                from: part.start,
                pages: &s.pages,
                outputs: *output as usize,
            }
        };
        let parts: Vec<StepRows> = shares.iter().zip(outputs).map(part).collect();
        let rows = parts.iter().map(|p| p.tokens.len()).sum();
        let outputs = outputs.iter().filter(|o| **o).count();
        let mut inputs = step_inputs(&self.shape, self.back, &parts);
        inputs.extend(self.keeps.into_iter().flat_map(|kept| self.own_inputs(shares, kept)));
        (inputs, self.bindings(rows, outputs, shares.len()), rows)
    }

    /// Where rows find the states that their sequences have in slots (`Own` of the model's layers).
    fn own_inputs(&self, shares: &[Share], kept: usize) -> Vec<(&'static str, Array)> {
        let old = self.shape.sequences * kept;
        let beyond = (old + self.shape.rows.bound() as usize) as u32;
        let (mut active, mut owners, mut ids, mut to) = (vec![], vec![], vec![], vec![]);
        let mut earlier = vec![vec![]; kept];
        let mut first = old;
        for (n, (i, part)) in shares.iter().enumerate() {
            let slot = self.running[*i].slot;
            // A token's row: of the step, or among those that the slot keeps, the newest last.
            let row = |at: Option<usize>| match at {
                None => beyond,
                Some(at) if at >= part.start => (first + at - part.start) as u32,
                Some(at) => (slot * kept + kept + at - part.start) as u32,
            };
            for at in part.clone() {
                owners.push(n as u32);
                earlier.iter_mut().enumerate().for_each(|(back, to)| to.push(row(at.checked_sub(back + 1))));
            }
            active.push(slot as u32);
            ids.extend((1..=kept).rev().map(|back| row(part.end.checked_sub(back))));
            to.extend((0..kept).map(|j| (slot * kept + j) as u32));
            first += part.len();
        }
        let words = |x: &[u32]| Array::u32(&[x.len()], x);
        let mut inputs = vec![("active", words(&active)), ("owners", words(&owners))];
        if kept > 0 {
            let rows = owners.len();
            inputs.push(("own_earlier", Array::u32(&[kept, rows], &earlier.concat())));
            inputs.extend([("kept", words(&ids)), ("kept_at", words(&to))]);
        }
        inputs
    }

    fn bindings(&self, rows: usize, outputs: usize, sequences: usize) -> Bindings {
        let bindings = step_bindings(rows, outputs);
        if self.keeps.is_some() { bindings.with("active", sequences as u64) } else { bindings }
    }
}

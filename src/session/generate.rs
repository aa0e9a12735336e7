//! Text from a decoder.

use super::engine::Engine;
use super::lookup::Lookup;
use super::open::{Opened, open_engine};
use super::rows::{StepRows, step_bindings, step_inputs};
use super::words::Words;
use super::{Generation, Notice, Options, Speculation};
use crate::base::{Array, Bindings, Error, Result};
use crate::device::{DispatchTime, Gpu};
use crate::model::{Model, ModelInfo, PagedShape};
use crate::text::{Message, Sampling, Tokenizer};
use crate::trace::{Span, Trace};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use web_time::Instant;

/// Context that is planned where the user names none.
const DEFAULT_CONTEXT: usize = 4096;

/// Seconds that one step of a prompt may take where it does not hear a cancel.
const PATIENCE: f64 = 0.5;

/// A decoder on a device, with its tokenizer. Keys and values of the last conversation stay, so a prompt that
/// continues it is not computed anew.
///
/// ```no_run
/// use warpweft::{Device, Generator, Message, Options, Request};
///
/// # async fn ask() -> warpweft::Result<()> {
/// let mut model = Generator::open("model.gguf", &Options::new().device(Device::Cpu)).await?;
/// let prompt = model.chat_prompt(&[Message::new("user", "Hi")])?;
/// let text = model.stream(&Request::new(prompt).max_tokens(64))?.text().await?;
/// println!("{text}");
/// # Ok(())
/// # }
/// ```
pub struct Generator {
    engine: Engine,
    info: ModelInfo,
    words: Arc<Words>,
    context: usize,
    chunk: usize,
    /// The one sequence that steps over pages have rows of: its pages are all that there are, in order.
    paged: Option<Paged>,
    /// Tokens in the cache of each replica.
    cached: Vec<Vec<u32>>,
    /// Whether states go on with each token, so that none can be taken back.
    recurrent: bool,
    /// Where tokens are guessed ahead.
    lookup: Option<Lookup>,
}

struct Paged {
    shape: PagedShape,
    pages: Vec<u32>,
    /// Tokens before its own that a row looks back at.
    back: usize,
}

/// What to generate.
///
/// ```
/// use warpweft::{Request, Sampling};
///
/// let request = Request::new(vec![1, 2, 3]).sampling(Sampling::default().temperature(0.7).seed(1)).max_tokens(64);
/// assert_eq!(request.max_tokens, Some(64));
/// ```
#[derive(Debug, Clone)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct Request {
    /// Ids of the prompt.
    pub prompt: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// The most tokens to make; to the context's end if `None`.
    pub max_tokens: Option<usize>,
    /// How many alternatives each token is told with.
    pub top: usize,
}

impl Request {
    /// The likeliest tokens behind a prompt, to the end of the model's turn.
    pub fn new(prompt: Vec<u32>) -> Request {
        Request { prompt, sampling: Sampling::greedy(), max_tokens: None, top: 0 }
    }
    /// Sets how tokens are chosen.
    #[must_use]
    pub fn sampling(self, sampling: Sampling) -> Request {
        Request { sampling, ..self }
    }
    /// Sets the most tokens to make.
    #[must_use]
    pub fn max_tokens(self, tokens: usize) -> Request {
        Request { max_tokens: Some(tokens), ..self }
    }
    /// Sets how many alternatives each token is told with.
    #[must_use]
    pub fn top(self, top: usize) -> Request {
        Request { top, ..self }
    }
}

/// One token, as soon as it is chosen.
#[derive(Debug, Clone)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct Token {
    /// The token.
    pub id: u32,
    /// The text that it completes: empty for a part of a character and for markers.
    pub text: String,
    /// The natural logarithm of its probability.
    pub logprob: f32,
    /// The likeliest tokens here, as many as were asked for.
    pub top: Vec<Alternative>,
}

/// A token that could have been chosen.
#[derive(Debug, Clone)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct Alternative {
    /// The token.
    pub id: u32,
    /// What it reads as.
    pub text: String,
    /// The natural logarithm of its probability.
    pub logprob: f32,
}

/// Why generation stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum Stop {
    /// The model ended its turn.
    End,
    /// As many tokens as were asked for.
    Length,
    /// The context is full.
    Context,
    /// The caller asked.
    Cancelled,
}

impl Stop {
    /// One word for it, such as `length`.
    pub fn name(self) -> &'static str {
        match self {
            Stop::End => "end",
            Stop::Length => "length",
            Stop::Context => "context",
            Stop::Cancelled => "cancelled",
        }
    }
}

/// A generation's figures.
#[derive(Debug, Clone)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct Finished {
    /// Why it stopped.
    pub stop: Stop,
    /// Tokens made.
    pub tokens: usize,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Of those, what was in the cache already.
    pub cached_tokens: usize,
    /// Prompt tokens that were not in the cache, a second.
    pub prompt_per_second: f64,
    /// Tokens made, per second.
    pub tokens_per_second: f64,
    /// The device.
    pub adapter: String,
    /// The most bytes held at once.
    pub peak_bytes: u64,
}

impl Generator {
    /// Opens a .gguf file or a model folder.
    ///
    /// # Errors
    /// Files that are damaged or cannot be run, devices that do not exist or are too small: before anything runs.
    #[cfg(not(target_arch = "wasm32"))]
    pub async fn open(path: impl AsRef<std::path::Path>, options: &Options) -> Result<Generator> {
        Generator::open_telling(path, options, &mut |n| options.notices.tell(n)).await
    }

    /// Like [`Generator::open`], for those who show notices themselves.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) async fn open_telling(
        path: impl AsRef<std::path::Path>,
        options: &Options,
        notify: &mut dyn FnMut(Notice),
    ) -> Result<Generator> {
        Generator::with(&Model::new(crate::model::ModelSource::open(path)?)?, options, notify).await
    }

    /// From a model whose weights are there, or arrive later.
    pub(super) async fn with(model: &Model, options: &Options, notify: &mut dyn FnMut(Notice)) -> Result<Generator> {
        let (info, context, words) = prepare(model, options, notify)?;
        let Opened { engine, chunk, pages } = open_engine(model, context, options, notify).await?;
        let all = |shape: PagedShape| (0..shape.pages as u32).collect();
        let paged = pages.map(|shape| Paged { shape, pages: all(shape), back: model.looks_back() });
        let cached = vec![vec![]; options.layout.mesh.size("dp")];
        // On adapters a step of several rows has other kernels, and other last digits.
        let same = paged.is_some() && engine.gpu().is_none();
        let lookup = (same && options.speculation == Speculation::Lookup).then(Lookup::default);
        let recurrent = model.keeps().is_some();
        Ok(Generator { engine, info, words, context, chunk, paged, cached, recurrent, lookup })
    }

    pub(super) fn engine(&mut self) -> &mut Engine {
        &mut self.engine
    }
    /// The sizes of the model.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }
    /// What turns text into ids and back.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.words.tokenizer
    }
    /// Tokens that fit into a conversation.
    pub fn context(&self) -> usize {
        self.context
    }
    /// The name of the device, or what the CPU does.
    pub fn adapter(&self) -> String {
        self.engine.adapter()
    }
    /// The device, of a mesh that of its first rank here; `None` is the CPU.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn gpu(&self) -> Option<&Arc<Gpu>> {
        self.engine.gpu()
    }
    /// Threads of the CPU fallback; none where a device computes.
    pub fn threads(&self) -> usize {
        self.engine.threads()
    }
    /// The most bytes held at once so far.
    pub fn peak_bytes(&self) -> u64 {
        self.engine.peak_bytes()
    }
    /// Whether the model brings a chat form.
    pub fn is_chat(&self) -> bool {
        self.words.is_chat()
    }
    /// What makes prompts: other threads may hold it while this one computes.
    pub fn words(&self) -> Arc<Words> {
        self.words.clone()
    }

    /// Ids of a conversation up to where the answer begins, in the model's own form.
    pub fn chat_prompt(&self, messages: &[Message]) -> Result<Vec<u32>> {
        self.words.chat_prompt(messages)
    }
    /// Ids of plain text to continue.
    pub fn raw_prompt(&self, text: &str) -> Result<Vec<u32>> {
        self.words.raw_prompt(text)
    }

    /// Replicas of the model, which answer prompts of their own.
    pub fn replicas(&self) -> usize {
        self.cached.len()
    }
    /// Whether this process takes part in a replica's answers, and whether it is the one to tell them: on one device,
    /// or with all ranks in one process, both hold.
    pub fn role(&mut self, replica: usize) -> (bool, bool) {
        self.engine.mesh().map_or((true, true), |m| (m.plays(replica), m.leads(replica)))
    }
    /// Takes leave of the other processes of a mesh, when all is done.
    pub fn close(mut self) -> Result<()> {
        self.engine.mesh().map_or(Ok(()), |m| m.close())
    }
    /// Whether other processes have ranks of the mesh.
    pub fn is_shared(&mut self) -> bool {
        self.engine.mesh().is_some_and(|m| m.is_shared())
    }
    /// Bytes of each rank of this process; empty on one device.
    pub fn rank_bytes(&mut self) -> Vec<(usize, u64)> {
        self.engine.mesh().map_or(vec![], |m| m.rank_bytes())
    }
    /// Bytes and messages that ranks have sent each other.
    pub fn sent(&mut self) -> Option<(u64, usize)> {
        self.engine.mesh().map(|m| (m.traffic().bytes(), m.traffic().messages))
    }

    /// From now on every step over a mesh takes times: [`Generator::last_step`] gives them. Slower: each rank waits after
    /// everything it does.
    ///
    /// # Errors
    /// Without a mesh, or on the CPU fallback.
    pub fn time_steps(&mut self) -> Result<()> {
        self.engine.mesh().ok_or_else(|| Error::usage("one device has no ranks and links to time"))?.time_steps()
    }
    /// What ranks and links did in the last step, and when; once.
    pub fn last_step(&mut self) -> Option<Trace> {
        self.engine.mesh()?.take_last()
    }

    /// Begins to generate: [`Generator::next`] goes on.
    ///
    /// # Errors
    /// An empty prompt or one longer than the context.
    pub fn begin(&self, request: &Request) -> Result<Generation> {
        self.begin_on(0, request)
    }

    pub(super) fn begin_on(&self, replica: usize, request: &Request) -> Result<Generation> {
        if replica >= self.replicas() {
            return Err(Error::usage(format!("there is no replica {replica}: the mesh has dp={}", self.replicas())));
        }
        check_prompt(&request.prompt, self.context, &self.info)?;
        Generation::new(replica, request)
    }

    /// Logits after the last of `tokens`, of which the cache may hold some already, and how many were computed; no logits
    /// if cancelled.
    pub(super) async fn logits_after(
        &mut self,
        replica: usize,
        tokens: &[u32],
        cancel: &AtomicBool,
    ) -> Result<(usize, Option<Vec<f32>>)> {
        if let Some(row) = self.lookup.as_mut().and_then(|l| l.known(tokens)) {
            return Ok((0, Some(row)));
        }
        let reused = self.reuse(replica, tokens);
        if reused + 1 < tokens.len() || self.lookup.is_none() {
            let logits = self.prefill(replica, tokens, cancel).await?;
            // A step that was cancelled has left nothing.
            return Ok((self.cached[replica].len().saturating_sub(reused), logits));
        }
        let room = self.context - tokens.len();
        let guess = self.lookup.as_mut().map_or(vec![], |l| l.guess(tokens, room));
        let start = Instant::now();
        if guess.is_empty() {
            let logits = self.prefill(replica, tokens, cancel).await?;
            self.lookup.iter_mut().for_each(|l| l.plain(start.elapsed()));
            return Ok((1, logits));
        }
        let all = [tokens, &guess].concat();
        let rows = match self.rows(replica, &all[reused..], guess.len() + 1, cancel).await {
            Err(Error::Cancelled) => return Ok((0, None)),
            rows => rows?,
        };
        let Some(lookup) = &mut self.lookup else { return Ok((1, rows.into_iter().next())) };
        lookup.keep(all, rows, start.elapsed());
        Ok((1, lookup.known(tokens)))
    }

    /// Tokens that were chosen from logits that a step had made ahead of them ([`Speculation`]).
    pub fn guessed(&self) -> usize {
        self.lookup.as_ref().map_or(0, Lookup::hits)
    }

    /// How many tokens of `prompt` the cache already holds; the last one is always computed, for its logits.
    fn reuse(&mut self, replica: usize, prompt: &[u32]) -> usize {
        let same = self.cached[replica].iter().zip(prompt).take_while(|(a, b)| a == b).count().min(prompt.len() - 1);
        // States that go on with each token cannot go back.
        let same = if self.recurrent && same < self.cached[replica].len() { 0 } else { same };
        self.cached[replica].truncate(same);
        same
    }

    /// Computes the rest of the prompt in chunks; `None` if cancelled.
    async fn prefill(&mut self, replica: usize, prompt: &[u32], cancel: &AtomicBool) -> Result<Option<Vec<f32>>> {
        let mut logits = vec![];
        let mut size = self.chunk;
        let mut best = f64::INFINITY;
        while self.cached[replica].len() < prompt.len() {
            if cancel.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let from = self.cached[replica].len();
            let to = from + self.portion(from, prompt.len(), size)?;
            let start = Instant::now();
            match self.step(replica, &prompt[from..to], cancel).await {
                Err(Error::Cancelled) => return Ok(None),
                step => logits = step?,
            }
            // The first steps of a process may compile: the fastest is the rule.
            best = best.min(start.elapsed().as_secs_f64() / (to - from) as f64);
            size = ((PATIENCE / best) as usize).clamp(1, self.chunk);
        }
        Ok(Some(logits))
    }

    /// How many tokens of a prompt the next step takes: as many as a chunk has where steps hear a cancel and no part of them
    /// keeps the device for too long; else `patient` ones.
    fn portion(&self, from: usize, to: usize, patient: usize) -> Result<usize> {
        let mut n = self.chunk.min(to - from);
        loop {
            match self.engine.is_brisk(0, &self.bindings(n, from + n, 1))? {
                None => return Ok(patient.min(n)),
                Some(true) => return Ok(n),
                Some(false) if n == 1 => return Ok(n),
                Some(false) => n = n.div_ceil(2),
            }
        }
    }

    /// One step over the next tokens; the logits after the last.
    async fn step(&mut self, replica: usize, tokens: &[u32], cancel: &AtomicBool) -> Result<Vec<f32>> {
        Ok(self.rows(replica, tokens, 1, cancel).await?.pop().unwrap_or_default())
    }

    /// One step over the next tokens; logits after each of the last `outputs`, of which there is one where steps are not over pages.
    async fn rows(
        &mut self,
        replica: usize,
        tokens: &[u32],
        outputs: usize,
        cancel: &AtomicBool,
    ) -> Result<Vec<Vec<f32>>> {
        let from = self.cached[replica].len();
        let bindings = self.bindings(tokens.len(), from + tokens.len(), outputs);
        let which = if tokens.len() == 1 { 1 } else { 0 };
        let inputs = self.inputs(replica, tokens, outputs);
        // What a step that fails leaves of such states is of no use: the conversation begins anew.
        let before = if self.recurrent { std::mem::take(&mut self.cached[replica]) } else { vec![] };
        let logits = self.engine.step(which, replica, &bindings, &inputs, &["logits"], cancel).await?.remove(0);
        if self.recurrent {
            self.cached[replica] = before;
        }
        self.cached[replica].extend_from_slice(tokens);
        Ok(logits.to_f32().chunks(self.info.vocab.max(1)).map(<[f32]>::to_vec).collect())
    }

    /// The variables of a step over `n` tokens, after which there are `total`.
    fn bindings(&self, n: usize, total: usize, outputs: usize) -> Bindings {
        match self.paged {
            Some(_) => step_bindings(n, outputs),
            None => Bindings::new().with("seq", n as u64).with("total", total as u64),
        }
    }

    /// Inputs of a step over `tokens`, behind those that are cached.
    fn inputs(&self, replica: usize, tokens: &[u32], outputs: usize) -> Vec<(&'static str, Array)> {
        let Some(p) = &self.paged else { return vec![("tokens", Array::u32(&[tokens.len()], tokens))] };
        let from = self.cached[replica].len();
        step_inputs(&p.shape, p.back, &[StepRows { sequence: 0, tokens, from, pages: &p.pages, outputs }])
    }

    /// Logits after each token of a fresh conversation: what golden figures are compared with.
    pub async fn logits(&mut self, tokens: &[u32]) -> Result<Vec<Vec<f32>>> {
        self.cached[0].clear();
        let mut out = vec![];
        for t in tokens {
            out.push(self.step(0, &[*t], &AtomicBool::new(false)).await?);
        }
        Ok(out)
    }

    /// Whether [`Generator::trace`] can be asked.
    ///
    /// # Errors
    /// On the CPU fallback, or where the adapter has no timestamps.
    pub fn can_trace(&self) -> Result<()> {
        self.engine.can_profile()
    }

    /// Times every dispatch of one decode step. The conversation is not advanced.
    ///
    /// # Errors
    /// On the CPU fallback, or where the adapter has no timestamps.
    pub async fn trace(&mut self) -> Result<Trace> {
        self.cached[0].truncate(self.context - 1);
        let bindings = self.bindings(1, self.cached[0].len() + 1, 1);
        let inputs = self.inputs(0, &[0], 1);
        if self.recurrent {
            self.cached.iter_mut().for_each(Vec::clear);
        }
        if let Some(mesh) = self.engine.mesh() {
            return mesh.traced(1, 0, &bindings, &inputs, &["logits"]).await;
        }
        let track = self.engine.adapter();
        self.can_trace()?;
        let program =
            self.engine.programs().get_mut(1).ok_or_else(|| Error::usage("there is no program for one token"))?;
        let times = program.profile(&bindings, &inputs).await?;
        let span = |t: &DispatchTime| {
            let d = &program.plan().dispatches[t.index];
            let kernel = program.plan().kernels[d.kernel].name();
            let details = [
                ("kernel", kernel.to_string()),
                ("ops", d.ops.join(" + ")),
                ("FLOP", d.flops.to_string()),
                ("bytes", d.bytes.to_string()),
            ];
            Span {
                name: format!("{kernel} {}", d.label),
                track: track.clone(),
                start_us: t.start_ns / 1e3,
                duration_us: t.duration_ns / 1e3,
                details: details.map(|(k, v)| (k.to_string(), v)).to_vec(),
            }
        };
        Ok(Trace { spans: times.iter().map(span).collect() })
    }
}

/// What all that generates begins with: sizes, the context, what makes prompts.
pub(super) fn prepare(
    model: &Model,
    options: &Options,
    notify: &mut dyn FnMut(Notice),
) -> Result<(ModelInfo, usize, Arc<Words>)> {
    model.check_generates()?;
    model.notes().iter().for_each(|n| notify(Notice::Say(n.clone())));
    let info = model.info();
    let context = options.context.unwrap_or(info.context.min(DEFAULT_CONTEXT));
    if context == 0 || context > info.context {
        return Err(Error::usage(format!(
            "the context is {context} tokens, {} was made for 1 to {}",
            info.name, info.context
        )));
    }
    options.cancel.check()?;
    let words = Arc::new(Words::read(model)?);
    words.tokenizer.notes().iter().for_each(|n| notify(Notice::Say(format!("{}: {n}", info.name))));
    Ok((info, context, words))
}

/// Refuses prompts that cannot be computed.
pub(super) fn check_prompt(prompt: &[u32], context: usize, info: &ModelInfo) -> Result<()> {
    if prompt.is_empty() {
        return Err(Error::usage("the prompt is empty"));
    }
    if prompt.len() >= context {
        let what = format!(
            "the prompt has {} tokens, the context {context}: shorten it, or raise --ctx (up to {})",
            prompt.len(),
            info.context
        );
        return Err(Error::usage(what));
    }
    match prompt.iter().find(|id| **id as usize >= info.vocab) {
        Some(id) => Err(Error::usage(format!("token {id} is outside of the vocabulary of {}", info.vocab))),
        None => Ok(()),
    }
}

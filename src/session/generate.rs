//! Text from a decoder.

use super::engine::Engine;
use super::open::open_engine;
use super::words::{Words, told_of};
use super::{Notice, Options};
use crate::base::{Array, Bindings, Error, Result};
use crate::device::DispatchTime;
use crate::model::{Model, ModelInfo, ModelSource};
use crate::text::{Choice, Message, Sampler, Sampling, StreamDecoder, Tokenizer, top_logprobs};
use crate::trace::{Span, Trace};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use web_time::Instant;

/// Context that is planned where the user names none.
const DEFAULT_CONTEXT: usize = 4096;

/// Seconds that one step of a prompt may take.
const PATIENCE: f64 = 0.5;

/// A decoder on a device, with its tokenizer. Keys and values of the last conversation stay, so a prompt that
/// continues it is not computed anew.
pub struct Generator {
    engine: Engine,
    info: ModelInfo,
    words: Words,
    context: usize,
    chunk: usize,
    /// Tokens in the cache of each replica.
    cached: Vec<Vec<u32>>,
}

/// What to generate.
#[derive(Debug, Clone)]
pub struct Request {
    pub prompt: Vec<u32>,
    pub sampling: Sampling,
    /// The most tokens to make; to the context's end if `None`.
    pub max_tokens: Option<usize>,
    /// How many alternatives each token is told with.
    pub top: usize,
}

/// One token, as soon as it is chosen.
#[derive(Debug, Clone)]
pub struct Token {
    pub id: u32,
    /// The text that it completes: empty for a part of a character and for markers.
    pub text: String,
    pub logprob: f32,
    /// The likeliest tokens here, as many as were asked for.
    pub top: Vec<Alternative>,
}

/// A token that could have been chosen.
#[derive(Debug, Clone)]
pub struct Alternative {
    pub id: u32,
    pub text: String,
    pub logprob: f32,
}

/// Why generation stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
pub struct Finished {
    pub stop: Stop,
    pub tokens: usize,
    pub prompt_tokens: usize,
    /// Prompt tokens that were not in the cache, a second.
    pub prompt_per_second: f64,
    pub tokens_per_second: f64,
    pub adapter: String,
    pub peak_bytes: u64,
}

impl Generator {
    /// Opens a .gguf file or a model folder.
    ///
    /// # Errors
    /// Files that are damaged or cannot be run, devices that do not exist or are too small: before anything runs.
    pub async fn open(path: impl AsRef<Path>, options: &Options, notify: &mut dyn FnMut(Notice)) -> Result<Generator> {
        let model = Model::new(ModelSource::open(path)?)?;
        model.check_generates()?;
        let info = model.info();
        let context = options.context.unwrap_or(info.context.min(DEFAULT_CONTEXT));
        if context == 0 || context > info.context {
            return Err(Error::usage(format!("the context is {context} tokens, {} was made for 1 to {}", info.name, info.context)));
        }
        options.cancel.check()?;
        let words = Words::read(&model)?;
        let (engine, chunk) = open_engine(&model, context, options, notify).await?;
        let cached = vec![vec![]; options.layout.mesh.size("dp")];
        Ok(Generator { engine, info, words, context, chunk, cached })
    }

    pub fn info(&self) -> &ModelInfo {
        &self.info
    }
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.words.tokenizer
    }
    pub fn context(&self) -> usize {
        self.context
    }
    pub fn adapter(&self) -> String {
        self.engine.adapter()
    }
    /// Whether the model brings a chat form.
    pub fn is_chat(&self) -> bool {
        self.words.template.is_some()
    }

    /// Ids of a conversation up to where the answer begins, in the model's own form.
    pub fn chat_prompt(&self, messages: &[Message]) -> Result<Vec<u32>> {
        let plain = "give plain text (--raw)";
        let template = self.words.template.as_ref().ok_or_else(|| Error::model(&self.info.name, format!("has no chat template: {plain}")))?;
        let made = match template {
            Ok(template) => template.render(messages, true, &self.words.bos, &self.words.eos),
            Err(e) => Err(e.clone()),
        };
        // The template writes its own markers.
        self.words.tokenizer.encode(&made.map_err(|e| told_of(&self.info.name, e, &format!(": {plain}")))?, false)
    }
    /// Ids of plain text to continue.
    pub fn raw_prompt(&self, text: &str) -> Result<Vec<u32>> {
        self.words.tokenizer.encode(text, true)
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

    /// Generates, telling each token as it comes.
    ///
    /// # Errors
    /// An empty prompt or one longer than the context; device faults.
    pub async fn generate(&mut self, request: &Request, cancel: &AtomicBool, on_token: &mut dyn FnMut(&Token) -> Result<()>) -> Result<Finished> {
        self.generate_on(0, request, cancel, on_token).await
    }

    /// Like [`Generator::generate`], on one of the replicas.
    pub async fn generate_on(&mut self, replica: usize, request: &Request, cancel: &AtomicBool, on_token: &mut dyn FnMut(&Token) -> Result<()>) -> Result<Finished> {
        if replica >= self.replicas() {
            return Err(Error::usage(format!("there is no replica {replica}: the mesh has dp={}", self.replicas())));
        }
        let prompt = &request.prompt;
        if prompt.is_empty() {
            return Err(Error::usage("the prompt is empty"));
        }
        if prompt.len() >= self.context {
            let what = format!("the prompt has {} tokens, the context {}: shorten it, or raise --ctx (up to {})", prompt.len(), self.context, self.info.context);
            return Err(Error::usage(what));
        }
        if let Some(id) = prompt.iter().find(|id| **id as usize >= self.info.vocab) {
            return Err(Error::usage(format!("token {id} is outside of the vocabulary of {}", self.info.vocab)));
        }
        let mut sampler = Sampler::new(request.sampling.clone())?;
        let start = Instant::now();
        let reused = self.reuse(replica, prompt);
        let Some(logits) = self.prefill(replica, prompt, cancel).await? else {
            let fresh = self.cached[replica].len() - reused;
            return Ok(self.finished(Stop::Cancelled, 0, prompt.len(), (fresh, start.elapsed()), Duration::ZERO));
        };
        let fresh = prompt.len() - reused;
        let prompt_time = start.elapsed();
        let decoding = Instant::now();
        let (stop, tokens) = self.decode(replica, request, logits, &mut sampler, cancel, on_token).await?;
        Ok(self.finished(stop, tokens, prompt.len(), (fresh, prompt_time), decoding.elapsed()))
    }

    /// How many tokens of `prompt` the cache already holds; the last one is always computed, for its logits.
    fn reuse(&mut self, replica: usize, prompt: &[u32]) -> usize {
        let same = self.cached[replica].iter().zip(prompt).take_while(|(a, b)| a == b).count().min(prompt.len() - 1);
        self.cached[replica].truncate(same);
        same
    }

    /// Computes the rest of the prompt in chunks; `None` if cancelled. A step cannot be stopped, so chunks are kept so
    /// short that a cancel is heard soon.
    async fn prefill(&mut self, replica: usize, prompt: &[u32], cancel: &AtomicBool) -> Result<Option<Vec<f32>>> {
        let mut logits = vec![];
        let mut size = self.chunk;
        let mut best = f64::INFINITY;
        while self.cached[replica].len() < prompt.len() {
            if cancel.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let from = self.cached[replica].len();
            let to = (from + size).min(prompt.len());
            let start = Instant::now();
            logits = self.step(replica, &prompt[from..to]).await?;
            // The first steps of a process may compile: the fastest is the rule.
            best = best.min(start.elapsed().as_secs_f64() / (to - from) as f64);
            size = ((PATIENCE / best) as usize).clamp(1, self.chunk);
        }
        Ok(Some(logits))
    }

    /// One step over the next tokens; the logits after the last.
    async fn step(&mut self, replica: usize, tokens: &[u32]) -> Result<Vec<f32>> {
        let total = self.cached[replica].len() + tokens.len();
        let bindings = Bindings::new().with("seq", tokens.len() as u64).with("total", total as u64);
        let which = if tokens.len() == 1 { 1 } else { 0 };
        let input = Array::u32(&[tokens.len()], tokens);
        let logits = self.engine.step(which, replica, &bindings, &[("tokens", input)], &["logits"]).await?.remove(0);
        self.cached[replica].extend_from_slice(tokens);
        Ok(logits.to_f32())
    }

    async fn decode(
        &mut self,
        replica: usize,
        request: &Request,
        mut logits: Vec<f32>,
        sampler: &mut Sampler,
        cancel: &AtomicBool,
        on_token: &mut dyn FnMut(&Token) -> Result<()>,
    ) -> Result<(Stop, usize)> {
        let mut stream = StreamDecoder::new();
        let mut made = 0;
        let stop = loop {
            if cancel.load(Ordering::Relaxed) {
                break Stop::Cancelled;
            }
            if request.max_tokens.is_some_and(|n| made >= n) {
                break Stop::Length;
            }
            let choice = sampler.sample(&logits, &self.cached[replica])?;
            made += 1;
            let ends = self.words.stops.contains(&choice.id);
            let last = ends || request.max_tokens.is_some_and(|n| made >= n) || self.cached[replica].len() >= self.context;
            let mut text = if ends { String::new() } else { stream.push(&self.words.tokenizer, choice.id)? };
            if last {
                text += &stream.finish(&self.words.tokenizer)?;
            }
            let top = self.alternatives(&logits, request.top)?;
            on_token(&Token { id: choice.id, text, logprob: choice.logprob, top })?;
            if ends {
                break Stop::End;
            }
            if self.cached[replica].len() >= self.context {
                break Stop::Context;
            }
            if request.max_tokens.is_some_and(|n| made >= n) {
                break Stop::Length;
            }
            logits = self.step(replica, &[choice.id]).await?;
        };
        Ok((stop, made))
    }

    fn alternatives(&self, logits: &[f32], n: usize) -> Result<Vec<Alternative>> {
        if n == 0 {
            return Ok(vec![]);
        }
        let named = |c: Choice| Alternative { id: c.id, text: self.words.tokenizer.token_text(c.id), logprob: c.logprob };
        Ok(top_logprobs(logits, n)?.into_iter().map(named).collect())
    }

    fn finished(&self, stop: Stop, tokens: usize, prompt_tokens: usize, (fresh, prompt_time): (usize, Duration), time: Duration) -> Finished {
        let rate = |n: usize, t: Duration| if t.is_zero() { 0.0 } else { n as f64 / t.as_secs_f64() };
        Finished {
            stop,
            tokens,
            prompt_tokens,
            prompt_per_second: rate(fresh, prompt_time),
            // The first token comes from the prompt's own step.
            tokens_per_second: rate(tokens.saturating_sub(1), time),
            adapter: self.engine.adapter(),
            peak_bytes: self.engine.peak_bytes(),
        }
    }

    /// Logits after each token of a fresh conversation: what golden figures are compared with.
    pub async fn logits(&mut self, tokens: &[u32]) -> Result<Vec<Vec<f32>>> {
        self.cached[0].clear();
        let mut out = vec![];
        for t in tokens {
            out.push(self.step(0, &[*t]).await?);
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
        let total = (self.cached[0].len() + 1).min(self.context) as u64;
        let bindings = Bindings::new().with("seq", 1).with("total", total);
        let inputs = [("tokens", Array::u32(&[1], &[0]))];
        if let Some(mesh) = self.engine.mesh() {
            return mesh.traced(1, 0, &bindings, &inputs, &["logits"]).await;
        }
        let track = self.engine.adapter();
        self.can_trace()?;
        let program = self.engine.programs().get_mut(1).ok_or_else(|| Error::usage("there is no program for one token"))?;
        let times = program.profile(&bindings, &inputs).await?;
        let span = |t: &DispatchTime| {
            let d = &program.plan().dispatches[t.index];
            let kernel = program.plan().kernels[d.kernel].name();
            let details = [("kernel", kernel.to_string()), ("ops", d.ops.join(" + ")), ("FLOP", d.flops.to_string()), ("bytes", d.bytes.to_string())];
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

//! Text from a decoder.

use super::engine::Engine;
use super::{Generation, Notice, Options};
use crate::base::{AdapterKind, Array, Bindings, Error, Result, Var};
use crate::device::{DispatchTime, Gpu, Program};
use crate::model::gguf::Value;
use crate::model::{Model, ModelInfo, StepShape};
use crate::text::{ChatTemplate, Choice, Message, Sampling, Tokenizer, Vocabulary, top_logprobs};
use crate::trace::{Span, Trace};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Context that is planned where the user names none.
const DEFAULT_CONTEXT: usize = 4096;

/// A decoder on a device, with its tokenizer. Keys and values of the last conversation stay, so a prompt that
/// continues it is not computed anew.
pub struct Generator {
    engine: Engine,
    info: ModelInfo,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    bos: String,
    eos: String,
    stops: Vec<u32>,
    context: usize,
    chunk: usize,
    cached: Vec<u32>,
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
    #[cfg(not(target_arch = "wasm32"))]
    pub async fn open(path: impl AsRef<std::path::Path>, options: &Options, notify: &mut dyn FnMut(Notice)) -> Result<Generator> {
        let model = Model::new(crate::model::ModelSource::open(path)?)?;
        let picked = super::pick(&options.device).await?;
        picked.notice.into_iter().for_each(|n| notify(Notice::Say(n)));
        Generator::with(&model, picked.gpu, options, notify).await
    }

    /// From a model whose weights are there, or arrive later.
    pub(super) async fn with(model: &Model, gpu: Option<Arc<Gpu>>, options: &Options, notify: &mut dyn FnMut(Notice)) -> Result<Generator> {
        let info = model.info();
        let context = options.context.unwrap_or(info.context.min(DEFAULT_CONTEXT));
        if context == 0 || context > info.context {
            return Err(Error::usage(format!("the context is {context} tokens, {} was made for 1 to {}", info.name, info.context)));
        }
        let (tokenizer, template, special) = words(model)?;
        let software = gpu.as_ref().is_none_or(|g| g.caps().kind == AdapterKind::Software);
        // Short enough on slow devices that a cancel is heard within a second.
        let chunk = if software { 32 } else { 256 }.min(context);
        let graphs = graphs(model, context, chunk, gpu.is_some())?;
        let tuning = match &gpu {
            Some(gpu) => super::tune::tuned(gpu, options.cache.as_deref(), notify).await?,
            None => None,
        };
        let engine = Engine::new(gpu, &graphs, &model.source, options, tuning, notify).await?;
        let stops = stop_tokens(&tokenizer, special.eos_id);
        let Special { bos, eos, .. } = special;
        Ok(Generator { engine, info, tokenizer, template, bos, eos, stops, context, chunk, cached: vec![] })
    }

    pub(super) fn engine(&mut self) -> &mut Engine {
        &mut self.engine
    }
    pub(super) fn stops(&self) -> &[u32] {
        &self.stops
    }
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }
    pub fn context(&self) -> usize {
        self.context
    }
    pub fn adapter(&self) -> String {
        self.engine.adapter()
    }
    /// The device; `None` is the CPU.
    pub fn gpu(&self) -> Option<&Arc<Gpu>> {
        self.engine.gpu()
    }
    pub fn peak_bytes(&self) -> u64 {
        self.engine.peak_bytes()
    }
    /// Whether the model brings a chat form.
    pub fn is_chat(&self) -> bool {
        self.template.is_some()
    }

    /// Ids of a conversation up to where the answer begins, in the model's own form.
    pub fn chat_prompt(&self, messages: &[Message]) -> Result<Vec<u32>> {
        let template = self.template.as_ref().ok_or_else(|| Error::model(&self.info.name, "has no chat template: give plain text (--raw)"))?;
        // The template writes its own markers.
        self.tokenizer.encode(&template.render(messages, true, &self.bos, &self.eos)?, false)
    }
    /// Ids of plain text to continue.
    pub fn raw_prompt(&self, text: &str) -> Result<Vec<u32>> {
        self.tokenizer.encode(text, true)
    }

    /// Generates, telling each token as it comes.
    ///
    /// # Errors
    /// An empty prompt or one longer than the context; device faults.
    pub async fn generate(&mut self, request: &Request, cancel: &AtomicBool, on_token: &mut dyn FnMut(&Token) -> Result<()>) -> Result<Finished> {
        let mut generation = self.begin(request)?;
        while let Some(token) = self.next(&mut generation, cancel).await? {
            on_token(&token)?;
        }
        Ok(self.finished(&generation))
    }

    /// Begins to generate: [`Generator::next`] goes on.
    ///
    /// # Errors
    /// An empty prompt or one longer than the context.
    pub fn begin(&self, request: &Request) -> Result<Generation> {
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
        Generation::new(request)
    }

    /// Logits after the last of `tokens`, of which the cache may hold some already; `None` if cancelled.
    pub(super) async fn logits_after(&mut self, tokens: &[u32], cancel: &AtomicBool) -> Result<Option<Vec<f32>>> {
        self.reuse(tokens);
        self.prefill(tokens, cancel).await
    }

    /// How many tokens of a prompt would have to be computed.
    pub(super) fn fresh(&self, prompt: &[u32]) -> usize {
        prompt.len() - self.cached.iter().zip(prompt).take_while(|(a, b)| a == b).count().min(prompt.len() - 1)
    }

    /// Forgets what the cache holds beyond what it shares with `prompt`; the last token is always computed, for its logits.
    fn reuse(&mut self, prompt: &[u32]) {
        self.cached.truncate(prompt.len() - self.fresh(prompt));
    }

    /// Computes the rest of the prompt in chunks; `None` if cancelled.
    async fn prefill(&mut self, prompt: &[u32], cancel: &AtomicBool) -> Result<Option<Vec<f32>>> {
        let mut logits = vec![];
        while self.cached.len() < prompt.len() {
            if cancel.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let from = self.cached.len();
            let to = from + self.portion(from, prompt.len())?;
            match self.step(&prompt[from..to], cancel).await {
                Err(Error::Cancelled) => return Ok(None),
                step => logits = step?,
            }
        }
        Ok(Some(logits))
    }

    /// How many tokens of a prompt the next step takes: fewer where a whole chunk would keep the device for too long.
    fn portion(&self, from: usize, to: usize) -> Result<usize> {
        let mut n = self.chunk.min(to - from);
        while n > 1 && !self.engine.is_brisk(0, &bindings(n, from + n))? {
            n = n.div_ceil(2);
        }
        Ok(n)
    }

    /// One step over the next tokens; the logits after the last.
    async fn step(&mut self, tokens: &[u32], cancel: &AtomicBool) -> Result<Vec<f32>> {
        let which = if tokens.len() == 1 { 1 } else { 0 };
        let input = Array::u32(&[tokens.len()], tokens);
        let bindings = bindings(tokens.len(), self.cached.len() + tokens.len());
        let logits = self.engine.step(which, &bindings, &[("tokens", input)], &["logits"], cancel).await?.remove(0);
        self.cached.extend_from_slice(tokens);
        Ok(logits.to_f32())
    }

    pub(super) fn alternatives(&self, logits: &[f32], n: usize) -> Result<Vec<Alternative>> {
        if n == 0 {
            return Ok(vec![]);
        }
        let named = |c: Choice| Alternative { id: c.id, text: self.tokenizer.token_text(c.id), logprob: c.logprob };
        Ok(top_logprobs(logits, n)?.into_iter().map(named).collect())
    }

    /// Logits after each token of a fresh conversation: what golden figures are compared with.
    pub async fn logits(&mut self, tokens: &[u32]) -> Result<Vec<Vec<f32>>> {
        self.cached.clear();
        let mut out = vec![];
        for t in tokens {
            out.push(self.step(&[*t], &AtomicBool::new(false)).await?);
        }
        Ok(out)
    }

    /// Times every dispatch of one decode step. The conversation is not advanced.
    ///
    /// # Errors
    /// On the CPU fallback, or where the adapter has no timestamps.
    pub async fn trace(&mut self) -> Result<Trace> {
        let track = self.engine.adapter();
        let (program, times) = self.profile().await?;
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

    async fn profile(&mut self) -> Result<(&Program, Vec<DispatchTime>)> {
        let total = (self.cached.len() + 1).min(self.context);
        let adapter = self.engine.adapter();
        let program = self.engine.programs().get_mut(1).ok_or_else(|| Error::usage(format!("{adapter} has no dispatches to time: choose an adapter with --device")))?;
        let times = program.profile(&bindings(1, total), &[("tokens", Array::u32(&[1], &[0]))]).await?;
        Ok((program, times))
    }
}

fn bindings(seq: usize, total: usize) -> Bindings {
    Bindings::new().with("seq", seq as u64).with("total", total as u64)
}

/// The graphs of an engine: any number of tokens up to the chunk, and one. The fallback needs only the first.
fn graphs(model: &Model, context: usize, chunk: usize, device: bool) -> Result<Vec<crate::graph::Graph>> {
    let total = Var::new("total", context as u32);
    let many = StepShape { seq: Var::new("seq", chunk as u32).into(), total, context, last_only: true };
    let mut out = vec![model.step_graph(&many)?];
    if device {
        out.push(model.step_graph(&StepShape { seq: 1.into(), ..many })?);
    }
    Ok(out)
}

/// Names that models end a turn with.
const TURN_ENDS: &[&str] = &["<|im_end|>", "<|eot_id|>", "<|end|>", "<|end_of_text|>", "<|endoftext|>", "<end_of_turn>", "</s>"];

fn stop_tokens(tokenizer: &Tokenizer, eos: Option<u32>) -> Vec<u32> {
    let mut stops: Vec<u32> = TURN_ENDS.iter().filter_map(|t| tokenizer.token_id(t)).chain(eos).collect();
    stops.sort_unstable();
    stops.dedup();
    stops
}

struct Special {
    bos: String,
    eos: String,
    eos_id: Option<u32>,
}

/// The tokenizer and chat template of either kind of file.
fn words(model: &Model) -> Result<(Tokenizer, Option<ChatTemplate>, Special)> {
    match model.source.gguf() {
        Some(gguf) => {
            let int = |key: &str| gguf.get(key).and_then(Value::int).and_then(|n| u32::try_from(n).ok());
            let text = |key: &str| gguf.get(key).and_then(Value::text).unwrap_or_default().to_string();
            let texts = |key: &str| match gguf.get(key) {
                Some(Value::Texts(v)) => v.clone(),
                _ => vec![],
            };
            let flag = |key: &str, default: bool| gguf.get(key).and_then(Value::int).map_or(default, |n| n != 0);
            let kind = text("tokenizer.ggml.model");
            let vocabulary = Vocabulary {
                pre: text("tokenizer.ggml.pre"),
                tokens: texts("tokenizer.ggml.tokens"),
                scores: match gguf.get("tokenizer.ggml.scores") {
                    Some(Value::Floats(v)) => v.clone(),
                    _ => vec![],
                },
                types: match gguf.get("tokenizer.ggml.token_type") {
                    Some(Value::Ints(v)) => v.clone(),
                    _ => vec![],
                },
                merges: texts("tokenizer.ggml.merges"),
                bos: int("tokenizer.ggml.bos_token_id"),
                add_bos: flag("tokenizer.ggml.add_bos_token", kind == "llama"),
                add_space_prefix: flag("tokenizer.ggml.add_space_prefix", true),
                model: kind,
            };
            let token = |id: Option<u32>| id.and_then(|i| vocabulary.tokens.get(i as usize)).cloned().unwrap_or_default();
            let eos_id = int("tokenizer.ggml.eos_token_id");
            let special = Special { bos: token(vocabulary.bos), eos: token(eos_id), eos_id };
            let template = gguf.get("tokenizer.chat_template").and_then(Value::text).map(ChatTemplate::new).transpose()?;
            Ok((Tokenizer::from_vocabulary(vocabulary)?, template, special))
        }
        None => {
            let json = model.source.side_file("tokenizer.json").ok_or_else(|| Error::model(&model.name, "lacks tokenizer.json"))?;
            let tokenizer = Tokenizer::from_json(json)?;
            let config: serde_json::Value = model.source.side_file("tokenizer_config.json").and_then(|b| serde_json::from_slice(b).ok()).unwrap_or_default();
            let token = |key: &str| {
                let v = &config[key];
                v.as_str().or(v["content"].as_str()).unwrap_or_default().to_string()
            };
            let file = model.source.side_file("chat_template.jinja").map(|b| String::from_utf8_lossy(b).into_owned());
            let source = file.or(config["chat_template"].as_str().map(String::from));
            let template = source.map(|s| ChatTemplate::new(&s)).transpose()?;
            let special = Special { bos: token("bos_token"), eos: token("eos_token"), eos_id: tokenizer.token_id(&token("eos_token")) };
            Ok((tokenizer, template, special))
        }
    }
}

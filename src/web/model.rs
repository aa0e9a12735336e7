//! A model in the Worker: opened from pieces of its file, asked token by token.

use super::{Flag, breathe, choice, team, tell};
use crate::base::Error;
use crate::device::Gpu;
use crate::session::Head;
use crate::session::{self, Generation, Generator, Layout, Loading, Opened, Options, Request};
use crate::text::{Message, Sampling};
use crate::trace::Span;
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;
use wasm_bindgen::prelude::*;

/// A file on its way.
#[wasm_bindgen]
pub struct Opening {
    loading: Loading,
    notify: js_sys::Function,
}

/// Names and bytes of arrays that begin with them.
fn files(all: &js_sys::Array) -> impl Iterator<Item = (String, Vec<u8>)> {
    all.iter().map(|one| {
        let one = js_sys::Array::from(&one);
        (one.get(0).as_string().unwrap_or_default(), js_sys::Uint8Array::new(&one.get(1)).to_vec())
    })
}

/// A size, where it is not negative.
fn known(size: f64) -> Option<u64> {
    (size >= 0.0).then_some(size as u64)
}

#[wasm_bindgen]
impl Opening {
    /// `size` is negative where it is not known; `side` are pairs of a name and bytes.
    #[wasm_bindgen(constructor)]
    pub fn new(
        name: &str,
        size: f64,
        side: js_sys::Array,
        how: How,
        notify: js_sys::Function,
    ) -> Result<Opening, JsValue> {
        let loading = Loading::new(name, known(size), files(&side).collect(), how.options()?);
        Ok(Opening { loading, notify })
    }

    /// A model in several files: `heads` are of each a name, its first bytes, and its size.
    pub async fn of_files(
        name: String,
        heads: js_sys::Array,
        side: js_sys::Array,
        how: How,
        notify: js_sys::Function,
    ) -> Result<Opening, JsValue> {
        let sizes = heads.iter().map(|h| known(js_sys::Array::from(&h).get(2).as_f64().unwrap_or(-1.0)));
        let heads: Vec<Head> =
            files(&heads).zip(sizes).map(|((name, bytes), size)| Head { name, size, bytes }).collect();
        let options = how.options()?;
        let loading =
            Loading::of_files_telling(&name, &heads, files(&side).collect(), options, &mut |n| tell(n, &notify))
                .await?;
        Ok(Opening { loading, notify })
    }

    /// Tells that the last byte of one of several files was pushed.
    pub fn file_ends(&self, name: &str) -> Result<(), JsValue> {
        Ok(self.loading.file_ends(name)?)
    }

    /// The file's next bytes.
    pub async fn push(&mut self, bytes: Vec<u8>) -> Result<(), JsValue> {
        let notify = self.notify.clone();
        Ok(self.loading.push_telling(&bytes, &mut |n| tell(n, &notify)).await?)
    }

    /// The model, after the last byte.
    pub async fn finish(self) -> Result<Model, JsValue> {
        let notify = self.notify;
        let mut opened = self.loading.finish_telling(&mut |n| tell(n, &notify)).await?;
        if let Opened::Generator(g) = &mut opened
            && !g.rank_bytes().is_empty()
        {
            // The CPU's ranks have no times: their tokens come without.
            let _ = g.time_steps();
        }
        Ok(Model { opened, generation: None })
    }
}

/// How a model is opened: `context` is 0 for the model's own, `mesh` are axes such as `tp=3`, or nothing.
#[wasm_bindgen]
pub struct How {
    device: String,
    context: u32,
    mesh: String,
}

#[wasm_bindgen]
impl How {
    #[wasm_bindgen(constructor)]
    pub fn new(device: String, context: u32, mesh: String) -> How {
        How { device, context, mesh }
    }

    fn options(&self) -> Result<Options, Error> {
        let context = (self.context > 0).then_some(self.context as usize);
        let layout = match self.mesh.is_empty() {
            true => Layout::default(),
            false => Layout { mesh: session::mesh(&self.mesh)?, ..Layout::default() },
        };
        Ok(Options {
            device: choice(&self.device)?,
            context,
            layout,
            breathe: Some(breathe),
            gather: Some(team::gather),
            ..Options::default()
        })
    }
}

/// An opened model and the generation that it is at.
#[wasm_bindgen]
pub struct Model {
    opened: Opened,
    generation: Option<Generation>,
}

/// A generation between two models: the device of the first was lost.
#[wasm_bindgen]
pub struct Passage(Generation);

/// What JavaScript asks for.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Ask {
    /// Text to continue, or else messages.
    prompt: Option<String>,
    messages: Option<Vec<Turn>>,
    max_tokens: Option<f64>,
    temperature: Option<f32>,
    top_k: Option<f64>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    repeat_penalty: Option<f32>,
    seed: Option<f64>,
}

#[derive(Deserialize)]
struct Turn {
    role: String,
    content: String,
}

fn whole(name: &str, x: f64) -> Result<u64, Error> {
    match x >= 0.0 && x.fract() == 0.0 && x <= 9e15 {
        true => Ok(x as u64),
        false => Err(Error::usage(format!("{name} is {x}, it must be a whole number from 0"))),
    }
}

impl Ask {
    fn request(&self, model: &Generator) -> Result<Request, Error> {
        let usual = Sampling::greedy();
        let sampling = Sampling {
            temperature: self.temperature.unwrap_or(usual.temperature),
            top_k: self.top_k.map_or(Ok(usual.top_k as u64), |k| whole("topK", k))? as usize,
            top_p: self.top_p.unwrap_or(usual.top_p),
            min_p: self.min_p.unwrap_or(usual.min_p),
            repeat_penalty: self.repeat_penalty.unwrap_or(usual.repeat_penalty),
            seed: self.seed.map_or(Ok(0), |s| whole("seed", s))?,
            ..usual
        };
        sampling.validate()?;
        let prompt = match (&self.prompt, &self.messages) {
            (Some(text), None) => model.raw_prompt(text)?,
            (None, Some(turns)) => {
                let messages: Vec<Message> = turns.iter().map(|t| Message::new(&t.role, t.content.as_str())).collect();
                model.chat_prompt(&messages)?
            }
            _ => return Err(Error::usage("give either a prompt or messages")),
        };
        let max_tokens = self.max_tokens.map(|n| whole("maxTokens", n)).transpose()?.map(|n| n as usize);
        Ok(Request { prompt, sampling, max_tokens, top: 0 })
    }
}

#[wasm_bindgen]
impl Model {
    fn generator(&mut self) -> Result<(&mut Generator, &mut Option<Generation>), Error> {
        match &mut self.opened {
            Opened::Generator(g) => Ok((g, &mut self.generation)),
            Opened::Embedder(e) => {
                Err(Error::model(&e.info().name, "is an encoder: it makes embeddings, it does not generate text"))
            }
        }
    }

    /// What `model.info()` gives, as JSON.
    pub fn info(&self) -> String {
        let (info, adapter, peak, context, chat, threads) = match &self.opened {
            Opened::Generator(g) => (g.info(), g.adapter(), g.peak_bytes(), g.context(), g.is_chat(), g.threads()),
            Opened::Embedder(e) => (e.info(), e.adapter(), e.peak_bytes(), e.max_tokens(), false, e.threads()),
        };
        json!({
            "name": info.name, "family": info.family, "kind": if matches!(self.opened, Opened::Generator(_)) { "generator" } else { "embedder" },
            "layers": info.layers, "width": info.width, "heads": info.heads, "kvHeads": info.kv_heads, "vocabulary": info.vocab,
            "trainedContext": info.context, "context": context, "parameters": info.parameters, "weightBytes": info.weight_bytes,
            "chat": chat, "adapter": adapter, "device": if self.gpu().is_some() { "webgpu" } else { "cpu" }, "peakBytes": peak,
            "threads": threads, "gpuBytes": self.gpu().map_or(0, |g| g.used_bytes()),
        })
        .to_string()
    }

    fn gpu(&self) -> Option<&Arc<Gpu>> {
        match &self.opened {
            Opened::Generator(g) => g.gpu(),
            Opened::Embedder(e) => e.gpu(),
        }
    }

    /// Frees the model; bytes of its device that are still in use after that, which must be none.
    pub fn close(self) -> f64 {
        let gpu = self.gpu().cloned();
        drop(self);
        gpu.map_or(0.0, |g| g.used_bytes() as f64)
    }

    /// Begins to answer; the number of prompt tokens.
    pub fn begin(&mut self, ask: &str) -> Result<usize, JsValue> {
        let (generator, generation) = self.generator()?;
        let ask: Ask = serde_json::from_str(ask).map_err(|e| Error::usage(format!("the options are wrong: {e}")))?;
        let request = ask.request(generator)?;
        *generation = Some(generator.begin(&request)?);
        Ok(request.prompt.len())
    }

    /// The next token as JSON, or nothing once it has ended.
    pub async fn next(&mut self, cancel: Flag) -> Result<Option<String>, JsValue> {
        let (generator, generation) = self.generator()?;
        let Some(generation) = generation else { return Ok(None) };
        let token = generator.next(generation, &cancel.0).await?;
        Ok(token.map(|t| json!({ "id": t.id, "text": t.text, "logprob": t.logprob }).to_string()))
    }

    /// What ranks and links of a mesh did for the last token, as JSON: `[track, name, start, duration, bytes]` each, in
    /// microseconds; nothing on one device.
    pub fn spans(&mut self) -> Option<String> {
        let Opened::Generator(generator) = &mut self.opened else { return None };
        let bytes = |s: &Span| s.details.iter().find(|d| d.0 == "bytes").and_then(|d| d.1.parse::<u64>().ok());
        let spans = generator.last_step()?.spans;
        Some(
            json!(
                spans.iter().map(|s| json!([s.track, s.name, s.start_us, s.duration_us, bytes(s)])).collect::<Vec<_>>()
            )
            .to_string(),
        )
    }

    /// Bytes of each rank of a mesh; none on one device.
    pub fn ranks(&mut self) -> Vec<f64> {
        match &mut self.opened {
            Opened::Generator(g) => g.rank_bytes().iter().map(|r| r.1 as f64).collect(),
            Opened::Embedder(_) => vec![],
        }
    }

    /// Figures of the generation so far, as JSON; it ends with that.
    pub fn end(&mut self) -> Result<String, JsValue> {
        let (generator, generation) = self.generator()?;
        let Some(g) = generation.take() else { return Err(Error::usage("nothing is being generated").into()) };
        let f = generator.finished(&g);
        Ok(json!({
            "stop": f.stop.name(), "tokens": f.tokens, "promptTokens": f.prompt_tokens, "promptPerSecond": f.prompt_per_second,
            "tokensPerSecond": f.tokens_per_second, "adapter": f.adapter, "peakBytes": f.peak_bytes,
        })
        .to_string())
    }

    /// Takes the generation away, for another model to go on with.
    pub fn leave(&mut self) -> Option<Passage> {
        self.generation.take().map(Passage)
    }
    /// Goes on with a generation of the same model.
    pub fn enter(&mut self, passage: Passage) {
        self.generation = Some(passage.0);
    }

    /// One vector for each text, one after another.
    pub async fn embed(&mut self, texts: Vec<String>, cancel: Flag) -> Result<Vec<f32>, JsValue> {
        match &mut self.opened {
            Opened::Embedder(e) => Ok(e.embed_until(&texts, &cancel.0).await?.concat()),
            Opened::Generator(g) => {
                Err(Error::model(&g.info().name, "generates text: it makes no sentence embeddings").into())
            }
        }
    }

    /// Ids of a text.
    pub fn tokenize(&self, text: &str) -> Result<Vec<u32>, JsValue> {
        let tokenizer = match &self.opened {
            Opened::Generator(g) => g.tokenizer(),
            Opened::Embedder(e) => e.tokenizer(),
        };
        Ok(tokenizer.encode(text, true)?)
    }
}

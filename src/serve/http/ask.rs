//! From a prompt to answers: what all dialects share.

use super::choosing::Choosing;
use super::error::{Answered, Refusal};
use super::{App, Slot};
use crate::base::Result;
use crate::serve::{Answer, Card, Ended, Kind, Reason, Request, State};
use crate::session::{Request as Generate, Token, Words};
use crate::text::{Constraint, Grammar, Grammars};
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use futures_util::stream;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A model that is open, for one request.
#[derive(Clone)]
pub struct Model {
    pub slot: Arc<Slot>,
    pub card: Arc<Card>,
    pub words: Arc<Words>,
    pub context: usize,
}

/// The model of that name; where there is one only, it need not be named.
///
/// # Errors
/// 404 for a name that is not served.
pub fn slot(app: &App, name: Option<&str>) -> Answered<Arc<Slot>> {
    let found = match name {
        Some(name) => app.slots.iter().find(|s| s.name == name || format!("{}:latest", s.name) == name),
        None => app.slots.first().filter(|_| app.slots.len() == 1),
    };
    found.cloned().ok_or_else(|| {
        let known: Vec<&str> = app.slots.iter().map(|s| s.name.as_str()).collect();
        let asked: String = name.unwrap_or_default().chars().take(100).collect();
        let message = format!("there is no model {asked:?}; there are: {}", known.join(", "));
        Refusal { param: Some("model".into()), ..Refusal::new(StatusCode::NOT_FOUND, message).code("model_not_found") }
    })
}

/// What is known of a model that is open.
///
/// # Errors
/// 503 while it loads, and for good where it could not be opened.
pub fn card(slot: &Slot) -> Answered<Arc<Card>> {
    let closed = |message: String| Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message));
    match slot.engine.state() {
        State::Ready(card) => Ok(card),
        State::Loading(what) => closed(format!("{} is being loaded ({what}): try again", slot.name)),
        State::Failed(e) => closed(format!("{} cannot be used: {e}", slot.name)),
    }
}

/// A decoder by its name.
pub fn decoder(app: &App, name: Option<&str>) -> Answered<Model> {
    let slot = slot(app, name)?;
    let card = card(&slot)?;
    match &card.kind {
        Kind::Decoder { words, context } => {
            Ok(Model { words: words.clone(), context: *context, slot, card: card.clone() })
        }
        Kind::Encoder { .. } => {
            Err(Refusal::field("model", format!("{} is an encoder: it makes embeddings only", slot.name)))
        }
    }
}

/// Runs what computes for long on a thread where it holds nobody up.
pub async fn blocking<T: Send + 'static>(run: impl FnOnce() -> Result<T> + Send + 'static) -> Answered<T> {
    match tokio::task::spawn_blocking(run).await {
        Ok(done) => Ok(done?),
        Err(e) => Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the request failed: {e}"))),
    }
}

/// What holds each of `n` answers to a grammar.
///
/// # Errors
/// A grammar that cannot be used.
pub async fn constraints(model: &Model, grammar: Option<Grammar>, n: usize) -> Answered<Vec<Box<dyn Constraint>>> {
    let Some(grammar) = grammar else { return Ok(vec![]) };
    let model = model.clone();
    let made = blocking(move || {
        let vocab = model.card.info.vocab;
        let make = || Grammars::new(model.words.tokenizer(), vocab, model.words.stops());
        let grammars = model.slot.grammars.get_or_init(make).as_ref().map_err(Clone::clone)?;
        (0..n).map(|_| grammars.constraint(&grammar)).collect()
    });
    made.await
}

/// Answers under way.
pub struct Answers {
    each: Vec<Option<Answer>>,
    prompts: usize,
    pub ended: Vec<Option<Ended>>,
}

/// What came next.
pub enum Came {
    Token(usize, Token),
    End(usize),
}

impl Answers {
    /// What comes next, of whichever answer; `None` when all have ended.
    pub async fn next(&mut self) -> Option<Result<Came>> {
        poll_fn(|cx| {
            let mut open = false;
            for (i, slot) in self.each.iter_mut().enumerate() {
                let Some(answer) = slot else { continue };
                open = true;
                let Poll::Ready(came) = answer.poll_next(cx) else { continue };
                return Poll::Ready(Some(match came {
                    Ok(Some(token)) => Ok(Came::Token(i, token)),
                    Ok(None) => {
                        self.ended[i] = answer.ended().cloned();
                        *slot = None;
                        Ok(Came::End(i))
                    }
                    Err(e) => {
                        *slot = None;
                        Err(e)
                    }
                }));
            }
            if open { Poll::Pending } else { Poll::Ready(None) }
        })
        .await
    }

    /// Takes more answers, to another prompt.
    pub fn join(&mut self, other: Answers) {
        self.prompts += other.prompts;
        self.each.extend(other.each);
        self.ended.extend(other.ended);
    }

    /// Tokens of the prompts, those of them that were not computed again, and tokens made.
    pub fn counts(&self) -> (usize, usize, usize) {
        // Several answers to one prompt count it once.
        let share = self.ended.len() / self.prompts.max(1);
        let prompts = || self.ended.iter().step_by(share.max(1)).flatten();
        let made = self.ended.iter().flatten().map(|e| e.tokens).sum();
        (prompts().map(|e| e.prompt_tokens).sum(), prompts().map(|e| e.cached_tokens).sum(), made)
    }
}

/// Submits a prompt as many times as answers are asked for.
///
/// # Errors
/// A prompt that does not fit the context, 429 where the queue is full.
pub fn start(
    app: &App,
    model: &Model,
    prompt: &[u32],
    choosing: &Choosing,
    constraints: Vec<Box<dyn Constraint>>,
) -> Answered<Answers> {
    if prompt.is_empty() {
        return Err(Refusal::bad("the prompt is empty"));
    }
    if prompt.len() >= model.context {
        let message = format!(
            "the prompt has {} tokens, the context of {} is {}: shorten it",
            prompt.len(),
            model.slot.name,
            model.context
        );
        return Err(Refusal::bad(message).code("context_length_exceeded"));
    }
    let vocab = model.card.info.vocab;
    if let Some((id, _)) = choosing.sampling.logit_bias.iter().find(|b| b.0 as usize >= vocab) {
        return Err(Refusal::field("logit_bias", format!("names token {id}, the vocabulary has {vocab}")));
    }
    let mut each = vec![];
    let mut constraints = constraints.into_iter();
    for i in 0..choosing.n {
        let generate = Generate {
            prompt: prompt.to_vec(),
            sampling: choosing.sampling(i),
            max_tokens: choosing.max_tokens,
            top: choosing.top.unwrap_or(0),
        };
        each.push(Some(model.slot.engine.submit(Request {
            generate,
            stop: choosing.stop.clone(),
            priority: choosing.priority,
            deadline: app.config.request_timeout.map(|t| Instant::now() + t),
            constraint: constraints.next(),
        })?));
    }
    Ok(Answers { ended: vec![None; each.len()], each, prompts: 1 })
}

/// Why an answer ended, as OpenAI says it.
pub fn finish_reason(ended: Option<&Ended>) -> &'static str {
    match ended.map(|e| &e.reason) {
        Some(Reason::End | Reason::StopString(_)) => "stop",
        _ => "length",
    }
}

pub fn usage(answers: &Answers) -> Value {
    let (prompt, cached, made) = answers.counts();
    json!({
        "prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made,
        "prompt_tokens_details": { "cached_tokens": cached },
    })
}

/// A token with its log-probability, as OpenAI's chat tells it.
pub fn logprob_entry(words: &Words, token: &Token) -> Value {
    let of = |id: u32, logprob: f32| {
        let bytes = words.tokenizer().token_bytes(id).unwrap_or_default();
        json!({ "token": words.tokenizer().token_text(id), "logprob": logprob, "bytes": bytes })
    };
    let mut entry = of(token.id, token.logprob);
    entry["top_logprobs"] = token.top.iter().map(|a| of(a.id, a.logprob)).collect();
    entry
}

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// A name that no other answer has.
pub fn fresh_id(kind: &str) -> String {
    format!("{kind}{:016x}{:08x}", super::choosing::random(), super::choosing::random() as u32)
}

/// Something that gives a body piece by piece; several at a time.
pub trait Pieces: Send + 'static {
    /// The next pieces of the body's text; none when it has ended.
    fn next(&mut self) -> impl Future<Output = Option<String>> + Send;
}

/// A body that is written as it is made. Whoever drops it (the client has gone) drops `pieces`.
pub fn streamed(kind: &'static str, pieces: impl Pieces) -> Response {
    let body = stream::unfold(pieces, |mut pieces| async {
        let text = pieces.next().await?;
        Some((Ok::<_, std::convert::Infallible>(text), pieces))
    });
    let mut response = Response::new(Body::from_stream(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

pub const SSE: &str = "text/event-stream; charset=utf-8";

/// An event of a server-sent stream.
pub fn event(value: &Value) -> String {
    format!("data: {value}\n\n")
}

/// The same with a name.
pub fn named_event(name: &str, value: &Value) -> String {
    format!("event: {name}\ndata: {value}\n\n")
}

/// Texts that wait to be written.
#[derive(Default)]
pub struct Outbox(VecDeque<String>);

impl Outbox {
    pub fn push(&mut self, text: String) {
        self.0.push_back(text);
    }
    /// All of it at once.
    pub fn take(&mut self) -> Option<String> {
        (!self.0.is_empty()).then(|| self.0.drain(..).collect())
    }
}

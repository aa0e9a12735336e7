//! Ollama's /api, as its clients use it.

use super::ask::{self, Answers, Came, Outbox, Pieces, blocking, constraints, decoder, streamed};
use super::choosing::{Choosing, random, read_sampling, stops};
use super::error::{Answered, Dialect, Refusal};
use super::fields::Fields;
use super::openai::{embed_texts, normalised};
use super::splitter::Piece;
use super::talk::{Part, Talk, Turn};
use super::tools::Tools;
use super::{App, Shared, Slot, body};
use crate::serve::{Ended, Kind, Reason, State};
use crate::text::{Grammar, Sampling};
use axum::Json;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const NDJSON: &str = "application/x-ndjson";

fn respond(made: Answered<Response>) -> Response {
    made.unwrap_or_else(|refusal| refusal.response(Dialect::Ollama))
}

/// This program's own version, in the place where clients look for one.
pub async fn version() -> Response {
    Json(json!({ "version": env!("CARGO_PKG_VERSION") })).into_response()
}

/// A moment as RFC 3339 writes it (civil dates from days, Hinnant, 2013).
fn timestamp(seconds: u64) -> String {
    let (days, rest) = ((seconds / 86_400) as i64, seconds % 86_400);
    let z = days + 719_468;
    let (era, day) = (z / 146_097, z % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (d, m) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let y = year + era * 400 + (m <= 2) as i64;
    format!("{y:04}-{m:02}-{d:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

fn details(slot: &Slot) -> Value {
    let State::Ready(card) = slot.engine.state() else { return json!({ "format": "", "family": "" }) };
    let info = &card.info;
    let size = format!("{:.0}M", info.parameters as f64 / 1e6);
    json!({ "format": "gguf", "family": info.family, "families": [info.family], "parameter_size": size, "quantization_level": "", "parent_model": "" })
}

fn size(slot: &Slot) -> u64 {
    match slot.engine.state() {
        State::Ready(card) => card.info.weight_bytes,
        _ => 0,
    }
}

fn listed(slot: &Slot) -> Value {
    json!({
        "name": slot.name, "model": slot.name, "modified_at": timestamp(slot.created), "size": size(slot), "digest": "",
        "details": details(slot),
    })
}

pub async fn tags(app: Shared) -> Response {
    Json(json!({ "models": app.slots.iter().map(|s| listed(s)).collect::<Vec<_>>() })).into_response()
}

/// Models that are loaded: all of them.
pub async fn ps(app: Shared) -> Response {
    let entry = |slot: &std::sync::Arc<Slot>| {
        let mut entry = listed(slot);
        entry["expires_at"] = timestamp(u32::MAX as u64).into();
        entry["size_vram"] = size(slot).into();
        entry
    };
    Json(json!({ "models": app.slots.iter().map(entry).collect::<Vec<_>>() })).into_response()
}

pub async fn show(app: Shared, request: Request) -> Response {
    respond(shown(&app, request).await)
}

async fn shown(app: &App, request: Request) -> Answered<Response> {
    let mut f = body::fields(app, request).await?;
    let name = f.text("model")?.or(f.text("name")?);
    f.ignore(&["verbose"]);
    f.finish()?;
    let slot = ask::slot(app, name.as_deref())?;
    let card = ask::card(&slot)?;
    let family = card.info.family;
    let (template, what, context) = match &card.kind {
        Kind::Decoder { words, context } => {
            (words.template().unwrap_or_default().to_string(), vec!["completion", "tools"], *context)
        }
        Kind::Encoder { tokens } => (String::new(), vec!["embedding"], *tokens),
    };
    Ok(Json(json!({
        "modelfile": "", "parameters": "", "template": template, "details": details(&slot), "capabilities": what,
        "modified_at": timestamp(slot.created),
        "model_info": {
            "general.architecture": family, "general.parameter_count": card.info.parameters,
            format!("{family}.context_length"): context, format!("{family}.embedding_length"): card.info.embedding.unwrap_or(card.info.width),
            format!("{family}.block_count"): card.info.layers,
        },
    }))
    .into_response())
}

pub async fn embed(app: Shared, request: Request) -> Response {
    respond(embedded(&app, request, false).await)
}

/// The older form: one text, one vector.
pub async fn embedding(app: Shared, request: Request) -> Response {
    respond(embedded(&app, request, true).await)
}

async fn embedded(app: &App, request: Request, one: bool) -> Answered<Response> {
    let start = Instant::now();
    let mut f = body::fields(app, request).await?;
    let name = f.text("model")?;
    let key = if one { "prompt" } else { "input" };
    let texts = f.texts(key)?.ok_or_else(|| Refusal::field(key, "is missing"))?;
    f.only("truncate", &[json!(true)], "what is longer than the model reads is cut")?;
    f.ignore(&["keep_alive", "options"]);
    f.finish()?;
    let (name, vectors, tokens) = embed_texts(app, name.as_deref(), texts).await?;
    let total = start.elapsed().as_nanos() as u64;
    Ok(Json(match one {
        true => json!({ "embedding": vectors.first() }),
        false => json!({ "model": name, "embeddings": vectors, "total_duration": total, "load_duration": 0, "prompt_eval_count": tokens }),
    })
    .into_response())
}

/// `options`, with Ollama's defaults.
fn options(f: &mut Fields) -> Answered<Choosing> {
    let mut sampling =
        Sampling { temperature: 0.8, top_k: 40, top_p: 0.9, min_p: 0.0, repeat_penalty: 1.1, ..Sampling::default() };
    sampling.seed = random();
    let mut choosing = Choosing::new(sampling.clone());
    if let Some(mut o) = f.object("options")? {
        sampling.seed = o.whole("seed", i64::MIN, i64::MAX)?.map_or(sampling.seed, |n| n as u64);
        read_sampling(&mut o, &mut sampling)?;
        // -1 and -2 say "as much as there is room for".
        choosing.max_tokens = o.whole("num_predict", -2, i64::MAX)?.and_then(|n| usize::try_from(n).ok());
        choosing.stop = stops(&mut o, "stop")?;
        // How and where it runs is the server's.
        o.ignore(&[
            "num_ctx",
            "num_batch",
            "num_gpu",
            "main_gpu",
            "use_mmap",
            "use_mlock",
            "num_thread",
            "num_keep",
            "numa",
            "low_vram",
        ]);
        o.finish()?;
    }
    choosing.sampling = sampling;
    Ok(choosing)
}

fn format(f: &mut Fields) -> Answered<Option<Grammar>> {
    match f.take("format") {
        None => Ok(None),
        Some(Value::String(s)) if s.is_empty() => Ok(None),
        Some(Value::String(s)) if s == "json" => Ok(Some(Grammar::Json(json!({ "type": "object" })))),
        Some(schema @ Value::Object(_)) => Ok(Some(Grammar::Json(schema))),
        Some(_) => Err(Refusal::field("format", "must be json or a JSON schema")),
    }
}

/// What both ways to ask have in common.
fn common(f: &mut Fields) -> Answered<bool> {
    f.only("think", &[json!(false)], "thinking is not told apart here")?;
    f.ignore(&["keep_alive"]);
    Ok(f.flag("stream")?.unwrap_or(true))
}

pub async fn chat(app: Shared, request: Request) -> Response {
    respond(chatted(&app, request).await)
}

async fn chatted(app: &App, request: Request) -> Answered<Response> {
    let start = Instant::now();
    let mut f = body::fields(app, request).await?;
    let name = f.text("model")?;
    let mut messages = f.list("messages")?.unwrap_or_default();
    for (i, message) in messages.iter_mut().enumerate() {
        let Some(map) = message.as_object_mut() else { continue };
        if map.remove("images").is_some_and(|v| v.as_array().is_none_or(|list| !list.is_empty())) {
            return Err(Refusal::field(&format!("messages[{i}].images"), "cannot be used: this model takes text only"));
        }
        map.remove("thinking");
        if let Some(tool) = map.remove("tool_name") {
            map.insert("name".into(), tool);
        }
    }
    let grammar = format(&mut f)?;
    let choosing = options(&mut f)?;
    let stream = common(&mut f)?;
    let tools = Tools::read(&mut f)?;
    f.finish()?;
    let model = decoder(app, name.as_deref())?;
    if messages.is_empty() {
        // Asks whether the model is loaded.
        let done = json!({ "role": "assistant", "content": "" });
        return Ok(Json(json!({ "model": model.slot.name, "created_at": timestamp(ask::now()), "message": done, "done": true, "done_reason": "load" })).into_response());
    }
    let messages = normalised(messages)?;
    let talk = Talk::new(app, model, Turn { messages, tools, grammar, choosing, more: Value::Null }).await?;
    let asked = Asked { name: talk.model.slot.name.clone(), from: From::Chat(Box::new(talk)), start };
    asked.respond(stream).await
}

pub async fn generate(app: Shared, request: Request) -> Response {
    respond(generated(&app, request).await)
}

async fn generated(app: &App, request: Request) -> Answered<Response> {
    let start = Instant::now();
    let mut f = body::fields(app, request).await?;
    let name = f.text("model")?;
    let prompt = f.text("prompt")?.unwrap_or_default();
    let system = f.text("system")?.filter(|s| !s.is_empty());
    let raw = f.flag("raw")?.unwrap_or(false);
    let grammar = format(&mut f)?;
    let choosing = options(&mut f)?;
    let stream = common(&mut f)?;
    f.only("suffix", &[json!("")], "text is made at its end only")?;
    f.only("template", &[json!("")], "the model's own form is used")?;
    f.only("images", &[json!([])], "this model takes text only")?;
    f.only("context", &[json!([])], "the server keeps no conversations: use /api/chat")?;
    f.finish()?;
    let model = decoder(app, name.as_deref())?;
    let name = model.slot.name.clone();
    if prompt.is_empty() {
        return Ok(Json(json!({ "model": name, "created_at": timestamp(ask::now()), "response": "", "done": true, "done_reason": "load" })).into_response());
    }
    let from = if raw || !model.words.is_chat() {
        let words = model.words.clone();
        let ids = blocking(move || words.raw_prompt(&prompt)).await?;
        let constraints = constraints(&model, grammar, 1).await?;
        From::Raw(ask::start(app, &model, &ids, &choosing, constraints)?)
    } else {
        let system = system.map(|s| json!({ "role": "system", "content": s }));
        let messages = system.into_iter().chain([json!({ "role": "user", "content": prompt })]).collect();
        let turn = Turn { messages, tools: Tools::none(), grammar, choosing, more: Value::Null };
        From::Generate(Box::new(Talk::new(app, model, turn).await?))
    };
    Asked { name, from, start }.respond(stream).await
}

/// Where text comes from, and in whose form it is told.
enum From {
    Chat(Box<Talk>),
    Generate(Box<Talk>),
    Raw(Answers),
}

struct Asked {
    name: String,
    from: From,
    start: Instant,
}

impl Asked {
    /// The next pieces; `None` at the end.
    async fn next(&mut self) -> Option<Answered<Vec<Piece>>> {
        let pieces = match &mut self.from {
            From::Chat(talk) | From::Generate(talk) => talk.next().await?.map(|part| match part {
                Part::Token { pieces, .. } | Part::End { pieces, .. } => pieces,
            }),
            From::Raw(answers) => answers.next().await?.map(|came| match came {
                Came::Token(_, token) if !token.text.is_empty() => vec![Piece::Text(token.text)],
                _ => vec![],
            }),
        };
        Some(pieces.map_err(Refusal::from))
    }

    fn line(&self, pieces: Vec<Piece>) -> Value {
        let (mut text, mut thinking, mut calls) = (String::new(), String::new(), vec![]);
        for piece in pieces {
            match piece {
                Piece::Text(t) => text += &t,
                Piece::Reasoning(t) => thinking += &t,
                Piece::Call { name, arguments } => {
                    let arguments: Value = serde_json::from_str(&arguments).unwrap_or_default();
                    calls.push(json!({ "function": { "name": name, "arguments": arguments } }));
                }
            }
        }
        let mut line = json!({ "model": self.name, "created_at": timestamp(ask::now()) });
        if !matches!(self.from, From::Chat(_)) {
            line["response"] = text.into();
            line["done"] = false.into();
            return line;
        }
        let mut message = json!({ "role": "assistant", "content": text });
        if !thinking.is_empty() {
            message["thinking"] = thinking.into();
        }
        if !calls.is_empty() {
            message["tool_calls"] = calls.into();
        }
        line["message"] = message;
        line["done"] = false.into();
        line
    }

    /// The figures that close an answer.
    fn close(&self, line: &mut Value) {
        let answers = match &self.from {
            From::Chat(talk) | From::Generate(talk) => &talk.answers,
            From::Raw(answers) => answers,
        };
        let ended: Option<&Ended> = answers.ended.first().and_then(Option::as_ref);
        let nanos = |d: Option<Duration>| d.unwrap_or_default().as_nanos() as u64;
        let length = !matches!(ended.map(|e| &e.reason), Some(Reason::End | Reason::StopString(_)));
        line["done"] = true.into();
        line["done_reason"] = if length { "length" } else { "stop" }.into();
        line["total_duration"] = (self.start.elapsed().as_nanos() as u64).into();
        line["load_duration"] = 0.into();
        line["prompt_eval_count"] = ended.map_or(0, |e| e.prompt_tokens).into();
        line["prompt_eval_duration"] = nanos(ended.map(|e| e.prefill)).into();
        line["eval_count"] = ended.map_or(0, |e| e.tokens).into();
        line["eval_duration"] = nanos(ended.map(|e| e.decode)).into();
    }

    async fn respond(mut self, stream: bool) -> Answered<Response> {
        if stream {
            return Ok(streamed(NDJSON, Stream { asked: self, outbox: Outbox::default(), over: false }));
        }
        let mut all = vec![];
        while let Some(pieces) = self.next().await {
            all.extend(pieces?);
        }
        let mut line = self.line(all);
        self.close(&mut line);
        Ok(Json(line).into_response())
    }
}

struct Stream {
    asked: Asked,
    outbox: Outbox,
    over: bool,
}

impl Pieces for Stream {
    async fn next(&mut self) -> Option<String> {
        while !self.over {
            match self.asked.next().await {
                Some(Ok(pieces)) if pieces.is_empty() => {}
                Some(Ok(pieces)) => {
                    let line = self.asked.line(pieces);
                    self.outbox.push(format!("{line}\n"));
                }
                Some(Err(refusal)) => {
                    self.over = true;
                    self.outbox.push(format!("{}\n", refusal.body(Dialect::Ollama)));
                }
                None => {
                    self.over = true;
                    let mut line = self.asked.line(vec![]);
                    self.asked.close(&mut line);
                    self.outbox.push(format!("{line}\n"));
                }
            }
            if let Some(text) = self.outbox.take() {
                return Some(text);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::timestamp;

    #[test]
    fn moments_are_dates() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_870_231, "2026-11-28T12:50:31Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(timestamp(seconds), text);
        }
    }
}

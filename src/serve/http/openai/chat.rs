//! /v1/chat/completions.

use super::super::ask::{self, Outbox, Pieces, SSE, decoder, event, fresh_id, logprob_entry, streamed, usage};
use super::super::choosing::{Choosing, MOST_TOP};
use super::super::error::{Answered, Dialect, Refusal};
use super::super::fields::Fields;
use super::super::splitter::Piece;
use super::super::talk::{Part, Talk, Turn, read_grammar};
use super::super::tools::Tools;
use super::super::{App, Shared, body};
use super::{HARMLESS, normalised, respond, streaming};
use axum::Json;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

pub async fn chat(app: Shared, request: Request) -> Response {
    respond(answer(&app, request).await)
}

async fn answer(app: &App, request: Request) -> Answered<Response> {
    let mut f = body::fields(app, request).await?;
    let name = f.text("model")?;
    let messages = f.list("messages")?.ok_or_else(|| Refusal::field("messages", "is missing"))?;
    let messages = normalised(messages)?;
    let mut choosing = Choosing::read(&mut f)?;
    choosing.top = logprobs(&mut f)?;
    let (stream, with_usage) = streaming(&mut f)?;
    let tools = Tools::read(&mut f)?;
    let grammar = read_grammar(&mut f)?;
    let more = f.take("chat_template_kwargs").unwrap_or_default();
    if !more.is_null() && !more.is_object() {
        return Err(Refusal::field("chat_template_kwargs", "must be an object"));
    }
    f.ignore(HARMLESS);
    f.only("modalities", &[json!(["text"])], "this server makes text")?;
    f.finish()?;
    let model = decoder(app, name.as_deref())?;
    let logprobs = choosing.top.is_some();
    let talk = Talk::new(app, model, Turn { messages, tools, grammar, choosing, more }).await?;
    let chat = Chat {
        calls: vec![0; talk.answers.ended.len()],
        talk,
        id: fresh_id("chatcmpl-"),
        created: ask::now(),
        logprobs,
    };
    match stream {
        true => Ok(streamed(SSE, Stream { chat, outbox: Outbox::default(), with_usage, begun: false, over: false })),
        false => chat.whole().await,
    }
}

/// `logprobs` and `top_logprobs`.
fn logprobs(f: &mut Fields) -> Answered<Option<usize>> {
    let wanted = f.flag("logprobs")?.unwrap_or(false);
    match f.whole("top_logprobs", 0, MOST_TOP)? {
        Some(n) if n > 0 && !wanted => Err(Refusal::field("top_logprobs", "is only told where logprobs is true")),
        top => Ok(wanted.then_some(top.unwrap_or(0) as usize)),
    }
}

struct Chat {
    talk: Talk,
    id: String,
    created: u64,
    logprobs: bool,
    /// Calls told of each answer.
    calls: Vec<usize>,
}

/// One answer as it grows.
#[derive(Default)]
struct Message {
    text: String,
    reasoning: String,
    calls: Vec<Value>,
    logprobs: Vec<Value>,
}

impl Message {
    fn add(&mut self, pieces: Vec<Piece>) {
        for piece in pieces {
            match piece {
                Piece::Text(text) => self.text += &text,
                Piece::Reasoning(text) => self.reasoning += &text,
                Piece::Call { name, arguments } => self.calls.push(call(&name, &arguments)),
            }
        }
    }

    fn into_json(self) -> Value {
        let mut out = Map::new();
        out.insert("role".into(), "assistant".into());
        // Who only calls says nothing.
        let silent = self.text.trim().is_empty() && !self.calls.is_empty();
        out.insert("content".into(), if silent { Value::Null } else { self.text.into() });
        out.insert("refusal".into(), Value::Null);
        if !self.reasoning.is_empty() {
            out.insert("reasoning_content".into(), self.reasoning.into());
        }
        if !self.calls.is_empty() {
            out.insert("tool_calls".into(), self.calls.into());
        }
        out.into()
    }
}

fn call(name: &str, arguments: &str) -> Value {
    json!({ "id": fresh_id("call_"), "type": "function", "function": { "name": name, "arguments": arguments } })
}

impl Chat {
    fn envelope(&self, object: &str, choices: Value) -> Value {
        let model = &self.talk.model.slot.name;
        json!({ "id": self.id, "object": object, "created": self.created, "model": model, "choices": choices })
    }

    async fn whole(mut self) -> Answered<Response> {
        let mut messages: Vec<Message> = self.calls.iter().map(|_| Message::default()).collect();
        while let Some(part) = self.talk.next().await {
            match part? {
                Part::Token { index, token, pieces } => {
                    messages[index].add(pieces);
                    if self.logprobs {
                        messages[index].logprobs.push(logprob_entry(&self.talk.model.words, &token));
                    }
                }
                Part::End { index, pieces } => messages[index].add(pieces),
            }
        }
        let choice = |(i, mut message): (usize, Message)| {
            let told = std::mem::take(&mut message.logprobs);
            let logprobs = if self.logprobs { json!({ "content": told, "refusal": null }) } else { Value::Null };
            let reason = self.talk.finish_reason(i);
            json!({ "index": i, "message": message.into_json(), "logprobs": logprobs, "finish_reason": reason })
        };
        let choices: Vec<Value> = messages.into_iter().enumerate().map(choice).collect();
        let mut all = self.envelope("chat.completion", choices.into());
        all["usage"] = usage(&self.talk.answers);
        Ok(Json(all).into_response())
    }

    fn chunk(&self, index: usize, delta: Value, logprobs: Value, finish: Option<&str>) -> Value {
        let choice = json!({ "index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish });
        self.envelope("chat.completion.chunk", json!([choice]))
    }

    /// What changes with a piece.
    fn delta(&mut self, index: usize, piece: Piece) -> Value {
        match piece {
            Piece::Text(text) => json!({ "content": text }),
            Piece::Reasoning(text) => json!({ "reasoning_content": text }),
            Piece::Call { name, arguments } => {
                let mut call = call(&name, &arguments);
                call["index"] = self.calls[index].into();
                self.calls[index] += 1;
                json!({ "tool_calls": [call] })
            }
        }
    }
}

/// The same, as a stream of events.
struct Stream {
    chat: Chat,
    outbox: Outbox,
    with_usage: bool,
    begun: bool,
    over: bool,
}

impl Stream {
    fn put(&mut self, mut chunk: Value) {
        if self.with_usage && chunk.get("usage").is_none() {
            chunk["usage"] = Value::Null;
        }
        self.outbox.push(event(&chunk));
    }

    /// A token's log-probability goes with the first piece that it brings, or alone.
    fn pieces(&mut self, index: usize, pieces: Vec<Piece>, mut logprobs: Value) {
        if pieces.is_empty() && !logprobs.is_null() {
            let chunk = self.chat.chunk(index, json!({}), logprobs.take(), None);
            self.put(chunk);
        }
        for piece in pieces {
            let delta = self.chat.delta(index, piece);
            let chunk = self.chat.chunk(index, delta, logprobs.take(), None);
            self.put(chunk);
        }
    }

    fn part(&mut self, part: Part) {
        match part {
            Part::Token { index, token, pieces } => {
                let logprobs = match self.chat.logprobs {
                    true => json!({ "content": [logprob_entry(&self.chat.talk.model.words, &token)], "refusal": null }),
                    false => Value::Null,
                };
                self.pieces(index, pieces, logprobs);
            }
            Part::End { index, pieces } => {
                self.pieces(index, pieces, Value::Null);
                let reason = self.chat.talk.finish_reason(index);
                let chunk = self.chat.chunk(index, json!({}), Value::Null, Some(reason));
                self.put(chunk);
            }
        }
    }

    fn end(&mut self) {
        self.over = true;
        if self.with_usage {
            let mut last = self.chat.envelope("chat.completion.chunk", json!([]));
            last["usage"] = usage(&self.chat.talk.answers);
            self.put(last);
        }
        self.outbox.push("data: [DONE]\n\n".into());
    }
}

impl Pieces for Stream {
    async fn next(&mut self) -> Option<String> {
        if !self.begun {
            self.begun = true;
            for i in 0..self.chat.calls.len() {
                let first = self.chat.chunk(i, json!({ "role": "assistant", "content": "" }), Value::Null, None);
                self.put(first);
            }
        }
        while !self.over {
            if let Some(text) = self.outbox.take() {
                return Some(text);
            }
            match self.chat.talk.next().await {
                Some(Ok(part)) => self.part(part),
                None => self.end(),
                Some(Err(e)) => {
                    self.over = true;
                    self.outbox.push(event(&Refusal::from(e).body(Dialect::OpenAi)));
                }
            }
        }
        self.outbox.take()
    }
}

//! Anthropic's /v1/messages.

use super::ask::{Outbox, Pieces, SSE, decoder, fresh_id, named_event, streamed};
use super::choosing::{Choosing, plain, random, read_sampling, stops};
use super::error::{Answered, Dialect, Refusal};
use super::fields::Fields;
use super::openai::normalised;
use super::splitter::Piece;
use super::talk::{Part, Talk, Turn};
use super::tools::{Choice, Tool, Tools};
use super::{App, Shared, body};
use axum::Json;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

pub async fn messages(app: Shared, request: Request) -> Response {
    answer(&app, request).await.unwrap_or_else(|refusal| refusal.response(Dialect::Anthropic))
}

async fn answer(app: &App, request: Request) -> Answered<Response> {
    let mut f = body::fields(app, request).await?;
    let name = f.text("model")?;
    let given = f.list("messages")?.ok_or_else(|| Refusal::field("messages", "is missing"))?;
    let mut all = vec![];
    if let Some(system) = f.take("system") {
        all.push(json!({ "role": "system", "content": system }));
    }
    for (i, message) in given.into_iter().enumerate() {
        turn(&format!("messages[{i}]"), message, &mut all)?;
    }
    let messages = normalised(all)?;
    let mut sampling = plain();
    sampling.seed = random();
    let missing = || Refusal::field("max_tokens", "is missing");
    let mut choosing = Choosing::new(sampling.clone());
    choosing.max_tokens = Some(f.whole("max_tokens", 1, i64::MAX)?.ok_or_else(missing)? as usize);
    choosing.stop = stops(&mut f, "stop_sequences")?;
    read_sampling(&mut f, &mut sampling)?;
    choosing.sampling = sampling;
    let tools = tools(&mut f)?;
    let stream = f.flag("stream")?.unwrap_or(false);
    f.only("thinking", &[json!({ "type": "disabled" })], "no budget for thinking is kept")?;
    f.ignore(&["metadata", "service_tier", "cache_control"]);
    f.finish()?;
    let model = decoder(app, name.as_deref())?;
    let talk = Talk::new(app, model, Turn { messages, tools, grammar: None, choosing, more: Value::Null }).await?;
    let id = fresh_id("msg_");
    match stream {
        true => Ok(streamed(
            SSE,
            Stream { talk, id, outbox: Outbox::default(), open: None, blocks: 0, begun: false, over: false },
        )),
        false => whole(talk, id).await,
    }
}

/// One message becomes one of OpenAI's, or several: results of tools are messages of their own there.
fn turn(at: &str, message: Value, out: &mut Vec<Value>) -> Answered<()> {
    let mut f = Fields::of(at, message)?;
    let role = f.text("role")?.unwrap_or_default();
    if role != "user" && role != "assistant" {
        return Err(Refusal::field(&f.name("role"), "must be user or assistant"));
    }
    let place = f.name("content");
    let content = f.take("content").ok_or_else(|| Refusal::field(&place, "is missing"))?;
    f.finish()?;
    let blocks = match content {
        Value::Array(blocks) => blocks,
        text => {
            out.push(json!({ "role": role, "content": text }));
            return Ok(());
        }
    };
    let (mut text, mut calls) = (vec![], vec![]);
    for (i, block) in blocks.into_iter().enumerate() {
        let at = format!("{place}[{i}]");
        match block["type"].as_str().unwrap_or_default() {
            "tool_use" if role == "assistant" => {
                let mut b = Fields::of(&at, block)?;
                b.ignore(&["type", "cache_control", "caller"]);
                let (id, name, input) = (b.text("id")?, b.text("name")?, b.take("input"));
                b.finish()?;
                calls.push(json!({ "id": id, "type": "function", "function": { "name": name, "arguments": input } }));
            }
            "tool_result" if role == "user" => {
                let mut b = Fields::of(&at, block)?;
                b.ignore(&["type", "cache_control", "is_error"]);
                let (id, content) = (b.text("tool_use_id")?, b.take("content").unwrap_or_else(|| "".into()));
                b.finish()?;
                out.push(json!({ "role": "tool", "tool_call_id": id, "content": content }));
            }
            _ => text.push(block),
        }
    }
    if !text.is_empty() || !calls.is_empty() {
        let mut message = json!({ "role": role, "content": text });
        if !calls.is_empty() {
            message["tool_calls"] = calls.into();
        }
        out.push(message);
    }
    Ok(())
}

fn tools(f: &mut Fields) -> Answered<Tools> {
    let mut list = vec![];
    for (i, tool) in f.list("tools")?.unwrap_or_default().into_iter().enumerate() {
        let mut tool = Fields::of(&format!("tools[{i}]"), tool)?;
        tool.only("type", &[json!("custom")], "other tools are not run here")?;
        list.push(Tool::read(tool, "input_schema")?);
    }
    let (mut choice, mut parallel) = (Choice::Auto, true);
    if let Some(mut given) = f.object("tool_choice")? {
        parallel = !given.flag("disable_parallel_tool_use")?.unwrap_or(false);
        choice = match given.text("type")?.unwrap_or_default().as_str() {
            "auto" => Choice::Auto,
            "any" => Choice::Required,
            "none" => Choice::None,
            "tool" => {
                let missing = Refusal::field("tool_choice.name", "is missing");
                Choice::Named(given.text("name")?.ok_or(missing)?)
            }
            _ => return Err(Refusal::field("tool_choice.type", "must be auto, any, tool or none")),
        };
        given.finish()?;
    }
    Tools { list, choice, parallel }.checked()
}

fn stop_reason(talk: &Talk) -> Value {
    let reason = match talk.finish_reason(0) {
        "tool_calls" => "tool_use",
        "stop" if talk.stop_string(0).is_some() => "stop_sequence",
        "stop" => "end_turn",
        _ => "max_tokens",
    };
    json!({ "stop_reason": reason, "stop_sequence": talk.stop_string(0) })
}

fn counts(talk: &Talk) -> Value {
    let (prompt, cached, made) = talk.answers.counts();
    json!({ "input_tokens": prompt - cached, "cache_read_input_tokens": cached, "cache_creation_input_tokens": 0, "output_tokens": made })
}

fn envelope(talk: &Talk, id: &str, content: Value) -> Value {
    json!({
        "id": id, "type": "message", "role": "assistant", "model": talk.model.slot.name, "content": content,
        "stop_reason": null, "stop_sequence": null, "usage": { "input_tokens": 0, "output_tokens": 0 },
    })
}

/// A block that a piece begins.
fn block(piece: &Piece) -> Value {
    match piece {
        Piece::Text(_) => json!({ "type": "text", "text": "" }),
        Piece::Reasoning(_) => json!({ "type": "thinking", "thinking": "", "signature": "" }),
        Piece::Call { name, .. } => json!({ "type": "tool_use", "id": fresh_id("toolu_"), "name": name, "input": {} }),
    }
}

async fn whole(mut talk: Talk, id: String) -> Answered<Response> {
    let mut content: Vec<Value> = vec![];
    while let Some(part) = talk.next().await {
        let (Part::Token { pieces, .. } | Part::End { pieces, .. }) = part?;
        for piece in pieces {
            let begun = block(&piece);
            if content.last().is_none_or(|b| b["type"] != begun["type"] || begun["type"] == "tool_use") {
                content.push(begun);
            }
            let Some(last) = content.last_mut() else { continue };
            let grow = |v: &Value, text: &str| Value::from(format!("{}{text}", v.as_str().unwrap_or_default()));
            match &piece {
                Piece::Text(text) => last["text"] = grow(&last["text"], text),
                Piece::Reasoning(text) => last["thinking"] = grow(&last["thinking"], text),
                Piece::Call { arguments, .. } => last["input"] = serde_json::from_str(arguments).unwrap_or_default(),
            }
        }
    }
    let mut all = envelope(&talk, &id, content.into());
    let end = stop_reason(&talk);
    all["stop_reason"] = end["stop_reason"].clone();
    all["stop_sequence"] = end["stop_sequence"].clone();
    all["usage"] = counts(&talk);
    Ok(Json(all).into_response())
}

struct Stream {
    talk: Talk,
    id: String,
    outbox: Outbox,
    /// The kind of block that is being written.
    open: Option<&'static str>,
    /// Blocks so far, with that one.
    blocks: usize,
    begun: bool,
    over: bool,
}

impl Stream {
    fn put(&mut self, name: &str, mut value: Value) {
        value["type"] = name.into();
        self.outbox.push(named_event(name, &value));
    }

    fn close(&mut self) {
        if self.open.take().is_some() {
            self.put("content_block_stop", json!({ "type": "", "index": self.blocks - 1 }));
        }
    }

    fn piece(&mut self, piece: Piece) {
        let (kind, delta) = match &piece {
            Piece::Text(text) => ("text", json!({ "type": "text_delta", "text": text })),
            Piece::Reasoning(text) => ("thinking", json!({ "type": "thinking_delta", "thinking": text })),
            Piece::Call { arguments, .. } => {
                ("tool_use", json!({ "type": "input_json_delta", "partial_json": arguments }))
            }
        };
        if self.open != Some(kind) || kind == "tool_use" {
            self.close();
            self.put(
                "content_block_start",
                json!({ "type": "", "index": self.blocks, "content_block": block(&piece) }),
            );
            self.open = Some(kind);
            self.blocks += 1;
        }
        self.put("content_block_delta", json!({ "type": "", "index": self.blocks - 1, "delta": delta }));
    }

    fn end(&mut self) {
        self.over = true;
        self.close();
        let last = json!({ "type": "", "delta": stop_reason(&self.talk), "usage": counts(&self.talk) });
        self.put("message_delta", last);
        self.put("message_stop", json!({ "type": "" }));
    }
}

impl Pieces for Stream {
    async fn next(&mut self) -> Option<String> {
        if !self.begun {
            self.begun = true;
            let message = envelope(&self.talk, &self.id, json!([]));
            self.put("message_start", json!({ "type": "", "message": message }));
        }
        while !self.over {
            if let Some(text) = self.outbox.take() {
                return Some(text);
            }
            match self.talk.next().await {
                Some(Ok(Part::Token { pieces, .. } | Part::End { pieces, .. })) => {
                    pieces.into_iter().for_each(|p| self.piece(p));
                }
                None => self.end(),
                Some(Err(e)) => {
                    self.over = true;
                    self.outbox.push(named_event("error", &Refusal::from(e).body(Dialect::Anthropic)));
                }
            }
        }
        self.outbox.take()
    }
}

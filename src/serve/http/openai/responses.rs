//! /v1/responses, as far as it is stateless: nothing is stored, so nothing that was stored can be named.

use super::super::ask::{self, Outbox, Pieces, SSE, decoder, fresh_id, named_event, streamed};
use super::super::choosing::{Choosing, plain, random, read_sampling};
use super::super::error::{Answered, Refusal};
use super::super::fields::Fields;
use super::super::splitter::Piece;
use super::super::talk::{Part, Talk, Turn, schema};
use super::super::tools::{Tool, Tools};
use super::super::{App, Shared, body};
use super::{HARMLESS, normalised, respond};
use crate::text::Grammar;
use axum::Json;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

pub async fn responses(app: Shared, request: Request) -> Response {
    respond(answer(&app, request).await)
}

async fn answer(app: &App, request: Request) -> Answered<Response> {
    let mut f = body::fields(app, request).await?;
    let name = f.text("model")?;
    let mut messages = vec![];
    if let Some(text) = f.text("instructions")? {
        messages.push(json!({ "role": "system", "content": text }));
    }
    match f.take("input").ok_or_else(|| Refusal::field("input", "is missing"))? {
        Value::String(text) => messages.push(json!({ "role": "user", "content": text })),
        Value::Array(items) => items.into_iter().enumerate().try_for_each(|(i, v)| item(i, v, &mut messages))?,
        _ => return Err(Refusal::field("input", "must be text or a list of items")),
    }
    let messages = normalised(messages)?;
    let mut choosing = Choosing::new(plain());
    choosing.sampling.seed = random();
    read_sampling(&mut f, &mut choosing.sampling)?;
    choosing.max_tokens = f.whole("max_output_tokens", 1, i64::MAX)?.map(|n| n as usize);
    let tools = tools(&mut f)?;
    let grammar = text_format(&mut f)?;
    let stream = f.flag("stream")?.unwrap_or(false);
    for key in ["previous_response_id", "conversation", "prompt"] {
        if f.has(key) {
            return Err(Refusal::field(
                key,
                "cannot be used: this server stores nothing; send the whole conversation as input",
            ));
        }
    }
    f.only("background", &[json!(false)], "answers are made while the client waits")?;
    f.only("truncation", &[json!("disabled")], "a conversation that is too long is refused")?;
    f.only("include", &[json!([])], "there is nothing to include")?;
    f.only("reasoning", &[json!({})], "no effort can be chosen")?;
    f.only("top_logprobs", &[json!(0)], "they are told by /v1/chat/completions")?;
    f.ignore(HARMLESS);
    f.ignore(&["stream_options", "max_tool_calls"]);
    f.finish()?;
    let model = decoder(app, name.as_deref())?;
    let talk = Talk::new(app, model, Turn { messages, tools, grammar, choosing, more: Value::Null }).await?;
    let made = Made { talk, id: fresh_id("resp_"), created: ask::now(), output: vec![] };
    match stream {
        true => Ok(streamed(
            SSE,
            Stream { made, outbox: Outbox::default(), events: 0, open: false, begun: false, over: false },
        )),
        false => made.whole().await,
    }
}

/// An item of the input, as a message of the chat.
fn item(i: usize, value: Value, out: &mut Vec<Value>) -> Answered<()> {
    let mut f = Fields::of(&format!("input[{i}]"), value)?;
    let place = f.name("type");
    match f.text("type")?.as_deref().unwrap_or("message") {
        "message" => {
            let (role, content) = (f.take("role"), f.take("content"));
            f.ignore(&["id", "status"]);
            f.finish()?;
            out.push(json!({ "role": role, "content": content }));
        }
        "function_call" => {
            let (id, name, arguments) = (f.take("call_id"), f.take("name"), f.take("arguments"));
            f.ignore(&["id", "status"]);
            f.finish()?;
            let call = json!({ "id": id, "function": { "name": name, "arguments": arguments } });
            match out.last_mut().filter(|m| m.get("tool_calls").is_some()) {
                Some(last) => {
                    if let Some(calls) = last["tool_calls"].as_array_mut() {
                        calls.push(call);
                    }
                }
                None => out.push(json!({ "role": "assistant", "content": "", "tool_calls": [call] })),
            }
        }
        "function_call_output" => {
            let (id, output) = (f.take("call_id"), f.take("output"));
            f.ignore(&["id", "status"]);
            f.finish()?;
            out.push(json!({ "role": "tool", "tool_call_id": id, "content": output }));
        }
        // What a model said to itself is not read again.
        "reasoning" => {}
        kind => {
            let kind: String = kind.chars().take(40).collect();
            return Err(Refusal::field(
                &place,
                format!("is {kind:?}: message, function_call and function_call_output are taken"),
            ));
        }
    }
    Ok(())
}

/// Tools, whose functions lie flat here.
fn tools(f: &mut Fields) -> Answered<Tools> {
    let mut list = vec![];
    for (i, tool) in f.list("tools")?.unwrap_or_default().into_iter().enumerate() {
        let mut tool = Fields::of(&format!("tools[{i}]"), tool)?;
        tool.only("type", &[json!("function")], "other tools are not run here")?;
        list.push(Tool::read(tool, "parameters")?);
    }
    let (choice, parallel) = Tools::read_choice(f)?;
    Tools { list, choice, parallel }.checked()
}

fn text_format(f: &mut Fields) -> Answered<Option<Grammar>> {
    let Some(mut text) = f.object("text")? else { return Ok(None) };
    text.ignore(&["verbosity"]);
    let grammar = match text.object("format")? {
        None => None,
        Some(mut format) => {
            let grammar = match format.text("type")?.unwrap_or_default().as_str() {
                "text" => None,
                "json_object" => Some(Grammar::Json(json!({ "type": "object" }))),
                "json_schema" => Some(Grammar::Json(schema(&mut format)?)),
                _ => return Err(Refusal::field("text.format.type", "must be text, json_object or json_schema")),
            };
            format.ignore(&["name", "description", "strict"]);
            format.finish()?;
            grammar
        }
    };
    text.finish()?;
    Ok(grammar)
}

struct Made {
    talk: Talk,
    id: String,
    created: u64,
    /// Items so far.
    output: Vec<Value>,
}

impl Made {
    fn envelope(&self, status: &str) -> Value {
        json!({
            "id": self.id, "object": "response", "created_at": self.created, "status": status, "error": null,
            "incomplete_details": null, "instructions": null, "model": self.talk.model.slot.name, "output": self.output,
            "parallel_tool_calls": true, "tool_choice": "auto", "tools": [], "store": false, "usage": null,
            "temperature": null, "top_p": null, "metadata": {},
        })
    }

    /// Ends the item that is being written, if it is text.
    fn done(&self) -> Value {
        let whole = self.talk.finish_reason(0) != "length";
        let mut all = self.envelope(if whole { "completed" } else { "incomplete" });
        if !whole {
            all["incomplete_details"] = json!({ "reason": "max_output_tokens" });
        }
        let (prompt, cached, made) = self.talk.answers.counts();
        all["usage"] = json!({
            "input_tokens": prompt, "input_tokens_details": { "cached_tokens": cached }, "output_tokens": made,
            "output_tokens_details": { "reasoning_tokens": 0 }, "total_tokens": prompt + made,
        });
        all
    }

    async fn whole(mut self) -> Answered<Response> {
        while let Some(part) = self.talk.next().await {
            let (Part::Token { pieces, .. } | Part::End { pieces, .. }) = part?;
            for piece in pieces {
                match piece {
                    Piece::Text(text) => match self.output.last_mut().filter(|o| o["type"] == "message") {
                        Some(last) => grow(last, &text),
                        None => self.output.push(message(&text, "completed")),
                    },
                    Piece::Reasoning(_) => {}
                    Piece::Call { name, arguments } => self.output.push(call(&name, &arguments)),
                }
            }
        }
        let all = self.done();
        Ok(Json(all).into_response())
    }
}

fn message(text: &str, status: &str) -> Value {
    json!({ "type": "message", "id": fresh_id("msg_"), "status": status, "role": "assistant", "content": [part(text)] })
}

fn part(text: &str) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] })
}

fn grow(message: &mut Value, text: &str) {
    let old = message["content"][0]["text"].as_str().unwrap_or_default();
    message["content"][0]["text"] = format!("{old}{text}").into();
}

fn call(name: &str, arguments: &str) -> Value {
    json!({
        "type": "function_call", "id": fresh_id("fc_"), "call_id": fresh_id("call_"), "name": name, "arguments": arguments,
        "status": "completed",
    })
}

struct Stream {
    made: Made,
    outbox: Outbox,
    events: usize,
    /// Whether the last item is text that grows.
    open: bool,
    begun: bool,
    over: bool,
}

impl Stream {
    fn put(&mut self, kind: &str, mut value: Value) {
        value["type"] = kind.into();
        value["sequence_number"] = self.events.into();
        self.events += 1;
        self.outbox.push(named_event(kind, &value));
    }

    fn text(&mut self, text: &str) {
        if !self.open {
            self.open = true;
            let mut item = message("", "in_progress");
            self.made.output.push(item.clone());
            item["content"] = json!([]);
            let index = self.made.output.len() - 1;
            let id = item["id"].clone();
            self.put("response.output_item.added", json!({ "output_index": index, "item": item }));
            let begun = json!({ "item_id": id, "output_index": index, "content_index": 0, "part": part("") });
            self.put("response.content_part.added", begun);
        }
        let index = self.made.output.len() - 1;
        grow(&mut self.made.output[index], text);
        let id = self.made.output[index]["id"].clone();
        let delta = json!({ "item_id": id, "output_index": index, "content_index": 0, "delta": text, "logprobs": [] });
        self.put("response.output_text.delta", delta);
    }

    fn close(&mut self) {
        if !std::mem::take(&mut self.open) {
            return;
        }
        let index = self.made.output.len() - 1;
        self.made.output[index]["status"] = "completed".into();
        let item = self.made.output[index].clone();
        let (id, part) = (item["id"].clone(), item["content"][0].clone());
        let text =
            json!({ "item_id": id, "output_index": index, "content_index": 0, "text": part["text"], "logprobs": [] });
        self.put("response.output_text.done", text);
        self.put(
            "response.content_part.done",
            json!({ "item_id": id, "output_index": index, "content_index": 0, "part": part }),
        );
        self.put("response.output_item.done", json!({ "output_index": index, "item": item }));
    }

    fn call(&mut self, name: &str, arguments: &str) {
        self.close();
        let item = call(name, arguments);
        self.made.output.push(item.clone());
        let (index, id) = (self.made.output.len() - 1, item["id"].clone());
        let mut begun = item.clone();
        begun["arguments"] = "".into();
        begun["status"] = "in_progress".into();
        self.put("response.output_item.added", json!({ "output_index": index, "item": begun }));
        let delta = json!({ "item_id": id, "output_index": index, "delta": arguments });
        self.put("response.function_call_arguments.delta", delta);
        let done = json!({ "item_id": id, "output_index": index, "arguments": arguments, "name": name });
        self.put("response.function_call_arguments.done", done);
        self.put("response.output_item.done", json!({ "output_index": index, "item": item }));
    }

    fn pieces(&mut self, pieces: Vec<Piece>) {
        for piece in pieces {
            match piece {
                Piece::Text(text) => self.text(&text),
                Piece::Reasoning(_) => {}
                Piece::Call { name, arguments } => self.call(&name, &arguments),
            }
        }
    }

    fn end(&mut self) {
        self.over = true;
        self.close();
        let all = self.made.done();
        let kind = if all["status"] == "completed" { "response.completed" } else { "response.incomplete" };
        self.put(kind, json!({ "response": all }));
    }
}

impl Pieces for Stream {
    async fn next(&mut self) -> Option<String> {
        if !self.begun {
            self.begun = true;
            let now = self.made.envelope("in_progress");
            self.put("response.created", json!({ "response": now }));
            self.put("response.in_progress", json!({ "response": now }));
        }
        while !self.over {
            if let Some(text) = self.outbox.take() {
                return Some(text);
            }
            match self.made.talk.next().await {
                Some(Ok(Part::Token { pieces, .. } | Part::End { pieces, .. })) => self.pieces(pieces),
                None => self.end(),
                Some(Err(e)) => {
                    self.over = true;
                    let message = e.to_string();
                    self.put("error", json!({ "code": "server_error", "message": message, "param": null }));
                }
            }
        }
        self.outbox.take()
    }
}

//! /v1/chat/completions.

use super::super::ask::{
    self, Answers, Came, Model, Outbox, Pieces, SSE, blocking, decoder, event, finish_reason, fresh_id, logprob_entry,
    streamed, usage,
};
use super::super::choosing::{Choosing, MOST_TOP};
use super::super::error::{Answered, Dialect, Refusal};
use super::super::{App, Shared, body};
use super::{HARMLESS, normalised, respond, streaming};
use crate::session::Token;
use axum::Json;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

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
    let more = f.take("chat_template_kwargs").unwrap_or_default();
    if !more.is_null() && !more.is_object() {
        return Err(Refusal::field("chat_template_kwargs", "must be an object"));
    }
    f.ignore(HARMLESS);
    f.only("modalities", &[json!(["text"])], "this server makes text")?;
    f.finish()?;
    let model = decoder(app, name.as_deref())?;
    let words = model.words.clone();
    let prompt = blocking(move || words.chat_prompt_with(&messages.into(), &Value::Null, &more)).await?;
    let answers = ask::start(app, &model, &prompt, &choosing, None)?;
    let talk = Talk::new(model, answers, &choosing);
    match stream {
        true => Ok(streamed(SSE, Stream { talk, outbox: Outbox::default(), with_usage, begun: false, over: false })),
        false => talk.whole().await,
    }
}

/// `logprobs` and `top_logprobs`.
fn logprobs(f: &mut super::super::fields::Fields) -> Answered<Option<usize>> {
    let wanted = f.flag("logprobs")?.unwrap_or(false);
    match f.whole("top_logprobs", 0, MOST_TOP)? {
        Some(n) if n > 0 && !wanted => Err(Refusal::field("top_logprobs", "is only told where logprobs is true")),
        top => Ok(wanted.then_some(top.unwrap_or(0) as usize)),
    }
}

/// A conversation's next turn, under way.
struct Talk {
    model: Model,
    answers: Answers,
    id: String,
    created: u64,
    logprobs: bool,
}

impl Talk {
    fn new(model: Model, answers: Answers, choosing: &Choosing) -> Talk {
        let logprobs = choosing.top.is_some();
        Talk { model, answers, id: fresh_id("chatcmpl-"), created: ask::now(), logprobs }
    }

    fn envelope(&self, object: &str, choices: Value) -> Value {
        json!({ "id": self.id, "object": object, "created": self.created, "model": self.model.slot.name, "choices": choices })
    }

    async fn whole(mut self) -> Answered<Response> {
        let n = self.answers.ended.len();
        let mut texts = vec![String::new(); n];
        let mut told: Vec<Vec<Value>> = vec![vec![]; n];
        while let Some(came) = self.answers.next().await {
            if let Came::Token(i, token) = came? {
                texts[i] += &token.text;
                if self.logprobs {
                    told[i].push(logprob_entry(&self.model.words, &token));
                }
            }
        }
        let choice = |(i, text): (usize, String)| {
            let logprobs = if self.logprobs { json!({ "content": told[i], "refusal": null }) } else { Value::Null };
            json!({
                "index": i, "message": { "role": "assistant", "content": text, "refusal": null }, "logprobs": logprobs,
                "finish_reason": finish_reason(self.answers.ended[i].as_ref()),
            })
        };
        let choices: Vec<Value> = texts.into_iter().enumerate().map(choice).collect();
        let mut all = self.envelope("chat.completion", choices.into());
        all["usage"] = usage(&self.answers);
        Ok(Json(all).into_response())
    }

    fn chunk(&self, index: usize, delta: Value, logprobs: Value, finish: Option<&str>) -> Value {
        let choice = json!({ "index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish });
        self.envelope("chat.completion.chunk", json!([choice]))
    }

    fn token_chunk(&self, index: usize, token: &Token) -> Value {
        let logprobs = match self.logprobs {
            true => json!({ "content": [logprob_entry(&self.model.words, token)], "refusal": null }),
            false => Value::Null,
        };
        self.chunk(index, json!({ "content": token.text }), logprobs, None)
    }
}

/// The same, as a stream of events.
struct Stream {
    talk: Talk,
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

    fn came(&mut self, came: Came) {
        let chunk = match came {
            // Parts of characters and markers have no text of their own.
            Came::Token(_, token) if token.text.is_empty() && !self.talk.logprobs => return,
            Came::Token(i, token) => self.talk.token_chunk(i, &token),
            Came::End(i) => {
                let reason = finish_reason(self.talk.answers.ended[i].as_ref());
                self.talk.chunk(i, json!({}), Value::Null, Some(reason))
            }
        };
        self.put(chunk);
    }

    fn end(&mut self) {
        self.over = true;
        if self.with_usage {
            let mut last = self.talk.envelope("chat.completion.chunk", json!([]));
            last["usage"] = usage(&self.talk.answers);
            self.put(last);
        }
        self.outbox.push("data: [DONE]\n\n".into());
    }
}

impl Pieces for Stream {
    async fn next(&mut self) -> Option<String> {
        if !self.begun {
            self.begun = true;
            for i in 0..self.talk.answers.ended.len() {
                let first = self.talk.chunk(i, json!({ "role": "assistant", "content": "" }), Value::Null, None);
                self.put(first);
            }
            return self.outbox.take();
        }
        while !self.over {
            match self.talk.answers.next().await {
                Some(Ok(came)) => self.came(came),
                None => self.end(),
                Some(Err(e)) => {
                    self.over = true;
                    self.outbox.push(event(&Refusal::from(e).body(Dialect::OpenAi)));
                }
            }
            if let Some(text) = self.outbox.take() {
                return Some(text);
            }
        }
        None
    }
}

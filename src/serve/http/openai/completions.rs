//! /v1/completions: plain text that is continued.

use super::super::ask::{
    self, Answers, Came, Model, Outbox, Pieces, SSE, blocking, constraints, decoder, event, finish_reason, fresh_id,
    streamed, usage,
};
use super::super::choosing::{Choosing, MOST_TOP};
use super::super::error::{Answered, Dialect, Refusal};
use super::super::fields::Fields;
use super::super::talk::read_grammar;
use super::super::{App, Shared, body};
use super::{HARMLESS, respond, streaming};
use crate::session::Token;
use axum::Json;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

/// What OpenAI makes where a request does not say how much.
const USUAL_TOKENS: usize = 16;
const MOST_PROMPTS: usize = 64;

pub async fn completions(app: Shared, request: Request) -> Response {
    respond(answer(&app, request).await)
}

/// Text, or its tokens.
enum Prompt {
    Text(String),
    Ids(Vec<u32>),
}

async fn answer(app: &App, request: Request) -> Answered<Response> {
    let mut f = body::fields(app, request).await?;
    let name = f.text("model")?;
    let prompts = prompts(&mut f)?;
    let mut choosing = Choosing::read(&mut f)?;
    choosing.max_tokens.get_or_insert(USUAL_TOKENS);
    choosing.top = f.whole("logprobs", 0, MOST_TOP)?.map(|n| n as usize);
    let echo = f.flag("echo")?.unwrap_or(false);
    if echo && choosing.top.is_some() {
        return Err(Refusal::field("echo", "cannot be joined with logprobs: those of the prompt are not kept"));
    }
    f.only("best_of", &[choosing.n.into()], "no other answers are made than are told")?;
    f.only("suffix", &[json!("")], "text is made at its end only")?;
    let (stream, with_usage) = streaming(&mut f)?;
    let grammar = read_grammar(&mut f)?;
    f.ignore(HARMLESS);
    f.finish()?;
    let model = decoder(app, name.as_deref())?;
    if choosing.n * prompts.len() > MOST_PROMPTS {
        return Err(Refusal::field("prompt", format!("asks for more than {MOST_PROMPTS} answers")));
    }
    let words = model.words.clone();
    let encoded = blocking(move || {
        let ids = |p: Prompt| match p {
            Prompt::Text(text) => words.raw_prompt(&text),
            Prompt::Ids(ids) => Ok(ids),
        };
        prompts.into_iter().map(ids).collect::<crate::base::Result<Vec<_>>>()
    });
    let encoded = encoded.await?;
    let mut all: Option<Answers> = None;
    let mut begin = vec![];
    for ids in &encoded {
        let answers = ask::start(app, &model, ids, &choosing, constraints(&model, grammar.clone(), choosing.n).await?)?;
        let text = if echo { model.words.tokenizer().decode(ids, true)? } else { String::new() };
        begin.extend(std::iter::repeat_n(text, choosing.n));
        match &mut all {
            Some(all) => all.join(answers),
            None => all = Some(answers),
        }
    }
    let answers = all.ok_or_else(|| Refusal::field("prompt", "is an empty list"))?;
    let told = begin.iter().map(|_| Told::default()).collect();
    let (id, created, logprobs) = (fresh_id("cmpl-"), ask::now(), choosing.top.is_some());
    let text = Text { model, answers, begin, told, id, created, logprobs };
    match stream {
        true => Ok(streamed(SSE, Stream { text, outbox: Outbox::default(), with_usage, begun: false, over: false })),
        false => text.whole().await,
    }
}

fn prompts(f: &mut Fields) -> Answered<Vec<Prompt>> {
    let wrong = || Refusal::field("prompt", "must be text, token ids, or a list of such");
    let ids = |list: &[Value]| -> Option<Vec<u32>> {
        list.iter().map(|v| v.as_u64().and_then(|n| u32::try_from(n).ok())).collect()
    };
    let one = |v: &Value| match v {
        Value::String(s) => Some(Prompt::Text(s.clone())),
        Value::Array(list) => ids(list).map(Prompt::Ids),
        _ => None,
    };
    match f.take("prompt").ok_or_else(|| Refusal::field("prompt", "is missing"))? {
        Value::Array(list) if list.first().is_some_and(Value::is_number) => {
            Ok(vec![Prompt::Ids(ids(&list).ok_or_else(wrong)?)])
        }
        Value::Array(list) => list.iter().map(one).collect::<Option<_>>().ok_or_else(wrong),
        other => one(&other).map(|p| vec![p]).ok_or_else(wrong),
    }
}

/// What has been told of a text's tokens.
#[derive(Default)]
struct Told {
    /// Characters so far.
    offset: usize,
    tokens: Vec<Value>,
    logprobs: Vec<Value>,
    top: Vec<Value>,
    offsets: Vec<usize>,
}

impl Told {
    fn add(&mut self, model: &Model, token: &Token) {
        let name = |id: u32| model.words.tokenizer().token_text(id);
        self.tokens.push(name(token.id).into());
        self.logprobs.push(token.logprob.into());
        let top: Map<String, Value> = token.top.iter().map(|a| (name(a.id), a.logprob.into())).collect();
        self.top.push(top.into());
        self.offsets.push(self.offset);
        self.offset += token.text.chars().count();
    }

    fn take(&mut self) -> Value {
        let (tokens, logprobs) = (std::mem::take(&mut self.tokens), std::mem::take(&mut self.logprobs));
        let (top, offsets) = (std::mem::take(&mut self.top), std::mem::take(&mut self.offsets));
        json!({ "tokens": tokens, "token_logprobs": logprobs, "top_logprobs": top, "text_offset": offsets })
    }
}

struct Text {
    model: Model,
    answers: Answers,
    /// What stands before each answer (`echo`).
    begin: Vec<String>,
    told: Vec<Told>,
    id: String,
    created: u64,
    logprobs: bool,
}

impl Text {
    fn envelope(&self, choices: Value) -> Value {
        json!({
            "id": self.id, "object": "text_completion", "created": self.created, "model": self.model.slot.name, "choices": choices,
        })
    }

    fn choice(&mut self, i: usize, text: String, finish: Option<&str>) -> Value {
        let logprobs = if self.logprobs { self.told[i].take() } else { Value::Null };
        json!({ "index": i, "text": text, "logprobs": logprobs, "finish_reason": finish })
    }

    async fn whole(mut self) -> Answered<Response> {
        let mut texts = std::mem::take(&mut self.begin);
        while let Some(came) = self.answers.next().await {
            if let Came::Token(i, token) = came? {
                texts[i] += &token.text;
                self.told[i].add(&self.model, &token);
            }
        }
        let mut choices = vec![];
        for (i, text) in texts.into_iter().enumerate() {
            let reason = finish_reason(self.answers.ended[i].as_ref());
            choices.push(self.choice(i, text, Some(reason)));
        }
        let mut all = self.envelope(choices.into());
        all["usage"] = usage(&self.answers);
        Ok(Json(all).into_response())
    }
}

struct Stream {
    text: Text,
    outbox: Outbox,
    with_usage: bool,
    begun: bool,
    over: bool,
}

impl Stream {
    fn put(&mut self, choices: Value) {
        let mut chunk = self.text.envelope(choices);
        if self.with_usage {
            chunk["usage"] = Value::Null;
        }
        self.outbox.push(event(&chunk));
    }

    fn came(&mut self, came: Came) {
        let choice = match came {
            Came::Token(_, token) if token.text.is_empty() && !self.text.logprobs => return,
            Came::Token(i, token) => {
                self.text.told[i].add(&self.text.model, &token);
                self.text.choice(i, token.text, None)
            }
            Came::End(i) => {
                let reason = finish_reason(self.text.answers.ended[i].as_ref());
                let mut last = self.text.choice(i, String::new(), Some(reason));
                last["logprobs"] = Value::Null;
                last
            }
        };
        self.put(json!([choice]));
    }

    fn end(&mut self) {
        self.over = true;
        if self.with_usage {
            let mut last = self.text.envelope(json!([]));
            last["usage"] = usage(&self.text.answers);
            self.outbox.push(event(&last));
        }
        self.outbox.push("data: [DONE]\n\n".into());
    }
}

impl Pieces for Stream {
    async fn next(&mut self) -> Option<String> {
        if !self.begun {
            self.begun = true;
            let begin = std::mem::take(&mut self.text.begin);
            for (i, text) in begin.into_iter().enumerate().filter(|b| !b.1.is_empty()) {
                self.put(json!([{ "index": i, "text": text, "logprobs": null, "finish_reason": null }]));
            }
        }
        while !self.over {
            if let Some(text) = self.outbox.take() {
                return Some(text);
            }
            match self.text.answers.next().await {
                Some(Ok(came)) => self.came(came),
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

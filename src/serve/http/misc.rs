//! Health, metrics, tokens of a text; what is asked where nothing is.

use super::ask::{Model, blocking, decoder};
use super::error::{Answered, Refusal};
use super::fields::Fields;
use super::{Shared, body, guard};
use crate::serve::{State, metrics::render};
use axum::Json;
use axum::extract::Request;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use std::sync::atomic::Ordering;

/// 200 once every model can be asked.
pub async fn health(app: Shared) -> Response {
    let mut status = if app.closing.load(Ordering::Relaxed) { Err("shutting down") } else { Ok(()) };
    let models = app.slots.iter().map(|slot| {
        let (state, what) = match slot.engine.state() {
            State::Ready(card) => ("ready", Some(card.adapter.clone())),
            State::Loading(what) => ("loading", Some(what)),
            State::Failed(e) => ("failed", Some(e.to_string())),
        };
        if state != "ready" {
            status = Err(if state == "loading" { "loading" } else { "failed" });
        }
        json!({ "name": slot.name, "state": state, "detail": what })
    });
    let models: Vec<Value> = models.collect();
    let (code, word) = match status {
        Ok(()) => (StatusCode::OK, "ok"),
        Err(word) => (StatusCode::SERVICE_UNAVAILABLE, word),
    };
    (code, Json(json!({ "status": word, "models": models }))).into_response()
}

pub async fn metrics(app: Shared) -> Response {
    let engines: Vec<_> = app.slots.iter().map(|s| (s.name.as_str(), s.engine.metrics(), s.engine.waiting())).collect();
    let mut text = render(&engines);
    let open = app.connections.load(Ordering::Relaxed);
    text += &format!(
        "# HELP warpweft_connections Connections that are open\n# TYPE warpweft_connections gauge\nwarpweft_connections {open}\n"
    );
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

pub async fn tokenize(app: Shared, request: Request) -> Response {
    match tokens_of(&app, request).await {
        Ok(response) => response,
        Err(refusal) => refusal.response(super::error::Dialect::OpenAi),
    }
}

async fn tokens_of(app: &super::App, request: Request) -> Answered<Response> {
    let mut f = body::fields(app, request).await?;
    let model = decoder(app, f.text("model")?.as_deref())?;
    let missing = || Refusal::field("prompt", "is missing: the text to split");
    let text = match f.text("prompt")? {
        Some(text) => text,
        None => f.text("content")?.ok_or_else(missing)?,
    };
    let special = f.flag("add_special_tokens")?.or(f.flag("add_special")?).unwrap_or(true);
    f.finish()?;
    let words = model.words.clone();
    let ids = blocking(move || words.tokenizer().encode(&text, special)).await?;
    Ok(Told { count: ids.len(), max_model_len: model.context, tokens: &ids, token_strs: Pieces(&model, &ids) }.json())
}

/// What is told of a text's tokens. It is written piece by piece: as a JSON value it would take a hundred times the text.
#[derive(Serialize)]
struct Told<'a> {
    count: usize,
    max_model_len: usize,
    tokens: &'a [u32],
    token_strs: Pieces<'a>,
}

struct Pieces<'a>(&'a Model, &'a [u32]);

impl Serialize for Pieces<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(self.1.iter().map(|id| self.0.words.tokenizer().token_text(*id)))
    }
}

impl Told<'_> {
    fn json(&self) -> Response {
        Json(self).into_response()
    }
}

pub async fn detokenize(app: Shared, request: Request) -> Response {
    answer(text_of(&app, request).await)
}

async fn text_of(app: &super::App, request: Request) -> Answered<Value> {
    let mut f: Fields = body::fields(app, request).await?;
    let model = decoder(app, f.text("model")?.as_deref())?;
    let list = f.list("tokens")?.ok_or_else(|| Refusal::field("tokens", "is missing: a list of token ids"))?;
    f.finish()?;
    let vocab = model.card.info.vocab as u64;
    let id = |v: &Value| v.as_u64().filter(|n| *n < vocab).map(|n| n as u32);
    let ids: Option<Vec<u32>> = list.iter().map(id).collect();
    let ids = ids.ok_or_else(|| Refusal::field("tokens", format!("must hold whole numbers below {vocab}")))?;
    let words = model.words.clone();
    let text = blocking(move || words.tokenizer().decode(&ids, false)).await?;
    Ok(json!({ "prompt": text, "content": text }))
}

fn answer(made: Answered<Value>) -> Response {
    match made {
        Ok(value) => Json(value).into_response(),
        Err(refusal) => refusal.response(super::error::Dialect::OpenAi),
    }
}

pub async fn not_found(uri: Uri) -> Response {
    let path: String = uri.path().chars().take(100).collect();
    let refusal = Refusal::new(StatusCode::NOT_FOUND, format!("there is nothing at {path:?}"));
    refusal.response(guard::dialect(uri.path()))
}

pub async fn wrong_method(uri: Uri) -> Response {
    let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "this path takes another method");
    refusal.response(guard::dialect(uri.path()))
}

//! /v1/embeddings.

use super::super::ask::{card, slot};
use super::super::error::{Answered, Refusal};
use super::super::{App, Shared, body};
use super::{HARMLESS, respond};
use crate::serve::Kind;
use axum::Json;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::time::Instant;

const MOST_TEXTS: usize = 2048;

pub async fn embeddings(app: Shared, request: Request) -> Response {
    respond(answer(&app, request).await)
}

async fn answer(app: &App, request: Request) -> Answered<Response> {
    let mut f = body::fields(app, request).await?;
    let name = f.text("model")?;
    let input = f.take("input").ok_or_else(|| Refusal::field("input", "is missing"))?;
    let texts = match input {
        Value::String(text) => vec![text],
        other if holds_numbers(&other) => {
            return Err(Refusal::field("input", "holds token ids, whose vocabulary is not known here: give text"));
        }
        Value::Array(list) => {
            let texts: Option<Vec<String>> = list.iter().map(|v| v.as_str().map(String::from)).collect();
            texts.ok_or_else(|| Refusal::field("input", "must be text or a list of texts"))?
        }
        _ => return Err(Refusal::field("input", "must be text or a list of texts")),
    };
    let format = f.text("encoding_format")?;
    let packed = match format.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(_) => return Err(Refusal::field("encoding_format", "must be float or base64")),
    };
    let dimensions = f.whole("dimensions", 1, i64::MAX)?;
    f.ignore(HARMLESS);
    f.finish()?;
    let (name, vectors, tokens) = embed_texts(app, name.as_deref(), texts).await?;
    let width = vectors.first().map_or(0, Vec::len);
    if dimensions.is_some_and(|d| d != width as i64) {
        return Err(Refusal::field("dimensions", format!("must be {width}: this model's vectors cannot be cut")));
    }
    let entry = |(i, v): (usize, &Vec<f32>)| {
        let vector = if packed { base64(v).into() } else { json!(v) };
        json!({ "object": "embedding", "index": i, "embedding": vector })
    };
    let data: Vec<Value> = vectors.iter().enumerate().map(entry).collect();
    let usage = json!({ "prompt_tokens": tokens, "total_tokens": tokens });
    Ok(Json(json!({ "object": "list", "data": data, "model": name, "usage": usage })).into_response())
}

/// Little-endian floats in base64 (RFC 4648).
fn base64(vector: &[f32]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for part in bytes.chunks(3) {
        let word = (0..3).fold(0u32, |w, i| w << 8 | part.get(i).copied().unwrap_or(0) as u32);
        for i in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * i) & 63) as usize] as char;
            out.push(if i <= part.len() { digit } else { '=' });
        }
    }
    out
}

fn holds_numbers(v: &Value) -> bool {
    v.as_array().is_some_and(|list| list.iter().any(|v| v.is_number() || holds_numbers(v)))
}

/// Vectors of texts, and tokens that were read.
pub async fn embed_texts(
    app: &App,
    name: Option<&str>,
    texts: Vec<String>,
) -> Answered<(String, Vec<Vec<f32>>, usize)> {
    let slot = slot(app, name)?;
    let card = card(&slot)?;
    if matches!(card.kind, Kind::Decoder { .. }) {
        return Err(Refusal::field("model", format!("{} is a decoder: it makes no embeddings", slot.name)));
    }
    if texts.is_empty() || texts.len() > MOST_TEXTS {
        return Err(Refusal::field("input", format!("has {} texts, 1 to {MOST_TEXTS} are taken", texts.len())));
    }
    let deadline = app.config.request_timeout.map(|t| Instant::now() + t);
    let (vectors, tokens) = slot.engine.embed(texts, 0, deadline).await?;
    Ok((slot.name.clone(), vectors, tokens))
}

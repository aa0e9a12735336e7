//! OpenAI's interface.

mod chat;
mod completions;
mod embeddings;
mod messages;
mod responses;

pub use chat::chat;
pub use completions::completions;
pub use embeddings::{embed_texts, embeddings};
pub use messages::normalised;
pub use responses::responses;

use super::error::{Answered, Dialect, Refusal};
use super::{Shared, Slot, ask};
use crate::serve::{Kind, State};
use axum::Json;
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// Fields that change nothing here: who asks, what is kept, how it is billed.
const HARMLESS: &[&str] =
    &["user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"];

fn respond(made: Answered<Response>) -> Response {
    made.unwrap_or_else(|refusal| refusal.response(Dialect::OpenAi))
}

fn entry(slot: &Slot) -> Value {
    let mut entry = json!({ "id": slot.name, "object": "model", "created": slot.created, "owned_by": "warpweft" });
    if let State::Ready(card) = slot.engine.state() {
        match &card.kind {
            Kind::Decoder { context, .. } => entry["max_model_len"] = (*context).into(),
            Kind::Encoder { tokens } => entry["max_model_len"] = (*tokens).into(),
        }
    }
    entry
}

pub async fn models(app: Shared) -> Response {
    let data: Vec<Value> = app.slots.iter().map(|s| entry(s)).collect();
    Json(json!({ "object": "list", "data": data })).into_response()
}

pub async fn model(app: Shared, Path(name): Path<String>) -> Response {
    respond(ask::slot(&app, Some(&name)).map(|slot| Json(entry(&slot)).into_response()))
}

/// `stream`, and whether its end tells the usage.
fn streaming(fields: &mut super::fields::Fields) -> Answered<(bool, bool)> {
    let stream = fields.flag("stream")?.unwrap_or(false);
    let mut usage = false;
    if let Some(mut options) = fields.object("stream_options")? {
        if !stream {
            return Err(Refusal::field("stream_options", "is only for streams: set stream"));
        }
        usage = options.flag("include_usage")?.unwrap_or(false);
        options.ignore(&["include_obfuscation"]);
        options.finish()?;
    }
    Ok((stream, usage))
}

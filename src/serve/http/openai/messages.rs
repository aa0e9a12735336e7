//! Messages, as clients write them and as chat templates read them.

use super::super::error::{Answered, Refusal};
use super::super::fields::Fields;
use serde_json::{Map, Value, json};

const MOST_MESSAGES: usize = 4096;
const ROLES: &[&str] = &["system", "developer", "user", "assistant", "tool"];

/// Messages for a template: content as one text, `developer` as `system`, arguments of calls as objects.
///
/// # Errors
/// The first part that is not text, unknown fields and roles, by their place.
pub fn normalised(messages: Vec<Value>) -> Answered<Vec<Value>> {
    if messages.is_empty() || messages.len() > MOST_MESSAGES {
        return Err(Refusal::field(
            "messages",
            format!("has {} messages, 1 to {MOST_MESSAGES} are taken", messages.len()),
        ));
    }
    messages.into_iter().enumerate().map(|(i, m)| message(&format!("messages[{i}]"), m)).collect()
}

fn message(at: &str, given: Value) -> Answered<Value> {
    let mut f = Fields::of(at, given)?;
    let role = f.text("role")?.ok_or_else(|| Refusal::field(&f.name("role"), "is missing"))?;
    if !ROLES.contains(&role.as_str()) {
        return Err(Refusal::field(&f.name("role"), format!("is {role:?}, it must be one of {}", ROLES.join(", "))));
    }
    let content = content(&mut f)?;
    let mut out = Map::new();
    out.insert("role".into(), if role == "developer" { "system".into() } else { role.as_str().into() });
    let calls = if role == "assistant" { calls(&mut f)? } else { None };
    match content {
        Some(text) => out.insert("content".into(), text.into()),
        // Who only calls says nothing.
        None if calls.is_some() => out.insert("content".into(), "".into()),
        None => return Err(Refusal::field(&f.name("content"), "is missing")),
    };
    if let Some(calls) = calls {
        out.insert("tool_calls".into(), calls);
    }
    for key in ["name", "tool_call_id", "reasoning_content"] {
        if let Some(text) = f.text(key)? {
            out.insert(key.into(), text.into());
        }
    }
    // What a model's own answer carries, and clients send back.
    f.ignore(&["refusal", "annotations", "audio", "function_call", "index"]);
    f.finish()?;
    Ok(out.into())
}

/// Text, or parts that are all text.
fn content(f: &mut Fields) -> Answered<Option<String>> {
    let name = f.name("content");
    let parts = match f.take("content") {
        None => return Ok(None),
        Some(Value::String(text)) => return Ok(Some(text)),
        Some(Value::Array(parts)) => parts,
        Some(_) => return Err(Refusal::field(&name, "must be text or a list of parts")),
    };
    let mut out = String::new();
    for (i, part) in parts.into_iter().enumerate() {
        let mut part = Fields::of(&format!("{name}[{i}]"), part)?;
        match part.text("type")?.unwrap_or_default().as_str() {
            "text" | "input_text" | "output_text" => {
                let missing = Refusal::field(&part.name("text"), "is missing");
                out += &part.text("text")?.ok_or(missing)?;
                part.ignore(&["annotations", "cache_control", "logprobs"]);
                part.finish()?;
            }
            kind => {
                let kind: String = kind.chars().take(40).collect();
                return Err(Refusal::field(&part.name("type"), format!("is {kind:?}: this model takes text only")));
            }
        }
    }
    Ok(Some(out))
}

/// Calls of tools that the assistant has made: templates want their arguments as objects.
fn calls(f: &mut Fields) -> Answered<Option<Value>> {
    let name = f.name("tool_calls");
    let Some(list) = f.list("tool_calls")? else { return Ok(None) };
    let call = |(i, given): (usize, Value)| -> Answered<Value> {
        let mut call = Fields::of(&format!("{name}[{i}]"), given)?;
        let (id, function) = (call.text("id")?, call.object("function")?);
        let mut function = function.ok_or_else(|| Refusal::field(&call.name("function"), "is missing"))?;
        let missing = Refusal::field(&function.name("name"), "is missing");
        let tool = function.text("name")?.ok_or(missing)?;
        let place = function.name("arguments");
        let arguments = match function.take("arguments") {
            None => json!({}),
            Some(Value::String(text)) if text.trim().is_empty() => json!({}),
            Some(Value::String(text)) => crate::base::json::parse(text.as_bytes())
                .map_err(|e| Refusal::field(&place, format!("is not JSON: {e}")))?,
            Some(object) => object,
        };
        Ok(json!({ "id": id, "type": "function", "function": { "name": tool, "arguments": arguments } }))
    };
    let calls = list.into_iter().enumerate().map(call).collect::<Answered<Vec<Value>>>()?;
    Ok((!calls.is_empty()).then_some(calls.into()))
}

//! A conversation's next turn, as all dialects have it: a prompt in the model's form, tools, a grammar, pieces of answers.

use super::App;
use super::ask::{Answers, Came, Model, blocking, constraints, start};
use super::choosing::Choosing;
use super::error::{Answered, Refusal};
use super::fields::Fields;
use super::splitter::{Piece, Splitter};
use super::tools::{Form, Tools, form_of, is_harmony, marked, told_in_words};
use crate::base::Result;
use crate::serve::{Ended, Reason};
use crate::session::Token;
use crate::text::Grammar;
use serde_json::{Value, json};

/// What is asked.
pub struct Turn {
    /// As [`super::openai::normalised`] makes them.
    pub messages: Vec<Value>,
    pub tools: Tools,
    pub grammar: Option<Grammar>,
    pub choosing: Choosing,
    /// Further variables of the chat form.
    pub more: Value,
}

/// What came next of one of the answers.
pub enum Part {
    Token {
        index: usize,
        token: Token,
        pieces: Vec<Piece>,
    },
    /// What was held back until the end, too.
    End {
        index: usize,
        pieces: Vec<Piece>,
    },
}

/// Answers under way, with calls told apart from text.
pub struct Talk {
    pub model: Model,
    pub answers: Answers,
    splitters: Vec<Option<Splitter>>,
    /// Calls of each answer so far.
    calls: Vec<usize>,
}

impl Talk {
    /// Makes the prompt and submits it.
    pub async fn new(app: &App, model: Model, turn: Turn) -> Answered<Talk> {
        let Turn { messages, tools, grammar, choosing, more } = turn;
        let known = if tools.active() { Some(form_of(&model.words)?) } else { None };
        if known.is_some() && grammar.is_some() {
            return Err(Refusal::field(
                "response_format",
                "cannot be joined with tools: an answer obeys one or calls the others",
            ));
        }
        let calls = messages.iter().any(|m| m["role"] == "tool" || m.get("tool_calls").is_some());
        let by_template = match &known {
            Some(known) => known.by_template,
            None => !calls || form_of(&model.words).is_ok_and(|k| k.by_template),
        };
        let (messages, list) = match by_template {
            true => (messages, tools.for_template()),
            false => (told_in_words(messages, &tools), Value::Null),
        };
        let words = model.words.clone();
        let prompt = blocking(move || words.chat_prompt_with(&messages.into(), &list, &more)).await?;
        let harmony = is_harmony(&model.words);
        let required = known.as_ref().and_then(|k| tools.grammar(k.form, &model.words)).map(Grammar::Lark);
        let grammar = match (required, grammar) {
            (None, Some(grammar)) if harmony => Some(in_final_channel(&model, grammar)?),
            (required, grammar) => required.or(grammar),
        };
        let constraints = constraints(&model, grammar, choosing.n).await?;
        let answers = start(app, &model, &prompt, &choosing, constraints)?;
        let form = if harmony { Some(Form::Harmony) } else { known.map(|k| k.form) };
        let splitters = (0..choosing.n).map(|_| form.map(|f| Splitter::new(f, &tools))).collect();
        Ok(Talk { model, answers, splitters, calls: vec![0; choosing.n] })
    }

    /// What comes next; `None` when all answers have ended.
    pub async fn next(&mut self) -> Option<Result<Part>> {
        let part = match self.answers.next().await? {
            Err(e) => return Some(Err(e)),
            Ok(Came::Token(index, token)) => {
                let pieces = match &mut self.splitters[index] {
                    Some(s) => s.push(&self.model.words, &token),
                    None if token.text.is_empty() => vec![],
                    None => vec![Piece::Text(token.text.clone())],
                };
                Part::Token { index, token, pieces }
            }
            Ok(Came::End(index)) => {
                let pieces = self.splitters[index].as_mut().map_or(vec![], Splitter::finish);
                Part::End { index, pieces }
            }
        };
        let (Part::Token { index, pieces, .. } | Part::End { index, pieces }) = &part;
        self.calls[*index] += pieces.iter().filter(|p| matches!(p, Piece::Call { .. })).count();
        Some(Ok(part))
    }

    pub fn ended(&self, index: usize) -> Option<&Ended> {
        self.answers.ended[index].as_ref()
    }

    /// Why an answer ended, as OpenAI says it.
    pub fn finish_reason(&self, index: usize) -> &'static str {
        match super::ask::finish_reason(self.ended(index)) {
            "stop" if self.calls[index] > 0 => "tool_calls",
            other => other,
        }
    }

    /// The stop string that ended an answer.
    pub fn stop_string(&self, index: usize) -> Option<&str> {
        match &self.ended(index)?.reason {
            Reason::StopString(s) => Some(s),
            _ => None,
        }
    }
}

/// A model that speaks in channels obeys a grammar in its last one.
fn in_final_channel(model: &Model, grammar: Grammar) -> Answered<Grammar> {
    let body = match grammar {
        Grammar::Json(mut schema) => {
            if let Value::Object(map) = &mut schema {
                let style = json!({ "whitespace_flexible": false, "item_separator": ", ", "key_separator": ": " });
                map.entry("x-guidance").or_insert(style);
            }
            format!("%json {schema}")
        }
        _ => {
            return Err(Refusal::field(
                "guided_grammar",
                "cannot be used with a model that speaks in channels: give a JSON schema",
            ));
        }
    };
    let (channel, message) = (marked(&model.words, "<|channel|>"), marked(&model.words, "<|message|>"));
    Ok(Grammar::Lark(format!("start: {channel} \"final\" {message} body\nbody: {body}\n")))
}

/// `response_format`, and what servers of open models have added.
pub fn read_grammar(f: &mut Fields) -> Answered<Option<Grammar>> {
    let mut found = vec![];
    if let Some(mut format) = f.object("response_format")? {
        let kind = format.text("type")?.unwrap_or_default();
        match kind.as_str() {
            "text" => {}
            "json_object" => found.push(Grammar::Json(json!({ "type": "object" }))),
            "json_schema" => {
                let missing = Refusal::field("response_format.json_schema", "is missing");
                let mut named = format.object("json_schema")?.ok_or(missing)?;
                found.push(Grammar::Json(schema(&mut named)?));
                named.ignore(&["name", "description", "strict"]);
                named.finish()?;
            }
            _ => return Err(Refusal::field("response_format.type", "must be text, json_object or json_schema")),
        }
        format.finish()?;
    }
    match f.take("guided_json") {
        Some(Value::String(text)) => {
            let wrong = |e: serde_json::Error| Refusal::field("guided_json", format!("is not JSON: {e}"));
            found.push(Grammar::Json(crate::base::json::parse(text.as_bytes()).map_err(wrong)?));
        }
        Some(schema) => found.push(Grammar::Json(schema)),
        None => {}
    }
    found.extend(f.text("guided_regex")?.map(Grammar::Regex));
    found.extend(f.text("guided_grammar")?.map(Grammar::Lark));
    if let Some(choices) = f.texts("guided_choice")? {
        let one = |c: &String| Value::from(c.as_str()).to_string();
        found.push(Grammar::Lark(format!("start: {}", choices.iter().map(one).collect::<Vec<_>>().join(" | "))));
    }
    match found.len() {
        0 | 1 => Ok(found.pop()),
        _ => Err(Refusal::field("response_format", "and guided_… are two grammars: give one")),
    }
}

/// A schema under the key `schema`.
pub fn schema(named: &mut Fields) -> Answered<Value> {
    let place = named.name("schema");
    match named.take("schema") {
        Some(schema @ (Value::Object(_) | Value::Bool(_))) => Ok(schema),
        Some(_) => Err(Refusal::field(&place, "must be a JSON schema")),
        None => Err(Refusal::field(&place, "is missing")),
    }
}

//! What a model file says of text: tokenizer, chat template, the markers around a turn.

use crate::base::{Error, Result};
use crate::model::Model;
use crate::model::gguf::{Gguf, Value};
use crate::text::{ChatTemplate, Message, Tokenizer, Vocabulary};
use serde_json::Value as Json;

/// Names that models end a turn with.
const TURN_ENDS: &[&str] =
    &["<|im_end|>", "<|eot_id|>", "<|end|>", "<|end_of_text|>", "<|endoftext|>", "<end_of_turn>", "</s>"];

const CHANNEL_ENDS: &[&str] = &["<|return|>", "<|call|>", "<|endoftext|>"];

/// What a model knows of text. It is shared between threads: prompts are made while the device computes.
pub struct Words {
    name: String,
    pub(super) tokenizer: Tokenizer,
    /// One that is damaged leaves the model to plain text.
    template: Option<Result<ChatTemplate>>,
    bos: String,
    eos: String,
    /// Tokens that end a turn.
    pub(super) stops: Vec<u32>,
}

impl Words {
    /// # Errors
    /// A tokenizer that is damaged, of an unknown kind, or too large for the model's embedding.
    pub(super) fn read(model: &Model) -> Result<Words> {
        let words = match model.source.gguf() {
            Some(gguf) => from_gguf(gguf, model),
            None => from_folder(model),
        };
        words.map(|w| Words { name: model.name.clone(), ..w }).map_err(|e| told_of(&model.name, e, ""))
    }

    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }
    /// Tokens that end a turn.
    pub fn stops(&self) -> &[u32] {
        &self.stops
    }
    /// Whether the model brings a chat form.
    pub fn is_chat(&self) -> bool {
        self.template.is_some()
    }
    /// The source of the chat form, where there is one that can be run.
    pub fn template(&self) -> Option<&str> {
        self.template.as_ref().and_then(|t| t.as_ref().ok()).map(ChatTemplate::source)
    }

    /// Ids of a conversation up to where the answer begins, in the model's own form.
    ///
    /// # Errors
    /// A model without a chat form, or one whose form refuses this conversation.
    pub fn chat_prompt(&self, messages: &[Message]) -> Result<Vec<u32>> {
        self.chat_ids(|t| t.render(messages, true, &self.bos, &self.eos))
    }

    /// The same of messages with any fields, and of tools, for forms that know them; `more` are further variables.
    ///
    /// # Errors
    /// Beside those, variables that the form does not take.
    pub fn chat_prompt_with(&self, messages: &Json, tools: &Json, more: &Json) -> Result<Vec<u32>> {
        self.chat_ids(|t| t.render_values(messages, tools, more, &self.bos, &self.eos))
    }

    fn chat_ids(&self, render: impl Fn(&ChatTemplate) -> Result<String>) -> Result<Vec<u32>> {
        let plain = "give plain text (--raw)";
        let template =
            self.template.as_ref().ok_or_else(|| Error::model(&self.name, format!("has no chat template: {plain}")))?;
        let made = match template {
            Ok(template) => render(template),
            Err(e) => Err(e.clone()),
        };
        // The template writes its own markers.
        self.tokenizer.encode(&made.map_err(|e| told_of(&self.name, e, &format!(": {plain}")))?, false)
    }

    /// Ids of plain text to continue.
    pub fn raw_prompt(&self, text: &str) -> Result<Vec<u32>> {
        self.tokenizer.encode(text, true)
    }

    fn new(tokenizer: Tokenizer, template: Option<String>, bos: String, eos: String, eos_id: Option<u32>) -> Words {
        // A model that speaks in channels ends messages of a turn with what ends the turn elsewhere.
        let channels = tokenizer.token_id("<|channel|>").is_some() && tokenizer.token_id("<|return|>").is_some();
        let ends = if channels { CHANNEL_ENDS } else { TURN_ENDS };
        let eos_id = eos_id.filter(|id| !channels || tokenizer.token_id("<|end|>") != Some(*id));
        let mut stops: Vec<u32> = ends.iter().filter_map(|t| tokenizer.token_id(t)).chain(eos_id).collect();
        stops.sort_unstable();
        stops.dedup();
        let template = template.map(|s| ChatTemplate::new(&s));
        Words { name: String::new(), tokenizer, template, bos, eos, stops }
    }
}

/// An error of the text room, which does not know whose tokenizer or template it is, told of the model.
pub(super) fn told_of(name: &str, e: Error, hint: &str) -> Error {
    match e {
        Error::Model { model: part, what } if part == "tokenizer" || part == "chat template" => {
            Error::model(name, format!("{part} {what}{hint}"))
        }
        other => other,
    }
}

fn from_gguf(gguf: &Gguf, model: &Model) -> Result<Words> {
    let read = Metadata { gguf, model };
    let kind = read.text("tokenizer.ggml.model");
    let vocabulary = Vocabulary {
        pre: read.text("tokenizer.ggml.pre"),
        tokens: read.texts("tokenizer.ggml.tokens")?,
        scores: read.list("tokenizer.ggml.scores", "a list of numbers", |v| match v {
            Value::Floats(v) => Some(v.clone()),
            _ => None,
        })?,
        types: read.list("tokenizer.ggml.token_type", "a list of whole numbers", |v| match v {
            Value::Ints(v) => Some(v.clone()),
            _ => None,
        })?,
        merges: read.texts("tokenizer.ggml.merges")?,
        bos: read.id("tokenizer.ggml.bos_token_id")?,
        add_bos: read.flag("tokenizer.ggml.add_bos_token", kind == "llama"),
        add_space_prefix: read.flag("tokenizer.ggml.add_space_prefix", true),
        model: kind,
    };
    let eos_id = read.id("tokenizer.ggml.eos_token_id")?;
    let (n, rows) = (vocabulary.tokens.len(), model.info().vocab);
    let token = |id: Option<u32>| id.and_then(|i| vocabulary.tokens.get(i as usize)).cloned().unwrap_or_default();
    let (bos, eos) = (token(vocabulary.bos), token(eos_id));
    let tokenizer = Tokenizer::from_vocabulary(vocabulary)?;
    if let Some(eos) = eos_id.filter(|e| *e as usize >= n) {
        return Err(Error::model("tokenizer", format!("ends text with token {eos}, of {n}")));
    }
    if n > rows {
        return Err(Error::model("tokenizer", format!("has {n} tokens, the embedding has {rows} rows")));
    }
    let template = gguf.get("tokenizer.chat_template").and_then(Value::text).map(String::from);
    Ok(Words::new(tokenizer, template, bos, eos, eos_id))
}

/// Values of the kind that they must be.
struct Metadata<'a> {
    gguf: &'a Gguf,
    model: &'a Model,
}

impl Metadata<'_> {
    fn wrong(&self, key: &str, value: &Value, what: &str) -> Error {
        Error::file(self.model.source.path(), format!("{key} is {value}, it must be {what}"))
    }
    fn text(&self, key: &str) -> String {
        self.gguf.get(key).and_then(Value::text).unwrap_or_default().to_string()
    }
    fn flag(&self, key: &str, default: bool) -> bool {
        self.gguf.get(key).and_then(Value::int).map_or(default, |n| n != 0)
    }
    /// Nothing where the key is not there.
    fn list<T>(&self, key: &str, what: &str, take: fn(&Value) -> Option<Vec<T>>) -> Result<Vec<T>> {
        let Some(value) = self.gguf.get(key) else { return Ok(vec![]) };
        take(value).ok_or_else(|| self.wrong(key, value, what))
    }
    fn texts(&self, key: &str) -> Result<Vec<String>> {
        self.list(key, "a list of texts", |v| match v {
            Value::Texts(v) => Some(v.clone()),
            _ => None,
        })
    }
    fn id(&self, key: &str) -> Result<Option<u32>> {
        let Some(value) = self.gguf.get(key) else { return Ok(None) };
        let id = value.int().and_then(|n| u32::try_from(n).ok());
        id.map(Some).ok_or_else(|| self.wrong(key, value, "the number of a token"))
    }
}

fn from_folder(model: &Model) -> Result<Words> {
    let json =
        model.source.side_file("tokenizer.json").ok_or_else(|| Error::model(&model.name, "lacks tokenizer.json"))?;
    let tokenizer = Tokenizer::from_json(json)?;
    let wrong = |e| Error::file(model.source.path().join("tokenizer_config.json"), format!("is not valid JSON: {e}"));
    let config = model
        .source
        .side_file("tokenizer_config.json")
        .map(serde_json::from_slice::<Json>)
        .transpose()
        .map_err(wrong)?
        .unwrap_or_default();
    let token = |key: &str| {
        let v = &config[key];
        v.as_str().or(v["content"].as_str()).unwrap_or_default().to_string()
    };
    let file = model.source.side_file("chat_template.jinja").map(|b| String::from_utf8_lossy(b).into_owned());
    let (bos, eos) = (token("bos_token"), token("eos_token"));
    let eos_id = tokenizer.token_id(&eos);
    Ok(Words::new(tokenizer, file.or(named_template(&config["chat_template"])), bos, eos, eos_id))
}

/// A folder may have one template, or several by name.
fn named_template(v: &Json) -> Option<String> {
    let named = |list: &Vec<Json>| {
        list.iter()
            .find(|t| t["name"] == "default")
            .or(list.first())
            .and_then(|t| t["template"].as_str())
            .map(String::from)
    };
    v.as_str().map(String::from).or_else(|| v.as_array().and_then(named))
}

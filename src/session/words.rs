//! What a model file says of text: tokenizer, chat template, the markers around a turn.

use crate::base::{Error, Result, Texts};
use crate::model::Model;
use crate::model::gguf::{Gguf, Value};
use crate::text::{ChatTemplate, Message, Tokenizer, Vocabulary};
use serde_json::Value as Json;
use std::sync::Arc;

/// Names of tokens that end a turn, whatever else a file declares: they are never text.
const TURN_ENDS: &[&str] = &[
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<end_of_turn>",
    "<turn|>",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
    "<EOT>",
    "[EOT]",
    "</s>",
    "<eos>",
];

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

    pub(super) fn into_tokenizer(self) -> Tokenizer {
        self.tokenizer
    }
    /// What turns text into ids and back.
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

    fn new(tokenizer: Tokenizer, template: Option<String>, bos: String, eos: String, declared: Vec<u32>) -> Words {
        // A model that speaks in channels ends messages of a turn with what ends the turn elsewhere.
        let channels = tokenizer.token_id("<|channel|>").is_some() && tokenizer.token_id("<|return|>").is_some();
        let ends = if channels { CHANNEL_ENDS } else { TURN_ENDS };
        let mut stops: Vec<u32> = ends.iter().filter_map(|t| tokenizer.token_id(t)).chain(declared).collect();
        stops.retain(|id| !channels || tokenizer.token_id("<|end|>") != Some(*id));
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
    let vocabulary = vocabulary(&read)?;
    let ends = ["eos", "eot", "eom"].map(|end| read.id(&format!("tokenizer.ggml.{end}_token_id")));
    let ends = ends.into_iter().collect::<Result<Vec<_>>>()?;
    let mut stops: Vec<u32> = ends.iter().flatten().copied().collect();
    // A list, as generation_config.json has it.
    let more = read.list("tokenizer.ggml.eos_token_ids", "a list of tokens", |v| match v {
        Value::Ints(v) => v.iter().map(|n| u32::try_from(*n).ok()).collect(),
        _ => None,
    })?;
    stops.extend(more);
    let (n, rows) = (vocabulary.tokens.len(), model.info().vocab);
    let tokens = vocabulary.tokens.clone();
    let token = |id: Option<u32>| {
        let text = id.and_then(|i| tokens.get(i as usize)).unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    };
    let (bos, eos) = (token(vocabulary.bos), token(ends[0]));
    let tokenizer = Tokenizer::from_vocabulary(vocabulary)?;
    if let Some(end) = stops.iter().find(|e| **e as usize >= n) {
        return Err(Error::model("tokenizer", format!("ends text with token {end}, of {n}")));
    }
    if n > rows {
        return Err(Error::model("tokenizer", format!("has {n} tokens, the embedding has {rows} rows")));
    }
    let template = read.text("tokenizer.chat_template")?;
    Ok(Words::new(tokenizer, template.filter(|t| !t.is_empty()), bos, eos, stops))
}

fn vocabulary(read: &Metadata) -> Result<Vocabulary> {
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let numbers = |name: &str| {
        read.list(&key(name), "a list of whole numbers", |v| match v {
            Value::Ints(v) => Some(v.clone()),
            _ => None,
        })
    };
    let id = |name: &str| read.id(&key(name));
    let flag = |name: &str| read.flag(&key(name));
    let scores = read.list(&key("scores"), "a list of numbers", |v| match v {
        Value::Floats(v) => Some(v.clone()),
        Value::Ints(v) => Some(v.iter().map(|n| *n as f64).collect()),
        _ => None,
    })?;
    // Files of i8 and of u8 are there.
    let charsmap = numbers("precompiled_charsmap")?.into_iter().map(|n| n as u8).collect();
    Ok(Vocabulary {
        model: read.text(&key("model"))?.unwrap_or_default(),
        pre: read.text(&key("pre"))?.unwrap_or_default(),
        tokens: read.texts(&key("tokens"))?,
        scores,
        types: numbers("token_type")?,
        merges: read.texts(&key("merges"))?,
        bos: id("bos_token_id")?,
        eos: id("eos_token_id")?,
        unknown: id("unknown_token_id")?,
        // Spelt so by the files.
        separator: id("seperator_token_id")?.or(id("separator_token_id")?),
        class: id("cls_token_id")?,
        add_bos: flag("add_bos_token")?,
        add_eos: flag("add_eos_token")?,
        add_separator: flag("add_sep_token")?,
        add_space_prefix: flag("add_space_prefix")?,
        merge_spaces: flag("remove_extra_whitespaces")?,
        charsmap,
        lowercase: flag("normalizer.lowercase")?,
        strip_accents: flag("normalizer.strip_accents")?,
    })
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
    fn text(&self, key: &str) -> Result<Option<String>> {
        let Some(value) = self.gguf.get(key) else { return Ok(None) };
        value.text().map(|t| Some(t.to_string())).ok_or_else(|| self.wrong(key, value, "a text"))
    }
    fn flag(&self, key: &str) -> Result<Option<bool>> {
        let Some(value) = self.gguf.get(key) else { return Ok(None) };
        value.int().map(|n| Some(n != 0)).ok_or_else(|| self.wrong(key, value, "true or false"))
    }
    /// Nothing where the key is not there.
    fn list<T>(&self, key: &str, what: &str, take: fn(&Value) -> Option<Vec<T>>) -> Result<Vec<T>> {
        let Some(value) = self.gguf.get(key) else { return Ok(vec![]) };
        take(value).ok_or_else(|| self.wrong(key, value, what))
    }
    fn texts(&self, key: &str) -> Result<Arc<Texts>> {
        match self.gguf.get(key) {
            None => Ok(Arc::default()),
            Some(Value::Texts(texts)) => Ok(texts.clone()),
            Some(other) => Err(self.wrong(key, other, "a list of texts")),
        }
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
    let config = side_json(model, "tokenizer_config.json")?;
    let generation = side_json(model, "generation_config.json")?;
    let sizes = side_json(model, "config.json")?;
    let token = |key: &str| {
        let v = &config[key];
        v.as_str().or(v["content"].as_str()).unwrap_or_default().to_string()
    };
    let file = model.source.side_file("chat_template.jinja").map(|b| String::from_utf8_lossy(b).into_owned());
    let (bos, eos) = (token("bos_token"), token("eos_token"));
    let mut stops: Vec<u32> = tokenizer.token_id(&eos).into_iter().collect();
    for (file, json) in [("generation_config.json", &generation), ("config.json", &sizes)] {
        // A composed model has the sizes and ends of its text part in a part of the file.
        for part in [json, &json["text_config"]] {
            stops.extend(ids_of(model, file, &part["eos_token_id"])?);
        }
    }
    Ok(Words::new(tokenizer, file.or(named_template(&config["chat_template"])), bos, eos, stops))
}

/// A small file of a model folder; null where it is not there.
fn side_json(model: &Model, name: &str) -> Result<Json> {
    let wrong = |e| Error::file(model.source.path().join(name), format!("is not valid JSON: {e}"));
    Ok(model.source.side_file(name).map(crate::base::json::parse).transpose().map_err(wrong)?.unwrap_or_default())
}

/// A token or a list of them.
fn ids_of(model: &Model, file: &str, value: &Json) -> Result<Vec<u32>> {
    let one = |v: &Json| v.as_u64().and_then(|n| u32::try_from(n).ok());
    let ids = match value {
        Json::Null => Some(vec![]),
        Json::Array(list) => list.iter().map(one).collect(),
        other => one(other).map(|id| vec![id]),
    };
    ids.ok_or_else(|| {
        let path = model.source.path().join(file);
        Error::file(path, format!("eos_token_id is {value}, it must be a token's number or a list of such"))
    })
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

//! The tokenizer, the chat form and the markers of a model, from either kind of file.

use crate::base::{Error, Result};
use crate::model::Model;
use crate::model::gguf::Value;
use crate::text::{ChatTemplate, Tokenizer, Vocabulary};

/// Names that models end a turn with.
const TURN_ENDS: &[&str] = &["<|im_end|>", "<|eot_id|>", "<|end|>", "<|end_of_text|>", "<|endoftext|>", "<end_of_turn>", "</s>"];

pub(super) fn stop_tokens(tokenizer: &Tokenizer, eos: Option<u32>) -> Vec<u32> {
    let mut stops: Vec<u32> = TURN_ENDS.iter().filter_map(|t| tokenizer.token_id(t)).chain(eos).collect();
    stops.sort_unstable();
    stops.dedup();
    stops
}

pub(super) struct Special {
    pub bos: String,
    pub eos: String,
    pub eos_id: Option<u32>,
}

/// The tokenizer and chat template of either kind of file.
pub(super) fn words(model: &Model) -> Result<(Tokenizer, Option<ChatTemplate>, Special)> {
    match model.source.gguf() {
        Some(gguf) => {
            let int = |key: &str| gguf.get(key).and_then(Value::int).and_then(|n| u32::try_from(n).ok());
            let text = |key: &str| gguf.get(key).and_then(Value::text).unwrap_or_default().to_string();
            let texts = |key: &str| match gguf.get(key) {
                Some(Value::Texts(v)) => v.clone(),
                _ => vec![],
            };
            let flag = |key: &str, default: bool| gguf.get(key).and_then(Value::int).map_or(default, |n| n != 0);
            let kind = text("tokenizer.ggml.model");
            let vocabulary = Vocabulary {
                pre: text("tokenizer.ggml.pre"),
                tokens: texts("tokenizer.ggml.tokens"),
                scores: match gguf.get("tokenizer.ggml.scores") {
                    Some(Value::Floats(v)) => v.clone(),
                    _ => vec![],
                },
                types: match gguf.get("tokenizer.ggml.token_type") {
                    Some(Value::Ints(v)) => v.clone(),
                    _ => vec![],
                },
                merges: texts("tokenizer.ggml.merges"),
                bos: int("tokenizer.ggml.bos_token_id"),
                add_bos: flag("tokenizer.ggml.add_bos_token", kind == "llama"),
                add_space_prefix: flag("tokenizer.ggml.add_space_prefix", true),
                model: kind,
            };
            let token = |id: Option<u32>| id.and_then(|i| vocabulary.tokens.get(i as usize)).cloned().unwrap_or_default();
            let eos_id = int("tokenizer.ggml.eos_token_id");
            let special = Special { bos: token(vocabulary.bos), eos: token(eos_id), eos_id };
            let template = gguf.get("tokenizer.chat_template").and_then(Value::text).map(ChatTemplate::new).transpose()?;
            Ok((Tokenizer::from_vocabulary(vocabulary)?, template, special))
        }
        None => {
            let json = model.source.side_file("tokenizer.json").ok_or_else(|| Error::model(&model.name, "lacks tokenizer.json"))?;
            let tokenizer = Tokenizer::from_json(json)?;
            let config: serde_json::Value = model.source.side_file("tokenizer_config.json").and_then(|b| serde_json::from_slice(b).ok()).unwrap_or_default();
            let token = |key: &str| {
                let v = &config[key];
                v.as_str().or(v["content"].as_str()).unwrap_or_default().to_string()
            };
            let file = model.source.side_file("chat_template.jinja").map(|b| String::from_utf8_lossy(b).into_owned());
            let source = file.or(config["chat_template"].as_str().map(String::from));
            let template = source.map(|s| ChatTemplate::new(&s)).transpose()?;
            let special = Special { bos: token("bos_token"), eos: token("eos_token"), eos_id: tokenizer.token_id(&token("eos_token")) };
            Ok((tokenizer, template, special))
        }
    }
}

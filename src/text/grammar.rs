//! Answers that obey a JSON schema, a regular expression or a grammar, by the `llguidance` crate: which tokens may come
//! next is asked before each is chosen.

use super::{Constraint, Tokenizer};
use crate::base::{Error, Result};
use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};
use std::sync::Arc;

/// Bytes of a grammar's text.
const MOST_BYTES: usize = 1 << 20;

/// What an answer must obey.
#[derive(Debug, Clone, PartialEq)]
pub enum Grammar {
    /// JSON of this schema. Where the schema does not say otherwise (`x-guidance`), it is written as Python's `json.dumps`
    /// writes it: with a space behind commas and colons and no other whitespace.
    Json(Value),
    /// Text that matches as a whole, in the syntax of the `regex` crate.
    Regex(String),
    /// A grammar in llguidance's dialect of Lark, from the rule `start` on.
    Lark(String),
}

/// Compiles grammars for one vocabulary.
pub struct Grammars {
    factory: ParserFactory,
    stops: Vec<u32>,
}

impl Grammars {
    /// For a model with `vocab` logits whose turns end with any of `stops`.
    ///
    /// # Errors
    /// A model that has no token to end with.
    pub fn new(tokenizer: &Tokenizer, vocab: usize, stops: &[u32]) -> Result<Grammars> {
        let end = *stops.first().ok_or_else(|| Error::model("tokenizer", "has no token that ends a turn"))?;
        let word = |id: u32| match tokenizer.token_bytes(id) {
            // Markers are no text, whatever their name.
            Some(bytes) if tokenizer.is_marker(id) || stops.contains(&id) => {
                [&[TokTrie::SPECIAL_TOKEN_MARKER][..], &bytes].concat()
            }
            Some(bytes) if bytes.first() != Some(&TokTrie::SPECIAL_TOKEN_MARKER) => bytes,
            _ => vec![],
        };
        let words: Vec<Vec<u8>> = (0..vocab as u32).map(word).collect();
        let trie = TokTrie::from(&TokRxInfo::new(vocab as u32, end), &words).with_eos_tokens(stops);
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new(&env, InferenceCapabilities::default(), &[]).map_err(|e| wrong(&e))?;
        factory.quiet();
        *factory.limits_mut() = ParserLimits { verbose_errors: false, ..ParserLimits::default() };
        Ok(Grammars { factory, stops: stops.to_vec() })
    }

    /// What holds one answer to `grammar`, from its first token on. Fuel bounds the time and memory of a grammar.
    ///
    /// # Errors
    /// A grammar that is wrong, that nothing can obey, or that is too large.
    pub fn constraint(&self, grammar: &Grammar) -> Result<Box<dyn Constraint>> {
        let size = match grammar {
            Grammar::Json(schema) => schema.to_string().len(),
            Grammar::Regex(text) | Grammar::Lark(text) => text.len(),
        };
        if size > MOST_BYTES {
            return Err(Error::usage(format!("the grammar has {size} bytes, at most {MOST_BYTES} are read")));
        }
        // What the crate panics on becomes an error.
        let parser = super::tokenizer::guarded(|| {
            let grammar = match grammar {
                Grammar::Json(schema) => TopLevelGrammar::from_json_schema(compact(schema)),
                Grammar::Regex(text) => TopLevelGrammar::from_regex(text),
                Grammar::Lark(text) => TopLevelGrammar::from_lark(text.clone()),
            };
            Ok(self.factory.create_parser(grammar))
        });
        let mut matcher = Matcher::new(parser.map_err(|_| wrong(&"reading it failed inside of its library"))?);
        match matcher.get_error() {
            Some(e) => Err(wrong(&e)),
            None => {
                // Some that compile allow nothing.
                matcher.compute_mask_or_eos().map_err(|e| wrong(&e))?;
                Ok(Box::new(Obeyed { matcher, stops: self.stops.clone() }))
            }
        }
    }
}

fn wrong(e: &dyn std::fmt::Display) -> Error {
    let text: String = e.to_string().lines().next().unwrap_or_default().chars().take(300).collect();
    Error::usage(format!("the grammar cannot be used: {text}"))
}

/// Schemas leave whitespace free, which small models write without end.
fn compact(schema: &Value) -> Value {
    let mut schema = schema.clone();
    if let Value::Object(map) = &mut schema
        && !map.contains_key("x-guidance")
    {
        let how = json!({ "whitespace_flexible": false, "item_separator": ", ", "key_separator": ": " });
        map.insert("x-guidance".into(), how);
    }
    schema
}

struct Obeyed {
    matcher: Matcher,
    stops: Vec<u32>,
}

impl Constraint for Obeyed {
    fn allowed(&mut self) -> Result<Option<Vec<u32>>> {
        let mut mask: Vec<u32> = self.matcher.compute_mask_or_eos().map_err(|e| wrong(&e))?.as_slice().to_vec();
        // Any of the tokens that end a turn will do.
        let ends = |id: &u32| mask.get(*id as usize / 32).is_some_and(|w| w >> (id % 32) & 1 == 1);
        if self.stops.iter().any(ends) {
            for id in &self.stops {
                if let Some(word) = mask.get_mut(*id as usize / 32) {
                    *word |= 1 << (id % 32);
                }
            }
        }
        Ok(Some(mask))
    }

    fn accept(&mut self, id: u32) -> Result<()> {
        match self.stops.contains(&id) || self.matcher.is_stopped() {
            true => Ok(()),
            false => self.matcher.consume_token(id).map_err(|e| wrong(&e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::{Sampler, Sampling, Vocabulary};

    fn letters() -> (Tokenizer, usize) {
        let mut tokens: Vec<String> = vec!["<|end|>".into(), "<|im_end|>".into()];
        tokens.extend((b'!'..=b'~').map(|b| (b as char).to_string()));
        tokens.extend(["Ġ", "Ċ", "Ã", "©", "\"}", "\":Ġ"].map(String::from));
        let mut types = vec![1; tokens.len()];
        types[0] = 3;
        types[1] = 3;
        let n = tokens.len();
        let merges = std::sync::Arc::new(["\" }"].iter().collect());
        let tokens = std::sync::Arc::new(tokens.iter().collect());
        let v = Vocabulary { model: "gpt2".into(), tokens, types, merges, ..Default::default() };
        (Tokenizer::from_vocabulary(v).unwrap(), n + 3)
    }

    /// Texts that noise makes under a grammar: whole ones only.
    fn made(grammar: &Grammar, seeds: u64) -> Vec<String> {
        let (tokenizer, vocab) = letters();
        let grammars = Grammars::new(&tokenizer, vocab, &[0, 1]).unwrap();
        let mut out = vec![];
        for seed in 0..seeds {
            let how = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed, ..Sampling::default() };
            let mut sampler = Sampler::new(how).unwrap();
            let mut constraint = grammars.constraint(grammar).unwrap();
            let mut ids = vec![];
            for _ in 0..200 {
                let allowed = constraint.allowed().unwrap();
                let logits: Vec<f32> = (0..vocab).map(|i| ((i * 7 + seed as usize) % 13) as f32 / 10.0).collect();
                let id = sampler.sample_within(&logits, &ids, allowed.as_deref()).unwrap().id;
                constraint.accept(id).unwrap();
                if id < 2 {
                    out.push(tokenizer.decode(&ids, true).unwrap());
                    break;
                }
                ids.push(id);
            }
        }
        out
    }

    #[test]
    fn noise_becomes_what_the_schema_says() {
        let schema = json!({
            "type": "object", "additionalProperties": false, "required": ["kind", "n", "flag"],
            "properties": { "kind": { "enum": ["hen", "horse"] }, "n": { "type": "integer", "minimum": 3, "maximum": 17 }, "flag": { "type": "boolean" } },
        });
        let all = made(&Grammar::Json(schema), 40);
        assert_eq!(all.len(), 40);
        for text in &all {
            let v: Value = serde_json::from_str(text).unwrap();
            assert!(["hen", "horse"].contains(&v["kind"].as_str().unwrap()), "{text}");
            assert!((3..=17).contains(&v["n"].as_i64().unwrap()) && v["flag"].is_boolean(), "{text}");
            assert_eq!(v.as_object().unwrap().len(), 3);
        }
        assert!(all.iter().any(|t| t != &all[0]));
    }

    #[test]
    fn noise_becomes_what_other_grammars_say() {
        let all = made(&Grammar::Regex("[ab]{2,4}é".into()), 20);
        assert_eq!(all.len(), 20);
        for text in all {
            let body = text.strip_suffix('é').unwrap();
            assert!((2..=4).contains(&body.len()) && body.chars().all(|c| "ab".contains(c)), "{text}");
        }
        let all = made(&Grammar::Lark("start: \"(\" start \")\" | \"x\"".into()), 20);
        for text in all {
            let depth = text.chars().take_while(|c| *c == '(').count();
            assert_eq!(text, format!("{}x{}", "(".repeat(depth), ")".repeat(depth)));
        }
    }

    #[test]
    fn grammars_that_cannot_be_are_refused_in_one_line() {
        let (tokenizer, vocab) = letters();
        let grammars = Grammars::new(&tokenizer, vocab, &[0]).unwrap();
        for grammar in [
            Grammar::Json(json!({ "type": "nonsense" })),
            Grammar::Json(json!({ "type": "object", "properties": { "a": { "$ref": "http://127.0.0.1/x.json" } } })),
            Grammar::Json(json!({ "type": "integer", "minimum": 5, "maximum": 3 })),
            Grammar::Regex("(".into()),
            Grammar::Lark("start: other".into()),
            Grammar::Lark(String::new()),
            Grammar::Regex("x".repeat(2 << 20)),
        ] {
            let refused = grammars.constraint(&grammar).err();
            let e = refused.unwrap_or_else(|| panic!("{grammar:?} was taken")).to_string();
            assert!(e.starts_with("the grammar ") && !e.contains('\n') && e.len() < 400, "{e}");
        }
        assert!(Grammars::new(&tokenizer, vocab, &[]).is_err());
        // What is large only when it is written out is refused or computed as it is needed.
        let start = std::time::Instant::now();
        let _ = grammars.constraint(&Grammar::Regex("((a{1000}){1000}){1000}".into())).map(|mut c| c.allowed());
        assert!(start.elapsed().as_secs() < 10);
    }
}

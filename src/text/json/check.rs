//! What a tokenizer.json says, looked at before the library that runs it allocates anything: that library trusts its input.

use super::super::vocab::MAX_TOKENS;
use super::wrong;
use crate::base::json::Few;
use crate::base::{Result, plain};
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;

/// Bytes of a tokenizer.json, of one token, letters of a WordPiece word.
const MAX_JSON: usize = 256 << 20;
const MAX_TOKEN: usize = 4096;
const MAX_WORD: u64 = 1000;
/// Values around the vocabulary: steps, markers, added tokens.
const MAX_VALUES: usize = 1 << 20;
/// Merges for each token.
const MAX_MERGES: usize = 8;
/// Steps of a normalizer or decoder, bytes that one of them adds, markers around a text.
const MAX_STEPS: usize = 256;
const MAX_ADDED: usize = 256;
/// How many times as long the steps of a decoder may make a text. The library runs them: nothing stops them on their way.
const MAX_GROWTH: f64 = 64.0;
const MAX_MARKERS: usize = 4096;

/// What is around the vocabulary.
pub struct Parts {
    pub decoder: Value,
    /// Bytes of the longest token.
    pub longest: usize,
}

/// Refuses what the library would crash on, hang in, or allocate without end for.
pub fn check(json: &[u8]) -> Result<Parts> {
    if json.len() > MAX_JSON {
        return Err(wrong(format!("has {} bytes, at most {MAX_JSON} are read", json.len())));
    }
    let mut reader = serde_json::Deserializer::from_slice(json);
    let read = reader.deserialize_map(Whole).and_then(|w| reader.end().map(|_| w));
    let whole = read.map_err(|e| wrong(format!("is not valid JSON: {}", plain(&e.to_string(), 300))))?;
    let model = whole.model.ok_or_else(|| wrong("lacks its model"))?;
    let added = check_added(&whole.parts["added_tokens"])?;
    check_model(&model, added)?;
    for part in ["normalizer", "pre_tokenizer", "decoder"] {
        check_steps(part, &whole.parts[part])?;
    }
    check_markers(&whole.parts["post_processor"])?;
    Ok(Parts { decoder: whole.parts["decoder"].clone(), longest: model.longest })
}

#[derive(Default)]
struct Model {
    ids: Vec<u64>,
    longest: usize,
    has_vocabulary: bool,
    merges: usize,
    rest: Map<String, Value>,
}

fn check_model(model: &Model, added: usize) -> Result<()> {
    if !model.has_vocabulary {
        return Err(wrong("lacks its vocabulary"));
    }
    if let Some(n) = model.rest.get("max_input_chars_per_word").and_then(Value::as_u64).filter(|n| *n > MAX_WORD) {
        return Err(wrong(format!("allows words of {n} characters, at most {MAX_WORD} can be used")));
    }
    if let Some(p) = model.rest.get("dropout").and_then(Value::as_f64).filter(|p| *p != 0.0) {
        return Err(wrong(format!(
            "leaves out merges by chance (dropout {p}), so that ids would differ from run to run: set it to null"
        )));
    }
    let n = model.ids.len();
    if model.merges > n * MAX_MERGES + 1024 {
        return Err(wrong(format!("has {} merges for {n} tokens", model.merges)));
    }
    let most = ((n + added) * 2 + 1024).min(MAX_TOKENS * 2);
    let mut seen = vec![false; most];
    for id in &model.ids {
        let place = usize::try_from(*id).ok().and_then(|i| seen.get_mut(i));
        match place {
            None => return Err(wrong(format!("gives a token the id {id}, with {n} tokens"))),
            Some(true) => return Err(wrong(format!("gives two tokens the id {id}"))),
            Some(free) => *free = true,
        }
    }
    Ok(())
}

/// How many tokens are added.
fn check_added(list: &Value) -> Result<usize> {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    for token in list {
        let content = token["content"].as_str().unwrap_or_default();
        let fits = token["id"].as_u64().is_some_and(|i| i < 2 * MAX_TOKENS as u64);
        if content.is_empty() || content.len() > MAX_TOKEN || !fits {
            return Err(wrong("adds a token without text, of too much text, or with an id out of range"));
        }
    }
    Ok(list.len())
}

fn check_steps(part: &str, json: &Value) -> Result<()> {
    let mut steps = 0;
    let mut growth = 1.0;
    let mut open = vec![json];
    while let Some(step) = open.pop() {
        steps += 1;
        growth *= replacement_growth(step);
        check_step(part, step)?;
        let lists = ["normalizers", "pretokenizers", "decoders"];
        open.extend(lists.iter().filter_map(|k| step.get(k)?.as_array()).flatten());
    }
    if part == "decoder" && growth > MAX_GROWTH {
        return Err(wrong(format!(
            "has a decoder that makes a text {growth:.0} times as long, at most {MAX_GROWTH} can be run"
        )));
    }
    match steps {
        0..=MAX_STEPS => Ok(()),
        n => Err(wrong(format!("has a {part} of {n} steps, at most {MAX_STEPS} can be run"))),
    }
}

/// How many times as long a replacement can make a text.
fn replacement_growth(step: &Value) -> f64 {
    let Some(to) = step["content"].as_str().filter(|_| step["type"] == "Replace") else { return 1.0 };
    match step["pattern"]["String"].as_str() {
        Some(from) if !from.is_empty() => (to.len() as f64 / from.len() as f64).max(1.0),
        // A pattern may match nothing, and so stand before every letter.
        _ => to.len() as f64 + 1.0,
    }
}

fn check_step(part: &str, step: &Value) -> Result<()> {
    if step["type"] == "FixedLength" && step["length"].as_u64() == Some(0) {
        return Err(wrong("splits text into pieces of no length"));
    }
    for key in ["content", "prepend"] {
        if let Some(n) = step[key].as_str().map(str::len).filter(|n| *n > MAX_ADDED) {
            return Err(wrong(format!(
                "has a {part} that puts {n} bytes into a text at once, at most {MAX_ADDED} can be used"
            )));
        }
    }
    if let Some(map) = step["precompiled_charsmap"].as_str() {
        // Base64 of a trie's size in bytes, the trie, and the letters that it leads to.
        let (size, have) = (first_word(map), map.len() as u64 / 4 * 3);
        if size.is_none_or(|n| n % 4 != 0 || n as u64 + 4 > have) {
            return Err(wrong(format!("has a table of letters of {have} bytes that is damaged")));
        }
    }
    Ok(())
}

fn check_markers(json: &Value) -> Result<()> {
    let mut markers = 0;
    let mut open = vec![json];
    while let Some(step) = open.pop() {
        let pieces = |key: &str| step[key].as_array().map(Vec::as_slice).unwrap_or_default();
        if pieces("single").iter().any(|p| p["Sequence"]["id"] == "B") {
            return Err(wrong("puts a second text around one that stands alone"));
        }
        let named = |p: &'_ Value| p["SpecialToken"]["id"].as_str().map(String::from);
        for name in pieces("single").iter().chain(pieces("pair")).filter_map(named) {
            let token = &step["special_tokens"][name.as_str()];
            let count = |key: &str| token[key].as_array().map(Vec::len);
            match count("ids") {
                Some(n) if count("tokens") == Some(n) => markers += n,
                _ => {
                    return Err(wrong(format!("puts the marker \"{name}\" around a text and does not say what it is")));
                }
            }
        }
        open.extend(step["processors"].as_array().into_iter().flatten());
    }
    match markers {
        0..=MAX_MARKERS => Ok(()),
        n => Err(wrong(format!("puts {n} markers around a text, at most {MAX_MARKERS} can be used"))),
    }
}

/// The first four bytes of base64 text, as a little-endian number.
fn first_word(base64: &str) -> Option<u32> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => Some(c - b'A'),
        b'a'..=b'z' => Some(c - b'a' + 26),
        b'0'..=b'9' => Some(c - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let bits = base64.bytes().take(6).try_fold(0u64, |n, c| Some(n << 6 | digit(c)? as u64))?;
    (base64.len() >= 6).then_some(((bits >> 4) as u32).swap_bytes())
}

/// A reader of the whole file that keeps no vocabulary.
struct Whole;

#[derive(Default)]
struct Read {
    model: Option<Model>,
    parts: Value,
}

impl<'de> Visitor<'de> for Whole {
    type Value = Read;
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Read, A::Error> {
        let (mut model, mut parts, mut left) = (None, Map::new(), MAX_VALUES);
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "model" => model = map.next_value_seed(ModelSeed(&mut left))?,
                "normalizer" | "pre_tokenizer" | "decoder" | "post_processor" | "added_tokens" => {
                    parts.insert(key, map.next_value_seed(Few(&mut left))?);
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Read { model, parts: Value::Object(parts) })
    }
}

struct ModelSeed<'a>(&'a mut usize);

impl<'de> DeserializeSeed<'de> for ModelSeed<'_> {
    type Value = Option<Model>;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<Self::Value, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ModelSeed<'_> {
    type Value = Option<Model>;
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a model")
    }
    fn visit_unit<E>(self) -> std::result::Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
        let mut model = Model::default();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "vocab" => model.has_vocabulary = map.next_value_seed(Entries(&mut model.ids, &mut model.longest))?,
                "merges" => map.next_value_seed(Merges(&mut model.merges))?,
                _ => drop(model.rest.insert(key, map.next_value_seed(Few(self.0))?)),
            }
        }
        Ok(Some(model))
    }
}

/// Tokens with their ids, or in the order of their ids.
struct Entries<'a>(&'a mut Vec<u64>, &'a mut usize);

impl<'de> DeserializeSeed<'de> for Entries<'_> {
    type Value = bool;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<bool, D::Error> {
        d.deserialize_any(self)
    }
}

impl Entries<'_> {
    fn add<E: serde::de::Error>(&mut self, token: &str, id: u64) -> std::result::Result<(), E> {
        if token.len() > MAX_TOKEN {
            return Err(E::custom(format!("a token has {} bytes, at most {MAX_TOKEN} can be used", token.len())));
        }
        if self.0.len() >= MAX_TOKENS {
            return Err(E::custom(format!("there are more than {MAX_TOKENS} tokens")));
        }
        self.0.push(id);
        *self.1 = token.len().max(*self.1);
        Ok(())
    }
}

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = bool;
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a vocabulary")
    }
    fn visit_unit<E>(self) -> std::result::Result<bool, E> {
        Ok(false)
    }
    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> std::result::Result<bool, A::Error> {
        while let Some(token) = map.next_key::<std::borrow::Cow<str>>()? {
            let id = map.next_value::<Value>()?;
            let id = id
                .as_u64()
                .ok_or_else(|| A::Error::custom(format!("token {token:?} has an id that is no number from 0 on")))?;
            self.add(&token, id)?;
        }
        Ok(true)
    }
    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> std::result::Result<bool, A::Error> {
        while let Some((token, _)) = list.next_element::<(String, f64)>()? {
            let id = self.0.len() as u64;
            self.add(&token, id)?;
        }
        Ok(true)
    }
}

/// Merges: pairs, or texts of two pieces.
struct Merges<'a>(&'a mut usize);

impl<'de> DeserializeSeed<'de> for Merges<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<(), D::Error> {
        d.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Merges<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list of merges")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<(), A::Error> {
        #[derive(serde::Deserialize)]
        #[serde(untagged)]
        enum Merge {
            Text(String),
            Pair(String, String),
        }
        while let Some(merge) = list.next_element::<Merge>()? {
            *self.0 += 1;
            match merge {
                Merge::Text(s) if !s.contains(' ') => {
                    return Err(A::Error::custom(format!("the merge {s:?} must be two pieces")));
                }
                Merge::Pair(a, b) if a.is_empty() || b.is_empty() => {
                    return Err(A::Error::custom("a merge has an empty piece"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

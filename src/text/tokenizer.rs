//! Tokenizers of model files, run by the `tokenizers` crate.
//!
//! That crate trusts its input: what would make it panic or allocate without end is refused before it sees it, and
//! what is left of its panics is caught.

use crate::base::{Error, Result};
use std::collections::{HashMap, HashSet};
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as DecoderSequence;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::{Prepend, Replace, Sequence as NormalizerSequence};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, PreTokenizerWrapper, SplitDelimiterBehavior};

/// The most tokens a vocabulary may have, and bytes of a tokenizer.json.
const MAX_TOKENS: usize = 4 << 20;
const MAX_JSON: usize = 256 << 20;

/// Letters of a word, steps of a normalizer or decoder, how many times as long they may make a text, markers around it.
const MAX_WORD: u64 = 4096;
const MAX_STEPS: usize = 256;
const MAX_GROWTH: f64 = 1024.0;
const MAX_MARKERS: usize = 4096;

/// A vocabulary as GGUF metadata gives it.
#[derive(Debug, Clone, Default)]
pub struct Vocabulary {
    /// `gpt2` (byte-level BPE) or `llama` (SentencePiece BPE).
    pub model: String,
    /// Which rule splits text into words first.
    pub pre: String,
    pub tokens: Vec<String>,
    pub scores: Vec<f64>,
    /// ggml's token types: 3 control, 4 user-defined.
    pub types: Vec<i64>,
    pub merges: Vec<String>,
    pub bos: Option<u32>,
    pub add_bos: bool,
    pub add_space_prefix: bool,
}

/// Text to ids and back.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    bos: Option<u32>,
}

/// Splitting rules of byte-level vocabularies: the names that files use, whether digits stand alone, and the words'
/// pattern where it is not GPT-2's.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const RULES: &[(&str, bool, Option<&str>)] = &[
    ("smollm", true, None),
    ("gpt-2", false, None),
    ("default", false, None),
    ("", false, None),
    ("starcoder", true, None),
    ("refact", true, None),
    ("command-r", true, None),
    ("llama-bpe", false, Some(LLAMA3)),
    ("llama3", false, Some(LLAMA3)),
    ("qwen2", false, Some(QWEN2)),
];

impl Tokenizer {
    /// # Errors
    /// A kind of vocabulary or splitting rule that is not known, duplicates, merges of pieces that do not exist.
    pub fn from_vocabulary(v: Vocabulary) -> Result<Tokenizer> {
        if v.tokens.is_empty() || v.tokens.len() > MAX_TOKENS {
            return Err(wrong(format!("has {} tokens, 1 to {MAX_TOKENS} can be used", v.tokens.len())));
        }
        let n = v.tokens.len();
        for (what, have) in [("types", v.types.len()), ("scores", v.scores.len())] {
            if have != 0 && have != n {
                return Err(wrong(format!("has {n} tokens and {have} {what}")));
            }
        }
        if let Some(bos) = v.bos.filter(|b| *b as usize >= n) {
            return Err(wrong(format!("begins text with token {bos}, of {n}")));
        }
        let bos = v.bos.filter(|_| v.add_bos);
        let inner = guarded(|| match v.model.as_str() {
            "gpt2" => byte_level(&v),
            "llama" => sentence_piece(&v),
            other => Err(wrong(format!("has a vocabulary of the kind \"{other}\": gpt2 and llama can be read"))),
        })?;
        Tokenizer { inner, bos }.tried()
    }

    /// Splits and joins a few characters of several kinds, so that what fails on any text fails now.
    fn tried(self) -> Result<Tokenizer> {
        let ids = self.encode("a B1é\n", true)?;
        self.decode(&ids, false)?;
        Ok(self)
    }

    /// From the text of a tokenizer.json. Its own padding and truncation are switched off.
    pub fn from_json(json: &[u8]) -> Result<Tokenizer> {
        check_json(json)?;
        let mut inner =
            guarded(|| tokenizers::Tokenizer::from_bytes(json).map_err(|e| wrong(format!("cannot be read: {e}"))))?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| wrong(e.to_string()))?;
        Tokenizer { inner, bos: None }.tried()
    }

    /// Ids of `text`; with `special`, the markers that the model expects around it too.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        let encoded = guarded(|| {
            self.inner.encode_fast(text, special).map_err(|e| wrong(format!("cannot split the text: {e}")))
        })?;
        let mut ids = encoded.get_ids().to_vec();
        if let Some(bos) = self.bos.filter(|bos| special && ids.first() != Some(bos)) {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    /// Text of `ids`.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        guarded(|| self.inner.decode(ids, skip_special).map_err(|e| wrong(format!("cannot join tokens: {e}"))))
    }

    pub(super) fn inner(&self) -> &tokenizers::Tokenizer {
        &self.inner
    }
    /// The text of one token, markers included.
    pub fn token_text(&self, id: u32) -> String {
        self.decode(&[id], false).unwrap_or_default()
    }
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }
}

fn wrong(what: impl Into<String>) -> Error {
    Error::model("tokenizer", what)
}

thread_local! {
    static GUARDED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Whether this thread is inside of the tokenizers library, where a panic becomes an error: a program's panic hook may
/// then be silent.
pub fn is_guarded() -> bool {
    GUARDED.get()
}

/// Runs the library; a panic inside of it becomes an error.
pub(super) fn guarded<R>(f: impl FnOnce() -> Result<R>) -> Result<R> {
    GUARDED.set(true);
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f));
    GUARDED.set(false);
    done.unwrap_or_else(|_| Err(wrong("is damaged: reading it failed inside of the tokenizers library")))
}

fn ids(v: &Vocabulary) -> Result<HashMap<String, u32>> {
    let mut map = HashMap::with_capacity(v.tokens.len());
    for (i, token) in v.tokens.iter().enumerate() {
        if map.insert(token.clone(), i as u32).is_some() && !matches!(v.types.get(i), Some(3..=5)) {
            return Err(wrong(format!("has token {i} ({token:?}) twice")));
        }
    }
    Ok(map)
}

fn byte_level(v: &Vocabulary) -> Result<tokenizers::Tokenizer> {
    let known = || RULES.iter().map(|r| r.0).filter(|n| !n.is_empty()).collect::<Vec<_>>().join(", ");
    let rule = RULES.iter().find(|r| r.0 == v.pre);
    let (_, digits, pattern) =
        rule.ok_or_else(|| wrong(format!("splits text by the rule \"{}\": {} are known", v.pre, known())))?;
    let vocab = ids(v)?;
    let mut merges = Vec::with_capacity(v.merges.len());
    for m in &v.merges {
        let (a, b) = m.split_once(' ').ok_or_else(|| wrong(format!("has the merge {m:?}, it must be two pieces")))?;
        if !vocab.contains_key(a) || !vocab.contains_key(b) || !vocab.contains_key(&format!("{a}{b}")) {
            return Err(wrong(format!("merges {m:?}, of which a piece or the result is no token")));
        }
        merges.push((a.to_string(), b.to_string()));
    }
    let bpe = BPE::builder()
        .vocab_and_merges(vocab.into_iter().collect::<tokenizers::models::bpe::Vocab>(), merges)
        .build()
        .map_err(|e| wrong(e.to_string()))?;
    let mut tokenizer = tokenizers::Tokenizer::new(bpe);
    let mut steps: Vec<PreTokenizerWrapper> = vec![];
    if *digits {
        steps.push(Digits::new(true).into());
    }
    if let Some(pattern) = pattern {
        let split = Split::new(SplitPattern::Regex(pattern.to_string()), SplitDelimiterBehavior::Isolated, false);
        steps.push(split.map_err(|e| wrong(e.to_string()))?.into());
    }
    steps.push(ByteLevel::new(false, false, pattern.is_none()).into());
    tokenizer.with_pre_tokenizer(Some(Sequence::new(steps)));
    tokenizer.with_decoder(Some(ByteLevelDecoder::default()));
    add_special(&mut tokenizer, v)?;
    Ok(tokenizer)
}

/// SentencePiece BPE: every split of a piece into two pieces is a merge, better scores first.
fn sentence_piece(v: &Vocabulary) -> Result<tokenizers::Tokenizer> {
    let vocab = ids(v)?;
    let mut ranked: Vec<(f64, u32, String, String)> = vec![];
    for (i, token) in v.tokens.iter().enumerate().filter(|(_, t)| t.len() <= 256) {
        for (at, _) in token.char_indices().skip(1) {
            let (a, b) = token.split_at(at);
            if vocab.contains_key(a) && vocab.contains_key(b) {
                ranked.push((-v.scores.get(i).copied().unwrap_or(0.0), i as u32, a.into(), b.into()));
            }
        }
    }
    ranked.sort_by(|x, y| x.0.total_cmp(&y.0).then(x.1.cmp(&y.1)));
    let merges = ranked.into_iter().map(|r| (r.2, r.3)).collect::<Vec<_>>();
    let unknown = v.types.iter().position(|t| *t == 2).map(|i| v.tokens[i].clone());
    let mut builder = BPE::builder()
        .vocab_and_merges(vocab.into_iter().collect::<tokenizers::models::bpe::Vocab>(), merges)
        .byte_fallback(true)
        .fuse_unk(true);
    if let Some(unknown) = unknown {
        builder = builder.unk_token(unknown);
    }
    let mut tokenizer = tokenizers::Tokenizer::new(builder.build().map_err(|e| wrong(e.to_string()))?);
    let space = Replace::new(" ", "▁").map_err(|e| wrong(e.to_string()))?;
    let mut steps = vec![space.into()];
    if v.add_space_prefix {
        steps.insert(0, Prepend::new("▁".into()).into());
    }
    tokenizer.with_normalizer(Some(NormalizerSequence::new(steps))).map_err(|e| wrong(e.to_string()))?;
    let back = Replace::new("▁", " ").map_err(|e| wrong(e.to_string()))?;
    let mut decoders = vec![back.into(), ByteFallback::new().into(), Fuse::new().into()];
    if v.add_space_prefix {
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    tokenizer.with_decoder(Some(DecoderSequence::new(decoders)));
    add_special(&mut tokenizer, v)?;
    Ok(tokenizer)
}

/// Control and user-defined tokens are found whole in text.
fn add_special(tokenizer: &mut tokenizers::Tokenizer, v: &Vocabulary) -> Result<()> {
    let of = |kind: i64| {
        v.tokens.iter().zip(&v.types).filter(move |(t, k)| **k == kind && !t.is_empty()).map(|(t, _)| t.clone())
    };
    let control: Vec<AddedToken> = of(3).map(|t| AddedToken::from(t, true).normalized(false)).collect();
    let user: Vec<AddedToken> = of(4).map(|t| AddedToken::from(t, false).normalized(false)).collect();
    tokenizer.add_special_tokens(control).map_err(|e| wrong(e.to_string()))?;
    tokenizer.add_tokens(user).map_err(|e| wrong(e.to_string()))?;
    Ok(())
}

/// Refuses what the library would crash on: ids far beyond the vocabulary, duplicates, merges of unknown pieces.
fn check_json(json: &[u8]) -> Result<()> {
    if json.len() > MAX_JSON {
        return Err(wrong(format!("has {} bytes, at most {MAX_JSON} are read", json.len())));
    }
    let parsed: serde_json::Value =
        serde_json::from_slice(json).map_err(|e| wrong(format!("is not valid JSON: {e}")))?;
    let model = parsed.get("model").ok_or_else(|| wrong("lacks its model"))?;
    check_steps(&parsed)?;
    if let Some(n) = model.get("max_input_chars_per_word").and_then(|n| n.as_u64()).filter(|n| *n > MAX_WORD) {
        return Err(wrong(format!("allows words of {n} characters, at most {MAX_WORD} can be used")));
    }
    let mut all: HashSet<u64> = HashSet::new();
    let vocab = model.get("vocab");
    let entries: Vec<(String, u64)> = match vocab {
        Some(serde_json::Value::Object(map)) => map
            .iter()
            .map(|(k, v)| {
                v.as_u64().map(|n| (k.clone(), n)).ok_or_else(|| wrong(format!("gives {k:?} an id that is no number")))
            })
            .collect::<Result<_>>()?,
        Some(serde_json::Value::Array(list)) => (0..list.len()).map(|i| (i.to_string(), i as u64)).collect(),
        _ => return Err(wrong("lacks its vocabulary")),
    };
    let added = parsed.get("added_tokens").and_then(|a| a.as_array()).map_or(0, Vec::len);
    let most = (entries.len() + added) as u64 * 2 + 1024;
    for (token, id) in &entries {
        if *id >= most.min(MAX_TOKENS as u64) {
            return Err(wrong(format!("gives {token:?} the id {id}, with {} tokens", entries.len())));
        }
        if !all.insert(*id) {
            return Err(wrong(format!("gives two tokens the id {id}")));
        }
    }
    let added = parsed.get("added_tokens").and_then(|a| a.as_array());
    for token in added.into_iter().flatten() {
        let content = token.get("content").and_then(|c| c.as_str()).unwrap_or_default();
        if content.is_empty() || token.get("id").and_then(|i| i.as_u64()).is_none_or(|i| i >= MAX_TOKENS as u64) {
            return Err(wrong("adds a token without text or with an id out of range"));
        }
    }
    if let (Some(merges), Some(map)) =
        (model.get("merges").and_then(|m| m.as_array()), vocab.and_then(|v| v.as_object()))
    {
        for m in merges {
            let pair = match (m.as_str(), m.as_array().map(Vec::as_slice)) {
                (Some(s), _) => s.split_once(' '),
                (_, Some([a, b])) => a.as_str().zip(b.as_str()),
                _ => None,
            };
            let (a, b) = pair.ok_or_else(|| wrong(format!("has the merge {m}, it must be two pieces")))?;
            if !map.contains_key(a) || !map.contains_key(b) {
                return Err(wrong(format!("merges {a:?} and {b:?}, of which one is no token")));
            }
        }
    }
    Ok(())
}

/// Refuses steps around the model that make far more of a text than it is: replacements that grow, one after another,
/// and templates of thousands of markers.
fn check_steps(json: &serde_json::Value) -> Result<()> {
    for part in ["normalizer", "pre_tokenizer", "decoder"] {
        let mut growth = 1.0;
        let mut steps = 0;
        let mut open: Vec<&serde_json::Value> = json.get(part).into_iter().collect();
        while let Some(step) = open.pop() {
            steps += 1;
            growth *= replacement_growth(step);
            check_step(step)?;
            open.extend(
                ["normalizers", "pretokenizers", "decoders"].iter().filter_map(|k| step.get(k)?.as_array()).flatten(),
            );
        }
        if growth > MAX_GROWTH || steps > MAX_STEPS {
            return Err(wrong(format!(
                "has a {part} of {steps} steps that make a text {growth:.0} times as long: {MAX_STEPS} and {MAX_GROWTH} times can be run"
            )));
        }
    }
    let mut markers = 0;
    let mut open: Vec<&serde_json::Value> = json.get("post_processor").into_iter().collect();
    while let Some(step) = open.pop() {
        let ids = |name: &str| step["special_tokens"][name]["ids"].as_array().map_or(1, Vec::len);
        let pieces = [&step["single"], &step["pair"]].into_iter().filter_map(|p| p.as_array()).flatten();
        markers += pieces.map(|p| p["SpecialToken"]["id"].as_str().map_or(0, ids)).sum::<usize>();
        open.extend(step["processors"].as_array().into_iter().flatten());
    }
    match markers {
        0..=MAX_MARKERS => Ok(()),
        n => Err(wrong(format!("puts {n} markers around a text, at most {MAX_MARKERS} can be used"))),
    }
}

/// Refuses a step that the library would crash on or allocate gigabytes for.
fn check_step(step: &serde_json::Value) -> Result<()> {
    if step["type"] == "FixedLength" && step["length"].as_u64() == Some(0) {
        return Err(wrong("splits text into pieces of no length"));
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

/// How many times as long a replacement can make a text.
fn replacement_growth(step: &serde_json::Value) -> f64 {
    let Some(to) = step["content"].as_str().filter(|_| step["type"] == "Replace") else { return 1.0 };
    match step["pattern"]["String"].as_str() {
        Some(from) if !from.is_empty() => (to.len() as f64 / from.len() as f64).max(1.0),
        // A pattern may match nothing, and so stand before every letter.
        _ => to.len() as f64 + 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes as GPT-2 writes them, and a few merges.
    fn small() -> Vocabulary {
        let mut tokens: Vec<String> = vec!["<|end|>".into()];
        tokens.extend((b'!'..=b'~').map(|b| (b as char).to_string()));
        tokens.extend(["Ġ", "Ċ", "Ã", "©"].map(String::from));
        tokens.extend(["he", "Ġt", "Ġthe"].map(String::from));
        let mut types = vec![1; tokens.len()];
        types[0] = 3;
        let merges = ["h e", "Ġ t", "Ġt he"].map(String::from).to_vec();
        Vocabulary { model: "gpt2".into(), pre: "smollm".into(), tokens, types, merges, ..Default::default() }
    }

    #[test]
    fn text_goes_there_and_back() {
        let t = Tokenizer::from_vocabulary(small()).unwrap();
        let ids = t.encode("a the 12<|end|>é", false).unwrap();
        let pieces: Vec<String> = ids.iter().map(|i| t.inner.id_to_token(*i).unwrap()).collect();
        assert_eq!(pieces, ["a", "Ġthe", "Ġ", "1", "2", "<|end|>", "Ã", "©"]);
        assert_eq!(t.decode(&ids, false).unwrap(), "a the 12<|end|>é");
        assert_eq!(t.decode(&ids, true).unwrap(), "a the 12é");
    }

    #[test]
    fn damaged_vocabularies_are_refused() {
        let refuse = |change: fn(&mut Vocabulary), says: &str| {
            let mut v = small();
            change(&mut v);
            let e = Tokenizer::from_vocabulary(v).err().expect(says).to_string();
            assert!(e.contains(says), "{e}");
        };
        refuse(|v| v.tokens.clear(), "has 0 tokens");
        refuse(|v| v.model = "rwkv".into(), "the kind \"rwkv\"");
        refuse(|v| v.pre = "mystery".into(), "the rule \"mystery\"");
        refuse(|v| v.merges.push("zz y".into()), "no token");
        refuse(|v| v.merges.push("zz".into()), "two pieces");
        refuse(|v| v.tokens[5] = "a".into(), "twice");
    }

    #[test]
    fn damaged_json_is_refused() {
        let cases: &[&str] = &[
            "",
            "{",
            "[]",
            "{}",
            r#"{"model":{}}"#,
            r#"{"model":{"type":"BPE","vocab":{"a":99999999999},"merges":[]}}"#,
            r#"{"model":{"type":"BPE","vocab":{"a":0,"b":0},"merges":[]}}"#,
            r#"{"model":{"type":"BPE","vocab":{"a":-1},"merges":[]}}"#,
            r#"{"model":{"type":"BPE","vocab":{"a":0},"merges":["a q"]}}"#,
            r#"{"model":{"type":"BPE","vocab":{"a":0},"merges":[["a"]]}}"#,
            r#"{"model":{"type":"BPE","vocab":{"a":0},"merges":[]},"added_tokens":[{"id":4294967295,"content":"x"}]}"#,
            r#"{"model":{"type":"BPE","vocab":{"a":0},"merges":[]},"added_tokens":[{"id":1,"content":""}]}"#,
            r#"{"model":{"type":"Nothing","vocab":{"a":0}}}"#,
            r#"{"model":{"type":"WordPiece","vocab":{"a":0}},"pre_tokenizer":{"type":"Split","pattern":{"Regex":"("},"behavior":"Isolated","invert":false}}"#,
        ];
        for json in cases {
            assert!(Tokenizer::from_json(json.as_bytes()).is_err(), "{json}");
        }
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(Tokenizer::from_json(deep.as_bytes()).is_err());
    }
}

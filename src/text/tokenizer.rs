//! Text to ids and back, whatever kind of file the tokenizer came in, within bounds of memory and time.

use super::{json, vocab};
use crate::base::{Budget, Error, Limits, Result};
use std::time::Duration;

pub use vocab::Vocabulary;

/// What splitting a text of so many bytes may take. A file may make a text longer, by a phrase or some times its length; memory is
/// a hundred times that, for each letter's place in the original is kept.
fn limits(bytes: usize) -> Limits {
    let value = (48 << 20) + (bytes as u64).saturating_mul(640);
    Limits {
        value: value.min(768 << 20),
        bytes: value.saturating_mul(16).min(4 << 30),
        steps: 1 << 30,
        depth: 64,
        time: Duration::from_secs(10),
    }
}

/// Text to ids and back.
///
/// ```no_run
/// use warpweft::Tokenizer;
///
/// let tokenizer = Tokenizer::from_json(&std::fs::read("tokenizer.json").unwrap())?;
/// let ids = tokenizer.encode("Once upon a time", false)?;
/// assert_eq!(tokenizer.decode(&ids, true)?, "Once upon a time");
/// # Ok::<(), warpweft::Error>(())
/// ```
pub struct Tokenizer(Engine);

#[expect(clippy::large_enum_variant, reason = "there is one for each model")]
enum Engine {
    /// Of GGUF metadata.
    Vocabulary(vocab::Engine),
    /// Of a tokenizer.json.
    Json(Box<json::Engine>),
}

impl Tokenizer {
    /// # Errors
    /// A kind of vocabulary or splitting rule that is not known, duplicates, merges of pieces that do not exist.
    pub fn from_vocabulary(v: Vocabulary) -> Result<Tokenizer> {
        vocab::Engine::new(v).map(|e| Tokenizer(Engine::Vocabulary(e)))
    }

    /// From the text of a tokenizer.json. Its own padding and truncation are switched off.
    ///
    /// # Errors
    /// What is damaged, too large, random, or of an unknown kind.
    pub fn from_json(json: &[u8]) -> Result<Tokenizer> {
        let tokenizer = Tokenizer(Engine::Json(Box::new(json::Engine::new(json)?)));
        // Splits and joins a few characters of several kinds, so that what fails on any text fails now.
        let ids = tokenizer.encode("a B1é\n", true)?;
        tokenizer.decode(&ids, false)?;
        Ok(tokenizer)
    }

    /// Ids of `text`; with `special`, the markers that the model expects around it too.
    ///
    /// # Errors
    /// Bytes that the vocabulary does not know, and what takes too much memory or time.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        let budget = Budget::new("tokenizer", limits(text.len()));
        match &self.0 {
            Engine::Vocabulary(e) => e.encode(text, special, &budget),
            Engine::Json(e) => e.encode(text, special, &budget),
        }
    }

    /// Text of `ids`. Bytes that are no text become U+FFFD.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        let mut bytes = vec![];
        for id in ids {
            if !self.push_bytes(*id, skip_special, &mut bytes) {
                return match &self.0 {
                    Engine::Json(e) => e.decode(ids, skip_special),
                    Engine::Vocabulary(_) => Ok(String::new()),
                };
            }
        }
        let strips = match &self.0 {
            Engine::Vocabulary(e) => e.strips_first_space(),
            Engine::Json(e) => e.strips_first_space(),
        };
        let text = bytes.strip_prefix(b" ").filter(|_| strips).unwrap_or(&bytes);
        Ok(String::from_utf8_lossy(text).into_owned())
    }

    /// Adds the bytes of a token as it stands within a text; false where they depend on its neighbours.
    pub(super) fn push_bytes(&self, id: u32, skip_special: bool, out: &mut Vec<u8>) -> bool {
        match &self.0 {
            Engine::Vocabulary(e) => {
                e.push_bytes(id, skip_special, out);
                true
            }
            Engine::Json(e) => e.push_bytes(id, skip_special, out),
        }
    }

    /// The text of one token as it stands within a text, markers included.
    pub fn token_text(&self, id: u32) -> String {
        let mut bytes = vec![];
        match self.push_bytes(id, false, &mut bytes) {
            true => String::from_utf8_lossy(&bytes).into_owned(),
            false => self.decode(&[id], false).unwrap_or_default(),
        }
    }
    /// Whether there is such a token.
    pub(super) fn has(&self, id: u32) -> bool {
        match &self.0 {
            Engine::Vocabulary(e) => (id as usize) < e.len(),
            Engine::Json(e) => e.has(id),
        }
    }
    /// Whether a token is a marker rather than text.
    pub fn is_marker(&self, id: u32) -> bool {
        match &self.0 {
            Engine::Vocabulary(e) => e.is_marker(id),
            Engine::Json(e) => e.is_marker(id),
        }
    }
    /// The id of a token by its text, markers included.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        match &self.0 {
            Engine::Vocabulary(e) => e.token_id(token),
            Engine::Json(e) => e.token_id(token),
        }
    }
    /// Tokens that there are.
    pub fn vocab_size(&self) -> usize {
        match &self.0 {
            Engine::Vocabulary(e) => e.len(),
            Engine::Json(e) => e.len(),
        }
    }
    /// What was guessed where the file does not say: sentences for people.
    pub fn notes(&self) -> &[String] {
        match &self.0 {
            Engine::Vocabulary(e) => &e.notes,
            Engine::Json(_) => &[],
        }
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
    let before = GUARDED.replace(true);
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f));
    GUARDED.set(before);
    done.unwrap_or_else(|_| Err(wrong("is damaged: reading it failed inside of the tokenizers library")))
}

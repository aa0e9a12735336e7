//! Tokenizers of tokenizer.json files, whose steps are run by the `tokenizers` crate.
//!
//! That crate trusts its input and cannot be stopped. So what would make it crash is refused first ([`check`]), its steps are
//! driven from here one by one, and each is charged to a budget before it makes or does anything ([`steps`]).

mod check;
mod steps;

use super::vocab::{alphabet_bytes, byte_of};
use crate::base::{Budget, Error, Result};
use serde_json::Value;
use steps::{Metered, PreSteps};
use tokenizers::{Model, OffsetType, Token};

pub(super) fn wrong(what: impl Into<String>) -> Error {
    Error::model("tokenizer", what)
}

/// Bytes of a text that the library is given at once as one piece: the work of some models grows with the square of it.
const MAX_TEXT: usize = 32 << 20;

pub struct Engine {
    inner: tokenizers::Tokenizer,
    steps: PreSteps,
    flow: Flow,
}

/// How tokens become text, where each one's bytes do not depend on its neighbours.
enum Flow {
    /// Letters are bytes in GPT-2's alphabet.
    ByteLevel,
    /// This letter is a space; `<0x41>` is a byte where `bytes`; a text's first space is none of it where `strips`.
    Spaced { space: char, bytes: bool, strips: bool },
    /// Only the library knows.
    Unknown,
}

impl Engine {
    /// # Errors
    /// What is damaged, too large, or of an unknown kind. Padding and truncation are switched off.
    pub fn new(json: &[u8]) -> Result<Engine> {
        let parts = check::check(json)?;
        let mut inner = super::guarded(|| {
            tokenizers::Tokenizer::from_bytes(json).map_err(|e| wrong(format!("cannot be read: {e}")))
        })?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| wrong(e.to_string()))?;
        let steps = PreSteps::new(inner.get_normalizer(), inner.get_pre_tokenizer(), parts.longest)?;
        Ok(Engine { steps, inner, flow: flow(&parts.decoder) })
    }

    /// Ids of `text`; with `special`, the markers that the model expects around it too.
    pub fn encode(&self, text: &str, special: bool, budget: &Budget) -> Result<Vec<u32>> {
        if text.len() > MAX_TEXT {
            return Err(wrong(format!("is given a text of {} bytes, at most {MAX_TEXT} can be split", text.len())));
        }
        let failed = |e: tokenizers::Error| match e.downcast::<Error>() {
            Ok(own) => *own,
            Err(e) => wrong(format!("cannot split the text: {e}")),
        };
        super::guarded(|| {
            let metered = Metered::new(&self.steps, budget);
            let mut pieces = self.inner.get_added_vocabulary().extract_and_normalize(Some(&metered), text);
            metered.finish()?;
            self.steps.split(&mut pieces, budget).map_err(failed)?;
            pieces.tokenize(|piece| self.piece(piece.get(), budget)).map_err(failed)?;
            let encoding = pieces.into_encoding(None, 0, OffsetType::None).map_err(failed)?;
            let encoding = self.inner.post_process(encoding, None, special).map_err(failed)?;
            Ok(encoding.get_ids().to_vec())
        })
    }

    fn piece(&self, piece: &str, budget: &Budget) -> Result<Vec<Token>, tokenizers::Error> {
        budget.work(self.steps.cost(self.inner.get_model(), piece))?;
        budget.make(piece.len() * 8)?;
        let tokens = self.inner.get_model().tokenize(piece)?;
        budget.time()?;
        Ok(tokens)
    }

    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        super::guarded(|| self.inner.decode(ids, skip_special).map_err(|e| wrong(format!("cannot join tokens: {e}"))))
    }

    /// Adds the bytes of a token as it stands within a text; false where only the library can tell.
    pub fn push_bytes(&self, id: u32, skip_special: bool, out: &mut Vec<u8>) -> bool {
        if matches!(self.flow, Flow::Unknown) {
            return false;
        }
        let Some(token) = self.inner.id_to_token(id) else { return true };
        let added = self.inner.get_added_vocabulary();
        if skip_special && added.is_special_token(&token) {
            return true;
        }
        if added.get_vocab().get(&token) == Some(&id) {
            out.extend_from_slice(token.as_bytes());
            return true;
        }
        match &self.flow {
            Flow::ByteLevel => out.extend(alphabet_bytes(&token).unwrap_or_else(|| token.into_bytes())),
            Flow::Spaced { space, bytes, .. } => match byte_of(token.as_bytes()).filter(|_| *bytes) {
                Some(b) => out.push(b),
                None => out.extend(token.replace(*space, " ").into_bytes()),
            },
            Flow::Unknown => {}
        }
        true
    }

    pub fn has(&self, id: u32) -> bool {
        self.inner.id_to_token(id).is_some()
    }
    pub fn is_marker(&self, id: u32) -> bool {
        self.inner.get_added_vocabulary().get_added_tokens_decoder().get(&id).is_some_and(|t| t.special)
    }
    pub fn strips_first_space(&self) -> bool {
        matches!(self.flow, Flow::Spaced { strips: true, .. })
    }
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }
    pub fn len(&self) -> usize {
        self.inner.get_vocab_size(true)
    }
}

/// What a decoder does, where it is one of those that treat each token by itself.
fn flow(decoder: &Value) -> Flow {
    let own;
    let steps: &[Value] = match (decoder["type"].as_str(), decoder["decoders"].as_array()) {
        (Some("Sequence"), Some(list)) => list,
        _ => {
            own = [decoder.clone()];
            &own
        }
    };
    let (mut space, mut bytes, mut strips) = (None, false, false);
    for step in steps {
        match step["type"].as_str() {
            Some("ByteLevel") if steps.len() == 1 => return Flow::ByteLevel,
            Some("Metaspace") => {
                space = step["replacement"].as_str().and_then(|s| s.chars().next());
                let prefix = step["add_prefix_space"].as_bool().unwrap_or(true);
                strips = step["prepend_scheme"].as_str().map_or(prefix, |s| s != "never");
            }
            Some("Replace") if step["content"] == " " => match step["pattern"]["String"].as_str() {
                Some(from) if from.chars().count() == 1 => space = from.chars().next(),
                _ => return Flow::Unknown,
            },
            Some("ByteFallback") => bytes = true,
            Some("Fuse") => {}
            Some("Strip") if step["content"] == " " && step["start"] == 1 && step["stop"] == 0 => strips = true,
            _ => return Flow::Unknown,
        }
    }
    space.map_or(Flow::Unknown, |space| Flow::Spaced { space, bytes, strips })
}

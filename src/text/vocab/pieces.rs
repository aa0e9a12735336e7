//! The tokens of a vocabulary, their kinds and scores, and how they are found: each string is kept once.

use crate::base::{Error, Result, Texts};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

/// The most tokens of a vocabulary, and bytes of one of them.
pub const MAX_TOKENS: usize = 1 << 20;
pub const MAX_TOKEN: usize = 4096;

/// What a token is, by ggml's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Normal,
    /// Stands for what no token spells.
    Unknown,
    /// A marker: never text.
    Control,
    /// Text that is found whole.
    UserDefined,
    Unused,
    /// One byte, `<0x41>`.
    Byte,
}

impl Kind {
    fn from_ggml(n: i64) -> Kind {
        match n {
            2 => Kind::Unknown,
            3 => Kind::Control,
            4 => Kind::UserDefined,
            5 => Kind::Unused,
            6 => Kind::Byte,
            _ => Kind::Normal,
        }
    }
}

/// Tokens by id and by their bytes.
pub struct Pieces {
    texts: Arc<Texts>,
    kinds: Vec<Kind>,
    pub scores: Vec<f32>,
    /// Open addressing: ids, by the hash of their bytes.
    slots: Vec<u32>,
    hash: RandomState,
    longest: usize,
}

const FREE: u32 = u32::MAX;

impl Pieces {
    /// # Errors
    /// No tokens or too many, one that is too long, one that is there twice (unless it is a marker or not used).
    pub fn new(texts: Arc<Texts>, types: &[i64], scores: &[f64]) -> Result<Pieces> {
        let n = texts.len();
        if n == 0 || n > MAX_TOKENS {
            return Err(super::wrong(format!("has {n} tokens, 1 to {MAX_TOKENS} can be used")));
        }
        for (what, have) in [("types", types.len()), ("scores", scores.len())] {
            if have != 0 && have != n {
                return Err(super::wrong(format!("has {n} tokens and {have} {what}")));
            }
        }
        let kinds = types.iter().map(|t| Kind::from_ggml(*t)).collect();
        let scores = scores.iter().map(|s| *s as f32).collect();
        let slots = vec![FREE; (n * 2).next_power_of_two()];
        let mut out = Pieces { texts, kinds, scores, slots, hash: RandomState::new(), longest: 0 };
        for id in 0..n as u32 {
            out.insert(id)?;
        }
        Ok(out)
    }

    fn insert(&mut self, id: u32) -> Result<()> {
        let text = self.texts.get(id as usize).unwrap_or_default();
        if text.len() > MAX_TOKEN {
            let long = text.len();
            return Err(super::wrong(format!("has token {id} of {long} bytes, at most {MAX_TOKEN} can be used")));
        }
        self.longest = self.longest.max(text.len());
        let mut at = self.place(text);
        while self.slots[at] != FREE {
            if self.texts.get(self.slots[at] as usize) == Some(text) {
                // Markers and unused tokens may share a text; the first is found by it.
                return match self.kind(id) {
                    Kind::Control | Kind::UserDefined | Kind::Unused => Ok(()),
                    _ => Err(super::wrong(format!("has token {id} ({:?}) twice", self.shown(id)))),
                };
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
        self.slots[at] = id;
        Ok(())
    }

    fn place(&self, text: &[u8]) -> usize {
        self.hash.hash_one(text) as usize & (self.slots.len() - 1)
    }

    pub fn len(&self) -> usize {
        self.texts.len()
    }
    /// Bytes of the longest token.
    pub fn longest(&self) -> usize {
        self.longest
    }
    pub fn id(&self, text: &[u8]) -> Option<u32> {
        if text.len() > self.longest {
            return None;
        }
        let mut at = self.place(text);
        loop {
            let id = self.slots[at];
            if id == FREE {
                return None;
            }
            if self.texts.get(id as usize) == Some(text) {
                return Some(id);
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }
    pub fn text(&self, id: u32) -> Option<&[u8]> {
        self.texts.get(id as usize)
    }
    /// For people.
    pub fn shown(&self, id: u32) -> String {
        String::from_utf8_lossy(self.text(id).unwrap_or_default()).into_owned()
    }
    pub fn kind(&self, id: u32) -> Kind {
        self.kinds.get(id as usize).copied().unwrap_or(Kind::Normal)
    }
    pub fn score(&self, id: u32) -> f32 {
        self.scores.get(id as usize).copied().unwrap_or(0.0)
    }
    pub fn ids(&self) -> std::ops::Range<u32> {
        0..self.len() as u32
    }
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = u32> + '_ {
        self.ids().filter(move |id| self.kind(*id) == kind)
    }
    /// The token of each byte, as SentencePiece writes them.
    pub fn byte_tokens(&self) -> Vec<Option<u32>> {
        (0..256).map(|b| self.id(format!("<0x{b:02X}>").as_bytes())).collect()
    }
    /// # Errors
    /// An id that is none.
    pub fn check(&self, what: &str, id: u32) -> Result<(), Error> {
        match (id as usize) < self.len() {
            true => Ok(()),
            false => Err(super::wrong(format!("{what} token {id}, of {}", self.len()))),
        }
    }
}

/// The byte of a token such as `<0x41>`.
pub fn byte_of(token: &[u8]) -> Option<u8> {
    let hex = token.strip_prefix(b"<0x")?.strip_suffix(b">")?;
    (hex.len() == 2).then(|| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok())?
}

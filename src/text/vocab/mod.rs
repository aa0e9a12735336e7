//! Tokenizers of GGUF files: their metadata holds a vocabulary and the name of a kind.

mod alphabet;
mod bpe;
mod charsmap;
mod pieces;
mod rules;
mod spm;
mod unigram;
mod wordpiece;

pub use pieces::MAX_TOKENS;
pub use rules::RULES;
pub(super) use {alphabet::bytes as alphabet_bytes, pieces::byte_of};

use crate::base::{Budget, Error, Result, Texts};
use aho_corasick::{AhoCorasick, MatchKind};
use bpe::Bpe;
use charsmap::Charsmap;
use pieces::{Kind, Pieces};
use spm::Spm;
use std::sync::Arc;
use unigram::{Spaces, Unigram};
use wordpiece::WordPiece;

/// Bytes of all tokens that are found whole in text.
const MAX_MARKERS: usize = 1 << 20;

/// A vocabulary as GGUF metadata gives it; what is not there is the kind's own default.
#[derive(Debug, Clone, Default)]
pub struct Vocabulary {
    /// `gpt2` (byte-level BPE), `gemma4` (BPE over letters), `llama` (SentencePiece BPE), `bert` (WordPiece) or `t5` (Unigram).
    pub model: String,
    /// Which rule splits text into words first; empty where the file names none.
    pub pre: String,
    pub tokens: Arc<Texts>,
    pub scores: Vec<f64>,
    /// ggml's token types: 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    pub types: Vec<i64>,
    pub merges: Arc<Texts>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub unknown: Option<u32>,
    pub separator: Option<u32>,
    pub class: Option<u32>,
    pub add_bos: Option<bool>,
    pub add_eos: Option<bool>,
    pub add_separator: Option<bool>,
    pub add_space_prefix: Option<bool>,
    pub merge_spaces: Option<bool>,
    /// SentencePiece's table of letters that stand for others.
    pub charsmap: Vec<u8>,
    /// WordPiece: whether letters become small ones, and lose their accents.
    pub lowercase: Option<bool>,
    pub strip_accents: Option<bool>,
}

enum Model {
    Bpe(Bpe),
    Spm(Spm),
    WordPiece(WordPiece),
    Unigram(Unigram),
}

/// A tokenizer made of a vocabulary.
pub struct Engine {
    pieces: Pieces,
    model: Model,
    /// Tokens that are found whole in text, by their number among `marker_ids`.
    markers: Option<AhoCorasick>,
    marker_ids: Vec<u32>,
    /// Set before and behind every text.
    first: Option<u32>,
    last: Option<u32>,
    space_prefix: bool,
    /// What was guessed.
    pub notes: Vec<String>,
}

pub(super) fn wrong(what: impl Into<String>) -> Error {
    Error::model("tokenizer", what)
}

impl Engine {
    /// # Errors
    /// A kind of vocabulary or splitting rule that is not known, duplicates, merges of pieces that do not exist, markers
    /// outside of the vocabulary.
    pub fn new(v: Vocabulary) -> Result<Engine> {
        let pieces = Pieces::new(v.tokens.clone(), &v.types, &v.scores)?;
        let begins = [("begins text with", v.bos), ("ends text with", v.eos), ("has the unknown", v.unknown)];
        let others = [("separates texts by", v.separator), ("begins text with", v.class)];
        for (what, id) in begins.into_iter().chain(others) {
            id.map_or(Ok(()), |id| pieces.check(what, id))?;
        }
        let mut notes = vec![];
        let plan = match v.model.as_str() {
            "gpt2" => byte_pairs(&v, &pieces, &mut notes)?,
            "gemma4" => byte_pairs(&Vocabulary { pre: "gemma4".into(), ..v.clone() }, &pieces, &mut notes)?,
            "llama" => sentence_pieces(&v, &pieces)?,
            "bert" => word_pieces(&v, &pieces)?,
            "t5" => unigrams(&v, &pieces)?,
            other => {
                let kinds = "gpt2, gemma4, llama, bert and t5 can be read";
                return Err(wrong(format!("has a vocabulary of the kind \"{other}\": {kinds}")));
            }
        };
        let (markers, marker_ids) = markers(&pieces)?;
        let Plan { model, first, last, space_prefix } = plan;
        Ok(Engine { pieces, model, markers, marker_ids, first, last, space_prefix, notes })
    }

    /// Ids of `text`; with `special`, the markers that the model expects around it too.
    pub fn encode(&self, text: &str, special: bool, budget: &Budget) -> Result<Vec<u32>> {
        let mut out = vec![];
        let mut done = 0;
        for found in self.markers.iter().flat_map(|m| m.find_iter(text)) {
            self.fragment(&text[done..found.start()], budget, &mut out)?;
            out.push(self.marker_ids[found.pattern().as_usize()]);
            done = found.end();
        }
        self.fragment(&text[done..], budget, &mut out)?;
        if special {
            if let Some(first) = self.first.filter(|f| out.first() != Some(f)) {
                out.insert(0, first);
            }
            out.extend(self.last.filter(|l| out.last() != Some(l)));
        }
        Ok(out)
    }

    /// Text between markers.
    fn fragment(&self, text: &str, budget: &Budget, out: &mut Vec<u32>) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        budget.make(text.len())?;
        match &self.model {
            Model::Bpe(m) => m.encode(&self.pieces, text, budget, out),
            Model::WordPiece(m) => m.encode(&self.pieces, text, budget, out),
            Model::Unigram(m) => m.encode(&self.pieces, text, budget, out),
            Model::Spm(m) => {
                let prefix = if self.space_prefix { "▁" } else { "" };
                m.encode(&self.pieces, &format!("{prefix}{}", text.replace(' ', "▁")), budget, out)
            }
        }
    }

    /// Adds the bytes of a token as it stands within a text: nothing for a marker that is skipped, or for no token.
    pub fn push_bytes(&self, id: u32, skip_special: bool, out: &mut Vec<u8>) {
        let Some(token) = self.pieces.text(id) else { return };
        let kind = self.pieces.kind(id);
        match kind {
            Kind::Control | Kind::Unknown if skip_special => {}
            Kind::Control | Kind::Unknown => out.extend_from_slice(token),
            Kind::Byte => out.extend(byte_of(token)),
            Kind::UserDefined if matches!(self.model, Model::Bpe(_)) => out.extend_from_slice(token),
            Kind::Normal | Kind::UserDefined | Kind::Unused => {
                let text = String::from_utf8_lossy(token);
                let letters = match &self.model {
                    Model::Bpe(m) if m.is_byte_level() => alphabet::bytes(&text),
                    // Files of before token types write bytes so, too.
                    Model::Spm(_) if self.pieces.kind(id) == Kind::Normal => byte_of(token).map(|b| vec![b]),
                    _ => None,
                };
                match letters {
                    Some(bytes) => out.extend(bytes),
                    None => out.extend(text.replace('▁', " ").into_bytes()),
                }
            }
        }
    }

    pub fn is_marker(&self, id: u32) -> bool {
        (id as usize) < self.len() && self.pieces.kind(id) == Kind::Control
    }

    /// Whether a text's first space is none of it: the tokenizer put it there.
    pub fn strips_first_space(&self) -> bool {
        self.space_prefix || matches!(self.model, Model::WordPiece(_))
    }
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.pieces.id(token.as_bytes())
    }
    pub fn len(&self) -> usize {
        self.pieces.len()
    }
}

/// What a kind of vocabulary comes to.
struct Plan {
    model: Model,
    first: Option<u32>,
    last: Option<u32>,
    space_prefix: bool,
}

fn byte_pairs(v: &Vocabulary, pieces: &Pieces, notes: &mut Vec<String>) -> Result<Plan> {
    let named = if v.pre.is_empty() { "default" } else { &v.pre };
    let known = || RULES.iter().flat_map(|r| r.0).copied().collect::<Vec<_>>().join(", ");
    let rule = rules::rule(named).ok_or_else(|| {
        wrong(format!("splits text by the rule \"{}\": {} are known", crate::base::plain(named, 60), known()))
    })?;
    if v.pre.is_empty() && v.model == "gpt2" {
        notes.push(
            "the file does not say how text is split into words (tokenizer.ggml.pre is missing): \"default\" is taken, answers may suffer".into(),
        );
    }
    let first = v.bos.filter(|_| v.add_bos.unwrap_or(rule.add_bos));
    let last = v.separator.or(v.eos).filter(|_| v.add_separator.unwrap_or(rule.add_sep));
    let last = last.or(v.eos.filter(|_| v.add_eos.unwrap_or(false)));
    Ok(Plan { model: Model::Bpe(Bpe::new(pieces, &v.merges, rule)?), first, last, space_prefix: false })
}

fn sentence_pieces(v: &Vocabulary, pieces: &Pieces) -> Result<Plan> {
    if pieces.scores.iter().any(|s| s.is_nan()) {
        return Err(wrong("has a score that is not a number"));
    }
    let within = |id: u32| ((id as usize) < pieces.len()).then_some(id);
    let unknown = v.unknown.or_else(|| pieces.of_kind(Kind::Unknown).next());
    Ok(Plan {
        model: Model::Spm(Spm::new(pieces, unknown)),
        first: v.bos.or(within(1)).filter(|_| v.add_bos.unwrap_or(true)),
        last: v.eos.or(within(2)).filter(|_| v.add_eos.unwrap_or(false)),
        space_prefix: v.add_space_prefix.unwrap_or(true),
    })
}

fn word_pieces(v: &Vocabulary, pieces: &Pieces) -> Result<Plan> {
    let found = |id: Option<u32>, text: &str| id.or_else(|| pieces.id(text.as_bytes()));
    let unknown = found(v.unknown, "[UNK]").ok_or_else(|| wrong("names no token for unknown words"))?;
    let lowercase = v.lowercase.unwrap_or(true);
    let model = WordPiece::new(unknown, lowercase, v.strip_accents.unwrap_or(lowercase));
    Ok(Plan {
        model: Model::WordPiece(model),
        first: found(v.class.or(v.bos), "[CLS]").filter(|_| v.add_bos.unwrap_or(true)),
        last: found(v.separator, "[SEP]").filter(|_| v.add_separator.unwrap_or(true)),
        space_prefix: false,
    })
}

fn unigrams(v: &Vocabulary, pieces: &Pieces) -> Result<Plan> {
    if pieces.scores.iter().any(|s| s.is_nan()) {
        return Err(wrong("has a score that is not a number"));
    }
    let unknown = v.unknown.or_else(|| pieces.of_kind(Kind::Unknown).next()).or((pieces.len() > 2).then_some(2));
    let unknown = unknown.ok_or_else(|| wrong("names no token for unknown letters"))?;
    let spaces = Spaces { prefix: v.add_space_prefix.unwrap_or(false), merged: v.merge_spaces.unwrap_or(false) };
    let model = Unigram::new(pieces, unknown, Charsmap::new(&v.charsmap)?, spaces);
    let eos = v.eos.or((pieces.len() > 1).then_some(1));
    Ok(Plan {
        model: Model::Unigram(model),
        first: v.bos.filter(|_| v.add_bos.unwrap_or(false)),
        last: eos.filter(|_| v.add_eos.unwrap_or(true)),
        space_prefix: spaces.prefix || spaces.merged,
    })
}

/// Control and user-defined tokens are found whole in text, the longest first.
fn markers(pieces: &Pieces) -> Result<(Option<AhoCorasick>, Vec<u32>)> {
    let kinds = [Kind::Control, Kind::UserDefined];
    let found = kinds.into_iter().flat_map(|k| pieces.of_kind(k));
    let ids: Vec<u32> =
        found.filter(|id| pieces.text(*id).is_some_and(|t| !t.is_empty() && std::str::from_utf8(t).is_ok())).collect();
    let texts = || ids.iter().filter_map(|id| pieces.text(*id));
    let bytes: usize = texts().map(<[u8]>::len).sum();
    if bytes > MAX_MARKERS {
        return Err(wrong(format!("has markers of {bytes} bytes in all, at most {MAX_MARKERS} can be used")));
    }
    if ids.is_empty() {
        return Ok((None, ids));
    }
    let machine = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(texts());
    machine.map(|m| (Some(m), ids)).map_err(|e| wrong(format!("has markers that cannot be found: {e}")))
}

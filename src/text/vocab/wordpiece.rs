//! WordPiece (Wu et al. 2016) as BERT has it: cleaned words, each spelt by the longest tokens from its beginning on.

use super::pieces::Pieces;
use crate::base::{Budget, Result};
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

/// Letters of a word; longer ones are unknown.
const MAX_WORD: usize = 1000;

pub struct WordPiece {
    unknown: u32,
    normalizer: BertNormalizer,
}

impl WordPiece {
    pub fn new(unknown: u32, lowercase: bool, strip_accents: bool) -> WordPiece {
        WordPiece { unknown, normalizer: BertNormalizer::new(true, true, Some(strip_accents), lowercase) }
    }

    pub fn encode(&self, pieces: &Pieces, text: &str, budget: &Budget, out: &mut Vec<u32>) -> Result<()> {
        budget.make(text.len() * 40)?;
        let failed = |e: tokenizers::Error| super::wrong(format!("cannot split the text: {e}"));
        let mut clean = NormalizedString::from(text);
        self.normalizer.normalize(&mut clean).map_err(failed)?;
        let mut words = PreTokenizedString::from(clean);
        BertPreTokenizer.pre_tokenize(&mut words).map_err(failed)?;
        for (word, _, _) in words.get_splits(OffsetReferential::Normalized, OffsetType::None) {
            self.word(pieces, word, budget, out)?;
        }
        Ok(())
    }

    /// In these vocabularies a token that begins a word begins with `▁`, and one that goes on with it has no mark.
    fn word(&self, pieces: &Pieces, word: &str, budget: &Budget, out: &mut Vec<u32>) -> Result<()> {
        let (from, spelt) = (out.len(), format!("▁{word}"));
        let bytes = spelt.as_bytes();
        let mut at = 0;
        while at < bytes.len() && word.len() <= MAX_WORD {
            let most = bytes.len().min(at + pieces.longest());
            budget.work((most - at) as u64)?;
            let Some((end, id)) = (at + 1..=most).rev().find_map(|end| Some((end, pieces.id(&bytes[at..end])?))) else {
                break;
            };
            out.push(id);
            at = end;
        }
        if at < bytes.len() {
            out.truncate(from);
            out.push(self.unknown);
        }
        Ok(())
    }
}

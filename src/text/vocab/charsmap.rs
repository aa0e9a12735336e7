//! SentencePiece's table of letters that stand for others: a double array (Aoe 1989) from byte sequences to texts.

use crate::base::{Budget, Result};

/// The most bytes that one entry may stand for.
const MAX_TEXT: usize = 256;

pub struct Charsmap {
    units: Vec<u32>,
    texts: Vec<u8>,
}

impl Charsmap {
    /// From the table's size in bytes, the table, and the texts that it leads to, each with a zero behind it. Nothing where it
    /// is empty.
    ///
    /// # Errors
    /// Sizes that do not fit together, texts that are not UTF-8 or too long.
    pub fn new(blob: &[u8]) -> Result<Option<Charsmap>> {
        if blob.is_empty() {
            return Ok(None);
        }
        let damaged = |what: &str| super::wrong(format!("has a table of letters of {} bytes that {what}", blob.len()));
        let word = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        let size = blob.get(..4).map(word).ok_or_else(|| damaged("is cut"))? as usize;
        if !size.is_multiple_of(4) || blob.len() - 4 < size {
            return Err(damaged("is damaged: its sizes do not fit together"));
        }
        let (units, texts) = blob[4..].split_at(size);
        if std::str::from_utf8(texts).is_err() {
            return Err(damaged("leads to what is not UTF-8"));
        }
        if texts.split(|b| *b == 0).any(|t| t.len() > MAX_TEXT) {
            return Err(damaged("leads to texts of more than 256 bytes"));
        }
        Ok(Some(Charsmap { units: units.chunks_exact(4).map(word).collect(), texts: texts.to_vec() }))
    }

    /// The text with every longest entry replaced.
    ///
    /// # Errors
    /// More text than the budget has.
    pub fn apply(&self, text: &str, budget: &Budget) -> Result<String> {
        let mut out = String::with_capacity(text.len());
        let mut at = 0;
        while at < text.len() {
            let rest = &text[at..];
            let letter = rest.chars().next().map_or(1, char::len_utf8);
            budget.work(1)?;
            match self.longest(rest.as_bytes()).filter(|(n, _)| rest.is_char_boundary(*n)) {
                Some((n, to)) => {
                    budget.make(to.len())?;
                    out.push_str(to);
                    at += n;
                }
                None => {
                    out.push_str(&rest[..letter]);
                    at += letter;
                }
            }
        }
        Ok(out)
    }

    /// The longest entry that a text begins with: its bytes, and what it stands for.
    fn longest(&self, text: &[u8]) -> Option<(usize, &str)> {
        let offset = |unit: u32| (unit >> 10) << ((unit & 1 << 9) >> 6);
        let mut at = offset(*self.units.first()?);
        let mut found = None;
        for (i, b) in text.iter().take(MAX_TEXT).enumerate().take_while(|(_, b)| **b != 0) {
            at ^= *b as u32;
            let Some(&unit) = self.units.get(at as usize) else { break };
            if unit & (1 << 31 | 0xff) != *b as u32 {
                break;
            }
            at ^= offset(unit);
            if unit >> 8 & 1 == 1 {
                found = self.units.get(at as usize).map(|leaf| (i + 1, leaf & 0x7fff_ffff));
            }
        }
        let (n, at) = found?;
        let to = self.texts.get(at as usize..)?.split(|b| *b == 0).next()?;
        Some((n, std::str::from_utf8(to).ok()?))
    }
}

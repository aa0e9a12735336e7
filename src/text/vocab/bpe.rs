//! Byte-pair encoding by ranked merges (Sennrich et al. 2016), over bytes in GPT-2's alphabet or over letters.

use super::alphabet;
use super::pieces::Pieces;
use super::rules::Rule;
use crate::base::{Budget, Result, Texts};
use fancy_regex::Regex;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Merges that a vocabulary may have, for each of its tokens.
const MERGES_PER_TOKEN: usize = 8;

pub struct Bpe {
    /// (left and right, rank and result), by the pair.
    merges: Vec<(u64, u32, u32)>,
    patterns: Vec<Regex>,
    ignore_merges: bool,
    byte_level: bool,
    /// Tokens of single bytes.
    bytes: Vec<Option<u32>>,
}

fn pair(left: u32, right: u32) -> u64 {
    (left as u64) << 32 | right as u64
}

impl Bpe {
    /// # Errors
    /// Merges of pieces that are no tokens or that make none; a rule whose patterns do not compile.
    pub fn new(pieces: &Pieces, merges: &Texts, rule: Rule) -> Result<Bpe> {
        let most = pieces.len() * MERGES_PER_TOKEN + 1024;
        if merges.len() > most {
            let n = merges.len();
            return Err(super::wrong(format!(
                "has {n} merges for {} tokens, at most {most} can be used",
                pieces.len()
            )));
        }
        let mut out = Vec::with_capacity(merges.len());
        for (rank, merge) in merges.iter().enumerate() {
            let (left, right, made) = parts(pieces, merge)?;
            out.push((pair(left, right), rank as u32, made));
        }
        // The first of a pair that is there twice counts.
        out.sort_unstable();
        out.dedup_by_key(|m| m.0);
        let bytes = match rule.byte_level {
            true => alphabet::letters().iter().map(|c| pieces.id(c.encode_utf8(&mut [0; 4]).as_bytes())).collect(),
            false => pieces.byte_tokens(),
        };
        let patterns = rule.patterns.iter().map(|p| Regex::new(p).map_err(|e| super::wrong(e.to_string())));
        let patterns = patterns.collect::<Result<_>>()?;
        Ok(Bpe { merges: out, patterns, ignore_merges: rule.ignore_merges, byte_level: rule.byte_level, bytes })
    }

    pub fn is_byte_level(&self) -> bool {
        self.byte_level
    }

    pub fn encode(&self, pieces: &Pieces, text: &str, budget: &Budget, out: &mut Vec<u32>) -> Result<()> {
        let spaced;
        let text = match self.byte_level {
            true => text,
            false => {
                spaced = text.replace(' ', "▁");
                &spaced
            }
        };
        let mut words = vec![text];
        for pattern in &self.patterns {
            let mut next = Vec::with_capacity(words.len());
            for word in words {
                split(pattern, word, budget, &mut next)?;
            }
            words = next;
        }
        for word in words {
            budget.work(word.len() as u64 + 1)?;
            self.word(pieces, word, budget, out)?;
        }
        Ok(())
    }

    /// Ids of one word.
    fn word(&self, pieces: &Pieces, word: &str, budget: &Budget, out: &mut Vec<u32>) -> Result<()> {
        // Lines are tokens of their own where merges do not lead to them.
        let whole = self.ignore_merges || (!self.byte_level && word.bytes().all(|b| b == b'\n'));
        if whole {
            let id = match self.byte_level {
                true => {
                    let spelt: String = word.bytes().map(|b| alphabet::letters()[b as usize]).collect();
                    pieces.id(spelt.as_bytes())
                }
                false => pieces.id(word.as_bytes()),
            };
            if let Some(id) = id {
                out.push(id);
                return Ok(());
            }
        }
        let mut symbols = vec![];
        if self.byte_level {
            for b in word.bytes() {
                symbols.push(self.byte(b)?);
            }
        } else {
            for c in word.chars() {
                let mut buffer = [0; 4];
                let letter = c.encode_utf8(&mut buffer).as_bytes();
                match pieces.id(letter) {
                    Some(id) => symbols.push(id),
                    None => {
                        for b in letter {
                            symbols.push(self.byte(*b)?);
                        }
                    }
                }
            }
        }
        budget.make(symbols.len() * 24)?;
        self.merge(symbols, budget, out)
    }

    fn byte(&self, b: u8) -> Result<u32> {
        self.bytes[b as usize].ok_or_else(|| super::wrong(format!("has no token for the byte 0x{b:02x} of the text")))
    }

    fn merged(&self, left: u32, right: u32) -> Option<(u32, u32)> {
        let at = self.merges.binary_search_by_key(&pair(left, right), |m| m.0).ok()?;
        Some((self.merges[at].1, self.merges[at].2))
    }

    /// Merges the pair of the lowest rank, the leftmost of several, until there is none.
    fn merge(&self, mut ids: Vec<u32>, budget: &Budget, out: &mut Vec<u32>) -> Result<()> {
        const GONE: u32 = u32::MAX;
        let n = ids.len();
        let mut next: Vec<usize> = (1..=n).collect();
        let mut before: Vec<usize> = (0..n).map(|i| i.wrapping_sub(1)).collect();
        let mut queue = BinaryHeap::new();
        let look = |queue: &mut BinaryHeap<_>, ids: &[u32], left: usize, right: usize| {
            if left < n
                && right < n
                && let Some((rank, made)) = self.merged(ids[left], ids[right])
            {
                queue.push(Reverse((rank, left, right, ids[left], ids[right], made)));
            }
        };
        for i in 1..n {
            look(&mut queue, &ids, i - 1, i);
        }
        while let Some(Reverse((_, left, right, was_left, was_right, made))) = queue.pop() {
            budget.work(1)?;
            if ids[left] != was_left || ids[right] != was_right || next[left] != right {
                continue;
            }
            ids[left] = made;
            ids[right] = GONE;
            next[left] = next[right];
            if next[left] < n {
                before[next[left]] = left;
            }
            look(&mut queue, &ids, before[left], left);
            look(&mut queue, &ids, left, next[left]);
        }
        out.extend(ids.into_iter().filter(|id| *id != GONE));
        Ok(())
    }
}

/// A merge's pieces and what they make.
fn parts(pieces: &Pieces, merge: &[u8]) -> Result<(u32, u32, u32)> {
    let shown = || String::from_utf8_lossy(merge).into_owned();
    // A piece may itself begin with a space.
    let at = merge.iter().skip(1).position(|b| *b == b' ').map(|i| i + 1);
    let at = at.ok_or_else(|| super::wrong(format!("has the merge {:?}, it must be two pieces", shown())))?;
    let (left, right) = (&merge[..at], &merge[at + 1..]);
    let found = (|| Some((pieces.id(left)?, pieces.id(right)?, pieces.id(&[left, right].concat())?)))();
    found.ok_or_else(|| super::wrong(format!("merges {:?}, of which a piece or the result is no token", shown())))
}

/// What a pattern matches, and what lies between, in order.
fn split<'t>(pattern: &Regex, text: &'t str, budget: &Budget, out: &mut Vec<&'t str>) -> Result<()> {
    let mut done = 0;
    for found in pattern.find_iter(text) {
        let found = found.map_err(|e| super::wrong(format!("cannot split the text: {e}")))?;
        budget.work(1 + found.as_str().len() as u64)?;
        if found.start() > done {
            out.push(&text[done..found.start()]);
        }
        if found.end() > found.start() {
            out.push(&text[found.start()..found.end()]);
        }
        done = found.end();
    }
    if done < text.len() {
        out.push(&text[done..]);
    }
    Ok(())
}

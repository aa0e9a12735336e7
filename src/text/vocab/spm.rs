//! SentencePiece's BPE (Kudo and Richardson 2018): the pair whose result has the best score is merged first.

use super::pieces::Pieces;
use crate::base::{Budget, Result};
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

pub struct Spm {
    /// Tokens of single bytes, for letters that no token spells.
    bytes: Vec<Option<u32>>,
    unknown: Option<u32>,
}

/// A pair of neighbours that make a token.
#[derive(PartialEq)]
struct Candidate {
    score: f32,
    left: usize,
    /// Bytes of both: whether either has changed since.
    size: usize,
}

impl Eq for Candidate {}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then_with(|| Reverse(self.left).cmp(&Reverse(other.left)))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Spm {
    pub fn new(pieces: &Pieces, unknown: Option<u32>) -> Spm {
        Spm { bytes: pieces.byte_tokens(), unknown }
    }

    /// Ids of a text in which spaces are `▁` already.
    pub fn encode(&self, pieces: &Pieces, text: &str, budget: &Budget, out: &mut Vec<u32>) -> Result<()> {
        let n = text.chars().count();
        budget.make(n * 48)?;
        // Where each symbol begins; 0 bytes where it was merged away.
        let starts: Vec<usize> = text.char_indices().map(|(i, _)| i).collect();
        let mut sizes: Vec<usize> = text.chars().map(char::len_utf8).collect();
        let mut next: Vec<usize> = (1..=n).collect();
        let mut before: Vec<usize> = (0..n).map(|i| i.wrapping_sub(1)).collect();
        let mut queue = BinaryHeap::new();
        let look = |queue: &mut BinaryHeap<Candidate>, sizes: &[usize], left: usize, right: usize| {
            if left < n && right < n {
                let size = sizes[left] + sizes[right];
                if let Some(id) = pieces.id(&text.as_bytes()[starts[left]..starts[left] + size]) {
                    queue.push(Candidate { score: pieces.score(id), left, size });
                }
            }
        };
        for i in 1..n {
            look(&mut queue, &sizes, i - 1, i);
        }
        while let Some(Candidate { left, size, .. }) = queue.pop() {
            budget.work(1 + pieces.longest() as u64 / 16)?;
            let right = next[left];
            if sizes[left] == 0 || right >= n || sizes[left] + sizes[right] != size {
                continue;
            }
            sizes[left] = size;
            sizes[right] = 0;
            next[left] = next[right];
            if next[left] < n {
                before[next[left]] = left;
            }
            look(&mut queue, &sizes, before[left], left);
            look(&mut queue, &sizes, left, next[left]);
        }
        for i in (0..n).filter(|i| sizes[*i] > 0) {
            let symbol = &text.as_bytes()[starts[i]..starts[i] + sizes[i]];
            match pieces.id(symbol) {
                Some(id) => out.push(id),
                None => self.spell(symbol, out)?,
            }
        }
        Ok(())
    }

    /// A letter that is no token, byte by byte.
    fn spell(&self, letter: &[u8], out: &mut Vec<u32>) -> Result<()> {
        if letter.iter().all(|b| self.bytes[*b as usize].is_some()) {
            out.extend(letter.iter().filter_map(|b| self.bytes[*b as usize]));
            return Ok(());
        }
        let shown = String::from_utf8_lossy(letter).into_owned();
        let unknown = self.unknown.ok_or_else(|| {
            super::wrong(format!("has no token for {shown:?} of the text, and none for what is unknown"))
        })?;
        out.push(unknown);
        Ok(())
    }
}

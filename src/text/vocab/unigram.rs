//! Unigram vocabularies (Kudo 2018) as T5 has them: of all ways to spell a text, the one of the best score.

use super::charsmap::Charsmap;
use super::pieces::{Kind, Pieces};
use crate::base::{Budget, Result};

/// How much worse than the worst token it is to take none.
const PENALTY: f32 = 10.0;

pub struct Unigram {
    /// Ids by the bytes of their tokens: those that go on with the same bytes lie together.
    order: Vec<u32>,
    unknown: u32,
    unknown_score: f64,
    charsmap: Option<Charsmap>,
    pub spaces: Spaces,
}

/// What is done about spaces.
#[derive(Debug, Clone, Copy)]
pub struct Spaces {
    /// A space stands before the text.
    pub prefix: bool,
    /// Several are one, and none stand at the ends.
    pub merged: bool,
}

impl Unigram {
    pub fn new(pieces: &Pieces, unknown: u32, charsmap: Option<Charsmap>, spaces: Spaces) -> Unigram {
        let used = |id: &u32| matches!(pieces.kind(*id), Kind::Normal | Kind::UserDefined | Kind::Unused);
        let mut order: Vec<u32> = pieces.ids().filter(used).collect();
        order.sort_unstable_by(|a, b| pieces.text(*a).cmp(&pieces.text(*b)));
        let normal = pieces.of_kind(Kind::Normal).map(|id| pieces.score(id));
        let worst = normal.fold(f32::INFINITY, f32::min);
        let worst = if worst.is_finite() { worst } else { 0.0 };
        Unigram { order, unknown, unknown_score: (worst - PENALTY) as f64, charsmap, spaces }
    }

    pub fn encode(&self, pieces: &Pieces, text: &str, budget: &Budget, out: &mut Vec<u32>) -> Result<()> {
        let text = self.normalized(text, budget)?;
        if text.is_empty() {
            return Ok(());
        }
        budget.make(text.len() * 24)?;
        // For each place: the token that ends there on the best way, where it begins, the way's score.
        let mut best: Vec<(u32, usize, f64)> = vec![(self.unknown, 0, f64::NEG_INFINITY); text.len() + 1];
        best[0].2 = 0.0;
        for (at, letter) in text.char_indices() {
            let so_far = best[at].2;
            let mut single = false;
            let (mut low, mut high) = (0, self.order.len());
            for end in at + 1..=text.len().min(at + pieces.longest()) {
                let (depth, byte) = (end - at, text.as_bytes()[end - 1]);
                budget.work(1)?;
                let byte_at = |id: &u32| pieces.text(*id).and_then(|t| t.get(depth - 1)).copied();
                let range = &self.order[low..high];
                let from = range.partition_point(|id| byte_at(id) < Some(byte));
                let to = range.partition_point(|id| byte_at(id) <= Some(byte));
                (low, high) = (low + from, low + to);
                let Some(&id) = self.order[low..high].first() else { break };
                if pieces.text(id).is_some_and(|t| t.len() == depth) {
                    single |= depth == letter.len_utf8();
                    let score = if pieces.kind(id) == Kind::UserDefined { 0.0 } else { pieces.score(id) as f64 };
                    if so_far + score > best[end].2 {
                        best[end] = (id, at, so_far + score);
                    }
                }
            }
            let end = at + letter.len_utf8();
            if !single && so_far + self.unknown_score > best[end].2 {
                best[end] = (self.unknown, at, so_far + self.unknown_score);
            }
        }
        let (from, mut at) = (out.len(), text.len());
        while at > 0 {
            let (id, start, _) = best[at];
            // Several unknown letters are one.
            if id != self.unknown || out[from..].last() != Some(&id) {
                out.push(id);
            }
            at = start;
        }
        out[from..].reverse();
        Ok(())
    }

    fn normalized(&self, text: &str, budget: &Budget) -> Result<String> {
        let mapped = match &self.charsmap {
            Some(map) => map.apply(text, budget)?,
            None => text.to_string(),
        };
        budget.make(mapped.len() * 3)?;
        let mut out = String::with_capacity(mapped.len() + 3);
        let (mut prefixed, mut within) = (false, false);
        for c in mapped.chars() {
            if c == ' ' {
                within = false;
                out.push_str(if self.spaces.merged { "" } else { "▁" });
                continue;
            }
            if !within && ((self.spaces.prefix && !prefixed) || self.spaces.merged) {
                out.push('▁');
                prefixed = true;
            }
            within = true;
            out.push(c);
        }
        Ok(out)
    }
}

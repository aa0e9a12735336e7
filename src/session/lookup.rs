//! Speculation by look-up (prompt lookup decoding: Saxena, 2023): where the last tokens stood before, those that followed them there
//! may follow again, and a step computes logits behind them, too.
//!
//! Whoever chooses tokens does so from the same logits as without: a row has the same bits whichever rows share its step. What
//! was guessed wrong is computed in vain, so guessing rests for a while where it cost more time than it gave.

use std::time::Duration;

/// Tokens that are guessed at once. A step of four rows costs little more than one of one row.
pub(super) const MOST: usize = 3;
/// Tokens that must have stood together before.
const LEAST: usize = 3;
/// Tokens that are chosen without a guess after guesses did not pay, at first and at most.
const REST: [usize; 2] = [16, 512];

/// What was guessed, and whether it paid.
#[derive(Debug, Default)]
pub(super) struct Lookup {
    /// All tokens of the last guess, and logits after each of the last of them.
    tokens: Vec<u32>,
    rows: Vec<Vec<f32>>,
    /// How many of the rows were asked for, and how long all took.
    used: usize,
    took: f64,
    /// Seconds of a step of one row; 0 where none was timed. What guesses have gained of late.
    one: f64,
    gain: f64,
    rest: usize,
    next_rest: usize,
    /// Tokens that were chosen from logits of a guess.
    hits: usize,
}

impl Lookup {
    /// Logits after `tokens`, where the last guess was right so far.
    pub fn known(&mut self, tokens: &[u32]) -> Option<Vec<f32>> {
        let first = self.tokens.len() + 1 - self.rows.len();
        let at = tokens.len().checked_sub(first)?;
        if self.rows.is_empty() || !self.tokens.starts_with(tokens) {
            return None;
        }
        let row = self.rows.get_mut(at)?;
        // The first was asked for anyway.
        self.hits += (at > 0 && at >= self.used) as usize;
        self.used = self.used.max(at + 1);
        Some(std::mem::take(row)).filter(|r| !r.is_empty())
    }

    /// Tokens that may follow, up to `most`; none where guesses do not pay.
    pub fn guess(&mut self, tokens: &[u32], most: usize) -> Vec<u32> {
        self.settle();
        // Without a time to compare with nobody knows what pays.
        if self.one == 0.0 {
            return vec![];
        }
        if self.rest > 0 {
            self.rest -= 1;
            return vec![];
        }
        follow(tokens, most.min(MOST)).to_vec()
    }

    /// Notes the time of a step of one row.
    pub fn plain(&mut self, took: Duration) {
        let took = took.as_secs_f64();
        self.one = if self.one == 0.0 { took } else { 0.9 * self.one + 0.1 * took };
    }

    /// Keeps logits after the last tokens of `tokens`, one row a token.
    pub fn keep(&mut self, tokens: Vec<u32>, rows: Vec<Vec<f32>>, took: Duration) {
        (self.tokens, self.rows, self.used, self.took) = (tokens, rows, 0, took.as_secs_f64());
    }

    /// Weighs the last guess, once nothing more will be asked of it.
    fn settle(&mut self) {
        if self.rows.is_empty() {
            return;
        }
        let gained = self.used as f64 * self.one - self.took;
        self.gain = 0.7 * self.gain + 0.3 * gained;
        if self.gain < 0.0 {
            self.next_rest = (2 * self.next_rest).clamp(REST[0], REST[1]);
            (self.rest, self.gain) = (self.next_rest, 0.0);
        } else {
            self.next_rest = 0;
        }
        self.rows.clear();
    }

    /// Tokens that were chosen from logits of a guess.
    pub fn hits(&self) -> usize {
        self.hits
    }
}

/// What followed the last tokens where they stood last.
fn follow(tokens: &[u32], most: usize) -> &[u32] {
    let Some(start) = tokens.len().checked_sub(LEAST) else { return &[] };
    let end = &tokens[start..];
    let found = (0..start).rev().find(|i| tokens[*i..].starts_with(end));
    found.map_or(&[], |i| &tokens[i + LEAST..(i + LEAST + most).min(tokens.len())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_followed_before_is_found() {
        assert_eq!(follow(&[1, 2, 3, 4, 5, 9, 1, 2, 3], 3), [4, 5, 9]);
        assert_eq!(follow(&[1, 2, 3, 4, 1, 2, 3, 7, 1, 2, 3], 2), [7, 1]);
        // A run goes on from within itself.
        assert_eq!(follow(&[5, 5, 5, 5], 3), [5]);
        assert_eq!(follow(&[1, 2, 3], 3), [0u32; 0]);
        assert_eq!(follow(&[2, 3], 3), [0u32; 0]);
    }

    #[test]
    fn logits_are_those_after_the_tokens_that_were_guessed() {
        let mut l = Lookup::default();
        assert_eq!(l.known(&[1]), None);
        l.plain(Duration::from_millis(10));
        l.keep(vec![1, 2, 3, 4], vec![vec![0.2], vec![0.3], vec![0.4]], Duration::from_millis(12));
        assert_eq!(l.known(&[1]), None);
        assert_eq!(l.known(&[1, 2]), Some(vec![0.2]));
        assert_eq!(l.known(&[1, 2, 3]), Some(vec![0.3]));
        assert_eq!(l.known(&[1, 2, 5]), None);
        assert_eq!(l.known(&[1, 2, 3, 4, 5]), None);
        assert_eq!(l.hits(), 1);
    }

    #[test]
    fn guesses_that_cost_more_than_they_give_rest() {
        let mut l = Lookup::default();
        let text = [1, 2, 3, 4, 1, 2, 3];
        assert!(l.guess(&text, 3).is_empty(), "nothing was timed yet");
        l.plain(Duration::from_millis(10));
        assert_eq!(l.guess(&text, 2), [4, 1]);
        l.keep(vec![1, 2], vec![vec![0.0]; 2], Duration::from_millis(30));
        l.known(&[1]);
        for _ in 0..REST[0] {
            assert!(l.guess(&text, 3).is_empty());
        }
        assert_eq!(l.guess(&text, 3), [4, 1, 2]);
        l.keep(vec![1, 2], vec![vec![0.0]; 2], Duration::from_millis(12));
        l.known(&[1]);
        l.known(&[1, 2]);
        assert!(!l.guess(&text, 3).is_empty());
    }
}

//! Stop strings, found across the borders of tokens and never given out.

use crate::session::Token;
use std::collections::VecDeque;

/// How many stop strings a request may have.
pub const MOST_STOPS: usize = 32;
/// Bytes that a stop string may have.
pub const MOST_STOP_BYTES: usize = 1024;

/// Holds tokens back as long as their text may be the beginning of a stop string.
pub(super) struct Stops {
    strings: Vec<String>,
    held: VecDeque<Token>,
    /// The texts of `held`.
    text: String,
}

/// What a token brought.
#[derive(Default)]
pub(super) struct Released {
    pub tokens: Vec<Token>,
    /// The stop string that was found: the answer ends before it.
    pub hit: Option<String>,
}

impl Stops {
    pub fn new(strings: Vec<String>) -> Stops {
        Stops { strings, held: VecDeque::new(), text: String::new() }
    }

    pub fn push(&mut self, token: Token) -> Released {
        self.text += &token.text;
        self.held.push_back(token);
        let found = self.strings.iter().filter_map(|s| self.text.find(s.as_str()).map(|at| (at, s))).min();
        if let Some((at, stop)) = found.map(|(at, s)| (at, s.clone())) {
            let tokens = self.before(at);
            self.held.clear();
            self.text.clear();
            return Released { tokens, hit: Some(stop) };
        }
        let held = self.strings.iter().map(|s| overlap(&self.text, s)).max().unwrap_or(0);
        Released { tokens: self.whole_before(self.text.len() - held), hit: None }
    }

    /// What was held back when the answer ended.
    pub fn finish(&mut self) -> Vec<Token> {
        self.text.clear();
        self.held.drain(..).collect()
    }

    /// Tokens of the first `at` bytes, the last of them cut there.
    fn before(&mut self, at: usize) -> Vec<Token> {
        let mut out = self.whole_before(at);
        let left = at - out.iter().map(|t| t.text.len()).sum::<usize>();
        if let Some(mut token) = self.held.pop_front().filter(|_| left > 0) {
            token.text.truncate(left);
            out.push(token);
        }
        out
    }

    /// Takes the tokens that lie within the first `at` bytes.
    fn whole_before(&mut self, at: usize) -> Vec<Token> {
        let (mut out, mut end) = (vec![], 0);
        while let Some(token) = self.held.front().filter(|t| end + t.text.len() <= at) {
            end += token.text.len();
            out.extend(self.held.pop_front());
        }
        self.text.drain(..end);
        out
    }
}

/// The longest end of `text` that begins `stop`, in bytes.
fn overlap(text: &str, stop: &str) -> usize {
    let most = text.len().min(stop.len().saturating_sub(1));
    (1..=most).rev().find(|n| text.as_bytes()[text.len() - n..] == stop.as_bytes()[..*n]).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(parts: &[&str], stops: &[&str]) -> (Vec<String>, Option<String>) {
        let mut s = Stops::new(stops.iter().map(|s| s.to_string()).collect());
        let mut out = vec![];
        for (i, text) in parts.iter().enumerate() {
            let token = Token { id: i as u32, text: text.to_string(), logprob: 0.0, top: vec![] };
            let released = s.push(token);
            out.extend(released.tokens.into_iter().map(|t| t.text));
            if released.hit.is_some() {
                return (out, released.hit);
            }
        }
        out.extend(s.finish().into_iter().map(|t| t.text));
        (out, None)
    }

    #[test]
    fn stop_strings_are_found_across_tokens_and_never_shown() {
        let all = |parts: &[&str], stops: &[&str]| {
            let (out, hit) = run(parts, stops);
            (out.concat(), hit)
        };
        assert_eq!(all(&["a", "b", "c"], &[]), ("abc".into(), None));
        assert_eq!(all(&["one EN", "D two"], &["END"]), ("one ".into(), Some("END".into())));
        assert_eq!(all(&["E", "N", "E", "N", "D", "x"], &["END"]), ("EN".into(), Some("END".into())));
        assert_eq!(all(&["one EN", "d"], &["END"]), ("one ENd".into(), None));
        assert_eq!(all(&["one EN"], &["END"]), ("one EN".into(), None));
        // The first that comes ends it, whichever was named first.
        assert_eq!(all(&["x b a"], &["a", "b"]), ("x ".into(), Some("b".into())));
        assert_eq!(all(&["é", "ü!", "?"], &["ü!?"]), ("é".into(), Some("ü!?".into())));
        assert_eq!(all(&["END"], &["END"]), (String::new(), Some("END".into())));
    }

    #[test]
    fn what_cannot_begin_a_stop_string_is_given_out_at_once() {
        let mut s = Stops::new(vec!["END".into()]);
        let mut push = |text: &str| {
            let token = Token { id: 0, text: text.into(), logprob: 0.0, top: vec![] };
            s.push(token).tokens.into_iter().map(|t| t.text).collect::<Vec<_>>()
        };
        assert_eq!(push("a"), ["a"]);
        assert_eq!(push("bE"), [""; 0]);
        assert_eq!(push("N"), [""; 0]);
        assert_eq!(push("x"), ["bE", "N", "x"]);
    }

    #[test]
    fn any_cut_of_a_text_gives_the_same() {
        let text = "abababcab";
        for cuts in 0..1u32 << (text.len() - 1) {
            let (mut parts, mut from) = (vec![], 0);
            for i in 1..=text.len() {
                if i == text.len() || cuts >> (i - 1) & 1 == 1 {
                    parts.push(&text[from..i]);
                    from = i;
                }
            }
            let (out, hit) = run(&parts, &["ababc", "zz"]);
            assert_eq!((out.concat().as_str(), hit.as_deref()), ("ab", Some("ababc")), "{parts:?}");
        }
    }
}

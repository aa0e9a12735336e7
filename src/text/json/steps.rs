//! The steps before a model, each charged before it is done: a normalizer may make a text longer, a pattern may take long.

use super::wrong;
use crate::base::{Budget, Error, Result};
use fancy_regex::Regex;
use std::sync::Mutex;
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pattern::{Invert, Pattern};
use tokenizers::pre_tokenizers::split::SplitPattern;
use tokenizers::{
    ModelWrapper, NormalizedString, Normalizer, Offsets, PreTokenizedString, PreTokenizer, PreTokenizerWrapper,
    SplitDelimiterBehavior,
};

/// Bytes of memory that the library takes for each byte of a text: its place in the original is kept.
const OVERHEAD: usize = 40;
/// How many times as long any step but a replacement makes a text at most: one letter may stand for a sentence.
const MAX_GROWTH: usize = 12;
/// Memory of one compiled pattern.
const MAX_PATTERN: usize = 8 << 20;
/// Steps back that one match may take.
const MAX_BACKTRACKS: usize = 200_000;

/// Normalizer and pre-tokenizer, step by step.
pub struct PreSteps {
    normalizers: Vec<Norm>,
    splits: Vec<Pre>,
    /// Bytes of the longest token.
    longest: usize,
}

enum Norm {
    /// What matches becomes this.
    Replace(Regex, String),
    Prepend(String),
    /// The library's, which makes a text at most this many times as long.
    Other(NormalizerWrapper, usize),
}

enum Pre {
    Split(Regex, SplitDelimiterBehavior, bool),
    /// The library's, which works through a text once.
    Other(PreTokenizerWrapper),
}

fn pattern(text: &str) -> Result<Regex> {
    let builder = &mut fancy_regex::RegexBuilder::new(text);
    let built = builder.delegate_size_limit(MAX_PATTERN).backtrack_limit(MAX_BACKTRACKS).build();
    built.map_err(|e| wrong(format!("has a pattern that cannot be used: {e}")))
}

impl PreSteps {
    pub fn new(
        normalizer: Option<&NormalizerWrapper>,
        splitter: Option<&PreTokenizerWrapper>,
        longest: usize,
    ) -> Result<PreSteps> {
        let mut out = PreSteps { normalizers: vec![], splits: vec![], longest };
        normalizer.map_or(Ok(()), |n| out.add_normalizer(n))?;
        splitter.map_or(Ok(()), |s| out.add_split(s))?;
        Ok(out)
    }

    fn add_normalizer(&mut self, step: &NormalizerWrapper) -> Result<()> {
        let step = match step {
            NormalizerWrapper::Sequence(list) => return list.as_ref().iter().try_for_each(|s| self.add_normalizer(s)),
            NormalizerWrapper::Prepend(p) => Norm::Prepend(p.prepend.clone()),
            NormalizerWrapper::Replace(replace) => {
                // What it looks for is private; it writes itself as the file had it.
                let json = serde_json::to_value(replace).map_err(|e| wrong(e.to_string()))?;
                let literal = json["pattern"]["String"].as_str().map(fancy_regex::escape);
                let regex = json["pattern"]["Regex"].as_str();
                let text = literal.as_deref().or(regex).ok_or_else(|| wrong("replaces nothing by something"))?;
                Norm::Replace(pattern(text)?, replace.content.clone())
            }
            NormalizerWrapper::Precompiled(table) => {
                let json = serde_json::to_value(table).map_err(|e| wrong(e.to_string()))?;
                Norm::Other(step.clone(), longest_text(json["precompiled_charsmap"].as_str().unwrap_or_default()))
            }
            other => Norm::Other(other.clone(), MAX_GROWTH),
        };
        self.normalizers.push(step);
        Ok(())
    }

    fn add_split(&mut self, step: &PreTokenizerWrapper) -> Result<()> {
        let step = match step {
            PreTokenizerWrapper::Sequence(list) => return list.as_ref().iter().try_for_each(|s| self.add_split(s)),
            PreTokenizerWrapper::Split(split) => {
                let regex = match &split.pattern {
                    SplitPattern::String(s) => pattern(&fancy_regex::escape(s))?,
                    SplitPattern::Regex(r) => pattern(r)?,
                };
                Pre::Split(regex, split.behavior, split.invert)
            }
            other => Pre::Other(other.clone()),
        };
        self.splits.push(step);
        Ok(())
    }

    pub fn split(&self, text: &mut PreTokenizedString, budget: &Budget) -> Result<(), tokenizers::Error> {
        for step in &self.splits {
            match step {
                Pre::Split(regex, behavior, invert) => text.split(|_, piece| {
                    budget.make(piece.len() * 4)?;
                    let timed = Timed { regex, budget };
                    match invert {
                        true => piece.split(Invert(&timed), *behavior),
                        false => piece.split(&timed, *behavior),
                    }
                })?,
                Pre::Other(step) => {
                    budget.time()?;
                    step.pre_tokenize(text)?;
                }
            }
        }
        Ok(())
    }

    /// Steps of work that a model takes for one piece.
    pub fn cost(&self, model: &ModelWrapper, piece: &str) -> u64 {
        let n = piece.len() as u64;
        match model {
            // A letter is looked up with all that follow, up to the longest token.
            ModelWrapper::WordPiece(m) if n <= 4 * m.max_input_chars_per_word as u64 => 1 + n * n / 8,
            // From each letter on, every token that begins there is tried.
            ModelWrapper::Unigram(_) => 1 + n * self.longest as u64 * 4,
            _ => 1 + n,
        }
    }
}

/// Bytes of the longest text that a table of letters, in base64, leads to: at least those that honest tables have.
fn longest_text(base64: &str) -> usize {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let (mut longest, mut run, mut bits, mut have, mut at) = (0usize, 0usize, 0u32, 0, 0usize);
    let mut size = [0u8; 4];
    for c in base64.bytes().filter(|c| *c != b'=') {
        bits = bits << 6 | digit(c) as u32;
        have += 6;
        if have >= 8 {
            have -= 8;
            let byte = (bits >> have) as u8;
            if at < 4 {
                size[at] = byte;
            } else if at >= 4 + u32::from_le_bytes(size) as usize {
                run = if byte == 0 { 0 } else { run + 1 };
                longest = longest.max(run);
            }
            at += 1;
        }
    }
    // Honest tables lead from a letter to a phrase of some 33 bytes, but only a few letters do.
    if longest <= 48 { MAX_GROWTH } else { longest }
}

/// A normalizer that charges; the library drops its errors, so they are kept here.
pub struct Metered<'a> {
    steps: &'a PreSteps,
    budget: &'a Budget,
    failed: Mutex<Option<Error>>,
}

impl<'a> Metered<'a> {
    pub fn new(steps: &'a PreSteps, budget: &'a Budget) -> Self {
        Metered { steps, budget, failed: Mutex::new(None) }
    }

    /// # Errors
    /// The first of those that were met.
    pub fn finish(self) -> Result<()> {
        self.failed.into_inner().ok().flatten().map_or(Ok(()), Err)
    }

    fn run(&self, text: &mut NormalizedString) -> Result<()> {
        let failed = |e: tokenizers::Error| match e.downcast::<Error>() {
            Ok(own) => *own,
            Err(e) => wrong(format!("cannot normalize the text: {e}")),
        };
        self.budget.make(text.len() * OVERHEAD)?;
        for step in &self.steps.normalizers {
            match step {
                Norm::Prepend(prefix) => {
                    self.budget.make((text.len() + prefix.len()) * OVERHEAD)?;
                    if !text.is_empty() {
                        text.prepend(prefix);
                    }
                }
                Norm::Replace(regex, to) => {
                    let timed = Timed { regex, budget: self.budget };
                    let matches = (&timed).find_matches(text.get()).map_err(failed)?;
                    let found = matches.iter().filter(|m| m.1).count();
                    self.budget.make((text.len() + found * to.len()) * OVERHEAD)?;
                    if found > 0 {
                        text.replace(&Found(matches), to).map_err(failed)?;
                    }
                }
                Norm::Other(step, growth) => {
                    if *growth > MAX_GROWTH {
                        self.budget.make(text.len() * growth * OVERHEAD)?;
                    }
                    self.budget.work(text.len() as u64)?;
                    step.normalize(text).map_err(failed)?;
                    self.budget.make(text.len() * OVERHEAD)?;
                }
            }
        }
        Ok(())
    }
}

impl Normalizer for Metered<'_> {
    fn normalize(&self, text: &mut NormalizedString) -> Result<(), tokenizers::Error> {
        let Ok(mut failed) = self.failed.lock() else { return Ok(()) };
        if failed.is_none() {
            *failed = self.run(text).err();
        }
        Ok(())
    }
}

/// A pattern whose matches are charged, and that ends where one takes too long.
struct Timed<'a> {
    regex: &'a Regex,
    budget: &'a Budget,
}

impl Pattern for &Timed<'_> {
    fn find_matches(&self, inside: &str) -> Result<Vec<(Offsets, bool)>, tokenizers::Error> {
        if inside.is_empty() {
            return Ok(vec![((0, 0), false)]);
        }
        let mut done = 0;
        let mut out = vec![];
        let mut matches = 0u32;
        for found in self.regex.find_iter(inside) {
            let found = found.map_err(|e| wrong(format!("cannot split the text: {e}")))?;
            self.budget.work(1 + found.as_str().len() as u64)?;
            matches += 1;
            // One match may step back many times.
            if matches.is_multiple_of(16) {
                self.budget.time()?;
            }
            if done != found.start() {
                out.push(((done, found.start()), false));
            }
            out.push(((found.start(), found.end()), true));
            done = found.end();
        }
        if done != inside.len() {
            out.push(((done, inside.len()), false));
        }
        Ok(out)
    }
}

/// Matches that are known.
struct Found(Vec<(Offsets, bool)>);

impl Pattern for &Found {
    fn find_matches(&self, _: &str) -> Result<Vec<(Offsets, bool)>, tokenizers::Error> {
        Ok(self.0.clone())
    }
}

//! Choosing the next token from logits.

use crate::base::{Error, Result};
use std::collections::HashMap;

/// How to choose.
///
/// ```
/// use warpweft::Sampling;
///
/// let sampling = Sampling::default().temperature(0.7).top_p(0.9).seed(7);
/// assert!(sampling.validate().is_ok());
/// assert!(Sampling::default().top_p(2.0).validate().is_err());
/// ```
///
/// This is the order in which parts act, each on what those before it left:
///
/// 1. what a constraint (a grammar) does not allow goes;
/// 2. `logit_bias` is added;
/// 3. repetition penalty, then presence and frequency penalty, then DRY;
/// 4. at temperature 0 the likeliest token is taken; else
/// 5. top-k, typical-p, top-p, min-p, each with the probabilities of what is left at temperature 1;
/// 6. one of those is drawn at the temperature.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct Sampling {
    /// 0 takes the likeliest token always.
    pub temperature: f32,
    /// Only the k likeliest; 0 for all.
    pub top_k: usize,
    /// Only the likeliest that together reach this probability.
    pub top_p: f32,
    /// Only those at least this times as likely as the likeliest.
    pub min_p: f32,
    /// Only those whose surprise is nearest to the expected surprise, up to this probability together (locally typical
    /// sampling, Meister et al., 2022); 1 for all.
    pub typical_p: f32,
    /// Logits of recent tokens are divided (positive) or multiplied (negative) by this (Keskar et al., 2019); 1 for none.
    pub repeat_penalty: f32,
    /// How many tokens count as recent.
    pub repeat_last: usize,
    /// Taken from the logit of every token that this sampler has chosen before; 0 for none.
    pub presence_penalty: f32,
    /// The same, times how often it was chosen.
    pub frequency_penalty: f32,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// Against repeating what came before word by word.
    pub dry: Option<Dry>,
    /// Where random numbers begin: equal seeds make equal choices.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            typical_p: 1.0,
            repeat_penalty: 1.0,
            repeat_last: 64,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: vec![],
            dry: None,
            seed: 0,
        }
    }
}

/// "Don't repeat yourself": a token that would go on with a sequence that stands in the text already, `n` tokens of which
/// were just written again, loses `multiplier · base ^ (n - allowed)` (p-e-w, text-generation-webui, 2024).
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct Dry {
    /// What the shortest repetition that costs anything takes from a logit.
    pub multiplier: f32,
    /// How much more each further token costs.
    pub base: f32,
    /// Repetitions shorter than this cost nothing.
    pub allowed: usize,
    /// How far back is looked.
    pub last: usize,
    /// Tokens that no repetition reaches across.
    pub breakers: Vec<u32>,
}

impl Default for Dry {
    fn default() -> Self {
        Dry { multiplier: 0.8, base: 1.75, allowed: 2, last: 4096, breakers: vec![] }
    }
}

/// What may come next, as a grammar has it.
pub trait Constraint: Send {
    /// A bit for each token, the lowest of a word first, set where the token may come; `None` where all may.
    ///
    /// # Errors
    /// A grammar that has come to a state from which nothing may follow, or takes too long.
    fn allowed(&mut self) -> Result<Option<Vec<u32>>>;
    /// Takes note of the token that was chosen.
    ///
    /// # Errors
    /// A token that was not allowed.
    fn accept(&mut self, id: u32) -> Result<()>;
}

impl Sampling {
    /// Always the likeliest token.
    pub fn greedy() -> Self {
        Sampling { temperature: 0.0, ..Self::default() }
    }
    /// Sets [`Sampling::temperature`].
    #[must_use]
    pub fn temperature(self, temperature: f32) -> Self {
        Sampling { temperature, ..self }
    }
    /// Sets [`Sampling::top_k`].
    #[must_use]
    pub fn top_k(self, top_k: usize) -> Self {
        Sampling { top_k, ..self }
    }
    /// Sets [`Sampling::top_p`].
    #[must_use]
    pub fn top_p(self, top_p: f32) -> Self {
        Sampling { top_p, ..self }
    }
    /// Sets [`Sampling::min_p`].
    #[must_use]
    pub fn min_p(self, min_p: f32) -> Self {
        Sampling { min_p, ..self }
    }
    /// Sets [`Sampling::typical_p`].
    #[must_use]
    pub fn typical_p(self, typical_p: f32) -> Self {
        Sampling { typical_p, ..self }
    }
    /// Sets [`Sampling::repeat_penalty`].
    #[must_use]
    pub fn repeat_penalty(self, repeat_penalty: f32) -> Self {
        Sampling { repeat_penalty, ..self }
    }
    /// Sets [`Sampling::presence_penalty`].
    #[must_use]
    pub fn presence_penalty(self, presence_penalty: f32) -> Self {
        Sampling { presence_penalty, ..self }
    }
    /// Sets [`Sampling::frequency_penalty`].
    #[must_use]
    pub fn frequency_penalty(self, frequency_penalty: f32) -> Self {
        Sampling { frequency_penalty, ..self }
    }
    /// Sets [`Sampling::logit_bias`].
    #[must_use]
    pub fn logit_bias(self, logit_bias: Vec<(u32, f32)>) -> Self {
        Sampling { logit_bias, ..self }
    }
    /// Sets [`Sampling::dry`].
    #[must_use]
    pub fn dry(self, dry: Dry) -> Self {
        Sampling { dry: Some(dry), ..self }
    }
    /// Sets [`Sampling::seed`].
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        Sampling { seed, ..self }
    }

    /// # Errors
    /// The name of the first number out of its range.
    pub fn validate(&self) -> Result<()> {
        let check = |name: &str, x: f32, low: f32, high: f32| match x.is_finite() && x >= low && x <= high {
            true => Ok(()),
            false => Err(Error::usage(format!("{name} is {x}, it must be from {low} to {high}"))),
        };
        check("temperature", self.temperature, 0.0, 100.0)?;
        check("top-p", self.top_p, 0.0, 1.0)?;
        check("min-p", self.min_p, 0.0, 1.0)?;
        check("typical-p", self.typical_p, 0.0, 1.0)?;
        check("the repetition penalty", self.repeat_penalty, 0.01, 100.0)?;
        check("the presence penalty", self.presence_penalty, -100.0, 100.0)?;
        check("the frequency penalty", self.frequency_penalty, -100.0, 100.0)?;
        self.logit_bias
            .iter()
            .try_for_each(|(id, x)| check(&format!("the logit bias of token {id}"), *x, -1e4, 1e4))?;
        if let Some(dry) = &self.dry {
            check("the DRY multiplier", dry.multiplier, 0.0, 100.0)?;
            check("the DRY base", dry.base, 1.0, 100.0)?;
        }
        Ok(())
    }
}

/// A token and its log-probability under the raw logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    pub id: u32,
    pub logprob: f32,
}

/// Chooses tokens; the same seed chooses the same from the same logits.
pub struct Sampler {
    how: Sampling,
    /// How often each token was chosen.
    counts: HashMap<u32, u32>,
    /// PCG-XSH-RR 64/32 (O'Neill, 2014).
    state: u64,
}

impl Sampler {
    pub fn new(how: Sampling) -> Result<Sampler> {
        how.validate()?;
        let state = how.seed.wrapping_add(1_442_695_040_888_963_407);
        let mut sampler = Sampler { state, counts: HashMap::new(), how };
        sampler.random();
        Ok(sampler)
    }

    fn random(&mut self) -> u32 {
        let old = self.state;
        self.state = old.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((((old >> 18) ^ old) >> 27) as u32).rotate_right((old >> 59) as u32)
    }

    /// # Errors
    /// Logits that are not finite: the model or the device computed nonsense.
    pub fn sample(&mut self, logits: &[f32], recent: &[u32]) -> Result<Choice> {
        self.sample_within(logits, recent, None)
    }

    /// Like [`Sampler::sample`], of what a [`Constraint`] allows.
    ///
    /// # Errors
    /// Beside those, a constraint that allows nothing.
    pub fn sample_within(&mut self, logits: &[f32], recent: &[u32], allowed: Option<&[u32]>) -> Result<Choice> {
        let norm = log_sum(logits)?;
        let mut own;
        let mut scores = logits;
        if allowed.is_some() || self.changes_logits() {
            own = logits.to_vec();
            if let Some(allowed) = allowed {
                mask(&mut own, allowed)?;
            }
            self.penalise(&mut own, recent);
            scores = &own;
        }
        let id = if self.how.temperature == 0.0 { largest(scores) } else { self.draw(scores) };
        *self.counts.entry(id).or_default() += 1;
        Ok(Choice { id, logprob: (logits[id as usize] as f64 - norm) as f32 })
    }

    fn changes_logits(&self) -> bool {
        let how = &self.how;
        how.repeat_penalty != 1.0
            || how.presence_penalty != 0.0
            || how.frequency_penalty != 0.0
            || !how.logit_bias.is_empty()
            || how.dry.is_some()
    }

    /// Bias and penalties, in the order that [`Sampling`] states. What is not allowed (-∞) stays so.
    fn penalise(&self, scores: &mut [f32], recent: &[u32]) {
        let mut change = |id: u32, f: &dyn Fn(f32) -> f32| {
            if let Some(x) = scores.get_mut(id as usize).filter(|x| x.is_finite()) {
                *x = f(*x);
            }
        };
        let how = &self.how;
        how.logit_bias.iter().for_each(|(id, bias)| change(*id, &|x| x + bias));
        if how.repeat_penalty != 1.0 {
            let mut seen: Vec<u32> = recent[recent.len().saturating_sub(how.repeat_last)..].to_vec();
            seen.sort_unstable();
            seen.dedup();
            let by = how.repeat_penalty;
            seen.into_iter().for_each(|id| change(id, &|x| if x > 0.0 { x / by } else { x * by }));
        }
        if how.presence_penalty != 0.0 || how.frequency_penalty != 0.0 {
            for (id, n) in &self.counts {
                change(*id, &|x| x - how.presence_penalty - how.frequency_penalty * *n as f32);
            }
        }
        for dry in how.dry.iter() {
            for (id, n) in repeated(recent, dry) {
                let exponent = (n - dry.allowed).min(64) as i32;
                change(id, &|x| x - dry.multiplier * dry.base.powi(exponent).min(1e6));
            }
        }
    }

    fn draw(&mut self, scores: &[f32]) -> u32 {
        let mut kept = candidates(scores, self.how.top_k);
        let most = scores[kept[0] as usize];
        let weight = |id: &u32, t: f32| (((scores[*id as usize] - most) / t) as f64).exp();
        if self.how.typical_p < 1.0 {
            let weights: Vec<f64> = kept.iter().map(|i| weight(i, 1.0)).collect();
            let mut chosen = typical(&weights, self.how.typical_p as f64);
            chosen.sort_unstable();
            kept = chosen.into_iter().map(|i| kept[i]).collect();
        }
        let sum: f64 = kept.iter().map(|i| weight(i, 1.0)).sum();
        let mut running = 0.0;
        let enough = kept.iter().position(|i| {
            running += weight(i, 1.0) / sum;
            running >= self.how.top_p as f64
        });
        kept.truncate(enough.map_or(kept.len(), |i| i + 1));
        // The likeliest of what is left always stays.
        let least = weight(&kept[0], 1.0) * self.how.min_p as f64;
        let likely = kept.iter().take_while(|i| weight(i, 1.0) >= least).count();
        kept.truncate(likely.max(1));
        let weights: Vec<f64> = kept.iter().map(|i| weight(i, self.how.temperature)).collect();
        let mut left = self.random() as f64 / 4_294_967_296.0 * weights.iter().sum::<f64>();
        for (id, w) in kept.iter().zip(&weights) {
            left -= w;
            if left < 0.0 {
                return *id;
            }
        }
        kept[kept.len() - 1]
    }
}

/// Takes away what is not allowed. Tokens beyond the words are not.
fn mask(scores: &mut [f32], allowed: &[u32]) -> Result<()> {
    let mut left = false;
    for (i, x) in scores.iter_mut().enumerate() {
        match allowed.get(i / 32).is_some_and(|word| word >> (i % 32) & 1 == 1) {
            true => left |= x.is_finite(),
            false => *x = f32::NEG_INFINITY,
        }
    }
    if left { Ok(()) } else { Err(Error::usage("the grammar allows no token here")) }
}

/// Tokens that would go on with what stands in `text` already, and how many tokens before them are the same there as at
/// the end: at least as many as cost something. Time is linear in what is looked at.
fn repeated(text: &[u32], dry: &Dry) -> HashMap<u32, usize> {
    let text = &text[text.len().saturating_sub(dry.last)..];
    let own = text.iter().rev().take_while(|t| !dry.breakers.contains(t)).count();
    // Backwards the end is a beginning: the Z algorithm (Gusfield, 1997) gives the length of the common beginning of the
    // text and of each of its ends.
    let back: Vec<u32> = text.iter().rev().copied().collect();
    let mut same = vec![0; back.len()];
    let (mut left, mut right) = (0, 0);
    let mut out: HashMap<u32, usize> = HashMap::new();
    for i in 1..back.len() {
        let mut n: usize = if i < right { same[i - left].min(right - i) } else { 0 };
        while i + n < back.len() && back[n] == back[i + n] {
            n += 1;
        }
        same[i] = n;
        if i + n > right {
            (left, right) = (i, i + n);
        }
        let n = n.min(own);
        if n >= dry.allowed.max(1) && !dry.breakers.contains(&back[i - 1]) {
            let longest = out.entry(back[i - 1]).or_default();
            *longest = (*longest).max(n);
        }
    }
    out.retain(|_, n| *n >= dry.allowed);
    out
}

/// Indices of the weights whose surprise (-ln p) is nearest to the expected one, until they reach `p` together.
fn typical(weights: &[f64], p: f64) -> Vec<usize> {
    let sum: f64 = weights.iter().sum();
    let surprise = |w: f64| -(w / sum).max(f64::MIN_POSITIVE).ln();
    let expected: f64 = weights.iter().map(|w| w / sum * surprise(*w)).sum();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    let far = |i: usize| (surprise(weights[i]) - expected).abs();
    order.sort_by(|a, b| far(*a).total_cmp(&far(*b)).then(a.cmp(b)));
    let mut running = 0.0;
    let enough = order.iter().position(|i| {
        running += weights[*i] / sum;
        running >= p
    });
    order.truncate(enough.map_or(order.len(), |i| i + 1));
    order
}

/// Ids from the likeliest down, at most `k` of them; equals by id. What cannot come (-∞) is not among them.
fn candidates(scores: &[f32], k: usize) -> Vec<u32> {
    let better = |a: &u32, b: &u32| scores[*b as usize].total_cmp(&scores[*a as usize]).then(a.cmp(b));
    let mut ids: Vec<u32> = (0..scores.len() as u32).filter(|i| scores[*i as usize] > f32::NEG_INFINITY).collect();
    if k > 0 && k < ids.len() {
        ids.select_nth_unstable_by(k - 1, better);
        ids.truncate(k);
    }
    ids.sort_unstable_by(better);
    ids
}

/// The first of the largest.
fn largest(scores: &[f32]) -> u32 {
    let mut best = 0;
    for (i, x) in scores.iter().enumerate() {
        if *x > scores[best] {
            best = i;
        }
    }
    best as u32
}

/// ln Σ eˣ.
fn log_sum(logits: &[f32]) -> Result<f64> {
    let most = greatest(logits);
    let bad = logits.iter().position(|x| x.is_nan() || *x == f32::INFINITY);
    if let Some(i) = bad.or((!most.is_finite()).then_some(0)) {
        let value = logits.get(i).map_or("missing".to_string(), |x| x.to_string());
        return Err(Error::usage(format!("logit {i} is {value}: run with --check-numerics to see where it began")));
    }
    // Terms in f32 are right to seven digits, as a log-probability is; their sum is not to lose more.
    let (lanes, rest) = logits.as_chunks::<16>();
    let mut sums = [0.0f64; 16];
    for lane in lanes {
        for (sum, x) in sums.iter_mut().zip(lane) {
            *sum += exp(x - most) as f64;
        }
    }
    Ok(most as f64 + (sums.iter().sum::<f64>() + rest.iter().map(|x| exp(x - most) as f64).sum::<f64>()).ln())
}

/// eˣ for x ≤ 0, as at −87 below: without branches, so that compilers make vectors of it (Cephes' polynomial).
#[inline(always)]
fn exp(x: f32) -> f32 {
    let x = if x > -87.0 { x } else { -87.0 };
    // Adding 1.5 · 2²³ rounds to a whole number, which the low bits then hold.
    const WHOLE: f32 = 12_582_912.0;
    let t = x * std::f32::consts::LOG2_E + WHOLE;
    let n = t - WHOLE;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p * r + c;
    }
    let y = r * r * p + r + 1.0;
    y * f32::from_bits(t.to_bits().wrapping_sub(WHOLE.to_bits()).wrapping_add(127) << 23)
}

/// The largest logit, by lanes: one chain of comparisons over a vocabulary would take as long as some of a model's layers.
fn greatest(logits: &[f32]) -> f32 {
    let (lanes, rest) = logits.as_chunks::<16>();
    let mut most = [f32::NEG_INFINITY; 16];
    for lane in lanes {
        for (m, x) in most.iter_mut().zip(lane) {
            *m = if *x > *m { *x } else { *m };
        }
    }
    most.iter().chain(rest).fold(f32::NEG_INFINITY, |m, x| m.max(*x))
}

/// The `n` likeliest tokens with their log-probabilities.
pub fn top_logprobs(logits: &[f32], n: usize) -> Result<Vec<Choice>> {
    let norm = log_sum(logits)?;
    let top = candidates(logits, n);
    Ok(top.into_iter().map(|id| Choice { id, logprob: (logits[id as usize] as f64 - norm) as f32 }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [1.0, 3.0, 3.0, -1.0, 2.0];

    fn draws(how: Sampling) -> Vec<u32> {
        let mut s = Sampler::new(how).unwrap();
        (0..400).map(|_| s.sample(&LOGITS, &[1]).unwrap().id).collect()
    }

    #[test]
    fn log_sums_are_right_to_the_digits_of_f32() {
        for n in [1, 15, 16, 49_157] {
            let logits: Vec<f32> = (0..n).map(|i| ((i * 7919 % 10_007) as f32 / 100.0 - 60.0) * 1.3).collect();
            let want = logits.iter().map(|x| (*x as f64).exp()).sum::<f64>().ln();
            assert!((log_sum(&logits).unwrap() - want).abs() < 2e-7 * want.abs().max(1.0), "{n}");
        }
        for x in [0.0f32, -1e-7, -0.3, -1.0, -20.5, -86.9] {
            let want = (x as f64).exp();
            assert!((exp(x) as f64 / want - 1.0).abs() < 3e-7, "{x}");
        }
        assert!(exp(-1e30) < 1e-37 && log_sum(&[1.0, f32::NAN]).is_err());
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        assert!(draws(Sampling::greedy()).iter().all(|i| *i == 1));
        let c = Sampler::new(Sampling::greedy()).unwrap().sample(&LOGITS, &[]).unwrap();
        let sum: f64 = LOGITS.iter().map(|x| (*x as f64).exp()).sum();
        assert!((c.logprob as f64 - (3.0 - sum.ln())).abs() < 1e-6);
    }

    #[test]
    fn filters_keep_what_they_say_and_seeds_repeat() {
        let how = Sampling { temperature: 5.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..Sampling::default() };
        let of = |how: Sampling| {
            let mut seen = draws(how);
            seen.sort_unstable();
            seen.dedup();
            seen
        };
        assert_eq!(of(how.clone()), [0, 1, 2, 3, 4]);
        assert_eq!(of(Sampling { top_k: 2, ..how.clone() }), [1, 2]);
        assert_eq!(of(Sampling { top_p: 0.5, ..how.clone() }), [1, 2]);
        assert_eq!(of(Sampling { min_p: 0.3, ..how.clone() }), [1, 2, 4]);
        assert_eq!(of(Sampling { temperature: 0.0, repeat_penalty: 2.0, ..how.clone() }), [2]);
        assert_eq!(draws(how.clone()), draws(how.clone()));
        assert_ne!(draws(how.clone()), draws(Sampling { seed: 1, ..how }));
    }

    #[test]
    fn penalties_count_what_was_chosen_and_biases_are_added() {
        let chosen = |how: Sampling| {
            let mut s = Sampler::new(Sampling { temperature: 0.0, ..how }).unwrap();
            (0..6).map(|_| s.sample(&LOGITS, &[]).unwrap().id).collect::<Vec<_>>()
        };
        let how = Sampling::default();
        assert_eq!(chosen(Sampling { presence_penalty: 0.5, ..how.clone() }), [1, 2, 1, 1, 1, 1]);
        assert_eq!(chosen(Sampling { frequency_penalty: 0.5, ..how.clone() }), [1, 2, 1, 2, 1, 2]);
        assert_eq!(chosen(Sampling { frequency_penalty: 0.75, ..how.clone() }), [1, 2, 1, 2, 4, 1]);
        let bias = vec![(3, 100.0), (9, 1.0)];
        assert_eq!(chosen(Sampling { logit_bias: bias, ..how.clone() }), [3; 6]);
        assert_eq!(chosen(Sampling { logit_bias: vec![(1, -100.0)], ..how }), [2; 6]);
    }

    #[test]
    fn typical_takes_what_is_neither_sure_nor_strange() {
        // p = 0.5, 0.25, 0.125, 0.125: the entropy is 1.75 bits, nearest to it lie 0.25 (2 bits), then 0.5 (1 bit).
        let weights = [4.0, 2.0, 1.0, 1.0];
        assert_eq!(typical(&weights, 0.2), [1]);
        assert_eq!(typical(&weights, 0.5), [1, 0]);
        assert_eq!(typical(&weights, 1.0).len(), 4);
        let logits: Vec<f32> = weights.iter().map(|w| (*w as f32).ln()).collect();
        let open = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..Sampling::default() };
        let mut s = Sampler::new(Sampling { typical_p: 0.2, ..open }).unwrap();
        assert!((0..50).all(|_| s.sample(&logits, &[]).unwrap().id == 1));
    }

    #[test]
    fn dry_counts_the_longest_repetition() {
        let dry = Dry { allowed: 2, ..Dry::default() };
        // "1 2 3 4 | 1 2 3": 4 would go on with three tokens that stand there already.
        assert_eq!(repeated(&[1, 2, 3, 4, 1, 2, 3], &dry), HashMap::from([(4, 3)]));
        assert_eq!(repeated(&[1, 2, 3, 4, 1, 2, 3], &Dry { allowed: 4, ..dry.clone() }), HashMap::new());
        assert_eq!(
            repeated(&[1, 2, 3, 4, 1, 2, 3], &Dry { breakers: vec![1], ..dry.clone() }),
            HashMap::from([(4, 2)])
        );
        assert_eq!(repeated(&[1, 2, 3, 4, 1, 2, 3], &Dry { breakers: vec![2], ..dry.clone() }), HashMap::new());
        // By hand for every text of up to seven of three letters.
        for n in 1..=7u32 {
            for code in 0..3u32.pow(n) {
                let text: Vec<u32> = (0..n).map(|i| code / 3u32.pow(i) % 3).collect();
                let mut want: HashMap<u32, usize> = HashMap::new();
                for i in 0..text.len().saturating_sub(1) {
                    let same = (0..=i).take_while(|k| text[i - k] == text[text.len() - 1 - k]).count();
                    if same >= 2 {
                        let longest = want.entry(text[i + 1]).or_default();
                        *longest = (*longest).max(same);
                    }
                }
                assert_eq!(repeated(&text, &dry), want, "{text:?}");
            }
        }
        let how = Sampling { dry: Some(dry), ..Sampling::greedy() };
        let mut s = Sampler::new(how).unwrap();
        assert_eq!(s.sample(&[0.0, 1.0, 1.2], &[0, 1, 2, 0, 1]).unwrap().id, 1);
    }

    #[test]
    fn only_what_is_allowed_is_chosen() {
        for temperature in [0.0, 5.0] {
            let how = Sampling { temperature, logit_bias: vec![(1, 50.0)], ..Sampling::default() };
            let mut s = Sampler::new(how).unwrap();
            assert!((0..50).all(|_| [0, 3].contains(&s.sample_within(&LOGITS, &[], Some(&[0b01001])).unwrap().id)));
            let e = s.sample_within(&LOGITS, &[], Some(&[])).unwrap_err();
            assert_eq!(e.to_string(), "the grammar allows no token here");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let bad = Sampling { top_p: f32::NAN, ..Sampling::default() };
        assert_eq!(Sampler::new(bad).err().unwrap().to_string(), "top-p is NaN, it must be from 0 to 1");
        let mut s = Sampler::new(Sampling::greedy()).unwrap();
        assert!(s.sample(&[0.0, f32::NAN], &[]).is_err());
        assert!(s.sample(&[], &[]).is_err());
        assert_eq!(top_logprobs(&LOGITS, 2).unwrap().iter().map(|c| c.id).collect::<Vec<_>>(), [1, 2]);
    }
}

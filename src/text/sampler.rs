//! Choosing the next token from logits.

use crate::base::{Error, Result};

/// How to choose. Filters run in this order: repetition penalty, top-k, top-p, min-p, then temperature.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 takes the likeliest token always.
    pub temperature: f32,
    /// Only the k likeliest; 0 for all.
    pub top_k: usize,
    /// Only the likeliest that together reach this probability.
    pub top_p: f32,
    /// Only those at least this times as likely as the likeliest.
    pub min_p: f32,
    /// Logits of recent tokens are divided (positive) or multiplied (negative) by this (Keskar et al., 2019); 1 for none.
    pub repeat_penalty: f32,
    /// How many tokens count as recent.
    pub repeat_last: usize,
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repeat_penalty: 1.0,
            repeat_last: 64,
            seed: 0,
        }
    }
}

impl Sampling {
    pub fn greedy() -> Self {
        Sampling { temperature: 0.0, ..Self::default() }
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
        check("the repetition penalty", self.repeat_penalty, 0.01, 100.0)
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
    /// PCG-XSH-RR 64/32 (O'Neill, 2014).
    state: u64,
}

impl Sampler {
    pub fn new(how: Sampling) -> Result<Sampler> {
        how.validate()?;
        let mut sampler = Sampler { state: how.seed.wrapping_add(1_442_695_040_888_963_407), how };
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
        let norm = log_sum(logits)?;
        let mut own;
        let mut scores = logits;
        if self.how.repeat_penalty != 1.0 {
            own = logits.to_vec();
            let last = &recent[recent.len().saturating_sub(self.how.repeat_last)..];
            let mut seen: Vec<u32> = last.to_vec();
            seen.sort_unstable();
            seen.dedup();
            for id in seen {
                if let Some(x) = own.get_mut(id as usize) {
                    *x = if *x > 0.0 { *x / self.how.repeat_penalty } else { *x * self.how.repeat_penalty };
                }
            }
            scores = &own;
        }
        let id = if self.how.temperature == 0.0 { largest(scores) } else { self.draw(scores) };
        Ok(Choice { id, logprob: (logits[id as usize] as f64 - norm) as f32 })
    }

    fn draw(&mut self, scores: &[f32]) -> u32 {
        let mut kept = candidates(scores, self.how.top_k);
        let most = scores[kept[0] as usize];
        let weight = |id: &u32, t: f32| (((scores[*id as usize] - most) / t) as f64).exp();
        let sum: f64 = kept.iter().map(|i| weight(i, 1.0)).sum();
        let mut running = 0.0;
        let enough = kept.iter().position(|i| {
            running += weight(i, 1.0) / sum;
            running >= self.how.top_p as f64
        });
        kept.truncate(enough.map_or(kept.len(), |i| i + 1));
        // The likeliest always stays.
        let likely = kept.iter().take_while(|i| weight(i, 1.0) >= self.how.min_p as f64).count();
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

/// Ids from the likeliest down, at most `k` of them; equals by id.
fn candidates(scores: &[f32], k: usize) -> Vec<u32> {
    let better = |a: &u32, b: &u32| scores[*b as usize].total_cmp(&scores[*a as usize]).then(a.cmp(b));
    let mut ids: Vec<u32> = (0..scores.len() as u32).collect();
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
    let most = logits.iter().fold(f32::NEG_INFINITY, |m, x| m.max(*x));
    let bad = logits.iter().position(|x| x.is_nan() || *x == f32::INFINITY);
    if let Some(i) = bad.or((!most.is_finite()).then_some(0)) {
        let value = logits.get(i).map_or("missing".to_string(), |x| x.to_string());
        return Err(Error::usage(format!("logit {i} is {value}: run with --check-numerics to see where it began")));
    }
    Ok(most as f64 + logits.iter().map(|x| ((x - most) as f64).exp()).sum::<f64>().ln())
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
    fn nonsense_is_refused() {
        let bad = Sampling { top_p: f32::NAN, ..Sampling::default() };
        assert_eq!(Sampler::new(bad).err().unwrap().to_string(), "top-p is NaN, it must be from 0 to 1");
        let mut s = Sampler::new(Sampling::greedy()).unwrap();
        assert!(s.sample(&[0.0, f32::NAN], &[]).is_err());
        assert!(s.sample(&[], &[]).is_err());
        assert_eq!(top_logprobs(&LOGITS, 2).unwrap().iter().map(|c| c.id).collect::<Vec<_>>(), [1, 2]);
    }
}

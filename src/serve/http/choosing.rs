//! How an answer is to be made, as all dialects may say it.

use super::error::{Answered, Refusal};
use super::fields::Fields;
use crate::text::{Dry, Sampling};
use serde_json::Value;
use std::hash::{BuildHasher, Hasher};

/// Answers to one prompt.
const MOST_ANSWERS: i64 = 16;
/// Alternatives of a token.
pub const MOST_TOP: i64 = 20;
const MOST_BIASES: usize = 4096;

/// What is asked of each answer.
#[derive(Debug, Clone)]
pub struct Choosing {
    pub sampling: Sampling,
    pub n: usize,
    pub stop: Vec<String>,
    pub max_tokens: Option<usize>,
    /// Alternatives to tell with each token; none where log-probabilities are not asked for.
    pub top: Option<usize>,
    pub priority: i32,
}

/// OpenAI's defaults: the model's own distribution.
pub fn plain() -> Sampling {
    Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..Sampling::default() }
}

/// A seed that nobody chose.
pub fn random() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}

impl Choosing {
    pub fn new(sampling: Sampling) -> Choosing {
        Choosing { sampling, n: 1, stop: vec![], max_tokens: None, top: None, priority: 0 }
    }

    /// Reads what OpenAI's clients may send, and what servers of open models have added.
    pub fn read(fields: &mut Fields) -> Answered<Choosing> {
        let mut sampling = plain();
        sampling.seed = fields.whole("seed", i64::MIN, i64::MAX)?.map_or_else(random, |n| n as u64);
        read_sampling(fields, &mut sampling)?;
        let most = [fields.whole("max_completion_tokens", 0, i64::MAX)?, fields.whole("max_tokens", 0, i64::MAX)?];
        Ok(Choosing {
            n: fields.whole("n", 1, MOST_ANSWERS)?.unwrap_or(1) as usize,
            stop: stops(fields, "stop")?,
            max_tokens: most.into_iter().flatten().next().map(|n| n as usize),
            priority: fields.whole("priority", i32::MIN as i64, i32::MAX as i64)?.unwrap_or(0) as i32,
            ..Choosing::new(sampling)
        })
    }

    /// The same of the `i`-th of several answers.
    pub fn sampling(&self, i: usize) -> Sampling {
        Sampling { seed: self.sampling.seed.wrapping_add(i as u64), ..self.sampling.clone() }
    }
}

/// Texts that end an answer.
pub fn stops(fields: &mut Fields, key: &str) -> Answered<Vec<String>> {
    let stops = fields.texts(key)?.unwrap_or_default();
    let name = fields.name(key);
    if stops.len() > crate::serve::MOST_STOPS {
        return Err(Refusal::field(
            &name,
            format!("has {} texts, at most {} are taken", stops.len(), crate::serve::MOST_STOPS),
        ));
    }
    let most = crate::serve::MOST_STOP_BYTES;
    match stops.iter().find(|s| s.is_empty() || s.len() > most) {
        Some(s) => Err(Refusal::field(&name, format!("has a text of {} bytes, 1 to {most} are taken", s.len()))),
        None => Ok(stops),
    }
}

/// Sets what is given, by the names that servers of open models share.
pub fn read_sampling(fields: &mut Fields, s: &mut Sampling) -> Answered<()> {
    let set = |to: &mut f32, x: Option<f32>| *to = x.unwrap_or(*to);
    set(&mut s.temperature, fields.number("temperature", 0.0, 100.0)?);
    set(&mut s.top_p, fields.number("top_p", 0.0, 1.0)?);
    set(&mut s.min_p, fields.number("min_p", 0.0, 1.0)?);
    set(&mut s.typical_p, fields.number("typical_p", 0.0, 1.0)?);
    for key in ["repetition_penalty", "repeat_penalty"] {
        set(&mut s.repeat_penalty, fields.number(key, 0.01, 100.0)?);
    }
    set(&mut s.presence_penalty, fields.number("presence_penalty", -2.0, 2.0)?);
    set(&mut s.frequency_penalty, fields.number("frequency_penalty", -2.0, 2.0)?);
    // -1 says "all" to some clients.
    let top_k = fields.whole("top_k", -1, u32::MAX as i64)?;
    s.top_k = top_k.map_or(s.top_k, |k| k.max(0) as usize);
    let last = fields.whole("repeat_last_n", -1, u32::MAX as i64)?;
    s.repeat_last = last.map_or(s.repeat_last, |n| if n < 0 { usize::MAX } else { n as usize });
    read_biases(fields, s)?;
    read_dry(fields, s)
}

fn read_biases(fields: &mut Fields, s: &mut Sampling) -> Answered<()> {
    let name = fields.name("logit_bias");
    let Some(given) = fields.take("logit_bias") else { return Ok(()) };
    let Value::Object(map) = given else { return Err(Refusal::field(&name, "must map token ids to numbers")) };
    if map.len() > MOST_BIASES {
        return Err(Refusal::field(&name, format!("has {} entries, at most {MOST_BIASES} are taken", map.len())));
    }
    for (key, value) in &map {
        let bias = value.as_f64().filter(|x| (-100.0..=100.0).contains(x));
        let (Ok(id), Some(bias)) = (key.parse::<u32>(), bias) else {
            return Err(Refusal::field(&name, "must map token ids to numbers from -100 to 100"));
        };
        s.logit_bias.push((id, bias as f32));
    }
    Ok(())
}

fn read_dry(fields: &mut Fields, s: &mut Sampling) -> Answered<()> {
    let multiplier = fields.number("dry_multiplier", 0.0, 100.0)?;
    let base = fields.number("dry_base", 1.0, 100.0)?;
    let allowed = fields.whole("dry_allowed_length", 0, u32::MAX as i64)?;
    let last = fields.whole("dry_penalty_last_n", -1, u32::MAX as i64)?;
    if let Some(multiplier) = multiplier.filter(|m| *m > 0.0) {
        let usual = Dry::default();
        s.dry = Some(Dry {
            multiplier,
            base: base.unwrap_or(usual.base),
            allowed: allowed.map_or(usual.allowed, |n| n as usize),
            last: last.map_or(usual.last, |n| if n < 0 { usual.last } else { n as usize }),
            ..usual
        });
    }
    Ok(())
}

//! A generation under way, token by token.

use super::{Finished, Generator, Request, Stop, Token};
use crate::base::Result;
use crate::text::{Constraint, Sampler, StreamDecoder};
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use web_time::Instant;

/// What [`Generator::next`] goes on with. It holds every token so far and the sampler's state, so that another generator
/// of the same model (the device was lost, and the model was loaded anew) goes on with the same tokens.
pub struct Generation {
    replica: usize,
    request: Request,
    sampler: Sampler,
    stream: StreamDecoder,
    constraint: Option<Box<dyn Constraint>>,
    /// Prompt and answer.
    tokens: Vec<u32>,
    made: usize,
    stop: Option<Stop>,
    /// Prompt tokens that were not in the cache, and the time until their logits.
    fresh: usize,
    prompt_time: Duration,
    /// The time of all later tokens.
    decode_time: Duration,
}

impl Generation {
    pub(super) fn new(replica: usize, request: &Request) -> Result<Generation> {
        Ok(Generation {
            replica,
            sampler: Sampler::new(request.sampling.clone())?,
            stream: StreamDecoder::new(),
            constraint: None,
            tokens: request.prompt.clone(),
            made: 0,
            stop: None,
            fresh: 0,
            prompt_time: Duration::ZERO,
            decode_time: Duration::ZERO,
            request: request.clone(),
        })
    }
    /// From now on only tokens that `constraint` allows are chosen.
    pub fn constrain(&mut self, constraint: Box<dyn Constraint>) {
        self.constraint = Some(constraint);
    }
    /// Why it ended, once it has.
    pub fn stop(&self) -> Option<Stop> {
        self.stop
    }
    fn is_full(&self) -> bool {
        self.request.max_tokens.is_some_and(|n| self.made >= n)
    }
}

impl Generator {
    /// The next token; `None` once the generation has ended.
    ///
    /// # Errors
    /// Device faults. After one the generation can go on, with this generator or with another of the same model.
    pub async fn next(&mut self, g: &mut Generation, cancel: &AtomicBool) -> Result<Option<Token>> {
        if g.stop.is_some() {
            return Ok(None);
        }
        let start = Instant::now();
        let (fresh, logits) = self.logits_after(g.replica, &g.tokens, cancel).await?;
        if g.made == 0 {
            g.fresh += fresh;
            g.prompt_time += start.elapsed();
        } else {
            g.decode_time += start.elapsed();
        }
        let Some(logits) = logits else {
            g.stop = Some(Stop::Cancelled);
            return Ok(None);
        };
        if g.is_full() {
            g.stop = Some(Stop::Length);
            return Ok(None);
        }
        let choosing = Instant::now();
        let token = self.choose(g, &logits)?;
        g.decode_time += choosing.elapsed();
        Ok(Some(token))
    }

    /// Chooses a token, and says whether it is the last.
    fn choose(&self, g: &mut Generation, logits: &[f32]) -> Result<Token> {
        let allowed = g.constraint.as_mut().map_or(Ok(None), |c| c.allowed())?;
        let choice = g.sampler.sample_within(logits, &g.tokens, allowed.as_deref())?;
        if let Some(constraint) = &mut g.constraint {
            constraint.accept(choice.id)?;
        }
        g.made += 1;
        let ends = self.stops().contains(&choice.id);
        g.stop = match ends {
            true => Some(Stop::End),
            false if g.tokens.len() >= self.context() => Some(Stop::Context),
            false if g.is_full() => Some(Stop::Length),
            false => None,
        };
        let mut text = if ends { String::new() } else { g.stream.push(self.tokenizer(), choice.id)? };
        if g.stop.is_some() {
            text += &g.stream.finish(self.tokenizer())?;
        }
        let top = self.alternatives(logits, g.request.top)?;
        g.tokens.push(choice.id);
        Ok(Token { id: choice.id, text, logprob: choice.logprob, top })
    }

    /// The figures of a generation.
    pub fn finished(&self, g: &Generation) -> Finished {
        let rate = |n: usize, t: Duration| if t.is_zero() { 0.0 } else { n as f64 / t.as_secs_f64() };
        Finished {
            stop: g.stop.unwrap_or(Stop::Cancelled),
            tokens: g.made,
            prompt_tokens: g.request.prompt.len(),
            cached_tokens: g.request.prompt.len().saturating_sub(g.fresh),
            prompt_per_second: rate(g.fresh, g.prompt_time),
            // The first token comes from the prompt's own step.
            tokens_per_second: rate(g.made.saturating_sub(1), g.decode_time),
            adapter: self.adapter(),
            peak_bytes: self.peak_bytes(),
        }
    }
}

//! A generation under way, token by token.

use super::words::Words;
use super::{Alternative, Cancel, Finished, Generator, Request, Stop, Token};
use crate::base::{Error, Result};
use crate::text::{Choice, Constraint, Sampler, StreamDecoder, top_logprobs};
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use web_time::Instant;

/// What [`Generator::next`] goes on with. It holds every token so far and the sampler's state, so that another generator
/// of the same model (the device was lost, and the model was loaded anew) goes on with the same tokens.
///
/// ```no_run
/// use warpweft::{Cancel, Generator, Options, Request};
///
/// # async fn go_on() -> warpweft::Result<()> {
/// let options = Options::new();
/// let mut model = Generator::open("model.gguf", &options).await?;
/// let mut generation = model.begin(&Request::new(vec![1, 2, 3]))?;
/// let never = Cancel::new();
/// if model.next(&mut generation, &never).await.is_err() {
///     model = Generator::open("model.gguf", &options).await?;
///     model.next(&mut generation, &never).await?;
/// }
/// # Ok(())
/// # }
/// ```
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
    /// Whether as many tokens are made as were asked for.
    pub(super) fn is_full(&self) -> bool {
        self.request.max_tokens.is_some_and(|n| self.made >= n)
    }
    /// Prompt and answer so far.
    pub(super) fn tokens(&self) -> &[u32] {
        &self.tokens
    }
    pub(super) fn end(&mut self, stop: Stop) {
        self.stop = Some(stop);
    }
    /// Counts rows of a step, and the time that it took.
    pub(super) fn spent(&mut self, rows: usize, time: Duration) {
        if self.made == 0 {
            self.fresh += rows;
            self.prompt_time += time;
        } else {
            self.decode_time += time;
        }
    }

    /// Chooses a token, and says whether it is the last.
    pub(super) fn choose(&mut self, words: &Words, context: usize, logits: &[f32]) -> Result<Token> {
        let allowed = self.constraint.as_mut().map_or(Ok(None), |c| c.allowed())?;
        let choice = self.sampler.sample_within(logits, &self.tokens, allowed.as_deref())?;
        if let Some(constraint) = &mut self.constraint {
            constraint.accept(choice.id)?;
        }
        self.made += 1;
        let ends = words.stops.contains(&choice.id);
        self.stop = match ends {
            true => Some(Stop::End),
            false if self.tokens.len() >= context => Some(Stop::Context),
            false if self.is_full() => Some(Stop::Length),
            false => None,
        };
        let mut text = if ends { String::new() } else { self.stream.push(&words.tokenizer, choice.id)? };
        if self.stop.is_some() {
            text += &self.stream.finish(&words.tokenizer)?;
        }
        let top = alternatives(words, logits, self.request.top)?;
        self.tokens.push(choice.id);
        Ok(Token { id: choice.id, text, logprob: choice.logprob, top })
    }

    pub(super) fn finished(&self, adapter: String, peak_bytes: u64) -> Finished {
        let rate = |n: usize, t: Duration| if t.is_zero() { 0.0 } else { n as f64 / t.as_secs_f64() };
        Finished {
            stop: self.stop.unwrap_or(Stop::Cancelled),
            tokens: self.made,
            prompt_tokens: self.request.prompt.len(),
            cached_tokens: self.request.prompt.len().saturating_sub(self.fresh),
            prompt_per_second: rate(self.fresh, self.prompt_time),
            // The first token comes from the prompt's own step.
            tokens_per_second: rate(self.made.saturating_sub(1), self.decode_time),
            adapter,
            peak_bytes,
        }
    }
}

fn alternatives(words: &Words, logits: &[f32], n: usize) -> Result<Vec<Alternative>> {
    if n == 0 {
        return Ok(vec![]);
    }
    let named = |c: Choice| Alternative { id: c.id, text: words.tokenizer.token_text(c.id), logprob: c.logprob };
    Ok(top_logprobs(logits, n)?.into_iter().map(named).collect())
}

impl Generator {
    /// The next token; `None` once the generation has ended.
    ///
    /// # Errors
    /// Device faults. After one the generation can go on, with this generator or with another of the same model.
    pub async fn next(&mut self, g: &mut Generation, cancel: &Cancel) -> Result<Option<Token>> {
        self.next_until(g, cancel.flag()).await
    }

    pub(super) async fn next_until(&mut self, g: &mut Generation, cancel: &AtomicBool) -> Result<Option<Token>> {
        if g.stop.is_some() {
            return Ok(None);
        }
        if g.tokens.len() > self.context() || g.replica >= self.replicas() {
            return Err(Error::usage(format!(
                "the answer has {} tokens on replica {}, this model a context of {} and {} replicas: go on with one that was opened alike",
                g.tokens.len(),
                g.replica,
                self.context(),
                self.replicas()
            )));
        }
        let start = Instant::now();
        let (fresh, logits) = self.logits_after(g.replica, &g.tokens, cancel).await?;
        g.spent(fresh, start.elapsed());
        let Some(logits) = logits else {
            g.stop = Some(Stop::Cancelled);
            return Ok(None);
        };
        if g.is_full() {
            g.stop = Some(Stop::Length);
            return Ok(None);
        }
        let choosing = Instant::now();
        let token = g.choose(&self.words(), self.context(), &logits)?;
        g.decode_time += choosing.elapsed();
        Ok(Some(token))
    }

    /// The figures of a generation.
    pub fn finished(&self, g: &Generation) -> Finished {
        g.finished(self.adapter(), self.peak_bytes())
    }
}

//! How well a model predicts a text.

use super::DeviceChoice;
use super::engine::Engine;
use super::words::Words;
use crate::base::{Array, Bindings, Error, Result, Var};
use crate::model::{Model, StepShape};

/// Tokens that are predicted from those before them, counted from the start of a window.
const WINDOW: usize = 512;
/// Tokens of a step.
const CHUNK: usize = 64;

/// What a model makes of a text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Perplexity {
    /// e to the mean of −ln p(token | those before it in its window).
    pub value: f64,
    /// Tokens that were predicted.
    pub tokens: usize,
}

/// The perplexity of a text, in windows of up to 512 tokens that do not overlap; each begins as the model's texts begin, and its first
/// token is predicted from that beginning only where there is one.
///
/// # Errors
/// A model that does not generate; a text of fewer than two tokens; logits that are not finite.
pub async fn perplexity(model: &Model, text: &str, device: &DeviceChoice) -> Result<Perplexity> {
    model.check_generates()?;
    let tokenizer = Words::read(model)?.tokenizer;
    // What the tokenizer puts before any text, such as a marker of its beginning.
    let plain = tokenizer.encode(text, false)?;
    let whole = tokenizer.encode(text, true)?;
    let start: Vec<u32> = if whole.ends_with(&plain) { whole[..whole.len() - plain.len()].to_vec() } else { vec![] };
    let window = WINDOW.min(model.info().context);
    let step = StepShape {
        seq: Var::new("seq", CHUNK as u32).into(),
        total: Var::new("total", window as u32),
        context: window,
        last_only: false,
        sequence_parallel: false,
    };
    let mut engine = Engine::open(device, &model.step_graph(&step)?, &model.source).await?;
    let (mut sum, mut count) = (0.0, 0);
    let each = window.saturating_sub(start.len()).max(1);
    for part in plain.chunks(each) {
        let tokens: Vec<u32> = start.iter().chain(part).copied().collect();
        for from in (0..tokens.len()).step_by(CHUNK) {
            let piece = &tokens[from..(from + CHUNK).min(tokens.len())];
            let bindings = Bindings::new().with("seq", piece.len() as u64).with("total", (from + piece.len()) as u64);
            let input = Array::u32(&[piece.len()], piece);
            let logits = engine.run(&bindings, &[("tokens", input)], &["logits"]).await?.remove(0);
            let rows = logits.to_f32();
            let vocab = rows.len() / piece.len();
            for (i, row) in rows.chunks_exact(vocab.max(1)).enumerate() {
                let next = from + i + 1;
                if next >= start.len().max(1) && next < tokens.len() {
                    sum -= log_probability(row, tokens[next])?;
                    count += 1;
                }
            }
        }
    }
    if count == 0 {
        return Err(Error::usage("the text has fewer than two tokens: there is nothing to predict"));
    }
    Ok(Perplexity { value: (sum / count as f64).exp(), tokens: count })
}

/// ln p of one token, in f64.
fn log_probability(logits: &[f32], token: u32) -> Result<f64> {
    let most = logits.iter().fold(f32::NEG_INFINITY, |m, x| m.max(*x)) as f64;
    let sum: f64 = logits.iter().map(|x| (*x as f64 - most).exp()).sum();
    let p = logits.get(token as usize).map(|x| *x as f64 - most - sum.ln());
    p.filter(|p| p.is_finite()).ok_or_else(|| Error::op("perplexity", "logits", "are not finite, or lack a token"))
}

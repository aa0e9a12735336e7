//! Trains a two-layer transformer on a small text until it knows far more of the next character than the one before it
//! tells: `cargo run --release --example train`, with a device (an index, part of a name, `cpu`) behind `--` if another
//! than the automatic choice is wanted. The same step runs on a mesh in tests/train.rs.

#[path = "train/model.rs"]
mod model;

use model::{Sizes, training};
use std::collections::HashMap;
use std::time::Instant;
use warpweft::base::{Array, Bindings, Result};
use warpweft::graph::{Optimiser, Zero};
use warpweft::reference::sample::Random;
use warpweft::session::{DeviceChoice, Engine};

const TEXT: &str = include_str!("train/text.txt");
const STEPS: usize = 600;

/// The text as numbers of its own characters, and how many different ones there are.
fn characters() -> (Vec<u32>, usize) {
    let text: Vec<char> = TEXT.chars().map(|c| if c == '\n' { ' ' } else { c }).collect();
    let mut all = text.clone();
    all.sort_unstable();
    all.dedup();
    let number = |c: &char| all.binary_search(c).unwrap_or(0) as u32;
    (text.iter().map(number).collect(), all.len())
}

/// Nats a character of a model that knows how often each character follows each other one in this very text.
fn bigram(text: &[u32], vocab: usize) -> f64 {
    let mut counts = vec![0.0; vocab * vocab];
    text.windows(2).for_each(|w| counts[w[0] as usize * vocab + w[1] as usize] += 1.0);
    let nats = |row: &[f64]| {
        let all: f64 = row.iter().sum();
        row.iter().filter(|c| **c > 0.0).map(|c| -c * (c / all).ln()).sum::<f64>()
    };
    counts.chunks(vocab).map(nats).sum::<f64>() / (text.len() - 1) as f64
}

/// Pieces of the text from anywhere, and the character that follows each of theirs.
fn samples(text: &[u32], s: &Sizes, random: &mut Random) -> [Array; 2] {
    let starts: Vec<usize> = (0..s.batch).map(|_| random.below(text.len() - s.seq)).collect();
    [0, 1].map(|ahead| {
        let all: Vec<u32> = starts.iter().flat_map(|at| &text[at + ahead..at + ahead + s.seq]).copied().collect();
        Array::u32(&[s.batch, s.seq], &all)
    })
}

fn main() -> Result<()> {
    let device: DeviceChoice = std::env::args().nth(1).map_or(Ok(DeviceChoice::Auto), |name| name.parse())?;
    let (text, vocab) = characters();
    let sizes = Sizes { vocab, width: 48, heads: 4, layers: 2, batch: 16, seq: 16 };
    let training = training(&sizes, Optimiser::AdamW { beta1: 0.9, beta2: 0.99, eps: 1e-8, decay: 0.01 }, Zero::Off)?;
    let limit = bigram(&text, vocab);
    let mut engine = pollster::block_on(Engine::open(&device, &training.graph, &HashMap::<String, Array>::new()))?;
    for (name, start) in &training.parameters {
        engine.set_state(name, start)?;
    }
    let count: usize = training.parameters.iter().map(|p| p.1.count()).sum();
    println!("{count} parameters, {} characters of {vocab} kinds, on {}", text.len(), engine.adapter());
    println!("a bigram model: {limit:.3} nats a character");

    let (mut random, begin, mut mean) = (Random::new(2), Instant::now(), f64::NAN);
    for step in 1..=STEPS {
        let [tokens, targets] = samples(&text, &sizes, &mut random);
        // A short warm-up, as is usual.
        let rate = 6e-3 * (step as f32 / 20.0).min(1.0);
        let number = |x: f32| Array::f32(&[], &[x]);
        let inputs = [("tokens", tokens), ("targets", targets), ("rate", number(rate)), ("step", number(step as f32))];
        let loss = pollster::block_on(engine.run(&Bindings::new(), &inputs, &["loss"]))?[0].to_f32()[0] as f64;
        mean = if mean.is_nan() { loss } else { 0.9 * mean + 0.1 * loss };
        let done = mean < 0.7 * limit;
        if step == 1 || step % 25 == 0 || done {
            println!("step {step:3}  loss {loss:.3}  mean {mean:.3}  {:.1} s", begin.elapsed().as_secs_f64());
        }
        if done {
            println!("the loss has fallen to {mean:.3}, well below the bigram model's {limit:.3}");
            return Ok(());
        }
    }
    panic!("after {STEPS} steps the loss is {mean:.3}, the bigram model's is {limit:.3}");
}

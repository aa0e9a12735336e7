//! Tokens per second of 1 to 8 sequences that share steps, beside one conversation, in one interleaved run.
//! `cargo bench --bench batch -- [--device cpu] [--precision int8] [--sequences 1,2,4,8]` (fetch first: `warpweft pull smollm2-135m`).

mod common;

use common::{fetched, median};
use pollster::block_on;
use std::sync::atomic::AtomicBool;
use std::time::Instant;
use warpweft::base::Result;
use warpweft::session::{Batch, BatchOptions, DeviceChoice, Generator, Options, Precision, Request};
use warpweft::text::Sampling;

const ROUNDS: usize = 5;
const PROMPT: usize = 32;
const TOKENS: usize = 32;

/// What follows a name among the arguments.
fn given(name: &str) -> Option<String> {
    let args: Vec<String> = std::env::args().collect();
    args.iter().position(|a| a == name).and_then(|i| args.get(i + 1)).cloned()
}

/// Prompts that share no page; the answers go on to their length.
fn request(i: usize) -> Request {
    let prompt = (0..PROMPT).map(|t| (1000 + 997 * i + 31 * t) as u32 % 40_000 + 100).collect();
    let sampling = Sampling { logit_bias: vec![(0, -100.0), (2, -100.0)], ..Sampling::greedy() };
    Request { prompt, sampling, max_tokens: Some(TOKENS), top: 0 }
}

/// Tokens per second after all prompts are in: of all sequences together.
fn decode(batch: &mut Batch, sequences: usize, round: usize) -> Result<(f64, f64)> {
    let never = AtomicBool::new(false);
    for i in 0..sequences {
        let generation = batch.begin(&request(round * 100 + i))?;
        batch.add(generation)?;
    }
    let (start, mut first, mut made, mut all) = (Instant::now(), None, 0, 0);
    while !batch.is_empty() {
        let tokens = block_on(batch.step(&never))?.into_iter().filter(|m| m.token.is_some()).count();
        all += tokens;
        if all >= sequences && first.is_none() {
            first = Some(Instant::now());
        } else if first.is_some() {
            made += tokens;
        }
    }
    let first = first.unwrap_or(start);
    let prompt = (sequences * PROMPT) as f64 / (first - start).as_secs_f64();
    Ok((prompt, made as f64 / first.elapsed().as_secs_f64()))
}

fn main() -> Result<()> {
    let device: DeviceChoice = given("--device").unwrap_or("cpu".into()).parse()?;
    let precision: Precision = given("--precision").unwrap_or("f32".into()).parse()?;
    let list = given("--sequences").unwrap_or("1,2,4,8".into());
    let counts: Vec<usize> = list.split(',').filter_map(|n| n.parse().ok()).collect();
    let path = fetched("smollm2-135m")?;
    let options = Options { device, precision, context: Some(1024), ..Options::default() };
    let most = counts.iter().copied().max().unwrap_or(1);
    let how = BatchOptions { sequences: most, ..BatchOptions::default() };
    let mut batch = block_on(Batch::open(&path, &options, &how, &mut |_| {}))?;
    let mut alone = block_on(Generator::open(&path, &options))?;
    println!("{}, {} pages", batch.adapter(), batch.pages().1);
    let mut rates: Vec<(Vec<f64>, Vec<f64>)> = vec![(vec![], vec![]); counts.len() + 1];
    for round in 0..=ROUNDS {
        for (n, (prompts, tokens)) in counts.iter().zip(&mut rates) {
            let (prompt, decode) = decode(&mut batch, *n, round)?;
            // The first round warms up.
            if round > 0 {
                prompts.push(prompt);
                tokens.push(decode);
            }
        }
        let done = block_on(alone.generate(&request(round * 100 + 50), &AtomicBool::new(false), &mut |_| Ok(())))?;
        if round > 0 {
            let (prompts, tokens) = rates.last_mut().expect("one more than counts");
            prompts.push(done.prompt_per_second);
            tokens.push(done.tokens_per_second);
        }
    }
    println!("| sequences | prompt tokens per second | generated per second | of one |\n|---|---|---|---|");
    let one = median(rates[0].1.clone());
    let names = counts.iter().map(usize::to_string).chain(["a conversation".to_string()]);
    for (name, (prompts, tokens)) in names.zip(rates) {
        let (prompt, decode) = (median(prompts), median(tokens));
        println!("| {name} | {prompt:.0} | {decode:.1} | {:.2} |", decode / one);
    }
    Ok(())
}

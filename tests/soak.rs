//! Long runs, beside the gate (scripts/soak.sh): what a process holds may not grow with what it has done.
#![cfg(target_os = "linux")]

mod common;

use common::Folder;
use common::tiny::Tiny;
use pollster::block_on;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use warpweft::session::{DeviceChoice, Generator, Options, Request};
use warpweft::text::Sampling;

const TOKENS: usize = 100_000;
const ROUNDS: usize = 1000;
/// Growth that is allowed, beside what allocators and drivers round to.
const MOST: f64 = 0.01;
const ROUNDING: u64 = 256 << 10;

/// The CPU, or what the variable names.
fn options() -> Options {
    let device = std::env::var("WARPWEFT_SOAK_DEVICE").map_or(DeviceChoice::Cpu, |d| d.parse().unwrap());
    Options { device, context: Some(512), ..Options::default() }
}

fn model() -> (Folder, PathBuf) {
    let folder = Folder::new("soak");
    let path = folder.file("tiny.gguf", Tiny { context: 512, ..Tiny::default() }.gguf().bytes());
    (folder, path)
}

/// Bytes of this process in memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// What is held from the first tenth of the work on.
struct Growth {
    what: &'static str,
    first: Option<u64>,
    last: u64,
}

impl Growth {
    fn new(what: &'static str) -> Growth {
        Growth { what, first: None, last: 0 }
    }
    fn at(&mut self, done: usize, of: usize) {
        if done * 10 >= of {
            self.last = resident();
            self.first.get_or_insert(self.last);
        }
    }
    fn check(&self) {
        let first = self.first.unwrap();
        let grown = self.last.saturating_sub(first);
        println!(
            "{}: {:.1} MiB at a tenth, {:.1} MiB at the end, {:+.2} %",
            self.what,
            first as f64 / 1048576.0,
            self.last as f64 / 1048576.0,
            100.0 * (self.last as f64 / first as f64 - 1.0)
        );
        assert!(grown <= (first as f64 * MOST) as u64 + ROUNDING, "{} grew by {grown} bytes", self.what);
    }
}

#[test]
#[ignore = "takes minutes: scripts/soak.sh"]
fn one_long_conversation_holds_no_more_at_its_end() {
    let (_folder, path) = model();
    let mut generator = block_on(Generator::open(&path, &options())).unwrap();
    let mut talk = generator.raw_prompt("the hen and the horse").unwrap();
    let (mut growth, mut made, mut shifts) = (Growth::new("a conversation"), 0, 0);
    while made < TOKENS {
        let request = Request {
            prompt: talk.clone(),
            // It never ends its turn by itself.
            sampling: Sampling {
                temperature: 1.0,
                seed: made as u64,
                logit_bias: vec![(0, -100.0)],
                ..Sampling::default()
            },
            max_tokens: Some(100),
            top: 0,
        };
        let mut add = |token: &warpweft::session::Token| {
            talk.push(token.id);
            Ok(())
        };
        let done = block_on(generator.generate(&request, &AtomicBool::new(false), &mut add)).unwrap();
        assert!(done.tokens > 0);
        made += done.tokens;
        // Where the context is full, its older half is forgotten.
        if talk.len() + 100 >= generator.context() {
            talk.drain(1..talk.len() / 2);
            shifts += 1;
        }
        growth.at(made, TOKENS);
    }
    println!("{made} tokens, {shifts} shifts");
    assert!(shifts > 100);
    growth.check();
}

#[test]
#[ignore = "takes minutes: scripts/soak.sh"]
fn opening_and_closing_leaves_nothing_behind() {
    let (_folder, path) = model();
    let mut growth = Growth::new("opening and closing");
    for round in 0..ROUNDS {
        let mut generator = block_on(Generator::open(&path, &options())).unwrap();
        let prompt = generator.raw_prompt("the hen").unwrap();
        let request = Request { prompt, sampling: Sampling::greedy(), max_tokens: Some(2), top: 0 };
        block_on(generator.generate(&request, &AtomicBool::new(false), &mut |_| Ok(()))).unwrap();
        drop(generator);
        growth.at(round, ROUNDS);
    }
    growth.check();
}

//! Text from a model file: `cargo run --release --example generate -- model.gguf "What is the capital of France?"`.

use std::io::Write;
use std::sync::atomic::AtomicBool;
use warpweft::base::{Error, Result};
use warpweft::session::{Generator, Options, Request, Token};
use warpweft::text::{Message, Sampling};

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let path = args
        .next()
        .ok_or_else(|| Error::usage("give a .gguf file or a model folder (`warpweft pull smollm2-135m` prints one)"))?;
    let question = args.next().unwrap_or("What is the capital of France?".into());

    pollster::block_on(async {
        let mut model = Generator::open(path, &Options::default(), &mut |_| {}).await?;
        let prompt = model.chat_prompt(&[Message::new("user", question)])?;
        let request = Request { prompt, sampling: Sampling::greedy(), max_tokens: Some(64), top: 0 };
        let mut show = |t: &Token| {
            print!("{}", t.text);
            std::io::stdout().flush().map_err(|e| Error::usage(e.to_string()))
        };
        let done = model.generate(&request, &AtomicBool::new(false), &mut show).await?;
        println!("\n{}: {:.1} tokens/s", done.adapter, done.tokens_per_second);
        Ok(())
    })
}

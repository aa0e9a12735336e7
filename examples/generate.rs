//! Text from a model file: `cargo run --release --example generate -- model.gguf "What is the capital of France?"`.

use std::io::Write;
use warpweft::{Error, Generator, Message, Options, Request, Result};

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let path = args
        .next()
        .ok_or_else(|| Error::usage("give a .gguf file or a model folder (`warpweft pull smollm2-135m` prints one)"))?;
    let question = args.next().unwrap_or("What is the capital of France?".into());

    pollster::block_on(async {
        let mut model = Generator::open(path, &Options::new()).await?;
        let prompt = model.chat_prompt(&[Message::new("user", question)])?;
        let mut tokens = model.stream(&Request::new(prompt).max_tokens(64))?;
        while let Some(token) = tokens.next().await {
            print!("{}", token?.text);
            std::io::stdout().flush().map_err(|e| Error::usage(e.to_string()))?;
        }
        if let Some(done) = tokens.figures() {
            println!("\n{}: {:.1} tokens/s", done.adapter, done.tokens_per_second);
        }
        Ok(())
    })
}

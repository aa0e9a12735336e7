//! Sentence embeddings on the CPU: seconds for one text of 32 tokens and for 32 of them, medians. scripts/bench-onnx.sh runs it in
//! turn with onnxruntime.

mod common;

use common::{fetched, median};
use std::time::Instant;
use warpweft::base::Result;
use warpweft::session::{DeviceChoice, Embedder, Options};

/// Thirty tokens beside the two markers.
const TEXT: &str = "the man who came to the house on the hill said that it was a very good day for all of us and we went home in the old car";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let after = |name: &str| args.iter().position(|a| a == name).and_then(|i| args.get(i + 1));
    let number = |name: &str, or: usize| after(name).and_then(|n| n.parse().ok()).unwrap_or(or);
    let (threads, repeat) = (number("--threads", 0), number("--repeat", 9));
    pollster::block_on(async {
        let options = Options { device: DeviceChoice::Cpu, threads, ..Options::default() };
        let mut model = Embedder::open(&fetched("minilm")?, &options).await?;
        let tokens = model.tokenizer().encode(TEXT, true)?.len();
        let mut line = vec![format!("\"tokens\": {tokens}, \"threads\": {}", model.threads())];
        for batch in [1, 32] {
            let texts = vec![TEXT; batch];
            let mut times = vec![];
            for _ in 0..repeat + 2 {
                let start = Instant::now();
                model.embed(&texts).await?;
                times.push(start.elapsed().as_secs_f64());
            }
            line.push(format!("\"batch_{batch}_s\": {:.6}", median(times.split_off(2))));
        }
        println!("{{{}}}", line.join(", "));
        Ok(())
    })
}

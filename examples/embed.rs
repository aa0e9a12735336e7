//! Sentence embeddings: `cargo run --release --example embed -- FOLDER "a text" "another"`.

use warpweft::{Embedder, Error, Options, Result};

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let folder = args.next().ok_or_else(|| Error::usage("give a model folder (`warpweft pull minilm` prints one)"))?;
    let mut texts: Vec<String> = args.collect();
    if texts.is_empty() {
        texts = ["A cat sits outside", "A kitten is in the garden", "Interest rates rose"].map(String::from).to_vec();
    }

    pollster::block_on(async {
        let mut model = Embedder::open(folder, &Options::new()).await?;
        let vectors = model.embed(&texts).await?;
        for (text, v) in texts.iter().zip(&vectors) {
            let cosine: f32 = v.iter().zip(&vectors[0]).map(|(a, b)| a * b).sum();
            println!("{cosine:.3}  {text}");
        }
        Ok(())
    })
}

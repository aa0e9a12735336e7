//! `embed`.

use super::ask::texts;
use super::interrupt::Interrupt;
use super::{Place, fetch, notify, style};
use crate::base::{Result, plain};
use crate::session::{Embedder, ImageEmbedder};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

#[derive(Args)]
pub struct Embed {
    /// A name of the catalogue (see `models`), or a model folder
    model: String,
    /// Texts to embed; - reads one from stdin
    #[arg(required_unless_present = "images")]
    texts: Vec<String>,
    /// An image to embed (JPEG, PNG or WebP), before the texts; may be given several times (clip, siglip)
    #[arg(long = "image", value_name = "FILE")]
    images: Vec<PathBuf>,
    /// An array of arrays
    #[arg(long, conflicts_with = "similarity")]
    json: bool,
    /// A table of cosine similarities instead of the vectors
    #[arg(long)]
    similarity: bool,
    #[command(flatten)]
    place: Place,
}

impl Embed {
    pub async fn run(&self) -> Result<()> {
        let interrupt = Interrupt::new();
        let path = fetch::resolve(&self.model, &self.place.cache, &interrupt)?;
        let texts = texts(&self.texts)?;
        let options = self.place.options(&interrupt)?;
        let (mut vectors, mut names, mut done, mut peak) = (vec![], vec![], String::new(), 0);
        if !self.images.is_empty() {
            let mut model = ImageEmbedder::open_telling(&path, &options, &mut notify).await?;
            style::clear();
            vectors = model.embed_files(&self.images, &interrupt.cancel).await?;
            names.extend(self.images.iter().map(|p| p.display().to_string()));
            (done, peak) = (format!("{}: {} images, ", model.adapter(), vectors.len()), model.peak_bytes());
        }
        names.extend(texts.iter().cloned());
        if texts.is_empty() {
            done += &format!("vectors of {} numbers; peak memory {}", width(&vectors), style::bytes(peak));
        } else {
            let mut model = Embedder::open_telling(path, &options, &mut notify).await?;
            style::clear();
            vectors.extend(model.embed(&texts).await?);
            done = if done.is_empty() { format!("{}: ", model.adapter()) } else { done };
            done += &format!(
                "{} texts of {} numbers; peak memory {}",
                texts.len(),
                width(&vectors),
                style::bytes(model.peak_bytes().max(peak))
            );
        }
        let text = if self.json {
            format!("{}\n", json!(vectors))
        } else if self.similarity {
            similarities(&names, &vectors)
        } else {
            let row = |v: &Vec<f32>| v.iter().map(|x| format!("{x:.6}")).collect::<Vec<_>>().join(" ") + "\n";
            vectors.iter().map(row).collect()
        };
        style::out(&text);
        style::note(&done);
        Ok(())
    }
}

fn width(vectors: &[Vec<f32>]) -> usize {
    vectors.first().map_or(0, Vec::len)
}

/// Vectors have length one, so a dot product is the cosine.
fn similarities(texts: &[String], vectors: &[Vec<f32>]) -> String {
    let mut out = String::from("     ");
    (1..=texts.len()).for_each(|i| out += &format!("{i:>7}"));
    out.push('\n');
    for (i, (text, a)) in texts.iter().zip(vectors).enumerate() {
        out += &format!("{:>5}", i + 1);
        for b in vectors {
            out += &format!("{:>7.3}", a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>());
        }
        let short: String = text.chars().take(48).collect();
        out += &format!("  {}\n", plain(&short, 48));
    }
    out
}

//! `quantize`: a model in other formats.

use super::interrupt::Interrupt;
use super::{Cache, fetch, style};
use crate::base::{Error, Result};
use crate::format::{MIXES, Mix};
use crate::model::{Model, ModelSource};
use crate::session::{self, DeviceChoice, Quantised};
use clap::Args;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub struct Quantize {
    /// A .gguf file (the first of several parts), or a name of the catalogue
    input: String,
    /// The .gguf file to write
    output: PathBuf,
    /// The format of its matrices: f16, bf16, q8_0, q6_k, q5_k_m, q4_k_m, q4_0 and others
    #[arg(long, value_name = "FORMAT", value_parser = mix)]
    to: &'static Mix,
    /// Print the perplexity of this text before and after
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Where perplexity is computed: auto, cpu, an adapter's index (see `devices`) or a part of its name
    #[arg(long, default_value = "auto", value_name = "WHICH")]
    device: DeviceChoice,
    #[command(flatten)]
    cache: Cache,
}

fn mix(name: &str) -> std::result::Result<&'static Mix, String> {
    let all = || MIXES.iter().map(|m| m.name).collect::<Vec<_>>().join(", ");
    Mix::named(name).ok_or_else(|| format!("there is no format of this name, there are {}", all()))
}

impl Quantize {
    pub async fn run(&self) -> Result<()> {
        let input = fetch::resolve(&self.input, &self.cache, &Interrupt::new())?;
        let text = self.text.as_deref().map(read).transpose()?;
        let sizes = session::quantize(&input, &self.output, self.to, &mut |q| {
            if style::out(&line(q)) { Ok(()) } else { Err(Error::Cancelled) }
        })?;
        let bits = sizes.after as f64 * 8.0 / sizes.elements.max(1) as f64;
        let (before, after) = (style::bytes(sizes.before), style::bytes(sizes.after));
        style::out(&format!("{before} of tensors became {after}, {bits:.2} bits per weight\n"));
        let Some(text) = text else { return Ok(()) };
        let mut values = vec![];
        for path in [&input, &self.output] {
            let model = Model::new(ModelSource::open(path)?)?;
            values.push(session::perplexity(&model, &text, &self.device).await?);
        }
        let [a, b] = values[..] else { return Ok(()) };
        style::out(&format!("perplexity {:.4} before, {:.4} after, over {} tokens\n", a.value, b.value, b.tokens));
        Ok(())
    }
}

fn line(q: &Quantised) -> String {
    let change = if q.from == q.to { format!("{}", q.to) } else { format!("{} to {}", q.from, q.to) };
    let lost = match q.from == q.to {
        true => "kept".to_string(),
        false => {
            format!("RMS error {:.3e}, {:.2} % of the RMS", q.error, 100.0 * q.error / q.size.max(f64::MIN_POSITIVE))
        }
    };
    format!("{:<36} {:<18} {change:<16} {lost}\n", q.name, format!("{:?}", q.shape))
}

fn read(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|e| Error::file(path, format!("cannot be read: {e}")))?;
    String::from_utf8(bytes).map_err(|e| Error::file(path, format!("is no text in UTF-8: {e}")))
}

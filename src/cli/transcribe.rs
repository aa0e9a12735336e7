//! `transcribe`.

use super::interrupt::Interrupt;
use super::{Place, fetch, notify, style};
use crate::base::Result;
use crate::media;
use crate::session::{Listening, Segment, Transcriber};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use std::time::Instant;

#[derive(Args)]
pub struct Transcribe {
    /// A model folder of the type whisper
    model: String,
    /// A WAV file of any rate, mono or of several channels
    file: PathBuf,
    /// The language that is spoken, as the model names it (en); heard where not given
    #[arg(long, value_name = "CODE")]
    language: Option<String>,
    /// Translate to English
    #[arg(long)]
    translate: bool,
    /// Print the seconds of each piece before it
    #[arg(long)]
    timestamps: bool,
    /// One JSON object a piece: its seconds, text and tokens
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

impl Transcribe {
    pub async fn run(&self) -> Result<()> {
        let interrupt = Interrupt::new();
        let path = fetch::resolve(&self.model, &self.place.cache, &interrupt)?;
        let bytes = media::read_file(&self.file)?;
        let sound = media::decode_wav(&bytes, &self.file)?;
        drop(bytes);
        let seconds = sound.samples.len() as f64 / f64::from(sound.rate);
        let mut model = Transcriber::open_telling(path, &self.place.options(&interrupt)?, &mut notify).await?;
        style::clear();
        let how = Listening { language: self.language.clone(), translate: self.translate, timestamps: self.timestamps };
        let (start, mut tokens) = (Instant::now(), 0);
        let mut write = |s: &Segment| {
            tokens += s.tokens.len();
            let line = match (self.json, self.timestamps, s.times) {
                (true, _, times) => format!(
                    "{}\n",
                    json!({ "from": times.map(|t| t.0), "to": times.map(|t| t.1), "text": s.text, "tokens": s.tokens })
                ),
                (false, true, Some((from, to))) => format!("[{from:.2} – {to:.2}]{}\n", s.text),
                _ => s.text.clone(),
            };
            style::out(&line);
            Ok(())
        };
        let sound = sound.at_rate(model.rate())?;
        model.hear(sound, &how, &interrupt.cancel, &mut write).await?;
        if !self.json && !self.timestamps {
            style::out("\n");
        }
        let took = start.elapsed().as_secs_f64();
        style::note(&format!(
            "{}: {seconds:.1} s of sound in {took:.1} s, {tokens} tokens; peak memory {}",
            model.adapter(),
            style::bytes(model.peak_bytes())
        ));
        Ok(())
    }
}

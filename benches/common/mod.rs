//! What the benches share.
#![allow(dead_code)]

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use warpweft::base::Result;
use warpweft::model::{catalogue, source::Fetcher};
use warpweft::session::DeviceChoice;

pub fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}

/// What follows `--device` among the arguments, else the first adapter.
pub fn device() -> DeviceChoice {
    let args: Vec<String> = std::env::args().collect();
    let given = args.iter().position(|a| a == "--device").and_then(|i| args.get(i + 1));
    given.and_then(|d| d.parse().ok()).unwrap_or(DeviceChoice::Index(0))
}

/// The folder that the command line uses.
pub fn cache() -> PathBuf {
    use etcetera::BaseStrategy;
    let given = std::env::var_os("WARPWEFT_CACHE").map(PathBuf::from);
    given.or_else(|| etcetera::choose_base_strategy().ok().map(|b| b.cache_dir().join("warpweft"))).unwrap_or_default()
}

/// Where a model of the catalogue lies, fetched if need be.
pub fn fetched(name: &str) -> Result<PathBuf> {
    Fetcher::new(cache()).fetch(&catalogue::find(name)?, &mut |_| {}, &AtomicBool::new(false))
}

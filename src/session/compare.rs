//! Whether a software adapter is faster than the CPU fallback: both run on the same cores, so it is measured once and
//! remembered in the cache folder.

use super::engine::Engine;
use crate::base::{Array, Bindings, DType, Error, Result};
use crate::device::{AdapterReport, Gpu};
use crate::format::TYPICAL;
use crate::graph::{Graph, GraphBuilder};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use web_time::Instant;

/// Seconds that each takes for the same products.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    pub adapter: f64,
    pub cpu: f64,
}

/// Raised when either side becomes so much faster that old measurements mislead.
const GENERATION: u32 = 2;

fn file(report: &AdapterReport, cache: &Path) -> PathBuf {
    let plain = |s: &str| {
        s.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect::<String>()
    };
    let threads = rayon::current_num_threads();
    cache.join("tuning").join(format!(
        "{}-{}-{}-beside-cpu-{threads}-v{GENERATION}.json",
        plain(&report.name),
        plain(&report.backend),
        plain(&report.driver)
    ))
}

impl Comparison {
    /// The one that is remembered for this adapter; nothing where there is none, or it is damaged.
    pub fn load(report: &AdapterReport, cache: &Path) -> Option<Comparison> {
        let found: Comparison = serde_json::from_str(&std::fs::read_to_string(file(report, cache)).ok()?).ok()?;
        (found.adapter > 0.0 && found.cpu > 0.0).then_some(found)
    }

    /// Written under another name first, so that a reader never sees half of it.
    pub fn save(&self, report: &AdapterReport, cache: &Path) -> Result<()> {
        let path = file(report, cache);
        let fail = |e: std::io::Error| Error::file(&path, format!("cannot be written: {e}"));
        std::fs::create_dir_all(path.parent().unwrap_or(cache)).map_err(fail)?;
        let fresh = path.with_extension(format!("{}.part", std::process::id()));
        std::fs::write(&fresh, serde_json::to_string(self).unwrap_or_default()).map_err(fail)?;
        std::fs::rename(&fresh, &path).map_err(fail)
    }

    /// Times the products of two small decoder layers of one token in four bits, which is where generating text spends its time.
    pub async fn measure(gpu: &Arc<Gpu>) -> Result<Comparison> {
        let graph = products()?;
        let bytes = TYPICAL.bytes((WIDTH * FFN) as u64).unwrap_or(0) as usize;
        let blocks = || vec![0x11; bytes];
        let weights = HashMap::from([
            ("up".to_string(), Array::new(TYPICAL, &[FFN, WIDTH], blocks())?),
            ("down".to_string(), Array::new(TYPICAL, &[WIDTH, FFN], blocks())?),
        ]);
        let mut times = [0.0; 2];
        for (time, place) in times.iter_mut().zip([Some(gpu.clone()), None]) {
            let mut engine = Engine::load(place, &graph, &weights, &super::Options::default()).await?;
            *time = median(&mut engine).await?;
        }
        Ok(Comparison { adapter: times[0], cpu: times[1] })
    }
}

const WIDTH: usize = 576;
const FFN: usize = 1536;

fn products() -> Result<Graph> {
    let g = GraphBuilder::new();
    let mut x = g.input("x", DType::F32, [1, WIDTH]);
    let (up, down) = (g.weight("up", TYPICAL, [FFN, WIDTH]), g.weight("down", TYPICAL, [WIDTH, FFN]));
    for _ in 0..2 {
        x = x.matmul_t(up).matmul_t(down);
    }
    g.output("y", x);
    g.finish()
}

/// Median seconds of a step; the first, which may compile, is not counted.
async fn median(engine: &mut Engine) -> Result<f64> {
    let x = Array::f32(&[1, WIDTH], &[0.01; WIDTH]);
    let mut times = vec![];
    for i in 0..6 {
        let start = Instant::now();
        engine.run(&Bindings::new(), &[("x", x.clone())], &["y"]).await?;
        if i > 0 {
            times.push(start.elapsed().as_secs_f64());
        }
    }
    Ok(crate::base::units::median(times))
}

//! Which kernel variants are fastest on an adapter: timed once, remembered in the cache folder.

use super::Notice;
use crate::base::units::median;
use crate::base::{Array, Bindings, Caps, DType, Error, Precision, Result};
use crate::device::{Gpu, Program, Store};
use crate::format::{SAMPLES, TYPICAL};
use crate::graph::GraphBuilder;
use crate::kernel::matmul::{Form, VARIANTS, Variant};
use crate::plan::{self, Options, Tuning};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use web_time::Instant;

/// Raised whenever kernels or their variants change, so that old timings are not trusted.
const GENERATION: u32 = 5;

/// What a file of the cache folder says.
#[derive(serde::Serialize, serde::Deserialize)]
struct Saved {
    texels: bool,
    chosen: BTreeMap<String, String>,
}

fn file(gpu: &Gpu, cache: &Path) -> PathBuf {
    let plain = |s: &str| {
        s.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect::<String>()
    };
    let report = &gpu.report;
    cache.join("tuning").join(format!(
        "{}-{}-{}-v{GENERATION}.json",
        plain(&report.name),
        plain(&report.backend),
        plain(&report.driver)
    ))
}

/// The tuning of this adapter from the cache folder; `None` where there is none, or it is damaged.
pub fn load_tuning(gpu: &Gpu, cache: &Path) -> Option<Tuning> {
    let text = std::fs::read_to_string(file(gpu, cache)).ok()?;
    let Saved { texels, chosen } = serde_json::from_str(&text).ok()?;
    let valid = chosen.values().all(|name| Variant::find(name).is_some_and(|v| v.precision == Precision::F32));
    valid.then(|| Tuning { texels, chosen, ..Tuning::for_kind(gpu.caps().kind) })
}

/// Remembers a tuning; written under another name first, so that a reader never sees half of it.
pub fn save_tuning(gpu: &Gpu, cache: &Path, tuning: &Tuning) -> Result<()> {
    let path = file(gpu, cache);
    let fail = |e: std::io::Error| Error::file(&path, format!("cannot be written: {e}"));
    std::fs::create_dir_all(path.parent().unwrap_or(cache)).map_err(fail)?;
    let fresh = path.with_extension(format!("{}.part", std::process::id()));
    let saved = Saved { texels: tuning.texels, chosen: tuning.chosen.clone() };
    let text = serde_json::to_string_pretty(&saved).unwrap_or_default();
    std::fs::write(&fresh, text).map_err(fail)?;
    std::fs::rename(&fresh, &path).map_err(fail)
}

/// What a session plans with: remembered, or timed now and remembered.
pub(super) async fn tuned(
    gpu: &Arc<Gpu>,
    cache: Option<&Path>,
    notify: &mut dyn FnMut(Notice),
) -> Result<Option<Tuning>> {
    let Some(cache) = cache else { return Ok(None) };
    if let Some(known) = load_tuning(gpu, cache) {
        return Ok(Some(known));
    }
    notify(Notice::Say(format!("timing kernels on {} (once; remembered in {})", gpu.report.name, cache.display())));
    let tuning = tune(gpu, &mut |_| {}).await?;
    // A cache that cannot be written costs time, not the answer.
    if let Err(e) = save_tuning(gpu, cache, &tuning) {
        notify(Notice::Say(e.to_string()));
    }
    Ok(Some(tuning))
}

/// Sizes that stand for their class: rows of the left operand, outputs, inner.
const FEW: (usize, usize, usize) = (1, 1536, 576);
const MANY: (usize, usize, usize) = (8, 960, 576);

/// Times the variants of every class of matmul on this adapter.
pub async fn tune(gpu: &Arc<Gpu>, tell: &mut dyn FnMut(&str)) -> Result<Tuning> {
    let mut tuning = Tuning::for_kind(gpu.caps().kind);
    for dtype in SAMPLES {
        for tall in [false, true] {
            let class = Tuning::matmul_class(dtype, true, tall);
            let mut best: Option<(&str, f64)> = None;
            for v in candidates(tall, tuning.serial, gpu.caps()) {
                let seconds = time(gpu, dtype, if tall { MANY } else { FEW }, &class, v.name, &tuning).await?;
                tell(&format!("{class} {}: {:.0} µs", v.name, seconds * 1e6));
                if best.is_none_or(|b| seconds < b.1) {
                    best = Some((v.name, seconds));
                }
            }
            tuning.chosen.extend(best.map(|b| (class, b.0.to_string())));
        }
    }
    tuning.texels = texels(gpu, &tuning).await?;
    tell(&format!("weights in {}", if tuning.texels { "textures" } else { "buffers" }));
    Ok(tuning)
}

/// Whether weights are read faster from textures: the chosen variants of one type, timed both ways.
async fn texels(gpu: &Arc<Gpu>, tuning: &Tuning) -> Result<bool> {
    let mut seconds = [0.0; 2];
    for (texels, sum) in [false, true].into_iter().zip(&mut seconds) {
        let placed = Tuning { texels, ..tuning.clone() };
        for (tall, sizes) in [(false, FEW), (true, MANY)] {
            let class = Tuning::matmul_class(TYPICAL, true, tall);
            let Some(name) = tuning.chosen.get(&class) else { continue };
            *sum += time(gpu, TYPICAL, sizes, &class, name, &placed).await?;
        }
    }
    Ok(seconds[1] < seconds[0])
}

/// Variants worth timing: forms without barriers on adapters that run on a CPU, all forms elsewhere.
fn candidates(tall: bool, serial: bool, caps: &Caps) -> Vec<Variant> {
    let suits = |v: &Variant| match v.form {
        Form::Rows => (v.tm > 1) == tall && (!serial || v.tm * v.tn <= 32),
        Form::Vector | Form::Subgroup => !tall && !serial,
        Form::Tiled => tall && !serial,
    };
    // What is timed are plans in f32: other precisions would be timed under a wrong name.
    VARIANTS.iter().copied().filter(|v| v.precision == Precision::F32 && suits(v) && v.requires(caps)).collect()
}

/// Median seconds of one matmul, its submission and wait included.
async fn time(
    gpu: &Arc<Gpu>,
    dtype: DType,
    (m, n, k): (usize, usize, usize),
    class: &str,
    variant: &str,
    base: &Tuning,
) -> Result<f64> {
    let g = GraphBuilder::new();
    let x = g.input("x", DType::F32, [m, k]);
    let w = g.weight("w", dtype, [n, k]);
    g.output("y", x.matmul_t(w));
    let mut options = Options::for_caps(gpu.caps());
    options.tuning = Tuning { chosen: BTreeMap::from([(class.to_string(), variant.to_string())]), ..base.clone() };
    let bytes = dtype.bytes((n * k) as u64).unwrap_or(0) as usize;
    let weights = HashMap::from([("w".to_string(), Array::new(dtype, &[n, k], vec![0x11; bytes])?)]);
    let mut store = Store::new(gpu.clone());
    let plan = plan::plan(&g.finish()?, gpu.caps(), &options)?;
    let mut program = Program::load(plan, &mut store, &weights, &mut |_, _| {}).await?;
    let input = Array::f32(&[m, k], &vec![0.5; m * k]);
    let mut times = vec![];
    for i in 0..6 {
        let start = Instant::now();
        program.step(&Bindings::new(), &[("x", input.clone())], &[]).await?;
        gpu.done().await?;
        if i > 0 {
            times.push(start.elapsed().as_secs_f64());
        }
    }
    Ok(median(times))
}

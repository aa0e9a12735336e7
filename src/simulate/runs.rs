//! Rows that describe a training run or a model being served.

use super::chip::Chip;
use super::constants::Constants;
use super::energy::{self, Spent};
use super::inference::{Mode, Serving, answering};
use super::known::{self, Machines};
use super::layer::layer;
use super::layout::{Layout, Recompute, Schedule, Stack};
use super::memory::{Held, Memory, memory as held};
use super::shape::{Latent, Shape, preset};
use super::software;
use super::table::{Figure, Row};
use super::training::{Step, step_on};
use crate::base::units::Bytes;
use crate::base::{Error, Result};
use crate::topology::{Precision, Topology};
use std::io::Read;

/// The model of a row: a preset, a config.json by its path, or one of its own sizes.
pub fn shape(row: &Row) -> Result<Shape> {
    if let Some(name) = row.text("model")
        && row.text("layers").is_none()
    {
        return named(name);
    }
    if row.text("layers").is_none() || row.text("hidden").is_none() {
        return Err(Error::usage("neither model nor layers and hidden are given"));
    }
    let hidden = row.count("hidden", 1)?;
    let gated = row.flag("gated")?.unwrap_or(false);
    let experts = row.number("experts")?.filter(|e| *e > 1.0).map_or(Ok(0), |_| row.count("experts", 1))?;
    let ffn = row.count("ffn", if gated { (hidden * 8 / 3).div_ceil(256) * 256 } else { 4 * hidden })?;
    let heads = row.count("heads", (hidden / 128).max(1))?;
    let size = |column: &str| row.some_count(column).map(|v| v.unwrap_or(0));
    let head = size("head")?;
    // Latent attention, with the head sizes of DeepSeek-V2 unless the row has its own (arXiv:2405.04434).
    let latent = match size("kv_lora")? {
        0 => None,
        kv => {
            let rope = row.some_count("rope_head")?.unwrap_or(64);
            let nope = row.some_count("nope_head")?.unwrap_or(if head > rope { head - rope } else { 128 });
            Some(Latent {
                query: row.some_count("q_lora")?.unwrap_or(hidden),
                kv,
                nope,
                rope,
                value: row.some_count("value_head")?.unwrap_or(nope),
            })
        }
    };
    let shape = Shape {
        name: row.text("model").unwrap_or("").into(),
        layers: row.count("layers", 1)?,
        hidden,
        heads,
        kv_heads: if latent.is_some() { heads } else { size("kv_heads")? },
        head: if latent.is_some() { 0 } else { head },
        ffn,
        vocab: row.count("vocab", 51200)?,
        gated,
        rope: gated,
        biases: !gated,
        tied: !gated,
        experts,
        top_k: if experts > 0 { row.count("top_k", 2)? } else { 0 },
        shared_experts: if experts > 0 { size("shared_experts")? } else { 0 },
        dense_layers: if experts > 0 { size("dense_layers")? } else { 0 },
        dense_ffn: size("dense_ffn")?,
        moe_every: if experts > 0 { size("moe_every")? } else { 0 },
        window: size("window")?,
        full_every: size("full_every")?,
        latent,
        ..Shape::default()
    };
    shape.check()?;
    Ok(shape)
}

/// A preset, or the path of a config.json or its folder.
fn named(name: &str) -> Result<Shape> {
    let path = std::path::Path::new(name);
    let file = if path.is_dir() { path.join("config.json") } else { path.to_path_buf() };
    if !name.ends_with(".json") && !file.ends_with("config.json") {
        return preset(name);
    }
    let fail = |e: std::io::Error| Error::file(&file, format!("cannot be read: {e}"));
    if !std::fs::metadata(&file).map_err(fail)?.is_file() {
        return Err(Error::file(&file, "is not a regular file"));
    }
    let mut text = vec![];
    std::fs::File::open(&file).and_then(|f| f.take(MOST_CONFIG as u64 + 1).read_to_end(&mut text)).map_err(fail)?;
    if text.len() > MOST_CONFIG {
        return Err(Error::file(&file, format!("has more than {MOST_CONFIG} bytes, no config.json has")));
    }
    let json = crate::base::json::parse(&text).map_err(|e| Error::file(&file, e.to_string()))?;
    super::config::from_config(&json, name)
}

/// The largest config.json.
const MOST_CONFIG: usize = 4 << 20;

/// A training run of a row. An empty micro_batch is the fastest that fits.
pub struct Run {
    pub shape: Shape,
    pub chip: Chip,
    pub layout: Layout,
    pub step: Step,
}

/// Seconds a step that a row measured.
pub fn seconds(row: &Row, machines: Machines) -> Option<f64> {
    if let Ok(Some(s)) = row.positive("seconds") {
        return Some(s);
    }
    let rate = row.positive("tokens_per_s_per_gpu").ok()??;
    let r = run(row, machines).ok()?;
    Some(r.step.tokens / (rate * r.step.devices as f64))
}

fn machine(row: &Row, machines: Machines, devices: usize) -> Result<(Topology, Chip)> {
    let topology = machines(row.need("cluster")?)?.with_devices(devices)?;
    let chip = Chip::new(topology.slowest())?;
    Ok((topology, chip))
}

fn precision(row: &Row, column: &str, chip: &Chip) -> Result<Precision> {
    let native =
        if chip.device.peak.iter().any(|p| p.0 == Precision::Bf16) { Precision::Bf16 } else { Precision::Fp16 };
    row.text(column).map_or(Ok(None), known::precision).map(|p| p.unwrap_or(native))
}

pub fn run(row: &Row, machines: Machines) -> Result<Run> {
    run_with(row, machines, &|_, _| {})
}

/// Changes constants and what the software does before a run is priced.
pub type Change<'a> = &'a dyn Fn(&mut Constants, &mut Stack);

/// The same with constants that the caller changes.
pub fn run_with(row: &Row, machines: Machines, change: Change) -> Result<Run> {
    let shape = shape(row)?;
    let [tp, pp, cp, ep, chunks] = ["tp", "pp", "cp", "ep", "vpp"].map(|c| row.count(c, 1));
    let (tp, pp, cp, ep, chunks) = (tp?, pp?, cp?, ep?, chunks?);
    let product = |sizes: &[usize]| sizes.iter().try_fold(1usize, |a, b| a.checked_mul(*b)).filter(|n| *n <= 1 << 24);
    let too_many = || Error::usage(format!("tp {tp} × pp {pp} × cp {cp} are more devices than any machine has"));
    let inner = product(&[tp, pp, cp]).ok_or_else(too_many)?;
    let devices = row.count("gpus", product(&[inner, row.count("dp", 1)?]).ok_or_else(too_many)?)?;
    let dp = row.count("dp", (devices / inner).max(1))?;
    if product(&[dp, inner]) != Some(devices) {
        return Err(Error::usage(format!(
            "dp {dp} × tp {tp} × pp {pp} × cp {cp} = {}, gpus is {devices}",
            dp as f64 * inner as f64
        )));
    }
    let (topology, mut chip) = machine(row, machines, devices)?;
    let flag = row.text("fsdp").map(str::to_ascii_lowercase);
    let spread = match flag.as_deref() {
        Some("true" | "yes" | "full" | "full_shard") => Some(3.0),
        Some("false" | "no" | "none" | "no_shard") => Some(0.0),
        _ => row.number("fsdp")?,
    };
    let spread = match spread {
        None => None,
        Some(z) if (0.0..=3.0).contains(&z) && z.fract() == 0.0 => Some(z as usize),
        Some(z) => return Err(Error::usage(format!("fsdp is {z}, must be 0, 1, 2 or 3"))),
    };
    let mut soft = software::named(row.text("stack").unwrap_or(software::training_default(spread)))?
        .trains(&chip.constants.generation, &shape.name)?;
    let zero = spread.unwrap_or(soft.zero);
    change(&mut chip.constants, &mut soft.stack);
    let recompute = match row.text("recompute").map(str::to_ascii_lowercase).as_deref() {
        None | Some("none" | "no" | "false") => Recompute::None,
        Some("selective" | "core_attn" | "sac") => Recompute::Selective,
        Some("full" | "true" | "yes" | "uniform" | "block") => Recompute::Full,
        Some(other) => return Err(Error::usage(format!("recompute is \"{other}\": there are none, selective, full"))),
    };
    let base = Layout {
        dp,
        tp,
        pp,
        cp,
        ep,
        chunks,
        zero,
        sequence_parallel: tp > 1 && row.flag("sequence_parallel")?.unwrap_or(soft.sequence_parallel),
        seq: row.count("seq", 2048)?,
        micro_batch: 1,
        global_batch: 1,
        precision: precision(row, "dtype", &chip)?,
        recompute,
        offload: row.flag("offload")?.unwrap_or(false),
        schedule: Schedule::OneForwardOneBackward,
        imbalance: row.positive("imbalance")?.unwrap_or(1.0),
        stack: soft.stack,
    };
    let given = row.number("micro_batch")?.map(|_| row.count("micro_batch", 1)).transpose()?;
    let global_batch = row.count("global_batch", dp * given.unwrap_or(1))?;
    let tried: Vec<usize> = given.map_or(vec![1, 2, 4, 8, 16], |m| vec![m]);
    let mut best: Option<(Layout, Step)> = None;
    let mut refusal = None;
    for micro_batch in tried {
        let layout = Layout { micro_batch, global_batch, ..base.clone() };
        if let Err(e) = layout.check(&shape) {
            refusal.get_or_insert(e);
            continue;
        }
        let step = step_on(&shape, &topology, &layout, &chip)?;
        let fits =
            |s: &Step| s.memory.iter().all(|m| m.total().0 + chip.constants.runtime.context.0 <= chip.device.memory.0);
        let better = |b: &Step| fits(&step) && (step.seconds < b.seconds || !fits(b));
        if best.as_ref().is_none_or(|b| better(&b.1)) {
            best = Some((layout, step));
        }
    }
    let (layout, step) = best.ok_or_else(|| refusal.unwrap_or_else(|| Error::usage("no micro-batch works")))?;
    Ok(Run { shape, chip, layout, step })
}

const GIB: f64 = 1073741824.0;

/// What a run takes beyond the memory of its devices, where it does.
pub fn beyond_memory(row: &Row, machines: Machines) -> Option<String> {
    let r = run(row, machines).ok()?;
    let most = r.step.memory.iter().map(|m| m.total().0).fold(0.0, f64::max);
    let (held, context) = (r.chip.device.memory, r.chip.constants.runtime.context.0);
    (most + context > held.0).then(|| format!("does not fit: {} of {held} per device", Bytes(most + context)))
}

pub fn training(row: &Row, machines: Machines) -> Result<Vec<Figure>> {
    let r = run(row, machines)?;
    let mut out = vec![];
    let rate = row.positive("tokens_per_s_per_gpu")?.map(|rate| r.step.tokens / (rate * r.step.devices as f64));
    let seconds = row.positive("seconds")?.or(rate);
    if let Some(measured) = seconds {
        out.push(Figure {
            what: if r.shape.experts > 0 { "s, experts" } else { "seconds" },
            measured,
            predicted: r.step.seconds.0,
            work: r.step.model_flops / r.step.devices as f64,
        });
    }
    if let Some(measured) = row.positive("peak_gib")? {
        let predicted = r.step.memory.iter().map(|m| m.total().0 / GIB).fold(0.0, f64::max);
        out.push(Figure { what: "peak GiB", measured, predicted, work: r.shape.parameters() / r.step.devices as f64 });
    }
    if out.is_empty() {
        return Err(Error::usage("none of seconds, tokens_per_s_per_gpu and peak_gib is given"));
    }
    Ok(out)
}

/// Weights and cache of a model that is served, of the fullest device.
fn memory_of_serving(row: &Row, machines: Machines, part: &str) -> Result<Vec<Figure>> {
    let (shape, topology, s) = serving(row, machines)?;
    let m = answering(&shape, &topology, &s)?.memory;
    let (what, bytes) = match part {
        "weights" => ("weights GiB", m.weights.0),
        "cache" => ("cache GiB", m.cache.0),
        "total" => ("total GiB", m.total().0),
        other => return Err(Error::usage(format!("part is \"{other}\": served are weights, cache, total"))),
    };
    let measured = row.required("gib")?;
    Ok(vec![Figure { what, measured, predicted: bytes / GIB, work: shape.parameters() / (s.tp * s.pp) as f64 }])
}

/// Memory of layers alone, as papers count it: states of their matrices, without biases and norms; activations without those
/// of embedding and head.
fn of_layers(r: &Run) -> Vec<Memory> {
    let (l, s) = (&r.layout, &r.shape);
    let bare = Shape { biases: false, linear_biases: false, ..s.clone() };
    let stage = |chunks: &Vec<Vec<usize>>| {
        let mut out = Held { parameters: (0.0, 0.0), kept: 0.0, working: 0.0, largest: 0.0 };
        for i in chunks.iter().flatten() {
            let (shared, experts) = bare.layer_parameters(*i);
            out.parameters.0 += (shared - bare.norm_parameters()) / l.tp as f64;
            out.parameters.1 += experts / (l.expert_tensor() * l.ep) as f64;
            out.kept += layer(s, l, *i).kept / chunks.len() as f64;
        }
        out
    };
    held(l, &r.chip, &l.layers(s).iter().map(stage).collect::<Vec<_>>())
}

pub fn memory(row: &Row, machines: Machines) -> Result<Vec<Figure>> {
    let part = row.text("part").unwrap_or("total");
    if part == "cache" || ["input", "output", "kv_dtype", "batch", "mode"].iter().any(|c| row.text(c).is_some()) {
        return memory_of_serving(row, machines, part);
    }
    let r = run(row, machines)?;
    let measured = row.required("gib")?;
    let of = |m: &Memory| match part {
        "weights" => Ok(m.weights.0),
        "gradients" => Ok(m.gradients.0),
        "optimizer" | "optimiser" => Ok(m.optimizer.0),
        "states" | "layer_states" => Ok(m.weights.0 + m.gradients.0 + m.optimizer.0),
        "activations" | "layer_activations" => Ok(m.activations.0),
        "total" => Ok(m.total().0),
        other => Err(Error::usage(format!(
            "part is \"{other}\": there are weights, gradients, optimizer, states, activations, total, layer_states, layer_activations"
        ))),
    };
    let lines = if part.starts_with("layer_") { of_layers(&r) } else { r.step.memory.clone() };
    let predicted = lines.iter().map(of).collect::<Result<Vec<f64>>>()?.into_iter().fold(0.0, f64::max) / GIB;
    let what = match part {
        "activations" | "layer_activations" => "activations GiB",
        "total" => "total GiB",
        _ => "states GiB",
    };
    Ok(vec![Figure { what, measured, predicted, work: r.shape.parameters() / (r.layout.tp * r.layout.pp) as f64 }])
}

/// Serving of a row: copies fill its devices.
fn serving(row: &Row, machines: Machines) -> Result<(Shape, Topology, Serving)> {
    let shape = shape(row)?;
    let [tp, pp] = ["tp", "pp"].map(|c| row.count(c, 1));
    let (tp, pp) = (tp?, pp?);
    let together = tp
        .checked_mul(pp)
        .filter(|n| *n <= 1 << 24)
        .ok_or_else(|| Error::usage(format!("tp {tp} × pp {pp} are more devices than any machine has")))?;
    let devices = row.count("gpus", together)?;
    if devices % (tp * pp) != 0 {
        return Err(Error::usage(format!("tp {tp} × pp {pp} does not divide {devices} gpus")));
    }
    let (topology, chip) = machine(row, machines, devices)?;
    let batch = row.number("batch")?.map(|_| row.count("batch", 1)).transpose()?;
    let mode = match row.text("mode").map(str::to_ascii_lowercase).as_deref() {
        None if batch.is_none() => Mode::Continuous,
        None | Some("static") => Mode::Static,
        Some("continuous") => Mode::Continuous,
        Some("prefill") => Mode::Prefill,
        Some("decode") => Mode::Decode,
        Some(other) => {
            return Err(Error::usage(format!("mode is \"{other}\": there are static, continuous, prefill, decode")));
        }
    };
    let weights = precision(row, "dtype", &chip)?;
    let kv_precision = if row.text("kv_dtype").is_some() {
        precision(row, "kv_dtype", &chip)?
    } else if weights.bytes() < 2.0 {
        Precision::Fp8
    } else {
        weights
    };
    let output = row.number("output")?.filter(|o| *o == 0.0).map_or_else(|| row.count("output", 128), |_| Ok(0))?;
    let output = if mode == Mode::Prefill { output } else { output.max(1) };
    let serving = Serving {
        tp,
        pp,
        replicas: devices / (tp * pp),
        ep: 1,
        precision: weights,
        kv_precision,
        batch,
        input: row.count("input", 128)?,
        output,
        mode,
        cache_share: 0.95,
        load: None,
    };
    Ok((shape, topology, serving))
}

pub fn inference(row: &Row, machines: Machines) -> Result<Vec<Figure>> {
    let (shape, topology, serving) = serving(row, machines)?;
    let a = answering(&shape, &topology, &serving)?;
    let token = shape.forward_flops((serving.input + serving.output / 2) as f64, false) / a.devices as f64;
    let mut out = vec![];
    if let Some(measured) = row.positive("tokens_per_s")? {
        // The baseline's constant is what tokens a second times operations a token come to: rate = constant / token.
        out.push(Figure { what: "tokens/s", measured, predicted: a.tokens_per_second, work: 1.0 / token });
    }
    if let Some(measured) = row.positive("ttft_s")? {
        out.push(Figure {
            what: "first token s",
            measured,
            predicted: a.first_token.0,
            work: token * serving.input as f64,
        });
    }
    if let Some(measured) = row.positive("itl_s")? {
        out.push(Figure { what: "between tokens s", measured, predicted: a.between_tokens.0, work: token });
    }
    if out.is_empty() {
        return Err(Error::usage("none of tokens_per_s, ttft_s and itl_s is given"));
    }
    Ok(out)
}

/// Energy of a row that decodes, as it was measured: how long it took, how many steps ran, what they spent.
struct Answered {
    chip: Chip,
    devices: usize,
    /// Of one answer of all its devices.
    spent: Spent,
    seconds: f64,
    busy: f64,
    flops: f64,
}

impl Answered {
    fn of(row: &Row, machines: Machines) -> Result<Answered> {
        let (shape, topology, s) = serving(row, machines)?;
        let a = answering(&shape, &topology, &s)?;
        let (devices, batch) = (s.tp * s.pp, a.batch.max(1) as f64);
        let tokens = if s.mode == Mode::Prefill { s.input } else { s.output } as f64;
        let flops = shape.forward_flops(s.input as f64, false) * (s.input + s.output) as f64;
        let chip = Chip::new(topology.slowest())?;
        let predicted = tokens * s.replicas as f64 / a.tokens_per_second;
        let Some(rate) = row.positive("tokens_per_s")? else {
            let busy = predicted * (a.step_busy.0 / a.between_tokens.0).min(1.0);
            return Ok(Answered { chip, devices, spent: a.spent, seconds: predicted, busy, flops });
        };
        let seconds = tokens * s.replicas as f64 / rate;
        if s.mode != Mode::Static {
            let busy = predicted.min(seconds) * (a.step_busy.0 / a.between_tokens.0).min(1.0);
            return Ok(Answered { chip, devices, spent: a.spent, seconds, busy, flops });
        }
        // A batch goes on at the pace of its host until its longest answer ends; what others write meanwhile is not counted.
        let whole = seconds * batch;
        let counted = tokens / whole;
        let steps = if batch > 1.0 {
            let host = software::named(row.text("stack").unwrap_or(software::LOOP))?.loops()?.host_layer.0;
            counted.max(1.0 / (host * shape.layers as f64).max(a.step_busy.0))
        } else {
            counted
        } * whole;
        let spent = (a.prompt_spent + a.step_spent * steps) * (devices as f64 / batch);
        let busy = (steps * a.step_busy.0).min(whole) / batch;
        Ok(Answered { chip, devices, spent, seconds, busy, flops })
    }
}

/// Watts of a row of decoding with another price of being awake and of a byte.
pub fn watts_with(row: &Row, machines: Machines, awake: f64, byte: f64) -> Result<f64> {
    let mut a = Answered::of(row, machines)?;
    (a.chip.constants.energy.awake.0, a.chip.constants.energy.byte.0) = (awake, byte);
    Ok(energy::energy(&a.chip, a.spent, a.seconds, a.busy, a.devices).watts.0)
}

/// Joules of a step (training) or of one answer (inference), watts a device. A row that says how long it took is priced
/// for that long: a slow host costs idle power.
pub fn energy(row: &Row, machines: Machines) -> Result<Vec<Figure>> {
    let serves = ["input", "output", "mode", "tokens_per_s", "batch"].iter().any(|c| row.text(c).is_some());
    let (joules, watts, flops) = if serves {
        let a = Answered::of(row, machines)?;
        let e = energy::energy(&a.chip, a.spent, a.seconds, a.busy, a.devices);
        (e.joules.0, e.watts.0, a.flops)
    } else {
        let r = run(row, machines)?;
        let rate = row.positive("tokens_per_s_per_gpu")?;
        let seconds = row.positive("seconds")?.or(rate.map(|rate| r.step.tokens / (rate * r.step.devices as f64)));
        let seconds = seconds.unwrap_or(r.step.seconds.0);
        let each = seconds * r.step.devices as f64;
        let spare = (seconds - r.step.seconds.0) * r.step.devices as f64;
        let idle = r.chip.device.idle.0 + if spare < 0.0 { r.chip.constants.energy.awake.0 } else { 0.0 };
        let joules = (r.step.energy.joules.0 + spare * idle).clamp(0.0, r.chip.device.limit.0 * each);
        (joules, joules / each, r.step.model_flops)
    };
    let mut out = vec![];
    if let Some(measured) = row.positive("joules")? {
        out.push(Figure { what: "joules", measured, predicted: joules, work: flops });
    }
    if let Some(measured) = row.positive("watts")? {
        out.push(Figure { what: "watts", measured, predicted: watts, work: 1.0 });
    }
    if out.is_empty() {
        return Err(Error::usage("neither joules nor watts is given"));
    }
    Ok(out)
}

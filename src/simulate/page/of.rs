//! Pages of a training step and of serving.

use super::{Page, Point, Roof};
use crate::base::units::Bytes;
use crate::base::{Error, Result};
use crate::simulate::inference::Answering;
use crate::simulate::layer::{Work, embedding, head, layer};
use crate::simulate::memory::Memory;
use crate::simulate::training::{Site, price_all};
use crate::simulate::{Chip, Layout, Shape, Step};
use crate::topology::{Precision, Topology};
use crate::trace::Trace;

/// What a device could do at best.
pub fn roof(chip: &Chip, precision: Precision) -> Result<Roof> {
    let lacks = || Error::usage(format!("{} has no rate for {}", chip.device.title, precision.name()));
    Ok(Roof {
        flops: chip.device.peak(precision).ok_or_else(lacks)?.0,
        bandwidth: chip.device.bandwidth.0,
        format: precision.name().into(),
    })
}

fn lines(m: &Memory) -> Vec<(String, f64)> {
    m.lines().iter().map(|(n, b)| (n.to_string(), b.0)).collect()
}

/// Every kernel of one micro-batch's pass through a device's layers, price by price.
pub fn points(shape: &Shape, topology: &Topology, chip: &Chip, l: &Layout) -> Result<Vec<Point>> {
    let site = Site::new(chip, topology, l);
    let routed = if shape.experts > 0 { shape.layers - shape.dense_layers } else { 0 };
    let passes = l.micro_batches() as f64 / l.pp as f64;
    let mut kinds = vec![];
    if routed > 0 {
        kinds.push((layer(shape, l, shape.layers - 1), routed as f64 * passes));
    }
    if routed < shape.layers {
        kinds.push((layer(shape, l, 0), (shape.layers - routed) as f64 * passes));
    }
    kinds.extend([(embedding(shape, l), passes), (head(shape, l), passes)]);
    let mut out: Vec<Point> = vec![];
    for (kind, times) in &kinds {
        for (pass, work) in [("forward", &kind.forward), ("backward", &kind.backward), ("again", &kind.recompute)] {
            for w in work {
                if let Some(mut p) = point(&site, w, *times)? {
                    p.name = format!("{} {pass}", p.name);
                    match out.iter_mut().find(|o| (&o.name, o.flops, o.bytes) == (&p.name, p.flops, p.bytes)) {
                        Some(o) => o.times += p.times,
                        None => out.push(p),
                    }
                }
            }
        }
    }
    Ok(out)
}

/// A product or attention kernel against the roofs; nothing for what only moves bytes.
pub fn point(site: &Site, w: &Work, times: f64) -> Result<Option<Point>> {
    let (name, flops, bytes) = match w {
        Work::Gemm { name, batch, m, n, k, precision } => {
            (*name, 2.0 * batch * m * n * k, batch * site.chip.engine(*precision)?.bytes(*m, *n, *k))
        }
        Work::Attention { name, flops, bytes, .. } => (*name, *flops, *bytes),
        _ => return Ok(None),
    };
    let seconds = price_all(site, std::slice::from_ref(w))?.seconds;
    Ok(Some(Point { name: name.into(), flops, bytes, seconds, times }))
}

/// A training step. Its roofline is of products and attention; `trace` is [`crate::simulate::trace`]'s.
pub fn training<'a>(shape: &Shape, topology: &Topology, l: &Layout, step: &Step, trace: &'a Trace) -> Result<Page<'a>> {
    let chip = Chip::new(topology.slowest())?;
    let seconds = step.seconds.0;
    let fullest = step.memory.iter().map(|m| m.total().0).fold(0.0, f64::max);
    Ok(Page {
        title: format!("{} on {} × {}", shape.name, step.devices, topology.slowest().title),
        subtitle: format!("A training step, predicted: {}", crate::simulate::report::layout_text(l)),
        figures: vec![
            ("step", step.seconds.to_string()),
            ("tokens per second", format!("{:.0}", step.tokens / seconds)),
            ("MFU", format!("{:.1} %", 100.0 * step.mfu)),
            ("fullest stage", Bytes(fullest).to_string()),
            ("energy per step", step.energy.joules.to_string()),
            ("power per device", step.energy.watts.to_string()),
        ],
        trace,
        costs: step.costs.iter().map(|c| (c.name.clone(), c.seconds)).collect(),
        roof: roof(&chip, l.precision)?,
        points: points(shape, topology, &chip, l)?,
        memory: step.memory.iter().enumerate().map(|(i, m)| (format!("stage {i}"), lines(m))).collect(),
        capacity: chip.device.memory.0,
    })
}

/// Serving: one pass of a device as a row of its costs.
pub fn serving<'a>(
    shape: &Shape,
    topology: &Topology,
    precision: Precision,
    a: &Answering,
    trace: &'a Trace,
) -> Result<Page<'a>> {
    let chip = Chip::new(topology.slowest())?;
    Ok(Page {
        title: format!("{} on {} × {}", shape.name, a.devices, topology.slowest().title),
        subtitle: format!("Serving, predicted: {} sequences at once a copy", a.batch),
        figures: vec![
            ("tokens per second", format!("{:.1}", a.tokens_per_second)),
            ("first token", a.first_token.to_string()),
            ("between tokens", a.between_tokens.to_string()),
            ("cache holds", format!("{:.0} tokens", a.cache_tokens)),
            ("energy per sequence", a.energy.joules.to_string()),
        ],
        trace,
        costs: a.costs.iter().map(|c| (c.name.clone(), c.seconds)).collect(),
        roof: roof(&chip, precision)?,
        points: a.points.clone(),
        memory: vec![("a device".into(), lines(&a.memory))],
        capacity: chip.device.memory.0,
    })
}

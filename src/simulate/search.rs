//! Which layout to take: all sensible ones, priced; and what each trick of one is worth.

use super::chip::Chip;
use super::layout::{Layout, Recompute, Schedule, Stack};
use super::shape::Shape;
use super::training::{Step, step_on};
use crate::base::{Error, Result};
use crate::topology::{Precision, Role, Topology};
use rayon::prelude::*;

/// A layout with its price.
#[derive(Debug, Clone)]
pub struct Found {
    pub layout: Layout,
    pub step: Step,
    /// What such steps are scored as (assets/validation).
    pub figure: &'static str,
}

impl Found {
    /// The fullest stage.
    pub fn bytes(&self) -> f64 {
        self.step.memory.iter().map(|m| m.total().0).fold(0.0, f64::max)
    }
}

fn divisors(n: usize) -> Vec<usize> {
    (1..=n).filter(|d| n.is_multiple_of(*d)).collect()
}

/// Tokens of a sequence from which on it is worth cutting over context-parallel ranks.
const LONG: usize = 32768;

/// Layouts worth trying on all devices of a machine: tensor ranks within the nearest level, pipelines that leave a layer to
/// each stage, experts over data ranks, micro-batches 1 to 8, every way to recompute and to order a pipeline, ZeRO 1 (and 3
/// without a pipeline), long sequences over context ranks.
pub fn candidates(shape: &Shape, topology: &Topology, base: &Layout) -> Vec<Layout> {
    let devices = topology.devices();
    let near = topology.levels().first().map_or(1, |l| l.devices).min(16);
    // Long sequences may be cut, too.
    let contexts: &[usize] = if base.seq >= LONG { &[1, 2, 4, 8, 16] } else { &[1] };
    let mut out = vec![];
    for tp in
        divisors(devices).into_iter().filter(|t| *t <= near && t.is_power_of_two() && shape.heads.is_multiple_of(*t))
    {
        for pp in divisors(devices / tp).into_iter().filter(|p| *p <= shape.layers && *p <= 128) {
            let dp = devices / tp / pp;
            let experts: Vec<usize> = if shape.experts > 0 {
                divisors(shape.experts).into_iter().filter(|e| dp.is_multiple_of(*e) && *e <= 64).collect()
            } else {
                vec![1]
            };
            for ep in experts {
                for micro_batch in
                    [1, 2, 4, 8].into_iter().filter(|m| contexts.len() > 1 || base.global_batch.is_multiple_of(dp * m))
                {
                    for cp in contexts.iter().copied().filter(|c| {
                        dp.is_multiple_of(*c)
                            && base.global_batch.is_multiple_of(dp / c * micro_batch)
                            && (dp / c).is_multiple_of(ep)
                    }) {
                        out.extend(variants(
                            shape,
                            &Layout { tp, pp, dp: dp / cp, ep, micro_batch, cp, chunks: 1, ..base.clone() },
                        ));
                    }
                }
            }
        }
    }
    out
}

fn variants(shape: &Shape, l: &Layout) -> Vec<Layout> {
    let chunks: Vec<usize> = match l.pp {
        1 => vec![1],
        p => [1, 2, 4]
            .into_iter()
            .filter(|c| {
                *c == 1
                    || (p * c <= shape.layers
                        && l.micro_batches().is_multiple_of(p)
                        && shape.layers.is_multiple_of(p * c))
            })
            .collect(),
    };
    let zeros: &[usize] = if l.pp == 1 && l.dp > 1 { &[1, 3] } else { &[1] };
    let mut out = vec![];
    for recompute in [Recompute::None, Recompute::Selective, Recompute::Full] {
        // With fused attention there is nothing cheap to recompute, except as FSDP does it.
        for (chunks, zero) in chunks.iter().flat_map(|c| zeros.iter().map(move |z| (*c, *z))) {
            if recompute == Recompute::Selective && l.stack.fused_attention && zero != 3 && !l.stack.pytorch {
                continue;
            }
            for schedule in [Schedule::OneForwardOneBackward, Schedule::ZeroBubble]
                .into_iter()
                .take(if l.pp > 1 && chunks == 1 { 2 } else { 1 })
            {
                // Spread weights are PyTorch's way, with its kernels.
                let stack = Stack { pytorch: l.stack.pytorch || zero == 3, ..l.stack };
                out.push(Layout { chunks, zero, recompute, schedule, stack, sequence_parallel: l.tp > 1, ..l.clone() });
            }
        }
    }
    out
}

/// Prices all candidates and keeps those that fit the memory and that no other beats in time, memory and energy at once,
/// fastest first. Says how many were tried. Fails where none fits, with the one that comes nearest.
pub fn search(shape: &Shape, topology: &Topology, base: &Layout) -> Result<(Vec<Found>, usize)> {
    let chip = Chip::new(topology.slowest())?;
    let all = candidates(shape, topology, base);
    let tried = all.len();
    let room = chip.device.memory.0 - chip.constants.runtime.context.0;
    let figure = if shape.experts > 0 { "s, experts" } else { "seconds" };
    let price = |l: &Layout| {
        l.check(shape).and_then(|_| step_on(shape, topology, l, &chip)).ok().map(|step| Found {
            layout: l.clone(),
            step,
            figure,
        })
    };
    let priced: Vec<Found> = all.par_iter().filter_map(price).collect();
    let mut fits: Vec<Found> = priced.iter().filter(|f| f.bytes() <= room).cloned().collect();
    if fits.is_empty() {
        let near = priced.iter().min_by(|a, b| a.bytes().total_cmp(&b.bytes()));
        let near = near.map_or("no layout divides this model, batch and machine".into(), |f| {
            let l = &f.layout;
            format!(
                "the nearest, pp={},dp={},tp={} with micro-batch {}, takes {} of {}",
                l.pp,
                l.dp,
                l.tp,
                l.micro_batch,
                crate::base::units::Bytes(f.bytes()),
                chip.device.memory
            )
        });
        return Err(Error::usage(format!(
            "none of {tried} layouts of {} fits {} devices: {near}; take more devices",
            shape.name,
            topology.devices()
        )));
    }
    fits.sort_by(|a, b| a.step.seconds.0.total_cmp(&b.step.seconds.0));
    let mut best: Vec<Found> = vec![];
    for f in fits {
        let beaten = best.iter().any(|b| b.bytes() <= f.bytes() && b.step.energy.joules <= f.step.energy.joules);
        if !beaten {
            best.push(f);
        }
    }
    Ok((best, tried))
}

/// The layout that fits on the fewest nodes, from those of the machine on, and how many nodes; none within 64 times as many.
pub fn nearest(shape: &Shape, topology: &Topology, base: &Layout) -> Option<(usize, Layout)> {
    let mut nodes = topology.nodes;
    while nodes <= topology.nodes.saturating_mul(64) {
        let machine = topology.with_nodes(nodes).ok()?;
        if let Ok((found, _)) = search(shape, &machine, base) {
            return found.into_iter().next().map(|f| (nodes, f.layout));
        }
        nodes *= 2;
    }
    None
}

/// A trick switched off.
#[derive(Debug, Clone)]
pub struct Without {
    pub what: &'static str,
    pub step: Step,
}

/// The step without each of what makes it efficient, one at a time; only what the layout uses.
pub fn ablate(shape: &Shape, topology: &Topology, l: &Layout) -> Result<Vec<Without>> {
    let chip = Chip::new(topology.slowest())?;
    let mut out = vec![];
    let mut add = |what: &'static str, topology: &Topology, layout: Layout| -> Result<()> {
        if layout.check(shape).is_ok() {
            out.push(Without { what, step: step_on(shape, topology, &layout, &chip)? });
        }
        Ok(())
    };
    if l.stack.overlap_gradients || l.stack.overlap_tensor > 0.0 {
        let stack = Stack { overlap_gradients: false, overlap_tensor: 0.0, ..l.stack };
        add("overlap of collectives", topology, Layout { stack, ..l.clone() })?;
    }
    if l.sequence_parallel && l.tp > 1 {
        add("sequence parallel norms", topology, Layout { sequence_parallel: false, ..l.clone() })?;
    }
    if l.stack.fused_attention {
        add("fused attention", topology, Layout { stack: Stack { fused_attention: false, ..l.stack }, ..l.clone() })?;
    }
    match l.recompute {
        Recompute::None => {
            add("keeping activations (recompute all)", topology, Layout { recompute: Recompute::Full, ..l.clone() })?
        }
        Recompute::Selective => {
            add("selective recompute (recompute all)", topology, Layout { recompute: Recompute::Full, ..l.clone() })?
        }
        Recompute::Full => {
            add("full recompute (keep all)", topology, Layout { recompute: Recompute::None, ..l.clone() })?
        }
    }
    if l.chunks > 1 {
        add("interleaved stages", topology, Layout { chunks: 1, ..l.clone() })?;
    }
    if l.schedule == Schedule::ZeroBubble {
        add("zero-bubble schedule", topology, Layout { schedule: Schedule::OneForwardOneBackward, ..l.clone() })?;
    }
    if l.zero > 0 {
        add("states spread over data ranks", topology, Layout { zero: 0, ..l.clone() })?;
    }
    if topology.groups.iter().any(|g| matches!(g.role, Role::Switch { reduction: true })) {
        let mut plain = topology.clone();
        plain.groups.iter_mut().for_each(|g| {
            if let Role::Switch { reduction } = &mut g.role {
                *reduction = false
            }
        });
        add("sums in the switch", &plain, l.clone())?;
    }
    if l.precision.bytes() == 2.0 && chip.device.peak.iter().any(|p| p.0 == Precision::Tf32) {
        add("16-bit products (tf32)", topology, Layout { precision: Precision::Tf32, ..l.clone() })?;
    }
    if l.precision.bytes() < 2.0 {
        add("8-bit products (bf16)", topology, Layout { precision: Precision::Bf16, ..l.clone() })?;
    }
    Ok(out)
}

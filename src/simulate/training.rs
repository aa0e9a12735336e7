//! A training step: kernels and collectives of every stage, the pipeline's schedule, gradients, optimiser.

use super::chip::Chip;
use super::collective::{Placed, price, price_tokens};
use super::energy::{Energy, Spent};
use super::layer::{
    Axis, Layer, Work, embedding, gather_weights, head, layer, scatter_gradients, share_embedding, share_gradients,
};
use super::layout::{Gathers, Layout};
use super::memory::{Memory, memory};
use super::pipeline::{Durations, finish};
use super::shape::Shape;
use crate::base::units::{BytesPerSecond, Seconds};
use crate::base::{Error, Result};
use crate::topology::collective::Kind;
use crate::topology::{Precision, Topology};

/// One line of where a step's time goes: seconds that one device spends on it, on the busiest stage.
#[derive(Debug, Clone, PartialEq)]
pub struct Cost {
    pub name: String,
    pub seconds: f64,
}

/// What a step takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    pub seconds: Seconds,
    pub tokens: f64,
    /// Operations that the model asks for (without recomputing), and that devices do, in all.
    pub model_flops: f64,
    pub hardware_flops: f64,
    /// Of all devices' peak.
    pub mfu: f64,
    pub memory: Vec<Memory>,
    pub costs: Vec<Cost>,
    pub energy: Energy,
    /// Seconds of forward and backward of one micro-batch, by stage; the pipeline's whole.
    pub passes: Durations,
    pub pipeline: f64,
    pub devices: usize,
}

/// The cluster as a layout sees it.
pub struct Site<'a> {
    pub chip: &'a Chip,
    tensor: Placed,
    context: Placed,
    expert: Placed,
    data: Placed,
    expert_data: Placed,
    pipeline: Placed,
    host: BytesPerSecond,
}

impl<'a> Site<'a> {
    /// Ranks lie tensor innermost, then context, data (experts within it), pipeline.
    pub fn new(chip: &'a Chip, topology: &Topology, l: &Layout) -> Site<'a> {
        let place = |ranks: usize, stride: usize| Placed::new(topology, ranks, stride);
        let inner = l.tp * l.cp;
        // Context ranks share weights, too: gradients are summed over both.
        Site {
            chip,
            tensor: place(l.tp, 1),
            context: place(if l.cp > 1 { 2 } else { 1 }, l.tp),
            expert: place(l.ep, if l.dp.is_multiple_of(l.ep) { inner } else { 1 }),
            data: place(l.dp * l.cp, l.tp),
            expert_data: place(l.expert_copies(), if l.dp.is_multiple_of(l.ep) { inner * l.ep } else { l.ep }),
            pipeline: place(if l.pp > 1 { 2 } else { 1 }, inner * l.dp),
            host: topology.host_bandwidth(),
        }
    }

    pub fn placed(&self, axis: Axis) -> &Placed {
        match axis {
            Axis::Tensor => &self.tensor,
            Axis::Context => &self.context,
            Axis::Expert => &self.expert,
            Axis::Data => &self.data,
            Axis::ExpertData => &self.expert_data,
            Axis::Pipeline => &self.pipeline,
        }
    }
}

/// Seconds of a list of work by name, and what it spends.
#[derive(Debug, Clone, Default)]
pub struct Priced {
    pub seconds: f64,
    pub lines: Vec<(&'static str, f64)>,
    pub spent: Spent,
    /// Seconds of products that give gradients of weights.
    pub weights: f64,
    /// Seconds of products and attention, which follow the clocks.
    pub computing: f64,
}

impl Priced {
    fn add(&mut self, name: &'static str, seconds: f64) {
        self.seconds += seconds;
        match self.lines.iter_mut().find(|l| l.0 == name) {
            Some(line) => line.1 += seconds,
            None => self.lines.push((name, seconds)),
        }
    }
    pub fn plus(&mut self, other: &Priced, times: f64) {
        other.lines.iter().for_each(|(name, s)| self.add(name, s * times));
        self.spent = self.spent + other.spent * times;
        self.weights += other.weights * times;
        self.computing += other.computing * times;
    }
}

/// Prices work one after the other; a hidden share of a collective costs its tax on compute only.
pub fn price_all(site: &Site, work: &[Work]) -> Result<Priced> {
    let mut out = Priced::default();
    let chip = site.chip;
    for w in work {
        match w {
            Work::Gemm { name, batch, m, n, k, precision } => {
                let seconds = chip.gemm(*precision, *batch, *m, *n, *k)?;
                out.add(name, seconds);
                out.computing += seconds;
                out.spent.flops += 2.0 * batch * m * n * k * chip.constants.energy.weight(*precision);
                out.spent.bytes += batch * chip.engine(*precision)?.bytes(*m, *n, *k);
            }
            Work::Stream { name, bytes, rows } => {
                out.add(name, chip.stream(*bytes, *rows));
                out.spent.bytes += bytes;
            }
            Work::Attention { name, of, flops, bytes } => {
                let seconds = chip.attention(Precision::Bf16, *of, *flops, *bytes)?;
                out.add(name, seconds);
                out.computing += seconds;
                out.spent.flops += flops;
                out.spent.bytes += bytes;
            }
            Work::Collective { name, kind, bytes, axis, hidden } => {
                let c = &chip.constants.collective;
                let p = price(c, site.placed(*axis), *kind, *bytes, None);
                out.add(name, p.seconds.0 * (1.0 - hidden + hidden * c.tax));
                out.spent.link_bytes += p.near.0 + p.far.0;
            }
            Work::Host { name, seconds } => out.add(name, *seconds),
            Work::Tokens { name, bytes, copies, once, hidden } => {
                let (c, placed) = (&chip.constants.collective, site.placed(Axis::Expert));
                let p = price_tokens(c, placed, *bytes, if *once { *copies } else { 1.0 });
                let hidden = if placed.network.contains(&true) { hidden.0 } else { hidden.1 };
                out.add(name, p.seconds.0 * (1.0 - hidden + hidden * c.tax));
                out.spent.link_bytes += p.near.0 + p.far.0;
            }
        }
    }
    Ok(out)
}

/// Seconds of collectives one after the other with nothing beside them, and bytes that a rank sends.
fn travel(site: &Site, work: &[Work]) -> (f64, f64) {
    let one = |w: &Work| match w {
        Work::Collective { kind, bytes, axis, .. } => {
            let p = price(&site.chip.constants.collective, site.placed(*axis), *kind, *bytes, None);
            (p.seconds.0, p.near.0 + p.far.0)
        }
        _ => (0.0, 0.0),
    };
    work.iter().map(one).fold((0.0, 0.0), |sum, w| (sum.0 + w.0, sum.1 + w.1))
}

/// The same collectives, each on one piece of its bytes.
fn in_pieces(work: &[Work], pieces: f64) -> Vec<Work> {
    let mut out = work.to_vec();
    for w in &mut out {
        if let Work::Collective { bytes, .. } = w {
            *bytes /= pieces;
        }
    }
    out
}

/// Operations of the products of a list, as the hardware does them.
fn flops(work: &[Work]) -> f64 {
    let of = |w: &Work| match w {
        Work::Gemm { batch, m, n, k, .. } => 2.0 * batch * m * n * k,
        Work::Attention { flops, .. } => *flops,
        _ => 0.0,
    };
    work.iter().map(of).sum()
}

/// A chunk of layers on a stage.
#[derive(Default)]
struct Chunk {
    forward: Priced,
    backward: Priced,
    flops: f64,
    kept: f64,
    working: f64,
    parameters: (f64, f64),
}

/// Predicts one optimiser step. Errors where the layout cannot be on this model or machine.
pub fn step(shape: &Shape, topology: &Topology, l: &Layout) -> Result<Step> {
    l.check(shape)?;
    let chip = Chip::new(topology.slowest())?;
    step_on(shape, topology, l, &chip)
}

/// The same with a calibration of the caller's. A long run settles at the clocks that the power limit allows: it is priced
/// at those of a short benchmark first, which says what it would draw.
pub fn step_on(shape: &Shape, topology: &Topology, l: &Layout, chip: &Chip) -> Result<Step> {
    let (burst, spent, computing) = step_at(shape, topology, l, chip)?;
    let clock = super::energy::clock(chip, spent, burst.seconds.0, computing * burst.seconds.0, burst.devices);
    if clock >= 1.0 { Ok(burst) } else { Ok(step_at(shape, topology, l, &chip.at_clock(clock))?.0) }
}

/// A step at the clocks of this chip, what it spends, and the share of its time that follows the clocks.
fn step_at(shape: &Shape, topology: &Topology, l: &Layout, chip: &Chip) -> Result<(Step, Spent, f64)> {
    if l.devices() > topology.devices() {
        return Err(Error::usage(format!(
            "the layout takes {} devices, {} has {}",
            l.devices(),
            topology.name,
            topology.devices()
        )));
    }
    let site = Site::new(chip, topology, l);
    let stages = chunks(shape, &site, l)?;
    let m = l.micro_batches();
    let per = |f: fn(&Chunk) -> f64| stages.iter().map(|s| s.iter().map(f).collect()).collect::<Vec<Vec<f64>>>();
    let hop_bytes = super::layer::hop(shape, l);
    let hop = price(&chip.constants.collective, &site.pipeline, Kind::SendRecv { from: 0, to: 1 }, hop_bytes, None);
    let passes = Durations {
        forward: per(|c| c.forward.seconds),
        backward: per(|c| c.backward.seconds),
        weights: per(|c| c.backward.weights),
        hop: hop.seconds.0,
    };
    let ends = finish(l.schedule, &passes, m)?;
    let pipeline = ends.iter().copied().fold(0.0, f64::max);

    // When the last stage is through, and the stage that works longest.
    let (mut through, mut busiest) = (0.0f64, Priced::default());
    let (mut spent, mut hardware) = (Spent::default(), 0.0);
    for (s, stage) in stages.iter().enumerate() {
        let last = update(shape, &site, l, stage);
        let end = ends[s] + last.seconds;
        let mut all = Priced::default();
        for c in stage {
            all.plus(&c.forward, m as f64);
            all.plus(&c.backward, m as f64);
            hardware += c.flops * m as f64 * (l.devices() / l.pp) as f64;
        }
        all.plus(&last, 1.0);
        all.spent.link_bytes += hop_bytes * 2.0 * (m * l.chunks) as f64;
        spent = spent + all.spent * ((l.devices() / l.pp) as f64);
        through = through.max(end);
        if all.seconds > busiest.seconds {
            busiest = all;
        }
    }
    let seconds = through.max(pipeline);
    let mut costs: Vec<Cost> =
        busiest.lines.iter().map(|(name, s)| Cost { name: name.to_string(), seconds: *s }).collect();
    let busy: f64 = costs.iter().map(|c| c.seconds).sum();
    costs.push(Cost { name: "pipeline bubble".into(), seconds: (seconds - busy).max(0.0) });
    costs.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    let tokens = (l.global_batch * l.seq) as f64;
    let model_flops = 3.0 * tokens * shape.forward_flops(l.seq as f64, l.stack.fused_attention);
    let peak = chip.device.peak(l.precision).map_or(f64::NAN, |p| p.0) * l.devices() as f64;
    let counts = stages.iter().map(|s| super::memory::Held {
        parameters: s.iter().fold((0.0, 0.0), |sum, c| (sum.0 + c.parameters.0, sum.1 + c.parameters.1)),
        kept: s.iter().map(|c| c.kept).sum::<f64>() / s.len() as f64,
        working: s.iter().map(|c| c.working).fold(0.0, f64::max),
        largest: largest(shape, l),
    });
    let computing = busiest.computing / seconds.max(f64::MIN_POSITIVE);
    let step = Step {
        seconds: Seconds(seconds),
        tokens,
        model_flops,
        hardware_flops: hardware,
        mfu: model_flops / (seconds * peak),
        memory: memory(l, chip, &counts.collect::<Vec<_>>()),
        costs,
        energy: super::energy::energy(chip, spent, seconds, seconds, l.devices()),
        passes,
        pipeline,
        devices: l.devices(),
    };
    Ok((step, spent, computing))
}

/// Parameters of the largest layer on a rank: what ZeRO 3 gathers at a time.
fn largest(shape: &Shape, l: &Layout) -> f64 {
    let of = |(index, _): &(usize, usize)| {
        let (shared, experts) = shape.layer_parameters(*index);
        shared / l.tp as f64 + experts / (l.ep * l.expert_tensor()) as f64
    };
    shape.kinds().iter().map(of).fold(0.0, f64::max)
}

fn chunks(shape: &Shape, site: &Site, l: &Layout) -> Result<Vec<Vec<Chunk>>> {
    // Layers are of two kinds at most: price each once.
    let price_layer =
        |index: usize| -> Result<(Layer, Priced, Priced, f64)> { priced(site, l, layer(shape, l, index)) };
    let (mut dense, mut routed) = (None, None);
    for (index, _) in shape.kinds() {
        *(if shape.routed(index) { &mut routed } else { &mut dense }) = Some(price_layer(index)?);
    }
    let ends = [priced(site, l, embedding(shape, l))?, priced(site, l, head(shape, l))?];
    let mut out = vec![];
    for (s, stage) in l.layers(shape).iter().enumerate() {
        let mut row = vec![];
        for (c, indices) in stage.iter().enumerate() {
            let mut chunk = Chunk::default();
            for i in indices {
                if let Some(kind) = if shape.routed(*i) { &routed } else { &dense } {
                    chunk.add(kind);
                }
            }
            if s == 0 && c == 0 {
                chunk.add(&ends[0]);
            }
            if s + 1 == l.pp && c + 1 == l.chunks {
                chunk.add(&ends[1]);
            }
            row.push(chunk);
        }
        out.push(row);
    }
    Ok(out)
}

impl Chunk {
    fn add(&mut self, (layer, forward, backward, flops): &(Layer, Priced, Priced, f64)) {
        self.forward.plus(forward, 1.0);
        self.backward.plus(backward, 1.0);
        self.flops += flops;
        self.kept += layer.kept;
        self.working = self.working.max(layer.working);
        self.parameters = (self.parameters.0 + layer.parameters.0, self.parameters.1 + layer.parameters.1);
    }
}

/// A layer's passes, with ZeRO 3's gathering of weights and scattering of gradients beside them.
fn priced(site: &Site, l: &Layout, layer: Layer) -> Result<(Layer, Priced, Priced, f64)> {
    let mut forward = price_all(site, &layer.forward)?;
    let mut backward = price_all(site, &layer.backward)?;
    // Of two products a layer has backward, one gives gradients of weights.
    backward.weights = backward.seconds / 2.0;
    let again = price_all(site, &layer.recompute)?;
    let total: f64 = again.seconds;
    backward.spent = backward.spent + again.spent;
    if total > 0.0 {
        backward.add("recompute", total);
    }
    let operations = flops(&layer.forward) + flops(&layer.backward) + flops(&layer.recompute);
    let c = &site.chip.constants.collective;
    if l.zero == 3 {
        let pieces = if l.stack.gathers == Gathers::Tensor { layer.tensors.max(1.0) } else { 1.0 };
        let of = |works: &[Work]| {
            let (seconds, bytes) = travel(site, &in_pieces(works, pieces));
            ((seconds + l.stack.host.0) * pieces, bytes * pieces)
        };
        let (gather, scatter) = (of(&gather_weights(l, &layer)), of(&scatter_gradients(l, &layer)));
        let again = if l.stack.reshard { gather } else { (0.0, 0.0) };
        for (pass, seconds, bytes) in
            [(&mut forward, gather.0, gather.1), (&mut backward, again.0 + scatter.0, again.1 + scatter.1)]
        {
            let shown = if l.stack.prefetch {
                (seconds - pass.seconds).max(0.0) + c.tax * seconds.min(pass.seconds)
            } else {
                seconds
            };
            pass.add("all-gather weights, reduce-scatter gradients", shown);
            pass.spent.link_bytes += bytes;
        }
    }
    Ok((layer, forward, backward, operations))
}

/// After the last backward pass: gradients over data-parallel ranks, the optimiser, weights back.
fn update(shape: &Shape, site: &Site, l: &Layout, stage: &[Chunk]) -> Priced {
    let mut out = Priced::default();
    let c = &site.chip.constants.collective;
    let (shared, experts) = stage.iter().fold((0.0, 0.0), |sum, c| (sum.0 + c.parameters.0, sum.1 + c.parameters.1));
    if l.zero < 3 {
        let (seconds, bytes) = travel(site, &share_gradients(l, (shared, experts)));
        // What overlaps runs beside one micro-batch's passes through this stage, layer by layer: a layer's share stays.
        let beside: f64 =
            stage.iter().map(|c| c.backward.seconds + if l.zero > 0 { c.forward.seconds } else { 0.0 }).sum();
        // Interleaved, all chunks but one are done with their last micro-batch a whole round of the pipeline earlier (and
        // need their weights as much later).
        let v = l.chunks as f64;
        let window = beside * (l.pp as f64 * (v - 1.0) / v).max(1.0);
        let shown = if l.stack.overlap_gradients {
            (seconds - 0.9 * window).max(seconds * 0.05) + c.tax * seconds.min(window)
        } else {
            seconds
        };
        if seconds > 0.0 {
            out.add("data-parallel gradients", shown);
            out.spent.link_bytes += bytes;
        }
    }
    // Adam reads gradient, weight and two moments in 32 bits, writes three of them and the 16-bit weight.
    let (d, e) =
        (if l.zero > 0 { (l.dp * l.cp) as f64 } else { 1.0 }, if l.zero > 0 { l.expert_copies() as f64 } else { 1.0 });
    let owned = shared / d + experts / e;
    let bytes = owned * 30.0;
    out.spent.bytes += bytes;
    if l.offload {
        out.add("optimiser on the host", owned * 4.0 * 2.0 / site.host.0 + bytes / HOST_MEMORY);
    } else {
        out.add("optimiser", site.chip.stream(bytes, false));
    }
    if let Some(work) = share_embedding(shape, l) {
        out.add("tied embedding", travel(site, &[work]).0);
    }
    out
}

/// Bytes a second that a host's optimiser reaches, a device's share: eight channels of DDR4-3200 over eight devices.
const HOST_MEMORY: f64 = 25e9;

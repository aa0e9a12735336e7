//! What a step of a serving engine takes: products by the tokens in it, attention by what each sequence has cached,
//! all-reduces that start in a few microseconds, and the host between steps.

use crate::base::units::{Bytes, Seconds};
use crate::base::{Error, Result};
use crate::simulate::chip::Chip;
use crate::simulate::constants::Gemm;
use crate::simulate::energy::{Spent, energy};
use crate::simulate::gemm::Engine;
use crate::simulate::shape::Shape;
use crate::simulate::software;
use crate::topology::collective::Kind;
use crate::topology::{Precision, Topology};
use serde::Deserialize;

/// Constants of a device where graphs of kernels are replayed, as serving engines do.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuning {
    /// Between two small kernels of a graph, their own time included; and what a product takes beyond its work.
    pub gap: Seconds,
    pub launch: Seconds,
    /// Of what products of the kind reach in a benchmark of their own, the share that they reach here.
    pub wide: f64,
    pub narrow: f64,
    pub experts: f64,
    /// An all-reduce within the nearest links: once, each rank, and its share of the bandwidth.
    pub hop: Seconds,
    pub hop_rank: Seconds,
    pub links: f64,
    /// Share of the memory bandwidth at which the cache is read, and what attention takes beyond that.
    pub cache: f64,
    pub attention: Seconds,
    /// Share of the peak of attention over prompts, for heads of 128, and of latent attention over the cache.
    pub prompt: f64,
    pub latent: f64,
}

/// Over which ranks a model is spread.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Parallel {
    pub tp: usize,
    pub pp: usize,
    /// Ranks that each attend to sequences of their own.
    pub attention_dp: usize,
    /// Experts: ranks that share the width of each, and that share their number.
    pub moe_tp: usize,
    pub moe_ep: usize,
}

/// Number formats of weights of dense layers, of experts, and of cached keys and values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Formats {
    pub dense: Precision,
    pub experts: Precision,
    pub cache: Precision,
}

/// What is in a step: sequences that decode and the tokens that they have cached, prompt tokens with the sum of tokens ×
/// keys that these see, prompts, and sequences whose next token is sampled.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Load {
    pub decoding: f64,
    pub cached: f64,
    pub prompt: f64,
    pub pairs: f64,
    pub prompts: f64,
    pub sampled: f64,
}

/// Step times of one engine.
#[derive(Debug, Clone)]
pub struct Steps {
    pub serving: software::Serving,
    /// Tokens that the cache of all ranks holds.
    pub capacity: f64,
    /// Bytes of weights, and of a cached token, on a device.
    pub weights: Bytes,
    pub token: Bytes,
    pub attention_dp: f64,
    pub latent: bool,
    pp: f64,
    layers: f64,
    /// Seconds of everything that only depends on the tokens of a rank, at [`GRID`]; of the head, by sequences.
    body: Vec<f64>,
    head: Vec<f64>,
    shape: Shape,
    tuning: Tuning,
    bandwidth: f64,
    wide_peak: f64,
    heads: f64,
    hop: f64,
    chip: Chip,
    /// Devices of the engine, experts that a device holds, and bytes of weights outside of experts and of one expert (all layers).
    ranks: f64,
    held: f64,
    dense_bytes: f64,
    expert_bytes: f64,
}

const GRID: [f64; 16] =
    [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0];

fn interpolate(table: &[f64], x: f64) -> f64 {
    let at = GRID.partition_point(|g| *g <= x).clamp(1, GRID.len() - 1) - 1;
    let (a, b) = (GRID[at], GRID[at + 1]);
    table[at] + (table[at + 1] - table[at]) * (x.max(1.0) - a) / (b - a)
}

/// Share of the memory bandwidth of kernels by rows between products: half of what they read was just written.
const BESIDE: f64 = 0.6;
/// Bytes that activations and workspaces take on a device.
const WORKSPACE: f64 = 3e9;
/// Elements a head at which attention over prompts reaches half of what it would for endless ones.
const HEAD_HALF: f64 = 20.0;

/// Bytes a weight in a format, with the scales of 4-bit blocks of 16 (a byte each).
fn weight_bytes(p: Precision) -> f64 {
    if p.bytes() < 1.0 { p.bytes() + 1.0 / 16.0 } else { p.bytes() }
}

/// Products of one engine.
struct Products<'a> {
    chip: &'a Chip,
    constants: Gemm,
    tuning: Tuning,
}

impl Products<'_> {
    /// Seconds of `batch` products m × k by k × n with weights in a format; where the device cannot compute in it, weights
    /// are widened to 16 bits on the way.
    fn seconds(&self, stored: Precision, batch: f64, m: f64, n: f64, k: f64, experts: bool) -> Result<f64> {
        let wide = if self.chip.device.peak(Precision::Bf16).is_some() { Precision::Bf16 } else { Precision::Fp16 };
        let computed = if self.chip.device.peak(stored).is_some() { stored } else { wide };
        let share = match (experts, computed.bytes() >= 2.0) {
            (true, _) => self.tuning.experts,
            (false, true) => self.tuning.wide,
            (false, false) => self.tuning.narrow,
        };
        let mut constants = self.constants.clone();
        constants.efficiency *= share;
        constants.efficiency_8bit *= share;
        constants.launch = self.tuning.launch;
        let operands = weight_bytes(computed).max(if computed == stored { 0.0 } else { 2.0 });
        let traffic = batch * (n * k * weight_bytes(stored) + m * k * operands + 2.0 * m * n);
        let engine = Engine { constants: &constants, ..self.chip.engine(computed)? };
        Ok(engine.seconds_moving(batch, m, n, k, traffic))
    }
}

/// What a rank holds of the model.
struct Split {
    /// Products of attention: n × k.
    attention: Vec<(f64, f64)>,
    attention_format: Precision,
    heads: f64,
    dense_width: f64,
    expert_width: f64,
    /// Ranks together, and those that share experts.
    ranks: f64,
    moe_ep: f64,
}

impl Split {
    fn new(shape: &Shape, p: Parallel, f: Formats) -> Split {
        let (h, tp) = (shape.hidden as f64, p.tp as f64);
        let heads = shape.heads as f64 / tp;
        let (d, dv) = (shape.head() as f64, shape.value_head() as f64);
        let kv = (shape.kv_heads() as f64 / tp).max(1.0);
        let attention = match shape.latent {
            Some(l) => {
                let (q, c, r, nope) = (l.query as f64, l.kv as f64, l.rope as f64, l.nope as f64);
                vec![(q + c + r, h), (heads * d, q), (heads * (nope + dv), c), (h, heads * dv)]
            }
            None => vec![((heads + 2.0 * kv) * d, h), (h, heads * d)],
        };
        let ranks = tp * p.attention_dp as f64;
        let narrow = shape.wide_attention && (f.dense.bytes() < 1.0 || shape.narrow_experts);
        // Dense layers beside experts are cut over all ranks where each attends for itself.
        let over = if shape.experts > 0 && p.attention_dp > 1 { ranks } else { tp };
        Split {
            attention,
            attention_format: if narrow { Precision::Bf16 } else { f.dense },
            heads,
            dense_width: shape.dense_width() as f64 / over,
            expert_width: shape.ffn as f64 / p.moe_tp as f64,
            ranks,
            moe_ep: p.moe_ep as f64,
        }
    }
}

impl Steps {
    /// # Errors
    /// A spread that the model or the machine does not allow; weights and one sequence that do not fit.
    pub fn new(
        shape: &Shape,
        topology: &Topology,
        chip: &Chip,
        serving: software::Serving,
        p: Parallel,
        f: Formats,
    ) -> Result<Steps> {
        shape.check()?;
        check(shape, p)?;
        let experts = if shape.narrow_experts { Precision::Fp4 } else { f.experts };
        let f = Formats { experts, ..f };
        let tuning = chip.constants.serving;
        let products = Products { chip, constants: chip.constants.gemm.clone(), tuning };
        let split = Split::new(shape, p, f);
        let way = super::super::collective::Placed::new(topology, p.tp.max(p.attention_dp * p.tp), 1);
        let near = way.levels.first().map_or(f64::INFINITY, |l| l.1.bandwidth.0);
        let hop = if p.pp > 1 { pipeline_hop(topology, chip, p) } else { 0.0 };
        let (layers, h, vocab) = (shape.layers as f64, shape.hidden as f64, shape.vocab as f64);
        let kernels = serving.kernels * tuning.gap.0;
        let parts = Parts { shape, p, f, split: &split, products: &products, serving, tuning, near, kernels };
        let counts = shape.kinds();
        let body = GRID
            .iter()
            .map(|m| {
                let attention = parts.attention(*m)? * layers;
                let rest = counts
                    .iter()
                    .map(|(i, n)| Ok(*n as f64 * if shape.routed(*i) { parts.experts(*m)? } else { parts.dense(*m)? }))
                    .sum::<Result<f64>>()?;
                Ok(attention + rest)
            })
            .collect::<Result<Vec<f64>>>()?;
        let tp = p.tp as f64;
        let head = GRID
            .iter()
            .map(|m| products.seconds(Precision::Bf16, 1.0, *m, vocab / tp, h, false))
            .collect::<Result<Vec<f64>>>()?;
        let weights = parts.weights() / p.pp as f64 + 2.0 * vocab * h * 2.0 / tp / p.pp as f64;
        let kv = (shape.kv_heads() as f64 / tp).max(1.0) / shape.kv_heads() as f64;
        let kv = if shape.latent.is_some() { 1.0 } else { kv };
        let token = shape.kv_bytes(f.cache.bytes()) * kv * (layers / p.pp as f64).ceil();
        let room = chip.device.memory.0 * serving.memory - weights - WORKSPACE;
        Ok(Steps {
            serving,
            capacity: (room / token).max(0.0) * p.attention_dp as f64,
            weights: Bytes(weights),
            token: Bytes(token),
            attention_dp: p.attention_dp as f64,
            latent: shape.latent.is_some(),
            pp: p.pp as f64,
            layers,
            body,
            head,
            shape: shape.clone(),
            tuning,
            bandwidth: chip.device.bandwidth.0,
            wide_peak: chip.device.peak(Precision::Fp16).map_or(f64::NAN, |p| p.0),
            heads: split.heads,
            hop,
            chip: chip.clone(),
            ranks: split.ranks * p.pp as f64,
            held: if shape.experts > 0 { shape.experts as f64 / split.moe_ep } else { 0.0 },
            dense_bytes: weights - parts.routed_weights() / p.pp as f64,
            expert_bytes: if shape.experts > 0 {
                parts.routed_weights() / p.pp as f64 * split.moe_ep / shape.experts as f64
            } else {
                0.0
            },
        })
    }

    /// Seconds of a step with this in it.
    pub fn seconds(&self, l: &Load) -> f64 {
        let (dp, pp) = (self.attention_dp, self.pp);
        // The fullest rank: prompts are whole, so few of them cannot be spread over many ranks.
        let fullest = if l.prompts > 0.0 { l.prompt / dp.min(l.prompts.max(1.0)) } else { 0.0 };
        let tokens = l.decoding / dp + fullest;
        let mut t = interpolate(&self.body, tokens / pp) + interpolate(&self.head, l.sampled / dp / pp);
        let host = &self.serving;
        if l.decoding > 0.0 {
            t += self.over_cache(l.decoding / dp / pp, l.cached / dp / pp);
        }
        if l.prompt > 0.0 {
            t += self.over_prompts(l, fullest) + host.host_prompt.0;
        }
        t + pp * self.hop + host.host.0 + host.host_sequence.0 * l.decoding / dp
    }

    /// Devices of the engine.
    pub fn devices(&self) -> f64 {
        self.ranks
    }

    /// Seconds of a step that a device runs kernels: all but what its host takes.
    pub fn busy(&self, l: &Load) -> f64 {
        let host = &self.serving;
        let waits = host.host.0 + host.host_sequence.0 * l.decoding / self.attention_dp;
        (self.seconds(l) - waits - if l.prompt > 0.0 { host.host_prompt.0 } else { 0.0 }).max(0.0)
    }

    /// What a step takes of one device: products of its tokens and attention, weights of the experts that they meet and of all
    /// else, what is cached.
    pub fn spent(&self, l: &Load) -> Spent {
        let tokens = l.decoding + l.prompt;
        let seen = l.cached * self.shape.seen(l.cached / l.decoding.max(1.0));
        let width = (self.shape.heads * (self.shape.head() + self.shape.value_head())) as f64 * self.layers;
        let flops = 2.0 * self.shape.active_parameters() * tokens + 2.0 * (seen + l.pairs) * width;
        let routed = tokens * self.shape.top_k as f64;
        let met = if self.held > 0.0 {
            self.held * (1.0 - (1.0 - 1.0 / self.shape.experts as f64).powf(routed))
        } else {
            0.0
        };
        let activations = tokens / self.ranks * self.shape.hidden as f64 * 32.0 * self.layers;
        Spent {
            flops: flops / self.ranks,
            bytes: self.dense_bytes + met * self.expert_bytes + seen / self.attention_dp * self.token.0 + activations,
            link_bytes: 0.0,
        }
    }

    /// Joules of all devices of the engine over so many seconds, where each spends this and is busy for so long.
    pub fn energy(&self, spent: Spent, seconds: f64, busy: f64) -> f64 {
        energy(&self.chip, spent * self.ranks, seconds, busy, self.ranks as usize).joules.0
    }

    fn over_cache(&self, sequences: f64, cached: f64) -> f64 {
        let seen = cached * self.shape.seen(cached / sequences.max(1.0));
        // Bytes on a device are of its own layers; a step goes through all of them.
        let moving = seen * self.token.0 * self.pp / (self.tuning.cache * self.bandwidth);
        let computing = self.shape.latent.map_or(0.0, |l| {
            let flops = 2.0 * seen * self.heads * (2 * l.kv + l.rope) as f64 * self.layers;
            flops / (self.tuning.latent * self.wide_peak)
        });
        moving.max(computing) + self.layers * self.tuning.attention.0
    }

    fn over_prompts(&self, l: &Load, fullest: f64) -> f64 {
        let (d, dv) = (self.shape.head() as f64, self.shape.value_head() as f64);
        let keys = l.pairs / l.prompt;
        let pairs = l.pairs * self.shape.seen(keys) * fullest / l.prompt;
        let flops = 2.0 * pairs * self.heads * (d + dv) * self.layers;
        let reached = |x: f64| x / (x + HEAD_HALF);
        let share = (self.tuning.prompt * reached(d) / reached(128.0)).min(1.0);
        flops / self.pp / (share * self.wide_peak) + self.layers * self.tuning.attention.0
    }
}

/// To the next stage of a pipeline: latency and the tokens of a step, which are few.
fn pipeline_hop(topology: &Topology, chip: &Chip, p: Parallel) -> f64 {
    let placed = super::super::collective::Placed::new(topology, 2, p.tp * p.attention_dp);
    let kind = Kind::SendRecv { from: 0, to: 1 };
    super::super::collective::price(&chip.constants.collective, &placed, kind, 65536.0, None).seconds.0
}

fn check(shape: &Shape, p: Parallel) -> Result<()> {
    let bad = |what: String| Err(Error::usage(what));
    let sizes =
        [("tp", p.tp), ("pp", p.pp), ("attention_dp", p.attention_dp), ("moe_tp", p.moe_tp), ("moe_ep", p.moe_ep)];
    if let Some((what, size)) = sizes.iter().find(|s| s.1 == 0 || s.1 > 4096) {
        return bad(format!("{what} is {size}, must be 1 to 4096"));
    }
    if p.tp > shape.heads || p.pp > shape.layers {
        return bad(format!("tp {} and pp {} cut {} heads and {} layers", p.tp, p.pp, shape.heads, shape.layers));
    }
    if shape.experts > 0 && p.moe_ep > shape.experts {
        return bad(format!("moe_ep {} spreads {} experts", p.moe_ep, shape.experts));
    }
    if shape.experts > 0 && p.moe_tp * p.moe_ep != p.tp * p.attention_dp {
        return bad(format!(
            "moe_tp {} × moe_ep {} are not the ranks of tp {} × attention_dp {}",
            p.moe_tp, p.moe_ep, p.tp, p.attention_dp
        ));
    }
    Ok(())
}

/// The parts of a layer.
struct Parts<'a> {
    shape: &'a Shape,
    p: Parallel,
    f: Formats,
    split: &'a Split,
    products: &'a Products<'a>,
    serving: software::Serving,
    tuning: Tuning,
    near: f64,
    kernels: f64,
}

impl Parts<'_> {
    fn bandwidth(&self) -> f64 {
        BESIDE * self.products.chip.device.bandwidth.0
    }

    /// One kernel that reads what the others wrote: in one shot where messages are short, else in two.
    fn all_reduce(&self, tokens: f64, ranks: f64) -> f64 {
        if ranks <= 1.0 {
            return 0.0;
        }
        let (t, bytes) = (&self.tuning, tokens * self.shape.hidden as f64 * 2.0);
        let over = t.links * self.near;
        let once = t.hop.0 + t.hop_rank.0 * ranks;
        let one = once + bytes * (ranks - 1.0) / over;
        let two = once + t.hop.0 + 2.0 * bytes * (ranks - 1.0) / ranks / over;
        one.min(two)
    }

    fn attention(&self, m: f64) -> Result<f64> {
        let s = self.split;
        let products = s
            .attention
            .iter()
            .map(|(n, k)| self.products.seconds(s.attention_format, 1.0, m, *n, *k, false))
            .sum::<Result<f64>>()?;
        let beside = self.kernels + m * self.shape.hidden as f64 * 16.0 / self.bandwidth();
        Ok(products + beside + self.all_reduce(m, self.p.tp as f64))
    }

    /// An MLP of so many tokens, `width` wide on this rank.
    fn mlp(&self, format: Precision, m: f64, width: f64) -> Result<f64> {
        let (h, gates) = (self.shape.hidden as f64, if self.shape.gated { 2.0 } else { 1.0 });
        Ok(self.products.seconds(format, 1.0, m, gates * width, h, false)?
            + self.products.seconds(format, 1.0, m, h, width, false)?
            + m * width * 6.0 / self.bandwidth())
    }

    fn dense(&self, m: f64) -> Result<f64> {
        let format = if self.shape.experts > 0 { self.f.experts } else { self.f.dense };
        Ok(self.mlp(format, m, self.split.dense_width)? + self.all_reduce(m, self.p.tp as f64))
    }

    fn experts(&self, m: f64) -> Result<f64> {
        let (shape, s) = (self.shape, self.split);
        let (h, e) = (shape.hidden as f64, shape.experts as f64);
        let all = m * self.p.attention_dp as f64;
        let routed = all * shape.top_k as f64;
        // Few tokens do not meet every expert: as many as so many throws hit.
        let met = (e / s.moe_ep * (1.0 - (1.0 - 1.0 / e).powf(routed))).max(1.0);
        let each = (routed / s.moe_ep / met).max(1.0);
        let gates = if shape.gated { 2.0 } else { 1.0 };
        let format = self.f.experts;
        let mut t = self.products.seconds(format, met, each, gates * s.expert_width, h, true)?
            + self.products.seconds(format, met, each, h, s.expert_width, true)?
            + self.products.seconds(Precision::Bf16, 1.0, m, e, h, false)?
            + self.serving.expert_kernels * self.tuning.gap.0
            + routed / s.moe_ep * h * 8.0 / self.bandwidth();
        if shape.shared_experts > 0 {
            t += self.mlp(format, m, (shape.shared_experts * shape.ffn) as f64 / self.p.tp as f64)?;
        }
        if self.p.attention_dp > 1 {
            // Tokens of all ranks are gathered, or sent to the ranks of their experts, and sums come back the same way.
            let once = self.tuning.hop.0 + self.tuning.hop_rank.0 * s.ranks;
            let there = if format.bytes() <= 1.0 { self.serving.dispatch } else { 2.0 };
            let wire = all * h * (there + 2.0) * (s.ranks - 1.0) / s.ranks / (self.tuning.links * self.near);
            return Ok(t + 2.0 * once + wire);
        }
        Ok(t + self.all_reduce(m, s.ranks))
    }

    /// Of these, those of routed experts.
    fn routed_weights(&self) -> f64 {
        let (shape, s) = (self.shape, self.split);
        let gates = if shape.gated { 3.0 } else { 2.0 };
        let layer = shape.experts as f64 * gates * (shape.hidden * shape.ffn) as f64 / s.ranks;
        let count: f64 = shape.kinds().iter().filter(|k| shape.routed(k.0)).map(|k| k.1 as f64).sum();
        layer * count * weight_bytes(self.f.experts)
    }

    /// Bytes of weights of all layers on a rank of one stage that had them all.
    fn weights(&self) -> f64 {
        let (shape, s) = (self.shape, self.split);
        let (h, gates) = (shape.hidden as f64, if shape.gated { 3.0 } else { 2.0 });
        let attention: f64 = s.attention.iter().map(|(n, k)| n * k).sum::<f64>() * weight_bytes(s.attention_format);
        let wide = if shape.experts > 0 { self.f.experts } else { self.f.dense };
        let dense = gates * h * s.dense_width * weight_bytes(wide);
        let experts = (shape.experts as f64 * gates * h * shape.ffn as f64 / s.ranks
            + (shape.shared_experts * shape.ffn) as f64 * gates * h / self.p.tp as f64)
            * weight_bytes(self.f.experts);
        let of = |(i, n): &(usize, usize)| *n as f64 * if shape.routed(*i) { experts } else { dense };
        attention * shape.layers as f64 + shape.kinds().iter().map(of).sum::<f64>()
    }
}

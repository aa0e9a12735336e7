//! Answering: prefill, decode step by step, static and continuous batches, and how many tokens the cache holds.

use super::chip::{Attends, Chip};
use super::energy::{Energy, Spent, energy};
use super::layer::{Work, head, layer};
use super::layout::Layout;
use super::memory::Memory;
use super::page::Point;
use super::shape::{Shape, Span};
use super::training::{Cost, Priced, Site, price_all};
use crate::base::units::{Bytes, Seconds};
use crate::base::{Error, Result};
use crate::topology::collective::Kind;
use crate::topology::{Precision, Topology};

/// How requests come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A batch starts together and ends together.
    Static,
    /// As many at once as the cache holds, each replaced when it ends.
    Continuous,
    /// The prompt alone.
    Prefill,
    /// One step at the middle of the answer.
    Decode,
}

/// What is served, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Serving {
    pub tp: usize,
    pub pp: usize,
    /// Copies of the model, each on tp · pp devices.
    pub replicas: usize,
    pub ep: usize,
    pub precision: Precision,
    pub kv_precision: Precision,
    /// Sequences at once a replica; none for as many as fit (continuous) or one (otherwise).
    pub batch: Option<usize>,
    pub input: usize,
    pub output: usize,
    pub mode: Mode,
    /// Share of the memory that is left after weights which the cache may take.
    pub cache_share: f64,
    /// Requests per second of all replicas, where they are served continuously; none for as many as there can be.
    pub load: Option<f64>,
}

/// What comes out.
#[derive(Debug, Clone, PartialEq)]
pub struct Answering {
    /// Answer tokens per second of all replicas (tokens of the prompt, where prompts alone are computed).
    pub tokens_per_second: f64,
    /// To the first token, and between tokens, of one sequence.
    pub first_token: Seconds,
    pub between_tokens: Seconds,
    /// Sequences at once a replica.
    pub batch: usize,
    /// Of the tokens a second that it could answer at most, the share that the load asks for.
    pub busy: f64,
    /// Tokens that the cache of a replica holds.
    pub cache_tokens: f64,
    pub memory: Memory,
    /// Where a decode step's time goes (a prompt's, for prefill).
    pub costs: Vec<Cost>,
    /// Of one sequence, prompt and answer.
    pub energy: Energy,
    /// What one sequence asks of all its devices.
    pub spent: Spent,
    /// What a prompt pass and a decode step of a batch ask of one device, and the seconds of such a step that it runs kernels.
    pub prompt_spent: Spent,
    pub step_spent: Spent,
    pub step_busy: Seconds,
    /// Products and attention of that pass.
    pub points: Vec<Point>,
    pub devices: usize,
}

impl Answering {
    /// Of a token of the answer, the prompt's share with it.
    pub fn joules_per_token(&self) -> f64 {
        self.energy.watts.0 * self.devices as f64 / self.tokens_per_second
    }
}

struct Server<'a> {
    shape: &'a Shape,
    serving: &'a Serving,
    chip: &'a Chip,
    site: Site<'a>,
    layout: Layout,
}

/// The most sequences at once that engines take.
const MOST_SEQUENCES: f64 = 2048.0;
/// Prompt tokens that a continuous batch takes in one step at most.
const MOST_TOKENS: f64 = 8192.0;

/// Predicts serving. Errors where it cannot be, or does not fit, with what would.
pub fn answering(shape: &Shape, topology: &Topology, s: &Serving) -> Result<Answering> {
    let chip = Chip::new(topology.slowest())?;
    let layout = Layout {
        tp: s.tp,
        ep: s.ep.max(1),
        dp: s.ep.max(1),
        pp: s.pp,
        precision: s.precision,
        global_batch: s.ep.max(1),
        ..Layout::single(1)
    };
    layout.check(shape)?;
    let devices = s.tp * s.pp * s.ep.max(1) * s.replicas;
    if devices > topology.devices() {
        return Err(Error::usage(format!(
            "tp {} × pp {} × ep {} × {} copies take {devices} devices, {} has {}",
            s.tp,
            s.pp,
            s.ep.max(1),
            s.replicas,
            topology.name,
            topology.devices()
        )));
    }
    if s.input > 1 << 28 || s.output > 1 << 28 || s.batch.is_some_and(|b| b > 1 << 28) {
        return Err(Error::usage(format!(
            "input {} and output {} tokens and the batch must be no more than {}",
            s.input,
            s.output,
            1 << 28
        )));
    }
    if s.input == 0 || (s.output == 0 && s.mode != Mode::Prefill) {
        return Err(Error::usage(format!("input is {} and output {} tokens, must be 1 or more", s.input, s.output)));
    }
    let site = Site::new(&chip, topology, &layout);
    Server { shape, serving: s, chip: &chip, site, layout }.answer()
}

/// What a device of a server holds beside the cache, and what is left for that.
struct Room {
    /// Tokens of a whole sequence, prompt and answer.
    whole: f64,
    /// Bytes of the cache per token.
    token: f64,
    /// Bytes.
    weights: f64,
    /// Bytes of buffers.
    working: f64,
    /// Tokens that the cache holds.
    cache_tokens: f64,
}

impl Room {
    fn memory(&self, batch: f64) -> Memory {
        Memory {
            weights: Bytes(self.weights),
            gradients: Bytes(0.0),
            optimizer: Bytes(0.0),
            activations: Bytes(0.0),
            cache: Bytes((batch * self.whole).min(self.cache_tokens) * self.token),
            buffers: Bytes(self.working),
            slack: Bytes(0.0),
        }
    }
}

impl Server<'_> {
    /// Bytes of weights on a device of the fullest stage.
    fn weights(&self) -> f64 {
        let s = self.serving;
        let (dense, experts) = self.shape.stored(s.precision);
        let layers: f64 = (0..self.shape.layers)
            .map(|i| self.shape.layer_parameters(i))
            .map(|(a, b)| a * dense + b * experts / s.ep.max(1) as f64)
            .sum();
        let ends = (self.shape.vocab * self.shape.hidden) as f64 * if self.shape.tied || s.pp > 1 { 1.0 } else { 2.0 };
        let layers = layers / self.shape.layers as f64 * self.shape.layers.div_ceil(s.pp) as f64;
        (layers + ends * 2.0) / s.tp as f64
    }

    /// Bytes that a token keeps on a device.
    fn token_bytes(&self) -> f64 {
        let kv = self.shape.kv_heads() as f64 / self.serving.tp as f64;
        let copies = if self.shape.latent.is_some() { 1.0 } else { kv.max(1.0) / self.shape.kv_heads() as f64 };
        self.shape.kv_bytes(self.serving.kv_precision.bytes())
            * copies
            * self.shape.layers.div_ceil(self.serving.pp) as f64
    }

    /// What one pass of a stage does, and how often: `prompts` whole prompts of `input` tokens, and one token each of
    /// `decoding` sequences, which read `context` cached tokens.
    fn works(&self, prompts: f64, decoding: f64, context: f64) -> Vec<(Vec<Work>, f64)> {
        let s = self.serving;
        let tokens = (prompts * s.input as f64 + decoding).max(1.0);
        let local = Layout { micro_batch: 1, seq: tokens.ceil() as usize, ..self.layout.clone() };
        let mut out = vec![];
        for (index, count) in self.shape.kinds() {
            let mut work: Vec<Work> = layer(self.shape, &local, index).forward;
            work.retain(|w| !matches!(w, Work::Attention { .. }));
            let (heads, d, dv) =
                (self.shape.heads as f64 / s.tp as f64, self.shape.head() as f64, self.shape.value_head() as f64);
            let share = if self.shape.latent.is_some() {
                1.0
            } else {
                (self.shape.kv_heads() as f64 / s.tp as f64).max(1.0) / self.shape.kv_heads() as f64
            };
            let kv = self.shape.kv_bytes(s.kv_precision.bytes()) * share;
            let pairs = |tokens: f64, context: f64| 2.0 * tokens * context * heads * (d + dv);
            let input = s.input as f64;
            if prompts > 0.0 {
                let new = prompts * input;
                let bytes = new * (heads * (d + dv) * 2.0 + kv);
                for Span { share, keys, length, useful } in self.shape.spans(input) {
                    work.push(Work::Attention {
                        name: "attention",
                        of: Attends { head: d, length, useful, backward: false, pytorch: false },
                        flops: pairs(new, keys) * share,
                        bytes: bytes * share,
                    });
                }
            }
            if decoding > 0.0 {
                let context = context * self.shape.seen(context);
                let bytes = decoding * context * kv;
                work.push(Work::Attention {
                    name: "attention over the cache",
                    of: Attends { head: d, length: context, useful: 1.0, backward: false, pytorch: false },
                    flops: pairs(decoding, context),
                    bytes,
                });
            }
            out.push((work, count as f64 / s.pp as f64));
        }
        // Logits of the last position of each sequence only.
        let last = Layout { micro_batch: (prompts + decoding).ceil().max(1.0) as usize, seq: 1, ..self.layout.clone() };
        let mut ends: Vec<Work> = head(self.shape, &last).forward;
        ends.retain(|w| !matches!(w, Work::Collective { .. } | Work::Stream { name: "loss", .. }));
        out.push((ends, 1.0 / s.pp as f64));
        out
    }

    /// One pass of a stage, priced.
    fn pass(&self, prompts: f64, decoding: f64, context: f64) -> Result<Priced> {
        let s = self.serving;
        let mut out = Priced::default();
        for (work, times) in self.works(prompts, decoding, context) {
            out.plus(&price_all(&self.site, &work)?, times);
        }
        if s.pp > 1 {
            let tokens = (prompts * s.input as f64 + decoding).max(1.0);
            let c = &self.chip.constants.collective;
            let hop = super::collective::price(
                c,
                self.site.placed(super::layer::Axis::Pipeline),
                Kind::SendRecv { from: 0, to: 1 },
                tokens * self.shape.hidden as f64 * 2.0,
                None,
            );
            out.plus(
                &Priced {
                    seconds: hop.seconds.0,
                    lines: vec![("send to the next stage", hop.seconds.0)],
                    ..Priced::default()
                },
                1.0,
            );
        }
        Ok(out)
    }

    /// Each product and attention kernel of a pass.
    fn points(&self, works: &[(Vec<Work>, f64)]) -> Result<Vec<Point>> {
        let mut out: Vec<Point> = vec![];
        for (w, times) in works.iter().flat_map(|(work, times)| work.iter().map(move |w| (w, *times))) {
            if let Some(p) = super::page::point(&self.site, w, times)? {
                match out.iter_mut().find(|o| (&o.name, o.flops, o.bytes) == (&p.name, p.flops, p.bytes)) {
                    Some(o) => o.times += p.times,
                    None => out.push(p),
                }
            }
        }
        Ok(out)
    }

    /// Seconds that the host adds to a pass of the whole model.
    fn host(&self) -> f64 {
        self.chip.constants.runtime.engine.0
    }

    /// Tokens in the cache of a sequence that is half done.
    fn middle(&self) -> f64 {
        self.serving.input as f64 + self.serving.output as f64 / 2.0
    }

    /// A step of a continuous batch, and its seconds: it answers a token of every sequence and takes in the prompts of those
    /// that replace the ended.
    fn mixed(&self, batch: f64) -> Result<(Priced, f64)> {
        let (s, p) = (self.serving, self.serving.pp as f64);
        let parts = p.min(batch).max(1.0);
        let mixed = self.pass(batch / parts / s.output as f64, batch / parts, self.middle())?;
        let seconds = (mixed.seconds + self.host() / p) * p;
        Ok((mixed, seconds))
    }

    /// Sequences at once under a load of requests a second, by Little's law: they are as many as come while one is answered.
    /// And the share of the most that `most` sequences at once could answer.
    fn under(&self, load: f64, most: f64) -> Result<(f64, f64)> {
        let output = self.serving.output as f64;
        if !load.is_finite() || load <= 0.0 {
            return Err(Error::usage(format!("a load of {load} requests per second must be above zero")));
        }
        let rate = |batch: f64| Ok::<f64, Error>(batch / self.mixed(batch)?.1 / output);
        let best = rate(most)?;
        if load > best {
            let all = best * self.serving.replicas as f64;
            return Err(Error::usage(format!(
                "a load of {} requests per second is more than this can answer: up to {all:.2}; take more copies or devices",
                load * self.serving.replicas as f64
            )));
        }
        let (mut low, mut high) = (0.0, most);
        for _ in 0..40 {
            let middle = (low + high) / 2.0;
            if rate(middle)? < load { low = middle } else { high = middle }
        }
        Ok((high, load / best))
    }

    /// What a device holds, and how many tokens the rest of its memory keeps; an error where not even one sequence fits.
    fn room(&self) -> Result<Room> {
        let (s, runtime) = (self.serving, &self.chip.constants.runtime);
        let whole = (s.input + s.output) as f64;
        // Layers with a window keep no more keys than it has.
        let token = self.token_bytes() * self.shape.seen(whole);
        let (memory, weights) = (self.chip.device.memory.0, self.weights());
        let working = MOST_TOKENS * (self.shape.hidden as f64 * 8.0 + self.shape.ffn as f64 * 4.0) / s.tp as f64;
        let room = (memory - runtime.context.0 - weights - working) * s.cache_share;
        let cache_tokens = (room / token).floor();
        if cache_tokens < whole {
            let need = weights + runtime.context.0 + working + whole * token / s.cache_share;
            return Err(Error::usage(format!(
                "{} in {} does not fit tp {} × pp {}: weights and one sequence of {whole} tokens need {} of {} per device; take more devices or a narrower format",
                self.shape.name,
                s.precision.name(),
                s.tp,
                s.pp,
                Bytes(need),
                self.chip.device.memory
            )));
        }
        Ok(Room { whole, token, weights, working, cache_tokens })
    }

    /// Sequences that are computed together.
    fn batch(&self, room: &Room) -> Result<f64> {
        let s = self.serving;
        let fits = (room.cache_tokens / room.whole).floor();
        let batch = match (s.batch, s.mode) {
            (Some(b), _) => b as f64,
            // Sequences are at all stages of their answers: the cache holds more of them than whole ones.
            (None, Mode::Continuous) => {
                (room.cache_tokens / (s.input as f64 + 0.5 * s.output as f64)).floor().min(MOST_SEQUENCES)
            }
            (None, _) => 1.0,
        };
        if batch < 1.0 || (s.batch.is_some() && batch > fits * 1.5 && s.mode != Mode::Continuous) {
            return Err(Error::usage(format!(
                "a batch of {batch} sequences of {} tokens does not fit: the cache holds {fits} of them",
                room.whole
            )));
        }
        Ok(batch)
    }

    fn answer(&self) -> Result<Answering> {
        let s = self.serving;
        let room = self.room()?;
        let batch = self.batch(&room)?;
        let middle = self.middle();
        let p = s.pp as f64;
        let (batch, busy) = match (s.load, s.mode) {
            (Some(load), Mode::Continuous) => self.under(load / s.replicas as f64, batch)?,
            (Some(_), _) => return Err(Error::usage("a load of requests is for continuous batches: take that mode")),
            _ => (batch, 1.0),
        };
        // Over a pipeline the batch runs as parts, one on each stage.
        let parts = p.min(batch);
        let step = self.pass(0.0, batch / parts, middle)?;
        let prompt = self.pass(if s.mode == Mode::Continuous { 1.0 } else { batch / parts }, 0.0, 0.0)?;
        let stage = |x: &Priced| x.seconds + self.host() / p;
        // A request waits for the step that runs when it comes: half of one, on average.
        let waits = if s.load.is_some() { self.mixed(batch)?.1 / 2.0 } else { 0.0 };
        let first = waits + prompt.seconds * p + self.host();
        let mut between = stage(&step) * p;
        let (rate, spent, span) = match s.mode {
            Mode::Prefill => {
                let seconds = stage(&prompt) * (p + parts - 1.0);
                (batch * s.input as f64 / seconds, prompt.spent * parts, seconds)
            }
            Mode::Decode => (batch / between, step.spent * parts, between),
            Mode::Static => {
                let span = first + (s.output as f64 - 1.0) * between;
                (
                    batch * s.output as f64 / span,
                    prompt.spent * parts + step.spent * (parts * (s.output as f64 - 1.0)),
                    span,
                )
            }
            Mode::Continuous => {
                let (mixed, seconds) = self.mixed(batch)?;
                between = seconds;
                (batch / between, mixed.spent * (parts * s.output as f64), between * s.output as f64)
            }
        };
        let (costs, works) = if s.mode == Mode::Prefill {
            (&prompt, self.works(batch / parts, 0.0, 0.0))
        } else {
            (&step, self.works(0.0, batch / parts, middle))
        };
        let mut costs: Vec<Cost> =
            costs.lines.iter().map(|(name, s)| Cost { name: name.to_string(), seconds: s * p }).collect();
        costs.push(Cost { name: "host".into(), seconds: self.host() });
        costs.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        // Ranks that spread experts attend to sequences of their own.
        let devices = s.tp * s.pp * s.ep.max(1) * s.replicas;
        let each: Spent = spent * ((s.tp * s.pp) as f64 / batch);
        // While the host prepares a step, devices stand idle.
        let running = span * (1.0 - self.host() / (stage(&step) * p));
        let energy = energy(self.chip, each, span / batch, running / batch, s.tp * s.pp);
        Ok(Answering {
            busy,
            tokens_per_second: rate * (s.replicas * s.ep.max(1)) as f64,
            first_token: Seconds(first),
            between_tokens: Seconds(between),
            batch: batch as usize,
            cache_tokens: room.cache_tokens,
            memory: room.memory(batch),
            costs,
            energy,
            spent: each,
            prompt_spent: prompt.spent * parts,
            step_spent: step.spent * parts,
            step_busy: Seconds(step.seconds * p),
            points: self.points(&works)?,
            devices,
        })
    }
}

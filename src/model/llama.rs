//! The llama family (Touvron et al., 2023): RMS-norm before each block, rotary positions, grouped-query attention,
//! a gated SiLU network, no biases.

use super::family::{Lookup, StepShape};
use crate::base::{Cut, DType, Dim, Error, MeshAxis, Placement, Placement::Split, Result, Shape, Weights};
use crate::graph::{Attention, Graph, GraphBuilder, Optimiser, Parameters, RopeLayout, Tensor, Zero};

/// The sizes and constants of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub layers: usize,
    pub width: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_width: usize,
    pub ffn: usize,
    pub vocab: usize,
    pub context: usize,
    pub eps: f32,
    pub rope_base: f64,
    /// Divides positions (linear scaling); 1 for none.
    pub rope_scale: f64,
    /// How rows of q and k are ordered in the file.
    pub rope_layout: RopeLayout,
    /// A query sees this many of the newest keys at most.
    pub window: Option<u32>,
}

/// What a layer's tensors are called.
struct Names {
    embedding: &'static str,
    final_norm: &'static str,
    head: &'static str,
    layer: &'static str,
    parts: [&'static str; 9],
}

const GGUF: Names = Names {
    embedding: "token_embd.weight",
    final_norm: "output_norm.weight",
    head: "output.weight",
    layer: "blk.",
    parts: [
        "attn_norm.weight",
        "attn_q.weight",
        "attn_k.weight",
        "attn_v.weight",
        "attn_output.weight",
        "ffn_norm.weight",
        "ffn_gate.weight",
        "ffn_up.weight",
        "ffn_down.weight",
    ],
};

const HUGGING_FACE: Names = Names {
    embedding: "model.embed_tokens.weight",
    final_norm: "model.norm.weight",
    head: "lm_head.weight",
    layer: "model.layers.",
    parts: [
        "input_layernorm.weight",
        "self_attn.q_proj.weight",
        "self_attn.k_proj.weight",
        "self_attn.v_proj.weight",
        "self_attn.o_proj.weight",
        "post_attention_layernorm.weight",
        "mlp.gate_proj.weight",
        "mlp.up_proj.weight",
        "mlp.down_proj.weight",
    ],
};

impl Config {
    /// From GGUF metadata or a config.json.
    pub fn read(at: &Lookup) -> Result<Config> {
        let heads = at.size("llama.attention.head_count", "num_attention_heads")?;
        let width = at.size("llama.embedding_length", "hidden_size")?;
        let head_width = match at.optional_size("llama.attention.key_length", "head_dim")? {
            Some(n) => n,
            None if width % heads == 0 => width / heads,
            None => return Err(at.error(format!("a width of {width} does not split into {heads} heads"))),
        };
        let config = Config {
            layers: at.size("llama.block_count", "num_hidden_layers")?,
            width,
            heads,
            kv_heads: at.optional_size("llama.attention.head_count_kv", "num_key_value_heads")?.unwrap_or(heads),
            head_width,
            ffn: at.size("llama.feed_forward_length", "intermediate_size")?,
            vocab: at.vocab()?,
            context: at.size("llama.context_length", "max_position_embeddings")?,
            eps: at.real("llama.attention.layer_norm_rms_epsilon", "rms_norm_eps", 0.0, 1e-5)? as f32,
            rope_base: at.real("llama.rope.freq_base", "rope_theta", 1.0, 1e4)?,
            rope_scale: at.rope_scale()?,
            rope_layout: if at.is_gguf() { RopeLayout::Interleaved } else { RopeLayout::Half },
            window: window(at)?,
        };
        config.check(at)
    }

    fn check(self, at: &Lookup) -> Result<Config> {
        let Config { heads, kv_heads, head_width, .. } = self;
        if heads % kv_heads != 0 {
            return Err(at.error(format!("{heads} heads do not share {kv_heads} key heads evenly")));
        }
        if head_width % 2 != 0 || head_width > 256 {
            return Err(at.error(format!("heads are {head_width} wide: an even width up to 256 can be run")));
        }
        if let Some(n) = at.optional_size("llama.rope.dimension_count", "")?.filter(|n| *n != head_width) {
            return Err(at.error(format!("turns {n} of {head_width} elements of a head: only whole heads can be run")));
        }
        if let Some(n) = at.optional_size("llama.attention.value_length", "")?.filter(|n| *n != head_width) {
            return Err(at.error(format!("has keys {head_width} wide and values {n} wide: only equal ones can be run")));
        }
        if let Some(act) = at.text("hidden_act").filter(|a| a != "silu") {
            return Err(at.error(format!("has the activation {act}: silu can be run")));
        }
        if at.flag("tie_word_embeddings") == Some(false) && !at.has_tensor(HUGGING_FACE.head) {
            return Err(at.error(format!(
                "lacks tensor \"{}\", and config.json says that the embedding does not stand for it",
                HUGGING_FACE.head
            )));
        }
        at.refuse_tensors(|name| name.ends_with(".bias") || name.starts_with("rope_f"))?;
        Ok(self)
    }

    /// Which elements of queries, and of keys and values, a tensor rank has: whole heads, groups together.
    fn head_cuts(&self) -> (Cut, Cut) {
        let (groups, each, width) = (self.kv_heads as u32, (self.heads / self.kv_heads) as u32, self.head_width as u32);
        (Cut::Query { groups, each, width }, Cut::Key { groups, each, width })
    }

    fn names(&self) -> &'static Names {
        if self.rope_layout == RopeLayout::Interleaved { &GGUF } else { &HUGGING_FACE }
    }

    /// Bytes of keys and values of one token.
    pub fn state_bytes_per_token(&self) -> u64 {
        (2 * self.layers * self.kv_heads * self.head_width * 4) as u64
    }
}

/// A sliding window; files say 0 or nothing for none.
fn window(at: &Lookup) -> Result<Option<u32>> {
    let (gguf, json) = ("llama.attention.sliding_window", "sliding_window");
    if at.number(gguf, json)? == Some(0.0) {
        return Ok(None);
    }
    Ok(at.optional_size(gguf, json)?.map(|n| n as u32))
}

/// The most angles that are tabled: 256 MiB each of sines and cosines.
const MAX_ROTATIONS: usize = 1 << 26;

/// The graph of a step.
///
/// Inputs: `tokens` u32 `[seq]`. States: `layers.N.k` and `layers.N.v`, f32 `[context, kv_heads · head_width]`.
/// Output: `logits` f32 `[vocab]` of the last token, or `[seq, vocab]` of all.
pub fn build(config: &Config, weights: &dyn Weights, model: &str, step: &StepShape) -> Result<Graph> {
    let builder = GraphBuilder::new();
    Family {
        config,
        names: config.names(),
        origin: &Origin::File(weights),
        model,
        sequence_parallel: step.sequence_parallel,
        g: &builder,
    }
    .answer(step);
    builder.finish()
}

/// What a step of training takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrainingStep {
    /// Sequences of all data-parallel ranks together, and tokens of each.
    pub batch: usize,
    pub seq: usize,
    pub optimiser: Optimiser,
    pub zero: Zero,
    /// Whether the head is the embedding.
    pub tied: bool,
}

/// A step of training, and its parameters in the order in which they were made.
#[derive(Debug, Clone, PartialEq)]
pub struct Training {
    pub graph: Graph,
    pub parameters: Vec<(String, Shape)>,
}

/// A training step: forward, the mean loss, gradients, the update. No file is needed.
///
/// Inputs: `tokens` and `targets` u32 `[batch, seq]`; `rate` and `step` f32, as [`Parameters::update`] takes them. States:
/// the parameters (f32) under the names of weights in a file, and the optimiser's beside them.
/// Output: `loss`, nats a token.
///
/// # Errors
/// Sizes that cannot be planned.
pub fn training(config: &Config, model: &str, step: &TrainingStep) -> Result<Training> {
    let builder = GraphBuilder::new();
    let parameters = Parameters::new(&builder, step.zero);
    Family {
        config,
        names: config.names(),
        origin: &Origin::Trained(&parameters),
        model,
        sequence_parallel: false,
        g: &builder,
    }
    .train(step, &parameters);
    let parameters = parameters.list();
    Ok(Training { graph: builder.finish()?, parameters })
}

/// Elements of the inner network are cut where quantised blocks end.
const BLOCKS: Cut = Cut::Even { unit: 32 };

/// Where tensors come from.
enum Origin<'a, 'g> {
    File(&'a dyn Weights),
    /// States that a step changes.
    Trained(&'a Parameters<'g>),
}

/// The tokens of a step.
#[derive(Clone, Copy)]
enum Rows {
    /// New ones of one sequence, behind those in the cache.
    Cached { seq: Dim, total: Dim, context: usize },
    /// Whole sequences.
    Whole { batch: usize, seq: usize },
}

/// Cosines and sines of the step's positions.
type Angles<'g> = (Tensor<'g>, Tensor<'g>);

struct Family<'a, 'g> {
    config: &'a Config,
    names: &'static Names,
    origin: &'a Origin<'a, 'g>,
    model: &'a str,
    sequence_parallel: bool,
    g: &'g GraphBuilder,
}

impl<'g> Family<'_, 'g> {
    fn answer(&self, step: &StepShape) {
        let (c, g) = (self.config, self.g);
        let seq = step.seq;
        let past = Dim::from(step.total) - seq;
        g.at("embedding");
        let tokens =
            g.input("tokens", DType::U32, vec![seq]).cut(MeshAxis::Context, Split(0), Cut::Stripe { from: past });
        let table = self.vocabulary(self.names.embedding);
        let x = self.residual(table.gather(tokens));
        let (cos, sin) = self.rotations(step.context);
        let angles = (cos.slice(0, past, seq), sin.slice(0, past, seq));
        let mut x = self.layers(x, angles, Rows::Cached { seq, total: step.total.into(), context: step.context });
        if step.last_only {
            x = x.slice(0, seq - Dim::new(1), 1);
        }
        // A file without a head shares the embedding.
        let own = matches!(self.origin, Origin::File(w) if w.info(self.names.head).is_ok());
        let logits = self.logits(x, if own { None } else { Some(table) });
        g.output("logits", if step.last_only { logits.reshape([c.vocab]) } else { logits });
    }

    fn train(&self, step: &TrainingStep, parameters: &Parameters<'g>) {
        let (c, g) = (self.config, self.g);
        g.at("embedding");
        let samples = |name: &str| -> Tensor<'g> {
            g.input(name, DType::U32, [step.batch, step.seq]).place(MeshAxis::Data, Split(0))
        };
        let scalar = |name: &str| g.input(name, DType::F32, Shape::default());
        let (tokens, targets, rate, count) = (samples("tokens"), samples("targets"), scalar("rate"), scalar("step"));
        let table = self.vocabulary(self.names.embedding);
        let rows = step.batch * step.seq;
        let x = self.residual(table.gather(tokens).reshape([rows, c.width]));
        let angles = self.rotations(step.seq);
        let x = self.layers(x, angles, Rows::Whole { batch: step.batch, seq: step.seq });
        let loss = self.logits(x, step.tied.then_some(table)).cross_entropy(targets.reshape([rows]));
        g.output("loss", loss);
        parameters.update(loss, step.optimiser, rate, count);
    }

    fn layers(&self, mut x: Tensor<'g>, angles: Angles<'g>, rows: Rows) -> Tensor<'g> {
        for layer in 0..self.config.layers {
            self.g.layer(layer as u32 + 1);
            x = self.attention(layer, x, angles, rows);
            x = self.network(layer, x);
        }
        self.g.layer(self.config.layers as u32 + 1);
        self.g.at("head");
        x
    }

    /// Of every row. `shared`: the embedding, where it is the head.
    fn logits(&self, x: Tensor<'g>, shared: Option<Tensor<'g>>) -> Tensor<'g> {
        let x = x.rms_norm(self.weight(self.names.final_norm, &[self.config.width], None), self.config.eps);
        x.matmul_t(shared.unwrap_or_else(|| self.vocabulary(self.names.head)))
    }

    /// cos and sin of every position and pair, computed in f64.
    fn rotations(&self, context: usize) -> Angles<'g> {
        let (c, half) = (self.config, self.config.head_width / 2);
        if context.saturating_mul(half) > MAX_ROTATIONS {
            let most = MAX_ROTATIONS / half;
            let error = Error::model(
                self.model,
                format!("a context of {context} tokens is more than can be planned: up to {most} for this model"),
            );
            return (self.g.fail(error.clone()), self.g.fail(error));
        }
        let speeds: Vec<f64> = (0..half).map(|i| c.rope_base.powf(-(i as f64) / half as f64)).collect();
        let angle = |i: usize| (i / half) as f64 / c.rope_scale * speeds[i % half];
        let table = |f: fn(f64) -> f64| (0..context * half).map(|i| f(angle(i)) as f32).collect();
        (
            self.g.data("rope.cos", [context, half], table(f64::cos)),
            self.g.data("rope.sin", [context, half], table(f64::sin)),
        )
    }

    fn attention(&self, layer: usize, x: Tensor<'g>, angles: Angles<'g>, rows: Rows) -> Tensor<'g> {
        let (c, g) = (self.config, self.g);
        let (q_width, kv_width) = (c.heads * c.head_width, c.kv_heads * c.head_width);
        let (queries, keys) = c.head_cuts();
        g.at(format!("layers.{layer}.attention.norm"));
        let h = x.rms_norm(self.part(layer, 0, &[c.width], None), c.eps);
        g.at(format!("layers.{layer}.attention.qkv"));
        let project = |part: usize, rows: usize, cut: Cut| {
            h.matmul_t(self.part(layer, part, &[rows, c.width], Some((Split(0), cut))))
        };
        let qkv = [project(1, q_width, queries), project(2, kv_width, keys), project(3, kv_width, keys)];
        g.at(format!("layers.{layer}.attention.rope"));
        let y = match rows {
            Rows::Cached { seq, total, context } => self.cached(layer, qkv, angles, (seq, total, context)),
            Rows::Whole { batch, seq } => self.uncached(layer, qkv, angles, (batch, seq)),
        };
        g.at(format!("layers.{layer}.attention.output"));
        self.residual(x + y.matmul_t(self.part(layer, 4, &[c.width, q_width], Some((Split(1), queries)))))
    }

    /// New rows join the keys and values of those before, and see them all.
    fn cached(
        &self,
        layer: usize,
        [q, k, v]: [Tensor<'g>; 3],
        (cos, sin): Angles<'g>,
        (seq, total, context): (Dim, Dim, usize),
    ) -> Tensor<'g> {
        let (c, g) = (self.config, self.g);
        let (q_width, kv_width, (_, keys)) = (c.heads * c.head_width, c.kv_heads * c.head_width, c.head_cuts());
        let rope = |t: Tensor<'g>, heads: usize| {
            t.reshape(vec![seq, heads.into(), c.head_width.into()]).rope(cos, sin, c.rope_layout)
        };
        let (q, k) = (rope(q, c.heads), rope(k, c.kv_heads).reshape(vec![seq, kv_width.into()]));
        let state = |name: &str, rows: Tensor<'g>| {
            let state = g.state(&format!("layers.{layer}.{name}"), DType::F32, [context, kv_width]);
            let state = state.cut(MeshAxis::Tensor, Split(1), keys).cut(
                MeshAxis::Context,
                Split(0),
                Cut::Stripe { from: 0.into() },
            );
            let all = state.append(rows, total - seq).slice(0, 0, total);
            all.reshape(vec![1.into(), total, c.kv_heads.into(), c.head_width.into()])
        };
        let (k, v) = (state("k", k), state("v", v));
        g.at(format!("layers.{layer}.attention"));
        let q = q.reshape(vec![1.into(), seq, c.heads.into(), c.head_width.into()]);
        q.attention(k, v, None, self.scores(total - seq)).reshape(vec![seq, q_width.into()])
    }

    /// Sequences from their first token on.
    fn uncached(
        &self,
        layer: usize,
        [q, k, v]: [Tensor<'g>; 3],
        (cos, sin): Angles<'g>,
        (batch, seq): (usize, usize),
    ) -> Tensor<'g> {
        let c = self.config;
        let heads = |t: Tensor<'g>, heads: usize| t.reshape([batch, seq, heads, c.head_width]);
        let (q, k, v) = (
            heads(q, c.heads).rope(cos, sin, c.rope_layout),
            heads(k, c.kv_heads).rope(cos, sin, c.rope_layout),
            heads(v, c.kv_heads),
        );
        self.g.at(format!("layers.{layer}.attention"));
        q.attention(k, v, None, self.scores(0.into())).reshape([batch * seq, c.heads * c.head_width])
    }

    fn scores(&self, past: Dim) -> Attention {
        Attention {
            scale: 1.0 / (self.config.head_width as f32).sqrt(),
            causal: Some(past),
            window: self.config.window,
        }
    }

    fn network(&self, layer: usize, x: Tensor<'g>) -> Tensor<'g> {
        let (c, g) = (self.config, self.g);
        g.at(format!("layers.{layer}.network.norm"));
        let h = x.rms_norm(self.part(layer, 5, &[c.width], None), c.eps);
        g.at(format!("layers.{layer}.network.up"));
        let project = |part: usize| h.matmul_t(self.part(layer, part, &[c.ffn, c.width], Some((Split(0), BLOCKS))));
        let h = project(6).silu() * project(7);
        g.at(format!("layers.{layer}.network.down"));
        self.residual(x + h.matmul_t(self.part(layer, 8, &[c.width, c.ffn], Some((Split(1), BLOCKS)))))
    }

    /// The stream between blocks lies whole on every tensor rank, or by tokens (sequence parallel norms: Korthikanti et al., 2022).
    fn residual(&self, x: Tensor<'g>) -> Tensor<'g> {
        x.place(MeshAxis::Tensor, if self.sequence_parallel { Split(0) } else { Placement::Whole })
    }

    /// A table of a row a token, cut by rows over tensor ranks.
    fn vocabulary(&self, name: &str) -> Tensor<'g> {
        self.weight(name, &[self.config.vocab, self.config.width], Some((Split(0), Cut::ONES)))
    }

    fn name(&self, layer: usize, part: usize) -> String {
        format!("{}{layer}.{}", self.names.layer, self.names.parts[part])
    }
    fn part(&self, layer: usize, part: usize, shape: &[usize], lies: Option<(Placement, Cut)>) -> Tensor<'g> {
        self.weight(&self.name(layer, part), shape, lies)
    }
    /// A tensor by its name, and where it lies along the tensor axis.
    fn weight(&self, name: &str, shape: &[usize], lies: Option<(Placement, Cut)>) -> Tensor<'g> {
        let places: Vec<(MeshAxis, Placement, Cut)> =
            lies.into_iter().map(|(p, cut)| (MeshAxis::Tensor, p, cut)).collect();
        match self.origin {
            Origin::Trained(parameters) => parameters.add(name, shape, &places),
            Origin::File(weights) => {
                let w = match super::family::check(*weights, self.model, name, shape) {
                    Ok(dtype) => self.g.weight(name, dtype, shape),
                    Err(e) => self.g.fail(e),
                };
                places.iter().fold(w, |w, (over, p, cut)| w.cut(*over, *p, *cut))
            }
        }
    }
}

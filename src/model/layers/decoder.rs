//! What all decoders share: tokens in, layers over a residual stream, logits out; a step that answers, and one that trains.

use super::{Blocks, Common, Names, Origin, Rope, Rows};
use crate::base::{Cut, DType, Dim, Error, MeshAxis, Placement::Split, Result, Shape, Var, Weights};
use crate::graph::{Graph, GraphBuilder, Optimiser, Parameters, Tensor, Zero};
use crate::model::keys::Keys;
use std::fmt::Debug;

/// The sizes that every decoder has.
#[derive(Debug, Clone, PartialEq)]
pub struct Sizes {
    pub layers: usize,
    pub width: usize,
    pub heads: usize,
    pub kv_heads: usize,
    /// Elements of a head.
    pub head: usize,
    pub vocab: usize,
    /// Tokens that the model was made for.
    pub context: usize,
}

/// What a family's own definition says of its sizes where a file says nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct SizeDefaults {
    /// Elements of a head; without, the width is shared evenly.
    pub head: Option<usize>,
    /// Heads of keys and values; without, as many as of queries. A null in config.json is without.
    pub kv_heads: Option<usize>,
    pub heads: Option<usize>,
    pub vocab: Option<usize>,
    pub context: Option<usize>,
    /// Heads are made of latent vectors: what GGUF files say of their width is of these, and a head is what turns of it.
    pub latent: bool,
}

/// No model has more layers: what a file claims is bounded before anything is made of it.
const MOST_LAYERS: usize = 1 << 12;

impl Sizes {
    /// As most families name them.
    ///
    /// # Errors
    /// Sizes that are missing or do not fit together.
    pub fn read(at: &Keys, d: &SizeDefaults) -> Result<Sizes> {
        let size = |gguf: &str, json: &str, default: Option<usize>| match default.filter(|_| !at.is_gguf()) {
            Some(n) => Ok(at.optional_size(gguf, json)?.unwrap_or(n)),
            None => at.size(gguf, json),
        };
        let heads = size("attention.head_count", "num_attention_heads|n_head", d.heads)?;
        let width = at.size("embedding_length", "hidden_size|n_embd")?;
        let latent = d.latent && at.is_gguf();
        let own = at.optional_size(if latent { "rope.dimension_count" } else { "attention.key_length" }, "head_dim")?;
        let head = match own.or(d.head.filter(|_| !at.is_gguf())) {
            Some(n) => n,
            None if width % heads == 0 => width / heads,
            None => return Err(at.error(format!("a width of {width} does not split into {heads} heads"))),
        };
        let (gguf, json) = ("attention.head_count_kv", "num_key_value_heads");
        let default = d.kv_heads.filter(|_| !at.is_gguf() && !at.says_none(json)).unwrap_or(heads);
        let kv_heads = at.optional_size(gguf, json)?.unwrap_or(default);
        if heads % kv_heads != 0 {
            return Err(at.error(format!("{heads} heads do not share {kv_heads} key heads evenly")));
        }
        if head % 2 != 0 || head > 256 {
            return Err(at.error(format!("heads are {head} wide: an even width up to 256 can be run")));
        }
        if let Some(n) = at.optional_size("attention.value_length", "")?.filter(|n| *n != head && !latent) {
            return Err(at.error(format!("has keys {head} wide and values {n} wide: only equal ones can be run")));
        }
        let layers = at.size("block_count", "num_hidden_layers|n_layer")?;
        if layers > MOST_LAYERS {
            return Err(at.error(format!("has {layers} layers: up to {MOST_LAYERS} can be run")));
        }
        Ok(Sizes {
            layers,
            width,
            heads,
            kv_heads,
            head,
            vocab: match d.vocab.filter(|_| !at.is_gguf()) {
                Some(n) => at.optional_size("", "vocab_size")?.unwrap_or(n),
                None => at.vocab()?,
            },
            context: size("context_length", "max_position_embeddings|n_positions", d.context)?,
        })
    }

    /// Bytes of keys and values of one token.
    pub fn state_bytes_per_token(&self) -> u64 {
        (2 * self.layers * self.kv_heads * self.head * 4) as u64
    }
}

/// A family of decoders, configured: what it is made of, in the order in which it computes.
pub trait Decoder: Debug + Send + Sync {
    fn common(&self) -> &Common;
    /// The rotations that layers have, by index.
    fn ropes(&self) -> &[Rope];
    /// Rows of the embedding on their way into the first layer.
    fn embedded<'g>(&self, _: &Blocks<'_, 'g>, x: Tensor<'g>) -> Tensor<'g> {
        x
    }
    /// Whether a step may take rows of many sequences, whose keys and values lie in pages.
    fn has_pages(&self) -> bool {
        true
    }
    /// Tokens before its own that a row needs otherwise than by attention.
    fn looks_back(&self) -> usize {
        0
    }
    /// Of families whose sequences have states of their own size whatever their length: the rows that their convolutions keep.
    fn keeps(&self) -> Option<usize> {
        None
    }
    /// Bytes of these states of a sequence.
    fn own_bytes(&self) -> u64 {
        0
    }
    /// One layer over the residual stream `[rows, width]`.
    fn layer<'g>(&self, b: &Blocks<'_, 'g>, layer: usize, x: Tensor<'g>) -> Tensor<'g>;
    /// Bytes of what is kept of one token.
    fn state_bytes_per_token(&self) -> u64 {
        self.common().sizes.state_bytes_per_token()
    }
    /// Whether a tensor of the file is of a part that answers do not need, such as a second head that guesses ahead.
    fn is_spare(&self, _: &str) -> bool {
        false
    }
    /// Logits on their way out.
    fn logits<'g>(&self, _: &Blocks<'_, 'g>, x: Tensor<'g>) -> Tensor<'g> {
        x
    }
}

/// Whether the head is the embedding: as `tie_word_embeddings` says, else by what the file has.
///
/// # Errors
/// A file that has no head and says that the embedding does not stand for it.
pub fn tied(at: &Keys, names: &Names, default: Option<bool>) -> Result<bool> {
    let head = names.tensor(None, "output", "weight");
    // What makes vectors has no use for a head.
    if !at.has_tensor(&head) && at.side_json("modules.json")?.is_some() {
        return Ok(true);
    }
    match at.flag("", "tie_word_embeddings")?.or(default) {
        Some(true) if !at.is_gguf() => Ok(true),
        Some(false) if !at.is_gguf() && !at.has_tensor(&head) => Err(
            at.error(format!("lacks tensor \"{head}\", and config.json says that the embedding does not stand for it"))
        ),
        _ => Ok(!at.has_tensor(&head)),
    }
}

/// The variables of a decoder's step.
#[derive(Debug, Clone, Copy)]
pub struct StepShape {
    /// Tokens of the step: a number, or a variable.
    pub seq: Dim,
    /// Tokens in the cache after the step.
    pub total: Var,
    /// Rows of the cache.
    pub context: usize,
    /// Logits of the last token only, else of all.
    pub last_only: bool,
    /// On a mesh, tensor ranks share the norms between blocks by tokens.
    pub sequence_parallel: bool,
}

/// The most angles that are tabled: 256 MiB each of sines and cosines.
const MAX_ROTATIONS: usize = 1 << 26;

/// The graph of a step.
///
/// Inputs: `tokens` u32 `[seq]`. States: `layers.N.k` and `layers.N.v`, f32 `[context, kv_heads · head]`.
/// Output: `logits` f32 `[vocab]` of the last token, or `[seq, vocab]` of all.
///
/// # Errors
/// Tensors that are missing or have other shapes; a context that cannot be planned.
pub fn step(family: &dyn Decoder, weights: &dyn Weights, model: &str, step: &StepShape) -> Result<Graph> {
    let (s, g) = (&family.common().sizes, GraphBuilder::new());
    let (seq, total) = (step.seq, Dim::from(step.total));
    let past = total - seq;
    let mut b = Blocks {
        g: &g,
        rows: Rows::Cached { seq, total, context: step.context },
        pages: None,
        origin: Origin::File(weights),
        names: &family.common().names,
        model,
        sequence_parallel: step.sequence_parallel,
        angles: vec![],
    };
    g.at("embedding");
    let tokens = g.input("tokens", DType::U32, vec![seq]).cut(MeshAxis::Context, Split(0), Cut::Stripe { from: past });
    let table = b.vocabulary("token_embd", [s.vocab, s.width]);
    let x = family.embedded(&b, b.residual(table.gather(tokens)));
    b.angles = angles(family.ropes(), &b, step.context);
    b.angles.iter_mut().for_each(|(cos, sin)| (*cos, *sin) = (cos.slice(0, past, seq), sin.slice(0, past, seq)));
    let mut x = layers(family, &b, x);
    if step.last_only {
        x = x.slice(0, seq - Dim::new(1), 1);
    }
    let logits = head(family, &b, x, family.common().tied.then_some(table));
    g.output("logits", if step.last_only { logits.reshape([s.vocab]) } else { logits });
    g.finish()
}

pub(super) fn layers<'g>(family: &dyn Decoder, b: &Blocks<'_, 'g>, mut x: Tensor<'g>) -> Tensor<'g> {
    let n = family.common().sizes.layers;
    for layer in 0..n {
        // A file may claim any number of layers: the first that it lacks ends it.
        if b.g.has_failed() {
            return x;
        }
        b.g.layer(layer as u32 + 1);
        x = family.layer(b, layer, x);
    }
    b.g.layer(n as u32 + 1);
    b.g.at("head");
    x
}

/// Logits of every row. `shared`: the embedding, where it is the head.
pub(super) fn head<'g>(
    family: &dyn Decoder,
    b: &Blocks<'_, 'g>,
    x: Tensor<'g>,
    shared: Option<Tensor<'g>>,
) -> Tensor<'g> {
    let s = &family.common().sizes;
    let x = family.common().norm.build(b, None, "output_norm", x, s.width);
    let x = x.matmul_t(shared.unwrap_or_else(|| b.vocabulary("output", [s.vocab, s.width])));
    family.logits(b, x)
}

/// Tables of every position and pair, for each rotation.
pub(super) fn angles<'g>(ropes: &[Rope], b: &Blocks<'_, 'g>, context: usize) -> Vec<(Tensor<'g>, Tensor<'g>)> {
    let pairs: usize = ropes.iter().map(|r| r.speeds.len()).sum();
    if context.saturating_mul(pairs) > MAX_ROTATIONS {
        let most = MAX_ROTATIONS / pairs;
        let what = format!("a context of {context} tokens is more than can be planned: up to {most} for this model");
        let x = b.g.fail(Error::model(b.model, what));
        return vec![(x, x); ropes.len()];
    }
    let table = |(i, r): (usize, &Rope)| {
        let name = if i == 0 { "rope".to_string() } else { format!("rope{i}") };
        let [cos, sin] = r.tables(context);
        let shape = [context, r.speeds.len()];
        (b.g.data(&format!("{name}.cos"), shape, cos), b.g.data(&format!("{name}.sin"), shape, sin))
    };
    ropes.iter().enumerate().map(table).collect()
}

/// What a step of training takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrainingStep {
    /// Sequences of a micro-batch of all data-parallel ranks together, and tokens of each.
    pub batch: usize,
    pub seq: usize,
    pub optimiser: Optimiser,
    pub zero: Zero,
    /// Whether the head is the embedding.
    pub tied: bool,
    pub passes: Passes,
}

/// How a step goes forward and back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passes {
    /// Passes whose gradients add up to the step's.
    pub micro_batches: usize,
    /// Layers keep their input only and are computed again on the way back (Chen et al., 2016).
    pub recompute: bool,
    /// All micro-batches go forward before the first goes back, as a pipeline needs it (Huang et al., 2019); else one after
    /// the other.
    pub forward_first: bool,
}

impl Default for Passes {
    fn default() -> Self {
        Passes { micro_batches: 1, recompute: false, forward_first: false }
    }
}

/// A step of training, and its parameters in the order in which they were made.
#[derive(Debug, Clone, PartialEq)]
pub struct Training {
    pub graph: Graph,
    pub parameters: Vec<(String, Shape)>,
}

/// A part of a forward pass that goes back by itself: the embedding, a layer, or the head with the loss.
struct Part<'g> {
    /// What it begins with, but for the embedding, and what it gives.
    x: Option<Tensor<'g>>,
    y: Tensor<'g>,
    nodes: std::ops::Range<usize>,
    layer: Option<usize>,
    parameters: Vec<usize>,
}

/// A training step under construction.
struct Trainer<'a, 'b, 'g> {
    family: &'a dyn Decoder,
    b: &'a mut Blocks<'b, 'g>,
    parameters: &'a Parameters<'g>,
    step: &'a TrainingStep,
    /// Of each parameter, so far.
    gradients: Vec<Option<Tensor<'g>>>,
}

impl<'g> Trainer<'_, '_, 'g> {
    /// A micro-batch forward: its parts, the last of which gives its mean loss.
    fn forward(&mut self, tokens: Tensor<'g>, targets: Tensor<'g>) -> Vec<Part<'g>> {
        let (s, family, g) = (&self.family.common().sizes, self.family, self.b.g);
        let rows = self.step.batch * self.step.seq;
        let mut parts = vec![];
        let part = |from: usize, x, y, layer, parts: &mut Vec<Part<'g>>| {
            let parameters = self.parameters.take_touched();
            parts.push(Part { x, y, nodes: from..g.mark(), layer, parameters });
        };
        g.layer(0);
        g.at("embedding");
        let from = g.mark();
        let table = self.b.vocabulary("token_embd", [s.vocab, s.width]);
        let x = family.embedded(self.b, self.b.residual(table.gather(tokens).reshape([rows, s.width])));
        part(from, None, x, None, &mut parts);
        if self.b.angles.is_empty() {
            self.b.angles = angles(family.ropes(), self.b, self.step.seq);
        }
        let mut x = x;
        for layer in 0..s.layers {
            g.layer(layer as u32 + 1);
            let from = g.mark();
            let y = family.layer(self.b, layer, x);
            part(from, Some(x), y, Some(layer), &mut parts);
            x = y;
        }
        g.layer(s.layers as u32 + 1);
        g.at("head");
        let from = g.mark();
        let shared = self.step.tied.then(|| self.b.vocabulary("token_embd", [s.vocab, s.width]));
        let loss = head(family, self.b, x, shared).cross_entropy(targets.reshape([rows]));
        part(from, Some(x), loss, None, &mut parts);
        parts
    }

    /// Its gradients, part by part from the last: what a part keeps, and what its parameters' gradients take, ends with it.
    fn backward(&mut self, parts: Vec<Part<'g>>) {
        let g = self.b.g;
        let mut seed = g.constant(1.0 / self.step.passes.micro_batches.max(1) as f32);
        for part in parts.into_iter().rev() {
            let (mut y, mut nodes) = (part.y, part.nodes);
            if let (true, Some(layer), Some(x)) = (self.step.passes.recompute, part.layer, part.x) {
                g.layer(layer as u32 + 1);
                let from = g.mark();
                y = self.family.layer(self.b, layer, x);
                nodes = from..g.mark();
                self.parameters.take_touched();
            }
            let mut wrt: Vec<Tensor> = part.parameters.iter().map(|i| self.parameters.used(*i)).collect();
            wrt.extend(part.x);
            let mut made = g.pullback((y, seed), &wrt, nodes);
            if part.x.is_some() {
                let Some(Some(next)) = made.pop() else { return };
                seed = next;
            }
            for (i, made) in part.parameters.into_iter().zip(made) {
                let Some(made) = made else { continue };
                if self.gradients.len() <= i {
                    self.gradients.resize(i + 1, None);
                }
                self.gradients[i] = Some(self.parameters.sum(i, self.gradients[i], made));
            }
        }
    }
}

/// One of n micro-batches of samples.
fn micro_batch<'g>(x: Tensor<'g>, i: usize, n: usize, step: &TrainingStep) -> Tensor<'g> {
    if n > 1 { x.slice(0, i as i64, 1).reshape([step.batch, step.seq]) } else { x }
}

/// A training step: forward, the mean loss, gradients, the update. No file is needed.
///
/// Inputs: `tokens` and `targets` u32 `[batch, seq]`, of several micro-batches `[micro_batches, batch, seq]`; `rate` and `step`
/// f32, as [`Parameters::update`] takes them. States: the parameters (f32) under the names of weights in a file, and the
/// optimiser's beside them. Output: `loss`, nats per token.
///
/// # Errors
/// Sizes that cannot be planned; a parameter that the loss does not depend on.
pub fn training(family: &dyn Decoder, model: &str, step: &TrainingStep) -> Result<Training> {
    let g = GraphBuilder::new();
    let parameters = Parameters::new(&g, step.zero);
    let mut b = Blocks {
        g: &g,
        rows: Rows::Whole { batch: step.batch, seq: step.seq },
        pages: None,
        origin: Origin::Trained(&parameters),
        names: &family.common().names,
        model,
        sequence_parallel: false,
        angles: vec![],
    };
    g.at("embedding");
    let n = step.passes.micro_batches.max(1);
    let axis = usize::from(n > 1);
    let shape: Shape = if n > 1 { [n, step.batch, step.seq].into() } else { [step.batch, step.seq].into() };
    let samples = |name: &str| g.input(name, DType::U32, shape.clone()).place(MeshAxis::Data, Split(axis));
    let scalar = |name: &str| g.input(name, DType::F32, Shape::default());
    let (tokens, targets, rate, count) = (samples("tokens"), samples("targets"), scalar("rate"), scalar("step"));
    let mut trainer = Trainer { family, b: &mut b, parameters: &parameters, step, gradients: vec![] };
    let (mut losses, mut waiting) = (vec![], vec![]);
    for i in 0..n {
        let parts = trainer.forward(micro_batch(tokens, i, n, step), micro_batch(targets, i, n, step));
        losses.extend(parts.last().map(|p| p.y));
        match step.passes.forward_first {
            true => waiting.push(parts),
            false => trainer.backward(parts),
        }
    }
    waiting.into_iter().for_each(|parts| trainer.backward(parts));
    let gradients = std::mem::take(&mut trainer.gradients);
    let list = parameters.list();
    g.layer(family.common().sizes.layers as u32 + 1);
    g.at("loss");
    let sum = losses.into_iter().reduce(|a, b| a + b);
    if let Some(loss) = sum {
        g.output("loss", if n > 1 { loss * (1.0 / n as f32) } else { loss });
    }
    let missing = |i: usize| {
        let name = list.get(i).map_or("", |p| p.0.as_str());
        g.fail(Error::op("gradients", name, "the loss does not depend on it"))
    };
    let all = (0..list.len()).map(|i| gradients.get(i).copied().flatten().unwrap_or_else(|| missing(i))).collect();
    parameters.follow(all, step.optimiser, rate, count);
    Ok(Training { graph: g.finish()?, parameters: list })
}

//! What encoders of texts share (Devlin et al., 2018): tokens in, blocks in which every token sees all others, and one
//! vector of each text out.

use super::{Activation, BLOCKS, Rope, Sentence, Side, Vision, declare};
use crate::base::Placement::{self, Split};
use crate::base::{Cut, DType, Dim, MeshAxis, Result, Var, Weights};
use crate::graph::{Attention, Graph, GraphBuilder, RopeLayout, Tensor};
use crate::model::keys::Keys;
use std::fmt::Debug;
use std::ops::Range;

/// The configuration that encoders share.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderCommon {
    pub layers: usize,
    pub width: usize,
    pub heads: usize,
    /// Inner elements of the network behind attention.
    pub ffn: usize,
    pub vocab: usize,
    /// Rows of the table of positions, or tokens that the model was made for.
    pub context: usize,
    /// What layer norms add to the variance.
    pub eps: f32,
    pub activation: Activation,
    pub sentence: Sentence,
}

/// What a family's own definition says where a file says nothing.
#[derive(Debug, Clone, Copy)]
pub struct EncoderDefaults {
    pub layers: usize,
    pub width: usize,
    pub heads: usize,
    pub ffn: usize,
    pub vocab: usize,
    pub context: usize,
    pub eps: f64,
    pub activation: Activation,
    /// Where a file names it.
    pub activation_keys: &'static str,
    /// The first rows of the table of positions that no token has.
    pub unused_positions: usize,
}

impl Default for EncoderDefaults {
    fn default() -> Self {
        EncoderDefaults {
            layers: 12,
            width: 768,
            heads: 12,
            ffn: 3072,
            vocab: 30_522,
            context: 512,
            eps: 1e-12,
            activation: Activation::Gelu,
            activation_keys: "hidden_act|hidden_activation|activation",
            unused_positions: 0,
        }
    }
}

/// No encoder has more layers: what a file claims is bounded before anything is made of it.
const MOST_LAYERS: usize = 1 << 10;

impl EncoderCommon {
    /// From a config.json, by the names that families give their sizes.
    ///
    /// # Errors
    /// Sizes that do not fit together.
    pub fn read(at: &Keys, d: &EncoderDefaults) -> Result<EncoderCommon> {
        let size = |gguf: &str, keys: &str, default: usize| match at.is_gguf() {
            true => at.size(gguf, ""),
            false => Ok(at.optional_size("", keys)?.unwrap_or(default)),
        };
        let context = size("context_length", "max_position_embeddings|n_positions", d.context)?;
        let width = size("embedding_length", "hidden_size|dim|n_embd", d.width)?;
        let Some(tokens) = context.checked_sub(d.unused_positions).filter(|n| *n > 0) else {
            return Err(at.error(format!(
                "has {context} positions, of which the first {} are no token's: none is left",
                d.unused_positions
            )));
        };
        let common = EncoderCommon {
            layers: size("block_count", "num_hidden_layers|n_layers|n_layer", d.layers)?,
            width,
            heads: size("attention.head_count", "num_attention_heads|n_heads|n_head", d.heads)?,
            ffn: size("feed_forward_length", "intermediate_size|hidden_dim|n_inner", d.ffn)?,
            vocab: match at.is_gguf() {
                true => at.vocab()?,
                false => at.optional_size("", "vocab_size")?.unwrap_or(d.vocab),
            },
            context,
            eps: at.real("attention.layer_norm_epsilon", "layer_norm_eps|layer_norm_epsilon|norm_eps", 0.0, d.eps)?
                as f32,
            activation: Activation::read(at, d.activation_keys, d.activation)?,
            sentence: Sentence::read(at, width, tokens)?,
        };
        if !width.is_multiple_of(common.heads) || common.head() > 256 {
            return Err(at.error(format!("a width of {width} does not split into {} heads of up to 256", common.heads)));
        }
        if common.layers > MOST_LAYERS {
            return Err(at.error(format!("has {} layers: up to {MOST_LAYERS} can be run", common.layers)));
        }
        Ok(common)
    }

    /// Elements of a head.
    pub fn head(&self) -> usize {
        self.width / self.heads
    }
    /// Elements of a text's vector.
    pub fn output(&self) -> usize {
        self.sentence.width(self.width)
    }
}

/// A family of encoders, configured.
pub trait Encoder: Debug + Send + Sync {
    fn common(&self) -> &EncoderCommon;
    /// What stands before every name where the encoder lies in a larger model, and the name of its table of words.
    fn root(&self) -> (&'static str, &'static str);
    /// What GGUF files call a tensor, without its ending.
    fn gguf_name(&self, name: &str) -> String {
        name.into()
    }
    /// Vectors of all tokens, `[batch, seq, width]`.
    fn hidden<'g>(&self, b: &Texts<'_, 'g>) -> Tensor<'g>;
    /// One vector of each text, of length one, from those of its tokens.
    fn pooled<'g>(&self, b: &Texts<'_, 'g>, x: Tensor<'g>) -> Tensor<'g> {
        self.common().sentence.build(b, x)
    }
    /// Elements of a text's vector.
    fn output(&self) -> usize {
        self.common().output()
    }
    /// What makes vectors of images in the same space, where the model has it.
    fn vision(&self) -> Option<&Vision> {
        None
    }
}

/// The graph of a batch.
///
/// Inputs: `tokens` u32 `[batch, seq]`, `mask` bool `[batch, seq]`, true at real tokens, which come first. Output:
/// `embeddings` f32 `[batch, width of the vectors]`, each of length one.
///
/// # Errors
/// Tensors that are missing or have other shapes.
pub fn encode(family: &dyn Encoder, weights: &dyn Weights, model: &str, batch: Var, seq: Var) -> Result<Graph> {
    let (g, longest) = (GraphBuilder::new(), seq.max as usize);
    let (root, words) = family.root();
    let root = if weights.info(&format!("{root}{words}.weight")).is_ok() { root } else { "" };
    let (batch, seq) = (Dim::from(batch), Dim::from(seq));
    let (tokens, mask) =
        (g.input("tokens", DType::U32, vec![batch, seq]), g.input("mask", DType::Bool, vec![batch, seq]));
    let c = family.common();
    let gguf = weights.info("token_embd.weight").is_ok().then_some(family);
    let rows = Encoding { gguf, g: &g, weights, model, root, batch, seq, longest, eps: c.eps };
    let b = Texts { rows, tokens, mask };
    g.at("embeddings");
    let x = family.hidden(&b);
    g.layer(c.layers as u32 + 1);
    g.output("embeddings", family.pooled(&b, x));
    g.finish()
}

/// A graph under construction, and all that an encoder's blocks ask for beside their options: rows are tokens of texts, or
/// patches of images.
pub struct Encoding<'a, 'g> {
    pub g: &'g GraphBuilder,
    pub(super) weights: &'a dyn Weights,
    pub(super) model: &'a str,
    pub(super) root: &'static str,
    /// Who knows the names, where the file is GGUF.
    pub(super) gguf: Option<&'a dyn Encoder>,
    pub batch: Dim,
    pub seq: Dim,
    /// The most rows of one.
    pub longest: usize,
    pub(super) eps: f32,
}

/// The same of texts.
pub struct Texts<'a, 'g> {
    pub rows: Encoding<'a, 'g>,
    /// u32 `[batch, seq]`.
    pub tokens: Tensor<'g>,
    /// bool `[batch, seq]`, true at real tokens.
    pub mask: Tensor<'g>,
}

impl<'a, 'g> std::ops::Deref for Texts<'a, 'g> {
    type Target = Encoding<'a, 'g>;
    fn deref(&self) -> &Encoding<'a, 'g> {
        &self.rows
    }
}

/// A matrix, or some rows of one, and whether it has a bias.
#[derive(Debug, Clone, PartialEq)]
pub struct Linear {
    pub name: String,
    pub rows: Option<Range<usize>>,
    pub bias: bool,
    /// Whether it lies outside of the encoder's own names.
    pub outside: bool,
}

impl Linear {
    pub fn new(name: impl Into<String>, bias: bool) -> Linear {
        Linear { name: name.into(), rows: None, bias, outside: false }
    }
    pub fn rows(self, rows: Range<usize>) -> Linear {
        Linear { rows: Some(rows), ..self }
    }
}

/// The attention of a block.
pub struct SelfAttention<'g> {
    /// Of queries, keys, values and the result.
    pub parts: [Linear; 4],
    pub width: usize,
    pub heads: usize,
    /// Which keys a query sees, or what is added to its scores: broadcasts to `[batch, heads, seq, seq]`. All where not given.
    pub mask: Option<Tensor<'g>>,
    /// Cosines and sines by which queries and keys turn, `[seq, head / 2]` each.
    pub rope: Option<(Tensor<'g>, Tensor<'g>)>,
}

/// The network of a block: `down(act(up(x)))`, or `down(act(gate(x)) · up(x))`.
pub struct Network {
    pub gate: Option<Linear>,
    pub up: Linear,
    pub down: Linear,
}

impl<'g> Texts<'_, 'g> {
    /// Rows of a table of words, by the tokens: `[batch, seq, width]`.
    pub fn words(&self, name: &str, c: &EncoderCommon) -> Tensor<'g> {
        self.weight(&format!("{name}.weight"), &[c.vocab, c.width]).gather(self.tokens)
    }

    /// Rows of a table of positions that counts from behind `padding`, the number of the padding token, whose own position
    /// is that number wherever it stands (Ott et al., 2019): `[batch, seq, width]`.
    pub fn positions_after(&self, name: &str, c: &EncoderCommon, padding: u32) -> Tensor<'g> {
        let table = self.weight(&format!("{name}.weight"), &[c.context, c.width]);
        let (one, b, s) = (Dim::new(1), self.batch, self.seq);
        let real = self.tokens.ne(self.g.iota(DType::U32, vec![one, one], 1, padding as i64)).cast(DType::F32);
        let before =
            self.g.iota(DType::U32, vec![one, one, s], 2, 0).le(self.g.iota(DType::U32, vec![one, s, one], 1, 0));
        let count = (real.reshape(vec![b, one, s]) * before.cast(DType::F32)).sum(&[2]);
        table.gather((count * real + padding as f32).cast(DType::U32))
    }

    /// Every real token: `[batch, 1, 1, seq]`.
    pub fn all_real(&self) -> Tensor<'g> {
        self.mask.reshape(vec![self.batch, 1.into(), 1.into(), self.seq])
    }

    /// Real tokens up to `reach` away on either side (Beltagy et al., 2020): `[batch, 1, seq, seq]`.
    pub fn near(&self, reach: usize) -> Tensor<'g> {
        let (one, s) = (Dim::new(1), self.seq);
        let (keys, queries) = (
            self.g.iota(DType::F32, vec![one, one, one, s], 3, 0),
            self.g.iota(DType::F32, vec![one, one, s, one], 2, 0),
        );
        let near = (keys - queries).abs().le(self.g.constant(reach as f32));
        (self.all_real().cast(DType::F32) * near.cast(DType::F32)).gt(self.g.constant(0.0))
    }

    /// Real tokens up to the query's own: bool `[batch, 1, seq, seq]`.
    pub fn up_to_own(&self) -> Tensor<'g> {
        let (one, s) = (Dim::new(1), self.seq);
        let (keys, queries) = (
            self.g.iota(DType::F32, vec![one, one, one, s], 3, 0),
            self.g.iota(DType::F32, vec![one, one, s, one], 2, 0),
        );
        (self.all_real().cast(DType::F32) * keys.le(queries).cast(DType::F32)).gt(self.g.constant(0.0))
    }
}

impl<'g> Encoding<'_, 'g> {
    /// The first rows of a table of positions: `[seq, width]`.
    pub fn positions(&self, name: &str, c: &EncoderCommon) -> Tensor<'g> {
        self.weight(&format!("{name}.weight"), &[c.context, c.width]).slice(0, 0, self.seq)
    }

    /// Cosines and sines of every position.
    pub fn angles(&self, rope: &Rope, name: &str) -> (Tensor<'g>, Tensor<'g>) {
        let [cos, sin] = rope.tables(self.longest);
        let shape = [self.longest, rope.speeds.len()];
        let table = |which: &str, of| self.g.data(&format!("{name}.{which}"), shape, of).slice(0, 0, self.seq);
        (table("cos", cos), table("sin", sin))
    }

    /// `x`: `[batch, seq, width]`; so is the result.
    pub fn attention(&self, at: &str, x: Tensor<'g>, how: &SelfAttention<'g>) -> Tensor<'g> {
        let (width, head) = (how.width, how.width / how.heads);
        let heads = Cut::Even { unit: head as u32 };
        let [q, k, v, out] = &how.parts;
        let split = |linear: &Linear| {
            let y = self.linear(linear, x, [width, width], Side::Outputs(heads));
            y.reshape(vec![self.batch, self.seq, how.heads.into(), head.into()])
        };
        let (q, k, v) = (split(q), split(k), split(v));
        self.g.at(format!("{at}.attention"));
        let turned = |t: Tensor<'g>| how.rope.map_or(t, |(cos, sin)| t.rope(cos, sin, RopeLayout::Half));
        let scale = Attention::scaled(1.0 / (head as f32).sqrt());
        let y = turned(q).attention(turned(k), v, how.mask, scale);
        let y = y.reshape(vec![self.batch, self.seq, width.into()]);
        self.linear(out, y, [width, width], Side::Inputs(heads))
    }

    /// `x`: `[batch, seq, width]`; so is the result.
    pub fn network(&self, c: &EncoderCommon, x: Tensor<'g>, how: &Network) -> Tensor<'g> {
        let up = |l: &Linear| self.linear(l, x, [c.ffn, c.width], Side::Outputs(BLOCKS));
        let h = match &how.gate {
            Some(gate) => c.activation.of(up(gate)) * up(&how.up),
            None => c.activation.of(up(&how.up)),
        };
        self.linear(&how.down, h, [c.width, c.ffn], Side::Inputs(BLOCKS))
    }

    /// `x · wᵀ + b`.
    pub fn linear(&self, l: &Linear, x: Tensor<'g>, [to, from]: [usize; 2], side: Side) -> Tensor<'g> {
        self.g.at(&*l.name);
        let part = |kind: &str, shape: &[usize]| {
            let name = if l.outside { format!("{}.{kind}", l.name) } else { self.full(&format!("{}.{kind}", l.name)) };
            let name = match &l.rows {
                Some(r) => format!("rows({}..{}, {name})", r.start, r.end),
                None => name,
            };
            self.g.or_fail(declare(self.g, self.weights, self.model, &name, shape))
        };
        let w = part("weight", &[to, from]);
        let b = || part("bias", &[to]);
        match side {
            Side::Outputs(cut) => {
                let y = x.matmul_t(w.cut(MeshAxis::Tensor, Split(0), cut));
                if l.bias { y + b().cut(MeshAxis::Tensor, Split(0), cut) } else { y }
            }
            // The bias is added once, to the sum.
            Side::Inputs(cut) => {
                let y = self.whole(x.matmul_t(w.cut(MeshAxis::Tensor, Split(1), cut)));
                if l.bias { y + b() } else { y }
            }
            Side::Whole => {
                let y = x.matmul_t(w);
                if l.bias { y + b() } else { y }
            }
        }
    }

    /// The stream between blocks lies whole on every tensor rank.
    pub fn whole(&self, x: Tensor<'g>) -> Tensor<'g> {
        x.place(MeshAxis::Tensor, Placement::Whole)
    }

    /// A layer norm of the last axis, by mean and variance; older files call its parts gamma and beta.
    pub fn norm(&self, x: Tensor<'g>, name: &str, bias: bool) -> Tensor<'g> {
        self.g.at(name);
        let width = x.dim(x.shape().rank().saturating_sub(1)).known().unwrap_or(1) as usize;
        let part = |kind: &str, older: &str| {
            let old = format!("{name}.{older}");
            let is_old = self.weights.info(&self.full(&old)).is_ok();
            self.weight(&if is_old { old } else { format!("{name}.{kind}") }, &[width])
        };
        let b = if bias { part("bias", "beta") } else { self.g.constant(0.0).broadcast([width]) };
        x.layer_norm(part("weight", "gamma"), b, self.eps)
    }

    pub fn weight(&self, name: &str, shape: &[usize]) -> Tensor<'g> {
        self.g.or_fail(declare(self.g, self.weights, self.model, &self.full(name), shape))
    }

    /// Some rows of a tensor, of this shape.
    pub fn rows(&self, name: &str, rows: Range<usize>, shape: &[usize]) -> Tensor<'g> {
        let name = format!("rows({}..{}, {})", rows.start, rows.end, self.full(name));
        self.g.or_fail(declare(self.g, self.weights, self.model, &name, shape))
    }

    /// The name that the file has for a tensor.
    fn full(&self, name: &str) -> String {
        match (self.gguf, name.rsplit_once('.')) {
            (Some(family), Some((part, kind))) => format!("{}.{kind}", family.gguf_name(part)),
            _ => format!("{}{name}", self.root),
        }
    }

    /// The first row of a table of `rows`, or of as many as a GGUF file has: `[1, width]`.
    pub fn first_row(&self, name: &str, [rows, width]: [usize; 2]) -> Tensor<'g> {
        let own = self.weights.info(&self.full(name)).ok().and_then(|t| t.shape.known());
        match own.as_deref() {
            Some([n]) if self.gguf.is_some() && *n == width => self.weight(name, &[width]).reshape([1, width]),
            Some([n, _]) if self.gguf.is_some() => self.weight(name, &[*n, width]).slice(0, 0, 1),
            _ => self.weight(name, &[rows, width]).slice(0, 0, 1),
        }
    }

    /// Every block behind another, each with the stream that the last one left.
    pub fn layers(&self, n: usize, mut x: Tensor<'g>, block: impl Fn(usize, Tensor<'g>) -> Tensor<'g>) -> Tensor<'g> {
        for layer in 0..n {
            // A file may claim any number of layers: the first that it lacks ends it.
            if self.g.has_failed() {
                return x;
            }
            self.g.layer(layer as u32 + 1);
            x = block(layer, x);
        }
        x
    }
}

/// A block as BERT has it, with biases, that norms the sum of what it read and what it made, and what its parts are called.
pub struct PostNorm {
    /// Queries, keys, values, the result.
    pub attention: [&'static str; 4],
    pub attention_norm: &'static str,
    pub up: &'static str,
    pub down: &'static str,
    pub norm: &'static str,
}

impl PostNorm {
    /// The block whose names begin with `at`.
    pub fn build<'g>(
        &self,
        b: &Texts<'_, 'g>,
        c: &EncoderCommon,
        at: &str,
        x: Tensor<'g>,
        mask: Tensor<'g>,
    ) -> Tensor<'g> {
        let linear = |part: &str| Linear::new(format!("{at}.{part}"), true);
        let (parts, mask) = (self.attention.map(linear), Some(mask));
        let how = SelfAttention { parts, width: c.width, heads: c.heads, mask, rope: None };
        let y = b.attention(at, x, &how);
        let x = b.norm(b.whole(y + x), &format!("{at}.{}", self.attention_norm), true);
        let network = Network { gate: None, up: linear(self.up), down: linear(self.down) };
        let y = b.network(c, x, &network);
        b.norm(b.whole(y + x), &format!("{at}.{}", self.norm), true)
    }
}

//! Encoder and decoder of speech (Radford et al., 2022): frames of a spectrogram go through two convolutions and an encoder
//! once; a decoder of text sees its own tokens and what the encoder made.

use super::encoder::{Encoding, Linear, Network, SelfAttention};
use super::{Activation, EncoderCommon, Sentence, Side, declare};
use crate::base::{DType, Dim, Result, Var, Weights};
use crate::graph::{Attention, Graph, GraphBuilder, Tensor, Window};

/// A model of speech, configured.
#[derive(Debug, Clone, PartialEq)]
pub struct Speech {
    /// Of the encoder; its context is the rows that it makes.
    pub encoder: EncoderCommon,
    /// Of the decoder; its context is the most tokens of a text.
    pub decoder: EncoderCommon,
    /// Bands of the spectrogram, of which two frames make a row.
    pub bands: usize,
    /// What stands before every name, with its dot.
    pub root: &'static str,
    /// Whether the head is the embedding.
    pub tied: bool,
}

impl Speech {
    /// Frames of the spectrogram that are heard at once.
    pub fn frames(&self) -> usize {
        2 * self.encoder.context
    }
    /// Bytes of keys and values that each token takes.
    pub fn state_bytes_per_token(&self) -> u64 {
        2 * 4 * (self.decoder.layers * self.decoder.width) as u64
    }
    /// The names of what the encoder makes for the decoder: of each of its layers keys and values.
    pub fn heard(&self) -> Vec<String> {
        (0..self.decoder.layers).flat_map(|n| [heard(n, "k"), heard(n, "v")]).collect()
    }
}

fn heard(layer: usize, which: &str) -> String {
    format!("layers.{layer}.heard_{which}")
}

fn encoding<'a, 'g>(
    s: &Speech,
    g: &'g GraphBuilder,
    weights: &'a dyn Weights,
    model: &'a str,
    (seq, longest): (Dim, usize),
) -> Encoding<'a, 'g> {
    Encoding { gguf: None, g, weights, model, root: s.root, batch: 1.into(), seq, longest, eps: s.encoder.eps }
}

/// The names of queries, keys, values and the result of an attention; keys have no bias.
fn parts(at: &str) -> [Linear; 4] {
    [("q_proj", true), ("k_proj", false), ("v_proj", true), ("out_proj", true)]
        .map(|(part, bias)| Linear::new(format!("{at}.{part}"), bias))
}

fn network<'g>(b: &Encoding<'_, 'g>, c: &EncoderCommon, at: &str, x: Tensor<'g>) -> Tensor<'g> {
    let linear = |part: &str| Linear::new(format!("{at}.{part}"), true);
    let h = b.norm(x, &format!("{at}.final_layer_norm"), true);
    x + b.network(c, h, &Network { gate: None, up: linear("fc1"), down: linear("fc2") })
}

/// The graph that hears.
///
/// Input: `mel` f32 `[bands, frames]`. Outputs: of each layer of the decoder keys and values f32 `[rows, width]`, by the names
/// of [`Speech::heard`].
///
/// # Errors
/// Tensors that are missing or have other shapes.
pub fn hear(s: &Speech, weights: &dyn Weights, model: &str) -> Result<Graph> {
    let (g, c) = (GraphBuilder::new(), &s.encoder);
    let b = encoding(s, &g, weights, model, (c.context.into(), c.context));
    g.at("encoder.conv");
    let mel = g.input("mel", DType::F32, [s.bands, s.frames()]).reshape([1, s.bands, s.frames()]);
    let x = Activation::Gelu.of(conv(&b, c, mel, ("conv1", s.bands, 1)));
    let x = Activation::Gelu.of(conv(&b, c, x, ("conv2", c.width, 2))).transpose(&[0, 2, 1]);
    let mut x = x + b.positions("encoder.embed_positions", c);
    x = b.layers(c.layers, x, |n, x| {
        let at = format!("encoder.layers.{n}");
        let h = b.norm(x, &format!("{at}.self_attn_layer_norm"), true);
        let parts = parts(&format!("{at}.self_attn"));
        let x =
            x + b.attention(&at, h, &SelfAttention { parts, width: c.width, heads: c.heads, mask: None, rope: None });
        network(&b, c, &at, x)
    });
    let x = b.norm(x, "encoder.layer_norm", true).reshape([c.context, c.width]);
    g.layer(c.layers as u32 + 1);
    for n in 0..s.decoder.layers {
        if g.has_failed() {
            break;
        }
        let [_, k, v, _] = parts(&format!("decoder.layers.{n}.encoder_attn"));
        for (linear, which) in [(k, "k"), (v, "v")] {
            g.output(&heard(n, which), b.linear(&linear, x, [s.decoder.width, c.width], Side::Whole));
        }
    }
    g.finish()
}

/// A convolution of three frames over `x` `[1, from, frames]`.
fn conv<'g>(
    b: &Encoding<'_, 'g>,
    c: &EncoderCommon,
    x: Tensor<'g>,
    (name, from, stride): (&str, usize, usize),
) -> Tensor<'g> {
    let w = b.weight(&format!("encoder.{name}.weight"), &[c.width, from, 3]).cast(DType::F32);
    let bias = b.weight(&format!("encoder.{name}.bias"), &[c.width]).cast(DType::F32);
    x.conv(w, Some(bias), Window::of(&[3]).stride(&[stride]).pad(&[1], &[1]))
}

/// The graph that writes: up to `seq` new tokens behind those in the cache, `total` with them.
///
/// Input: `tokens` u32 `[seq]`. States: what [`hear`] made, by its names, and keys and values of the tokens. Output: `logits`
/// f32 `[1, vocab]` of the newest token.
///
/// # Errors
/// Tensors that are missing or have other shapes.
pub fn write(s: &Speech, weights: &dyn Weights, model: &str, seq: Dim, total: Var) -> Result<Graph> {
    let (g, c) = (GraphBuilder::new(), &s.decoder);
    let b = encoding(s, &g, weights, model, (seq, c.context));
    let (total, one) = (Dim::from(total), Dim::new(1));
    let past = total - seq;
    g.at("decoder.embeddings");
    let tokens = g.input("tokens", DType::U32, vec![seq]);
    let table = b.weight("decoder.embed_tokens.weight", &[c.vocab, c.width]);
    let places = b.weight("decoder.embed_positions.weight", &[c.context, c.width]).cast(DType::F32);
    let x = table.gather(tokens);
    let x = x + places.slice(0, past, seq);
    let layer = |n, x| {
        let x = attended(s, &b, x, (n, true), (past, total));
        network(&b, c, &format!("decoder.layers.{n}"), attended(s, &b, x, (n, false), (past, total)))
    };
    let x = b.layers(c.layers, x, layer);
    let x = b.norm(x.slice(0, seq - one, 1), "decoder.layer_norm", true);
    g.layer(c.layers as u32 + 1);
    g.at("decoder.head");
    let matrix = match s.tied {
        true => table,
        false => g.or_fail(declare(&g, weights, model, "proj_out.weight", &[c.vocab, c.width])),
    };
    g.output("logits", x.matmul_t(matrix));
    g.finish()
}

/// The stream with what a layer's tokens see: their own, or what was heard.
fn attended<'g>(
    s: &Speech,
    b: &Encoding<'_, 'g>,
    x: Tensor<'g>,
    (n, own): (usize, bool),
    (past, total): (Dim, Dim),
) -> Tensor<'g> {
    let (c, seq, one) = (&s.decoder, b.seq, Dim::new(1));
    let (width, scale) = ([c.width, c.width], 1.0 / (c.head() as f32).sqrt());
    let split = |x: Tensor<'g>, rows: Dim| x.reshape(vec![one, rows, c.heads.into(), c.head().into()]);
    let at = format!("decoder.layers.{n}.{}", if own { "self_attn" } else { "encoder_attn" });
    let [q, k, v, out] = parts(&at);
    let h = b.norm(x, &format!("{at}_layer_norm"), true);
    let queries = split(b.linear(&q, h, width, Side::Whole), seq);
    let y = if own {
        let cached = |which: &str, linear: &Linear| {
            let state = b.g.state(&format!("layers.{n}.{which}"), DType::F32, [c.context, c.width]);
            split(state.append(b.linear(linear, h, width, Side::Whole), past).slice(0, 0, total), total)
        };
        let (k, v) = (cached("k", &k), cached("v", &v));
        queries.attention(k, v, None, Attention { causal: Some(past), ..Attention::scaled(scale) })
    } else {
        let rows = s.encoder.context;
        let seen = |which: &str| split(b.g.state(&heard(n, which), DType::F32, [rows, c.width]), rows.into());
        queries.attention(seen("k"), seen("v"), None, Attention::scaled(scale))
    };
    x + b.linear(&out, y.reshape(vec![seq, c.width.into()]), width, Side::Whole)
}

/// Sizes of one of both stacks.
pub fn stack(layers: usize, width: usize, heads: usize, ffn: usize, context: usize) -> EncoderCommon {
    EncoderCommon {
        layers,
        width,
        heads,
        ffn,
        vocab: 1,
        context,
        eps: 1e-5,
        activation: Activation::Gelu,
        sentence: Sentence::mean(context),
    }
}

//! A decoder that makes one vector of a text in place of logits, as its modules.json says (Wang et al., 2024).

use super::decoder::{angles, layers};
use super::{Blocks, Decoder, Encoding, Origin, Rows, Sentence, Texts};
use crate::base::{DType, Dim, Result, Var, Weights};
use crate::graph::{Graph, GraphBuilder};

/// The graph of one text.
///
/// Inputs: `tokens` u32 `[1, seq]`, `mask` bool `[1, seq]`, true at all. Output: `embeddings` f32 `[1, width of the vector]`,
/// of length one.
///
/// # Errors
/// Tensors that are missing or have other shapes.
pub fn embed(family: &dyn Decoder, sentence: &Sentence, weights: &dyn Weights, model: &str, seq: Var) -> Result<Graph> {
    let (s, g, longest) = (&family.common().sizes, GraphBuilder::new(), seq.max as usize);
    let (seq, one) = (Dim::from(seq), Dim::new(1));
    let (tokens, mask) = (g.input("tokens", DType::U32, vec![one, seq]), g.input("mask", DType::Bool, vec![one, seq]));
    let mut b = Blocks {
        g: &g,
        rows: Rows::Cached { seq, total: seq, context: longest },
        pages: None,
        origin: Origin::File(weights),
        names: &family.common().names,
        model,
        sequence_parallel: false,
        angles: vec![],
    };
    g.at("embedding");
    let table = b.vocabulary("token_embd", [s.vocab, s.width]);
    let x = family.embedded(&b, b.residual(table.gather(tokens.reshape(vec![seq]))));
    b.angles = angles(family.ropes(), &b, longest);
    b.angles.iter_mut().for_each(|(cos, sin)| (*cos, *sin) = (cos.slice(0, 0, seq), sin.slice(0, 0, seq)));
    let x = family.common().norm.build(&b, None, "output_norm", layers(family, &b, x), s.width);
    let rows = Encoding { g: &g, weights, model, root: "", gguf: None, batch: one, seq, longest, eps: 0.0 };
    let texts = Texts { rows, tokens, mask };
    g.output("embeddings", sentence.build(&texts, x.reshape(vec![one, seq, s.width.into()])));
    g.finish()
}

//! DistilBERT (Sanh et al., 2019): BERT without kinds of tokens, under other names.

use super::{Architecture, Family};
use crate::base::Result;
use crate::graph::Tensor;
use crate::model::keys::Keys;
use crate::model::layers::{Encoder, EncoderCommon, EncoderDefaults, PostNorm, Texts};

pub static FAMILY: Family = Family {
    name: "distilbert",
    gguf: &[],
    hugging_face: &["distilbert"],
    read: |at| Ok(Architecture::Encoder(Box::new(DistilBert::read(at)?))),
    // Positions by sines are stored like learned ones.
    harmless: &["sinusoidal_pos_embds", "qa_dropout", "seq_classif_dropout", "tie_weights_", "tie_word_embeddings"],
};

const BLOCK: PostNorm = PostNorm {
    attention: ["attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"],
    attention_norm: "sa_layer_norm",
    up: "ffn.lin1",
    down: "ffn.lin2",
    norm: "output_layer_norm",
};

#[derive(Debug)]
struct DistilBert {
    common: EncoderCommon,
}

impl DistilBert {
    fn read(at: &Keys) -> Result<DistilBert> {
        let common = EncoderCommon::read(at, &EncoderDefaults { layers: 6, ..EncoderDefaults::default() })?;
        Ok(DistilBert { common })
    }
}

impl Encoder for DistilBert {
    fn common(&self) -> &EncoderCommon {
        &self.common
    }
    fn root(&self) -> (&'static str, &'static str) {
        ("distilbert.", "embeddings.word_embeddings")
    }
    fn hidden<'g>(&self, b: &Texts<'_, 'g>) -> Tensor<'g> {
        let c = &self.common;
        let x = b.words("embeddings.word_embeddings", c) + b.positions("embeddings.position_embeddings", c);
        let x = b.norm(x, "embeddings.LayerNorm", true);
        b.layers(c.layers, x, |n, x| BLOCK.build(b, c, &format!("transformer.layer.{n}"), x, b.all_real()))
    }
}

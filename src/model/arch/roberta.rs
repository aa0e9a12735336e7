//! RoBERTa (Liu et al., 2019), XLM-RoBERTa (Conneau et al., 2019) and CamemBERT: BERT whose positions count from behind the
//! padding token's number.

use super::bert::{BLOCK, HARMLESS, check_positions};
use super::{Architecture, Family};
use crate::base::Result;
use crate::graph::Tensor;
use crate::model::keys::Keys;
use crate::model::layers::{Encoder, EncoderCommon, EncoderDefaults, Texts};

pub static FAMILY: Family = Family {
    name: "roberta",
    gguf: &[],
    hugging_face: &["roberta", "xlm-roberta", "camembert"],
    read: |at| Ok(Architecture::Encoder(Box::new(Roberta::read(at)?))),
    harmless: HARMLESS,
};

#[derive(Debug)]
struct Roberta {
    common: EncoderCommon,
    kinds: usize,
    /// The padding token.
    padding: u32,
}

impl Roberta {
    fn read(at: &Keys) -> Result<Roberta> {
        check_positions(at)?;
        let padding = at.number("", "pad_token_id")?.unwrap_or(1.0);
        if !(0.0..65_536.0).contains(&padding) || padding.fract() != 0.0 {
            return Err(at.error(format!("pad_token_id is {padding}, it must be a whole number from 0 to 65535")));
        }
        let vocab = if at.architecture()?.as_deref() == Some("roberta") { 50_265 } else { 30_522 };
        let d = EncoderDefaults { vocab, unused_positions: padding as usize + 1, ..EncoderDefaults::default() };
        let common = EncoderCommon::read(at, &d)?;
        Ok(Roberta { common, kinds: at.optional_size("", "type_vocab_size")?.unwrap_or(2), padding: padding as u32 })
    }
}

impl Encoder for Roberta {
    fn common(&self) -> &EncoderCommon {
        &self.common
    }
    fn root(&self) -> (&'static str, &'static str) {
        ("roberta.", "embeddings.word_embeddings")
    }
    fn hidden<'g>(&self, b: &Texts<'_, 'g>) -> Tensor<'g> {
        let c = &self.common;
        let words = b.words("embeddings.word_embeddings", c);
        let kinds = b.weight("embeddings.token_type_embeddings.weight", &[self.kinds, c.width]).slice(0, 0, 1);
        let x = words + b.positions_after("embeddings.position_embeddings", c, self.padding) + kinds;
        let x = b.norm(x, "embeddings.LayerNorm", true);
        b.layers(c.layers, x, |n, x| BLOCK.build(b, c, &format!("encoder.layer.{n}"), x, b.all_real()))
    }
}

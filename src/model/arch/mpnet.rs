//! MPNet (Song et al., 2020): BERT whose scores have a learned bias for each distance, in buckets as T5 has them
//! (Raffel et al., 2020).

use super::{Architecture, Family};
use crate::base::{DType, Dim, MeshAxis, Placement::Split, Result};
use crate::graph::Tensor;
use crate::model::keys::Keys;
use crate::model::layers::{Encoder, EncoderCommon, EncoderDefaults, PostNorm, Texts};

pub static FAMILY: Family = Family {
    name: "mpnet",
    gguf: &[],
    hugging_face: &["mpnet"],
    read: |at| Ok(Architecture::Encoder(Box::new(MpNet::read(at)?))),
    harmless: &["tie_word_embeddings"],
};

const BLOCK: PostNorm = PostNorm {
    attention: ["attention.attn.q", "attention.attn.k", "attention.attn.v", "attention.attn.o"],
    attention_norm: "attention.LayerNorm",
    up: "intermediate.dense",
    down: "output.dense",
    norm: "output.LayerNorm",
};

/// The published code has the padding token's number, the buckets and the farthest distance as constants.
const PADDING: u32 = 1;
const BUCKETS: usize = 32;
const FARTHEST: f64 = 128.0;

#[derive(Debug)]
struct MpNet {
    common: EncoderCommon,
}

impl MpNet {
    fn read(at: &Keys) -> Result<MpNet> {
        let buckets = at.optional_size("", "relative_attention_num_buckets")?.unwrap_or(BUCKETS);
        if buckets != BUCKETS {
            return Err(at.error(format!("has relative_attention_num_buckets = {buckets}: {BUCKETS} can be run")));
        }
        let d = EncoderDefaults { vocab: 30_527, unused_positions: PADDING as usize + 1, ..EncoderDefaults::default() };
        Ok(MpNet { common: EncoderCommon::read(at, &d)? })
    }

    /// What is added to scores: the bias of the distance, and nothing is left of keys that are no tokens.
    fn mask<'g>(&self, b: &Texts<'_, 'g>) -> Tensor<'g> {
        let (c, n, one) = (&self.common, b.longest, Dim::new(1));
        let buckets = (0..2 * n - 1).map(|i| bucket(i as i64 - (n as i64 - 1)) as f32).collect();
        let buckets = b.g.data("relative_attention_bias.buckets", [2 * n - 1], buckets).cast(DType::U32);
        let table = b.weight("encoder.relative_attention_bias.weight", &[BUCKETS, c.heads]);
        let table = table.place(MeshAxis::Tensor, Split(1)).gather(buckets);
        let (keys, queries) =
            (b.g.iota(DType::U32, vec![one, b.seq], 1, n as i64 - 1), b.g.iota(DType::U32, vec![b.seq, one], 0, 0));
        let bias = table.gather(keys - queries).transpose(&[2, 0, 1]);
        let bias = bias.reshape(vec![one, c.heads.into(), b.seq, b.seq]);
        b.all_real().select(bias, b.g.constant(-f32::MAX))
    }
}

/// The bucket of a key so far behind a query: one for each near distance, then ever wider ones.
fn bucket(distance: i64) -> usize {
    let (half, exact) = (BUCKETS / 2, BUCKETS / 4);
    let (side, n) = (if distance > 0 { half } else { 0 }, distance.unsigned_abs() as usize);
    let far = || {
        let share = (n as f64 / exact as f64).ln() / (FARTHEST / exact as f64).ln();
        (exact + (share * (half - exact) as f64) as usize).min(half - 1)
    };
    side + if n < exact { n } else { far() }
}

impl Encoder for MpNet {
    fn common(&self) -> &EncoderCommon {
        &self.common
    }
    fn root(&self) -> (&'static str, &'static str) {
        ("mpnet.", "embeddings.word_embeddings")
    }
    fn hidden<'g>(&self, b: &Texts<'_, 'g>) -> Tensor<'g> {
        let c = &self.common;
        let words = b.words("embeddings.word_embeddings", c);
        let x = words + b.positions_after("embeddings.position_embeddings", c, PADDING);
        let x = b.norm(x, "embeddings.LayerNorm", true);
        let mask = self.mask(b);
        b.layers(c.layers, x, |n, x| BLOCK.build(b, c, &format!("encoder.layer.{n}"), x, mask))
    }
}

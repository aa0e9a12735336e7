//! Nomic's BERT (Nussbaum et al., 2024): rotary positions, gated networks and no biases but the norms'.

use super::{Architecture, Family};
use crate::base::Result;
use crate::graph::{RopeLayout, Tensor};
use crate::model::keys::Keys;
use crate::model::layers::{Activation, Encoder, EncoderCommon, EncoderDefaults, PostNorm, Rope, RopeDefaults, Texts};

pub static FAMILY: Family = Family {
    name: "nomic_bert",
    gguf: &[],
    hugging_face: &["nomic_bert"],
    read: |at| Ok(Architecture::Encoder(Box::new(NomicBert::read(at)?))),
    harmless: &["tie_word_embeddings"],
};

const BLOCK: PostNorm = PostNorm {
    attention: ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"],
    attention_norm: "post_attention_layernorm",
    gate: Some("mlp.gate_proj"),
    up: "mlp.up_proj",
    down: "mlp.down_proj",
    norm: "post_mlp_layernorm",
    bias: false,
};

#[derive(Debug)]
struct NomicBert {
    common: EncoderCommon,
    kinds: usize,
    rope: Rope,
}

impl NomicBert {
    fn read(at: &Keys) -> Result<NomicBert> {
        let d = EncoderDefaults {
            vocab: 30_528,
            context: 2048,
            activation: Activation::Silu,
            ..EncoderDefaults::default()
        };
        let common = EncoderCommon::read(at, &d)?;
        let head = at.optional_size("", "head_dim")?.unwrap_or(common.head());
        if head != common.head() {
            return Err(at.error(format!(
                "has heads of {head} elements: {} by {} heads can be run",
                common.width, common.heads
            )));
        }
        let rope =
            RopeDefaults { base: 1e3, head, gguf: RopeLayout::Half, context: common.context, yarn_truncate: true };
        let rope = Rope::read(at, &rope)?;
        Ok(NomicBert { kinds: at.optional_size("", "type_vocab_size")?.unwrap_or(2), rope, common })
    }
}

impl Encoder for NomicBert {
    fn common(&self) -> &EncoderCommon {
        &self.common
    }
    fn root(&self) -> (&'static str, &'static str) {
        ("nomic_bert.", "embeddings.word_embeddings")
    }
    fn hidden<'g>(&self, b: &Texts<'_, 'g>) -> Tensor<'g> {
        let c = &self.common;
        let kinds = b.weight("embeddings.token_type_embeddings.weight", &[self.kinds, c.width]).slice(0, 0, 1);
        let x = b.norm(b.words("embeddings.word_embeddings", c) + kinds, "embeddings.LayerNorm", true);
        let angles = b.angles(&self.rope, "rope");
        b.layers(c.layers, x, |n, x| BLOCK.build(b, c, &format!("layers.{n}"), x, (b.all_real(), Some(angles))))
    }
}

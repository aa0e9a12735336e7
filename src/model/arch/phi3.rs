//! Phi-3 (Abdin et al., 2024): llama whose files hold queries, keys and values in one matrix, gate and up in another.

use super::{Architecture, Family};
use crate::base::Result;
use crate::graph::Tensor;
use crate::model::keys::Keys;
use crate::model::layers::{Attention, Blocks, Common, Decoder, Defaults, Names, Rope, Sizes};

pub static FAMILY: Family = Family {
    name: "phi3",
    gguf: &["phi3"],
    hugging_face: &["phi3"],
    read: |at| Ok(Architecture::Decoder(Box::new(Phi3::read(at)?))),
    harmless: &["original_max_position_embeddings", "rope.scaling.attn_factor"],
};

#[derive(Debug)]
struct Phi3 {
    common: Common,
    rope: Rope,
    window: Option<u32>,
}

impl Phi3 {
    fn read(at: &Keys) -> Result<Phi3> {
        let d = Defaults { eps: 1e-5, ..Defaults::default() };
        let s = Sizes::read(at, &d.sizes)?;
        let ffn = at.size("feed_forward_length", "intermediate_size")?;
        let (q, kv) = (s.heads * s.head, s.kv_heads * s.head);
        let names =
            Names::new(at.is_gguf(), &[("attn_qkv", "self_attn.qkv_proj"), ("ffn_gate_up", "mlp.gate_up_proj")])
                .with_fused("attn_qkv", &[("attn_q", q), ("attn_k", kv), ("attn_v", kv)])
                // GGUF files call both together by the name of one.
                .with_fused(if at.is_gguf() { "ffn_up" } else { "ffn_gate_up" }, &[("ffn_gate", ffn), ("ffn_up", ffn)]);
        let mut common = Common::read(at, names, &d)?;
        let window = at.window(None)?.map(|n| n as u32);
        Ok(Phi3 { rope: common.rope(at, &d)?, window, common })
    }
}

impl Decoder for Phi3 {
    fn common(&self) -> &Common {
        &self.common
    }
    fn ropes(&self) -> &[Rope] {
        std::slice::from_ref(&self.rope)
    }
    fn layer<'g>(&self, b: &Blocks<'_, 'g>, n: usize, x: Tensor<'g>) -> Tensor<'g> {
        let attention = Attention { window: self.window, ..self.common.attention() };
        self.common.pre_norm_layer(b, n, x, (&attention, &self.common.mlp()), self.ropes())
    }
}

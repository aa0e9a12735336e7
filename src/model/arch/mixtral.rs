//! Mixtral (Jiang et al., 2024): mistral with experts. Its GGUF files are of the architecture llama.

use super::{Architecture, Family};
use crate::base::Result;
use crate::graph::Tensor;
use crate::model::keys::Keys;
use crate::model::layers::{Attention, Blocks, Common, Decoder, Defaults, Experts, Names, Rope, SizeDefaults};

pub static FAMILY: Family = Family {
    name: "mixtral",
    gguf: &[],
    hugging_face: &["mixtral"],
    read: |at| Ok(Architecture::Decoder(Box::new(Mixtral::read(at)?))),
    harmless: &[],
};

#[derive(Debug)]
struct Mixtral {
    common: Common,
    rope: Rope,
    window: Option<u32>,
    experts: Experts,
}

impl Mixtral {
    fn read(at: &Keys) -> Result<Mixtral> {
        let sizes = SizeDefaults { kv_heads: Some(8), ..SizeDefaults::default() };
        let d = Defaults { sizes, eps: 1e-5, ..Defaults::default() };
        let parts = &[
            ("ffn_gate_inp", "block_sparse_moe.gate"),
            ("ffn_gate_exps", "block_sparse_moe.experts.*.w1"),
            ("ffn_up_exps", "block_sparse_moe.experts.*.w3"),
            ("ffn_down_exps", "block_sparse_moe.experts.*.w2"),
        ];
        let mut common = Common::read(at, Names::new(false, parts), &d)?;
        let experts = Experts::read(at, &common, common.ffn)?;
        common.names.experts = experts.count;
        let window = at.window(None)?.map(|n| n as u32);
        Ok(Mixtral { rope: common.rope(at, &d)?, window, experts, common })
    }
}

impl Decoder for Mixtral {
    fn common(&self) -> &Common {
        &self.common
    }
    fn ropes(&self) -> &[Rope] {
        std::slice::from_ref(&self.rope)
    }
    fn layer<'g>(&self, b: &Blocks<'_, 'g>, n: usize, x: Tensor<'g>) -> Tensor<'g> {
        let c = &self.common;
        let attention = Attention { window: self.window, ..c.attention() };
        let h = c.normed(b, n, "attn_norm", x);
        let x = b.add(x, attention.build(b, n, self.ropes(), h));
        let h = c.normed(b, n, "ffn_norm", x);
        b.add(x, self.experts.build(b, n, h))
    }
}

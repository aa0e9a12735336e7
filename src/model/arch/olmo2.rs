//! OLMo 2 (OLMo Team, 2024): norms behind each block instead of before it, and of all query and all key heads together.

use super::{Architecture, Family};
use crate::base::Result;
use crate::graph::Tensor;
use crate::model::keys::Keys;
use crate::model::layers::{Attention, Blocks, Common, Decoder, Defaults, Names, QkNorm, Rope};

pub static FAMILY: Family = Family {
    name: "olmo2",
    gguf: &["olmo2"],
    hugging_face: &["olmo2"],
    read: |at| Ok(Architecture::Decoder(Box::new(Olmo2::read(at)?))),
    harmless: &[],
};

#[derive(Debug)]
struct Olmo2 {
    common: Common,
    rope: Rope,
}

impl Olmo2 {
    fn read(at: &Keys) -> Result<Olmo2> {
        let d = Defaults { eps: 1e-5, ..Defaults::default() };
        let names = Names::new(
            at.is_gguf(),
            &[("post_attention_norm", "post_attention_layernorm"), ("post_ffw_norm", "post_feedforward_layernorm")],
        );
        let mut common = Common::read(at, names, &d)?;
        Ok(Olmo2 { rope: common.rope(at, &d)?, common })
    }
}

impl Decoder for Olmo2 {
    fn common(&self) -> &Common {
        &self.common
    }
    fn ropes(&self) -> &[Rope] {
        std::slice::from_ref(&self.rope)
    }
    fn layer<'g>(&self, b: &Blocks<'_, 'g>, n: usize, x: Tensor<'g>) -> Tensor<'g> {
        let c = &self.common;
        let attention = Attention { qk_norm: QkNorm::Whole(c.norm), ..c.attention() };
        let y = attention.build(b, n, self.ropes(), x);
        let x = b.add(x, c.normed(b, n, "post_attention_norm", b.residual(y)));
        let y = c.mlp().build(b, n, x);
        b.add(x, c.normed(b, n, "post_ffw_norm", b.residual(y)))
    }
}

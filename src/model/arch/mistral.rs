//! Mistral (Jiang et al., 2023): llama with a sliding window. Its GGUF files are of the architecture llama.

use super::{Architecture, Family};
use crate::base::Result;
use crate::graph::Tensor;
use crate::model::keys::Keys;
use crate::model::layers::{Attention, Blocks, Common, Decoder, Defaults, Names, Rope, SizeDefaults};

pub static FAMILY: Family = Family {
    name: "mistral",
    gguf: &[],
    hugging_face: &["mistral"],
    read: |at| Ok(Architecture::Decoder(Box::new(Mistral::read(at)?))),
    harmless: &[],
};

#[derive(Debug)]
struct Mistral {
    common: Common,
    rope: Rope,
    window: Option<u32>,
}

impl Mistral {
    fn read(at: &Keys) -> Result<Mistral> {
        let sizes = SizeDefaults { kv_heads: Some(8), ..SizeDefaults::default() };
        let d = Defaults { sizes, ..Defaults::default() };
        let mut common = Common::read(at, Names::new(false, &[]), &d)?;
        let window = at.window(Some(4096))?.map(|n| n as u32);
        Ok(Mistral { rope: common.rope(at, &d)?, window, common })
    }
}

impl Decoder for Mistral {
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

//! Qwen2 and Qwen2.5 (Yang et al., 2024): llama with biases on queries, keys and values; some layers may slide.

use super::{Architecture, Family};
use crate::base::Result;
use crate::graph::Tensor;
use crate::model::keys::Keys;
use crate::model::layers::{
    Attention, Biases, Blocks, Common, Decoder, Defaults, Names, Rope, SizeDefaults, late_windows,
};

pub static FAMILY: Family = Family {
    name: "qwen2",
    gguf: &["qwen2"],
    hugging_face: &["qwen2"],
    read: |at| Ok(Architecture::Decoder(Box::new(Qwen2::read(at)?))),
    harmless: &["max_window_layers", "use_sliding_window", "sliding_window"],
};

#[derive(Debug)]
struct Qwen2 {
    common: Common,
    rope: Rope,
    /// Of each layer.
    windows: Vec<Option<u32>>,
}

impl Qwen2 {
    fn read(at: &Keys) -> Result<Qwen2> {
        let sizes = SizeDefaults { kv_heads: Some(32), ..SizeDefaults::default() };
        let d = Defaults { sizes, biases: Biases { qkv: true, out: false }, ..Defaults::default() };
        let mut common = Common::read(at, Names::new(at.is_gguf(), &[]), &d)?;
        let windows = late_windows(at, common.sizes.layers)?;
        Ok(Qwen2 { rope: common.rope(at, &d)?, windows, common })
    }
}

impl Decoder for Qwen2 {
    fn common(&self) -> &Common {
        &self.common
    }
    fn ropes(&self) -> &[Rope] {
        std::slice::from_ref(&self.rope)
    }
    fn layer<'g>(&self, b: &Blocks<'_, 'g>, n: usize, x: Tensor<'g>) -> Tensor<'g> {
        let attention = Attention { window: self.windows[n], ..self.common.attention() };
        self.common.pre_norm_layer(b, n, x, (&attention, &self.common.mlp()), self.ropes())
    }
}

//! Qwen3 (Yang et al., 2025): RMS norms of each query and key head before they turn.

use super::{Architecture, Family};
use crate::base::Result;
use crate::graph::Tensor;
use crate::model::keys::Keys;
use crate::model::layers::{
    Attention, Blocks, Common, Decoder, Defaults, Names, QkNorm, Rope, SizeDefaults, late_windows,
};

pub static FAMILY: Family = Family {
    name: "qwen3",
    gguf: &["qwen3"],
    hugging_face: &["qwen3"],
    read: |at| Ok(Architecture::Decoder(Box::new(Qwen3::read(at)?))),
    harmless: &["max_window_layers", "use_sliding_window", "sliding_window"],
};

#[derive(Debug)]
struct Qwen3 {
    common: Common,
    rope: Rope,
    /// Of each layer.
    windows: Vec<Option<u32>>,
}

impl Qwen3 {
    fn read(at: &Keys) -> Result<Qwen3> {
        let sizes = SizeDefaults { kv_heads: Some(32), head: Some(128), ..SizeDefaults::default() };
        let d = Defaults { sizes, ..Defaults::default() };
        let mut common = Common::read(at, Names::new(at.is_gguf(), &[]), &d)?;
        let windows = late_windows(at, common.sizes.layers)?;
        Ok(Qwen3 { rope: common.rope(at, &d)?, windows, common })
    }
}

impl Decoder for Qwen3 {
    fn common(&self) -> &Common {
        &self.common
    }
    fn ropes(&self) -> &[Rope] {
        std::slice::from_ref(&self.rope)
    }
    fn layer<'g>(&self, b: &Blocks<'_, 'g>, n: usize, x: Tensor<'g>) -> Tensor<'g> {
        let c = &self.common;
        let attention = Attention { window: self.windows[n], qk_norm: QkNorm::Head(c.norm), ..c.attention() };
        c.pre_norm_layer(b, n, x, (&attention, &c.mlp()), self.ropes())
    }
}

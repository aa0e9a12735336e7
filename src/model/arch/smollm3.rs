//! SmolLM3 (Bakouch et al., 2025): llama in which some layers do not turn queries and keys (NoPE).

use super::{Architecture, Family};
use crate::base::Result;
use crate::graph::{RopeLayout, Tensor};
use crate::model::keys::Keys;
use crate::model::layers::{Attention, Blocks, Common, Decoder, Defaults, Mlp, Names, Rope, SizeDefaults};

pub static FAMILY: Family = Family {
    name: "smollm3",
    gguf: &["smollm3"],
    hugging_face: &["smollm3"],
    read: |at| Ok(Architecture::Decoder(Box::new(SmolLm3::read(at)?))),
    harmless: &["no_rope_layer_interval", "use_sliding_window", "sliding_window", "max_window_layers"],
};

#[derive(Debug)]
struct SmolLm3 {
    common: Common,
    rope: Rope,
    /// Whether each layer turns.
    turns: Vec<bool>,
    windows: Vec<Option<u32>>,
    mlp_bias: bool,
}

impl SmolLm3 {
    fn read(at: &Keys) -> Result<SmolLm3> {
        let sizes = SizeDefaults { kv_heads: Some(4), ..SizeDefaults::default() };
        let tied = Some(true);
        let d = Defaults {
            sizes,
            tied,
            rope_base: if at.is_gguf() { 1e4 } else { 2e6 },
            gguf_rope: RopeLayout::Interleaved,
            ..Defaults::default()
        };
        let mut common = Common::read(at, Names::new(at.is_gguf(), &[]), &d)?;
        let n = common.sizes.layers;
        let interval = at.optional_size("", "no_rope_layer_interval")?.unwrap_or(4);
        let turns: Vec<bool> = match at.integers("no_rope_layers")? {
            Some(all) if all.len() == n => all.iter().map(|t| *t != 0).collect(),
            Some(all) => return Err(at.error(format!("no_rope_layers has {} entries for {n} layers", all.len()))),
            None => (0..n).map(|i| (i + 1) % interval != 0).collect(),
        };
        let window = at.window(None)?.filter(|_| matches!(at.flag("", "use_sliding_window"), Ok(Some(true))));
        let slides = at.sliding_layers(n, |i| !turns[i])?;
        let windows = slides.iter().map(|s| window.filter(|_| *s).map(|w| w as u32)).collect();
        let mlp_bias = at.flag("", "mlp_bias")?.unwrap_or(false);
        Ok(SmolLm3 { rope: common.rope(at, &d)?, turns, windows, mlp_bias, common })
    }
}

impl Decoder for SmolLm3 {
    fn common(&self) -> &Common {
        &self.common
    }
    fn ropes(&self) -> &[Rope] {
        std::slice::from_ref(&self.rope)
    }
    fn layer<'g>(&self, b: &Blocks<'_, 'g>, n: usize, x: Tensor<'g>) -> Tensor<'g> {
        let c = &self.common;
        let attention =
            Attention { window: self.windows[n], rope: if self.turns[n] { Some(0) } else { None }, ..c.attention() };
        c.pre_norm_layer(b, n, x, (&attention, &Mlp { bias: self.mlp_bias, ..c.mlp() }), self.ropes())
    }
}

//! OLMo 2 (OLMo Team, 2024): norms behind each block instead of before it, and of all query and all key heads together. OLMo 3 (2025)
//! gives three of four layers a window, whose positions are never stretched.

use super::{Architecture, Family};
use crate::base::Result;
use crate::graph::Tensor;
use crate::model::keys::Keys;
use crate::model::layers::{Attention, Blocks, Common, Decoder, Defaults, Names, QkNorm, Rope};

pub static FAMILY: Family = Family {
    name: "olmo2",
    gguf: &["olmo2"],
    hugging_face: &["olmo2"],
    read: |at| Ok(Architecture::Decoder(Box::new(Olmo2::read(at, false)?))),
    harmless: &[],
};

pub static THREE: Family = Family {
    name: "olmo3",
    gguf: &[],
    hugging_face: &["olmo3"],
    read: |at| Ok(Architecture::Decoder(Box::new(Olmo2::read(at, true)?))),
    harmless: &["rope_theta", "rope_scaling", "rope_parameters"],
};

#[derive(Debug)]
struct Olmo2 {
    common: Common,
    /// Of layers that see all, and of those with a window.
    ropes: Vec<Rope>,
    /// Of each layer.
    windows: Vec<Option<u32>>,
}

impl Olmo2 {
    fn read(at: &Keys, three: bool) -> Result<Olmo2> {
        let d = Defaults { eps: 1e-5, rope_base: if three { 5e5 } else { 1e4 }, ..Defaults::default() };
        let names = Names::new(
            at.is_gguf(),
            &[("post_attention_norm", "post_attention_layernorm"), ("post_ffw_norm", "post_feedforward_layernorm")],
        );
        let mut common = Common::read(at, names, &d)?;
        let n = common.sizes.layers;
        if !three {
            return Ok(Olmo2 { ropes: vec![common.rope(at, &d)?], windows: vec![None; n], common });
        }
        let window = at.window(Some(4096))?.map(|n| n as u32);
        let slides = at.sliding_layers(n, |i| (i + 1) % 4 != 0)?;
        let windows = slides.iter().map(|slides| window.filter(|_| *slides)).collect();
        let (base, ropes) = (at.real("", "rope_theta", 1.0, d.rope_base)?, common.rope_defaults(&d));
        let ropes = vec![Rope::read_kind(at, &ropes, None)?, Rope::read_kind(at, &ropes, Some(base))?];
        Ok(Olmo2 { ropes, windows, common })
    }
}

impl Decoder for Olmo2 {
    fn common(&self) -> &Common {
        &self.common
    }
    fn ropes(&self) -> &[Rope] {
        &self.ropes
    }
    fn layer<'g>(&self, b: &Blocks<'_, 'g>, n: usize, x: Tensor<'g>) -> Tensor<'g> {
        let c = &self.common;
        let window = self.windows[n];
        let rope = Some(usize::from(window.is_some()));
        let attention = Attention { qk_norm: QkNorm::Whole(c.norm), window, rope, ..c.attention() };
        let y = attention.build(b, n, self.ropes(), x);
        let x = b.add(x, c.normed(b, n, "post_attention_norm", b.residual(y)));
        let y = c.mlp().build(b, n, x);
        b.add(x, c.normed(b, n, "post_ffw_norm", b.residual(y)))
    }
}

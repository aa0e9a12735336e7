//! Gemma 2 (Gemma Team, 2024): norms before and behind each block, every other layer with a window, scores and logits bent
//! to within a cap, a scaled embedding. Model folders hold the weights of norms less one.

use super::{Architecture, Family};
use crate::base::Result;
use crate::graph::Tensor;
use crate::model::keys::Keys;
use crate::model::layers::{Activation, Attention, Blocks, Common, Decoder, Defaults, Names, Rope, SizeDefaults};

pub static FAMILY: Family = Family {
    name: "gemma2",
    gguf: &["gemma2"],
    hugging_face: &["gemma2"],
    read: |at| Ok(Architecture::Decoder(Box::new(Gemma2::read(at)?))),
    harmless: &["sliding_window_size", "max_length"],
};

const PARTS: &[(&str, &str)] = &[
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];

#[derive(Debug)]
struct Gemma2 {
    common: Common,
    rope: Rope,
    scale: f32,
    /// Of each layer.
    windows: Vec<Option<u32>>,
    score_cap: Option<f32>,
    logit_cap: Option<f32>,
}

impl Gemma2 {
    fn read(at: &Keys) -> Result<Gemma2> {
        let sizes = SizeDefaults { kv_heads: Some(4), head: Some(256), ..SizeDefaults::default() };
        let d = Defaults { sizes, activation: Activation::GeluTanh, tied: Some(true), ..Defaults::default() };
        let mut names = Names::new(at.is_gguf(), PARTS);
        names.less_one = true;
        let mut common = Common::read(at, names, &d)?;
        let s = common.sizes.clone();
        let slides = at.sliding_layers(s.layers, |i| i % 2 == 0)?;
        let window = at.window(Some(4096))?;
        // GGUF files do not say it: the largest model, of 46 layers, takes the width a head.
        let scalar = match at.optional_real("", "query_pre_attn_scalar", 1e-3)? {
            Some(x) => x,
            None if at.is_gguf() && s.layers == 46 => s.width as f64 / s.heads as f64,
            None if at.is_gguf() => s.head as f64,
            None => 256.0,
        };
        Ok(Gemma2 {
            scale: (1.0 / scalar.sqrt()) as f32,
            windows: slides.iter().map(|slides| window.filter(|_| *slides).map(|n| n as u32)).collect(),
            score_cap: at.cap("attn_logit_softcapping", "attn_logit_softcapping", Some(50.0))?,
            logit_cap: at.cap("final_logit_softcapping", "final_logit_softcapping", Some(30.0))?,
            rope: common.rope(at, &d)?,
            common,
        })
    }
}

impl Decoder for Gemma2 {
    fn common(&self) -> &Common {
        &self.common
    }
    fn ropes(&self) -> &[Rope] {
        std::slice::from_ref(&self.rope)
    }
    fn embedded<'g>(&self, b: &Blocks<'_, 'g>, x: Tensor<'g>) -> Tensor<'g> {
        b.residual(x * (self.common.sizes.width as f32).sqrt())
    }
    fn logits<'g>(&self, _: &Blocks<'_, 'g>, x: Tensor<'g>) -> Tensor<'g> {
        self.logit_cap.map_or(x, |cap| (x * (1.0 / cap)).tanh() * cap)
    }
    fn layer<'g>(&self, b: &Blocks<'_, 'g>, n: usize, x: Tensor<'g>) -> Tensor<'g> {
        let attention = Attention {
            scale: self.scale,
            window: self.windows[n],
            softcap: self.score_cap,
            ..self.common.attention()
        };
        let c = &self.common;
        let y = attention.build(b, n, self.ropes(), c.normed(b, n, "attn_norm", x));
        let x = b.add(x, c.normed(b, n, "post_attention_norm", b.residual(y)));
        let y = c.mlp().build(b, n, c.normed(b, n, "ffn_norm", x));
        b.add(x, c.normed(b, n, "post_ffw_norm", b.residual(y)))
    }
}

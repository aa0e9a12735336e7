//! Gemma 3 (Gemma Team, 2025), its text model: five layers with a window to each that sees all, two rotations, norms of
//! query and key heads, norms before and behind each block, a scaled embedding.

use super::{Architecture, Family};
use crate::base::Result;
use crate::graph::Tensor;
use crate::model::keys::Keys;
use crate::model::layers::{
    Activation, Attention, Blocks, Common, Decoder, Defaults, Names, QkNorm, Rope, SizeDefaults,
};

pub static FAMILY: Family = Family {
    name: "gemma3",
    gguf: &["gemma3"],
    hugging_face: &["gemma3_text", "gemma3"],
    read: |at| Ok(Architecture::Decoder(Box::new(Gemma3::read(at)?))),
    harmless: &[
        "rope_local_base_freq",
        "sliding_window_pattern",
        "_sliding_window_pattern",
        "rope_theta",
        "rope_scaling",
        "rope_parameters",
    ],
};

const PARTS: &[(&str, &str)] = &[
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];

#[derive(Debug)]
struct Gemma3 {
    common: Common,
    /// Of layers that see all, and of those with a window.
    ropes: [Rope; 2],
    scale: f32,
    /// Of each layer.
    windows: Vec<Option<u32>>,
    slides: Vec<bool>,
    score_cap: Option<f32>,
    logit_cap: Option<f32>,
}

impl Gemma3 {
    fn read(at: &Keys) -> Result<Gemma3> {
        let sizes = SizeDefaults {
            heads: Some(8),
            kv_heads: Some(4),
            head: Some(256),
            vocab: Some(262_208),
            context: Some(131_072),
            latent: false,
        };
        let d = Defaults {
            sizes,
            activation: Activation::GeluTanh,
            tied: Some(true),
            rope_base: 1e6,
            ..Defaults::default()
        };
        let root = ["language_model.model.", "model.language_model."];
        let root = root.into_iter().find(|r| at.has_tensor(&format!("{r}embed_tokens.weight"))).unwrap_or("model.");
        let mut names = Names::new(at.is_gguf(), PARTS).under(root, "layers.");
        names.less_one = true;
        let common = Common::read(at, names, &d)?;
        let s = common.sizes.clone();
        let pattern =
            at.optional_size("attention.sliding_window_pattern", "sliding_window_pattern|_sliding_window_pattern")?;
        let slides = at.sliding_layers(s.layers, |i| (i + 1) % pattern.unwrap_or(6) != 0)?;
        let window = at.window(Some(4096))?.map(|n| n as u32);
        // GGUF files do not say it: the largest model, of 62 layers, takes the width a head.
        let scalar = match at.optional_real("", "query_pre_attn_scalar", 1e-3)? {
            Some(x) => x,
            None if at.is_gguf() && s.layers == 62 => s.width as f64 / s.heads as f64,
            None if at.is_gguf() => s.head as f64,
            None => 256.0,
        };
        let local = at.real("rope.freq_base_swa", "rope_local_base_freq", 1.0, 1e4)?;
        let ropes = common.rope_defaults(&d);
        Ok(Gemma3 {
            ropes: [Rope::read_kind(at, &ropes, None)?, Rope::read_kind(at, &ropes, Some(local))?],
            scale: (1.0 / scalar.sqrt()) as f32,
            windows: slides.iter().map(|slides| window.filter(|_| *slides)).collect(),
            slides,
            score_cap: at.cap("attn_logit_softcapping", "attn_logit_softcapping", None)?,
            logit_cap: at.cap("final_logit_softcapping", "final_logit_softcapping", None)?,
            common,
        })
    }
}

impl Decoder for Gemma3 {
    fn common(&self) -> &Common {
        &self.common
    }
    fn ropes(&self) -> &[Rope] {
        &self.ropes
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
            rope: Some(self.slides[n] as usize),
            softcap: self.score_cap,
            qk_norm: QkNorm::Head(self.common.norm),
            ..self.common.attention()
        };
        let c = &self.common;
        let y = attention.build(b, n, self.ropes(), c.normed(b, n, "attn_norm", x));
        let x = b.add(x, c.normed(b, n, "post_attention_norm", b.residual(y)));
        let y = c.mlp().build(b, n, c.normed(b, n, "ffn_norm", x));
        b.add(x, c.normed(b, n, "post_ffw_norm", b.residual(y)))
    }
}

//! CLIP (Radford et al., 2021): a text encoder that looks back and a vision transformer, whose vectors lie in one space.

use super::{Architecture, Family};
use crate::base::{DType, Dim, Result};
use crate::graph::Tensor;
use crate::model::keys::Keys;
use crate::model::layers::{
    Activation, Encoder, EncoderCommon, EncoderDefaults, Linear, Side, Texts, Vision, VisionDefaults, VisionHead,
    normalised, text_tower,
};

pub static FAMILY: Family = Family {
    name: "clip",
    gguf: &[],
    hugging_face: &["clip"],
    read: |at| Ok(Architecture::Encoder(Box::new(Config::read(at)?))),
    harmless: &["logit_scale_init_value", "text_config_dict", "vision_config_dict"],
};

/// Keys of the towers' own configurations that change nothing: the projection is the whole model's.
const HARMLESS: &[&str] = &["projection_dim"];

/// The sizes and constants of a model.
#[derive(Debug, Clone, PartialEq)]
struct Config {
    common: EncoderCommon,
    vision: Vision,
    /// Elements of a vector.
    projection: usize,
    /// The token whose vector is the text's; the largest where 2, as the first files have it.
    end: u32,
}

impl Config {
    fn read(at: &Keys) -> Result<Config> {
        let projection = at.optional_size("", "projection_dim")?.unwrap_or(512);
        let text = at.part(if at.peek("text_config_dict").is_some() { "text_config_dict" } else { "text_config" })?;
        let defaults = EncoderDefaults {
            width: 512,
            heads: 8,
            ffn: 2048,
            vocab: 49_408,
            context: 77,
            eps: 1e-5,
            activation: Activation::QuickGelu,
            ..EncoderDefaults::default()
        };
        let common = EncoderCommon::read(&text, &defaults)?;
        let end = text.number("", "eos_token_id")?.unwrap_or(49_407.0);
        if !(0.0..2f64.powi(24)).contains(&end) || end.fract() != 0.0 {
            return Err(at.error("has an eos_token_id in text_config that is no token"));
        }
        at.absorb(text, HARMLESS)?;
        let seen =
            at.part(if at.peek("vision_config_dict").is_some() { "vision_config_dict" } else { "vision_config" })?;
        let d = VisionDefaults { patch: 32, eps: 1e-5, activation: Activation::QuickGelu };
        let head = VisionHead::First { projection: "visual_projection", to: projection };
        let of =
            Vision { class: true, bias: false, first_norm: Some("pre_layrnorm"), ..Vision::of("vision_model.", head) };
        let vision = Vision::read(&seen, d, of)?;
        at.absorb(seen, HARMLESS)?;
        Ok(Config { common, vision, projection, end: end as u32 })
    }
}

impl Encoder for Config {
    fn common(&self) -> &EncoderCommon {
        &self.common
    }
    fn root(&self) -> (&'static str, &'static str) {
        ("", "text_model.embeddings.token_embedding")
    }
    fn output(&self) -> usize {
        self.projection
    }
    fn vision(&self) -> Option<&Vision> {
        Some(&self.vision)
    }
    fn hidden<'g>(&self, b: &Texts<'_, 'g>) -> Tensor<'g> {
        text_tower(b, &self.common, |b| b.up_to_own())
    }
    fn pooled<'g>(&self, b: &Texts<'_, 'g>, x: Tensor<'g>) -> Tensor<'g> {
        b.g.at("pooling");
        let one = Dim::new(1);
        let score = match self.end {
            2 => b.tokens.cast(DType::F32),
            end => b.tokens.eq(b.g.iota(DType::U32, vec![one, one], 1, i64::from(end))).cast(DType::F32),
        };
        // The first of the largest.
        let place = score.argmax(1).reshape(vec![b.batch, one]);
        let own = b.g.iota(DType::U32, vec![one, b.seq], 1, 0).eq(place).cast(DType::F32);
        let y = (x * own.reshape(vec![b.batch, b.seq, one])).sum(&[1]);
        let projection = Linear::new("text_projection", false);
        normalised(b, b.linear(&projection, y, [self.projection, self.common.width], Side::Whole))
    }
}

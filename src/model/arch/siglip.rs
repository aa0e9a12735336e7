//! SigLIP (Zhai et al., 2023): a text encoder that sees padding as it sees words, and a vision transformer whose head is a
//! learned query. SigLIP 2 of fixed sizes is the same.

use super::{Architecture, Family};
use crate::base::Result;
use crate::graph::Tensor;
use crate::model::keys::{Keys, short};
use crate::model::layers::{
    Activation, Encoder, EncoderCommon, EncoderDefaults, Linear, Padding, Side, Texts, Vision, VisionDefaults,
    VisionHead, normalised, text_tower,
};
use serde_json::Value as Json;

pub static FAMILY: Family = Family {
    name: "siglip",
    gguf: &[],
    hugging_face: &["siglip"],
    read: |at| Ok(Architecture::Encoder(Box::new(Config::read(at)?))),
    harmless: &[],
};

/// The sizes and constants of a model.
#[derive(Debug, Clone, PartialEq)]
struct Config {
    common: EncoderCommon,
    vision: Vision,
    /// Elements of a text's vector.
    projection: usize,
}

impl Config {
    fn read(at: &Keys) -> Result<Config> {
        let text = at.part("text_config")?;
        let defaults = EncoderDefaults {
            vocab: 32_000,
            context: 64,
            eps: 1e-6,
            activation: Activation::GeluTanh,
            ..EncoderDefaults::default()
        };
        let mut common = EncoderCommon::read(&text, &defaults)?;
        let projection = text.optional_size("", "projection_size")?.unwrap_or(common.width);
        at.absorb(text, &[])?;
        let tokens = at.side_json("tokenizer_config.json")?.unwrap_or_default();
        let pad = match &tokens["pad_token"] {
            Json::Object(map) => map.get("content").and_then(Json::as_str),
            other => other.as_str(),
        };
        let lacks = "lacks pad_token in tokenizer_config.json, which fills its texts";
        let names = tokens["model_input_names"].as_array();
        let masked = names.is_some_and(|names| names.iter().any(|n| n == "attention_mask"));
        common.sentence.padding = Some(Padding { token: pad.ok_or_else(|| at.error(lacks))?.into(), masked });
        let class = tokens["tokenizer_class"].as_str().unwrap_or_default();
        let lower = tokens["do_lower_case"].as_bool().unwrap_or(true);
        match class.trim_end_matches("Fast") {
            "SiglipTokenizer" => (common.sentence.lower_case, common.sentence.plain) = (lower, true),
            "Siglip2Tokenizer" => common.sentence.lower_case = true,
            _ => {}
        }
        let seen = at.part("vision_config")?;
        if seen.flag("", "vision_use_head")? == Some(false) {
            return Err(at.error("has vision_use_head = false: it makes no vectors of images"));
        }
        let d = VisionDefaults { patch: 16, eps: 1e-6, activation: Activation::GeluTanh };
        let vision = Vision::read(&seen, d, Vision::of("vision_model.", VisionHead::Attention))?;
        at.absorb(seen, &[])?;
        if vision.common.width != projection {
            return Err(at.error(format!(
                "makes vectors of {projection} elements of texts and of {} of images: they lie in no one space",
                short(&vision.common.width.to_string(), 20)
            )));
        }
        Ok(Config { common, vision, projection })
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
        text_tower(b, &self.common, |b| b.all_real())
    }
    fn pooled<'g>(&self, b: &Texts<'_, 'g>, x: Tensor<'g>) -> Tensor<'g> {
        b.g.at("pooling");
        let (c, last) = (&self.common, b.seq - 1.into());
        let y = x.slice(1, last, 1).reshape(vec![b.batch, c.width.into()]);
        normalised(b, b.linear(&Linear::new("text_model.head", true), y, [self.projection, c.width], Side::Whole))
    }
}

//! The families, one file each. A family reads its configuration from a file's keys, says what tensors are called, and
//! composes layers (`model::layers`). A new one is a file here and a line in [`FAMILIES`].

pub mod bert;
mod clip;
mod deepseek;
mod distilbert;
mod ernie4_5;
mod gemma2;
mod gemma3;
mod glm4_moe;
mod gpt2;
mod gpt_oss;
mod granite;
mod lfm2;
pub mod llama;
mod mistral;
mod mixtral;
mod modernbert;
mod mpnet;
mod nomic_bert;
mod olmo2;
mod phi3;
mod qwen2;
mod qwen2_moe;
mod qwen3;
mod qwen3_moe;
mod qwen3_next;
mod roberta;
mod seed_oss;
mod siglip;
mod smollm3;
mod starcoder2;
mod whisper;

use super::keys::Keys;
use super::layers::{Decoder, Encoder, Speech};
use crate::base::Result;

/// Every family that can be run.
pub static FAMILIES: &[&Family] = &[
    &llama::FAMILY,
    &mistral::FAMILY,
    &mixtral::FAMILY,
    &qwen2::FAMILY,
    &qwen3::FAMILY,
    &qwen3_moe::FAMILY,
    &qwen2_moe::FAMILY,
    &qwen3_next::NEXT,
    &qwen3_next::FIVE,
    &gemma2::FAMILY,
    &gemma3::FAMILY,
    &gpt_oss::FAMILY,
    &smollm3::FAMILY,
    &olmo2::FAMILY,
    &olmo2::THREE,
    &seed_oss::FAMILY,
    &ernie4_5::FAMILY,
    &glm4_moe::FAMILY,
    &granite::FAMILY,
    &phi3::FAMILY,
    &gpt2::FAMILY,
    &starcoder2::FAMILY,
    &lfm2::FAMILY,
    &lfm2::MOE,
    &deepseek::V2,
    &deepseek::V3,
    &bert::FAMILY,
    &roberta::FAMILY,
    &distilbert::FAMILY,
    &mpnet::FAMILY,
    &nomic_bert::FAMILY,
    &modernbert::FAMILY,
    &clip::FAMILY,
    &siglip::FAMILY,
    &whisper::FAMILY,
];

/// A family, by the names that files give it.
pub struct Family {
    pub name: &'static str,
    /// `general.architecture` of GGUF files.
    pub gguf: &'static [&'static str],
    /// `model_type` of model folders.
    pub hugging_face: &'static [&'static str],
    pub read: fn(&Keys) -> Result<Architecture>,
    /// Keys beside those it reads that change nothing.
    pub harmless: &'static [&'static str],
}

/// A configured model.
#[derive(Debug)]
pub enum Architecture {
    Decoder(Box<dyn Decoder>),
    Encoder(Box<dyn Encoder>),
    Speech(Box<Speech>),
}

/// The family of this name in a kind of file.
pub fn find(name: &str, gguf: bool) -> Option<&'static Family> {
    let names = |f: &Family| if gguf { f.gguf } else { f.hugging_face };
    FAMILIES.iter().copied().find(|f| names(f).contains(&name))
}

/// All names of a kind of file.
pub fn known(gguf: bool) -> Vec<&'static str> {
    FAMILIES.iter().flat_map(|f| if gguf { f.gguf } else { f.hugging_face }).copied().collect()
}

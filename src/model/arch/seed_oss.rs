//! Seed-OSS (ByteDance Seed, 2025): llama whose queries, keys and values have biases, and its output has none of its own accord.

use super::llama::Config;
use super::{Architecture, Family};
use crate::base::Result;
use crate::model::keys::Keys;
use crate::model::layers::{Biases, Common, Defaults, Names, SizeDefaults};

pub static FAMILY: Family = Family {
    name: "seed_oss",
    gguf: &[],
    hugging_face: &["seed_oss"],
    read: |at| Ok(Architecture::Decoder(Box::new(read(at)?))),
    harmless: &["residual_dropout"],
};

fn read(at: &Keys) -> Result<Config> {
    let sizes = SizeDefaults { kv_heads: Some(8), head: Some(128), ..SizeDefaults::default() };
    let d = Defaults { sizes, tied: Some(false), ..Defaults::default() };
    let mut common = Common::read(at, Names::new(false, &[]), &d)?;
    let flag = |key: &str, default: bool| Ok(at.flag("", key)?.unwrap_or(default));
    common.biases = Biases { qkv: flag("attention_bias", true)?, out: flag("attention_out_bias", false)? };
    let mlp_bias = flag("mlp_bias", false)?;
    Ok(Config { rope: common.rope(at, &d)?, window: None, mlp_bias, experts: None, common })
}

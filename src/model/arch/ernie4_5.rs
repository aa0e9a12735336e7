//! ERNIE 4.5 (Baidu, 2025), without experts: llama that turns neighbouring elements, with biases everywhere or nowhere.

use super::llama::Config;
use super::{Architecture, Family};
use crate::base::Result;
use crate::graph::RopeLayout;
use crate::model::keys::Keys;
use crate::model::layers::{Biases, Common, Defaults, Names, SizeDefaults};

pub static FAMILY: Family = Family {
    name: "ernie4_5",
    gguf: &[],
    hugging_face: &["ernie4_5"],
    read: |at| Ok(Architecture::Decoder(Box::new(read(at)?))),
    harmless: &[],
};

fn read(at: &Keys) -> Result<Config> {
    let sizes = SizeDefaults { kv_heads: Some(2), head: Some(128), ..SizeDefaults::default() };
    let d = Defaults { sizes, eps: 1e-5, tied: Some(true), rope_base: 5e5, ..Defaults::default() };
    let mut common = Common::read(at, Names::new(false, &[]), &d)?;
    let bias = at.flag("", "use_bias")?.unwrap_or(false);
    common.biases = Biases { qkv: bias, out: bias };
    let mut rope = common.rope(at, &d)?;
    rope.layout = RopeLayout::Interleaved;
    Ok(Config { rope, window: None, mlp_bias: bias, experts: None, common })
}

//! Whisper (Radford et al., 2022): speech to text.

use super::{Architecture, Family};
use crate::base::Result;
use crate::model::keys::Keys;
use crate::model::layers::{Activation, EncoderCommon, Speech, stack};

pub static FAMILY: Family = Family {
    name: "whisper",
    gguf: &[],
    hugging_face: &["whisper"],
    read: |at| Ok(Architecture::Speech(Box::new(read(at)?))),
    harmless: HARMLESS,
};

/// What training and other heads need, and what generation reads for itself.
const HARMLESS: &[&str] = &[
    "num_hidden_layers",
    "encoder_layerdrop",
    "decoder_layerdrop",
    "activation_dropout",
    "init_std",
    "classifier_proj_size",
    "use_weighted_layer_sum",
    "apply_spec_augment",
    "mask_time_prob",
    "mask_time_length",
    "mask_time_min_masks",
    "mask_feature_prob",
    "mask_feature_length",
    "mask_feature_min_masks",
    "median_filter_width",
    "forced_decoder_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
    // Published models do not scale, and the published code reads this and does nothing with it.
    "scale_embedding",
];

const MOST_LAYERS: usize = 256;
const MOST_ROWS: usize = 1 << 14;

fn read(at: &Keys) -> Result<Speech> {
    let size = |key: &str, default: usize| Ok::<_, crate::base::Error>(at.optional_size("", key)?.unwrap_or(default));
    let width = size("d_model", 384)?;
    let activation = Activation::read(at, "activation_function", Activation::Gelu)?;
    let half = |which: &str, positions: &str, rows: usize| {
        let key = |part: &str| format!("{which}_{part}");
        let (layers, heads) = (size(&key("layers"), 4)?, size(&key("attention_heads"), 6)?);
        let c = stack(layers, width, heads, size(&key("ffn_dim"), 1536)?, size(positions, rows)?);
        if !width.is_multiple_of(heads) || c.head() > 256 {
            return Err(at.error(format!("a width of {width} does not split into {heads} heads of up to 256")));
        }
        if layers > MOST_LAYERS || c.context > MOST_ROWS {
            let what =
                format!("has {layers} layers over {} rows: up to {MOST_LAYERS} over {MOST_ROWS} can be run", c.context);
            return Err(at.error(what));
        }
        Ok(EncoderCommon { activation, ..c })
    };
    let encoder = half("encoder", "max_source_positions", 1500)?;
    let decoder = EncoderCommon { vocab: size("vocab_size", 51_865)?, ..half("decoder", "max_target_positions", 448)? };
    let bands = size("num_mel_bins", 80)?;
    let tied = at.flag("", "tie_word_embeddings")?.unwrap_or(true);
    let root = if at.has_tensor("model.decoder.embed_tokens.weight") { "model." } else { "" };
    Ok(Speech { encoder, decoder, bands, root, tied })
}

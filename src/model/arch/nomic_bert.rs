//! Nomic's BERT (Nussbaum et al., 2024): rotary positions, gated networks and no biases but the norms'.

use super::{Architecture, Family};
use crate::base::Result;
use crate::graph::{RopeLayout, Tensor};
use crate::model::keys::{Keys, short};
use crate::model::layers::{
    Activation, Encoder, EncoderCommon, EncoderDefaults, Linear, Network, Rope, RopeDefaults, SelfAttention, Texts,
};

pub static FAMILY: Family = Family {
    name: "nomic_bert",
    gguf: &[],
    hugging_face: &["nomic_bert"],
    read: |at| Ok(Architecture::Encoder(Box::new(NomicBert::read(at)?))),
    harmless: &[
        "tie_word_embeddings",
        "use_flash_attn",
        "fused_bias_fc",
        "fused_dropout_add_ln",
        "use_xentropy",
        "max_trained_positions",
        "pad_vocab_size_multiple",
        "rotary_emb_scale_base",
        "dense_seq_output",
        "last_layer_subset",
        "scale_attn_weights",
    ],
};

#[derive(Debug)]
struct NomicBert {
    common: EncoderCommon,
    kinds: usize,
    rope: Rope,
}

impl NomicBert {
    fn read(at: &Keys) -> Result<NomicBert> {
        let d = EncoderDefaults {
            vocab: 30_528,
            context: 2048,
            activation: Activation::Silu,
            activation_keys: "hidden_act",
            ..EncoderDefaults::default()
        };
        let common = EncoderCommon::read(at, &d)?;
        let head = at.optional_size("", "head_dim")?.unwrap_or(common.head());
        if head != common.head() {
            return Err(at.error(format!(
                "has heads of {head} elements: {} by {} heads can be run",
                common.width, common.heads
            )));
        }
        check_options(at)?;
        let rope = RopeDefaults {
            base: 1e3,
            share: 1.0,
            head,
            gguf: RopeLayout::Half,
            context: common.context,
            yarn_truncate: true,
        };
        let rope = Rope::read(at, &rope)?;
        Ok(NomicBert { kinds: at.optional_size("", "type_vocab_size")?.unwrap_or(2), rope, common })
    }
}

/// Options of the publisher's code; its checkpoints have one value of each.
fn check_options(at: &Keys) -> Result<()> {
    const OFF: &[&str] = &[
        "rotary_emb_interleaved",
        "prenorm",
        "parallel_block",
        "parallel_block_tied_norm",
        "causal",
        "use_rms_norm",
        "qkv_proj_bias",
        "mlp_fc1_bias",
        "mlp_fc2_bias",
        "scale_attn_by_inverse_layer_idx",
        "reorder_and_upcast_attn",
    ];
    for key in OFF {
        if at.flag("", key)?.unwrap_or(false) {
            return Err(at.error(format!("has {key} = true: false can be run")));
        }
    }
    if let Some(other) = at.text("", "activation_function")?.filter(|a| a != "swiglu") {
        return Err(at.error(format!("has the activation {}: swiglu can be run", short(&other, 40))));
    }
    let share = at.real("", "rotary_emb_fraction", 0.0, 1.0)?;
    if share != 1.0 || at.number("", "rotary_scaling_factor")?.is_some() {
        return Err(
            at.error("turns a share of each head, or stretches positions: all of a head, unstretched, can be run")
        );
    }
    Ok(())
}

impl Encoder for NomicBert {
    fn common(&self) -> &EncoderCommon {
        &self.common
    }
    fn root(&self) -> (&'static str, &'static str) {
        ("bert.", "embeddings.word_embeddings")
    }
    fn hidden<'g>(&self, b: &Texts<'_, 'g>) -> Tensor<'g> {
        let (c, w) = (&self.common, self.common.width);
        let kinds = b.weight("embeddings.token_type_embeddings.weight", &[self.kinds, w]).slice(0, 0, 1);
        let x = b.norm(b.words("embeddings.word_embeddings", c) + kinds, "emb_ln", true);
        let angles = b.angles(&self.rope, "rope");
        b.layers(c.layers, x, |n, x| {
            let at = format!("encoder.layers.{n}");
            let linear = |part: &str| Linear::new(format!("{at}.{part}"), false);
            let qkv = |i: usize| linear("attn.Wqkv").rows(i * w..(i + 1) * w);
            let how = SelfAttention {
                parts: [qkv(0), qkv(1), qkv(2), linear("attn.out_proj")],
                width: w,
                heads: c.heads,
                mask: Some(b.all_real()),
                rope: Some(angles),
            };
            let x = b.norm(b.whole(x + b.attention(&at, x, &how)), &format!("{at}.norm1"), true);
            let network = Network { gate: Some(linear("mlp.fc12")), up: linear("mlp.fc11"), down: linear("mlp.fc2") };
            b.norm(b.whole(x + b.network(c, x, &network)), &format!("{at}.norm2"), true)
        })
    }
}

//! Which format each tensor of a model gets when it is quantised.

use super::DType;

/// A name that `quantize --to` takes: one format for all matrices, or a mix.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mix {
    pub name: &'static str,
    /// The number by which GGUF files say what most of their tensors are.
    pub file_type: u32,
    most: DType,
    /// What the embedding, the head, and the more sensitive tensors of some layers get.
    better: DType,
}

const fn all(name: &'static str, file_type: u32, dtype: DType) -> Mix {
    Mix { name, file_type, most: dtype, better: dtype }
}

/// All of them.
pub const MIXES: &[Mix] = &[
    all("f32", 0, DType::F32),
    all("f16", 1, DType::F16),
    all("bf16", 32, DType::BF16),
    all("q8_0", 7, DType::Q8_0),
    all("q6_k", 18, DType::Q6_K),
    Mix { name: "q5_k_m", file_type: 17, most: DType::Q5_K, better: DType::Q6_K },
    all("q5_k", 16, DType::Q5_K),
    all("q5_1", 9, DType::Q5_1),
    all("q5_0", 8, DType::Q5_0),
    Mix { name: "q4_k_m", file_type: 15, most: DType::Q4_K, better: DType::Q6_K },
    all("q4_k", 14, DType::Q4_K),
    all("q4_1", 3, DType::Q4_1),
    all("q4_0", 2, DType::Q4_0),
    all("iq4_nl", 25, DType::IQ4_NL),
    all("iq4_xs", 30, DType::IQ4_XS),
    all("mxfp4", 38, DType::MXFP4),
    all("q3_k", 11, DType::Q3_K),
    all("q2_k", 10, DType::Q2_K),
];

/// What stands in for a format whose blocks do not fit a row: one of about as many bits and shorter blocks.
fn shorter(dtype: DType) -> DType {
    match dtype {
        DType::Q2_K | DType::Q3_K | DType::IQ4_XS => DType::IQ4_NL,
        DType::Q4_K => DType::Q5_0,
        DType::Q5_K => DType::Q5_1,
        DType::Q6_K => DType::Q8_0,
        // Nothing shorter: as halves.
        _ => DType::F16,
    }
}

impl Mix {
    pub fn named(name: &str) -> Option<&'static Mix> {
        MIXES.iter().find(|m| m.name == name)
    }

    /// The format of a tensor, by its GGUF name, of a model with so many layers: `None` for those that stay as they are, norms,
    /// routers and what is not a matrix of weights.
    pub fn of(&self, name: &str, shape: &[u64], layers: usize) -> Option<DType> {
        const KEPT: &[&str] = &["ffn_gate_inp", "position_embd", "token_types", "conv1d", "shortconv", "rope_freqs"];
        let row = *shape.last()?;
        if shape.len() < 2 || !name.ends_with(".weight") || KEPT.iter().any(|k| name.contains(k)) {
            return None;
        }
        let mut dtype = if self.is_sensitive(name, layers) { self.better } else { self.most };
        while row % dtype.block() as u64 != 0 {
            dtype = shorter(dtype);
        }
        Some(dtype)
    }

    /// The embedding and the head; values and what leads back from the inner network in the first and the last eighth of all
    /// layers, and in every third between: errors there cost most.
    fn is_sensitive(&self, name: &str, layers: usize) -> bool {
        if name == "token_embd.weight" || name == "output.weight" {
            return true;
        }
        let mut parts = name.split('.');
        let (Some("blk"), Some(layer), Some(part)) = (parts.next(), parts.next(), parts.next()) else { return false };
        let Ok(layer) = layer.parse::<usize>() else { return false };
        let eighth = layers / 8;
        let spread = layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2;
        spread && matches!(part, "attn_v" | "ffn_down" | "attn_qkv" | "ffn_down_exps")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixes_give_each_tensor_what_fits() {
        let m = Mix::named("q4_k_m").unwrap();
        assert_eq!(m.of("token_embd.weight", &[100, 512], 16), Some(DType::Q6_K));
        assert_eq!(m.of("blk.0.attn_v.weight", &[512, 512], 16), Some(DType::Q6_K));
        assert_eq!(m.of("blk.2.attn_v.weight", &[512, 512], 16), Some(DType::Q4_K));
        assert_eq!(m.of("blk.2.attn_q.weight", &[512, 576], 16), Some(DType::Q5_0));
        assert_eq!(m.of("blk.0.ffn_down.weight", &[512, 576], 16), Some(DType::Q8_0));
        assert_eq!(m.of("blk.0.ffn_down.weight", &[512, 7], 16), Some(DType::F16));
        assert_eq!(m.of("blk.0.attn_norm.weight", &[512], 16), None);
        assert_eq!(m.of("blk.0.ffn_gate_inp.weight", &[8, 512], 16), None);
        assert!(MIXES.iter().all(|m| Mix::named(m.name) == Some(m)));
    }
}

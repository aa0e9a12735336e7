//! Vision transformers (Dosovitskiy et al., 2021): patches of an image are rows of an encoder.

use super::encoder::{Encoding, Linear, Network, SelfAttention, Texts};
use super::sentence::{Sentence, normalised};
use super::{Activation, EncoderCommon, Side};
use crate::base::MeshAxis;
use crate::base::Placement::Split;
use crate::base::{Cut, DType, Dim, Result, Var, Weights};
use crate::graph::{Attention, Graph, GraphBuilder, Tensor};
use crate::model::keys::Keys;

/// The most patches of an image.
const MOST_PATCHES: usize = 1 << 14;
/// Red, green and blue.
pub const CHANNELS: usize = 3;
const MOST_LAYERS: usize = 1 << 10;

/// A vision tower, configured.
#[derive(Debug, Clone, PartialEq)]
pub struct Vision {
    /// Sizes; the context is the rows that an image has.
    pub common: EncoderCommon,
    /// What stands before every name, with its dot.
    pub root: &'static str,
    /// Pixels of a side of an image, and of a patch. What does not fill a patch is not seen.
    pub image: usize,
    pub patch: usize,
    /// Whether a row of its own stands before the patches, `embeddings.class_embedding`.
    pub class: bool,
    /// Whether patches have a bias.
    pub bias: bool,
    /// The norm before the first block, where there is one.
    pub first_norm: Option<&'static str>,
    pub head: VisionHead,
}

/// How an image's vector is made of its rows.
#[derive(Debug, Clone, PartialEq)]
pub enum VisionHead {
    /// The first row, normed, times a matrix of `to` rows by this name.
    First { projection: &'static str, to: usize },
    /// What a learned query sees, and a network behind it (Zhai et al., 2022).
    Attention,
}

/// What a family's own definition says where a file says nothing.
#[derive(Debug, Clone, Copy)]
pub struct VisionDefaults {
    pub patch: usize,
    pub eps: f64,
    pub activation: Activation,
}

impl Vision {
    /// From the configuration of the tower; options that no file names are the family's.
    ///
    /// # Errors
    /// Sizes that do not fit together.
    pub fn read(at: &Keys, d: VisionDefaults, of: Vision) -> Result<Vision> {
        let size =
            |key: &str, default: usize| Ok::<_, crate::base::Error>(at.optional_size("", key)?.unwrap_or(default));
        let (image, patch) = (size("image_size", 224)?, size("patch_size", d.patch)?);
        let patches = (image / patch).saturating_mul(image / patch);
        if patches == 0 || patches > MOST_PATCHES {
            return Err(at.error(format!(
                "has images of {image} × {image} pixels in patches of {patch} × {patch}: from 1 to {MOST_PATCHES} patches can be run"
            )));
        }
        let channels = size("num_channels", CHANNELS)?;
        if channels != CHANNELS {
            return Err(at.error(format!("has images of {channels} channels: {CHANNELS} can be run")));
        }
        let rows = patches + usize::from(of.class);
        let common = EncoderCommon {
            layers: size("num_hidden_layers", 12)?,
            width: size("hidden_size", 768)?,
            heads: size("num_attention_heads", 12)?,
            ffn: size("intermediate_size", 3072)?,
            vocab: 1,
            context: rows,
            eps: at.real("", "layer_norm_eps", 0.0, d.eps)? as f32,
            activation: Activation::read(at, "hidden_act", d.activation)?,
            sentence: Sentence::mean(rows),
        };
        if !common.width.is_multiple_of(common.heads) || common.head() > 256 {
            let what = format!("a width of {} does not split into {} heads of up to 256", common.width, common.heads);
            return Err(at.error(what));
        }
        if common.layers > MOST_LAYERS {
            return Err(at.error(format!("has {} layers: up to {MOST_LAYERS} can be run", common.layers)));
        }
        Ok(Vision { common, image, patch, ..of })
    }

    /// A tower without sizes yet, for [`Vision::read`].
    pub fn of(root: &'static str, head: VisionHead) -> Vision {
        let common = EncoderCommon {
            layers: 0,
            width: 0,
            heads: 1,
            ffn: 0,
            vocab: 1,
            context: 0,
            eps: 0.0,
            activation: Activation::Gelu,
            sentence: Sentence::mean(0),
        };
        Vision { common, root, image: 0, patch: 0, class: false, bias: true, first_norm: None, head }
    }

    /// Patches of a side.
    pub fn side(&self) -> usize {
        self.image / self.patch
    }
    /// Numbers of a patch.
    pub fn patch_elements(&self) -> usize {
        CHANNELS * self.patch * self.patch
    }

    /// Rows of pixels by patch, `[patches, 3 · patch · patch]`, of an image f32 `[3, image, image]`.
    pub fn patches(&self, pixels: &[f32]) -> Vec<f32> {
        let (n, p, side) = (self.side(), self.patch, self.image);
        let mut out = Vec::with_capacity(n * n * self.patch_elements());
        for at in 0..n * n {
            let (top, left) = (at / n * p, at % n * p);
            for c in 0..CHANNELS {
                for y in top..top + p {
                    let from = (c * side + y) * side + left;
                    out.extend_from_slice(&pixels[from..from + p]);
                }
            }
        }
        out
    }

    /// Vectors of all rows of images, `[batch, rows, width]`, of their patches.
    pub fn hidden<'g>(&self, b: &Encoding<'_, 'g>, patches: Tensor<'g>) -> Tensor<'g> {
        let (c, name) = (&self.common, "embeddings.patch_embedding");
        let filters = b.weight(&format!("{name}.weight"), &[c.width, CHANNELS, self.patch, self.patch]);
        let mut x = patches.matmul_t(filters.reshape([c.width, self.patch_elements()]));
        if self.bias {
            x = x + b.weight(&format!("{name}.bias"), &[c.width]);
        }
        if self.class {
            let class = b.weight("embeddings.class_embedding", &[c.width]).cast(DType::F32);
            let (one, width) = (Dim::new(1), Dim::from(c.width));
            x = b.g.concat(&[class.reshape(vec![one, one, width]).broadcast(vec![b.batch, one, width]), x], 1);
        }
        x = x + b.positions("embeddings.position_embedding", c);
        if let Some(name) = self.first_norm {
            x = b.norm(x, name, true);
        }
        b.layers(c.layers, x, |n, x| block(b, c, &format!("encoder.layers.{n}"), x, None))
    }

    fn pooled<'g>(&self, b: &Encoding<'_, 'g>, x: Tensor<'g>) -> Tensor<'g> {
        let (c, width) = (&self.common, Dim::from(self.common.width));
        match self.head {
            VisionHead::First { projection, to } => {
                let first = x.slice(1, 0, 1).reshape(vec![b.batch, width]);
                let first = b.norm(first, "post_layernorm", true);
                let matrix = Linear { outside: true, ..Linear::new(projection, false) };
                b.linear(&matrix, first, [to, c.width], Side::Whole)
            }
            VisionHead::Attention => {
                let x = b.norm(x, "post_layernorm", true);
                let y = self.probed(b, x);
                let h = b.norm(y, "head.layernorm", true);
                let y = y + b.network(c, h, &network("head.mlp"));
                y.reshape(vec![b.batch, width])
            }
        }
    }

    /// What the learned query sees, `[batch, 1, width]`. Torch keeps queries, keys and values in one matrix.
    fn probed<'g>(&self, b: &Encoding<'_, 'g>, x: Tensor<'g>) -> Tensor<'g> {
        let (c, one, at) = (&self.common, Dim::new(1), "head.attention");
        let (width, head) = (c.width, c.head());
        let heads = Cut::Even { unit: head as u32 };
        let project = |i: usize, x: Tensor<'g>, seq: Dim| {
            let rows = i * width..(i + 1) * width;
            let w = b.rows(&format!("{at}.in_proj_weight"), rows.clone(), &[width, width]);
            let bias = b.rows(&format!("{at}.in_proj_bias"), rows, &[width]);
            let y = x.matmul_t(w.cut(MeshAxis::Tensor, Split(0), heads)) + bias.cut(MeshAxis::Tensor, Split(0), heads);
            y.reshape(vec![b.batch, seq, c.heads.into(), head.into()])
        };
        let probe = b.weight("head.probe", &[1, 1, width]).cast(DType::F32).broadcast(vec![b.batch, one, width.into()]);
        let (q, k, v) = (project(0, probe, one), project(1, x, b.seq), project(2, x, b.seq));
        let y = q.attention(k, v, None, Attention::scaled(1.0 / (head as f32).sqrt()));
        let out = Linear::new(format!("{at}.out_proj"), true);
        b.linear(&out, y.reshape(vec![b.batch, one, width.into()]), [width, width], Side::Inputs(heads))
    }
}

/// The block of CLIP and its kin whose names begin with `at`, with biases: norms before attention and before the network.
fn block<'g>(b: &Encoding<'_, 'g>, c: &EncoderCommon, at: &str, x: Tensor<'g>, mask: Option<Tensor<'g>>) -> Tensor<'g> {
    let parts = ["q_proj", "k_proj", "v_proj", "out_proj"];
    let parts = parts.map(|part| Linear::new(format!("{at}.self_attn.{part}"), true));
    let how = SelfAttention { parts, width: c.width, heads: c.heads, mask, rope: None };
    let h = b.norm(x, &format!("{at}.layer_norm1"), true);
    let x = b.whole(x + b.attention(at, h, &how));
    let h = b.norm(x, &format!("{at}.layer_norm2"), true);
    b.whole(x + b.network(c, h, &network(&format!("{at}.mlp"))))
}

/// The texts' half of CLIP and its kin; `mask` says which tokens each sees.
pub fn text_tower<'g>(b: &Texts<'_, 'g>, c: &EncoderCommon, mask: impl Fn(&Texts<'_, 'g>) -> Tensor<'g>) -> Tensor<'g> {
    let at = "text_model.embeddings";
    let x = b.words(&format!("{at}.token_embedding"), c) + b.positions(&format!("{at}.position_embedding"), c);
    let layer = |n: usize, x| block(b, c, &format!("text_model.encoder.layers.{n}"), x, Some(mask(b)));
    b.norm(b.layers(c.layers, x, layer), "text_model.final_layer_norm", true)
}

fn network(at: &str) -> Network {
    Network { gate: None, up: Linear::new(format!("{at}.fc1"), true), down: Linear::new(format!("{at}.fc2"), true) }
}

/// The graph of a batch of images.
///
/// Input: `patches` f32 `[batch, patches, 3 · patch · patch]`. Output: `embeddings` f32 `[batch, width of the vectors]`, each
/// of length one, in the space of the texts' vectors.
///
/// # Errors
/// Tensors that are missing or have other shapes.
pub fn see(tower: &Vision, weights: &dyn Weights, model: &str, batch: Var) -> Result<Graph> {
    let (g, c) = (GraphBuilder::new(), &tower.common);
    let (batch, patches) = (Dim::from(batch), Dim::from(tower.side() * tower.side()));
    let x = g.input("patches", DType::F32, vec![batch, patches, tower.patch_elements().into()]);
    let (root, seq, longest) = (tower.root, Dim::from(c.context), c.context);
    let b = Encoding { gguf: None, g: &g, weights, model, root, batch, seq, longest, eps: c.eps };
    g.at("embeddings");
    let x = tower.hidden(&b, x);
    g.layer(c.layers as u32 + 1);
    g.output("embeddings", normalised(&b, tower.pooled(&b, x)));
    g.finish()
}

//! The blocks that models are composed of, each with its options, as papers name them. A family (`model::arch`) reads a
//! configuration into these options and puts the blocks together.
//!
//! Where values lie on a mesh is stated here: weights by heads or by inner elements along the tensor axis (Shoeybi et al.,
//! 2019), the residual stream whole, or by tokens between blocks (Korthikanti et al., 2022).

mod attention;
mod common;
mod conv;
mod decoder;
mod delta;
mod embed;
mod encoder;
mod experts;
mod latent;
mod mlp;
mod names;
mod norm;
mod paged;
mod rope;
mod sentence;
mod speech;
mod vision;

pub use attention::{Attention, Biases, QkNorm, late_windows};
pub use common::{Common, Defaults};
pub use conv::ShortConv;
pub use decoder::{Decoder, Passes, SizeDefaults, Sizes, StepShape, Training, TrainingStep, step, tied, training};
pub use delta::GatedDelta;
pub use embed::embed;
pub use encoder::{
    Encoder, EncoderCommon, EncoderDefaults, Encoding, Linear, Network, PostNorm, SelfAttention, Texts, encode,
};
pub use experts::{Experts, Gate, Groups, Scoring};
pub use latent::LatentAttention;
pub use mlp::{Activation, Mlp};
pub use names::Names;
pub use norm::Norm;
pub use paged::{Own, PagedShape, Pages, paged_step};
pub use rope::{Rope, RopeDefaults, context};
pub use sentence::{Module, Padding, Pooling, Sentence, normalised};
pub use speech::{Speech, hear, stack, write};
pub use vision::{Vision, VisionDefaults, VisionHead, see, text_tower};

use crate::base::Placement::{self, Split};
use crate::base::{Cut, DType, Dim, Error, MeshAxis, Result, Weights};
use crate::graph::{GraphBuilder, Parameters, Tensor};

/// Elements of the inner network are cut where most quantised blocks end.
pub const BLOCKS: Cut = Cut::Even { unit: 32 };

/// Where tensors come from.
pub enum Origin<'a, 'g> {
    File(&'a dyn Weights),
    /// States that a training step changes.
    Trained(&'a Parameters<'g>),
}

/// The tokens of a step.
#[derive(Clone, Copy)]
pub enum Rows {
    /// New ones of one sequence, behind those in the cache.
    Cached { seq: Dim, total: Dim, context: usize },
    /// Some of many sequences, whose keys and values lie in pages ([`Blocks::pages`]).
    Paged { rows: Dim },
    /// Whole sequences.
    Whole { batch: usize, seq: usize },
}

impl Rows {
    /// Tokens of the step.
    pub fn count(&self) -> Dim {
        match *self {
            Rows::Cached { seq, .. } => seq,
            Rows::Paged { rows } => rows,
            Rows::Whole { batch, seq } => (batch * seq).into(),
        }
    }
}

/// Over tensor ranks a product's weight lies by its outputs (then its bias does), by its inputs, or whole.
#[derive(Clone, Copy)]
pub enum Side {
    Outputs(Cut),
    Inputs(Cut),
    Whole,
}

/// A graph under construction, and all that layers ask for beside their options.
pub struct Blocks<'a, 'g> {
    pub g: &'g GraphBuilder,
    pub rows: Rows,
    /// Where rows stand that are of many sequences.
    pub pages: Option<Pages<'g>>,
    origin: Origin<'a, 'g>,
    names: &'a Names,
    model: &'a str,
    sequence_parallel: bool,
    /// Cosines and sines of the step's positions, for each kind of rotation that the model has.
    angles: Vec<(Tensor<'g>, Tensor<'g>)>,
}

impl<'g> Blocks<'_, 'g> {
    /// Names the part of a layer that the following ops belong to.
    pub fn at(&self, layer: usize, what: &str) {
        self.g.at(format!("layers.{layer}.{what}"));
    }

    /// Sinks are bare in model folders.
    fn sinks_kind(&self) -> &'static str {
        if self.names.is_gguf() { "weight" } else { "" }
    }

    /// How elements between two products are cut over tensor ranks: where blocks of the second one's weight end.
    pub fn blocks(&self, layer: usize, part: &str) -> Cut {
        let block = match &self.origin {
            Origin::File(weights) => {
                let name = self.names.tensor(Some(layer), part, "weight");
                weights.info(&name).map_or(1, |t| t.dtype.block())
            }
            Origin::Trained(_) => 1,
        };
        let Cut::Even { unit } = BLOCKS else { return BLOCKS };
        Cut::Even { unit: unit.max(block as u32) }
    }

    /// `x · wᵀ`, and `+ b` where `bias`.
    pub fn linear(
        &self,
        layer: Option<usize>,
        part: &str,
        x: Tensor<'g>,
        [to, from]: [usize; 2],
        side: Side,
        bias: bool,
    ) -> Tensor<'g> {
        let (lies, bias_lies) = match side {
            Side::Outputs(cut) => (Some((Split(0), cut)), Some((Split(0), cut))),
            Side::Inputs(cut) => (Some((Split(1), cut)), None),
            Side::Whole => (None, None),
        };
        let y = x.matmul_t(self.part(layer, part, "weight", &[to, from], lies));
        if !bias {
            return y;
        }
        // The bias is added once, to the sum.
        let y = if matches!(side, Side::Inputs(_)) { y.place(MeshAxis::Tensor, Placement::Whole) } else { y };
        y + self.part(layer, part, "bias", &[to], bias_lies)
    }

    /// The residual stream with a block's result.
    pub fn add(&self, x: Tensor<'g>, y: Tensor<'g>) -> Tensor<'g> {
        self.residual(x + y)
    }

    /// The stream between blocks lies whole on every tensor rank, or by tokens.
    pub fn residual(&self, x: Tensor<'g>) -> Tensor<'g> {
        x.place(MeshAxis::Tensor, if self.sequence_parallel { Split(0) } else { Placement::Whole })
    }

    /// A table of a row a token, cut by rows over tensor ranks.
    pub fn vocabulary(&self, part: &str, [vocab, width]: [usize; 2]) -> Tensor<'g> {
        self.part(None, part, "weight", &[vocab, width], Some((Split(0), Cut::ONES)))
    }

    /// A tensor of a layer, or of the model, and where it lies along the tensor axis.
    pub fn part(
        &self,
        layer: Option<usize>,
        part: &str,
        kind: &str,
        shape: &[usize],
        lies: Option<(Placement, Cut)>,
    ) -> Tensor<'g> {
        let name = self.names.tensor(layer, part, kind);
        let places: Vec<(MeshAxis, Placement, Cut)> =
            lies.into_iter().map(|(p, cut)| (MeshAxis::Tensor, p, cut)).collect();
        match &self.origin {
            Origin::Trained(parameters) => parameters.again(&name, shape, &places),
            Origin::File(weights) => {
                let w = self.g.or_fail(declare(self.g, *weights, self.model, &name, shape));
                places.iter().fold(w, |w, (over, p, cut)| w.cut(*over, *p, *cut))
            }
        }
    }
}

/// A weight of the graph for a tensor of the file that must have this shape; vectors must be plain floats.
pub fn declare<'g>(
    g: &'g GraphBuilder,
    weights: &dyn Weights,
    model: &str,
    name: &str,
    shape: &[usize],
) -> Result<Tensor<'g>> {
    let dtype = check(weights, model, name, shape)?;
    if dtype.is_quantised() && shape.len() < 2 {
        return Err(Error::model(model, format!("tensor \"{name}\" is {dtype}, it must be a float type")));
    }
    Ok(g.weight(name, dtype, shape))
}

/// The type of a tensor that must have this shape.
pub fn check(weights: &dyn Weights, model: &str, name: &str, shape: &[usize]) -> Result<DType> {
    let info = weights.info(name)?;
    let have = info.shape.known().unwrap_or_default();
    if have != shape {
        return Err(Error::model(model, format!("tensor \"{name}\" is {have:?}, it must be {shape:?}")));
    }
    Ok(info.dtype)
}

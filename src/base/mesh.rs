//! The named axes of a mesh of devices, and a rank's seat in it.

use super::{Error, Result};
use std::fmt;

/// What a mesh axis is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MeshAxis {
    /// Replicas that take different samples.
    Data,
    /// Stages that take different layers.
    Pipeline,
    /// Pieces of each weight.
    Tensor,
    /// Pieces of the sequence.
    Context,
    /// Different experts.
    Expert,
}

impl MeshAxis {
    /// All of them, the outermost first.
    pub const ALL: [MeshAxis; 5] =
        [MeshAxis::Data, MeshAxis::Pipeline, MeshAxis::Tensor, MeshAxis::Context, MeshAxis::Expert];

    /// Its short name, such as `tp`.
    pub const fn name(self) -> &'static str {
        match self {
            MeshAxis::Data => "dp",
            MeshAxis::Pipeline => "pp",
            MeshAxis::Tensor => "tp",
            MeshAxis::Context => "cp",
            MeshAxis::Expert => "ep",
        }
    }
    /// The axis of this name; `sp` is another word for `cp`.
    pub fn find(name: &str) -> Result<MeshAxis> {
        let wanted = if name == "sp" { "cp" } else { name };
        MeshAxis::ALL.into_iter().find(|a| a.name() == wanted).ok_or_else(|| {
            Error::usage(format!("there is no mesh axis \"{name}\": there are dp, pp, tp, cp (or sp) and ep"))
        })
    }
}

impl fmt::Display for MeshAxis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Where one rank sits: its index along each axis of the mesh. Axes that are not named have one place.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Seat(Vec<(MeshAxis, usize, usize)>);

impl Seat {
    /// From (axis, ways, index).
    pub fn new(axes: impl IntoIterator<Item = (MeshAxis, usize, usize)>) -> Self {
        Seat(axes.into_iter().collect())
    }
    /// How many places the axis has.
    pub fn ways(&self, axis: MeshAxis) -> usize {
        self.0.iter().find(|a| a.0 == axis).map_or(1, |a| a.1)
    }
    /// This rank's place along the axis.
    pub fn index(&self, axis: MeshAxis) -> usize {
        self.0.iter().find(|a| a.0 == axis).map_or(0, |a| a.2)
    }
    /// The same seat at another place of one axis.
    pub fn moved(&self, axis: MeshAxis, index: usize) -> Seat {
        let mut out = self.clone();
        out.0.iter_mut().filter(|a| a.0 == axis).for_each(|a| a.2 = index);
        out
    }
}

impl fmt::Display for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.0.iter().map(|(a, _, i)| format!("{a}{i}")).collect();
        f.pad(&if parts.is_empty() { "alone".to_string() } else { parts.join(" ") })
    }
}

//! What a format says of itself.

use super::levels::Levels;
use super::wgsl::Wgsl;
use std::fmt;
use std::ops::Range;

/// What elements are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Float,
    Int,
    Bool,
}

/// One way to store elements.
pub struct Format {
    pub name: &'static str,
    /// The type's number in GGUF files.
    pub ggml: Option<u32>,
    pub class: Class,
    /// Elements of a block, and bytes that it takes in a file; one element for plain types.
    pub block: usize,
    pub bytes: usize,
    /// For blocks: which of their bytes lie in which plane on a device. The first plane has a multiple of sixteen bytes a block.
    pub planes: &'static [&'static [Range<usize>]],
    /// How floats are read and written; `None` for integers.
    pub float: Option<Float>,
}

/// How a format that holds floats is read and written.
pub struct Float {
    /// The values of whole blocks, exactly as the format's reference implementation gives them.
    pub decode: fn(&[u8], &mut [f32]),
    /// Appends the blocks that come nearest to values.
    pub encode: fn(&[f32], &mut Vec<u8>),
    /// Σ w·x over a row of whole blocks, where there is something faster than decoding.
    pub dot: Option<fn(&[u8], &[f32]) -> f32>,
    /// For blocks: the whole numbers and scales that they are made of.
    pub levels: Option<Levels>,
    pub wgsl: Wgsl,
}

impl Format {
    pub fn float(&self) -> Option<&Float> {
        self.float.as_ref()
    }
}

impl fmt::Debug for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

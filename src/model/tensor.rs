//! What a model file says of one tensor.

use crate::base::DType;
use crate::format;

/// How a tensor is stored: in a type that the engine computes with, or in another that is only known by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorType {
    Known(DType),
    /// Elements a block, bytes a block.
    Other {
        name: &'static str,
        block: u64,
        bytes: u64,
    },
}

impl TensorType {
    /// The type of a GGUF number.
    pub fn from_ggml(n: u32) -> Option<TensorType> {
        let other = || format::other(n).map(|(name, block, bytes)| TensorType::Other { name, block, bytes });
        DType::from_ggml(n).map(TensorType::Known).or_else(other)
    }
    pub fn name(self) -> &'static str {
        match self {
            TensorType::Known(d) => d.name(),
            TensorType::Other { name, .. } => name,
        }
    }
    pub fn block(self) -> u64 {
        match self {
            TensorType::Known(d) => d.block() as u64,
            TensorType::Other { block, .. } => block,
        }
    }
    /// Bytes of a tensor, or `None` on overflow or rows of parts of blocks.
    pub fn bytes(self, shape: &[u64]) -> Option<u64> {
        let count = shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d)).filter(|n| *n < 1 << 60)?;
        if shape.last().is_some_and(|row| row % self.block() != 0) {
            return None;
        }
        (count / self.block()).checked_mul(self.block_bytes())
    }
    /// Bytes of a block in the file.
    pub fn block_bytes(self) -> u64 {
        match self {
            TensorType::Known(d) => d.block_bytes() as u64,
            TensorType::Other { bytes, .. } => bytes,
        }
    }
    /// The type in which the engine sees it.
    pub fn dtype(self) -> Option<DType> {
        match self {
            TensorType::Known(d) => Some(d),
            TensorType::Other { .. } => None,
        }
    }
}

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorInfo {
    pub name: String,
    pub ty: TensorType,
    /// Outermost axis first.
    pub shape: Vec<u64>,
    /// Bytes from the file's start.
    pub offset: u64,
    pub bytes: u64,
}

//! What a model file says of one tensor.

use crate::base::DType;
use std::borrow::Cow;

/// How a tensor is stored: in a type that the engine computes with, or in another that is only known by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorType {
    Known(DType),
    /// Read as f32: the upper half of its bits.
    Bf16,
    /// Elements a block, bytes a block.
    Other {
        name: &'static str,
        block: u64,
        bytes: u64,
    },
}

const fn other(name: &'static str, block: u64, bytes: u64) -> TensorType {
    TensorType::Other { name, block, bytes }
}

impl TensorType {
    /// The type of a GGUF number.
    pub fn from_ggml(n: u32) -> Option<TensorType> {
        Some(match n {
            0 => TensorType::Known(DType::F32),
            1 => TensorType::Known(DType::F16),
            2 => TensorType::Known(DType::Q4_0),
            3 => TensorType::Known(DType::Q4_1),
            6 => other("q5_0", 32, 22),
            7 => other("q5_1", 32, 24),
            8 => TensorType::Known(DType::Q8_0),
            9 => other("q8_1", 32, 36),
            10 => other("q2_k", 256, 84),
            11 => other("q3_k", 256, 110),
            12 => other("q4_k", 256, 144),
            13 => other("q5_k", 256, 176),
            14 => other("q6_k", 256, 210),
            15 => other("q8_k", 256, 292),
            16 => other("iq2_xxs", 256, 66),
            17 => other("iq2_xs", 256, 74),
            18 => other("iq3_xxs", 256, 98),
            19 => other("iq1_s", 256, 50),
            20 => other("iq4_nl", 32, 18),
            21 => other("iq3_s", 256, 110),
            22 => other("iq2_s", 256, 82),
            23 => other("iq4_xs", 256, 136),
            24 => other("i8", 1, 1),
            25 => other("i16", 1, 2),
            26 => other("i32", 1, 4),
            27 => other("i64", 1, 8),
            28 => other("f64", 1, 8),
            29 => other("iq1_m", 256, 56),
            30 => TensorType::Bf16,
            _ => return None,
        })
    }
    pub fn name(self) -> &'static str {
        match self {
            TensorType::Known(d) => d.name(),
            TensorType::Bf16 => "bf16",
            TensorType::Other { name, .. } => name,
        }
    }
    pub fn block(self) -> u64 {
        match self {
            TensorType::Known(d) => d.block() as u64,
            TensorType::Bf16 => 1,
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
            TensorType::Bf16 => 2,
            TensorType::Other { bytes, .. } => bytes,
        }
    }
    /// The file's bytes in the type in which the engine sees them.
    pub fn widened(self, bytes: &[u8]) -> Cow<'_, [u8]> {
        match self {
            // The upper half of an f32.
            TensorType::Bf16 => bytes.chunks_exact(2).flat_map(|b| [0, 0, b[0], b[1]]).collect(),
            _ => Cow::Borrowed(bytes),
        }
    }
    /// The type in which the engine sees it.
    pub fn dtype(self) -> Option<DType> {
        match self {
            TensorType::Known(d) => Some(d),
            TensorType::Bf16 => Some(DType::F32),
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

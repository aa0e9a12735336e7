//! Element types.

use std::fmt;

/// How an element is stored. Arithmetic on any float type is done in f32 on devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16, two to a 32-bit word on devices, so that no device feature is needed.
    F16,
    /// Signed 32-bit integer.
    I32,
    /// Unsigned 32-bit integer: token ids, indices.
    U32,
    /// Truth, held as a 32-bit 0 or 1.
    Bool,
    /// 32 weights of 4 bits with one f16 scale: `d · (q − 8)`, 18 bytes (GGUF type 2).
    Q4_0,
    /// 32 weights of 4 bits with an f16 scale and minimum: `d · q + m`, 20 bytes (GGUF type 3).
    Q4_1,
    /// 32 weights of 8 bits with one f16 scale: `d · q`, 34 bytes (GGUF type 8).
    Q8_0,
}

impl DType {
    pub const ALL: [DType; 8] =
        [DType::F32, DType::F16, DType::I32, DType::U32, DType::Bool, DType::Q4_0, DType::Q4_1, DType::Q8_0];

    /// Elements in one block (1 for plain types).
    pub const fn block(self) -> usize {
        match self {
            DType::Q4_0 | DType::Q4_1 | DType::Q8_0 => 32,
            _ => 1,
        }
    }

    /// Bytes of one block in a file.
    pub const fn block_bytes(self) -> usize {
        match self {
            DType::F32 | DType::I32 | DType::U32 | DType::Bool => 4,
            DType::F16 => 2,
            DType::Q4_0 => 18,
            DType::Q4_1 => 20,
            DType::Q8_0 => 34,
        }
    }

    /// Bytes that `elements` take in a file, or `None` on overflow or a part of a block.
    pub fn bytes(self, elements: u64) -> Option<u64> {
        let block = self.block() as u64;
        if !elements.is_multiple_of(block) {
            return None;
        }
        (elements / block).checked_mul(self.block_bytes() as u64)
    }

    pub const fn is_quantised(self) -> bool {
        self.block() > 1
    }
    pub const fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F16 | DType::Q4_0 | DType::Q4_1 | DType::Q8_0)
    }
    pub const fn is_int(self) -> bool {
        matches!(self, DType::I32 | DType::U32)
    }

    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::I32 => "i32",
            DType::U32 => "u32",
            DType::Bool => "bool",
            DType::Q4_0 => "q4_0",
            DType::Q4_1 => "q4_1",
            DType::Q8_0 => "q8_0",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

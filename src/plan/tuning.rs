//! Which variant of a kernel a plan takes: rows of data that a tuner fills in once an adapter.

use crate::base::{AdapterKind, DType};
use crate::kernel::matmul::Right;
use std::collections::BTreeMap;

/// The chosen variant (an index into the kernel's own table) for each kernel class, such as `matmul.q4_1.m1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tuning {
    /// Whether forms without workgroup memory and barriers are the better guess: they are where shaders run on a CPU.
    pub serial: bool,
    pub chosen: BTreeMap<String, usize>,
}

impl Tuning {
    /// A guess from the kind of adapter, before anything is measured.
    pub fn for_kind(kind: AdapterKind) -> Self {
        Tuning { serial: kind == AdapterKind::Software, chosen: BTreeMap::new() }
    }

    /// Takes one variant for products with rows of weights of any type, where their layouts allow it.
    pub fn prefer(&mut self, variant: usize) {
        for dtype in Tuning::STORED {
            for tall in [false, true] {
                self.chosen.insert(Tuning::matmul_class(Right { dtype, rows: true }, tall), variant);
            }
        }
    }
    /// Types of right operands that have classes of their own.
    pub const STORED: [DType; 5] = [DType::F32, DType::F16, DType::Q4_0, DType::Q4_1, DType::Q8_0];

    /// The class of a matmul: its right operand, and whether the left one has many rows.
    pub fn matmul_class(right: Right, tall: bool) -> String {
        let side = if right.rows { "rows" } else { "columns" };
        format!("matmul.{}.{side}.{}", right.dtype, if tall { "many" } else { "few" })
    }
    pub fn matmul(&self, right: Right, tall: bool) -> Option<usize> {
        self.chosen.get(&Tuning::matmul_class(right, tall)).copied()
    }
}

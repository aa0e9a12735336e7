//! Which variant of a kernel a plan takes: rows of data that a tuner fills in once an adapter.

use crate::base::{AdapterKind, DType};
use crate::kernel::matmul::{Right, Variant};
use std::collections::BTreeMap;

/// How an adapter is planned for: where operands lie, and the name of the chosen variant for each
/// kernel class, such as `matmul.q4_1.rows.few`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tuning {
    /// Whether forms without workgroup memory and barriers are the better guess: they are where shaders run on a CPU.
    pub serial: bool,
    /// Whether right operands that the host writes lie in textures rather than in storage buffers.
    pub texels: bool,
    pub chosen: BTreeMap<String, String>,
}

impl Tuning {
    /// A guess from the kind of adapter, before anything is measured.
    pub fn for_kind(kind: AdapterKind) -> Self {
        let software = kind == AdapterKind::Software;
        Tuning { serial: software, texels: software, chosen: BTreeMap::new() }
    }

    /// Takes one variant for all products whose layouts allow it.
    pub fn prefer(&mut self, variant: &str) {
        for dtype in DType::weights() {
            for (rows, tall) in [(true, false), (true, true), (false, false), (false, true)] {
                self.chosen.insert(Tuning::matmul_class(dtype, rows, tall), variant.to_string());
            }
        }
    }
    /// The class of a matmul: its right operand's type, whether that is in rows of k, and whether the left one has many rows.
    pub fn matmul_class(dtype: DType, rows: bool, tall: bool) -> String {
        format!("matmul.{dtype}.{}.{}", if rows { "rows" } else { "columns" }, if tall { "many" } else { "few" })
    }
    pub fn matmul(&self, right: Right, tall: bool) -> Option<Variant> {
        let class = |dtype| self.chosen.get(&Tuning::matmul_class(dtype, right.rows, tall));
        class(right.dtype).or_else(|| class(right.dtype.stand_in())).and_then(|name| Variant::find(name))
    }
}

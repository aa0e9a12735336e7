//! What products are computed in.

use super::{Error, Result};

/// What products are computed in. Sums are f32 always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum Precision {
    /// Operands are f32; narrower weights are decoded to it on the way.
    #[default]
    F32,
    /// Products of many rows round both operands to f16. Adapters with that feature only.
    F16,
    /// The left operand of quantised weights is rounded to bytes by blocks of 32, off by 1/254 of the largest of them at most, and
    /// integers are multiplied; a graph without such weights is computed in f32. On the CPU, keys and values of attention are f16 then.
    Int8,
}

impl Precision {
    /// As it is written on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::F16 => "f16",
            Precision::Int8 => "int8",
        }
    }
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Precision {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        let all = [Precision::F32, Precision::F16, Precision::Int8];
        let found = all.into_iter().find(|p| p.name() == s);
        found.ok_or_else(|| Error::usage(format!("there is no precision \"{s}\": give f32, f16 or int8")))
    }
}

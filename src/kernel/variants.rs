//! The forms and variants of products: what each requires, which products it fits, and what it should cost on a GPU.

pub use super::operands::Form;

use super::operands::Right;
use crate::base::{Caps, Precision};
use crate::format::RUN;

/// Steps along k of one tile.
pub const STEPS: u32 = 16;

/// Outputs of a workgroup and of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tile {
    pub bm: u32,
    pub bn: u32,
    pub tm: u32,
    pub tn: u32,
}

impl Tile {
    pub const fn lanes(self) -> u32 {
        (self.bm / self.tm) * (self.bn / self.tn)
    }
    /// Bytes of workgroup memory.
    pub const fn bytes(self) -> u32 {
        (self.bm + self.bn) * STEPS * 4
    }
    /// Bytes of workgroup memory of integer tiles: a run of bytes, and four numbers for each row and column.
    pub const fn int8_bytes(self) -> u32 {
        (self.bm + self.bn) * (RUN as u32 + 16)
    }
    /// Lanes along the columns and along the rows of a tile.
    pub(super) fn across(self) -> (u32, u32) {
        (self.bn / self.tn, self.bm / self.tm)
    }
}

/// One row of the table of variants. Tuning names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variant {
    pub name: &'static str,
    pub form: Form,
    /// What it multiplies in.
    pub precision: Precision,
    /// Rows and columns of outputs that an invocation makes.
    pub tm: u32,
    pub tn: u32,
    /// And a workgroup, but for the rows form.
    pub bm: u32,
    pub bn: u32,
}

const fn row(name: &'static str, form: Form, tm: u32, tn: u32) -> Variant {
    Variant { name, form, precision: Precision::F32, tm, tn, bm: 0, bn: 0 }
}
const fn tiled(name: &'static str, bm: u32, bn: u32, tm: u32, tn: u32) -> Variant {
    Variant { name, form: Form::Tiled, precision: Precision::F32, tm, tn, bm, bn }
}
/// `tn` outputs of a lane at a time, `bn` of a workgroup.
const fn vector(name: &'static str, form: Form, tn: u32, bn: u32) -> Variant {
    Variant { name, form, precision: Precision::F32, tm: 1, tn, bm: 1, bn }
}
const fn of(precision: Precision, variant: Variant) -> Variant {
    Variant { precision, ..variant }
}

/// All variants. The first fits every product on every device.
pub const VARIANTS: &[Variant] = &[
    tiled("tiled-64x64-4x4", 64, 64, 4, 4),
    tiled("tiled-128x128-8x8", 128, 128, 8, 8),
    tiled("tiled-64x128-8x8", 64, 128, 8, 8),
    tiled("tiled-64x64-8x8", 64, 64, 8, 8),
    tiled("tiled-32x128-4x8", 32, 128, 4, 8),
    tiled("tiled-32x64-4x4", 32, 64, 4, 4),
    tiled("tiled-32x32-4x4", 32, 32, 4, 4),
    vector("vector-4", Form::Vector, 4, 4),
    vector("vector-8", Form::Vector, 8, 8),
    vector("vector-4x16", Form::Vector, 4, 16),
    vector("vector-4x32", Form::Vector, 4, 32),
    vector("subgroup-4", Form::Subgroup, 4, 4),
    vector("subgroup-8", Form::Subgroup, 8, 8),
    of(Precision::Int8, tiled("int8-128x128-8x8", 128, 128, 8, 8)),
    of(Precision::Int8, tiled("int8-64x128-4x8", 64, 128, 4, 8)),
    of(Precision::Int8, tiled("int8-64x64-4x4", 64, 64, 4, 4)),
    of(Precision::Int8, tiled("int8-32x32-4x2", 32, 32, 4, 2)),
    of(Precision::Int8, vector("int8-vector-4", Form::Vector, 4, 4)),
    of(Precision::Int8, vector("int8-vector-4x16", Form::Vector, 4, 16)),
    of(Precision::Int8, vector("int8-subgroup-4", Form::Subgroup, 4, 4)),
    of(Precision::F16, tiled("f16-128x128-8x8", 128, 128, 8, 8)),
    of(Precision::F16, tiled("f16-64x64-4x4", 64, 64, 4, 4)),
    row("rows-1x1", Form::Rows, 1, 1),
    row("rows-1x2", Form::Rows, 1, 2),
    row("rows-1x4", Form::Rows, 1, 4),
    row("rows-1x8", Form::Rows, 1, 8),
    row("rows-4x1", Form::Rows, 4, 1),
    row("rows-4x2", Form::Rows, 4, 2),
    row("rows-4x4", Form::Rows, 4, 4),
    row("rows-4x8", Form::Rows, 4, 8),
    row("rows-8x1", Form::Rows, 8, 1),
    row("rows-8x2", Form::Rows, 8, 2),
    row("rows-8x4", Form::Rows, 8, 4),
    row("rows-8x8", Form::Rows, 8, 8),
    row("rows-16x2", Form::Rows, 16, 2),
    row("rows-16x4", Form::Rows, 16, 4),
];

/// A product, as far as a choice depends on it; sizes are those at the bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Problem {
    pub m: u64,
    pub n: u64,
    pub k: u64,
    pub batches: u64,
    pub right: Right,
    /// Whether layouts allow the rows form, and the vector forms.
    pub rows: bool,
    pub vector: bool,
    /// Whether k may be cut into parts.
    pub parts: bool,
}

/// Rows of the left operand that are few: tuning keeps classes of few and of many apart.
pub const FEW: u64 = 4;
/// The most rows that the vector forms take.
pub const MOST_ROWS: u64 = 8;

/// Lanes that a GPU of middling size keeps busy: 64 units of 256.
const LANES: u64 = 64 * 256;
/// Steps along k that the start and the end of a workgroup take the time of.
const START: u64 = 64;
/// The least steps along k that make a part.
const PART: u64 = 256;

impl Variant {
    pub fn find(name: &str) -> Option<Variant> {
        VARIANTS.iter().copied().find(|v| v.name == name)
    }

    pub fn tile(&self) -> Tile {
        Tile { bm: self.bm, bn: self.bn, tm: self.tm, tn: self.tn }
    }

    /// Whether a device can run it.
    pub fn requires(&self, caps: &Caps) -> bool {
        if self.precision == Precision::F16 && !caps.f16 {
            return false;
        }
        let bytes = match self.precision {
            Precision::F32 => self.tile().bytes(),
            Precision::F16 => self.tile().bytes() / 2,
            Precision::Int8 => self.tile().int8_bytes(),
        };
        match self.form {
            Form::Tiled => self.tile().lanes() <= caps.invocations && bytes <= caps.workgroup_bytes,
            // Their sums have room for sixteen subgroups of 64 lanes.
            Form::Subgroup => caps.subgroup >= 4,
            Form::Rows | Form::Vector => true,
        }
    }

    /// Whether it makes this product.
    pub fn fits(&self, problem: &Problem) -> bool {
        // Bytes are multiplied with rows of blocks only.
        if self.precision == Precision::Int8 && !(problem.vector && problem.right.dtype.is_quantised()) {
            return false;
        }
        match self.form {
            Form::Tiled => true,
            Form::Vector | Form::Subgroup => problem.vector && problem.m <= MOST_ROWS,
            Form::Rows => problem.rows && (problem.right.rows || self.tn.is_multiple_of(4)),
        }
    }

    /// What the tiled form should cost on a GPU, and the parts of k that make it least: rounds of workgroups, each as long as its lanes'
    /// multiply-adds take or their reads of workgroup memory, of which 16 bytes cost as much as sixteen multiply-adds.
    pub fn cost(&self, problem: &Problem) -> (u64, u64) {
        let groups = problem.m.div_ceil(self.bm as u64).max(1)
            * problem.n.div_ceil(self.bn as u64).max(1)
            * problem.batches.max(1);
        // Bytes are multiplied and read four at a time, halves read two at a time.
        let (mul, read) = match self.precision {
            Precision::F32 => (1, 1),
            Precision::F16 => (1, 2),
            Precision::Int8 => (2, 4),
        };
        let step = ((self.tm + self.tn) as u64 * 4 / read).max((self.tm * self.tn) as u64 / mul);
        let most = if problem.parts && self.precision != Precision::Int8 { (problem.k / PART).clamp(1, 16) } else { 1 };
        let of = |parts: u64| {
            let rounds = (groups * parts * self.tile().lanes() as u64).div_ceil(LANES);
            // The sum of parts is one more dispatch.
            let sum = if parts > 1 { problem.m * problem.n * problem.batches * parts / LANES + 4 * START } else { 0 };
            rounds * step * (problem.k.div_ceil(parts) + START) + sum * 16
        };
        (1..=most).filter(|p| p.is_power_of_two()).map(|p| (of(p), p)).min().unwrap_or((u64::MAX, 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::DType;

    fn best(m: u64, n: u64, k: u64) -> (&'static str, u64) {
        let right = Right { dtype: DType::F32, rows: true, texels: false };
        let problem = Problem { m, n, k, batches: 1, right, rows: true, vector: true, parts: true };
        let tiled = VARIANTS.iter().filter(|v| v.form == Form::Tiled && v.precision == Precision::F32);
        let (cost, v) = tiled.map(|v| (v.cost(&problem), v)).min_by_key(|c| c.0.0).unwrap();
        (v.name, cost.1)
    }

    #[test]
    fn large_products_take_large_tiles_and_small_ones_parts_of_k() {
        assert_eq!(best(4096, 4096, 4096), ("tiled-128x128-8x8", 1));
        let (name, parts) = best(32, 576, 1536);
        let small = Variant::find(name).is_some_and(|v| v.bm <= 64 && v.bn <= 64);
        assert!(small && parts > 1, "{name} {parts}");
    }

    #[test]
    fn every_device_can_run_every_tile_and_names_are_unique() {
        for v in VARIANTS.iter().filter(|v| v.form != Form::Subgroup && v.precision != Precision::F16) {
            assert!(v.requires(&Caps::FLOOR), "{}", v.name);
        }
        for (i, v) in VARIANTS.iter().enumerate() {
            assert!(VARIANTS[i + 1..].iter().all(|w| w.name != v.name), "{}", v.name);
        }
    }
}

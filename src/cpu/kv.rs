//! Keys and values of attention as states: in panels of sixteen rows of a head ([`super::panels`]), in f32, f16 or bytes with scales.

use super::blocks::BLOCK;
use super::isa::{Isa, Kernel, LANES};
use super::panels::Scaled;
use super::product::{Element, load_some};
use super::view::View;
use crate::base::DType;
use crate::format::Scales;
use half::f16;
use std::ops::Range;

/// In what elements of keys and values are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    F32,
    F16,
    /// Signed bytes, with an f16 scale for every 32 of a row: the blocks of Q8_0.
    Scaled,
}

impl Kept {
    /// Whether a format's blocks are what [`Kept::Scaled`] keeps: one factor for 32 signed bytes.
    pub fn is_scaled(format: DType) -> bool {
        let levels = format.format().float.as_ref().and_then(|f| f.levels.as_ref());
        levels.is_some_and(|l| l.bits == 8 && matches!(l.scales, Scales::Half) && l.zero == 128 && l.steps.is_none())
    }
}

/// How a state lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layout {
    /// Row-major words.
    #[default]
    Plain,
    /// Rows of `heads` times `width` elements in panels; those of keys lie element by element, others row by row.
    Heads { keys: bool, heads: usize, width: usize, kept: Kept },
}

impl Layout {
    /// Bytes of so many rows of `row` elements.
    pub fn bytes(&self, rows: usize, row: usize) -> Option<usize> {
        let Layout::Heads { heads, width, kept, .. } = *self else { return rows.checked_mul(row)?.checked_mul(4) };
        let panel = match kept {
            Kept::F32 => width.checked_mul(4 * LANES)?,
            Kept::F16 => width.checked_mul(2 * LANES)?,
            Kept::Scaled => Scaled::bytes(width),
        };
        rows.div_ceil(LANES).checked_mul(heads)?.checked_mul(panel)
    }

    /// Where an element of a state of floats lies.
    fn place(&self, row: usize, column: usize, width_of_row: usize) -> usize {
        let Layout::Heads { keys, heads, width, .. } = *self else { return row * width_of_row + column };
        let (panel, e, r) = (row / LANES * heads + column / width, column % width, row % LANES);
        panel * width * LANES + if keys { e * LANES + r } else { r * width + e }
    }

    /// Where the scale and the number of an element lie of a state of bytes.
    fn places(&self, row: usize, column: usize) -> (usize, usize) {
        let Layout::Heads { keys, heads, width, .. } = *self else { return (0, 0) };
        let panel = (row / LANES * heads + column / width) * Scaled::bytes(width);
        let (scale, number) = Scaled::places(keys, width, row % LANES, column % width);
        (panel + scale, panel + number)
    }

    /// An element's word.
    pub fn word(&self, bytes: &[u8], (row, column): (usize, usize), width_of_row: usize) -> u32 {
        let half = |at: usize| f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32();
        match self {
            Layout::Heads { kept: Kept::Scaled, .. } => {
                let (scale, number) = self.places(row, column);
                (half(scale) * bytes[number] as i8 as f32).to_bits()
            }
            Layout::Heads { kept: Kept::F16, .. } => half(2 * self.place(row, column, width_of_row)).to_bits(),
            _ => {
                let at = 4 * self.place(row, column, width_of_row);
                u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
            }
        }
    }

    /// Sets a row.
    pub fn set_row(&self, bytes: &mut [u8], row: usize, words: &[u32]) {
        if let Layout::Heads { kept: Kept::Scaled, .. } = self {
            for (b, block) in words.chunks(BLOCK).enumerate() {
                let most = block.iter().map(|w| f32::from_bits(*w).abs()).fold(0.0, f32::max);
                let nan = block.iter().any(|w| f32::from_bits(*w).is_nan());
                let (scale, invert) = scale_of(if nan { f32::NAN } else { most });
                for (i, word) in block.iter().enumerate() {
                    let (s, n) = self.places(row, b * BLOCK + i);
                    bytes[s..s + 2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
                    bytes[n] = (f32::from_bits(*word) * invert).round() as i8 as u8;
                }
            }
            return;
        }
        for (column, word) in words.iter().enumerate() {
            let at = self.place(row, column, words.len());
            match self {
                Layout::Heads { kept: Kept::F16, .. } => {
                    let half = f16::from_f32(f32::from_bits(*word));
                    bytes[2 * at..2 * at + 2].copy_from_slice(&half.to_le_bytes());
                }
                _ => bytes[4 * at..4 * at + 4].copy_from_slice(&word.to_le_bytes()),
            }
        }
    }
}

/// The scale of a block whose largest number is `most`, and what numbers are multiplied by. A block of denormal numbers has no
/// inverse: it counts as zeros; one that is not finite says so.
fn scale_of(most: f32) -> (f32, f32) {
    let scale = if most.is_finite() { most / 127.0 } else { f32::NAN };
    let invert = 1.0 / scale;
    (scale, if invert.is_finite() { invert } else { 0.0 })
}

/// Where rows go in a state.
#[derive(Clone, Copy)]
pub enum Place {
    /// Behind so many others.
    Behind(usize),
    /// Where ids say, of a state of so many rows.
    Ids(*const u32, usize),
}

impl Place {
    /// The state's row for row `r`; none where there is no such row.
    ///
    /// # Safety
    /// There are ids for so many rows.
    pub unsafe fn of(&self, r: usize) -> Option<usize> {
        match *self {
            Place::Behind(at) => Some(at + r),
            // SAFETY: as promised.
            Place::Ids(ids, rows) => Some(unsafe { *ids.add(r) } as usize).filter(|id| *id < rows),
        }
    }
}

/// Rows into a state that lies by heads.
pub struct Append {
    pub layout: Layout,
    pub x: View,
    pub to: *mut u8,
    pub at: Place,
    pub rows: Range<usize>,
}

impl Kernel for Append {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Isa>(self) {
        unsafe {
            let Layout::Heads { kept, .. } = self.layout else { return };
            match kept {
                Kept::F32 => self.all::<S, f32>(self.to.cast()),
                Kept::F16 => self.all::<S, u16>(self.to.cast()),
                Kept::Scaled => self.scaled::<S>(),
            }
        }
    }
}

impl Append {
    #[inline(always)]
    unsafe fn all<S: Isa, E: Element>(&self, to: *mut E) {
        unsafe {
            let Layout::Heads { keys, heads, width, .. } = self.layout else { return };
            let n = heads * width;
            for r in self.rows.clone() {
                let Some(row) = self.at.of(r) else { continue };
                let x = self.x.f32s().add(r * n);
                // The head's width is a multiple of sixteen: each run is of one head.
                for i in (0..n).step_by(LANES) {
                    let x = load_some::<S>(x.add(i), LANES, true);
                    let panel = to.add((row / LANES * heads + i / width) * width * LANES);
                    if !keys {
                        E::store::<S>(panel.add(row % LANES * width + i % width), x);
                        continue;
                    }
                    let mut some = [E::ZERO; LANES];
                    E::store::<S>(some.as_mut_ptr(), x);
                    for (j, e) in some.into_iter().enumerate() {
                        *panel.add((i % width + j) * LANES + row % LANES) = e;
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn scaled<S: Isa>(&self) {
        unsafe {
            let Layout::Heads { keys, heads, width, .. } = self.layout else { return };
            let n = heads * width;
            for r in self.rows.clone() {
                let Some(row) = self.at.of(r) else { continue };
                let x = self.x.f32s().add(r * n);
                for i in (0..n).step_by(BLOCK) {
                    let (u, v) = (S::load(x.add(i)), S::load(x.add(i + LANES)));
                    let sum = S::sum(S::add(S::sub(u, u), S::sub(v, v)));
                    // What is not finite leaves no zero.
                    let most = if sum == 0.0 { S::largest(S::max(S::abs(u), S::abs(v))) } else { f32::NAN };
                    let (scale, invert) = scale_of(most);
                    let mut some = [0.0f32; BLOCK];
                    S::store(some.as_mut_ptr(), S::mul(u, S::splat(invert)));
                    S::store(some.as_mut_ptr().add(LANES), S::mul(v, S::splat(invert)));
                    let panel = self.to.add((row / LANES * heads + i / width) * Scaled::bytes(width));
                    let (at, _) = Scaled::places(keys, width, row % LANES, i % width);
                    panel.add(at).cast::<[u8; 2]>().write_unaligned(f16::from_f32(scale).to_le_bytes());
                    for (j, x) in some.into_iter().enumerate() {
                        let (_, at) = Scaled::places(keys, width, row % LANES, i % width + j);
                        // Halves go away from zero, as the format has it.
                        *panel.add(at).cast() = (x + 0.5f32.copysign(x)) as i8;
                    }
                }
            }
        }
    }
}

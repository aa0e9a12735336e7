//! Keys and values of attention as states: keys in panels of sixteen rows, element by element, so that sixteen scores are a
//! vector; values row by row. Half as wide where products are of integers.

use super::isa::{Isa, Kernel, LANES};
use super::product::{Element, load_some};
use super::view::View;
use half::f16;
use std::ops::Range;

/// How a state lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layout {
    /// Row-major words.
    #[default]
    Plain,
    /// Rows of `heads` times `width` elements, of 16 bits if `narrow`; keys in panels.
    Heads { keys: bool, heads: usize, width: usize, narrow: bool },
}

impl Layout {
    /// Bytes of so many rows of `row` elements.
    pub fn bytes(&self, rows: usize, row: usize) -> Option<usize> {
        match self {
            Layout::Plain => rows.checked_mul(row)?.checked_mul(4),
            Layout::Heads { narrow, .. } => {
                rows.checked_next_multiple_of(LANES)?.checked_mul(row)?.checked_mul(if *narrow { 2 } else { 4 })
            }
        }
    }

    /// Where an element lies.
    pub fn place(&self, row: usize, column: usize, width_of_row: usize) -> usize {
        match self {
            Layout::Heads { keys: true, heads, width, .. } => {
                let (head, e) = (column / width, column % width);
                ((row / LANES * heads + head) * width + e) * LANES + row % LANES
            }
            _ => row * width_of_row + column,
        }
    }

    /// An element's word.
    pub fn word(&self, bytes: &[u8], at: usize) -> u32 {
        match self {
            Layout::Heads { narrow: true, .. } => {
                f16::from_le_bytes([bytes[2 * at], bytes[2 * at + 1]]).to_f32().to_bits()
            }
            _ => u32::from_le_bytes([bytes[4 * at], bytes[4 * at + 1], bytes[4 * at + 2], bytes[4 * at + 3]]),
        }
    }
    /// Sets an element.
    pub fn set(&self, bytes: &mut [u8], at: usize, word: u32) {
        match self {
            Layout::Heads { narrow: true, .. } => {
                bytes[2 * at..2 * at + 2].copy_from_slice(&f16::from_f32(f32::from_bits(word)).to_le_bytes());
            }
            _ => bytes[4 * at..4 * at + 4].copy_from_slice(&word.to_le_bytes()),
        }
    }
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
            let Layout::Heads { narrow, .. } = self.layout else { return };
            match narrow {
                true => self.all::<S, u16>(self.to.cast()),
                false => self.all::<S, f32>(self.to.cast()),
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
                for i in (0..n).step_by(LANES) {
                    let mut some = [E::ZERO; LANES];
                    let count = LANES.min(n - i);
                    E::store::<S>(some.as_mut_ptr(), load_some::<S>(x.add(i), count, count == LANES));
                    for (j, e) in some.into_iter().enumerate().take(count) {
                        // The head's width is a multiple of sixteen: the run is of one head.
                        let at = match keys {
                            true => (row / LANES * n + i + j) * LANES + row % LANES,
                            false => row * n + i + j,
                        };
                        *to.add(at) = e;
                    }
                }
            }
        }
    }
}

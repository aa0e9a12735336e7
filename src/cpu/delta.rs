//! The gated delta rule: a unit is some columns of a head's matrix of a sequence, which go through all of its rows.

use super::isa::{Isa, Kernel, LANES};
use super::product::{load_some, store_some};
use super::view::View;
use std::ops::Range;

/// Vectors of a block of columns: sums over keys stay in registers, the block in the nearest cache.
const BLOCK: usize = 2;
const COLUMNS: usize = BLOCK * LANES;

/// How the work is cut.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    n: usize,
    /// Heads of keys and elements of one, then those of values.
    g: usize,
    d: usize,
    h: usize,
    e: usize,
    slots: usize,
    sequences: usize,
}

impl Cut {
    pub fn of(keys: &View, values: &View, states: &View, slots: &View) -> Cut {
        Cut {
            n: values.shape[0],
            g: keys.shape[1].max(1),
            d: keys.shape[2],
            h: values.shape[1],
            e: values.shape[2],
            slots: states.shape[0],
            sequences: slots.shape[0],
        }
    }
    /// Blocks of every head of every sequence, and of the rows that are of none.
    pub fn units(&self) -> usize {
        (self.sequences + 1) * self.h * self.e.div_ceil(COLUMNS)
    }
    pub fn unit_ns(&self) -> usize {
        (self.n / self.sequences.max(1) + 1) * (self.d / 2 + 20)
    }
}

/// Some units of it.
pub struct Delta {
    pub cut: Cut,
    pub q: *const f32,
    pub k: *const f32,
    pub v: *const f32,
    pub gates: *const f32,
    pub states: *const f32,
    pub slots: *const u32,
    pub owners: *const u32,
    pub out: *mut f32,
    pub units: Range<usize>,
}

impl Kernel for Delta {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Isa>(self) {
        unsafe {
            let c = self.cut;
            let blocks = c.e.div_ceil(COLUMNS);
            for unit in self.units.clone() {
                let (sequence, head, first) = (unit / blocks / c.h, unit / blocks % c.h, unit % blocks * COLUMNS);
                if sequence == c.sequences {
                    self.lonely(head, first);
                } else {
                    self.block::<S>(sequence, head, first);
                }
            }
        }
    }
}

impl Delta {
    /// Rows of no sequence are zeros.
    unsafe fn lonely(&self, head: usize, first: usize) {
        let c = self.cut;
        for row in 0..c.n {
            // SAFETY: within the operands and the result.
            unsafe {
                if *self.owners.add(row) as usize >= c.sequences {
                    let y = self.out.add((row * c.h + head) * c.e + first);
                    std::slice::from_raw_parts_mut(y, COLUMNS.min(c.e - first)).fill(0.0);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn block<S: Isa>(&self, sequence: usize, head: usize, first: usize) {
        unsafe {
            let c = self.cut;
            let (stride, columns) = (c.h * c.e, COLUMNS.min(c.e - first));
            let at = head * c.e + first;
            // The result's own place is where the matrix lives.
            let s = self.out.add((c.n + sequence * c.d) * stride + at);
            let slot = *self.slots.add(sequence) as usize;
            for i in 0..c.d {
                let to = std::slice::from_raw_parts_mut(s.add(i * stride), columns);
                match slot < c.slots {
                    true => std::ptr::copy_nonoverlapping(
                        self.states.add((slot * c.d + i) * stride + at),
                        to.as_mut_ptr(),
                        columns,
                    ),
                    false => to.fill(0.0),
                }
            }
            for row in (0..c.n).filter(|row| *self.owners.add(*row) as usize == sequence) {
                self.row::<S>(s, (row, head, first), columns);
            }
        }
    }

    /// `y = qᵀS` of the new matrix is `decay · qᵀS + (q · k) · change` of the old one: one pass reads, one writes.
    #[inline(always)]
    unsafe fn row<S: Isa>(&self, s: *mut f32, (row, head, first): (usize, usize, usize), columns: usize) {
        unsafe {
            let c = self.cut;
            let stride = c.h * c.e;
            let keys = (row * c.g + head / (c.h / c.g)) * c.d;
            let (q, k) = (self.q.add(keys), self.k.add(keys));
            let gates = self.gates.add((row * c.h + head) * 2);
            let (decay, rate) = (*gates, *gates.add(1));
            let y = (row * c.h + head) * c.e + first;
            let part = |j: usize| (columns.saturating_sub(j * LANES), (j + 1) * LANES <= columns);
            let mut held = [S::splat(0.0); BLOCK];
            let mut seen = [S::splat(0.0); BLOCK];
            let mut both = 0.0;
            for i in 0..c.d {
                let (q, k) = (*q.add(i), *k.add(i));
                both += q * k;
                if decay == 0.0 {
                    continue;
                }
                let (q, k) = (S::splat(q), S::splat(k));
                for j in 0..BLOCK {
                    let (count, whole) = part(j);
                    let x = load_some::<S>(s.add(i * stride + j * LANES), count, whole);
                    held[j] = S::fma(k, x, held[j]);
                    seen[j] = S::fma(q, x, seen[j]);
                }
            }
            let (keep, rate, both) = (S::splat(decay), S::splat(rate), S::splat(both));
            let mut change = [S::splat(0.0); BLOCK];
            for j in 0..BLOCK {
                let (count, whole) = part(j);
                let v = load_some::<S>(self.v.add(y + j * LANES), count, whole);
                change[j] = S::mul(rate, S::sub(v, S::mul(keep, held[j])));
                let result = S::fma(both, change[j], S::mul(keep, seen[j]));
                store_some::<S>(self.out.add(y + j * LANES), result, count, whole);
            }
            for i in 0..c.d {
                let k = S::splat(*k.add(i));
                for (j, change) in change.iter().enumerate() {
                    let (count, whole) = part(j);
                    let at = s.add(i * stride + j * LANES);
                    let x = match decay == 0.0 {
                        true => S::mul(k, *change),
                        false => S::fma(k, *change, S::mul(keep, load_some::<S>(at, count, whole))),
                    };
                    store_some::<S>(at, x, count, whole);
                }
            }
        }
    }
}

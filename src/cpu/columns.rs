//! Matrix products whose right operand is no weight.

use super::isa::{Isa, Kernel, LANES};
use super::product::{floats, store_some};
use super::view::View;
use std::ops::Range;

/// Rows of a matrix product whose right operand is no weight: sixteen columns of one batch.
pub struct Columns {
    pub a: View,
    pub b: View,
    pub out: View,
    pub scratch: *mut f32,
    pub units: Range<usize>,
}

impl Kernel for Columns {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Isa>(self) {
        unsafe {
            let (r, k) = (self.out.rank, self.a.width());
            let (m, n) = (self.out.shape[r - 2], self.out.shape[r - 1]);
            let columns = n.div_ceil(LANES);
            let lead = &self.out.shape[..r - 2];
            let (a, b) = (lead_of(&self.a, lead), lead_of(&self.b, lead));
            for unit in self.units.clone() {
                let (batch, first) = (unit / columns, unit % columns * LANES);
                let (x, w) = (self.a.f32s().add(a.offset(batch)), self.b.f32s().add(b.offset(batch)));
                let ([row, step], [down, across]) = (last_two(&self.a), last_two(&self.b));
                for i in 0..k {
                    for j in 0..LANES {
                        let at = w.add(i * down + (first + j) * across);
                        *self.scratch.add(i * LANES + j) = if first + j < n { *at } else { 0.0 };
                    }
                }
                let rows = self.scratch.add(k * LANES);
                let mut i = 0;
                while step == 1 && i + 4 <= m {
                    let x = (x.add(i * row).cast_const(), row);
                    let acc = floats::<S, f32, 4>(x, (self.scratch, LANES), k, [S::splat(0.0); 4]);
                    for (t, acc) in acc.into_iter().enumerate() {
                        let to = self.out.f32s().add((batch * m + i + t) * n + first);
                        store_some::<S>(to, acc, n - first, first + LANES <= n);
                    }
                    i += 4;
                }
                for i in i..m {
                    let x = x.add(i * row);
                    let x = if step == 1 {
                        x.cast_const()
                    } else {
                        for l in 0..k {
                            *rows.add(l) = *x.add(l * step);
                        }
                        rows.cast_const()
                    };
                    let [acc] = floats::<S, f32, 1>((x, k), (self.scratch, LANES), k, [S::splat(0.0)]);
                    let to = self.out.f32s().add((batch * m + i) * n + first);
                    store_some::<S>(to, acc, n - first, first + LANES <= n);
                }
            }
        }
    }
}

fn last_two(v: &View) -> [usize; 2] {
    [v.strides[v.rank - 2], v.strides[v.rank - 1]]
}

/// The leading axes of an operand, broadcast to those of the result.
fn lead_of(v: &View, lead: &[usize]) -> View {
    View { rank: v.rank - 2, ..*v }.broadcast(lead)
}

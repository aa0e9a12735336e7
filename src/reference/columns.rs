//! Products with weights `[n, k]`, as runs of outputs for each row of them.

use super::dot;
use crate::base::DType;
use crate::format;
use rayon::prelude::*;
use std::ops::Range;

/// A matrix in a slice.
pub struct Strided<'a, T> {
    pub data: &'a [T],
    pub row: usize,
    pub col: usize,
}

/// Rows of weights that are decoded at a time: they stay in the second-level cache.
pub const PANEL: usize = 64;

/// Rows of the left operand from which decoding a panel once pays.
const TALL: usize = 5;

/// Rows of weights `[n, k]`.
#[derive(Clone, Copy)]
pub enum Matrix<'a> {
    Blocks(&'a [u8], DType),
    Floats(&'a [f32]),
}

impl Matrix<'_> {
    /// Some of its rows.
    pub fn rows(&self, k: usize, rows: Range<usize>) -> Self {
        match *self {
            Matrix::Floats(w) => Matrix::Floats(&w[rows.start * k..rows.end * k]),
            Matrix::Blocks(bytes, dtype) => {
                let row = k / dtype.block() * dtype.block_bytes();
                Matrix::Blocks(&bytes[rows.start * row..rows.end * row], dtype)
            }
        }
    }
}

/// `x · wᵀ` with a run of `m` outputs for each row of `w`: dot products for few rows of `x`, else panels, decoded.
pub fn columns(w: Matrix, k: usize, x: &[f32], m: usize, out: &mut [f32]) {
    if m < TALL {
        out.par_chunks_mut(m.max(1) * 16).enumerate().for_each(|(chunk, out)| {
            for (i, y) in out.chunks_mut(m.max(1)).enumerate() {
                let row = chunk * 16 + i;
                y.iter_mut().zip(x.chunks_exact(k)).for_each(|(y, x)| {
                    *y = match w.rows(k, row..row + 1) {
                        Matrix::Blocks(row, dtype) => format::dot(dtype, row, x),
                        Matrix::Floats(row) => dot::plain(row, x),
                    }
                });
            }
        });
    } else {
        out.par_chunks_mut(m * PANEL).enumerate().for_each_init(Vec::new, |decoded, (panel, out)| {
            let rows = out.len() / m;
            let w = match w.rows(k, panel * PANEL..panel * PANEL + rows) {
                Matrix::Floats(w) => w,
                Matrix::Blocks(bytes, dtype) => {
                    decoded.resize(rows * k, 0.0);
                    format::decode_into(dtype, bytes, decoded);
                    &decoded[..]
                }
            };
            let (left, right) = (Strided { data: w, row: k, col: 1 }, Strided { data: x, row: 1, col: k });
            multiply_panel(left, right, out, (rows, m, k));
        });
    }
}

/// One panel on the thread it is called on.
fn multiply_panel(a: Strided<f32>, b: Strided<f32>, y: &mut [f32], (m, n, k): (usize, usize, usize)) {
    assert!(m * k <= a.data.len() && n * k <= b.data.len() && m * n <= y.len());
    // SAFETY: as asserted; `y` is a slice of its own.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            y.as_mut_ptr(),
            1,
            n as isize,
            false,
            a.data.as_ptr(),
            a.col as isize,
            a.row as isize,
            b.data.as_ptr(),
            b.col as isize,
            b.row as isize,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

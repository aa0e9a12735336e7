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
            // A panel is work of the thread that took it.
            multiply_by_library(left, right, out, (rows, m, k), gemm::Parallelism::None);
        });
    }
}

/// `y = a · b`, row-major, by the matrix library.
pub fn multiply_by_library<T: From<u8> + 'static>(
    a: Strided<T>,
    b: Strided<T>,
    y: &mut [T],
    (m, n, k): (usize, usize, usize),
    parallel: gemm::Parallelism,
) {
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    // The furthest elements that the library will touch.
    assert!(
        (m - 1) * a.row + (k - 1) * a.col < a.data.len()
            && (k - 1) * b.row + (n - 1) * b.col < b.data.len()
            && y.len() >= m * n
    );
    // SAFETY: all three matrices lie within their slices, as was just asserted, and `y` overlaps neither.
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
            T::from(0),
            T::from(1),
            false,
            false,
            false,
            parallel,
        );
    }
}

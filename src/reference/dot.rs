//! Inner loops of the fallback: dot products, sums of rows, compiled for the vector units that the CPU has.

use crate::format::widest;

widest! {
    /// Σ x·y.
    pub fn plain(x: &[f32], y: &[f32]) -> f32 = plain_inner;
    /// y += a·x.
    pub fn add_scaled(a: f32, x: &[f32], y: &mut [f32]) = add_scaled_inner;
    /// Transposes `columns` of `rows` elements each into rows.
    pub fn transpose(columns: &[f32], rows: usize, out: &mut [f32]) = transpose_inner;
}

#[inline(always)]
fn plain_inner(x: &[f32], y: &[f32]) -> f32 {
    let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<8>(), y.as_chunks::<8>());
    let (mut sums, mut sum) = ([0.0f32; 8], 0.0);
    for (x, y) in x.iter().zip(y) {
        for i in 0..8 {
            sums[i] += x[i] * y[i];
        }
    }
    for (a, b) in x_rest.iter().zip(y_rest) {
        sum += a * b;
    }
    sums.iter().sum::<f32>() + sum
}

#[inline(always)]
fn add_scaled_inner(a: f32, x: &[f32], y: &mut [f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += a * x;
    }
}

/// By squares, so that both sides stay in the first-level cache.
#[inline(always)]
fn transpose_inner(columns: &[f32], rows: usize, out: &mut [f32]) {
    const SIDE: usize = 16;
    let n = columns.len().checked_div(rows).unwrap_or(0);
    for j0 in (0..n).step_by(SIDE) {
        for i0 in (0..rows).step_by(SIDE) {
            for j in j0..(j0 + SIDE).min(n) {
                for i in i0..(i0 + SIDE).min(rows) {
                    out[i * n + j] = columns[j * rows + i];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_columns_transposed() {
        for (rows, n) in [(1, 5), (37, 18), (16, 16)] {
            let columns: Vec<f32> = (0..rows * n).map(|i| i as f32).collect();
            let mut out = vec![0.0; rows * n];
            transpose(&columns, rows, &mut out);
            assert!((0..rows * n).all(|at| out[at] == ((at % n) * rows + at / n) as f32));
        }
    }
}

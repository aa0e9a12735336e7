//! Inner loops of the fallback: quantised rows, dot products, sums of rows, compiled for the vector units that the CPU has.

use crate::base::{DType, block::BLOCK};
use half::f16;

/// Functions that choose the widest form of `inner` that this CPU runs.
macro_rules! widest {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),*) $(-> $out:ty)? = $inner:ident;)*) => {$(
        $(#[$doc])*
        pub fn $name($($arg: $ty),*) $(-> $out)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma,f16c")]
                fn wide($($arg: $ty),*) $(-> $out)? {
                    $inner($($arg),*)
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
                    // SAFETY: the features were just seen.
                    return unsafe { wide($($arg),*) };
                }
            }
            $inner($($arg),*)
        }
    )*};
}
widest! {
    fn q4_0(row: &[u8], x: &[f32]) -> f32 = q4_0_inner;
    fn q4_1(row: &[u8], x: &[f32]) -> f32 = q4_1_inner;
    fn q8_0(row: &[u8], x: &[f32]) -> f32 = q8_0_inner;
    /// Values of whole blocks, as many as `out` has.
    fn decode(dtype: DType, blocks: &[u8], out: &mut [f32]) = decode_inner;
    /// Σ x·y.
    fn plain(x: &[f32], y: &[f32]) -> f32 = plain_inner;
    /// y += a·x.
    fn add_scaled(a: f32, x: &[f32], y: &mut [f32]) = add_scaled_inner;
    /// Transposes `columns` of `rows` elements each into rows.
    fn transpose(columns: &[f32], rows: usize, out: &mut [f32]) = transpose_inner;
}

/// The dot product for a quantised type.
pub fn dot(dtype: DType) -> fn(&[u8], &[f32]) -> f32 {
    match dtype {
        DType::Q4_0 => q4_0,
        DType::Q4_1 => q4_1,
        _ => q8_0,
    }
}

#[inline(always)]
fn half(b: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([b[at], b[at + 1]]).to_f32()
}

/// Σ (q·d + m)·x over a block of nibbles, added to eight lanes.
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
#[inline(always)]
fn nibbles(q: &[u8], x: &[f32], sums: &mut [f32; 8], d: f32, m: f32) {
    use core::arch::wasm32::*;
    let [a, b] = q.as_chunks::<8>().0 else { return };
    let bytes = u64x2(u64::from_le_bytes(*a), u64::from_le_bytes(*b));
    let zero = f32x4_splat(0.0);
    let (mut products, mut plain) = ([zero; 2], [zero; 2]);
    let parts = [v128_and(bytes, u8x16_splat(15)), u8x16_shr(bytes, 4)];
    for (part, x) in parts.into_iter().zip(x.as_chunks::<16>().0) {
        for (eight, x) in
            [u16x8_extend_low_u8x16(part), u16x8_extend_high_u8x16(part)].into_iter().zip(x.as_chunks::<8>().0)
        {
            for (i, four) in [u32x4_extend_low_u16x8(eight), u32x4_extend_high_u16x8(eight)].into_iter().enumerate() {
                let x = f32x4(x[i * 4], x[i * 4 + 1], x[i * 4 + 2], x[i * 4 + 3]);
                products[i] = f32x4_add(products[i], f32x4_mul(f32x4_convert_u32x4(four), x));
                plain[i] = f32x4_add(plain[i], x);
            }
        }
    }
    for i in 0..2 {
        let more = f32x4_add(f32x4_mul(products[i], f32x4_splat(d)), f32x4_mul(plain[i], f32x4_splat(m)));
        sums[i * 4] += f32x4_extract_lane::<0>(more);
        sums[i * 4 + 1] += f32x4_extract_lane::<1>(more);
        sums[i * 4 + 2] += f32x4_extract_lane::<2>(more);
        sums[i * 4 + 3] += f32x4_extract_lane::<3>(more);
    }
}

/// Σ (q·d + m)·x over a block of nibbles, added to eight lanes.
#[cfg(not(all(target_arch = "wasm32", target_feature = "simd128")))]
#[inline(always)]
fn nibbles(q: &[u8], x: &[f32], sums: &mut [f32; 8], d: f32, m: f32) {
    let (lo, hi) = x.split_at(16);
    for half in 0..2 {
        for i in 0..8 {
            let b = q[half * 8 + i];
            let (u, v) = ((b & 15) as f32, (b >> 4) as f32);
            sums[i] += (u * d + m) * lo[half * 8 + i] + (v * d + m) * hi[half * 8 + i];
        }
    }
}

#[inline(always)]
fn q4_1_inner(row: &[u8], x: &[f32]) -> f32 {
    let mut sums = [0.0; 8];
    for (b, x) in row.chunks_exact(20).zip(x.chunks_exact(BLOCK)) {
        nibbles(&b[4..], x, &mut sums, half(b, 0), half(b, 2));
    }
    sums.iter().sum()
}

#[inline(always)]
fn q4_0_inner(row: &[u8], x: &[f32]) -> f32 {
    let mut sums = [0.0; 8];
    for (b, x) in row.chunks_exact(18).zip(x.chunks_exact(BLOCK)) {
        let d = half(b, 0);
        nibbles(&b[2..], x, &mut sums, d, -8.0 * d);
    }
    sums.iter().sum()
}

#[inline(always)]
fn q8_0_inner(row: &[u8], x: &[f32]) -> f32 {
    let mut sums = [0.0; 8];
    for (b, x) in row.chunks_exact(34).zip(x.chunks_exact(BLOCK)) {
        let d = half(b, 0);
        for part in 0..4 {
            for i in 0..8 {
                sums[i] += d * (b[2 + part * 8 + i] as i8) as f32 * x[part * 8 + i];
            }
        }
    }
    sums.iter().sum()
}

// Plain loops: a closure handed to an iterator's method would be compiled without the features of its caller.

#[inline(always)]
fn decode_inner(dtype: DType, blocks: &[u8], out: &mut [f32]) {
    let (size, out) = (dtype.block_bytes(), out.as_chunks_mut::<BLOCK>().0);
    match dtype {
        DType::Q4_0 => {
            for (b, y) in blocks.chunks_exact(size).zip(out) {
                low_and_high(&b[2..18], half(b, 0), -8.0 * half(b, 0), y);
            }
        }
        DType::Q4_1 => {
            for (b, y) in blocks.chunks_exact(size).zip(out) {
                low_and_high(&b[4..20], half(b, 0), half(b, 2), y);
            }
        }
        _ => {
            for (b, y) in blocks.chunks_exact(size).zip(out) {
                let (d, b) = (half(b, 0), &b[2..2 + BLOCK]);
                for i in 0..BLOCK {
                    y[i] = d * (b[i] as i8) as f32;
                }
            }
        }
    }
}

/// A block of nibbles: the low ones first.
#[inline(always)]
fn low_and_high(q: &[u8], d: f32, m: f32, y: &mut [f32; BLOCK]) {
    for i in 0..BLOCK / 2 {
        y[i] = (q[i] & 15) as f32 * d + m;
        y[BLOCK / 2 + i] = (q[i] >> 4) as f32 * d + m;
    }
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
    use crate::base::block;

    #[test]
    fn rows_are_columns_transposed() {
        for (rows, n) in [(1, 5), (37, 18), (16, 16)] {
            let columns: Vec<f32> = (0..rows * n).map(|i| i as f32).collect();
            let mut out = vec![0.0; rows * n];
            transpose(&columns, rows, &mut out);
            assert!((0..rows * n).all(|at| out[at] == ((at % n) * rows + at / n) as f32));
        }
    }

    #[test]
    fn blocks_dot_as_decoded_values_do() {
        let w: Vec<f32> = (0..128).map(|i| ((i * 29 % 101) as f32 - 50.0) / 17.0).collect();
        let x: Vec<f32> = (0..128).map(|i| ((i * 13 % 67) as f32 - 33.0) / 9.0).collect();
        for dtype in [DType::Q4_0, DType::Q4_1, DType::Q8_0] {
            let bytes = block::encode(dtype, &w);
            let want: f64 = block::decode(dtype, &bytes).iter().zip(&x).map(|(a, b)| *a as f64 * *b as f64).sum();
            let got = dot(dtype)(&bytes, &x) as f64;
            assert!((got - want).abs() < 1e-3, "{dtype}: {got} for {want}");
            let mut values = [0.0; 128];
            decode(dtype, &bytes, &mut values);
            let worst = values.iter().zip(block::decode(dtype, &bytes)).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
            assert!(worst < 1e-6, "{dtype}: {worst}");
        }
    }
}

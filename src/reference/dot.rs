//! Dot products of quantised rows with f32 vectors, compiled for the vector units that the CPU has.

use crate::base::{DType, block::BLOCK};
use half::f16;

macro_rules! dispatch {
    ($name:ident, $inner:ident) => {
        /// Chooses the widest form that this CPU runs.
        pub fn $name(row: &[u8], x: &[f32]) -> f32 {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma,f16c")]
                fn wide(row: &[u8], x: &[f32]) -> f32 {
                    $inner(row, x)
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
                    // SAFETY: the features were just seen.
                    return unsafe { wide(row, x) };
                }
            }
            $inner(row, x)
        }
    };
}
dispatch!(q4_0, q4_0_inner);
dispatch!(q4_1, q4_1_inner);
dispatch!(q8_0, q8_0_inner);

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

/// Σ q·x and Σ x over a block of nibbles, in eight lanes.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::block;

    #[test]
    fn blocks_dot_as_decoded_values_do() {
        let w: Vec<f32> = (0..128).map(|i| ((i * 29 % 101) as f32 - 50.0) / 17.0).collect();
        let x: Vec<f32> = (0..128).map(|i| ((i * 13 % 67) as f32 - 33.0) / 9.0).collect();
        for dtype in [DType::Q4_0, DType::Q4_1, DType::Q8_0] {
            let bytes = block::encode(dtype, &w);
            let want: f64 = block::decode(dtype, &bytes).iter().zip(&x).map(|(a, b)| *a as f64 * *b as f64).sum();
            let got = dot(dtype)(&bytes, &x) as f64;
            assert!((got - want).abs() < 1e-3, "{dtype}: {got} for {want}");
        }
    }
}

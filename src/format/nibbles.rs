//! What formats of 32 elements of four bits share: byte i holds element i below and element i + 16 above.

/// `y = q · d + m` for a block.
#[inline(always)]
pub fn decode(q: &[u8], d: f32, m: f32, y: &mut [f32]) {
    for i in 0..16 {
        y[i] = (q[i] & 15) as f32 * d + m;
        y[16 + i] = (q[i] >> 4) as f32 * d + m;
    }
}

/// Σ (q·d + m)·x over a block, added to eight lanes.
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
#[inline(always)]
pub fn dot(q: &[u8], x: &[f32], sums: &mut [f32; 8], d: f32, m: f32) {
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

/// Σ (q·d + m)·x over a block, added to eight lanes.
#[cfg(not(all(target_arch = "wasm32", target_feature = "simd128")))]
#[inline(always)]
pub fn dot(q: &[u8], x: &[f32], sums: &mut [f32; 8], d: f32, m: f32) {
    let (lo, hi) = x.split_at(16);
    for half in 0..2 {
        for i in 0..8 {
            let b = q[half * 8 + i];
            let (u, v) = ((b & 15) as f32, (b >> 4) as f32);
            sums[i] += (u * d + m) * lo[half * 8 + i] + (v * d + m) * hi[half * 8 + i];
        }
    }
}

/// Sixteen bytes of 32 numbers below 16.
pub fn pack(q: &[u8; 32], out: &mut Vec<u8>) {
    out.extend((0..16).map(|i| q[i] | q[i + 16] << 4));
}

/// The element farthest from zero, with its sign.
pub fn extreme(v: &[f32]) -> f32 {
    v.iter().fold(0.0f32, |m, x| if x.abs() > m.abs() { *x } else { m })
}

/// The least and the greatest element.
pub fn range(v: &[f32]) -> (f32, f32) {
    v.iter().fold((f32::MAX, f32::MIN), |(l, h), x| (l.min(*x), h.max(*x)))
}

/// The whole part of a number, up to `most`.
pub fn level(x: f32, most: u8) -> u8 {
    (x as i32).clamp(0, most as i32) as u8
}

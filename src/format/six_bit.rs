//! The twelve bytes in which Q4_K and Q5_K keep eight scales and eight minima of six bits.

use super::levels::Numbers;
use super::search::{self, as_half};
use super::wide::{half, inverse, push_half};

/// Scale and minimum of run `r`: the low six bits of bytes r and r + 4 for the first four, for the others nibbles of byte
/// r + 4 and the bits that those leave.
#[inline(always)]
pub fn scale_and_min(b: &[u8], r: usize) -> (u8, u8) {
    if r < 4 {
        (b[r] & 63, b[r + 4] & 63)
    } else {
        (b[r + 4] & 15 | b[r - 4] >> 6 << 4, b[r + 4] >> 4 | b[r] >> 6 << 4)
    }
}

fn pack(scales: [u8; 8], minima: [u8; 8], out: &mut Vec<u8>) {
    out.extend((0..4).map(|r| scales[r] | scales[r + 4] >> 4 << 6));
    out.extend((0..4).map(|r| minima[r] | minima[r + 4] >> 4 << 6));
    out.extend((4..8).map(|r| scales[r] & 15 | minima[r] << 4));
}

/// Factor and offset (to be taken away) of each run of a block, which begins with both scales and the twelve bytes.
#[inline(always)]
pub fn factors(b: &[u8]) -> [(f32, f32); 8] {
    let (d, min) = (half(b, 0), half(b, 2));
    std::array::from_fn(|r| {
        let (s, m) = scale_and_min(&b[4..16], r);
        (d * s as f32, min * m as f32)
    })
}

/// Scales and minima of a block.
pub fn read(b: &[u8], to: &mut Numbers) {
    to.head.copy_from_slice(&b[..4]);
    for r in 0..8 {
        (to.scales[r], to.minima[r]) = scale_and_min(&b[4..16], r);
    }
}

/// Encodes 256 values with numbers up to `hi`: appends the first sixteen bytes, and gives the numbers.
pub fn encode(v: &[f32; 256], hi: u8, out: &mut Vec<u8>) -> [u8; 256] {
    let runs = v.as_chunks::<32>().0;
    let fits: [(f32, f32); 8] = std::array::from_fn(|r| search::affine(&runs[r], hi));
    let most = |f: fn(&(f32, f32)) -> f32| as_half(fits.iter().map(f).fold(0.0, f32::max) / 63.0);
    let (d, min) = (most(|f| f.0), most(|f| f.1));
    let six = |x: f32, by: f32| (x * inverse(by)).round().clamp(0.0, 63.0) as u8;
    push_half(out, d);
    push_half(out, min);
    let (scales, minima) = (fits.map(|f| six(f.0, d)), fits.map(|f| six(f.1, min)));
    pack(scales, minima, out);
    std::array::from_fn(|i| search::nearest(v[i], d * scales[i / 32] as f32, min * minima[i / 32] as f32, hi))
}

/// WGSL: `factors(h, r)` of run `r` from the first sixteen bytes of a block.
macro_rules! six_bit_wgsl {
    () => {
        "fn factors(h: vec4<u32>, r: u32) -> vec2<f32> {
    let all = unpack2x16float(h.x);
    let b = (h.yzw >> vec3<u32>(8u * (r & 3u))) & vec3<u32>(255u);
    let far = vec2<u32>((b.z & 15u) | ((b.x >> 6u) << 4u), (b.z >> 4u) | ((b.y >> 6u) << 4u));
    return vec2<f32>(all.x, -all.y) * vec2<f32>(select(far, b.xy & vec2<u32>(63u), r < 4u));
}
"
    };
}
pub(super) use six_bit_wgsl;

//! 256 weights of 3 bits, each 16 of them with a scale of 6 bits, all with one of f16: `d · (s − 32) · (q − 4)`.

use super::levels::{Levels, Numbers, Scales};
use super::nibbles::extreme;
use super::search::{self, as_half};
use super::wgsl::Blocks;
use super::wide::{half, inverse, push_half, widest};
use super::{Class, Float, Format, Wgsl};

pub static FORMAT: Format = Format {
    name: "q3_k",
    ggml: Some(11),
    class: Class::Float,
    block: 256,
    bytes: 110,
    planes: &[&[0..96], &[96..108], &[108..110]],
    float: Some(Float {
        decode,
        encode,
        dot: None,
        levels: Some(Levels { bits: 3, scales: Scales::Runs(16), steps: None, zero: 4, read }),
        wgsl: Wgsl::Blocks(Blocks { text: WGSL, offset: true }),
    }),
};

/// Twice sixteen bytes of third bits (bit r of a byte is run r's), then four times of two bits.
const WGSL: &str = "\
struct Run { lo: vec4<u32>, hi: vec4<u32>, d: vec2<f32> }
fn three(q: vec4<u32>, h: vec4<u32>, r: u32) -> vec4<u32> {
    let low = (q >> vec4<u32>(2u * (r & 3u))) & vec4<u32>(0x03030303u);
    return low | (((h >> vec4<u32>(r)) & vec4<u32>(0x01010101u)) << vec4<u32>(2u));
}
fn six(a: u32, b: u32, c: u32, g: u32) -> f32 {
    let at = 8u * (g & 3u);
    let low = (select(a, b, (g & 4u) != 0u) >> (at + 4u * (g / 8u))) & 15u;
    return f32(low | (((c >> (at + 2u * (g / 4u))) & 3u) << 4u)) - 32.0;
}
fn run_at(i: u32, s: vec2<u32>) -> Run {
    let r = i % 8u;
    let block = (i / 8u) * 6u;
    let at = block + 2u + 2u * (r / 4u);
    let w = s.x + 3u * (i / 8u);
    let a = s_at(w);
    let b = s_at(w + 1u);
    let c = s_at(w + 2u);
    let two = vec2<f32>(six(a, b, c, 2u * r), six(a, b, c, 2u * r + 1u));
    return Run(three(b_at(at), b_at(block), r), three(b_at(at + 1u), b_at(block + 1u), r), half_at(s.y, i / 8u) * two);
}
fn packed(r: Run, j: u32) -> vec2<u32> {
    let q = select(r.hi, r.lo, j < 2u);
    return select(q.zw, q.xy, (j & 1u) == 0u);
}
fn scale(r: Run, j: u32) -> vec2<f32> { let d = select(r.d.y, r.d.x, j < 2u); return vec2<f32>(d, -4.0 * d); }
";

widest! {
    fn decode(blocks: &[u8], out: &mut [f32]) = decode_inner;
}

/// Scale `g` of twelve bytes: a nibble of the first eight, two bits of the last four.
#[inline(always)]
fn scale(b: &[u8], g: usize) -> i32 {
    let (low, high) = (b[g % 8] >> (4 * (g / 8)) & 15, b[8 + g % 4] >> (2 * (g / 4)) & 3);
    (low | high << 4) as i32 - 32
}

#[inline(always)]
fn decode_inner(blocks: &[u8], out: &mut [f32]) {
    for (b, y) in blocks.as_chunks::<110>().0.iter().zip(out.as_chunks_mut::<256>().0) {
        let d = half(b, 108);
        for (r, y) in y.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (high, q) = (&b[..32], &b[32 + r / 4 * 32..][..32]);
            let scales = [2 * r, 2 * r + 1].map(|g| d * scale(&b[96..108], g) as f32);
            for i in 0..32 {
                let q = q[i] >> (2 * (r % 4)) & 3 | (high[i] >> r & 1) << 2;
                y[i] = scales[i / 16] * (q as i32 - 4) as f32;
            }
        }
    }
}

fn read(b: &[u8], to: &mut Numbers) {
    to.half(0, b, 108);
    to.scales = std::array::from_fn(|g| scale(&b[96..108], g) as i8 as u8);
    for (r, to) in to.q.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (high, q) = (&b[..32], &b[32 + r / 4 * 32..][..32]);
        for i in 0..32 {
            to[i] = q[i] >> (2 * (r % 4)) & 3 | (high[i] >> r & 1) << 2;
        }
    }
}

fn encode(values: &[f32], out: &mut Vec<u8>) {
    for v in values.as_chunks::<256>().0 {
        let fits: Vec<f32> = v.as_chunks::<16>().0.iter().map(|x| search::scale(x, -4, 3)).collect();
        let d = as_half(extreme(&fits) / -32.0);
        let scales: Vec<i32> = fits.iter().map(|s| (s * inverse(d)).round().clamp(-32.0, 31.0) as i32).collect();
        let number = |i: usize| {
            let by = inverse(d * scales[i / 16] as f32);
            ((v[i] * by).round().clamp(-4.0, 3.0) as i32 + 4) as u8
        };
        let q: [u8; 256] = std::array::from_fn(number);
        out.extend((0..32).map(|i| (0..8).fold(0, |h, r| h | q[32 * r + i] >> 2 << r)));
        for half in q.as_chunks::<128>().0 {
            out.extend((0..32).map(|i| (0..4).fold(0, |b, r| b | (half[32 * r + i] & 3) << (2 * r))));
        }
        let six: Vec<u8> = scales.iter().map(|s| (s + 32) as u8).collect();
        out.extend((0..8).map(|i| six[i] & 15 | six[i + 8] << 4));
        out.extend((0..4).map(|i| (0..4).fold(0, |b, k| b | six[4 * k + i] >> 4 << (2 * k))));
        push_half(out, d);
    }
}

//! 256 weights of 6 bits, each 16 of them with a signed scale of 8 bits, all with one of f16: `d · s · (q − 32)`.

use super::levels::{Levels, Numbers, Scales};
use super::nibbles::extreme;
use super::search::{self, as_half};
use super::wgsl::Blocks;
use super::wide::{half, inverse, push_half, widest};
use super::{Class, Float, Format, Wgsl};

pub static FORMAT: Format = Format {
    name: "q6_k",
    ggml: Some(14),
    class: Class::Float,
    block: 256,
    bytes: 210,
    planes: &[&[0..208], &[208..210]],
    float: Some(Float {
        decode,
        encode,
        dot: None,
        levels: Some(Levels { bits: 6, scales: Scales::Runs(16), steps: None, zero: 32, read }),
        wgsl: Wgsl::Blocks(Blocks { text: WGSL, offset: true }),
    }),
};

/// Thirteen times sixteen bytes: eight of nibbles, four of upper bits, one of scales.
const WGSL: &str = "\
struct Run { lo: vec4<u32>, hi: vec4<u32>, d: vec2<f32> }
fn six(q: vec4<u32>, h: vec4<u32>, r: u32) -> vec4<u32> {
    let low = (q >> vec4<u32>(2u * (r & 2u))) & vec4<u32>(0x0f0f0f0fu);
    return low | (((h >> vec4<u32>(2u * (r & 3u))) & vec4<u32>(0x03030303u)) << vec4<u32>(4u));
}
fn run_at(i: u32, s: vec2<u32>) -> Run {
    let r = i % 8u;
    let block = (i / 8u) * 13u;
    let q = block + 4u * (r / 4u) + 2u * (r & 1u);
    let h = block + 8u + 2u * (r / 4u);
    let scales = bitcast<i32>(b_at(block + 12u)[r / 2u]);
    let at = 16u * (r & 1u);
    let two = vec2<f32>(f32(extractBits(scales, at, 8u)), f32(extractBits(scales, at + 8u, 8u)));
    return Run(six(b_at(q), b_at(h), r), six(b_at(q + 1u), b_at(h + 1u), r), half_at(s.x, i / 8u) * two);
}
fn packed(r: Run, j: u32) -> vec2<u32> {
    let q = select(r.hi, r.lo, j < 2u);
    return select(q.zw, q.xy, (j & 1u) == 0u);
}
fn scale(r: Run, j: u32) -> vec2<f32> { let d = select(r.d.y, r.d.x, j < 2u); return vec2<f32>(d, -32.0 * d); }
";

widest! {
    fn decode(blocks: &[u8], out: &mut [f32]) = decode_inner;
}

#[inline(always)]
fn decode_inner(blocks: &[u8], out: &mut [f32]) {
    for (b, y) in blocks.as_chunks::<210>().0.iter().zip(out.as_chunks_mut::<256>().0) {
        let d = half(b, 208);
        for (r, y) in y.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let q = &b[r / 4 * 64 + r % 2 * 32..][..32];
            let h = &b[128 + r / 4 * 32..][..32];
            let scales = [192 + 2 * r, 193 + 2 * r].map(|at| d * (b[at] as i8) as f32);
            for i in 0..32 {
                let q = q[i] >> (4 * (r / 2 % 2)) & 15 | (h[i] >> (2 * (r % 4)) & 3) << 4;
                y[i] = scales[i / 16] * (q as i32 - 32) as f32;
            }
        }
    }
}

fn read(b: &[u8], to: &mut Numbers) {
    to.half(0, b, 208);
    to.scales.copy_from_slice(&b[192..208]);
    for (r, to) in to.q.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let q = &b[r / 4 * 64 + r % 2 * 32..][..32];
        let h = &b[128 + r / 4 * 32..][..32];
        for i in 0..32 {
            to[i] = q[i] >> (4 * (r / 2 % 2)) & 15 | (h[i] >> (2 * (r % 4)) & 3) << 4;
        }
    }
}

fn encode(values: &[f32], out: &mut Vec<u8>) {
    for v in values.as_chunks::<256>().0 {
        let fits: Vec<f32> = v.as_chunks::<16>().0.iter().map(|x| search::scale(x, -32, 31)).collect();
        let d = as_half(extreme(&fits) / -128.0);
        let scales: Vec<i8> = fits.iter().map(|s| (s * inverse(d)).round().clamp(-128.0, 127.0) as i8).collect();
        let number = |i: usize| {
            let by = inverse(d * scales[i / 16] as f32);
            ((v[i] * by).round().clamp(-32.0, 31.0) as i32 + 32) as u8
        };
        let q: [u8; 256] = std::array::from_fn(number);
        for half in q.as_chunks::<128>().0 {
            out.extend((0..64).map(|i| half[i] & 15 | half[64 + i] << 4));
        }
        for half in q.as_chunks::<128>().0 {
            out.extend((0..32).map(|i| (0..4).fold(0, |h, r| h | half[32 * r + i] >> 4 << (2 * r))));
        }
        out.extend(scales.iter().map(|s| *s as u8));
        push_half(out, d);
    }
}

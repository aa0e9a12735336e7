//! 256 weights of 2 bits, each 16 of them with a scale and a minimum of 4 bits, all with two of f16: `d · s · q − dmin · m`.

use super::levels::{Levels, Numbers, Scales};
use super::search::{self, as_half};
use super::wgsl::Blocks;
use super::wide::{half, inverse, push_half, widest};
use super::{Class, Float, Format, Wgsl};

pub static FORMAT: Format = Format {
    name: "q2_k",
    ggml: Some(10),
    class: Class::Float,
    block: 256,
    bytes: 84,
    planes: &[&[16..80, 0..16], &[80..84]],
    float: Some(Float {
        decode,
        encode,
        dot: None,
        levels: Some(Levels { bits: 2, scales: Scales::RunsMin(16), steps: None, zero: 0, read }),
        wgsl: Wgsl::Blocks(Blocks { text: WGSL, offset: true }),
    }),
};

/// Four times sixteen bytes of numbers, then sixteen of scales; four runs share 32 bytes, two bits each.
const WGSL: &str = "\
struct Run { lo: vec4<u32>, hi: vec4<u32>, s: u32, d: vec2<f32> }
fn run_at(i: u32, s: vec2<u32>) -> Run {
    let r = i % 8u;
    let block = (i / 8u) * 5u;
    let at = block + 2u * (r / 4u);
    let by = vec4<u32>(2u * (r & 3u));
    let low = vec4<u32>(0x03030303u);
    let scales = b_at(block + 4u)[r / 2u] >> (16u * (r & 1u));
    return Run((b_at(at) >> by) & low, (b_at(at + 1u) >> by) & low, scales, unpack2x16float(s_at(s.x + i / 8u)));
}
fn packed(r: Run, j: u32) -> vec2<u32> {
    let q = select(r.hi, r.lo, j < 2u);
    return select(q.zw, q.xy, (j & 1u) == 0u);
}
fn scale(r: Run, j: u32) -> vec2<f32> {
    let s = r.s >> (8u * (j / 2u));
    return vec2<f32>(r.d.x * f32(s & 15u), -r.d.y * f32((s >> 4u) & 15u));
}
";

widest! {
    fn decode(blocks: &[u8], out: &mut [f32]) = decode_inner;
}

#[inline(always)]
fn decode_inner(blocks: &[u8], out: &mut [f32]) {
    for (b, y) in blocks.as_chunks::<84>().0.iter().zip(out.as_chunks_mut::<256>().0) {
        let (d, min) = (half(b, 80), half(b, 82));
        for (r, y) in y.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let q = &b[16 + r / 4 * 32..][..32];
            for i in 0..32 {
                let s = b[2 * r + i / 16];
                let (d, m) = (d * (s & 15) as f32, min * (s >> 4) as f32);
                y[i] = d * (q[i] >> (2 * (r % 4)) & 3) as f32 - m;
            }
        }
    }
}

fn read(b: &[u8], to: &mut Numbers) {
    to.head.copy_from_slice(&b[80..84]);
    (to.scales, to.minima) = (std::array::from_fn(|g| b[g] & 15), std::array::from_fn(|g| b[g] >> 4));
    for (r, to) in to.q.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let q = &b[16 + r / 4 * 32..][..32];
        for i in 0..32 {
            to[i] = q[i] >> (2 * (r % 4)) & 3;
        }
    }
}

fn encode(values: &[f32], out: &mut Vec<u8>) {
    for v in values.as_chunks::<256>().0 {
        let fits: Vec<(f32, f32)> = v.as_chunks::<16>().0.iter().map(|x| search::affine(x, 3)).collect();
        let most = |f: fn(&(f32, f32)) -> f32| as_half(fits.iter().map(f).fold(0.0, f32::max) / 15.0);
        let (d, min) = (most(|f| f.0), most(|f| f.1));
        let four = |x: f32, by: f32| (x * inverse(by)).round().clamp(0.0, 15.0) as u8;
        let scales: Vec<(u8, u8)> = fits.iter().map(|f| (four(f.0, d), four(f.1, min))).collect();
        let number = |i: usize| {
            let (s, m) = scales[i / 16];
            search::nearest(v[i], d * s as f32, min * m as f32, 3)
        };
        let q: [u8; 256] = std::array::from_fn(number);
        out.extend(scales.iter().map(|(s, m)| s | m << 4));
        for half in q.as_chunks::<128>().0 {
            out.extend((0..32).map(|i| (0..4).fold(0, |b, r| b | half[32 * r + i] << (2 * r))));
        }
        push_half(out, d);
        push_half(out, min);
    }
}

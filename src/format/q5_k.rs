//! 256 weights of 5 bits, each 32 of them with a scale and a minimum of 6 bits, all with two of f16: `d · s · q − dmin · m`.

use super::levels::{Levels, Numbers, Scales};
use super::six_bit::{self, six_bit_wgsl};
use super::wgsl::Blocks;
use super::wide::widest;
use super::{Class, Float, Format, Wgsl};

pub static FORMAT: Format = Format {
    name: "q5_k",
    ggml: Some(13),
    class: Class::Float,
    block: 256,
    bytes: 176,
    planes: &[&[0..176]],
    float: Some(Float {
        decode,
        encode,
        dot: None,
        levels: Some(Levels { bits: 5, scales: Scales::RunsMin(32), steps: None, zero: 0, read }),
        wgsl: Wgsl::Blocks(Blocks { text: WGSL, offset: true }),
    }),
};

/// As Q4_K, with 32 bytes of fifth bits before the nibbles: bit r of a byte is run r's.
const WGSL: &str = concat!(
    six_bit_wgsl!(),
    "struct Run { lo: vec4<u32>, hi: vec4<u32>, d: vec2<f32> }
fn five(q: vec4<u32>, h: vec4<u32>, r: u32) -> vec4<u32> {
    let low = (q >> vec4<u32>(4u * (r & 1u))) & vec4<u32>(0x0f0f0f0fu);
    return low | (((h >> vec4<u32>(r)) & vec4<u32>(0x01010101u)) << vec4<u32>(4u));
}
fn run_at(i: u32, s: vec2<u32>) -> Run {
    let r = i % 8u;
    let block = (i / 8u) * 11u;
    let at = block + 3u + 2u * (r / 2u);
    return Run(five(b_at(at), b_at(block + 1u), r), five(b_at(at + 1u), b_at(block + 2u), r), factors(b_at(block), r));
}
fn packed(r: Run, j: u32) -> vec2<u32> {
    let q = select(r.hi, r.lo, j < 2u);
    return select(q.zw, q.xy, (j & 1u) == 0u);
}
fn scale(r: Run, j: u32) -> vec2<f32> { return r.d; }
"
);

widest! {
    fn decode(blocks: &[u8], out: &mut [f32]) = decode_inner;
}

#[inline(always)]
fn decode_inner(blocks: &[u8], out: &mut [f32]) {
    for (b, y) in blocks.as_chunks::<176>().0.iter().zip(out.as_chunks_mut::<256>().0) {
        let factors = six_bit::factors(b);
        for (r, y) in y.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let ((d, m), high, q) = (factors[r], &b[16..48], &b[48 + r / 2 * 32..][..32]);
            for i in 0..32 {
                let q = q[i] >> (4 * (r % 2)) & 15 | (high[i] >> r & 1) << 4;
                y[i] = d * q as f32 - m;
            }
        }
    }
}

fn read(b: &[u8], to: &mut Numbers) {
    six_bit::read(b, to);
    let high = &b[16..48];
    for (c, (bytes, q)) in b[48..].as_chunks::<32>().0.iter().zip(to.q.as_chunks_mut::<64>().0).enumerate() {
        for i in 0..32 {
            q[i] = bytes[i] & 15 | (high[i] >> (2 * c) & 1) << 4;
            q[32 + i] = bytes[i] >> 4 | (high[i] >> (2 * c + 1) & 1) << 4;
        }
    }
}

fn encode(values: &[f32], out: &mut Vec<u8>) {
    for v in values.as_chunks::<256>().0 {
        let q = six_bit::encode(v, 31, out);
        out.extend((0..32).map(|i| (0..8).fold(0, |h, r| h | q[32 * r + i] >> 4 << r)));
        out.extend(q.as_chunks::<64>().0.iter().flat_map(|q| (0..32).map(|i| q[i] & 15 | q[32 + i] << 4)));
    }
}

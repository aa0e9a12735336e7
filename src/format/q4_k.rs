//! 256 weights of 4 bits, each 32 of them with a scale and a minimum of 6 bits, all with two of f16: `d · s · q − dmin · m`.

use super::levels::{Levels, Numbers, Scales};
use super::six_bit::{self, six_bit_wgsl};
use super::wgsl::Blocks;
use super::wide::widest;
use super::{Class, Float, Format, Wgsl};

pub static FORMAT: Format = Format {
    name: "q4_k",
    ggml: Some(12),
    class: Class::Float,
    block: 256,
    bytes: 144,
    planes: &[&[0..144]],
    float: Some(Float {
        decode,
        encode,
        dot: None,
        levels: Some(Levels { bits: 4, scales: Scales::RunsMin(32), steps: None, zero: 0, read }),
        wgsl: Wgsl::Blocks(Blocks { text: WGSL, offset: true }),
    }),
};

/// A block is nine times sixteen bytes; runs 2c and 2c + 1 are the low and the high nibbles of 32 bytes.
const WGSL: &str = concat!(
    six_bit_wgsl!(),
    "struct Run { lo: vec4<u32>, hi: vec4<u32>, d: vec2<f32> }
fn run_at(i: u32, s: vec2<u32>) -> Run {
    let r = i % 8u;
    let block = (i / 8u) * 9u;
    let at = block + 1u + 2u * (r / 2u);
    let by = vec4<u32>(4u * (r & 1u));
    let low = vec4<u32>(0x0f0f0f0fu);
    return Run((b_at(at) >> by) & low, (b_at(at + 1u) >> by) & low, factors(b_at(block), r));
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
    for (b, y) in blocks.as_chunks::<144>().0.iter().zip(out.as_chunks_mut::<256>().0) {
        let factors = six_bit::factors(b);
        for (r, y) in y.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let ((d, m), q) = (factors[r], &b[16 + r / 2 * 32..][..32]);
            for i in 0..32 {
                y[i] = d * (q[i] >> (4 * (r % 2)) & 15) as f32 - m;
            }
        }
    }
}

fn read(b: &[u8], to: &mut Numbers) {
    six_bit::read(b, to);
    for (bytes, q) in b[16..].as_chunks::<32>().0.iter().zip(to.q.as_chunks_mut::<64>().0) {
        for i in 0..32 {
            (q[i], q[32 + i]) = (bytes[i] & 15, bytes[i] >> 4);
        }
    }
}

fn encode(values: &[f32], out: &mut Vec<u8>) {
    for v in values.as_chunks::<256>().0 {
        let q = six_bit::encode(v, 15, out);
        out.extend(q.as_chunks::<64>().0.iter().flat_map(|q| (0..32).map(|i| q[i] | q[32 + i] << 4)));
    }
}

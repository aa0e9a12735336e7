//! 32 weights of 4 bits with an f16 scale and minimum: `d · q + m`.

use super::levels::{Levels, Numbers, Scales};
use super::nibbles::{self, level, range};
use super::wgsl::Blocks;
use super::wide::{half, inverse, push_half, widest};
use super::{Class, Float, Format, Wgsl};

pub static FORMAT: Format = Format {
    name: "q4_1",
    ggml: Some(3),
    class: Class::Float,
    block: 32,
    bytes: 20,
    planes: &[&[4..20], &[0..4]],
    float: Some(Float {
        decode,
        encode,
        dot: Some(dot),
        levels: Some(Levels { bits: 4, scales: Scales::HalfMin, steps: None, zero: 0, read }),
        wgsl: Wgsl::Blocks(Blocks { text: WGSL, offset: true }),
    }),
};

const WGSL: &str = "\
struct Run { q: vec4<u32>, d: vec2<f32> }
fn run_at(i: u32, s: vec2<u32>) -> Run { return Run(b_at(i), unpack2x16float(s_at(s.x + i))); }
fn packed(r: Run, j: u32) -> vec2<u32> {
    let q = select(r.q.zw, r.q.xy, (j & 1u) == 0u);
    return (q >> vec2<u32>((j >> 1u) * 4u)) & vec2<u32>(0x0f0f0f0fu);
}
fn scale(r: Run, j: u32) -> vec2<f32> { return r.d; }
";

widest! {
    fn decode(blocks: &[u8], out: &mut [f32]) = decode_inner;
    fn dot(row: &[u8], x: &[f32]) -> f32 = dot_inner;
}

#[inline(always)]
fn decode_inner(blocks: &[u8], out: &mut [f32]) {
    for (b, y) in blocks.as_chunks::<20>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        nibbles::decode(&b[4..], half(b, 0), half(b, 2), y);
    }
}

#[inline(always)]
fn dot_inner(row: &[u8], x: &[f32]) -> f32 {
    let mut sums = [0.0; 8];
    for (b, x) in row.as_chunks::<20>().0.iter().zip(x.as_chunks::<32>().0) {
        nibbles::dot(&b[4..], x, &mut sums, half(b, 0), half(b, 2));
    }
    sums.iter().sum()
}

fn read(b: &[u8], to: &mut Numbers) {
    to.head.copy_from_slice(&b[..4]);
    to.nibbles(0, &b[4..]);
}

fn encode(values: &[f32], out: &mut Vec<u8>) {
    for v in values.as_chunks::<32>().0 {
        let (lo, hi) = range(v);
        let d = (hi - lo) / 15.0;
        let id = inverse(d);
        push_half(out, d);
        push_half(out, lo);
        nibbles::pack(&v.map(|x| level((x - lo) * id + 0.5, 15)), out);
    }
}

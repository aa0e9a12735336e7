//! 32 weights of 4 bits with one f16 scale: `d · (q − 8)`.

use super::levels::{Levels, Numbers, Scales};
use super::nibbles::{self, extreme, level};
use super::wgsl::Blocks;
use super::wide::{half, inverse, push_half, widest};
use super::{Class, Float, Format, Wgsl};

pub static FORMAT: Format = Format {
    name: "q4_0",
    ggml: Some(2),
    class: Class::Float,
    block: 32,
    bytes: 18,
    planes: &[&[2..18], &[0..2]],
    float: Some(Float {
        decode,
        encode,
        dot: Some(dot),
        levels: Some(Levels { bits: 4, scales: Scales::Half, steps: None, zero: 8, read }),
        wgsl: Wgsl::Blocks(Blocks { text: WGSL, offset: true }),
    }),
};

/// The offset of 8 goes to the scale: nibbles are whole words of bytes as they stand.
const WGSL: &str = "\
struct Run { q: vec4<u32>, d: f32 }
fn run_at(i: u32, s: vec2<u32>) -> Run { return Run(b_at(i), half_at(s.x, i)); }
fn packed(r: Run, j: u32) -> vec2<u32> {
    let q = select(r.q.zw, r.q.xy, (j & 1u) == 0u);
    return (q >> vec2<u32>((j >> 1u) * 4u)) & vec2<u32>(0x0f0f0f0fu);
}
fn scale(r: Run, j: u32) -> vec2<f32> { let d = r.d; return vec2<f32>(d, -8.0 * d); }
";

widest! {
    fn decode(blocks: &[u8], out: &mut [f32]) = decode_inner;
    fn dot(row: &[u8], x: &[f32]) -> f32 = dot_inner;
}

#[inline(always)]
fn decode_inner(blocks: &[u8], out: &mut [f32]) {
    for (b, y) in blocks.as_chunks::<18>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        let d = half(b, 0);
        for i in 0..16 {
            y[i] = d * ((b[2 + i] & 15) as i32 - 8) as f32;
            y[16 + i] = d * ((b[2 + i] >> 4) as i32 - 8) as f32;
        }
    }
}

#[inline(always)]
fn dot_inner(row: &[u8], x: &[f32]) -> f32 {
    let mut sums = [0.0; 8];
    for (b, x) in row.as_chunks::<18>().0.iter().zip(x.as_chunks::<32>().0) {
        let d = half(b, 0);
        nibbles::dot(&b[2..], x, &mut sums, d, -8.0 * d);
    }
    sums.iter().sum()
}

fn read(b: &[u8], to: &mut Numbers) {
    to.half(0, b, 0);
    to.nibbles(0, &b[2..]);
}

fn encode(values: &[f32], out: &mut Vec<u8>) {
    for v in values.as_chunks::<32>().0 {
        let d = extreme(v) / -8.0;
        let id = inverse(d);
        push_half(out, d);
        nibbles::pack(&v.map(|x| level(x * id + 8.5, 15)), out);
    }
}

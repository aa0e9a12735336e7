//! 32 weights of 8 bits with one f16 scale: `d · q`.

use super::levels::{Levels, Numbers, Scales};
use super::nibbles::extreme;
use super::wgsl::Blocks;
use super::wide::{half, inverse, push_half, widest};
use super::{Class, Float, Format, Wgsl};

pub static FORMAT: Format = Format {
    name: "q8_0",
    ggml: Some(8),
    class: Class::Float,
    block: 32,
    bytes: 34,
    planes: &[&[2..34], &[0..2]],
    float: Some(Float {
        decode,
        encode,
        dot: Some(dot),
        levels: Some(Levels { bits: 8, scales: Scales::Half, steps: None, zero: 128, read }),
        wgsl: Wgsl::Blocks(Blocks { text: WGSL, offset: false }),
    }),
};

const WGSL: &str = "\
struct Run { lo: vec4<u32>, hi: vec4<u32>, d: f32 }
fn run_at(i: u32, s: vec2<u32>) -> Run { return Run(b_at(i * 2u), b_at(i * 2u + 1u), half_at(s.x, i)); }
fn packed(r: Run, j: u32) -> vec2<u32> {
    let q = select(r.hi, r.lo, j < 2u);
    return select(q.zw, q.xy, (j & 1u) == 0u);
}
fn scale(r: Run, j: u32) -> vec2<f32> { return vec2<f32>(r.d, 0.0); }
";

widest! {
    fn decode(blocks: &[u8], out: &mut [f32]) = decode_inner;
    fn dot(row: &[u8], x: &[f32]) -> f32 = dot_inner;
}

#[inline(always)]
fn decode_inner(blocks: &[u8], out: &mut [f32]) {
    for (b, y) in blocks.as_chunks::<34>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        let d = half(b, 0);
        for i in 0..32 {
            y[i] = d * (b[2 + i] as i8) as f32;
        }
    }
}

#[inline(always)]
fn dot_inner(row: &[u8], x: &[f32]) -> f32 {
    let mut sums = [0.0; 8];
    for (b, x) in row.as_chunks::<34>().0.iter().zip(x.as_chunks::<32>().0) {
        let d = half(b, 0);
        for part in 0..4 {
            for i in 0..8 {
                sums[i] += d * (b[2 + part * 8 + i] as i8) as f32 * x[part * 8 + i];
            }
        }
    }
    sums.iter().sum()
}

fn read(b: &[u8], to: &mut Numbers) {
    to.half(0, b, 0);
    for i in 0..32 {
        to.q[i] = b[2 + i] ^ 0x80;
    }
}

fn encode(values: &[f32], out: &mut Vec<u8>) {
    for v in values.as_chunks::<32>().0 {
        let d = extreme(v).abs() / 127.0;
        let id = inverse(d);
        push_half(out, d);
        out.extend(v.map(|x| (x * id).round() as i8 as u8));
    }
}

//! 32 weights of 5 bits with an f16 scale and minimum: `d · q + m`.

use super::five::{self, five_wgsl};
use super::levels::{Levels, Numbers, Scales};
use super::nibbles::{level, range};
use super::wgsl::Blocks;
use super::wide::{half, inverse, push_half, widest};
use super::{Class, Float, Format, Wgsl};

pub static FORMAT: Format = Format {
    name: "q5_1",
    ggml: Some(7),
    class: Class::Float,
    block: 32,
    bytes: 24,
    planes: &[&[8..24], &[0..8]],
    float: Some(Float {
        decode,
        encode,
        dot: None,
        levels: Some(Levels { bits: 5, scales: Scales::HalfMin, steps: None, zero: 0, read }),
        wgsl: Wgsl::Blocks(Blocks { text: WGSL, offset: true }),
    }),
};

const WGSL: &str = concat!(
    "struct Run { q: vec4<u32>, h: u32, d: vec2<f32> }
fn run_at(i: u32, s: vec2<u32>) -> Run {
    return Run(b_at(i), s_at(s.x + 2u * i + 1u), unpack2x16float(s_at(s.x + 2u * i)));
}
",
    five_wgsl!(),
    "fn scale(r: Run, j: u32) -> vec2<f32> { return r.d; }\n"
);

widest! {
    fn decode(blocks: &[u8], out: &mut [f32]) = decode_inner;
}

#[inline(always)]
fn decode_inner(blocks: &[u8], out: &mut [f32]) {
    for (b, y) in blocks.as_chunks::<24>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        let (d, m, high) = (half(b, 0), half(b, 2), u32::from_le_bytes([b[4], b[5], b[6], b[7]]));
        for i in 0..32 {
            y[i] = d * five::number(&b[8..], high, i) as f32 + m;
        }
    }
}

fn read(b: &[u8], to: &mut Numbers) {
    to.head.copy_from_slice(&b[..4]);
    five::numbers(&b[8..], u32::from_le_bytes([b[4], b[5], b[6], b[7]]), &mut to.q);
}

fn encode(values: &[f32], out: &mut Vec<u8>) {
    for v in values.as_chunks::<32>().0 {
        let (lo, hi) = range(v);
        let d = (hi - lo) / 31.0;
        let id = inverse(d);
        push_half(out, d);
        push_half(out, lo);
        five::pack(&v.map(|x| level((x - lo) * id + 0.5, 31)), out);
    }
}

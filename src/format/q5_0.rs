//! 32 weights of 5 bits with one f16 scale: `d · (q − 16)`.

use super::five::{self, five_wgsl};
use super::levels::{Levels, Numbers, Scales};
use super::nibbles::{extreme, level};
use super::wgsl::Blocks;
use super::wide::{half, inverse, push_half, widest};
use super::{Class, Float, Format, Wgsl};

pub static FORMAT: Format = Format {
    name: "q5_0",
    ggml: Some(6),
    class: Class::Float,
    block: 32,
    bytes: 22,
    planes: &[&[6..22], &[2..6], &[0..2]],
    float: Some(Float {
        decode,
        encode,
        dot: None,
        levels: Some(Levels { bits: 5, scales: Scales::Half, steps: None, zero: 16, read }),
        wgsl: Wgsl::Blocks(Blocks { text: WGSL, offset: true }),
    }),
};

const WGSL: &str = concat!(
    "struct Run { q: vec4<u32>, h: u32, d: f32 }
fn run_at(i: u32, s: vec2<u32>) -> Run { return Run(b_at(i), s_at(s.x + i), half_at(s.y, i)); }
",
    five_wgsl!(),
    "fn scale(r: Run, j: u32) -> vec2<f32> { return vec2<f32>(r.d, -16.0 * r.d); }\n"
);

widest! {
    fn decode(blocks: &[u8], out: &mut [f32]) = decode_inner;
}

#[inline(always)]
fn decode_inner(blocks: &[u8], out: &mut [f32]) {
    for (b, y) in blocks.as_chunks::<22>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        let (d, high) = (half(b, 0), u32::from_le_bytes([b[2], b[3], b[4], b[5]]));
        for i in 0..32 {
            y[i] = d * (five::number(&b[6..], high, i) as i32 - 16) as f32;
        }
    }
}

fn read(b: &[u8], to: &mut Numbers) {
    to.half(0, b, 0);
    five::numbers(&b[6..], u32::from_le_bytes([b[2], b[3], b[4], b[5]]), &mut to.q);
}

fn encode(values: &[f32], out: &mut Vec<u8>) {
    for v in values.as_chunks::<32>().0 {
        let d = extreme(v) / -16.0;
        let id = inverse(d);
        push_half(out, d);
        five::pack(&v.map(|x| level(x * id + 16.5, 31)), out);
    }
}

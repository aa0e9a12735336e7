//! 256 weights of 4 bits that choose from the steps of IQ4_NL, each 32 of them with a scale of 6 bits, all with one of f16:
//! `d · (s − 32) · steps[q]`.

use super::iq4_nl::{RAISED, STEPS, scale, steps_wgsl};
use super::levels::{Levels, Numbers, Scales};
use super::nibbles::{self, extreme};
use super::search::as_half;
use super::table::{self, table_wgsl};
use super::wgsl::Blocks;
use super::wide::{half, inverse, push_half, widest};
use super::{Class, Float, Format, Wgsl};

pub static FORMAT: Format = Format {
    name: "iq4_xs",
    ggml: Some(23),
    class: Class::Float,
    block: 256,
    bytes: 136,
    planes: &[&[8..136], &[0..8]],
    float: Some(Float {
        decode,
        encode,
        dot: None,
        levels: Some(Levels { bits: 4, scales: Scales::Runs(32), steps: Some(&RAISED), zero: 128, read }),
        wgsl: Wgsl::Blocks(Blocks { text: WGSL, offset: false }),
    }),
};

const WGSL: &str = concat!(
    "struct Run { q: vec4<u32>, d: f32 }
fn run_at(i: u32, s: vec2<u32>) -> Run {
    let r = i % 8u;
    let head = s_at(s.x + 2u * (i / 8u));
    let low = (s_at(s.x + 2u * (i / 8u) + 1u) >> (4u * r)) & 15u;
    let high = (head >> (16u + 2u * r)) & 3u;
    return Run(b_at(i), unpack2x16float(head).x * (f32(low | (high << 4u)) - 32.0));
}
",
    steps_wgsl!()
);

widest! {
    fn decode(blocks: &[u8], out: &mut [f32]) = decode_inner;
}

/// The six bits of a run's scale.
#[inline(always)]
fn six(b: &[u8], high: u16, r: usize) -> i32 {
    (b[4 + r / 2] >> (4 * (r % 2)) & 15) as i32 | ((high >> (2 * r) & 3) as i32) << 4
}

#[inline(always)]
fn decode_inner(blocks: &[u8], out: &mut [f32]) {
    for (b, y) in blocks.as_chunks::<136>().0.iter().zip(out.as_chunks_mut::<256>().0) {
        let (d, high) = (half(b, 0), u16::from_le_bytes([b[2], b[3]]));
        for (r, y) in y.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let dl = d * (six(b, high, r) - 32) as f32;
            for i in 0..16 {
                let q = b[8 + 16 * r + i];
                y[i] = dl * STEPS[(q & 15) as usize] as f32;
                y[16 + i] = dl * STEPS[(q >> 4) as usize] as f32;
            }
        }
    }
}

fn read(b: &[u8], to: &mut Numbers) {
    to.half(0, b, 0);
    let high = u16::from_le_bytes([b[2], b[3]]);
    for r in 0..8 {
        to.scales[r] = (six(b, high, r) - 32) as i8 as u8;
        to.nibbles(32 * r, &b[8 + 16 * r..]);
    }
}

fn encode(values: &[f32], out: &mut Vec<u8>) {
    for v in values.as_chunks::<256>().0 {
        let runs = v.as_chunks::<32>().0;
        let scales: Vec<f32> = runs.iter().map(|x| scale(x)).collect();
        let d = as_half(extreme(&scales) / -32.0);
        let steps: Vec<i32> = scales.iter().map(|s| (s * inverse(d)).round().clamp(-32.0, 31.0) as i32).collect();
        push_half(out, d);
        let six: Vec<u32> = steps.iter().map(|s| (s + 32) as u32).collect();
        let high = (0..8).fold(0u16, |h, r| h | ((six[r] >> 4) as u16) << (2 * r));
        out.extend(high.to_le_bytes());
        out.extend((0..4).map(|r| (six[2 * r] & 15 | (six[2 * r + 1] & 15) << 4) as u8));
        for (x, s) in runs.iter().zip(&steps) {
            let id = inverse(d * *s as f32);
            nibbles::pack(&x.map(|x| table::nearest(&STEPS, x * id) as u8), out);
        }
    }
}

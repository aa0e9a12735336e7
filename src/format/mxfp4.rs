//! 32 weights of 4 bits (one of sign, two of exponent, one of fraction) with one power of two (OCP Microscaling Formats 1.0).

use super::levels::{Levels, Numbers, Scales};
use super::nibbles;
use super::table::{self, table_wgsl};
use super::wgsl::Blocks;
use super::wide::{inverse, widest};
use super::{Class, Float, Format, Wgsl};

pub static FORMAT: Format = Format {
    name: "mxfp4",
    ggml: Some(39),
    class: Class::Float,
    block: 32,
    bytes: 17,
    planes: &[&[1..17], &[0..1]],
    float: Some(Float {
        decode,
        encode,
        dot: None,
        levels: Some(Levels { bits: 4, scales: Scales::Power, steps: Some(&RAISED), zero: 12, read }),
        wgsl: Wgsl::Blocks(Blocks { text: WGSL, offset: false }),
    }),
};

/// Twice the numbers of four bits, so that they are whole; scales are halved for it.
const DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

const RAISED: [u8; 16] = table::raised(&DOUBLED, 12);

const WGSL: &str = concat!(
    "struct Run { q: vec4<u32>, d: f32 }
fn run_at(i: u32, s: vec2<u32>) -> Run {
    let e = (s_at(s.x + i / 4u) >> (8u * (i % 4u))) & 255u;
    return Run(b_at(i), bitcast<f32>(select((max(e, 1u) - 1u) << 23u, 0x00200000u << min(e, 1u), e < 2u)));
}
",
    table_wgsl!(
        "0x00000000u" "0x01010101u"
        "0x02020202u" "0x03030303u"
        "0x04040404u" "0x06060606u"
        "0x08080808u" "0x0c0c0c0cu"
        "0x00000000u" "0xffffffffu"
        "0xfefefefeu" "0xfdfdfdfdu"
        "0xfcfcfcfcu" "0xfafafafau"
        "0xf8f8f8f8u" "0xf4f4f4f4u"
    )
);

widest! {
    fn decode(blocks: &[u8], out: &mut [f32]) = decode_inner;
}

/// Half of 2^(e − 127); the least two are subnormal.
#[inline(always)]
fn scale(e: u8) -> f32 {
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { (e as u32 - 1) << 23 })
}

#[inline(always)]
fn decode_inner(blocks: &[u8], out: &mut [f32]) {
    for (b, y) in blocks.as_chunks::<17>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        let d = scale(b[0]);
        for i in 0..16 {
            y[i] = d * DOUBLED[(b[1 + i] & 15) as usize] as f32;
            y[16 + i] = d * DOUBLED[(b[1 + i] >> 4) as usize] as f32;
        }
    }
}

fn read(b: &[u8], to: &mut Numbers) {
    let upper = (scale(b[0]).to_bits() >> 16) as u16;
    to.half(0, &upper.to_le_bytes(), 0);
    to.nibbles(0, &b[1..]);
}

fn encode(values: &[f32], out: &mut Vec<u8>) {
    for v in values.as_chunks::<32>().0 {
        let most = nibbles::extreme(v).abs();
        let e = if most > 0.0 { (most.log2().floor() - 2.0 + 127.0).clamp(0.0, 254.0) as u8 } else { 0 };
        let id = inverse(scale(e));
        out.push(e);
        nibbles::pack(&v.map(|x| table::nearest(&DOUBLED, x * id) as u8), out);
    }
}

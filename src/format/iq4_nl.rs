//! 32 weights of 4 bits that choose from sixteen uneven steps, with one f16 scale: `d · steps[q]`.

use super::levels::{Levels, Numbers, Scales};
use super::nibbles;
use super::search;
use super::table::{self, table_wgsl};
use super::wgsl::Blocks;
use super::wide::{half, inverse, push_half, widest};
use super::{Class, Float, Format, Wgsl};

pub static FORMAT: Format = Format {
    name: "iq4_nl",
    ggml: Some(20),
    class: Class::Float,
    block: 32,
    bytes: 18,
    planes: &[&[2..18], &[0..2]],
    float: Some(Float {
        decode,
        encode,
        dot: None,
        levels: Some(Levels { bits: 4, scales: Scales::Half, steps: Some(&RAISED), zero: 128, read }),
        wgsl: Wgsl::Blocks(Blocks { text: WGSL, offset: false }),
    }),
};

/// The steps, finer near zero, where most weights are.
pub const STEPS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The steps as numbers without sign: 128 more.
pub const RAISED: [u8; 16] = table::raised(&STEPS, 128);

/// The steps as kernels choose from them.
macro_rules! steps_wgsl {
    () => {
        table_wgsl!(
            "0x81818181u" "0x98989898u"
            "0xadadadadu" "0xbfbfbfbfu"
            "0xcfcfcfcfu" "0xddddddddu"
            "0xeaeaeaeau" "0xf6f6f6f6u"
            "0x01010101u" "0x0d0d0d0du"
            "0x19191919u" "0x26262626u"
            "0x35353535u" "0x45454545u"
            "0x59595959u" "0x71717171u"
        )
    };
}
pub(super) use steps_wgsl;

const WGSL: &str = concat!(
    "struct Run { q: vec4<u32>, d: f32 }
fn run_at(i: u32, s: vec2<u32>) -> Run { return Run(b_at(i), half_at(s.x, i)); }
",
    steps_wgsl!()
);

widest! {
    fn decode(blocks: &[u8], out: &mut [f32]) = decode_inner;
}

#[inline(always)]
fn decode_inner(blocks: &[u8], out: &mut [f32]) {
    for (b, y) in blocks.as_chunks::<18>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        let d = half(b, 0);
        for i in 0..16 {
            y[i] = d * STEPS[(b[2 + i] & 15) as usize] as f32;
            y[16 + i] = d * STEPS[(b[2 + i] >> 4) as usize] as f32;
        }
    }
}

/// The scale that is best for so many values.
pub fn scale(x: &[f32]) -> f32 {
    search::by_levels(x, STEPS[0] as f32, |v| STEPS[table::nearest(&STEPS, v)] as f32)
}

fn read(b: &[u8], to: &mut Numbers) {
    to.half(0, b, 0);
    to.nibbles(0, &b[2..]);
}

fn encode(values: &[f32], out: &mut Vec<u8>) {
    for v in values.as_chunks::<32>().0 {
        let d = search::as_half(scale(v));
        let id = inverse(d);
        push_half(out, d);
        nibbles::pack(&v.map(|x| table::nearest(&STEPS, x * id) as u8), out);
    }
}

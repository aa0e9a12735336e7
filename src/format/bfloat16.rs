//! bfloat16: the upper half of an IEEE binary32.

use super::wide::widest;
use super::{Class, Float, Format, Plain, Store, Wgsl};

pub static FORMAT: Format = Format {
    name: "bf16",
    ggml: Some(30),
    class: Class::Float,
    block: 1,
    bytes: 2,
    planes: &[],
    float: Some(Float {
        decode,
        encode: |values, out| out.extend(values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes())),
        dot: None,
        levels: None,
        wgsl: Wgsl::Plain(Plain {
            word: "u32",
            four: "vec2<u32>",
            pick: |w, i| format!("bitcast<f32>(select({w} << 16u, {w} & 0xffff0000u, ({i} & 1u) == 1u))"),
            widen: |w| {
                let parts = ["x", "y"].map(|c| format!("{w}.{c} << 16u, {w}.{c} & 0xffff0000u"));
                format!("bitcast<vec4<f32>>(vec4<u32>({}))", parts.join(", "))
            },
            store: Some(Store { round, pack: |a, b| format!("((bitcast<u32>({a}) >> 16u) | bitcast<u32>({b}))") }),
        }),
    }),
};

/// To the nearest, ties to even; what is not finite stays.
fn round(x: &str) -> String {
    let bits = format!("bitcast<u32>({x})");
    let nearest = format!("bitcast<f32>(({bits} + 0x7fffu + (({bits} >> 16u) & 1u)) & 0xffff0000u)");
    format!("select({nearest}, {x}, ({bits} & 0x7f800000u) == 0x7f800000u)")
}

widest! {
    fn decode(bytes: &[u8], out: &mut [f32]) = decode_inner;
}

#[inline(always)]
fn decode_inner(bytes: &[u8], out: &mut [f32]) {
    for (b, y) in bytes.as_chunks::<2>().0.iter().zip(out) {
        *y = f32::from_bits((u16::from_le_bytes(*b) as u32) << 16);
    }
}

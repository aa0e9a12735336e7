//! IEEE binary16.

use super::wide::widest;
use super::{Class, Float, Format, Plain, Store, Wgsl};
use half::f16;

pub static FORMAT: Format = Format {
    name: "f16",
    ggml: Some(1),
    class: Class::Float,
    block: 1,
    bytes: 2,
    planes: &[],
    float: Some(Float {
        decode,
        encode: |values, out| out.extend(values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes())),
        dot: None,
        levels: None,
        wgsl: Wgsl::Plain(Plain {
            word: "u32",
            four: "vec2<u32>",
            pick: |w, i| format!("select(unpack2x16float({w}).x, unpack2x16float({w}).y, ({i} & 1u) == 1u)"),
            widen: |w| format!("vec4<f32>(unpack2x16float({w}.x), unpack2x16float({w}.y))"),
            store: Some(Store {
                round: |x| format!("unpack2x16float(pack2x16float(vec2<f32>({x}, 0.0))).x"),
                pack: |a, b| format!("pack2x16float(vec2<f32>({a}, {b}))"),
            }),
        }),
    }),
};

widest! {
    fn decode(bytes: &[u8], out: &mut [f32]) = decode_inner;
}

#[inline(always)]
fn decode_inner(bytes: &[u8], out: &mut [f32]) {
    for (b, y) in bytes.as_chunks::<2>().0.iter().zip(out) {
        *y = f16::from_le_bytes(*b).to_f32();
    }
}

//! IEEE binary32.

use super::{Class, Float, Format, Plain, Wgsl};

pub static FORMAT: Format = Format {
    name: "f32",
    ggml: Some(0),
    class: Class::Float,
    block: 1,
    bytes: 4,
    planes: &[],
    float: Some(Float {
        decode: |bytes, out| {
            for (b, y) in bytes.as_chunks::<4>().0.iter().zip(out) {
                *y = f32::from_le_bytes(*b);
            }
        },
        encode: |values, out| out.extend(values.iter().flat_map(|v| v.to_le_bytes())),
        dot: None,
        levels: None,
        wgsl: Wgsl::Plain(Plain {
            word: "f32",
            four: "vec4<f32>",
            pick: |w, _| w.to_string(),
            widen: |w| w.to_string(),
            store: None,
        }),
    }),
};

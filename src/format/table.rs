//! What formats whose nibbles choose from a table of signed bytes share.

/// The place in an ascending or any table of the value nearest to `x`.
pub fn nearest(table: &[i8; 16], x: f32) -> usize {
    let far = |i: &usize| (x - table[*i] as f32).abs();
    (0..16).min_by(|a, b| far(a).total_cmp(&far(b))).unwrap_or(0)
}

/// A table whose numbers are so much larger that none is negative.
pub const fn raised(table: &[i8; 16], by: u8) -> [u8; 16] {
    let (mut out, mut i) = ([0; 16], 0);
    while i < 16 {
        out[i] = (table[i] as i16 + by as i16) as u8;
        i += 1;
    }
    out
}

/// WGSL: `packed` by a table, whose sixteen bytes are given as four words, from nibbles `r.q`.
macro_rules! table_wgsl {
    ($words:literal) => {
        concat!(
            "fn chosen(n: u32) -> u32 {
    let table = vec4<u32>(",
            $words,
            ");
    var out = 0u;
    for (var b = 0u; b < 32u; b += 8u) {
        let k = (n >> b) & 15u;
        out |= ((table[k >> 2u] >> (8u * (k & 3u))) & 255u) << b;
    }
    return out;
}
fn packed(r: Run, j: u32) -> vec2<u32> {
    let q = select(r.q.zw, r.q.xy, (j & 1u) == 0u) >> vec2<u32>((j >> 1u) * 4u);
    return vec2<u32>(chosen(q.x), chosen(q.y));
}
fn scale(r: Run, j: u32) -> vec2<f32> { return vec2<f32>(r.d, 0.0); }
"
        )
    };
}
pub(super) use table_wgsl;

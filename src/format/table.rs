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

/// WGSL: `packed` by a table of sixteen bytes, each given four times in a word, from nibbles `r.q`. Four nibbles choose at once, bit
/// by bit: two of sixteen words by the lowest, and so on. GPUs have an instruction for such a choice, and none for reading a table.
macro_rules! table_wgsl {
    ($($a:literal $b:literal)*) => {
        concat!(
            "fn either(mask: u32, a: u32, b: u32) -> u32 { return (a & ~mask) | (b & mask); }
fn all_bits(one: u32) -> u32 { return (one << 8u) - one; }
fn chosen(n: u32) -> u32 {
    let m0 = all_bits(n & 0x01010101u);
    let m1 = all_bits((n >> 1u) & 0x01010101u);
    let m2 = all_bits((n >> 2u) & 0x01010101u);
    let m3 = all_bits((n >> 3u) & 0x01010101u);
    let c = array<u32, 8>(",
            $("either(m0, ", $a, ", ", $b, "), ",)*
            ");
    let low = either(m2, either(m1, c[0], c[1]), either(m1, c[2], c[3]));
    let high = either(m2, either(m1, c[4], c[5]), either(m1, c[6], c[7]));
    return either(m3, low, high);
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

//! What formats of 32 elements of five bits share: nibbles as those of four bits have, and a word of fifth bits.

/// The number of element i.
#[inline(always)]
pub fn number(q: &[u8], high: u32, i: usize) -> u8 {
    let low = if i < 16 { q[i] & 15 } else { q[i - 16] >> 4 };
    low | ((high >> i & 1) as u8) << 4
}

/// All 32 numbers.
pub fn numbers(q: &[u8], high: u32, to: &mut [u8]) {
    for i in 0..32 {
        to[i] = number(q, high, i);
    }
}

/// The word of fifth bits, then the nibbles.
pub fn pack(q: &[u8; 32], out: &mut Vec<u8>) {
    let high = (0..32).fold(0u32, |h, i| h | (q[i] as u32 >> 4) << i);
    out.extend(high.to_le_bytes());
    super::nibbles::pack(&q.map(|q| q & 15), out);
}

/// WGSL: eight numbers of five bits from nibbles `q` and the word `h`; four bits spread to bit 4 of four bytes.
macro_rules! five_wgsl {
    () => {
        "fn spread(h: u32) -> u32 { return ((((h & 15u) * 0x00204081u) & 0x01010101u) << 4u); }
fn packed(r: Run, j: u32) -> vec2<u32> {
    let q = select(r.q.zw, r.q.xy, (j & 1u) == 0u);
    let low = (q >> vec2<u32>((j >> 1u) * 4u)) & vec2<u32>(0x0f0f0f0fu);
    let h = r.h >> (8u * j);
    return low | vec2<u32>(spread(h), spread(h >> 4u));
}
"
    };
}
pub(super) use five_wgsl;

//! Weights that model folders hold as quants and scales beside each other, and the formats in which they are computed with.

use super::DType;

/// Four bits in floating point with powers of two, as gpt-oss ships them.
pub const MICROSCALED: DType = DType::MXFP4;

/// What eight bits in floating point (E4M3; Micikevicius et al., 2022) times a scale are rounded to, as those who publish such
/// files round them.
pub const SCALED_FLOAT8: DType = DType::BF16;

/// Bytes of quants that share a scale in [`MICROSCALED`] folders.
pub const MICROSCALED_BYTES: usize = 16;

/// Appends blocks of [`MICROSCALED`]: the scale, then nibbles of elements that are sixteen apart. A folder has neighbours in
/// a byte.
pub fn microscaled(quants: &[u8], scales: &[u8], out: &mut Vec<u8>) {
    for (bytes, scale) in quants.as_chunks::<MICROSCALED_BYTES>().0.iter().zip(scales) {
        let nibble = |i: usize| (bytes[i / 2] >> (4 * (i % 2))) & 15;
        out.push(*scale);
        out.extend((0..16).map(|i| nibble(i) | nibble(16 + i) << 4));
    }
}

/// Appends elements of [`SCALED_FLOAT8`]: each number times the scale, in f32, rounded.
pub fn scaled_float8(quants: &[u8], scale: f32, out: &mut Vec<u8>) {
    out.extend(quants.iter().flat_map(|b| half::bf16::from_f32(e4m3(*b) * scale).to_le_bytes()));
}

/// The number of eight bits: a sign, four of exponent, three of fraction; no infinities, and one NaN of each sign.
fn e4m3(byte: u8) -> f32 {
    let (e, m) = (byte >> 3 & 15, byte & 7);
    let size = match (e, m) {
        (15, 7) => f32::NAN,
        (0, _) => m as f32 * 2f32.powi(-9),
        _ => (1.0 + m as f32 / 8.0) * 2f32.powi(e as i32 - 7),
    };
    if byte & 0x80 != 0 { -size } else { size }
}

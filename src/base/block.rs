//! Quantised blocks as GGUF stores them (the `ggml` formats), and the planes that devices read.
//!
//! A file keeps each block's scale beside its quants, 18, 20 or 34 bytes, which no GPU loads well. A device buffer
//! therefore holds two planes: all quants, 16 bytes aligned, then all scales. [`Planes`] says where.

use super::DType;
use half::f16;

/// Elements of a block, in every format here.
pub const BLOCK: usize = 32;

/// Where the two planes of a quantised matrix of `blocks` blocks lie in its device buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planes {
    /// Bytes of the quant plane: it starts at 0.
    pub quant_bytes: u64,
    /// Where the scale plane starts, 256-byte aligned as bindings must be.
    pub scale_offset: u64,
    /// Bytes of the scale plane, whole words.
    pub scale_bytes: u64,
}

/// Bytes of quants and of scales that one block has on a device.
pub const fn plane_bytes(dtype: DType) -> (usize, usize) {
    match dtype {
        DType::Q4_0 => (16, 2),
        DType::Q4_1 => (16, 4),
        DType::Q8_0 => (32, 2),
        _ => (0, 0),
    }
}

impl Planes {
    pub fn new(dtype: DType, blocks: u64) -> Planes {
        let (quant, scale) = plane_bytes(dtype);
        let quant_bytes = blocks * quant as u64;
        Planes {
            quant_bytes,
            scale_offset: quant_bytes.next_multiple_of(256),
            scale_bytes: (blocks * scale as u64).next_multiple_of(4),
        }
    }
    pub fn total(&self) -> u64 {
        self.scale_offset + self.scale_bytes
    }
}

/// Takes file blocks apart: quants appended to `quants`, scales to `scales` (f16 scale, then Q4_1's f16 minimum).
pub fn split(dtype: DType, bytes: &[u8], quants: &mut Vec<u8>, scales: &mut Vec<u8>) {
    let (_, scale) = plane_bytes(dtype);
    for block in bytes.chunks_exact(dtype.block_bytes()) {
        scales.extend_from_slice(&block[..scale]);
        quants.extend_from_slice(&block[scale..]);
    }
}

fn half_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// One file block's 32 values.
pub fn decode_block(dtype: DType, block: &[u8], out: &mut [f32; BLOCK]) {
    let d = half_at(block, 0);
    match dtype {
        DType::Q4_0 => {
            for i in 0..16 {
                out[i] = d * ((block[2 + i] & 15) as f32 - 8.0);
                out[i + 16] = d * ((block[2 + i] >> 4) as f32 - 8.0);
            }
        }
        DType::Q4_1 => {
            let m = half_at(block, 2);
            for i in 0..16 {
                out[i] = d * (block[4 + i] & 15) as f32 + m;
                out[i + 16] = d * (block[4 + i] >> 4) as f32 + m;
            }
        }
        DType::Q8_0 => {
            for i in 0..32 {
                out[i] = d * (block[2 + i] as i8) as f32;
            }
        }
        _ => unreachable!("{dtype} has no blocks"),
    }
}

/// All values of file bytes of any float type.
pub fn decode(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    match dtype {
        DType::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        DType::F16 => bytes.chunks_exact(2).map(|b| half_at(b, 0)).collect(),
        _ => {
            let mut out = Vec::with_capacity(bytes.len() / dtype.block_bytes() * BLOCK);
            let mut values = [0.0; BLOCK];
            for block in bytes.chunks_exact(dtype.block_bytes()) {
                decode_block(dtype, block, &mut values);
                out.extend_from_slice(&values);
            }
            out
        }
    }
}

/// Quantises (round to nearest, as the format's reference does) or narrows `values` to file bytes.
/// Quantised types need a multiple of 32 values.
pub fn encode(dtype: DType, values: &[f32]) -> Vec<u8> {
    match dtype {
        DType::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        _ => values.chunks_exact(BLOCK).flat_map(|b| encode_block(dtype, b)).collect(),
    }
}

fn encode_block(dtype: DType, v: &[f32]) -> Vec<u8> {
    let extreme = v.iter().fold(0.0f32, |m, x| if x.abs() > m.abs() { *x } else { m });
    let invert = |d: f32| if d == 0.0 { 0.0 } else { 1.0 / d };
    let mut out = vec![];
    match dtype {
        DType::Q4_0 => {
            let d = extreme / -8.0;
            let q = |x: f32| ((x * invert(d) + 8.5) as i32).clamp(0, 15) as u8;
            out.extend(f16::from_f32(d).to_le_bytes());
            out.extend((0..16).map(|i| q(v[i]) | q(v[i + 16]) << 4));
        }
        DType::Q4_1 => {
            let (lo, hi) = v.iter().fold((f32::MAX, f32::MIN), |(l, h), x| (l.min(*x), h.max(*x)));
            let d = (hi - lo) / 15.0;
            let q = |x: f32| (((x - lo) * invert(d) + 0.5) as i32).clamp(0, 15) as u8;
            out.extend(f16::from_f32(d).to_le_bytes());
            out.extend(f16::from_f32(lo).to_le_bytes());
            out.extend((0..16).map(|i| q(v[i]) | q(v[i + 16]) << 4));
        }
        DType::Q8_0 => {
            let d = extreme.abs() / 127.0;
            out.extend(f16::from_f32(d).to_le_bytes());
            out.extend(v.iter().map(|x| (x * invert(d)).round() as i8 as u8));
        }
        _ => unreachable!("{dtype} has no blocks"),
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantising_and_decoding_stay_within_half_a_step() {
        let values: Vec<f32> = (0..64).map(|i| ((i * 37 % 64) as f32 - 31.0) / 9.0).collect();
        for (dtype, step) in [(DType::Q4_0, 1.0), (DType::Q4_1, 0.5), (DType::Q8_0, 0.04), (DType::F16, 0.01)] {
            let bytes = encode(dtype, &values);
            assert_eq!(bytes.len() as u64, dtype.bytes(64).unwrap());
            for (a, b) in decode(dtype, &bytes).iter().zip(&values) {
                assert!((a - b).abs() <= step, "{dtype}: {a} for {b}");
            }
        }
    }

    #[test]
    fn a_known_q4_1_block_decodes_to_hand_computed_values() {
        // d = 0.5, m = -1; byte 0x21 holds q = 1 (element 0) and q = 2 (element 16).
        let mut block = vec![0x00, 0x38, 0x00, 0xbc];
        block.extend([0x21; 16]);
        let mut out = [0.0; BLOCK];
        decode_block(DType::Q4_1, &block, &mut out);
        assert_eq!((out[0], out[15], out[16], out[31]), (-0.5, -0.5, 0.0, 0.0));
    }

    #[test]
    fn planes_hold_every_byte_once() {
        let bytes: Vec<u8> = (0..40).collect();
        let (mut q, mut s) = (vec![], vec![]);
        split(DType::Q4_1, &bytes, &mut q, &mut s);
        assert_eq!(s, [0, 1, 2, 3, 20, 21, 22, 23]);
        assert_eq!((q.len(), q[0], q[16]), (32, 4, 24));
        assert_eq!(Planes::new(DType::Q4_1, 2), Planes { quant_bytes: 32, scale_offset: 256, scale_bytes: 8 });
    }
}

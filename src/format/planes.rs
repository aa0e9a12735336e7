//! Where the parts of blocks lie in a device buffer.

use super::DType;

/// The most planes that a format has.
pub const MAX_PLANES: usize = 3;

/// Where the planes of a quantised matrix lie in its device buffer, each 256-byte aligned as bindings must be. What a plane has
/// of a block, and of one block after another, lies side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Planes {
    /// Where each starts; the first at 0.
    pub offsets: [u64; MAX_PLANES],
    /// Bytes of each, whole words; 0 where there is none.
    pub bytes: [u64; MAX_PLANES],
}

impl Planes {
    /// The planes of so many blocks.
    pub fn new(dtype: DType, blocks: u64) -> Planes {
        let mut out = Planes::default();
        let mut at = 0u64;
        for plane in 0..Planes::count(dtype) {
            let bytes = blocks.saturating_mul(Planes::block_bytes(dtype, plane) as u64);
            out.offsets[plane] = at;
            out.bytes[plane] = bytes.div_ceil(4).saturating_mul(4);
            at = at.saturating_add(out.bytes[plane]).div_ceil(256).saturating_mul(256);
        }
        out
    }
    pub fn count(dtype: DType) -> usize {
        dtype.format().planes.len()
    }
    /// Bytes that a plane has of each block.
    pub fn block_bytes(dtype: DType, plane: usize) -> usize {
        dtype.format().planes[plane].iter().map(|r| r.len()).sum()
    }
    /// Bytes of the whole buffer.
    pub fn total(&self) -> u64 {
        (0..MAX_PLANES).map(|i| self.offsets[i] + self.bytes[i]).max().unwrap_or(0)
    }
    /// Where the planes behind the first lie, as one range from `.0` of `.1` bytes; `None` where there are none.
    pub fn beside(&self) -> Option<(u64, u64)> {
        (self.bytes[1] > 0).then(|| (self.offsets[1], self.total() - self.offsets[1]))
    }
    /// Appends what a plane has of file blocks.
    pub fn take(dtype: DType, plane: usize, blocks: &[u8], out: &mut Vec<u8>) {
        let ranges = dtype.format().planes[plane];
        for block in blocks.chunks_exact(dtype.block_bytes()) {
            ranges.iter().for_each(|r| out.extend_from_slice(&block[r.clone()]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_hold_every_byte_once() {
        let bytes: Vec<u8> = (0..40).collect();
        let (mut q, mut s) = (vec![], vec![]);
        Planes::take(DType::Q4_1, 0, &bytes, &mut q);
        Planes::take(DType::Q4_1, 1, &bytes, &mut s);
        assert_eq!(s, [0, 1, 2, 3, 20, 21, 22, 23]);
        assert_eq!((q.len(), q[0], q[16]), (32, 4, 24));
        let planes = Planes::new(DType::Q4_1, 2);
        assert_eq!((planes.offsets, planes.bytes), ([0, 256, 0], [32, 8, 0]));
        assert_eq!((planes.beside(), planes.total()), (Some((256, 8)), 264));
    }
}

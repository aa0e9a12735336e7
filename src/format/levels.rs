//! Blocks as whole numbers with scales: what products of integers multiply.

/// The most elements that a block has.
pub(super) const MAX_BLOCK: usize = 256;

/// The elements that share an activation's scale in a product of integers.
pub const GROUP: usize = 32;

/// How a format's weights are made of whole numbers: `d · q − m`, or `d · (q − zero)` where there are no minima.
#[derive(Debug)]
pub struct Levels {
    /// Bits of a number as blocks hold it: 2 to 6, or 8.
    pub bits: u32,
    pub scales: Scales,
    /// What numbers stand for, where they are places in a table.
    pub steps: Option<&'static [u8; 16]>,
    /// The number that stands for zero.
    pub zero: u8,
    /// Reads a block.
    pub read: fn(&[u8], &mut Numbers),
}

/// Where factors come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scales {
    /// One f16 for a block of 32.
    Half,
    /// Two f16 for a block of 32; the second is added: `d · q + m`.
    HalfMin,
    /// A power of two for a block of 32, as the upper half of an f32.
    Power,
    /// A signed byte for so many of 256 elements (32 or 16), times one f16.
    Runs(usize),
    /// A byte and one for the minimum for so many of 256 elements, times two of f16: `d · s · q − dmin · m`.
    RunsMin(usize),
}

impl Scales {
    /// How many elements have a factor of their own.
    pub const fn run(self) -> usize {
        match self {
            Scales::Half | Scales::HalfMin | Scales::Power => GROUP,
            Scales::Runs(n) | Scales::RunsMin(n) => n,
        }
    }
}

/// What a block holds.
pub struct Numbers {
    /// As many as the block has elements.
    pub q: [u8; MAX_BLOCK],
    /// One or two numbers of 16 bits.
    pub head: [u8; 4],
    /// For each run, where runs have scales; signed where there are no minima.
    pub scales: [u8; MAX_BLOCK / 16],
    pub minima: [u8; MAX_BLOCK / 16],
}

impl Default for Numbers {
    fn default() -> Numbers {
        let runs = [0; MAX_BLOCK / 16];
        Numbers { q: [0; MAX_BLOCK], head: [0; 4], scales: runs, minima: runs }
    }
}

impl Numbers {
    /// Two bytes of a block from `at` on as half `i` of the head.
    #[inline(always)]
    pub(super) fn half(&mut self, i: usize, block: &[u8], at: usize) {
        self.head[2 * i..2 * i + 2].copy_from_slice(&block[at..at + 2]);
    }
    /// Sixteen bytes of nibbles as 32 numbers, low nibbles first.
    #[inline(always)]
    pub(super) fn nibbles(&mut self, first: usize, bytes: &[u8]) {
        let q = &mut self.q[first..first + 32];
        for (i, b) in bytes[..16].iter().enumerate() {
            (q[i], q[16 + i]) = (b & 15, b >> 4);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{DType, decode};
    use super::*;
    use half::{bf16, f16};

    /// The weights of a block by what `Levels` says.
    fn weights(levels: &Levels, block: &[u8], n: usize) -> Vec<f32> {
        let mut numbers = Numbers::default();
        (levels.read)(block, &mut numbers);
        let bits = |i: usize| u16::from_le_bytes([numbers.head[2 * i], numbers.head[2 * i + 1]]);
        let half = |i: usize| f16::from_bits(bits(i)).to_f32();
        let zero = levels.zero as f32;
        let weight = |i: usize| {
            let q = numbers.q[i];
            assert!((q as u32) < 1 << levels.bits);
            let q = levels.steps.map_or(q, |s| s[q as usize]) as f32;
            match levels.scales {
                Scales::Half => half(0) * (q - zero),
                Scales::HalfMin => half(0) * q + half(1),
                Scales::Power => bf16::from_bits(bits(0)).to_f32() * (q - zero),
                Scales::Runs(run) => half(0) * (numbers.scales[i / run] as i8) as f32 * (q - zero),
                Scales::RunsMin(run) => {
                    half(0) * numbers.scales[i / run] as f32 * q - half(1) * numbers.minima[i / run] as f32
                }
            }
        };
        (0..n).map(weight).collect()
    }

    #[test]
    fn every_quantised_format_is_made_of_levels_as_it_decodes() {
        for dtype in DType::quantised() {
            let levels = dtype.format().float().unwrap().levels.as_ref().unwrap_or_else(|| panic!("{dtype} has none"));
            let mut seed = 12345u32;
            for _ in 0..200 {
                let mut byte = || {
                    seed = seed.wrapping_mul(1664525).wrapping_add(1013904223);
                    (seed >> 24) as u8
                };
                let block: Vec<u8> = (0..dtype.block_bytes()).map(|_| byte()).collect();
                let want = decode(dtype, &block);
                if want.iter().any(|x| !x.is_finite()) {
                    continue;
                }
                assert_eq!(weights(levels, &block, dtype.block()), want, "{dtype}");
            }
        }
    }
}

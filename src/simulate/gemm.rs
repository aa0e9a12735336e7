//! What a matrix product takes: tiles in waves over the multiprocessors against traffic to memory.
//!
//! A library picks a tile and how often to split k; so does this, by its own price. Efficiency is thus a surface over m, n,
//! k and the number format whose shape comes from tile and wave quantisation, the filling of a tile's pipeline (short k),
//! memory-bound corners and launch, with nine constants a device.

use super::constants::Gemm;
use crate::topology::Precision;

/// A device as a matrix product sees it.
#[derive(Debug, Clone, Copy)]
pub struct Engine<'a> {
    pub constants: &'a Gemm,
    pub multiprocessors: f64,
    /// Operations a second in this format, dense.
    pub peak: f64,
    /// Bytes a second.
    pub bandwidth: f64,
    pub precision: Precision,
}

const TILES: [(f64, f64); 13] = [
    (256.0, 128.0),
    (128.0, 256.0),
    (128.0, 128.0),
    (256.0, 64.0),
    (64.0, 256.0),
    (128.0, 64.0),
    (64.0, 128.0),
    (64.0, 64.0),
    (32.0, 64.0),
    (64.0, 32.0),
    (32.0, 128.0),
    (16.0, 64.0),
    (16.0, 128.0),
];
const SPLITS: [f64; 8] = [1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0];
/// k is walked in steps of this many elements.
const STEP: f64 = 32.0;

impl Engine<'_> {
    /// Bytes of the operands and the result, each once. Results of 8-bit and narrower products are 16 bits wide.
    pub fn bytes(&self, m: f64, n: f64, k: f64) -> f64 {
        let narrow = self.precision.bytes();
        narrow * (m * k + n * k) + narrow.max(2.0) * m * n
    }

    /// Seconds of `batch` products m × k by k × n in one kernel. Zero where there is nothing to do.
    pub fn seconds(&self, batch: f64, m: f64, n: f64, k: f64) -> f64 {
        self.seconds_moving(batch, m, n, k, batch * self.bytes(m, n, k))
    }

    /// The same with so many bytes of traffic, as where operands are stored in another format than they are computed in.
    pub fn seconds_moving(&self, batch: f64, m: f64, n: f64, k: f64, traffic: f64) -> f64 {
        if batch * m * n * k <= 0.0 {
            return 0.0;
        }
        let c = self.constants;
        let memory = c.memory * self.bandwidth;
        let moving = (traffic + c.memory_half.0) / memory;
        let mut best = f64::INFINITY;
        for (tm, tn) in TILES {
            let rate = self.tile_rate(tm, tn);
            let tiles = batch * (m / tm).ceil() * (n / tn).ceil();
            for split in SPLITS.into_iter().take_while(|s| *s == 1.0 || k / s >= 2.0 * STEP) {
                let depth = (k / split / STEP).ceil() * STEP;
                let waves = tiles * split / self.multiprocessors;
                let waves = if waves <= 1.0 { 1.0 } else { c.wave * waves.ceil() + (1.0 - c.wave) * waves };
                let computing = waves * (2.0 * tm * tn * depth / rate + c.prologue.0);
                // Pieces are kept in f32, written and read once.
                let summing = if split > 1.0 { c.split.0 + split * batch * m * n * 4.0 / memory } else { 0.0 };
                best = f64::min(best, overlap(computing, moving, c.join) + summing);
            }
        }
        c.launch.0 + best
    }

    /// Operations a second of one multiprocessor on a tile: larger tiles reuse what they load more often.
    fn tile_rate(&self, tm: f64, tn: f64) -> f64 {
        let c = self.constants;
        let reuse = |i: f64| i / (i + c.intensity_half);
        let efficiency = if self.precision.bytes() <= 1.0 { c.efficiency_8bit } else { c.efficiency };
        let share = (efficiency * reuse(tm * tn / (tm + tn)) / reuse(64.0)).min(1.0);
        share * self.peak / self.multiprocessors
    }
}

/// The p-norm of two times: their sum for p = 1, the larger for p = ∞.
pub fn overlap(a: f64, b: f64, p: f64) -> f64 {
    let (large, small) = (a.max(b), a.min(b));
    if large <= 0.0 { 0.0 } else { large * (1.0 + (small / large).powf(p)).powf(1.0 / p) }
}

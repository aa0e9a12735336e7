//! Energy: idle power, more while anything runs (not while the host is awaited), and so much an operation, a byte of memory
//! and a byte on a link. The power
//! limit bounds the clocks of a long run ([`clock`]): voltage falls with them, so an operation's energy falls with their
//! square and the power of computing with their cube (Weste and Harris, CMOS VLSI Design, section 5.2).

use super::chip::Chip;
use crate::base::units::{Joules, Watts};

/// What all devices together do, in 16-bit operations and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Spent {
    pub flops: f64,
    pub bytes: f64,
    pub link_bytes: f64,
}

impl std::ops::Add for Spent {
    type Output = Spent;
    fn add(self, o: Spent) -> Spent {
        Spent { flops: self.flops + o.flops, bytes: self.bytes + o.bytes, link_bytes: self.link_bytes + o.link_bytes }
    }
}

impl std::ops::Mul<f64> for Spent {
    type Output = Spent;
    fn mul(self, by: f64) -> Spent {
        Spent { flops: self.flops * by, bytes: self.bytes * by, link_bytes: self.link_bytes * by }
    }
}

/// Energy of the devices (not of hosts, switches and cooling).
#[derive(Debug, Clone, PartialEq)]
pub struct Energy {
    pub joules: Joules,
    /// The range that the calibration leaves.
    pub low: Joules,
    pub high: Joules,
    /// Mean power of a device.
    pub watts: Watts,
}

/// Joules of computing at the chip's clocks, and of moving bytes.
fn dynamic(chip: &Chip, spent: Spent) -> (f64, f64) {
    let e = &chip.constants.energy;
    let square = chip.clock * chip.clock;
    (spent.flops * e.flop.0 * square, spent.bytes * e.byte.0 + spent.link_bytes * e.link_byte.0)
}

/// Energy of `devices` that take `seconds`, of which each runs kernels for `busy`, and together spend so much.
pub fn energy(chip: &Chip, spent: Spent, seconds: f64, busy: f64, devices: usize) -> Energy {
    let e = &chip.constants.energy;
    let n = devices as f64;
    let (idle, limit) = (chip.device.idle.0 * seconds * n, chip.device.limit.0 * seconds * n);
    let awake = e.awake.0 * busy.clamp(0.0, seconds) * n;
    let (computing, moving) = dynamic(chip, spent);
    let joules = idle + awake + computing + moving;
    let held = |j: f64| j.clamp(idle, limit.max(idle));
    let middle = held(joules);
    Energy {
        joules: Joules(middle),
        low: Joules(held(joules * (1.0 - e.spread))),
        high: Joules(held(joules * (1.0 + e.spread))),
        watts: Watts(if seconds > 0.0 { middle / seconds / n } else { chip.device.idle.0 }),
    }
}

/// The lowest share of its clocks that a device runs at.
const SLOWEST: f64 = 0.3;

/// The share of a short benchmark's clocks at which a run of `seconds` that spends so much stays within the power limit,
/// where `computing` of the seconds follow the clocks. All of it at 1.
pub fn clock(chip: &Chip, spent: Spent, seconds: f64, computing: f64, devices: usize) -> f64 {
    let fixed = (chip.device.idle.0 + chip.constants.energy.awake.0) * devices as f64;
    let limit = chip.device.limit.0 * devices as f64;
    let burst = Chip { clock: 1.0, ..chip.clone() };
    let (flops, bytes) = dynamic(&burst, spent);
    let watts = |c: f64| fixed + (flops * c * c + bytes) / (seconds + computing.min(seconds) * (1.0 / c - 1.0));
    if seconds <= 0.0 || watts(1.0) <= limit {
        return 1.0;
    }
    let (mut low, mut high) = (SLOWEST, 1.0);
    for _ in 0..40 {
        let middle = (low + high) / 2.0;
        if watts(middle) > limit { high = middle } else { low = middle }
    }
    low
}

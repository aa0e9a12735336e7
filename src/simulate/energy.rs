//! Energy: idle power, more while anything runs, and so much an operation, a byte of memory and a byte on a link, held to the power limit.

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

pub fn energy(chip: &Chip, spent: Spent, seconds: f64, devices: usize) -> Energy {
    let e = &chip.constants.energy;
    let n = devices as f64;
    let (idle, limit) = (chip.device.idle.0 * seconds * n, chip.device.limit.0 * seconds * n);
    let awake = e.awake.0 * seconds * n;
    let joules = idle + awake + spent.flops * e.flop.0 + spent.bytes * e.byte.0 + spent.link_bytes * e.link_byte.0;
    let held = |j: f64| j.clamp(idle, limit.max(idle));
    let middle = held(joules);
    Energy {
        joules: Joules(middle),
        low: Joules(held(joules * (1.0 - e.spread))),
        high: Joules(held(joules * (1.0 + e.spread))),
        watts: Watts(if seconds > 0.0 { middle / seconds / n } else { chip.device.idle.0 }),
    }
}

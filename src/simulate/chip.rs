//! One device with its calibration: what a kernel takes on it.

use super::constants::{self, Constants};
use super::gemm::Engine;
use crate::base::{Error, Result};
use crate::topology::{Device, Precision};

/// A device and what is known of its kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Chip {
    pub device: Device,
    pub constants: Constants,
    /// Share of the clocks of a short benchmark: below 1 where the power limit holds a long run back
    /// ([`super::energy::clock`]). Rates of computing follow it, memory and links do not.
    pub clock: f64,
}

/// What a fused attention kernel works on: elements of a head, keys that a query sees at most, the share of the scores it
/// computes that no mask drops (1 where only the diagonal is masked), the direction, and `pytorch` where PyTorch's kernel runs rather than the vendor's library.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attends {
    pub head: f64,
    pub length: f64,
    pub useful: f64,
    pub backward: bool,
    pub pytorch: bool,
}

impl Chip {
    pub fn new(device: &Device) -> Result<Chip> {
        Ok(Chip { device: device.clone(), constants: constants::of(device)?, clock: 1.0 })
    }

    /// A device by what people call it: `A100`, `h100`, `NVIDIA H200 SXM 141GB`, or a machine's name.
    ///
    /// # Errors
    /// A device that no machine which comes along has, with the nearest of those.
    pub fn named(text: &str) -> Result<Chip> {
        Chip::new(super::known::machine(text)?.slowest())
    }

    /// The same device with its clocks at a share of those of a short benchmark.
    pub fn at_clock(&self, clock: f64) -> Chip {
        Chip { clock, ..self.clone() }
    }

    /// Operations per second that the power limit and the clocks leave of the peak.
    fn rate(&self, precision: Precision) -> Result<f64> {
        let none = || Error::usage(format!("{} has no rate for {}", self.device.title, precision.name()));
        let limit = (self.device.limit / self.constants.measured_at).min(1.0);
        self.device.peak(precision).map(|r| r.0 * self.clock * limit.powf(self.constants.throttle)).ok_or_else(none)
    }

    pub fn engine(&self, precision: Precision) -> Result<Engine<'_>> {
        let peak = self.rate(precision)?;
        Ok(Engine {
            constants: &self.constants.gemm,
            multiprocessors: self.constants.multiprocessors,
            peak,
            bandwidth: self.device.bandwidth.0,
            precision,
        })
    }

    /// Seconds of `batch` products in one kernel.
    pub fn gemm(&self, precision: Precision, batch: f64, m: f64, n: f64, k: f64) -> Result<f64> {
        Ok(self.engine(precision)?.seconds(batch, m, n, k))
    }

    /// Seconds of a kernel that moves bytes and computes little.
    pub fn stream(&self, bytes: f64, rows: bool) -> f64 {
        let s = &self.constants.stream;
        if bytes > 0.0 {
            s.launch.0 + bytes / (if rows { s.rows } else { s.plain } * self.device.bandwidth.0)
        } else {
            0.0
        }
    }

    /// Seconds of a fused attention kernel of so many operations (those that a causal mask leaves) and bytes.
    pub fn attention(&self, precision: Precision, of: Attends, flops: f64, bytes: f64) -> Result<f64> {
        if flops <= 0.0 {
            return Ok(0.0);
        }
        let Attends { head, length, useful, backward, pytorch } = of;
        let a = &self.constants.attention;
        // Attention kernels compute in 16 bits at least.
        let wide = if precision.bytes() < 2.0 { Precision::Bf16 } else { precision };
        let reached = |d: f64| d / (d + a.head_half);
        let best = match (pytorch, backward) {
            (false, false) => a.forward,
            (false, true) => a.backward,
            (true, false) => a.pytorch_forward,
            (true, true) => a.pytorch_backward,
        };
        // Short sequences leave few blocks to run through, and more of them half masked.
        let share = best * reached(head) / reached(128.0) * length / (length + a.length_half);
        let computing = flops / (useful * share.min(1.0) * self.rate(wide)?);
        let moving = bytes / (a.decode * self.device.bandwidth.0);
        Ok(self.constants.launch.0 + computing.max(moving))
    }
}

//! One device with its calibration: what a kernel takes on it.

use super::constants::{self, Constants};
use super::gemm::Engine;
use crate::base::{Error, Result};
use crate::topology::{self, Device, Precision};

/// A device and what is known of its kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Chip {
    pub device: Device,
    pub constants: Constants,
}

impl Chip {
    pub fn new(device: &Device) -> Result<Chip> {
        Ok(Chip { device: device.clone(), constants: constants::of(device)? })
    }

    /// A device by what people call it: `A100`, `h100`, `NVIDIA H200 SXM 141GB`, or a machine's name.
    pub fn named(text: &str) -> Result<Chip> {
        let plain: String = text.to_ascii_lowercase().chars().filter(|c| c.is_ascii_alphanumeric()).collect();
        const KNOWN: [(&str, &str); 12] = [
            ("gb200", "gb200-nvl72"),
            ("gb300", "gb200-nvl72"),
            ("b300", "dgx-b200"),
            ("h800", "dgx-h100"),
            ("a800", "dgx-a100"),
            ("b200", "dgx-b200"),
            ("gh200", "dgx-h200"),
            ("h200", "dgx-h200"),
            ("h100", "dgx-h100"),
            ("a100pcie", "pcie-8"),
            ("a100", "dgx-a100"),
            ("v100", "dgx-v100"),
        ];
        let direct = topology::SHIPPED.iter().find(|s| s.0 == text).map(|s| s.0);
        let machine = direct.or_else(|| KNOWN.iter().find(|k| plain.contains(k.0)).map(|k| k.1));
        let known = || KNOWN.map(|k| k.0).join(", ");
        let machine =
            machine.ok_or_else(|| Error::usage(format!("there is no device \"{text}\": known are {}", known())))?;
        Chip::new(topology::shipped(machine)?.slowest())
    }

    /// Operations a second that the power limit leaves of the peak.
    fn rate(&self, precision: Precision) -> Result<f64> {
        let none = || Error::usage(format!("{} has no rate for {}", self.device.title, precision.name()));
        let limit = (self.device.limit / self.constants.measured_at).min(1.0);
        self.device.peak(precision).map(|r| r.0 * limit.powf(self.constants.throttle)).ok_or_else(none)
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

    /// Seconds of a fused attention kernel of so many operations (those that a causal mask leaves) and bytes, over heads of
    /// `head` elements. `pytorch`: as PyTorch brings it rather than the vendor's library.
    pub fn attention(
        &self,
        precision: Precision,
        head: f64,
        flops: f64,
        bytes: f64,
        backward: bool,
        pytorch: bool,
    ) -> Result<f64> {
        if flops <= 0.0 {
            return Ok(0.0);
        }
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
        let share = best * reached(head) / reached(128.0);
        let computing = flops / (share.min(1.0) * self.rate(wide)?);
        let moving = bytes / (a.decode * self.device.bandwidth.0);
        Ok(self.constants.launch.0 + computing.max(moving))
    }
}

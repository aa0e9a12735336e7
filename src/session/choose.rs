//! Which device runs a model.

use crate::base::{AdapterKind, DeviceFault, Error, Result};
use crate::device::{AdapterReport, Gpu, adapters};
use std::sync::Arc;

/// What the user asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// A real GPU; else the CPU fallback, which is faster than shaders on a software adapter.
    #[default]
    Auto,
    /// The CPU fallback.
    Cpu,
    /// An adapter by its index in `devices`.
    Index(usize),
    /// The first adapter whose name contains this, whatever the case.
    Name(String),
}

impl std::str::FromStr for DeviceChoice {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        Ok(match s {
            "auto" => DeviceChoice::Auto,
            "cpu" => DeviceChoice::Cpu,
            "" => return Err(Error::usage("the device is empty: give auto, cpu, an index or a part of a name")),
            _ => s.parse().map_or_else(|_| DeviceChoice::Name(s.into()), DeviceChoice::Index),
        })
    }
}

/// What was chosen, with a word for the user where it is not plain.
pub struct Picked {
    /// `None` is the CPU fallback.
    pub gpu: Option<Arc<Gpu>>,
    pub notice: Option<String>,
}

/// How to get a driver, in one line.
#[cfg(not(target_arch = "wasm32"))]
const DRIVER_HINT: &str = "for a GPU install its Vulkan driver (Debian, Ubuntu: mesa-vulkan-drivers or the vendor's), on macOS and Windows it is there already";
#[cfg(target_arch = "wasm32")]
const DRIVER_HINT: &str = "for a GPU use a browser with WebGPU (Chrome and Edge from 113, Safari from 26, Firefox from 141 on Windows), on a page served by https \
                           or from localhost; on Linux, Chrome has it behind chrome://flags/#enable-unsafe-webgpu";

/// # Errors
/// An adapter that does not exist or gives no device.
pub async fn pick(choice: &DeviceChoice) -> Result<Picked> {
    if *choice == DeviceChoice::Cpu {
        return Ok(Picked { gpu: None, notice: None });
    }
    let all = adapters().await;
    let found = match choice {
        DeviceChoice::Index(i) => Some(*i),
        DeviceChoice::Name(name) => Some(by_name(&all, name)?),
        _ => best(&all),
    };
    match found {
        Some(index) => Ok(Picked { gpu: Some(Arc::new(Gpu::open(index).await?)), notice: None }),
        None => Ok(Picked { gpu: None, notice: Some(fallback_notice(&all)) }),
    }
}

fn by_name(all: &[AdapterReport], name: &str) -> Result<usize> {
    let wanted = name.to_lowercase();
    all.iter().position(|a| a.name.to_lowercase().contains(&wanted)).ok_or_else(|| {
        let names: Vec<&str> = all.iter().map(|a| a.name.as_str()).collect();
        let have = if names.is_empty() { "none".into() } else { names.join(", ") };
        Error::device(DeviceFault::Unavailable, name, format!("no adapter has this in its name; there are: {have}; or give auto or cpu"))
    })
}

/// The first discrete GPU, else the first other real one.
fn best(all: &[AdapterReport]) -> Option<usize> {
    let of = |kind| all.iter().position(|a| a.caps.kind == kind);
    of(AdapterKind::Discrete).or(of(AdapterKind::Integrated)).or(of(AdapterKind::Other))
}

fn fallback_notice(all: &[AdapterReport]) -> String {
    let seen = match all.first() {
        Some(_) if cfg!(target_arch = "wasm32") => "only a software adapter, slower than the CPU fallback".into(),
        None if cfg!(target_arch = "wasm32") => "no WebGPU adapter".into(),
        Some(software) => format!("only a software adapter ({}), slower than the CPU fallback (--device 0 uses it anyway)", software.name),
        None => "no GPU driver".into(),
    };
    format!("found {seen}: running on the CPU; {DRIVER_HINT}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_parse() {
        assert_eq!("auto".parse(), Ok(DeviceChoice::Auto));
        assert_eq!("2".parse(), Ok(DeviceChoice::Index(2)));
        assert_eq!("radeon".parse(), Ok(DeviceChoice::Name("radeon".into())));
        assert!("".parse::<DeviceChoice>().is_err());
    }
}

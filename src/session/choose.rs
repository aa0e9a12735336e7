//! Which device runs a model.

use super::{Comparison, Notice, Options};
use crate::base::{AdapterKind, DeviceFault, Error, Result};
use crate::device::{AdapterReport, Gpu, adapters};
use std::path::Path;
use std::sync::Arc;

/// What the user asked for.
///
/// ```
/// use warpweft::Device;
///
/// assert_eq!("cpu".parse(), Ok(Device::Cpu));
/// assert_eq!("1".parse(), Ok(Device::Index(1)));
/// assert_eq!("NVIDIA".parse(), Ok(Device::Name("NVIDIA".into())));
/// ```
#[derive(Clone, Default)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum DeviceChoice {
    /// A real GPU; else the faster of a software adapter and the CPU fallback.
    #[default]
    Auto,
    /// The CPU fallback.
    Cpu,
    /// An adapter by its index in `devices`.
    Index(usize),
    /// The first adapter whose name contains this, whatever the case.
    Name(String),
    /// A device that is open already: several models may share it.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    Open(Arc<Gpu>),
}

impl PartialEq for DeviceChoice {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (DeviceChoice::Auto, DeviceChoice::Auto) | (DeviceChoice::Cpu, DeviceChoice::Cpu) => true,
            (DeviceChoice::Index(a), DeviceChoice::Index(b)) => a == b,
            (DeviceChoice::Name(a), DeviceChoice::Name(b)) => a == b,
            (DeviceChoice::Open(a), DeviceChoice::Open(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl std::fmt::Debug for DeviceChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DeviceChoice::Auto => f.write_str("auto"),
            DeviceChoice::Cpu => f.write_str("cpu"),
            DeviceChoice::Index(i) => write!(f, "adapter {i}"),
            DeviceChoice::Name(name) => write!(f, "an adapter named like {name:?}"),
            DeviceChoice::Open(gpu) => write!(f, "{}", gpu.report.name),
        }
    }
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
#[cfg(target_arch = "wasm32")]
const DRIVER_HINT: &str = "for a GPU use a browser with WebGPU (Chrome and Edge from 113, Safari from 26, Firefox from 141 on Windows), on a page served by https \
                           or from localhost; on Linux, Chrome has it behind chrome://flags/#enable-unsafe-webgpu";
#[cfg(not(target_arch = "wasm32"))]
const DRIVER_HINT: &str = "for a GPU install its Vulkan driver (Debian, Ubuntu: mesa-vulkan-drivers or the vendor's), on macOS and Windows it is there already";

#[cfg(target_arch = "wasm32")]
const NOTHING: &str = "WebGPU adapter";
#[cfg(not(target_arch = "wasm32"))]
const NOTHING: &str = "GPU driver";

/// Like [`pick_with`], without a place where measurements are remembered.
pub async fn pick(choice: &DeviceChoice) -> Result<Picked> {
    pick_with(choice, None, &mut |_| {}).await
}

/// `Auto` takes a real GPU. Where there is only a software adapter, it and the CPU fallback are timed once, and the
/// faster of both is taken; without a cache folder to remember that in, the CPU fallback is: it runs native code with
/// the widest vectors on the same cores, and was the faster on every software adapter that it was measured beside.
///
/// # Errors
/// An adapter that does not exist or gives no device.
pub async fn pick_with(choice: &DeviceChoice, cache: Option<&Path>, notify: &mut dyn FnMut(Notice)) -> Result<Picked> {
    match choice {
        DeviceChoice::Cpu => return Ok(Picked { gpu: None, notice: None }),
        DeviceChoice::Open(gpu) => return Ok(Picked { gpu: Some(gpu.clone()), notice: None }),
        _ => {}
    }
    let all = adapters().await;
    let found = match choice {
        DeviceChoice::Index(i) => Some(*i),
        DeviceChoice::Name(name) => Some(by_name(&all, name)?),
        _ => best(&all),
    };
    if let Some(index) = found {
        return Ok(Picked { gpu: Some(Arc::new(Gpu::open(index).await?)), notice: None });
    }
    match &all[..] {
        [] => Ok(Picked {
            gpu: None,
            notice: Some(format!("found no {NOTHING}: running on the CPU fallback; {DRIVER_HINT}")),
        }),
        [software, ..] => software_or_cpu(software, cache, notify).await,
    }
}

/// Like [`pick_with`], where what is said of it is told at once.
pub(super) async fn picked(
    choice: &DeviceChoice,
    options: &Options,
    notify: &mut dyn FnMut(Notice),
) -> Result<Option<Arc<Gpu>>> {
    let picked = pick_with(choice, options.cache.as_deref(), notify).await?;
    picked.notice.into_iter().for_each(|n| notify(Notice::Say(n)));
    Ok(picked.gpu)
}

async fn measure() -> Result<Comparison> {
    Comparison::measure(&Arc::new(Gpu::open(0).await?)).await
}

/// The faster of the first adapter, which is a software one, and the CPU fallback.
async fn software_or_cpu(
    software: &AdapterReport,
    cache: Option<&Path>,
    notify: &mut dyn FnMut(Notice),
) -> Result<Picked> {
    // Browsers need not tell an adapter's name.
    let named = if software.name.is_empty() { String::new() } else { format!(" ({})", software.name) };
    let only = format!("only a software adapter{named}");
    let Some(cache) = cache else {
        let anyway = if cfg!(target_arch = "wasm32") { "device: \"webgpu\"" } else { "--device 0" };
        let notice = format!(
            "{only}: running on the CPU, which uses the same cores better ({anyway} takes the adapter); {DRIVER_HINT}"
        );
        return Ok(Picked { gpu: None, notice: Some(notice) });
    };
    let times = match Comparison::load(software, cache) {
        Some(known) => known,
        None => {
            notify(Notice::Say(format!(
                "{only}; {DRIVER_HINT}; timing it beside the CPU (once; remembered in {})",
                cache.display()
            )));
            let times = match measure().await {
                Ok(times) => times,
                // An adapter that cannot do this much is not taken by itself.
                Err(e) => {
                    return Ok(Picked {
                        gpu: None,
                        notice: Some(format!("{only}, which failed ({e}): running on the CPU")),
                    });
                }
            };
            if let Err(e) = times.save(software, cache) {
                notify(Notice::Say(e.to_string()));
            }
            times
        }
    };
    let ratio = times.adapter / times.cpu;
    Ok(match ratio > 1.0 {
        true => Picked {
            gpu: None,
            notice: Some(format!(
                "{only}: the CPU was {ratio:.1} times as fast and is taken (--device 0 takes the adapter)"
            )),
        },
        false => Picked {
            gpu: Some(Arc::new(Gpu::open(0).await?)),
            notice: Some(format!(
                "{only}: it was {:.1} times as fast as the CPU and is taken (--device cpu takes that)",
                1.0 / ratio
            )),
        },
    })
}

fn by_name(all: &[AdapterReport], name: &str) -> Result<usize> {
    let wanted = name.to_lowercase();
    all.iter().position(|a| a.name.to_lowercase().contains(&wanted)).ok_or_else(|| {
        let names: Vec<&str> = all.iter().map(|a| a.name.as_str()).collect();
        let have = if names.is_empty() { "none".into() } else { names.join(", ") };
        Error::device(
            DeviceFault::Unavailable,
            name,
            format!("no adapter has this in its name; there are: {have}; or give auto or cpu"),
        )
    })
}

/// The first discrete GPU, else the first other real one.
fn best(all: &[AdapterReport]) -> Option<usize> {
    let of = |kind| all.iter().position(|a| a.caps.kind == kind);
    of(AdapterKind::Discrete).or(of(AdapterKind::Integrated)).or(of(AdapterKind::Other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_parse() {
        let of = |s: &str| s.parse::<DeviceChoice>().unwrap();
        assert!(matches!(
            (of("auto"), of("cpu"), of("2")),
            (DeviceChoice::Auto, DeviceChoice::Cpu, DeviceChoice::Index(2))
        ));
        assert!(matches!(of("Radeon"), DeviceChoice::Name(n) if n == "Radeon"));
        assert!("".parse::<DeviceChoice>().is_err());
    }
}

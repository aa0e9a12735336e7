//! Adapters and devices.

use crate::base::{AdapterKind, Caps, DeviceFault, Error, Precision, Result};
use crate::kernel::Kernel;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::pace::Pace;
use super::pipeline::Pipeline;

/// What an adapter is and can do.
#[derive(Debug, Clone)]
pub struct AdapterReport {
    pub name: String,
    pub backend: String,
    pub driver: String,
    pub caps: Caps,
    /// Cooperative-matrix shapes, as text; empty where there are none.
    pub cooperative: Vec<String>,
}

/// A device that plans run on.
pub struct Gpu {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    pub report: AdapterReport,
    pub(super) pipelines: Mutex<HashMap<Kernel, Arc<Pipeline>>>,
    pub(super) pace: Mutex<Pace>,
    /// Precisions below f32 in which it was seen to compute rightly.
    trusted: Mutex<Vec<Precision>>,
    faults: Arc<Mutex<Option<Error>>>,
    pub(super) used: AtomicU64,
    pub(super) peak: AtomicU64,
    made: Made,
    /// Which allocation from now on fails; none where it is 0.
    pub(super) failing: AtomicU64,
}

/// How often things were made that a decode step must not make.
#[derive(Debug, Default)]
pub(super) struct Made {
    pub pipelines: AtomicU64,
    pub bind_groups: AtomicU64,
    pub buffers: AtomicU64,
    pub uploads: AtomicU64,
    pub submits: AtomicU64,
}

/// Counts since a device was opened: what is made for a plan, and what each step sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub pipelines: u64,
    pub bind_groups: u64,
    pub buffers: u64,
    /// Writes to a buffer from the host.
    pub uploads: u64,
    pub submits: u64,
}

fn instance() -> wgpu::Instance {
    wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle())
}

/// Every adapter of this machine, in a stable order: the index is how a user names one.
pub async fn adapters() -> Vec<AdapterReport> {
    usable(&instance()).await.iter().map(report).collect()
}

/// Adapters that can run compute, one for each name and backend.
async fn usable(instance: &wgpu::Instance) -> Vec<wgpu::Adapter> {
    let all = instance.enumerate_adapters(wgpu::Backends::all()).await;
    let compute =
        |a: &wgpu::Adapter| a.get_downlevel_capabilities().flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS);
    all.into_iter()
        .filter(|a| compute(a) && a.limits().max_storage_buffers_per_shader_stage >= Caps::FLOOR.storage_buffers)
        .collect()
}

fn report(adapter: &wgpu::Adapter) -> AdapterReport {
    let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
    let kind = match info.device_type {
        wgpu::DeviceType::DiscreteGpu => AdapterKind::Discrete,
        wgpu::DeviceType::IntegratedGpu => AdapterKind::Integrated,
        wgpu::DeviceType::Cpu => AdapterKind::Software,
        _ => AdapterKind::Other,
    };
    let caps = Caps {
        kind,
        storage_buffers: limits.max_storage_buffers_per_shader_stage.min(64),
        binding_bytes: limits.max_storage_buffer_binding_size,
        buffer_bytes: limits.max_buffer_size,
        invocations: limits.max_compute_invocations_per_workgroup,
        workgroup_bytes: limits.max_compute_workgroup_storage_size,
        grid: limits.max_compute_workgroups_per_dimension,
        storage_align: limits.min_storage_buffer_offset_alignment,
        uniform_align: limits.min_uniform_buffer_offset_alignment,
        texture: limits.max_texture_dimension_2d,
        f16: features.contains(wgpu::Features::SHADER_F16),
        subgroup: if features.contains(wgpu::Features::SUBGROUP) { info.subgroup_min_size } else { 0 },
        timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
    };
    let cooperative = adapter.cooperative_matrix_properties().iter().map(|p| format!("{p:?}")).collect();
    let driver = format!("{} {}", info.driver, info.driver_info).trim().to_string();
    AdapterReport { name: info.name, backend: info.backend.to_str().into(), driver, caps, cooperative }
}

impl Gpu {
    /// Opens the adapter of this index in [`adapters`], with all that it offers.
    pub async fn open(index: usize) -> Result<Gpu> {
        let mut all = usable(&instance()).await;
        if index >= all.len() {
            let what = format!("is not there: this machine has {} (`warpweft devices` lists them)", all.len());
            return Err(Error::device(DeviceFault::Unavailable, &format!("adapter {index}"), what));
        }
        Gpu::request(all.swap_remove(index), None).await
    }

    /// Opens an adapter as if it offered no more than `caps`: how plans for weaker devices are tested.
    pub async fn open_within(index: usize, caps: &Caps) -> Result<Gpu> {
        let mut all = usable(&instance()).await;
        if index >= all.len() {
            return Err(Error::device(
                DeviceFault::Unavailable,
                &format!("adapter {index}"),
                format!("is not there: this machine has {}", all.len()),
            ));
        }
        Gpu::request(all.swap_remove(index), Some(caps)).await
    }

    async fn request(adapter: wgpu::Adapter, within: Option<&Caps>) -> Result<Gpu> {
        let mut report = report(&adapter);
        if report.name.is_empty() {
            // Browsers need not tell.
            report.name = "WebGPU adapter".into();
        }
        let (mut limits, mut features) = (adapter.limits(), wgpu::Features::empty());
        if let Some(caps) = within {
            limits = wgpu::Limits::default();
            limits.max_storage_buffers_per_shader_stage = caps.storage_buffers;
            limits.max_storage_buffer_binding_size = caps.binding_bytes;
            limits.max_buffer_size = caps.buffer_bytes;
            limits.max_texture_dimension_2d = caps.texture;
            limits.max_compute_workgroups_per_dimension = caps.grid;
            if caps.subgroup > 0 {
                features |= adapter.features() & wgpu::Features::SUBGROUP;
            }
            if caps.f16 {
                features |= adapter.features() & wgpu::Features::SHADER_F16;
            }
            report.caps = Caps { kind: report.caps.kind, ..caps.clone() };
        } else {
            let useful = wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::SUBGROUP | wgpu::Features::SHADER_F16;
            features |= adapter.features() & useful;
        }
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("warpweft"),
            required_features: features,
            required_limits: limits,
            ..Default::default()
        };
        let (device, queue) = adapter
            .request_device(&descriptor)
            .await
            .map_err(|e| Error::device(DeviceFault::Unavailable, &report.name, format!("gave no device: {e}")))?;
        let faults: Arc<Mutex<Option<Error>>> = Arc::default();
        watch(&device, &faults, &report.name);
        let pace = Mutex::new(Pace::new(report.caps.kind));
        Ok(Gpu {
            device,
            queue,
            report,
            pipelines: Mutex::default(),
            pace,
            trusted: Mutex::default(),
            faults,
            used: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            made: Made::default(),
            failing: AtomicU64::new(0),
        })
    }

    /// Whether it was seen to compute rightly in this precision.
    pub fn trusts(&self, precision: Precision) -> bool {
        self.trusted.lock().unwrap_or_else(|e| e.into_inner()).contains(&precision)
    }
    /// From now on it is trusted in this precision.
    pub fn trust(&self, precision: Precision) {
        self.trusted.lock().unwrap_or_else(|e| e.into_inner()).push(precision);
    }
    pub fn caps(&self) -> &Caps {
        &self.report.caps
    }
    /// The most bytes of buffers that were alive at once.
    pub fn peak_bytes(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }
    /// Bytes of buffers alive now.
    pub fn used_bytes(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
    pub fn counts(&self) -> Counts {
        let of = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let Made { pipelines, bind_groups, buffers, uploads, submits } = &self.made;
        Counts {
            pipelines: of(pipelines),
            bind_groups: of(bind_groups),
            buffers: of(buffers),
            uploads: of(uploads),
            submits: of(submits),
        }
    }
    /// The first fault since the last call; a device that was lost stays so.
    pub fn check(&self) -> Result<()> {
        let mut first = self.faults.lock().unwrap_or_else(|e| e.into_inner());
        match &*first {
            Some(lost @ Error::Device { fault: DeviceFault::Lost, .. }) => Err(lost.clone()),
            Some(_) => first.take().map_or(Ok(()), Err),
            None => Ok(()),
        }
    }
    pub(super) fn made(&self, what: impl FnOnce(&Made) -> &AtomicU64) {
        what(&self.made).fetch_add(1, Ordering::Relaxed);
    }
    pub(super) fn upload(&self, to: &wgpu::Buffer, at: u64, bytes: &[u8]) {
        self.made(|m| &m.uploads);
        self.queue.write_buffer(to, at, bytes);
    }
    pub(super) fn submit(&self, commands: Option<wgpu::CommandBuffer>) {
        self.made(|m| &m.submits);
        self.queue.submit(commands);
    }
    /// Destroys the device: every later use is an error. For tests of device loss.
    pub fn destroy(&self) {
        self.device.destroy();
    }

    /// Lets the `k`-th allocation from now on fail, as if the memory were at its end; none for 0. For tests.
    pub fn fail_allocation(&self, k: u64) {
        self.failing.store(k, Ordering::Relaxed);
    }

    /// Blocks until all submitted work is done. Browsers cannot: there it is [`Gpu::done`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn wait(&self) -> Result<()> {
        self.poll()?;
        self.check()
    }
}

/// A browser would give the memory back whenever it collects garbage: this does it now.
#[cfg(target_arch = "wasm32")]
impl Drop for Gpu {
    fn drop(&mut self) {
        self.device.destroy();
    }
}

/// Notes errors that arrive outside of any call.
fn watch(device: &wgpu::Device, faults: &Arc<Mutex<Option<Error>>>, name: &str) {
    let note = |faults: &Arc<Mutex<Option<Error>>>, fault, name: &str, what: String| {
        let mut first = faults.lock().unwrap_or_else(|e| e.into_inner());
        // What fails after a loss fails because of it.
        if first.is_none() || fault == DeviceFault::Lost {
            *first = Some(Error::device(fault, name, what));
        }
    };
    let (seen, adapter) = (faults.clone(), name.to_string());
    device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| {
        let fault = match &e {
            wgpu::Error::OutOfMemory { .. } => DeviceFault::OutOfMemory,
            _ => DeviceFault::Validation,
        };
        note(&seen, fault, &adapter, e.to_string());
    }));
    let (seen, adapter) = (faults.clone(), name.to_string());
    device.set_device_lost_callback(move |reason, message| {
        note(&seen, DeviceFault::Lost, &adapter, format!("the device was lost ({reason:?}): {message}"));
    });
}

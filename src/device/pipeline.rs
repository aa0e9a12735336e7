//! Kernels to pipelines, compiled once a device.

use super::Gpu;
use crate::base::{DeviceFault, Error, Result};
use crate::kernel::{Kernel, Reflection};
use std::sync::Arc;

pub struct Pipeline {
    pub inner: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
    pub reflection: Reflection,
}

impl Gpu {
    /// The pipeline of a kernel, from the cache or compiled.
    pub(super) async fn pipeline(&self, kernel: &Kernel) -> Result<Arc<Pipeline>> {
        if let Some(known) = self.pipelines.lock().unwrap_or_else(|e| e.into_inner()).get(kernel) {
            return Ok(known.clone());
        }
        let compiled = Arc::new(self.compile(kernel).await?);
        self.pipelines.lock().unwrap_or_else(|e| e.into_inner()).insert(kernel.clone(), compiled.clone());
        Ok(compiled)
    }

    async fn compile(&self, kernel: &Kernel) -> Result<Pipeline> {
        let failed = |e: String| {
            Error::device(
                DeviceFault::Pipeline,
                &self.report.name,
                format!("kernel {} did not compile: {e}", kernel.name()),
            )
        };
        let reflection = kernel.reflect().map_err(|e| failed(e.to_string()))?;
        let source = kernel.source().map_err(|e| failed(e.to_string()))?;
        self.made(|m| &m.pipelines);
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let descriptor = wgpu::ShaderModuleDescriptor {
            label: Some(kernel.name()),
            source: wgpu::ShaderSource::Wgsl(source.into()),
        };
        // SAFETY: every kernel guards its own loads and stores; the suite runs all of them with guard regions
        // and poisoned outputs, so the checks that wgpu would add are not needed.
        let module =
            unsafe { self.device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) };
        let inner = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(kernel.name()),
            layout: None,
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: false,
                ..Default::default()
            },
            cache: None,
        });
        if let Some(e) = scope.pop().await {
            return Err(failed(e.to_string()));
        }
        let layout = inner.get_bind_group_layout(0);
        Ok(Pipeline { inner, layout, reflection })
    }
}

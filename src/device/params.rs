//! The parameter blocks of a plan's dispatches.

use super::Gpu;
use super::pipeline::Pipeline;
use crate::base::{Bindings, Error, Result};
use crate::plan::{Dispatch, Param, Plan};
use std::sync::Arc;

/// The parameter blocks of all dispatches, one after another: one upload a step.
pub(super) struct Params {
    pub buffer: wgpu::Buffer,
    image: Vec<u8>,
    /// Bytes of one block.
    stride: usize,
    /// Words that depend on the step: byte offset, dispatch, parameter.
    dynamic: Vec<(usize, usize, usize)>,
}

impl Params {
    pub async fn new(gpu: &Gpu, plan: &Plan, pipelines: &[Arc<Pipeline>]) -> Result<Params> {
        let stride = Params::stride(gpu, plan, pipelines);
        let mut image = vec![0u8; stride * plan.dispatches.len().max(1)];
        let mut dynamic = vec![];
        for (i, d) in plan.dispatches.iter().enumerate() {
            let reflection = &pipelines[d.kernel].reflection;
            if let Some(field) = reflection.fields.iter().find(|f| !d.params.iter().any(|(n, _)| *n == f.name)) {
                return Err(Error::op(
                    plan.kernels[d.kernel].name(),
                    &d.label,
                    format!("parameter {} has no value", field.name),
                ));
            }
            for (j, (name, param)) in d.params.iter().enumerate() {
                // A kernel variant may not use every number that its family has.
                let Some(offset) = reflection.offset(name) else { continue };
                let at = i * stride + offset as usize;
                match param {
                    Param::F(x) => image[at..at + 4].copy_from_slice(&x.to_le_bytes()),
                    Param::U(e) | Param::I(e) if e.known().is_none() => dynamic.push((at, i, j)),
                    whole => image[at..at + 4].copy_from_slice(&word(d, name, whole, &Bindings::new())?.to_le_bytes()),
                }
            }
        }
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let buffer = gpu.buffer("parameters", image.len() as u64, usage).await?;
        gpu.upload(&buffer, 0, &image);
        Ok(Params { buffer, image, stride, dynamic })
    }

    fn stride(gpu: &Gpu, plan: &Plan, pipelines: &[Arc<Pipeline>]) -> usize {
        let largest = plan.dispatches.iter().map(|d| pipelines[d.kernel].reflection.uniform_bytes).max().unwrap_or(16);
        largest.max(16).next_multiple_of(gpu.caps().uniform_align.max(16)) as usize
    }

    /// A word of a dispatch's block as it was uploaded.
    pub fn number(&self, index: usize, offset: u32) -> u64 {
        let at = index * self.stride + offset as usize;
        self.image.get(at..at + 4).map_or(0, |w| u32::from_le_bytes([w[0], w[1], w[2], w[3]]) as u64)
    }

    /// Where a dispatch's block lies, and its bytes.
    pub fn range(&self, index: usize, pipeline: &Pipeline) -> (u64, u64) {
        ((index * self.stride) as u64, pipeline.reflection.uniform_bytes.max(16) as u64)
    }

    /// Writes the words that depend on the step, and uploads them all at once.
    pub fn write(&mut self, gpu: &Gpu, plan: &Plan, bindings: &Bindings) -> Result<()> {
        for (at, i, j) in &self.dynamic {
            let d = &plan.dispatches[*i];
            let (name, param) = &d.params[*j];
            self.image[*at..at + 4].copy_from_slice(&word(d, name, param, bindings)?.to_le_bytes());
        }
        if !self.dynamic.is_empty() {
            gpu.upload(&self.buffer, 0, &self.image);
        }
        Ok(())
    }
}

/// A number of the parameter block as it lies there. One that would wrap means a step that makes no sense.
fn word(d: &Dispatch, name: &str, param: &Param, bindings: &Bindings) -> Result<u32> {
    let refuse = |n: i64, what: &str| {
        let op = d.ops.last().copied().unwrap_or("step");
        Error::op(op, &d.label, format!("{name} is {n} under {bindings}: it {what}"))
    };
    match param {
        Param::F(x) => Ok(x.to_bits()),
        Param::U(e) => {
            let n = e.eval(bindings)?;
            u32::try_from(n)
                .map_err(|_| refuse(n, if n < 0 { "may not be negative" } else { "does not fit into 32 bits" }))
        }
        Param::I(e) => {
            let n = e.eval(bindings)?;
            i32::try_from(n).map(|n| n as u32).map_err(|_| refuse(n, "does not fit into 32 bits"))
        }
    }
}

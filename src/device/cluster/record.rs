//! Commands of ranks, recorded until something waits for them or a submission is full.

use crate::base::{Bindings, Result};
use crate::device::{Executed, Gpu, Program};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use web_time::Instant;

/// What is recorded for one device and not submitted yet.
struct Recording {
    gpu: Arc<Gpu>,
    encoder: wgpu::CommandEncoder,
    /// How much of a submission its dispatches fill, and their work by kernels.
    share: f64,
    work: HashMap<u64, f64>,
}

/// One open encoder per device.
#[derive(Default)]
pub(super) struct Encoders(Vec<Recording>);

impl Encoders {
    fn recording(&mut self, gpu: &Arc<Gpu>) -> &mut Recording {
        let at = match self.0.iter().position(|r| Arc::ptr_eq(&r.gpu, gpu)) {
            Some(at) => at,
            None => {
                let encoder = gpu.device.create_command_encoder(&Default::default());
                self.0.push(Recording { gpu: gpu.clone(), encoder, share: 0.0, work: HashMap::new() });
                self.0.len() - 1
            }
        };
        &mut self.0[at]
    }
    pub(super) fn of(&mut self, gpu: &Arc<Gpu>) -> &mut wgpu::CommandEncoder {
        &mut self.recording(gpu).encoder
    }
    /// Submits what is recorded for one device.
    pub(super) fn flush(&mut self, gpu: &Arc<Gpu>) {
        if let Some(at) = self.0.iter().position(|r| Arc::ptr_eq(&r.gpu, gpu)) {
            let r = self.0.swap_remove(at);
            gpu.submit(Some(r.encoder.finish()));
        }
    }
    /// The same, and waits until it is done, to learn how long its kernels take.
    async fn flush_and_wait(&mut self, gpu: &Arc<Gpu>) -> Result<()> {
        let Some(at) = self.0.iter().position(|r| Arc::ptr_eq(&r.gpu, gpu)) else { return Ok(()) };
        let r = self.0.swap_remove(at);
        let start = Instant::now();
        gpu.submit(Some(r.encoder.finish()));
        gpu.done().await?;
        gpu.pace.lock().unwrap_or_else(|e| e.into_inner()).learn(&r.work, start.elapsed());
        Ok(())
    }
    pub(super) fn flush_all(&mut self) {
        for r in self.0.drain(..) {
            r.gpu.submit(Some(r.encoder.finish()));
        }
    }
}

/// Records dispatches of one rank. What would keep the device for too long goes in several submissions, as on one device.
pub(super) async fn record(
    encoders: &mut Encoders,
    gpu: &Arc<Gpu>,
    program: &Program,
    bindings: &Bindings,
    range: Range<usize>,
) -> Result<Executed> {
    let (mut at, mut recorded) = (range.start, Executed::default());
    while at < range.end {
        let r = encoders.recording(gpu);
        let part = program.portion(at..range.end, bindings, r.share)?;
        recorded.add(program.record_range(&mut r.encoder, bindings, at..part.end)?);
        r.share += part.share;
        part.work.into_iter().for_each(|(kernel, work)| *r.work.entry(kernel).or_insert(0.0) += work);
        at = part.end;
        if at < range.end {
            encoders.flush_and_wait(gpu).await?;
        }
    }
    Ok(recorded)
}

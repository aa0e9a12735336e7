//! A plan on a device: pipelines, bind groups and parameters made once, steps recorded from them.

use super::executed::Executed;
use super::memory::{Memory, Own};
use super::pace::Pace;
use super::params::Params;
use super::pipeline::Pipeline;
use super::{Gpu, Store};
use crate::base::{Array, Bindings, Error, Expr, Result, Weights};
use crate::kernel::Reflection;
use crate::plan::{Dispatch, Plan, Port};
use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use web_time::Instant;

/// A plan, loaded.
pub struct Program {
    gpu: Arc<Gpu>,
    plan: Plan,
    buffers: Vec<Memory>,
    /// What no store owns: inputs, outputs, parameters, staging, timestamps.
    own: Own,
    launches: Vec<Launch>,
    /// What tells each of the plan's kernels from all others.
    keys: Vec<u64>,
    /// FLOPs and bytes of a whole step, added, of each kernel.
    work: Vec<Expr>,
    params: Params,
    staging: Option<wgpu::Buffer>,
    timing: Option<Timing>,
}

struct Launch {
    pipeline: Arc<Pipeline>,
    group: wgpu::BindGroup,
    /// Bytes of the ranges that it binds, its parameters aside.
    bound: u64,
    product: Option<Product>,
}

/// Where the parameter block of a matrix product has its sizes m, n and k, and the number of products.
struct Product {
    sizes: [u32; 3],
    batches: Option<u32>,
}

impl Product {
    fn of(kernel: &Reflection) -> Option<Product> {
        let [m, n, k] = ["m", "n", "k"].map(|name| kernel.offset(name));
        // Where two columns make one result, their number has a name of its own.
        let n = kernel.offset("columns").or(n);
        Some(Product { sizes: [m?, n?, k?], batches: kernel.offset("batches") })
    }
}

/// Outputs on their way to the host: port, place and bytes of each. What is asked for twice is copied once.
pub(super) struct Reading {
    ports: Vec<(Port, u64, u64)>,
    bytes: u64,
}

/// Timestamps around dispatches.
struct Timing {
    set: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    staging: wgpu::Buffer,
}

/// The commands of a step that was recorded, not run.
pub struct Recorded {
    _commands: wgpu::CommandBuffer,
}

/// One dispatch of a profiled step.
#[derive(Debug, Clone)]
pub struct DispatchTime {
    pub index: usize,
    /// Nanoseconds from the step's first timestamp.
    pub start_ns: f64,
    pub duration_ns: f64,
}

/// Dispatches that one submission takes.
pub(super) struct Portion {
    pub end: usize,
    /// How much of a submission they fill.
    pub share: f64,
    /// Their work by kernels.
    pub work: HashMap<u64, f64>,
}

impl Portion {
    fn add(&mut self, pace: &Pace, kernel: u64, work: f64) {
        self.share += pace.share(kernel, work);
        *self.work.entry(kernel).or_insert(0.0) += work;
    }
}

impl Program {
    /// Uploads what the store does not hold yet and compiles what the device has not compiled yet. Weights that arrive
    /// later are not waited for: [`Store::feed`] takes them.
    /// `progress` is told of each dispatch's pipeline: (done, of).
    pub async fn load(
        plan: Plan,
        store: &mut Store,
        weights: &dyn Weights,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Program> {
        let gpu = store.gpu().clone();
        let (mut buffers, mut own, mut taken) = (vec![], Own::new(gpu.clone()), vec![]);
        for b in &plan.buffers {
            let made = store.get(b, weights, &mut taken).await?;
            if matches!(b.role, crate::plan::Role::Input(_) | crate::plan::Role::Output(_)) {
                own.push(made.clone());
            }
            buffers.push(made);
        }
        if !weights.arrives() {
            store.fill(weights).await?;
        }
        let mut pipelines = vec![];
        for (i, kernel) in plan.kernels.iter().enumerate() {
            progress(i, plan.kernels.len());
            pipelines.push(gpu.pipeline(kernel).await?);
        }
        let params = Params::new(&gpu, &plan, &pipelines).await?;
        own.push(Memory::Buffer(params.buffer.clone()));
        let scope = gpu.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let mut launches = vec![];
        for (i, d) in plan.dispatches.iter().enumerate() {
            let pipeline = pipelines[d.kernel].clone();
            let (group, bound) = bind(&gpu, &plan, i, &pipeline, &buffers, &params)?;
            let product = Product::of(&pipeline.reflection);
            launches.push(Launch { pipeline, group, bound, product });
        }
        if let Some(e) = scope.pop().await {
            return Err(Error::device(
                crate::base::DeviceFault::Validation,
                &gpu.report.name,
                format!("a plan could not be bound: {e}"),
            ));
        }
        let most = plan.outputs.iter().map(|p| staged(plan.buffer(p.buffer).bytes)).sum::<u64>();
        let staging = match most {
            0 => None,
            n => Some(gpu.buffer("staging", n, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST).await?),
        };
        if let Some(staging) = &staging {
            own.push(Memory::Buffer(staging.clone()));
        }
        gpu.check()?;
        let mut work = vec![Expr::new(0); plan.kernels.len()];
        for d in &plan.dispatches {
            work[d.kernel] = work[d.kernel].clone() + d.flops.clone() + d.bytes.clone();
        }
        let keys = plan.kernels.iter().map(|k| BuildHasherDefault::<DefaultHasher>::default().hash_one(k)).collect();
        Ok(Program { gpu, plan, buffers, own, launches, keys, work, params, staging, timing: None })
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Runs one step and reads the named outputs back.
    ///
    /// # Errors
    /// Inputs that are missing, unknown or of the wrong type; variables out of bounds; device faults.
    pub async fn step(&mut self, bindings: &Bindings, inputs: &[(&str, Array)], read: &[&str]) -> Result<Vec<Array>> {
        self.step_until(bindings, inputs, read, &AtomicBool::new(false)).await
    }

    /// Like [`Program::step`]; a long step goes in several submissions, between which `cancel` is looked at.
    ///
    /// # Errors
    /// Beside those, [`Error::Cancelled`]: what the step had written by then stays written.
    pub async fn step_until(
        &mut self,
        bindings: &Bindings,
        inputs: &[(&str, Array)],
        read: &[&str],
        cancel: &AtomicBool,
    ) -> Result<Vec<Array>> {
        self.alone()?;
        self.upload(bindings, inputs)?;
        let (mut from, mut start) = (0, Instant::now());
        loop {
            let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
            let Portion { end: to, work, .. } = self.portion(from..self.launches.len(), bindings, 0.0)?;
            self.record_range(&mut encoder, bindings, from..to)?;
            if to == self.launches.len() {
                let reading = self.stage(&mut encoder, bindings, read)?;
                let waits = reading.bytes > 0;
                self.gpu.submit(Some(encoder.finish()));
                let out = self.collect(reading, bindings).await?;
                if waits {
                    self.learn(&work, start);
                }
                return Ok(out);
            }
            self.gpu.submit(Some(encoder.finish()));
            self.gpu.done().await?;
            self.learn(&work, start);
            if cancel.load(Ordering::Relaxed) {
                return Err(Error::Cancelled);
            }
            (from, start) = (to, Instant::now());
        }
    }

    /// What of `range` fills up a submission that is filled to `share` already: at least one dispatch of an empty one.
    pub(super) fn portion(&self, range: Range<usize>, bindings: &Bindings, share: f64) -> Result<Portion> {
        let pace = self.gpu.pace.lock().unwrap_or_else(|e| e.into_inner());
        if range == (0..self.launches.len()) {
            let mut whole = Portion { end: range.end, share: 0.0, work: HashMap::new() };
            for (key, work) in self.keys.iter().zip(&self.work) {
                whole.add(&pace, *key, work.eval(bindings)?.max(0) as f64);
            }
            if share + whole.share <= 1.0 {
                return Ok(whole);
            }
        }
        let mut part = Portion { end: range.start, share: 0.0, work: HashMap::new() };
        for dispatch in &self.plan.dispatches[range] {
            let (key, work) = (self.keys[dispatch.kernel], work(dispatch, bindings)?);
            let filled = share + part.share;
            if filled > 0.0 && filled + pace.share(key, work) > 1.0 {
                break;
            }
            part.add(&pace, key, work);
            part.end += 1;
        }
        Ok(part)
    }

    fn learn(&self, work: &HashMap<u64, f64>, start: Instant) {
        self.gpu.pace.lock().unwrap_or_else(|e| e.into_inner()).learn(work, start.elapsed());
    }

    /// Whether no single dispatch of such a step would take longer than a submission should, by what is known so far.
    pub fn is_brisk(&self, bindings: &Bindings) -> Result<bool> {
        let pace = self.gpu.pace.lock().unwrap_or_else(|e| e.into_inner());
        for d in &self.plan.dispatches {
            if !pace.is_brisk(self.keys[d.kernel], work(d, bindings)?) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A program of one rank of several runs in a [`super::Cluster`] only.
    fn alone(&self) -> Result<()> {
        match self.plan.transfers.first() {
            Some(t) => {
                Err(Error::op("step", &t.label, format!("exchanges rows with {} ranks: run it in a cluster", t.ways())))
            }
            None => Ok(()),
        }
    }

    /// Records the copies that bring outputs to where the host can read them.
    pub(super) fn stage(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        bindings: &Bindings,
        read: &[&str],
    ) -> Result<Reading> {
        let ports = read.iter().map(|name| self.output(name)).collect::<Result<Vec<_>>>()?;
        let mut reading = Reading { ports: vec![], bytes: 0 };
        for port in ports {
            let bytes = bytes_now(&port.ty, bindings)?;
            if let Some((_, at, _)) = reading.ports.iter().find(|(known, ..)| known.name == port.name) {
                reading.ports.push((port, *at, bytes));
                continue;
            }
            if let (Some(staging), true) = (&self.staging, bytes > 0) {
                encoder.copy_buffer_to_buffer(
                    self.buffers[port.buffer.0 as usize].buffer()?,
                    0,
                    staging,
                    reading.bytes,
                    staged(bytes),
                );
            }
            reading.ports.push((port, reading.bytes, bytes));
            reading.bytes += staged(bytes);
        }
        Ok(reading)
    }

    /// Waits for staged outputs and takes them apart.
    pub(super) async fn collect(&self, reading: Reading, bindings: &Bindings) -> Result<Vec<Array>> {
        let bytes = match &self.staging {
            Some(staging) if reading.bytes > 0 => self.gpu.map_read(staging, reading.bytes).await?,
            _ => vec![],
        };
        self.gpu.check()?;
        let mut out = vec![];
        for (port, at, size) in reading.ports {
            let range = at as usize..(at + size) as usize;
            out.push(Array::new(port.ty.dtype, &port.ty.shape.eval(bindings)?, bytes[range].to_vec())?);
        }
        Ok(out)
    }

    /// Runs a step again on the inputs that are there, without reading: what benches time.
    pub fn again(&self, bindings: &Bindings) -> Result<()> {
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        self.record(&mut encoder, bindings)?;
        self.gpu.submit(Some(encoder.finish()));
        Ok(())
    }

    /// Records a step without running it: what a bench of recording times.
    pub fn record_only(&self, bindings: &Bindings) -> Result<Recorded> {
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        self.record(&mut encoder, bindings)?;
        Ok(Recorded { _commands: encoder.finish() })
    }

    fn record(&self, encoder: &mut wgpu::CommandEncoder, bindings: &Bindings) -> Result<()> {
        self.record_range(encoder, bindings, 0..self.launches.len()).map(|_| ())
    }

    /// What one dispatch of a grid comes to, by the parameters that were uploaded last.
    fn executed(&self, index: usize, groups: [u32; 3]) -> Executed {
        let launch = &self.launches[index];
        let number = |at: u32| self.params.number(index, at);
        let product =
            |p: &Product| 2 * p.sizes.map(number).iter().product::<u64>() * p.batches.map_or(groups[2] as u64, number);
        Executed {
            dispatches: 1,
            invocations: groups.iter().chain(&launch.pipeline.reflection.workgroup).map(|n| *n as u64).product(),
            product_flops: launch.product.as_ref().map_or(0, product),
            bound_bytes: launch.bound,
            ..Executed::default()
        }
    }

    /// Records some of the dispatches, in one pass, without those whose grid is empty; what that came to.
    pub(super) fn record_range(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        bindings: &Bindings,
        range: Range<usize>,
    ) -> Result<Executed> {
        let mut recorded = Executed::default();
        if range.is_empty() {
            return Ok(recorded);
        }
        let mut pass = encoder.begin_compute_pass(&Default::default());
        let mut bound = std::ptr::null();
        for index in range {
            let (launch, dispatch) = (&self.launches[index], &self.plan.dispatches[index]);
            let [x, y, z] = dispatch.workgroups(bindings, self.gpu.caps().grid)?;
            if x == 0 || y == 0 || z == 0 {
                continue;
            }
            if !std::ptr::eq(bound, &*launch.pipeline) {
                pass.set_pipeline(&launch.pipeline.inner);
                bound = &*launch.pipeline;
            }
            pass.set_bind_group(0, &launch.group, &[]);
            pass.dispatch_workgroups(x, y, z);
            recorded.add(self.executed(index, [x, y, z]));
        }
        Ok(recorded)
    }

    /// Like [`Program::step`] without reading, a pass and two timestamps around every dispatch.
    pub async fn profile(&mut self, bindings: &Bindings, inputs: &[(&str, Array)]) -> Result<Vec<DispatchTime>> {
        if !self.gpu.caps().timestamps {
            return Err(Error::device(
                crate::base::DeviceFault::Limit,
                &self.gpu.report.name,
                "has no timestamp queries: it cannot be profiled",
            ));
        }
        self.upload(bindings, inputs)?;
        if self.timing.is_none() {
            self.timing = Some(Timing::new(&self.gpu, &mut self.own).await?);
        }
        let Some(timing) = &self.timing else { return Ok(vec![]) };
        let mut times: Vec<(usize, u64, u64)> = vec![];
        for chunk in (0..self.launches.len()).collect::<Vec<_>>().chunks(Timing::PAIRS) {
            let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
            for (slot, &i) in chunk.iter().enumerate() {
                let writes = wgpu::ComputePassTimestampWrites {
                    query_set: &timing.set,
                    beginning_of_pass_write_index: Some(slot as u32 * 2),
                    end_of_pass_write_index: Some(slot as u32 * 2 + 1),
                };
                let mut pass = encoder
                    .begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes: Some(writes) });
                let [x, y, z] = self.plan.dispatches[i].workgroups(bindings, self.gpu.caps().grid)?;
                pass.set_pipeline(&self.launches[i].pipeline.inner);
                pass.set_bind_group(0, &self.launches[i].group, &[]);
                if x * y * z > 0 {
                    pass.dispatch_workgroups(x, y, z);
                }
            }
            let count = chunk.len() as u32 * 2;
            encoder.resolve_query_set(&timing.set, 0..count, &timing.resolved, 0);
            encoder.copy_buffer_to_buffer(&timing.resolved, 0, &timing.staging, 0, count as u64 * 8);
            self.gpu.submit(Some(encoder.finish()));
            let bytes = self.gpu.map_read(&timing.staging, count as u64 * 8).await?;
            let ticks: Vec<u64> =
                bytes.chunks_exact(8).map(|b| u64::from_le_bytes(b.try_into().unwrap_or_default())).collect();
            times.extend(chunk.iter().enumerate().map(|(slot, &i)| (i, ticks[slot * 2], ticks[slot * 2 + 1])));
        }
        let period = self.gpu.queue.get_timestamp_period() as f64;
        let zero = times.first().map_or(0, |t| t.1);
        let time = |(index, start, end): (usize, u64, u64)| DispatchTime {
            index,
            start_ns: start.saturating_sub(zero) as f64 * period,
            duration_ns: end.saturating_sub(start) as f64 * period,
        };
        Ok(times.into_iter().map(time).collect())
    }

    /// Fills every buffer that the step should write with NaN, so that an unwritten element shows.
    pub fn poison(&self) {
        for (made, planned) in self.buffers.iter().zip(&self.plan.buffers) {
            if matches!(planned.role, crate::plan::Role::Output(_) | crate::plan::Role::Scratch) {
                made.write(&self.gpu, 0, &vec![0xff; made.size() as usize]);
            }
        }
    }

    /// The raw bytes of a planned buffer after a step, padding included: for tests and numeric checks.
    pub async fn buffer_bytes(&self, id: crate::plan::BufferId) -> Result<Vec<u8>> {
        let from = self.buffers[id.0 as usize].buffer()?;
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let lent = self.gpu.lent("read", from.size(), usage).await?;
        let to = &lent.buffer;
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(from, 0, to, 0, from.size());
        self.gpu.submit(Some(encoder.finish()));
        self.gpu.map_read(to, from.size()).await
    }

    /// Sets the contents of a state; false where the plan has none of that name.
    pub fn set_state(&self, name: &str, contents: &Array) -> Result<bool> {
        match self.state_buffer(name) {
            Some(id) => self.write_buffer(id, &contents.bytes).map(|_| true),
            None => Ok(false),
        }
    }
    /// Where a state lies, if the plan has one of that name.
    pub fn state_buffer(&self, name: &str) -> Option<crate::plan::BufferId> {
        let is = |b: &crate::plan::Buffer| matches!(&b.role, crate::plan::Role::State(n) if n == name);
        self.plan.buffers.iter().position(is).map(|i| crate::plan::BufferId(i as u32))
    }

    /// Writes a planned buffer from its start on.
    pub fn write_buffer(&self, id: crate::plan::BufferId, bytes: &[u8]) -> Result<()> {
        let mut padded = bytes.to_vec();
        let to = &self.buffers[id.0 as usize];
        padded.resize(bytes.len().next_multiple_of(to.unit()), 0);
        if padded.len() as u64 > to.size() {
            return Err(Error::usage(format!("{} bytes do not fit a buffer of {}", bytes.len(), to.size())));
        }
        to.write(&self.gpu, 0, &padded);
        Ok(())
    }

    pub(super) fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }
    pub(super) fn buffer(&self, id: crate::plan::BufferId) -> Result<&wgpu::Buffer> {
        self.buffers[id.0 as usize].buffer()
    }
    /// Bytes that no other program shares: inputs, outputs, parameters, staging.
    pub(super) fn own_bytes(&self) -> u64 {
        self.own.size()
    }

    fn output(&self, name: &str) -> Result<Port> {
        let known = || self.plan.outputs.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join(", ");
        let found = self.plan.outputs.iter().find(|p| p.name == name);
        found.cloned().ok_or_else(|| Error::usage(format!("there is no output \"{name}\", there are: {}", known())))
    }

    pub(super) fn upload(&mut self, bindings: &Bindings, inputs: &[(&str, Array)]) -> Result<()> {
        if let Some((name, _)) = inputs.iter().find(|(n, _)| !self.plan.inputs.iter().any(|p| p.name == *n)) {
            return Err(Error::usage(format!("there is no input \"{name}\"")));
        }
        for port in &self.plan.inputs {
            let given = inputs.iter().find(|(n, _)| *n == port.name);
            let (_, array) =
                given.ok_or_else(|| Error::usage(format!("input \"{}\" {} is missing", port.name, port.ty)))?;
            let want = port.ty.shape.eval(bindings)?;
            if array.shape != want || array.dtype != port.ty.dtype {
                let (dtype, shape) = (array.dtype, &array.shape);
                return Err(Error::usage(format!(
                    "input \"{}\" is {dtype}{shape:?}, it must be {}{want:?}",
                    port.name, port.ty.dtype
                )));
            }
            let to = &self.buffers[port.buffer.0 as usize];
            let mut bytes = std::borrow::Cow::Borrowed(array.bytes.as_slice());
            let whole = bytes.len().next_multiple_of(to.unit());
            if bytes.len() != whole {
                bytes.to_mut().resize(whole, 0);
            }
            to.write(&self.gpu, 0, &bytes);
        }
        self.params.write(&self.gpu, &self.plan, bindings)
    }
}

/// FLOPs and bytes, added: on any device one of them is what takes the time.
fn work(d: &Dispatch, bindings: &Bindings) -> Result<f64> {
    Ok((d.flops.eval(bindings)? + d.bytes.eval(bindings)?).max(0) as f64)
}

fn staged(bytes: u64) -> u64 {
    bytes.next_multiple_of(8)
}

fn bytes_now(ty: &crate::base::Type, bindings: &Bindings) -> Result<u64> {
    let count = ty.shape.eval(bindings)?.iter().product::<usize>() as u64;
    Ok(count * ty.dtype.block_bytes() as u64)
}

fn bind(
    gpu: &Gpu,
    plan: &Plan,
    index: usize,
    pipeline: &Pipeline,
    buffers: &[Memory],
    params: &Params,
) -> Result<(wgpu::BindGroup, u64)> {
    let d = &plan.dispatches[index];
    let mut bound = 0;
    let wrong = |what: String| Error::op(plan.kernels[d.kernel].name(), &d.label, what);
    let mut entries = vec![];
    for b in &pipeline.reflection.bindings {
        let range = |buffer, offset, bytes| {
            wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer,
                offset,
                size: std::num::NonZeroU64::new(bytes),
            })
        };
        let resource = if b.access == crate::kernel::Access::Uniform {
            let (offset, bytes) = params.range(index, pipeline);
            range(&params.buffer, offset, bytes)
        } else {
            let arg = d
                .args
                .iter()
                .find(|a| a.name == b.name)
                .ok_or_else(|| wrong(format!("binding {} has no argument", b.name)))?;
            match &buffers[arg.buffer.0 as usize] {
                Memory::Buffer(buffer) => {
                    let bytes = arg.bytes.max(16).next_multiple_of(16).min(buffer.size() - arg.offset);
                    bound += bytes;
                    range(buffer, arg.offset, bytes)
                }
                texels @ Memory::Texels(_, view) => {
                    bound += texels.size();
                    wgpu::BindingResource::TextureView(view)
                }
            }
        };
        entries.push(wgpu::BindGroupEntry { binding: b.index, resource });
    }
    gpu.made(|m| &m.bind_groups);
    let group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.layout,
        entries: &entries,
    });
    Ok((group, bound))
}

impl Timing {
    /// Timestamp pairs of one query set.
    const PAIRS: usize = 1024;

    async fn new(gpu: &Gpu, own: &mut Own) -> Result<Timing> {
        let count = Timing::PAIRS as u32 * 2;
        let set = gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
            label: None,
            ty: wgpu::QueryType::Timestamp,
            count,
        });
        let bytes = count as u64 * 8;
        let resolved =
            gpu.buffer("timestamps", bytes, wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC).await?;
        own.push(Memory::Buffer(resolved.clone()));
        let staging =
            gpu.buffer("timestamps", bytes, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST).await?;
        own.push(Memory::Buffer(staging.clone()));
        Ok(Timing { set, resolved, staging })
    }
}

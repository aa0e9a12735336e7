//! One rank of a cluster on its device: its program, and the buffers in which messages land and are added.

use crate::base::{Bindings, Combine, Error, Result, Weights};
use crate::device::pipeline::Pipeline;
use crate::device::{Gpu, Program, Store};
use crate::kernel::{Kernel, MAP};
use crate::plan::Exchange;
use crate::plan::{Plan, Policy, Rounds, Transfer};
use std::sync::Arc;

/// Invocations of a workgroup that adds.
const GROUP: u32 = 64;

/// A rank that this process runs.
pub struct Member {
    pub rank: usize,
    pub program: Program,
    /// Messages that will be added land here.
    landing: Option<wgpu::Buffer>,
    /// What a stage before has sent, by transfer.
    mail: Vec<Option<wgpu::Buffer>>,
    adders: Vec<Vec<Adder>>,
    params: Option<wgpu::Buffer>,
    image: Vec<u8>,
}

/// One addition of a landed message into a working buffer.
struct Adder {
    pipeline: Arc<Pipeline>,
    group: wgpu::BindGroup,
    slot: usize,
}

/// y[y0 + i] ∘= x[x0 + i], for i below n.
fn kernel(combine: Combine) -> Kernel {
    let expression = match combine {
        Combine::Sum => "y[p.y0 + i] + x[p.x0 + i]",
        Combine::Max => "max(y[p.y0 + i], x[p.x0 + i])",
        Combine::Min => "min(y[p.y0 + i], x[p.x0 + i])",
    };
    let interface = "struct Params { n: u32, x0: u32, y0: u32 }\n@group(0) @binding(0) var<uniform> p: Params;\n\
        @group(0) @binding(1) var<storage, read> x: array<f32>;\n@group(0) @binding(2) var<storage, read_write> y: array<f32>;\n";
    let body = format!("fn run(i: u32) {{\n    if (i < p.n) {{ y[p.y0 + i] = {expression}; }}\n}}\n");
    Kernel::new(&MAP).set("WG", GROUP).hole("interface", interface).hole("body", body)
}

/// The kernels of additions, for those who check every kernel.
pub fn kernels() -> Vec<Kernel> {
    [Combine::Sum, Combine::Max, Combine::Min].map(kernel).to_vec()
}

impl Member {
    /// `largest` are bindings under which every transfer is as large as it gets; `place` is the rank's place in the
    /// group of each transfer.
    pub async fn load(
        rank: usize,
        plan: Plan,
        store: &mut Store,
        weights: &dyn Weights,
        largest: &[Rounds],
        place: &[usize],
    ) -> Result<Member> {
        let program = Program::load(plan, store, weights, &mut |_, _| {}).await?;
        let gpu = program.gpu().clone();
        let transfers = program.plan().transfers.clone();
        let mut member =
            Member { rank, program, landing: None, mail: vec![], adders: vec![], params: None, image: vec![] };
        let room = largest.iter().zip(place).map(|(r, place)| landing_room(r, *place)).max().unwrap_or(0);
        let storage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
        if room > 0 {
            member.landing = Some(gpu.buffer("landing", room as u64 * 4, storage).await?);
        }
        let counts: Vec<usize> = largest.iter().zip(place).map(|(r, place)| additions(r, *place)).collect();
        let slots: usize = counts.iter().sum();
        if slots > 0 {
            let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
            member.image = vec![0; slots * stride(&gpu)];
            member.params = Some(gpu.buffer("additions", member.image.len() as u64, usage).await?);
        }
        let mut slot = 0;
        for (t, n) in transfers.iter().zip(counts) {
            let mut adders = vec![];
            for _ in 0..n {
                adders.push(member.adder(&gpu, t, slot).await?);
                slot += 1;
            }
            member.adders.push(adders);
            let wanted = t.exchange == Exchange::Receive;
            let bytes = t.how.to.shape.count().bound() * 4;
            member.mail.push(if wanted { Some(gpu.buffer("mail", bytes, storage).await?) } else { None });
        }
        Ok(member)
    }

    async fn adder(&self, gpu: &Arc<Gpu>, t: &Transfer, slot: usize) -> Result<Adder> {
        let pipeline = gpu.pipeline(&kernel(t.how.combine)).await?;
        let missing = || Error::op("cluster", &t.label, "has no room for messages");
        let (landing, params) = (self.landing.as_ref().ok_or_else(missing)?, self.params.as_ref().ok_or_else(missing)?);
        let uniform = wgpu::BufferBinding {
            buffer: params,
            offset: (slot * stride(gpu)) as u64,
            size: std::num::NonZeroU64::new(16),
        };
        let entries = [
            wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(uniform) },
            wgpu::BindGroupEntry { binding: 1, resource: landing.as_entire_binding() },
            wgpu::BindGroupEntry {
                binding: 2,
                resource: self.program.buffer(t.work.unwrap_or(t.to))?.as_entire_binding(),
            },
        ];
        let group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.layout,
            entries: &entries,
        });
        Ok(Adder { pipeline, group, slot })
    }

    pub fn gpu(&self) -> &Arc<Gpu> {
        self.program.gpu()
    }
    pub fn landing(&self) -> Option<&wgpu::Buffer> {
        self.landing.as_ref()
    }
    pub fn mail(&self, transfer: usize) -> Option<&wgpu::Buffer> {
        self.mail.get(transfer)?.as_ref()
    }
    /// Bytes of this rank beside its store's.
    pub fn own_bytes(&self) -> u64 {
        let mine = self.landing.iter().chain(&self.params).chain(self.mail.iter().flatten());
        self.program.own_bytes() + mine.map(|b| b.size()).sum::<u64>()
    }

    /// Sends the sizes of all additions of a step to the device, at once.
    pub fn upload_additions(&mut self, rounds: &[Arc<Rounds>], place: &[usize]) {
        let gpu = self.gpu().clone();
        let Some(params) = &self.params else { return };
        for (t, (r, place)) in rounds.iter().zip(place).enumerate() {
            let landed = landings(r, *place);
            for (adder, l) in self.adders[t].iter().zip(landed) {
                let at = adder.slot * stride(&gpu);
                for (i, word) in [l.len, l.landing, l.at].into_iter().enumerate() {
                    self.image[at + i * 4..at + i * 4 + 4].copy_from_slice(&(word as u32).to_le_bytes());
                }
            }
        }
        gpu.queue.write_buffer(params, 0, &self.image);
    }

    /// Records the additions `range` of a transfer, each over `len` elements.
    pub fn add(&self, encoder: &mut wgpu::CommandEncoder, transfer: usize, additions: &[(usize, usize)]) {
        if additions.is_empty() {
            return;
        }
        let limit = self.gpu().caps().grid;
        let mut pass = encoder.begin_compute_pass(&Default::default());
        for (k, len) in additions {
            let Some(adder) = self.adders[transfer].get(*k) else { continue };
            let groups = (*len as u32).div_ceil(GROUP);
            let (x, y) = if groups > limit {
                (groups.div_ceil(groups.div_ceil(limit)), groups.div_ceil(limit))
            } else {
                (groups, 1)
            };
            pass.set_pipeline(&adder.pipeline.inner);
            pass.set_bind_group(0, &adder.group, &[]);
            pass.dispatch_workgroups(x, y, 1);
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let gpu = self.program.gpu().clone();
        for b in self.landing.iter().chain(&self.params).chain(self.mail.iter().flatten()) {
            gpu.release(b.size());
            b.destroy();
        }
    }
}

fn stride(gpu: &Gpu) -> usize {
    gpu.caps().uniform_align.max(16) as usize
}

/// Where one message that will be added lands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Landing {
    pub round: usize,
    /// Index of the message in its round.
    pub message: usize,
    pub landing: usize,
    pub at: usize,
    pub len: usize,
}

/// The messages that the rank at `place` adds, in order, each round's from the landing buffer's start on.
pub fn landings(r: &Rounds, place: usize) -> Vec<Landing> {
    let mut out = vec![];
    for (round, messages) in r.rounds.iter().enumerate() {
        let mut landing = 0;
        for (message, m) in messages.iter().enumerate().filter(|(_, m)| m.to == place && m.reduce) {
            out.push(Landing { round, message, landing, at: m.at, len: m.range.len() });
            landing += m.range.len();
        }
    }
    out
}

fn landing_room(r: &Rounds, place: usize) -> usize {
    landings(r, place).iter().map(|l| l.landing + l.len).max().unwrap_or(0)
}

fn additions(r: &Rounds, place: usize) -> usize {
    landings(r, place).len()
}

/// Rounds of every transfer of a plan.
pub fn all_rounds(plan: &Plan, bindings: &Bindings, policy: &Policy) -> Result<Vec<Rounds>> {
    plan.transfers.iter().map(|t| t.rounds(bindings, policy)).collect()
}

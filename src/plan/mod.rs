//! Graph → Plan: a list of dispatches over planned buffers, made from [`Caps`](crate::base::Caps) and a tuning table alone.
//!
//! Passes, in the order they run: `join` makes one product of several with one operand, `fuse` decides what is stored and what is computed where it is used, `lower` turns
//! each stored value into a dispatch (`code` writes the WGSL of fused expressions, `heavy` calls the kernels of
//! single ops), `memory` gives values that never live together the same buffer, `verify` checks every dispatch at its bounds. `text` prints the result.

mod attend;
mod code;
pub mod count;
mod delta;
mod fuse;
mod heavy;
mod int8;
mod join;
mod lower;
mod memory;
mod pair;
mod product;
mod scatter;
pub mod shard;
mod text;
mod tiled;
mod transfer;
mod tuning;
mod verify;

pub use crate::op::Exchange;
pub use count::{Traffic, Volume, Work};
pub use lower::plan;
pub use transfer::{Facts, Policy, Rounds};
pub use tuning::Tuning;
pub use verify::verify;

use crate::base::{Bindings, DType, Expr, Part, Precision, Result, Type};
use crate::kernel::{Kernel, grid};
use crate::op::Collective;
use std::sync::Arc;

/// What to plan for, beside the device.
#[derive(Debug, Clone)]
pub struct Options {
    /// Fuse elementwise chains and use the kernels of whole composites. Off, every op is a dispatch of its own:
    /// slower, and the measure that fused plans are held to.
    pub fuse: bool,
    /// Keep every value's buffer apart, so that each can be read back after a step.
    pub keep_values: bool,
    /// What products are computed in, where kernels of the device have it.
    pub precision: Precision,
    pub tuning: Tuning,
}

impl Options {
    pub fn for_caps(caps: &crate::base::Caps) -> Self {
        Options { fuse: true, keep_values: false, precision: Precision::F32, tuning: Tuning::for_kind(caps.kind) }
    }
}

/// Index into [`Plan::buffers`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufferId(pub u32);

/// What a buffer holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Role {
    /// Rows of a weight (file tensors one after another), in device layout.
    Weight { parts: Vec<Part>, dtype: DType, rows: std::ops::Range<usize>, of_rows: usize },
    /// Literal f32 elements.
    Data(Arc<[f32]>),
    /// A named state; plans of one session share it by name.
    State(String),
    /// Written by the caller before each step.
    Input(String),
    /// Read by the caller after a step.
    Output(String),
    /// Intermediate values, one after another.
    Scratch,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Buffer {
    pub role: Role,
    /// Size at the variables' bounds.
    pub bytes: u64,
    /// Whether it is a texture: texels of sixteen bytes, [`TEXELS`](crate::base::TEXELS) a row. Shaders that run on a CPU load
    /// a texel at once, and what lies in storage word by word and lane by lane.
    pub texels: bool,
    pub label: String,
}

/// A number of the parameter block.
#[derive(Debug, Clone, PartialEq)]
pub enum Param {
    /// A u32, computed from the step's bindings. A step that makes it negative, or more than fits, is refused.
    U(Expr),
    /// An i32, likewise.
    I(Expr),
    F(f32),
}

/// `⌈n / by⌉` workgroups along an axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Ceil {
    pub n: Expr,
    pub by: u32,
}

/// A kernel argument: a range of a buffer.
#[derive(Debug, Clone, PartialEq)]
pub struct Arg {
    pub name: String,
    pub buffer: BufferId,
    /// Bytes from the buffer's start; a multiple of the storage alignment.
    pub offset: u64,
    pub bytes: u64,
    pub write: bool,
}

/// One kernel run.
#[derive(Debug, Clone, PartialEq)]
pub struct Dispatch {
    /// The node that it ends with, for people.
    pub label: String,
    /// Ops that it computes, in order.
    pub ops: Vec<&'static str>,
    /// Index into [`Plan::kernels`].
    pub kernel: usize,
    pub args: Vec<Arg>,
    pub params: Vec<(String, Param)>,
    pub grid: [Ceil; 3],
    pub flops: Expr,
    /// Bytes read and written, each operand once.
    pub bytes: Expr,
}

impl Dispatch {
    /// Workgroups under `bindings`, folded where an axis is beyond `limit` ([`grid::fold`]).
    pub fn workgroups(&self, bindings: &Bindings, limit: u32) -> Result<[u32; 3]> {
        let mut out = [1u32; 3];
        for (slot, ceil) in out.iter_mut().zip(&self.grid) {
            *slot = (ceil.n.eval(bindings)?.max(0) as u64).div_ceil(ceil.by as u64).min(u32::MAX as u64) as u32;
        }
        Ok(grid::fold(out, limit))
    }
}

/// A named input or output.
#[derive(Debug, Clone, PartialEq)]
pub struct Port {
    pub name: String,
    pub ty: Type,
    pub buffer: BufferId,
}

/// Where a value can be read after a step (all values with `keep_values`, else outputs only).
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    pub op: &'static str,
    pub name: String,
    pub ty: Type,
    pub buffer: BufferId,
}

/// Rows that travel between ranks.
#[derive(Debug, Clone, PartialEq)]
pub struct Transfer {
    /// It runs before this dispatch.
    pub before: usize,
    pub exchange: Exchange,
    pub how: Collective,
    /// The node, for people.
    pub label: String,
    /// Where the operand lies, and from which element on. A receiver has none.
    pub from: Option<(BufferId, Expr)>,
    /// Where the result goes.
    pub to: BufferId,
    /// Where parts are summed, if not there.
    pub work: Option<BufferId>,
    /// Elements of 4 bytes in a row.
    pub row: Expr,
}

/// Everything a device needs to run steps of a graph.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub kernels: Vec<Kernel>,
    pub buffers: Vec<Buffer>,
    pub dispatches: Vec<Dispatch>,
    /// In the order in which they run.
    pub transfers: Vec<Transfer>,
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
    pub kept: Vec<Kept>,
}

impl Plan {
    pub fn buffer(&self, id: BufferId) -> &Buffer {
        &self.buffers[id.0 as usize]
    }
    /// Bytes of all buffers, by kind.
    pub fn bytes_where(&self, which: impl Fn(&Role) -> bool) -> u64 {
        self.buffers.iter().filter(|b| which(&b.role)).map(|b| b.bytes).sum()
    }
    /// Bytes that the plan needs on a device at its bounds.
    pub fn total_bytes(&self) -> u64 {
        self.bytes_where(|_| true)
    }
    /// Floating-point operations and bytes moved in one step.
    pub fn work(&self, bindings: &Bindings) -> Result<(u64, u64)> {
        let mut sum = (0, 0);
        for d in &self.dispatches {
            sum.0 += d.flops.eval(bindings)?.max(0) as u64;
            sum.1 += d.bytes.eval(bindings)?.max(0) as u64;
        }
        Ok(sum)
    }
}

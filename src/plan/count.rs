//! What a step does, counted: by what runs it and by what predicts it, in the same terms.

use super::{Dispatch, Param, Plan, Role};
use crate::base::{Bindings, Result};
use crate::op::Exchange;
use std::collections::BTreeMap;

/// What a rank computes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    pub dispatches: usize,
    /// Floating-point operations, and bytes read and written.
    pub flops: u64,
    pub bytes: u64,
}

/// What collectives of one kind send.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Volume {
    pub collectives: usize,
    pub messages: usize,
    pub bytes: u64,
}

/// Counts of a step over all ranks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traffic {
    /// By rank.
    pub work: BTreeMap<usize, Work>,
    /// Bytes by sender and receiver.
    pub links: BTreeMap<(usize, usize), u64>,
    pub messages: usize,
    /// Additions and comparisons of collectives.
    pub flops: u64,
    /// By kind (see [`name`]).
    pub volumes: BTreeMap<&'static str, Volume>,
}

impl Traffic {
    pub fn bytes(&self) -> u64 {
        self.links.values().sum()
    }

    /// FLOPs of all ranks, those of collectives among them.
    pub fn all_flops(&self) -> u64 {
        self.flops + self.work.values().map(|w| w.flops).sum::<u64>()
    }

    /// Dispatches that a rank ran.
    pub fn ran(&mut self, rank: usize, work: Work) {
        self.work.entry(rank).or_default().add(work);
    }

    /// A collective (a send, but not its receive) begins.
    pub fn begins(&mut self, exchange: Exchange) {
        self.volumes.entry(name(exchange)).or_default().collectives += 1;
    }

    /// A message between two ranks. What stays on a rank, or is empty, does not travel: false.
    pub fn sent(&mut self, exchange: Exchange, (from, to): (usize, usize), bytes: u64) -> bool {
        if from == to || bytes == 0 {
            return false;
        }
        *self.links.entry((from, to)).or_default() += bytes;
        self.messages += 1;
        let volume = self.volumes.entry(name(exchange)).or_default();
        volume.messages += 1;
        volume.bytes += bytes;
        true
    }

    /// Another step's counts beside these.
    pub fn add(&mut self, more: Traffic) {
        more.work.into_iter().for_each(|(rank, w)| self.ran(rank, w));
        more.links.into_iter().for_each(|(link, bytes)| *self.links.entry(link).or_default() += bytes);
        self.messages += more.messages;
        self.flops += more.flops;
        for (name, v) in more.volumes {
            let mine = self.volumes.entry(name).or_default();
            *mine = Volume {
                collectives: mine.collectives + v.collectives,
                messages: mine.messages + v.messages,
                bytes: mine.bytes + v.bytes,
            };
        }
    }
}

impl Work {
    pub fn add(&mut self, more: Work) {
        *self = Work {
            dispatches: self.dispatches + more.dispatches,
            flops: self.flops + more.flops,
            bytes: self.bytes + more.bytes,
        };
    }
}

impl Dispatch {
    /// What it comes to under a step's bindings; nothing where its grid is empty, since then it is not run.
    pub fn work(&self, bindings: &Bindings) -> Result<Work> {
        if self.workgroups(bindings, u32::MAX)?.contains(&0) {
            return Ok(Work::default());
        }
        let whole = |e: &crate::base::Expr| e.eval(bindings).map(|v| v.max(0) as u64);
        Ok(Work { dispatches: 1, flops: whole(&self.flops)?, bytes: whole(&self.bytes)? })
    }
}

/// What people call an exchange.
pub fn name(e: Exchange) -> &'static str {
    match e {
        Exchange::AllReduce => "all-reduce",
        Exchange::AllGather => "all-gather",
        Exchange::ReduceScatter => "reduce-scatter",
        Exchange::AllToAll => "all-to-all",
        Exchange::Broadcast => "broadcast",
        Exchange::Permute => "permute",
        Exchange::Send => "send",
        Exchange::Receive => "receive",
    }
}

impl Plan {
    /// What kind of kernel a dispatch is: its template, the tile that a workgroup makes, the format of its right operand.
    /// Dispatches of one form differ by their sizes only, and by what is computed on the way out.
    pub fn form(&self, d: &Dispatch) -> String {
        let mut out = self.kernels[d.kernel].name().to_string();
        let right = d.args.iter().find(|a| a.name == "b").map(|a| &self.buffer(a.buffer).role);
        match right {
            Some(Role::Weight { dtype, .. }) => out += &format!(" {dtype}"),
            Some(_) => out += " f32",
            None => {}
        }
        match out.split(' ').next() {
            Some(product) if product.starts_with("mat") => {
                // Two columns of a pair make one result.
                let columns = if d.params.iter().any(|p| p.0 == "columns") { 2 } else { 1 };
                out += &format!(" {}×{}", d.grid[1].by, d.grid[0].by * columns);
            }
            // What only computes, and what rearranges: rotations, concatenations, caches.
            Some("map") if d.ops.contains(&"concat") || d.ops.contains(&"append") => out += " rearranged",
            _ => {}
        }
        out
    }
}

impl Dispatch {
    /// What its time follows: operations of products and attention, bytes of all else.
    pub fn size(&self, work: &Work) -> u64 {
        if self.ops.contains(&"matmul") || self.ops.contains(&"attention") { work.flops } else { work.bytes }
    }

    /// A u32 parameter under a step's bindings.
    pub fn number(&self, name: &str, bindings: &Bindings) -> Result<Option<u64>> {
        match self.params.iter().find(|p| p.0 == name) {
            Some((_, Param::U(e))) => e.eval(bindings).map(|v| Some(v.max(0) as u64)),
            _ => Ok(None),
        }
    }
}

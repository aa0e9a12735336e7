//! A plan on a machine that is not here: its devices' calibration, its links.

use super::Rates;
use crate::base::{Bindings, Error, Result};
use crate::plan::{Dispatch, Exchange, Plan, Rounds};
use crate::simulate::Chip;
use crate::simulate::chip::Attends;
use crate::simulate::collective::{Placed, price};
use crate::simulate::constants::Protocol;
use crate::topology::collective::{Algorithm, Kind, Round};
use crate::topology::{Precision, Topology, Way};

/// Rank r runs on device r. Kernels are priced as the calibration's, which are those of the vendor's libraries.
pub struct Machine {
    pub chip: Chip,
    /// What products are computed in; bytes are the plan's.
    pub precision: Precision,
    topology: Topology,
    /// Devices that reach each other so, from near to far, and whether it is a network.
    levels: Vec<(usize, Way, bool)>,
}

impl Machine {
    /// # Errors
    /// More ranks than devices.
    pub fn new(topology: &Topology, ranks: usize, precision: Precision) -> Result<Machine> {
        if ranks > topology.devices() {
            let nodes = ranks.div_ceil(topology.devices_per_node());
            return Err(Error::usage(format!(
                "{ranks} ranks take {ranks} devices, {} has {}: --nodes {nodes} would do",
                topology.name,
                topology.devices()
            )));
        }
        let per_node = topology.devices_per_node();
        let near = topology.levels().first().map_or(per_node, |l| l.devices.max(per_node));
        let levels = topology.levels().into_iter().map(|l| (l.devices, l.way.clone(), l.devices > near)).collect();
        Ok(Machine { chip: Chip::new(topology.slowest())?, precision, topology: topology.clone(), levels })
    }

    fn way(&self, a: usize, b: usize) -> Result<&(usize, Way, bool)> {
        let lacks = || Error::usage(format!("{}: there is no way from device {a} to device {b}", self.topology.name));
        self.levels.iter().find(|l| a / l.0 == b / l.0).ok_or_else(lacks)
    }

    /// Bytes that the busiest rank sends in a round, near and far, with the ways that they take.
    fn busiest(&self, group: &[usize], round: &Round) -> Result<Vec<(&(usize, Way, bool), f64)>> {
        let mut sums: Vec<(usize, &(usize, Way, bool), f64)> = vec![];
        for m in round.iter().filter(|m| m.from != m.to) {
            let (Some(from), Some(to)) = (group.get(m.from), group.get(m.to)) else { continue };
            let way = self.way(*from, *to)?;
            match sums.iter_mut().find(|s| s.0 == *from && std::ptr::eq(s.1, way)) {
                Some(s) => s.2 += m.range.len() as f64 * 4.0,
                None => sums.push((*from, way, m.range.len() as f64 * 4.0)),
            }
        }
        let mut out: Vec<(&(usize, Way, bool), f64)> = vec![];
        for (_, way, bytes) in sums {
            match out.iter_mut().find(|o| std::ptr::eq(o.0, way)) {
                Some(o) => o.1 = f64::max(o.1, bytes),
                None => out.push((way, bytes)),
            }
        }
        Ok(out)
    }

    /// All rounds under one protocol within nodes: `base` before the first one, a step and its bytes in each.
    fn under(&self, near: &Protocol, total: f64, group: usize, parts: &[Vec<(&(usize, Way, bool), f64)>]) -> Vec<f64> {
        let far = &self.chip.constants.collective.network;
        let mut met: Vec<bool> = vec![];
        let mut out = vec![];
        for round in parts {
            let mut longest = 0.0f64;
            for (way, bytes) in round {
                let p = if way.2 { far } else { near };
                // What a protocol takes once falls on the round that meets it first.
                let first = !met.contains(&way.2);
                if first {
                    met.push(way.2);
                }
                let once = if first { way.1.latency.0 } else { -p.base.0 };
                longest = longest.max(p.seconds(1.0, *bytes, way.1.bandwidth.0, total, group as f64) + once);
            }
            out.push(longest);
        }
        out
    }
}

/// m, n, k and the batch of a product; none for other kernels.
fn product(d: &Dispatch, bindings: &Bindings) -> Result<Option<[f64; 4]>> {
    if !d.ops.contains(&"matmul") {
        return Ok(None);
    }
    let number = |name: &str| d.number(name, bindings).map(|v| v.unwrap_or(0) as f64);
    // Where two columns make one result, their number has a name of its own.
    let n = if d.number("columns", bindings)?.is_some() { number("columns")? } else { number("n")? };
    let (m, k) = (number("m")?, number("k")?);
    let batch = d.grid[2].n.eval(bindings)?.max(1) as f64;
    Ok((m * n * k > 0.0).then_some([batch, m, n, k]))
}

impl Rates for Machine {
    fn dispatch(&self, _: &Plan, d: &Dispatch, bindings: &Bindings) -> Result<f64> {
        let work = d.work(bindings)?;
        let bytes = work.bytes as f64;
        if let Some([batch, m, n, k]) = product(d, bindings)? {
            return Ok(self.chip.engine(self.precision)?.seconds_moving(batch, m, n, k, bytes));
        }
        if d.ops.contains(&"attention") {
            // Its length is not among what a dispatch tells: as of a long one.
            let of = Attends { head: 128.0, length: 1e9, useful: 1.0, backward: false, pytorch: false };
            return self.chip.attention(self.precision, of, work.flops as f64, bytes);
        }
        let rows = d.ops.iter().any(|o| ["softmax", "log_softmax", "rms_norm", "layer_norm"].contains(o));
        let plain = self.chip.device.peak(Precision::Fp32).map_or(f64::INFINITY, |p| p.0);
        Ok(self.chip.stream(bytes.max(1.0), rows).max(work.flops as f64 / plain))
    }

    fn rounds(&self, exchange: Exchange, group: &[usize], rounds: &Rounds) -> Result<Vec<f64>> {
        let c = &self.chip.constants.collective;
        let total = rounds.elements as f64 * 4.0;
        if rounds.algorithm == Algorithm::InSwitch {
            let stride = group.get(1).map_or(1, |r| r.abs_diff(group[0]).max(1));
            let placed = Placed::new(&self.topology, group.len(), stride);
            if !placed.levels.iter().all(|l| l.1.reduction) {
                return Err(Error::usage(format!(
                    "{}: no switch between these ranks can add: choose another algorithm",
                    self.topology.name
                )));
            }
            let whole = price(c, &placed, Kind::AllReduce, total, Some(Algorithm::InSwitch)).seconds.0;
            return Ok(vec![whole / rounds.rounds.len().max(1) as f64; rounds.rounds.len()]);
        }
        let parts = rounds.rounds.iter().map(|r| self.busiest(group, r)).collect::<Result<Vec<_>>>()?;
        let total = if total > 0.0 { total } else { parts.iter().flatten().map(|p| p.1).sum() };
        let single = matches!(exchange, Exchange::Permute | Exchange::AllToAll | Exchange::Broadcast);
        let high = if single { &c.peer } else { &c.ring };
        let sum = |v: &Vec<f64>| v.iter().sum::<f64>();
        let ways = [high, &c.low_latency].map(|p| self.under(p, total, group.len(), &parts));
        Ok(ways.into_iter().min_by(|a, b| sum(a).total_cmp(&sum(b))).unwrap_or_default())
    }

    fn send(&self, from: usize, to: usize, bytes: u64) -> Result<f64> {
        let c = &self.chip.constants.collective;
        let way = self.way(from, to)?;
        let over = |p: &Protocol| p.seconds(1.0, bytes as f64, way.1.bandwidth.0, bytes as f64, 1.0) + way.1.latency.0;
        Ok(if way.2 { over(&c.network) } else { over(&c.peer).min(over(&c.low_latency)) })
    }

    fn submit(&self) -> f64 {
        self.chip.constants.launch.0
    }
}

//! From near to far: what a device sees of its node, its rack and the whole machine.

use super::machine::Topology;
use super::net::{Net, Way};

/// Devices that reach each other the same way, once nearer levels are used up.
#[derive(Debug, Clone, PartialEq)]
pub struct Level {
    /// Devices within it, numbered one after another.
    pub devices: usize,
    pub way: Way,
}

impl Topology {
    /// Levels from near to far, none for a machine of one device. A rack whose nodes share one fabric is one level.
    pub fn levels(&self) -> Vec<Level> {
        let per_node = self.devices_per_node();
        let rack = self.rack.unwrap_or(1).min(self.nodes);
        let mut out: Vec<Level> = vec![];
        let mut add = |devices: usize, way: Option<Way>| {
            let Some(way) = way else { return };
            match out.last_mut() {
                Some(last)
                    if last.way.kind == way.kind && (last.way.bandwidth.0 / way.bandwidth.0 - 1.0).abs() < 1e-9 =>
                {
                    last.devices = devices
                }
                _ => out.push(Level { devices, way }),
            }
        };
        if per_node > 1 {
            add(per_node, self.within(&(0..per_node).collect::<Vec<_>>()));
        }
        if rack > 1 {
            add(per_node * rack, self.across(1));
        }
        if self.nodes > rack {
            add(self.devices(), self.across(rack));
        }
        out
    }

    /// Among some devices of one node (numbered within it): over their direct wires, else around a ring through switches
    /// while all of the node's devices do the same.
    pub fn within(&self, devices: &[usize]) -> Option<Way> {
        let net = Net::new(self, &[0]);
        let all = net.devices();
        let some: Vec<usize> = devices.iter().filter_map(|d| all.get(*d).copied()).collect();
        if some.len() < 2 {
            return None;
        }
        if let Some(direct) = net.direct(&some) {
            return Some(direct);
        }
        let around = |set: &[usize]| (0..set.len()).map(|i| (set[i], set[(i + 1) % set.len()])).collect::<Vec<_>>();
        let mut pairs = around(&some);
        // Groups of this shape tile the node: the rest of it talks, too.
        let groups = all.len() / some.len();
        let rest: Vec<usize> = all.iter().filter(|d| !some.contains(d)).copied().collect();
        if groups > 1 && rest.len() >= some.len() {
            rest.chunks_exact(some.len()).for_each(|set| pairs.extend(around(set)));
        }
        net.ways(&pairs)
    }

    /// Between node 0 and the node so many further, device by device of the same place, in both directions.
    pub fn across(&self, nodes: usize) -> Option<Way> {
        let net = Net::new(self, &[0, nodes]);
        let all = net.devices();
        let of = |node: usize| all.iter().filter(|d| net.parts[**d].place == node).copied().collect::<Vec<_>>();
        let (near, far) = (of(0), of(nodes));
        let there = near.iter().copied().zip(far.iter().copied());
        net.ways(&there.clone().chain(there.map(|(a, b)| (b, a))).collect::<Vec<_>>())
    }
}

impl Topology {
    /// What a device gets to its host while all devices of the node do the same; the slowest link there is where no host
    /// is named.
    pub fn host_bandwidth(&self) -> crate::base::units::BytesPerSecond {
        use super::machine::Role;
        let net = Net::new(self, &[0]);
        let hosts: Vec<usize> =
            (0..net.parts.len()).filter(|p| matches!(self.groups[net.parts[*p].group].role, Role::Host)).collect();
        let devices = net.devices();
        let pairs: Vec<(usize, usize)> = devices
            .iter()
            .enumerate()
            .filter_map(|(i, d)| Some((*d, *hosts.get(i * hosts.len() / devices.len())?)))
            .collect();
        let narrow = self.links.iter().map(|l| l.bandwidth().0).fold(f64::INFINITY, f64::min);
        net.ways(&pairs).map_or(crate::base::units::BytesPerSecond(narrow), |w| w.bandwidth)
    }
}

//! A machine's parts and wires one by one, and what they carry when all devices talk at once.

use super::machine::{Link, Role, Scope, Topology};
use crate::base::units::{BytesPerSecond, Seconds};
use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// One part of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub group: usize,
    /// The node or rack that it belongs to; 0 for parts of the whole cluster.
    pub place: usize,
    pub index: usize,
}

/// A full-duplex wire between two parts.
#[derive(Debug, Clone, PartialEq)]
pub struct Wire {
    pub ends: [usize; 2],
    pub link: usize,
    pub lanes: u32,
}

/// Some nodes of a machine, spelled out.
#[derive(Debug, Clone)]
pub struct Net<'a> {
    pub topology: &'a Topology,
    pub parts: Vec<Part>,
    pub wires: Vec<Wire>,
    /// Wires at each part.
    at: Vec<Vec<usize>>,
}

/// A bandwidth and a latency that a device sees.
#[derive(Debug, Clone, PartialEq)]
pub struct Way {
    /// Kind of the narrowest link.
    pub kind: String,
    /// A device, one direction, while all devices talk.
    pub bandwidth: BytesPerSecond,
    /// From a device to its peer.
    pub latency: Seconds,
    /// A switch on the way can sum.
    pub reduction: bool,
}

impl<'a> Net<'a> {
    /// These nodes of the machine, with what they share. All nodes are alike, so two or three say everything.
    pub fn new(topology: &'a Topology, nodes: &[usize]) -> Self {
        let mut net = Net { topology, parts: vec![], wires: vec![], at: vec![] };
        let mut racks: Vec<usize> = nodes.iter().map(|n| n / topology.rack.unwrap_or(usize::MAX)).collect();
        racks.dedup();
        for (group, g) in topology.groups.iter().enumerate() {
            let places: &[usize] = match g.scope {
                Scope::Node => nodes,
                Scope::Rack => &racks,
                Scope::Cluster => &[0],
            };
            net.parts.extend(
                places.iter().flat_map(|place| (0..g.count).map(move |index| Part { group, place: *place, index })),
            );
        }
        net.at = vec![vec![]; net.parts.len()];
        for (at, link) in topology.links.iter().enumerate() {
            net.connect(at, link);
        }
        net
    }

    fn connect(&mut self, at: usize, link: &Link) {
        let t = self.topology;
        let (a, b) = (&t.groups[link.from], &t.groups[link.to]);
        let of = |group: usize| {
            self.parts
                .iter()
                .enumerate()
                .filter(move |(_, p)| p.group == group)
                .map(|(i, p)| (i, p.clone()))
                .collect::<Vec<_>>()
        };
        let mut found: Vec<([usize; 2], u32)> = vec![];
        let (starts, ends) = (of(link.from), of(link.to));
        for ((i, p), (j, q)) in starts.iter().flat_map(|s| ends.iter().map(move |e| (s, e))) {
            let meant = |only: Option<usize>, index: usize| only.is_none_or(|o| o == index);
            if !together(t, (a.scope, p.place), (b.scope, q.place))
                || !meant(link.only[0], p.index)
                || !meant(link.only[1], q.index)
            {
                continue;
            }
            let lanes = if link.from == link.to {
                let named = link.pairs.iter().find(|x| (x.0, x.1) == (p.index, q.index)).map(|x| x.2);
                let any = link.pairs.is_empty().then_some(link.lanes);
                if i < j || (i != j && (!link.pairs.is_empty() || link.only != [None, None])) {
                    named.or(any)
                } else {
                    None
                }
            } else {
                let meet = p.index * b.count / a.count == q.index || q.index * a.count / b.count == p.index;
                (meet || link.only != [None, None]).then_some(link.lanes)
            };
            found.extend(lanes.map(|l| ([*i, *j], l)));
        }
        for (ends, lanes) in found {
            ends.iter().for_each(|e| self.at[*e].push(self.wires.len()));
            self.wires.push(Wire { ends, link: at, lanes });
        }
    }

    /// A part's name: `gpu3`, `gpu3 of node 1`, `fabric`.
    pub fn name(&self, part: usize) -> String {
        let p = &self.parts[part];
        let g = &self.topology.groups[p.group];
        let plain = if g.count > 1 { format!("{}{}", g.name, p.index) } else { g.name.clone() };
        match g.scope {
            Scope::Node if self.parts.iter().any(|q| q.group == p.group && q.place != p.place) => {
                format!("{plain} of node {}", p.place)
            }
            Scope::Rack if self.parts.iter().any(|q| q.group == p.group && q.place != p.place) => {
                format!("{plain} of rack {}", p.place)
            }
            _ => plain,
        }
    }

    /// Devices, node by node.
    pub fn devices(&self) -> Vec<usize> {
        let device = |p: &Part| matches!(self.topology.groups[p.group].role, Role::Device(_));
        let mut out: Vec<usize> = (0..self.parts.len()).filter(|i| device(&self.parts[*i])).collect();
        out.sort_by_key(|i| (self.parts[*i].place, self.parts[*i].group, self.parts[*i].index));
        out
    }

    /// All lanes of a wire, one direction.
    pub fn bandwidth(&self, wire: usize) -> BytesPerSecond {
        self.topology.links[self.wires[wire].link].lane * self.wires[wire].lanes as f64
    }

    fn latency(&self, wire: usize) -> Seconds {
        self.topology.links[self.wires[wire].link].latency
    }

    /// The cheapest way for a mebibyte, where `load` flows already use each wire (by direction); devices do not forward.
    fn route(&self, from: usize, to: usize, load: &[[u32; 2]]) -> Option<Vec<(usize, usize)>> {
        let mut best = vec![f64::INFINITY; self.parts.len()];
        let mut came: Vec<Option<(usize, usize)>> = vec![None; self.parts.len()];
        let mut open = BinaryHeap::from([Step { cost: 0.0, part: from }]);
        best[from] = 0.0;
        while let Some(Step { cost, part }) = open.pop() {
            if part == to {
                break;
            }
            let forwards =
                part == from || !matches!(self.topology.groups[self.parts[part].group].role, Role::Device(_));
            if !forwards || cost > best[part] {
                continue;
            }
            for wire in &self.at[part] {
                let ends = self.wires[*wire].ends;
                let direction = usize::from(ends[1] == part);
                let flows = load[*wire][direction] as f64 + 1.0;
                let next = cost + self.latency(*wire).0 + 1048576.0 * flows / self.bandwidth(*wire).0;
                let other = ends[1 - direction];
                if next < best[other] {
                    best[other] = next;
                    came[other] = Some((*wire, direction));
                    open.push(Step { cost: next, part: other });
                }
            }
        }
        let mut out = vec![];
        let mut at = to;
        while at != from {
            let (wire, direction) = came[at]?;
            out.push((wire, direction));
            at = self.wires[wire].ends[direction];
        }
        out.reverse();
        Some(out)
    }

    /// What each pair gets when all talk at once; none where a pair has no way. The answer is the slowest pair's.
    pub fn ways(&self, pairs: &[(usize, usize)]) -> Option<Way> {
        let mut load = vec![[0u32; 2]; self.wires.len()];
        let mut routes = vec![];
        for (from, to) in pairs {
            let route = self.route(*from, *to, &load)?;
            route.iter().for_each(|(wire, direction)| load[*wire][*direction] += 1);
            routes.push(route);
        }
        let narrow = |route: &Vec<(usize, usize)>| {
            let share =
                |(wire, direction): &(usize, usize)| (self.bandwidth(*wire).0 / load[*wire][*direction] as f64, *wire);
            route.iter().map(share).min_by(|a, b| a.0.total_cmp(&b.0))
        };
        let (bandwidth, wire) = routes.iter().filter_map(narrow).min_by(|a, b| a.0.total_cmp(&b.0))?;
        let latency = routes.iter().map(|r| r.iter().map(|w| self.latency(w.0)).sum::<Seconds>().0).fold(0.0, f64::max);
        let sums =
            |part: usize| matches!(self.topology.groups[self.parts[part].group].role, Role::Switch { reduction: true });
        let reduction = routes.iter().all(|r| r.iter().any(|w| self.wires[w.0].ends.iter().any(|e| sums(*e))));
        let kind = self.topology.links[self.wires[wire].link].kind.clone();
        Some(Way { kind, bandwidth: BytesPerSecond(bandwidth), latency: Seconds(latency), reduction })
    }

    /// All direct wires from each device to the others of a set, where they connect the set without a switch: a ring
    /// decomposition uses every one of them.
    pub fn direct(&self, devices: &[usize]) -> Option<Way> {
        let peers =
            |d: usize| self.at[d].iter().filter(move |w| self.wires[**w].ends.iter().all(|e| devices.contains(e)));
        let mut met = vec![devices[0]];
        let mut next = 0;
        while let Some(d) = met.get(next).copied() {
            let others: Vec<usize> = peers(d).flat_map(|w| self.wires[*w].ends).collect();
            others.into_iter().for_each(|e| {
                if !met.contains(&e) {
                    met.push(e)
                }
            });
            next += 1;
        }
        let sum = |d: usize| peers(d).map(|w| self.bandwidth(*w).0).sum::<f64>();
        let narrow = devices.iter().map(|d| sum(*d)).fold(f64::INFINITY, f64::min);
        let wire = *peers(devices[0]).next()?;
        let kind = self.topology.links[self.wires[wire].link].kind.clone();
        (met.len() == devices.len()).then_some(Way {
            kind,
            bandwidth: BytesPerSecond(narrow),
            latency: self.latency(wire),
            reduction: false,
        })
    }

    /// Parts that can be reached from one; unlike messages, this passes through devices.
    pub fn reached(&self, from: usize) -> Vec<bool> {
        let mut seen = vec![false; self.parts.len()];
        let mut open = vec![from];
        seen[from] = true;
        while let Some(part) = open.pop() {
            for end in self.at[part].iter().flat_map(|w| self.wires[*w].ends) {
                if !std::mem::replace(&mut seen[end], true) {
                    open.push(end);
                }
            }
        }
        seen
    }
}

/// Whether parts of these places belong together: the same node, the node's rack, anything with the cluster's.
fn together(t: &Topology, a: (Scope, usize), b: (Scope, usize)) -> bool {
    let rack = |node: usize| node / t.rack.unwrap_or(usize::MAX);
    match (a.0, b.0) {
        (Scope::Cluster, _) | (_, Scope::Cluster) => true,
        (Scope::Node, Scope::Rack) => rack(a.1) == b.1,
        (Scope::Rack, Scope::Node) => a.1 == rack(b.1),
        _ => a.1 == b.1,
    }
}

struct Step {
    cost: f64,
    part: usize,
}

impl PartialEq for Step {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Step {}
impl PartialOrd for Step {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Step {
    /// Cheapest first in a heap that gives the greatest; ties by part, so that routes are the same each time.
    fn cmp(&self, other: &Self) -> Ordering {
        other.cost.total_cmp(&self.cost).then(other.part.cmp(&self.part))
    }
}

//! What a collective takes: closed forms of the algorithms in [`crate::topology::collective`] (a test holds their bytes
//! equal), priced by latency and by a bandwidth that ramps with size.

use super::constants::{Collectives, Protocol};
use crate::base::units::{Bytes, Seconds};
use crate::base::{Error, Result};
use crate::topology::collective::{Algorithm, Kind};
use crate::topology::{Topology, Way};

/// Ranks of one group, from near to far: so many of them within each level.
#[derive(Debug, Clone, PartialEq)]
pub struct Placed {
    /// Branches at each level (their product is the number of ranks) and what a device sees there.
    pub levels: Vec<(usize, Way)>,
    /// Whether a level is a network rather than links within a node or rack.
    pub network: Vec<bool>,
}

/// A collective's price.
#[derive(Debug, Clone, PartialEq)]
pub struct Price {
    pub seconds: Seconds,
    pub algorithm: Algorithm,
    /// Bytes that a rank puts on links within a node (or rack), and on the network.
    pub near: Bytes,
    pub far: Bytes,
}

impl Placed {
    /// `ranks` devices, each `stride` after the one before, on a machine whose other devices do the same.
    pub fn new(topology: &Topology, ranks: usize, stride: usize) -> Placed {
        let mut out = Placed { levels: vec![], network: vec![] };
        let per_node = topology.devices_per_node();
        // Racks may have a fabric of their own that reaches across nodes (NVL72): that is no network.
        let nearest = topology.levels().first().map_or(per_node, |l| l.devices.max(per_node));
        let mut inside = 1;
        for level in topology.levels() {
            let reach = (level.devices / stride.max(1)).clamp(1, ranks.max(1));
            let branches = reach.div_ceil(inside);
            if branches > 1 {
                let near = level.devices <= per_node;
                let members: Vec<usize> = (0..reach).map(|i| i * stride).collect();
                let way = if near { topology.within(&members) } else { None };
                out.levels.push((branches, way.unwrap_or(level.way)));
                out.network.push(level.devices > nearest);
                inside *= branches;
            }
        }
        // A group beyond the machine: the last level takes the rest, so that a price exists for what-ifs.
        if inside < ranks
            && let Some(last) = topology.levels().last()
        {
            match out.levels.last_mut() {
                Some(l) if *out.network.last().unwrap_or(&false) => l.0 *= ranks.div_ceil(inside),
                _ => {
                    out.levels.push((ranks.div_ceil(inside), last.way.clone()));
                    out.network.push(true);
                }
            }
        }
        out
    }

    /// `ranks` devices spread evenly over so many nodes. Fails where they do not divide or fit.
    pub fn over(topology: &Topology, ranks: usize, nodes: usize) -> Result<Placed> {
        let per_node = topology.devices_per_node();
        if nodes == 0 || ranks == 0 || !ranks.is_multiple_of(nodes) || ranks / nodes > per_node {
            return Err(Error::usage(format!(
                "{ranks} ranks do not spread over {nodes} nodes of {per_node} devices ({})",
                topology.name
            )));
        }
        let inside = ranks / nodes;
        let mut near = Placed::new(topology, inside, 1);
        if nodes > 1 {
            let far = Placed::new(topology, nodes, per_node);
            near.levels.extend(far.levels);
            near.network.extend(far.network);
        }
        Ok(near)
    }

    pub fn ranks(&self) -> usize {
        self.levels.iter().map(|l| l.0).product()
    }
}

/// How NCCL's protocols differ over several nodes (rings take the first and the last of them there): seconds of a hop between
/// nodes in a ring, of one within a node and one between nodes in a tree, what an operation costs once, and the share of the bandwidth that they leave. Latencies are those that its tuner
/// assumes (github NVIDIA/nccl@5067397c2676 src/graph/tuning.cc); 0.92 is 120 of 128 bytes, and for the smallest messages
/// flags are half of what travels, over few channels.
struct Hops {
    once: f64,
    ring: f64,
    tree: (f64, f64),
    share: f64,
}

const HOPS: [Hops; 3] = [
    Hops { once: 8.4e-6, ring: 14e-6, tree: (4.0e-6, 14e-6), share: 1.0 },
    Hops { once: 14e-6, ring: 4.0e-6, tree: (1.25e-6, 8.5e-6), share: 0.92 },
    Hops { once: 6.7e-6, ring: 2.7e-6, tree: (0.6e-6, 5.0e-6), share: 0.25 },
];

/// What the tree leaves of the ring's bandwidth over several nodes: between what the tuner takes for a channel of four nodes
/// against one on Blackwell (20 of 55.6 GB/s) and on Hopper (29 of 36.7).
const TREE: f64 = 0.5;

/// The price of `kind` over `bytes`: what a rank holds (all-reduce, broadcast, send), all parts together (all-gather,
/// reduce-scatter), or what a rank sends and keeps in all (all-to-all). The cheapest algorithm unless one is asked for.
pub fn price(c: &Collectives, placed: &Placed, kind: Kind, bytes: f64, wanted: Option<Algorithm>) -> Price {
    let ranks = placed.ranks() as f64;
    if ranks <= 1.0 || bytes <= 0.0 {
        return Price {
            seconds: Seconds(0.0),
            algorithm: wanted.unwrap_or(Algorithm::Direct),
            near: Bytes(0.0),
            far: Bytes(0.0),
        };
    }
    let reduces = matches!(kind, Kind::AllReduce | Kind::AllGather | Kind::ReduceScatter | Kind::Broadcast { .. });
    let crosses = placed.network.iter().any(|n| *n) && !placed.network.iter().all(|n| *n);
    if reduces && crosses && wanted != Some(Algorithm::Hierarchical) {
        return over_nodes(c, placed, kind, bytes, wanted);
    }
    by_levels(c, placed, kind, bytes, wanted, (1.0, 1.0))
}

/// An all-to-all of tokens to the ranks of their experts: each goes in `copies`, of which a node gets no more than one, and
/// hands it on to each of its ranks no more than once. Of N nodes (or ranks) so many throws hit N (1 − (1 − 1/N)^copies).
pub fn price_tokens(c: &Collectives, placed: &Placed, bytes: f64, copies: f64) -> Price {
    if placed.ranks() <= 1 || bytes <= 0.0 {
        return price(c, placed, Kind::AllToAll, bytes, None);
    }
    let nodes: f64 = placed.levels.iter().zip(&placed.network).filter(|l| *l.1).map(|l| l.0.0 as f64).product();
    let hit = |n: f64| n * (1.0 - (1.0 - 1.0 / n).powf(copies)) / copies;
    // What crosses the network reaches its rank over the links within the node.
    let within = if copies > 1.0 { hit(placed.ranks() as f64) * nodes } else { 1.0 };
    by_levels(c, placed, Kind::AllToAll, bytes, None, (within, hit(nodes)))
}

/// Rings and trees that go through every device of several nodes: each hop costs its latency, and the slower of the links
/// within a node and of its NICs together carries the bytes.
fn over_nodes(c: &Collectives, placed: &Placed, kind: Kind, bytes: f64, wanted: Option<Algorithm>) -> Price {
    let n = placed.ranks() as f64;
    let side = |network: bool| placed.levels.iter().zip(&placed.network).filter(move |l| *l.1 == network).map(|l| l.0);
    let product = |network: bool| side(network).map(|l| l.0 as f64).product::<f64>();
    let slowest = |network: bool| side(network).map(|l| l.1.bandwidth.0).fold(f64::INFINITY, f64::min);
    let (k, g) = (product(true), product(false));
    let (hops, wire) = match kind {
        Kind::AllReduce => (2.0 * (n - 1.0), 2.0 * (n - 1.0) / n * bytes),
        Kind::Broadcast { .. } => (n - 1.0, bytes),
        _ => (n - 1.0, (n - 1.0) / n * bytes),
    };
    // A ring moves in step: each of its hops takes as long as those between nodes. The ramp of rings within a node is of
    // its own few ranks and has no say here.
    let near = wire / (c.ring.efficiency * slowest(false));
    let far = wire / g / (c.network.efficiency * slowest(true));
    let ring = |h: &Hops| h.once + hops * h.ring + near.max(far) / h.share;
    let tree = |h: &Hops| {
        h.once + 2.0 * ((g - 1.0) * h.tree.0 + k.log2().ceil() * h.tree.1) + near.max(far) / (h.share * TREE)
    };
    let least = |of: &dyn Fn(&Hops) -> f64| HOPS.iter().map(of).fold(f64::INFINITY, f64::min);
    let (by_ring, by_tree) = (ring(&HOPS[0]).min(ring(&HOPS[2])), least(&tree));
    let takes_tree =
        kind == Kind::AllReduce && (wanted == Some(Algorithm::Tree) || (wanted.is_none() && by_tree < by_ring));
    let (seconds, algorithm) = if takes_tree { (by_tree, Algorithm::Tree) } else { (by_ring, Algorithm::Ring) };
    Price { seconds: Seconds(seconds), algorithm, near: Bytes(wire), far: Bytes(wire / g) }
}

/// Level by level: what one level serves, messages to all and to one, and the phases of a hierarchical collective.
/// `shares`: of the bytes of an all-to-all that would go over links within a node, and over the network, the share that does.
fn by_levels(
    c: &Collectives,
    placed: &Placed,
    kind: Kind,
    bytes: f64,
    wanted: Option<Algorithm>,
    shares: (f64, f64),
) -> Price {
    let ranks = placed.ranks() as f64;
    let mut phases = vec![];
    let (mut near, mut far) = (0.0, 0.0);
    let mut algorithm =
        if placed.levels.len() > 1 { Algorithm::Hierarchical } else { wanted.unwrap_or(Algorithm::Ring) };
    let mut share = bytes;
    for (at, (branches, way)) in placed.levels.iter().enumerate() {
        let n = *branches as f64;
        let network = placed.network[at];
        let phase = match kind {
            Kind::AllToAll => {
                let inside: f64 = placed.levels[..at].iter().map(|l| l.0 as f64).product();
                let share = if network { shares.1 } else { shares.0 };
                Phase { rounds: n - 1.0, wire: bytes * inside * (n - 1.0) / ranks * share, total: bytes, ranks: n }
            }
            // To the one peer over the farthest way.
            Kind::SendRecv { .. } if at + 1 < placed.levels.len() => continue,
            Kind::SendRecv { .. } => Phase { rounds: 1.0, wire: bytes, total: bytes, ranks: 1.0 },
            Kind::AllReduce => {
                Phase { rounds: 2.0 * (n - 1.0), wire: 2.0 * (n - 1.0) / n * share, total: share, ranks: n }
            }
            Kind::AllGather | Kind::ReduceScatter => {
                Phase { rounds: n - 1.0, wire: (n - 1.0) / n * share, total: share, ranks: n }
            }
            Kind::Broadcast { .. } => Phase { rounds: n - 1.0, wire: share, total: share, ranks: n },
        };
        let (seconds, chosen, wire) = phase.cheapest(c, way, kind, network, wanted);
        if placed.levels.len() == 1 {
            algorithm = chosen;
        }
        phases.push(seconds);
        *(if network { &mut far } else { &mut near }) += wire;
        if !matches!(kind, Kind::AllToAll | Kind::Broadcast { .. }) {
            share /= n;
        }
    }
    // Messages to everybody use links and network at once; the phases of a hierarchical collective follow each other.
    let seconds =
        if kind == Kind::AllToAll { phases.iter().copied().fold(0.0, f64::max) } else { phases.iter().sum::<f64>() };
    Price { seconds: Seconds(seconds), algorithm, near: Bytes(near), far: Bytes(far) }
}

/// One level's part of a collective.
#[derive(Debug, Clone, Copy)]
struct Phase {
    rounds: f64,
    /// Bytes that a rank sends.
    wire: f64,
    total: f64,
    ranks: f64,
}

impl Phase {
    fn cheapest(
        &self,
        c: &Collectives,
        way: &Way,
        kind: Kind,
        network: bool,
        wanted: Option<Algorithm>,
    ) -> (f64, Algorithm, f64) {
        let single = matches!(kind, Kind::AllToAll | Kind::SendRecv { .. });
        let over = |p: &Protocol, rounds: f64, wire: f64| {
            p.seconds(rounds, wire, way.bandwidth.0, self.total, self.ranks) + way.latency.0
        };
        let ring_name = if single { Algorithm::Direct } else { Algorithm::Ring };
        if network {
            let ring = over(&c.network, self.rounds, self.wire);
            let tree = over(&c.network, 2.0 * self.ranks.log2().ceil(), self.wire.max(2.0 * self.total));
            let by_tree =
                kind == Kind::AllReduce && (wanted == Some(Algorithm::Tree) || (wanted.is_none() && tree < ring));
            return if by_tree { (tree, Algorithm::Tree, 2.0 * self.total) } else { (ring, ring_name, self.wire) };
        }
        let high = if single { &c.peer } else { &c.ring };
        // PCIe and Ethernet have no low-latency protocol of their own worth telling apart: the same two are tried.
        let ring = over(high, self.rounds, self.wire).min(over(&c.low_latency, self.rounds, self.wire));
        let fits = kind == Kind::AllReduce && way.reduction;
        let switch_wire = (self.ranks + 1.0) / self.ranks * self.total;
        let switch = over(&c.switch, 1.0, switch_wire);
        let large = self.ranks >= c.switch_from as f64 && self.total >= c.switch_bytes.0;
        if fits && (wanted == Some(Algorithm::InSwitch) || (wanted.is_none() && large && switch < ring)) {
            return (switch, Algorithm::InSwitch, switch_wire);
        }
        (ring, ring_name, self.wire)
    }
}

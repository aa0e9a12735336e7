//! Rows that travel between ranks: which messages carry them, by which algorithm. What runs a plan sends exactly these
//! messages, what prices one counts them.

use super::{BufferId, Transfer};
use crate::base::{Bindings, Error, Result};
use crate::op::Exchange;
use crate::topology::collective::{self, ALGORITHMS, Algorithm, Collective, Kind, Message, Round, all_to_all, does};

/// How collectives are done.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// One algorithm for all that it can do; else the cheapest for each.
    pub algorithm: Option<Algorithm>,
    /// Seconds that a round takes beside its bytes.
    pub latency: f64,
    /// Bytes per second that leave a rank.
    pub bandwidth: f64,
}

impl Default for Policy {
    /// Between buffers of one machine: 20 µs a round, 4 GB/s.
    fn default() -> Self {
        Policy { algorithm: None, latency: 20e-6, bandwidth: 4e9 }
    }
}

/// The messages of one transfer. Ranks are places along its mesh axis; a switch that takes part comes after them.
#[derive(Debug, Clone, PartialEq)]
pub struct Rounds {
    pub algorithm: Algorithm,
    pub rounds: Vec<Round>,
    /// Elements of each rank's piece, where pieces differ.
    pub parts: Vec<usize>,
    /// Elements that every rank's working buffer holds.
    pub elements: usize,
}

/// Counts of one transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Facts {
    pub rounds: usize,
    pub messages: usize,
    /// On all links together.
    pub bytes: u64,
    /// Additions and comparisons on all ranks together.
    pub flops: u64,
}

impl Rounds {
    pub fn facts(&self) -> Facts {
        let travels = |m: &&Message| m.from != m.to;
        let all = || self.rounds.iter().flatten().filter(travels);
        Facts {
            rounds: self.rounds.len(),
            messages: all().count(),
            bytes: all().map(|m| m.range.len() as u64 * 4).sum(),
            flops: all().filter(|m| m.reduce).map(|m| m.range.len() as u64).sum(),
        }
    }
    /// Bytes that the busiest rank sends.
    pub fn most_sent(&self, ranks: usize) -> u64 {
        collective::sent(&self.rounds, ranks + 1).into_iter().max().unwrap_or(0) as u64 * 4
    }
}

impl Policy {
    /// Seconds of these rounds, each rank sending by itself.
    fn seconds(&self, rounds: &[Round], ranks: usize) -> f64 {
        let one = |r: &Round| {
            self.latency
                + collective::sent(std::slice::from_ref(r), ranks + 1).into_iter().max().unwrap_or(0) as f64 * 4.0
                    / self.bandwidth
        };
        rounds.iter().map(one).sum()
    }

    /// The algorithm for `elements` over `ranks`.
    fn choose(&self, kind: Kind, ranks: usize, elements: usize) -> Result<Algorithm> {
        if let Some(algorithm) = self.algorithm.filter(|a| does(*a, kind)) {
            return Ok(algorithm);
        }
        let mut best: Option<(f64, Algorithm)> = None;
        // A switch has to be there, and nodes to be known, to be chosen.
        for algorithm in ALGORITHMS
            .into_iter()
            .filter(|a| does(*a, kind) && !matches!(a, Algorithm::InSwitch | Algorithm::Hierarchical))
        {
            let seconds = self.seconds(&Collective::even(kind, algorithm, ranks, elements).rounds()?, ranks);
            if best.is_none_or(|b| seconds < b.0) {
                best = Some((seconds, algorithm));
            }
        }
        best.map(|b| b.1).ok_or_else(|| Error::usage(format!("{} has no algorithm", kind.name())))
    }
}

impl Transfer {
    /// Ranks that take part.
    pub fn ways(&self) -> usize {
        self.how.ways
    }

    /// Buffers that it touches.
    pub fn buffers(&self) -> impl Iterator<Item = BufferId> + '_ {
        [Some(self.to), self.from.as_ref().map(|f| f.0), self.work].into_iter().flatten()
    }

    /// The messages under a step's bindings: the same on every rank of the group.
    pub fn rounds(&self, bindings: &Bindings, policy: &Policy) -> Result<Rounds> {
        let (c, n) = (&self.how, self.how.ways);
        let row = self.row.eval(bindings)?.max(0) as usize;
        let rows = c.rows.eval(bindings)?;
        let count = || c.to.shape.count().eval(bindings).map(|n| n.max(0) as usize);
        let pieces =
            || (0..n).map(|i| c.cut.len(rows, bindings, n, i).map(|l| l as usize * row)).collect::<Result<Vec<_>>>();
        let even = |elements: usize| (0..n).map(|i| collective::part(elements, n, i).len()).collect::<Vec<_>>();
        let direct = |rounds: Vec<Round>, parts: Vec<usize>, elements| Rounds {
            algorithm: Algorithm::Direct,
            rounds,
            parts,
            elements,
        };
        let message = |from: usize, to: usize, len: usize| Message { from, to, range: 0..len, at: 0, reduce: false };
        let by = |kind: Kind, parts: Vec<usize>| {
            // Chosen for the largest step, so that every step of a plan is done alike.
            let algorithm = policy.choose(kind, n, c.to.shape.count().bound() as usize)?;
            let elements = parts.iter().sum();
            let rounds = Collective { kind, algorithm, parts: parts.clone(), nodes: vec![], pieces: 1 }.rounds()?;
            Ok(Rounds { algorithm, rounds, parts, elements })
        };
        match self.exchange {
            Exchange::AllReduce => by(Kind::AllReduce, even(count()?)),
            Exchange::AllGather => by(Kind::AllGather, pieces()?),
            Exchange::ReduceScatter => by(Kind::ReduceScatter, pieces()?),
            Exchange::Broadcast => by(Kind::Broadcast { root: c.peer }, even(count()?)),
            Exchange::Permute => {
                let parts = pieces()?;
                let round =
                    (0..n).map(|i| message(i, (i + c.peer) % n, parts[i])).filter(|m| !m.range.is_empty()).collect();
                Ok(direct(vec![round], parts, 0))
            }
            Exchange::AllToAll => {
                let other = c.other.ok_or_else(|| Error::op("all_to_all", &self.label, "lacks its other axis"))?;
                let (whole, rest) = (other.whole.eval(bindings)?, other.rest.eval(bindings)? as usize);
                let len = |i: usize, j: usize| {
                    Ok(c.cut.len(rows, bindings, n, i)? as usize
                        * other.cut.len(whole, bindings, n, j)? as usize
                        * rest)
                };
                let counts =
                    (0..n).map(|i| (0..n).map(|j| len(i, j)).collect()).collect::<Result<Vec<Vec<usize>>>>()?;
                Ok(direct(all_to_all(&counts), vec![], 0))
            }
            Exchange::Send | Exchange::Receive => Ok(direct(vec![], vec![], count()?)),
        }
    }

    /// What the transfer does over all ranks. A send counts, its receive does not.
    pub fn facts(&self, bindings: &Bindings, policy: &Policy) -> Result<Facts> {
        match self.exchange {
            Exchange::Send => {
                let bytes = self.how.to.shape.count().eval(bindings)?.max(0) as u64 * 4;
                Ok(Facts { rounds: 1, messages: 1, bytes, flops: 0 })
            }
            Exchange::Receive => Ok(Facts::default()),
            _ => Ok(self.rounds(bindings, policy)?.facts()),
        }
    }
}

//! Collective operations as data: rounds of messages. What runs a plan sends exactly these messages, what prices one
//! counts them.
//!
//! Every rank holds one buffer of [`Collective::elements`] elements, cut into one part a rank. Messages of a round happen
//! at once: no rank's buffer is read in a round where the same round writes it. A round starts once the one before is done.

mod hierarchical;
mod ring;
mod tree;

use crate::base::{Error, Result};
use std::ops::Range;

/// What a collective leaves in the buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Everybody has the elementwise sum.
    AllReduce,
    /// Rank r brings part r; everybody has all parts.
    AllGather,
    /// Rank r has the sum of part r. Its other parts hold partial sums afterwards.
    ReduceScatter,
    /// Rank r's part j reaches rank j. The one kind with two buffers: messages read the sender's input and write the
    /// receiver's output, which holds the parts in the order of their senders (`ranks` · size of its part elements).
    /// What a rank keeps is a message to itself.
    AllToAll,
    /// Everybody has what `root` had.
    Broadcast { root: usize },
    /// `to` has what `from` had.
    SendRecv { from: usize, to: usize },
}

/// How a collective is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Parts travel around a ring: least bytes, most rounds. A broadcast is a pipelined chain.
    Ring,
    /// Recursive halving, then doubling (Thakur, Rabenseifner, Gropp 2005); ranks beyond a power of two fold into a neighbour.
    HalvingDoubling,
    /// Two binary trees with half of the elements each (Sanders, Speck, Träff 2009); a broadcast is a binomial tree.
    Tree,
    /// A switch sums and multicasts: it takes part as one more rank, whose buffer starts as zeros.
    InSwitch,
    /// Within nodes, between nodes, within nodes: see [`Collective::nodes`].
    Hierarchical,
    /// Everybody sends to everybody it has something for.
    Direct,
}

/// Elements that one rank sends to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub from: usize,
    pub to: usize,
    /// What is read of the sender's buffer.
    pub range: Range<usize>,
    /// Where it starts in the receiver's buffer.
    pub at: usize,
    /// Added to what is there, else written over it.
    pub reduce: bool,
}

/// Messages that travel at once.
pub type Round = Vec<Message>;

/// A collective over ranks `0 … parts.len() − 1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collective {
    pub kind: Kind,
    pub algorithm: Algorithm,
    /// Elements of each rank's part. They may differ.
    pub parts: Vec<usize>,
    /// The node that each rank stands on; empty where all stand on one. Only [`Algorithm::Hierarchical`] asks.
    pub nodes: Vec<usize>,
    /// Pieces that follow each other through a tree: more pieces, more rounds, each shorter.
    pub pieces: usize,
}

/// Part `index` of `elements` cut into `parts`: the first `elements % parts` parts have one element more.
pub fn part(elements: usize, parts: usize, index: usize) -> Range<usize> {
    let (each, more) = (elements / parts, elements % parts);
    let start = each * index + index.min(more);
    start..start + each + usize::from(index < more)
}

/// One list of rounds out of several that run side by side.
fn side_by_side(lists: Vec<Vec<Round>>) -> Vec<Round> {
    let mut out: Vec<Round> = vec![];
    for list in lists {
        out.resize(out.len().max(list.len()), vec![]);
        out.iter_mut().zip(list).for_each(|(round, more)| round.extend(more));
    }
    out
}

fn send(from: usize, to: usize, range: &Range<usize>, reduce: bool) -> Option<Message> {
    (!range.is_empty() && from != to).then(|| Message { from, to, range: range.clone(), at: range.start, reduce })
}

impl Collective {
    /// `elements` cut evenly over `ranks` of one node.
    pub fn even(kind: Kind, algorithm: Algorithm, ranks: usize, elements: usize) -> Self {
        let parts = (0..ranks).map(|r| part(elements, ranks, r).len()).collect();
        Collective { kind, algorithm, parts, nodes: vec![], pieces: 1 }
    }

    pub fn ranks(&self) -> usize {
        self.parts.len()
    }

    /// Ranks, and the switch (numbered `ranks`) where it takes part.
    pub fn participants(&self) -> usize {
        self.ranks() + usize::from(self.algorithm == Algorithm::InSwitch)
    }

    pub fn elements(&self) -> usize {
        self.parts.iter().sum()
    }

    fn ranges(&self) -> Vec<Range<usize>> {
        let mut start = 0;
        let next = |n: &usize| (start..start + n, start += n).0;
        self.parts.iter().map(next).collect()
    }

    /// The rounds, none where nothing has to move. Errors: no ranks, a root or peer that is no rank, nodes that are not
    /// one a rank, an algorithm that does not do this kind.
    pub fn rounds(&self) -> Result<Vec<Round>> {
        let n = self.ranks();
        self.check()?;
        let (ranges, all, ranks) = (self.ranges(), 0..self.elements(), (0..n).collect::<Vec<_>>());
        let bundles: Vec<Vec<Range<usize>>> = ranges.iter().map(|r| vec![r.clone()]).collect();
        let rounds = match (self.kind, self.algorithm) {
            (Kind::AllReduce, Algorithm::Ring) => {
                [ring::reduce_scatter(&ranks, &bundles), ring::all_gather(&ranks, &bundles)].concat()
            }
            (Kind::AllGather, Algorithm::Ring) => ring::all_gather(&ranks, &bundles),
            (Kind::ReduceScatter, Algorithm::Ring) => ring::reduce_scatter(&ranks, &bundles),
            (Kind::Broadcast { root }, Algorithm::Ring) => ring::chain(n, root, &ranges),
            (Kind::AllReduce | Kind::AllGather | Kind::ReduceScatter, Algorithm::HalvingDoubling) => {
                tree::halving_doubling(self.kind, &ranges)
            }
            (Kind::AllReduce, Algorithm::Tree) => tree::double_binary(n, all.end, self.pieces.max(1)),
            (Kind::Broadcast { root }, Algorithm::Tree) => tree::binomial(&rotated(&ranks, root), &all),
            (Kind::AllReduce | Kind::AllGather | Kind::ReduceScatter | Kind::Broadcast { .. }, Algorithm::InSwitch) => {
                in_switch(self.kind, &ranges)
            }
            (Kind::AllReduce, Algorithm::Hierarchical) => hierarchical::all_reduce(&self.members(), all.end),
            (Kind::AllGather | Kind::ReduceScatter, Algorithm::Hierarchical) => {
                hierarchical::scattered(self.kind, &self.members(), &ranges)?
            }
            (Kind::Broadcast { root }, Algorithm::Hierarchical) => hierarchical::broadcast(&self.members(), root, &all),
            (Kind::AllReduce, Algorithm::Direct) => vec![direct_reduce_scatter(&ranges), direct_all_gather(&ranges)],
            (Kind::AllGather, Algorithm::Direct) => vec![direct_all_gather(&ranges)],
            (Kind::ReduceScatter, Algorithm::Direct) => vec![direct_reduce_scatter(&ranges)],
            (Kind::Broadcast { root }, Algorithm::Direct) => {
                vec![ranks.iter().filter_map(|r| send(root, *r, &all, false)).collect()]
            }
            (Kind::AllToAll, Algorithm::Direct) => all_to_all(&vec![self.parts.clone(); n]),
            (Kind::SendRecv { from, to }, Algorithm::Direct) => vec![send(from, to, &all, false).into_iter().collect()],
            (kind, algorithm) => {
                let able: Vec<&str> = ALGORITHMS.iter().filter(|a| does(**a, kind)).map(|a| a.name()).collect();
                return Err(Error::usage(format!(
                    "{} cannot be done by {}: algorithms for it are {}",
                    kind.name(),
                    algorithm.name(),
                    able.join(", ")
                )));
            }
        };
        Ok(rounds.into_iter().filter(|r| !r.is_empty()).collect())
    }

    fn check(&self) -> Result<()> {
        let (n, name) = (self.ranks(), self.kind.name());
        let rank = |what: &str, r: usize| match r < n {
            true => Ok(()),
            false => Err(Error::usage(format!("{name}: {what} {r} is no rank, there are {n}"))),
        };
        if n == 0 {
            return Err(Error::usage(format!("{name}: there are no ranks")));
        }
        if !self.nodes.is_empty() && self.nodes.len() != n {
            return Err(Error::usage(format!("{name}: nodes are given for {} ranks, there are {n}", self.nodes.len())));
        }
        match self.kind {
            Kind::Broadcast { root } => rank("root", root),
            Kind::SendRecv { from, to } => rank("sender", from).and(rank("receiver", to)),
            _ => Ok(()),
        }
    }

    /// Ranks node by node.
    fn members(&self) -> Vec<Vec<usize>> {
        let mut out: Vec<(usize, Vec<usize>)> = vec![];
        for r in 0..self.ranks() {
            let node = self.nodes.get(r).copied().unwrap_or(0);
            match out.iter_mut().find(|g| g.0 == node) {
                Some(group) => group.1.push(r),
                None => out.push((node, vec![r])),
            }
        }
        out.into_iter().map(|g| g.1).collect()
    }
}

/// Elements that each participant puts on a link over all rounds; what stays on a rank is not counted.
pub fn sent(rounds: &[Round], participants: usize) -> Vec<usize> {
    let mut out = vec![0; participants];
    for m in rounds.iter().flatten().filter(|m| m.from != m.to) {
        out[m.from] += m.range.len();
    }
    out
}

/// Everybody sends `counts[from][to]` elements to everybody, in `ranks` − 1 rounds without two senders to one receiver.
/// Inputs lie in the order of their receivers, outputs in the order of their senders.
pub fn all_to_all(counts: &[Vec<usize>]) -> Vec<Round> {
    let n = counts.len();
    let message = |from: usize, to: usize| {
        let start: usize = counts[from][..to].iter().sum();
        let at = counts[..from].iter().map(|row| row[to]).sum();
        Message { from, to, range: start..start + counts[from][to], at, reduce: false }
    };
    let round = |step: usize| (0..n).map(|r| message(r, (r + step) % n)).filter(|m| !m.range.is_empty()).collect();
    (0..n).map(round).collect()
}

fn rotated(ranks: &[usize], first: usize) -> Vec<usize> {
    ranks.iter().map(|r| (r + first) % ranks.len()).collect()
}

fn direct_reduce_scatter(ranges: &[Range<usize>]) -> Round {
    (0..ranges.len())
        .flat_map(|from| ranges.iter().enumerate().filter_map(move |(to, r)| send(from, to, r, true)))
        .collect()
}

fn direct_all_gather(ranges: &[Range<usize>]) -> Round {
    ranges
        .iter()
        .enumerate()
        .flat_map(|(from, r)| (0..ranges.len()).filter_map(move |to| send(from, to, r, false)))
        .collect()
}

/// All-reduce: the switch sums what everybody pushes, hands each part to its owner, who stores it back for the multicast.
/// The detour over the owner is how NVLink SHARP works: (n + 1)/n of the bytes leave each rank.
fn in_switch(kind: Kind, ranges: &[Range<usize>]) -> Vec<Round> {
    let n = ranges.len();
    if n == 1 {
        return vec![];
    }
    let all = 0..ranges[n - 1].end;
    let push = || (0..n).filter_map(|r| send(r, n, &all, true)).collect();
    let owner = |to_owner: bool| {
        ranges
            .iter()
            .enumerate()
            .filter_map(|(r, part)| if to_owner { send(n, r, part, false) } else { send(r, n, part, false) })
            .collect()
    };
    let multicast = || (0..n).filter_map(|r| send(n, r, &all, false)).collect();
    match kind {
        Kind::AllReduce => vec![push(), owner(true), owner(false), multicast()],
        Kind::ReduceScatter => vec![push(), owner(true)],
        Kind::Broadcast { root } => vec![
            send(root, n, &all, false).into_iter().collect(),
            (0..n).filter(|r| *r != root).filter_map(|r| send(n, r, &all, false)).collect(),
        ],
        _ => vec![owner(false), multicast()],
    }
}

pub const ALGORITHMS: [Algorithm; 6] = [
    Algorithm::Ring,
    Algorithm::HalvingDoubling,
    Algorithm::Tree,
    Algorithm::InSwitch,
    Algorithm::Hierarchical,
    Algorithm::Direct,
];

/// Whether an algorithm does a kind.
pub fn does(algorithm: Algorithm, kind: Kind) -> bool {
    use Algorithm::*;
    match kind {
        Kind::AllReduce => true,
        Kind::AllGather | Kind::ReduceScatter => algorithm != Tree,
        Kind::Broadcast { .. } => algorithm != HalvingDoubling,
        Kind::AllToAll | Kind::SendRecv { .. } => algorithm == Direct,
    }
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::AllReduce => "all-reduce",
            Kind::AllGather => "all-gather",
            Kind::ReduceScatter => "reduce-scatter",
            Kind::AllToAll => "all-to-all",
            Kind::Broadcast { .. } => "broadcast",
            Kind::SendRecv { .. } => "send/recv",
        }
    }
}

impl Algorithm {
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Ring => "ring",
            Algorithm::HalvingDoubling => "halving-doubling",
            Algorithm::Tree => "tree",
            Algorithm::InSwitch => "in-switch",
            Algorithm::Hierarchical => "hierarchical",
            Algorithm::Direct => "direct",
        }
    }
}

impl std::str::FromStr for Algorithm {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let names = ALGORITHMS.map(|a| a.name()).join(", ");
        let found = ALGORITHMS.into_iter().find(|a| a.name() == text);
        found.ok_or_else(|| Error::usage(format!("there is no collective algorithm \"{text}\": there are {names}")))
    }
}

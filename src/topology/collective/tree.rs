//! Algorithms with a logarithm of rounds.

use super::{Kind, Message, Round, part, send};
use std::ops::Range;

/// Ranks folded to a power of two: the first `extra` leaders have a partner, the next rank, whose part they mind.
struct Folded {
    power: usize,
    extra: usize,
}

impl Folded {
    fn new(n: usize) -> Self {
        let power = if n.is_power_of_two() { n } else { n.next_power_of_two() / 2 };
        Folded { power, extra: n - power }
    }
    fn leader(&self, v: usize) -> usize {
        v + v.min(self.extra)
    }
    /// Elements of leaders `from … from + count − 1` and their partners.
    fn block(&self, ranges: &[Range<usize>], from: usize, count: usize) -> Range<usize> {
        let last = self.leader(from + count) - 1;
        ranges[self.leader(from)].start..ranges[last].end
    }
}

/// Recursive halving (reduce-scatter), recursive doubling (all-gather), or both (all-reduce).
pub fn halving_doubling(kind: Kind, ranges: &[Range<usize>]) -> Vec<Round> {
    let f = Folded::new(ranges.len());
    let all = 0..ranges.last().map_or(0, |r| r.end);
    let partners = || (0..f.extra).map(|v| (2 * v, 2 * v + 1));
    let reduces = kind != Kind::AllGather;
    let mut rounds: Vec<Round> = vec![];
    rounds.push(
        partners()
            .filter_map(|(leader, partner)| {
                send(partner, leader, if reduces { &all } else { &ranges[partner] }, reduces)
            })
            .collect(),
    );
    let distances: Vec<usize> = std::iter::successors(Some(1), |d| Some(d * 2)).take_while(|d| *d < f.power).collect();
    let exchange = |d: usize, theirs: bool, reduce: bool| {
        let block = |v: usize| f.block(ranges, (if theirs { v ^ d } else { v }) & !(d - 1), d);
        (0..f.power).filter_map(|v| send(f.leader(v), f.leader(v ^ d), &block(v), reduce)).collect::<Round>()
    };
    if reduces {
        rounds.extend(distances.iter().rev().map(|d| exchange(*d, true, true)));
    }
    if kind == Kind::ReduceScatter {
        rounds
            .push(partners().filter_map(|(leader, partner)| send(leader, partner, &ranges[partner], false)).collect());
        return rounds;
    }
    rounds.extend(distances.iter().map(|d| exchange(*d, false, false)));
    let missing = |partner: usize| match reduces {
        true => vec![all.clone()],
        false => vec![0..ranges[partner].start, ranges[partner].end..all.end],
    };
    rounds.push(
        partners()
            .flat_map(|(leader, partner)| {
                missing(partner).into_iter().filter_map(move |r| send(leader, partner, &r, false))
            })
            .collect(),
    );
    rounds
}

/// The in-order binary tree over 0 … n − 1 with root 0: odd numbers are leaves. The parent of `i`, none for the root.
fn parent(i: usize, n: usize) -> Option<usize> {
    if i == 0 {
        return None;
    }
    let bit = 1 << i.trailing_zeros();
    let up = (i ^ bit) | (bit << 1);
    Some(if up >= n { i ^ bit } else { up })
}

/// Reduce to the root, broadcast from it, in two trees side by side with half of the elements each. Who is a leaf in one
/// tree is an inner node of the other (mirrored where n is even, shifted by one where it is odd), so all links share the work.
pub fn double_binary(n: usize, elements: usize, pieces: usize) -> Vec<Round> {
    if n < 2 {
        return vec![];
    }
    let depth = |i: usize| std::iter::successors(parent(i, n), |p| parent(*p, n)).count();
    let deepest = (0..n).map(depth).max().unwrap_or(0);
    let mut rounds: Vec<Round> = vec![vec![]; 2 * deepest + 2 * pieces];
    for second in [false, true] {
        let half = part(elements, 2, usize::from(second));
        let rank = |i: usize| match (second, n % 2) {
            (false, _) => i,
            (true, 0) => n - 1 - i,
            (true, _) => (i + 1) % n,
        };
        for piece in 0..pieces {
            let within = part(half.len(), pieces, piece);
            let range = half.start + within.start..half.start + within.end;
            for i in 1..n {
                let (Some(up), own) = (parent(i, n), depth(i)) else { continue };
                let message = |from: usize, to: usize, reduce: bool| send(rank(from), rank(to), &range, reduce);
                rounds[deepest - own + piece].extend(message(i, up, true));
                rounds[deepest + piece + own - 1].extend(message(up, i, false));
            }
        }
    }
    rounds.retain(|r| !r.is_empty());
    rounds
}

/// A broadcast from the first member: each round doubles those who have it.
pub fn binomial(members: &[usize], range: &Range<usize>) -> Vec<Round> {
    let n = members.len();
    let steps = std::iter::successors(Some(1), |d| Some(d * 2)).take_while(|d| *d < n);
    let pairs = |d: usize| (0..d).filter(move |i| i + d < n);
    let message = |i: usize, d: usize| -> Option<Message> { send(members[i], members[i + d], range, false) };
    steps.map(|d| pairs(d).filter_map(|i| message(i, d)).collect()).collect()
}

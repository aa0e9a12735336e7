//! Rings over any members, each with a bundle of ranges as its part.

use super::{Round, send};
use std::ops::Range;

fn round(members: &[usize], bundles: &[Vec<Range<usize>>], part_of: impl Fn(usize) -> usize, reduce: bool) -> Round {
    let n = members.len();
    let hop = |i: usize| {
        bundles[part_of(i) % n].iter().filter_map(move |range| send(members[i], members[(i + 1) % n], range, reduce))
    };
    (0..n).flat_map(hop).collect()
}

/// n − 1 rounds after which member i has the sum of bundle i.
pub fn reduce_scatter(members: &[usize], bundles: &[Vec<Range<usize>>]) -> Vec<Round> {
    let n = members.len();
    (0..n.saturating_sub(1)).map(|step| round(members, bundles, |i| i + 2 * n - step - 1, true)).collect()
}

/// n − 1 rounds after which every member has all bundles.
pub fn all_gather(members: &[usize], bundles: &[Vec<Range<usize>>]) -> Vec<Round> {
    let n = members.len();
    (0..n.saturating_sub(1)).map(|step| round(members, bundles, |i| i + n - step, false)).collect()
}

/// A broadcast from neighbour to neighbour; the parts follow each other, so that all links work.
pub fn chain(n: usize, root: usize, ranges: &[Range<usize>]) -> Vec<Round> {
    let hop = |step: usize, from: usize| {
        ranges.get(step.checked_sub(from)?).and_then(|r| send((root + from) % n, (root + from + 1) % n, r, false))
    };
    (0..(2 * n).saturating_sub(2)).map(|step| (0..n - 1).filter_map(|from| hop(step, from)).collect()).collect()
}

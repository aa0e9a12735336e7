//! Values that never live together share a buffer.
//!
//! A buffer, not a range of one: inside a pass a barrier covers whole buffers, and one dispatch may not bind a
//! buffer both for reading and for writing.

use super::{Buffer, BufferId, Plan, Role};
use std::collections::BTreeMap;

/// A scratch value: the first place that uses it and the last one, and its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    pub first: usize,
    pub last: usize,
    pub bytes: u64,
}

/// Gives each scratch value a slot. With `apart`, every value keeps its own.
pub fn assign(plan: &mut Plan, apart: bool) {
    let n = plan.buffers.len();
    let lives = lives(plan);
    let scratch = |b: usize| plan.buffers[b].role == Role::Scratch && !apart;
    let mut to = vec![BufferId(0); n];
    let mut kept: Vec<Buffer> = vec![];
    for b in (0..n).filter(|&b| !scratch(b)) {
        to[b] = BufferId(kept.len() as u32);
        kept.push(plan.buffers[b].clone());
    }
    let used: Vec<usize> = (0..n).filter(|&b| scratch(b) && lives[b].first != usize::MAX).collect();
    let (slots, sizes) = pack(&used.iter().map(|&b| lives[b]).collect::<Vec<_>>());
    let base = kept.len();
    used.iter().zip(slots).for_each(|(&b, slot)| to[b] = BufferId((base + slot) as u32));
    let slot = |(i, bytes)| Buffer { role: Role::Scratch, bytes, texels: false, label: format!("scratch {i}") };
    kept.extend(sizes.into_iter().enumerate().map(slot));
    plan.buffers = kept;
    plan.dispatches.iter_mut().flat_map(|d| &mut d.args).for_each(|a| a.buffer = to[a.buffer.0 as usize]);
    for t in &mut plan.transfers {
        t.to = to[t.to.0 as usize];
        t.from.iter_mut().for_each(|f| f.0 = to[f.0.0 as usize]);
        t.work.iter_mut().for_each(|w| *w = to[w.0 as usize]);
    }
    plan.inputs.iter_mut().chain(&mut plan.outputs).for_each(|p| p.buffer = to[p.buffer.0 as usize]);
    plan.kept.iter_mut().for_each(|k| k.buffer = to[k.buffer.0 as usize]);
}

/// When each buffer is used. Transfers lie between dispatches: even places are theirs.
fn lives(plan: &Plan) -> Vec<Life> {
    let mut out: Vec<Life> = plan.buffers.iter().map(|b| Life { first: usize::MAX, last: 0, bytes: b.bytes }).collect();
    let dispatches =
        plan.dispatches.iter().enumerate().flat_map(|(i, d)| d.args.iter().map(move |a| (2 * i + 1, a.buffer)));
    let transfers = plan.transfers.iter().flat_map(|t| t.buffers().map(move |b| (2 * t.before, b)));
    for (at, buffer) in dispatches.chain(transfers) {
        let life = &mut out[buffer.0 as usize];
        life.first = life.first.min(at);
        life.last = life.last.max(at);
    }
    out
}

/// The slot of each value, and the bytes of each slot. No slot holds two values that live at one place. Of two ways the one
/// that takes less: in the order of first use, which suits values that come and go alike, and from the largest down
/// ("greedy by size": Pisarchyk and Lee, arXiv:2001.03288), where a small value that lives long takes no large slot from
/// values that came and went before it.
pub fn pack(lives: &[Life]) -> (Vec<usize>, Vec<u64>) {
    let (by_use, by_size) = (in_order_of_use(lives), from_the_largest(lives));
    let total = |p: &(Vec<usize>, Vec<u64>)| p.1.iter().map(|b| *b as u128).sum::<u128>();
    if total(&by_size) < total(&by_use) { by_size } else { by_use }
}

/// The smallest free slot that is large enough, else the largest free one, grown.
fn in_order_of_use(lives: &[Life]) -> (Vec<usize>, Vec<u64>) {
    let mut order: Vec<usize> = (0..lives.len()).collect();
    order.sort_by_key(|&i| lives[i].first);
    let (mut to, mut bytes, mut last) = (vec![0; lives.len()], Vec::<u64>::new(), Vec::<usize>::new());
    for i in order {
        let Life { first, last: end, bytes: need } = lives[i];
        let free = (0..bytes.len()).filter(|&s| last[s] < first);
        let best = free.min_by_key(|&s| (bytes[s] < need, bytes[s].abs_diff(need)));
        let slot = best.unwrap_or_else(|| {
            bytes.push(0);
            last.push(0);
            bytes.len() - 1
        });
        (bytes[slot], last[slot], to[i]) = (bytes[slot].max(need), end, slot);
    }
    (to, bytes)
}

/// Largest first: each value goes to the smallest slot that is free while it lives, so that slots never grow.
fn from_the_largest(lives: &[Life]) -> (Vec<usize>, Vec<u64>) {
    let mut order: Vec<usize> = (0..lives.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(lives[i].bytes), lives[i].first));
    let (mut to, mut bytes) = (vec![0; lives.len()], Vec::<u64>::new());
    // By slot: when its values begin and end.
    let mut taken: Vec<BTreeMap<usize, usize>> = vec![];
    for i in order {
        let life = lives[i];
        // The last value of a slot that begins before this one ends is over before this one begins.
        let free = |s: &usize| taken[*s].range(..=life.last).next_back().is_none_or(|v| *v.1 < life.first);
        // Slots are in the order of their sizes, from the largest.
        let slot = (0..bytes.len()).rev().find(free).unwrap_or_else(|| {
            bytes.push(life.bytes);
            taken.push(BTreeMap::new());
            bytes.len() - 1
        });
        taken[slot].insert(life.first, life.last);
        to[i] = slot;
    }
    (to, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn life(first: usize, last: usize, bytes: u64) -> Life {
        Life { first, last, bytes }
    }

    /// Bytes of what lives at the fullest place: no assignment takes less.
    fn fullest(lives: &[Life]) -> u64 {
        let at = |t: usize| lives.iter().filter(|l| l.first <= t && t <= l.last).map(|l| l.bytes).sum();
        lives.iter().map(|l| at(l.first)).max().unwrap_or(0)
    }

    #[test]
    fn a_small_value_that_lives_long_takes_no_large_slot() {
        // Layers forward leave large values; each layer backward leaves a small gradient that lives to the end.
        let mut lives = vec![];
        for layer in 0..8 {
            lives.push(life(20 * layer, 20 * layer + 5, 1000));
            lives.push(life(20 * layer + 6, 400, 10));
        }
        assert_eq!(pack(&lives).1.iter().sum::<u64>(), fullest(&lives));
    }

    proptest! {
        #[test]
        fn values_that_live_together_lie_apart(
            values in prop::collection::vec((0usize..60, 0usize..30, 1u64..5000), 0..80)
        ) {
            let lives: Vec<Life> = values.iter().map(|v| life(v.0, v.0 + v.1, v.2)).collect();
            let (slots, bytes) = pack(&lives);
            for (i, a) in lives.iter().enumerate() {
                prop_assert!(bytes[slots[i]] >= a.bytes);
                for (j, b) in lives.iter().enumerate().skip(i + 1) {
                    prop_assert!(slots[i] != slots[j] || a.last < b.first || b.last < a.first);
                }
            }
            let total: u64 = bytes.iter().sum();
            let alone: u64 = lives.iter().map(|l| l.bytes).sum();
            prop_assert!(fullest(&lives) <= total && total <= alone);
            prop_assert!(total <= in_order_of_use(&lives).1.iter().sum::<u64>());
        }
    }
}

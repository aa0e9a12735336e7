//! Values that never live together share a buffer.
//!
//! A buffer, not a range of one: inside a pass a barrier covers whole buffers, and one dispatch may not bind a
//! buffer both for reading and for writing.

use super::{BufferId, Plan, Role};

/// Gives each scratch value a slot: the smallest free one that is large enough, else the largest free one, grown.
/// With `apart`, every value keeps its own.
pub fn assign(plan: &mut Plan, apart: bool) {
    let n = plan.buffers.len();
    let (mut first, mut last) = (vec![usize::MAX; n], vec![0usize; n]);
    // Transfers lie between dispatches: even places are theirs.
    let dispatches =
        plan.dispatches.iter().enumerate().flat_map(|(i, d)| d.args.iter().map(move |a| (2 * i + 1, a.buffer)));
    let transfers = plan.transfers.iter().flat_map(|t| t.buffers().map(move |b| (2 * t.before, b)));
    for (at, buffer) in dispatches.chain(transfers) {
        let b = buffer.0 as usize;
        first[b] = first[b].min(at);
        last[b] = last[b].max(at);
    }
    let scratch = |plan: &Plan, b: usize| plan.buffers[b].role == Role::Scratch;
    let mut to = vec![BufferId(0); n];
    let mut kept = vec![];
    for b in 0..n {
        if !scratch(plan, b) || apart {
            to[b] = BufferId(kept.len() as u32);
            kept.push(plan.buffers[b].clone());
        }
    }
    // Slot: (buffer, last dispatch that uses it).
    let mut slots: Vec<(usize, usize)> = vec![];
    let mut order: Vec<usize> = (0..n).filter(|&b| scratch(plan, b) && !apart && first[b] != usize::MAX).collect();
    order.sort_by_key(|&b| first[b]);
    for b in order {
        let need = plan.buffers[b].bytes;
        let free = (0..slots.len()).filter(|&s| slots[s].1 < first[b]);
        let best = free.min_by_key(|&s| {
            let have = kept[slots[s].0].bytes;
            (have < need, have.abs_diff(need))
        });
        let slot = best.unwrap_or_else(|| {
            kept.push(super::Buffer {
                role: Role::Scratch,
                bytes: 0,
                texels: false,
                label: format!("scratch {}", slots.len()),
            });
            slots.push((kept.len() - 1, 0));
            slots.len() - 1
        });
        slots[slot].1 = last[b];
        let at = slots[slot].0;
        kept[at].bytes = kept[at].bytes.max(need);
        to[b] = BufferId(at as u32);
    }
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

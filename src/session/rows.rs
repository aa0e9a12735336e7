//! What a step over pages is given: rows of sequences become its inputs.

use crate::base::{Array, Bindings};
use crate::model::PagedShape;

/// Rows of a step that are one sequence's.
pub(super) struct StepRows<'a> {
    /// Its number among the step's sequences.
    pub sequence: usize,
    /// The tokens that the step computes, and how many come before them.
    pub tokens: &'a [u32],
    pub from: usize,
    /// The pages that the sequence has.
    pub pages: &'a [u32],
    /// Of how many of the last of them logits are wanted.
    pub outputs: usize,
}

/// Inputs of [`crate::model::Model::paged_graph`] for a family that looks back at so many tokens.
pub(super) fn step_inputs(shape: &PagedShape, back: usize, parts: &[StepRows]) -> Vec<(&'static str, Array)> {
    let (page, per) = (shape.page, shape.per_sequence());
    let beyond = (shape.page * shape.pages) as u32;
    let [mut tokens, mut sequences, mut positions, mut places, mut last] = [(); 5].map(|()| vec![]);
    let mut earlier = vec![vec![]; back];
    let mut tables = vec![0; shape.sequences * per];
    for s in parts {
        let place = |at: usize| s.pages[at / page] * page as u32 + (at % page) as u32;
        tables[s.sequence * per..][..s.pages.len()].copy_from_slice(s.pages);
        for (at, token) in (s.from..).zip(s.tokens) {
            tokens.push(*token);
            sequences.push(s.sequence as u32);
            positions.push(at as u32);
            places.push(place(at));
            for (back, to) in earlier.iter_mut().enumerate() {
                to.push(at.checked_sub(back + 1).map_or(beyond, place));
            }
        }
        last.extend(tokens.len() as u32 - s.outputs as u32..tokens.len() as u32);
    }
    let of_rows = |x: &[u32]| Array::u32(&[x.len()], x);
    let mut inputs = vec![
        ("tokens", of_rows(&tokens)),
        ("sequences", of_rows(&sequences)),
        ("positions", of_rows(&positions)),
        ("places", of_rows(&places)),
        ("outputs", of_rows(&last)),
        ("tables", Array::u32(&[shape.sequences, per], &tables)),
    ];
    if back > 0 {
        inputs.push(("earlier", Array::u32(&[back, tokens.len()], &earlier.concat())));
    }
    inputs
}

/// The variables of such a step.
pub(super) fn step_bindings(rows: usize, outputs: usize) -> Bindings {
    Bindings::new().with("rows", rows as u64).with("outputs", outputs as u64)
}

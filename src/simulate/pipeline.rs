//! A pipeline in virtual time: every stage has a queue of passes for its compute stream and one for its links; a pass starts
//! once its queue has reached it and what it needs has arrived.

use super::layout::Schedule;
use crate::base::{Error, Result};

/// What a stage does with a micro-batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pass {
    Forward,
    Backward,
    /// Gradients of weights, where a schedule keeps them apart.
    Weights,
}

/// One entry of a stage's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    pub pass: Pass,
    pub chunk: usize,
    pub micro_batch: usize,
}

/// A pass that was run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ran {
    pub stage: usize,
    pub slot: Slot,
    pub start: f64,
    pub end: f64,
}

/// Seconds of the passes of each `[stage][chunk]`, and of handing a micro-batch on to the next stage.
#[derive(Debug, Clone, PartialEq)]
pub struct Durations {
    pub forward: Vec<Vec<f64>>,
    pub backward: Vec<Vec<f64>>,
    /// Of `backward`, the part that computes gradients of weights.
    pub weights: Vec<Vec<f64>>,
    pub hop: f64,
}

/// The order of passes on a stage.
pub fn order(schedule: Schedule, stages: usize, chunks: usize, micro_batches: usize, stage: usize) -> Vec<Slot> {
    let slot = |pass, chunk, micro_batch| Slot { pass, chunk, micro_batch };
    if chunks > 1 {
        return interleaved(stages, chunks, micro_batches, stage);
    }
    let ahead = (stages - stage - 1).min(micro_batches);
    let mut out: Vec<Slot> = (0..ahead).map(|i| slot(Pass::Forward, 0, i)).collect();
    let zero_bubble = schedule == Schedule::ZeroBubble;
    // ZB-H1: weight gradients lag behind by as many micro-batches as the stage stands from the first, so that memory stays
    // that of 1F1B.
    let lag = if zero_bubble { stage } else { 0 };
    for i in 0..micro_batches {
        if ahead + i < micro_batches {
            out.push(slot(Pass::Forward, 0, ahead + i));
        }
        out.push(slot(Pass::Backward, 0, i));
        if zero_bubble && i >= lag {
            out.push(slot(Pass::Weights, 0, i - lag));
        }
    }
    if zero_bubble {
        out.extend((micro_batches.saturating_sub(lag)..micro_batches).map(|i| slot(Pass::Weights, 0, i)));
    }
    out
}

/// Megatron's interleaved order: micro-batches go in groups of `stages` through one chunk, then the next.
fn interleaved(stages: usize, chunks: usize, micro_batches: usize, stage: usize) -> Vec<Slot> {
    let total = chunks * micro_batches;
    let nth = |i: usize, forward: bool| {
        let (group, within) = (i / (stages * chunks), i % (stages * chunks));
        let chunk = within / stages;
        let chunk = if forward { chunk } else { chunks - 1 - chunk };
        Slot {
            pass: if forward { Pass::Forward } else { Pass::Backward },
            chunk,
            micro_batch: group * stages + within % stages,
        }
    };
    let ahead =
        if micro_batches == stages { total } else { ((stages - stage - 1) * 2 + (chunks - 1) * stages).min(total) };
    let mut out: Vec<Slot> = (0..ahead).map(|i| nth(i, true)).collect();
    for i in 0..total - ahead {
        out.push(nth(ahead + i, true));
        out.push(nth(i, false));
    }
    out.extend((total - ahead..total).map(|i| nth(i, false)));
    out
}

/// The most micro-batch chunks that a stage holds activations of at once, as its order has it.
pub fn in_flight(order: &[Slot]) -> usize {
    let (mut held, mut most) = (0usize, 0);
    let apart = order.iter().any(|s| s.pass == Pass::Weights);
    for s in order {
        match s.pass {
            Pass::Forward => held += 1,
            // What weights need is held until they are done.
            Pass::Backward if apart => {}
            _ => held -= 1,
        }
        most = most.max(held);
    }
    most
}

/// Runs all stages. The end of the last pass is the pipeline's time.
pub fn run(schedule: Schedule, d: &Durations, micro_batches: usize) -> Result<Vec<Ran>> {
    let (stages, chunks) = (d.forward.len(), d.forward[0].len());
    let orders: Vec<Vec<Slot>> = (0..stages).map(|s| order(schedule, stages, chunks, micro_batches, s)).collect();
    let apart = schedule == Schedule::ZeroBubble && chunks == 1;
    let index = |stage: usize, chunk: usize, m: usize| (chunk * stages + stage) * micro_batches + m;
    let virtual_stages = stages * chunks;
    let (mut forward, mut backward) =
        (vec![f64::NAN; virtual_stages * micro_batches], vec![f64::NAN; virtual_stages * micro_batches]);
    let (mut next, mut free) = (vec![0usize; stages], vec![0.0f64; stages]);
    let mut out = Vec::with_capacity(orders.iter().map(Vec::len).sum());
    loop {
        let mut moved = false;
        for stage in 0..stages {
            while let Some(slot) = orders[stage].get(next[stage]) {
                let (c, m) = (slot.chunk, slot.micro_batch);
                let place = c * stages + stage;
                let before =
                    |done: &[f64], place: usize| done[place * micro_batches + m] + if stages > 1 { d.hop } else { 0.0 };
                let ready = match slot.pass {
                    Pass::Forward if place == 0 => 0.0,
                    Pass::Forward => before(&forward, place - 1),
                    Pass::Backward if place + 1 == virtual_stages => forward[index(stage, c, m)],
                    Pass::Backward => before(&backward, place + 1),
                    Pass::Weights => backward[index(stage, c, m)],
                };
                if ready.is_nan() {
                    break;
                }
                let seconds = match slot.pass {
                    Pass::Forward => d.forward[stage][c],
                    Pass::Backward => d.backward[stage][c] - if apart { d.weights[stage][c] } else { 0.0 },
                    Pass::Weights => d.weights[stage][c],
                };
                let start = free[stage].max(ready);
                free[stage] = start + seconds;
                match slot.pass {
                    Pass::Forward => forward[index(stage, c, m)] = free[stage],
                    Pass::Backward => backward[index(stage, c, m)] = free[stage],
                    Pass::Weights => {}
                }
                out.push(Ran { stage, slot: *slot, start, end: free[stage] });
                next[stage] += 1;
                moved = true;
            }
        }
        if next.iter().zip(&orders).all(|(n, o)| *n == o.len()) {
            return Ok(out);
        }
        if !moved {
            return Err(Error::usage(format!(
                "a pipeline of {stages} stages, {chunks} chunks and {micro_batches} micro-batches waits for itself"
            )));
        }
    }
}

/// When each stage has run its last pass. Long runs are extended from shorter ones: past the ramp a pipeline repeats itself.
pub fn finish(schedule: Schedule, d: &Durations, micro_batches: usize) -> Result<Vec<f64>> {
    let stages = d.forward.len();
    let ends = |n: usize| -> Result<Vec<f64>> {
        let mut out = vec![0.0f64; stages];
        run(schedule, d, n)?.iter().for_each(|r| out[r.stage] = out[r.stage].max(r.end));
        Ok(out)
    };
    let unit = stages;
    let short = 4 * unit;
    if micro_batches <= short + 2 * unit || !(micro_batches - short).is_multiple_of(unit) && d.forward[0].len() > 1 {
        return ends(micro_batches);
    }
    // Start from the count of the same remainder, so that whole units are added.
    let base = short + (micro_batches - short) % unit;
    let (a, b) = (ends(base)?, ends(base + unit)?);
    let units = ((micro_batches - base) / unit) as f64;
    Ok(a.iter().zip(&b).map(|(a, b)| a + (b - a) * units).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn even(stages: usize, chunks: usize, f: f64, b: f64, w: f64) -> Durations {
        let all = |x: f64| vec![vec![x / chunks as f64; chunks]; stages];
        Durations { forward: all(f), backward: all(b), weights: all(w), hop: 0.0 }
    }

    fn seconds(schedule: Schedule, d: &Durations, m: usize) -> f64 {
        finish(schedule, d, m).unwrap().into_iter().fold(0.0, f64::max)
    }

    /// Bubbles: (p−1)(f+b) for 1F1B, 1/v of it interleaved (Narayanan 2021), (p−1)(f+b−2w) for ZB-H1 (Qi et al. 2023; the
    /// first stage starts its weights one pass late there, which a queue in order cannot).
    #[test]
    fn bubbles_are_those_of_the_papers() {
        let one = Schedule::OneForwardOneBackward;
        for (p, m) in [(1, 4), (2, 8), (4, 8), (8, 64), (4, 400)] {
            let t = seconds(one, &even(p, 1, 1.0, 2.0, 1.0), m);
            assert!((t - (m + p - 1) as f64 * 3.0).abs() < 1e-9, "{p} {m} {t}");
            if p > 1 {
                let t = seconds(one, &even(p, 2, 1.0, 2.0, 1.0), m);
                assert!((t - (m as f64 + (p - 1) as f64 / 2.0) * 3.0).abs() < 1e-9, "{p} {m} {t}");
            }
        }
        let (p, m) = (4, 32);
        let zero = seconds(Schedule::ZeroBubble, &even(p, 1, 1.0, 2.0, 1.0), m);
        let ideal = m as f64 * 3.0 + (p - 1) as f64 * (1.0 + 2.0 - 2.0);
        assert!((zero - ideal).abs() < 1e-9, "{zero} {ideal}");
    }

    #[test]
    fn stages_hold_as_many_as_they_stand_from_the_end() {
        let held = |schedule, p, v, m, s| in_flight(&order(schedule, p, v, m, s));
        let one = Schedule::OneForwardOneBackward;
        assert_eq!([0, 1, 2, 3].map(|s| held(one, 4, 1, 16, s)), [4, 3, 2, 1]);
        assert_eq!(held(one, 4, 1, 2, 0), 2);
        // ceil(p(1 + (p−1)/(pv))) · v chunks: Megatron-LM theoretical_memory_usage.py.
        assert_eq!(held(one, 4, 2, 16, 0), 4 * 2 + 3);
        assert_eq!(held(Schedule::ZeroBubble, 4, 1, 16, 3), 4);
    }
}

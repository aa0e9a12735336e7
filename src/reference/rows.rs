//! Weights `[n, k]` that are used row by row, and a team that shares the rows: threads without common memory, each of which
//! computes with the rows that it holds. Where a row lies changes no sum: every output comes from the same loop.

use super::columns::{Matrix, PANEL, columns};
use crate::base::units::median;
use crate::base::{DType, DeviceFault, Error, Result};
use crate::format;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use web_time::Instant;

/// Words of an order.
pub const WORDS: usize = 5;
/// The most floats that [`Team::share`] is given at once, and that one order makes.
pub const MOST_SHARED: usize = 1 << 20;
pub const MOST_MADE: usize = 1 << 18;

const HOLD: u32 = 1;
const FEED: u32 = 2;
const PRODUCT: u32 = 3;
const ROW: u32 = 4;

/// Carries orders from one thread, which leads, to others, which each run a [`Member`].
pub trait Team: Send + Sync + std::fmt::Debug {
    /// How many compute, with the one that leads.
    fn threads(&self) -> usize;
    /// Shows bytes to all members: what the next orders are about. None of them is at work.
    fn share(&self, bytes: &[u8]) -> Result<()>;
    /// Hands a member (from 1 on) an order; it is at work when this returns.
    fn order(&self, member: usize, words: [u32; WORDS]) -> Result<()>;
    /// Waits until a member has done its order, and takes the floats that it made.
    ///
    /// # Errors
    /// What went wrong there; a member that has ended or does not answer.
    fn done(&self, member: usize, made: &mut [f32]) -> Result<()>;
}

/// The rows of a weight that one thread holds.
#[derive(Debug)]
struct Strip {
    dtype: DType,
    k: usize,
    rows: usize,
    held: Held,
}

#[derive(Debug)]
enum Held {
    Blocks(Vec<u8>),
    Floats(Vec<f32>),
}

/// So many elements, or the news that memory is short.
fn room<E: Clone>(zero: E, rows: usize, row: usize) -> Result<Vec<E>> {
    let (mut out, bytes) = (vec![], rows as u64 as f64 * (row * size_of::<E>()) as f64);
    let short = || {
        Error::device(
            DeviceFault::OutOfMemory,
            "the CPU fallback",
            format!("has no {bytes} bytes for a weight: choose a smaller model"),
        )
    };
    let n = rows.checked_mul(row).ok_or_else(short)?;
    out.try_reserve_exact(n).map_err(|_| short())?;
    out.resize(n, zero);
    Ok(out)
}

impl Strip {
    fn new(dtype: DType, rows: usize, k: usize) -> Result<Strip> {
        let held = match dtype.is_quantised() {
            true => Held::Blocks(room(0, rows, k / dtype.block() * dtype.block_bytes())?),
            false => Held::Floats(room(0.0, rows, k)?),
        };
        Ok(Strip { dtype, k, rows, held })
    }

    /// Takes blocks as a file has them.
    fn feed(&mut self, block: usize, bytes: &[u8]) -> Result<()> {
        let ends =
            || Error::op("weight", "", format!("{} bytes from block {block} on reach past its end", bytes.len()));
        match &mut self.held {
            Held::Blocks(held) => {
                let from = block * self.dtype.block_bytes();
                held.get_mut(from..from + bytes.len()).ok_or_else(ends)?.copy_from_slice(bytes);
            }
            Held::Floats(held) => {
                let values = format::decode(self.dtype, bytes);
                held.get_mut(block..block + values.len()).ok_or_else(ends)?.copy_from_slice(&values);
            }
        }
        Ok(())
    }

    /// `x · wᵀ` over some of its rows, a run of `m` for each.
    fn columns(&self, rows: Range<usize>, x: &[f32], m: usize, out: &mut [f32]) {
        columns(self.matrix(rows), self.k, x, m, out);
    }

    fn matrix(&self, rows: Range<usize>) -> Matrix<'_> {
        let whole = match &self.held {
            Held::Blocks(bytes) => Matrix::Blocks(bytes, self.dtype),
            Held::Floats(values) => Matrix::Floats(values),
        };
        whole.rows(self.k, rows)
    }

    fn row(&self, row: usize, out: &mut [f32]) {
        match self.matrix(row..row + 1) {
            Matrix::Floats(values) => out.copy_from_slice(values),
            Matrix::Blocks(bytes, dtype) => format::decode_into(dtype, bytes, out),
        }
    }
}

/// Does the orders of a team's leader, in a thread and memory of its own.
#[derive(Debug, Default)]
pub struct Member {
    strips: HashMap<u32, Strip>,
}

impl Member {
    /// Does one order on what the leader has shared, and leaves in `made` the floats that come of it.
    ///
    /// # Errors
    /// Memory that is not there; an order that does not fit what the member holds.
    pub fn obey(&mut self, words: &[u32], shared: &[u8], made: &mut Vec<f32>) -> Result<()> {
        made.clear();
        let wrong = || Error::op("team", "", format!("the order {words:?} with {} bytes cannot be done", shared.len()));
        let &[what, weight, a, b, c] = words else { return Err(wrong()) };
        let [a, b, c] = [a, b, c].map(|n| n as usize);
        if what == HOLD {
            let strip = Strip::new(*DType::ALL.get(a).ok_or_else(wrong)?, b, c)?;
            self.strips.insert(weight, strip);
            return Ok(());
        }
        let strip = self.strips.get_mut(&weight).ok_or_else(wrong)?;
        match what {
            FEED => strip.feed(a, shared),
            PRODUCT if a * strip.k * 4 == shared.len() && b <= c && c <= strip.rows => {
                made.resize(a * (c - b), 0.0);
                strip.columns(b..c, &bytemuck::pod_collect_to_vec::<u8, f32>(shared), a, made);
                Ok(())
            }
            ROW if a < strip.rows => {
                made.resize(strip.k, 0.0);
                strip.row(a, made);
                Ok(())
            }
            _ => Err(wrong()),
        }
    }
}

/// What a trial of a team multiplies: as much as a small model's product.
const TRIAL: [usize; 2] = [1024, 576];
/// Rounds of a trial, products of a round, and how much less time they must take with the team than without.
const ROUNDS: usize = 9;
const PRODUCTS: usize = 8;
const GAIN: f64 = 0.85;

/// Whether products are faster with a team than without, by a trial of some ten milliseconds: a core that other programs have,
/// or that the system gives to two threads in turn, is none to share work with.
///
/// # Errors
/// Those of the members.
pub fn pays(team: &Arc<dyn Team>) -> Result<bool> {
    let (dtype, [n, k]) = (format::TYPICAL, TRIAL);
    let rows = [Rows::new(u32::MAX, dtype, TRIAL, None)?, Rows::new(u32::MAX, dtype, TRIAL, Some(team.clone()))?];
    let (x, mut out) = (vec![0.5; k], vec![0.0; n]);
    let mut times = [vec![], vec![]];
    for round in 0..=ROUNDS {
        for (rows, times) in rows.iter().zip(&mut times) {
            let start = Instant::now();
            for _ in 0..PRODUCTS {
                rows.columns(&x, 1, &mut out)?;
            }
            // The first round wakes everybody.
            if round > 0 {
                times.push(start.elapsed().as_secs_f64());
            }
        }
    }
    for member in 1..team.threads() {
        team.order(member, [HOLD, u32::MAX, 0, 0, 0])?;
        team.done(member, &mut [])?;
    }
    let [alone, shared] = times.map(median);
    Ok(shared < alone * GAIN)
}

/// A weight by its rows, all here or shared out among a team.
#[derive(Debug)]
pub struct Rows {
    id: u32,
    n: usize,
    own: Strip,
    team: Option<Arc<dyn Team>>,
    /// Which rows each thread holds; the leader's first.
    cut: Vec<Range<usize>>,
    /// What kept an element from being read.
    fault: Mutex<Option<Error>>,
}

impl Rows {
    /// Whether rows of `k` elements fit what a team may be shown.
    pub fn can_hold(k: usize) -> bool {
        (1..=MOST_MADE).contains(&k)
    }

    /// Makes room for a weight; `id` tells it from the team's others.
    pub fn new(id: u32, dtype: DType, [n, k]: [usize; 2], team: Option<Arc<dyn Team>>) -> Result<Rows> {
        let ways = team.as_ref().map_or(1, |t| t.threads().max(1));
        // Whole panels, so that each is computed as it is by one thread.
        let panels = n.div_ceil(PANEL);
        let cut: Vec<Range<usize>> =
            (0..ways).map(|i| panels * i / ways * PANEL..(panels * (i + 1) / ways * PANEL).min(n)).collect();
        let ty = DType::ALL.iter().position(|t| *t == dtype).unwrap_or_default();
        for (member, rows) in cut.iter().enumerate().skip(1).filter(|c| !c.1.is_empty()) {
            if let Some(team) = &team {
                team.order(member, [HOLD, id, ty as u32, rows.len() as u32, k as u32])?;
                team.done(member, &mut [])?;
            }
        }
        Ok(Rows { id, n, own: Strip::new(dtype, cut[0].len(), k)?, team, cut, fault: Mutex::default() })
    }

    /// Takes blocks as a file has them, from one of the whole weight on, to where their rows lie.
    pub fn feed(&mut self, block: usize, bytes: &[u8]) -> Result<()> {
        let (size, row) = (self.own.dtype.block_bytes(), self.own.k / self.own.dtype.block());
        let end = block + bytes.len() / size;
        for (member, rows) in self.cut.iter().enumerate() {
            let first = rows.start * row;
            let (from, to) = (block.max(first), end.min(rows.end * row));
            if from >= to {
                continue;
            }
            let part = &bytes[(from - block) * size..(to - block) * size];
            match (&self.team, member) {
                (_, 0) => self.own.feed(from, part)?,
                (None, _) => {}
                (Some(team), _) => {
                    let most = MOST_SHARED * 4 / size * size;
                    for (i, part) in part.chunks(most).enumerate() {
                        team.share(part)?;
                        team.order(member, [FEED, self.id, (from - first + i * (most / size)) as u32, 0, 0])?;
                        team.done(member, &mut [])?;
                    }
                }
            }
        }
        Ok(())
    }

    /// `x · wᵀ` by all threads, for `m` rows of `x`: a run of `m` for each row of the weight.
    pub fn columns(&self, x: &[f32], m: usize, out: &mut [f32]) -> Result<()> {
        let own = self.cut[0].clone();
        let Some(team) = self.team.as_ref().filter(|_| own.len() < self.n) else {
            self.own.columns(own, x, m, out);
            return Ok(());
        };
        team.share(bytemuck::cast_slice(x))?;
        // Whole panels that fit the room for an answer; all threads go on together.
        let most = MOST_MADE / m.max(1) / PANEL * PANEL;
        let longest = self.cut.iter().map(Range::len).max().unwrap_or(0);
        for from in (0..longest).step_by(most.max(PANEL)) {
            let piece = |rows: &Range<usize>| from.min(rows.len())..(from + most).min(rows.len());
            for (member, rows) in self.cut.iter().enumerate().skip(1).filter(|c| !piece(c.1).is_empty()) {
                let p = piece(rows);
                team.order(member, [PRODUCT, self.id, m as u32, p.start as u32, p.end as u32])?;
            }
            let p = piece(&own);
            self.own.columns(p.clone(), x, m, &mut out[p.start * m..p.end * m]);
            for (member, rows) in self.cut.iter().enumerate().skip(1).filter(|c| !piece(c.1).is_empty()) {
                let p = piece(rows);
                team.done(member, &mut out[(rows.start + p.start) * m..(rows.start + p.end) * m])?;
            }
        }
        Ok(())
    }

    /// The elements of one row.
    pub fn row(&self, row: usize, out: &mut [f32]) -> Result<()> {
        match (&self.team, self.cut.iter().position(|c| c.contains(&row))) {
            (_, Some(0)) => self.own.row(row, out),
            (Some(team), Some(member)) => {
                team.order(member, [ROW, self.id, (row - self.cut[member].start) as u32, 0, 0])?;
                team.done(member, out)?;
            }
            _ => return Err(Error::op("weight", "", format!("has {} rows, there is no row {row}", self.n))),
        }
        Ok(())
    }

    /// One element. Where its row cannot be had it is 0, and [`Rows::fault`] tells why: whoever computes asks it behind an op.
    pub fn at(&self, i: usize) -> f32 {
        let mut row = vec![0.0; self.own.k];
        if let Err(e) = self.row(i / self.own.k, &mut row) {
            self.fault.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(e);
        }
        row[i % self.own.k]
    }

    /// # Errors
    /// The first that [`Rows::at`] has met.
    pub fn fault(&self) -> Result<()> {
        self.fault.lock().unwrap_or_else(|e| e.into_inner()).clone().map_or(Ok(()), Err)
    }

    /// Rows of `x` that are multiplied at once: as many as may be shown, and make panels that may be answered.
    pub fn most_rows(k: usize) -> usize {
        (MOST_SHARED / k.max(1)).clamp(1, MOST_MADE / PANEL)
    }

    pub fn width(&self) -> usize {
        self.own.k
    }
    /// Bytes of all its rows, wherever they lie.
    pub fn bytes(&self) -> u64 {
        let held = match &self.own.held {
            Held::Blocks(_) => self.own.k / self.own.dtype.block() * self.own.dtype.block_bytes(),
            Held::Floats(_) => self.own.k * 4,
        };
        (self.n * held) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A member that has gone.
    #[derive(Debug)]
    struct Gone;

    impl Team for Gone {
        fn threads(&self) -> usize {
            2
        }
        fn share(&self, _: &[u8]) -> Result<()> {
            Ok(())
        }
        fn order(&self, _: usize, words: [u32; WORDS]) -> Result<()> {
            if words[0] == ROW { Err(Error::closed("the member has ended")) } else { Ok(()) }
        }
        fn done(&self, _: usize, _: &mut [f32]) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_element_that_cannot_be_read_is_an_error_of_the_op() {
        let rows = Rows::new(1, DType::F32, [2 * PANEL, 4], Some(Arc::new(Gone))).unwrap();
        assert_eq!((rows.at(0), rows.fault()), (0.0, Ok(())));
        assert_eq!(rows.at(4 * (2 * PANEL - 1)), 0.0);
        assert_eq!(rows.fault(), Err(Error::closed("the member has ended")));
    }
}

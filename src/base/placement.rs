//! How a value lies on the devices along one mesh axis, and which piece of it each rank has.

use super::{Bindings, Dim, Error, MeshAxis, Result, Seat, Var};
use std::fmt;
use std::ops::Range;

/// A value along one mesh axis (GSPMD: Xu et al., 2021; DTensor uses the same three).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Placement {
    /// Every rank has all of it.
    Whole,
    /// Each rank has a piece of this tensor axis.
    Split(usize),
    /// Each rank has a part of every element: combined over the ranks they are the value.
    Partial(Combine),
}

/// How partial values become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Combine {
    /// Added up.
    Sum,
    /// The largest.
    Max,
    /// The least.
    Min,
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Placement::Whole => f.pad("whole"),
            Placement::Split(axis) => f.pad(&format!("split({axis})")),
            Placement::Partial(Combine::Sum) => f.pad("partial"),
            Placement::Partial(c) => f.pad(&format!("partial({})", format!("{c:?}").to_lowercase())),
        }
    }
}

/// Which piece of a split axis a rank has. Pieces need not be equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cut {
    /// Runs of whole units, as even as they come; earlier ranks take what is left over.
    Even {
        /// Indices of a unit.
        unit: u32,
    },
    /// Query heads of grouped attention: `groups` groups of `each` heads of `width` elements. A group stays on one
    /// rank where there are enough groups, else some ranks share a group.
    Query {
        /// Groups, which share keys.
        groups: u32,
        /// Heads of a group.
        each: u32,
        /// Elements of a head.
        width: u32,
    },
    /// The key heads that belong to [`Cut::Query`]'s pieces: one for each group, held by every rank that shares it.
    Key {
        /// Groups, each of one key head.
        groups: u32,
        /// Query heads of a group.
        each: u32,
        /// Elements of a head.
        width: u32,
    },
    /// Every n-th index, counted from `from` on (striped attention: Brandon et al., 2023).
    Stripe {
        /// The index of the whole axis that the first here is counted from.
        from: Dim,
    },
}

impl Cut {
    /// Any index may begin a piece.
    pub const ONES: Cut = Cut::Even { unit: 1 };

    /// The indices of rank `i` of `n`, out of `len`, where they are a run: all but stripes.
    pub fn range(&self, len: u64, n: usize, i: usize) -> Range<u64> {
        let (n, i) = (n as u64, i as u64);
        match *self {
            Cut::Even { unit } => {
                let unit = unit.max(1) as u64;
                let part = share(len.div_ceil(unit), n, i);
                (part.start * unit).min(len)..(part.end * unit).min(len)
            }
            Cut::Query { groups, each, width } => {
                let (group, heads) = heads(groups as u64, each as u64, n, i);
                let (each, width) = (each as u64, width as u64);
                match heads {
                    None => group.start * each * width..group.end * each * width,
                    Some(h) => (group.start * each + h.start) * width..(group.start * each + h.end) * width,
                }
            }
            Cut::Key { groups, each, width } => {
                let (group, _) = heads(groups as u64, each as u64, n, i);
                group.start * width as u64..group.end * width as u64
            }
            Cut::Stripe { .. } => 0..0,
        }
    }

    /// How many indices rank `i` of `n` has, out of `len` under `bindings`.
    pub fn len(&self, len: u64, bindings: &Bindings, n: usize, i: usize) -> Result<u64> {
        match *self {
            Cut::Stripe { from } => {
                let from = from.eval(bindings)?;
                Ok(stripes(from + len, n, i) - stripes(from, n, i))
            }
            _ => Ok(self.range(len, n, i).end - self.range(len, n, i).start),
        }
    }

    /// The first index of rank `i`, out of `len`.
    pub fn start(&self, len: u64, bindings: &Bindings, n: usize, i: usize) -> Result<u64> {
        match *self {
            Cut::Stripe { from } => {
                let (from, n) = (from.eval(bindings)?, n as u64);
                Ok(((i as u64 + n - from % n) % n).min(len))
            }
            _ => Ok(self.range(len, n, i).start),
        }
    }

    /// Rows of rank `i` as indices of the whole axis.
    pub fn indices(&self, len: u64, bindings: &Bindings, n: usize, i: usize) -> Result<Vec<u64>> {
        let (start, count) = (self.start(len, bindings, n, i)?, self.len(len, bindings, n, i)?);
        let step = if self.is_stripe() { n as u64 } else { 1 };
        Ok((0..count).map(|k| start + k * step).collect())
    }

    /// Whether indices of a rank lie apart.
    pub fn is_stripe(&self) -> bool {
        matches!(self, Cut::Stripe { .. })
    }

    /// The most indices that any rank has, out of at most `len`.
    pub fn bound(&self, len: u64, n: usize) -> u64 {
        match self {
            Cut::Stripe { .. } => len.div_ceil(n as u64),
            _ => (0..n).map(|i| self.range(len, n, i)).map(|r| r.end - r.start).max().unwrap_or(0),
        }
    }

    /// An axis of known length must have something for everyone.
    pub fn check(&self, len: u64, axis: MeshAxis, n: usize, what: &str) -> Result<()> {
        let (have, unit) = match *self {
            Cut::Even { unit } => (len.div_ceil(unit.max(1) as u64), format!("units of {}", unit.max(1))),
            Cut::Query { groups, each, .. } | Cut::Key { groups, each, .. } => ((groups * each) as u64, "heads".into()),
            Cut::Stripe { .. } => return Ok(()),
        };
        let fair = (0..n).all(|i| !self.range(len, n, i).is_empty());
        if have < n as u64 || !fair {
            return Err(Error::usage(format!(
                "{what} of {len} has {have} {unit}: too few for {axis}={n}, choose {axis} up to {have}"
            )));
        }
        Ok(())
    }

    /// The same cut of an axis of which each index became `by` (heads of `by` elements merged into one axis).
    pub fn merged(self, by: u32) -> Cut {
        match self {
            Cut::Even { unit } => Cut::Even { unit: unit * by },
            Cut::Query { groups, each, width } => Cut::Query { groups, each, width: width * by },
            Cut::Key { groups, each, width } => Cut::Key { groups, each, width: width * by },
            stripe => stripe,
        }
    }

    /// The same cut of an axis of which `by` indices became one; `None` where a piece would end inside of one.
    pub fn divided(self, by: u32) -> Option<Cut> {
        let part = |n: u32| n.is_multiple_of(by).then(|| n / by);
        Some(match self {
            Cut::Even { unit } => Cut::Even { unit: part(unit)? },
            Cut::Query { groups, each, width } => Cut::Query { groups, each, width: part(width)? },
            Cut::Key { groups, each, width } => Cut::Key { groups, each, width: part(width)? },
            Cut::Stripe { .. } => return (by == 1).then_some(self),
        })
    }
}

/// Part `i` of `n` of `units`: the first parts take one more where they do not come out even.
fn share(units: u64, n: u64, i: u64) -> Range<u64> {
    let (base, extra) = (units / n, units % n);
    let start = i * base + i.min(extra);
    start..start + base + (i < extra) as u64
}

/// The groups of rank `i`, and the heads of the one group that it shares, if it does.
fn heads(groups: u64, each: u64, n: u64, i: u64) -> (Range<u64>, Option<Range<u64>>) {
    if n <= groups || groups == 0 {
        return (share(groups, n, i), None);
    }
    // Ranks are dealt to groups as evenly as they come.
    let mut first = 0;
    for g in 0..groups {
        let ranks = share(n, groups, g).end - share(n, groups, g).start;
        if i < first + ranks {
            return (g..g + 1, Some(share(each, ranks, i - first)));
        }
        first += ranks;
    }
    (0..0, Some(0..0))
}

/// How many of the indices below `end` are `i` modulo `n`.
fn stripes(end: u64, n: usize, i: usize) -> u64 {
    (end + n as u64 - 1 - i as u64) / n as u64
}

/// A number of one rank, such as the start of its piece: a variable of the rank's graph, so that ranks which differ
/// only in such numbers share one plan.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Local {
    pub var: Var,
    pub over: MeshAxis,
    pub ways: usize,
    pub cut: Cut,
    /// The length of the whole axis.
    pub of: Dim,
    pub what: LocalKind,
}

/// Which number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LocalKind {
    /// Indices in the piece of the rank this many places before.
    Len { before: usize },
    /// Indices in the piece of this rank: the same number on every rank.
    LenOf { rank: usize },
    /// The piece's first index.
    Start,
    /// 1 where the rank this many places before is counted around the end, else 0.
    Around { before: usize },
    /// Where this index of the whole axis lies in the piece; [`ELSEWHERE`] where it is another rank's.
    Row { index: Dim },
}

/// An index that no axis has. Kernels compare it as an i32.
pub const ELSEWHERE: u64 = i32::MAX as u64;

impl Local {
    pub fn value(&self, bindings: &Bindings, seat: &Seat) -> Result<u64> {
        let i = seat.index(self.over);
        let len = self.of.eval(bindings)?;
        match self.what {
            LocalKind::Len { before } => self.cut.len(len, bindings, self.ways, (i + self.ways - before) % self.ways),
            LocalKind::LenOf { rank } => self.cut.len(len, bindings, self.ways, rank),
            LocalKind::Start => self.cut.start(len, bindings, self.ways, i),
            LocalKind::Around { before } => Ok((before > i) as u64),
            LocalKind::Row { index } => {
                let index = index.eval(bindings)?;
                let all = self.cut.indices(len, bindings, self.ways, i)?;
                Ok(all.iter().position(|x| *x == index).map_or(ELSEWHERE, |at| at as u64))
            }
        }
    }
}

/// A tensor of the model file, or the piece of it that a rank has.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Part {
    pub name: String,
    pub splits: Vec<PartSplit>,
}

/// One axis of a tensor cut over one mesh axis.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PartSplit {
    pub axis: usize,
    pub over: MeshAxis,
    pub ways: usize,
    pub cut: Cut,
}

impl Part {
    pub fn whole(name: impl Into<String>) -> Part {
        Part { name: name.into(), splits: vec![] }
    }
    /// The range of each axis of a tensor of this shape that the rank at `seat` has.
    pub fn ranges(&self, shape: &[usize], seat: &Seat) -> Vec<Range<usize>> {
        let mut out: Vec<Range<usize>> = shape.iter().map(|n| 0..*n).collect();
        for s in &self.splits {
            let have = out[s.axis].clone();
            let r = s.cut.range(have.len() as u64, s.ways, seat.index(s.over));
            out[s.axis] = have.start + r.start as usize..have.start + r.end as usize;
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_disjoint_and_cover_the_axis() {
        for len in [1u64, 7, 32, 576, 1000] {
            for n in 1..9 {
                for cut in [
                    Cut::Even { unit: 1 },
                    Cut::Even { unit: 32 },
                    Cut::Stripe { from: 0.into() },
                    Cut::Stripe { from: 5.into() },
                ] {
                    let mut all: Vec<u64> =
                        (0..n).flat_map(|i| cut.indices(len, &Bindings::new(), n, i).unwrap()).collect();
                    all.sort_unstable();
                    assert_eq!(all, (0..len).collect::<Vec<_>>(), "{cut:?} of {len} over {n}");
                    assert!((0..n).all(|i| cut.len(len, &Bindings::new(), n, i).unwrap() <= cut.bound(len, n)));
                }
            }
        }
    }

    #[test]
    fn query_heads_stay_with_their_keys() {
        // 9 heads over 3 key heads: two ranks take 6 and 3, four ranks 3, and then 3, 2 and 1 of a shared group.
        let q = |n, i| Cut::Query { groups: 3, each: 3, width: 1 }.range(9, n, i);
        let k = |n, i| Cut::Key { groups: 3, each: 3, width: 1 }.range(3, n, i);
        assert_eq!((0..2).map(|i| q(2, i)).collect::<Vec<_>>(), [0..6, 6..9]);
        assert_eq!((0..2).map(|i| k(2, i)).collect::<Vec<_>>(), [0..2, 2..3]);
        assert_eq!((0..4).map(|i| q(4, i)).collect::<Vec<_>>(), [0..2, 2..3, 3..6, 6..9]);
        assert_eq!((0..4).map(|i| k(4, i)).collect::<Vec<_>>(), [0..1, 0..1, 1..2, 2..3]);
        for n in 1..10 {
            for i in 0..n {
                let (heads, keys) = (q(n, i), k(n, i));
                assert!((keys.start * 3..keys.end * 3).contains(&heads.start) && heads.end <= keys.end * 3);
                assert_eq!((heads.end - heads.start) % (keys.end - keys.start), 0);
            }
        }
    }

    #[test]
    fn too_small_an_axis_is_refused_with_the_numbers() {
        let e = Cut::Even { unit: 32 }.check(96, MeshAxis::Tensor, 4, "weight \"w\" axis 0").unwrap_err();
        assert_eq!(e.to_string(), "weight \"w\" axis 0 of 96 has 3 units of 32: too few for tp=4, choose tp up to 3");
    }
}

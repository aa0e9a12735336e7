//! Conveniences of tensors: shapes as users of other libraries write them, and functions made of several ops.

use super::Tensor;
use crate::base::{DType, Dim, Error, Expr, Shape};
use crate::op::{self, Attrs};

/// `to` with a dimension of -1 replaced by what the others leave of `from`. Where that cannot be said, -1 stays, which the op
/// refuses.
pub(super) fn inferred(from: &Shape, mut to: Shape) -> Shape {
    let Some(at) = to.iter().position(|d| d.is(-1)) else { return to };
    // Dimensions that both sides have cancel; what is left must be a multiple of a number.
    let mut left: Vec<Dim> = from.to_vec();
    let mut by = 1i64;
    for d in to.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, d)| d) {
        match (left.iter().position(|x| x == d), d.known()) {
            (Some(same), _) => drop(left.remove(same)),
            (None, Some(n)) => by = by.saturating_mul(n),
            (None, None) => return to,
        }
    }
    if let Some(d) = Expr::product(&left).as_dim().and_then(|d| d.div_exact(by)) {
        to.0[at] = d;
    }
    to
}

impl<'g> Tensor<'g> {
    /// Without an axis of one element.
    pub fn squeeze(self, axis: usize) -> Self {
        let shape = self.shape();
        if shape.get(axis).is_some_and(|d| d.is(1)) {
            let kept = shape.iter().enumerate().filter(|(i, _)| *i != axis).map(|(_, d)| *d);
            return self.reshape(kept.collect::<Vec<Dim>>());
        }
        self.refuse("squeeze", format!("axis {axis} of {shape} is not of one element"))
    }
    /// With a new axis of one element before axis `axis`.
    pub fn unsqueeze(self, axis: usize) -> Self {
        let mut shape = self.shape();
        if axis > shape.rank() {
            return self.refuse("unsqueeze", format!("axis {axis} is outside of {shape}, rank {}", shape.rank()));
        }
        shape.0.insert(axis, Dim::new(1));
        self.reshape(shape)
    }
    /// Axes `first` to `last` (both included) as one.
    pub fn flatten(self, first: usize, last: usize) -> Self {
        let shape = self.shape();
        if first > last || last >= shape.rank() {
            return self.refuse("flatten", format!("axes {first} to {last} are not in {shape}, rank {}", shape.rank()));
        }
        let Some(one) = Expr::product(&shape[first..=last]).as_dim() else {
            return self.refuse("flatten", format!("axes {first} to {last} of {shape} multiply two variables"));
        };
        self.reshape([&shape[..first], &[one], &shape[last + 1..]].concat())
    }
    /// Pieces of these lengths along an axis, one after another.
    pub fn split(self, axis: usize, lengths: &[usize]) -> Vec<Self> {
        let all = self.dim(axis);
        if !all.is(lengths.iter().fold(0i64, |sum, n| sum.saturating_add(*n as i64))) {
            let what = format!("pieces of {lengths:?} do not fill axis {axis} of {}", self.shape());
            return vec![self.refuse("split", what); lengths.len()];
        }
        let starts = lengths.iter().scan(0, |at, n| {
            *at += n;
            Some(*at - n)
        });
        starts.zip(lengths).map(|(start, n)| self.slice(axis, start, *n)).collect()
    }
    /// `n` equal pieces along an axis.
    pub fn chunk(self, axis: usize, n: usize) -> Vec<Self> {
        match (self.dim(axis).known(), n) {
            (Some(all), 1..) if (all as usize).is_multiple_of(n) => self.split(axis, &vec![all as usize / n; n]),
            _ => vec![self.refuse("chunk", format!("axis {axis} of {} is not {n} equal pieces", self.shape())); n],
        }
    }
    /// Every `step`th of `len` indices of an axis: `len` of them from `start` on, `step` apart.
    pub fn slice_step(self, axis: usize, start: impl Into<Dim>, len: impl Into<Dim>, step: u32) -> Self {
        self.with(&op::SLICE, Attrs::Slice { axis, start: start.into(), len: len.into(), step }, &[])
    }
    /// Not below `low` and not above `high`.
    pub fn clamp(self, low: f32, high: f32) -> Self {
        self.maximum(self.builder.constant(low)).minimum(self.builder.constant(high))
    }
    /// The sum over axes, which stay with one element.
    pub fn sum_keep(self, axes: &[usize]) -> Self {
        self.reduced(&op::SUM, &op::INT_SUM, axes, true)
    }
    /// The mean over axes, which stay with one element.
    pub fn mean_keep(self, axes: &[usize]) -> Self {
        self.with(&op::MEAN, Attrs::Reduce { axes: axes.to_vec(), keep: true }, &[])
    }
    /// The largest over axes, which stay with one element.
    pub fn max_keep(self, axes: &[usize]) -> Self {
        self.reduced(&op::MAX, &op::INT_MAX, axes, true)
    }
    /// The variance over axes, which are dropped: the mean square distance from the mean.
    pub fn variance(self, axes: &[usize]) -> Self {
        let distance = self - self.mean_keep(axes);
        (distance * distance).mean(axes)
    }
    /// The square root of [`Tensor::variance`].
    pub fn std(self, axes: &[usize]) -> Self {
        self.variance(axes).sqrt()
    }
    /// The last two axes with zeros above the diagonal; `offset` moves that up.
    pub fn tril(self, offset: i64) -> Self {
        self.triangle("tril", offset, |row, column| column.le(row))
    }
    /// The last two axes with zeros below the diagonal; `offset` moves that up.
    pub fn triu(self, offset: i64) -> Self {
        self.triangle("triu", offset, |row, column| column.ge(row))
    }

    fn triangle(self, name: &str, offset: i64, keep: fn(Self, Self) -> Self) -> Self {
        let shape = self.shape();
        let Some([rows, columns]) = shape.last_chunk::<2>().copied() else {
            return self.refuse(name, format!("is {shape}, it must have two axes"));
        };
        let iota =
            |shape: [Dim; 2], axis: usize| self.builder.iota(DType::I32, shape.to_vec(), axis, 0).cast(DType::F32);
        let row = iota([rows, Dim::new(1)], 0) + offset as f32;
        keep(row, iota([Dim::new(1), columns], 1)).select(self, self.builder.constant(0.0))
    }
    pub(super) fn refuse(self, op: &str, what: String) -> Self {
        self.builder.fail(Error::op(op, "", what))
    }
}

//! Conveniences of tensors that pick, move and repeat elements.

use super::Tensor;
use crate::base::{DType, Dim, Shape};
use crate::op::{self, Attrs, Window};

impl<'g> Tensor<'g> {
    /// Rows of an axis by their ids (u32 or i32, any shape): axis `axis` becomes the axes of `ids`. An id outside gives zeros.
    pub fn take(self, axis: usize, ids: Tensor<'_>) -> Self {
        let rank = self.shape().rank();
        if axis >= rank {
            return self.refuse("take", format!("axis {axis} is outside of {}, rank {rank}", self.shape()));
        }
        if axis == 0 {
            return self.gather(ids);
        }
        let front: Vec<usize> = std::iter::once(axis).chain((0..rank).filter(|a| *a != axis)).collect();
        let picked = self.transpose(&front).gather(ids);
        // The ids' axes go back to where the axis was.
        let wide = ids.shape().rank();
        let back: Vec<usize> = (wide..wide + axis).chain(0..wide).chain(wide + axis..wide + rank - 1).collect();
        picked.transpose(&back)
    }
    /// One element for each id, along an axis: `y[.., i, ..] = x[.., ids[.., i, ..], ..]`. Other axes of `ids` are as long as
    /// those of `self` or shorter. Ids are within the axis.
    pub fn take_along(self, axis: usize, ids: Tensor<'_>) -> Self {
        let (shape, wide) = (self.shape(), ids.shape());
        if axis >= shape.rank() || wide.rank() != shape.rank() {
            return self.refuse("take_along", format!("axis {axis} of {shape} by ids {wide}: ranks must be equal"));
        }
        match self.flat_places(axis, ids, &shape) {
            Some(at) => self.reshape([-1]).gather(at),
            None => self.refuse("take_along", format!("{shape} has an axis that varies between steps")),
        }
    }
    /// Where elements of a tensor of shape `shape` lie in row-major order, whose index along `axis` is in `ids`, all others are
    /// their own.
    fn flat_places(self, axis: usize, ids: Tensor<'_>, shape: &Shape) -> Option<Tensor<'g>> {
        let wide = ids.shape();
        let mut at = self.own(ids).cast(DType::I32);
        let stride = |i: usize| shape[i + 1..].iter().map(Dim::known).try_fold(1i64, |n, d| Some(n * d?));
        at = at * self.whole(stride(axis)?);
        for i in (0..wide.rank()).filter(|i| *i != axis && !wide[*i].is(1)) {
            let mut line = vec![Dim::new(1); wide.rank()];
            line[i] = wide[i];
            at = at + self.builder.iota(DType::I32, line, i, 0) * self.whole(stride(i)?);
        }
        Some(at)
    }
    /// One whole number as i32.
    fn whole(self, n: i64) -> Tensor<'g> {
        self.builder.iota(DType::I32, [1], 0, n)
    }
    /// An operand as a tensor of this builder; one of another builder is an error.
    fn own(self, x: Tensor<'_>) -> Tensor<'g> {
        self.builder.adopt(x)
    }
    /// With rows replaced: see the op `scatter` in docs/ops.md. Ids are one axis, `new` has a row for each.
    pub fn scatter(self, ids: Tensor<'_>, new: Tensor<'_>) -> Self {
        self.with(&op::SCATTER, Attrs::None, &[ids, new])
    }
    /// Elements along an axis replaced: `y[.., ids[.., i, ..], ..] = new[.., i, ..]`, of equal places the last. Shapes of `ids` and
    /// `new` are equal, and all lengths are known.
    pub fn scatter_along(self, axis: usize, ids: Tensor<'_>, new: Tensor<'_>) -> Self {
        let (shape, wide) = (self.shape(), ids.shape());
        if axis >= shape.rank() || wide.rank() != shape.rank() || new.shape() != wide {
            let what = format!("axis {axis} of {shape} by ids {wide} and {}: shapes do not fit", new.shape());
            return self.refuse("scatter_along", what);
        }
        match self.flat_places(axis, ids, &shape) {
            Some(at) => {
                let new = self.own(new).reshape([-1]);
                let lead = wide.iter().enumerate().all(|(i, d)| i == axis || !d.is(0));
                if !lead {
                    return self;
                }
                self.reshape([-1]).scatter(at.broadcast(wide.clone()).reshape([-1]), new).reshape(shape)
            }
            None => self.refuse("scatter_along", format!("{shape} has an axis that varies between steps")),
        }
    }
    /// The `k` largest along the last axis, largest first, and where they are (u32).
    pub fn topk(self, k: usize) -> (Self, Self) {
        let at = self.with(&op::TOP_INDICES, Attrs::Rows(k.into()), &[]);
        (self.take_along(self.shape().rank().saturating_sub(1), at), at)
    }
    /// An axis backwards.
    pub fn flip(self, axis: usize) -> Self {
        let n = self.dim(axis);
        let ids = self.builder.iota(DType::I32, [n], 0, 1);
        let last = self.builder.iota(DType::I32, [1], 0, n);
        self.take(axis, last - ids)
    }
    /// Copies of the whole along an axis, one after another.
    pub fn repeat(self, axis: usize, times: usize) -> Self {
        self.builder.concat(&vec![self; times.max(1)], axis).slice(axis, 0, self.dim(axis) * times as i64)
    }
    /// Each element of an axis `times` in a row.
    pub fn repeat_each(self, axis: usize, times: usize) -> Self {
        let mut shape = self.shape();
        if axis >= shape.rank() {
            return self.refuse("repeat_each", format!("axis {axis} is outside of {shape}, rank {}", shape.rank()));
        }
        shape.0.insert(axis + 1, Dim::from(times));
        let wide = self.unsqueeze(axis + 1).broadcast(shape);
        wide.flatten(axis, axis + 1)
    }
    /// An axis stretched or shrunk to `to` elements: each is the nearest one below, `x[⌊i · n / to⌋]`.
    pub fn resize_nearest(self, axis: usize, to: usize) -> Self {
        let Some(n) = self.dim(axis).known() else {
            return self.refuse("resize_nearest", format!("axis {axis} of {} varies between steps", self.shape()));
        };
        let i = self.builder.iota(DType::I32, [to], 0, 0);
        self.take(axis, i * self.whole(n) / self.whole(to as i64))
    }
    /// Whole numbers as a new last axis of `kinds` elements: 1 where the number is the index, else 0.
    pub fn one_hot(self, kinds: usize) -> Self {
        let at = self.unsqueeze(self.shape().rank()).cast(DType::I32);
        at.eq(self.builder.iota(DType::I32, [kinds], 0, 0)).cast(DType::F32)
    }
    /// This shape and its own, broadcast to each other (as ONNX's `Expand`).
    pub fn expand(self, shape: impl Into<Shape>) -> Self {
        let (own, to) = (self.shape(), shape.into());
        match own.broadcast(&to) {
            Some(both) => self.broadcast(both),
            None => self.refuse("expand", format!("{own} and {to} do not broadcast")),
        }
    }
    /// A convolution over the axes behind the second; see the op `conv` in docs/ops.md.
    pub fn conv(self, weight: Tensor<'_>, bias: Option<Tensor<'_>>, window: Window) -> Self {
        let operands: Vec<Tensor<'_>> = std::iter::once(weight).chain(bias).collect();
        self.with(&op::CONV, Attrs::Window(Box::new(window)), &operands)
    }
    /// The largest under a window; see the op `max_pool` in docs/ops.md.
    pub fn max_pool(self, window: Window) -> Self {
        self.with(&op::MAX_POOL, Attrs::Window(Box::new(window)), &[])
    }
    /// The mean under a window; see the op `avg_pool` in docs/ops.md.
    pub fn avg_pool(self, window: Window) -> Self {
        self.with(&op::AVG_POOL, Attrs::Window(Box::new(window)), &[])
    }
    /// The running sum along an axis.
    pub fn cumsum(self, axis: usize) -> Self {
        self.with(&op::CUMSUM, Attrs::Axis(axis), &[])
    }
    /// The running product along an axis.
    pub fn cumprod(self, axis: usize) -> Self {
        self.with(&op::CUMPROD, Attrs::Axis(axis), &[])
    }
    /// The product over axes, which are dropped.
    pub fn prod(self, axes: &[usize]) -> Self {
        self.with(&op::PROD, Attrs::Reduce { axes: axes.to_vec(), keep: false }, &[])
    }
    /// Whether any element (bool) holds over axes, which are dropped.
    pub fn any(self, axes: &[usize]) -> Self {
        self.cast(DType::F32).max(axes).cast(DType::Bool)
    }
    /// Whether all elements (bool) hold over axes, which are dropped.
    pub fn all(self, axes: &[usize]) -> Self {
        self.cast(DType::F32).min(axes).cast(DType::Bool)
    }
    /// Softmax over any axis.
    pub fn softmax_over(self, axis: usize) -> Self {
        self.with_last(axis, |x| x.softmax())
    }
    /// The logarithm of softmax over any axis.
    pub fn log_softmax_over(self, axis: usize) -> Self {
        self.with_last(axis, |x| x.log_softmax())
    }
    /// Something done with an axis brought to the end, and brought back.
    fn with_last(self, axis: usize, make: impl FnOnce(Self) -> Self) -> Self {
        let rank = self.shape().rank();
        if axis + 1 == rank || axis >= rank {
            return make(self);
        }
        let mut perm: Vec<usize> = (0..rank).collect();
        perm.swap(axis, rank - 1);
        make(self.transpose(&perm)).transpose(&perm)
    }
    /// The sign: 1, 0 or −1; NaN stays.
    pub fn sign(self) -> Self {
        let of = |x: f32| self.builder.constant(x);
        self.gt(of(0.0)).select(of(1.0), self.lt(of(0.0)).select(of(-1.0), self))
    }
    /// The angle in radians whose sine is x, which lies within ±1; NaN where it does not.
    pub fn asin(self) -> Self {
        (self / ((1.0 - self) * (self + 1.0)).sqrt()).atan()
    }
    /// Whether an element is infinite.
    pub fn is_inf(self) -> Self {
        self.abs().eq(self.builder.constant(f32::INFINITY))
    }
}

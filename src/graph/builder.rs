//! Building graphs with tensor handles: `x.matmul(w)?.gelu()?`.

use super::{Graph, Source};
use crate::base::{Cut, DType, Dim, Error, MeshAxis, Part, Placement, Result, Shape, Type};
use crate::op::{self, Attention, Attrs, Build, OpDef, RopeLayout, Value};
use std::cell::RefCell;

/// Collects nodes; shapes are checked as they are added.
#[derive(Debug, Default)]
pub struct GraphBuilder {
    graph: RefCell<Graph>,
}

/// A value of a graph under construction.
#[derive(Clone, Copy)]
pub struct Tensor<'g> {
    builder: &'g GraphBuilder,
    value: Value,
}

impl GraphBuilder {
    pub fn new() -> Self {
        Self::default()
    }
    /// Names the part of the model that the following ops belong to; errors, plans and traces show it.
    pub fn at(&self, place: impl Into<String>) {
        self.graph.borrow_mut().set_place(place);
    }
    /// Names the layer that following nodes belong to; a pipeline is cut between layers.
    pub fn layer(&self, layer: u32) {
        self.graph.borrow_mut().set_layer(layer);
    }
    /// The layer that following nodes belong to.
    pub fn current_layer(&self) -> u32 {
        self.graph.borrow().current_layer()
    }
    /// A value given at each step.
    pub fn input(&self, name: &str, dtype: DType, shape: impl Into<Shape>) -> Result<Tensor<'_>> {
        self.source(Source::Input, Type::new(dtype, shape), name)
    }
    /// A tensor of the model file, as it is stored there.
    pub fn weight(&self, name: &str, dtype: DType, shape: impl Into<Shape>) -> Result<Tensor<'_>> {
        self.source(Source::Weight { parts: vec![Part::whole(name)] }, Type::new(dtype, shape), name)
    }
    /// A value that outlives the step: zeros at first, written by [`Tensor::append`] and [`Tensor::assign`].
    pub fn state(&self, name: &str, dtype: DType, shape: impl Into<Shape>) -> Result<Tensor<'_>> {
        self.source(Source::State, Type::new(dtype, shape), name)
    }
    /// Literal elements in row-major order.
    pub fn data(&self, name: &str, shape: impl Into<Shape>, elements: Vec<f32>) -> Result<Tensor<'_>> {
        self.source(Source::Data(elements.into()), Type::f32(shape), name)
    }
    /// One f32 number.
    pub fn constant(&self, x: f32) -> Tensor<'_> {
        self.wrap(self.graph.borrow_mut().constant(x))
    }
    /// `start + index along axis`.
    pub fn iota(
        &self,
        dtype: DType,
        shape: impl Into<Shape>,
        axis: usize,
        start: impl Into<Dim>,
    ) -> Result<Tensor<'_>> {
        self.apply(&op::IOTA, Attrs::Iota { shape: shape.into(), axis, start: start.into(), dtype }, &[])
    }
    /// Operands one after another along `axis`.
    pub fn concat(&self, xs: &[Tensor<'_>], axis: usize) -> Result<Tensor<'_>> {
        let args = xs.iter().map(|x| x.value_in(self)).collect::<Result<Vec<_>>>()?;
        self.apply(&op::CONCAT, Attrs::Axis(axis), &args)
    }
    /// Any op of the table by its definition.
    pub fn op(&self, def: &'static OpDef, attrs: Attrs, args: &[Tensor<'_>]) -> Result<Tensor<'_>> {
        let args = args.iter().map(|x| x.value_in(self)).collect::<Result<Vec<_>>>()?;
        self.apply(def, attrs, &args)
    }
    /// Names a result of the graph.
    pub fn output(&self, name: &str, x: Tensor<'_>) -> Result<()> {
        let value = x.value_in(self)?;
        self.graph.borrow_mut().output(name, value)
    }
    /// The gradient of `loss` (one f32 element) in each of `wrt`: f32, of their shapes.
    ///
    /// # Errors
    /// Those of [`Graph::gradients`]; tensors of another graph.
    pub fn gradients(&self, loss: Tensor<'_>, wrt: &[Tensor<'_>]) -> Result<Vec<Tensor<'_>>> {
        let loss = loss.value_in(self)?;
        let wrt = wrt.iter().map(|x| x.value_in(self)).collect::<Result<Vec<_>>>()?;
        let made = self.graph.borrow_mut().gradients(loss, &wrt)?;
        Ok(made.into_iter().map(|v| self.wrap(v)).collect())
    }
    pub fn finish(self) -> Graph {
        self.graph.into_inner()
    }

    fn wrap(&self, value: Value) -> Tensor<'_> {
        Tensor { builder: self, value }
    }
    fn source(&self, source: Source, ty: Type, name: &str) -> Result<Tensor<'_>> {
        let value = self.graph.borrow_mut().source(source, ty, name)?;
        Ok(self.wrap(value))
    }
    fn apply(&self, def: &'static OpDef, attrs: Attrs, args: &[Value]) -> Result<Tensor<'_>> {
        let value = self.graph.borrow_mut().apply(def, attrs, args)?;
        Ok(self.wrap(value))
    }
}

macro_rules! unary {
    ($($name:ident $def:ident),*) => { $(
        #[doc = concat!("See the op `", stringify!($name), "` in docs/ops.md.")]
        pub fn $name(self) -> Result<Self> { self.with(&op::$def, Attrs::None, &[]) }
    )* };
}
macro_rules! binary {
    ($($name:ident $def:ident),*) => { $(
        #[doc = concat!("See the op `", stringify!($name), "` in docs/ops.md.")]
        pub fn $name(self, y: Tensor<'_>) -> Result<Self> { self.with(&op::$def, Attrs::None, &[y]) }
    )* };
}
macro_rules! reduce {
    ($($name:ident $def:ident),*) => { $(
        #[doc = concat!("See the op `", stringify!($name), "` in docs/ops.md. The axes are dropped.")]
        pub fn $name(self, axes: &[usize]) -> Result<Self> {
            self.with(&op::$def, Attrs::Reduce { axes: axes.to_vec(), keep: false }, &[])
        }
    )* };
}

impl<'g> Tensor<'g> {
    pub fn ty(&self) -> Type {
        self.builder.graph.borrow().ty(self.value)
    }
    pub fn shape(&self) -> Shape {
        self.ty().shape
    }
    pub fn dtype(&self) -> DType {
        self.ty().dtype
    }
    pub fn value(&self) -> Value {
        self.value
    }
    /// States how this value should lie along a mesh axis; see [`crate::graph::Hint`].
    pub fn place(self, over: MeshAxis, placement: Placement) -> Self {
        self.cut(over, placement, Cut::ONES)
    }
    /// Like [`Tensor::place`], saying which piece is whose.
    pub fn cut(self, over: MeshAxis, placement: Placement, cut: Cut) -> Self {
        self.builder.graph.borrow_mut().hint(self.value, over, placement, cut);
        self
    }

    unary!(neg NEG, abs ABS, exp EXP, log LOG, sqrt SQRT, rsqrt RSQRT, tanh TANH, sin SIN, cos COS, erf ERF, sigmoid SIGMOID, silu SILU,
        gelu GELU, gelu_tanh GELU_TANH, relu RELU, softmax SOFTMAX, log_softmax LOG_SOFTMAX);
    binary!(add ADD, sub SUB, mul MUL, div DIV, maximum MAXIMUM, minimum MINIMUM, eq EQ, ne NE, lt LT, le LE, gt GT, ge GE,
        gather GATHER);
    reduce!(sum SUM, mean MEAN, max MAX, min MIN);

    /// Index (u32) of the largest element along `axis`, which is dropped.
    pub fn argmax(self, axis: usize) -> Result<Self> {
        self.with(&op::ARGMAX, Attrs::Reduce { axes: vec![axis], keep: false }, &[])
    }
    /// `self · y` over the last two axes, leading axes broadcast.
    pub fn matmul(self, y: Tensor<'_>) -> Result<Self> {
        self.with(&op::MATMUL, Attrs::Matmul { ta: false, tb: false }, &[y])
    }
    /// `self · yᵀ`: the right operand is stored as rows, as weights are.
    pub fn matmul_t(self, y: Tensor<'_>) -> Result<Self> {
        self.with(&op::MATMUL, Attrs::Matmul { ta: false, tb: true }, &[y])
    }
    /// `y` where `self` (bool) holds, else `z`.
    pub fn select(self, y: Tensor<'_>, z: Tensor<'_>) -> Result<Self> {
        self.with(&op::WHERE, Attrs::None, &[y, z])
    }
    /// The mean of −ln p(target) over rows, in nats: logits `self` `[n, kinds]`, targets u32 `[n]`.
    pub fn cross_entropy(self, targets: Tensor<'_>) -> Result<Self> {
        let shape = self.shape();
        if shape.rank() != 2 {
            return Err(Error::op("cross_entropy", "", format!("logits are {shape}, they must be [n, kinds]")));
        }
        let kinds = self.builder.iota(DType::U32, vec![Dim::new(1), shape[1]], 1, 0)?;
        let right = kinds.eq(targets.reshape(vec![shape[0], Dim::new(1)])?)?;
        right.select(self.log_softmax()?, self.builder.constant(0.0))?.sum(&[1])?.mean(&[0])?.neg()
    }
    pub fn layer_norm(self, w: Tensor<'_>, b: Tensor<'_>, eps: f32) -> Result<Self> {
        self.with(&op::LAYER_NORM, Attrs::Norm { eps }, &[w, b])
    }
    pub fn rms_norm(self, w: Tensor<'_>, eps: f32) -> Result<Self> {
        self.with(&op::RMS_NORM, Attrs::Norm { eps }, &[w])
    }
    /// Rotary positions on `[..., s, h, d]` with tables `[s, d/2]`.
    pub fn rope(self, cos: Tensor<'_>, sin: Tensor<'_>, layout: RopeLayout) -> Result<Self> {
        self.with(&op::ROPE, Attrs::Rope(layout), &[cos, sin])
    }
    /// Scaled-dot-product attention of queries `self` `[b, s, h, d]` over `k`, `v` `[b, t, g, d]`.
    pub fn attention(self, k: Tensor<'_>, v: Tensor<'_>, mask: Option<Tensor<'_>>, how: Attention) -> Result<Self> {
        let mut rest = vec![k, v];
        rest.extend(mask);
        self.with(&op::ATTENTION, Attrs::Attention(how), &rest)
    }
    /// This state with rows from `at` on replaced by `rows`, in place.
    pub fn append(self, rows: Tensor<'_>, at: impl Into<Dim>) -> Result<Self> {
        self.with(&op::APPEND, Attrs::Append { at: at.into() }, &[rows])
    }
    /// This state with `value` for its contents from now on; earlier ops have read the old ones.
    pub fn assign(self, value: Tensor<'_>) -> Result<Self> {
        self.with(&op::ASSIGN, Attrs::None, &[value])
    }
    pub fn reshape(self, shape: impl Into<Shape>) -> Result<Self> {
        self.with(&op::RESHAPE, Attrs::Shape(shape.into()), &[])
    }
    pub fn broadcast(self, shape: impl Into<Shape>) -> Result<Self> {
        self.with(&op::BROADCAST, Attrs::Shape(shape.into()), &[])
    }
    pub fn transpose(self, perm: &[usize]) -> Result<Self> {
        self.with(&op::TRANSPOSE, Attrs::Perm(perm.to_vec()), &[])
    }
    pub fn slice(self, axis: usize, start: impl Into<Dim>, len: impl Into<Dim>) -> Result<Self> {
        self.with(&op::SLICE, Attrs::Slice { axis, start: start.into(), len: len.into(), step: 1 }, &[])
    }
    pub fn pad(self, axis: usize, before: usize, after: usize, value: f32) -> Result<Self> {
        self.with(&op::PAD, Attrs::Pad { axis, before, after, value }, &[])
    }
    pub fn cast(self, to: DType) -> Result<Self> {
        if self.dtype() == to {
            return Ok(self);
        }
        self.with(&op::CAST, Attrs::Cast(to), &[])
    }

    fn with(self, def: &'static OpDef, attrs: Attrs, rest: &[Tensor<'_>]) -> Result<Self> {
        let mut args = vec![self.value];
        for t in rest {
            args.push(t.value_in(self.builder)?);
        }
        self.builder.apply(def, attrs, &args)
    }
    fn value_in(&self, builder: &GraphBuilder) -> Result<Value> {
        if std::ptr::eq(self.builder, builder) {
            return Ok(self.value);
        }
        Err(Error::usage("a tensor of another graph was given: build all operands with one GraphBuilder"))
    }
}

macro_rules! operators {
    ($($trait:ident $method:ident $def:ident),*) => { $(
        impl<'g> std::ops::$trait for Tensor<'g> {
            type Output = Result<Tensor<'g>>;
            fn $method(self, y: Tensor<'g>) -> Self::Output { self.with(&op::$def, Attrs::None, &[y]) }
        }
        impl<'g> std::ops::$trait<f32> for Tensor<'g> {
            type Output = Result<Tensor<'g>>;
            fn $method(self, y: f32) -> Self::Output {
                let y = self.builder.constant(y);
                self.with(&op::$def, Attrs::None, &[y])
            }
        }
    )* };
}
operators!(Add add ADD, Sub sub SUB, Mul mul MUL, Div div DIV);

impl std::fmt::Debug for Tensor<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "%{} {}", self.value.0, self.ty())
    }
}

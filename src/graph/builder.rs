//! Building graphs with tensor handles: `let y = x.matmul(w).gelu() * 0.5;`.
//!
//! Errors are sticky: the builder keeps the first, whatever is made after it is nothing, and [`GraphBuilder::finish`]
//! returns it.

use super::{Graph, Source, shape};
use crate::base::{Array, Cut, DType, Dim, Error, MeshAxis, Part, Placement, Result, Shape, Type};
use crate::op::{self, Attention, Attrs, Build, OpDef, RopeLayout, Value};
use std::cell::RefCell;

/// Collects nodes; shapes are checked as they are added.
///
/// Nothing here returns an error until [`GraphBuilder::finish`]: the first one is kept, it names the op and where in the
/// model it stands, and ops after it are not added.
#[derive(Debug, Default)]
pub struct GraphBuilder {
    graph: RefCell<Graph>,
    error: RefCell<Option<Error>>,
}

/// What stands for the result of an op that failed.
const POISON: Value = Value(u32::MAX);

/// A value of a graph under construction. Where making it failed it is poisoned: it has the type of one f32 number, and
/// ops on it do nothing.
///
/// ```
/// use warpweft::{DType, GraphBuilder, Shape};
///
/// let g = GraphBuilder::new();
/// let x = g.input("x", DType::F32, [4, 8]);
/// let w = g.weight("w", DType::F32, [16, 8]);
/// let y = (x.matmul_t(w).gelu() * 2.0).softmax();
/// assert_eq!(y.shape(), Shape::from([4, 16]));
/// assert_eq!(y.reshape([2, -1]).shape(), Shape::from([2, 32]));
/// assert_eq!(g.einsum("ij,kj->ik", &[x, w]).shape(), y.shape());
/// ```
#[derive(Clone, Copy)]
pub struct Tensor<'g> {
    pub(super) builder: &'g GraphBuilder,
    value: Value,
}

/// Where [`Tensor::paged_attention`] finds keys and values.
#[derive(Clone, Copy)]
pub struct Paged<'g> {
    /// The pools `[pages · page, kv heads, width]`.
    pub keys: Tensor<'g>,
    /// The same of values.
    pub values: Tensor<'g>,
    /// For each sequence its pages in order: u32 `[sequences, pages of one]`.
    pub tables: Tensor<'g>,
    /// For each row its sequence: u32 `[rows]`.
    pub sequences: Tensor<'g>,
    /// For each row its position in its sequence: u32 `[rows]`.
    pub positions: Tensor<'g>,
}

/// What [`Tensor::delta_rule`] takes beside queries, f32 but for the words.
#[derive(Clone, Copy)]
pub struct Recurrence<'g> {
    /// `[n, key heads, width]`, as queries are.
    pub keys: Tensor<'g>,
    /// `[n, heads, width of a value]`.
    pub values: Tensor<'g>,
    /// A decay and a rate for each row and head: `[n, heads, 2]`.
    pub gates: Tensor<'g>,
    /// Matrices of sequences: `[slots, width, heads, width of a value]`.
    pub states: Tensor<'g>,
    /// The slot of each sequence of the step: u32 `[sequences]`.
    pub slots: Tensor<'g>,
    /// Which of these sequences each row is of: u32 `[n]`.
    pub owners: Tensor<'g>,
}

impl GraphBuilder {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }
    /// Names the part of the model that the following ops belong to; errors, plans and traces show it.
    pub fn at(&self, place: impl Into<String>) {
        self.graph.borrow_mut().set_place(place);
    }
    /// Names the layer that following nodes belong to; a pipeline is cut between layers.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn layer(&self, layer: u32) {
        self.graph.borrow_mut().set_layer(layer);
    }
    /// The layer that following nodes belong to.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn current_layer(&self) -> u32 {
        self.graph.borrow().current_layer()
    }
    /// A value given at each step.
    pub fn input(&self, name: &str, dtype: DType, shape: impl Into<Shape>) -> Tensor<'_> {
        self.source(Source::Input, Type::new(dtype, shape), name)
    }
    /// A tensor of the model file, as it is stored there.
    pub fn weight(&self, name: &str, dtype: DType, shape: impl Into<Shape>) -> Tensor<'_> {
        self.source(Source::Weight { parts: vec![Part::whole(name)] }, Type::new(dtype, shape), name)
    }
    /// A value that outlives the step: zeros at first, written by [`Tensor::append`] and [`Tensor::assign`].
    pub fn state(&self, name: &str, dtype: DType, shape: impl Into<Shape>) -> Tensor<'_> {
        self.source(Source::State, Type::new(dtype, shape), name)
    }
    /// Literal elements in row-major order.
    pub fn data(&self, name: &str, shape: impl Into<Shape>, elements: Vec<f32>) -> Tensor<'_> {
        self.source(Source::Data(elements.into()), Type::f32(shape), name)
    }
    /// One f32 number.
    pub fn constant(&self, x: f32) -> Tensor<'_> {
        self.add(|graph| Ok(graph.constant(x)))
    }
    /// `start + index along axis`.
    pub fn iota(&self, dtype: DType, shape: impl Into<Shape>, axis: usize, start: impl Into<Dim>) -> Tensor<'_> {
        self.op(&op::IOTA, Attrs::Iota { shape: shape.into(), axis, start: start.into(), dtype }, &[])
    }
    /// Operands one after another along `axis`.
    pub fn concat(&self, xs: &[Tensor<'_>], axis: usize) -> Tensor<'_> {
        self.op(&op::CONCAT, Attrs::Axis(axis), xs)
    }
    /// Operands of one shape along a new axis.
    pub fn stack(&self, xs: &[Tensor<'_>], axis: usize) -> Tensor<'_> {
        let xs: Vec<Tensor> = xs.iter().map(|x| x.unsqueeze(axis)).collect();
        self.concat(&xs, axis)
    }
    /// Numbers that are part of the graph, of the array's type and shape.
    ///
    /// Quantised arrays are weights, not literals: they are an error.
    pub fn literal(&self, name: &str, array: &Array) -> Tensor<'_> {
        let (dtype, shape) = (array.dtype, &array.shape[..]);
        let data = |part: &str, x: Vec<f32>| self.data(&format!("{name}{part}"), shape, x);
        match dtype {
            DType::F32 => data("", array.to_f32()),
            DType::Bool => data("", array.to_f64().iter().map(|x| *x as f32).collect()).ne(self.constant(0.0)),
            d if d.is_int() => {
                let whole: Vec<i64> = array.to_f64().iter().map(|x| *x as i64).collect();
                // An f32 holds whole numbers of 24 bits.
                if whole.iter().all(|n| n.unsigned_abs() <= 1 << 24) {
                    return data("", whole.iter().map(|n| *n as f32).collect()).cast(d);
                }
                let high = data(".high", whole.iter().map(|n| (n >> 16) as f32).collect()).cast(d);
                let low = data(".low", whole.iter().map(|n| (n & 0xffff) as f32).collect()).cast(d);
                high.shl(self.integer(d, 16)).or(low)
            }
            d if !d.is_quantised() => data("", array.to_f32()).cast(d),
            d => self.fail(Error::op("literal", name, format!("is {d}: give blocks as a weight"))),
        }
    }
    /// A whole number of an integer type, as a scalar.
    pub fn integer(&self, dtype: DType, n: i32) -> Tensor<'_> {
        self.iota(dtype, [1], 0, n as i64).reshape(Shape::default())
    }
    /// Any op of the table by its definition.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn op(&self, def: &'static OpDef, attrs: Attrs, args: &[Tensor<'_>]) -> Tensor<'_> {
        self.with(args, |graph, args| graph.apply(def, attrs, args))
    }
    /// Names a result of the graph. A name may be used once.
    pub fn output(&self, name: &str, x: Tensor<'_>) {
        self.with(&[x], |graph, x| graph.output(name, x[0]).map(|()| x[0]));
    }
    /// The gradient of `loss` (one f32 element) in each of `wrt`: f32, of their shapes. The errors kept are those of
    /// [`Graph::gradients`].
    pub fn gradients(&self, loss: Tensor<'_>, wrt: &[Tensor<'_>]) -> Vec<Tensor<'_>> {
        let all: Vec<Tensor> = [&[loss], wrt].concat();
        let mut made = vec![POISON; wrt.len()];
        self.with(&all, |graph, all| {
            made = graph.gradients(all[0], &all[1..])?;
            Ok(all[0])
        });
        made.into_iter().map(|v| self.wrap(v)).collect()
    }
    /// How many nodes there are: a range between two of these is what was added between.
    pub(crate) fn mark(&self) -> usize {
        self.graph.borrow().nodes.len()
    }
    /// As [`Graph::pullback`]; nothing for each of `wrt` once something went wrong.
    pub(crate) fn pullback<'g>(
        &'g self,
        (y, seed): (Tensor<'g>, Tensor<'g>),
        wrt: &[Tensor<'g>],
        nodes: std::ops::Range<usize>,
    ) -> Vec<Option<Tensor<'g>>> {
        let all: Vec<Tensor> = [&[y, seed], wrt].concat();
        let mut made = vec![None; wrt.len()];
        self.with(&all, |graph, all| {
            made = graph.pullback((all[0], all[1]), &all[2..], nodes)?;
            Ok(all[0])
        });
        made.into_iter().map(|v| v.map(|v| self.wrap(v))).collect()
    }
    /// The graph.
    ///
    /// # Errors
    /// The first thing that went wrong: an op whose operands do not fit, a name that is taken, a tensor of another graph.
    pub fn finish(self) -> Result<Graph> {
        match self.error.into_inner() {
            Some(error) => Err(error),
            None => Ok(self.graph.into_inner()),
        }
    }
    /// Keeps an error found elsewhere, a missing tensor say, as if an op had failed; gives a poisoned tensor.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn fail(&self, error: Error) -> Tensor<'_> {
        self.error.borrow_mut().get_or_insert(error);
        self.wrap(POISON)
    }
    /// A tensor, or the error kept in its place.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn or_fail<'g>(&'g self, made: Result<Tensor<'g>>) -> Tensor<'g> {
        made.unwrap_or_else(|e| self.fail(e))
    }
    /// Whether an error is kept: what is added from here on is nothing.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn has_failed(&self) -> bool {
        self.error.borrow().is_some()
    }
    /// Takes the error that [`GraphBuilder::finish`] would return: ops are added again from now on. Tensors that were
    /// poisoned stay so, and an op on one of them is an error.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn take_error(&self) -> Option<Error> {
        self.error.borrow_mut().take()
    }

    /// An operand with this builder's lifetime.
    pub(super) fn adopt(&self, x: Tensor<'_>) -> Tensor<'_> {
        self.with(&[x], |_, x| Ok(x[0]))
    }
    fn wrap(&self, value: Value) -> Tensor<'_> {
        Tensor { builder: self, value }
    }
    fn source(&self, source: Source, ty: Type, name: &str) -> Tensor<'_> {
        self.add(|graph| graph.source(source, ty, name))
    }
    /// Adds to the graph, unless something went wrong before.
    fn add(&self, add: impl FnOnce(&mut Graph) -> Result<Value>) -> Tensor<'_> {
        if self.error.borrow().is_some() {
            return self.wrap(POISON);
        }
        let made = add(&mut self.graph.borrow_mut());
        made.map_or_else(|e| self.fail(e), |v| self.wrap(v))
    }
    /// The same of operands, all of which must be of this graph.
    fn with(&self, args: &[Tensor<'_>], add: impl FnOnce(&mut Graph, &[Value]) -> Result<Value>) -> Tensor<'_> {
        if args.iter().any(|x| !std::ptr::eq(x.builder, self)) {
            return self
                .fail(Error::usage("a tensor of another graph was given: build all operands with one GraphBuilder"));
        }
        let args: Vec<Value> = args.iter().map(|x| x.value).collect();
        self.add(|graph| {
            if args.contains(&POISON) {
                return Err(Error::usage("an operand could not be made: its error was taken, do not use it"));
            }
            add(graph, &args)
        })
    }
}

macro_rules! unary {
    ($($name:ident $def:ident),*) => { $(
        #[doc = concat!("See the op `", stringify!($name), "` in docs/ops.md.")]
        pub fn $name(self) -> Self { self.with(&op::$def, Attrs::None, &[]) }
    )* };
}
macro_rules! binary {
    ($($name:ident $def:ident),*) => { $(
        #[doc = concat!("See the op `", stringify!($name), "` in docs/ops.md.")]
        pub fn $name(self, y: Tensor<'_>) -> Self { self.with(&op::$def, Attrs::None, &[y]) }
    )* };
}
macro_rules! reduce {
    ($($name:ident $def:ident),*) => { $(
        #[doc = concat!("See the op `", stringify!($name), "` in docs/ops.md. The axes are dropped.")]
        pub fn $name(self, axes: &[usize]) -> Self {
            self.with(&op::$def, Attrs::Reduce { axes: axes.to_vec(), keep: false }, &[])
        }
    )* };
}

// `x.add(y)` and `x + y` are the same op: operands of the first may be of any kind that the second has no form for.
#[allow(clippy::should_implement_trait)]
impl<'g> Tensor<'g> {
    /// Its type; of a poisoned tensor that of one f32 number.
    pub fn ty(&self) -> Type {
        if self.value == POISON {
            return Type::f32(Shape::default());
        }
        self.builder.graph.borrow().ty(self.value)
    }
    /// Its dimensions.
    pub fn shape(&self) -> Shape {
        self.ty().shape
    }
    /// The length of an axis; 1 where the tensor is poisoned or has no such axis.
    pub fn dim(&self, axis: usize) -> Dim {
        self.shape().get(axis).copied().unwrap_or(Dim::new(1))
    }
    /// The type of its elements.
    pub fn dtype(&self) -> DType {
        self.ty().dtype
    }
    /// Its handle in the graph.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn value(&self) -> Value {
        self.value
    }
    /// States how this value should lie along a mesh axis. Without the axis in the mesh it means nothing.
    pub fn place(self, over: MeshAxis, placement: Placement) -> Self {
        self.cut(over, placement, Cut::ONES)
    }
    /// Like [`Tensor::place`], saying which piece is whose.
    pub fn cut(self, over: MeshAxis, placement: Placement, cut: Cut) -> Self {
        if self.value != POISON {
            self.builder.graph.borrow_mut().hint(self.value, over, placement, cut);
        }
        self
    }

    unary!(neg NEG, abs ABS, exp EXP, log LOG, sqrt SQRT, rsqrt RSQRT, tanh TANH, sin SIN, cos COS, atan ATAN, erf ERF, sigmoid SIGMOID, silu SILU,
        gelu GELU, gelu_tanh GELU_TANH, relu RELU, log1p LOG1P, softplus SOFTPLUS, floor FLOOR, ceil CEIL, round ROUND, is_nan IS_NAN,
        softmax SOFTMAX, log_softmax LOG_SOFTMAX);
    binary!(add ADD, sub SUB, mul MUL, div DIV, maximum MAXIMUM, minimum MINIMUM, eq EQ, ne NE, lt LT, le LE, gt GT, ge GE,
        pow POW, gather GATHER, and AND, or OR, xor XOR, shl SHL, shr SHR, rem REM);
    reduce!(mean MEAN);

    /// The sum over axes, which are dropped. Integers wrap; their axes are of known lengths.
    pub fn sum(self, axes: &[usize]) -> Self {
        self.reduced(&op::SUM, &op::INT_SUM, axes, false)
    }
    /// The largest over axes, which are dropped.
    pub fn max(self, axes: &[usize]) -> Self {
        self.reduced(&op::MAX, &op::INT_MAX, axes, false)
    }
    /// The smallest over axes, which are dropped.
    pub fn min(self, axes: &[usize]) -> Self {
        self.reduced(&op::MIN, &op::INT_MIN, axes, false)
    }
    /// A reduction, in the form that the elements' type has.
    pub(super) fn reduced(self, floats: &'static OpDef, ints: &'static OpDef, axes: &[usize], keep: bool) -> Self {
        let def = if self.dtype().is_int() { ints } else { floats };
        self.with(def, Attrs::Reduce { axes: axes.to_vec(), keep }, &[])
    }
    /// ¬x of truth.
    #[doc(alias = "not")]
    pub fn logical_not(self) -> Self {
        self.with(&op::NOT, Attrs::None, &[])
    }
    /// The remainder with the sign of `y`; see the op `mod` in docs/ops.md.
    #[doc(alias = "mod")]
    pub fn modulo(self, y: Tensor<'_>) -> Self {
        self.with(&op::MOD, Attrs::None, &[y])
    }

    /// Index (u32) of the largest element along `axis`, which is dropped.
    pub fn argmax(self, axis: usize) -> Self {
        self.with(&op::ARGMAX, Attrs::Reduce { axes: vec![axis], keep: false }, &[])
    }
    /// `self · y` over the last two axes, leading axes broadcast.
    pub fn matmul(self, y: Tensor<'_>) -> Self {
        self.with(&op::MATMUL, Attrs::Matmul { ta: false, tb: false }, &[y])
    }
    /// `self · yᵀ`: the right operand is stored as rows, as weights are.
    pub fn matmul_t(self, y: Tensor<'_>) -> Self {
        self.with(&op::MATMUL, Attrs::Matmul { ta: false, tb: true }, &[y])
    }
    /// `y` where `self` (bool) holds, else `z`.
    pub fn select(self, y: Tensor<'_>, z: Tensor<'_>) -> Self {
        self.with(&op::WHERE, Attrs::None, &[y, z])
    }
    /// The mean of −ln p(target) over rows, in nats: logits `self` `[n, kinds]`, targets u32 `[n]`.
    pub fn cross_entropy(self, targets: Tensor<'_>) -> Self {
        let shape = self.shape();
        if shape.rank() != 2 && self.value != POISON {
            let what = format!("logits are {shape}, they must be [n, kinds]");
            return self.builder.fail(Error::op(
                "cross_entropy",
                &self.builder.graph.borrow().name_of(self.value),
                what,
            ));
        }
        let kinds = self.builder.iota(DType::U32, vec![Dim::new(1), self.dim(1)], 1, 0);
        let right = kinds.eq(targets.reshape(vec![self.dim(0), Dim::new(1)]));
        right.select(self.log_softmax(), self.builder.constant(0.0)).sum(&[1]).mean(&[0]).neg()
    }
    /// Layer normalisation over the last axis, of `n` elements, with weight and bias `[n]` (Ba et al., 2016).
    pub fn layer_norm(self, w: Tensor<'_>, b: Tensor<'_>, eps: f32) -> Self {
        self.with(&op::LAYER_NORM, Attrs::Norm { eps }, &[w, b])
    }
    /// RMS normalisation over the last axis, of `n` elements, with weight `[n]` (Zhang and Sennrich, 2019).
    pub fn rms_norm(self, w: Tensor<'_>, eps: f32) -> Self {
        self.with(&op::RMS_NORM, Attrs::Norm { eps }, &[w])
    }
    /// Rotary positions on `[..., s, h, d]` with tables `[s, d/2]`, or `[..., s, d/2]` where rows have positions of their own.
    pub fn rope(self, cos: Tensor<'_>, sin: Tensor<'_>, layout: RopeLayout) -> Self {
        if cos.shape().rank() > 2 && !self.builder.has_failed() {
            return self.rope_by_rows(cos, sin, layout);
        }
        self.with(&op::ROPE, Attrs::Rope(layout), &[cos, sin])
    }
    /// Scaled-dot-product attention of queries `self` `[b, s, h, d]` over `k`, `v` `[b, t, g, d]`.
    pub fn attention(self, k: Tensor<'_>, v: Tensor<'_>, mask: Option<Tensor<'_>>, how: Attention) -> Self {
        let mut rest = vec![k, v];
        rest.extend(mask);
        self.with(&op::ATTENTION, Attrs::Attention(how), &rest)
    }
    /// The same with a score for each head (f32 `[h]`) that takes part in the softmax and adds nothing.
    pub fn attention_with_sinks(self, k: Tensor<'_>, v: Tensor<'_>, sinks: Tensor<'_>, how: Attention) -> Self {
        self.with(&op::ATTENTION, Attrs::Attention(Attention { sinks: true, ..how }), &[k, v, sinks])
    }
    /// Attention over pages of keys and values of many sequences; see the op `paged_attention` in docs/ops.md.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn paged_attention(self, at: Paged<'_>, sinks: Option<Tensor<'_>>, page: u32, how: Attention) -> Self {
        let mut rest = vec![at.keys, at.values, at.tables, at.sequences, at.positions];
        rest.extend(sinks);
        let how = Attention { sinks: sinks.is_some(), ..how };
        self.with(&op::PAGED_ATTENTION, Attrs::Pages { how, page }, &rest)
    }
    /// Products with `rows` rows of a weight `[.., k]` from each of `first` (u32 `[n, t]`) on; self is `[n, t, k]` or `[n, 1, k]`.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn expert_matmul(self, w: Tensor<'_>, first: Tensor<'_>, rows: usize) -> Self {
        self.with(&op::EXPERT_MATMUL, Attrs::Rows(rows.into()), &[w, first])
    }
    /// The gated delta rule over rows of sequences, queries `self` `[n, g, d]`; see the op `delta_rule` in docs/ops.md.
    pub fn delta_rule(self, at: Recurrence<'_>) -> Self {
        let rest = [at.keys, at.values, at.gates, at.states, at.slots, at.owners];
        self.with(&op::DELTA_RULE, Attrs::None, &rest)
    }
    /// This state with rows from `at` on replaced by `rows`, in place.
    pub fn append(self, rows: Tensor<'_>, at: impl Into<Dim>) -> Self {
        self.with(&op::APPEND, Attrs::Append { at: at.into() }, &[rows])
    }
    /// This state with row `i` of `rows` in place of its row `ids[i]` (u32 `[n]`, no number twice); nowhere where it has no such row.
    pub fn append_at(self, rows: Tensor<'_>, ids: Tensor<'_>) -> Self {
        self.with(&op::APPEND, Attrs::Append { at: Dim::new(0) }, &[rows, ids])
    }
    /// This state with `value` for its contents from now on; earlier ops have read the old ones.
    pub fn assign(self, value: Tensor<'_>) -> Self {
        self.with(&op::ASSIGN, Attrs::None, &[value])
    }
    /// The same elements in row-major order under another shape. One dimension may be -1: it is what the others leave.
    pub fn reshape(self, shape: impl Into<Shape>) -> Self {
        let shape = shape::inferred(&self.shape(), shape.into());
        self.with(&op::RESHAPE, Attrs::Shape(shape), &[])
    }
    /// Repeated along axes of one element, and along new leading axes, to this shape.
    pub fn broadcast(self, shape: impl Into<Shape>) -> Self {
        self.with(&op::BROADCAST, Attrs::Shape(shape.into()), &[])
    }
    /// Axes in another order: axis `i` of the result is axis `perm[i]`.
    pub fn transpose(self, perm: &[usize]) -> Self {
        self.with(&op::TRANSPOSE, Attrs::Perm(perm.to_vec()), &[])
    }
    /// `len` indices of an axis, from `start` on.
    pub fn slice(self, axis: usize, start: impl Into<Dim>, len: impl Into<Dim>) -> Self {
        self.with(&op::SLICE, Attrs::Slice { axis, start: start.into(), len: len.into(), step: 1 }, &[])
    }
    /// Copies of `value` before and after an axis.
    pub fn pad(self, axis: usize, before: usize, after: usize, value: f32) -> Self {
        self.with(&op::PAD, Attrs::Pad { axis, before, after, value }, &[])
    }
    /// The same numbers in another type; floats are cut to integers toward zero.
    pub fn cast(self, to: DType) -> Self {
        if self.dtype() == to {
            return self;
        }
        self.with(&op::CAST, Attrs::Cast(to), &[])
    }

    pub(super) fn builder(self) -> &'g GraphBuilder {
        self.builder
    }
    pub(super) fn with(self, def: &'static OpDef, attrs: Attrs, rest: &[Tensor<'_>]) -> Self {
        self.builder.with(&[&[self], rest].concat(), |graph, args| graph.apply(def, attrs, args))
    }
}

macro_rules! operators {
    ($($trait:ident $method:ident $def:ident),*) => { $(
        impl<'g> std::ops::$trait for Tensor<'g> {
            type Output = Tensor<'g>;
            fn $method(self, y: Tensor<'g>) -> Self::Output { self.with(&op::$def, Attrs::None, &[y]) }
        }
        impl<'g> std::ops::$trait<f32> for Tensor<'g> {
            type Output = Tensor<'g>;
            fn $method(self, y: f32) -> Self::Output { std::ops::$trait::$method(self, self.builder.constant(y)) }
        }
        impl<'g> std::ops::$trait<Tensor<'g>> for f32 {
            type Output = Tensor<'g>;
            fn $method(self, y: Tensor<'g>) -> Self::Output { std::ops::$trait::$method(y.builder.constant(self), y) }
        }
    )* };
}
operators!(Add add ADD, Sub sub SUB, Mul mul MUL, Div div DIV);

impl<'g> std::ops::Neg for Tensor<'g> {
    type Output = Tensor<'g>;
    fn neg(self) -> Self::Output {
        self.with(&op::NEG, Attrs::None, &[])
    }
}

impl std::fmt::Debug for Tensor<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.value {
            POISON => f.write_str("poisoned"),
            value => write!(f, "%{} {}", value.0, self.ty()),
        }
    }
}

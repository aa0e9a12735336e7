//! Windows that slide over spatial axes: convolutions and pooling. Composites: strided slices, and a product.

use super::build::{Build, Value};
use super::case::{f32s, normal, of};
use super::*;
use crate::base::{DType, Dim, Shape};

/// How a window goes over the spatial axes of `[n, channels, spatial…]`: one entry an axis.
///
/// ```
/// use warpweft::{DType, GraphBuilder, Shape, Window};
///
/// let g = GraphBuilder::new();
/// let x = g.input("image", DType::F32, [1, 3, 224, 224]);
/// let w = g.weight("patches", DType::F32, [64, 3, 16, 16]);
/// let patches = x.conv(w, None, Window::of(&[16, 16]).stride(&[16, 16]));
/// assert_eq!(patches.shape(), Shape::from([1, 64, 14, 14]));
/// assert_eq!(patches.max_pool(Window::of(&[2, 2]).stride(&[2, 2])).shape(), Shape::from([1, 64, 7, 7]));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct Window {
    /// Elements of the window.
    pub size: Vec<usize>,
    /// From one place of the window to the next; 1 where empty.
    pub stride: Vec<usize>,
    /// From one element of the window to the next; 1 where empty.
    pub dilation: Vec<usize>,
    /// Elements added before each axis; 0 where empty.
    pub before: Vec<usize>,
    /// Elements added after each axis; 0 where empty.
    pub after: Vec<usize>,
    /// Groups of channels that a convolution keeps apart; 0 is 1.
    pub groups: usize,
    /// Whether an average counts the elements that were added.
    pub count_padding: bool,
}

impl Window {
    /// A window of this size that goes by single steps, with nothing added.
    pub fn of(size: &[usize]) -> Window {
        Window { size: size.to_vec(), ..Window::default() }
    }
    /// The same with a stride for each axis.
    pub fn stride(self, stride: &[usize]) -> Window {
        Window { stride: stride.to_vec(), ..self }
    }
    /// The same with a dilation for each axis.
    pub fn dilation(self, dilation: &[usize]) -> Window {
        Window { dilation: dilation.to_vec(), ..self }
    }
    /// The same with elements added before and after each axis.
    pub fn pad(self, before: &[usize], after: &[usize]) -> Window {
        Window { before: before.to_vec(), after: after.to_vec(), ..self }
    }
    /// The same for groups of channels.
    pub fn groups(self, groups: usize) -> Window {
        Window { groups, ..self }
    }
    /// Counts added elements in an average.
    #[must_use]
    pub fn count_padding(self, count_padding: bool) -> Window {
        Window { count_padding, ..self }
    }

    fn strides(&self, axis: usize) -> usize {
        self.stride.get(axis).copied().unwrap_or(1)
    }
    fn dilations(&self, axis: usize) -> usize {
        self.dilation.get(axis).copied().unwrap_or(1)
    }
    fn pads(&self, axis: usize) -> (usize, usize) {
        (self.before.get(axis).copied().unwrap_or(0), self.after.get(axis).copied().unwrap_or(0))
    }
    fn many(&self) -> usize {
        self.groups.max(1)
    }
    /// Elements of a whole window.
    fn elements(&self) -> usize {
        self.size.iter().product()
    }
    /// Places of its elements, the last axis fastest.
    fn offsets(&self) -> Vec<Vec<usize>> {
        let grow = |all: Vec<Vec<usize>>, n: &usize| {
            all.iter().flat_map(|at| (0..*n).map(|i| [&at[..], &[i]].concat())).collect()
        };
        self.size.iter().fold(vec![vec![]], grow)
    }

    /// The lengths of the result's spatial axes.
    fn places(&self, op: &str, spatial: &[Dim]) -> Result<Vec<Dim>> {
        let rank = spatial.len();
        if self.size.len() != rank || rank == 0 {
            return rule::err(
                op,
                format!("the window {:?} has not one length for each of {rank} spatial axes", self.size),
            );
        }
        for (what, given) in
            [("stride", &self.stride), ("dilation", &self.dilation), ("before", &self.before), ("after", &self.after)]
        {
            if !given.is_empty() && given.len() != rank {
                return rule::err(op, format!("{what} {given:?} has not one entry for each of {rank} spatial axes"));
            }
        }
        if self.size.iter().chain(&self.stride).chain(&self.dilation).any(|n| *n == 0) {
            return rule::err(op, "sizes, strides and dilations are 1 or more");
        }
        let most = 1usize << 20;
        if self.size.iter().try_fold(1usize, |n, s| n.checked_mul(*s)).is_none_or(|n| n > most) {
            return rule::err(op, format!("the window {:?} has more than {most} elements", self.size));
        }
        let one = |axis: usize| {
            let (before, after) = self.pads(axis);
            let reach = Dim::from(self.dilations(axis)) * (self.size[axis] as i64 - 1) + Dim::new(1);
            let room = spatial[axis] + Dim::from(before) + Dim::from(after) - reach;
            let (stride, whole) = (self.strides(axis) as i64, spatial[axis]);
            let steps = match room.known() {
                Some(room) if room < 0 => {
                    return rule::err(
                        op,
                        format!(
                            "a window that reaches over {reach} does not fit into {whole} with {before} before and {after} after"
                        ),
                    );
                }
                Some(room) => Dim::new(room / stride),
                None if stride == 1 => room,
                None => return rule::err(op, format!("an axis of {whole} varies between steps: its stride must be 1")),
            };
            Ok(steps + Dim::new(1))
        };
        (0..rank).map(one).collect()
    }
}

impl std::fmt::Display for Window {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "window={:?}", self.size)?;
        let lists =
            [("stride", &self.stride), ("dilation", &self.dilation), ("before", &self.before), ("after", &self.after)];
        lists.iter().filter(|l| !l.1.is_empty()).try_for_each(|(name, list)| write!(f, " {name}={list:?}"))?;
        if self.groups > 1 { write!(f, " groups={}", self.groups) } else { Ok(()) }
    }
}

ops! {
    CONV = OpDef {
        name: "conv",
        doc: "A convolution (cross-correlation, as models have it) over any number of spatial axes: x [n, c, spatial…], weights [o, c / groups, window…] and, where given, \
              bias [o] make [n, o, places…]. With stride, dilation, zeros before and after, and groups. Written as a product with the slices that each element of \
              the window sees (im2col: Chellapilla et al., 2006); where each channel is its own group, as a sum of scaled slices.",
        rule: conv_rule,
        shard: |_, t, _| batch(t),
        cost: |_, t, o| o.shape.count() * (t[1].shape[1..].iter().filter_map(Dim::known).product::<i64>() * 2),
        body: Body::Composite { define: conv, fused: Fused::Parts },
        grad: Grad::Definition,
        within: Within { abs: 2e-5, rel: 2e-5 },
        cases: conv_cases,
        errors: || {
            let plain = |size: &[usize]| Attrs::Window(Box::new(Window::of(size)));
            vec![
                ErrorCase::new(vec![f32s([1, 3, 8]), f32s([4, 2, 3])], plain(&[3]), "weights are [4, 2, 3], they must be [o, 3 / 1, 3]"),
                ErrorCase::new(vec![f32s([1, 3, 2]), f32s([4, 3, 3])], plain(&[3]), "a window that reaches over 3 does not fit into 2 with 0 before and 0 after"),
                ErrorCase::new(vec![f32s([1, 3, 8]), f32s([4, 3, 3]), f32s([3])], plain(&[3]), "the bias is [3], it must be [4]"),
                ErrorCase::new(vec![f32s([3, 8]), f32s([4, 3, 3])], plain(&[3]), "x is [3, 8], it must be [n, channels, spatial…]"),
            ]
        },
    };
    MAX_POOL = OpDef {
        name: "max_pool",
        doc: "The largest element under a window that goes over the spatial axes of x [n, c, spatial…]. What is added before and after is −∞.",
        rule: |a, t| pool_rule("max_pool", a, t),
        shard: |_, t, _| channels(t),
        cost: |a, _, o| o.shape.count() * window_elements(a),
        body: Body::Composite { define: max_pool, fused: Fused::Parts },
        grad: Grad::Definition,
        within: Within::EXACT,
        cases: pool_cases,
        errors: || pool_errors("max_pool"),
    };
    AVG_POOL = OpDef {
        name: "avg_pool",
        doc: "The mean of the elements under a window that goes over the spatial axes of x [n, c, spatial…]. What is added before and after counts as zeros, or not at all.",
        rule: |a, t| pool_rule("avg_pool", a, t),
        shard: |_, t, _| channels(t),
        cost: |a, _, o| o.shape.count() * window_elements(a),
        body: Body::Composite { define: avg_pool, fused: Fused::Parts },
        grad: Grad::Definition,
        within: Within { abs: 1e-6, rel: 1e-5 },
        cases: pool_cases,
        errors: || pool_errors("avg_pool"),
    };
}

fn window_of<'a>(op: &str, attrs: &'a Attrs) -> Result<&'a Window> {
    match attrs {
        Attrs::Window(w) => Ok(w),
        other => rule::wrong_attrs(op, other),
    }
}
fn window_elements(attrs: &Attrs) -> i64 {
    window_of("pool", attrs).map_or(1, |w| w.elements() as i64)
}

/// Each sequence by itself.
fn batch(types: &[Type]) -> Vec<Strategy> {
    use crate::base::Placement::{Split, Whole};
    let mut args = vec![Whole; types.len()];
    args[0] = Split(0);
    if types[0].shape[0].is(1) { vec![] } else { vec![Strategy { args, out: Split(0) }] }
}
/// Each sequence and each channel by itself.
fn channels(types: &[Type]) -> Vec<Strategy> {
    use crate::base::Placement::Split;
    let axes = (0..2).filter(|a| !types[0].shape[*a].is(1));
    axes.map(|a| Strategy { args: vec![Split(a)], out: Split(a) }).collect()
}

fn spatial<'a>(op: &str, x: &'a Type) -> Result<&'a [Dim]> {
    rule::real(op, "x", x)?;
    match x.shape.rank() {
        0..3 => rule::err(op, format!("x is {}, it must be [n, channels, spatial…]", x.shape)),
        _ => Ok(&x.shape[2..]),
    }
}

fn conv_rule(attrs: &Attrs, types: &[Type]) -> Result<Type> {
    if types.len() != 3 {
        rule::arity("conv", types, 2)?;
    }
    let (window, x, w) = (window_of("conv", attrs)?, &types[0], &types[1]);
    let places = window.places("conv", spatial("conv", x)?)?;
    rule::real("conv", "the weight", w)?;
    let (c, groups) = (x.shape[1], window.many());
    let fits = w.shape.rank() == x.shape.rank()
        && (w.shape[1] * groups as i64) == c
        && w.shape[2..].iter().zip(&window.size).all(|(d, n)| d.is(*n as i64))
        && w.shape[0].known().is_some_and(|o| (o as usize).is_multiple_of(groups));
    if !fits {
        let size = window.size.iter().map(|n| format!(", {n}")).collect::<String>();
        return rule::err("conv", format!("weights are {}, they must be [o, {c} / {groups}{size}]", w.shape));
    }
    if let Some(bias) = types.get(2) {
        rule::real("conv", "the bias", bias)?;
        if bias.shape[..] != w.shape[..1] {
            return rule::err("conv", format!("the bias is {}, it must be [{}]", bias.shape, w.shape[0]));
        }
    }
    Ok(rule::float_result(Shape([&[x.shape[0], w.shape[0]], &places[..]].concat())))
}

fn pool_rule(op: &str, attrs: &Attrs, types: &[Type]) -> Result<Type> {
    rule::arity(op, types, 1)?;
    let (window, x) = (window_of(op, attrs)?, &types[0]);
    let places = window.places(op, spatial(op, x)?)?;
    Ok(rule::float_result(Shape([&x.shape[..2], &places[..]].concat())))
}

/// The spatial axes of x with `value` added before and after.
fn padded(b: &mut dyn Build, window: &Window, x: Value, value: f32) -> Result<Value> {
    let mut x = x;
    if b.ty(x).dtype.is_narrow() {
        x = b.apply(&CAST, Attrs::Cast(DType::F32), &[x])?;
    }
    for i in 0..window.size.len() {
        let (before, after) = window.pads(i);
        if before + after > 0 {
            x = b.apply(&PAD, Attrs::Pad { axis: i + 2, before, after, value }, &[x])?;
        }
    }
    Ok(x)
}

/// What one element of the window sees at all its places.
fn seen(b: &mut dyn Build, window: &Window, x: Value, at: &[usize], places: &[Dim]) -> Result<Value> {
    let mut x = x;
    for (i, (at, len)) in at.iter().zip(places).enumerate() {
        let start = Dim::from(at * window.dilations(i));
        let step = window.strides(i) as u32;
        x = b.apply(&SLICE, Attrs::Slice { axis: i + 2, start, len: *len, step }, &[x])?;
    }
    Ok(x)
}

/// `[n, c, elements of the window, places]`: a view where windows lie side by side, else slices one after another.
fn patches(b: &mut dyn Build, window: &Window, x: Value, places: &[Dim]) -> Result<Value> {
    let shape = b.shape(x);
    let rank = window.size.len();
    let all = crate::base::Expr::product(places).as_dim();
    let Some(all) = all else { return rule::err("conv", "two spatial axes vary between steps") };
    let side_by_side = (0..rank).all(|i| window.strides(i) == window.size[i] && window.dilations(i) == 1);
    if side_by_side {
        let mut x = x;
        let mut apart = shape[..2].to_vec();
        for (i, place) in places.iter().enumerate() {
            x = b.slice(x, i + 2, 0, *place * window.size[i] as i64)?;
            apart.extend([*place, Dim::from(window.size[i])]);
        }
        let x = b.reshape(x, apart)?;
        let perm: Vec<usize> =
            [0, 1].into_iter().chain((0..rank).map(|i| 3 + 2 * i)).chain((0..rank).map(|i| 2 + 2 * i)).collect();
        let x = b.transpose(x, &perm)?;
        return b.reshape(x, vec![shape[0], shape[1], Dim::from(window.elements()), all]);
    }
    let mut slices = vec![];
    for at in window.offsets() {
        let slice = seen(b, window, x, &at, places)?;
        slices.push(b.reshape(slice, vec![shape[0], shape[1], Dim::new(1), all])?);
    }
    if slices.len() == 1 { Ok(slices[0]) } else { b.concat(&slices, 2) }
}

fn conv(b: &mut dyn Build, attrs: &Attrs, args: &[Value]) -> Result<Value> {
    let window = window_of("conv", attrs)?.clone();
    let (xs, ws) = (b.shape(args[0]), b.shape(args[1]));
    let places = window.places("conv", &xs[2..])?;
    let (n, c, o, groups) = (xs[0], xs[1], ws[0], window.many() as i64);
    let result: Vec<Dim> = [&[n, o], &places[..]].concat();
    let x = padded(b, &window, args[0], 0.0)?;
    let elements = window.elements();
    let ones = |rank: usize| vec![Dim::new(1); rank];
    let mut y = if c.is(groups) && o == c {
        // One channel each: scaled slices.
        let w = b.reshape(args[1], vec![o, Dim::from(elements)])?;
        let mut sum: Option<Value> = None;
        for (i, at) in window.offsets().into_iter().enumerate() {
            let slice = seen(b, &window, x, &at, &places)?;
            let scale = b.slice(w, 1, i as i64, 1)?;
            let scale = b.reshape(scale, [vec![o], ones(places.len())].concat())?;
            let part = b.binary(&MUL, slice, scale)?;
            sum = Some(match sum {
                Some(sum) => b.binary(&ADD, sum, part)?,
                None => part,
            });
        }
        sum.ok_or_else(|| crate::base::Error::op("conv", "", "the window is empty"))?
    } else {
        let inner = ws[1] * elements as i64;
        let Some(each) = o.div_exact(groups) else { return rule::err("conv", "groups do not divide the channels") };
        let p = patches(b, &window, x, &places)?;
        let all = b.shape(p)[3];
        let p = b.reshape(p, vec![n, Dim::new(groups), inner, all])?;
        let w = b.reshape(args[1], vec![Dim::new(1), Dim::new(groups), each, inner])?;
        let y = b.apply(&MATMUL, Attrs::Matmul { ta: false, tb: false }, &[w, p])?;
        b.reshape(y, result)?
    };
    if let Some(bias) = args.get(2) {
        let bias = b.reshape(*bias, [vec![o], ones(places.len())].concat())?;
        y = b.binary(&ADD, y, bias)?;
    }
    Ok(y)
}

/// All slices that the window sees, put together.
fn pooled(b: &mut dyn Build, window: &Window, x: Value, places: &[Dim], with: &'static OpDef) -> Result<Value> {
    let mut slices = vec![];
    for at in window.offsets() {
        slices.push(seen(b, window, x, &at, places)?);
    }
    // Pairs first: sums of many stay exact.
    while slices.len() > 1 {
        let mut next = vec![];
        for pair in slices.chunks(2) {
            next.push(if pair.len() == 2 { b.binary(with, pair[0], pair[1])? } else { pair[0] });
        }
        slices = next;
    }
    slices.first().copied().ok_or_else(|| crate::base::Error::op("pool", "", "the window is empty"))
}

fn max_pool(b: &mut dyn Build, attrs: &Attrs, args: &[Value]) -> Result<Value> {
    let window = window_of("max_pool", attrs)?.clone();
    let places = window.places("max_pool", &b.shape(args[0])[2..])?;
    let x = padded(b, &window, args[0], f32::NEG_INFINITY)?;
    pooled(b, &window, x, &places, &MAXIMUM)
}

fn avg_pool(b: &mut dyn Build, attrs: &Attrs, args: &[Value]) -> Result<Value> {
    let window = window_of("avg_pool", attrs)?.clone();
    let shape = b.shape(args[0]);
    let places = window.places("avg_pool", &shape[2..])?;
    let x = padded(b, &window, args[0], 0.0)?;
    let sum = pooled(b, &window, x, &places, &ADD)?;
    let added = (0..window.size.len()).any(|i| window.pads(i) != (0, 0));
    if window.count_padding || !added {
        return b.mul_const(sum, 1.0 / window.elements() as f32);
    }
    let one = b.constant(1.0);
    let ones = b.broadcast(one, Shape([&[Dim::new(1); 2], &shape[2..]].concat()))?;
    let ones = padded(b, &window, ones, 0.0)?;
    let counts = pooled(b, &window, ones, &places, &ADD)?;
    b.binary(&DIV, sum, counts)
}

fn conv_cases() -> Vec<Case> {
    let case = |operands: Vec<(Type, Fill)>, window: Window| Case::new(operands, Attrs::Window(Box::new(window)));
    vec![
        case(vec![normal([2, 3, 17]), normal([5, 3, 4])], Window::of(&[4])),
        case(vec![normal([1, 4, 9]), normal([6, 2, 3]), normal([6])], Window::of(&[3]).groups(2).pad(&[2], &[0])),
        case(vec![normal([2, 6, 20]), normal([6, 1, 4]), normal([6])], Window::of(&[4]).groups(6).pad(&[3], &[0])),
        case(
            vec![normal([2, 3, 8, 7]), normal([4, 3, 3, 2]), normal([4])],
            Window::of(&[3, 2]).stride(&[2, 1]).dilation(&[1, 2]).pad(&[1, 0], &[1, 1]),
        ),
        case(vec![normal([1, 3, 8, 12]), normal([5, 3, 4, 4])], Window::of(&[4, 4]).stride(&[4, 4])),
        case(vec![normal([1, 2, 5, 4, 3]), normal([3, 2, 2, 2, 2])], Window::of(&[2, 2, 2])),
        case(vec![normal([2, 4, 6]), normal([3, 4, 1])], Window::of(&[1])),
        case(vec![(of(DType::F16, [1, 2, 10]), Fill::Normal), normal([3, 2, 3])], Window::of(&[3])),
    ]
}

fn pool_cases() -> Vec<Case> {
    let case = |x: Type, window: Window| Case::new(vec![(x, Fill::Normal)], Attrs::Window(Box::new(window)));
    vec![
        case(f32s([2, 3, 17]), Window::of(&[3])),
        case(f32s([1, 3, 9, 8]), Window::of(&[3, 2]).stride(&[2, 2]).pad(&[1, 0], &[1, 1])),
        case(f32s([2, 2, 8, 8]), Window { count_padding: true, ..Window::of(&[2, 3]).pad(&[1, 1], &[0, 1]) }),
        case(f32s([1, 2, 10]), Window::of(&[3]).dilation(&[2]).stride(&[2])),
        case(f32s([1, 1, 4, 4, 4]), Window::of(&[2, 2, 2]).stride(&[2, 2, 2])),
        case(of(DType::F16, [2, 2, 6]), Window::of(&[2])),
    ]
}

fn pool_errors(_: &str) -> Vec<ErrorCase> {
    let window = |w: Window| Attrs::Window(Box::new(w));
    vec![
        ErrorCase::new(vec![f32s([3, 8])], window(Window::of(&[3])), "x is [3, 8], it must be [n, channels, spatial…]"),
        ErrorCase::new(
            vec![f32s([1, 3, 8])],
            window(Window::of(&[3, 3])),
            "the window [3, 3] has not one length for each of 1 spatial axes",
        ),
        ErrorCase::new(
            vec![f32s([1, 3, 8])],
            window(Window::of(&[3]).stride(&[0])),
            "sizes, strides and dilations are 1 or more",
        ),
    ]
}

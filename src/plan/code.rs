//! WGSL for fused expressions: each node is evaluated at coordinates, views only change the coordinates.

use super::fuse::{Fusion, resolve};
use super::{BufferId, Param};
use crate::base::{DType, Dim, Expr, Layout, Shape};
use crate::graph::{Graph, Source};
use crate::kernel::FUNCTIONS;
use crate::op::{Attrs, Body, Primitive, Value};
use std::collections::HashMap;
use std::fmt::Write;

/// Where in a value's shape an element is: names or expressions of WGSL, all u32.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Coord {
    /// Row-major index.
    Flat(String),
    /// One index an axis.
    Axes(Vec<String>),
}

/// A buffer that the text reads or writes, with the element type of its binding.
#[derive(Debug, Clone, PartialEq)]
pub struct Bound {
    pub name: String,
    pub buffer: BufferId,
    /// The WGSL type of an element.
    pub element: &'static str,
    pub write: bool,
    /// Bytes from the buffer's start and in all, where not the whole.
    pub range: Option<(u64, u64)>,
    pub space: Space,
}

/// Where a binding lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    Storage,
    /// In uniform memory, with so many elements.
    Uniform(u32),
    /// In a texture's texels.
    Texels,
}

#[derive(Clone)]
/// Collects text, the buffers it reads and the parameters it needs.
pub struct Code<'a> {
    graph: &'a Graph,
    fusion: &'a Fusion,
    /// Where stored values lie.
    places: &'a HashMap<Value, BufferId>,
    pub bound: Vec<Bound>,
    pub params: Vec<(String, Param)>,
    text: String,
    names: HashMap<(Value, Coord), String>,
    axes: HashMap<(String, Shape), Vec<String>>,
    next: usize,
    /// Values that are already in variables: the accumulators of an epilogue.
    given: Vec<(Value, String)>,
    /// The value being computed: stored, but not yet.
    root: Option<Value>,
    /// Elements read, each view once.
    reads: Vec<(Value, Expr)>,
    /// Definitions of the functions that the text calls.
    pub helpers: String,
}

/// The WGSL type in which a value of this type is computed.
pub fn scalar_type(dtype: DType) -> &'static str {
    match dtype {
        DType::I32 => "i32",
        DType::U32 | DType::Bool => "u32",
        _ => "f32",
    }
}

/// The element type of a binding: f16 travels as words of two.
pub fn storage_type(dtype: DType) -> &'static str {
    if dtype.is_narrow() { "u32" } else { scalar_type(dtype) }
}

impl<'a> Code<'a> {
    pub fn new(graph: &'a Graph, fusion: &'a Fusion, places: &'a HashMap<Value, BufferId>) -> Self {
        Code {
            graph,
            fusion,
            places,
            bound: vec![],
            params: vec![],
            text: String::new(),
            names: HashMap::new(),
            axes: HashMap::new(),
            next: 0,
            given: vec![],
            root: None,
            reads: vec![],
            helpers: String::new(),
        }
    }

    /// A function `name(args) -> type` that returns `v` at `coord`.
    pub fn function(&mut self, name: &str, args: &str, v: Value, coord: &Coord) -> String {
        self.root = Some(v);
        let text = self.operand_function(name, args, v, coord);
        self.root = None;
        text
    }

    /// Like [`Code::function`] for a value that may already be stored: then it is read.
    pub fn operand_function(&mut self, name: &str, args: &str, v: Value, coord: &Coord) -> String {
        let outer = std::mem::take(&mut self.text);
        self.names.clear();
        self.axes.clear();
        let result = self.value(v, coord);
        let ty = scalar_type(self.graph.node(v).ty.dtype);
        let body = std::mem::replace(&mut self.text, outer);
        format!("fn {name}({args}) -> {ty} {{\n{body}    return {result};\n}}\n")
    }

    /// Like [`Code::function`], with `given` already in the variable `acc`.
    pub fn epilogue(&mut self, name: &str, args: &str, v: Value, given: Value, coord: &Coord) -> String {
        self.epilogue_of((name, args), v, &[(given, "acc")], coord)
    }

    /// The same with several values in variables.
    pub fn epilogue_of(
        &mut self,
        (name, args): (&str, &str),
        v: Value,
        given: &[(Value, &str)],
        coord: &Coord,
    ) -> String {
        self.given = given.iter().map(|(v, name)| (*v, name.to_string())).collect();
        let text = self.function(name, args, v, coord);
        self.given.clear();
        text
    }

    /// The name of the binding through which `buffer` is read or written.
    pub fn bind(&mut self, buffer: BufferId, dtype: DType, write: bool) -> String {
        if let Some(b) = self.bound.iter_mut().find(|b| b.buffer == buffer && b.element == storage_type(dtype)) {
            b.write |= write;
            return b.name.clone();
        }
        let name = format!("x{}", self.bound.len());
        self.bound.push(Bound {
            name: name.clone(),
            buffer,
            element: storage_type(dtype),
            write,
            range: None,
            space: Space::Storage,
        });
        name
    }

    /// An expression for a number that may depend on the step: a literal, or a field of the parameter block.
    pub fn param(&mut self, e: &Expr) -> String {
        if let Some(n) = e.known() {
            return format!("{}u", n.max(0));
        }
        self.field(Param::U(e.clone()))
    }

    /// The field of the parameter block that holds this number.
    fn field(&mut self, param: Param) -> String {
        if let Some((name, _)) = self.params.iter().find(|(_, known)| *known == param) {
            return format!("p.{name}");
        }
        let name = format!("u{}", self.params.len());
        self.params.push((name.clone(), param));
        format!("p.{name}")
    }

    /// `name(o, r)`: the element of `v` at output `o` and step `r` of a reduction, each row-major over its own axes.
    pub fn reduce_load(
        &mut self,
        name: &str,
        v: Value,
        shape: &Shape,
        kept: (&[usize], &Shape),
        reduced: (&[usize], &Shape),
    ) -> String {
        let outer = std::mem::take(&mut self.text);
        self.names.clear();
        self.axes.clear();
        let mut coord = vec!["0u".to_string(); shape.rank()];
        for ((axes, of), var) in [kept, reduced].into_iter().zip(["o", "r"]) {
            let at = self.axes(&Coord::Flat(var.into()), of);
            axes.iter().zip(at).for_each(|(&axis, index)| coord[axis] = index);
        }
        let mut result = self.value(v, &Coord::Axes(coord));
        if scalar_type(self.graph.node(v).ty.dtype) != "f32" {
            result = format!("f32({result})");
        }
        let body = std::mem::replace(&mut self.text, outer);
        format!("fn {name}(o: u32, r: u32) -> f32 {{\n{body}    return {result};\n}}\n")
    }

    /// A function from the row-major index over `shape` to an element offset under `layout`.
    pub fn offset_function(&mut self, name: &str, shape: &Shape, layout: &Layout) -> String {
        let outer = std::mem::take(&mut self.text);
        self.axes.clear();
        let axes = self.axes(&Coord::Flat("z".into()), shape);
        let index = self.index(&axes, layout, shape);
        let body = std::mem::replace(&mut self.text, outer);
        format!("fn {name}(z: u32) -> u32 {{\n{body}    return {index};\n}}\n")
    }

    fn var(&mut self, text: &str) -> String {
        self.next += 1;
        let name = format!("v{}", self.next);
        let _ = writeln!(self.text, "    let {name} = {text};");
        name
    }

    /// One index an axis.
    fn axes(&mut self, coord: &Coord, shape: &Shape) -> Vec<String> {
        let flat = match coord {
            Coord::Axes(axes) => return axes.clone(),
            Coord::Flat(flat) => flat,
        };
        if let Some(known) = self.axes.get(&(flat.clone(), shape.clone())) {
            return known.clone();
        }
        let mut out = vec!["0u".to_string(); shape.rank()];
        let mut rest = flat.clone();
        let live: Vec<usize> = (0..shape.rank()).filter(|&i| !shape[i].is(1)).collect();
        for (k, &i) in live.iter().enumerate().rev() {
            if k == 0 {
                out[i] = rest.clone();
            } else {
                // An empty axis is never indexed, but its text must be valid.
                let n = if shape[i].is(0) { "1u".into() } else { self.param(&Expr::from(shape[i])) };
                out[i] = self.var(&format!("{rest} % {n}"));
                rest = self.var(&format!("{rest} / {n}"));
            }
        }
        self.axes.insert((flat.clone(), shape.clone()), out.clone());
        out
    }

    /// The row-major index.
    fn flat(&mut self, coord: &Coord, shape: &Shape) -> String {
        match coord {
            Coord::Flat(flat) => flat.clone(),
            Coord::Axes(axes) => self.index(axes, &Layout::contiguous(shape), shape),
        }
    }

    /// `offset + Σ axis · stride`.
    fn index(&mut self, axes: &[String], layout: &Layout, shape: &Shape) -> String {
        let mut terms = vec![];
        if !layout.offset.is(0) {
            terms.push(self.param(&layout.offset));
        }
        for (i, axis) in axes.iter().enumerate() {
            if layout.strides[i].is(0) || shape[i].is(1) || axis == "0u" {
                continue;
            }
            let stride = self.param(&layout.strides[i]);
            terms.push(if stride == "1u" { axis.clone() } else { format!("{axis} * {stride}") });
        }
        if terms.is_empty() { "0u".into() } else { terms.join(" + ") }
    }

    fn number(&mut self, x: f32) -> String {
        match x.is_finite() {
            // The shortest digits of the largest number name one that is larger by a little, which Tint refuses.
            true if x.abs() == f32::MAX => format!("f32({:e})", x as f64),
            true => format!("f32({x:e})"),
            // WGSL refuses constants that are not finite; what goes through a variable is no constant.
            false => format!("bitcast<f32>({})", self.var(&format!("{:#x}u", x.to_bits()))),
        }
    }

    /// An expression for `v` at `coord`.
    pub fn value(&mut self, v: Value, coord: &Coord) -> String {
        if let Some((_, name)) = self.given.iter().find(|g| g.0 == v) {
            return name.clone();
        }
        let key = (v, coord.clone());
        if let Some(name) = self.names.get(&key) {
            return name.clone();
        }
        let graph = self.graph;
        let node = graph.node(v);
        let text = if self.is_stored(v) {
            self.load(v, &Layout::contiguous(&node.ty.shape), &node.ty.shape, coord)
        } else {
            match &node.source {
                Source::Const(x) => return self.number(*x),
                Source::Op { def, attrs, args } => match &def.body {
                    Body::View => return self.view(v, attrs, args[0], coord),
                    Body::Scalar(s) => self.scalar(v, s.wgsl, args, coord),
                    Body::Primitive(Primitive::Cast) => self.cast(v, args[0], coord),
                    Body::Primitive(Primitive::Iota) => self.iota(attrs, coord),
                    Body::Primitive(Primitive::Concat) => self.concat(v, attrs, args, coord),
                    Body::Primitive(Primitive::Pad) => self.pad(v, attrs, args[0], coord),
                    _ => unreachable!("{} is always stored", def.name),
                },
                _ => unreachable!("sources are always stored"),
            }
        };
        let name = self.var(&text);
        self.names.insert(key, name.clone());
        name
    }

    fn is_stored(&self, v: Value) -> bool {
        self.fusion.stored[v.0 as usize] && self.root != Some(v)
    }

    /// How many values the text loads so far.
    pub fn reads(&self) -> usize {
        self.reads.len()
    }
    /// Whether the text loads from this buffer, values before the first `from` passed over.
    pub fn read_since(&self, from: usize, buffer: BufferId) -> bool {
        self.reads[from..].iter().any(|(v, _)| self.places[v] == buffer)
    }

    /// Bytes that the text reads, each view counted once.
    pub fn read_bytes(&self) -> Expr {
        self.reads.iter().fold(Expr::new(0), |sum, (_, e)| sum + e.clone())
    }

    fn load(&mut self, base: Value, layout: &Layout, shape: &Shape, coord: &Coord) -> String {
        let dtype = self.graph.node(base).ty.dtype;
        let x = self.bind(self.places[&base], dtype, false);
        if !self.reads.iter().any(|(v, _)| *v == base) {
            self.reads.push((base, shape.count() * dtype.block_bytes() as i64));
        }
        let index = match coord {
            Coord::Flat(flat) if layout.is_contiguous(shape) => {
                if layout.offset.is(0) {
                    flat.clone()
                } else {
                    format!("{} + {flat}", self.param(&layout.offset))
                }
            }
            _ => {
                let axes = self.axes(coord, shape);
                self.index(&axes, layout, shape)
            }
        };
        match dtype.plain() {
            Some(plain) if dtype.is_narrow() => {
                let at = self.var(&index);
                let word = self.var(&format!("{x}[{at} / {}u]", 4 / dtype.block_bytes()));
                (plain.pick)(&word, &at)
            }
            _ => format!("{x}[{index}]"),
        }
    }

    /// A chain of views: straight to memory where strides can say it, else coordinate by coordinate.
    fn view(&mut self, v: Value, attrs: &Attrs, arg: Value, coord: &Coord) -> String {
        let graph = self.graph;
        let shape = graph.node(v).ty.shape.clone();
        let from = graph.node(arg).ty.shape.clone();
        let resolved = match self.root == Some(v) {
            // A stored view that is being made looks through its own operand.
            true => None,
            false => resolve(graph, v, &self.fusion.stored),
        };
        if let Some((base, layout)) = resolved
            && self.is_stored(base)
        {
            let key = (v, coord.clone());
            if let Some(name) = self.names.get(&key) {
                return name.clone();
            }
            let text = self.load(base, &layout, &shape, coord);
            let name = self.var(&text);
            self.names.insert(key, name.clone());
            return name;
        }
        let inner = match attrs {
            Attrs::Perm(perm) => {
                let axes = self.axes(coord, &shape);
                let mut inner = axes.clone();
                perm.iter().zip(&axes).for_each(|(&p, axis)| inner[p] = axis.clone());
                Coord::Axes(inner)
            }
            Attrs::Slice { axis, start, step, .. } => {
                let mut axes = self.axes(coord, &shape);
                if *step != 1 {
                    axes[*axis] = format!("({} * {step}u)", axes[*axis]);
                }
                if !start.is(0) {
                    axes[*axis] = format!("({} + {})", self.param(&Expr::from(*start)), axes[*axis]);
                }
                Coord::Axes(axes)
            }
            _ if graph.node(v).kind() == "broadcast" => self.aligned(coord, &shape, &from),
            _ => Coord::Flat(self.flat(coord, &shape)),
        };
        let inner = match inner {
            Coord::Flat(text) if text.contains(' ') => Coord::Flat(self.var(&text)),
            other => other,
        };
        self.value(arg, &inner)
    }

    /// Coordinates of a broadcast operand.
    fn aligned(&mut self, coord: &Coord, shape: &Shape, operand: &Shape) -> Coord {
        if shape == operand {
            return coord.clone();
        }
        let axes = self.axes(coord, shape);
        let lead = shape.rank() - operand.rank();
        Coord::Axes(
            (0..operand.rank()).map(|i| if operand[i].is(1) { "0u".into() } else { axes[i + lead].clone() }).collect(),
        )
    }

    fn scalar(&mut self, v: Value, wgsl: &str, args: &[Value], coord: &Coord) -> String {
        let shape = self.graph.node(v).ty.shape.clone();
        let names: Vec<String> = args
            .iter()
            .map(|a| {
                let from = self.graph.node(*a).ty.shape.clone();
                let at = self.aligned(coord, &shape, &from);
                self.value(*a, &at)
            })
            .collect();
        for (name, definition) in FUNCTIONS.iter().filter(|(name, _)| wgsl.contains(name)) {
            if !self.helpers.contains(name) {
                self.helpers.push_str(definition);
            }
        }
        substitute(wgsl, &names)
    }

    fn cast(&mut self, v: Value, arg: Value, coord: &Coord) -> String {
        let x = self.value(arg, coord);
        let (from, to) = (self.graph.node(arg).ty.dtype, self.graph.node(v).ty.dtype);
        match to.store() {
            // Rounded to what the type can hold, so that a fused cast is the cast.
            Some(store) if from == to || from == DType::F32 || from.is_narrow() => {
                let x = self.var(&x);
                (store.round)(&x)
            }
            Some(store) => {
                let x = self.var(&format!("f32({x})"));
                (store.round)(&x)
            }
            None if to == DType::Bool => format!("select(0u, 1u, {x} != {}(0))", scalar_type(from)),
            None => format!("{}({x})", scalar_type(to)),
        }
    }

    fn iota(&mut self, attrs: &Attrs, coord: &Coord) -> String {
        let Attrs::Iota { shape, axis, start, dtype } = attrs else { unreachable!("iota has its attributes") };
        let axes = self.axes(coord, shape);
        // The start may be negative: it travels as the bits of an i32.
        let start = match start.known() {
            Some(n) => format!("i32({n})"),
            None => format!("bitcast<i32>({})", self.signed(start)),
        };
        format!("{}({start} + i32({}))", scalar_type(*dtype), axes[*axis])
    }

    fn signed(&mut self, d: &Dim) -> String {
        self.field(Param::I(Expr::from(*d)))
    }

    /// Runs `write` inside a block: names made there are not known after it.
    fn block(&mut self, head: &str, write: impl FnOnce(&mut Self) -> String, target: &str) {
        let (names, axes) = (self.names.clone(), self.axes.clone());
        let _ = writeln!(self.text, "    {head} {{");
        let result = write(self);
        let _ = writeln!(self.text, "    {target} = {result};\n    }}");
        (self.names, self.axes) = (names, axes);
    }

    fn concat(&mut self, v: Value, attrs: &Attrs, args: &[Value], coord: &Coord) -> String {
        let Attrs::Axis(axis) = *attrs else { unreachable!("concat has an axis") };
        let ty = self.graph.node(v).ty.clone();
        let at = self.axes(coord, &ty.shape);
        self.next += 1;
        let target = format!("c{}", self.next);
        let _ = writeln!(self.text, "    var {target}: {};", scalar_type(ty.dtype));
        let mut start = Dim::new(0);
        for (i, a) in args.iter().enumerate() {
            let len = self.graph.node(*a).ty.shape[axis];
            let end = self.param(&Expr::from(start + len));
            let head = match (i, i + 1 == args.len()) {
                (0, true) => "if (true)".to_string(),
                (0, false) => format!("if ({} < {end})", at[axis]),
                (_, true) => "else".to_string(),
                _ => format!("else if ({} < {end})", at[axis]),
            };
            let mut inner = at.clone();
            if !start.is(0) {
                inner[axis] = format!("({} - {})", at[axis], self.param(&Expr::from(start)));
            }
            self.block(&head, |code| code.value(*a, &Coord::Axes(inner)), &target);
            start = start + len;
        }
        target
    }

    fn pad(&mut self, v: Value, attrs: &Attrs, arg: Value, coord: &Coord) -> String {
        let Attrs::Pad { axis, before, value, .. } = *attrs else { unreachable!("pad has its attributes") };
        let ty = self.graph.node(v).ty.clone();
        let at = self.axes(coord, &ty.shape);
        self.next += 1;
        let target = format!("c{}", self.next);
        let fill = if ty.dtype.is_float() { self.number(value) } else { format!("{}({value})", scalar_type(ty.dtype)) };
        let _ = writeln!(self.text, "    var {target} = {fill};");
        let len = self.graph.node(arg).ty.shape[axis];
        let end = self.param(&Expr::from(len + Dim::from(before)));
        let mut inner = at.clone();
        inner[axis] = format!("({} - {before}u)", at[axis]);
        self.block(
            &format!("if ({0} >= {before}u && {0} < {end})", at[axis]),
            |code| code.value(arg, &Coord::Axes(inner)),
            &target,
        );
        target
    }
}

/// `x`, `y`, `z` as whole words replaced by names.
fn substitute(wgsl: &str, names: &[String]) -> String {
    let mut out = String::new();
    let mut word = String::new();
    let flush = |word: &mut String, out: &mut String| {
        let at = ["x", "y", "z"].iter().position(|w| w == word);
        match at.and_then(|i| names.get(i)) {
            Some(name) => out.push_str(name),
            None => out.push_str(word),
        }
        word.clear();
    };
    for c in wgsl.chars() {
        if c.is_alphanumeric() || c == '_' || (c == '.' && word.starts_with(|c: char| c.is_ascii_digit())) {
            word.push(c);
        } else {
            flush(&mut word, &mut out);
            out.push(c);
        }
    }
    flush(&mut word, &mut out);
    format!("({out})")
}

#[cfg(test)]
mod tests {
    use super::substitute;

    #[test]
    fn only_whole_words_are_operands() {
        let names = ["v1".to_string(), "v2".to_string()];
        assert_eq!(substitute("max(x, y) + exp(x)", &names), "(max(v1, v2) + exp(v1))");
    }
}

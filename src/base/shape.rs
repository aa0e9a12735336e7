//! Shapes and types.

use super::{Bindings, DType, Dim, Expr, Result};
use std::fmt;
use std::ops::Deref;

/// Dimensions, outermost first. A scalar has none.
///
/// ```
/// use warpweft::Shape;
///
/// let shape = Shape::from([2, 3]);
/// assert_eq!((shape.rank(), shape.known()), (2, Some(vec![2, 3])));
/// assert_eq!(shape.broadcast(&Shape::from([4, 1, 3])), Some(Shape::from([4, 2, 3])));
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Shape(pub Vec<Dim>);

impl Shape {
    /// From numbers, variables or dimensions.
    pub fn new<D: Into<Dim> + Copy>(dims: &[D]) -> Self {
        Shape(dims.iter().map(|d| (*d).into()).collect())
    }
    /// How many axes there are.
    pub fn rank(&self) -> usize {
        self.0.len()
    }
    /// How many elements there are.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn count(&self) -> Expr {
        Expr::product(&self.0)
    }
    /// Every dim as a number, where no variable is left.
    pub fn known(&self) -> Option<Vec<usize>> {
        self.0.iter().map(|d| d.known().map(|n| n as usize)).collect()
    }
    /// Every dimension under the bindings of a step.
    pub fn eval(&self, bindings: &Bindings) -> Result<Vec<usize>> {
        self.0.iter().map(|d| d.eval(bindings).map(|n| n as usize)).collect()
    }
    /// Row-major strides in elements.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn strides(&self) -> Vec<Expr> {
        let mut strides = vec![Expr::new(1); self.rank()];
        for i in (1..self.rank()).rev() {
            strides[i - 1] = strides[i].clone() * Expr::from(self.0[i]);
        }
        strides
    }
    /// The numpy broadcast of two shapes, or `None`.
    pub fn broadcast(&self, other: &Shape) -> Option<Shape> {
        let rank = self.rank().max(other.rank());
        let at = |s: &Shape, i: usize| if i + s.rank() < rank { Dim::new(1) } else { s.0[i + s.rank() - rank] };
        let dims = (0..rank).map(|i| match (at(self, i), at(other, i)) {
            (a, b) if a == b => Some(a),
            (a, b) if a.is(1) => Some(b),
            (a, b) if b.is(1) => Some(a),
            _ => None,
        });
        dims.collect::<Option<Vec<_>>>().map(Shape)
    }
}

impl Deref for Shape {
    type Target = [Dim];
    fn deref(&self) -> &[Dim] {
        &self.0
    }
}
impl<D: Into<Dim> + Copy, const N: usize> From<[D; N]> for Shape {
    fn from(dims: [D; N]) -> Self {
        Shape::new(&dims)
    }
}
impl<D: Into<Dim> + Copy> From<&[D]> for Shape {
    fn from(dims: &[D]) -> Self {
        Shape::new(dims)
    }
}
impl From<Vec<Dim>> for Shape {
    fn from(dims: Vec<Dim>) -> Self {
        Shape(dims)
    }
}
impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<String> = self.0.iter().map(Dim::to_string).collect();
        f.pad(&format!("[{}]", dims.join(", ")))
    }
}
impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a value is: its element type and shape.
///
/// ```
/// use warpweft::{DType, Type, Var};
///
/// let ty = Type::new(DType::F32, [Var::new("seq", 256).into(), warpweft::Dim::new(64)]);
/// assert_eq!(ty.to_string(), "f32[seq, 64]");
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Type {
    /// The type of its elements.
    pub dtype: DType,
    /// Its dimensions.
    pub shape: Shape,
}

impl Type {
    /// Elements of a type under a shape.
    pub fn new(dtype: DType, shape: impl Into<Shape>) -> Self {
        Type { dtype, shape: shape.into() }
    }
    /// f32 elements under a shape.
    pub fn f32(shape: impl Into<Shape>) -> Self {
        Type::new(DType::F32, shape)
    }
}
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}{}", self.dtype, self.shape))
    }
}

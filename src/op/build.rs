//! How a composite writes its definition, without knowing of graphs.

use super::*;
use crate::base::{DType, Dim, Shape};

/// A value under construction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value(pub u32);

/// Something that ops can be added to: a graph.
pub trait Build {
    fn apply(&mut self, def: &'static OpDef, attrs: Attrs, args: &[Value]) -> Result<Value>;
    fn ty(&self, v: Value) -> Type;
    /// A scalar f32 constant.
    fn constant(&mut self, x: f32) -> Value;
}

/// Short forms for definitions.
impl dyn Build + '_ {
    pub fn shape(&self, v: Value) -> Shape {
        self.ty(v).shape
    }
    pub fn rank(&self, v: Value) -> usize {
        self.shape(v).rank()
    }
    pub fn unary(&mut self, def: &'static OpDef, x: Value) -> Result<Value> {
        self.apply(def, Attrs::None, &[x])
    }
    pub fn binary(&mut self, def: &'static OpDef, x: Value, y: Value) -> Result<Value> {
        self.apply(def, Attrs::None, &[x, y])
    }
    pub fn add_const(&mut self, x: Value, c: f32) -> Result<Value> {
        let c = self.constant(c);
        self.binary(&ADD, x, c)
    }
    pub fn mul_const(&mut self, x: Value, c: f32) -> Result<Value> {
        let c = self.constant(c);
        self.binary(&MUL, x, c)
    }
    /// Reduces the last axis and keeps it as 1.
    pub fn reduce_last(&mut self, def: &'static OpDef, x: Value) -> Result<Value> {
        let axes = vec![self.rank(x) - 1];
        self.apply(def, Attrs::Reduce { axes, keep: true }, &[x])
    }
    pub fn reshape(&mut self, x: Value, shape: impl Into<Shape>) -> Result<Value> {
        self.apply(&RESHAPE, Attrs::Shape(shape.into()), &[x])
    }
    pub fn broadcast(&mut self, x: Value, shape: impl Into<Shape>) -> Result<Value> {
        self.apply(&BROADCAST, Attrs::Shape(shape.into()), &[x])
    }
    pub fn transpose(&mut self, x: Value, perm: &[usize]) -> Result<Value> {
        self.apply(&TRANSPOSE, Attrs::Perm(perm.to_vec()), &[x])
    }
    pub fn slice(&mut self, x: Value, axis: usize, start: impl Into<Dim>, len: impl Into<Dim>) -> Result<Value> {
        self.apply(&SLICE, Attrs::Slice { axis, start: start.into(), len: len.into(), step: 1 }, &[x])
    }
    pub fn concat(&mut self, xs: &[Value], axis: usize) -> Result<Value> {
        self.apply(&CONCAT, Attrs::Axis(axis), xs)
    }
    pub fn iota(&mut self, shape: Shape, axis: usize, start: Dim) -> Result<Value> {
        self.apply(&IOTA, Attrs::Iota { shape, axis, start, dtype: DType::I32 }, &[])
    }
}

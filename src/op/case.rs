//! Sample operands, walked by generic tests.

use super::Attrs;
use crate::base::{DType, Shape, Type};

/// What an operand is filled with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fill {
    /// Seeded standard normal values.
    Normal,
    /// Between 0.1 and 4.
    Positive,
    /// Between ± this.
    Within(f32),
    /// Over a wide range, both signs, large and tiny, with both zeros.
    Wide,
    /// Whole numbers below this.
    Below(u32),
    /// The same, no number twice.
    Different(u32),
    /// 0 or 1.
    Truth,
    /// Whole numbers with many ties.
    Ties,
}

/// Operands and attributes that an op must compute rightly.
#[derive(Debug, Clone)]
pub struct Case {
    pub operands: Vec<(Type, Fill)>,
    pub attrs: Attrs,
}

impl Case {
    pub fn new(operands: Vec<(Type, Fill)>, attrs: Attrs) -> Self {
        Case { operands, attrs }
    }
    pub fn types(&self) -> Vec<Type> {
        self.operands.iter().map(|o| o.0.clone()).collect()
    }
}

/// Operands that an op must refuse, and the words it must use.
#[derive(Debug, Clone)]
pub struct ErrorCase {
    pub types: Vec<Type>,
    pub attrs: Attrs,
    pub message: &'static str,
}

impl ErrorCase {
    pub fn new(types: Vec<Type>, attrs: Attrs, message: &'static str) -> Self {
        ErrorCase { types, attrs, message }
    }
}

pub fn f32s<const N: usize>(dims: [i64; N]) -> Type {
    Type::f32(Shape::from(dims))
}
pub fn of<const N: usize>(dtype: DType, dims: [i64; N]) -> Type {
    Type::new(dtype, Shape::from(dims))
}
pub fn normal<const N: usize>(dims: [i64; N]) -> (Type, Fill) {
    (f32s(dims), Fill::Normal)
}

//! Shape rules and costs that several ops share.

use super::Attrs;
use crate::base::{DType, Error, Expr, Result, Shape, Type};

/// An error of op `op`; the graph adds the node's name.
pub fn err<T>(op: &str, what: impl Into<String>) -> Result<T> {
    Err(Error::op(op, "", what))
}

pub fn arity(op: &str, types: &[Type], want: usize) -> Result<()> {
    if types.len() == want {
        return Ok(());
    }
    err(op, format!("takes {want} operand{}, got {}", if want == 1 { "" } else { "s" }, types.len()))
}

/// A plain float that arithmetic may read: f32, f16 or bf16.
pub fn real(op: &str, which: &str, ty: &Type) -> Result<()> {
    match ty.dtype {
        float if float.is_real() => Ok(()),
        other => err(op, format!("{which} is {other}, it must be f32 or f16")),
    }
}

/// The axis, checked against a rank.
pub fn axis(op: &str, axis: usize, shape: &Shape) -> Result<usize> {
    if axis < shape.rank() {
        Ok(axis)
    } else {
        err(op, format!("axis {axis} is outside of {shape}, rank {}", shape.rank()))
    }
}

pub fn wrong_attrs<T>(op: &str, attrs: &Attrs) -> Result<T> {
    err(op, format!("got the wrong attributes: {attrs:?}"))
}

/// Result type of float arithmetic: f32 of this shape.
pub fn float_result(shape: Shape) -> Type {
    Type::new(DType::F32, shape)
}

pub fn free(_: &Attrs, _: &[Type], _: &Type) -> Expr {
    Expr::new(0)
}
pub fn one_per_element(_: &Attrs, _: &[Type], out: &Type) -> Expr {
    out.shape.count()
}
pub fn one_per_operand_element(_: &Attrs, args: &[Type], _: &Type) -> Expr {
    args[0].shape.count()
}

/// The broadcast of all operand shapes.
pub fn broadcast(op: &str, types: &[Type]) -> Result<Shape> {
    let mut shape = types[0].shape.clone();
    for ty in &types[1..] {
        shape = match shape.broadcast(&ty.shape) {
            Some(s) => s,
            None => return err(op, format!("shapes {shape} and {} do not broadcast", ty.shape)),
        };
    }
    Ok(shape)
}

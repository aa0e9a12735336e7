//! An op about to be computed, and the results that it makes.

use super::value::{Real, Tensor};
use crate::base::{Bindings, DType, Error};
use crate::format;
use crate::op::{Attrs, OpDef};

/// An op about to be computed.
pub struct Call<'a, T> {
    pub def: &'static OpDef,
    pub attrs: &'a Attrs,
    pub operands: &'a [&'a Tensor<T>],
    pub shape: Vec<usize>,
    pub dtype: DType,
    pub bindings: &'a Bindings,
}

impl<T: Real> Call<'_, T> {
    pub fn wrong(&self) -> Error {
        Error::op(self.def.name, "", format!("got the wrong attributes: {:?}", self.attrs))
    }

    /// A result of the op's type: whole numbers are cut, halves rounded.
    pub fn result(&self, elements: Vec<f64>) -> Tensor<T> {
        match self.dtype {
            d if d.is_narrow() => {
                Tensor::floats(elements.iter().map(|x| T::of(format::rounded(d, *x))).collect(), &self.shape)
            }
            DType::I32 => Tensor::ints(elements.iter().map(|x| (*x as i64) as i32 as i64).collect(), &self.shape),
            DType::U32 | DType::Bool => {
                Tensor::ints(elements.iter().map(|x| (*x as i64) as u32 as i64).collect(), &self.shape)
            }
            _ => Tensor::floats(elements.into_iter().map(T::of).collect(), &self.shape),
        }
    }
}

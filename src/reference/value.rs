//! Strided tensors of the interpreter.

use super::rows::Rows;
use crate::base::{Array, DType};
use crate::format;
use std::sync::Arc;

/// The number type of an interpreter: f64 (the oracle) or f32 (the fallback).
pub trait Real:
    Copy
    + Send
    + Sync
    + PartialOrd
    + Default
    + std::fmt::Debug
    + std::iter::Sum
    + From<u8>
    + 'static
    + std::ops::Add<Output = Self>
    + std::ops::Mul<Output = Self>
{
    /// Whether speed comes before being the definition.
    const FALLBACK: bool;
    fn of(x: f64) -> Self;
    fn get(self) -> f64;
    /// Free where the numbers are f32.
    fn from_f32s(x: Vec<f32>) -> Vec<Self>;
    /// The elements as f32, where that is what they are.
    fn as_f32s(x: &[Self]) -> Option<&[f32]>;
}
impl Real for f64 {
    const FALLBACK: bool = false;
    fn of(x: f64) -> f64 {
        x
    }
    fn get(self) -> f64 {
        self
    }
    fn from_f32s(x: Vec<f32>) -> Vec<f64> {
        x.into_iter().map(f64::from).collect()
    }
    fn as_f32s(_: &[f64]) -> Option<&[f32]> {
        None
    }
}
impl Real for f32 {
    const FALLBACK: bool = true;
    fn of(x: f64) -> f32 {
        x as f32
    }
    fn get(self) -> f64 {
        self as f64
    }
    fn from_f32s(x: Vec<f32>) -> Vec<f32> {
        x
    }
    fn as_f32s(x: &[f32]) -> Option<&[f32]> {
        Some(x)
    }
}

/// Elements: floats, whole numbers and truth, quantised blocks as a file has them, or rows that a team may share.
#[derive(Debug, Clone)]
pub enum Data<T> {
    Floats(Arc<Vec<T>>),
    Ints(Arc<Vec<i64>>),
    Blocks(Arc<[u8]>, DType),
    Rows(Arc<Rows>),
}

/// A view of shared elements.
#[derive(Debug, Clone)]
pub struct Tensor<T> {
    pub data: Data<T>,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
    pub offset: usize,
}

/// Row-major strides.
pub fn strides(shape: &[usize]) -> Vec<usize> {
    let mut out = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        out[i - 1] = out[i] * shape[i];
    }
    out
}

impl<T: Real> Tensor<T> {
    pub fn floats(elements: Vec<T>, shape: &[usize]) -> Self {
        Tensor { data: Data::Floats(Arc::new(elements)), shape: shape.to_vec(), strides: strides(shape), offset: 0 }
    }
    pub fn ints(elements: Vec<i64>, shape: &[usize]) -> Self {
        Tensor { data: Data::Ints(Arc::new(elements)), shape: shape.to_vec(), strides: strides(shape), offset: 0 }
    }
    pub fn zeros(dtype: DType, shape: &[usize]) -> Self {
        let n = shape.iter().product();
        if dtype.is_float() { Tensor::floats(vec![T::default(); n], shape) } else { Tensor::ints(vec![0; n], shape) }
    }
    pub fn from_array(a: &Array) -> Self {
        match a.dtype {
            DType::I32 => Tensor::ints(a.to_u32().into_iter().map(|w| w as i32 as i64).collect(), &a.shape),
            DType::U32 | DType::Bool => Tensor::ints(a.to_u32().into_iter().map(i64::from).collect(), &a.shape),
            float => {
                Tensor::floats(format::decode(float, &a.bytes).into_iter().map(|x| T::of(x as f64)).collect(), &a.shape)
            }
        }
    }
    pub fn to_array(&self, dtype: DType) -> Array {
        let bytes = match dtype {
            DType::F32 => self.to_f64().iter().flat_map(|x| (*x as f32).to_le_bytes()).collect(),
            d if d.is_narrow() || d.is_quantised() => {
                format::encode(d, &self.to_f64().iter().map(|x| *x as f32).collect::<Vec<_>>())
            }
            _ => self.to_f64().iter().flat_map(|x| (*x as i64 as u32).to_le_bytes()).collect(),
        };
        Array { dtype, shape: self.shape.clone(), bytes }
    }
    /// What is left of the elements where they are kept as floats of this type.
    pub fn rounded(&self, dtype: DType) -> Self {
        let elements: Vec<f32> = self.to_f64().iter().map(|x| *x as f32).collect();
        let kept = format::decode(dtype, &format::encode(dtype, &elements));
        Tensor::floats(kept.into_iter().map(|x| T::of(x as f64)).collect(), &self.shape)
    }
    /// Elements in row-major order; whole numbers exactly.
    pub fn to_f64(&self) -> Vec<f64> {
        self.offsets().map(|i| self.at(i)).collect()
    }
    /// The number at an offset of the elements.
    pub fn at(&self, i: usize) -> f64 {
        match &self.data {
            Data::Floats(x) => x[i].get(),
            Data::Ints(x) => x[i] as f64,
            Data::Blocks(bytes, dtype) => format::decode_one(*dtype, bytes, i) as f64,
            Data::Rows(rows) => rows.at(i) as f64,
        }
    }
    /// The same elements, row-major and nothing beside them.
    pub fn owned(&self) -> Self {
        let all = match &self.data {
            Data::Floats(x) => x.len(),
            Data::Ints(x) => x.len(),
            Data::Blocks(..) | Data::Rows(_) => 0,
        };
        match &self.data {
            _ if self.is_contiguous() && self.offset == 0 && all == self.count() => {
                Tensor { strides: strides(&self.shape), ..self.clone() }
            }
            Data::Ints(x) => Tensor::ints(self.offsets().map(|i| x[i]).collect(), &self.shape),
            _ => Tensor::floats(self.slice().into_owned(), &self.shape),
        }
    }
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }
    pub fn bytes(&self) -> u64 {
        match &self.data {
            Data::Floats(x) => (x.len() * size_of::<T>()) as u64,
            Data::Ints(x) => (x.len() * 8) as u64,
            Data::Blocks(b, _) => b.len() as u64,
            Data::Rows(rows) => rows.bytes(),
        }
    }
    pub fn is_contiguous(&self) -> bool {
        let want = strides(&self.shape);
        (0..self.shape.len()).all(|i| self.shape[i] == 1 || self.strides[i] == want[i])
    }
    /// Contiguous float elements, without a copy where they already are.
    pub fn slice(&self) -> std::borrow::Cow<'_, [T]> {
        match &self.data {
            Data::Floats(x) if self.is_contiguous() => {
                std::borrow::Cow::Borrowed(&x[self.offset..self.offset + self.count()])
            }
            Data::Floats(x) => self.offsets().map(|i| x[i]).collect(),
            _ => self.offsets().map(|i| T::of(self.at(i))).collect(),
        }
    }
    /// Offsets of the elements in row-major order.
    pub fn offsets(&self) -> Offsets<'_> {
        Offsets {
            shape: &self.shape,
            strides: &self.strides,
            index: vec![0; self.shape.len()],
            at: self.offset,
            left: self.count(),
        }
    }
    /// The same elements seen in the wider `shape` by numpy's rules.
    pub fn broadcast(&self, shape: &[usize]) -> Self {
        let lead = shape.len() - self.shape.len();
        let stride = |i: usize| {
            if i < lead || (self.shape[i - lead] == 1 && shape[i] != 1) { 0 } else { self.strides[i - lead] }
        };
        Tensor {
            data: self.data.clone(),
            shape: shape.to_vec(),
            strides: (0..shape.len()).map(stride).collect(),
            offset: self.offset,
        }
    }
    pub fn reshaped(&self, shape: &[usize]) -> Self {
        if self.is_contiguous() {
            return Tensor {
                data: self.data.clone(),
                shape: shape.to_vec(),
                strides: strides(shape),
                offset: self.offset,
            };
        }
        match &self.data {
            Data::Ints(x) => Tensor::ints(self.offsets().map(|i| x[i]).collect(), shape),
            _ => Tensor::floats(self.slice().into_owned(), shape),
        }
    }
    /// Writes `rows` at row `at` of this contiguous tensor, in place where nothing else holds the elements.
    /// One index of the first axis.
    pub fn row(&self, i: usize) -> Self {
        let mut shape = self.shape.clone();
        shape[0] = 1;
        Tensor {
            data: self.data.clone(),
            strides: self.strides.clone(),
            offset: self.offset + i * self.strides[0],
            shape,
        }
    }
    pub fn write_rows(&mut self, at: usize, rows: &Self) {
        let start = at * self.strides.first().copied().unwrap_or(1);
        match &mut self.data {
            Data::Floats(x) => {
                let from = rows.slice();
                Arc::make_mut(x)[start..start + from.len()].copy_from_slice(&from);
            }
            Data::Ints(x) => {
                let values: Vec<i64> = rows.to_f64().iter().map(|v| *v as i64).collect();
                Arc::make_mut(x)[start..start + values.len()].copy_from_slice(&values);
            }
            Data::Blocks(..) | Data::Rows(_) => {}
        }
    }
}

/// Walks strided offsets in row-major order.
pub struct Offsets<'a> {
    shape: &'a [usize],
    strides: &'a [usize],
    index: Vec<usize>,
    at: usize,
    left: usize,
}

impl Iterator for Offsets<'_> {
    type Item = usize;
    fn next(&mut self) -> Option<usize> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        let now = self.at;
        for axis in (0..self.shape.len()).rev() {
            self.index[axis] += 1;
            self.at += self.strides[axis];
            if self.index[axis] < self.shape[axis] {
                break;
            }
            self.at -= self.strides[axis] * self.shape[axis];
            self.index[axis] = 0;
        }
        Some(now)
    }
    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

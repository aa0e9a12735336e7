//! Values on the host: what goes into a step and comes out of it.

use super::{DType, Error, Result};
use crate::format;

/// A tensor's elements in host memory, row-major, little-endian, as files store them.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Array {
    /// Raw bytes of any type; the length must fit the shape.
    pub fn new(dtype: DType, shape: &[usize], bytes: Vec<u8>) -> Result<Self> {
        let count = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64));
        if count.and_then(|n| dtype.bytes(n)) != Some(bytes.len() as u64) {
            return Err(Error::usage(format!("{} bytes do not fill {dtype}{shape:?}", bytes.len())));
        }
        Ok(Array { dtype, shape: shape.to_vec(), bytes })
    }
    /// # Panics
    /// Where the number of elements is not the shape's product.
    pub fn f32(shape: &[usize], elements: &[f32]) -> Self {
        assert_eq!(shape.iter().product::<usize>(), elements.len(), "elements fill the shape {shape:?}");
        Array { dtype: DType::F32, shape: shape.to_vec(), bytes: bytemuck::cast_slice(elements).to_vec() }
    }
    /// # Panics
    /// Where the number of elements is not the shape's product.
    pub fn u32(shape: &[usize], elements: &[u32]) -> Self {
        assert_eq!(shape.iter().product::<usize>(), elements.len(), "elements fill the shape {shape:?}");
        Array { dtype: DType::U32, shape: shape.to_vec(), bytes: bytemuck::cast_slice(elements).to_vec() }
    }
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }
    /// Elements as f32, whatever the type (quantised blocks are decoded).
    pub fn to_f32(&self) -> Vec<f32> {
        match self.dtype {
            DType::I32 => self.words().map(|w| w as i32 as f32).collect(),
            DType::U32 | DType::Bool => self.words().map(|w| w as f32).collect(),
            float => format::decode(float, &self.bytes),
        }
    }
    /// Elements of a u32, i32 or bool array as their bits.
    pub fn to_u32(&self) -> Vec<u32> {
        self.words().collect()
    }
    fn words(&self) -> impl Iterator<Item = u32> + '_ {
        self.bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }
}

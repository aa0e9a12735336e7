//! Values on the host: what goes into a step and comes out of it.

use super::{DType, Error, Result};
use crate::format;

/// A tensor's elements in host memory, row-major, little-endian, as files store them.
///
/// ```
/// use warpweft::{Array, DType};
///
/// let a = Array::of(&[2, 3], &[1, 2, 3, 4, 5, 6])?;
/// assert_eq!((a.dtype, a.count()), (DType::I32, 6));
/// assert_eq!(a.to_vec::<i32>()?[5], 6);
/// assert!(a.to_vec::<f32>().is_err());
/// # Ok::<(), warpweft::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// How elements are stored.
    pub dtype: DType,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// As files store them.
    pub bytes: Vec<u8>,
}

/// A Rust type that is the element of an [`Array`].
pub trait Element: Copy {
    /// What it is called in an array.
    const DTYPE: DType;
    /// Appends the element as files store it.
    fn write(self, bytes: &mut Vec<u8>);
    /// The element of these bytes, as many as [`Element::write`] writes.
    fn read(bytes: &[u8]) -> Self;
}

macro_rules! elements {
    ($($t:ty, $dtype:ident);*) => { $(
        impl Element for $t {
            const DTYPE: DType = DType::$dtype;
            fn write(self, bytes: &mut Vec<u8>) { bytes.extend_from_slice(&self.to_le_bytes()); }
            fn read(bytes: &[u8]) -> Self { <$t>::from_le_bytes(bytes.try_into().unwrap_or_default()) }
        }
    )* };
}
elements!(f32, F32; half::f16, F16; i32, I32; u32, U32);

impl Element for bool {
    const DTYPE: DType = DType::Bool;
    fn write(self, bytes: &mut Vec<u8>) {
        (self as u32).write(bytes);
    }
    fn read(bytes: &[u8]) -> Self {
        u32::read(bytes) != 0
    }
}

/// One axis of these elements.
impl<T: Element> From<&[T]> for Array {
    fn from(elements: &[T]) -> Array {
        let mut bytes = vec![];
        elements.iter().for_each(|x| x.write(&mut bytes));
        Array { dtype: T::DTYPE, shape: vec![elements.len()], bytes }
    }
}
impl<T: Element> From<Vec<T>> for Array {
    fn from(elements: Vec<T>) -> Array {
        Array::from(elements.as_slice())
    }
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
    /// Elements of any type in row-major order.
    ///
    /// # Errors
    /// As many elements as the shape does not have.
    pub fn of<T: Element>(shape: &[usize], elements: &[T]) -> Result<Self> {
        Array::from(elements).reshaped(shape)
    }
    /// The same elements under another shape.
    ///
    /// # Errors
    /// A shape of another number of elements.
    pub fn reshaped(self, shape: &[usize]) -> Result<Self> {
        Array::new(self.dtype, shape, self.bytes)
    }
    /// The elements, where they are of this type.
    ///
    /// # Errors
    /// Elements of another type: nothing is converted.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        if self.dtype != T::DTYPE {
            return Err(Error::usage(format!("the array holds {}, {} was asked for", self.dtype, T::DTYPE)));
        }
        Ok(self.bytes.chunks_exact(T::DTYPE.block_bytes()).map(T::read).collect())
    }
    /// Elements as f64, whatever the type (quantised blocks are decoded); integers are exact.
    pub fn to_f64(&self) -> Vec<f64> {
        match self.dtype {
            DType::I32 => self.words().map(|w| w as i32 as f64).collect(),
            DType::U32 | DType::Bool => self.words().map(|w| w as f64).collect(),
            _ => self.to_f32().into_iter().map(f64::from).collect(),
        }
    }
    /// Elements of type f32 in row-major order.
    ///
    /// # Panics
    /// Where the number of elements is not the shape's product.
    pub fn f32(shape: &[usize], elements: &[f32]) -> Self {
        assert_eq!(shape.iter().product::<usize>(), elements.len(), "elements fill the shape {shape:?}");
        Array { dtype: DType::F32, shape: shape.to_vec(), bytes: bytemuck::cast_slice(elements).to_vec() }
    }
    /// Elements of type u32 in row-major order.
    ///
    /// # Panics
    /// Where the number of elements is not the shape's product.
    pub fn u32(shape: &[usize], elements: &[u32]) -> Self {
        assert_eq!(shape.iter().product::<usize>(), elements.len(), "elements fill the shape {shape:?}");
        Array { dtype: DType::U32, shape: shape.to_vec(), bytes: bytemuck::cast_slice(elements).to_vec() }
    }
    /// How many elements there are.
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

//! Where the elements of a value lie.

use super::RANK;

/// A value's elements: words, `strides` apart.
#[derive(Clone, Copy)]
pub struct View {
    pub ptr: *mut u32,
    pub rank: usize,
    pub shape: [usize; RANK],
    pub strides: [usize; RANK],
}

impl View {
    pub fn shape(&self) -> &[usize] {
        &self.shape[..self.rank]
    }
    pub fn count(&self) -> usize {
        self.shape().iter().product()
    }
    /// The last axis, 1 for a scalar.
    pub fn width(&self) -> usize {
        self.shape().last().copied().unwrap_or(1)
    }
    /// How many rows of the last axis there are.
    pub fn rows(&self) -> usize {
        self.shape[..self.rank.saturating_sub(1)].iter().product()
    }
    pub fn is_dense(&self) -> bool {
        let mut want = 1;
        for i in (0..self.rank).rev() {
            if self.shape[i] != 1 && self.strides[i] != want {
                return false;
            }
            want *= self.shape[i];
        }
        true
    }
    /// Row-major strides for the shape.
    pub fn densely(mut self) -> View {
        let mut stride = 1;
        for i in (0..self.rank).rev() {
            self.strides[i] = stride;
            stride *= self.shape[i];
        }
        self
    }
    /// The place of an element of the row-major order, in words from the first.
    pub fn offset(&self, mut index: usize) -> usize {
        let mut at = 0;
        for i in (0..self.rank).rev() {
            let n = self.shape[i].max(1);
            at += index % n * self.strides[i];
            index /= n;
        }
        at
    }
    /// The same elements seen in the wider `shape` by numpy's rules.
    pub fn broadcast(&self, shape: &[usize]) -> View {
        let mut out = View { ptr: self.ptr, rank: shape.len(), shape: [1; RANK], strides: [0; RANK] };
        let lead = shape.len() - self.rank;
        for (i, n) in shape.iter().enumerate() {
            out.shape[i] = *n;
            if i >= lead && self.shape[i - lead] == *n {
                out.strides[i] = self.strides[i - lead];
            }
        }
        out
    }
    pub fn f32s(&self) -> *mut f32 {
        self.ptr.cast()
    }
}

//! Where the elements of a view lie in the buffer that it looks into.

use super::{Dim, Expr, Shape};

/// Element `(i, j, …)` lies at `offset + i · strides[0] + j · strides[1] + …`, in elements.
/// A stride of 0 repeats: that is a broadcast.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Layout {
    pub offset: Expr,
    pub strides: Vec<Expr>,
}

impl Layout {
    /// Row-major from the buffer's start.
    pub fn contiguous(shape: &Shape) -> Self {
        Layout { offset: Expr::new(0), strides: shape.strides() }
    }
    /// Whether `shape` under this layout is row-major without gaps (whatever the offset).
    pub fn is_contiguous(&self, shape: &Shape) -> bool {
        let want = shape.strides();
        (0..shape.rank()).all(|i| shape[i].is(1) || self.strides[i] == want[i])
    }
    pub fn permuted(&self, perm: &[usize]) -> Self {
        Layout { offset: self.offset.clone(), strides: perm.iter().map(|&p| self.strides[p].clone()).collect() }
    }
    pub fn sliced(&self, axis: usize, start: Dim, step: u32) -> Self {
        let offset = self.offset.clone() + self.strides[axis].clone() * Expr::from(start);
        let mut strides = self.strides.clone();
        strides[axis] = strides[axis].clone() * step as i64;
        Layout { offset, strides }
    }
    /// From `shape` to the wider `to` by numpy's rules.
    pub fn broadcast(&self, shape: &Shape, to: &Shape) -> Self {
        let lead = to.rank() - shape.rank();
        let strides = (0..to.rank()).map(|i| {
            let repeats = i < lead || (shape[i - lead].is(1) && !to[i].is(1));
            if repeats { Expr::new(0) } else { self.strides[i - lead].clone() }
        });
        Layout { offset: self.offset.clone(), strides: strides.collect() }
    }
    /// The layout of the same elements in the same order under another shape, if strides can say it.
    pub fn reshaped(&self, from: &Shape, to: &Shape) -> Option<Self> {
        if self.is_contiguous(from) {
            return Some(Layout { offset: self.offset.clone(), strides: to.strides() });
        }
        // Match groups of axes from the right: a group of `from` that lies without gaps may be split anew.
        let from_axes: Vec<usize> = (0..from.rank()).filter(|&i| !from[i].is(1)).collect();
        let mut strides = vec![Expr::new(0); to.rank()];
        let mut j = to.rank();
        let mut at = from_axes.len();
        while at > 0 {
            let end = at - 1;
            let mut have = Expr::from(from[from_axes[end]]);
            let mut start = end;
            let mut want = Expr::new(1);
            let mut group = vec![];
            loop {
                if want == have && !group.is_empty() {
                    break;
                }
                let grow_to = j > 0 && want.bound() < have.bound();
                if grow_to {
                    j -= 1;
                    group.push(j);
                    want = want * Expr::from(to[j]);
                } else if want != have && start > 0 {
                    let (inner, outer) = (from_axes[start], from_axes[start - 1]);
                    if self.strides[outer] != self.strides[inner].clone() * Expr::from(from[inner]) {
                        return None;
                    }
                    start -= 1;
                    have = have * Expr::from(from[outer]);
                } else {
                    return None;
                }
            }
            let mut stride = self.strides[from_axes[end]].clone();
            for &axis in &group {
                strides[axis] = stride.clone();
                stride = stride * Expr::from(to[axis]);
            }
            at = start;
        }
        (0..j).all(|i| to[i].is(1)).then(|| Layout { offset: self.offset.clone(), strides })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(l: &Layout) -> Vec<i64> {
        l.strides.iter().map(|e| e.known().unwrap()).collect()
    }

    #[test]
    fn a_transposed_view_splits_but_does_not_merge() {
        let shape = Shape::from([4, 6]);
        let l = Layout::contiguous(&shape).permuted(&[1, 0]);
        let t = Shape::from([6, 4]);
        assert_eq!(numbers(&l.reshaped(&t, &[6, 2, 2].into()).unwrap()), [1, 12, 6]);
        assert_eq!(numbers(&l.reshaped(&t, &[3, 2, 4].into()).unwrap()), [2, 1, 6]);
        assert!(l.reshaped(&t, &[24].into()).is_none());
        assert!(l.reshaped(&t, &[4, 6].into()).is_none());
    }

    #[test]
    fn a_sliced_view_merges_what_has_no_gap() {
        let shape = Shape::from([5, 4, 3]);
        let l = Layout::contiguous(&shape).sliced(0, 2.into(), 1);
        assert_eq!(l.offset.known(), Some(24));
        assert_eq!(numbers(&l.reshaped(&[3, 4, 3].into(), &[3, 12].into()).unwrap()), [12, 1]);
        let inner = Layout::contiguous(&shape).sliced(2, 1.into(), 1);
        assert!(inner.reshaped(&[5, 4, 2].into(), &[5, 8].into()).is_none());
        assert_eq!(numbers(&inner.reshaped(&[5, 4, 2].into(), &[20, 2].into()).unwrap()), [3, 1]);
    }
}

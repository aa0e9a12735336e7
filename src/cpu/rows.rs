//! Kernels over rows: norms, softmax, rotary positions.

use super::isa::{Isa, Kernel, LANES, math};
use super::product::{load_some, store_some};
use crate::op::RopeLayout;
use std::ops::Range;

/// RMS or layer norm of some rows.
pub struct Norm {
    pub x: *const f32,
    pub w: *const f32,
    pub b: Option<*const f32>,
    pub out: *mut f32,
    pub width: usize,
    pub eps: f32,
    pub centred: bool,
    pub rows: Range<usize>,
}

/// Σ f(x) over a row; what is beyond its end counts nothing.
#[inline(always)]
unsafe fn sum<S: Isa>(x: *const f32, n: usize, f: impl Fn(S::F) -> S::F) -> f32 {
    unsafe {
        let whole = n / LANES * LANES;
        let mut sum = S::splat(0.0);
        for i in (0..whole).step_by(LANES) {
            sum = S::add(sum, f(S::load(x.add(i))));
        }
        let mut total = S::sum(sum);
        if whole < n {
            let mut rest = [0.0f32; LANES];
            S::store(rest.as_mut_ptr(), f(load_some::<S>(x.add(whole), n - whole, false)));
            for r in &rest[..n - whole] {
                total += r;
            }
        }
        total
    }
}

impl Kernel for Norm {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Isa>(self) {
        unsafe {
            let n = self.width;
            for row in self.rows.clone() {
                let (x, y) = (self.x.add(row * n), self.out.add(row * n));
                let mean = if self.centred { sum::<S>(x, n, |v| v) / n as f32 } else { 0.0 };
                let m = S::splat(mean);
                let square = sum::<S>(x, n, |v| {
                    let v = S::sub(v, m);
                    S::mul(v, v)
                }) / n as f32;
                let scale = S::splat(1.0 / (square + self.eps).sqrt());
                for i in (0..n).step_by(LANES) {
                    let whole = i + LANES <= n;
                    let at = |p: *const f32| load_some::<S>(p.add(i), n - i, whole);
                    let mut v = S::mul(S::mul(S::sub(at(x), m), scale), at(self.w));
                    if let Some(b) = self.b {
                        v = S::add(v, at(b));
                    }
                    store_some::<S>(y.add(i), v, n - i, whole);
                }
            }
        }
    }
}

/// Softmax, or its logarithm, of some rows.
pub struct Softmax {
    pub x: *const f32,
    pub out: *mut f32,
    pub width: usize,
    pub log: bool,
    pub rows: Range<usize>,
}

impl Kernel for Softmax {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Isa>(self) {
        unsafe {
            let n = self.width;
            for row in self.rows.clone() {
                let (x, y) = (self.x.add(row * n), self.out.add(row * n));
                let mut most = f32::NEG_INFINITY;
                for i in 0..n {
                    let v = *x.add(i);
                    // NaN stays.
                    most = if most > v { most } else { v };
                }
                let m = S::splat(most);
                let total = sum::<S>(x, n, |v| math::exp::<S>(S::sub(v, m)));
                let (scale, shift) = (S::splat(1.0 / total), S::splat(total.ln()));
                for i in (0..n).step_by(LANES) {
                    let whole = i + LANES <= n;
                    let v = S::sub(load_some::<S>(x.add(i), n - i, whole), m);
                    let v = if self.log { S::sub(v, shift) } else { S::mul(math::exp::<S>(v), scale) };
                    store_some::<S>(y.add(i), v, n - i, whole);
                }
            }
        }
    }
}

/// Rotary positions of some heads: rows of `[…, s, h, d]`.
pub struct Rope {
    pub x: *const f32,
    pub cos: *const f32,
    pub sin: *const f32,
    pub out: *mut f32,
    pub s: usize,
    pub h: usize,
    pub d: usize,
    pub layout: RopeLayout,
    pub rows: Range<usize>,
}

impl Kernel for Rope {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Isa>(self) {
        unsafe {
            let half = self.d / 2;
            for row in self.rows.clone() {
                let (x, y) = (self.x.add(row * self.d), self.out.add(row * self.d));
                let at = row / self.h.max(1) % self.s.max(1) * half;
                let (cos, sin) = (self.cos.add(at), self.sin.add(at));
                match self.layout {
                    RopeLayout::Half => {
                        for i in (0..half).step_by(LANES) {
                            let whole = i + LANES <= half;
                            let load = |p: *const f32| load_some::<S>(p.add(i), half - i, whole);
                            let (u, v, c, s) = (load(x), load(x.add(half)), load(cos), load(sin));
                            let first = S::sub(S::mul(u, c), S::mul(v, s));
                            let second = S::add(S::mul(u, s), S::mul(v, c));
                            store_some::<S>(y.add(i), first, half - i, whole);
                            store_some::<S>(y.add(half + i), second, half - i, whole);
                        }
                    }
                    RopeLayout::Interleaved => {
                        for i in 0..half {
                            let (u, v, c, s) = (*x.add(2 * i), *x.add(2 * i + 1), *cos.add(i), *sin.add(i));
                            *y.add(2 * i) = u * c - v * s;
                            *y.add(2 * i + 1) = u * s + v * c;
                        }
                    }
                }
            }
        }
    }
}

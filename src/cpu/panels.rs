//! Keys and values as states hold them, by panels of sixteen keys of a head. A panel is read once for some rows of queries
//! together, whose sums stay in registers.
//!
//! A panel of keys lies element by element, so that sixteen scores are a vector; one of values lies row by row. Each result is
//! one chain of sums, in the same order whatever it is computed beside.

use super::blocks::BLOCK;
use super::isa::{Isa, LANES};
use super::product::Element;

/// Panels that are read together, and vectors of a row of values.
const TOGETHER: usize = 4;

/// How the numbers of panels lie; panel `p` is the one of key block `p / heads` and head `p mod heads`.
pub trait Panels: Copy {
    /// `Σ x[t] · key` for the sixteen keys of each panel.
    ///
    /// # Safety
    /// As of [`Isa`]; the panels exist, and `x` has `T` rows of `d` elements.
    unsafe fn scores<S: Isa, const T: usize, const P: usize>(
        self,
        x: (*const f32, usize),
        panels: [usize; P],
        d: usize,
    ) -> [[S::F; P]; T];

    /// `acc[t] + Σ x[t][i] · value[i]` over the first `k` keys of a panel, for `V` vectors of elements from `e` on.
    ///
    /// # Safety
    /// As of [`Isa`]; the panel exists, and `x` has `T` rows of sixteen numbers.
    unsafe fn sums<S: Isa, const T: usize, const V: usize>(
        self,
        x: (*const f32, usize),
        panel: usize,
        at: (usize, usize),
        k: usize,
        acc: [[S::F; V]; T],
    ) -> [[S::F; V]; T];
}

/// Floats.
#[derive(Clone, Copy)]
pub struct Floats<E>(pub *const E);

/// Signed bytes, with an f16 scale for every 32 elements of a row (the blocks of Q8_0). The scales of sixteen keys lie side by side:
/// in keys before each 32 elements, in values before the panel.
#[derive(Clone, Copy)]
pub struct Scaled(pub *const u8);

/// Bytes of 32 elements of sixteen rows.
const SHARE: usize = 2 * LANES + BLOCK * LANES;

impl Scaled {
    /// Bytes of a panel of rows of `d` elements.
    pub const fn bytes(d: usize) -> usize {
        d / BLOCK * SHARE
    }
    /// Where in a panel a row's scale and number of element `e` lie.
    pub const fn places(keys: bool, d: usize, row: usize, e: usize) -> (usize, usize) {
        let block = e / BLOCK;
        match keys {
            true => (block * SHARE + 2 * row, block * SHARE + 2 * LANES + e % BLOCK * LANES + row),
            false => (block * 2 * LANES + 2 * row, d / BLOCK * 2 * LANES + row * d + e),
        }
    }
}

/// `acc[t][v] + Σ x[t][i] · w[v][i]`, rows of `w` `step` elements apart: each is loaded once for all rows of `x`.
#[inline(always)]
pub unsafe fn block<S: Isa, E: Element, const T: usize, const V: usize>(
    (x, stride): (*const f32, usize),
    w: [*const E; V],
    step: usize,
    k: usize,
    mut acc: [[S::F; V]; T],
) -> [[S::F; V]; T] {
    unsafe {
        for i in 0..k {
            let mut loaded = [S::splat(0.0); V];
            for v in 0..V {
                loaded[v] = E::load::<S>(w[v].add(i * step));
            }
            for t in 0..T {
                let x = S::splat(*x.add(t * stride + i));
                for v in 0..V {
                    acc[t][v] = S::fma(x, loaded[v], acc[t][v]);
                }
            }
        }
        acc
    }
}

impl<E: Element> Panels for Floats<E> {
    #[inline(always)]
    unsafe fn scores<S: Isa, const T: usize, const P: usize>(
        self,
        x: (*const f32, usize),
        panels: [usize; P],
        d: usize,
    ) -> [[S::F; P]; T] {
        unsafe {
            let mut w = [self.0; P];
            for p in 0..P {
                w[p] = self.0.add(panels[p] * d * LANES);
            }
            block::<S, E, T, P>(x, w, LANES, d, [[S::splat(0.0); P]; T])
        }
    }
    #[inline(always)]
    unsafe fn sums<S: Isa, const T: usize, const V: usize>(
        self,
        x: (*const f32, usize),
        panel: usize,
        (e, d): (usize, usize),
        k: usize,
        acc: [[S::F; V]; T],
    ) -> [[S::F; V]; T] {
        unsafe {
            let mut w = [self.0; V];
            for v in 0..V {
                w[v] = self.0.add(panel * d * LANES + e + v * LANES);
            }
            block::<S, E, T, V>(x, w, d, k, acc)
        }
    }
}

impl Panels for Scaled {
    #[inline(always)]
    unsafe fn scores<S: Isa, const T: usize, const P: usize>(
        self,
        (x, stride): (*const f32, usize),
        panels: [usize; P],
        d: usize,
    ) -> [[S::F; P]; T] {
        unsafe {
            let mut acc = [[S::splat(0.0); P]; T];
            for b in 0..d / BLOCK {
                let mut w = [self.0.cast::<i8>(); P];
                for p in 0..P {
                    w[p] = self.0.add(panels[p] * Scaled::bytes(d) + b * SHARE + 2 * LANES).cast();
                }
                let x = (x.add(b * BLOCK), stride);
                let sums = block::<S, i8, T, P>(x, w, LANES, BLOCK, [[S::splat(0.0); P]; T]);
                for p in 0..P {
                    let scales = S::load_f16(w[p].sub(2 * LANES).cast());
                    for t in 0..T {
                        acc[t][p] = S::fma(scales, sums[t][p], acc[t][p]);
                    }
                }
            }
            acc
        }
    }
    #[inline(always)]
    unsafe fn sums<S: Isa, const T: usize, const V: usize>(
        self,
        (x, stride): (*const f32, usize),
        panel: usize,
        (e, d): (usize, usize),
        k: usize,
        mut acc: [[S::F; V]; T],
    ) -> [[S::F; V]; T] {
        unsafe {
            let p = self.0.add(panel * Scaled::bytes(d));
            // The scales of up to two blocks, by row of `x`.
            let mut scaled = [[[0.0f32; LANES]; T]; TOGETHER / 2];
            for (b, scaled) in scaled.iter_mut().enumerate().take(V.div_ceil(2)) {
                let scales = S::load_f16(p.add((e / BLOCK + b) * 2 * LANES).cast());
                for (t, scaled) in scaled.iter_mut().enumerate() {
                    S::store(scaled.as_mut_ptr(), S::mul(S::load(x.add(t * stride)), scales));
                }
            }
            let numbers = p.add(d / BLOCK * 2 * LANES + e).cast::<i8>();
            for i in 0..k {
                for v in 0..V {
                    let w = S::load_i8(numbers.add(i * d + v * LANES));
                    for t in 0..T {
                        acc[t][v] = S::fma(S::splat(scaled[v / 2][t][i]), w, acc[t][v]);
                    }
                }
            }
            acc
        }
    }
}

/// Scores of `n` rows with the keys of these panels, sixteen after sixteen; results of a row `apart` from the next.
///
/// # Safety
/// As of [`Panels::scores`], and there is room for the results.
#[inline(always)]
pub unsafe fn scores<S: Isa, K: Panels>(
    keys: K,
    n: usize,
    (x, stride): (*const f32, usize),
    panels: &[usize],
    d: usize,
    (to, apart): (*mut f32, usize),
) {
    unsafe {
        let mut first = 0;
        while first < panels.len() {
            let some = &panels[first..(first + TOGETHER).min(panels.len())];
            let to = to.add(first * LANES);
            let mut i = 0;
            while i < n {
                let (x, to) = ((x.add(i * stride), stride), (to.add(i * apart), apart));
                i += match n - i {
                    4.. => scores_of::<S, K, 4>(keys, x, some, d, to),
                    3 => scores_of::<S, K, 3>(keys, x, some, d, to),
                    2 => scores_of::<S, K, 2>(keys, x, some, d, to),
                    _ => scores_of::<S, K, 1>(keys, x, some, d, to),
                };
            }
            first += some.len();
        }
    }
}

#[inline(always)]
unsafe fn scores_of<S: Isa, K: Panels, const T: usize>(
    keys: K,
    x: (*const f32, usize),
    panels: &[usize],
    d: usize,
    (to, apart): (*mut f32, usize),
) -> usize {
    unsafe {
        if panels.len() == TOGETHER && (S::TALL == 8 || T == 1) {
            let some = [panels[0], panels[1], panels[2], panels[3]];
            let acc = keys.scores::<S, T, TOGETHER>(x, some, d);
            for t in 0..T {
                for p in 0..TOGETHER {
                    S::store(to.add(t * apart + p * LANES), acc[t][p]);
                }
            }
            return T;
        }
        for (p, panel) in panels.iter().enumerate() {
            let acc = keys.scores::<S, T, 1>(x, [*panel], d);
            for t in 0..T {
                S::store(to.add(t * apart + p * LANES), acc[t][0]);
            }
        }
        T
    }
}

/// Sums of the values of the first `keys` keys of these panels, `n` rows of weights on the left: `d` elements each.
///
/// # Safety
/// As of [`Panels::sums`], and there is room for the results.
#[inline(always)]
pub unsafe fn sums<S: Isa, K: Panels>(
    values: K,
    n: usize,
    (x, stride): (*const f32, usize),
    (panels, keys): (&[usize], usize),
    d: usize,
    (to, apart): (*mut f32, usize),
) {
    unsafe {
        let mut i = 0;
        while i < n {
            let (x, to) = ((x.add(i * stride), stride), (to.add(i * apart), apart));
            i += match n - i {
                4.. => sums_of::<S, K, 4>(values, x, (panels, keys), d, to),
                3 => sums_of::<S, K, 3>(values, x, (panels, keys), d, to),
                2 => sums_of::<S, K, 2>(values, x, (panels, keys), d, to),
                _ => sums_of::<S, K, 1>(values, x, (panels, keys), d, to),
            };
        }
    }
}

#[inline(always)]
unsafe fn sums_of<S: Isa, K: Panels, const T: usize>(
    values: K,
    x: (*const f32, usize),
    panels: (&[usize], usize),
    d: usize,
    to: (*mut f32, usize),
) -> usize {
    unsafe {
        let mut e = 0;
        while e < d {
            e += match (d - e) / LANES {
                TOGETHER.. if S::TALL == 8 || T == 1 => sums_from::<S, K, T, TOGETHER>(values, x, panels, (e, d), to),
                _ => sums_from::<S, K, T, 1>(values, x, panels, (e, d), to),
            };
        }
        T
    }
}

#[inline(always)]
unsafe fn sums_from<S: Isa, K: Panels, const T: usize, const V: usize>(
    values: K,
    (x, stride): (*const f32, usize),
    (panels, keys): (&[usize], usize),
    (e, d): (usize, usize),
    (to, apart): (*mut f32, usize),
) -> usize {
    unsafe {
        let mut acc = [[S::splat(0.0); V]; T];
        for (i, panel) in panels.iter().enumerate() {
            let x = (x.add(i * LANES), stride);
            acc = values.sums::<S, T, V>(x, *panel, (e, d), LANES.min(keys - i * LANES), acc);
        }
        for t in 0..T {
            for v in 0..V {
                S::store(to.add(t * apart + e + v * LANES), acc[t][v]);
            }
        }
        V * LANES
    }
}

/// The same of `keys` rows of floats that lie `step` elements apart, `d` a multiple of sixteen.
///
/// # Safety
/// As of [`Isa`]; the rows exist, and there is room for the results.
#[inline(always)]
pub unsafe fn sums_of_rows<S: Isa>(
    (base, step): (*const f32, usize),
    n: usize,
    (x, stride): (*const f32, usize),
    keys: usize,
    d: usize,
    (to, apart): (*mut f32, usize),
) {
    unsafe {
        for e in (0..d).step_by(LANES) {
            let mut i = 0;
            while i < n {
                let (x, to) = ((x.add(i * stride), stride), (to.add(i * apart + e), apart));
                i += match n - i {
                    4.. => column::<S, 4>((base.add(e), step), x, keys, to),
                    3 => column::<S, 3>((base.add(e), step), x, keys, to),
                    2 => column::<S, 2>((base.add(e), step), x, keys, to),
                    _ => column::<S, 1>((base.add(e), step), x, keys, to),
                };
            }
        }
    }
}

#[inline(always)]
unsafe fn column<S: Isa, const T: usize>(
    (base, step): (*const f32, usize),
    x: (*const f32, usize),
    keys: usize,
    (to, apart): (*mut f32, usize),
) -> usize {
    unsafe {
        let acc = block::<S, f32, T, 1>(x, [base], step, keys, [[S::splat(0.0)]; T]);
        for t in 0..T {
            S::store(to.add(t * apart), acc[t][0]);
        }
        T
    }
}

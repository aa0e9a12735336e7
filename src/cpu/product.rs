//! Products with packed weights, and the tile of f32 that they and attention share.
//!
//! A tile is some rows of the left operand by sixteen outputs. Each output is one chain of sums along k, in the same order
//! whatever the tile's height is: a row has the same bits alone and among others.

use super::isa::{Isa, Kernel, LANES, math};
use super::pack::BLOCK;
use super::pack::{Blocks, Form, Packed, Q4_0, Q4_1, Q8_0};

/// The left operand of a product.
#[derive(Clone, Copy)]
pub struct Left {
    /// f32 rows, and elements from one to the next.
    pub x: *const f32,
    pub stride: usize,
    pub m: usize,
    /// The same rows in bytes, where weights are multiplied as integers.
    pub q: Option<Quantised>,
}

/// Rows of f32 as signed bytes: by block of 32, `x ≈ scale · q`.
#[derive(Clone, Copy)]
pub struct Quantised {
    pub q: *mut i8,
    /// For each block its scale, and the scale times the sum of its bytes.
    pub scales: *mut [f32; 2],
}

/// What happens to an output before it is stored.
#[derive(Clone, Copy)]
pub enum Post {
    /// One f32 a column is added.
    Row(*const f32),
    /// A matrix like the result is added.
    Full(*const f32),
    Act(Act),
}

/// Elementwise functions that have a vector form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Silu,
    Gelu,
    GeluTanh,
    Relu,
    Sigmoid,
}

impl Act {
    #[inline(always)]
    pub unsafe fn apply<S: Isa>(self, x: S::F) -> S::F {
        unsafe {
            match self {
                Act::Silu => math::silu::<S>(x),
                Act::Gelu => math::gelu::<S>(x),
                Act::GeluTanh => math::gelu_tanh::<S>(x),
                Act::Relu => S::max(S::splat(0.0), x),
                Act::Sigmoid => math::sigmoid::<S>(x),
            }
        }
    }
}

/// Some groups of rows of a weight times all rows of the left operand.
pub struct Product<'a> {
    pub left: Left,
    pub weight: &'a Packed,
    pub groups: std::ops::Range<usize>,
    pub out: *mut f32,
    pub post: &'a [Post],
}

impl Kernel for Product<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Isa>(self) {
        unsafe {
            for g in self.groups.clone() {
                let p = self.weight.group(g);
                match (self.weight.form, self.left.q) {
                    (Form::F32, _) => self.rows::<S, Floats<f32>>(Floats(p.cast()), g),
                    (Form::F16, _) => self.rows::<S, Floats<u16>>(Floats(p.cast()), g),
                    (Form::Q4_0, Some(q)) => self.rows::<S, Whole<Q4_0>>(Whole(p, Q4_0, q), g),
                    (Form::Q4_1, Some(q)) => self.rows::<S, Whole<Q4_1>>(Whole(p, Q4_1, q), g),
                    (Form::Q8_0, Some(q)) => self.rows::<S, Whole<Q8_0>>(Whole(p, Q8_0, q), g),
                    (Form::Q4_0, None) => self.rows::<S, Decoded<Q4_0>>(Decoded(p, Q4_0), g),
                    (Form::Q4_1, None) => self.rows::<S, Decoded<Q4_1>>(Decoded(p, Q4_1), g),
                    (Form::Q8_0, None) => self.rows::<S, Decoded<Q8_0>>(Decoded(p, Q8_0), g),
                }
            }
        }
    }
}

/// Sixteen columns of outputs for `T` rows from `row` on.
trait Tile<S: Isa>: Copy {
    unsafe fn tile<const T: usize>(self, left: &Left, row: usize, k: usize) -> [S::F; T];
}

impl Product<'_> {
    #[inline(always)]
    unsafe fn rows<S: Isa, W: Tile<S>>(&self, w: W, g: usize) {
        unsafe {
            let (m, mut row) = (self.left.m, 0);
            while row < m {
                row += match m - row {
                    8.. if S::TALL == 8 => self.some::<S, W, 8>(w, g, row),
                    4.. => self.some::<S, W, 4>(w, g, row),
                    _ => self.some::<S, W, 1>(w, g, row),
                };
            }
        }
    }

    #[inline(always)]
    unsafe fn some<S: Isa, W: Tile<S>, const T: usize>(&self, w: W, g: usize, row: usize) -> usize {
        unsafe {
            let acc = w.tile::<T>(&self.left, row, self.weight.k);
            let n = self.weight.n;
            let (first, whole) = (g * LANES, (g + 1) * LANES <= n);
            for t in 0..T {
                let at = (row + t) * n + first;
                let mut y = acc[t];
                for post in self.post {
                    y = match *post {
                        Post::Row(b) => S::add(y, load_some::<S>(b.add(first), n - first, whole)),
                        Post::Full(b) => S::add(y, load_some::<S>(b.add(at), n - first, whole)),
                        Post::Act(act) => act.apply::<S>(y),
                    };
                }
                store_some::<S>(self.out.add(at), y, n - first, whole);
            }
            T
        }
    }
}

/// Sixteen elements, or the first `n` and zeros.
#[inline(always)]
pub unsafe fn load_some<S: Isa>(p: *const f32, n: usize, whole: bool) -> S::F {
    unsafe {
        if whole {
            return S::load(p);
        }
        let mut some = [0.0f32; LANES];
        std::ptr::copy_nonoverlapping(p, some.as_mut_ptr(), n.min(LANES));
        S::load(some.as_ptr())
    }
}

/// Stores sixteen elements, or the first `n`.
#[inline(always)]
pub unsafe fn store_some<S: Isa>(p: *mut f32, x: S::F, n: usize, whole: bool) {
    unsafe {
        if whole {
            return S::store(p, x);
        }
        let mut some = [0.0f32; LANES];
        S::store(some.as_mut_ptr(), x);
        std::ptr::copy_nonoverlapping(some.as_ptr(), p, n.min(LANES));
    }
}

/// Where the right operand of a tile of floats lies.
pub trait Element: Copy {
    const ZERO: Self;
    unsafe fn load<S: Isa>(p: *const Self) -> S::F;
    unsafe fn store<S: Isa>(p: *mut Self, x: S::F);
}
impl Element for f32 {
    const ZERO: f32 = 0.0;
    #[inline(always)]
    unsafe fn store<S: Isa>(p: *mut f32, x: S::F) {
        unsafe { S::store(p, x) }
    }
    #[inline(always)]
    unsafe fn load<S: Isa>(p: *const f32) -> S::F {
        unsafe { S::load(p) }
    }
}
/// The bits of an f16.
impl Element for u16 {
    const ZERO: u16 = 0;
    #[inline(always)]
    unsafe fn store<S: Isa>(p: *mut u16, x: S::F) {
        unsafe { S::store_f16(p, x) }
    }
    #[inline(always)]
    unsafe fn load<S: Isa>(p: *const u16) -> S::F {
        unsafe { S::load_f16(p) }
    }
}

/// `acc[t] + Σₖ x[t][k] · w[k]` for sixteen columns of `w`, whose rows are `step` elements apart.
#[inline(always)]
pub unsafe fn floats<S: Isa, E: Element, const T: usize>(
    (x, stride): (*const f32, usize),
    (w, step): (*const E, usize),
    k: usize,
    mut acc: [S::F; T],
) -> [S::F; T] {
    unsafe {
        for i in 0..k {
            let w = E::load::<S>(w.add(i * step));
            for t in 0..T {
                acc[t] = S::fma(S::splat(*x.add(t * stride + i)), w, acc[t]);
            }
        }
        acc
    }
}

#[derive(Clone, Copy)]
struct Floats<E>(*const E);

impl<S: Isa, E: Element> Tile<S> for Floats<E> {
    #[inline(always)]
    unsafe fn tile<const T: usize>(self, left: &Left, row: usize, k: usize) -> [S::F; T] {
        unsafe {
            let x = left.x.add(row * left.stride);
            floats::<S, E, T>((x, left.stride), (self.0, LANES), k, [S::splat(0.0); T])
        }
    }
}

/// Integer products of blocks.
#[derive(Clone, Copy)]
struct Whole<B>(*const u8, B, Quantised);

impl<S: Isa, B: Blocks> Tile<S> for Whole<B> {
    #[inline(always)]
    unsafe fn tile<const T: usize>(self, _: &Left, row: usize, k: usize) -> [S::F; T] {
        unsafe {
            let blocks = k / BLOCK;
            let q = self.2.q.cast_const().add(row * k);
            let scales = self.2.scales.cast_const().add(row * blocks);
            let mut acc = [S::splat(0.0); T];
            for b in 0..blocks {
                let block = B::open::<S>(self.0.add(b * B::BYTES));
                for t in 0..T {
                    let a = q.add(t * k + b * BLOCK).cast::<i32>();
                    let mut sums = [S::zero(); 2];
                    for i in 0..8 {
                        let a = a.add(i).read_unaligned();
                        sums[i % 2] = match B::WIDE {
                            true => S::dot_wide(sums[i % 2], block.q[i], a),
                            false => S::dot(sums[i % 2], block.q[i], a),
                        };
                    }
                    let [scale, sum] = *scales.add(t * blocks + b);
                    let whole = S::mul(S::add(S::to_f(sums[0]), S::to_f(sums[1])), S::splat(scale));
                    acc[t] = S::fma(block.d, whole, S::fma(block.m, S::splat(sum), acc[t]));
                }
            }
            acc
        }
    }
}

/// Blocks decoded on the way, for f32 on the left.
#[derive(Clone, Copy)]
struct Decoded<B>(*const u8, B);

impl<S: Isa, B: Blocks> Tile<S> for Decoded<B> {
    #[inline(always)]
    unsafe fn tile<const T: usize>(self, left: &Left, row: usize, k: usize) -> [S::F; T] {
        unsafe {
            let mut acc = [S::splat(0.0); T];
            for b in 0..k / BLOCK {
                let block = B::open::<S>(self.0.add(b * B::BYTES));
                let x = left.x.add(row * left.stride + b * BLOCK);
                for i in 0..8 {
                    let q = block.q[i];
                    let four = [S::byte::<0>(q), S::byte::<1>(q), S::byte::<2>(q), S::byte::<3>(q)];
                    for (j, q) in four.into_iter().enumerate() {
                        let w = S::fma(q, block.d, block.m);
                        for t in 0..T {
                            let x = *x.add(t * left.stride + i * 4 + j);
                            acc[t] = S::fma(S::splat(x), w, acc[t]);
                        }
                    }
                }
            }
            acc
        }
    }
}

/// Rows of f32 to bytes by block of 32.
pub struct Quantise {
    pub x: *const f32,
    pub blocks: usize,
    pub to: Quantised,
}

impl Kernel for Quantise {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Isa>(self) {
        unsafe {
            for b in 0..self.blocks {
                let (x, q) = (self.x.add(b * BLOCK), self.to.q.add(b * BLOCK));
                let (u, v) = (S::load(x), S::load(x.add(LANES)));
                let most = S::largest(S::max(S::abs(u), S::abs(v)));
                let invert = if most > 0.0 { 127.0 / most } else { 0.0 };
                // A block of denormal numbers has no inverse: it counts as zeros.
                let invert = if invert.is_finite() { invert } else { 0.0 };
                let (u, v) = (S::round(S::mul(u, S::splat(invert))), S::round(S::mul(v, S::splat(invert))));
                S::store_i8(q, u);
                S::store_i8(q.add(LANES), v);
                let scale = if most.is_finite() { most / 127.0 } else { f32::NAN };
                *self.to.scales.add(b) = [scale, scale * S::sum(S::add(u, v))];
            }
        }
    }
}

//! Products with packed weights, and the tile of f32 that they and attention share.
//!
//! A tile is some rows of the left operand by sixteen outputs. Each output is one chain of sums along k, in the same order
//! whatever the tile's height is: a row has the same bits alone and among others.

use super::blocks::{BLOCK, Block, Blocks, OPEN, Open, Scheme, Visit, write_open};
use super::isa::{Isa, Kernel, LANES, Set, math};
use super::pack::{Form, Packed};
use std::marker::PhantomData;

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
    /// For each block its scale, then the scale times the sums of all its bytes, of the first half and of the second.
    pub scales: *mut [f32; 4],
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
#[derive(Clone, Copy)]
pub struct Product<'a> {
    pub left: Left,
    pub weight: &'a Packed,
    pub out: *mut f32,
    pub post: &'a [Post],
    /// Floats of the worker's own, as many as [`scratch_floats`] says.
    pub scratch: *mut f32,
}

/// Floats that a product of so many rows with a weight needs beside it.
pub fn scratch_floats(weight: &Packed, m: usize, whole: bool) -> usize {
    match weight.form {
        Form::Blocks(_) if m > 1 && whole => weight.k / BLOCK * OPEN / 4,
        Form::Blocks(_) if m > 1 => weight.k * LANES,
        _ => 0,
    }
}

impl Product<'_> {
    /// Computes the outputs of some groups.
    ///
    /// # Safety
    /// The operands have their rows, and the scratch its floats.
    pub unsafe fn groups(self, set: Set, groups: std::ops::Range<usize>) {
        unsafe {
            let Form::Blocks(scheme) = self.weight.form else {
                return set.run(Plain { of: self, groups });
            };
            if self.left.m <= set.few() {
                return set.run(FewRows { of: self, scheme, groups });
            }
            // What many rows meet is opened once for them all.
            for g in groups {
                let (from, to) = (self.weight.group(g), self.scratch.cast());
                let (k, whole) = (self.weight.k, self.left.q);
                set.run(OpenGroup { scheme, from, to, k, floats: whole.is_none() });
                match whole {
                    Some(q) => set.run(ManyRows { of: self, kind: scheme.kind(), q, g }),
                    None => set.run(ManyFloats { of: self, g }),
                }
            }
        }
    }
}

/// Weights of floats.
struct Plain<'a> {
    of: Product<'a>,
    groups: std::ops::Range<usize>,
}

impl Kernel for Plain<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Isa>(self) {
        unsafe {
            for g in self.groups {
                let p = self.of.weight.group(g);
                match self.of.weight.form {
                    Form::F32 => self.of.rows::<S, Floats<f32>>(Floats(p.cast()), g),
                    Form::F16 => self.of.rows::<S, Floats<u16>>(Floats(p.cast()), g),
                    Form::BF16 => self.of.rows::<S, Floats<Upper>>(Floats(p.cast()), g),
                    Form::Blocks(_) => {}
                }
            }
        }
    }
}

/// Quantised weights and few rows: each block is read once, as it lies, for opening it would cost more than that saves.
struct FewRows<'a> {
    of: Product<'a>,
    scheme: Scheme,
    groups: std::ops::Range<usize>,
}

impl Kernel for FewRows<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Isa>(self) {
        unsafe { self.scheme.with(FewRowsOf::<S>(self.of, self.groups, PhantomData)) }
    }
}

struct FewRowsOf<'a, S>(Product<'a>, std::ops::Range<usize>, PhantomData<S>);

impl<S: Isa> Visit for FewRowsOf<'_, S> {
    type Out = ();
    #[inline(always)]
    unsafe fn visit<B: Blocks>(self, blocks: B) {
        unsafe {
            let FewRowsOf(of, mut groups, _) = self;
            match of.left.m {
                0 => {}
                1 => {
                    while of.left.q.is_none() && groups.len() >= 4 {
                        groups.start += of.decoded::<S, B, 1, 4>(blocks, groups.start);
                    }
                    of.few::<S, B, 1>(blocks, groups);
                }
                2 if S::FEW >= 2 => of.few::<S, B, 2>(blocks, groups),
                3 if S::FEW >= 3 => of.few::<S, B, 3>(blocks, groups),
                _ if S::FEW >= 4 => of.few::<S, B, 4>(blocks, groups),
                _ => {}
            }
        }
    }
}

/// A group's blocks, opened for many rows: as bytes, or as floats.
struct OpenGroup {
    scheme: Scheme,
    from: *const u8,
    to: *mut u8,
    k: usize,
    floats: bool,
}

impl Kernel for OpenGroup {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Isa>(self) {
        unsafe { self.scheme.with(OpenGroupOf::<S>(self, PhantomData)) }
    }
}

struct OpenGroupOf<S>(OpenGroup, PhantomData<S>);

impl<S: Isa> Visit for OpenGroupOf<S> {
    type Out = ();
    #[inline(always)]
    unsafe fn visit<B: Blocks>(self, blocks: B) {
        unsafe {
            let (mut to, bytes) = (self.0.to, if B::HALVES { OPEN } else { <Open<false, false> as Blocks>::BYTES });
            for step in 0..self.0.k / (BLOCK * B::SHARE) {
                let p = self.0.from.add(step * B::STEP);
                let head = blocks.head::<S>(p);
                for b in 0..B::SHARE {
                    let block = blocks.open::<S>(head, p.add(B::HEAD + b * B::BYTES));
                    if self.0.floats {
                        for i in 0..8 {
                            for w in four::<S>(&block, i) {
                                S::store(to.cast(), w);
                                to = to.add(4 * LANES);
                            }
                        }
                    } else {
                        write_open::<S>(block, B::HALVES, to);
                        to = to.add(bytes);
                    }
                }
            }
        }
    }
}

/// Opened bytes and many rows in bytes.
struct ManyRows<'a> {
    of: Product<'a>,
    /// Halves with factors of their own; bytes beyond 127.
    kind: (bool, bool),
    q: Quantised,
    g: usize,
}

impl Kernel for ManyRows<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Isa>(self) {
        unsafe {
            let (p, g) = (self.of.scratch.cast_const().cast::<u8>(), self.g);
            match self.kind {
                (false, false) => self.of.rows::<S, _>(Whole(p, Open::<false, false>, self.q), g),
                (false, true) => self.of.rows::<S, _>(Whole(p, Open::<false, true>, self.q), g),
                (true, _) => self.of.rows::<S, _>(Whole(p, Open::<true, true>, self.q), g),
            }
        }
    }
}

/// Opened floats and many rows.
struct ManyFloats<'a> {
    of: Product<'a>,
    g: usize,
}

impl Kernel for ManyFloats<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Isa>(self) {
        unsafe { self.of.rows::<S, _>(Floats(self.of.scratch.cast_const()), self.g) }
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
                    3 => self.some::<S, W, 3>(w, g, row),
                    2 => self.some::<S, W, 2>(w, g, row),
                    _ => self.some::<S, W, 1>(w, g, row),
                };
            }
        }
    }

    /// A tile of rows; how many.
    #[inline(always)]
    unsafe fn some<S: Isa, W: Tile<S>, const T: usize>(&self, w: W, g: usize, row: usize) -> usize {
        unsafe {
            let acc = w.tile::<T>(&self.left, row, self.weight.k);
            for (t, y) in acc.into_iter().enumerate() {
                self.store::<S>(y, g, row + t);
            }
            T
        }
    }

    /// Some groups times all of `T` rows.
    #[inline(always)]
    unsafe fn few<S: Isa, B: Blocks, const T: usize>(&self, blocks: B, groups: std::ops::Range<usize>) {
        unsafe {
            for g in groups {
                match self.left.q {
                    Some(q) => self.some::<S, _, T>(Whole(self.weight.group(g), blocks, q), g, 0),
                    None => self.decoded::<S, B, T, 1>(blocks, g),
                };
            }
        }
    }

    /// `G` groups times the first `T` rows, f32 on the left: blocks are decoded on the way. Each output is a chain of sums, whose
    /// additions wait for each other: several side by side keep the units busy.
    #[inline(always)]
    unsafe fn decoded<S: Isa, B: Blocks, const T: usize, const G: usize>(&self, blocks: B, first: usize) -> usize {
        unsafe {
            let (mut acc, mut x, stride) = ([[S::splat(0.0); G]; T], self.left.x, self.left.stride);
            for step in 0..self.weight.k / (BLOCK * B::SHARE) {
                for b in 0..B::SHARE {
                    for g in 0..G {
                        let p = self.weight.group(first + g).add(step * B::STEP);
                        let block = blocks.open::<S>(blocks.head::<S>(p), p.add(B::HEAD + b * B::BYTES));
                        for i in 0..8 {
                            for (j, w) in four::<S>(&block, i).into_iter().enumerate() {
                                for t in 0..T {
                                    acc[t][g] = S::fma(S::splat(*x.add(t * stride + 4 * i + j)), w, acc[t][g]);
                                }
                            }
                        }
                    }
                    x = x.add(BLOCK);
                }
            }
            for t in 0..T {
                for g in 0..G {
                    self.store::<S>(acc[t][g], first + g, t);
                }
            }
            G
        }
    }

    /// Sixteen outputs of a row to their places.
    #[inline(always)]
    unsafe fn store<S: Isa>(&self, mut y: S::F, g: usize, row: usize) {
        unsafe {
            let (n, first) = (self.weight.n, g * LANES);
            let (at, whole) = (row * n + first, first + LANES <= n);
            for post in self.post {
                y = match *post {
                    Post::Row(b) => S::add(y, load_some::<S>(b.add(first), n - first, whole)),
                    Post::Full(b) => S::add(y, load_some::<S>(b.add(at), n - first, whole)),
                    Post::Act(act) => act.apply::<S>(y),
                };
            }
            store_some::<S>(self.out.add(at), y, n - first, whole);
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

/// Signed whole numbers.
impl Element for i8 {
    const ZERO: i8 = 0;
    #[inline(always)]
    unsafe fn store<S: Isa>(p: *mut i8, x: S::F) {
        unsafe { S::store_i8(p, x) }
    }
    #[inline(always)]
    unsafe fn load<S: Isa>(p: *const i8) -> S::F {
        unsafe { S::load_i8(p) }
    }
}

/// The upper half of an f32.
#[derive(Clone, Copy)]
struct Upper(#[allow(dead_code)] u16);
impl Element for Upper {
    const ZERO: Upper = Upper(0);
    #[inline(always)]
    unsafe fn load<S: Isa>(p: *const Upper) -> S::F {
        unsafe { S::load_bf16(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store<S: Isa>(p: *mut Upper, x: S::F) {
        let mut all = [0.0f32; LANES];
        unsafe {
            S::store(all.as_mut_ptr(), x);
            for (i, x) in all.into_iter().enumerate() {
                *p.add(i) = Upper((x.to_bits() >> 16) as u16);
            }
        }
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
            let Whole(p, blocks, left) = self;
            let count = k / BLOCK;
            let q = left.q.cast_const().add(row * k);
            let scales = left.scales.cast_const().add(row * count);
            let mut acc = [S::splat(0.0); T];
            for step in 0..count / B::SHARE {
                let p = p.add(step * B::STEP);
                let head = blocks.head::<S>(p);
                for i in 0..B::SHARE {
                    let (b, block) = (step * B::SHARE + i, blocks.open::<S>(head, p.add(B::HEAD + i * B::BYTES)));
                    for t in 0..T {
                        let a = q.add(t * k + b * BLOCK).cast::<i32>();
                        acc[t] = add_block::<S, B>(&block, a, &*scales.add(t * count + b), acc[t]);
                    }
                }
            }
            acc
        }
    }
}

/// `scale` times some vectors of a block times the bytes of the left operand that they meet.
#[inline(always)]
unsafe fn dot<S: Isa, B: Blocks, const FROM: usize, const TO: usize>(q: &[S::B; 8], a: *const i32, scale: f32) -> S::F {
    unsafe {
        let mut sum = S::zero();
        for i in FROM..TO {
            let a = a.add(i).read_unaligned();
            sum = if B::WIDE { S::dot_wide(sum, q[i], a) } else { S::dot(sum, q[i], a) };
        }
        S::mul(S::to_f(sum), S::splat(scale))
    }
}

/// A block times 32 bytes of the left operand, added to `acc`.
#[inline(always)]
unsafe fn add_block<S: Isa, B: Blocks>(block: &Block<S>, a: *const i32, scales: &[f32; 4], acc: S::F) -> S::F {
    unsafe {
        if B::HALVES {
            let (first, second) =
                (dot::<S, B, 0, 4>(&block.q, a, scales[0]), dot::<S, B, 4, 8>(&block.q, a, scales[0]));
            let acc = S::fma(block.d[0], first, S::fma(block.m[0], S::splat(scales[2]), acc));
            S::fma(block.d[1], second, S::fma(block.m[1], S::splat(scales[3]), acc))
        } else {
            let all = dot::<S, B, 0, 8>(&block.q, a, scales[0]);
            S::fma(block.d[0], all, S::fma(block.m[0], S::splat(scales[1]), acc))
        }
    }
}

/// Elements 4i … 4i + 3 of a block's sixteen rows as floats.
#[inline(always)]
unsafe fn four<S: Isa>(block: &Block<S>, i: usize) -> [S::F; 4] {
    unsafe {
        let (q, d, m) = (block.q[i], block.d[i / 4], block.m[i / 4]);
        [
            S::fma(S::byte::<0>(q), d, m),
            S::fma(S::byte::<1>(q), d, m),
            S::fma(S::byte::<2>(q), d, m),
            S::fma(S::byte::<3>(q), d, m),
        ]
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
                let (first, second) = (S::sum(u), S::sum(v));
                *self.to.scales.add(b) = [scale, scale * (first + second), scale * first, scale * second];
            }
        }
    }
}

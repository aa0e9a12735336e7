//! How kernels read packed blocks of quantised weights: sixteen rows of 32 elements at a time.
//!
//! A step is what a block of the file becomes: the sixteen rows' factors of 16 bits (the head), then for each 32 elements
//! their scales of a byte, if there are any, and their numbers. Numbers of four bits are four vectors, of which vector j has
//! elements 4j … 4j + 3 of each row in the low bits and those of 16 + 4j … in the high bits; pairs of bits are two vectors, and
//! single bits one, in which bit i is of elements 4i … 4i + 3.

use super::isa::{Isa, LANES};
use crate::format::{GROUP, Levels, Numbers, Scales};

/// Elements of a row in a block.
pub const BLOCK: usize = GROUP;
const VECTOR: usize = 4 * LANES;

/// A block: every element is `d · q + m`, `q` a byte without sign. Its halves have factors of their own where
/// [`Blocks::HALVES`] says so, else the first holds for both.
pub struct Block<S: Isa> {
    pub q: [S::B; 8],
    pub d: [S::F; 2],
    pub m: [S::F; 2],
}

/// One way in which blocks lie.
pub trait Blocks: Copy {
    /// Blocks of a step, bytes of its head, and of each block.
    const SHARE: usize;
    const HEAD: usize;
    const BYTES: usize;
    /// Whether bytes go beyond 127.
    const WIDE: bool;
    const HALVES: bool;
    const STEP: usize = Self::HEAD + Self::SHARE * Self::BYTES;
    /// # Safety
    /// As of [`Isa`]; `p` is the start of a step.
    unsafe fn head<S: Isa>(self, p: *const u8) -> [S::F; 2];
    /// # Safety
    /// As of [`Isa`]; `p` is the start of a block.
    unsafe fn open<S: Isa>(self, head: [S::F; 2], p: *const u8) -> Block<S>;
}

/// How numbers lie.
trait Bits: Copy {
    const BYTES: usize;
    const WIDE: bool = false;
    unsafe fn open<S: Isa>(self, p: *const u8) -> [S::B; 8];
}

/// Eight vectors of an expression of their number. Closures would be functions of their own, without vector instructions.
macro_rules! eight {
    ($i:ident => $e:expr) => {
        eight!($i => $e, 0 1 2 3 4 5 6 7)
    };
    ($i:ident => $e:expr, $($n:literal)*) => {
        [$({
            const $i: usize = $n;
            $e
        }),*]
    };
}

#[inline(always)]
unsafe fn nibbles<S: Isa>(p: *const u8) -> [S::B; 8] {
    unsafe {
        let b = [S::load_b(p), S::load_b(p.add(VECTOR)), S::load_b(p.add(2 * VECTOR)), S::load_b(p.add(3 * VECTOR))];
        eight!(I => S::bits(b[I % 4], 4 * (I / 4) as i32, 15))
    }
}

/// Two bits of each number, moved up by `up`.
#[inline(always)]
unsafe fn pairs<S: Isa>(p: *const u8, up: i32) -> [S::B; 8] {
    unsafe {
        let b = [S::load_b(p), S::load_b(p.add(VECTOR))];
        eight!(I => S::bits(b[I % 2], 2 * (I / 2) as i32 - up, 3 << up))
    }
}

/// One bit of each number, moved up by `up`.
#[inline(always)]
unsafe fn singles<S: Isa>(p: *const u8, up: i32) -> [S::B; 8] {
    unsafe {
        let b = S::load_b(p);
        eight!(I => S::bits(b, I as i32 - up, 1 << up))
    }
}

#[inline(always)]
unsafe fn both<S: Isa>(a: [S::B; 8], b: [S::B; 8]) -> [S::B; 8] {
    unsafe { eight!(I => S::or(a[I], b[I])) }
}

macro_rules! bits {
    ($($name:ident: $vectors:literal, $wide:literal, |$p:ident| $open:expr;)*) => {$(
        #[derive(Clone, Copy)]
        struct $name;
        impl Bits for $name {
            const BYTES: usize = $vectors * VECTOR;
            const WIDE: bool = $wide;
            #[inline(always)]
            unsafe fn open<S: Isa>(self, $p: *const u8) -> [S::B; 8] {
                unsafe { $open }
            }
        }
    )*};
}

bits! {
    Two: 2, false, |p| pairs::<S>(p, 0);
    Three: 3, false, |p| both::<S>(pairs::<S>(p, 0), singles::<S>(p.add(2 * VECTOR), 2));
    Four: 4, false, |p| nibbles::<S>(p);
    Five: 5, false, |p| both::<S>(nibbles::<S>(p), singles::<S>(p.add(4 * VECTOR), 4));
    Six: 6, false, |p| both::<S>(nibbles::<S>(p), pairs::<S>(p.add(4 * VECTOR), 4));
    Eight: 8, true, |p| eight!(I => S::load_b(p.add(I * VECTOR)));
}

/// Four bits that choose from a table.
#[derive(Clone, Copy)]
struct Chosen<const WIDE: bool>(&'static [u8; 16]);

impl<const W: bool> Bits for Chosen<W> {
    const BYTES: usize = 4 * VECTOR;
    const WIDE: bool = W;
    #[inline(always)]
    unsafe fn open<S: Isa>(self, p: *const u8) -> [S::B; 8] {
        unsafe {
            let q = nibbles::<S>(p);
            eight!(I => S::choose(self.0, q[I]))
        }
    }
}

/// Where factors come from.
trait Factors: Copy {
    const SHARE: usize;
    const HEAD: usize;
    const BYTES: usize;
    const HALVES: bool;
    unsafe fn head<S: Isa>(self, p: *const u8) -> [S::F; 2];
    unsafe fn open<S: Isa>(self, head: [S::F; 2], p: *const u8) -> ([S::F; 2], [S::F; 2]);
}

/// One number of 16 bits for a block: an f16, or the upper half of an f32.
#[derive(Clone, Copy)]
struct One<const POWER: bool> {
    zero: f32,
}
/// Two f16 for a block, the second of which is added.
#[derive(Clone, Copy)]
struct OneMin;
/// A signed byte for 32 elements or 16.
#[derive(Clone, Copy)]
struct Runs<const HALVES: bool> {
    zero: f32,
}
/// A byte for the factor and one for the minimum.
#[derive(Clone, Copy)]
struct RunsMin<const HALVES: bool>;

impl<const POWER: bool> Factors for One<POWER> {
    const SHARE: usize = 1;
    const HEAD: usize = 2 * LANES;
    const BYTES: usize = 0;
    const HALVES: bool = false;
    #[inline(always)]
    unsafe fn head<S: Isa>(self, p: *const u8) -> [S::F; 2] {
        unsafe {
            let d = if POWER { S::load_bf16(p.cast()) } else { S::load_f16(p.cast()) };
            [d, S::mul(d, S::splat(-self.zero))]
        }
    }
    #[inline(always)]
    unsafe fn open<S: Isa>(self, [d, m]: [S::F; 2], _: *const u8) -> ([S::F; 2], [S::F; 2]) {
        ([d; 2], [m; 2])
    }
}

impl Factors for OneMin {
    const SHARE: usize = 1;
    const HEAD: usize = 4 * LANES;
    const BYTES: usize = 0;
    const HALVES: bool = false;
    #[inline(always)]
    unsafe fn head<S: Isa>(self, p: *const u8) -> [S::F; 2] {
        unsafe { [S::load_f16(p.cast()), S::load_f16(p.add(2 * LANES).cast())] }
    }
    #[inline(always)]
    unsafe fn open<S: Isa>(self, [d, m]: [S::F; 2], _: *const u8) -> ([S::F; 2], [S::F; 2]) {
        ([d; 2], [m; 2])
    }
}

impl<const H: bool> Factors for Runs<H> {
    const SHARE: usize = 8;
    const HEAD: usize = 2 * LANES;
    const BYTES: usize = if H { 2 * LANES } else { LANES };
    const HALVES: bool = H;
    #[inline(always)]
    unsafe fn head<S: Isa>(self, p: *const u8) -> [S::F; 2] {
        unsafe { [S::load_f16(p.cast()); 2] }
    }
    #[inline(always)]
    unsafe fn open<S: Isa>(self, [d, _]: [S::F; 2], p: *const u8) -> ([S::F; 2], [S::F; 2]) {
        unsafe {
            let zero = S::splat(-self.zero);
            let first = S::mul(d, S::load_i8(p.cast()));
            let second = if H { S::mul(d, S::load_i8(p.add(LANES).cast())) } else { first };
            ([first, second], [S::mul(first, zero), S::mul(second, zero)])
        }
    }
}

impl<const H: bool> Factors for RunsMin<H> {
    const SHARE: usize = 8;
    const HEAD: usize = 4 * LANES;
    const BYTES: usize = if H { 4 * LANES } else { 2 * LANES };
    const HALVES: bool = H;
    #[inline(always)]
    unsafe fn head<S: Isa>(self, p: *const u8) -> [S::F; 2] {
        unsafe { [S::load_f16(p.cast()), S::sub(S::splat(0.0), S::load_f16(p.add(2 * LANES).cast()))] }
    }
    #[inline(always)]
    unsafe fn open<S: Isa>(self, [d, m]: [S::F; 2], p: *const u8) -> ([S::F; 2], [S::F; 2]) {
        unsafe {
            let (scale, min) = (S::mul(d, S::load_u8(p)), S::mul(m, S::load_u8(p.add(Self::BYTES / 2))));
            if !H {
                return ([scale; 2], [min; 2]);
            }
            let second = [S::load_u8(p.add(LANES)), S::load_u8(p.add(3 * LANES))];
            ([scale, S::mul(d, second[0])], [min, S::mul(m, second[1])])
        }
    }
}

#[derive(Clone, Copy)]
struct Laid<F, B> {
    factors: F,
    bits: B,
}

impl<F: Factors, B: Bits> Blocks for Laid<F, B> {
    const SHARE: usize = F::SHARE;
    const HEAD: usize = F::HEAD;
    const BYTES: usize = F::BYTES + B::BYTES;
    const WIDE: bool = B::WIDE;
    const HALVES: bool = F::HALVES;
    #[inline(always)]
    unsafe fn head<S: Isa>(self, p: *const u8) -> [S::F; 2] {
        unsafe { self.factors.head::<S>(p) }
    }
    #[inline(always)]
    unsafe fn open<S: Isa>(self, head: [S::F; 2], p: *const u8) -> Block<S> {
        unsafe {
            let (d, m) = self.factors.open::<S>(head, p);
            Block { q: self.bits.open::<S>(p.add(F::BYTES)), d, m }
        }
    }
}

/// Blocks that were opened, for many rows of the left operand: a byte a number, and factors in f32.
#[derive(Clone, Copy)]
pub struct Open<const HALVES: bool, const WIDE: bool>;

impl<const H: bool, const W: bool> Blocks for Open<H, W> {
    const SHARE: usize = 1;
    const HEAD: usize = 0;
    const BYTES: usize = 8 * VECTOR + if H { 4 } else { 2 } * 4 * LANES;
    const WIDE: bool = W;
    const HALVES: bool = H;
    #[inline(always)]
    unsafe fn head<S: Isa>(self, _: *const u8) -> [S::F; 2] {
        unsafe { [S::splat(0.0); 2] }
    }
    #[inline(always)]
    unsafe fn open<S: Isa>(self, _: [S::F; 2], p: *const u8) -> Block<S> {
        unsafe {
            let factors = p.add(8 * VECTOR).cast::<f32>();
            let (d, m, next) = (S::load(factors), S::load(factors.add(LANES)), if H { 2 * LANES } else { 0 });
            let (second, least) = (S::load(factors.add(next)), S::load(factors.add(next + LANES)));
            Block { q: Eight.open::<S>(p), d: [d, second], m: [m, least] }
        }
    }
}

/// Writes a block as [`Open`] reads it.
///
/// # Safety
/// As of [`Isa`]; there is room for it.
#[inline(always)]
pub unsafe fn write_open<S: Isa>(block: Block<S>, halves: bool, to: *mut u8) {
    unsafe {
        for (i, q) in block.q.into_iter().enumerate() {
            S::store_b(to.add(i * VECTOR), q);
        }
        let factors = to.add(8 * VECTOR).cast::<f32>();
        S::store(factors, block.d[0]);
        S::store(factors.add(LANES), block.m[0]);
        if halves {
            S::store(factors.add(2 * LANES), block.d[1]);
            S::store(factors.add(3 * LANES), block.m[1]);
        }
    }
}

/// Bytes of an open block.
pub const OPEN: usize = <Open<true, true> as Blocks>::BYTES;

/// The ways in which formats' blocks lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    One4,
    One5,
    One8,
    OneChosen,
    Power,
    Min4,
    Min5,
    Runs3,
    Runs6,
    RunsChosen,
    RunsMin2,
    RunsMin4,
    RunsMin5,
}

/// A quantised format as kernels read it.
#[derive(Debug, Clone, Copy)]
pub struct Scheme {
    way: Way,
    levels: &'static Levels,
}

/// What is done with blocks, whatever way they lie in.
pub trait Visit {
    type Out;
    /// # Safety
    /// What the visitor asks for.
    unsafe fn visit<B: Blocks>(self, blocks: B) -> Self::Out;
}

impl Scheme {
    /// `None` for levels that no kernel reads.
    pub fn of(levels: &'static Levels) -> Option<Scheme> {
        let way = match (levels.scales, levels.bits, levels.steps) {
            (Scales::Half, 4, None) => Way::One4,
            (Scales::Half, 5, None) => Way::One5,
            (Scales::Half, 8, None) => Way::One8,
            (Scales::Half, 4, Some(_)) => Way::OneChosen,
            (Scales::Power, 4, Some(steps)) if steps.iter().all(|s| *s < 128) => Way::Power,
            (Scales::HalfMin, 4, None) => Way::Min4,
            (Scales::HalfMin, 5, None) => Way::Min5,
            (Scales::Runs(16), 3, None) => Way::Runs3,
            (Scales::Runs(16), 6, None) => Way::Runs6,
            (Scales::Runs(32), 4, Some(_)) => Way::RunsChosen,
            (Scales::RunsMin(16), 2, None) => Way::RunsMin2,
            (Scales::RunsMin(32), 4, None) => Way::RunsMin4,
            (Scales::RunsMin(32), 5, None) => Way::RunsMin5,
            _ => return None,
        };
        Some(Scheme { way, levels })
    }

    /// Elements of a row in a step: a block of the file.
    pub fn elements(self) -> usize {
        BLOCK * self.with_safe(|b| b.share)
    }
    /// Bytes of sixteen rows of a step.
    pub fn step(self) -> usize {
        self.with_safe(|b| b.head + b.share * b.bytes)
    }
    /// Whether the halves of a block have factors of their own; whether bytes go beyond 127.
    pub fn kind(self) -> (bool, bool) {
        self.with_safe(|b| (b.halves, b.wide))
    }

    fn with_safe<T>(self, f: impl Fn(Facts) -> T) -> T {
        // SAFETY: the visitor only reads constants.
        f(unsafe { self.with(Look) })
    }

    /// # Safety
    /// The visitor's conditions.
    #[inline(always)]
    pub unsafe fn with<V: Visit>(self, v: V) -> V::Out {
        let zero = self.levels.zero as f32;
        let steps = self.levels.steps.unwrap_or(&[0; 16]);
        let (one, runs) = (One::<false> { zero }, Runs::<true> { zero });
        unsafe {
            match self.way {
                Way::One4 => v.visit(Laid { factors: one, bits: Four }),
                Way::One5 => v.visit(Laid { factors: one, bits: Five }),
                Way::One8 => v.visit(Laid { factors: one, bits: Eight }),
                Way::OneChosen => v.visit(Laid { factors: one, bits: Chosen::<true>(steps) }),
                Way::Power => v.visit(Laid { factors: One::<true> { zero }, bits: Chosen::<false>(steps) }),
                Way::Min4 => v.visit(Laid { factors: OneMin, bits: Four }),
                Way::Min5 => v.visit(Laid { factors: OneMin, bits: Five }),
                Way::Runs3 => v.visit(Laid { factors: runs, bits: Three }),
                Way::Runs6 => v.visit(Laid { factors: runs, bits: Six }),
                Way::RunsChosen => v.visit(Laid { factors: Runs::<false> { zero }, bits: Chosen::<true>(steps) }),
                Way::RunsMin2 => v.visit(Laid { factors: RunsMin::<true>, bits: Two }),
                Way::RunsMin4 => v.visit(Laid { factors: RunsMin::<false>, bits: Four }),
                Way::RunsMin5 => v.visit(Laid { factors: RunsMin::<false>, bits: Five }),
            }
        }
    }

    /// Writes one row's block to its places in a step.
    pub fn put(self, block: &[u8], numbers: &mut Numbers, lane: usize, to: &mut [u8]) {
        (self.levels.read)(block, numbers);
        let (facts, mins) = (self.with_safe(|f| f), matches!(self.levels.scales, Scales::RunsMin(_)));
        for half in 0..facts.head / (2 * LANES) {
            let at = 2 * (half * LANES + lane);
            to[at..at + 2].copy_from_slice(&numbers.head[2 * half..2 * half + 2]);
        }
        let runs = if facts.halves { 2 } else { 1 };
        for (b, to) in to[facts.head..].chunks_exact_mut(facts.bytes).enumerate() {
            let mut to = to;
            if facts.share > 1 {
                let scales = &numbers.scales[b * runs..][..runs];
                let minima = &numbers.minima[b * runs..][..if mins { runs } else { 0 }];
                for (i, byte) in scales.iter().chain(minima).enumerate() {
                    to[i * LANES + lane] = *byte;
                }
                to = &mut to[(scales.len() + minima.len()) * LANES..];
            }
            put_numbers(self.levels.bits, &numbers.q[b * BLOCK..][..BLOCK], lane, to);
        }
    }
}

/// What is constant of a way.
#[derive(Clone, Copy)]
struct Facts {
    share: usize,
    head: usize,
    bytes: usize,
    halves: bool,
    wide: bool,
}

struct Look;

impl Visit for Look {
    type Out = Facts;
    unsafe fn visit<B: Blocks>(self, _: B) -> Facts {
        Facts { share: B::SHARE, head: B::HEAD, bytes: B::BYTES, halves: B::HALVES, wide: B::WIDE }
    }
}

/// 32 numbers of a row to the vectors of its block.
fn put_numbers(bits: u32, q: &[u8], lane: usize, to: &mut [u8]) {
    let word = |i: usize| u32::from_le_bytes([q[4 * i], q[4 * i + 1], q[4 * i + 2], q[4 * i + 3]]);
    let mut set = |j: usize, word: u32| {
        let at = j * VECTOR + 4 * lane;
        to[at..at + 4].copy_from_slice(&word.to_le_bytes());
    };
    let (four, two, one) = (0x0f0f_0f0f, 0x0303_0303, 0x0101_0101);
    let nibble = |j: usize| word(j) & four | (word(j + 4) & four) << 4;
    let pair = |j: usize, from: u32| (0..4).fold(0, |w, k| w | (word(j + 2 * k) >> from & two) << (2 * k));
    let single = |from: u32| (0..8).fold(0, |w, i| w | (word(i) >> from & one) << i);
    match bits {
        2 | 3 => {
            (0..2).for_each(|j| set(j, pair(j, 0)));
            if bits == 3 {
                set(2, single(2));
            }
        }
        8 => (0..8).for_each(|i| set(i, word(i))),
        _ => {
            (0..4).for_each(|j| set(j, nibble(j)));
            match bits {
                5 => set(4, single(4)),
                6 => (0..2).for_each(|j| set(4 + j, pair(j, 4))),
                _ => {}
            }
        }
    }
}

//! Sixteen lanes of f32 or i32, and dot products of bytes, as the instruction sets of CPUs have them.
//!
//! Kernels are written once over [`Isa`]; [`Set::run`] compiles each for every set and calls the one that was chosen. A set
//! exists only where the CPU has it, so that calling it is sound.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod math;
mod scalar;
pub use scalar::Scalar;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod simd128;

use std::fmt;

/// Lanes of a vector, and rows of weights that lie interleaved.
pub const LANES: usize = 16;

/// One instruction set. Methods with pointers read or write sixteen elements there.
///
/// # Safety
/// Every method may be called only where the CPU has the set; pointers must be good for what is read or written.
pub trait Isa: Copy + 'static {
    /// Rows of the left operand that fit the registers beside a vector of weights: 8, or 4.
    const TALL: usize;
    /// Rows up to which products meet blocks of weights as they lie: 4, or 1 where that is not worth its code.
    const FEW: usize = 4;
    /// 16 f32.
    type F: Copy;
    /// 16 i32.
    type I: Copy;
    /// 16 times 4 bytes.
    type B: Copy;

    unsafe fn splat(x: f32) -> Self::F;
    unsafe fn load(p: *const f32) -> Self::F;
    unsafe fn store(p: *mut f32, x: Self::F);
    unsafe fn load_f16(p: *const u16) -> Self::F;
    /// Rounds to nearest.
    unsafe fn store_f16(p: *mut u16, x: Self::F);
    /// The upper halves of 16 f32.
    unsafe fn load_bf16(p: *const u16) -> Self::F;
    /// 16 unsigned bytes as numbers.
    unsafe fn load_u8(p: *const u8) -> Self::F;
    /// 16 signed bytes as numbers.
    unsafe fn load_i8(p: *const i8) -> Self::F;
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sqrt(a: Self::F) -> Self::F;
    /// `a · b + c`.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The larger; `b` where one is NaN.
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    /// The smaller; `b` where one is NaN.
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn abs(a: Self::F) -> Self::F;
    /// `a` with the signs of `b`, `a` not negative.
    unsafe fn with_sign(a: Self::F, b: Self::F) -> Self::F;
    /// To the nearest whole number, halves to even.
    unsafe fn round(a: Self::F) -> Self::F;
    /// `a · 2ⁿ` for whole `n` within ±127.
    unsafe fn scale(a: Self::F, n: Self::F) -> Self::F;
    /// The sum of all lanes, by halves.
    unsafe fn sum(a: Self::F) -> f32;
    /// The largest lane.
    unsafe fn largest(a: Self::F) -> f32;

    unsafe fn zero() -> Self::I;
    unsafe fn to_f(a: Self::I) -> Self::F;
    /// Whole numbers within ±127 as bytes.
    unsafe fn store_i8(p: *mut i8, a: Self::F);
    unsafe fn load_b(p: *const u8) -> Self::B;
    unsafe fn store_b(p: *mut u8, b: Self::B);
    /// The bits of `mask` of each byte after a shift by less than 8 bits to the right (to the left where negative).
    unsafe fn bits(b: Self::B, right: i32, mask: u8) -> Self::B;
    unsafe fn or(a: Self::B, b: Self::B) -> Self::B;
    /// For each byte (below 16) that of the table.
    unsafe fn choose(table: &[u8; 16], b: Self::B) -> Self::B;
    /// Each lane's four bytes (0 … 127) times the four signed bytes of `a`, added to `acc`.
    unsafe fn dot(acc: Self::I, q: Self::B, a: i32) -> Self::I;
    /// Like [`Isa::dot`] for bytes 0 … 255 and factors −127 … 127.
    unsafe fn dot_wide(acc: Self::I, q: Self::B, a: i32) -> Self::I;
    /// Byte `J` of each lane as a number.
    unsafe fn byte<const J: u32>(b: Self::B) -> Self::F;
}

/// A kernel that can be compiled for every set.
pub trait Kernel {
    type Out;
    /// # Safety
    /// As of [`Isa`]. Must be `#[inline(always)]`, with all that it calls.
    unsafe fn run<S: Isa>(self) -> Self::Out;
}

/// An instruction set that this CPU has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Set(Kind);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
    Simd128,
}

impl Set {
    /// Every set that this CPU has, the widest last.
    pub fn all() -> Vec<Set> {
        #[allow(unused_mut)]
        let mut sets = vec![Set(Kind::Scalar)];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            if avx2 && is_x86_feature_detected!("f16c") {
                sets.push(Set(Kind::Avx2));
            }
            let wide = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
            if avx2 && wide && is_x86_feature_detected!("avx512dq") && is_x86_feature_detected!("avx512vnni") {
                sets.push(Set(Kind::Avx512));
            }
        }
        #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
        sets.push(Set(Kind::Simd128));
        sets
    }
    /// The widest set that this CPU has.
    pub fn best() -> Set {
        Set::all().pop().unwrap_or(Set(Kind::Scalar))
    }
    /// [`Isa::FEW`].
    pub fn few(self) -> usize {
        match self.0 {
            Kind::Scalar => Scalar::FEW,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => avx2::Avx2::FEW,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => avx512::Avx512::FEW,
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Kind::Simd128 => simd128::Simd128::FEW,
        }
    }
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "AVX2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "AVX-512 VNNI",
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Kind::Simd128 => "SIMD128",
        }
    }
    /// Runs a kernel as compiled for this set.
    ///
    /// # Safety
    /// The kernel's own conditions.
    pub unsafe fn run<K: Kernel>(self, kernel: K) -> K::Out {
        // SAFETY: a set exists only where the CPU has its features.
        unsafe {
            match self.0 {
                Kind::Scalar => kernel.run::<Scalar>(),
                #[cfg(target_arch = "x86_64")]
                Kind::Avx2 => {
                    #[target_feature(enable = "avx2,fma,f16c")]
                    unsafe fn go<K: Kernel>(kernel: K) -> K::Out {
                        unsafe { kernel.run::<avx2::Avx2>() }
                    }
                    go(kernel)
                }
                #[cfg(target_arch = "x86_64")]
                Kind::Avx512 => {
                    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vnni")]
                    unsafe fn go<K: Kernel>(kernel: K) -> K::Out {
                        unsafe { kernel.run::<avx512::Avx512>() }
                    }
                    go(kernel)
                }
                #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
                Kind::Simd128 => kernel.run::<simd128::Simd128>(),
            }
        }
    }
}

impl fmt::Debug for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

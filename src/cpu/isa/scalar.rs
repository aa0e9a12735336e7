//! Plain loops over sixteen elements: any CPU; compilers make vectors of them where they can.

use super::{Isa, LANES};
use half::f16;

#[derive(Clone, Copy)]
pub struct Scalar;

type F = [f32; LANES];

#[inline(always)]
fn map(a: F, f: impl Fn(f32) -> f32) -> F {
    let mut out = a;
    for x in &mut out {
        *x = f(*x);
    }
    out
}

#[inline(always)]
fn zip(a: F, b: F, f: impl Fn(f32, f32) -> f32) -> F {
    let mut out = a;
    for i in 0..LANES {
        out[i] = f(a[i], b[i]);
    }
    out
}

impl Isa for Scalar {
    const TALL: usize = 4;
    const FEW: usize = 1;
    type F = F;
    type I = [i32; LANES];
    type B = [u8; 4 * LANES];

    #[inline(always)]
    unsafe fn splat(x: f32) -> F {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> F {
        unsafe { p.cast::<F>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: F) {
        unsafe { p.cast::<F>().write_unaligned(x) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> F {
        unsafe { p.cast::<[u16; LANES]>().read_unaligned() }.map(|h| f16::from_bits(h).to_f32())
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, x: F) {
        unsafe { p.cast::<[u16; LANES]>().write_unaligned(x.map(|v| f16::from_f32(v).to_bits())) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> F {
        unsafe { p.cast::<[u16; LANES]>().read_unaligned() }.map(|h| f32::from_bits((h as u32) << 16))
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> F {
        unsafe { p.cast::<[i8; LANES]>().read_unaligned() }.map(f32::from)
    }
    #[inline(always)]
    unsafe fn load_u8(p: *const u8) -> F {
        unsafe { p.cast::<[u8; LANES]>().read_unaligned() }.map(f32::from)
    }
    #[inline(always)]
    unsafe fn add(a: F, b: F) -> F {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(a: F, b: F) -> F {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(a: F, b: F) -> F {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(a: F, b: F) -> F {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn sqrt(a: F) -> F {
        map(a, f32::sqrt)
    }
    #[inline(always)]
    unsafe fn fma(a: F, b: F, c: F) -> F {
        let mut out = c;
        for i in 0..LANES {
            out[i] += a[i] * b[i];
        }
        out
    }
    #[inline(always)]
    unsafe fn max(a: F, b: F) -> F {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn min(a: F, b: F) -> F {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn abs(a: F) -> F {
        map(a, f32::abs)
    }
    #[inline(always)]
    unsafe fn with_sign(a: F, b: F) -> F {
        zip(a, b, f32::copysign)
    }
    #[inline(always)]
    unsafe fn round(a: F) -> F {
        map(a, f32::round_ties_even)
    }
    #[inline(always)]
    unsafe fn scale(a: F, n: F) -> F {
        zip(a, n, |a, n| a * f32::from_bits(((n as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    unsafe fn sum(a: F) -> f32 {
        let mut a = a;
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                a[i] += a[i + half];
            }
        }
        a[0]
    }
    #[inline(always)]
    unsafe fn largest(a: F) -> f32 {
        a.iter().fold(f32::NEG_INFINITY, |m, x| if m > *x { m } else { *x })
    }

    #[inline(always)]
    unsafe fn zero() -> Self::I {
        [0; LANES]
    }
    #[inline(always)]
    unsafe fn to_f(a: Self::I) -> F {
        a.map(|x| x as f32)
    }
    #[inline(always)]
    unsafe fn store_i8(p: *mut i8, a: F) {
        unsafe { p.cast::<[i8; LANES]>().write_unaligned(a.map(|x| x as i8)) }
    }
    #[inline(always)]
    unsafe fn load_b(p: *const u8) -> Self::B {
        unsafe { p.cast::<Self::B>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_b(p: *mut u8, b: Self::B) {
        unsafe { p.cast::<Self::B>().write_unaligned(b) }
    }
    #[inline(always)]
    unsafe fn bits(b: Self::B, right: i32, mask: u8) -> Self::B {
        if right >= 0 { b.map(|x| x >> right & mask) } else { b.map(|x| x << -right & mask) }
    }
    #[inline(always)]
    unsafe fn or(a: Self::B, b: Self::B) -> Self::B {
        let mut out = a;
        for i in 0..4 * LANES {
            out[i] |= b[i];
        }
        out
    }
    #[inline(always)]
    unsafe fn choose(table: &[u8; 16], b: Self::B) -> Self::B {
        b.map(|x| table[(x & 15) as usize])
    }
    #[inline(always)]
    unsafe fn dot(acc: Self::I, q: Self::B, a: i32) -> Self::I {
        let (mut acc, a) = (acc, a.to_le_bytes().map(|x| x as i8 as i32));
        for i in 0..LANES {
            for j in 0..4 {
                acc[i] += q[i * 4 + j] as i32 * a[j];
            }
        }
        acc
    }
    #[inline(always)]
    unsafe fn dot_wide(acc: Self::I, q: Self::B, a: i32) -> Self::I {
        unsafe { Self::dot(acc, q, a) }
    }
    #[inline(always)]
    unsafe fn byte<const J: u32>(b: Self::B) -> F {
        let mut out = [0.0; LANES];
        for i in 0..LANES {
            out[i] = b[i * 4 + J as usize] as f32;
        }
        out
    }
}

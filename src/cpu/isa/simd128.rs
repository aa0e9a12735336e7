//! WebAssembly's SIMD: four registers are a vector.

use super::Isa;
use std::arch::wasm32::*;

#[derive(Clone, Copy)]
pub struct Simd128;

type V = [v128; 4];

#[inline(always)]
fn map(a: V, f: impl Fn(v128) -> v128) -> V {
    [f(a[0]), f(a[1]), f(a[2]), f(a[3])]
}

#[inline(always)]
fn zip(a: V, b: V, f: impl Fn(v128, v128) -> v128) -> V {
    [f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3])]
}

/// Sixteen half words as whole ones.
#[inline(always)]
fn widened(a: v128, b: v128) -> V {
    [u32x4_extend_low_u16x8(a), u32x4_extend_high_u16x8(a), u32x4_extend_low_u16x8(b), u32x4_extend_high_u16x8(b)]
}

/// Four halves in the low words of `h` as f32: the exponent is moved, and brought to its place by a product.
#[inline(always)]
fn widen(h: v128) -> v128 {
    let bits = v128_and(h, u32x4_splat(0x7fff));
    let value = f32x4_mul(u32x4_shl(bits, 13), f32x4_splat(f32::from_bits(0x7780_0000)));
    // Infinities and NaN keep all ones in their exponent.
    let special = u32x4_ge(bits, u32x4_splat(0x7c00));
    let value = v128_or(value, v128_and(special, u32x4_splat(0x7f80_0000)));
    v128_or(value, u32x4_shl(v128_and(h, u32x4_splat(0x8000)), 16))
}

impl Isa for Simd128 {
    const TALL: usize = 4;
    const FEW: usize = 1;
    type F = V;
    type I = V;
    type B = V;

    #[inline(always)]
    unsafe fn splat(x: f32) -> V {
        [f32x4_splat(x); 4]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> V {
        unsafe {
            [v128_load(p.cast()), v128_load(p.add(4).cast()), v128_load(p.add(8).cast()), v128_load(p.add(12).cast())]
        }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: V) {
        unsafe {
            for (i, x) in x.into_iter().enumerate() {
                v128_store(p.add(i * 4).cast(), x);
            }
        }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> V {
        unsafe {
            let (a, b) = (v128_load(p.cast()), v128_load(p.add(8).cast()));
            map(widened(a, b), widen)
        }
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, x: V) {
        let mut floats = [0.0f32; 16];
        unsafe {
            Self::store(floats.as_mut_ptr(), x);
            for (i, x) in floats.into_iter().enumerate() {
                *p.add(i) = half::f16::from_f32(x).to_bits();
            }
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> V {
        unsafe {
            let (a, b) = (v128_load(p.cast()), v128_load(p.add(8).cast()));
            map(widened(a, b), |x| u32x4_shl(x, 16))
        }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> V {
        unsafe {
            let b = v128_load(p.cast());
            let (a, b) = (i16x8_extend_low_i8x16(b), i16x8_extend_high_i8x16(b));
            map(
                [
                    i32x4_extend_low_i16x8(a),
                    i32x4_extend_high_i16x8(a),
                    i32x4_extend_low_i16x8(b),
                    i32x4_extend_high_i16x8(b),
                ],
                |x| f32x4_convert_i32x4(x),
            )
        }
    }
    #[inline(always)]
    unsafe fn load_u8(p: *const u8) -> V {
        unsafe {
            let b = v128_load(p.cast());
            let (a, b) = (u16x8_extend_low_u8x16(b), u16x8_extend_high_u8x16(b));
            map(widened(a, b), |x| f32x4_convert_u32x4(x))
        }
    }
    #[inline(always)]
    unsafe fn add(a: V, b: V) -> V {
        zip(a, b, |x, y| f32x4_add(x, y))
    }
    #[inline(always)]
    unsafe fn sub(a: V, b: V) -> V {
        zip(a, b, |x, y| f32x4_sub(x, y))
    }
    #[inline(always)]
    unsafe fn mul(a: V, b: V) -> V {
        zip(a, b, |x, y| f32x4_mul(x, y))
    }
    #[inline(always)]
    unsafe fn div(a: V, b: V) -> V {
        zip(a, b, |x, y| f32x4_div(x, y))
    }
    #[inline(always)]
    unsafe fn sqrt(a: V) -> V {
        map(a, |x| f32x4_sqrt(x))
    }
    #[inline(always)]
    unsafe fn fma(a: V, b: V, c: V) -> V {
        zip(zip(a, b, |x, y| f32x4_mul(x, y)), c, |x, y| f32x4_add(x, y))
    }
    // f32x4_pmax(b, a) is a where b < a, else b: b where one is NaN.
    #[inline(always)]
    unsafe fn max(a: V, b: V) -> V {
        zip(a, b, |a, b| f32x4_pmax(b, a))
    }
    #[inline(always)]
    unsafe fn min(a: V, b: V) -> V {
        zip(a, b, |a, b| f32x4_pmin(b, a))
    }
    #[inline(always)]
    unsafe fn abs(a: V) -> V {
        map(a, |x| f32x4_abs(x))
    }
    #[inline(always)]
    unsafe fn with_sign(a: V, b: V) -> V {
        zip(a, b, |a, b| v128_or(a, v128_and(b, u32x4_splat(0x8000_0000))))
    }
    #[inline(always)]
    unsafe fn round(a: V) -> V {
        map(a, |x| f32x4_nearest(x))
    }
    #[inline(always)]
    unsafe fn scale(a: V, n: V) -> V {
        zip(a, n, |a, n| {
            let power = i32x4_shl(i32x4_add(i32x4_trunc_sat_f32x4(n), i32x4_splat(127)), 23);
            f32x4_mul(a, power)
        })
    }
    #[inline(always)]
    unsafe fn sum(a: V) -> f32 {
        let four = f32x4_add(f32x4_add(a[0], a[2]), f32x4_add(a[1], a[3]));
        let two = f32x4_add(four, i32x4_shuffle::<2, 3, 0, 1>(four, four));
        f32x4_extract_lane::<0>(two) + f32x4_extract_lane::<1>(two)
    }
    #[inline(always)]
    unsafe fn largest(a: V) -> f32 {
        let four = f32x4_pmax(f32x4_pmax(a[0], a[2]), f32x4_pmax(a[1], a[3]));
        let two = f32x4_pmax(four, i32x4_shuffle::<2, 3, 0, 1>(four, four));
        let (x, y) = (f32x4_extract_lane::<0>(two), f32x4_extract_lane::<1>(two));
        if x > y { x } else { y }
    }

    #[inline(always)]
    unsafe fn zero() -> V {
        [i32x4_splat(0); 4]
    }
    #[inline(always)]
    unsafe fn to_f(a: V) -> V {
        map(a, |x| f32x4_convert_i32x4(x))
    }
    #[inline(always)]
    unsafe fn store_i8(p: *mut i8, a: V) {
        let a = map(a, |x| i32x4_trunc_sat_f32x4(x));
        let (low, high) = (i16x8_narrow_i32x4(a[0], a[1]), i16x8_narrow_i32x4(a[2], a[3]));
        unsafe { v128_store(p.cast(), i8x16_narrow_i16x8(low, high)) }
    }
    #[inline(always)]
    unsafe fn load_b(p: *const u8) -> V {
        unsafe {
            [v128_load(p.cast()), v128_load(p.add(16).cast()), v128_load(p.add(32).cast()), v128_load(p.add(48).cast())]
        }
    }
    #[inline(always)]
    unsafe fn store_b(p: *mut u8, b: V) {
        unsafe {
            for (i, b) in b.into_iter().enumerate() {
                v128_store(p.add(i * 16).cast(), b);
            }
        }
    }
    #[inline(always)]
    unsafe fn bits(b: V, right: i32, mask: u8) -> V {
        map(b, |b| {
            let moved = match right {
                0 => b,
                1.. => u8x16_shr(b, right as u32),
                _ => i8x16_shl(b, -right as u32),
            };
            v128_and(moved, u8x16_splat(mask))
        })
    }
    #[inline(always)]
    unsafe fn or(a: V, b: V) -> V {
        zip(a, b, |a, b| v128_or(a, b))
    }
    #[inline(always)]
    unsafe fn choose(table: &[u8; 16], b: V) -> V {
        let table = unsafe { v128_load(table.as_ptr().cast()) };
        map(b, |b| i8x16_swizzle(table, b))
    }
    #[inline(always)]
    unsafe fn dot(acc: V, q: V, a: i32) -> V {
        // Factors as 16 bits, twice: pairs of products are summed, then the two pairs of each lane.
        let a = i16x8_extend_low_i8x16(i32x4_splat(a));
        zip(acc, q, |acc, q| {
            let low = i32x4_dot_i16x8(u16x8_extend_low_u8x16(q), a);
            let high = i32x4_dot_i16x8(u16x8_extend_high_u8x16(q), a);
            let (even, odd) = (i32x4_shuffle::<0, 2, 4, 6>(low, high), i32x4_shuffle::<1, 3, 5, 7>(low, high));
            i32x4_add(acc, i32x4_add(even, odd))
        })
    }
    #[inline(always)]
    unsafe fn dot_wide(acc: V, q: V, a: i32) -> V {
        unsafe { Self::dot(acc, q, a) }
    }
    #[inline(always)]
    unsafe fn byte<const J: u32>(b: V) -> V {
        map(b, |b| f32x4_convert_u32x4(v128_and(u32x4_shr(b, 8 * J), u32x4_splat(255))))
    }
}

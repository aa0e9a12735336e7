//! AVX2 with FMA and F16C: two registers are a vector.

use super::Isa;
use std::arch::x86_64::*;

#[derive(Clone, Copy)]
pub struct Avx2;

type F = [__m256; 2];
type I = [__m256i; 2];

/// The same operation on both registers.
macro_rules! both {
    ($f:ident, $a:expr) => {
        unsafe { [$f($a[0]), $f($a[1])] }
    };
    ($f:ident, $a:expr, $b:expr) => {
        unsafe { [$f($a[0], $b[0]), $f($a[1], $b[1])] }
    };
}

#[inline(always)]
unsafe fn dot8(acc: __m256i, q: __m256i, a: __m256i) -> __m256i {
    unsafe { _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(q, a), _mm256_set1_epi16(1))) }
}

#[inline(always)]
unsafe fn dot8_wide(acc: __m256i, q: __m256i, a: __m256i) -> __m256i {
    unsafe {
        // Pairs of products must fit 16 bits: even and odd bytes apart.
        let even = _mm256_madd_epi16(
            _mm256_and_si256(q, _mm256_set1_epi16(255)),
            _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(a)),
        );
        let odd = _mm256_madd_epi16(_mm256_srli_epi16::<8>(q), _mm256_srai_epi16::<8>(a));
        _mm256_add_epi32(acc, _mm256_add_epi32(even, odd))
    }
}

impl Isa for Avx2 {
    const TALL: usize = 4;
    type F = F;
    type I = I;
    type B = I;

    #[inline(always)]
    unsafe fn splat(x: f32) -> F {
        unsafe { [_mm256_set1_ps(x); 2] }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> F {
        unsafe { [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))] }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: F) {
        unsafe {
            _mm256_storeu_ps(p, x[0]);
            _mm256_storeu_ps(p.add(8), x[1]);
        }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> F {
        unsafe { [_mm256_cvtph_ps(_mm_loadu_si128(p.cast())), _mm256_cvtph_ps(_mm_loadu_si128(p.add(8).cast()))] }
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, x: F) {
        unsafe {
            _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x[0]));
            _mm_storeu_si128(p.add(8).cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x[1]));
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> F {
        unsafe {
            let of = |p: *const u16| {
                let words = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words))
            };
            [of(p), of(p.add(8))]
        }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> F {
        unsafe {
            let of = |p: *const i8| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast())));
            [of(p), of(p.add(8))]
        }
    }
    #[inline(always)]
    unsafe fn load_u8(p: *const u8) -> F {
        unsafe {
            let of = |p: *const u8| _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast())));
            [of(p), of(p.add(8))]
        }
    }
    #[inline(always)]
    unsafe fn add(a: F, b: F) -> F {
        both!(_mm256_add_ps, a, b)
    }
    #[inline(always)]
    unsafe fn sub(a: F, b: F) -> F {
        both!(_mm256_sub_ps, a, b)
    }
    #[inline(always)]
    unsafe fn mul(a: F, b: F) -> F {
        both!(_mm256_mul_ps, a, b)
    }
    #[inline(always)]
    unsafe fn div(a: F, b: F) -> F {
        both!(_mm256_div_ps, a, b)
    }
    #[inline(always)]
    unsafe fn sqrt(a: F) -> F {
        both!(_mm256_sqrt_ps, a)
    }
    #[inline(always)]
    unsafe fn fma(a: F, b: F, c: F) -> F {
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }
    #[inline(always)]
    unsafe fn max(a: F, b: F) -> F {
        both!(_mm256_max_ps, a, b)
    }
    #[inline(always)]
    unsafe fn min(a: F, b: F) -> F {
        both!(_mm256_min_ps, a, b)
    }
    #[inline(always)]
    unsafe fn abs(a: F) -> F {
        unsafe {
            let sign = _mm256_set1_ps(-0.0);
            [_mm256_andnot_ps(sign, a[0]), _mm256_andnot_ps(sign, a[1])]
        }
    }
    #[inline(always)]
    unsafe fn with_sign(a: F, b: F) -> F {
        unsafe {
            let sign = _mm256_set1_ps(-0.0);
            [_mm256_or_ps(a[0], _mm256_and_ps(b[0], sign)), _mm256_or_ps(a[1], _mm256_and_ps(b[1], sign))]
        }
    }
    #[inline(always)]
    unsafe fn round(a: F) -> F {
        unsafe {
            [
                _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a[0]),
                _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a[1]),
            ]
        }
    }
    #[inline(always)]
    unsafe fn scale(a: F, n: F) -> F {
        unsafe {
            let bias = _mm256_set1_epi32(127);
            let of = |a, n| {
                let power = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(n), bias));
                _mm256_mul_ps(a, _mm256_castsi256_ps(power))
            };
            [of(a[0], n[0]), of(a[1], n[1])]
        }
    }
    #[inline(always)]
    unsafe fn sum(a: F) -> f32 {
        unsafe {
            let eight = _mm256_add_ps(a[0], a[1]);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
    #[inline(always)]
    unsafe fn largest(a: F) -> f32 {
        unsafe {
            let eight = _mm256_max_ps(a[0], a[1]);
            let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }

    #[inline(always)]
    unsafe fn zero() -> I {
        unsafe { [_mm256_setzero_si256(); 2] }
    }
    #[inline(always)]
    unsafe fn to_f(a: I) -> F {
        both!(_mm256_cvtepi32_ps, a)
    }
    #[inline(always)]
    unsafe fn store_i8(p: *mut i8, a: F) {
        unsafe {
            let words = _mm256_packs_epi32(_mm256_cvtps_epi32(a[0]), _mm256_cvtps_epi32(a[1]));
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(p.cast(), bytes);
        }
    }
    #[inline(always)]
    unsafe fn load_b(p: *const u8) -> I {
        unsafe { [_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast())] }
    }
    #[inline(always)]
    unsafe fn store_b(p: *mut u8, b: I) {
        unsafe {
            _mm256_storeu_si256(p.cast(), b[0]);
            _mm256_storeu_si256(p.add(32).cast(), b[1]);
        }
    }
    #[inline(always)]
    unsafe fn bits(b: I, right: i32, mask: u8) -> I {
        unsafe {
            let mask = _mm256_set1_epi8(mask as i8);
            let of = |b| {
                let moved = match right {
                    0 => b,
                    1.. => _mm256_srl_epi16(b, _mm_cvtsi32_si128(right)),
                    _ => _mm256_sll_epi16(b, _mm_cvtsi32_si128(-right)),
                };
                _mm256_and_si256(moved, mask)
            };
            [of(b[0]), of(b[1])]
        }
    }
    #[inline(always)]
    unsafe fn or(a: I, b: I) -> I {
        both!(_mm256_or_si256, a, b)
    }
    #[inline(always)]
    unsafe fn choose(table: &[u8; 16], b: I) -> I {
        unsafe {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            [_mm256_shuffle_epi8(table, b[0]), _mm256_shuffle_epi8(table, b[1])]
        }
    }
    #[inline(always)]
    unsafe fn dot(acc: I, q: I, a: i32) -> I {
        unsafe {
            let a = _mm256_set1_epi32(a);
            [dot8(acc[0], q[0], a), dot8(acc[1], q[1], a)]
        }
    }
    #[inline(always)]
    unsafe fn dot_wide(acc: I, q: I, a: i32) -> I {
        unsafe {
            let a = _mm256_set1_epi32(a);
            [dot8_wide(acc[0], q[0], a), dot8_wide(acc[1], q[1], a)]
        }
    }
    #[inline(always)]
    unsafe fn byte<const J: u32>(b: I) -> F {
        unsafe {
            let mask = _mm256_set1_epi32(255);
            let of = |b| {
                let moved = match J {
                    0 => b,
                    1 => _mm256_srli_epi32::<8>(b),
                    2 => _mm256_srli_epi32::<16>(b),
                    _ => _mm256_srli_epi32::<24>(b),
                };
                _mm256_cvtepi32_ps(_mm256_and_si256(moved, mask))
            };
            [of(b[0]), of(b[1])]
        }
    }
}

//! Functions of sixteen elements that no instruction set has.

use super::Isa;

/// eˣ for x within −87.3 and 88, beyond as at the nearer end; NaN for NaN. Within 2 units of the last place (Cephes' polynomial).
#[inline(always)]
pub unsafe fn exp<S: Isa>(x: S::F) -> S::F {
    unsafe {
        // NaN passes: it is the second operand.
        let x = S::min(S::splat(88.0), S::max(S::splat(-87.3), x));
        let n = S::round(S::mul(x, S::splat(std::f32::consts::LOG2_E)));
        let r = S::fma(n, S::splat(-0.693_359_4), x);
        let r = S::fma(n, S::splat(2.121_944_4e-4), r);
        let mut p = S::splat(1.987_569_1e-4);
        for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
            p = S::fma(p, r, S::splat(c));
        }
        let y = S::add(S::fma(S::mul(r, r), p, r), S::splat(1.0));
        S::scale(y, n)
    }
}

/// 1 / (1 + e⁻ˣ).
#[inline(always)]
pub unsafe fn sigmoid<S: Isa>(x: S::F) -> S::F {
    unsafe { S::div(S::splat(1.0), S::add(S::splat(1.0), exp::<S>(S::sub(S::splat(0.0), x)))) }
}

/// x · sigmoid(x).
#[inline(always)]
pub unsafe fn silu<S: Isa>(x: S::F) -> S::F {
    unsafe { S::div(x, S::add(S::splat(1.0), exp::<S>(S::sub(S::splat(0.0), x)))) }
}

/// x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³))), which is x · sigmoid of twice the inner term.
#[inline(always)]
pub unsafe fn gelu_tanh<S: Isa>(x: S::F) -> S::F {
    unsafe {
        let cube = S::mul(S::mul(x, x), x);
        let inner = S::mul(S::splat(1.595_769), S::fma(S::splat(0.044715), cube, x));
        S::div(x, S::add(S::splat(1.0), exp::<S>(S::sub(S::splat(0.0), inner))))
    }
}

/// x · Φ(x), with the error function of Abramowitz and Stegun 7.1.26.
#[inline(always)]
pub unsafe fn gelu<S: Isa>(x: S::F) -> S::F {
    unsafe {
        let z = S::mul(x, S::splat(std::f32::consts::FRAC_1_SQRT_2));
        let a = S::abs(z);
        let t = S::div(S::splat(1.0), S::fma(S::splat(0.327_591_1), a, S::splat(1.0)));
        let mut p = S::splat(1.061_405_4);
        for c in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
            p = S::fma(p, t, S::splat(c));
        }
        let tail = S::mul(S::mul(p, t), exp::<S>(S::sub(S::splat(0.0), S::mul(a, a))));
        let erf = S::with_sign(S::sub(S::splat(1.0), tail), z);
        S::mul(S::mul(S::splat(0.5), x), S::add(S::splat(1.0), erf))
    }
}

/// tanh x, as 1 − 2 / (e²ˣ + 1): off by 10⁻⁷ at most.
#[inline(always)]
pub unsafe fn tanh<S: Isa>(x: S::F) -> S::F {
    unsafe {
        let e = exp::<S>(S::add(x, x));
        S::sub(S::splat(1.0), S::div(S::splat(2.0), S::add(e, S::splat(1.0))))
    }
}

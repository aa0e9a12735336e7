//! Loops compiled for the vector units that the CPU has.

/// Functions that choose the widest form of `inner` that this CPU runs.
macro_rules! widest {
    ($($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),*) $(-> $out:ty)? = $inner:ident;)*) => {$(
        $(#[$doc])*
        $vis fn $name($($arg: $ty),*) $(-> $out)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma,f16c")]
                fn wide($($arg: $ty),*) $(-> $out)? {
                    $inner($($arg),*)
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
                    // SAFETY: the features were just seen.
                    return unsafe { wide($($arg),*) };
                }
            }
            $inner($($arg),*)
        }
    )*};
}
pub(crate) use widest;

widest! {
    /// Σ x·y.
    pub(super) fn dot(x: &[f32], y: &[f32]) -> f32 = dot_inner;
}

#[inline(always)]
fn dot_inner(x: &[f32], y: &[f32]) -> f32 {
    let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<8>(), y.as_chunks::<8>());
    let (mut sums, mut sum) = ([0.0f32; 8], 0.0);
    for (x, y) in x.iter().zip(y) {
        for i in 0..8 {
            sums[i] += x[i] * y[i];
        }
    }
    for (a, b) in x_rest.iter().zip(y_rest) {
        sum += a * b;
    }
    sums.iter().sum::<f32>() + sum
}

/// The f16 at a byte.
#[inline(always)]
pub(super) fn half(b: &[u8], at: usize) -> f32 {
    half::f16::from_le_bytes([b[at], b[at + 1]]).to_f32()
}

/// Appends a number as f16.
pub(super) fn push_half(out: &mut Vec<u8>, x: f32) {
    out.extend(half::f16::from_f32(x).to_le_bytes());
}

/// 1 / x, 0 for 0.
pub(super) fn inverse(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}

//! Least squares for encoders: the scale, or scale and offset, with which small whole numbers come nearest to values.

/// Inverse scales that are tried, as shares of the one at which the largest value is the largest number.
fn candidates() -> impl Iterator<Item = f32> {
    (0..=20).map(|i| 0.75 + 0.025 * i as f32)
}

/// The scale d with which d·q, q from `lo` to `hi`, is nearest to `x`, where errors of large values count more.
pub fn scale(x: &[f32], lo: i32, hi: i32) -> f32 {
    let level = |v: f32| (v.round() as i32).clamp(lo, hi) as f32;
    by_levels(x, if lo < -hi { lo } else { hi } as f32, level)
}

/// The same for numbers that `level` makes of scaled values; `end` is the number farthest from zero.
pub fn by_levels(x: &[f32], end: f32, level: impl Fn(f32) -> f32) -> f32 {
    let extreme = super::nibbles::extreme(x);
    if extreme == 0.0 || !extreme.is_finite() {
        return 0.0;
    }
    let (mut best, mut found) = (f32::NEG_INFINITY, 0.0);
    for (share, sign) in candidates().flat_map(|c| [(c, 1.0), (c, -1.0)]) {
        let inverse = sign * share * end / extreme;
        let (mut with, mut of) = (0.0f32, 0.0f32);
        for v in x {
            let (q, w) = (level(v * inverse), v * v);
            with += w * v * q;
            of += w * q * q;
        }
        // Σ w·(v − d·q)² is least at d = with / of, and less the larger with² / of is.
        if of > 0.0 && with * with / of > best {
            (best, found) = (with * with / of, with / of);
        }
    }
    found
}

/// The scale d and offset m ≥ 0 with which d·q − m, q from 0 to `hi`, is nearest to `x`.
pub fn affine(x: &[f32], hi: u8) -> (f32, f32) {
    let (lo, up) = super::nibbles::range(x);
    let lo = lo.min(0.0);
    if up <= lo || !(up - lo).is_finite() {
        return (0.0, -lo);
    }
    let (mut best, mut found) = (f32::INFINITY, (0.0, 0.0));
    for share in candidates() {
        let (mut d, mut m) = ((up - lo) / (hi as f32 * share), -lo);
        // Numbers for a scale, then the scale for these numbers.
        for _ in 0..2 {
            let (n, mut sq, mut sqq, mut sx, mut sxq) = (x.len() as f32, 0.0f32, 0.0f32, 0.0f32, 0.0f32);
            for v in x {
                let q = ((v + m) / d).round().clamp(0.0, hi as f32);
                sq += q;
                sqq += q * q;
                sx += v;
                sxq += v * q;
            }
            let det = n * sqq - sq * sq;
            if det <= 0.0 {
                break;
            }
            let (slope, start) = ((n * sxq - sq * sx) / det, (sqq * sx - sq * sxq) / det);
            (d, m) = if start <= 0.0 { (slope, -start) } else { (sxq / sqq, 0.0) };
            if d.is_nan() || d <= 0.0 {
                break;
            }
        }
        if d.is_nan() || d <= 0.0 {
            continue;
        }
        let error = |v: &f32| {
            let e = v - (d * ((v + m) / d).round().clamp(0.0, hi as f32) - m);
            e * e
        };
        let error: f32 = x.iter().map(error).sum();
        if error < best {
            (best, found) = (error, (d, m));
        }
    }
    found
}

/// The number from 0 to `hi` whose value d·q − m is nearest to `x`.
pub fn nearest(x: f32, d: f32, m: f32, hi: u8) -> u8 {
    if d == 0.0 { 0 } else { ((x + m) / d).round().clamp(0.0, hi as f32) as u8 }
}

/// f16 and back.
pub fn as_half(x: f32) -> f32 {
    half::f16::from_f32(x).to_f32()
}

// erf by Abramowitz and Stegun 7.1.26: |error| <= 1.5e-7.
fn erf_series(x: f32) -> f32 {
    let z = abs(x);
    let t = 1.0 / (1.0 + 0.3275911 * z);
    let q = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    let e = 1.0 - q * exp(-z * z);
    return select(-e, e, x >= 0.0);
}

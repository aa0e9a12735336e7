// x · Φ(x), with erf by Abramowitz and Stegun 7.1.26: |error| <= 1.5e-7.
fn gelu_erf(x: f32) -> f32 {
    let z = abs(x) * 0.70710678;
    let t = 1.0 / (1.0 + 0.3275911 * z);
    let q = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    let e = 1.0 - q * exp(-z * z);
    return 0.5 * x * (1.0 + select(-e, e, x >= 0.0));
}

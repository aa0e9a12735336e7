//! Fitting a few constants to measurements: Nelder and Mead's simplex (1965), restarted, over scaled and bounded values.

/// A constant to find.
#[derive(Debug, Clone, PartialEq)]
pub struct Unknown {
    pub name: &'static str,
    pub start: f64,
    pub low: f64,
    pub high: f64,
}

/// Values between their bounds that make `loss` small; the same ones each time. Scales are the starting values.
pub fn minimise(unknowns: &[Unknown], rounds: usize, loss: &dyn Fn(&[f64]) -> f64) -> (Vec<f64>, f64) {
    let scale: Vec<f64> =
        unknowns.iter().map(|u| if u.start != 0.0 { u.start.abs() } else { (u.high - u.low) / 10.0 }).collect();
    let clamp = |z: &[f64]| -> Vec<f64> {
        z.iter().zip(unknowns).zip(&scale).map(|((z, u), s)| (z * s).clamp(u.low, u.high)).collect()
    };
    let f = |z: &[f64]| {
        let value = loss(&clamp(z));
        if value.is_finite() { value } else { f64::MAX }
    };
    let mut best: Vec<f64> = unknowns.iter().zip(&scale).map(|(u, s)| u.start / s).collect();
    let mut value = f(&best);
    for round in 0..rounds {
        let reach = if round % 2 == 0 { 0.25 } else { 0.08 };
        let (z, v) = simplex(&f, &best, reach, 120 * unknowns.len());
        if v < value {
            (best, value) = (z, v);
        }
    }
    (clamp(&best), value)
}

fn simplex(f: &dyn Fn(&[f64]) -> f64, start: &[f64], reach: f64, steps: usize) -> (Vec<f64>, f64) {
    let n = start.len();
    let mut points: Vec<(Vec<f64>, f64)> = (0..=n)
        .map(|i| {
            let z: Vec<f64> = start
                .iter()
                .enumerate()
                .map(|(k, v)| if k + 1 == i { v + reach * v.abs().max(0.3) } else { *v })
                .collect();
            let v = f(&z);
            (z, v)
        })
        .collect();
    for _ in 0..steps {
        points.sort_by(|a, b| a.1.total_cmp(&b.1));
        if (points[n].1 - points[0].1).abs() <= 1e-9 * points[0].1.abs() {
            break;
        }
        let centre: Vec<f64> = (0..n).map(|k| points[..n].iter().map(|p| p.0[k]).sum::<f64>() / n as f64).collect();
        let along = |t: f64| -> (Vec<f64>, f64) {
            let z: Vec<f64> = centre.iter().zip(&points[n].0).map(|(c, w)| c + t * (c - w)).collect();
            let v = f(&z);
            (z, v)
        };
        let reflected = along(1.0);
        if reflected.1 < points[0].1 {
            let expanded = along(2.0);
            points[n] = if expanded.1 < reflected.1 { expanded } else { reflected };
        } else if reflected.1 < points[n - 1].1 {
            points[n] = reflected;
        } else {
            let inner = along(if reflected.1 < points[n].1 { 0.5 } else { -0.5 });
            if inner.1 < points[n].1.min(reflected.1) {
                points[n] = inner;
            } else {
                let best = points[0].0.clone();
                for p in &mut points[1..] {
                    p.0.iter_mut().zip(&best).for_each(|(z, b)| *z = b + 0.5 * (*z - b));
                    p.1 = f(&p.0);
                }
            }
        }
    }
    points.into_iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((start.to_vec(), f64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_is_found_again() {
        let truth = |a: f64, b: f64, x: f64| a + b * x.sqrt();
        let loss =
            |z: &[f64]| (1..20).map(|x| (truth(z[0], z[1], x as f64) / truth(3.0, 0.5, x as f64)).ln().abs()).sum();
        let unknown = |name, start| Unknown { name, start, low: 0.0, high: 10.0 };
        let (z, left) = minimise(&[unknown("a", 1.0), unknown("b", 1.0)], 6, &loss);
        assert!(left < 1e-3 && (z[0] - 3.0).abs() < 1e-2 && (z[1] - 0.5).abs() < 1e-2, "{z:?} {left}");
    }
}

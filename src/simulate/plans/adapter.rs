//! A plan on an adapter that is here, by what its kernel forms were measured to reach.

use super::Rates;
use crate::base::{Bindings, Error, Result};
use crate::plan::{Dispatch, Exchange, Plan, Rounds};
use std::collections::HashMap;

/// Rates of one adapter.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Adapter {
    /// By kernel form ([`Plan::form`]): sizes and seconds of a dispatch, sorted.
    curves: HashMap<String, Vec<(f64, f64)>>,
    /// Seconds of a step beside its dispatches.
    pub step: f64,
    /// For forms that were not measured: operations and bytes a second, seconds of a small dispatch.
    pub flops: f64,
    pub bandwidth: f64,
    pub small: f64,
}

impl Adapter {
    pub fn new(step: f64, (flops, bandwidth, small): (f64, f64, f64)) -> Adapter {
        Adapter { curves: HashMap::new(), step, flops, bandwidth, small }
    }

    /// One measured point.
    pub fn learn(&mut self, form: &str, size: f64, seconds: f64) {
        let curve = self.curves.entry(form.into()).or_default();
        let at = curve.partition_point(|p| p.0 < size);
        match curve.get_mut(at).filter(|p| p.0 == size) {
            Some(p) => p.1 = (p.1 + seconds) / 2.0,
            None => curve.insert(at, (size, seconds)),
        }
    }

    /// Measured points.
    pub fn points(&self) -> usize {
        self.curves.values().map(Vec::len).sum()
    }
    pub fn knows(&self, form: &str) -> bool {
        self.curves.contains_key(form)
    }
}

/// Along lines between measured points. Below the first, its time shrinks no faster than its size; beyond the last, the
/// last two points' slope goes on, or the last point's rate where there is no slope.
fn along(curve: &[(f64, f64)], size: f64, small: f64) -> f64 {
    let (first, last) = (curve[0], curve[curve.len() - 1]);
    if size <= first.0 {
        let floor = small.min(first.1);
        return floor + (first.1 - floor) * size / first.0.max(1e-30);
    }
    if size >= last.0 {
        let rate = last.1 / last.0.max(1e-30);
        let slope = match curve {
            [.., a, b] => ((b.1 - a.1) / (b.0 - a.0)).clamp(0.0, rate),
            _ => rate,
        };
        return last.1 + if slope > 0.0 { slope } else { rate } * (size - last.0);
    }
    let at = curve.partition_point(|p| p.0 < size);
    let (a, b) = (curve[at - 1], curve[at]);
    a.1 + (b.1 - a.1) * (size - a.0) / (b.0 - a.0)
}

impl Rates for Adapter {
    fn dispatch(&self, plan: &Plan, d: &Dispatch, bindings: &Bindings) -> Result<f64> {
        let work = d.work(bindings)?;
        match self.curves.get(&plan.form(d)) {
            Some(curve) => Ok(along(curve, d.size(&work) as f64, self.small)),
            None => Ok(self.small + (work.flops as f64 / self.flops).max(work.bytes as f64 / self.bandwidth)),
        }
    }
    fn rounds(&self, _: Exchange, group: &[usize], _: &Rounds) -> Result<Vec<f64>> {
        Err(Error::usage(format!("{} ranks on one adapter take turns: their links are not measured", group.len())))
    }
    fn send(&self, from: usize, to: usize, _: u64) -> Result<f64> {
        Err(Error::usage(format!("ranks {from} and {to} on one adapter take turns: their links are not measured")))
    }
    fn submit(&self) -> f64 {
        self.step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_lie_on_lines_between_what_was_measured() {
        let mut a = Adapter::new(0.0, (1.0, 1.0, 2.0));
        for (size, seconds) in [(20.0, 14.0), (10.0, 4.0), (10.0, 6.0)] {
            a.learn("form", size, seconds);
        }
        let curve = &a.curves["form"];
        assert_eq!((a.points(), a.knows("form"), a.knows("other")), (2, true, false));
        let at = |size| along(curve, size, 2.0);
        assert_eq!([at(0.0), at(5.0), at(10.0), at(15.0), at(20.0)], [2.0, 3.5, 5.0, 9.5, 14.0]);
        // The slope goes on, but no steeper than the last point's own rate.
        assert_eq!(at(30.0), 14.0 + 0.7 * 10.0);
        assert!((1..60).all(|i| at(i as f64) >= at(i as f64 - 1.0)));
    }
}

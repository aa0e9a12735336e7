//! How much work one submission holds: little enough that no watchdog of a browser or driver ends it, and that a cancel
//! is heard within a step.

use crate::base::AdapterKind;
use std::time::Duration;

/// Seconds that a submission is meant to take at most: a guess that is three times off stays within half a second.
const BUDGET: f64 = 0.12;
/// Work that takes less than this says little: waiting is most of it.
const TELLING: f64 = 0.02;

/// What the device was seen to do, in FLOP and bytes a second, added.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    rate: f64,
}

impl Pace {
    /// A cautious guess, for before anything ran.
    pub fn new(kind: AdapterKind) -> Pace {
        Pace { rate: if kind == AdapterKind::Software { 5e8 } else { 5e9 } }
    }
    /// The most work of one submission.
    pub fn most(&self) -> f64 {
        self.rate * BUDGET
    }
    /// What a submission took. Guesses grow by steps: one small measurement is no reason for a huge submission.
    pub fn learn(&mut self, work: f64, took: Duration) {
        let seen = work / took.as_secs_f64().max(1e-6);
        if seen > self.rate {
            self.rate = seen.min(self.rate * 4.0);
        } else if took.as_secs_f64() > TELLING {
            self.rate = seen.max(self.rate / 4.0).max(1e6);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_follows_what_is_measured() {
        let mut pace = Pace::new(AdapterKind::Software);
        let seconds = |work: f64, rate: f64| Duration::from_secs_f64(work / rate);
        for rate in [1e12, 2e9, 1e8] {
            for _ in 0..12 {
                let work = pace.most();
                pace.learn(work, seconds(work, rate));
            }
            assert!((pace.most() / BUDGET / rate - 1.0).abs() < 0.01, "{pace:?} for {rate}");
        }
        // A tiny submission is mostly waiting: it does not slow the pace.
        let before = pace.most();
        pace.learn(10.0, Duration::from_millis(2));
        assert_eq!(pace.most(), before);
    }
}

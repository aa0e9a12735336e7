//! How much work one submission holds: little enough that no watchdog of a browser or driver ends it, and that a cancel
//! is heard within a step.

use crate::base::AdapterKind;
use std::collections::HashMap;
use std::time::Duration;

/// Seconds that a submission is meant to take at most: on a machine that does much else besides it takes a multiple, which
/// stays within half a second.
const BUDGET: f64 = 0.08;
/// A kernel that nothing is known of counts this many times what it is guessed to take.
const CAUTION: f64 = 5.0;
/// A submission that takes less than this says little of how slow its kernels are: waiting is most of it.
const TELLING: f64 = 0.02;
/// What is left of a guess when it turns out too high, at least.
const RELIEF: f64 = 0.25;
/// What is left, after each submission, of the guess of a kernel that had no part in it and seems slow: it may have been the
/// machine that was.
const FORGETTING: f64 = 0.99;

/// What the device was seen to do, kernel by kernel: one fast kernel does not speak for another.
#[derive(Debug, Clone)]
pub struct Pace {
    /// Seconds for a unit of work (a FLOP or a byte) of a kernel that never ran.
    guess: f64,
    /// The same of those that did.
    known: HashMap<u64, f64>,
}

impl Pace {
    /// A cautious guess, for before anything ran.
    pub fn new(kind: AdapterKind) -> Pace {
        Pace { guess: if kind == AdapterKind::Software { 2e-9 } else { 2e-10 }, known: HashMap::new() }
    }

    /// Seconds that a kernel's work may take, by what is known.
    fn guessed(&self, kernel: u64, work: f64) -> f64 {
        self.known.get(&kernel).unwrap_or(&self.guess) * work
    }

    /// How much of a submission a kernel's work fills: up to 1 in all is meant to be sent at once.
    pub fn share(&self, kernel: u64, work: f64) -> f64 {
        let caution = if self.known.contains_key(&kernel) { 1.0 } else { CAUTION };
        self.guessed(kernel, work) * caution / BUDGET
    }

    /// Whether a kernel's work is not known to take longer than a submission should.
    pub fn is_brisk(&self, kernel: u64, work: f64) -> bool {
        self.guessed(kernel, work) <= BUDGET
    }

    /// What a submission of some kernels' work took. One that was slow slows the guess of all its kernels at once; one that was
    /// fast hastens them, each by its part in what was expected.
    pub fn learn(&mut self, parts: &HashMap<u64, f64>, took: Duration) {
        let took = took.as_secs_f64().max(1e-6);
        let expected = parts.iter().map(|(k, w)| self.guessed(*k, *w)).sum::<f64>();
        for (kernel, seconds) in &mut self.known {
            if *seconds > self.guess && !parts.contains_key(kernel) {
                *seconds *= FORGETTING;
            }
        }
        if expected <= 0.0 {
            return;
        }
        let ratio = took / expected;
        for (&kernel, &work) in parts.iter().filter(|p| *p.1 > 0.0) {
            let was = self.guessed(kernel, work);
            let is = match ratio > 1.0 {
                true if took > TELLING => was * ratio,
                true => was,
                false => was * ratio.max(RELIEF).powf(was / expected),
            };
            // None can have taken longer than all of them together.
            self.known.insert(kernel, is.min(took) / work);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kernels of which each takes its own time for a unit of work, on a device that is not always as fast.
    struct Device {
        seconds: Vec<f64>,
        state: u64,
    }

    impl Device {
        /// Numbers from 0 to 1, the same every time.
        fn random(&mut self) -> f64 {
            self.state = self.state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (self.state >> 33) as f64 / (1u64 << 31) as f64
        }

        /// Seconds of each submission of a step, cut as a program cuts it.
        fn step(&mut self, pace: &mut Pace, dispatches: &[(usize, f64)], load: impl Fn(f64) -> f64) -> Vec<f64> {
            let (mut out, mut at) = (vec![], 0);
            while at < dispatches.len() {
                let (mut parts, mut share, mut took) = (HashMap::new(), 0.0, 2e-3);
                let load = load(self.random());
                let first = at;
                while at < dispatches.len() {
                    let (kernel, work) = dispatches[at];
                    let more = pace.share(kernel as u64, work);
                    if share + more > 1.0 && at > first {
                        break;
                    }
                    share += more;
                    *parts.entry(kernel as u64).or_insert(0.0) += work;
                    took += self.seconds[kernel] * work * load;
                    at += 1;
                }
                pace.learn(&parts, Duration::from_secs_f64(took));
                out.push(took);
            }
            out
        }
    }

    /// A step of a decoder: layers of products, and kernels of which some do less for their work.
    fn layers() -> Vec<(usize, f64)> {
        let layer = [(0, 2e6), (1, 6e6), (2, 1e6), (0, 4e6), (3, 5e5), (1, 8e6)];
        (0..60).flat_map(|_| layer).chain([(4, 7e7)]).collect()
    }

    #[test]
    fn no_submission_of_a_slow_device_takes_half_a_second() {
        // From 3e9 to 1e8 units per second, kernels that differ thirty times among them.
        for slow in [1.0, 3.0, 10.0] {
            let mut device =
                Device { seconds: [0.33e-9, 1e-9, 9e-9, 10e-9, 0.5e-9].map(|s| s * slow / 3.0).to_vec(), state: 7 };
            let mut pace = Pace::new(AdapterKind::Software);
            let dispatches = layers();
            let mut all = vec![];
            for _ in 0..20 {
                // Other work on the machine makes a submission up to twice as slow.
                all.extend(device.step(&mut pace, &dispatches, |x| 1.0 + x));
            }
            let longest = all.iter().fold(0.0, |m: f64, t| m.max(*t));
            assert!(longest < 0.5, "{longest} s at slowness {slow}");
            // And they are not needlessly small: once it is known, a step takes few.
            let work = dispatches.iter().map(|d| device.seconds[d.0] * d.1).sum::<f64>();
            let last = device.step(&mut pace, &dispatches, |_| 1.0);
            assert!((last.len() as f64) < 3.0 + work / BUDGET * 4.0, "{} submissions for {work} s", last.len());
        }
    }

    #[test]
    fn a_slow_moment_is_answered_at_once_and_then_forgotten() {
        let mut device = Device { seconds: vec![1e-9; 5], state: 1 };
        let mut pace = Pace::new(AdapterKind::Software);
        let dispatches = layers();
        (0..10).for_each(|_| drop(device.step(&mut pace, &dispatches, |_| 1.0)));
        let usual = device.step(&mut pace, &dispatches, |_| 1.0).len();
        // Four times as slow from now on: one submission finds out, those after it are in time (one dispatch takes 0.28 s).
        let slow = device.step(&mut pace, &dispatches, |_| 4.0);
        assert!(slow[0] < 0.5 && slow[1..].iter().all(|t| *t < 0.35), "{slow:?}");
        (0..10).for_each(|_| drop(device.step(&mut pace, &dispatches, |_| 1.0)));
        assert!(device.step(&mut pace, &dispatches, |_| 1.0).len() <= usual + 1);
    }

    #[test]
    fn a_fast_device_takes_a_step_in_one_submission() {
        let mut device = Device { seconds: vec![1e-12; 5], state: 1 };
        let mut pace = Pace::new(AdapterKind::Discrete);
        let dispatches = layers();
        let counts: Vec<usize> = (0..8).map(|_| device.step(&mut pace, &dispatches, |_| 1.0).len()).collect();
        assert_eq!(counts[7], 1, "{counts:?}");
    }

    #[test]
    fn what_had_a_bad_moment_gets_another_chance() {
        let mut pace = Pace::new(AdapterKind::Software);
        pace.learn(&HashMap::from([(1, 1e7)]), Duration::from_secs(20));
        assert!(!pace.is_brisk(1, 5e6));
        (0..700).for_each(|_| pace.learn(&HashMap::from([(2, 1e7)]), Duration::from_millis(10)));
        assert!(pace.is_brisk(1, 5e6));
        // A tiny submission is mostly waiting: it slows nothing.
        let before = pace.share(2, 1e7);
        pace.learn(&HashMap::from([(2, 10.0)]), Duration::from_millis(2));
        assert!(pace.share(2, 1e7) <= before);
    }
}

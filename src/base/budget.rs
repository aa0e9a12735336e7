//! What a file may make this process do: one budget for everything that its content can make grow.
//!
//! Parsers, tokenizers and templates run what a stranger wrote. Each charges what it is about to make or do; the first
//! charge beyond a limit is an error, and the work ends there, on whatever thread and in WebAssembly alike.

use super::{Error, Result};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use web_time::Instant;

/// The most of each.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes that are made in all.
    pub bytes: u64,
    /// Bytes of one value.
    pub value: u64,
    /// Steps of work.
    pub steps: u64,
    /// Calls and values within each other.
    pub depth: usize,
    pub time: Duration,
}

/// What is left of a file's limits.
#[derive(Debug)]
pub struct Budget {
    limits: Limits,
    part: &'static str,
    bytes: AtomicU64,
    steps: AtomicU64,
    depth: AtomicUsize,
    end: Instant,
}

impl Budget {
    /// `part` names in errors what runs: `chat template`, `tokenizer`.
    pub fn new(part: &'static str, limits: Limits) -> Budget {
        let end = Instant::now() + limits.time;
        Budget { limits, part, bytes: 0.into(), steps: 0.into(), depth: 0.into(), end }
    }

    fn spent(&self, what: String) -> Error {
        Error::model(self.part, what)
    }

    /// Charges for one value of so many bytes, before it is made.
    ///
    /// # Errors
    /// A value too large, or too much in all.
    pub fn make(&self, bytes: usize) -> Result<()> {
        let bytes = bytes as u64;
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if bytes > self.limits.value || before.saturating_add(bytes) > self.limits.bytes {
            let Limits { bytes, value, .. } = self.limits;
            return Err(self.spent(format!("makes more than {value} bytes at once or {bytes} in all")));
        }
        self.work(bytes / 64)
    }

    /// Looks at a value that grows by parts that are charged by themselves.
    ///
    /// # Errors
    /// A value too large.
    pub fn fits(&self, bytes: usize) -> Result<()> {
        match bytes as u64 > self.limits.value {
            true => Err(self.spent(format!("makes more than {} bytes at once", self.limits.value))),
            false => Ok(()),
        }
    }

    /// Charges for steps of work, before they are done, and looks at the clock now and then.
    ///
    /// # Errors
    /// Too many steps, or too long.
    pub fn work(&self, steps: u64) -> Result<()> {
        let before = self.steps.fetch_add(steps, Ordering::Relaxed);
        let after = before.saturating_add(steps);
        if after > self.limits.steps {
            return Err(self.spent(format!("takes more than {} steps", self.limits.steps)));
        }
        // A look at the clock costs more than a step.
        if before >> 10 != after >> 10 { self.time() } else { Ok(()) }
    }

    /// # Errors
    /// Where the time is over.
    pub fn time(&self) -> Result<()> {
        match Instant::now() > self.end {
            true => Err(self.spent(format!("takes longer than {:?}", self.limits.time))),
            false => Ok(()),
        }
    }

    /// One level down: a call within a call, a value within a value. The level ends with what is returned.
    ///
    /// # Errors
    /// Too deep.
    pub fn enter(&self) -> Result<Level<'_>> {
        let depth = self.depth.fetch_add(1, Ordering::Relaxed) + 1;
        let level = Level(self);
        if depth > self.limits.depth {
            return Err(self.spent(format!("nests deeper than {} levels", self.limits.depth)));
        }
        Ok(level)
    }
}

/// A level of nesting, until it is dropped.
pub struct Level<'a>(&'a Budget);

impl Drop for Level<'_> {
    fn drop(&mut self) {
        self.0.depth.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { bytes: 100, value: 60, steps: 5000, depth: 3, time: Duration::from_millis(50) };

    #[test]
    fn each_limit_ends_the_work() {
        let b = Budget::new("part", LIMITS);
        assert!(b.make(60).is_ok() && b.make(61).is_err());
        let b = Budget::new("part", LIMITS);
        assert!(b.make(60).is_ok() && b.make(41).unwrap_err().to_string().contains("100 in all"));
        let b = Budget::new("part", LIMITS);
        assert!(b.work(5000).is_ok() && b.work(1).unwrap_err().to_string().contains("5000 steps"));
        let b = Budget::new("part", LIMITS);
        let (_a, _b, c) = (b.enter().unwrap(), b.enter().unwrap(), b.enter().unwrap());
        assert!(b.enter().is_err());
        drop(c);
        assert!(b.enter().is_ok());
        let b = Budget::new("part", Limits { steps: u64::MAX, ..LIMITS });
        while b.work(1).is_ok() {}
        assert!(b.work(2000).unwrap_err().to_string().contains("longer than"));
    }
}

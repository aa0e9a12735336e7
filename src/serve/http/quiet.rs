//! A log that floods cannot fill.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long the same thing is not said again.
const SILENCE: Duration = Duration::from_secs(60);

/// Says a kind of trouble once, then how often it has come since, at most once a minute.
#[derive(Default)]
pub struct Quiet(Mutex<HashMap<&'static str, (Instant, u64)>>);

impl Quiet {
    pub fn warn(&self, kind: &'static str, what: impl std::fmt::Display) {
        if let Some(more) = self.due(kind, Instant::now()) {
            match more {
                0 => log::warn!("{kind}: {what}"),
                n => log::warn!("{kind}: {what} (and {n} more since the last time)"),
            }
        }
    }

    /// How often it was kept silent, if it is to be said now.
    fn due(&self, kind: &'static str, now: Instant) -> Option<u64> {
        let mut seen = self.0.lock().unwrap_or_else(|e| e.into_inner());
        match seen.get_mut(kind) {
            Some((since, more)) if now.duration_since(*since) < SILENCE => {
                *more += 1;
                None
            }
            Some((since, more)) => {
                *since = now;
                Some(std::mem::take(more))
            }
            None => {
                seen.insert(kind, (now, 0));
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_said_once_a_minute() {
        let (log, start) = (Quiet::default(), Instant::now());
        let said: Vec<_> = (0..1000).filter_map(|i| log.due("flood", start + Duration::from_millis(i))).collect();
        assert_eq!(said, [0]);
        assert_eq!(log.due("other", start), Some(0));
        assert_eq!(log.due("flood", start + SILENCE + Duration::from_secs(1)), Some(999));
    }
}

//! One request's life.

use crate::base::Error;
use crate::session::Cancel;
use std::cmp::Reverse;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Place in the queue: the highest priority first, then who came first.
pub(super) type Place = (Reverse<i32>, u64);

/// One request's life.
pub(super) struct Ticket {
    pub place: Place,
    pub deadline: Option<Instant>,
    /// Heard by the step that computes it.
    pub cancel: Cancel,
    pub expired: AtomicBool,
}

impl Ticket {
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }
    /// What a cancelled request ends with.
    pub fn error(&self) -> Error {
        if self.expired.load(Ordering::Relaxed) { Error::Deadline } else { Error::Cancelled }
    }
    pub fn is_past(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|d| d <= now)
    }
}

//! Stopping what takes long: opening a model reads its weights through this.

use crate::base::{Error, Result, Type, Weights};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A token by which another thread stops what takes long: clones share one flag.
///
/// ```
/// use warpweft::{Cancel, Error};
///
/// let cancel = Cancel::new();
/// let other = cancel.clone();
/// std::thread::spawn(move || other.cancel()).join().unwrap();
/// assert_eq!(cancel.check(), Err(Error::Cancelled));
/// ```
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Not cancelled.
    pub fn new() -> Cancel {
        Cancel::default()
    }
    /// Stops whatever holds a clone, at its next look.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
    /// Ready to be used again.
    pub fn reset(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
    /// Whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
    /// # Errors
    /// [`Error::Cancelled`](crate::base::Error::Cancelled), once it was cancelled.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }
    /// The flag itself, for rooms that know no sessions.
    pub(crate) fn flag(&self) -> &AtomicBool {
        &self.0
    }
}

/// Weights that stop being read once the flag is set.
pub(super) struct Cancellable<'a> {
    pub weights: &'a dyn Weights,
    pub cancel: &'a Cancel,
}

impl Weights for Cancellable<'_> {
    fn info(&self, name: &str) -> Result<Type> {
        self.weights.info(name)
    }
    fn read(&self, name: &str, rows: Range<usize>) -> Result<Cow<'_, [u8]>> {
        self.cancel.check()?;
        self.weights.read(name, rows)
    }
    fn arrives(&self) -> bool {
        self.weights.arrives()
    }
}

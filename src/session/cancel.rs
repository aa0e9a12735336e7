//! Stopping what takes long: opening a model reads its weights through this.

use crate::base::{Error, Result, Type, Weights};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A flag that another thread may set.
#[derive(Debug, Clone, Default)]
pub struct Cancel(pub Arc<AtomicBool>);

impl Cancel {
    /// # Errors
    /// [`Error::Cancelled`](crate::base::Error::Cancelled), once it was cancelled.
    pub fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) { Err(Error::Cancelled) } else { Ok(()) }
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

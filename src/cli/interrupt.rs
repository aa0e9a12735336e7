//! Ctrl-C: told to whatever runs, and within a second the process's end if that does not hear it.

use super::style;
use crate::session::Cancel;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long work that was told to stop may still take.
const GRACE: Duration = Duration::from_millis(600);
/// What shells say of a program that Ctrl-C ended.
pub const CODE: u8 = 130;

/// What Ctrl-C sets. A step of a model, or a read from a pipe, cannot be stopped half-way: what does not hear within
/// [`GRACE`] is ended with the process. Files are renamed into place when whole, so nothing half-written is left.
#[derive(Clone, Default)]
pub struct Interrupt {
    pub cancel: Cancel,
    closing: Arc<AtomicBool>,
}

impl Interrupt {
    pub fn new() -> Interrupt {
        let interrupt = Interrupt::default();
        let own = interrupt.clone();
        // Without a handler Ctrl-C ends the process by itself.
        let _ = ctrlc::set_handler(move || own.pressed());
        interrupt
    }

    fn pressed(&self) {
        let again = self.is_set();
        self.cancel.cancel();
        if !again {
            std::thread::sleep(GRACE);
        }
        if again || self.is_set() && !self.closing.load(Ordering::Relaxed) {
            style::clear();
            style::note("cancelled");
            leave();
        }
    }

    pub fn flag(&self) -> &AtomicBool {
        self.cancel.flag()
    }
    pub fn is_set(&self) -> bool {
        self.cancel.is_cancelled()
    }
    /// What was told to stop has: from here on only the last words are written.
    pub fn heard(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }
    /// Ready for another Ctrl-C.
    pub fn reset(&self) {
        self.cancel.reset();
        self.closing.store(false, Ordering::Relaxed);
    }
}

/// Ends the process without running destructors: a driver may be at work on another thread, and must not find its
/// tables gone.
fn leave() -> ! {
    #[cfg(unix)]
    // SAFETY: ends the process at once, whatever its state.
    unsafe {
        libc::_exit(CODE.into())
    }
    #[cfg(not(unix))]
    std::process::exit(CODE.into())
}

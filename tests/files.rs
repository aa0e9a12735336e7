//! Hostile model files: each is one clear error, in bounded time and memory.

mod common;

use common::Folder;
use common::gguf::{GgufFile, Meta};
use common::tiny::Tiny;
use warpweft::base::Result;
use warpweft::model::{Model, ModelSource};

/// The message of a file that cannot be opened, with its folder's path left out.
fn refused(folder: &Folder, bytes: &[u8]) -> String {
    let path = folder.file("m.gguf", bytes);
    let opened: Result<Model> = ModelSource::open(&path).and_then(Model::new);
    let message = opened.err().map_or("opened".into(), |e| e.to_string());
    message.replace(&format!("{}/", folder.path().display()), "")
}

fn broken(change: impl FnOnce(&mut GgufFile)) -> Vec<u8> {
    let mut file = Tiny::default().gguf();
    change(&mut file);
    file.bytes()
}

#[test]
fn a_file_cut_at_any_boundary_is_refused() {
    let folder = Folder::new("cut");
    let (bytes, marks) = Tiny::default().gguf().write();
    assert_eq!(refused(&folder, &bytes), "opened");
    for at in marks.into_iter().filter(|at| *at < bytes.len()) {
        let message = refused(&folder, &bytes[..at]);
        assert!(message.starts_with("m.gguf: "), "cut at {at}: {message}");
    }
}

/// What is broken, and how.
type Case = (&'static str, fn(&mut GgufFile));

#[test]
fn lying_headers_are_refused() {
    let folder = Folder::new("lies");
    let cases: &[Case] = &[
        ("version 1", |f| f.version = 1),
        ("2^64 - 1 tensors", |f| f.tensor_count = Some(u64::MAX)),
        ("alignment 0", |f| f.set("general.alignment", Meta::U32(0))),
        ("another architecture", |f| f.set("general.architecture", Meta::Text("rwkv".into()))),
    ];
    let table: String = cases.iter().map(|(name, change)| format!("{name}\n    {}\n", refused(&folder, &broken(change)))).collect();
    insta::assert_snapshot!(table);
}

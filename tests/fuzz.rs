//! The gate's share of fuzzing: every target over its corpus, and over changes of it that a seed makes. The fuzzers themselves go on from
//! there (scripts/fuzz.sh).

#[path = "../fuzz/bodies.rs"]
mod bodies;

use std::path::Path;
use std::time::{Duration, Instant};

/// Changes of each file of a corpus.
const CHANGES: usize = 150;

/// A small generator of numbers: the same ones every time.
struct Seeded(u64);

impl Seeded {
    fn next(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) as usize) % n.max(1)
    }
}

/// A file with some of it changed: bytes, lengths, pieces twice, pieces of another file.
fn changed(data: &[u8], other: &[u8], seed: &mut Seeded) -> Vec<u8> {
    const EDGES: &[&[u8]] = &[
        &[0],
        &[0xff],
        &[0xff; 8],
        &[0; 8],
        b"-1",
        b"1e999",
        b"99999999999999999999",
        b"\"",
        b"[[[[",
        b"{\"",
        b"\xf0\x9f",
        b"null",
        b"{{",
        b"%}",
    ];
    let mut out = data.to_vec();
    for _ in 0..1 + seed.next(4) {
        let at = seed.next(out.len() + 1);
        match seed.next(6) {
            0 if at < out.len() => out[at] ^= 1 << seed.next(8),
            1 => out.truncate(at),
            2 => {
                let end = (at + seed.next(16)).min(out.len());
                drop(out.drain(at..end));
            }
            3 => {
                let end = (at + seed.next(64)).min(out.len());
                let piece = out[at..end].to_vec();
                let times = 1 + seed.next(20);
                out.splice(at..at, piece.repeat(times));
            }
            4 => {
                let from = seed.next(other.len());
                let piece = other[from..(from + seed.next(64)).min(other.len())].to_vec();
                out.splice(at..at, piece);
            }
            _ => {
                let edge = EDGES[seed.next(EDGES.len())];
                let end = (at + edge.len() * seed.next(2)).min(out.len());
                out.splice(at..end, edge.iter().copied());
            }
        }
    }
    out
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpora").join(name);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|f| f.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files.iter().map(|f| std::fs::read(f).unwrap()).collect()
}

#[test]
fn every_target_holds_on_its_corpus_and_on_changes_of_it() {
    let mut seed = Seeded(7);
    for (name, body) in bodies::ALL {
        let files = corpus(name);
        for (i, file) in files.iter().enumerate() {
            body(file);
            for _ in 0..CHANGES {
                let other = &files[seed.next(files.len())];
                let data = changed(file, other, &mut seed);
                let start = Instant::now();
                body(&data);
                let took = start.elapsed();
                assert!(
                    took < Duration::from_secs(30),
                    "{name}, file {i}: {took:?}, {:?}",
                    String::from_utf8_lossy(&data)
                );
            }
        }
    }
}

/// What is written of the fuzzers is what there is: a target for each body, and a corpus for each.
#[test]
fn every_body_is_a_target() {
    let manifest = include_str!("../fuzz/Cargo.toml");
    for (name, _) in bodies::ALL {
        assert!(manifest.contains(&format!("path = \"targets/{name}.rs\"")), "{name} is no target");
        corpus(name);
    }
    assert_eq!(manifest.matches("[[bin]]").count(), bodies::ALL.len());
}

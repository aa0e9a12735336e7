//! Where `unsafe` stands, counted by file, with the reason that each file has for it. A new one is added here with its reason, and
//! with a SAFETY comment beside it.

use std::collections::BTreeMap;
use std::path::Path;

/// File, how many blocks, functions and impls, and why they cannot be written without.
const KNOWN: &[(&str, usize, &str)] = &[
    ("src/cli/interrupt.rs", 1, "leaving at once on a second Ctrl-C: libc's _exit runs no destructors that could wait"),
    (
        "src/cli/mod.rs",
        1,
        "naming a runtime folder for loaders, in the first statement of the program, before there are threads",
    ),
    (
        "src/device/pipeline.rs",
        1,
        "shader modules without bounds checks: every access of a kernel is guarded or within its plan",
    ),
    ("src/model/source/disk.rs", 1, "mapping a model file, which is only read"),
    ("src/format/wide.rs", 1, "vector instructions that the CPU was asked for first"),
    ("src/reference/columns.rs", 1, "the matrix library takes pointers: bounds are checked before"),
    ("src/session/processes.rs", 7, "MPI is a C library: buffers outlive their requests, which are waited for"),
];

/// Rooms that are written in it, the most that stands there, and why.
const ROOMS: &[(&str, usize, &str)] = &[(
    "src/cpu/",
    560,
    "vector instructions by pointer, for each instruction set: kernels are called with ranges that a program was checked for",
)];

fn walk(dir: &Path, out: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => walk(&path, out),
            false if path.extension().is_some_and(|e| e == "rs") => out.push(path),
            false => {}
        }
    }
}

/// Whether a line opens something unsafe: comments and texts that only say the word do not.
fn opens(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    code.match_indices("unsafe").any(|(i, _)| {
        let before =
            code[..i].chars().next_back().is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != '-' && c != '"');
        before && ["{", "fn", "impl", "extern", "trait"].iter().any(|w| code[i + 6..].trim_start().starts_with(w))
    })
}

#[test]
fn unsafe_code_is_counted_and_has_its_reasons() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = vec![];
    walk(&root.join("src"), &mut files);
    let (mut found, mut rooms) = (BTreeMap::new(), BTreeMap::new());
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let name = path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
        if let Some(room) = ROOMS.iter().find(|r| name.starts_with(r.0)) {
            *rooms.entry(room.0).or_insert(0) += lines.iter().filter(|l| opens(l)).count();
            continue;
        }
        for (i, _) in lines.iter().enumerate().filter(|(_, l)| opens(l)) {
            *found.entry(name.clone()).or_insert(0) += 1;
            let near = lines[i.saturating_sub(14)..=i].join("\n");
            assert!(
                near.contains("SAFETY") || near.contains("# Safety"),
                "{name}:{}: no SAFETY comment says why this holds",
                i + 1
            );
        }
    }
    let known: BTreeMap<String, usize> = KNOWN.iter().map(|(f, n, _)| (f.to_string(), *n)).collect();
    assert_eq!(found, known, "unsafe code: left is what there is, right is what tests/unsafe.rs knows");
    for (room, most, _) in ROOMS {
        let have = rooms.get(room).copied().unwrap_or(0);
        assert!(have > 0 && have <= *most, "{room} has {have} pieces of unsafe code, at most {most} are known");
    }
    assert!(KNOWN.iter().chain(ROOMS).all(|(_, _, why)| why.len() > 20));
}

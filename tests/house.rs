//! The documents tell the truth: the import table, docs/ops.md, links, widths of lines.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use warpweft::base::DType;
use warpweft::op::{self, Body, Grad};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(root().join(&path)).unwrap_or_else(|e| panic!("{}: {e}", path.as_ref().display()))
}

fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let mut out = vec![];
    let mut open = vec![root().join(folder)];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                out.push(path);
            }
        }
    }
    out.sort();
    out
}

/// Module → what it may import, from ARCHITECTURE.md.
fn table() -> BTreeMap<String, BTreeSet<String>> {
    let text = read("ARCHITECTURE.md");
    let after = text.split("| module | may import |").nth(1).expect("the import table");
    let rows = after.lines().skip(2).take_while(|l| l.starts_with('|'));
    let cells = |l: &str| l.trim_matches('|').split('|').map(|c| c.trim().to_string()).collect::<Vec<_>>();
    let set = |c: &str| c.split(',').map(|m| m.trim().to_string()).filter(|m| !m.is_empty()).collect();
    rows.map(cells).map(|c| (c[0].clone(), set(&c[1]))).collect()
}

#[test]
fn rooms_import_only_what_the_table_allows() {
    let allowed = table();
    assert!(allowed.len() >= 10);
    let mut seen = BTreeSet::new();
    for path in files("src", ".rs") {
        let below = path.strip_prefix(root().join("src")).unwrap();
        let first = below.components().next().unwrap().as_os_str().to_string_lossy().replace(".rs", "");
        if first == "lib" || first == "main" {
            continue;
        }
        let may = allowed.get(&first).unwrap_or_else(|| panic!("{first} is not in the table"));
        seen.insert(first.clone());
        let text = fs::read_to_string(&path).unwrap();
        for (at, _) in text.match_indices("crate::") {
            let name: String = text[at + 7..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let ok = name == first || may.contains(&name) || !allowed.contains_key(&name);
            assert!(ok, "{}: imports {name}, which the table does not allow", below.display());
        }
        if first != "device" {
            assert!(!text.contains("wgpu::"), "{}: names wgpu", below.display());
        }
        if first != "web" {
            assert!(
                !text.contains("wasm_bindgen") && !text.contains("js_sys"),
                "{}: names wasm-bindgen",
                below.display()
            );
        }
    }
    assert_eq!(
        seen.iter().collect::<Vec<_>>(),
        allowed.keys().collect::<Vec<_>>(),
        "the table lists other rooms than there are"
    );
}

#[test]
fn links_of_the_documents_lead_somewhere() {
    for doc in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "benches/README.md", "docs/ops.md"] {
        let text = read(doc);
        for part in text.split("](").skip(1) {
            let target = part.split(')').next().unwrap();
            if !target.starts_with("http") && !target.starts_with('#') {
                let base = root().join(doc).parent().unwrap().join(target);
                assert!(base.exists(), "{doc} links to {target}");
            }
        }
    }
}

fn ops_page() -> String {
    let mut out = String::from(
        "# Ops\n\nWritten from the op table (`src/op`) by `WARPWEFT_BLESS=1 cargo test --test house`. \
         A scalar op is elementwise and fuses; a view costs nothing where strides can say it; a composite is written in other ops.\n",
    );
    for def in op::table() {
        let kind = match &def.body {
            Body::Scalar(s) => format!("scalar, `{}` in WGSL", s.wgsl),
            Body::View => "view".into(),
            Body::Primitive(_) => "primitive".into(),
            Body::Collective(_) => "collective: moves rows between the ranks of a mesh axis".into(),
            Body::Composite { fused, .. } => {
                format!("composite, kernel: {fused:?}").replace("Parts", "none of its own, its parts fuse")
            }
        };
        let bound = match (def.within.abs, def.within.rel) {
            (0.0, 0.0) => "exact".to_string(),
            (abs, rel) => format!("within {abs:e} + {rel:e} · |value| of the f64 reference"),
        };
        let gradient = match &def.grad {
            Grad::None(why) => format!("no gradient: {why}"),
            Grad::Rule(_) => "gradient: by a rule of its own".into(),
            Grad::Definition => "gradient: that of its definition".into(),
        };
        let refused = (def.errors)().iter().map(|e| format!("- refused: {}\n", e.message)).collect::<String>();
        let doc = def.doc.split_whitespace().collect::<Vec<_>>().join(" ");
        out += &format!("\n## {}\n\n{doc}\n\n- {kind}\n- {gradient}\n- {bound}\n{refused}", def.name);
    }
    out
}

#[test]
fn docs_ops_md_is_what_the_table_says() {
    let path = root().join("docs/ops.md");
    if std::env::var("WARPWEFT_BLESS").is_ok_and(|v| v == "1") {
        fs::create_dir_all(root().join("docs")).unwrap();
        fs::write(&path, ops_page()).unwrap();
    }
    assert_eq!(read("docs/ops.md"), ops_page(), "docs/ops.md is stale: WARPWEFT_BLESS=1 cargo test --test house");
}

#[test]
fn every_shader_is_a_template_or_shared() {
    let known: BTreeSet<&str> = warpweft::kernel::TEMPLATES.iter().map(|t| t.name).collect();
    for path in files("shaders", ".wgsl") {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let shared = path.parent().unwrap().ends_with("shared");
        assert!(shared || known.contains(name.as_str()), "{} is used nowhere", path.display());
    }
    for needed in ["matmul", "softmax", "layer_norm"] {
        assert!(root().join(format!("shaders/{needed}.wgsl")).exists());
    }
}

#[test]
fn lines_of_shaders_fit_a_screen() {
    for path in files("shaders", ".wgsl") {
        for (i, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            let wide = line.chars().count();
            assert!(wide <= 120, "{}:{}: {wide} characters, at most 120", path.display(), i + 1);
        }
    }
}

#[test]
fn nothing_is_left_undone_in_the_tree() {
    let marks = [concat!("to", "do!("), concat!("unimple", "mented!("), concat!("FIX", "ME"), concat!("#[ig", "nore")];
    for path in [files("src", ".rs"), files("tests", ".rs"), files("examples", ".rs")].concat() {
        let text = fs::read_to_string(&path).unwrap();
        for mark in marks {
            assert!(!text.contains(mark), "{} holds {mark}", path.display());
        }
    }
}

#[test]
fn only_the_room_of_formats_names_one() {
    let named = |d: &DType| d.is_quantised() || (d.is_narrow() && *d != DType::F16);
    let formats: Vec<DType> = DType::ALL.into_iter().filter(named).collect();
    assert!(formats.len() > 3);
    for path in files("src", ".rs") {
        let below = path.strip_prefix(root().join("src")).unwrap();
        // Machines have precisions of the same names.
        if ["format", "simulate", "topology"].iter().any(|room| below.starts_with(room)) {
            continue;
        }
        // Where the CPU keeps plain floats of 16 bits as they are.
        if below == Path::new("cpu/pack.rs") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for dtype in &formats {
            // A narrow type's name is also that of a file's or a machine's.
            let quoted = dtype.is_quantised().then(|| format!("\"{dtype}\""));
            for name in quoted.into_iter().chain([format!("DType::{}", dtype.name().to_uppercase())]) {
                assert!(!text.contains(&name), "{} names {name}", below.display());
            }
        }
        for size in ["/ 32 ", "/ 32)", "% 32 ", "* 32)"] {
            let blocks = ["plan", "kernel", "device", "reference"].iter().any(|room| below.starts_with(room));
            assert!(!blocks || !text.contains(size), "{} has a block's size as a constant", below.display());
        }
    }
}

/// The one circle of files that is left, and why it is one. No other is allowed; what has left it is struck here.
const CIRCLES: &[(&[&str], &str)] = &[(
    &[
        "plan/attend",
        "plan/code",
        "plan/delta",
        "plan/fuse",
        "plan/heavy",
        "plan/int8",
        "plan/lower",
        "plan/pair",
        "plan/product",
        "plan/scatter",
        "plan/tiled",
    ],
    "emitters push into the lowering that calls them",
)];

/// The names in a `use` tree or path behind its first part, one list of segments each; braces are opened once.
fn paths_of(text: &str) -> Vec<Vec<String>> {
    let segments = |p: &str| {
        let plain = p.trim().split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).next().unwrap_or("");
        plain.split("::").filter(|s| !s.is_empty()).map(String::from).collect::<Vec<_>>()
    };
    let Some(inner) = text.strip_prefix('{') else { return vec![segments(text)] };
    let (mut out, mut depth, mut item) = (vec![], 0, String::new());
    for c in inner.chars() {
        match c {
            '}' if depth == 0 => break,
            ',' if depth == 0 => out.push(std::mem::take(&mut item)),
            c => {
                depth += (c == '{') as i32 - (c == '}') as i32;
                item.push(c);
            }
        }
    }
    out.push(item);
    out.iter().map(|i| segments(i.split('{').next().unwrap_or(""))).collect()
}

/// Which files each file of `src` names, by the paths in it; a folder's mod.rs stands outside, for it names its own.
fn imports() -> BTreeMap<String, BTreeSet<String>> {
    let all: BTreeMap<String, PathBuf> = files("src", ".rs")
        .into_iter()
        .map(|p| (p.strip_prefix(root().join("src")).unwrap().with_extension("").to_string_lossy().into_owned(), p))
        .filter(|(name, _)| !name.ends_with("mod"))
        .collect();
    let mut out = BTreeMap::new();
    for (name, path) in &all {
        let text: String = fs::read_to_string(path)
            .unwrap()
            .lines()
            .map(|l| l.split("//").next().unwrap_or("").to_string() + "\n")
            .collect();
        let own: Vec<String> = name.split('/').map(String::from).collect();
        let mut named = BTreeSet::new();
        for (at, start) in text.match_indices("crate::").chain(text.match_indices("super::")) {
            // `super::super::x` is met at its last `super`.
            let mut rest = &text[at + start.len()..];
            let (mut before, mut ups) = (&text[..at], 1);
            while let Some(shorter) = before.strip_suffix("super::") {
                (before, ups) = (shorter, ups + 1);
            }
            if rest.starts_with("super::") {
                continue;
            }
            let base = if start == "crate::" { vec![] } else { own[..own.len().saturating_sub(ups)].to_vec() };
            if !rest.starts_with('{') {
                rest = rest.split(|c: char| c.is_whitespace() || c == ';').next().unwrap_or("");
            }
            for path in paths_of(rest) {
                let full: Vec<String> = [base.clone(), path].concat();
                let longest = (1..=full.len()).rev().map(|n| full[..n].join("/")).find(|p| all.contains_key(p));
                named.extend(longest.filter(|p| p != name));
            }
        }
        out.insert(name.clone(), named);
    }
    out
}

#[test]
fn files_do_not_go_in_circles() {
    let imports = imports();
    let reach = |from: &str| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from.to_string()]);
        while let Some(name) = open.pop() {
            for next in imports.get(&name).into_iter().flatten() {
                if seen.insert(next.clone()) {
                    open.push(next.clone());
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&String, BTreeSet<String>> = imports.keys().map(|n| (n, reach(n))).collect();
    let circles: BTreeSet<Vec<&str>> = (imports.keys())
        .filter(|n| reached[n].contains(*n))
        .map(|n| imports.keys().filter(|m| reached[n].contains(*m) && reached[m].contains(n)).map(|m| &m[..]).collect())
        .collect();
    let allowed: BTreeSet<Vec<&str>> = CIRCLES.iter().map(|c| c.0.to_vec()).collect();
    assert!(CIRCLES.iter().all(|c| c.1.len() > 20));
    for circle in &circles {
        let within = allowed.iter().any(|a| circle.iter().all(|f| a.contains(f)));
        assert!(within, "these files import each other in a circle: move what is misplaced: {circle:?}");
    }
    for circle in &allowed {
        let left = circles.iter().any(|c| c.iter().all(|f| circle.contains(f)));
        assert!(left, "this circle is gone: take it out of the list: {circle:?}");
    }
}

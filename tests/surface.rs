//! The public surface as text: what users can name is in tests/snapshots/surface.txt, so that a change of it is seen in review.
//!
//! `scripts/surface.sh` makes rustdoc's JSON and sets `WARPWEFT_SURFACE` to it; without it there is nothing to compare. After a
//! change that is meant: `WARPWEFT_BLESS=1 scripts/surface.sh`.

use serde_json::Value as Json;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

struct Docs(Json);

/// Versions of rustdoc's JSON that this reads.
const KNOWN: std::ops::RangeInclusive<u64> = 50..=60;

impl Docs {
    fn item(&self, id: &Json) -> Option<&Json> {
        self.0["index"].get(id.to_string().trim_matches('"'))
    }

    /// Everything in a module, one line each.
    fn module(&self, id: &Json, path: &str, out: &mut BTreeSet<String>) {
        let Some(module) = self.item(id) else { return };
        for id in list(&module["inner"]["module"]["items"]) {
            let Some(item) = self.item(id) else { continue };
            if item["visibility"] != "public" {
                continue;
            }
            match item["inner"].get("use") {
                Some(used) => {
                    let name = format!("{path}::{}", text(&used["name"]));
                    match self.item(&used["id"]) {
                        Some(to) => self.named(to, &name, out),
                        None => drop(out.insert(format!("{name} = {}", text(&used["source"])))),
                    }
                }
                None => self.named(item, &format!("{path}::{}", text(&item["name"])), out),
            }
        }
    }

    fn named(&self, item: &Json, name: &str, out: &mut BTreeSet<String>) {
        let inner = &item["inner"];
        let open = if item["attrs"].to_string().contains("non_exhaustive") { ", non-exhaustive" } else { "" };
        if inner.get("module").is_some() {
            return self.module(&item["id"], name, out);
        }
        if let Some(s) = inner.get("struct") {
            out.insert(format!("{name} (struct{open})"));
            let plain = &s["kind"]["plain"]["fields"];
            let fields = if plain.is_array() { plain } else { &s["kind"]["tuple"] };
            for field in list(fields).filter_map(|f| self.item(f)) {
                out.insert(format!("{name}.{}: {}", text(&field["name"]), ty(&field["inner"]["struct_field"])));
            }
            self.impls(&s["impls"], name, out);
        } else if let Some(e) = inner.get("enum") {
            out.insert(format!("{name} (enum{open})"));
            for variant in list(&e["variants"]).filter_map(|v| self.item(v)) {
                out.insert(format!("{name}::{} (variant)", text(&variant["name"])));
            }
            self.impls(&e["impls"], name, out);
        } else if let Some(t) = inner.get("trait") {
            out.insert(format!("{name} (trait)"));
            list(&t["items"]).filter_map(|i| self.item(i)).for_each(|i| self.member(i, name, out));
        } else if let Some(t) = inner.get("type_alias") {
            out.insert(format!("{name} = {}", ty(&t["type"])));
        } else {
            self.member(item, name.rsplit_once("::").map_or("", |n| n.0), out);
        }
    }

    /// What types can do: their own functions, and the traits that they have, but those that every type has.
    fn impls(&self, ids: &Json, name: &str, out: &mut BTreeSet<String>) {
        for item in list(ids).filter_map(|i| self.item(i)) {
            let imp = &item["inner"]["impl"];
            if imp["is_synthetic"] == true || !imp["blanket_impl"].is_null() {
                continue;
            }
            if imp["trait"].is_null() {
                let members = list(&imp["items"]).filter_map(|i| self.item(i));
                members.filter(|i| i["visibility"] == "public").for_each(|i| self.member(i, name, out));
            } else if !text(&imp["trait"]["path"]).contains("Structural") {
                out.insert(format!("{name}: {}{}", text(&imp["trait"]["path"]), arguments(&imp["trait"]["args"])));
            }
        }
    }

    fn member(&self, item: &Json, of: &str, out: &mut BTreeSet<String>) {
        let name = format!("{of}::{}", text(&item["name"]));
        let inner = &item["inner"];
        if let Some(f) = inner.get("function") {
            let hidden = list(&item["attrs"]).any(|a| a.to_string().contains("doc(hidden)"));
            let parameters: Vec<String> = list(&f["sig"]["inputs"])
                .map(|p| match (text(&p[0]), ty(&p[1])) {
                    ("self", of) => of.replace("Self", "self"),
                    (name, of) => format!("{name}: {of}"),
                })
                .collect();
            let gives =
                if f["sig"]["output"].is_null() { String::new() } else { format!(" -> {}", ty(&f["sig"]["output"])) };
            let waits = if f["header"]["is_async"] == true { "async " } else { "" };
            if !hidden {
                out.insert(format!("{waits}{name}({}){gives}", parameters.join(", ")));
            }
        } else if let Some(c) = inner.get("assoc_const").or(inner.get("constant")) {
            out.insert(format!("{name}: {} (const)", ty(&c["type"])));
        } else if inner.get("assoc_type").is_some() {
            out.insert(format!("{name} (type)"));
        }
    }
}

fn list(j: &Json) -> impl Iterator<Item = &Json> {
    j.as_array().map_or(&[][..], |a| a).iter()
}
fn text(j: &Json) -> &str {
    j.as_str().unwrap_or("_")
}

fn arguments(args: &Json) -> String {
    let one = |a: &Json| match (a.get("type"), a.get("lifetime")) {
        (Some(t), _) => ty(t),
        (_, Some(l)) => text(l).to_string(),
        _ => "_".into(),
    };
    let angle = &args["angle_bracketed"];
    let mut all: Vec<String> = list(&angle["args"]).map(one).collect();
    for c in list(&angle["constraints"]) {
        all.push(format!("{} = {}", text(&c["name"]), ty(&c["binding"]["equality"]["type"])));
    }
    let paren = &args["parenthesized"];
    if paren.is_object() {
        let inputs: Vec<String> = list(&paren["inputs"]).map(ty).collect();
        return format!("({})", inputs.join(", "));
    }
    if all.is_empty() { String::new() } else { format!("<{}>", all.join(", ")) }
}

fn bounds(b: &Json) -> String {
    let one = |b: &Json| match b.get("trait_bound") {
        Some(t) => format!("{}{}", text(&t["trait"]["path"]), arguments(&t["trait"]["args"])),
        None => text(&b["outlives"]).to_string(),
    };
    list(b).map(one).collect::<Vec<_>>().join(" + ")
}

/// A type as Rust writes it.
fn ty(j: &Json) -> String {
    let Some((kind, of)) = j.as_object().and_then(|o| o.iter().next()) else { return "_".into() };
    match kind.as_str() {
        "resolved_path" => {
            let path = text(&of["path"]);
            format!("{}{}", path.rsplit("::").next().unwrap_or(path), arguments(&of["args"]))
        }
        "primitive" | "generic" => text(of).to_string(),
        "borrowed_ref" => {
            let mutable = if of["is_mutable"] == true { "mut " } else { "" };
            format!("&{mutable}{}", ty(&of["type"]))
        }
        "tuple" => format!("({})", list(of).map(ty).collect::<Vec<_>>().join(", ")),
        "slice" => format!("[{}]", ty(of)),
        "array" => format!("[{}; {}]", ty(&of["type"]), text(&of["len"])),
        "impl_trait" => format!("impl {}", bounds(of)),
        "dyn_trait" => {
            let one = |t: &Json| format!("{}{}", text(&t["trait"]["path"]), arguments(&t["trait"]["args"]));
            format!("dyn {}", list(&of["traits"]).map(one).collect::<Vec<_>>().join(" + "))
        }
        "qualified_path" => format!("{}::{}", ty(&of["self_type"]), text(&of["name"])),
        "function_pointer" => {
            let inputs: Vec<String> = list(&of["sig"]["inputs"]).map(|p| ty(&p[1])).collect();
            format!("fn({}) -> {}", inputs.join(", "), ty(&of["sig"]["output"]))
        }
        other => other.to_string(),
    }
}

#[test]
fn the_public_surface_is_what_its_snapshot_says() {
    let Some(path) = std::env::var_os("WARPWEFT_SURFACE") else {
        eprintln!("WARPWEFT_SURFACE names no file: scripts/surface.sh makes one");
        return;
    };
    let docs = Docs(serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap());
    let version = docs.0["format_version"].as_u64().unwrap();
    assert!(
        KNOWN.contains(&version),
        "rustdoc writes version {version} of its JSON: read what changed, and take it up here"
    );
    let mut lines = BTreeSet::new();
    docs.module(&docs.0["root"], "warpweft", &mut lines);
    assert!(lines.len() > 200, "only {} lines: the reader misses something", lines.len());
    let got = lines.into_iter().collect::<Vec<_>>().join("\n") + "\n";
    let snapshot = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots/surface.txt");
    if std::env::var("WARPWEFT_BLESS").is_ok_and(|v| v == "1") {
        fs::write(&snapshot, &got).unwrap();
    }
    let want = fs::read_to_string(&snapshot).unwrap_or_default();
    let (new, old): (BTreeSet<&str>, BTreeSet<&str>) = (got.lines().collect(), want.lines().collect());
    let changes: Vec<String> = (new.difference(&old).map(|l| format!("+ {l}")))
        .chain(old.difference(&new).map(|l| format!("- {l}")))
        .collect();
    assert!(
        changes.is_empty(),
        "the public surface changed; if it is meant: WARPWEFT_BLESS=1 scripts/surface.sh\n{}",
        changes.join("\n")
    );
}

//! Tables, traces and machines that grow: what is held beside the text stays within 64 MiB, and what is refused is refused in one line.

use super::{HELD, PEAK};
use std::time::{Duration, Instant};
use warpweft::base::Result;
use warpweft::simulate::table::Table;
use warpweft::trace::Trace;

/// Bytes of a text that is to be read.
const LARGE: usize = 24 << 20;
const HOLDS: i64 = 64 << 20;

/// Runs `f`; gives whether it took the text.
fn bounded<T>(name: &str, f: impl FnOnce() -> Result<T>) -> bool {
    let (start, before) = (Instant::now(), HELD.get());
    PEAK.set(before);
    let done = f();
    let held = PEAK.get() - before;
    assert!(held < HOLDS, "{name}: held {held} bytes");
    assert!(start.elapsed() < Duration::from_secs(20), "{name}");
    if let Err(e) = &done {
        let said = e.to_string();
        assert!(said.chars().count() < 2500 && !said.contains(char::is_control), "{name}: {said}");
    }
    done.is_ok()
}

/// So many times a piece that the text is large.
fn many(piece: &str) -> String {
    up_to(piece, LARGE)
}

fn up_to(piece: &str, bytes: usize) -> String {
    piece.repeat(bytes / piece.len())
}

/// A little less than the largest table and the largest machine file.
const TABLE: usize = (1 << 20) - 100;
const MACHINE: usize = (256 << 10) - 100;

#[test]
fn tables_that_grow() {
    let wide: String = (0..TABLE / 8).map(|i| format!("c{i:06},")).collect();
    let many = |piece: &str| up_to(piece, TABLE);
    assert!(!bounded("a large file", || Table::parse("table.csv", &format!("a\n{}", self::many("1\n")))));
    let texts = [
        ("columns", format!("{wide}x\n1\n")),
        ("columns without names", format!("{}\n1\n", many(","))),
        ("cells", format!("a,b,c,d\n{}", many("1,2,3,4\n"))),
        ("rows of one cell", format!("a\n{}", many("1\n"))),
        ("rows of nothing", format!("a,b\n{}", many(",\n"))),
        ("a long cell", format!("a,b\n1,{}\n", many("x"))),
        ("a long name", format!("a,{}\n{}", "n".repeat(1 << 19), "1,2\n".repeat(50_000))),
        ("a quote without an end", format!("a,b\n1,\"{}", many("1,2\n"))),
        ("quotes", format!("a,b\n{}", many("\"\"\"\"\"\",1\n"))),
        ("comments", format!("{}a\n1\n", many("# no\n"))),
        ("rows that differ", format!("a,b\n1,2\n{}\n", many(","))),
    ];
    for (name, text) in &texts {
        let taken = bounded(name, || Table::parse("table.csv", text));
        assert!(!taken || ["comments", "a long name"].contains(name), "{name}");
    }
    // Names reach messages: they are one line of bounded length.
    let table = Table::parse("table.csv", &format!("\u{1b}[2J{},b\n1,2\n", "n".repeat(500))).unwrap();
    assert!(table.columns[0].chars().count() < 200 && !table.columns[0].contains(char::is_control));
}

#[test]
fn traces_that_grow() {
    let event = r#"{"ph":"X","name":"a","ts":0,"dur":1}"#;
    let texts = [
        ("zeros", format!("[{}{event}]", many("0,")), true),
        ("empty events", format!("[{}{event}]", many("{},")), true),
        ("events of other kinds", format!("[{}{event}]", many(r#"{"ph":"B","args":{"a":[1,2,3]}},"#)), true),
        ("zeros beside the events", format!("{{\"a\":[{}0],\"traceEvents\":[{event}]}}", many("0,")), true),
        ("no events", format!("{{\"a\":[{}0]}}", many("0,")), false),
        ("one event of many values", format!("[{{\"ph\":\"X\",\"args\":[{}0]}}]", many("0,")), false),
        ("a long name", format!("[{}]", event.replace("\"a\"", &format!("\"{}\"", many("x")))), true),
        ("names without an end", format!("[{{\"{}", many("x")), false),
        ("nesting", many("["), false),
        ("nesting in an event", format!("[{{\"ph\":\"X\",\"args\":{}", many("[")), false),
        ("objects in objects", many("{\"traceEvents\":"), false),
    ];
    for (name, text, good) in &texts {
        assert_eq!(bounded(name, || Trace::from_json(text, "trace.json")), *good, "{name}");
    }
    // Events take memory: no more than are shown.
    let all = format!("[{}{event}]", format!("{event},").repeat(1 << 20));
    assert!(Trace::from_json(&all, "trace.json").is_err());
}

#[test]
fn machines_that_grow() {
    for most in [1000, MACHINE, LARGE] {
        let many = |piece: &str| up_to(piece, most);
        for (name, text) in [
            ("tables", many("[[links]]\n")),
            ("keys", (0..most / 12).map(|i| format!("k{i} = 0\n")).collect()),
            ("nesting", format!("a = {}", many("["))),
            ("tables within tables", format!("a = {}", many("{a="))),
            ("dots", format!("{}a = 1", many("a."))),
            ("a long name", format!("name = \"{}\"", many("\u{7f}x"))),
        ] {
            let what = format!("{name}, {most} bytes");
            assert!(!bounded(&what, || warpweft::topology::read("machine.toml", &text)), "{what}");
        }
    }
}

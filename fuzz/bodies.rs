//! What each fuzz target does with bytes that nobody has chosen. The fuzzers run it (scripts/fuzz.sh), and an ordinary test runs it
//! over the corpora and changes of them (tests/fuzz.rs).
#![allow(dead_code)]

#[path = "fields.rs"]
mod fields;
#[path = "../tests/common/gguf.rs"]
mod gguf;
#[path = "request.rs"]
pub mod request;
#[path = "../tests/common/tiny.rs"]
mod tiny;

use std::collections::HashMap;
use std::sync::Arc;
use warpweft::base::Texts;
use warpweft::media;
use warpweft::model::gguf::Gguf;
use warpweft::model::safetensors::{self, Index};
use warpweft::model::{Model, ModelSource};
use warpweft::text::{ChatTemplate, Message, StreamDecoder, Tokenizer, Vocabulary};

/// Targets by name.
pub const ALL: &[(&str, fn(&[u8]))] = &[
    ("gguf", gguf),
    ("safetensors", safetensors),
    ("index", index),
    ("config", config),
    ("tokenizer", tokenizer),
    ("vocabulary", vocabulary),
    ("template", template),
    ("topology", topology),
    ("table", table),
    ("trace", trace),
    ("request", request::request),
    ("image", image),
    ("sound", sound),
];

/// An error is one line of bounded length without control characters, whatever the bytes were.
fn said<T>(done: warpweft::base::Result<T>) -> Option<T> {
    match done {
        Ok(value) => Some(value),
        Err(e) => {
            let text = e.to_string();
            assert!(!text.contains(char::is_control) && text.chars().count() < 4000, "{text:?}");
            None
        }
    }
}

fn opened(head: &[u8], side: &HashMap<String, Vec<u8>>) {
    if let Some(Some(source)) = said(ModelSource::from_head("model", head, Some(head.len() as u64), side))
        && let Some(model) = said(Model::new(source))
    {
        let info = model.info();
        if info.layers <= 4 && info.vocab <= 1024 && info.width <= 256 {
            said(model.typical_step(16));
        }
    }
}

pub fn gguf(data: &[u8]) {
    let whole = said(Gguf::parse(data, "model.gguf"));
    for cut in [1, data.len() / 3, data.len() * 2 / 3, data.len()] {
        let head = said(Gguf::parse_head(&data[..cut.min(data.len())], data.len() as u64, "model.gguf")).flatten();
        if let (Some(a), Some(b)) = (&whole, &head) {
            assert_eq!(a.tensors, b.tensors);
        }
    }
    if let Some(gguf) = &whole {
        for (key, value) in &gguf.metadata {
            assert!(format!("{key} {value}").len() <= key.len() + 700);
        }
    }
    opened(data, &HashMap::new());
}

pub fn safetensors(data: &[u8]) {
    let whole = said(safetensors::parse(data, "model.safetensors"));
    let head = said(safetensors::parse_head(data, safetensors::UNKNOWN, "model.safetensors"));
    if let (Some(a), Some(Some(b))) = (whole, head) {
        assert_eq!(a, b);
    }
}

pub fn index(data: &[u8]) {
    if let Some(index) = said(Index::parse(data, "model.safetensors.index.json")) {
        let files: Vec<String> = index.files().into_iter().map(String::from).collect();
        said(index.check(|_| files.first().map(String::as_str)));
    }
}

pub fn config(data: &[u8]) {
    let side = HashMap::from([("config.json".to_string(), data.to_vec())]);
    opened(b"\x02\0\0\0\0\0\0\0{}", &side);
    if let Ok(json) = warpweft::base::json::parse(data) {
        said(warpweft::simulate::config::from_config(&json, "model"));
    }
}

/// Splits and joins a few texts.
fn splits(t: &Tokenizer) {
    for text in ["", "a", "Hello, wörld 123\n\n  😀", "aaaaaaaaaaaaaaaaaaaaaaaa bbbb\u{301}"] {
        let Some(ids) = said(t.encode(text, true)) else { continue };
        said(t.decode(&ids, true));
        let mut stream = StreamDecoder::new();
        ids.iter().for_each(|id| drop(said(stream.push(t, *id))));
        said(stream.finish(t));
    }
}

pub fn tokenizer(data: &[u8]) {
    if let Some(t) = said(Tokenizer::from_json(data)) {
        splits(&t);
    }
}

/// Lines: the kind, the rule, then tokens (with their type and score), `=`, merges, `=`, a table of letters.
pub fn vocabulary(data: &[u8]) {
    let mut parts = data.splitn(3, |b| *b == b'=');
    let mut lines = parts.next().unwrap_or_default().split(|b| *b == b'\n');
    let mut word = || String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    let (model, pre) = (word(), word());
    let (mut tokens, mut types, mut scores) = (vec![], vec![], vec![]);
    for line in lines {
        let (kind, text) = line.split_first().unwrap_or((&b'1', b""));
        types.push((*kind as i64) - b'0' as i64);
        scores.push(-(tokens.len() as f64) - *kind as f64 / 7.0);
        tokens.push(text);
    }
    let merges: Texts = parts.next().unwrap_or_default().split(|b| *b == b'\n').filter(|l| !l.is_empty()).collect();
    let v = Vocabulary {
        model,
        pre,
        tokens: Arc::new(tokens.iter().collect()),
        types,
        scores,
        merges: Arc::new(merges),
        charsmap: parts.next().unwrap_or_default().to_vec(),
        ..Vocabulary::default()
    };
    if let Some(t) = said(Tokenizer::from_vocabulary(v)) {
        splits(&t);
    }
}

/// The bytes as a template, and as choices of a grammar of templates.
pub fn template(data: &[u8]) {
    let talk = [Message::new("user", " Hi "), Message::new("assistant", "Hello"), Message::new("user", "Bye")];
    let mut grammar = Grammar { data, out: String::new(), depth: 0 };
    grammar.body();
    for source in [String::from_utf8_lossy(data).into_owned(), grammar.out] {
        if let Some(t) = said(ChatTemplate::new(&source)) {
            said(t.render(&talk, true, "<s>", "</s>"));
        }
    }
}

/// Writes a template from choices, so that most of what comes of random bytes is valid.
struct Grammar<'a> {
    data: &'a [u8],
    out: String,
    depth: usize,
}

impl Grammar<'_> {
    fn choose(&mut self, n: usize) -> usize {
        match self.data.split_first() {
            Some((b, rest)) => {
                self.data = rest;
                *b as usize % n
            }
            None => 0,
        }
    }
    fn pick(&mut self, all: &[&str]) {
        let i = self.choose(all.len());
        self.out.push_str(all[i]);
    }

    fn body(&mut self) {
        self.depth += 1;
        while !self.data.is_empty() && self.depth < 40 {
            match self.choose(13) {
                0 => break,
                1 => self.pick(&[
                    "x",
                    "\n",
                    "  ",
                    "{# c #}",
                    "{%- if 1 -%} a {%- endif +%}\n",
                    "{% raw %}{{ }}{% endraw %}",
                ]),
                2 | 3 => {
                    self.out.push_str("{{ ");
                    self.expression();
                    self.out.push_str(" }}");
                }
                4 => self.block("if ", Grammar::expression, "endif"),
                5 => self.block("for a in ", Grammar::expression, "endfor"),
                6 => self.block("set a", |_| (), "endset"),
                7 => {
                    self.pick(&["{% set a = ", "{% set b = ", "{% set n = ", "{% set n.a = "]);
                    self.expression();
                    self.out.push_str(" %}");
                }
                8 => self.block("macro m(a, b=1)", |_| (), "endmacro"),
                9 => self.block("call m", Grammar::arguments, "endcall"),
                10 => self.block("filter ", |g| g.pick(FILTERS), "endfilter"),
                11 => self.block("with a = ", Grammar::expression, "endwith"),
                _ => self.pick(&["{% else %}", "{% break %}", "{% continue %}", "{% elif a %}"]),
            }
        }
        self.depth -= 1;
    }

    fn block(&mut self, open: &str, inner: fn(&mut Self), end: &str) {
        self.out.push_str(&format!("{{% {open}"));
        inner(self);
        self.out.push_str(" %}");
        self.body();
        self.out.push_str(&format!("{{% {end} %}}"));
    }

    fn arguments(&mut self) {
        self.out.push('(');
        for i in 0..self.choose(4) {
            self.out.push_str(if i > 0 { ", " } else { "" });
            self.expression();
        }
        self.out.push(')');
    }

    fn expression(&mut self) {
        self.depth += 1;
        if self.depth > 60 || self.data.is_empty() {
            self.out.push('1');
            self.depth -= 1;
            return;
        }
        match self.choose(13) {
            0 | 1 => self.pick(NAMES),
            2 | 3 => self.pick(LITERALS),
            4 => {
                self.expression();
                self.pick(&[
                    " + ", " - ", " * ", " / ", " // ", " % ", " ** ", " ~ ", " and ", " or ", " == ", " < ", " in ",
                    " not in ", " >= ",
                ]);
                self.expression();
            }
            5 => {
                self.pick(&["not ", "-", "+"]);
                self.expression();
            }
            6 => {
                self.out.push('(');
                self.expression();
                self.pick(&[")", ", 1)", " if a else b)"]);
            }
            7 => {
                self.out.push('[');
                self.expression();
                self.pick(&["]", ", a]", ", 'x']"]);
            }
            8 => {
                self.out.push_str("{'a': ");
                self.expression();
                self.pick(&["}", ", 'b': a}", ", 1: 2}"]);
            }
            9 => {
                self.expression();
                self.out.push_str(" | ");
                self.pick(FILTERS);
            }
            10 => {
                self.expression();
                self.pick(METHODS);
                self.arguments();
            }
            11 => {
                self.expression();
                self.pick(PLACES);
            }
            _ => {
                self.pick(FUNCTIONS);
                self.arguments();
            }
        }
        self.depth -= 1;
    }
}

const NAMES: &[&str] = &[
    "a",
    "b",
    "n",
    "m",
    "messages",
    "messages[0]",
    "tools",
    "bos_token",
    "loop",
    "nothing",
    "namespace()",
    "namespace(a=1)",
];

const LITERALS: &[&str] =
    &["1", "0", "-3", "2.5", "99999", "''", "'ab'", "'%s'", "'{}'", "none", "true", "[]", "{}", "()", "'é😀'", "1e308"];

const PLACES: &[&str] = &[
    "[0]",
    "[-1]",
    "['a']",
    "[1:]",
    "[::-1]",
    ".role",
    ".a",
    " is defined",
    " is none",
    " is odd",
    " is eq a",
    " is string",
];

const FUNCTIONS: &[&str] =
    &["range", "dict", "namespace", "raise_exception", "strftime_now", "m", "loop.cycle", "caller"];

const FILTERS: &[&str] = &[
    "upper",
    "lower",
    "title",
    "capitalize",
    "trim",
    "length",
    "list",
    "first",
    "last",
    "reverse",
    "sort",
    "unique",
    "join",
    "join('-')",
    "tojson",
    "tojson(indent=2)",
    "string",
    "int",
    "float",
    "round",
    "round(2)",
    "abs",
    "sum",
    "min",
    "max",
    "items",
    "dictsort",
    "indent",
    "indent(9, true)",
    "replace('a', 'bb')",
    "map('upper')",
    "map(attribute='role')",
    "select",
    "reject('odd')",
    "selectattr('role')",
    "groupby('role')",
    "batch(2)",
    "slice(3)",
    "default(a)",
    "truncate(3)",
    "center(9)",
    "e",
    "format(a)",
    "wordcount",
    "attr('a')",
];
const METHODS: &[&str] = &[
    ".upper",
    ".strip",
    ".split",
    ".rsplit",
    ".replace",
    ".join",
    ".format",
    ".title",
    ".find",
    ".count",
    ".startswith",
    ".get",
    ".items",
    ".keys",
    ".values",
    ".center",
    ".zfill",
    ".partition",
    ".splitlines",
    ".index",
    ".removeprefix",
    ".lower",
    ".isdigit",
    ".append",
];

pub fn topology(data: &[u8]) {
    if let Some(t) = said(warpweft::topology::read("machine.toml", &String::from_utf8_lossy(data))) {
        assert!(t.devices() > 0);
        for figure in warpweft::simulate::whatif::FIGURES {
            said(warpweft::simulate::whatif::set(&mut t.clone(), &format!("{figure}=x2")));
        }
    }
}

/// The rows as whatever they could measure.
pub fn table(data: &[u8]) {
    use warpweft::simulate::check::{SUBJECTS, check};
    use warpweft::simulate::table::Table;
    let text = String::from_utf8_lossy(data);
    for subject in SUBJECTS {
        if let Some(table) = said(Table::parse("table.csv", &text))
            && table.rows.len() <= 4
            && let Some(report) = said(check(subject, table, &warpweft::simulate::known::machine))
        {
            for outcome in &report.outcomes {
                said(outcome.predicted.clone());
            }
            report.lines(true);
            said(report.rows_csv());
        }
    }
}

pub fn trace(data: &[u8]) {
    use warpweft::simulate::compare::compare;
    use warpweft::trace::Trace;
    if let Some(trace) = said(Trace::from_json(&String::from_utf8_lossy(data), "trace.json")) {
        assert!(!compare(&trace, &trace).text().is_empty());
        assert_eq!(Trace::from_json(&trace.to_json(), "again").map(|t| t.spans.len()), Ok(trace.spans.len()));
    }
}

pub fn image(data: &[u8]) {
    let path = std::path::Path::new("image");
    if let Some(picture) = said(media::decode(data, path)) {
        assert_eq!(picture.rgb.len(), picture.width * picture.height * 3);
        let config = serde_json::json!({ "size": 24, "crop_size": { "height": 24, "width": 30 } });
        let steps = said(media::Preprocess::read(&config, media::Family::Clip, path));
        if let Some(pixels) = steps.and_then(|s| said(s.apply(&picture))) {
            assert_eq!((pixels.height, pixels.width, pixels.values.len()), (24, 30, 3 * 24 * 30));
            assert!(pixels.values.iter().all(|x| x.is_finite()));
        }
    }
}

pub fn sound(data: &[u8]) {
    if let Some(sound) = said(media::decode_wav(data, std::path::Path::new("sound")))
        && let Some(sound) = said(sound.at_rate(16_000))
    {
        let mel = said(media::LogMel::read(&serde_json::json!({}), std::path::Path::new("config")));
        if let Some(mel) = mel.and_then(|m| said(m.of(&sound.samples))) {
            assert!(mel.iter().all(|x| x.is_finite()));
        }
    }
}

//! Templates, tokenizers and vocabularies that want to hurt, made by rule: each kind is grown until it is refused or done, and
//! neither takes long, much memory, or the process.

use serde_json::{Value as Json, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use warpweft::text::{ChatTemplate, Message, Tokenizer, Variable, Vocabulary};

/// The most that one of them may take: the limit of a template is 5 s, of a tokenizer 10 s, on a machine that has other work.
const PATIENCE: Duration = Duration::from_secs(60);

/// Peak memory of this process, where it can be told.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) << 10
}

/// Ends in time, and says something short if it fails.
fn ends<T>(what: &str, run: impl FnOnce() -> warpweft::base::Result<T>) -> Option<T> {
    let start = Instant::now();
    let done = run();
    assert!(start.elapsed() < PATIENCE, "{what} took {:?}", start.elapsed());
    match done {
        Ok(value) => Some(value),
        Err(e) => {
            let said = e.to_string();
            assert!(said.chars().count() < 2000 && !said.contains(char::is_control), "{what} said {said:?}");
            None
        }
    }
}

fn render(source: &str) -> warpweft::base::Result<String> {
    ChatTemplate::new(source)?.render(&[Message::new("user", "hi")], true, "<s>", "</s>")
}

/// Constructs that nest, or whose links each are a level: n of each.
fn nest(kind: &str, n: usize) -> String {
    let many = |open: &str, inner: &str, close: &str| format!("{}{inner}{}", open.repeat(n), close.repeat(n));
    let shown = |e: String| format!("{{{{ {e} }}}}");
    match kind {
        "signs" => shown(many("-", "a", "")),
        "plus" => shown(many("+", "1", "")),
        "nots" => shown(many("not ", "a", "")),
        "parentheses" => shown(many("(", "1", ")")),
        "set parentheses" => format!("{{% set x = {} %}}", many("(", "1", ")")),
        "lists" => shown(many("[", "1", "]")),
        "dicts" => shown(many("{'a':", "1", "}")),
        "filters" => shown(format!("'a'{}", "|upper".repeat(n))),
        "tests" => shown(format!("1{}", " is defined".repeat(n))),
        "attributes" => shown(format!("messages{}", ".a".repeat(n))),
        "items" => shown(format!("messages{}", "[0]".repeat(n))),
        "calls" => shown(format!("messages{}", "()".repeat(n))),
        "concats" => shown(format!("1{}", "~1".repeat(n))),
        "sums" => shown(format!("1{}", "+1".repeat(n))),
        "products" => shown(format!("1{}", "*1".repeat(n))),
        "powers" => shown(format!("1{}", "**1".repeat(n))),
        "comparisons" => shown(format!("1{}", "<1".repeat(n))),
        "ors" => shown(format!("0{}", " or 0".repeat(n))),
        "conditions" => shown(format!("1{}", " if 0 else 1".repeat(n))),
        "ifs" => many("{% if 1 %}", "x", "{% endif %}"),
        "elifs" => format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(n)),
        "fors" => many("{% for i in [1] %}", "x", "{% endfor %}"),
        "withs" => many("{% with %}", "x", "{% endwith %}"),
        "blocks" => many("{% set x %}", "x", "{% endset %}"),
        "filter blocks" => many("{% filter upper %}", "x", "{% endfilter %}"),
        "macros" => many("{% macro m() %}", "x", "{% endmacro %}"),
        "targets" => format!("{{% for {} in [1] %}}{{% endfor %}}", many("(", "a", ")")),
        "slices" => shown(format!("'abc'{}", "[:]".repeat(n))),
        "comments" => many("{#", "", "#}"),
        "texts" => shown("'a' ".repeat(n)),
        "arguments" => shown(format!("range({}1)", "1,".repeat(n))),
        "raws" => many("{% raw %}", "", "{% endraw %}"),
        other => panic!("no kind {other}"),
    }
}

const NESTS: &[&str] = &[
    "signs",
    "plus",
    "nots",
    "parentheses",
    "set parentheses",
    "lists",
    "dicts",
    "filters",
    "tests",
    "attributes",
    "items",
    "calls",
    "concats",
    "sums",
    "products",
    "powers",
    "comparisons",
    "ors",
    "conditions",
    "ifs",
    "elifs",
    "fors",
    "withs",
    "blocks",
    "filter blocks",
    "macros",
    "targets",
    "slices",
    "comments",
    "texts",
    "arguments",
    "raws",
];

#[test]
fn whatever_nests_is_bounded() {
    for kind in NESTS {
        for n in [1, 100, 1000, 20_000, 200_000] {
            let source = nest(kind, n);
            if source.len() <= 1 << 20 {
                ends(&format!("{n} {kind}"), || render(&source));
            }
        }
    }
    // On a thread of little stack, too.
    let small = std::thread::Builder::new().stack_size(128 << 10).spawn(|| {
        for kind in NESTS {
            let _ = render(&nest(kind, 3000));
        }
    });
    small.unwrap().join().unwrap();
}

/// Programs that grow a value `x`, or that run long, whatever is done with it.
#[test]
fn whatever_grows_is_bounded() {
    let growths = [
        ("texts double", "{% set x = 'ab' %}", "{% set x = x ~ x %}"),
        ("texts add", "{% set x = 'ab' %}", "{% set x = x + x %}"),
        ("texts repeat", "{% set x = 'ab' %}", "{% set x = x * 1000 %}"),
        ("lists double", "{% set x = [1] %}", "{% set x = x + x %}"),
        ("lists hold themselves twice", "{% set x = [1] %}", "{% set x = [x, x] %}"),
        ("lists nest", "{% set x = [1] %}", "{% set x = [x] %}"),
        ("dicts hold themselves twice", "{% set x = {} %}", "{% set x = {'a': x, 'b': x} %}"),
        ("tuples nest", "{% set x = () %}", "{% set x = (x, x) %}"),
        ("texts replace", "{% set x = 'aa' %}", "{% set x = x.replace('a', 'aaaaaaaa') %}"),
        ("texts replace nothing", "{% set x = 'aa' %}", "{% set x = x | replace('', x) %}"),
        ("texts join", "{% set x = 'aa' %}", "{% set x = x.join([x, x, x]) %}"),
        ("lists join", "{% set x = 'aa' %}", "{% set x = [x, x, x] | join(x) %}"),
        ("texts format", "{% set x = 'aa' %}", "{% set x = '{0}{0}{0}'.format(x) %}"),
        ("texts percent", "{% set x = 'aa' %}", "{% set x = '%s%s%s' % (x, x, x) %}"),
        ("texts indent", "{% set x = 'a\n' %}", "{% set x = (x ~ x) | indent(100, true, true) %}"),
        ("texts centre", "{% set x = 'a' %}", "{% set x = x.center(x | length * 100 + 5) %}"),
        ("JSON of itself", "{% set x = 'a\"' %}", "{% set x = [x, x] | tojson(indent=50) %}"),
        ("split", "{% set x = 'a b' %}", "{% set x = (x ~ ' ' ~ x) %}{% set y = x.split() %}"),
        ("namespaces", "{% set n = namespace(x=[1]) %}{% set x = 1 %}", "{% set n.x = [n.x, n.x] %}{% set x = n.x %}"),
    ];
    let uses = [
        "",
        "{{ x }}",
        "{{ x | string }}",
        "{{ x ~ 'a' }}",
        "{{ raise_exception(x) }}",
        "{{ x | tojson }}",
        "{{ [x] | join }}",
        "{{ x == x }}",
        "{{ x in [x, x] }}",
        "{{ x < x }}",
        "{{ 'abc'.startswith(x) }}",
        "{{ 'abc'.count(x) }}",
        "{{ '%s' % x }}",
        "{{ '{}'.format(x) }}",
        "{{ x | length }}",
        "{{ x | list | length }}",
        "{{ [x, x] | unique | list | length }}",
        "{{ {x: 1} }}",
        "{{ x | upper }}",
        "{{ 'a' | replace('a', x) }}",
        "{{ 'a'.replace(x, 'b') }}",
        "{{ 'a'.strip(x) }}",
        "{{ 'a'.split(x) }}",
        "{{ [x, x] | sort }}",
        "{{ x is eq x }}",
        "{{ x[::-1] }}",
        "{{ [[x]] | sum(start=[]) }}",
        "{{ strftime_now(x) }}",
        "{{ x | e }}",
    ];
    let before = peak();
    for (name, start, step) in growths {
        for n in [3, 60] {
            for use_ in uses {
                let source = format!("{start}{}{use_}", step.repeat(n));
                ends(&format!("{name}, {n} times, then {use_}"), || render(&source));
            }
        }
    }
    assert!(peak() - before < 1 << 30, "took {} MiB", (peak() - before) >> 20);
}

#[test]
fn whatever_runs_long_ends() {
    let loops = |body: &str| {
        format!("{{% for a in range(99999) %}}{{% for b in range(99999) %}}{body}{{% endfor %}}{{% endfor %}}")
    };
    let sources = [
        loops(""),
        loops("x"),
        loops("{{ a }}"),
        loops("{% set x = [a, b] %}"),
        loops("{% if a == b %}{% endif %}"),
        loops("{{ 'abcdefgh' * 100 }}"),
        "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}".into(),
        "{% macro m(n) %}{% if n > 0 %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}".into(),
        "{% macro m() %}{{ caller() }}{% endmacro %}{% call m() %}{{ m() }}{% endcall %}".into(),
        "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}".into(),
        "{% set n = namespace() %}{% set n.x = n %}{{ raise_exception(n) }}".into(),
        "{% set n = namespace() %}{% set n.x = [n] %}{{ n }}".into(),
        "{% set n = namespace() %}{% set m = namespace(n=n) %}{% set n.m = m %}{{ n }}".into(),
        "{{ range(99999) | map('string') | join(',') | length }}".into(),
        "{% set x = range(99999) | list %}{{ x | map('tojson') | join | length }}{{ x | unique | list | length }}"
            .into(),
        "{{ 10 ** 10 ** 10 }}".into(),
        "{{ 2 ** 100000 }}".into(),
        "{{ 'a' * 10 ** 12 }}".into(),
        "{{ '%1000000000d' % 1 }}".into(),
        "{{ '{:1000000000}'.format(1) }}".into(),
        "{{ 'a'.zfill(10 ** 12) }}".into(),
        "{{ 1.5 | round(10 ** 9) }}".into(),
        "{{ range(10 ** 12) }}".into(),
        "{{ [1] * 10 ** 12 }}".into(),
        "{{ [] * 10 ** 12 }}".into(),
        "{{ -9223372036854775807 - 1 }}{{ (-9223372036854775807 - 1) // -1 }}".into(),
        "{{ [1] | batch(10 ** 9) | list }}{{ [1] | slice(10 ** 9) | list }}".into(),
        "{{ 'x'.split('') }}".into(),
    ];
    for source in &sources {
        ends(source, || render(source));
    }
}

/// Variables that nest and that hold much: an error or a text.
#[test]
fn whatever_is_given_is_bounded() {
    let template = ChatTemplate::new("{{ messages | tojson }}{{ messages }}").unwrap();
    let mut deep = Variable::None;
    for _ in 0..300 {
        deep = Variable::List(vec![deep]);
    }
    assert!(template.render_with(&[("messages", deep)]).is_err());
    let long = Variable::Text("é".repeat(1 << 20));
    assert!(template.render_with(&[("messages", long)]).is_ok());
    let plain = ChatTemplate::new("{% for m in messages %}{{ m.content }}{% endfor %}").unwrap();
    let long = Message::new("user", "x".repeat(8 << 20));
    assert_eq!(plain.render(&[long], true, "", "").unwrap().len(), 8 << 20);
}

fn tokenizer(change: impl FnOnce(&mut Json)) -> String {
    let letters: serde_json::Map<String, Json> =
        ('a'..='z').enumerate().map(|(i, c)| (c.to_string(), json!(i))).collect();
    let mut json = json!({ "model": { "type": "BPE", "vocab": letters, "merges": [] } });
    change(&mut json);
    json.to_string()
}

/// A tokenizer is refused, or splits texts of several kinds, or says that it cannot.
fn splits(what: &str, json: &str) {
    let Some(tokenizer) = ends(what, || Tokenizer::from_json(json.as_bytes())) else { return };
    for text in ["hello".to_string(), "a".repeat(10_000), "a b ".repeat(25_000)] {
        if let Some(ids) = ends(&format!("{what}: {} bytes", text.len()), || tokenizer.encode(&text, true)) {
            ends(what, || tokenizer.decode(&ids, false));
        }
    }
}

#[test]
fn tokenizers_that_grow_their_input_are_bounded() {
    let before = peak();
    let prepend = |n: usize| json!({ "type": "Prepend", "prepend": "a".repeat(n) });
    let replace =
        |from: &str, n: usize| json!({ "type": "Replace", "pattern": { "String": from }, "content": "a".repeat(n) });
    let regex =
        |from: &str, n: usize| json!({ "type": "Replace", "pattern": { "Regex": from }, "content": "a".repeat(n) });
    for (n, m, steps) in
        [(1, 10, 1), (1, 10, 20), (200, 250, 1), (200, 250, 3), (250, 2, 64), (5000, 1000, 1), (1 << 20, 1, 1)]
    {
        for last in [replace("a", m), regex("a?", m), regex("", m), replace("aa", m)] {
            let mut all = vec![prepend(n)];
            all.extend(vec![last; steps]);
            let json = tokenizer(|t| t["normalizer"] = json!({ "type": "Sequence", "normalizers": all }));
            splits(&format!("prepend {n}, {steps} replacements by {m}"), &json);
        }
    }
    for steps in [64, 300] {
        let json =
            tokenizer(|t| t["normalizer"] = json!({ "type": "Sequence", "normalizers": vec![prepend(200); steps] }));
        splits("many prepends", &json);
    }
    assert!(peak() - before < 3 << 30, "took {} MiB", (peak() - before) >> 20);
}

#[test]
fn tokenizers_that_take_long_end() {
    for length in [10, 500, 1999, 4000, 134_000] {
        let vocab: Vec<Json> = (1..=length.min(2000))
            .map(|n| json!(["a".repeat(n), -1.0]))
            .chain([json!(["a".repeat(length), -2.0])])
            .collect();
        let json = tokenizer(|t| t["model"] = json!({ "type": "Unigram", "vocab": vocab, "unk_id": 0 }));
        splits(&format!("Unigram pieces of up to {length} letters"), &json);
    }
    for (pattern, invert) in [
        ("(?:(a*)*\\1)*b", false),
        ("(a+)+$", true),
        ("(?=(a+))\\1+c", false),
        ("(?<!b)a*?(?!a)c", true),
        ("(.*)(.*)(.*)(.*)x\\1", false),
    ] {
        let split =
            json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": invert });
        splits(pattern, &tokenizer(|t| t["pre_tokenizer"] = split));
        let replace = json!({ "type": "Replace", "pattern": { "Regex": pattern }, "content": "b" });
        splits(pattern, &tokenizer(|t| t["normalizer"] = replace));
    }
    for word in [100, 1000, 100_000_000] {
        let vocab: serde_json::Map<String, Json> =
            [("[UNK]", 0), ("b", 1)].map(|(k, v)| (k.to_string(), json!(v))).into_iter().collect();
        let json = tokenizer(
            |t| t["model"] = json!({ "type": "WordPiece", "vocab": vocab, "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": word }),
        );
        splits(&format!("WordPiece words of {word}"), &json);
    }
}

/// Markers around a text that are not described, in each way in which they can be missing; the library would crash.
#[test]
fn markers_that_nobody_describes_are_refused() {
    let piece = |id: &str| json!({ "SpecialToken": { "id": id, "type_id": 0 } });
    let text = |id: &str| json!({ "Sequence": { "id": id, "type_id": 0 } });
    let known = json!({ "id": "<s>", "ids": [1], "tokens": ["<s>"] });
    let made = |single: Json, pair: Json, tokens: Json| {
        let one = json!({ "type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens });
        [one.clone(), json!({ "type": "Sequence", "processors": [one] })]
    };
    let good = made(json!([piece("<s>"), text("A")]), json!([text("A"), text("B")]), json!({ "<s>": known }));
    let bad = [
        made(json!([piece("<x>"), text("A")]), json!([]), json!({ "<s>": known })),
        made(json!([text("A")]), json!([text("A"), piece("<x>")]), json!({ "<s>": known })),
        made(json!([piece("<s>"), text("A")]), json!([]), json!({})),
        made(
            json!([piece("<s>"), text("A")]),
            json!([]),
            json!({ "<s>": { "id": "<s>", "ids": [1, 2], "tokens": ["<s>"] } }),
        ),
        made(json!([text("A"), text("B")]), json!([]), json!({ "<s>": known })),
        made(json!([text("B")]), json!([]), json!({})),
    ];
    for processor in good {
        let t = Tokenizer::from_json(tokenizer(|t| t["post_processor"] = processor).as_bytes()).unwrap();
        assert_eq!(t.encode("a", true).unwrap(), [1, 0]);
    }
    for (i, processor) in bad.into_iter().flatten().enumerate() {
        let e = Tokenizer::from_json(tokenizer(|t| t["post_processor"] = processor).as_bytes()).err();
        let said = e.unwrap_or_else(|| panic!("{i} was taken")).to_string();
        assert!(!said.contains("is damaged"), "{i} came to the library: {said}");
    }
}

#[test]
fn ids_do_not_depend_on_chance() {
    let json = tokenizer(|t| t["model"]["dropout"] = json!(0.5));
    let said = Tokenizer::from_json(json.as_bytes()).err().unwrap().to_string();
    assert!(said.contains("dropout 0.5"), "{said}");
    assert!(Tokenizer::from_json(tokenizer(|t| t["model"]["dropout"] = json!(0.0)).as_bytes()).is_ok());
}

/// Values around the vocabulary are counted, whatever they are.
#[test]
fn tokenizers_of_many_values_are_refused() {
    let before = peak();
    for key in ["normalizer", "pre_tokenizer", "post_processor", "decoder", "added_tokens"] {
        let json = tokenizer(|t| t[key] = json!([]))
            .replace(&format!("\"{key}\":[]"), &format!("\"{key}\":[{}0]", "0,".repeat(8 << 20)));
        assert!(ends(key, || Tokenizer::from_json(json.as_bytes())).is_none(), "{key}");
    }
    let json = tokenizer(|t| t["model"]["extra"] = json!(0))
        .replace("\"extra\":0", &format!("\"extra\":[{}0]", "0,".repeat(8 << 20)));
    assert!(ends("model", || Tokenizer::from_json(json.as_bytes())).is_none());
    assert!(peak() - before < 512 << 20, "took {} MiB", (peak() - before) >> 20);
}

fn vocabulary(model: &str, tokens: Vec<String>) -> Vocabulary {
    let n = tokens.len();
    Vocabulary {
        model: model.into(),
        scores: (0..n).map(|i| -(i as f64)).collect(),
        types: (0..n).map(|i| if i == 0 { 2 } else { 1 }).collect(),
        tokens: Arc::new(tokens.iter().collect()),
        ..Default::default()
    }
}

#[test]
fn vocabularies_of_every_kind_end() {
    for model in ["llama", "t5", "bert", "gpt2", "gemma4"] {
        for longest in [1, 100, 4000, 5000] {
            let mut tokens = vec!["<unk>".to_string()];
            tokens.extend((1..=longest.min(1500)).map(|n| "a".repeat(n)));
            tokens.push("b".repeat(longest.max(2)));
            tokens.extend(["[CLS]", "[SEP]", "[UNK]", "▁", "▁a"].map(String::from));
            let what = format!("{model} of pieces of {longest}");
            let Some(t) = ends(&what, || Tokenizer::from_vocabulary(vocabulary(model, tokens))) else { continue };
            for text in ["a".repeat(300_000), "ab".repeat(100_000), "a ".repeat(100_000)] {
                if let Some(ids) = ends(&what, || t.encode(&text, true)) {
                    ends(&what, || t.decode(&ids, true));
                }
            }
        }
    }
}

//! Tokenizers and chat templates of model files broken in one place each.

use super::{bytes_at, message, within};
use crate::common::gguf::{GgufFile, Meta};
use crate::common::tiny::{Tiny, tokenizer_json};
use crate::common::{Folder, model};
use pollster::block_on;
use proptest::prelude::*;
use serde_json::{Value as Json, json};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use warpweft::base::Result;
use warpweft::session::{DeviceChoice, Generator, Options, Request};
use warpweft::text::{Message, Sampling, StreamDecoder};

fn tiny() -> Tiny {
    Tiny { layers: 1, ..Tiny::default() }
}

/// Opens a model on the fallback, then splits and joins a text.
fn open(path: &Path) -> Result<Generator> {
    let model = block_on(Generator::open(path, &Options { device: DeviceChoice::Cpu, ..Options::default() }))?;
    for text in ["The theory of\n\n  everything, 3.14 <|end|>", "théory \u{1f600}"] {
        match model.raw_prompt(text) {
            Ok(ids) => drop(model.tokenizer().decode(&ids, false)?),
            // A vocabulary may lack a letter, which is told of the text that has it.
            Err(e) if e.to_string().contains("has no token for the byte") => {}
            Err(e) => return Err(e),
        }
    }
    Ok(model)
}

/// What is broken, and how.
type Case = (&'static str, fn(&mut GgufFile));
type JsonCase = (&'static str, Box<dyn Fn(&mut Json)>);

fn gguf_said(folder: &Folder, what: &str, change: impl FnOnce(&mut GgufFile)) -> String {
    let mut file = tiny().gguf();
    change(&mut file);
    let bytes = file.bytes();
    let path = folder.file("m.gguf", &bytes);
    within(what, bytes.len(), || message(folder, open(&path)))
}

#[test]
fn lying_vocabularies() {
    fn set(f: &mut GgufFile, key: &str, value: Meta) {
        f.set(&format!("tokenizer.ggml.{key}"), value);
    }
    fn texts(n: usize) -> Meta {
        Meta::Texts((0..n).map(|i| format!("t{i}")).collect())
    }
    let cases: &[Case] = &[
        ("whole", |_| ()),
        ("no kind", |f| f.remove("tokenizer.ggml.model")),
        ("an unknown kind", |f| set(f, "model", Meta::Text("rwkv".into()))),
        ("a kind that is a number", |f| set(f, "model", Meta::U32(2))),
        ("an unknown rule", |f| set(f, "pre", Meta::Text("mystery".into()))),
        ("no tokens", |f| f.remove("tokenizer.ggml.tokens")),
        ("an empty list of tokens", |f| set(f, "tokens", texts(0))),
        ("tokens that are numbers", |f| set(f, "tokens", Meta::Ints(vec![1; 128]))),
        ("tokens that are one text", |f| set(f, "tokens", Meta::Text("abc".into()))),
        ("more tokens than the embedding has rows", |f| {
            set(f, "tokens", texts(129));
            set(f, "token_type", Meta::Ints(vec![1; 129]));
            set(f, "merges", texts(0));
        }),
        ("a token twice", |f| set(f, "tokens", Meta::Texts(vec!["a".into(); 128]))),
        ("tokens without a letter", |f| {
            set(f, "tokens", Meta::Texts((0..128).map(|i| format!("t{i}")).collect()));
            set(f, "merges", texts(0));
        }),
        ("fewer types than tokens", |f| set(f, "token_type", Meta::Ints(vec![1; 127]))),
        ("types that are texts", |f| set(f, "token_type", texts(128))),
        ("a type of -7", |f| set(f, "token_type", Meta::Ints(vec![-7; 128]))),
        ("more scores than tokens", |f| set(f, "scores", Meta::Floats(vec![0.0; 129]))),
        ("merges of one piece", |f| set(f, "merges", Meta::Texts(vec!["he".into()]))),
        ("merges of pieces that are no tokens", |f| set(f, "merges", Meta::Texts(vec!["zz y".into()]))),
        ("merges that make no token", |f| set(f, "merges", Meta::Texts(vec!["e h".into()]))),
        ("merges that are numbers", |f| set(f, "merges", Meta::Ints(vec![1]))),
        ("a first token out of range", |f| set(f, "bos_token_id", Meta::U32(128))),
        ("a first token of 2^32 - 1", |f| set(f, "bos_token_id", Meta::U32(u32::MAX))),
        ("a first token of 2^63", |f| set(f, "bos_token_id", Meta::U64(1 << 63))),
        ("a first token that is a text", |f| set(f, "bos_token_id", Meta::Text("<s>".into()))),
        ("a last token out of range", |f| set(f, "eos_token_id", Meta::U32(4_000_000_000))),
        ("sentence pieces without scores", |f| {
            set(f, "model", Meta::Text("llama".into()));
            f.remove("tokenizer.ggml.merges");
        }),
        ("sentence pieces whose scores are NaN", |f| {
            set(f, "model", Meta::Text("llama".into()));
            set(f, "scores", Meta::Floats(vec![f32::NAN; 128]));
        }),
    ];
    let folder = Folder::new("vocabularies");
    let said: String =
        cases.iter().map(|(what, change)| format!("{what}\n    {}\n", gguf_said(&folder, what, change))).collect();
    insta::assert_snapshot!(said);
}

/// What is said of a folder whose tokenizer.json was changed.
fn json_said(folder: &Folder, what: &str, text: &str) -> String {
    folder.file("tokenizer.json", text);
    // A pattern may compile to some 10 MB, whatever its length.
    within(what, bytes_at(folder.path()) + (2 << 20), || message(folder, open(folder.path())))
}

fn set_at(at: &'static str, value: Json) -> Box<dyn Fn(&mut Json)> {
    Box::new(move |t| *t.pointer_mut(at).unwrap() = value.clone())
}

/// Vocabularies, merges and added tokens that lie.
fn lying_json_vocabularies() -> Vec<JsonCase> {
    vec![
        ("whole", Box::new(|_| ())),
        ("a list", set_at("", json!([]))),
        ("no model", set_at("/model", Json::Null)),
        ("a model of an unknown type", set_at("/model/type", json!("Magic"))),
        ("no vocabulary", set_at("/model/vocab", Json::Null)),
        ("an empty vocabulary", set_at("/model/vocab", json!({}))),
        ("an id of 2^32", set_at("/model/vocab/a", json!(1u64 << 32))),
        ("an id of 4 million", set_at("/model/vocab/a", json!(4_000_000))),
        ("an id of -1", set_at("/model/vocab/a", json!(-1))),
        ("an id that is a text", set_at("/model/vocab/a", json!("7"))),
        ("an id twice", set_at("/model/vocab/a", json!(5))),
        ("a merge of one piece", set_at("/model/merges", json!(["he"]))),
        ("a merge of no token", set_at("/model/merges", json!(["zz y"]))),
        ("a merge that makes no token", set_at("/model/merges", json!(["e h"]))),
        ("merges that are numbers", set_at("/model/merges", json!([1, 2]))),
        ("an added token of 2^32 - 1", set_at("/added_tokens/0/id", json!(u32::MAX))),
        ("an added token without text", set_at("/added_tokens/0/content", json!(""))),
    ]
}

/// Splitters, normalizers, decoders and post-processors that lie.
fn lying_steps() -> Vec<JsonCase> {
    let step = |ty: &str, key: &str, steps: Vec<Json>| json!({ "type": ty, key: steps });
    let replace = |to: &str| json!({ "type": "Replace", "pattern": { "String": "e" }, "content": to });
    let marker = |n: usize| {
        json!({ "type": "TemplateProcessing", "single": [{ "SpecialToken": { "id": "x", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [], "special_tokens": { "x": { "id": "x", "ids": vec![0; n], "tokens": vec!["x"; n] } } })
    };
    vec![
        (
            "a pattern that is none",
            set_at(
                "/pre_tokenizer",
                json!({ "type": "Split", "pattern": { "Regex": "(" }, "behavior": "Isolated", "invert": false }),
            ),
        ),
        (
            "a pattern that looks back without end",
            set_at(
                "/pre_tokenizer",
                json!({ "type": "Split", "pattern": { "Regex": "(?:(a*)*\\1)*b" }, "behavior": "Isolated", "invert": false }),
            ),
        ),
        (
            "a pattern of 2^30 repeats",
            set_at(
                "/pre_tokenizer",
                json!({ "type": "Split", "pattern": { "Regex": "((a{1000}){1000}){1000}" }, "behavior": "Isolated", "invert": false }),
            ),
        ),
        ("an unknown splitter", set_at("/pre_tokenizer", json!({ "type": "Magic" }))),
        ("pieces of no length", set_at("/pre_tokenizer", json!({ "type": "FixedLength", "length": 0 }))),
        (
            "a normalizer that doubles 60 times",
            set_at("/normalizer", step("Sequence", "normalizers", vec![replace("ee"); 60])),
        ),
        (
            "a normalizer of 100,000 steps",
            set_at("/normalizer", step("Sequence", "normalizers", vec![json!({ "type": "NFC" }); 100_000])),
        ),
        ("a decoder that doubles 60 times", set_at("/decoder", step("Sequence", "decoders", vec![replace("ee"); 60]))),
        (
            "a damaged table of letters",
            set_at("/normalizer", json!({ "type": "Precompiled", "precompiled_charsmap": "AAAAAQ==" })),
        ),
        (
            "a table of letters that lies about its size",
            set_at("/normalizer", json!({ "type": "Precompiled", "precompiled_charsmap": "/////wAAAAA=" })),
        ),
        ("a marker of 5,000 ids", set_at("/post_processor", marker(5000))),
        (
            "markers that no token is",
            set_at(
                "/post_processor",
                json!({ "type": "BertProcessing", "sep": ["[SEP]", 4_000_000_000u32], "cls": ["[CLS]", 1] }),
            ),
        ),
    ]
}

/// Models of other kinds that lie.
fn lying_models() -> Vec<JsonCase> {
    let unigram = |vocab: Json, unk: Json| json!({ "type": "Unigram", "vocab": vocab, "unk_id": unk });
    vec![
        ("unigrams without their unknown", set_at("/model", unigram(json!([["a", -1.0]]), json!(7)))),
        ("no unigrams", set_at("/model", unigram(json!([]), json!(0)))),
        ("unigrams without a score", set_at("/model", unigram(json!([["a"]]), json!(0)))),
        (
            "words without their unknown",
            set_at(
                "/model",
                json!({ "type": "WordPiece", "vocab": { "a": 0 }, "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100 }),
            ),
        ),
        (
            "words of any length",
            set_at(
                "/model",
                json!({ "type": "WordPiece", "vocab": { "[UNK]": 0 }, "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 1u64 << 40 }),
            ),
        ),
    ]
}

#[test]
fn lying_tokenizer_json() {
    let cases = [lying_json_vocabularies(), lying_steps(), lying_models()].into_iter().flatten();
    let folder = Folder::new("tokenizers");
    tiny().folder(folder.path(), false);
    let mut out = String::new();
    for (what, change) in cases {
        let mut json = tokenizer_json(128);
        change(&mut json);
        out += &format!("{what}\n    {}\n", json_said(&folder, what, &json.to_string()));
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let nested = format!(
        "{{\"model\":{},\"normalizer\":{}{}}}",
        tokenizer_json(128)["model"],
        "{\"type\":\"Sequence\",\"normalizers\":[".repeat(50),
        "]}".repeat(50)
    );
    for (what, text) in [
        ("nothing", ""),
        ("half of an object", "{\"model\":"),
        ("lists 100,000 deep", &deep),
        ("sequences 50 deep", &nested),
    ] {
        out += &format!("{what}\n    {}\n", json_said(&folder, what, text));
    }
    insta::assert_snapshot!(out);
}

/// What comes of a conversation with this template.
fn template_said(folder: &Folder, what: &str, source: &str) -> String {
    let mut file = tiny().gguf();
    file.set("tokenizer.chat_template", Meta::Text(source.into()));
    let path = folder.file("m.gguf", file.bytes());
    let talk = [Message::new("user", "Hi"), Message::new("assistant", "Ho"), Message::new("user", "Hum")];
    // A template may not take more than the bound on its output, whatever it does.
    within(what, 8 << 20, || message(folder, open(&path).and_then(|m| m.chat_prompt(&talk))))
}

#[test]
fn hostile_templates() {
    let cases: Vec<(&str, String)> = vec![
        ("whole", "{% for m in messages %}{{ m.content }}{% endfor %}".into()),
        ("nothing", "".into()),
        ("a tag that is not closed", "{% for m in messages %}".into()),
        ("an unknown filter", "{{ messages | frobnicate }}".into()),
        ("an unknown function", "{{ frobnicate() }}".into()),
        ("an unknown method", "{{ messages[0].content.frobnicate() }}".into()),
        ("its own complaint", "{{ raise_exception('roles must alternate') }}".into()),
        ("loops without end", "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}".into()),
        ("a list without end", "{% for a in range(10000000000) %}{% endfor %}".into()),
        ("itself without end", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}".into()),
        ("a file of the machine", "{% include '/etc/passwd' %}".into()),
        ("an environment", "{{ env('HOME') }}".into()),
        ("brackets 10,000 deep", format!("{{{{ {}1{} }}}}", "(".repeat(10_000), ")".repeat(10_000))),
        ("loops 500 deep", format!("{}{}", "{% for a in messages %}".repeat(500), "{% endfor %}".repeat(500))),
        ("2 MB of text", "x".repeat(2 << 20)),
        ("text that doubles", "{% set ns = namespace(x='xxxxxxxx') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}".into()),
        ("text that is added to itself", "{% set ns = namespace(x='xxxxxxxx') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}".into()),
        ("text that is set to itself twice", format!("{{% set x = 'xxxxxxxx' %}}{}", "{% set x %}{{ x }}{{ x }}{% endset %}".repeat(60))),
        ("two texts that grow in turns", "{% set ns = namespace(a='x', b='y') %}{% for i in range(200) %}{% set ns.a = ns.a ~ ns.b %}{% set ns.b = ns.b ~ ns.a %}{% endfor %}".into()),
        ("a list that doubles", "{% set ns = namespace(x=['x']) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x | join }}".into()),
        ("a list of itself twice", "{% set ns = namespace(x=['x']) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}".into()),
        ("lists of itself compared", "{% set ns = namespace(x=['x'], y=['x']) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}{{ ns.x == ns.y }}".into()),
        ("a list 99,999 deep", "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}done".into()),
        ("a name that holds itself", "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}".into()),
        ("a macro that doubles", "{% macro f(x, n) %}{% if n > 0 %}{{ f(x ~ x, n - 1) }}{% endif %}{% endmacro %}{{ f('xxxxxxxx', 60) }}".into()),
        ("a replacement that grows", "{% set ns = namespace(x='x') %}{% for i in range(9) %}{% set ns.x = ns.x | replace('x', 'xxxxxxxxxxxxxxxx') %}{% endfor %}".into()),
        ("a method that grows", "{% set ns = namespace(x='x') %}{% for i in range(9) %}{% set ns.x = ns.x.replace('x', 'xxxxxxxxxxxxxxxx') %}{% endfor %}".into()),
        ("a long joint", format!("{{{{ range(99999) | join('{}') }}}}", "x".repeat(10_000))),
        ("wide indents", "{{ messages | tojson(indent=100000000) }}".into()),
        ("a product of literals", "{{ 'x' * 100000000 }}".into()),
        ("a filter that makes text of any width", "{{ '%999999999d' | format(1) }}".into()),
        ("a filter by name on each item", "{{ messages | map('replace', 'a', 'b') | list }}".into()),
        ("a list of large texts", "{% set x %}{% for i in range(99999) %}{{ '0123456789abcdef' }}{% endfor %}{% endset %}{% set ns = namespace(l=[]) %}{% for i in range(9999) %}{% set ns.l = ns.l + [x ~ i] %}{% endfor %}".into()),
        ("plain text without end", format!("{{% set x %}}{{% for a in range(9999) %}}{{% for b in range(9999) %}}{}{{% endfor %}}{{% endfor %}}{{% endset %}}", "x".repeat(10_000))),
        ("a division by zero", "{{ 1 / 0 }}".into()),
        ("a number beyond all", "{{ 9 ** 9 ** 9 }}".into()),
    ];
    let folder = Folder::new("templates");
    let said: String =
        cases.iter().map(|(what, source)| format!("{what}\n    {}\n", template_said(&folder, what, source))).collect();
    insta::assert_snapshot!(said);
}

/// Text comes out of a stream as it went in, and only whole characters come at a time.
#[test]
fn streams_give_whole_characters() {
    let Some(path) = model("smollm2-135m") else { return };
    let model = block_on(Generator::open(path, &Options { device: DeviceChoice::Cpu, ..Options::default() })).unwrap();
    let text = "Grüße, 世界! \u{1f469}\u{200d}\u{1f469}\u{200d}\u{1f467} مرحبا e\u{301} नमस्ते \u{1f1eb}\u{1f1f7} 한국어\n\n\t  end";
    let ids = model.tokenizer().encode(text, false).unwrap();
    assert!(ids.len() > 40, "most characters are several tokens");
    let (mut stream, mut out) = (StreamDecoder::new(), String::new());
    for id in ids {
        let part = stream.push(model.tokenizer(), id).unwrap();
        assert!(!part.contains('\u{fffd}'), "{part:?} after {out:?}");
        out += &part;
    }
    out += &stream.finish(model.tokenizer()).unwrap();
    assert_eq!(out, text);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any few bytes of a file changed to anything: an error, or a model that answers something.
    #[test]
    fn flipped_bytes_never_panic(flips in prop::collection::vec((0usize..12_000, any::<u8>()), 1..5)) {
        let mut bytes = tiny().gguf().bytes();
        for (at, to) in flips {
            let at = at % bytes.len();
            bytes[at] = to;
        }
        let folder = Folder::new("answers");
        let path = folder.file("m.gguf", &bytes);
        within("flips", bytes.len() + (8 << 20), || {
            let Ok(mut model) = open(&path) else { return };
            let prompt = model.chat_prompt(&[Message::new("user", "the")]).or_else(|_| model.raw_prompt("the"));
            let Ok(prompt) = prompt else { return };
            let request = Request { prompt, sampling: Sampling::greedy(), max_tokens: Some(2), top: 3 };
            // Whatever it says: it ends.
            let _ = block_on(model.generate(&request, &AtomicBool::new(false), &mut |_| Ok(())));
        });
    }
}

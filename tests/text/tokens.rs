//! Vocabularies of every kind give the ids that the libraries of their makers give (tests/figures/tokens.py), and text goes there
//! and back, whole and token by token.

use serde::Deserialize;
use std::sync::Arc;
use warpweft::text::{StreamDecoder, Tokenizer, Vocabulary};

#[derive(Deserialize)]
struct Figures {
    texts: Vec<String>,
    vocabularies: Vec<Figure>,
}

#[derive(Deserialize)]
struct Figure {
    model: String,
    pre: String,
    tokens: Vec<String>,
    types: Vec<i64>,
    #[serde(default)]
    scores: Vec<f64>,
    #[serde(default)]
    merges: Vec<String>,
    #[serde(default)]
    charsmap: String,
    add_space_prefix: Option<bool>,
    merge_spaces: Option<bool>,
    ids: Vec<Vec<u32>>,
}

fn figures() -> Figures {
    serde_json::from_str(include_str!("../figures/tokens.json")).unwrap()
}

fn base64(text: &str) -> Vec<u8> {
    let digit = |c: u8| {
        b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".iter().position(|d| *d == c).unwrap() as u32
    };
    let mut out = vec![];
    for chunk in text.trim_end_matches('=').as_bytes().chunks(4) {
        let bits = chunk.iter().fold(0, |n, c| n << 6 | digit(*c)) << (6 * (4 - chunk.len()));
        out.extend(&bits.to_be_bytes()[1..chunk.len()]);
    }
    out
}

fn tokenizer(f: &Figure) -> Tokenizer {
    Tokenizer::from_vocabulary(Vocabulary {
        model: f.model.clone(),
        pre: f.pre.clone(),
        tokens: Arc::new(f.tokens.iter().collect()),
        types: f.types.clone(),
        scores: f.scores.clone(),
        merges: Arc::new(f.merges.iter().collect()),
        charsmap: base64(&f.charsmap),
        add_space_prefix: f.add_space_prefix,
        merge_spaces: f.merge_spaces,
        ..Default::default()
    })
    .unwrap()
}

#[test]
fn ids_are_those_of_the_makers_libraries() {
    let figures = figures();
    assert!(figures.vocabularies.len() > 20);
    let mut wrong = vec![];
    for f in &figures.vocabularies {
        let t = tokenizer(f);
        for (text, want) in figures.texts.iter().zip(&f.ids) {
            let got = t.encode(text, false).map_err(|e| e.to_string());
            if got.as_ref() != Ok(want) {
                wrong.push(format!("{} {}: {text:?} is {got:?}, right {want:?}", f.model, f.pre));
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn text_goes_there_and_back_whole_and_token_by_token() {
    let figures = figures();
    for f in figures.vocabularies.iter().filter(|f| ["gpt2", "llama"].contains(&&*f.model)) {
        let t = tokenizer(f);
        for text in &figures.texts {
            let ids = t.encode(text, false).unwrap();
            assert_eq!(t.decode(&ids, false).unwrap(), *text, "{} {}", f.model, f.pre);
            let mut stream = StreamDecoder::new();
            let mut out: String = ids.iter().map(|id| stream.push(&t, *id).unwrap()).collect();
            out += &stream.finish(&t).unwrap();
            let prefix = if f.add_space_prefix == Some(true) && !text.is_empty() { " " } else { "" };
            assert_eq!(out, format!("{prefix}{text}"), "{} {}", f.model, f.pre);
        }
    }
}

/// What a rule's name implies where the file does not say.
#[test]
fn a_rules_name_implies_all_of_it() {
    let of = |pre: &str, add_bos: Option<bool>| {
        let letters = "abcdefgh".chars().map(|c| c.to_string());
        let tokens: Vec<String> = letters.chain(["ab", "abc", "<s>"].map(String::from)).collect();
        let types = vec![1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 3];
        Tokenizer::from_vocabulary(Vocabulary {
            model: "gpt2".into(),
            pre: pre.into(),
            tokens: Arc::new(tokens.iter().collect()),
            types,
            merges: Arc::new(["a b"].iter().collect()),
            bos: Some(10),
            add_bos,
            ..Default::default()
        })
    };
    let ids = |pre, add_bos| of(pre, add_bos).unwrap().encode("abc", true).unwrap();
    assert_eq!(ids("gpt-2", None), [8, 2]);
    assert_eq!(ids("gpt-2", Some(true)), [10, 8, 2]);
    assert_eq!(ids("llama-bpe", None), [10, 9]);
    assert_eq!(ids("tekken", Some(false)), [9]);
    assert!(of("gpt-2", None).unwrap().notes().is_empty());
    assert!(of("", None).unwrap().notes()[0].contains("tokenizer.ggml.pre"));
    assert!(of("no-such-rule", None).err().unwrap().to_string().contains("no-such-rule"));
}

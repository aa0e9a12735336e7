//! Many clients at once, some of which leave; and requests that nobody would write.

use super::fields::FIELDS;
use super::{Server, greedy, long, with};
use proptest::prelude::*;
use proptest::test_runner::{Config as Runs, TestRunner};
use serde_json::{Value as Json, json};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use warpweft::reference::sample::Random;
use warpweft::serve::Limits;

const WORDS: [&str; 6] = ["the hen", "a", "the hen and the", "xyz", "the the the", "hen"];

#[test]
fn what_many_ask_at_once_is_what_each_gets_alone() {
    let server = Server::with(512, Limits { queue: 1000, ..Limits::default() }, Default::default());
    let ask = |word: &str, n: usize| server.complete(word, greedy(n));
    let text = |v: Json| v["choices"][0]["text"].as_str().unwrap().to_string();
    let sizes = [1, 7, 24];
    let alone: Vec<Vec<String>> = WORDS.map(|w| sizes.map(|n| text(ask(w, n).ok())).to_vec()).to_vec();
    let (whole, left) = (AtomicU64::new(0), AtomicU64::new(0));
    let end = Instant::now() + Duration::from_secs(4);
    std::thread::scope(|scope| {
        for client in 0..24 {
            let (server, alone, whole, left) = (&server, &alone, &whole, &left);
            scope.spawn(move || {
                let mut r = Random::new(client);
                while Instant::now() < end {
                    let (w, s) = (r.below(WORDS.len()), r.below(sizes.len()));
                    if r.below(4) == 0 {
                        // A client that changes its mind.
                        let mut gone = server.client();
                        let body = with(json!({ "prompt": WORDS[w], "stream": true }), long(400));
                        gone.send("POST", "/v1/completions", &body.to_string());
                        std::thread::sleep(Duration::from_millis(r.below(20) as u64));
                        left.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                    let got = server.complete(WORDS[w], greedy(sizes[s])).ok();
                    assert_eq!(got["choices"][0]["text"], alone[w][s], "{} tokens after {:?}", sizes[s], WORDS[w]);
                    whole.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    // Everything that began has ended.
    let start = Instant::now();
    let m = server.engine.metrics();
    let of = |c: &AtomicU64| c.load(Ordering::Relaxed);
    while server.engine.waiting() > 0 || of(&m.running) > 0 {
        assert!(start.elapsed() < Duration::from_secs(30), "{} still wait", server.engine.waiting());
        std::thread::sleep(Duration::from_millis(5));
    }
    let ended = of(&m.finished) + of(&m.cancelled) + of(&m.failed) + of(&m.expired);
    assert_eq!(ended, of(&m.submitted));
    assert_eq!((of(&m.failed), of(&m.expired)), (0, 0));
    assert!(of(&whole) > 20 && of(&left) > 0, "{whole:?} {left:?}");
    server.complete("a", greedy(1)).ok();
}

/// Any JSON, not too large.
fn anything() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        (-10i64..300).prop_map(Json::from),
        any::<f64>().prop_map(Json::from),
        "[a-z{}\\[\\]\"(*+.]{0,12}".prop_map(Json::from),
        prop_oneof![Just("auto"), Just("required"), Just("json_object"), Just("user"), Just("tool"), Just("text")]
            .prop_map(Json::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let key = prop_oneof![
            Just("type"),
            Just("role"),
            Just("content"),
            Just("text"),
            Just("function"),
            Just("name"),
            Just("parameters"),
            Just("arguments"),
            Just("json_schema"),
            Just("schema"),
            Just("properties"),
            Just("tool_calls"),
            Just("x"),
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
            prop::collection::vec((key, inner), 0..4).prop_map(|pairs| {
                pairs.into_iter().map(|(k, v)| (k.to_string(), v)).collect::<serde_json::Map<_, _>>().into()
            }),
        ]
    })
}

const PATHS: &[&str] = &[
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/messages",
    "/api/chat",
    "/api/generate",
    "/api/embed",
    "/api/show",
    "/tokenize",
    "/detokenize",
];

#[test]
fn no_request_brings_the_server_down() {
    let server = Server::with(96, Limits::default(), Default::default());
    let field = (0..FIELDS.len(), anything()).prop_map(|(i, v)| (FIELDS[i], v));
    let request = (0..PATHS.len(), prop::collection::vec(field, 0..3));
    let mut runner = TestRunner::new_with_rng(
        Runs { cases: 400, failure_persistence: None, ..Runs::default() },
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    let answered = AtomicU64::new(0);
    let ran = runner.run(&request, |(path, changes)| {
        let mut body = match PATHS[path] {
            "/v1/chat/completions" | "/v1/messages" | "/api/chat" => {
                json!({ "messages": [{ "role": "user", "content": "a" }] })
            }
            "/v1/embeddings" | "/api/embed" | "/v1/responses" => json!({ "input": "a" }),
            "/detokenize" => json!({ "tokens": [1] }),
            "/api/show" => json!({}),
            _ => json!({ "prompt": "a" }),
        };
        if PATHS[path].starts_with("/v1/") && path < 5 && path != 2 && path != 3 {
            body["max_tokens"] = 2.into();
        }
        changes.iter().for_each(|(k, v)| body[*k] = v.clone());
        let answer = server.client().post(PATHS[path], &body.to_string());
        prop_assert!(matches!(answer.status, 200 | 400 | 404), "{} {body}: {answer:?}", PATHS[path]);
        answered.fetch_add((answer.status == 200) as u64, Ordering::Relaxed);
        if answer.status != 200 {
            let told = answer.json();
            let message = told["error"]["message"].as_str().or(told["error"].as_str()).unwrap_or_default();
            prop_assert!(!message.is_empty() && message.len() < 600 && !message.contains('\n'), "{message}");
        }
        Ok(())
    });
    ran.unwrap();
    assert!(answered.load(Ordering::Relaxed) > 40, "{answered:?}");
    server.complete("a", greedy(1)).ok();
}

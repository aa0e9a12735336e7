//! OpenAI's interface.

use super::{Server, greedy, with};
use serde_json::{Value as Json, json};

fn content(answer: &Json) -> &str {
    answer["choices"][0]["message"]["content"].as_str().unwrap()
}

#[test]
fn models_are_listed() {
    let server = Server::new();
    let list = server.get("/v1/models").ok();
    assert_eq!((list["object"].as_str(), list["data"].as_array().unwrap().len()), (Some("list"), 1));
    let entry = &list["data"][0];
    assert_eq!((entry["id"].as_str(), entry["object"].as_str()), (Some("tiny"), Some("model")));
    assert_eq!((&server.get("/v1/models/tiny").ok(), entry["max_model_len"].as_u64()), (entry, Some(512)));
    let said = server.get("/v1/models/other").refused(404);
    assert_eq!(said, "there is no model \"other\"; there are: tiny");
    assert_eq!(
        server
            .post("/v1/chat/completions", json!({ "model": "x", "messages": [{ "role": "user", "content": "a" }] }))
            .json()["error"]["code"],
        "model_not_found"
    );
}

#[test]
fn a_chat_is_answered_whole_and_in_pieces_alike() {
    let server = Server::new();
    let whole = server.chat("the hen", greedy(12)).ok();
    assert_eq!((whole["object"].as_str(), whole["model"].as_str()), (Some("chat.completion"), Some("tiny")));
    assert!(
        whole["id"].as_str().unwrap().starts_with("chatcmpl-") && whole["created"].as_u64().unwrap() > 1_700_000_000
    );
    assert_eq!(whole["choices"][0]["message"]["role"], "assistant");
    let usage = &whole["usage"];
    assert_eq!(
        (usage["completion_tokens"].as_u64(), whole["choices"][0]["finish_reason"].as_str()),
        (Some(12), Some("length"))
    );
    assert_eq!(usage["total_tokens"].as_u64(), Some(usage["prompt_tokens"].as_u64().unwrap() + 12));

    let events = server
        .chat("the hen", with(greedy(12), json!({ "stream": true, "stream_options": { "include_usage": true } })))
        .events();
    assert_eq!(events.last().unwrap(), "[DONE]");
    let chunks = &events[..events.len() - 1];
    assert!(chunks.iter().all(|c| c["object"] == "chat.completion.chunk" && c["id"] == chunks[0]["id"]));
    assert_eq!(chunks[0]["choices"][0]["delta"], json!({ "role": "assistant", "content": "" }));
    let text: String = chunks.iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, content(&whole));
    let (last, rest) = chunks.split_last().unwrap();
    assert_eq!((&last["choices"], &last["usage"]["completion_tokens"]), (&json!([]), &json!(12)));
    assert_eq!(last["usage"]["prompt_tokens"], usage["prompt_tokens"]);
    assert!(rest.iter().all(|c| c["usage"].is_null()));
    let reasons: Vec<&Json> = rest.iter().map(|c| &c["choices"][0]["finish_reason"]).filter(|r| !r.is_null()).collect();
    assert_eq!(reasons, ["length"]);
    // Without the option there is no such chunk.
    let plain = server.chat("the hen", with(greedy(2), json!({ "stream": true }))).events();
    assert!(plain.iter().all(|c| c.get("usage").is_none()));
}

#[test]
fn logprobs_are_those_of_the_tokens() {
    let server = Server::new();
    let asked = with(greedy(6), json!({ "logprobs": true, "top_logprobs": 3 }));
    let whole = server.chat("the hen", asked.clone()).ok();
    let told = whole["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(told.len(), 6);
    let mut bytes = vec![];
    for token in told {
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!((top.len(), &top[0]["token"], &top[0]["logprob"]), (3, &token["token"], &token["logprob"]));
        assert!(top.windows(2).all(|w| w[0]["logprob"].as_f64() >= w[1]["logprob"].as_f64()));
        assert!(token["logprob"].as_f64().unwrap() <= 0.0);
        bytes.extend(token["bytes"].as_array().unwrap().iter().map(|b| b.as_u64().unwrap() as u8));
    }
    assert_eq!(String::from_utf8(bytes).unwrap(), content(&whole));
    let events = server.chat("the hen", with(asked, json!({ "stream": true }))).events();
    let streamed: Vec<&Json> =
        events.iter().filter_map(|c| c["choices"][0]["logprobs"]["content"].as_array()).flatten().collect();
    assert_eq!(streamed.len(), told.len());
    for (a, b) in streamed.iter().zip(told) {
        // The last digits depend on what of the prompt was in the cache.
        let near = (a["logprob"].as_f64().unwrap() - b["logprob"].as_f64().unwrap()).abs() < 1e-4;
        assert!(near && a["bytes"] == b["bytes"] && a["token"] == b["token"], "{a} and {b}");
    }
    assert_eq!(
        server.chat("a", json!({ "top_logprobs": 2 })).refused(400),
        "top_logprobs is only told where logprobs is true"
    );
}

#[test]
fn several_answers_differ_and_a_seed_repeats_them() {
    let server = Server::new();
    let asked = json!({ "n": 3, "seed": 5, "temperature": 1.5, "max_tokens": 12 });
    let texts = |v: &Json| -> Vec<String> {
        v["choices"].as_array().unwrap().iter().map(|c| c["message"]["content"].as_str().unwrap().to_string()).collect()
    };
    let first = server.chat("the", asked.clone()).ok();
    let (one, two) = (texts(&first), texts(&server.chat("the", asked.clone()).ok()));
    assert_eq!(one, two);
    assert!(one.len() == 3 && one[0] != one[1] && one[1] != one[2], "{one:?}");
    assert!(first["usage"]["completion_tokens"].as_u64().unwrap() <= 36);
    let events = server.chat("the", with(asked, json!({ "stream": true }))).events();
    let part = |i: usize| -> String {
        let choices = events.iter().map(|c| &c["choices"][0]).filter(|c| c["index"] == i);
        choices.filter_map(|c| c["delta"]["content"].as_str()).collect()
    };
    assert_eq!((0..3).map(part).collect::<Vec<_>>(), one);
    // A seed that nobody gave is another each time.
    let free = json!({ "temperature": 2, "max_tokens": 12 });
    assert_ne!(texts(&server.chat("the", free.clone()).ok()), texts(&server.chat("the", free).ok()));
}

#[test]
fn stop_strings_never_come_out() {
    let server = Server::new();
    let whole = content(&server.chat("the hen", greedy(30)).ok()).to_string();
    let chars: Vec<char> = whole.chars().collect();
    let stop: String = chars[6..9].iter().collect();
    let want = whole.split(&stop).next().unwrap();
    let asked = with(greedy(30), json!({ "stop": [stop.clone(), "\u{2}"] }));
    let stopped = server.chat("the hen", asked.clone()).ok();
    assert_eq!((content(&stopped), stopped["choices"][0]["finish_reason"].as_str()), (want, Some("stop")));
    let events = server.chat("the hen", with(asked, json!({ "stream": true }))).events();
    let text: String = events.iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, want);
    let one = server.chat("the hen", with(greedy(30), json!({ "stop": stop }))).ok();
    assert_eq!(content(&one), want);
}

#[test]
fn biases_and_penalties_change_what_is_said() {
    let server = Server::new();
    let ids = server.post("/tokenize", json!({ "prompt": "Z", "add_special_tokens": false })).ok();
    let id = ids["tokens"][0].as_u64().unwrap();
    let biased = server.chat("the", with(greedy(4), json!({ "logit_bias": { id.to_string(): 100 } }))).ok();
    assert_eq!(content(&biased), "ZZZZ");
    let punished = server
        .chat("the", with(greedy(3), json!({ "logit_bias": { id.to_string(): 100 }, "frequency_penalty": 2 })))
        .ok();
    assert_eq!(content(&punished), "ZZZ");
    let said = server.chat("the", with(greedy(3), json!({ "logit_bias": { "9999": 1 } }))).refused(400);
    assert_eq!(said, "logit_bias names token 9999, the vocabulary has 128");
    assert_eq!(
        server.chat("the", json!({ "logit_bias": { "1": 101 } })).refused(400),
        "logit_bias must map token ids to numbers from -100 to 100"
    );
}

#[test]
fn text_is_continued() {
    let server = Server::new();
    let whole = server.complete("the hen", greedy(8)).ok();
    assert_eq!(
        (whole["object"].as_str(), whole["usage"]["completion_tokens"].as_u64()),
        (Some("text_completion"), Some(8))
    );
    let text = whole["choices"][0]["text"].as_str().unwrap();
    let echoed = server.complete("the hen", with(greedy(8), json!({ "echo": true }))).ok();
    assert_eq!(echoed["choices"][0]["text"].as_str().unwrap(), format!("the hen{text}"));
    // The same by its tokens.
    let ids = server.post("/tokenize", json!({ "prompt": "the hen" })).ok()["tokens"].clone();
    let by_ids = server.post("/v1/completions", with(json!({ "prompt": ids }), greedy(8))).ok();
    assert_eq!(by_ids["choices"], whole["choices"]);
    let both = server.post("/v1/completions", with(json!({ "prompt": ["the hen", "a"] }), greedy(8))).ok();
    assert_eq!(both["choices"][0]["text"], *text);
    assert_eq!(
        (both["choices"][1]["index"].as_u64(), both["usage"]["completion_tokens"].as_u64()),
        (Some(1), Some(16))
    );
    let events = server.complete("the hen", with(greedy(8), json!({ "stream": true, "logprobs": 2 }))).events();
    let streamed: String = events.iter().filter_map(|c| c["choices"][0]["text"].as_str()).collect();
    assert_eq!(streamed, text);
    let told = server.complete("the hen", with(greedy(8), json!({ "logprobs": 2 }))).ok();
    let logprobs = &told["choices"][0]["logprobs"];
    assert_eq!(logprobs["tokens"].as_array().unwrap().len(), 8);
    assert!(
        logprobs["top_logprobs"].as_array().unwrap().iter().all(|t| (1..=2).contains(&t.as_object().unwrap().len()))
    );
    let parts: String = logprobs["tokens"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    assert_eq!(parts, text);
    // As much as OpenAI makes where nothing is said.
    assert!(
        server.complete("the hen", json!({ "temperature": 0 })).ok()["usage"]["completion_tokens"].as_u64().unwrap()
            <= 16
    );
}

#[test]
fn tokens_go_there_and_back() {
    let server = Server::new();
    let there = server.post("/tokenize", json!({ "model": "tiny", "prompt": "the hen" })).ok();
    let strs: String = there["token_strs"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    assert_eq!(
        (strs.as_str(), there["count"].as_u64().unwrap() as usize),
        ("the hen", there["tokens"].as_array().unwrap().len())
    );
    let back = server.post("/detokenize", json!({ "tokens": there["tokens"] })).ok();
    assert_eq!(back["prompt"], "the hen");
    assert_eq!(
        server.post("/detokenize", json!({ "tokens": [128] })).refused(400),
        "tokens must hold whole numbers below 128"
    );
}

#[test]
fn messages_are_read_as_clients_write_them() {
    let server = Server::new();
    let ask = |messages: Json| server.post("/v1/chat/completions", with(json!({ "messages": messages }), greedy(4)));
    let plain = ask(json!([{ "role": "system", "content": "be kind" }, { "role": "user", "content": "hi" }])).ok();
    let parts = ask(json!([
        { "role": "developer", "content": [{ "type": "text", "text": "be " }, { "type": "text", "text": "kind" }] },
        { "role": "user", "content": "hi", "name": null },
    ]))
    .ok();
    assert_eq!(plain["choices"], parts["choices"]);
    assert_eq!(plain["usage"]["prompt_tokens"], parts["usage"]["prompt_tokens"]);
    for (messages, says) in [
        (json!([]), "messages has 0 messages, 1 to 4096 are taken"),
        (json!([{ "role": "user" }]), "messages[0].content is missing"),
        (json!([{ "content": "a" }]), "messages[0].role is missing"),
        (
            json!([{ "role": "king", "content": "a" }]),
            "messages[0].role is \"king\", it must be one of system, developer, user, assistant, tool",
        ),
        (
            json!([{ "role": "user", "content": "a", "crown": 1 }]),
            "messages[0].crown is not known to this server: leave it out",
        ),
        (
            json!([{ "role": "user", "content": [{ "type": "image_url", "image_url": { "url": "http://127.0.0.1/x.png" } }] }]),
            "messages[0].content[0].type is \"image_url\": this model takes text only",
        ),
        (json!([{ "role": "user", "content": 7 }]), "messages[0].content must be text or a list of parts"),
        (json!("hi"), "messages is \"hi\", it must be a list"),
    ] {
        assert_eq!(ask(messages.clone()).refused(400), says, "{messages}");
    }
}

#[test]
fn fields_that_could_change_the_result_are_refused_by_name() {
    let server = Server::new();
    for (more, says) in [
        (json!({ "temperature": -1 }), "temperature is -1, it must be a number from 0 to 100"),
        (json!({ "temperature": "hot" }), "temperature is \"hot\", it must be a number from 0 to 100"),
        (json!({ "top_p": 1.5 }), "top_p is 1.5, it must be a number from 0 to 1"),
        (json!({ "n": 0 }), "n is 0, it must be a whole number from 1 to 16"),
        (json!({ "n": 2.5 }), "n is 2.5, it must be a whole number from 1 to 16"),
        (json!({ "max_tokens": -5 }), "max_tokens is -5, it must be a whole number from 0 to 9223372036854775807"),
        (json!({ "stop": [1] }), "stop is [1], it must be text or a list of texts"),
        (json!({ "stop": "" }), "stop has a text of 0 bytes, 1 to 1024 are taken"),
        (json!({ "stream": 1 }), "stream is 1, it must be true or false"),
        (json!({ "stream_options": {} }), "stream_options is only for streams: set stream"),
        (
            json!({ "stream": true, "stream_options": { "x": 1 } }),
            "stream_options.x is not known to this server: leave it out",
        ),
        (json!({ "use_magic": true }), "use_magic is not known to this server: leave it out"),
        (json!({ "modalities": ["audio"] }), "modalities can only be [\"text\"]: this server makes text"),
        (json!({ "presence_penalty": 3 }), "presence_penalty is 3, it must be a number from -2 to 2"),
    ] {
        let answer = server.chat("a", more.clone());
        assert_eq!(answer.refused(400), says, "{more}");
        assert_eq!(answer.json()["error"]["type"], "invalid_request_error");
    }
    assert_eq!(server.chat("a", json!({ "use_magic": true })).json()["error"]["param"], "use_magic");
    // What changes nothing is taken, and so is what is not there.
    let harmless = json!({
        "user": "me", "metadata": { "a": "b" }, "store": false, "service_tier": "auto", "use_magic": null, "temperature": null,
        "modalities": ["text"], "seed": 3,
    });
    server.chat("a", with(harmless, json!({ "max_tokens": 1 }))).ok();
    for (more, says) in [
        (json!({ "best_of": 4 }), "best_of can only be 1: no other answers are made than are told"),
        (json!({ "suffix": "end" }), "suffix can only be \"\": text is made at its end only"),
        (
            json!({ "echo": true, "logprobs": 1 }),
            "echo cannot be joined with logprobs: those of the prompt are not kept",
        ),
        (json!({ "prompt": [[1, -2]] }), "prompt must be text, token ids, or a list of such"),
        (json!({ "prompt": [500] }), "token 500 is outside of the vocabulary of 128"),
        (json!({ "prompt": "" }), "the prompt is empty"),
    ] {
        assert_eq!(server.complete("a", more.clone()).refused(400), says, "{more}");
    }
    let long = server.complete(&"ab ".repeat(400), json!({}));
    assert_eq!(long.json()["error"]["code"], "context_length_exceeded");
    assert!(long.refused(400).ends_with(" tokens, the context of tiny is 512: shorten it"));
    let said = server.post("/v1/embeddings", json!({ "input": "a" })).refused(400);
    assert_eq!(said, "model tiny is a decoder: it makes no embeddings");
}

#[test]
fn embeddings_are_those_of_the_encoder() {
    let Some(path) = crate::common::model("minilm") else { return };
    use warpweft::serve::{Engine, Limits, http::Config};
    let engine = Engine::open(&path, &super::cpu(), Limits::default());
    pollster::block_on(engine.ready()).unwrap();
    let server = Server::of(crate::common::Folder::new("serve"), engine, Config::default());
    let ask = |more: Json| {
        server.post("/v1/embeddings", with(json!({ "model": "tiny", "input": ["a hen", "a horse"] }), more))
    };
    let made = ask(json!({})).ok();
    let vector = |v: &Json| -> Vec<f32> {
        v["embedding"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
    };
    let got: Vec<Vec<f32>> = made["data"].as_array().unwrap().iter().map(vector).collect();
    let mut embedder = pollster::block_on(warpweft::session::Embedder::open(&path, &super::cpu())).unwrap();
    assert_eq!(got, pollster::block_on(embedder.embed(&["a hen", "a horse"])).unwrap());
    assert_eq!(made["usage"]["prompt_tokens"], 8);
    // Packed floats are the same floats.
    let packed = ask(json!({ "encoding_format": "base64", "dimensions": 384 })).ok();
    let text = packed["data"][1]["embedding"].as_str().unwrap();
    assert_eq!(unpacked(text), got[1]);
    let said = server.post("/v1/embeddings", json!({ "input": [[1, 2]] })).refused(400);
    assert_eq!(said, "input holds token ids, whose vocabulary is not known here: give text");
    assert_eq!(
        ask(json!({ "dimensions": 10 })).refused(400),
        "dimensions must be 384: this model's vectors cannot be cut"
    );
    assert_eq!(server.chat("a", json!({})).refused(400), "model tiny is an encoder: it makes embeddings only");
}

/// Floats of base64 text, by the letters' places.
fn unpacked(text: &str) -> Vec<f32> {
    let digit =
        |c: u8| "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".find(c as char).unwrap() as u32;
    let mut bytes = vec![];
    for four in text.trim_end_matches('=').as_bytes().chunks(4) {
        let bits = four.iter().fold(0, |w, c| w << 6 | digit(*c)) << (6 * (4 - four.len()));
        bytes.extend(&bits.to_be_bytes()[1..four.len()]);
    }
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

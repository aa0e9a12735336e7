//! Tools, grammars, and the interfaces of others.

use super::{Server, greedy, with};
use serde_json::{Value as Json, json};

fn add() -> Json {
    let integer = json!({ "type": "integer", "minimum": 0, "maximum": 9 });
    let parameters = json!({
        "type": "object", "properties": { "a": integer, "b": integer }, "required": ["a", "b"], "additionalProperties": false,
    });
    json!({ "type": "function", "function": { "name": "add", "description": "Adds.", "parameters": parameters } })
}

fn time() -> Json {
    let parameters = json!({ "type": "object", "properties": {}, "additionalProperties": false });
    json!({ "type": "function", "function": { "name": "get_time", "parameters": parameters } })
}

/// Digits of a call that a grammar made.
fn is_sum(arguments: &str) -> bool {
    let v: Json = serde_json::from_str(arguments).unwrap();
    let digit = |k: &str| v[k].as_i64().is_some_and(|n| (0..=9).contains(&n));
    v.as_object().unwrap().len() == 2 && digit("a") && digit("b")
}

#[test]
fn a_call_that_is_required_is_made() {
    let server = Server::with(1024, Default::default(), Default::default());
    let asked = json!({ "tools": [add(), time()], "tool_choice": "required", "parallel_tool_calls": false, "temperature": 1, "seed": 1, "max_tokens": 200 });
    let whole = server.chat("1+2?", asked.clone()).ok();
    let choice = &whole["choices"][0];
    assert_eq!(
        (&choice["finish_reason"], &choice["message"]["content"]),
        (&json!("tool_calls"), &Json::Null),
        "{whole}"
    );
    let calls = choice["message"]["tool_calls"].as_array().unwrap();
    assert_eq!((calls.len(), &calls[0]["type"]), (1, &json!("function")));
    let function = &calls[0]["function"];
    match function["name"].as_str().unwrap() {
        "add" => assert!(is_sum(function["arguments"].as_str().unwrap())),
        name => assert_eq!((name, &function["arguments"]), ("get_time", &json!("{}"))),
    }
    // The same in pieces.
    let events = server.chat("1+2?", with(asked, json!({ "stream": true }))).events();
    let deltas: Vec<&Json> =
        events.iter().filter_map(|c| c["choices"][0]["delta"]["tool_calls"].as_array()).flatten().collect();
    assert_eq!((deltas.len(), &deltas[0]["index"], &deltas[0]["function"]), (1, &json!(0), function));
    assert!(events.iter().any(|c| c["choices"][0]["finish_reason"] == "tool_calls"));
    let text: String = events.iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, "");
    // One by its name.
    let named = json!({ "tools": [add(), time()], "tool_choice": { "type": "function", "function": { "name": "add" } }, "temperature": 0, "max_tokens": 300, "parallel_tool_calls": false });
    let calls = server.chat("1+2?", named).ok()["choices"][0]["message"]["tool_calls"].clone();
    assert_eq!(calls[0]["function"]["name"], "add");
    assert!(is_sum(calls[0]["function"]["arguments"].as_str().unwrap()));
}

#[test]
fn a_talk_with_calls_goes_on() {
    let server = Server::with(2048, Default::default(), Default::default());
    let call =
        json!({ "id": "call_1", "type": "function", "function": { "name": "add", "arguments": "{\"a\":1,\"b\":2}" } });
    let messages = json!([
        { "role": "user", "content": "1+2?" },
        { "role": "assistant", "content": null, "tool_calls": [call] },
        { "role": "tool", "tool_call_id": "call_1", "content": "3" },
    ]);
    let ask =
        |more: Json| server.post("/v1/chat/completions", with(with(json!({ "messages": messages }), greedy(2)), more));
    let tools = ask(json!({ "tools": [add()] })).ok()["usage"]["prompt_tokens"].as_u64().unwrap();
    let none = ask(json!({ "tools": [add()], "tool_choice": "none" })).ok()["usage"]["prompt_tokens"].as_u64().unwrap();
    // The prompt tells of tools only where they may be called.
    assert!(tools > none + 100, "{tools} and {none}");
    for (more, says) in [
        (json!({ "tools": [add(), add()] }), "tools has two tools named \"add\""),
        (
            json!({ "tools": [{ "type": "web_search" }] }),
            "tools[0].type can only be \"function\": other tools are not run here",
        ),
        (
            json!({ "tools": [{ "type": "function", "function": { "name": "a b" } }] }),
            "tools[0].function.name must be 1 to 128 letters, digits, _, - or .",
        ),
        (json!({ "tool_choice": "required" }), "tool_choice asks for a call, there are no tools"),
        (
            json!({ "tools": [add()], "tool_choice": { "type": "function", "function": { "name": "sub" } } }),
            "tool_choice names \"sub\", which is none of the tools",
        ),
        (
            json!({ "tools": [add()], "response_format": { "type": "json_object" } }),
            "response_format cannot be joined with tools: an answer obeys one or calls the others",
        ),
    ] {
        assert_eq!(ask(more.clone()).refused(400), says, "{more}");
    }
    let bad = json!([{ "role": "assistant", "tool_calls": [{ "function": { "name": "add", "arguments": "{oh" } }] }]);
    let said = server.post("/v1/chat/completions", json!({ "messages": bad })).refused(400);
    assert!(said.starts_with("messages[0].tool_calls[0].function.arguments is not JSON: "), "{said}");
}

#[test]
fn answers_obey_their_grammar() {
    let server = Server::with(1024, Default::default(), Default::default());
    let schema = json!({
        "type": "object", "required": ["kind", "legs"], "additionalProperties": false,
        "properties": { "kind": { "enum": ["hen", "horse"] }, "legs": { "type": "integer", "minimum": 2, "maximum": 4 } },
    });
    let format =
        json!({ "type": "json_schema", "json_schema": { "name": "animal", "strict": true, "schema": schema } });
    for seed in 0..6 {
        let asked = json!({ "response_format": format, "seed": seed, "temperature": 1.5, "max_tokens": 200 });
        let whole = server.chat("an animal", asked).ok();
        let choice = &whole["choices"][0];
        assert_eq!(choice["finish_reason"], "stop");
        let v: Json = serde_json::from_str(choice["message"]["content"].as_str().unwrap()).unwrap();
        assert!(
            ["hen", "horse"].contains(&v["kind"].as_str().unwrap()) && (2..=4).contains(&v["legs"].as_i64().unwrap()),
            "{v}"
        );
    }
    let text = |more: Json| {
        server.complete("the", with(greedy(40), more)).ok()["choices"][0]["text"].as_str().unwrap().to_string()
    };
    assert!(["yes", "no"].contains(&text(json!({ "guided_choice": ["yes", "no"] })).as_str()));
    let digits = text(json!({ "guided_regex": "[0-9]{3}" }));
    assert!(digits.len() == 3 && digits.chars().all(|c| c.is_ascii_digit()), "{digits}");
    assert_eq!(text(json!({ "guided_grammar": "start: \"a\" \"b\"" })), "ab");
    let whatever = text(json!({ "guided_json": { "type": "boolean" } }));
    assert!(["true", "false"].contains(&whatever.as_str()));
    for (more, says) in [
        (
            json!({ "response_format": { "type": "xml" } }),
            "response_format.type must be text, json_object or json_schema",
        ),
        (json!({ "response_format": { "type": "json_schema" } }), "response_format.json_schema is missing"),
        (
            json!({ "guided_regex": "a", "guided_grammar": "start: \"a\"" }),
            "response_format and guided_… are two grammars: give one",
        ),
    ] {
        assert_eq!(server.chat("a", more).refused(400), says);
    }
    let said = server.chat("a", json!({ "guided_regex": "(" })).refused(400);
    assert!(said.starts_with("the grammar cannot be used: "), "{said}");
}

#[test]
fn anthropics_messages_are_answered() {
    let server = Server::with(1024, Default::default(), Default::default());
    let ask = |more: Json| {
        let base = json!({ "model": "tiny", "max_tokens": 12, "temperature": 0, "system": "Be kind.", "messages": [{ "role": "user", "content": "the hen" }] });
        server.post("/v1/messages", with(base, more))
    };
    let whole = ask(json!({})).ok();
    assert_eq!(
        (&whole["type"], &whole["role"], &whole["stop_reason"]),
        (&json!("message"), &json!("assistant"), &json!("max_tokens"))
    );
    let text = whole["content"][0]["text"].as_str().unwrap();
    // The same prompt by another door.
    let chat =
        json!({ "messages": [{ "role": "system", "content": "Be kind." }, { "role": "user", "content": "the hen" }] });
    let same = server.post("/v1/chat/completions", with(chat, greedy(12))).ok();
    assert_eq!(same["choices"][0]["message"]["content"], *text);
    assert_eq!(
        (&whole["usage"]["output_tokens"], &whole["usage"]["input_tokens"]),
        (&json!(12), &same["usage"]["prompt_tokens"])
    );
    let events = ask(json!({ "stream": true })).events();
    let kinds: Vec<&str> = events.iter().map(|e| e["type"].as_str().unwrap()).collect();
    assert_eq!((kinds[0], kinds[1]), ("message_start", "content_block_start"));
    assert_eq!(kinds[kinds.len() - 3..], ["content_block_stop", "message_delta", "message_stop"]);
    let streamed: String = events.iter().filter_map(|e| e["delta"]["text"].as_str()).collect();
    assert_eq!(streamed, text);
    let stop: String = text.chars().skip(3).take(2).collect();
    let stopped = ask(json!({ "stop_sequences": [stop] })).ok();
    assert_eq!((&stopped["stop_reason"], &stopped["stop_sequence"]), (&json!("stop_sequence"), &json!(stop)));
    let tool = json!({ "name": "add", "input_schema": add()["function"]["parameters"] });
    let called = ask(
        json!({ "tools": [tool], "tool_choice": { "type": "any", "disable_parallel_tool_use": true }, "max_tokens": 200 }),
    );
    let called = called.ok();
    assert_eq!(
        (&called["stop_reason"], &called["content"][0]["type"], &called["content"][0]["name"]),
        (&json!("tool_use"), &json!("tool_use"), &json!("add"))
    );
    assert!(is_sum(&called["content"][0]["input"].to_string()));
    let back = json!([
        { "role": "user", "content": "1+2?" },
        { "role": "assistant", "content": [{ "type": "tool_use", "id": "t1", "name": "add", "input": { "a": 1, "b": 2 } }] },
        { "role": "user", "content": [{ "type": "tool_result", "tool_use_id": "t1", "content": [{ "type": "text", "text": "3" }] }] },
    ]);
    assert_eq!(ask(json!({ "messages": back })).ok()["type"], "message");
    let refused = ask(json!({ "magic": 1 }));
    assert_eq!(refused.status, 400);
    assert_eq!(
        refused.json(),
        json!({ "type": "error", "error": { "type": "invalid_request_error", "message": "magic is not known to this server: leave it out" } })
    );
}

#[test]
fn ollamas_clients_are_answered() {
    let server = Server::with(1024, Default::default(), Default::default());
    let options = json!({ "temperature": 0, "num_predict": 8, "repeat_penalty": 1 });
    let chat = json!({ "model": "tiny", "messages": [{ "role": "user", "content": "the hen" }], "options": options });
    let lines = |body: &str| -> Vec<Json> { body.lines().map(|l| serde_json::from_str(l).unwrap()).collect() };
    let streamed = server.post("/api/chat", chat.clone());
    assert_eq!(streamed.header("content-type"), Some("application/x-ndjson"));
    let streamed = lines(&streamed.body);
    let whole = server.post("/api/chat", with(chat, json!({ "stream": false }))).ok();
    let text: String = streamed.iter().map(|l| l["message"]["content"].as_str().unwrap()).collect();
    assert_eq!(whole["message"]["content"], text);
    assert_eq!(
        (&whole["done"], &whole["done_reason"], &whole["eval_count"]),
        (&json!(true), &json!("length"), &json!(8))
    );
    let last = streamed.last().unwrap();
    assert_eq!((&last["done"], &last["prompt_eval_count"]), (&json!(true), &whole["prompt_eval_count"]));
    let same = server.chat("the hen", greedy(8)).ok();
    assert_eq!(same["choices"][0]["message"]["content"], text);

    let generate = json!({ "model": "tiny", "prompt": "the hen", "raw": true, "stream": false, "options": options });
    let made = server.post("/api/generate", generate.clone()).ok();
    assert_eq!(made["response"], server.complete("the hen", greedy(8)).ok()["choices"][0]["text"]);
    let formed = server.post("/api/generate", with(generate, json!({ "raw": false }))).ok();
    assert_eq!(formed["response"], text);
    let format = json!({ "type": "boolean" });
    let obeys = json!({ "model": "tiny", "messages": [{ "role": "user", "content": "?" }], "format": { "anyOf": [format] }, "stream": false, "options": options });
    assert!(["true", "false"].contains(&server.post("/api/chat", obeys).ok()["message"]["content"].as_str().unwrap()));

    assert_eq!(server.get("/api/tags").ok()["models"][0]["name"], "tiny");
    assert_eq!(server.get("/api/version").ok()["version"], env!("CARGO_PKG_VERSION"));
    let shown = server.post("/api/show", json!({ "model": "tiny:latest" })).ok();
    assert_eq!(
        (&shown["details"]["family"], &shown["model_info"]["llama.context_length"]),
        (&json!("llama"), &json!(1024))
    );
    let refused = server.post("/api/chat", json!({ "model": "none", "messages": [] }));
    assert_eq!(
        (refused.status, refused.json()),
        (404, json!({ "error": "there is no model \"none\"; there are: tiny" }))
    );
    let options = json!({ "model": "tiny", "prompt": "a", "options": { "mirostat": 1 } });
    assert_eq!(
        server.post("/api/generate", options).json()["error"],
        "options.mirostat is not known to this server: leave it out"
    );
}

#[test]
fn responses_are_made_and_not_stored() {
    let server = Server::with(1024, Default::default(), Default::default());
    let ask = |more: Json| {
        let base = json!({ "model": "tiny", "input": "the hen", "instructions": "Be kind.", "temperature": 0, "max_output_tokens": 10 });
        server.post("/v1/responses", with(base, more))
    };
    let whole = ask(json!({})).ok();
    assert_eq!(
        (&whole["object"], &whole["status"], &whole["incomplete_details"]["reason"]),
        (&json!("response"), &json!("incomplete"), &json!("max_output_tokens"))
    );
    let text = whole["output"][0]["content"][0]["text"].as_str().unwrap();
    let events = ask(json!({ "stream": true })).events();
    let kinds: Vec<&str> = events.iter().map(|e| e["type"].as_str().unwrap()).collect();
    assert_eq!(
        kinds[..4],
        ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"]
    );
    assert_eq!(kinds.last(), Some(&"response.incomplete"));
    let streamed: String = events
        .iter()
        .filter(|e| e["type"] == "response.output_text.delta")
        .map(|e| e["delta"].as_str().unwrap())
        .collect();
    assert_eq!(streamed, text);
    let numbers: Vec<u64> = events.iter().map(|e| e["sequence_number"].as_u64().unwrap()).collect();
    assert!(numbers.iter().enumerate().all(|(i, n)| *n == i as u64));
    let items = json!([{ "role": "developer", "content": "Be kind." }, { "type": "message", "role": "user", "content": [{ "type": "input_text", "text": "the hen" }] }]);
    let same = ask(json!({ "instructions": null, "input": items })).ok();
    assert_eq!(same["output"][0]["content"][0]["text"], *text);
    let tool =
        json!({ "type": "function", "name": "add", "parameters": add()["function"]["parameters"], "strict": true });
    let called = ask(
        json!({ "tools": [tool], "tool_choice": "required", "parallel_tool_calls": false, "max_output_tokens": 200 }),
    )
    .ok();
    assert_eq!((&called["output"][0]["type"], &called["output"][0]["name"]), (&json!("function_call"), &json!("add")));
    assert!(is_sum(called["output"][0]["arguments"].as_str().unwrap()));
    let format = json!({ "format": { "type": "json_schema", "name": "x", "schema": { "type": "boolean" } } });
    let obeys = ask(json!({ "text": format })).ok();
    assert!(["true", "false"].contains(&obeys["output"][0]["content"][0]["text"].as_str().unwrap()));
    let said = ask(json!({ "previous_response_id": "resp_1" })).refused(400);
    assert_eq!(
        said,
        "previous_response_id cannot be used: this server stores nothing; send the whole conversation as input"
    );
}

#[test]
fn the_page_is_there() {
    let server = Server::with(64, Default::default(), Default::default());
    let page = server.get("/");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(page.header("content-security-policy").unwrap().starts_with("default-src 'self'"));
    for part in page.body.split("href=\"").skip(1).chain(page.body.split("src=\"").skip(1)) {
        let path = part.split('"').next().unwrap();
        if !path.starts_with("data:") {
            assert_eq!(server.get(&format!("/{path}")).status, 200, "{path}");
        }
    }
}

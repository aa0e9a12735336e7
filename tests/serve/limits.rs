//! What clients do wrong, on purpose or not: the server stays up, and says what is wrong.

use super::http::Client;
use super::{ENDLESS, Server, eventually, greedy, long, with};
use serde_json::json;
use std::io::{Read, Write};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use warpweft::serve::http::Config;
use warpweft::serve::{Engine, Limits};

fn config(change: impl FnOnce(&mut Config)) -> Config {
    let mut config = Config::default();
    change(&mut config);
    config
}

fn cancelled(server: &Server) -> u64 {
    server.engine.metrics().cancelled.load(Ordering::Relaxed)
}

#[test]
fn bodies_that_are_no_requests_are_told_so() {
    let server = Server::new();
    for (body, says) in [
        ("", "the body is not a JSON object: EOF while parsing a value at line 1 column 0"),
        ("[]", "the body is not a JSON object: it is a list"),
        ("{\"model\":", "the body is not a JSON object: EOF while parsing a value at line 1 column 9"),
        ("{}", "messages is missing"),
    ] {
        assert_eq!(server.client().post("/v1/chat/completions", body).refused(400), says, "{body}");
    }
    let deep = format!("{{\"messages\":{}", "[".repeat(100_000));
    assert!(server.client().post("/v1/chat/completions", &deep).refused(400).contains("recursion limit"));
    // Values take more memory than text: they are counted, in bodies and in JSON within them.
    let values = format!("[{}0]", "0,".repeat(1 << 20));
    for body in [
        format!("{{\"prompt\":{values}}}"),
        format!("{{\"prompt\":\"a\",\"guided_json\":\"{values}\"}}"),
        format!("{{\"prompt\":\"a\",\"x\":{{\"y\":{values}}}}}"),
    ] {
        assert!(server.client().post("/v1/completions", &body).refused(400).contains("more values than are read"));
    }
    assert_eq!(server.get("/nothing").refused(404), "there is nothing at \"/nothing\"");
    assert_eq!(server.get("/v1/completions").refused(405), "this path takes another method");
    server.chat("a", greedy(1)).ok();
}

#[test]
fn a_body_beyond_the_limit_is_refused_and_not_kept() {
    let server = Server::with(64, Limits::default(), config(|c| c.max_body = 1 << 20));
    let large = format!("{{\"prompt\":\"{}\"}}", "x".repeat(20 << 20));
    assert_eq!(server.client().post("/v1/completions", &large).refused(413), "the body is larger than 1048576 bytes");
    // Without a length, too.
    let mut client = server.client();
    let head = client.head("POST", "/v1/completions", 0).replace("content-length: 0", "transfer-encoding: chunked");
    client.stream.write_all(head.as_bytes()).unwrap();
    let part = format!("10000\r\n{}\r\n", "x".repeat(1 << 16));
    (0..40).for_each(|_| client.stream.write_all(part.as_bytes()).unwrap());
    client.stream.write_all(b"0\r\n\r\n").unwrap();
    assert_eq!(client.answer().refused(413), "the body is larger than 1048576 bytes");
    server.chat("a", greedy(1)).ok();
}

#[test]
fn only_known_hosts_and_pages_may_ask() {
    let server = Server::with(
        64,
        Limits::default(),
        config(|c| {
            c.hosts = vec!["models.example".into()];
            c.origins = vec!["https://pages.example".into()];
        }),
    );
    let ask = |name: &str, value: &str| server.client().with(name, value).get("/v1/models");
    assert_eq!(
        ask("host", "evil.example").refused(403),
        "this server does not answer to the name \"evil.example\" (--allow-host)"
    );
    ask("host", "localhost:1").ok();
    ask("host", "models.example").ok();
    assert_eq!(
        ask("origin", "https://evil.example").refused(403),
        "pages of \"https://evil.example\" may not ask this server (--allow-origin)"
    );
    assert_eq!(ask("origin", "null").status, 403);
    let allowed = ask("origin", "https://pages.example");
    assert_eq!((allowed.status, allowed.header("access-control-allow-origin")), (200, Some("https://pages.example")));
    // A page of this server's own.
    let own = ask("origin", &format!("http://{}", server.at));
    assert_eq!((own.status, own.header("access-control-allow-origin")), (200, None));
    let mut asks_first = server.client().with("origin", "https://pages.example");
    asks_first.send("OPTIONS", "/v1/chat/completions", "");
    let answer = asks_first.answer();
    assert_eq!((answer.status, answer.header("access-control-allow-methods")), (204, Some("GET, POST")));
}

#[test]
fn a_key_is_asked_for() {
    let server = Server::with(64, Limits::default(), config(|c| c.api_key = Some("sesame".into())));
    let said = server.get("/v1/models");
    assert_eq!(
        (said.refused(401).as_str(), &said.json()["error"]["code"]),
        ("the API key is missing or wrong", &json!("invalid_api_key"))
    );
    for (name, value, status) in [
        ("authorization", "Bearer sesame", 200),
        ("x-api-key", "sesame", 200),
        ("authorization", "Bearer sesam", 401),
        ("authorization", "Basic sesame", 401),
        ("x-api-key", "", 401),
    ] {
        assert_eq!(server.client().with(name, value).get("/v1/models").status, status, "{name}: {value}");
        assert_eq!(server.client().with(name, value).get("/metrics").status, status);
    }
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn a_client_that_leaves_cancels_its_answer() {
    // One at a time, so that the second waits.
    let server = Server::with(ENDLESS, Limits { parallel: 1, ..Limits::default() }, Config::default());
    let body = |stream: bool| {
        let more = json!({ "model": "tiny", "messages": [{ "role": "user", "content": "a" }], "stream": stream });
        with(more, long(ENDLESS - 100)).to_string()
    };
    let mut streaming = server.client();
    streaming.send("POST", "/v1/chat/completions", &body(true));
    streaming.read_until("\"content\":\"");
    eventually("the first token", || server.engine.metrics().generated_tokens.load(Ordering::Relaxed) > 0);
    let mut waiting = server.client();
    waiting.send("POST", "/v1/chat/completions", &body(false));
    eventually("the second request", || server.engine.waiting() == 1);
    drop(waiting);
    eventually("the waiting one's cancel", || cancelled(&server) == 1);
    drop(streaming);
    eventually("the running one's cancel", || cancelled(&server) == 2);
    let mut whole = server.client();
    whole.send("POST", "/v1/chat/completions", &body(false));
    eventually("the third request", || server.engine.metrics().running.load(Ordering::Relaxed) == 1);
    drop(whole);
    eventually("the third one's cancel", || cancelled(&server) == 3);
    assert!(server.engine.metrics().generated_tokens.load(Ordering::Relaxed) < ENDLESS as u64);
    server.chat("a", greedy(1)).ok();
}

#[test]
fn a_full_queue_says_when_to_come_again() {
    let server = Server::with(ENDLESS, Limits { queue: 1, parallel: 1, ..Limits::default() }, Config::default());
    let long = with(json!({ "prompt": "a", "stream": true }), long(ENDLESS - 100)).to_string();
    let mut clients: Vec<Client> = (0..2).map(|_| server.client()).collect();
    clients[0].send("POST", "/v1/completions", &long);
    eventually("the first request", || server.engine.metrics().running.load(Ordering::Relaxed) == 1);
    clients[1].send("POST", "/v1/completions", &long);
    eventually("the second request", || server.engine.waiting() == 1);
    let busy = server.complete("a", greedy(1));
    assert_eq!(
        (busy.refused(429).as_str(), busy.header("retry-after")),
        ("1 requests wait already: try again later", Some("1"))
    );
    assert_eq!(busy.json()["error"]["type"], "rate_limit_error");
    drop(clients);
    eventually("an empty queue", || server.engine.waiting() == 0);
    server.complete("a", greedy(1)).ok();
    let metrics = server.get("/metrics").body;
    for line in
        ["warpweft_requests_busy_total{model=\"tiny\"} 1", "warpweft_requests_cancelled_total{model=\"tiny\"} 2"]
    {
        assert!(metrics.lines().any(|l| l == line), "{line} in\n{metrics}");
    }
}

#[test]
fn heads_have_limits_of_size_and_time() {
    let server = Server::with(64, Limits::default(), config(|c| c.io_timeout = Duration::from_millis(300)));
    let ended = |mut client: Client| {
        let mut said = String::new();
        // A connection that is reset has ended, too.
        let _ = client.stream.read_to_string(&mut said);
        said
    };
    let mut many = server.client();
    many.headers.extend((0..200).map(|i| (format!("x-{i}"), "y".into())));
    many.send("GET", "/health", "");
    assert!(ended(many).starts_with("HTTP/1.1 431 "));
    let mut flood = server.client();
    let _ = flood.stream.write_all(format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(1 << 20)).as_bytes());
    assert!(!ended(flood).contains("200 OK"));
    // Who sends nothing, or half a head, or half a body.
    let start = Instant::now();
    let idle = server.client();
    let mut half = server.client();
    half.stream.write_all(b"GET /health HTTP/1.1\r\nhost: local").unwrap();
    let mut body = server.client();
    let head = body.head("POST", "/v1/completions", 100);
    body.stream.write_all(format!("{head}{{\"prompt\"").as_bytes()).unwrap();
    assert!(ended(idle).is_empty());
    ended(half);
    assert!(ended(body).starts_with("HTTP/1.1 408 "));
    assert!(start.elapsed() < Duration::from_secs(10));
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn connections_beyond_the_limit_are_closed() {
    let server = Server::with(64, Limits::default(), config(|c| c.max_connections = 4));
    let open: Vec<Client> = (0..4).map(|_| server.client()).collect();
    std::thread::sleep(Duration::from_millis(100));
    for _ in 0..200 {
        let mut more = server.client();
        assert_eq!(more.stream.read(&mut [0]).unwrap_or(0), 0);
    }
    drop(open);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn the_end_lets_running_answers_finish() {
    let mut server = Server::new();
    let mut running = server.client();
    running.send("POST", "/v1/completions", &with(json!({ "prompt": "a", "stream": true }), long(120)).to_string());
    running.read_until("\"text\":");
    let mut kept = server.client();
    kept.send("GET", "/health", "");
    assert_eq!(kept.answer().status, 200);
    server.end();
    let rest = running.read_until("[DONE]");
    assert_eq!(rest.matches("\"finish_reason\":\"length\"").count(), 1);
    server.joined();
    assert!(std::net::TcpStream::connect(server.at).is_err());
}

#[test]
fn the_end_cuts_what_takes_longer_than_the_grace() {
    let mut server = Server::with(ENDLESS, Limits::default(), config(|c| c.grace = Duration::from_millis(50)));
    let mut running = server.client();
    running.send(
        "POST",
        "/v1/completions",
        &with(json!({ "prompt": "a", "stream": true }), long(ENDLESS - 100)).to_string(),
    );
    running.read_until("\"text\":");
    let start = Instant::now();
    server.end();
    server.joined();
    assert!(start.elapsed() < Duration::from_secs(5));
    let mut rest = String::new();
    let _ = running.stream.read_to_string(&mut rest);
    assert!(!rest.contains("[DONE]"), "{rest}");
}

#[test]
fn a_server_that_loads_says_so() {
    let (folder, path) = super::tiny_file(64);
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let mut wait = Some(wait);
    let engine = Engine::spawn(Limits::default(), move |notify| {
        notify(warpweft::session::Notice::Compiling { done: 1, of: 2 });
        let _ = wait.take().map(|w| w.recv());
        let options = warpweft::session::Options { device: warpweft::session::DeviceChoice::Cpu, ..Default::default() };
        pollster::block_on(warpweft::session::Generator::open(&path, &options)).map(warpweft::serve::Loaded::Generator)
    });
    eventually(
        "the notice",
        || matches!(engine.state(), warpweft::serve::State::Loading(what) if what.starts_with("compiling")),
    );
    let server = Server::of(folder, engine.clone(), Config::default());
    let health = server.get("/health");
    assert_eq!(
        (health.status, &health.json()["status"], &health.json()["models"][0]["detail"]),
        (503, &json!("loading"), &json!("compiling kernels 1/2"))
    );
    let early = server.chat("a", greedy(1));
    assert_eq!(early.refused(503), "tiny is being loaded (compiling kernels 1/2): try again");
    assert!(early.header("retry-after").is_some());
    go.send(()).unwrap();
    pollster::block_on(engine.ready()).unwrap();
    assert_eq!(server.get("/health").ok()["status"], "ok");
    server.chat("a", greedy(1)).ok();
}

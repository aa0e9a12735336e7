//! Bodies of requests, against a server on loopback with a tiny model on the CPU.

use super::fields::FIELDS;
use super::tiny::Tiny;
use serde_json::{Map, Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use warpweft::serve::http::{App, Config, bind, serve};
use warpweft::serve::{Engine, Limits};
use warpweft::session::{DeviceChoice, Options};

/// Where requests go, and what makes one of each whole.
const PATHS: &[(&str, &str)] = &[
    ("/v1/chat/completions", r#"{"messages": [{"role": "user", "content": "a"}], "max_tokens": 3}"#),
    ("/v1/completions", r#"{"prompt": "a", "max_tokens": 3}"#),
    ("/v1/responses", r#"{"input": "a", "max_output_tokens": 3}"#),
    ("/v1/messages", r#"{"messages": [{"role": "user", "content": "a"}], "max_tokens": 3}"#),
    ("/v1/embeddings", r#"{"input": "a"}"#),
    ("/api/chat", r#"{"messages": [{"role": "user", "content": "a"}], "options": {"num_predict": 3}}"#),
    ("/api/generate", r#"{"prompt": "a", "options": {"num_predict": 3}}"#),
    ("/api/embed", r#"{"input": "a"}"#),
    ("/api/show", "{}"),
    ("/tokenize", r#"{"prompt": "a"}"#),
    ("/detokenize", r#"{"tokens": [1]}"#),
];

/// A server that is there as long as the process.
fn server() -> SocketAddr {
    static SERVER: OnceLock<SocketAddr> = OnceLock::new();
    *SERVER.get_or_init(|| {
        let folder = std::env::temp_dir().join(format!("warpweft-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("tiny.gguf");
        std::fs::write(&path, Tiny { width: 16, heads: 2, kv_heads: 1, layers: 1, ..Tiny::default() }.gguf().bytes())
            .unwrap();
        let options = Options { device: DeviceChoice::Cpu, context: Some(64), ..Options::default() };
        let engine = Engine::open(path, &options, Limits::default());
        pollster::block_on(engine.ready()).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        let config = Config { request_timeout: Some(Duration::from_secs(15)), ..Config::default() };
        let app = Arc::new(App::new(vec![("tiny".into(), engine)], config));
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = bind("127.0.0.1", 0).await.unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                serve(app, listener, std::future::pending::<()>).await.unwrap();
            });
        });
        told.recv().unwrap()
    })
}

/// The path by the first byte; then a body as it is, or after an odd second byte the choices of one that is nearly right.
pub fn request(data: &[u8]) {
    let [path, kind, rest @ ..] = data else { return };
    let (path, whole) = PATHS[*path as usize % PATHS.len()];
    let body = match kind % 2 {
        0 => rest.to_vec(),
        _ => Choices(rest).body(whole).to_string().into_bytes(),
    };
    let (status, answer) = ask(path, &body);
    let shown = || format!("{path} {}: {status} {answer:?}", String::from_utf8_lossy(&body));
    assert!(matches!(status, 200 | 400 | 404), "{}", shown());
    if status != 200 {
        let told: Value = serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{}", shown()));
        let message = told["error"]["message"].as_str().or(told["error"].as_str()).unwrap_or_default();
        let plain = !message.is_empty() && message.chars().count() < 2000 && !message.contains(char::is_control);
        assert!(plain, "{}", shown());
    }
}

fn ask(path: &str, body: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(server()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
    let mut answer = vec![];
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    (status, answer.split_once("\r\n\r\n").map_or(String::new(), |a| a.1.to_string()))
}

/// Makes JSON of bytes.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn choose(&mut self, n: usize) -> usize {
        match self.0.split_first() {
            Some((b, rest)) => {
                self.0 = rest;
                *b as usize % n
            }
            None => 0,
        }
    }

    fn pick<'b>(&mut self, all: &[&'b str]) -> &'b str {
        all[self.choose(all.len())]
    }

    fn body(&mut self, whole: &str) -> Value {
        let mut body: Value = serde_json::from_str(whole).unwrap();
        for _ in 0..1 + self.choose(6) {
            let field = self.pick(FIELDS);
            body[field] = match field {
                "messages" | "input" if self.choose(3) > 0 => self.messages(),
                "tools" => self.tools(),
                "response_format" => {
                    json!({ "type": "json_schema", "json_schema": { "name": "a", "schema": self.schema(0) } })
                }
                "format" | "guided_json" => self.schema(0),
                "guided_regex" => self.pick(REGEXES).into(),
                "guided_grammar" => self.lark(),
                _ => self.value(0),
            };
        }
        body
    }

    fn value(&mut self, depth: usize) -> Value {
        match self.choose(if depth < 5 { 10 } else { 6 }) {
            0 => Value::Null,
            1 => (self.choose(2) == 0).into(),
            2 => self
                .pick(&["", "a", "user", "auto", "required", "text", "json_object", "é😀", "\u{0}\u{1b}[2J", "1"])
                .into(),
            3 => [0, 1, -1, 2, 16, 64, 127, 128, 4096, i64::MAX, i64::MIN][self.choose(11)].into(),
            4 => [0.0, 0.5, -1e300, 1e300, 1e-300, 2.0, 100.0][self.choose(7)].into(),
            5 => (self.choose(256) as i64 - 128).into(),
            6 | 7 => (0..self.choose(5)).map(|_| self.value(depth + 1)).collect(),
            _ => {
                let mut map = Map::new();
                for _ in 0..self.choose(5) {
                    map.insert(self.pick(KEYS).into(), self.value(depth + 1));
                }
                map.into()
            }
        }
    }

    fn messages(&mut self) -> Value {
        let mut one = || {
            let role = self.pick(&["user", "assistant", "system", "tool", "developer", "x"]);
            let mut m = json!({ "role": role, "content": self.content() });
            if self.choose(3) == 0 {
                m[self.pick(KEYS)] = self.value(1);
            }
            if self.choose(4) == 0 {
                let arguments = self.pick(&["{}", "{\"a\": 1}", "[", ""]);
                m["tool_calls"] =
                    json!([{ "id": "1", "type": "function", "function": { "name": "f", "arguments": arguments } }]);
            }
            m
        };
        (0..4).map(|_| one()).collect()
    }

    fn content(&mut self) -> Value {
        match self.choose(3) {
            0 => self.value(1),
            1 => "Hello".into(),
            _ => {
                json!([{ "type": self.pick(&["text", "input_text", "image_url", "tool_result"]), "text": "a", "content": self.value(2) }])
            }
        }
    }

    fn tools(&mut self) -> Value {
        (0..self.choose(4))
            .map(|i| {
                let schema = self.schema(0);
                let name = format!("f{i}");
                match self.choose(3) {
                    0 => json!({ "name": name, "input_schema": schema }),
                    1 => json!({ "type": "function", "name": name, "parameters": schema }),
                    _ => json!({ "type": "function", "function": { "name": name, "parameters": schema } }),
                }
            })
            .collect()
    }

    fn schema(&mut self, depth: usize) -> Value {
        if depth > 6 {
            return json!({});
        }
        match self.choose(12) {
            0 => self.value(depth),
            1 => json!({ "type": "string", "minLength": self.value(6), "maxLength": self.value(6) }),
            2 => json!({ "type": "string", "pattern": self.pick(REGEXES) }),
            3 => {
                json!({ "type": self.pick(&["integer", "number"]), "minimum": self.value(6), "maximum": self.value(6) })
            }
            4 => json!({ "type": "integer", "multipleOf": self.value(6) }),
            5 => {
                json!({ "type": "array", "items": self.schema(depth + 1), "minItems": self.value(6), "maxItems": self.value(6) })
            }
            6 => json!({ "enum": self.value(depth) }),
            7 => json!({ "const": self.value(depth) }),
            8 => {
                let key = self.pick(&["anyOf", "oneOf", "allOf"]);
                json!({ key: [self.schema(depth + 1), self.schema(depth + 1)] })
            }
            9 => {
                json!({ "$ref": self.pick(&["#", "#/$defs/a", "#/properties/a", "http://127.0.0.1/a", "file:///etc/passwd"]) })
            }
            10 => {
                json!({ "$defs": { "a": self.schema(depth + 1) }, "anyOf": [{ "$ref": "#/$defs/a" }, self.schema(depth + 1)] })
            }
            _ => json!({
                "type": "object", "properties": { "a": self.schema(depth + 1), "b": self.schema(depth + 1) },
                "required": self.pick(&["a", "b", "c"]).split(' ').collect::<Vec<_>>(), "additionalProperties": self.choose(2) == 0,
                "patternProperties": { self.pick(REGEXES): self.schema(depth + 1) },
            }),
        }
    }

    fn lark(&mut self) -> Value {
        let mut out = String::from("start: ");
        for _ in 0..self.choose(20) {
            out += self.pick(&[
                "a ",
                "b ",
                "\"x\" ",
                "\"\" ",
                "| ",
                "( ",
                ") ",
                "* ",
                "+ ",
                "? ",
                "~3 ",
                "{2,1000} ",
                "/[a-z]+/ ",
                "/(/ ",
                "\nstart: ",
                "\na: ",
                "\nb: ",
                "\nA: ",
                "A ",
                "%json {\"type\": \"object\"} ",
                "%ignore / / ",
                "<[1]> ",
                "<|end|> ",
                "\na[max_tokens=3]: ",
                "& ",
                "~ ",
            ]);
        }
        out.into()
    }
}

const REGEXES: &[&str] = &[
    "a",
    "",
    "(",
    "[a-z]{2,4}",
    "(a|b)*c",
    "a{1000}",
    "((a{100}){100}){100}",
    "\\p{L}+",
    "(?=a)b",
    "\\1",
    "^a$",
    ".*",
    "(a*)*",
    "[^\\x00-\\x7f]",
    "\\d{4}-\\d\\d",
];

const KEYS: &[&str] = &[
    "type",
    "role",
    "content",
    "text",
    "function",
    "name",
    "parameters",
    "arguments",
    "json_schema",
    "schema",
    "properties",
    "tool_calls",
    "id",
    "x",
    "0",
    "5",
    "127",
    "128",
    "4294967296",
    "effort",
    "include_usage",
    "num_predict",
    "temperature",
    "tool_call_id",
    "budget_tokens",
    "image_url",
    "input",
    "call_id",
    "output",
    "$ref",
    "num_ctx",
    "stop",
];

//! A client that writes and reads HTTP/1.1 as bytes: nothing between the test and the wire.

use serde_json::Value as Json;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

pub struct Client {
    pub stream: TcpStream,
    pub headers: Vec<(String, String)>,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|h| h.0.eq_ignore_ascii_case(name)).map(|h| h.1.as_str())
    }
    #[track_caller]
    pub fn json(&self) -> Json {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
    /// The JSON of an answer that went well.
    #[track_caller]
    pub fn ok(&self) -> Json {
        assert_eq!(self.status, 200, "{}", self.body);
        self.json()
    }
    /// The message of a refusal in OpenAI's form.
    #[track_caller]
    pub fn refused(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.body);
        self.json()["error"]["message"].as_str().unwrap_or_else(|| panic!("{}", self.body)).to_string()
    }
    /// The data of an event stream; `[DONE]` as text.
    #[track_caller]
    pub fn events(&self) -> Vec<Json> {
        assert_eq!(self.status, 200, "{}", self.body);
        assert!(self.header("content-type").unwrap().starts_with("text/event-stream"));
        let data = self.body.split("\n\n").filter(|e| !e.is_empty());
        let data = data.filter_map(|e| e.lines().find_map(|l| l.strip_prefix("data: ")));
        data.map(|d| serde_json::from_str(d).unwrap_or_else(|_| Json::String(d.into()))).collect()
    }
}

impl Client {
    pub fn new(at: SocketAddr) -> Client {
        let stream = TcpStream::connect(at).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Client { stream, headers: vec![("host".into(), at.to_string())] }
    }

    /// The same with another header, in place of one of that name.
    pub fn with(mut self, name: &str, value: &str) -> Client {
        self.headers.retain(|h| h.0 != name);
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn head(&self, method: &str, path: &str, length: usize) -> String {
        let lines: String = self.headers.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
        format!("{method} {path} HTTP/1.1\r\n{lines}content-type: application/json\r\ncontent-length: {length}\r\n\r\n")
    }

    pub fn send(&mut self, method: &str, path: &str, body: &str) {
        let text = self.head(method, path, body.len()) + body;
        self.stream.write_all(text.as_bytes()).unwrap();
    }

    pub fn get(mut self, path: &str) -> Answer {
        self.send("GET", path, "");
        self.answer()
    }
    pub fn post(mut self, path: &str, body: &str) -> Answer {
        self.send("POST", path, body);
        self.answer()
    }

    pub fn answer(&mut self) -> Answer {
        let mut reader = BufReader::new(&mut self.stream);
        let line = |reader: &mut BufReader<&mut TcpStream>| {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            line.trim_end().to_string()
        };
        let status = line(&mut reader);
        let status = status.split(' ').nth(1).unwrap_or_else(|| panic!("no answer: {status:?}")).parse().unwrap();
        let mut headers = vec![];
        loop {
            let text = line(&mut reader);
            let Some((name, value)) = text.split_once(": ") else { break };
            headers.push((name.to_string(), value.to_string()));
        }
        let mut answer = Answer { status, headers, body: String::new() };
        let mut body = vec![];
        if answer.header("transfer-encoding") == Some("chunked") {
            loop {
                let size = usize::from_str_radix(&line(&mut reader), 16).unwrap();
                let mut part = vec![0; size + 2];
                reader.read_exact(&mut part).unwrap();
                body.extend_from_slice(&part[..size]);
                if size == 0 {
                    break;
                }
            }
        } else {
            body = vec![0; answer.header("content-length").map_or(0, |n| n.parse().unwrap())];
            reader.read_exact(&mut body).unwrap();
        }
        answer.body = String::from_utf8(body).unwrap();
        answer
    }

    /// Reads until `what` has come.
    pub fn read_until(&mut self, what: &str) -> String {
        let mut seen = vec![];
        let mut byte = [0];
        while !String::from_utf8_lossy(&seen).contains(what) {
            assert_eq!(self.stream.read(&mut byte).unwrap(), 1, "ended early: {}", String::from_utf8_lossy(&seen));
            seen.push(byte[0]);
        }
        String::from_utf8(seen).unwrap()
    }
}

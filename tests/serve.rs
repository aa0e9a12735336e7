//! The server's protocols, by raw HTTP over loopback against tiny seeded models on the CPU.
#![cfg(feature = "serve")]

mod common;
#[path = "serve/engine.rs"]
mod engine;
#[path = "../fuzz/fields.rs"]
mod fields;
#[path = "serve/http.rs"]
mod http;
#[path = "serve/limits.rs"]
mod limits;
#[path = "serve/load.rs"]
mod load;
#[path = "serve/openai.rs"]
mod openai;
#[path = "serve/tools.rs"]
mod tools;

use common::Folder;
use common::tiny::Tiny;
use http::{Answer, Client};
use serde_json::{Value as Json, json};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use warpweft::serve::http::{App, Config, bind, serve};
use warpweft::serve::{Engine, Limits};
use warpweft::session::{DeviceChoice, Options};

/// Waits, but not for ever.
fn eventually(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(30), "{what} has not come");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A context that nobody fills while a test runs, however fast the machine is.
const ENDLESS: usize = 1 << 15;

/// A tiny model's file.
fn tiny_file(context: usize) -> (Folder, PathBuf) {
    let folder = Folder::new("serve");
    let path = folder.file("tiny.gguf", Tiny { context, ..Tiny::default() }.gguf().bytes());
    (folder, path)
}

fn cpu() -> Options {
    Options { device: DeviceChoice::Cpu, ..Options::default() }
}

/// A server on a port of its own, which ends with it.
struct Server {
    at: SocketAddr,
    engine: Engine,
    end: watch::Sender<u32>,
    thread: Option<JoinHandle<()>>,
    _folder: Folder,
}

impl Server {
    /// A tiny model called `tiny`.
    fn new() -> Server {
        Server::with(512, Limits::default(), Config::default())
    }

    fn with(context: usize, limits: Limits, config: Config) -> Server {
        let (folder, path) = tiny_file(context);
        let engine = Engine::open(path, &Options { context: Some(context), ..cpu() }, limits);
        pollster::block_on(engine.ready()).unwrap();
        Server::of(folder, engine, config)
    }

    fn of(folder: Folder, engine: Engine, config: Config) -> Server {
        let (end, ended) = watch::channel(0);
        let (tell, told) = std::sync::mpsc::channel();
        let app = Arc::new(App::new(vec![("tiny".into(), engine.clone())], config));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = bind("127.0.0.1", 0).await.unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                let mut times = 0;
                let next = || {
                    times += 1;
                    until(ended.clone(), times)
                };
                serve(app, listener, next).await.unwrap();
            });
            runtime.shutdown_timeout(Duration::from_millis(100));
        });
        Server { at: told.recv().unwrap(), engine, end, thread: Some(thread), _folder: folder }
    }

    fn client(&self) -> Client {
        Client::new(self.at)
    }
    fn get(&self, path: &str) -> Answer {
        self.client().get(path)
    }
    fn post(&self, path: &str, body: Json) -> Answer {
        self.client().post(path, &body.to_string())
    }
    /// A chat of one message; what is given is added.
    fn chat(&self, text: &str, more: Json) -> Answer {
        self.post(
            "/v1/chat/completions",
            with(json!({ "model": "tiny", "messages": [{ "role": "user", "content": text }] }), more),
        )
    }
    fn complete(&self, text: &str, more: Json) -> Answer {
        self.post("/v1/completions", with(json!({ "model": "tiny", "prompt": text }), more))
    }
    /// Tells the server to end, as Ctrl-C does.
    fn end(&self) {
        self.end.send_modify(|n| *n += 1);
    }
    fn joined(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
        self.end();
        self.joined();
    }
}

/// Ready once `ended` has come to `n`.
async fn until(mut ended: watch::Receiver<u32>, n: u32) {
    let _ = ended.wait_for(|m| *m >= n).await.is_ok();
}

fn with(mut base: Json, more: Json) -> Json {
    for (key, value) in more.as_object().unwrap() {
        base[key] = value.clone();
    }
    base
}

/// Greedy and short.
fn greedy(max_tokens: usize) -> Json {
    json!({ "temperature": 0, "max_tokens": max_tokens })
}

/// The same, of a model that never ends its turn by itself: with `ENDLESS` tokens, not before somebody cancels it.
fn long(max_tokens: usize) -> Json {
    with(greedy(max_tokens), json!({ "logit_bias": { "0": -100 } }))
}

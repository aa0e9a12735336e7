//! The HTTP server: the interfaces of OpenAI, Anthropic and Ollama over engine threads, as far as they are stateless.

mod anthropic;
mod ask;
mod body;
mod choosing;
mod error;
mod fields;
mod guard;
mod listen;
mod misc;
mod ollama;
mod openai;
mod page;
mod quiet;
mod splitter;
mod talk;
mod tools;

pub use listen::{bind, serve};

use super::Engine;
use crate::base::Result;
use crate::text::Grammars;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use axum::routing::{get, post};
use quiet::Quiet;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// How a server guards itself. [`Config::default`] is right for a machine of one's own.
#[derive(Debug, Clone)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct Config {
    /// Names by which clients may call this server, beside `localhost` and plain addresses: a name that somebody else made
    /// point here is refused.
    pub hosts: Vec<String>,
    /// Pages of other sites that may ask: `https://example.org`. Without it, none.
    pub origins: Vec<String>,
    /// What clients must show as a bearer token or `x-api-key`.
    pub api_key: Option<String>,
    /// Bytes of a request's body.
    pub max_body: usize,
    /// Connections at a time: more are closed at once.
    pub max_connections: usize,
    /// Within what time a request's head and its body must have come, and a reader must have taken what it is sent.
    pub io_timeout: Duration,
    /// Within what time a request must have been answered.
    pub request_timeout: Option<Duration>,
    /// How long running answers may go on once the server is told to end.
    pub grace: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            hosts: vec![],
            origins: vec![],
            api_key: None,
            max_body: 8 << 20,
            max_connections: 512,
            io_timeout: Duration::from_secs(30),
            request_timeout: Some(Duration::from_secs(600)),
            grace: Duration::from_secs(10),
        }
    }
}

impl Config {
    /// Sets [`Config::request_timeout`].
    #[must_use]
    pub fn request_timeout(self, request_timeout: Option<Duration>) -> Config {
        Config { request_timeout, ..self }
    }
    /// Sets [`Config::hosts`].
    #[must_use]
    pub fn hosts(self, hosts: Vec<String>) -> Config {
        Config { hosts, ..self }
    }
    /// Sets [`Config::origins`].
    #[must_use]
    pub fn origins(self, origins: Vec<String>) -> Config {
        Config { origins, ..self }
    }
    /// Sets [`Config::api_key`].
    #[must_use]
    pub fn api_key(self, api_key: impl Into<String>) -> Config {
        Config { api_key: Some(api_key.into()), ..self }
    }
    /// Sets [`Config::max_body`].
    #[must_use]
    pub fn max_body(self, max_body: usize) -> Config {
        Config { max_body, ..self }
    }
    /// Sets [`Config::max_connections`].
    #[must_use]
    pub fn max_connections(self, max_connections: usize) -> Config {
        Config { max_connections, ..self }
    }
    /// Sets [`Config::io_timeout`].
    #[must_use]
    pub fn io_timeout(self, io_timeout: Duration) -> Config {
        Config { io_timeout, ..self }
    }
    /// Sets [`Config::grace`].
    #[must_use]
    pub fn grace(self, grace: Duration) -> Config {
        Config { grace, ..self }
    }
}

/// A model that is served.
pub struct Slot {
    /// The name by which clients ask for it.
    pub name: String,
    /// The engine that answers.
    pub engine: Engine,
    created: u64,
    /// What compiles grammars for its vocabulary; made when the first is asked for.
    grammars: OnceLock<Result<Grammars>>,
}

/// What requests share.
pub struct App {
    slots: Vec<Arc<Slot>>,
    config: Config,
    /// The server has been told to end.
    closing: AtomicBool,
    connections: AtomicU64,
    log: Quiet,
}

impl App {
    /// Models by the names under which clients ask for them.
    pub fn new(models: Vec<(String, Engine)>, config: Config) -> App {
        let created = ask::now();
        let slot = |(name, engine)| Arc::new(Slot { name, engine, created, grammars: OnceLock::new() });
        App {
            slots: models.into_iter().map(slot).collect(),
            config,
            closing: AtomicBool::new(false),
            connections: AtomicU64::new(0),
            log: Quiet::default(),
        }
    }
}

type Shared = axum::extract::State<Arc<App>>;

fn router(app: Arc<App>) -> Router {
    let openai = Router::new()
        .route("/v1/models", get(openai::models))
        .route("/v1/models/{name}", get(openai::model))
        .route("/v1/chat/completions", post(openai::chat))
        .route("/v1/completions", post(openai::completions))
        .route("/v1/embeddings", post(openai::embeddings))
        .route("/v1/responses", post(openai::responses));
    let others = Router::new()
        .route("/v1/messages", post(anthropic::messages))
        .route("/api/version", get(ollama::version))
        .route("/api/tags", get(ollama::tags))
        .route("/api/ps", get(ollama::ps))
        .route("/api/show", post(ollama::show))
        .route("/api/chat", post(ollama::chat))
        .route("/api/generate", post(ollama::generate))
        .route("/api/embed", post(ollama::embed))
        .route("/api/embeddings", post(ollama::embedding));
    let own = Router::new()
        .route("/", get(page::file))
        .route("/page.css", get(page::file))
        .route("/page.js", get(page::file))
        .route("/health", get(misc::health))
        .route("/metrics", get(misc::metrics))
        .route("/tokenize", post(misc::tokenize))
        .route("/detokenize", post(misc::detokenize));
    openai
        .merge(others)
        .merge(own)
        .fallback(misc::not_found)
        .method_not_allowed_fallback(misc::wrong_method)
        // Bodies are read by `body`, which says how large they may be.
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(app.clone(), guard::check))
        .with_state(app)
}

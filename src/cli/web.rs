//! `web`: serves the demo page and the package to a browser on this machine.

use super::{Cache, style};
use crate::base::{Error, Result};
use crate::model::catalogue::{self, Entry};
use crate::model::source::{Fetcher, Progress};
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use tower::ServiceExt;
use tower_http::services::{ServeDir, ServeFile};

#[derive(Args)]
pub struct Web {
    /// The port on 127.0.0.1; 0 takes a free one
    #[arg(long, default_value_t = 8080, value_name = "N")]
    port: u16,
    /// The browser package that scripts/wasm.sh builds
    #[arg(long, default_value = "target/web/package", value_name = "DIR")]
    package: PathBuf,
    #[command(flatten)]
    cache: Cache,
}

/// The page's files, in the binary.
const PAGE: &[(&str, &str, &str)] = &[
    ("/", "text/html", include_str!("../../examples/web/index.html")),
    ("/page.css", "text/css", include_str!("../../examples/web/page.css")),
    ("/page.js", "text/javascript", include_str!("../../examples/web/page.js")),
    ("/chat.js", "text/javascript", include_str!("../../examples/web/chat.js")),
    ("/bench.js", "text/javascript", include_str!("../../examples/web/bench.js")),
    ("/mesh.js", "text/javascript", include_str!("../../examples/web/mesh.js")),
];

/// What every answer says: isolation gives the page threads and shared memory; nothing but its own scripts runs in it.
const HEADERS: &[(&str, &str)] = &[
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-embedder-policy", "require-corp"),
    ("cross-origin-resource-policy", "same-origin"),
    ("x-content-type-options", "nosniff"),
    ("cache-control", "no-cache"),
    (
        "content-security-policy",
        "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; connect-src 'self' https: http:; img-src 'self' data:; object-src 'none'; base-uri 'none'; frame-ancestors 'none'",
    ),
];

/// What requests share.
struct Shared {
    fetcher: Fetcher,
    /// The entry that is being fetched, and how far it is: one at a time.
    fetching: Mutex<Option<(String, Progress)>>,
    turn: tokio::sync::Mutex<()>,
}

impl Web {
    pub fn run(&self) -> Result<()> {
        if !self.package.join("warpweft.wasm").is_file() {
            return Err(Error::file(
                &self.package,
                "holds no browser package: build it with scripts/wasm.sh, or give its folder with --package",
            ));
        }
        let fetcher = Fetcher::new(self.cache.folder()?);
        let shared = Arc::new(Shared { fetcher, fetching: Mutex::default(), turn: tokio::sync::Mutex::default() });
        let failed = |e: std::io::Error| {
            Error::usage(format!("127.0.0.1:{} cannot be served: {e}; choose another port with --port", self.port))
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(failed)?;
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind(("127.0.0.1", self.port)).await.map_err(failed)?;
            let port = listener.local_addr().map_err(failed)?.port();
            style::out(&format!("http://127.0.0.1:{port}/\n"));
            style::note("serving until Ctrl-C");
            axum::serve(listener, router(shared, &self.package)).await.map_err(failed)
        })
    }
}

fn router(shared: Arc<Shared>, package: &std::path::Path) -> Router {
    let mut router = Router::new();
    for (path, kind, text) in PAGE {
        let kind = format!("{kind}; charset=utf-8");
        router = router.route(path, get(move || async move { ([(header::CONTENT_TYPE, kind)], *text) }));
    }
    router
        .route("/models", get(list))
        .route("/models/{name}/{*file}", get(file))
        .nest_service("/warpweft", ServeDir::new(package))
        .with_state(shared)
        .layer(middleware::map_response(with_headers))
        .layer(middleware::from_fn(only_local))
}

async fn with_headers(mut response: Response) -> Response {
    for (name, value) in HEADERS {
        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

/// Another site's name that was made to point here gets nothing.
async fn only_local(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    match name {
        "127.0.0.1" | "localhost" => next.run(request).await,
        _ => (StatusCode::FORBIDDEN, "this server answers to 127.0.0.1 and localhost only\n").into_response(),
    }
}

async fn list(State(shared): State<Arc<Shared>>) -> Json<serde_json::Value> {
    let fetching = shared.fetching.lock().unwrap_or_else(|e| e.into_inner()).clone();
    let entry = |e: &Entry| {
        let url = match e.main_file() {
            Some(file) => format!("models/{}/{file}", e.name),
            None => format!("models/{}/", e.name),
        };
        let progress = fetching
            .as_ref()
            .filter(|f| f.0 == e.name)
            .map(|f| json!({ "stage": f.1.stage, "done": f.1.done, "of": f.1.of }));
        json!({
            "name": e.name, "title": e.title, "licence": e.licence, "about": e.about, "bytes": e.bytes(), "url": url,
            "cached": shared.fetcher.is_cached(e), "fetching": progress,
        })
    };
    Json(catalogue::entries().iter().map(entry).collect())
}

/// A file of a catalogue entry; the entry is fetched first where it is not cached.
async fn file(
    State(shared): State<Arc<Shared>>,
    Path((name, file)): Path<(String, String)>,
    headers: HeaderMap,
    request: Request,
) -> Response {
    let Ok(entry) = catalogue::find(&name) else {
        return (StatusCode::NOT_FOUND, format!("there is no model {name}\n")).into_response();
    };
    // Only names that the catalogue has: nothing else below the cache folder can be asked for.
    let Some(known) = entry.files.iter().find(|f| f.name == file) else {
        return (StatusCode::NOT_FOUND, format!("{name} has no file {file}\n")).into_response();
    };
    if let Err(e) = fetch(&shared, &entry).await {
        return (StatusCode::BAD_GATEWAY, format!("{e}\n")).into_response();
    }
    let path = shared.fetcher.cache.join("models").join(&entry.name).join(&known.name);
    let mut inner = axum::http::Request::builder().method(request.method()).uri(request.uri());
    for (key, value) in &headers {
        inner = inner.header(key, value);
    }
    let Ok(inner) = inner.body(Body::empty()) else { return StatusCode::BAD_REQUEST.into_response() };
    match ServeFile::new(path).oneshot(inner).await {
        Ok(mut response) => {
            // What the catalogue promises names the version, too.
            if let Ok(tag) = HeaderValue::from_str(&format!("\"{}\"", known.sha256)) {
                response.headers_mut().insert(header::ETAG, tag);
            }
            response.into_response()
        }
        Err(never) => match never {},
    }
}

async fn fetch(shared: &Arc<Shared>, entry: &Entry) -> Result<()> {
    let _turn = shared.turn.lock().await;
    if shared.fetcher.is_cached(entry) {
        return Ok(());
    }
    let (shared, entry) = (shared.clone(), entry.clone());
    let done = tokio::task::spawn_blocking(move || {
        let set = |p| *shared.fetching.lock().unwrap_or_else(|e| e.into_inner()) = p;
        let fetched =
            shared.fetcher.fetch(&entry, &mut |p| set(Some((entry.name.clone(), p))), &AtomicBool::new(false));
        set(None);
        fetched.map(|_| ())
    });
    done.await.unwrap_or_else(|e| Err(Error::usage(format!("fetching failed: {e}"))))
}

//! Who may ask: by Host, by Origin, by token.

use super::App;
use super::error::{Dialect, Refusal};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What may be read without a token: whether the server is there, and the page that asks for one.
const OPEN: &[&str] = &["/health", "/", "/page.css", "/page.js", "/api/version"];

pub async fn check(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let dialect = dialect(request.uri().path());
    let headers = request.headers();
    let origin = match allowed(&app, headers) {
        Ok(origin) => origin,
        Err(refusal) => {
            app.log.warn("refused", &refusal.message);
            return refusal.response(dialect);
        }
    };
    let mut response = if request.method() == Method::OPTIONS && origin.is_some() {
        preflight()
    } else if !OPEN.contains(&request.uri().path()) && !has_key(&app, headers) {
        let refusal = Refusal::new(StatusCode::UNAUTHORIZED, "the API key is missing or wrong").code("invalid_api_key");
        app.log.warn("unauthorised", "a request without the API key");
        refusal.response(dialect)
    } else if app.closing.load(Ordering::Relaxed) && request.method() != Method::GET {
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the server is shutting down").response(dialect)
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::VARY, HeaderValue::from_static("origin"));
    }
    response
}

/// The form of errors that clients of a path expect.
pub fn dialect(path: &str) -> Dialect {
    if path.starts_with("/v1/messages") {
        Dialect::Anthropic
    } else if path.starts_with("/api/") {
        Dialect::Ollama
    } else {
        Dialect::OpenAi
    }
}

/// The page's origin, where another site's page asks and may.
fn allowed(app: &App, headers: &HeaderMap) -> Result<Option<HeaderValue>, Refusal> {
    let forbidden = |message: String| Err(Refusal::new(StatusCode::FORBIDDEN, message));
    let text = |name: header::HeaderName| headers.get(name).map(|v| v.to_str().unwrap_or_default());
    let host = text(header::HOST).unwrap_or_default();
    if !is_known_host(host, &app.config.hosts) {
        let shown: String = host.chars().filter(|c| !c.is_control()).take(80).collect();
        return forbidden(format!("this server does not answer to the name {shown:?} (--allow-host)"));
    }
    let Some(origin) = text(header::ORIGIN) else { return Ok(None) };
    if origin.split_once("://").is_some_and(|(scheme, rest)| matches!(scheme, "http" | "https") && rest == host) {
        return Ok(None);
    }
    match app.config.origins.iter().any(|o| o == origin || o == "*") {
        true => Ok(headers.get(header::ORIGIN).cloned()),
        false => {
            let shown: String = origin.chars().filter(|c| !c.is_control()).take(80).collect();
            forbidden(format!("pages of {shown:?} may not ask this server (--allow-origin)"))
        }
    }
}

/// A plain address cannot have been made to point here by somebody else; a name can.
fn is_known_host(host: &str, more: &[String]) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok()
        || more.iter().any(|h| h.eq_ignore_ascii_case(name))
}

fn has_key(app: &App, headers: &HeaderMap) -> bool {
    let Some(key) = &app.config.api_key else { return true };
    let bearer = headers.get(header::AUTHORIZATION).and_then(|v| v.as_bytes().strip_prefix(b"Bearer "));
    let given = bearer.or_else(|| headers.get("x-api-key").map(HeaderValue::as_bytes));
    given.is_some_and(|given| same(given, key.as_bytes()))
}

/// Compares in a time that does not tell where they differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |d, (x, y)| d | (x ^ y)) == 0
}

fn preflight() -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
    let names = "authorization, content-type, x-api-key, anthropic-version";
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(names));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_others_can_make_point_here_are_not_known() {
        for host in ["localhost", "LocalHost:8080", "127.0.0.1:1", "[::1]:8080", "192.168.0.7", "own.example:80"] {
            assert!(is_known_host(host, &["own.example".into()]), "{host}");
        }
        for host in ["", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "[evil]:1"] {
            assert!(!is_known_host(host, &["own.example".into()]), "{host}");
        }
    }

    #[test]
    fn keys_are_compared_whole() {
        assert!(same(b"abc", b"abc") && !same(b"abc", b"abd") && !same(b"abc", b"ab") && !same(b"", b"a"));
    }
}

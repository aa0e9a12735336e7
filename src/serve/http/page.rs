//! The page at `/`: a chat over this server's own interface, and what it is doing.

use axum::http::{HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};

const FILES: &[(&str, &str, &str)] = &[
    ("/", "text/html; charset=utf-8", include_str!("page/index.html")),
    ("/page.css", "text/css; charset=utf-8", include_str!("page/page.css")),
    ("/page.js", "text/javascript; charset=utf-8", include_str!("page/page.js")),
];

/// Nothing but its own files runs in it.
const POLICY: &str =
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; frame-ancestors 'none'";

pub async fn file(uri: Uri) -> Response {
    let Some((_, kind, text)) = FILES.iter().find(|f| f.0 == uri.path()) else {
        return super::misc::not_found(uri).await;
    };
    let mut response = ([(header::CONTENT_TYPE, *kind)], *text).into_response();
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

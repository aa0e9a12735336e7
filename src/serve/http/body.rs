//! Bodies of requests, within bounds of size and time.

use super::App;
use super::error::{Answered, Refusal};
use super::fields::Fields;
use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::{StatusCode, header};
use std::future::poll_fn;
use std::pin::Pin;

/// Of a body that is too large this much is read and forgotten, so that the client hears why it was refused.
const MOST_FORGOTTEN: usize = 256 << 20;

/// Reads a JSON object.
///
/// # Errors
/// 413, 408, and 400 for what is no object. Nothing beyond the limit is kept.
pub async fn fields(app: &App, request: Request) -> Answered<Fields> {
    let most = app.config.max_body;
    let slow = || Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time");
    let read = tokio::time::timeout(app.config.io_timeout, bytes(request, most));
    let bytes = read.await.map_err(|_| slow())?.inspect_err(|e| {
        if e.status == StatusCode::PAYLOAD_TOO_LARGE {
            app.log.warn("too large", &e.message);
        }
    })?;
    Fields::parse(&bytes)
}

async fn bytes(request: Request, most: usize) -> Answered<Vec<u8>> {
    let claimed = request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    let mut body: Body = request.into_body();
    let (mut out, mut forgotten) = (vec![], 0);
    let mut large = claimed.is_some_and(|n| n > most);
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|e| Refusal::bad(format!("the body ended early: {e}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if large || out.len() + data.len() > most {
            large = true;
            out = vec![];
            forgotten += data.len();
            if forgotten > MOST_FORGOTTEN {
                break;
            }
        } else {
            out.extend_from_slice(&data);
        }
    }
    match large {
        true => {
            let message = format!("the body is larger than {most} bytes");
            Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message).code("request_too_large"))
        }
        false => Ok(out),
    }
}

//! What a client is told when something cannot be, in the form that it expects.

use crate::base::{DeviceFault, Error, plain};
use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// Whose form of errors a client expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    OpenAi,
    Anthropic,
    Ollama,
}

/// The most letters of a message.
const MOST_MESSAGE: usize = 1200;

/// A refusal or a fault, with its status.
#[derive(Debug, Clone)]
pub struct Refusal {
    pub status: StatusCode,
    pub message: String,
    /// The field that is to blame.
    pub param: Option<String>,
    pub code: Option<&'static str>,
}

pub type Answered<T, E = Refusal> = std::result::Result<T, E>;

impl Refusal {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Refusal {
        // A message may quote what a client wrote.
        Refusal { status, message: plain(&message.into(), MOST_MESSAGE), param: None, code: None }
    }
    pub fn bad(message: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, message)
    }
    /// A field whose value cannot be.
    pub fn field(name: &str, message: impl Into<String>) -> Refusal {
        let message = format!("{name} {}", message.into());
        Refusal { param: Some(name.to_string()), code: Some("invalid_value"), ..Refusal::bad(message) }
    }
    pub fn code(self, code: &'static str) -> Refusal {
        Refusal { code: Some(code), ..self }
    }

    fn kind(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            503 => "overloaded_error",
            400..=499 => "invalid_request_error",
            _ => "api_error",
        }
    }

    pub fn body(&self, dialect: Dialect) -> Value {
        match dialect {
            Dialect::OpenAi => {
                json!({ "error": { "message": self.message, "type": self.kind(), "param": self.param, "code": self.code } })
            }
            Dialect::Anthropic => {
                json!({ "type": "error", "error": { "type": self.kind(), "message": self.message } })
            }
            Dialect::Ollama => json!({ "error": self.message }),
        }
    }

    pub fn response(&self, dialect: Dialect) -> Response {
        let mut response = (self.status, Json(self.body(dialect))).into_response();
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<Error> for Refusal {
    fn from(e: Error) -> Refusal {
        let status = match &e {
            Error::Busy { .. } => StatusCode::TOO_MANY_REQUESTS,
            Error::Closed(_) | Error::Cancelled => StatusCode::SERVICE_UNAVAILABLE,
            Error::Device { fault: DeviceFault::Lost | DeviceFault::OutOfMemory, .. } => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Error::Deadline => StatusCode::REQUEST_TIMEOUT,
            Error::Usage(_) | Error::Model { .. } => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Refusal::new(status, e.to_string())
    }
}

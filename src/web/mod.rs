//! The browser binding: what the package's JavaScript (beside this file) calls inside of its Worker. The one room that
//! names wasm-bindgen.
//!
//! Everything that crosses is a number, a text, bytes, or JSON; `worker.js` puts it into the shape that `api.js` promises.

mod bench;
mod graph;
mod model;
mod team;

use crate::base::{DeviceFault, Error};
use crate::session::{Cancel, DeviceChoice, Notice};
use serde_json::json;
use std::future::Future;
use std::pin::Pin;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

/// A word for programs to tell errors apart by.
fn code(e: &Error) -> &'static str {
    match e {
        Error::Op { .. } => "op",
        Error::File { .. } => "file",
        Error::Model { .. } => "model",
        Error::Device { fault, .. } => match fault {
            DeviceFault::Unavailable => "device-unavailable",
            DeviceFault::OutOfMemory => "out-of-memory",
            DeviceFault::Lost => "device-lost",
            DeviceFault::Validation => "device-validation",
            DeviceFault::Pipeline => "device-pipeline",
            DeviceFault::Limit => "device-limit",
        },
        Error::Usage(_) => "usage",
        Error::NotFinite { .. } => "not-finite",
        Error::Cancelled => "cancelled",
        Error::Busy { .. } | Error::Deadline | Error::Closed(_) => "closed",
    }
}

/// An `Error` with a `code`.
impl From<Error> for JsValue {
    fn from(e: Error) -> JsValue {
        let error = js_sys::Error::new(&e.to_string());
        // Setting a property of a fresh object does not fail.
        let _ = js_sys::Reflect::set(&error, &"code".into(), &code(&e).into());
        error.into()
    }
}

/// What to tell of, as JSON.
fn tell(notice: Notice, to: &js_sys::Function) {
    let text = match notice {
        Notice::Say(text) => json!({ "notice": text }),
        Notice::Compiling { done, of } => json!({ "stage": "compile", "loaded": done, "total": of }),
    };
    // A listener that throws is no reason to stop.
    let _ = to.call1(&JsValue::NULL, &text.to_string().into());
}

/// `auto`, `webgpu` or `cpu`.
fn choice(device: &str) -> Result<DeviceChoice, Error> {
    match device {
        "auto" => Ok(DeviceChoice::Auto),
        "webgpu" => Ok(DeviceChoice::Index(0)),
        "cpu" => Ok(DeviceChoice::Cpu),
        other => Err(Error::usage(format!("the device is \"{other}\": it can be auto, webgpu or cpu"))),
    }
}

#[wasm_bindgen]
extern "C" {
    /// A promise that `worker.js` keeps once other events have had their turn.
    #[wasm_bindgen(js_name = warpweftBreathe)]
    fn next_turn() -> js_sys::Promise;
}

fn breathe() -> Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(async {
        let _ = JsFuture::from(next_turn()).await;
    })
}

/// A flag that stops what runs.
#[wasm_bindgen]
#[derive(Default, Clone)]
pub struct Flag(Cancel);

#[wasm_bindgen]
impl Flag {
    #[wasm_bindgen(constructor)]
    pub fn new() -> Flag {
        Flag::default()
    }
    /// Another handle on the same flag: calls that wait take one of their own.
    pub fn share(&self) -> Flag {
        self.clone()
    }
    pub fn set(&self, on: bool) {
        if on { self.0.cancel() } else { self.0.reset() }
    }
}

/// Shows panics, which are bugs, with their place before the trap ends this instance.
#[wasm_bindgen(start)]
fn start() {
    std::panic::set_hook(Box::new(|info| report(&info.to_string())));
}

#[wasm_bindgen]
extern "C" {
    /// Keeps the text for the error that `worker.js` makes of the trap.
    #[wasm_bindgen(js_name = warpweftPanic)]
    fn report(what: &str);
}

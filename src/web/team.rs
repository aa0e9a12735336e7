//! A team of Workers (team.js) for the CPU: the leader's way to them, and what each of them runs.

use crate::base::{DeviceFault, Error, Result};
use crate::session::{self, MOST_MADE, MOST_SHARED, WORDS};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

/// What worker.js offers under this name: see `Team` in team.js.
#[wasm_bindgen]
extern "C" {
    /// A promise of the number of threads, the caller's among them.
    #[wasm_bindgen(js_namespace = warpweftTeam, js_name = gather)]
    fn gather_js(shared: u32, made: u32) -> js_sys::Promise;
    /// Whether the number of threads was asked for.
    #[wasm_bindgen(js_namespace = warpweftTeam, js_name = isAsked)]
    fn is_asked() -> bool;
    /// Sends all members away.
    #[wasm_bindgen(js_namespace = warpweftTeam)]
    fn disband();
    #[wasm_bindgen(js_namespace = warpweftTeam, js_name = share, catch)]
    fn share_js(bytes: &[u8]) -> Result<(), JsValue>;
    #[wasm_bindgen(js_namespace = warpweftTeam, js_name = order, catch)]
    fn order_js(member: u32, words: &[u32]) -> Result<(), JsValue>;
    #[wasm_bindgen(js_namespace = warpweftTeam, js_name = done, catch)]
    fn done_js(member: u32, made: &mut [f32]) -> Result<(), JsValue>;
}

/// The one team of this Worker.
#[derive(Debug)]
struct Workers {
    threads: usize,
}

impl session::Team for Workers {
    fn threads(&self) -> usize {
        self.threads
    }
    fn share(&self, bytes: &[u8]) -> Result<()> {
        share_js(bytes).map_err(told)
    }
    fn order(&self, member: usize, words: [u32; WORDS]) -> Result<()> {
        order_js(member as u32, &words).map_err(told)
    }
    fn done(&self, member: usize, made: &mut [f32]) -> Result<()> {
        done_js(member as u32, made).map_err(told)
    }
}

/// What team.js has thrown.
fn told(e: JsValue) -> Error {
    let text = |key: &str| js_sys::Reflect::get(&e, &key.into()).ok().and_then(|v| v.as_string());
    let fault = match text("code").as_deref() {
        Some("out-of-memory") => DeviceFault::OutOfMemory,
        _ => DeviceFault::Lost,
    };
    Error::device(fault, "the CPU fallback", text("message").unwrap_or_else(|| "a thread stopped".into()))
}

/// Starts as many Workers as the page allows and was asked for; nobody where that is one thread, or where it was left to the
/// engine and a trial shows that they do not help.
pub fn gather() -> Pin<Box<dyn Future<Output = Option<Arc<dyn session::Team>>>>> {
    Box::pin(async {
        let threads =
            JsFuture::from(gather_js(MOST_SHARED as u32 * 4, MOST_MADE as u32 * 4)).await.ok()?.as_f64()? as usize;
        if threads < 2 {
            return None;
        }
        let team: Arc<dyn session::Team> = Arc::new(Workers { threads });
        if is_asked() || session::pays(&team).unwrap_or(false) {
            return Some(team);
        }
        disband();
        None
    })
}

/// What a Worker of the team does.
#[wasm_bindgen]
#[derive(Default)]
pub struct Member {
    inner: session::Member,
    made: Vec<f32>,
}

#[wasm_bindgen]
impl Member {
    #[wasm_bindgen(constructor)]
    pub fn new() -> Member {
        Member::default()
    }

    /// Does an order on what the leader has shared, and puts what comes of it into `room`.
    pub fn obey(&mut self, words: &[u32], shared: &[u8], room: &js_sys::Float32Array) -> Result<(), JsValue> {
        self.inner.obey(words, shared, &mut self.made)?;
        room.subarray(0, self.made.len() as u32).copy_from(&self.made);
        Ok(())
    }
}

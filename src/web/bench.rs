//! What an adapter can do at best, for the bench page to hold figures against.

use super::choice;
use crate::base::Error;
use crate::device;
use crate::session::pick;
use serde_json::json;
use wasm_bindgen::prelude::*;

/// FMA rate, bandwidth, cost of a submission and of a dispatch, as JSON.
#[wasm_bindgen]
pub async fn probe(which: String) -> Result<String, JsValue> {
    let gpu =
        pick(&choice(&which)?).await?.gpu.ok_or_else(|| Error::usage("the CPU fallback has no adapter to measure"))?;
    let p = device::probe(&gpu).await?;
    let adapter = format!("{} ({})", gpu.report.name, gpu.report.backend);
    Ok(json!({ "adapter": adapter, "flops": p.flops, "bandwidth": p.bandwidth, "submit": p.submit, "dispatch": p.dispatch }).to_string())
}

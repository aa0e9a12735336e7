//! Traces read back from the format that they are written in.

use super::{Span, Trace};
use crate::base::{Error, Result};
use serde_json::Value;
use std::collections::HashMap;

/// Spans beyond this are refused: pages and comparisons hold all of them.
const MOST: usize = 1 << 20;

impl Trace {
    /// Reads the Trace Event Format, complete events only (`ph` X), tracks by their `thread_name`. `file` is for messages.
    ///
    /// # Errors
    /// Text that is no such JSON; an event without name, start or duration; no events at all.
    pub fn from_json(text: &str, file: &str) -> Result<Trace> {
        let bad = |what: String| Error::file(file, what);
        let json: Value = serde_json::from_str(text).map_err(|e| bad(format!("is not a trace, nor any JSON: {e}")))?;
        let events = json.get("traceEvents").unwrap_or(&json).as_array();
        let events =
            events.ok_or_else(|| bad("is not a trace: it lacks traceEvents, as `run --profile` writes them".into()))?;
        if events.len() > MOST {
            return Err(bad(format!("has {} events, at most {MOST} are read", events.len())));
        }
        let kind = |e: &Value| e.get("ph").and_then(Value::as_str).unwrap_or("").to_string();
        let place = |e: &Value| {
            (e.get("pid").and_then(Value::as_i64).unwrap_or(0), e.get("tid").and_then(Value::as_i64).unwrap_or(0))
        };
        let mut tracks: HashMap<(i64, i64), String> = HashMap::new();
        for e in events.iter().filter(|e| kind(e) == "M" && e["name"] == "thread_name") {
            tracks.insert(place(e), e["args"]["name"].as_str().unwrap_or("").to_string());
        }
        let mut spans = vec![];
        for (i, e) in events.iter().enumerate().filter(|(_, e)| kind(e) == "X") {
            let number = |key: &str| e.get(key).and_then(Value::as_f64).filter(|v| v.is_finite() && *v >= 0.0);
            let lacks = |what: &str| bad(format!("event {i} lacks {what}, from 0 on, in microseconds"));
            let word = |v: &Value| v.as_str().map_or_else(|| v.to_string(), String::from);
            spans.push(Span {
                name: e
                    .get("name")
                    .and_then(Value::as_str)
                    .ok_or_else(|| bad(format!("event {i} lacks a name")))?
                    .into(),
                track: tracks.get(&place(e)).cloned().unwrap_or_else(|| format!("{:?}", place(e))),
                start_us: number("ts").ok_or_else(|| lacks("ts"))?,
                duration_us: number("dur").ok_or_else(|| lacks("dur"))?,
                details: e
                    .get("args")
                    .and_then(Value::as_object)
                    .map_or(vec![], |a| a.iter().map(|(k, v)| (k.clone(), word(v))).collect()),
            });
        }
        if spans.is_empty() {
            return Err(bad("has no complete events (ph X): nothing was measured".into()));
        }
        Ok(Trace { spans })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let span = |name: &str, track: &str| Span {
            name: name.into(),
            track: track.into(),
            start_us: 1.5,
            duration_us: 2.0,
            details: vec![("FLOP".into(), "3".into())],
        };
        let trace = Trace { spans: vec![span("a", "gpu 0"), span("b", "link 0→1")] };
        assert_eq!(Trace::from_json(&trace.to_json(), "t.json").unwrap(), trace);
        for (text, said) in [
            ("{", "nor any JSON"),
            ("{}", "traceEvents"),
            ("[]", "no complete events"),
            (r#"[{"ph":"X","name":"a","ts":0,"dur":-1}]"#, "event 0 lacks dur"),
        ] {
            let e = Trace::from_json(text, "t.json").unwrap_err().to_string();
            assert!(e.starts_with("t.json") && e.contains(said), "{e}");
        }
    }
}

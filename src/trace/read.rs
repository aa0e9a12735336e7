//! Traces read back from the format that they are written in.

use super::{Span, Trace};
use crate::base::json::Few;
use crate::base::{Error, Result};
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

/// Spans beyond this are refused: pages and comparisons hold all of them.
const MOST: usize = 1 << 20;
/// Values of one event.
const MOST_VALUES: usize = 4096;

impl Trace {
    /// Reads the Trace Event Format, complete events only (`ph` X), tracks by their `thread_name`. `file` is for messages.
    ///
    /// # Errors
    /// Text that is no such JSON; an event without name, start or duration; no events at all.
    pub fn from_json(text: &str, file: &str) -> Result<Trace> {
        let bad = |what: String| Error::file(file, what);
        let mut read = Read::default();
        let mut json = serde_json::Deserializer::from_str(text);
        let whole = Top(&mut read).deserialize(&mut json).and_then(|()| json.end());
        if let Some(what) = read.wrong {
            return Err(bad(what));
        }
        whole.map_err(|e| bad(format!("is not a trace, nor any JSON: {e}")))?;
        if !read.found {
            return Err(bad("is not a trace: it lacks traceEvents, as `run --profile` writes them".into()));
        }
        if read.spans.is_empty() {
            return Err(bad("has no complete events (ph X): nothing was measured".into()));
        }
        let tracks = read.tracks;
        let named = |(place, mut span): (Place, Span)| {
            span.track = tracks.get(&place).cloned().unwrap_or_else(|| format!("{place:?}"));
            span
        };
        Ok(Trace { spans: read.spans.into_iter().map(named).collect() })
    }
}

/// Process and thread.
type Place = (i64, i64);

/// What has been read: events that nobody asks for are forgotten one by one.
#[derive(Default)]
struct Read {
    found: bool,
    events: usize,
    tracks: HashMap<Place, String>,
    spans: Vec<(Place, Span)>,
    /// Why reading ended.
    wrong: Option<String>,
}

impl Read {
    fn event(&mut self, e: &Value) -> Result<(), String> {
        let i = self.events;
        self.events += 1;
        let kind = e.get("ph").and_then(Value::as_str);
        let whole = |key: &str| e.get(key).and_then(Value::as_i64).unwrap_or(0);
        let place = (whole("pid"), whole("tid"));
        if kind == Some("M") && e["name"] == "thread_name" {
            self.tracks.insert(place, e["args"]["name"].as_str().unwrap_or("").to_string());
        }
        if kind != Some("X") {
            return Ok(());
        }
        let number = |key: &str| e.get(key).and_then(Value::as_f64).filter(|v| v.is_finite() && *v >= 0.0);
        let lacks = |what: &str| format!("event {i} lacks {what}, from 0 on, in microseconds");
        let word = |v: &Value| v.as_str().map_or_else(|| v.to_string(), String::from);
        let details = e.get("args").and_then(Value::as_object);
        let span = Span {
            name: e.get("name").and_then(Value::as_str).ok_or_else(|| format!("event {i} lacks a name"))?.into(),
            track: String::new(),
            start_us: number("ts").ok_or_else(|| lacks("ts"))?,
            duration_us: number("dur").ok_or_else(|| lacks("dur"))?,
            details: details.map_or(vec![], |a| a.iter().map(|(k, v)| (k.clone(), word(v))).collect()),
        };
        self.spans.push((place, span));
        match self.spans.len().max(self.tracks.len()) > MOST {
            true => Err(format!("has more than {MOST} events")),
            false => Ok(()),
        }
    }
}

/// The file: a list of events, or an object with one.
struct Top<'a>(&'a mut Read);

impl<'de> DeserializeSeed<'de> for Top<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Top<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list of events, or an object with traceEvents")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<(), A::Error> {
        Events(self.0).visit_seq(list)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Cow<str>>()? {
            match key == "traceEvents" {
                true => map.next_value_seed(Events(self.0))?,
                false => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

struct Events<'a>(&'a mut Read);

impl<'de> DeserializeSeed<'de> for Events<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Events<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list of events")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        self.0.found = true;
        while let Some(event) = list.next_element_seed(Few(&mut { MOST_VALUES }))? {
            if let Err(what) = self.0.event(&event) {
                self.0.wrong = Some(what.clone());
                return Err(A::Error::custom(what));
            }
        }
        Ok(())
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

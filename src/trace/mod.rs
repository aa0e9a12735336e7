//! Spans of time on tracks: as Chrome and Perfetto read them, and as a picture.

mod read;
mod svg;

use serde_json::json;

/// Something that took time.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// What it was.
    pub name: String,
    /// A device, a link: one line of the picture.
    pub track: String,
    /// When it began, in microseconds.
    pub start_us: f64,
    /// How long it took, in microseconds.
    pub duration_us: f64,
    /// What a reader sees on a click.
    pub details: Vec<(String, String)>,
}

/// What happened when.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Trace {
    /// In any order.
    pub spans: Vec<Span>,
}

impl Trace {
    /// The Trace Event Format: complete events, one thread a track.
    pub fn to_json(&self) -> String {
        let mut tracks: Vec<&str> = vec![];
        for s in &self.spans {
            if !tracks.contains(&s.track.as_str()) {
                tracks.push(&s.track);
            }
        }
        let of = |track: &str| tracks.iter().position(|t| *t == track).unwrap_or(0);
        let names = tracks
            .iter()
            .enumerate()
            .map(|(i, t)| json!({ "ph": "M", "name": "thread_name", "pid": 0, "tid": i, "args": { "name": t } }));
        let spans = self.spans.iter().map(|s| {
            let details: serde_json::Map<_, _> = s.details.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
            json!({ "ph": "X", "name": s.name, "pid": 0, "tid": of(&s.track), "ts": s.start_us, "dur": s.duration_us, "args": details })
        });
        json!({ "displayTimeUnit": "ns", "traceEvents": names.chain(spans).collect::<Vec<_>>() }).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_name_their_track() {
        let span = |name: &str, track: &str| Span {
            name: name.into(),
            track: track.into(),
            start_us: 1.0,
            duration_us: 2.0,
            details: vec![],
        };
        let text = Trace { spans: vec![span("a", "gpu 0"), span("b", "link")] }.to_json();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["traceEvents"].as_array().unwrap().len(), 4);
        assert_eq!(json["traceEvents"][3]["tid"], 1);
        assert_eq!(json["traceEvents"][1]["args"]["name"], "link");
    }
}

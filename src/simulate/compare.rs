//! A measured trace beside a predicted one, op by op.

use crate::base::units::Seconds;
use crate::trace::{Span, Trace};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;

/// One op: all of its spans, and all layers' that are alike.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Line {
    pub name: String,
    /// Spans, and their seconds.
    pub measured: (usize, f64),
    pub predicted: (usize, f64),
}

/// What was compared.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// The longest measured first; ops of one side only have no spans on the other.
    pub lines: Vec<Line>,
    /// From the first start to the last end.
    pub measured: f64,
    pub predicted: f64,
}

/// The op of a span, whichever kernel ran it and whichever layer it is of; waits and messages by what they are for.
fn op(span: &Span) -> String {
    let kernel = span.details.iter().find(|d| d.0 == "kernel").map(|d| d.1.as_str());
    let name = kernel.and_then(|k| span.name.strip_prefix(k)).map_or(span.name.as_str(), str::trim_start);
    let place = match span.track.split_once(' ') {
        Some(("link", _)) => "link: ",
        _ => "",
    };
    let parts: Vec<&str> =
        name.split('.').map(|p| if !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()) { "*" } else { p }).collect();
    // Numbered passes of a pipeline (`forward 12`) are one op, too.
    let joined = parts.join(".");
    match joined.rsplit_once(' ') {
        Some((head, tail)) if tail.bytes().all(|b| b.is_ascii_digit()) => format!("{place}{head}"),
        _ => format!("{place}{joined}"),
    }
}

fn extent(trace: &Trace) -> f64 {
    let start = trace.spans.iter().map(|s| s.start_us).fold(f64::INFINITY, f64::min);
    let end = trace.spans.iter().map(|s| s.start_us + s.duration_us).fold(0.0, f64::max);
    if end > start { (end - start) * 1e-6 } else { 0.0 }
}

/// Lays one beside the other.
pub fn compare(predicted: &Trace, measured: &Trace) -> Comparison {
    let mut lines: BTreeMap<String, Line> = BTreeMap::new();
    for (trace, is_measured) in [(measured, true), (predicted, false)] {
        for span in &trace.spans {
            let name = op(span);
            let line = lines.entry(name.clone()).or_insert_with(|| Line { name, ..Line::default() });
            let side = if is_measured { &mut line.measured } else { &mut line.predicted };
            *side = (side.0 + 1, side.1 + span.duration_us * 1e-6);
        }
    }
    let mut lines: Vec<Line> = lines.into_values().collect();
    let weight = |l: &Line| l.measured.1.max(if l.measured.0 == 0 { l.predicted.1 * 1e-9 } else { 0.0 });
    lines.sort_by(|a, b| weight(b).total_cmp(&weight(a)));
    Comparison { lines, measured: extent(measured), predicted: extent(predicted) }
}

fn beside(measured: f64, predicted: f64) -> String {
    if measured > 0.0 && predicted > 0.0 {
        format!("{:+.0} %", 100.0 * (predicted / measured - 1.0))
    } else {
        "-".into()
    }
}

impl Comparison {
    pub fn text(&self) -> String {
        let mut out = format!(
            "\n{:<44} {:>6} {:>11} {:>6} {:>11} {:>9}\n",
            "op", "spans", "measured", "spans", "predicted", "off by"
        );
        let cell = |side: (usize, f64)| {
            if side.0 == 0 {
                ("-".to_string(), "-".to_string())
            } else {
                (side.0.to_string(), Seconds(side.1).to_string())
            }
        };
        for l in &self.lines {
            let (m, p) = (cell(l.measured), cell(l.predicted));
            let _ = writeln!(
                out,
                "{:<44} {:>6} {:>11} {:>6} {:>11} {:>9}",
                l.name,
                m.0,
                m.1,
                p.0,
                p.1,
                beside(l.measured.1, l.predicted.1)
            );
        }
        let whole = beside(self.measured, self.predicted);
        let _ = writeln!(
            out,
            "{:<44} {:>6} {:>11} {:>6} {:>11} {whole:>9}",
            "from first to last",
            "",
            Seconds(self.measured).to_string(),
            "",
            Seconds(self.predicted).to_string()
        );
        let alone = |f: fn(&Line) -> bool| self.lines.iter().filter(|l| f(l)).count();
        let (only_measured, only_predicted) = (alone(|l| l.predicted.0 == 0), alone(|l| l.measured.0 == 0));
        if only_measured + only_predicted > 0 {
            let _ = writeln!(
                out,
                "{only_measured} ops were measured only, {only_predicted} predicted only: traces of one plan have the same ops"
            );
        }
        out
    }

    pub fn json(&self) -> Value {
        let one = |l: &Line| json!({ "op": l.name, "measured_spans": l.measured.0, "measured_seconds": l.measured.1, "predicted_spans": l.predicted.0, "predicted_seconds": l.predicted.1 });
        json!({ "measured_seconds": self.measured, "predicted_seconds": self.predicted, "ops": self.lines.iter().map(one).collect::<Vec<_>>() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_and_kernels_of_one_op_are_one_line() {
        let span = |name: &str, kernel: &str, start_us: f64, duration_us: f64| Span {
            name: name.into(),
            track: "gpu".into(),
            start_us,
            duration_us,
            details: vec![("kernel".into(), kernel.into())],
        };
        let measured = Trace {
            spans: vec![
                span("matvec layers.0.q", "matvec", 10.0, 4.0),
                span("matvec layers.1.q", "matvec", 14.0, 6.0),
                span("map odd", "map", 20.0, 1.0),
            ],
        };
        let predicted = Trace {
            spans: vec![span("matmul layers.0.q", "matmul", 0.0, 5.0), span("matmul layers.1.q", "matmul", 5.0, 5.0)],
        };
        let c = compare(&predicted, &measured);
        assert_eq!(c.lines[0].name, "layers.*.q");
        assert_eq!((c.lines[0].measured.0, c.lines[0].predicted.0), (2, 2));
        assert!(
            (c.lines[0].measured.1 - c.lines[0].predicted.1).abs() < 1e-12
                && (c.measured - 11e-6).abs() < 1e-12
                && (c.predicted - 10e-6).abs() < 1e-12,
            "{c:?}"
        );
        assert!(c.text().contains("1 ops were measured only, 0 predicted only"), "{}", c.text());
    }
}

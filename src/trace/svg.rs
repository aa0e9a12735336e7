//! A trace as a picture: a line a track, a box a span, time from left to right.

use super::Trace;
use std::fmt::Write;

const LEFT: f64 = 190.0;
const WIDTH: f64 = 1000.0;
const ROW: f64 = 26.0;
const TOP: f64 = 44.0;

/// Fills that stay apart for most colour-blind readers (Okabe and Ito, 2008).
const COLOURS: [&str; 6] = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00"];

impl Trace {
    /// An SVG of all tracks, devices first. Boxes have titles with their name, time and details.
    pub fn to_svg(&self) -> String {
        let mut tracks: Vec<&str> = vec![];
        for s in &self.spans {
            if !tracks.contains(&s.track.as_str()) {
                tracks.push(&s.track);
            }
        }
        tracks.sort_by_key(|t| (t.starts_with("link"), t.len(), *t));
        let end = self.spans.iter().map(|s| s.start_us + s.duration_us).fold(0.0, f64::max).max(1e-9);
        let (height, x) = (TOP + ROW * tracks.len() as f64 + 30.0, |us: f64| LEFT + us / end * WIDTH);
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {height}\" font-family=\"system-ui, sans-serif\" font-size=\"12\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
            LEFT + WIDTH + 20.0
        );
        for (us, label) in ticks(end) {
            let at = x(us);
            let _ = writeln!(
                out,
                "<line x1=\"{at:.1}\" y1=\"{}\" x2=\"{at:.1}\" y2=\"{}\" stroke=\"#ddd\"/>",
                TOP - 6.0,
                height - 24.0
            );
            let _ = writeln!(
                out,
                "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"#555\">{label}</text>",
                TOP - 14.0
            );
        }
        for (row, track) in tracks.iter().enumerate() {
            let y = TOP + ROW * row as f64;
            let _ = writeln!(
                out,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"end\" fill=\"#222\">{}</text>",
                LEFT - 10.0,
                y + 16.0,
                plain(track)
            );
            for s in self.spans.iter().filter(|s| s.track == **track) {
                let (from, wide) = (x(s.start_us), (s.duration_us / end * WIDTH).max(0.5));
                let details: String = s.details.iter().map(|(k, v)| format!("; {k} {v}")).collect();
                let title = plain(&format!("{}: {}{details}", s.name, time(s.duration_us)));
                let _ = write!(
                    out,
                    "<rect x=\"{from:.2}\" y=\"{}\" width=\"{wide:.2}\" height=\"{}\" rx=\"1\" fill=\"{}\"><title>{title}</title></rect>",
                    y + 2.0,
                    ROW - 6.0,
                    colour(&s.name)
                );
                let room = (wide / 7.0) as usize;
                if room >= 6 {
                    let short: String = s.name.chars().take(room.saturating_sub(1)).collect();
                    let _ = write!(
                        out,
                        "<text x=\"{:.2}\" y=\"{}\" fill=\"{}\" pointer-events=\"none\" font-size=\"11\">{}</text>",
                        from + 3.0,
                        y + 15.5,
                        if s.name.starts_with("wait") { "#333" } else { "#fff" },
                        plain(&short)
                    );
                }
                out.push('\n');
            }
        }
        out + "</svg>\n"
    }
}

/// One colour for spans of one first word: a kind of work. Waiting is pale.
fn colour(name: &str) -> &'static str {
    let kind = name.split([' ', '.']).next().unwrap_or_default();
    if kind == "wait" {
        return "#c9ced6";
    }
    let sum = kind.bytes().fold(0usize, |h, b| h.wrapping_mul(31).wrapping_add(b as usize));
    COLOURS[sum % COLOURS.len()]
}

fn time(us: f64) -> String {
    match us {
        x if x >= 1e6 => format!("{:.3} s", x / 1e6),
        x if x >= 1e3 => format!("{:.2} ms", x / 1e3),
        0.0 => "0".into(),
        x => format!("{x:.1} µs"),
    }
}

/// Round steps, five or so of them.
fn ticks(end: f64) -> Vec<(f64, String)> {
    let rough = end / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= rough).unwrap_or(power);
    (0..=(end / step) as usize).map(|i| (i as f64 * step, time(i as f64 * step))).collect()
}

fn plain(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::{Span, Trace};

    #[test]
    fn every_span_is_drawn_on_its_track() {
        let span = |name: &str, track: &str, start_us: f64| Span {
            name: name.into(),
            track: track.into(),
            start_us,
            duration_us: 10.0,
            details: vec![("bytes".into(), "4".into())],
        };
        let svg = Trace { spans: vec![span("a <b>", "rank 0", 0.0), span("send", "link 0→1", 10.0)] }.to_svg();
        assert_eq!(svg.matches("<title>").count(), 2);
        assert!(svg.contains("a &lt;b&gt;: 10.0 µs; bytes 4") && svg.contains("link 0→1"), "{svg}");
    }
}

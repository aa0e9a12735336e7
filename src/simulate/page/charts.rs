//! The page's pictures: SVG whose colours are the page's variables.

use super::{Held, Point, Roof, plain};
use crate::base::units::{Bytes, BytesPerSecond, Seconds};
use crate::trace::{Span, Trace};
use std::fmt::Write;

const WIDE: f64 = 1060.0;
/// Spans that a timeline draws; a longer one is cut, and says so.
const MOST: usize = 6000;
/// Tracks that it draws.
const ROWS: usize = 40;

fn open(height: f64, label: &str) -> String {
    format!("<svg viewBox=\"0 0 {WIDE} {height:.0}\" role=\"img\" aria-label=\"{label}\">\n")
}

fn legend(entries: &[(&str, String)]) -> String {
    let one =
        |(name, colour): &(&str, String)| format!("<span><i style=\"background:{colour}\"></i>{}</span>", plain(name));
    format!("<div class=\"legend\">{}</div>\n", entries.iter().map(one).collect::<String>())
}

fn slot(i: usize) -> String {
    format!("var(--c{})", i % 7)
}

/// Kinds of spans, each with a colour of its own.
const KINDS: [&str; 9] =
    ["products", "attention", "other kernels", "messages", "forward", "backward", "update", "compute", "waiting"];

fn kind(s: &Span) -> usize {
    let kernel = s.details.iter().find(|d| d.0 == "kernel").map_or("", |d| d.1.as_str());
    let first = s.name.split(' ').next().unwrap_or("");
    match first {
        "wait" => 8,
        "forward" => 4,
        "backward" | "weights" => 5,
        "update" => 6,
        _ if s.track.starts_with("link") => 3,
        _ if kernel.starts_with("mat") => 0,
        _ if kernel.starts_with("attention") => 1,
        _ if !kernel.is_empty() => 2,
        _ => 7,
    }
}

fn colour(kind: usize) -> String {
    match kind {
        8 => "var(--wait)".into(),
        4 | 7 => slot(0),
        5 => slot(1),
        6 => slot(2),
        k => slot(k),
    }
}

/// A row a track, devices before links.
pub fn timeline(trace: &Trace) -> String {
    let mut tracks: Vec<&str> = vec![];
    trace.spans.iter().for_each(|s| {
        if !tracks.contains(&s.track.as_str()) {
            tracks.push(&s.track)
        }
    });
    tracks.sort_by_key(|t| (t.starts_with("link"), t.len(), *t));
    let end = trace.spans.iter().map(|s| s.start_us + s.duration_us).fold(0.0, f64::max).max(1e-9);
    let mut spans: Vec<&Span> = trace.spans.iter().collect();
    spans.sort_by(|a, b| a.start_us.total_cmp(&b.start_us));
    let left_out = (spans.len().saturating_sub(MOST), tracks.len().saturating_sub(ROWS));
    let shown = &tracks[..tracks.len().min(ROWS)];
    let (left, row) = (150.0, 24.0);
    let x = |us: f64| left + us / end * (WIDE - left - 10.0);
    let height = 30.0 + row * shown.len() as f64 + 6.0;
    let mut met: Vec<usize> = spans.iter().map(|s| kind(s)).collect();
    met.sort_unstable();
    met.dedup();
    let mut out = legend(&met.iter().map(|k| (KINDS[*k], colour(*k))).collect::<Vec<_>>()) + &open(height, "timeline");
    for i in 0..=5 {
        let us = end * i as f64 / 5.0;
        let label = if i == 0 { "0".to_string() } else { Seconds(us * 1e-6).to_string() };
        let anchor = if i == 5 { "end" } else { "middle" };
        let _ = writeln!(
            out,
            "<line class=\"grid\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"20\" y2=\"{height:.0}\"/><text class=\"faint\" x=\"{0:.1}\" y=\"13\" text-anchor=\"{anchor}\">{label}</text>",
            x(us)
        );
    }
    for (r, track) in shown.iter().enumerate() {
        let y = 26.0 + row * r as f64;
        let name: String = track.chars().take(20).collect();
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{:.0}\" text-anchor=\"end\"><title>{}</title>{}</text>",
            left - 8.0,
            y + 15.0,
            plain(track),
            plain(&name)
        );
        for s in spans.iter().take(MOST).filter(|s| s.track == **track) {
            let details: String = s.details.iter().map(|(k, v)| format!("\n{k} {v}")).collect();
            let wide = (x(s.start_us + s.duration_us) - x(s.start_us) - 0.4).max(0.4);
            let title = plain(&format!("{}\n{}{details}", s.name, Seconds(s.duration_us * 1e-6)));
            let _ = writeln!(
                out,
                "<rect x=\"{:.2}\" y=\"{:.0}\" width=\"{wide:.2}\" height=\"{:.0}\" rx=\"1\" fill=\"{}\"><title>{title}</title></rect>",
                x(s.start_us),
                y,
                row - 5.0,
                colour(kind(s))
            );
        }
    }
    out += "</svg>\n";
    if left_out.0 > 0 || left_out.1 > 0 {
        let _ = writeln!(
            out,
            "<p>Not drawn: {} later spans, {} tracks. --trace writes all of them.</p>",
            left_out.0, left_out.1
        );
    }
    out
}

/// One measure, one colour; values at the tips.
pub fn bars(costs: &[(String, f64)]) -> String {
    let shown: Vec<&(String, f64)> = costs.iter().filter(|c| c.1 > 0.0).take(10).collect();
    let most = shown.iter().map(|c| c.1).fold(1e-12, f64::max);
    let all: f64 = costs.iter().map(|c| c.1).sum::<f64>().max(1e-12);
    let (left, row) = (280.0, 24.0);
    let mut out = open(row * shown.len() as f64 + 4.0, "where the time goes");
    for (i, (name, seconds)) in shown.iter().enumerate() {
        let (y, wide) = (row * i as f64, (seconds / most * (WIDE - left - 150.0)).max(1.0));
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>",
            left - 8.0,
            y + 16.0,
            plain(name)
        );
        let _ = writeln!(
            out,
            "<rect x=\"{left}\" y=\"{:.0}\" width=\"{wide:.1}\" height=\"16\" rx=\"3\" fill=\"var(--c0)\"/>",
            y + 4.0
        );
        let _ = writeln!(
            out,
            "<text class=\"ink\" x=\"{:.1}\" y=\"{:.0}\">{}, {:.1} %</text>",
            left + wide + 6.0,
            y + 16.0,
            Seconds(*seconds),
            100.0 * seconds / all
        );
    }
    out + "</svg>\n"
}

fn powers(low: f64, high: f64) -> impl Iterator<Item = f64> {
    (low.log10().floor() as i32..=high.log10().ceil() as i32).map(|p| 10f64.powi(p))
}

fn rate(v: f64) -> String {
    let (by, unit) = [(1e15, "PFLOP/s"), (1e12, "TFLOP/s"), (1e9, "GFLOP/s"), (1e6, "MFLOP/s")]
        .into_iter()
        .find(|u| v >= u.0 * 0.999)
        .unwrap_or((1.0, "FLOP/s"));
    format!(
        "{} {unit}",
        if v / by >= 100.0 {
            format!("{:.0}", v / by)
        } else {
            format!("{:.3}", v / by).trim_end_matches('0').trim_end_matches('.').to_string()
        }
    )
}

/// Where the axes of a roofline begin and end; both are logarithmic.
struct Plane {
    x: (f64, f64),
    y: (f64, f64),
}

impl Plane {
    const HEIGHT: f64 = 400.0;
    const LEFT: f64 = 90.0;
    const RIGHT: f64 = 20.0;
    const TOP: f64 = 20.0;
    const BOTTOM: f64 = 44.0;

    fn over(roof: &Roof, points: &[&Point]) -> Plane {
        let ridge = roof.flops / roof.bandwidth;
        let least = |of: fn(&Point) -> f64, start: f64| points.iter().map(|p| of(p)).fold(start, f64::min);
        let most = |of: fn(&Point) -> f64, start: f64| points.iter().map(|p| of(p)).fold(start, f64::max);
        Plane {
            x: (least(intensity, ridge / 100.0) / 2.0, most(intensity, ridge * 10.0) * 2.0),
            y: (least(reached, roof.flops / 30.0) / 2.0, roof.flops * 3.0),
        }
    }
    fn x(&self, v: f64) -> f64 {
        Self::LEFT + share(v, self.x) * (WIDE - Self::LEFT - Self::RIGHT)
    }
    fn y(&self, v: f64) -> f64 {
        Self::HEIGHT - Self::BOTTOM - share(v, self.y) * (Self::HEIGHT - Self::TOP - Self::BOTTOM)
    }
    /// Lines at powers of ten, with their numbers.
    fn grid(&self, out: &mut String) {
        let within = |range: (f64, f64)| powers(range.0, range.1).filter(move |p| *p >= range.0 && *p <= range.1);
        let foot = Self::HEIGHT - Self::BOTTOM;
        for p in within(self.x) {
            let _ = writeln!(
                out,
                "<line class=\"grid\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{1}\" y2=\"{foot}\"/>\
                 <text class=\"faint\" x=\"{0:.1}\" y=\"{2}\" text-anchor=\"middle\">{p}</text>",
                self.x(p),
                Self::TOP,
                foot + 16.0
            );
        }
        for p in within(self.y) {
            let _ = writeln!(
                out,
                "<line class=\"grid\" x1=\"{1}\" x2=\"{2}\" y1=\"{0:.1}\" y2=\"{0:.1}\"/>\
                 <text class=\"faint\" x=\"{3}\" y=\"{4:.1}\" text-anchor=\"end\">{5}</text>",
                self.y(p),
                Self::LEFT,
                WIDE - Self::RIGHT,
                Self::LEFT - 6.0,
                self.y(p) + 4.0,
                rate(p)
            );
        }
    }
    /// The roof: bandwidth up to the ridge, arithmetic behind it.
    fn roof(&self, roof: &Roof, out: &mut String) {
        let ridge = roof.flops / roof.bandwidth;
        let start = self.x.0.max(self.y.0 / roof.bandwidth);
        let _ = writeln!(
            out,
            "<path class=\"axis\" stroke-width=\"2\" d=\"M{:.1} {:.1} L{:.1} {:.1} L{:.1} {:.1}\"/>",
            self.x(start),
            self.y(start * roof.bandwidth),
            self.x(ridge),
            self.y(roof.flops),
            self.x(self.x.1),
            self.y(roof.flops)
        );
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{} in {}</text>",
            WIDE - Self::RIGHT - 4.0,
            self.y(roof.flops) - 8.0,
            rate(roof.flops),
            plain(&roof.format)
        );
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            self.x(ridge / 4.0) - 10.0,
            self.y(roof.flops / 4.0) - 6.0,
            BytesPerSecond(roof.bandwidth)
        );
        let _ = writeln!(
            out,
            "<text class=\"faint\" x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">FLOP per byte</text>",
            (Self::LEFT + WIDE) / 2.0,
            Self::HEIGHT - 8.0
        );
    }
    /// A circle for each op, the longest first, which are named where there is room.
    fn points(&self, sorted: &[&Point], all: f64, out: &mut String) {
        let mut taken: Vec<(f64, f64)> = vec![];
        for p in sorted {
            let py = self.y(reached(p)).clamp(Self::TOP, Self::HEIGHT - Self::BOTTOM);
            let (px, r) = (self.x(intensity(p)), 4.0 + 14.0 * (time(p) / all).sqrt());
            let title = plain(&format!(
                "{}\n{} times {}, {:.1} % of the step\n{}, {:.3} FLOP per byte",
                p.name,
                p.times,
                Seconds(p.seconds),
                100.0 * time(p) / all,
                rate(reached(p)),
                intensity(p)
            ));
            let _ = writeln!(
                out,
                "<circle cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"{r:.1}\" fill=\"var(--c0)\" fill-opacity=\"0.55\" \
                 stroke=\"var(--card)\" stroke-width=\"1.5\"><title>{title}</title></circle>"
            );
            if taken.len() < 6 && taken.iter().all(|t| (t.1 - py).abs() > 14.0 || (t.0 - px).abs() > 170.0) {
                let crowded = px > WIDE - 220.0;
                let (tx, ty, anchor) =
                    if crowded { (px, py + r + 14.0, "end") } else { (px + r + 5.0, py + 4.0, "start") };
                let _ = writeln!(
                    out,
                    "<text class=\"ink\" x=\"{tx:.1}\" y=\"{ty:.1}\" text-anchor=\"{anchor}\">{}</text>",
                    plain(&p.name)
                );
                taken.push((px, py));
            }
        }
    }
}

/// Where a value lies in a range, by logarithms: 0 to 1.
fn share(v: f64, (low, high): (f64, f64)) -> f64 {
    (v / low).log10() / (high / low).log10()
}
/// Arithmetic intensity, in FLOP per byte.
fn intensity(p: &Point) -> f64 {
    p.flops / p.bytes
}
/// The rate that an op ran at, in FLOP/s.
fn reached(p: &Point) -> f64 {
    p.flops / p.seconds
}
/// Seconds that an op takes in the whole step.
fn time(p: &Point) -> f64 {
    p.seconds * p.times
}

/// Arithmetic intensity against rate, both axes logarithmic (Williams et al., 2009).
pub fn roofline(roof: &Roof, points: &[Point]) -> String {
    let mut points: Vec<&Point> = points.iter().filter(|p| p.flops > 0.0 && p.bytes > 0.0 && p.seconds > 0.0).collect();
    let all = points.iter().map(|p| time(p)).sum::<f64>().max(1e-30);
    let plane = Plane::over(roof, &points);
    points.sort_by(|a, b| time(b).total_cmp(&time(a)));
    let mut out = open(Plane::HEIGHT, "roofline");
    plane.grid(&mut out);
    plane.roof(roof, &mut out);
    plane.points(&points, all, &mut out);
    out += "</svg>\n<details><summary>as a table</summary><table><tr><th>op</th><th>times</th><th>each</th>\
            <th>of the step</th><th>rate</th><th>FLOP per byte</th></tr>\n";
    for p in points.iter().take(60) {
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{:.1} %</td><td>{}</td><td>{:.2}</td></tr>",
            plain(&p.name),
            p.times,
            Seconds(p.seconds),
            100.0 * time(p) / all,
            rate(reached(p)),
            intensity(p)
        );
    }
    out + "</table></details>\n"
}

/// A stacked bar a device, and the line that it must stay left of.
pub fn memory(held: &[Held], capacity: f64) -> String {
    let total = |h: &Held| h.1.iter().map(|l| l.1).sum::<f64>();
    let fullest = held.iter().map(total).fold(0.0, f64::max);
    // Where a device is nearly empty, its size would hide what is there.
    let line = capacity > 0.0 && capacity < 20.0 * fullest;
    let most = fullest.max(if line { capacity } else { 0.0 }).max(1.0);
    let shown = &held[..held.len().min(ROWS)];
    let mut names: Vec<&str> = vec![];
    held.iter().flat_map(|h| &h.1).filter(|l| l.1 > 0.0).for_each(|l| {
        if !names.contains(&l.0.as_str()) {
            names.push(&l.0)
        }
    });
    let (left, row) = (110.0, 24.0);
    let x = |b: f64| left + b / most * (WIDE - left - 130.0);
    let height = row * shown.len() as f64 + 28.0;
    let mut out =
        legend(&names.iter().enumerate().map(|(i, n)| (*n, slot(i))).collect::<Vec<_>>()) + &open(height, "memory");
    for (r, h) in shown.iter().enumerate() {
        let y = row * r as f64;
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>",
            left - 8.0,
            y + 16.0,
            plain(&h.0)
        );
        let mut at = 0.0;
        for (name, bytes) in h.1.iter().filter(|l| l.1 > 0.0) {
            let (from, wide) = (x(at), (x(at + bytes) - x(at) - 1.5).max(0.5));
            let i = names.iter().position(|n| n == name).unwrap_or(0);
            let _ = writeln!(
                out,
                "<rect x=\"{from:.1}\" y=\"{:.0}\" width=\"{wide:.1}\" height=\"16\" rx=\"2\" fill=\"{}\"><title>{}\n{}</title></rect>",
                y + 4.0,
                slot(i),
                plain(name),
                Bytes(*bytes)
            );
            at += bytes;
        }
        let tip = if line { x(at.max(capacity)) } else { x(at) };
        let _ = writeln!(out, "<text class=\"ink\" x=\"{:.1}\" y=\"{:.0}\">{}</text>", tip + 8.0, y + 16.0, Bytes(at));
    }
    if line {
        let at = x(capacity);
        let _ = writeln!(
            out,
            "<line class=\"axis\" stroke-width=\"2\" stroke-dasharray=\"4 3\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"0\" y2=\"{:.0}\"/><text class=\"faint\" x=\"{at:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{} per device</text>",
            height - 22.0,
            height - 8.0,
            Bytes(capacity)
        );
    }
    out += "</svg>\n";
    if capacity > 0.0 && !line {
        let _ = writeln!(out, "<p>A device has {}.</p>", Bytes(capacity));
    }
    if held.len() > ROWS {
        let _ = writeln!(out, "<p>Not drawn: {} more.</p>", held.len() - ROWS);
    }
    out
}

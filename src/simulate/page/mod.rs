//! A prediction as one HTML page: figures, timeline, where the time goes, roofline, memory. It needs nothing from anywhere,
//! and follows the reader's light or dark.

mod charts;
mod of;

pub use of::{point, roof, serving, training};

use crate::trace::Trace;
use std::fmt::Write;

/// One op against the roofs: operations, bytes and seconds of one run of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    pub name: String,
    pub flops: f64,
    pub bytes: f64,
    pub seconds: f64,
    /// How often a step runs it.
    pub times: f64,
}

/// What a device could do at best: operations and bytes a second, and the format that the former is for.
#[derive(Debug, Clone, PartialEq)]
pub struct Roof {
    pub flops: f64,
    pub bandwidth: f64,
    pub format: String,
}

/// A device's (a stage's, a rank's) memory, line by line, in bytes.
pub type Held = (String, Vec<(String, f64)>);

pub struct Page<'a> {
    pub title: String,
    pub subtitle: String,
    /// What to read first: a name, a value with its unit.
    pub figures: Vec<(&'static str, String)>,
    pub trace: &'a Trace,
    /// Name and seconds, largest first.
    pub costs: Vec<(String, f64)>,
    pub roof: Roof,
    pub points: Vec<Point>,
    pub memory: Vec<Held>,
    /// Bytes that a device has; 0 where nobody knows.
    pub capacity: f64,
}

pub(super) fn plain(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const STYLE: &str = "
:root { color-scheme: light dark; --page: #f9f9f7; --card: #fcfcfb; --ink: #0b0b0b; --soft: #52514e; --faint: #898781; --grid: #e1e0d9; --line: #c3c2b7;
  --c0: #2a78d6; --c1: #eb6834; --c2: #1baf7a; --c3: #eda100; --c4: #e87ba4; --c5: #008300; --c6: #4a3aa7; --wait: #d6d4cb; }
@media (prefers-color-scheme: dark) { :root { --page: #0d0d0d; --card: #1a1a19; --ink: #ffffff; --soft: #c3c2b7; --faint: #898781; --grid: #2c2c2a; --line: #52514e;
  --c0: #3987e5; --c1: #d95926; --c2: #199e70; --c3: #c98500; --c4: #d55181; --c5: #008300; --c6: #9085e9; --wait: #454440; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 24px; background: var(--page); color: var(--ink); font: 14px/1.45 system-ui, -apple-system, 'Segoe UI', sans-serif; }
main { max-width: 1120px; margin: 0 auto; }
h1 { font-size: 22px; margin: 0; } h2 { font-size: 15px; margin: 0 0 4px; } p { margin: 0 0 10px; color: var(--soft); }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; margin: 18px 0; }
.tile { background: var(--card); border: 1px solid var(--grid); border-radius: 8px; padding: 10px 16px; min-width: 130px; flex: 1; }
.tile span { color: var(--soft); font-size: 12px; display: block; } .tile b { font-size: 18px; font-weight: 600; }
section { background: var(--card); border: 1px solid var(--grid); border-radius: 8px; padding: 16px; margin: 0 0 16px; overflow-x: auto; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 0 0 8px; color: var(--soft); font-size: 12px; }
.legend i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 6px; }
svg { display: block; width: 100%; min-width: 640px; height: auto; font-size: 12px; }
svg text { fill: var(--soft); } svg .ink { fill: var(--ink); } svg .faint { fill: var(--faint); font-size: 11px; }
svg .grid { stroke: var(--grid); } svg .axis { stroke: var(--line); fill: none; } svg rect:hover, svg circle:hover { opacity: 0.75; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; } details { margin-top: 8px; color: var(--soft); }
td, th { text-align: right; padding: 2px 10px; border-bottom: 1px solid var(--grid); } td:first-child, th:first-child { text-align: left; padding-left: 0; }
";

impl Page<'_> {
    /// The page's text.
    pub fn html(&self) -> String {
        let mut out = format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{}</title>\n<style>{STYLE}</style></head><body><main>\n<h1>{}</h1><p>{}</p>\n<div class=\"tiles\">",
            plain(&self.title),
            plain(&self.title),
            plain(&self.subtitle)
        );
        for (name, value) in &self.figures {
            let _ = write!(out, "<div class=\"tile\"><span>{}</span><b>{}</b></div>", plain(name), plain(value));
        }
        out += "</div>\n";
        let sections = [
            ("Timeline", "What runs when, in predicted time. Hover for details.", charts::timeline(self.trace)),
            ("Where the time goes", "Seconds on the busiest device.", charts::bars(&self.costs)),
            (
                "Roofline",
                "Each op by its intensity and the rate that it reaches; the lines are the device's figures. Area grows with an op's time in a step.",
                charts::roofline(&self.roof, &self.points),
            ),
            ("Memory", "What a device holds at the fullest moment.", charts::memory(&self.memory, self.capacity)),
        ];
        for (title, about, chart) in sections {
            let _ = write!(out, "<section><h2>{title}</h2><p>{about}</p>\n{chart}</section>\n");
        }
        out + "</main></body></html>\n"
    }
}

//! What an engine counts, and how Prometheus reads it.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets, in seconds.
const BOUNDS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];

/// Durations by buckets.
#[derive(Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS.len()],
    count: AtomicU64,
    micros: AtomicU64,
}

impl Histogram {
    /// Counts a time.
    pub fn add(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        if let Some(i) = BOUNDS.iter().position(|b| seconds <= *b) {
            self.buckets[i].fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(time.as_micros() as u64, Ordering::Relaxed);
    }

    fn write(&self, out: &mut String, name: &str, model: &str) {
        let mut below = 0;
        for (bound, n) in BOUNDS.iter().zip(&self.buckets) {
            below += n.load(Ordering::Relaxed);
            let _ = writeln!(out, "{name}_bucket{{model=\"{model}\",le=\"{bound}\"}} {below}");
        }
        let count = self.count.load(Ordering::Relaxed);
        let _ = writeln!(out, "{name}_bucket{{model=\"{model}\",le=\"+Inf\"}} {count}");
        let sum = self.micros.load(Ordering::Relaxed) as f64 / 1e6;
        let _ = writeln!(out, "{name}_sum{{model=\"{model}\"}} {sum}\n{name}_count{{model=\"{model}\"}} {count}");
    }
}

/// Counters of one engine.
#[derive(Default)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct Metrics {
    /// Requests that came.
    pub submitted: AtomicU64,
    /// Refused because the queue was full.
    pub busy: AtomicU64,
    /// Requests that were answered.
    pub finished: AtomicU64,
    /// Requests that callers gave up.
    pub cancelled: AtomicU64,
    /// Requests whose deadline passed.
    pub expired: AtomicU64,
    /// Requests that ended with an error.
    pub failed: AtomicU64,
    /// Tokens of prompts.
    pub prompt_tokens: AtomicU64,
    /// Prompt tokens whose keys and values were there already.
    pub cached_tokens: AtomicU64,
    /// Tokens made.
    pub generated_tokens: AtomicU64,
    /// Texts embedded.
    pub embedded_texts: AtomicU64,
    /// Devices that were lost and opened anew.
    pub devices_lost: AtomicU64,
    /// Requests that are being computed.
    pub running: AtomicU64,
    /// Pages of keys and values that requests have.
    pub pages_used: AtomicU64,
    /// Pages that there are.
    pub pages: AtomicU64,
    /// How often a request gave its pages to an older one, and computed them anew later.
    pub preempted: AtomicU64,
    /// Seconds of a decode step with its sampling.
    pub decode: Histogram,
    /// Seconds from the beginning of a request's computation to its first token.
    pub prefill: Histogram,
    /// Seconds in the queue.
    pub wait: Histogram,
}

impl Metrics {
    pub(super) fn one(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// The text that Prometheus scrapes, of engines by the names of their models, with how many requests wait in each.
pub(super) fn render(engines: &[(&str, &Metrics, usize)]) -> String {
    type Counter = fn(&Metrics) -> &AtomicU64;
    type Times = fn(&Metrics) -> &Histogram;
    let counters: [(&str, &str, Counter); 12] = [
        ("requests_total", "Requests that were taken", |m| &m.submitted),
        ("requests_busy_total", "Requests refused because the queue was full", |m| &m.busy),
        ("requests_finished_total", "Requests answered to their end", |m| &m.finished),
        ("requests_cancelled_total", "Requests whose caller went away", |m| &m.cancelled),
        ("requests_expired_total", "Requests whose deadline passed", |m| &m.expired),
        ("requests_failed_total", "Requests that ended with an error", |m| &m.failed),
        ("prompt_tokens_total", "Tokens of prompts", |m| &m.prompt_tokens),
        ("cached_tokens_total", "Tokens of prompts that were not computed again", |m| &m.cached_tokens),
        ("generated_tokens_total", "Tokens that were generated", |m| &m.generated_tokens),
        ("embedded_texts_total", "Texts that were embedded", |m| &m.embedded_texts),
        ("preempted_total", "Requests that gave their pages to an older one for a while", |m| &m.preempted),
        ("devices_lost_total", "Devices that were lost and opened anew", |m| &m.devices_lost),
    ];
    let times: [(&str, &str, Times); 3] = [
        ("decode_seconds", "Time of a decode step with its sampling", |m| &m.decode),
        ("prefill_seconds", "Time from the beginning of a request's computation to its first token", |m| &m.prefill),
        ("wait_seconds", "Time in the queue", |m| &m.wait),
    ];
    let mut out = String::new();
    let mut family =
        |name: &str, help: &str, kind: &str, each: &dyn Fn(&mut String, &str, &(&str, &Metrics, usize))| {
            let name = format!("warpweft_{name}");
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
            engines.iter().for_each(|e| each(&mut out, &name, e));
        };
    let gauge = |out: &mut String, name: &str, model: &str, n: u64| {
        let _ = writeln!(out, "{name}{{model=\"{}\"}} {n}", label(model));
    };
    family("requests_waiting", "Requests in the queue", "gauge", &|out, name, e| gauge(out, name, e.0, e.2 as u64));
    family("requests_running", "Requests being computed", "gauge", &|out, name, e| {
        gauge(out, name, e.0, e.1.running.load(Ordering::Relaxed))
    });
    family("pages_used", "Pages of keys and values that requests have", "gauge", &|out, name, e| {
        gauge(out, name, e.0, e.1.pages_used.load(Ordering::Relaxed))
    });
    family("pages", "Pages of keys and values", "gauge", &|out, name, e| {
        gauge(out, name, e.0, e.1.pages.load(Ordering::Relaxed))
    });
    for (name, help, of) in counters {
        family(name, help, "counter", &|out, name, e| gauge(out, name, e.0, of(e.1).load(Ordering::Relaxed)));
    }
    for (name, help, of) in times {
        family(name, help, "histogram", &|out, name, e| of(e.1).write(out, name, &label(e.0)));
    }
    out
}

/// A label's value, escaped.
fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prometheus_reads_what_is_written() {
        let m = Metrics::default();
        Metrics::one(&m.submitted);
        m.decode.add(Duration::from_millis(3));
        m.decode.add(Duration::from_secs(100));
        let text = render(&[("a\"b", &m, 2)]);
        for line in [
            "# TYPE warpweft_requests_waiting gauge",
            "warpweft_requests_waiting{model=\"a\\\"b\"} 2",
            "warpweft_requests_total{model=\"a\\\"b\"} 1",
            "warpweft_decode_seconds_bucket{model=\"a\\\"b\",le=\"0.0025\"} 0",
            "warpweft_decode_seconds_bucket{model=\"a\\\"b\",le=\"0.005\"} 1",
            "warpweft_decode_seconds_bucket{model=\"a\\\"b\",le=\"60\"} 1",
            "warpweft_decode_seconds_bucket{model=\"a\\\"b\",le=\"+Inf\"} 2",
            "warpweft_decode_seconds_sum{model=\"a\\\"b\"} 100.003",
            "warpweft_decode_seconds_count{model=\"a\\\"b\"} 2",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }
}

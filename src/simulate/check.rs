//! Predictions beside measurements: any table with the columns of its kind.

use super::chip::Chip;
use super::collective::{Placed, price};
use super::known::{Machines, algorithm, kind};
use super::runs;
use super::score::{Interval, Pair, Score, one_constant};
use super::table::{Figure, Row, Table};
use crate::base::{Error, Result};
use crate::topology::Precision;
use crate::topology::collective::Kind;
use rayon::prelude::*;

/// What the rows of a table measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    Training,
    Memory,
    Inference,
    Energy,
    Gemm,
    Collective,
    Serving,
}

pub const SUBJECTS: [Subject; 7] = [
    Subject::Training,
    Subject::Memory,
    Subject::Inference,
    Subject::Energy,
    Subject::Gemm,
    Subject::Collective,
    Subject::Serving,
];

/// What describes a training run, and what describes serving.
macro_rules! training_columns {
    ($($more:literal),*) => { &["model", "layers", "hidden", "heads", "kv_heads", "ffn", "vocab", "gated", "experts", "top_k", "cluster", "gpus", "dp", "tp", "pp", "vpp", "cp", "ep", "fsdp",
        "sequence_parallel", "seq", "micro_batch", "global_batch", "dtype", "recompute", "offload", "imbalance",
        "stack", "head", "kv_lora", "q_lora", "nope_head", "rope_head", "value_head", "shared_experts", "dense_layers", "dense_ffn", "moe_every", "window", "full_every", $($more),*] };
}

impl Subject {
    pub fn name(self) -> &'static str {
        match self {
            Subject::Training => "training",
            Subject::Memory => "memory",
            Subject::Inference => "inference",
            Subject::Energy => "energy",
            Subject::Gemm => "gemm",
            Subject::Collective => "collective",
            Subject::Serving => "serving",
        }
    }
    /// The columns that a table may have, beside `split` and `source`.
    pub fn columns(self) -> &'static [&'static str] {
        match self {
            Subject::Training => training_columns!("seconds", "tokens_per_s_per_gpu", "peak_gib"),
            Subject::Memory => training_columns!("part", "gib", "kv_dtype", "batch", "input", "output", "mode"),
            Subject::Inference => &[
                "model",
                "layers",
                "hidden",
                "heads",
                "kv_heads",
                "ffn",
                "vocab",
                "gated",
                "experts",
                "top_k",
                "cluster",
                "gpus",
                "tp",
                "pp",
                "dtype",
                "kv_dtype",
                "batch",
                "input",
                "output",
                "mode",
                "tokens_per_s",
                "ttft_s",
                "itl_s",
            ],
            Subject::Energy => training_columns!(
                "kv_dtype",
                "batch",
                "input",
                "output",
                "mode",
                "seconds",
                "tokens_per_s_per_gpu",
                "peak_gib",
                "tokens_per_s",
                "ttft_s",
                "itl_s",
                "joules",
                "watts"
            ),
            Subject::Gemm => &["device", "dtype", "m", "n", "k", "seconds"],
            Subject::Serving => &SERVING,
            Subject::Collective => {
                &["cluster", "kind", "ranks", "nodes", "bytes", "algorithm", "seconds", "busbw_gbps"]
            }
        }
    }
    /// What rows may measure: the column, and the figure that it is scored as.
    pub fn targets(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Subject::Training => {
                &[("seconds", "seconds"), ("tokens_per_s_per_gpu", "seconds"), ("peak_gib", "peak GiB")]
            }
            Subject::Memory => &[("gib", "total GiB")],
            Subject::Inference => {
                &[("tokens_per_s", "tokens/s"), ("ttft_s", "first token s"), ("itl_s", "between tokens s")]
            }
            Subject::Energy => &[("joules", "joules"), ("watts", "watts")],
            Subject::Gemm => &[("seconds", "seconds")],
            Subject::Serving => &[("ttft_ms", "first token ms"), ("tpot_ms", "per token ms")],
            Subject::Collective => &[("seconds", "s, >= 1 MiB"), ("busbw_gbps", "s, >= 1 MiB")],
        }
    }
    /// The figures that a row which cannot be priced is a miss of, with what it measured where that can be told.
    fn missed(self, row: &Row) -> Vec<(&'static str, f64)> {
        let small = row.number("bytes").ok().flatten().is_some_and(|b| b < 1048576.0);
        let named = |name: &'static str| vec![(name, f64::NAN)];
        match (self, row.text("part")) {
            (Subject::Collective, _) if small => named("s, < 1 MiB"),
            (Subject::Memory, Some("activations" | "layer_activations")) => named("activations GiB"),
            (Subject::Memory, Some("cache")) => named("cache GiB"),
            (Subject::Memory, Some(part)) if part != "total" => named("states GiB"),
            _ => {
                let mut out: Vec<(&'static str, f64)> = vec![];
                for (column, figure) in self.targets().iter().filter(|t| row.text(t.0).is_some()) {
                    if !out.iter().any(|o| o.0 == *figure) {
                        out.push((figure, row.number(column).ok().flatten().unwrap_or(f64::NAN)));
                    }
                }
                if out.is_empty() { named(self.targets()[0].1) } else { out }
            }
        }
    }
    /// The one constant of the baseline.
    pub fn constant(self) -> &'static str {
        match self {
            Subject::Training => "FLOP/s per device (seconds), bytes per parameter (peak)",
            Subject::Memory => "bytes per parameter",
            Subject::Inference | Subject::Serving => "FLOP/s per device",
            Subject::Energy => "joules per FLOP (joules), watts",
            Subject::Gemm => "FLOP/s per device",
            Subject::Collective => "GB/s on the bus",
        }
    }
}

impl std::str::FromStr for Subject {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let known = SUBJECTS.map(Subject::name).join(", ");
        SUBJECTS
            .into_iter()
            .find(|s| s.name() == text)
            .ok_or_else(|| Error::usage(format!("there is nothing to validate called \"{text}\": there are {known}")))
    }
}

/// What describes an engine under load.
const SERVING: [&str; 62] = [
    "model",
    "layers",
    "hidden",
    "heads",
    "kv_heads",
    "head",
    "ffn",
    "vocab",
    "gated",
    "experts",
    "top_k",
    "shared_experts",
    "dense_layers",
    "dense_ffn",
    "moe_every",
    "kv_lora",
    "q_lora",
    "nope_head",
    "rope_head",
    "value_head",
    "window",
    "full_every",
    "cluster",
    "gpus",
    "stack",
    "tp",
    "pp",
    "attention_dp",
    "moe_tp",
    "moe_ep",
    "dtype",
    "gemm_dtype",
    "moe_dtype",
    "kv_dtype",
    "input",
    "output",
    "concurrency",
    "batch",
    "spread",
    "mode",
    "prefill_gpus",
    "prefill_workers",
    "prefill_tp",
    "prefill_pp",
    "prefill_attention_dp",
    "prefill_moe_tp",
    "prefill_moe_ep",
    "decode_gpus",
    "decode_workers",
    "decode_tp",
    "decode_pp",
    "decode_attention_dp",
    "decode_moe_tp",
    "decode_moe_ep",
    "prefill_gemm_dtype",
    "prefill_moe_dtype",
    "prefill_kv_dtype",
    "decode_gemm_dtype",
    "decode_moe_dtype",
    "decode_kv_dtype",
    "ttft_ms",
    "tpot_ms",
];

/// The tables that come along.
pub const SHIPPED: [(Subject, &str, &str); 7] = [
    (Subject::Training, "training.csv", include_str!("../../assets/validation/training.csv")),
    (Subject::Memory, "memory.csv", include_str!("../../assets/validation/memory.csv")),
    (Subject::Inference, "inference.csv", include_str!("../../assets/validation/inference.csv")),
    (Subject::Energy, "energy.csv", include_str!("../../assets/validation/energy.csv")),
    (Subject::Gemm, "gemm.csv", include_str!("../../assets/validation/gemm.csv")),
    (Subject::Collective, "collective.csv", include_str!("../../assets/validation/collective.csv")),
    (Subject::Serving, "serving.csv", include_str!("../../assets/validation/serving.csv")),
];

/// One figure of one row.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Index into the table's rows.
    pub row: usize,
    /// What was measured, with its unit: `seconds`, `peak GiB`.
    pub what: &'static str,
    pub measured: f64,
    /// Or why there is none.
    pub predicted: Result<f64>,
    /// What the baseline's constant would be multiplied with or divided into: seconds = work / constant.
    pub work: f64,
    /// What is to be known of it: a run that does not fit the memory.
    pub note: Option<String>,
}

/// What became of a table.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    pub subject: Subject,
    pub table: Table,
    pub outcomes: Vec<Outcome>,
    /// Columns that mean nothing here.
    pub ignored: Vec<String>,
}

/// Predicts every row. A row that cannot be priced stays, with the reason. Errors only where no column measures anything.
pub fn check(subject: Subject, table: Table, machines: Machines) -> Result<Report> {
    let known = |c: &String| subject.columns().contains(&c.as_str()) || ["split", "source"].contains(&c.as_str());
    let ignored: Vec<String> = table.columns.iter().filter(|c| !known(c)).cloned().collect();
    let targets: Vec<&str> = subject.targets().iter().map(|t| t.0).collect();
    if !targets.iter().any(|t| table.columns.iter().any(|c| c == t)) {
        return Err(Error::file(
            &table.name,
            format!(
                "has none of the columns that {} measures ({}): it may have {}",
                subject.name(),
                targets.join(", "),
                subject.columns().join(", ")
            ),
        ));
    }
    let predict = |row: &Row| match subject {
        Subject::Training => runs::training(row, machines),
        Subject::Memory => runs::memory(row, machines),
        Subject::Inference => runs::inference(row, machines),
        Subject::Energy => runs::energy(row, machines),
        Subject::Gemm => gemm(row),
        Subject::Collective => collective(row, machines),
        Subject::Serving => super::serving::figures(row, machines),
    };
    let all: Vec<Result<Vec<Figure>>> = table.rows.par_iter().map(predict).collect();
    let mut outcomes = vec![];
    let notes: Vec<Option<String>> = match subject {
        Subject::Training => table.rows.par_iter().map(|r| runs::beyond_memory(r, machines)).collect(),
        _ => vec![None; table.rows.len()],
    };
    for (i, ((row, found), note)) in table.rows.iter().zip(all).zip(notes).enumerate() {
        let keep = |f: Figure| {
            let sane = f.predicted.is_finite() && f.predicted >= 0.0;
            let predicted =
                if sane { Ok(f.predicted) } else { Err(Error::usage("its sizes are beyond what can be priced")) };
            Outcome { row: i, what: f.what, measured: f.measured, predicted, work: f.work, note: note.clone() }
        };
        match found {
            Ok(figures) => outcomes.extend(figures.into_iter().map(keep)),
            Err(e) => outcomes.extend(subject.missed(row).into_iter().map(|(what, measured)| Outcome {
                row: i,
                what,
                measured,
                predicted: Err(e.clone()),
                work: f64::NAN,
                note: None,
            })),
        }
    }
    Ok(Report { subject, table, outcomes, ignored })
}

fn gemm(row: &Row) -> Result<Vec<Figure>> {
    let chip = Chip::named(row.need("device")?)?;
    let precision: Precision = row.text("dtype").unwrap_or("bf16").parse()?;
    let (m, n, k) = (row.required("m")?, row.required("n")?, row.required("k")?);
    let measured = row.required("seconds")?;
    Ok(vec![Figure {
        what: "seconds",
        measured,
        predicted: chip.gemm(precision, 1.0, m, n, k)?,
        work: 2.0 * m * n * k,
    }])
}

fn collective(row: &Row, machines: Machines) -> Result<Vec<Figure>> {
    let machine = machines(row.need("cluster")?)?;
    // So many nodes as the ranks need, unless it says.
    let asked = row.count("ranks", 1)?;
    let nodes = row.count("nodes", asked.div_ceil(machine.devices_per_node()))?;
    let machine = machine.with_nodes(nodes)?;
    let ranks = row.count("ranks", machine.devices())?;
    let placed = Placed::over(&machine, ranks, nodes)?;
    let kind = kind(row.need("kind")?)?;
    let bytes = row.required("bytes")?;
    let n = ranks as f64;
    // Bytes on the bus over bytes of the operation: github NVIDIA/nccl-tests doc/PERFORMANCE.md.
    let factor = match kind {
        Kind::AllReduce => 2.0 * (n - 1.0) / n,
        Kind::AllGather | Kind::ReduceScatter | Kind::AllToAll => (n - 1.0) / n,
        Kind::Broadcast { .. } | Kind::SendRecv { .. } => 1.0,
    };
    let measured = match (row.positive("seconds")?, row.positive("busbw_gbps")?) {
        (Some(s), _) => s,
        (None, Some(rate)) => bytes * factor / (rate * 1e9),
        _ => return Err(Error::usage("neither seconds nor busbw_gbps is given")),
    };
    let chip = Chip::new(machine.slowest())?;
    let predicted =
        price(&chip.constants.collective, &placed, kind, bytes, algorithm(row.text("algorithm"))?).seconds.0;
    // Small messages are latency, which tables disagree on by a factor: they are scored apart.
    let what = if bytes < 1048576.0 { "s, < 1 MiB" } else { "s, >= 1 MiB" };
    Ok(vec![Figure { what, measured, predicted, work: bytes * factor }])
}

/// Scores of one figure over the rows of one split.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    pub what: &'static str,
    pub split: String,
    pub score: Score,
    pub baseline: Option<Score>,
    pub missed: usize,
    /// Of the rows that were priced.
    pub interval: Option<Interval>,
}

impl Report {
    /// A line a figure, and with `split` one a part of the table. A row that was not priced counts as 100 % off.
    pub fn lines(&self, split: bool) -> Vec<Line> {
        let part = |o: &Outcome| {
            if split { self.table.rows[o.row].text("split").unwrap_or("all").to_string() } else { "all".into() }
        };
        let mut keys: Vec<(&'static str, String)> = vec![];
        for key in self.outcomes.iter().map(|o| (o.what, part(o))) {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        let line = |(what, split): (&'static str, String)| {
            let mine: Vec<&Outcome> = self.outcomes.iter().filter(|o| o.what == what && part(o) == split).collect();
            let pair = |o: &&Outcome| match &o.predicted {
                Ok(p) => Pair { predicted: *p, measured: o.measured },
                Err(_) => Pair { predicted: 0.0, measured: 1.0 },
            };
            let pairs: Vec<Pair> = mine.iter().map(pair).collect();
            let priced: Vec<Pair> = mine.iter().filter(|o| o.predicted.is_ok()).map(pair).collect();
            // The constant misses the rows that we miss: what cannot be priced is a full miss of both.
            let works: Vec<(f64, f64)> =
                mine.iter().filter(|o| o.work.is_finite()).map(|o| (o.work, o.measured)).collect();
            let unpriced = mine.iter().filter(|o| o.predicted.is_err()).map(pair);
            let constant: Vec<Pair> = one_constant(&works).into_iter().chain(unpriced).collect();
            let interval = Interval::of(&self.table.name, what, &priced);
            let missed = mine.iter().filter(|o| o.predicted.is_err()).count();
            Some(Line { what, split, score: Score::of(&pairs)?, baseline: Score::of(&constant), missed, interval })
        };
        keys.into_iter().filter_map(line).collect()
    }

    /// The table with its predictions beside: CSV.
    pub fn rows_csv(&self) -> Result<String> {
        let mut out = csv::Writer::from_writer(vec![]);
        let extra = ["figure", "measured", "predicted", "error_percent", "reason"];
        let bad = |e: csv::Error| Error::usage(format!("rows cannot be written: {e}"));
        out.write_record(self.table.columns.iter().map(String::as_str).chain(extra)).map_err(bad)?;
        for o in &self.outcomes {
            let row = &self.table.rows[o.row];
            let (predicted, error, reason) = match &o.predicted {
                Ok(p) => {
                    let note = o.note.clone().unwrap_or_default();
                    (format!("{p:.6e}"), format!("{:.2}", 100.0 * (p / o.measured - 1.0)), note)
                }
                Err(e) => (String::new(), String::new(), e.to_string()),
            };
            let measured = if o.measured.is_finite() { format!("{:.6e}", o.measured) } else { String::new() };
            let cells = self.table.columns.iter().map(|c| row.text(c).unwrap_or("").to_string());
            out.write_record(cells.chain([o.what.to_string(), measured, predicted, error, reason])).map_err(bad)?;
        }
        let bytes = out.into_inner().map_err(|e| Error::usage(format!("rows cannot be written: {e}")))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

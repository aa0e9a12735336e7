//! Predictions beside measurements: any table with the columns of its kind.

use super::chip::Chip;
use super::collective::{Placed, price};
use super::runs;
use super::score::{Pair, Score, one_constant};
use super::table::{Row, Table};
use crate::base::{Error, Result};
use crate::topology::collective::{Algorithm, Kind};
use crate::topology::{self, Precision, Topology};

/// What the rows of a table measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    Training,
    Memory,
    Inference,
    Energy,
    Gemm,
    Collective,
}

pub const SUBJECTS: [Subject; 6] =
    [Subject::Training, Subject::Memory, Subject::Inference, Subject::Energy, Subject::Gemm, Subject::Collective];

/// What describes a training run, and what describes serving.
macro_rules! training_columns {
    ($($more:literal),*) => { &["model", "layers", "hidden", "heads", "kv_heads", "ffn", "vocab", "gated", "experts", "top_k", "cluster", "gpus", "dp", "tp", "pp", "vpp", "cp", "ep", "fsdp",
        "sequence_parallel", "seq", "micro_batch", "global_batch", "dtype", "recompute", "offload", $($more),*] };
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
        }
    }
    /// The columns that a table may have, beside `split` and `source`.
    pub fn columns(self) -> &'static [&'static str] {
        match self {
            Subject::Training => training_columns!("seconds", "tokens_per_s_per_gpu", "peak_gib"),
            Subject::Memory => training_columns!("part", "gib"),
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
            Subject::Collective => &[("seconds", "s, >= 1 MiB"), ("busbw_gbps", "s, >= 1 MiB")],
        }
    }
    /// The figure that a row which cannot be priced is a miss of.
    fn missed(self, row: &Row) -> &'static str {
        let small = row.number("bytes").ok().flatten().is_some_and(|b| b < 1048576.0);
        match (self, row.text("part")) {
            (Subject::Collective, _) if small => "s, < 1 MiB",
            (Subject::Memory, Some("activations")) => "activations GiB",
            (Subject::Memory, Some(part)) if part != "total" => "states GiB",
            _ => self.targets().iter().find(|t| row.text(t.0).is_some()).unwrap_or(&self.targets()[0]).1,
        }
    }
    /// The one constant of the baseline.
    pub fn constant(self) -> &'static str {
        match self {
            Subject::Training => "FLOP/s a device (seconds), bytes a parameter (peak)",
            Subject::Memory => "bytes a parameter",
            Subject::Inference => "FLOP/s a device",
            Subject::Energy => "joules a FLOP (joules), watts",
            Subject::Gemm => "FLOP/s a device",
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

/// The tables that come along.
pub const SHIPPED: [(Subject, &str, &str); 6] = [
    (Subject::Training, "training.csv", include_str!("../../assets/validation/training.csv")),
    (Subject::Memory, "memory.csv", include_str!("../../assets/validation/memory.csv")),
    (Subject::Inference, "inference.csv", include_str!("../../assets/validation/inference.csv")),
    (Subject::Energy, "energy.csv", include_str!("../../assets/validation/energy.csv")),
    (Subject::Gemm, "gemm.csv", include_str!("../../assets/validation/gemm.csv")),
    (Subject::Collective, "collective.csv", include_str!("../../assets/validation/collective.csv")),
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

/// Finds machines by name or file.
pub type Machines<'a> = &'a dyn Fn(&str) -> Result<Topology>;

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
    let mut outcomes = vec![];
    for (i, row) in table.rows.iter().enumerate() {
        let found = match subject {
            Subject::Training => runs::training(row, machines),
            Subject::Memory => runs::memory(row, machines),
            Subject::Inference => runs::inference(row, machines),
            Subject::Energy => runs::energy(row, machines),
            Subject::Gemm => gemm(row),
            Subject::Collective => collective(row, machines),
        };
        let keep = |f: Figure| {
            let sane = f.predicted.is_finite() && f.predicted >= 0.0;
            let predicted =
                if sane { Ok(f.predicted) } else { Err(Error::usage("its sizes are beyond what can be priced")) };
            Outcome { row: i, what: f.what, measured: f.measured, predicted, work: f.work }
        };
        match found {
            Ok(figures) => outcomes.extend(figures.into_iter().map(keep)),
            Err(e) => outcomes.push(Outcome {
                row: i,
                what: subject.missed(row),
                measured: f64::NAN,
                predicted: Err(e),
                work: f64::NAN,
            }),
        }
    }
    Ok(Report { subject, table, outcomes, ignored })
}

/// A prediction and what it is to be held against.
pub struct Figure {
    pub what: &'static str,
    pub measured: f64,
    pub predicted: f64,
    /// What the baseline's one constant is divided into.
    pub work: f64,
}

fn gemm(row: &Row) -> Result<Vec<Figure>> {
    let chip = Chip::named(row.need("device")?)?;
    let precision: Precision = row.text("dtype").unwrap_or("bf16").parse()?;
    let [m, n, k] = ["m", "n", "k"].map(|c| row.positive(c));
    let (m, n, k) = (some(m, "m")?, some(n, "n")?, some(k, "k")?);
    let measured = some(row.positive("seconds"), "seconds")?;
    Ok(vec![Figure {
        what: "seconds",
        measured,
        predicted: chip.gemm(precision, 1.0, m, n, k)?,
        work: 2.0 * m * n * k,
    }])
}

pub fn some(cell: Result<Option<f64>>, name: &str) -> Result<f64> {
    cell?.ok_or_else(|| Error::usage(format!("{name} is empty")))
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
    let bytes = some(row.positive("bytes"), "bytes")?;
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

/// A machine by the name that a table gives it: one that comes along, or what people call its devices (`DGX A100 80GB`).
pub fn lenient(name: &str) -> Result<Topology> {
    let plain: String = name.to_ascii_lowercase().chars().filter(char::is_ascii_alphanumeric).collect();
    const ALSO: [(&str, &str); 11] = [
        ("gb200", "gb200-nvl72"),
        ("gb300", "gb200-nvl72"),
        ("b200", "dgx-b200"),
        ("b300", "dgx-b200"),
        ("h200", "dgx-h200"),
        ("h100", "dgx-h100"),
        ("a10040gb", "dgx-a100-40gb"),
        ("a100", "dgx-a100"),
        ("selene", "dgx-a100"),
        ("dgx2", "dgx-v100"),
        ("v100", "dgx-v100"),
    ];
    let exact = topology::SHIPPED
        .iter()
        .find(|s| s.0.chars().filter(char::is_ascii_alphanumeric).eq(plain.chars()))
        .map(|s| s.0);
    let found = exact.or_else(|| ALSO.iter().find(|a| plain.contains(a.0)).map(|a| a.1));
    topology::shipped(found.unwrap_or(name))
}

/// The machine of a row, among those that come along.
pub fn machine(row: &Row) -> Result<Topology> {
    topology::shipped(row.need("cluster")?)?.with_nodes(row.count("nodes", 1)?)
}

/// `all_reduce`, `all-reduce`, `AllReduce`.
pub fn kind(text: &str) -> Result<Kind> {
    let plain: String = text.to_ascii_lowercase().chars().filter(char::is_ascii_alphabetic).collect();
    match plain.as_str() {
        "allreduce" => Ok(Kind::AllReduce),
        "allgather" => Ok(Kind::AllGather),
        "reducescatter" => Ok(Kind::ReduceScatter),
        "alltoall" => Ok(Kind::AllToAll),
        "broadcast" | "reduce" => Ok(Kind::Broadcast { root: 0 }),
        "sendrecv" | "send" | "ptp" | "p2p" => Ok(Kind::SendRecv { from: 0, to: 1 }),
        _ => Err(Error::usage(format!(
            "there is no collective \"{text}\": there are all_reduce, all_gather, reduce_scatter, all_to_all, broadcast, send_recv"
        ))),
    }
}

/// The algorithm that a row names, in our words or NCCL's; none where it leaves the choice open.
pub fn algorithm(text: Option<&str>) -> Result<Option<Algorithm>> {
    let plain = text.unwrap_or("").to_ascii_lowercase();
    let has = |what: &[&str]| what.iter().any(|w| plain.contains(w));
    // Protocols and plug-ins leave the algorithm open.
    let open = ["default", "auto", "any", "nccl", "rccl", "simple", "ll128", "ll", "pat", "none", "-"];
    Ok(match (has(&["nvls", "switch", "sharp", "collnet"]), has(&["ring"])) {
        (true, false) => Some(Algorithm::InSwitch),
        (false, true) => Some(Algorithm::Ring),
        (true, true) => None,
        _ if has(&["tree"]) => Some(Algorithm::Tree),
        _ if plain.is_empty() || open.contains(&plain.as_str()) => None,
        _ => Some(plain.parse()?),
    })
}

/// Scores of one figure over the rows of one split.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    pub what: &'static str,
    pub split: String,
    pub score: Score,
    pub baseline: Option<Score>,
    pub missed: usize,
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
            let works: Vec<(f64, f64)> =
                mine.iter().filter(|o| o.work.is_finite()).map(|o| (o.work, o.measured)).collect();
            let missed = mine.iter().filter(|o| o.predicted.is_err()).count();
            Some(Line { what, split, score: Score::of(&pairs)?, baseline: Score::of(&one_constant(&works)), missed })
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
                Ok(p) => (format!("{p:.6e}"), format!("{:.2}", 100.0 * (p / o.measured - 1.0)), String::new()),
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

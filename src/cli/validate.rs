//! `validate` and `fit`: predictions beside measurements, and where constants come from.

use super::{cluster, style};
use crate::base::{Error, Result};
use crate::simulate::check::{self, Report, Subject};
use crate::simulate::table::Table;
use clap::Args;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub struct Validate {
    /// Only this of the tables that come along: training, inference, memory, energy, gemm, collective, serving
    what: Option<Subject>,
    /// Score a table of your own instead (CSV)
    #[arg(long, value_name = "FILE", requires = "kind", conflicts_with = "what")]
    table: Option<PathBuf>,
    /// What that table measures
    #[arg(long = "as", value_name = "KIND", id = "kind")]
    kind: Option<Subject>,
    /// Write each row with its prediction
    #[arg(long, value_name = "FILE")]
    rows: Option<PathBuf>,
    /// Rows that constants were fitted on apart from rows that they were not
    #[arg(long)]
    split: bool,
}

/// The largest table.
const MOST: u64 = 1 << 20;

/// A machine by name or file, or by what a table calls it.
fn machine(name: &str) -> Result<crate::topology::Topology> {
    cluster::open(name)
}

fn read(path: &Path) -> Result<Table> {
    let text = super::read_text(path, "table", (MOST, &style::bytes(MOST)))?;
    Table::parse(&path.display().to_string(), &text)
}

impl Validate {
    pub fn run(&self) -> Result<()> {
        let tables: Vec<(Subject, Table)> = match (&self.table, self.kind) {
            (Some(path), Some(kind)) => vec![(kind, read(path)?)],
            _ => {
                let mine = check::SHIPPED.iter().filter(|t| self.what.is_none_or(|w| w == t.0));
                mine.map(|(s, name, text)| Ok((*s, Table::parse(name, text)?))).collect::<Result<_>>()?
            }
        };
        let mut written = String::new();
        style::out(&format!(
            "{:<22} {:<14} {:<6} {:>5} {:>8} {:>8} {:>6} {:>11}   {:>8} {:>8} {:>6}\n",
            "table", "figure", "rows", "", "MAPE", "bias", "tau", "80 % within", "MAPE", "bias", "tau"
        ));
        for (subject, table) in tables {
            let report = check::check(subject, table, &machine)?;
            style::out(&text(&report, self.split));
            written += &report.rows_csv()?;
        }
        if let Some(path) = &self.rows {
            std::fs::write(path, written).map_err(|e| Error::file(path, e.to_string()))?;
        }
        Ok(())
    }
}

fn text(report: &Report, split: bool) -> String {
    let mut out = String::new();
    for l in report.lines(split) {
        let base = l.baseline.map_or(String::new(), |b| {
            format!("{:>7.1}% {:>+7.1}% {:>6.2}   one constant, {}", b.mape, b.bias, b.tau, report.subject.constant())
        });
        let interval = l.interval.as_ref().map_or(String::new(), |i| format!("{:.2}-{:.2}", i.low, i.high));
        out += &format!(
            "{:<22} {:<14} {:<6} {:>5} {:>7.1}% {:>+7.1}% {:>6.2} {interval:>11}   {base}\n",
            report.table.name, l.what, l.split, l.score.rows, l.score.mape, l.score.bias, l.score.tau
        );
    }
    if !report.ignored.is_empty() {
        out += &format!("    columns that mean nothing here and are ignored: {}\n", report.ignored.join(", "));
    }
    let mut noted = vec![];
    for o in &report.outcomes {
        if let Some(note) = o.note.as_ref().filter(|_| !noted.contains(&o.row)) {
            noted.push(o.row);
            out += &format!("    line {}: {note}\n", report.table.rows[o.row].line);
        }
        if let Err(e) = &o.predicted {
            out += &format!(
                "    line {}: not priced, counts as 100 % off, here and for the constant: {e}\n",
                report.table.rows[o.row].line
            );
        }
    }
    out
}

#[derive(Args)]
pub struct Fit {
    /// Measurements (CSV); rows whose `split` is `score` are left alone
    #[arg(long, value_name = "FILE")]
    table: PathBuf,
    /// gemm, stream or collective
    #[arg(long = "as", value_name = "KIND")]
    kind: String,
    /// Whose constants
    #[arg(long, value_name = "NAME")]
    device: String,
}

impl Fit {
    pub fn run(&self) -> Result<()> {
        style::out(&crate::simulate::fit_table(&read(&self.table)?, &self.kind, &self.device)?);
        Ok(())
    }
}

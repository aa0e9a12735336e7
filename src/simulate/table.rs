//! Tables of measurements: CSV with named columns; an empty cell means the default.

use crate::base::{Error, Result, plain};
use std::collections::HashMap;

/// One row, with where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// In the file, from 1.
    pub line: u64,
    cells: HashMap<String, String>,
}

/// A table as it came.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    pub name: String,
    pub columns: Vec<String>,
    pub rows: Vec<Row>,
}

/// A prediction and what it is to be held against.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figure {
    pub what: &'static str,
    pub measured: f64,
    pub predicted: f64,
    /// What the baseline's one constant is divided into.
    pub work: f64,
}

/// The largest table that is read: some eight times what the largest that comes along has.
const MOST_BYTES: usize = 1 << 20;
const MOST_COLUMNS: usize = 200;
const MOST_NAME: usize = 100;
const MOST_CELLS: usize = 1 << 17;
/// Bytes of a cell: a quote that is left open would take all that follows for one.
const MOST_CELL: usize = 4096;

impl Table {
    /// Reads CSV text; lines that start with `#` are comments. Errors name the line.
    pub fn parse(name: &str, text: &str) -> Result<Table> {
        if text.len() > MOST_BYTES {
            return Err(Error::file(name, format!("has {} bytes, a table may have {MOST_BYTES}", text.len())));
        }
        let mut reader =
            csv::ReaderBuilder::new().comment(Some(b'#')).trim(csv::Trim::All).from_reader(text.as_bytes());
        let bad = |e: csv::Error| {
            let line = e.position().map_or(String::new(), |p| format!(":{}", p.line()));
            Error::file(format!("{name}{line}"), e.to_string())
        };
        let columns: Vec<String> = reader
            .headers()
            .map_err(bad)?
            .iter()
            .take(MOST_COLUMNS + 1)
            .map(|h| plain(&h.trim_start_matches('\u{feff}').to_ascii_lowercase(), MOST_NAME))
            .collect();
        if columns.len() > MOST_COLUMNS {
            return Err(Error::file(name, format!("has more than {MOST_COLUMNS} columns")));
        }
        if let Some((i, twice)) = columns.iter().enumerate().find(|(i, c)| columns[..*i].contains(c)) {
            return Err(Error::file(name, format!("column {} is named \"{twice}\" like an earlier one", i + 1)));
        }
        let (mut rows, mut count) = (vec![], 0);
        for record in reader.records() {
            let record = record.map_err(bad)?;
            let line = record.position().map_or(0, |p| p.line());
            if let Some((column, cell)) = columns.iter().zip(record.iter()).find(|c| c.1.len() > MOST_CELL) {
                let what = format!(
                    "column {column} holds {} bytes, at most {MOST_CELL} are read: is a quote left open?",
                    cell.len()
                );
                return Err(Error::file(format!("{name}:{line}"), what));
            }
            let given = columns.iter().zip(record.iter()).filter(|c| !c.1.is_empty());
            let cells: HashMap<_, _> = given.map(|(c, cell)| (c.clone(), cell.to_string())).collect();
            // A row without cells takes memory, too.
            count += cells.len().max(1);
            if count > MOST_CELLS {
                return Err(Error::file(name, format!("has more than {MOST_CELLS} cells: cut it into several")));
            }
            rows.push(Row { line, cells });
        }
        if rows.is_empty() {
            return Err(Error::file(name, "has no rows: a line of column names, then a line a measurement"));
        }
        Ok(Table { name: name.into(), columns, rows })
    }
}

impl Row {
    /// A row of its own, for one prediction.
    pub fn of(cells: &[(&str, &str)]) -> Row {
        Row { line: 0, cells: cells.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect() }
    }

    pub fn text(&self, column: &str) -> Option<&str> {
        self.cells.get(column).map(String::as_str)
    }

    pub fn need(&self, column: &str) -> Result<&str> {
        self.text(column).ok_or_else(|| Error::usage(format!("{column} is empty")))
    }

    /// A finite number, or none where the cell is empty.
    pub fn number(&self, column: &str) -> Result<Option<f64>> {
        let read = |t: &str| {
            t.parse::<f64>()
                .ok()
                .filter(|v| v.is_finite())
                .ok_or_else(|| Error::usage(format!("{column} is \"{t}\", not a number")))
        };
        self.text(column).map(read).transpose()
    }

    /// A number above zero.
    pub fn positive(&self, column: &str) -> Result<Option<f64>> {
        match self.number(column)? {
            Some(v) if v <= 0.0 => Err(Error::usage(format!("{column} is {v}, must be above zero"))),
            other => Ok(other),
        }
    }

    /// A number above zero, which must be there.
    pub fn required(&self, column: &str) -> Result<f64> {
        self.positive(column)?.ok_or_else(|| Error::usage(format!("{column} is empty")))
    }

    /// A whole number from 1 up, where the cell has one; 0 and an empty cell are none.
    pub fn some_count(&self, column: &str) -> Result<Option<usize>> {
        match self.number(column)? {
            None => Ok(None),
            Some(0.0) => Ok(None),
            Some(_) => self.count(column, 1).map(Some),
        }
    }

    /// A whole number from 1 up, with a default for an empty cell.
    pub fn count(&self, column: &str, default: usize) -> Result<usize> {
        match self.number(column)? {
            None => Ok(default),
            Some(v) if v >= 1.0 && v.fract() == 0.0 && v < 1e15 => Ok(v as usize),
            Some(v) => Err(Error::usage(format!("{column} is {v}, must be a whole number from 1 up"))),
        }
    }

    /// true, 1, yes or on; false, 0, no or off.
    pub fn flag(&self, column: &str) -> Result<Option<bool>> {
        match self.text(column).map(str::to_ascii_lowercase).as_deref() {
            None => Ok(None),
            Some("true" | "1" | "yes" | "on") => Ok(Some(true)),
            Some("false" | "0" | "no" | "off" | "none") => Ok(Some(false)),
            Some(other) => Err(Error::usage(format!("{column} is \"{other}\", neither true nor false"))),
        }
    }
}

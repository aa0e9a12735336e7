//! GGUF files, versions 2 and 3 (the format is specified in ggml's docs/gguf.md): metadata and a table of tensors.
//!
//! Everything a file says is checked against what the file can hold before anything is allocated for it. Arrays that no model
//! has a use for are walked over and not kept; strings are kept once.

use super::tensor::{TensorInfo, TensorType};
use crate::base::{Error, Result, Texts, plain};
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

/// The deepest that arrays of arrays may nest.
const MAX_DEPTH: usize = 4;
/// The most files that a model may be split into.
const MAX_PARTS: u64 = 10_000;
/// The largest alignment that a file may ask for.
const MAX_ALIGN: u64 = 1 << 20;
/// The most keys and tensors of a file, and bytes of a name: some ten times what the largest models have.
const MAX_KEYS: usize = 1 << 16;
const MAX_TENSORS: usize = 1 << 17;
const MAX_NAME: usize = 1024;
/// What is kept of a value: entries of an array, and bytes of strings.
const MAX_ENTRIES: usize = 1 << 20;
const MAX_TEXT: usize = 16 << 20;
/// Bytes of all values that are kept.
const MAX_KEPT: usize = 40 << 20;

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Any integer type.
    Int(i64),
    /// u64 above i64's range.
    Big(u64),
    Float(f64),
    Bool(bool),
    Text(String),
    Ints(Vec<i64>),
    Floats(Vec<f64>),
    Texts(Arc<Texts>),
    Nested(Vec<Value>),
    /// More of something than any model needs: so many of what.
    Skipped(usize, &'static str),
}

impl Value {
    pub fn int(&self) -> Option<i64> {
        match self {
            Value::Int(n) => Some(*n),
            Value::Bool(b) => Some(*b as i64),
            _ => None,
        }
    }
    pub fn float(&self) -> Option<f64> {
        match self {
            Value::Float(x) => Some(*x),
            Value::Int(n) => Some(*n as f64),
            _ => None,
        }
    }
    pub fn text(&self) -> Option<&str> {
        match self {
            Value::Text(s) => Some(s),
            _ => None,
        }
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list = |f: &mut std::fmt::Formatter<'_>, n: usize, what: &str| write!(f, "[{n} {what}]");
        match self {
            Value::Int(n) => write!(f, "{n}"),
            Value::Big(n) => write!(f, "{n}"),
            Value::Float(x) => write!(f, "{x}"),
            Value::Bool(b) => write!(f, "{b}"),
            Value::Text(s) if s.chars().nth(60).is_some() => {
                write!(f, "\"{}\"…", plain(&s.chars().take(60).collect::<String>(), 60))
            }
            Value::Text(s) => write!(f, "{s:?}"),
            Value::Ints(v) => list(f, v.len(), "integers"),
            Value::Floats(v) => list(f, v.len(), "floats"),
            Value::Texts(v) => list(f, v.len(), "strings"),
            Value::Nested(v) => list(f, v.len(), "values"),
            Value::Skipped(n, what) => list(f, *n, what),
        }
    }
}

/// A parsed header.
#[derive(Debug, Clone)]
pub struct Gguf {
    pub version: u32,
    /// In the file's order.
    pub metadata: Vec<(String, Value)>,
    pub tensors: Vec<TensorInfo>,
    /// Where each key, its type and its value stand in the file.
    pub entries: Vec<Range<usize>>,
    index: HashMap<String, usize>,
}

impl Gguf {
    /// Parses the header of a whole file's bytes. `path` is for messages.
    ///
    /// # Errors
    /// Whatever does not fit: magic, version, counts, lengths, types, duplicates, sizes, offsets, overlaps.
    pub fn parse(bytes: &[u8], path: &str) -> Result<Gguf> {
        let mut r = Reader { bytes, at: 0, size: bytes.len() as u64, short: false, left_to_keep: MAX_KEPT, path };
        Gguf::read(&mut r)
    }

    /// Parses the header from the first bytes of a file of `size`; `None` where it goes on behind them.
    pub fn parse_head(head: &[u8], size: u64, path: &str) -> Result<Option<Gguf>> {
        let mut r = Reader { bytes: head, at: 0, size, short: false, left_to_keep: MAX_KEPT, path };
        match Gguf::read(&mut r) {
            Err(_) if r.short => Ok(None),
            done => done.map(Some),
        }
    }

    fn read(r: &mut Reader) -> Result<Gguf> {
        let path = r.path;
        if r.take(4, "the magic")? != b"GGUF" {
            return Err(r.error("is not a GGUF file: it does not start with \"GGUF\""));
        }
        let version = r.u32("the version")?;
        if !(2..=3).contains(&version) {
            let hint = if (1..=3).contains(&version.swap_bytes()) { " (it looks big-endian; convert it)" } else { "" };
            return Err(r.error(format!("has GGUF version {version}, versions 2 and 3 are known{hint}")));
        }
        let tensors = r.count("the number of tensors", 24)?;
        let keys = r.count("the number of metadata keys", 13)?;
        for (n, what, most) in [(tensors, "tensors", MAX_TENSORS), (keys, "metadata keys", MAX_KEYS)] {
            if n > most {
                return Err(r.error(format!("names {n} {what}, at most {most} are read")));
            }
        }
        let (metadata, entries) = r.metadata(keys)?;
        let index = metadata.iter().enumerate().map(|(i, (k, _))| (k.clone(), i)).collect();
        let mut gguf = Gguf { version, metadata, tensors: vec![], entries, index };
        let align = gguf.alignment(path)?;
        gguf.tensors = r.tensors(tensors, align)?;
        check_overlaps(&gguf.tensors, path)?;
        Ok(gguf)
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        self.index.get(key).map(|&i| &self.metadata[i].1)
    }

    /// Which part of a model in several files this one is, counted from 0, and of how many; `None` for a whole one.
    ///
    /// # Errors
    /// Numbers that no part has.
    pub fn part(&self, path: &str) -> Result<Option<(u64, u64)>> {
        let number = |key: &str| match self.get(key) {
            None => Ok(None),
            Some(v) => v
                .int()
                .and_then(|n| u64::try_from(n).ok())
                .map(Some)
                .ok_or_else(|| Error::file(path, format!("{key} is {v}, it must be a number of parts"))),
        };
        let (no, count) = (number("split.no")?.unwrap_or(0), number("split.count")?.unwrap_or(1));
        if no >= count.max(1) || count > MAX_PARTS {
            return Err(Error::file(path, format!("says that it is part {} of {count}, which cannot be", no + 1)));
        }
        Ok((count > 1).then_some((no, count)))
    }

    fn alignment(&self, path: &str) -> Result<u64> {
        let Some(value) = self.get("general.alignment") else { return Ok(32) };
        let align = value.int().and_then(|n| u64::try_from(n).ok()).filter(|n| n.is_power_of_two() && *n <= MAX_ALIGN);
        align.ok_or_else(|| {
            Error::file(path, format!("general.alignment is {value}, it must be a power of two up to {MAX_ALIGN}"))
        })
    }
}

fn check_overlaps(tensors: &[TensorInfo], path: &str) -> Result<()> {
    let mut order: Vec<&TensorInfo> = tensors.iter().filter(|t| t.bytes > 0).collect();
    order.sort_by_key(|t| t.offset);
    for pair in order.windows(2) {
        if pair[0].offset + pair[0].bytes > pair[1].offset {
            let (a, b) = (&pair[0].name, &pair[1].name);
            return Err(Error::file(path, format!("tensors \"{a}\" and \"{b}\" overlap at byte {}", pair[1].offset)));
        }
    }
    Ok(())
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Bytes of the whole file, which may be more than are here.
    size: u64,
    /// Whether bytes were wanted that the file has, but not here.
    short: bool,
    /// Bytes of values that may still be kept.
    left_to_keep: usize,
    path: &'a str,
}

impl<'a> Reader<'a> {
    fn error(&self, what: impl Into<String>) -> Error {
        Error::file(self.path, what)
    }
    /// Bytes of the file that follow.
    fn left(&self) -> u64 {
        self.size - self.at as u64
    }
    fn take(&mut self, n: usize, what: &str) -> Result<&'a [u8]> {
        if n > self.bytes.len() - self.at {
            self.short = n as u64 <= self.left();
            return Err(self.error(format!(
                "ends at byte {} inside of {what}, which needs {n} bytes from byte {}: download it again",
                self.bytes.len(),
                self.at
            )));
        }
        let out = &self.bytes[self.at..self.at + n];
        self.at += n;
        Ok(out)
    }
    fn u32(&mut self, what: &str) -> Result<u32> {
        let b = self.take(4, what)?;
        Ok(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }
    fn u64(&mut self, what: &str) -> Result<u64> {
        let b = self.take(8, what)?;
        Ok(u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
    }
    /// A count of things that take at least `each` bytes.
    fn count(&mut self, what: &str, each: usize) -> Result<usize> {
        let n = self.u64(what)?;
        if n > self.left() / each.max(1) as u64 {
            return Err(self.error(format!("{what} is {n}, but only {} bytes follow: download it again", self.left())));
        }
        usize::try_from(n).map_err(|_| self.error(format!("{what} is {n}, more than this machine can address")))
    }
    fn string(&mut self, what: &str) -> Result<&'a [u8]> {
        let n = self.u64(what)?;
        match usize::try_from(n).ok().filter(|_| n <= self.left()) {
            Some(n) => self.take(n, what),
            None => {
                let left = self.left();
                Err(self.error(format!("the length of {what} is {n}, but only {left} bytes follow: download it again")))
            }
        }
    }
    /// A name: of a key or of a tensor.
    fn name(&mut self, what: &str) -> Result<String> {
        let name = self.string(what)?;
        match name.len() {
            0..=MAX_NAME => Ok(String::from_utf8_lossy(name).into_owned()),
            n => Err(self.error(format!("{what} has {n} bytes, at most {MAX_NAME} are read"))),
        }
    }
    fn text(&mut self, what: &str) -> Result<Value> {
        let text = self.string(what)?;
        // Pieces of some files are not UTF-8.
        match text.len() <= MAX_TEXT && self.keeps(text.len()) {
            true => Ok(Value::Text(String::from_utf8_lossy(text).into_owned())),
            false => Ok(Value::Skipped(text.len(), "bytes of text")),
        }
    }
    /// Whether so many bytes may be kept; they then count.
    fn keeps(&mut self, bytes: usize) -> bool {
        let left = self.left_to_keep.checked_sub(bytes);
        self.left_to_keep = left.unwrap_or(self.left_to_keep);
        left.is_some()
    }

    #[allow(clippy::type_complexity)]
    fn metadata(&mut self, keys: usize) -> Result<(Vec<(String, Value)>, Vec<Range<usize>>)> {
        let (mut out, mut entries) = (Vec::with_capacity(keys.min(4096)), vec![]);
        let mut seen = HashSet::new();
        for i in 0..keys {
            let start = self.at;
            let key = self.name(&format!("metadata key {i}"))?;
            if !seen.insert(key.clone()) {
                return Err(self.error(format!("metadata key \"{key}\" is there twice")));
            }
            let ty = self.u32(&format!("the type of \"{key}\""))?;
            let value = self.value(ty, &key, 0)?;
            out.push((key, value));
            entries.push(start..self.at);
        }
        Ok((out, entries))
    }

    fn value(&mut self, ty: u32, key: &str, depth: usize) -> Result<Value> {
        let what = key;
        Ok(match ty {
            0 => Value::Int(self.take(1, what)?[0] as i64),
            1 => Value::Int(self.take(1, what)?[0] as i8 as i64),
            2 | 3 => {
                let b = self.take(2, what)?;
                let n = u16::from_le_bytes([b[0], b[1]]);
                Value::Int(if ty == 2 { n as i64 } else { n as i16 as i64 })
            }
            4 => Value::Int(self.u32(what)? as i64),
            5 => Value::Int(self.u32(what)? as i32 as i64),
            6 => Value::Float(f32::from_bits(self.u32(what)?) as f64),
            7 => match self.take(1, what)?[0] {
                b @ (0 | 1) => Value::Bool(b == 1),
                b => return Err(self.error(format!("\"{key}\" is the bool {b}, it must be 0 or 1"))),
            },
            8 => self.text(&format!("\"{key}\""))?,
            9 => self.array(key, depth)?,
            10 => {
                let n = self.u64(what)?;
                i64::try_from(n).map_or(Value::Big(n), Value::Int)
            }
            11 => Value::Int(self.u64(what)? as i64),
            12 => Value::Float(f64::from_bits(self.u64(what)?)),
            other => return Err(self.error(format!("\"{key}\" has the unknown value type {other}"))),
        })
    }

    fn array(&mut self, key: &str, depth: usize) -> Result<Value> {
        if depth >= MAX_DEPTH {
            return Err(self.error(format!("\"{key}\" nests arrays deeper than {MAX_DEPTH}")));
        }
        let ty = self.u32(key)?;
        let each = match ty {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => 12,
            other => return Err(self.error(format!("\"{key}\" is an array of the unknown type {other}"))),
        };
        let n = self.count(&format!("the length of array \"{key}\""), each)?;
        // Growth follows what was really read: an entry may take more memory than its bytes in the file.
        if ty == 8 {
            return self.strings(n, key);
        }
        if ty != 9 && (n > MAX_ENTRIES || !self.keeps(n * 8)) {
            self.take(n * each, key)?;
            return Ok(Value::Skipped(n, if matches!(ty, 6 | 12) { "floats" } else { "integers" }));
        }
        match ty {
            6 | 12 => (0..n)
                .map(|_| Ok(self.value(ty, key, depth)?.float().unwrap_or(0.0)))
                .collect::<Result<_>>()
                .map(Value::Floats),
            9 if !self.keeps(n * 64) => Err(self.error(format!("\"{key}\" holds {n} arrays, more than are read"))),
            9 => (0..n).map(|_| self.array(key, depth + 1)).collect::<Result<_>>().map(Value::Nested),
            _ => (0..n)
                .map(|_| match self.value(ty, key, depth)? {
                    Value::Big(n) => Err(self.error(format!("\"{key}\" holds {n}, beyond 2^63"))),
                    v => Ok(v.int().unwrap_or(0)),
                })
                .collect::<Result<_>>()
                .map(Value::Ints),
        }
    }

    /// Strings of a vocabulary, or of another list if they are few.
    fn strings(&mut self, n: usize, key: &str) -> Result<Value> {
        let most = if key.starts_with("tokenizer.") { MAX_ENTRIES * 8 } else { MAX_KEYS };
        let mut out = Texts::default();
        let mut keeps = n <= most;
        for _ in 0..n {
            let text = self.string(key)?;
            keeps = keeps && self.keeps(text.len() + 4) && out.push(text);
            if !keeps {
                out = Texts::default();
            }
        }
        Ok(if keeps { Value::Texts(Arc::new(out)) } else { Value::Skipped(n, "strings") })
    }

    fn tensors(&mut self, n: usize, align: u64) -> Result<Vec<TensorInfo>> {
        let mut out: Vec<TensorInfo> = Vec::with_capacity(n.min(4096));
        let mut seen = HashSet::new();
        for i in 0..n {
            let tensor = self.tensor(i)?;
            if !seen.insert(tensor.name.clone()) {
                return Err(self.error(format!("tensor \"{}\" is there twice", tensor.name)));
            }
            out.push(tensor);
        }
        let start = (self.at as u64).next_multiple_of(align);
        let size = self.size;
        for t in &mut out {
            let name = t.name.clone();
            if t.offset % align != 0 {
                return Err(self.error(format!(
                    "tensor \"{name}\" starts at {}, which is not a multiple of the alignment {align}",
                    t.offset
                )));
            }
            let end = start.checked_add(t.offset).and_then(|at| at.checked_add(t.bytes));
            match end {
                Some(end) if end <= size => t.offset += start,
                _ => {
                    let end = end.map_or("beyond 2^64".to_string(), |e| e.to_string());
                    return Err(self.error(format!(
                        "tensor \"{name}\" ends at byte {end}, the file has {size}: download it again"
                    )));
                }
            }
        }
        Ok(out)
    }

    fn tensor(&mut self, i: usize) -> Result<TensorInfo> {
        let name = self.name(&format!("the name of tensor {i}"))?;
        let dims = self.u32(&format!("the rank of tensor \"{name}\""))?;
        if dims == 0 || dims > 4 {
            return Err(self.error(format!("tensor \"{name}\" has {dims} dimensions, 1 to 4 are known")));
        }
        let mut shape =
            (0..dims).map(|_| self.u64(&format!("the shape of tensor \"{name}\""))).collect::<Result<Vec<_>>>()?;
        let ty = self.u32(&format!("the type of tensor \"{name}\""))?;
        let offset = self.u64(&format!("the offset of tensor \"{name}\""))?;
        let ty = TensorType::from_ggml(ty)
            .ok_or_else(|| self.error(format!("tensor \"{name}\" has the unknown type {ty}")))?;
        // The file counts the innermost axis first.
        shape.reverse();
        let bytes = ty.bytes(&shape).ok_or_else(|| {
            let what = match shape[shape.len() - 1] % ty.block() {
                0 => "has more elements than any file holds".to_string(),
                _ => format!("has rows that do not come out in whole blocks of {}", ty.block()),
            };
            self.error(format!("tensor \"{name}\" {shape:?} of {} {what}", ty.name()))
        })?;
        Ok(TensorInfo { name, ty, shape, offset, bytes })
    }
}

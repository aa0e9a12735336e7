//! safetensors files, alone or several to a model. Sizes and offsets are of 64 bits wherever this is compiled to; the crate,
//! whose are the machine's, gives the names of types.

use super::tensor::{TensorInfo, TensorType};
use crate::base::{DType, Error, Result};
use safetensors::Dtype;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::collections::HashMap;

/// The longest header that is read: the crate's own bound.
const MAX_HEADER: u64 = 100 << 20;
/// Tensors of one file and of an index, bytes of a name, dimensions: some times what the largest models have.
const MAX_TENSORS: usize = 1 << 17;
const MAX_INDEXED: usize = 1 << 20;
const MAX_NAME: usize = 1024;
const MAX_RANK: usize = 8;

/// The size of a file that nobody told: no file is that long, and sums of offsets stay far from overflow.
pub const UNKNOWN: u64 = 1 << 48;

/// The tensors of one file, offsets from the file's start.
///
/// # Errors
/// A header that is cut, too long, not JSON, names a tensor twice, leaves gaps, overlaps or reaches past the file.
pub fn parse(bytes: &[u8], path: &str) -> Result<Vec<TensorInfo>> {
    let cut =
        || Error::file(path, format!("has {} bytes, a safetensors file has 8 and a header at least", bytes.len()));
    parse_head(bytes, bytes.len() as u64, path)?.ok_or_else(cut)
}

/// The same from the first bytes of a file of `file` bytes, or of [`UNKNOWN`]; `None` where the header goes on behind them.
pub fn parse_head(bytes: &[u8], file: u64, path: &str) -> Result<Option<Vec<TensorInfo>>> {
    let wrong = |what: String| Error::file(path, what);
    let Some(size) = bytes.get(..8) else { return Ok(None) };
    let header = u64::from_le_bytes(size.try_into().unwrap_or_default());
    if header > MAX_HEADER || header > file.saturating_sub(8) {
        return Err(wrong(format!(
            "says that its header takes {header} bytes, {} follow: download it again",
            file.saturating_sub(8)
        )));
    }
    if header > bytes.len() as u64 - 8 {
        return Ok(None);
    }
    let text = &bytes[8..8 + header as usize];
    let entries =
        entries(text).map_err(|e| wrong(format!("is not a valid safetensors file: invalid JSON in header: {e}")))?;
    if let Some(name) = duplicate(&entries) {
        return Err(wrong(format!("names \"{name}\" twice")));
    }
    let (start, data) = (8 + header, file - 8 - header);
    let (mut out, mut at) = (vec![], 0);
    for (name, Entry { dtype, shape: Shape(shape), data_offsets: (from, to) }) in entries {
        if from != at || to < from {
            return Err(wrong(format!("is not a valid safetensors file: invalid offset for tensor `{name}`")));
        }
        at = to;
        let bits = shape.iter().try_fold(dtype.bitsize() as u64, |n, d| n.checked_mul(*d));
        if (to - from).checked_mul(8) != bits {
            return Err(wrong(format!(
                "tensor \"{name}\" {shape:?} of {dtype:?} does not fill its place from byte {from} to {to} of the data"
            )));
        }
        // The names of plain types are those of formats.
        let known = DType::named(&format!("{dtype:?}").to_lowercase()).filter(|d| d.is_float());
        let ty = match (known, dtype) {
            (Some(known), _) => TensorType::Known(known),
            (None, Dtype::I32) => TensorType::Other { name: "i32", block: 1, bytes: 4 },
            (None, Dtype::I64) => TensorType::Other { name: "i64", block: 1, bytes: 8 },
            (None, Dtype::F64) => TensorType::Other { name: "f64", block: 1, bytes: 8 },
            (None, Dtype::U8) => TensorType::Other { name: "u8", block: 1, bytes: 1 },
            (None, Dtype::F8_E4M3) => TensorType::Other { name: "f8_e4m3", block: 1, bytes: 1 },
            (None, Dtype::I8 | Dtype::BOOL) => TensorType::Other { name: "i8", block: 1, bytes: 1 },
            (None, other) => return Err(wrong(format!("tensor \"{name}\" has the unknown type {other:?}"))),
        };
        out.push(TensorInfo { name, ty, shape, offset: start + from, bytes: to - from });
    }
    if at > data || (at < data && file != UNKNOWN) {
        return Err(wrong(format!("names {at} bytes of tensors, {data} follow its header: download it again")));
    }
    Ok(Some(out))
}

/// What a header says of one tensor: offsets from the header's end, which may lie beyond 4 GiB wherever this runs.
#[derive(Deserialize)]
struct Entry {
    dtype: Dtype,
    shape: Shape,
    data_offsets: (u64, u64),
}

/// A shape of few dimensions.
struct Shape(Vec<u64>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Dims;
        impl<'de> Visitor<'de> for Dims {
            type Value = Shape;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a list of sizes")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Shape, A::Error> {
                let mut out = vec![];
                while let Some(n) = list.next_element()? {
                    out.push(n);
                    if out.len() > MAX_RANK {
                        return Err(A::Error::custom(format!("a tensor has more than {MAX_RANK} dimensions")));
                    }
                }
                Ok(Shape(out))
            }
        }
        d.deserialize_seq(Dims)
    }
}

/// The tensors that a header names, in the order of their data.
fn entries(text: &[u8]) -> serde_json::Result<Vec<(String, Entry)>> {
    struct Tensors;
    impl<'de> Visitor<'de> for Tensors {
        type Value = Vec<(String, Entry)>;
        fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut out = vec![];
            while let Some(key) = map.next_key::<String>()? {
                if key.len() > MAX_NAME || out.len() >= MAX_TENSORS {
                    return Err(A::Error::custom(format!(
                        "at most {MAX_TENSORS} tensors with names of up to {MAX_NAME} bytes are read"
                    )));
                }
                match key == "__metadata__" {
                    true => drop(map.next_value::<IgnoredAny>()?),
                    false => out.push((key, map.next_value()?)),
                }
            }
            Ok(out)
        }
    }
    let mut reader = serde_json::Deserializer::from_slice(text);
    let mut out = reader.deserialize_map(Tensors)?;
    reader.end()?;
    out.sort_by_key(|(_, e)| e.data_offsets);
    Ok(out)
}

/// The file that holds the index of a model in several.
pub const INDEX: &str = "model.safetensors.index.json";

/// Which file of a model folder holds which tensor, by an index.
pub struct Index {
    path: String,
    files: Vec<String>,
    /// Tensors with the number of their file.
    tensors: Vec<(String, u32)>,
}

impl Index {
    /// # Errors
    /// What is no JSON, names no file, or one outside of its folder.
    pub fn parse(bytes: &[u8], path: &str) -> Result<Index> {
        let wrong = |what: String| Error::file(path, what);
        let map: WeightMap = serde_json::from_slice(bytes).map_err(|e| wrong(format!("is not a valid index: {e}")))?;
        let Some(Files { files, tensors }) = map.weight_map else { return Err(wrong("lacks weight_map".into())) };
        for file in &files {
            if file.is_empty() || file.contains(['/', '\\']) || file.starts_with('.') {
                return Err(wrong(format!("names the file \"{file}\" outside of its folder")));
            }
        }
        match tensors.is_empty() {
            true => Err(wrong("names no tensor".into())),
            false => Ok(Index { path: path.into(), files, tensors }),
        }
    }

    /// The files, each once.
    pub fn files(&self) -> Vec<&str> {
        let mut files: Vec<&str> = self.files.iter().map(String::as_str).collect();
        files.sort_unstable();
        files
    }

    /// Holds the index to the files: `file` tells in which one a tensor is.
    ///
    /// # Errors
    /// A tensor that is in none, or in another.
    pub fn check<'a>(&self, file: impl Fn(&str) -> Option<&'a str>) -> Result<()> {
        for (tensor, at) in &self.tensors {
            let named = &self.files[*at as usize];
            let found = file(tensor);
            if found != Some(named) {
                let where_ = found.map_or("in none".into(), |f| format!("in {f}"));
                return Err(Error::file(
                    &self.path,
                    format!("says that tensor \"{tensor}\" is in {named}, it is {where_}"),
                ));
            }
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct WeightMap {
    weight_map: Option<Files>,
}

/// Files, each name kept once, and tensors with the number of theirs.
struct Files {
    files: Vec<String>,
    tensors: Vec<(String, u32)>,
}

impl<'de> Deserialize<'de> for Files {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Files;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("an object of tensors with their files")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Files, A::Error> {
                let (mut known, mut out) = (HashMap::new(), Files { files: vec![], tensors: vec![] });
                while let Some((tensor, file)) = map.next_entry::<String, String>()? {
                    if tensor.len() > MAX_NAME || file.len() > MAX_NAME || out.tensors.len() >= MAX_INDEXED {
                        return Err(A::Error::custom(format!(
                            "at most {MAX_INDEXED} tensors and names of up to {MAX_NAME} bytes are read"
                        )));
                    }
                    let at = *known.entry(file).or_insert_with_key(|file| {
                        out.files.push(file.clone());
                        out.files.len() as u32 - 1
                    });
                    out.tensors.push((tensor, at));
                }
                Ok(out)
            }
        }
        d.deserialize_map(Pairs)
    }
}

/// A tensor that a header names twice.
fn duplicate(entries: &[(String, Entry)]) -> Option<&str> {
    let mut names: Vec<&str> = entries.iter().map(|e| e.0.as_str()).collect();
    names.sort_unstable();
    names.windows(2).find(|w| w[0] == w[1]).map(|w| w[0])
}

//! safetensors files: the crate parses the header, what it lets pass is refused here.

use super::tensor::{TensorInfo, TensorType};
use crate::base::{DType, Error, Result};
use safetensors::tensor::{Metadata, TensorInfo as Entry};
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use std::collections::HashSet;

/// The longest header that is read: the crate's own bound.
const MAX_HEADER: u64 = 100 << 20;

/// The size of a file that nobody told: no file is that long, and sums of offsets stay far from overflow.
pub const UNKNOWN: u64 = 1 << 48;

/// The tensors of one file, offsets from the file's start.
///
/// # Errors
/// A header that is cut, too long, not JSON, names a tensor twice, leaves gaps, overlaps or reaches past the file.
pub fn parse(bytes: &[u8], path: &str) -> Result<Vec<TensorInfo>> {
    let cut = || Error::file(path, format!("has {} bytes, a safetensors file has 8 and a header at least", bytes.len()));
    parse_head(bytes, bytes.len() as u64, path)?.ok_or_else(cut)
}

/// The same from the first bytes of a file of `file` bytes, or of [`UNKNOWN`]; `None` where the header goes on behind them.
pub fn parse_head(bytes: &[u8], file: u64, path: &str) -> Result<Option<Vec<TensorInfo>>> {
    let wrong = |what: String| Error::file(path, what);
    let Some(size) = bytes.get(..8) else { return Ok(None) };
    let header = u64::from_le_bytes(size.try_into().unwrap_or_default());
    if header > MAX_HEADER || header > file.saturating_sub(8) {
        return Err(wrong(format!("says that its header takes {header} bytes, {} follow: download it again", file.saturating_sub(8))));
    }
    if header > bytes.len() as u64 - 8 {
        return Ok(None);
    }
    let text = &bytes[8..8 + header as usize];
    if let Some(name) = duplicate(text) {
        return Err(wrong(format!("names \"{name}\" twice")));
    }
    let start = 8 + header;
    let data = file - start;
    let parsed = match SafeTensors::read_metadata(bytes) {
        Ok((_, parsed)) => parsed,
        // The crate wants all of the file: where this is its first bytes, its size is compared here.
        Err(e @ SafeTensorError::MetadataIncompleteBuffer) => match serde_json::from_slice::<Metadata>(text) {
            Ok(head) if (bytes.len() as u64) < file && (head.data_len() as u64 == data || file == UNKNOWN) => head,
            _ => return Err(wrong(explain(&e, text, data))),
        },
        Err(e) => return Err(wrong(explain(&e, text, data))),
    };
    let mut out = vec![];
    for (name, info) in parsed.tensors() {
        let ty = match info.dtype {
            Dtype::F32 => TensorType::Known(DType::F32),
            Dtype::F16 => TensorType::Known(DType::F16),
            Dtype::BF16 => TensorType::Bf16,
            Dtype::I32 => TensorType::Other { name: "i32", block: 1, bytes: 4 },
            Dtype::I64 => TensorType::Other { name: "i64", block: 1, bytes: 8 },
            Dtype::F64 => TensorType::Other { name: "f64", block: 1, bytes: 8 },
            Dtype::U8 | Dtype::I8 | Dtype::BOOL => TensorType::Other { name: "i8", block: 1, bytes: 1 },
            other => return Err(wrong(format!("tensor \"{name}\" has the unknown type {other:?}"))),
        };
        let shape: Vec<u64> = info.shape.iter().map(|d| *d as u64).collect();
        let (from, to) = info.data_offsets;
        if ty.bytes(&shape) != Some((to - from) as u64) {
            return Err(wrong(format!("tensor \"{name}\" {shape:?} of {} does not take the {} bytes that it is given", ty.name(), to - from)));
        }
        let end = start + to as u64;
        if end > file {
            return Err(wrong(format!("tensor \"{name}\" ends at byte {end}, the file has {file}: download it again")));
        }
        out.push(TensorInfo { name: name.clone(), ty, shape, offset: start + from as u64, bytes: (to - from) as u64 });
    }
    out.sort_by_key(|t| t.offset);
    Ok(Some(out))
}

/// The crate's word for what is wrong, with the tensor and the numbers that it leaves out.
fn explain(e: &SafeTensorError, header: &[u8], data: u64) -> String {
    let named = match e {
        SafeTensorError::MetadataIncompleteBuffer => serde_json::from_slice::<Metadata>(header)
            .ok()
            .map(|m| format!("names {} bytes of tensors, {data} follow its header: download it again", m.data_len())),
        SafeTensorError::TensorInvalidInfo | SafeTensorError::ValidationOverflow => misfit(header),
        _ => None,
    };
    named.unwrap_or_else(|| format!("is not a valid safetensors file: {e}"))
}

/// The first tensor whose shape does not fill its bytes.
fn misfit(header: &[u8]) -> Option<String> {
    let entries: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(header).ok()?;
    entries.into_iter().find_map(|(name, value)| {
        let Entry { dtype, shape, data_offsets: (from, to) } = serde_json::from_value(value).ok()?;
        let bits = shape.iter().try_fold(dtype.bitsize(), |n, d| n.checked_mul(*d));
        let fits = to.checked_sub(from).and_then(|n| n.checked_mul(8)) == bits;
        (!fits).then(|| format!("tensor \"{name}\" {shape:?} of {dtype:?} does not fill its place from byte {from} to {to} of the data"))
    })
}

/// A key that the top-level object has twice: the crate would take one of them in silence.
fn duplicate(json: &[u8]) -> Option<String> {
    struct Keys;
    impl<'de> Visitor<'de> for Keys {
        type Value = Option<String>;
        fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut seen = HashSet::new();
            let mut twice = None;
            while let Some((key, _)) = map.next_entry::<String, IgnoredAny>()? {
                if !seen.insert(key.clone()) {
                    twice.get_or_insert(key);
                }
            }
            Ok(twice)
        }
    }
    serde_json::Deserializer::from_slice(json).deserialize_map(Keys).ok().flatten()
}

//! Writing GGUF files: the metadata of one that was read, other tensors.

use super::gguf::Gguf;
use crate::base::{DType, Error, Result};

/// A tensor that a file is to have.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    pub name: String,
    pub dtype: DType,
    /// Outermost axis first.
    pub shape: Vec<u64>,
}

/// Where tensors start, counted from the end of the head, and in the head: 32 bytes as the format has it by default.
const ALIGN: u64 = 32;

/// Keys that are about the file that was read, not about the model.
const OF_THE_FILE: &[&str] = &[
    "general.alignment",
    "general.file_type",
    "general.quantization_version",
    "split.no",
    "split.count",
    "split.tensors.count",
];

/// The first bytes of a file of these tensors, padded to where the first one starts, with the metadata of `gguf`, whose own first
/// bytes are `head`; and where each tensor starts from there. `file_type` is the number by which files say what most of their
/// tensors are.
///
/// # Errors
/// A type that GGUF has no number for; sizes beyond 64 bits.
pub fn head(gguf: &Gguf, head: &[u8], tensors: &[Planned], file_type: u32) -> Result<(Vec<u8>, Vec<u64>)> {
    let kept: Vec<usize> =
        (0..gguf.metadata.len()).filter(|i| !OF_THE_FILE.contains(&gguf.metadata[*i].0.as_str())).collect();
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((kept.len() as u64 + 2).to_le_bytes());
    for i in kept {
        out.extend_from_slice(&head[gguf.entries[i].clone()]);
    }
    for (key, value) in [("general.file_type", file_type), ("general.quantization_version", 2)] {
        text(&mut out, key);
        // A u32.
        out.extend(4u32.to_le_bytes());
        out.extend(value.to_le_bytes());
    }
    let (mut at, mut starts) = (0u64, vec![]);
    for t in tensors {
        let wrong = |what: &str| Error::op("quantize", &t.name, format!("{:?} of {} {what}", t.shape, t.dtype));
        let number = t.dtype.format().ggml.ok_or_else(|| wrong("has no number in GGUF files"))?;
        text(&mut out, &t.name);
        out.extend((t.shape.len() as u32).to_le_bytes());
        t.shape.iter().rev().for_each(|d| out.extend(d.to_le_bytes()));
        out.extend(number.to_le_bytes());
        out.extend(at.to_le_bytes());
        starts.push(at);
        let bytes =
            t.dtype.bytes(t.shape.iter().product()).ok_or_else(|| wrong("does not come out in whole blocks"))?;
        at = (at + bytes).next_multiple_of(ALIGN);
    }
    out.resize(out.len().next_multiple_of(ALIGN as usize), 0);
    Ok((out, starts))
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

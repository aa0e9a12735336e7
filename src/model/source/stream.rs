//! Models whose bytes come one after another, as a download brings them: the head first, then tensor after tensor.

use super::{Bytes, ModelSource};
use crate::base::{Error, Result};
use crate::model::TensorInfo;
use crate::model::gguf::Gguf;
use crate::model::safetensors::{self, Index};
use std::borrow::Cow;
use std::collections::HashMap;

/// The longest head that is waited for: vocabularies take some megabytes.
const MAX_HEAD: usize = 256 << 20;

impl ModelSource {
    /// A model from the first bytes of its .gguf or .safetensors file; `None` where the head goes on behind them.
    /// `size` is that of the whole file, if it is known; `side` are the small files of a model folder.
    ///
    /// # Errors
    /// A head that is damaged or too long, tensors that the file is too short for.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn from_head(
        name: &str,
        head: &[u8],
        size: Option<u64>,
        side: &HashMap<String, Vec<u8>>,
    ) -> Result<Option<ModelSource>> {
        let whole = size.is_some_and(|n| head.len() as u64 >= n);
        if head.len() < 8 && !whole {
            return Ok(None);
        }
        let size = size.unwrap_or(safetensors::UNKNOWN);
        let (gguf, tensors) = if head.starts_with(b"GGUF") {
            let Some(gguf) = Gguf::parse_head(head, size, name)? else { return wait(name, head) };
            if let Some((no, count)) = gguf.part(name)? {
                let what = format!("is part {} of {count}: models in several GGUF files open from disk", no + 1);
                return Err(Error::file(name, what));
            }
            (Some(gguf.clone()), gguf.tensors)
        } else if side.contains_key("config.json") {
            let Some(tensors) = safetensors::parse_head(head, size, name)? else { return wait(name, head) };
            (None, tensors)
        } else {
            return Err(Error::file(
                name,
                "is not a GGUF file, and no config.json came with it: give a .gguf, or a folder with config.json, tokenizer.json and model.safetensors",
            ));
        };
        let index = tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), (i, 0))).collect();
        Ok(Some(ModelSource {
            path: name.into(),
            files: vec![],
            bytes: Bytes::Stream(HashMap::new()),
            tensors,
            index,
            gguf,
            side: side.clone(),
            ends: vec![],
            packed: HashMap::new(),
            scale_block: [1, 1],
        }))
    }

    /// A model in several .safetensors files from their first bytes, at least their heads. It reads as one file in which they
    /// lie one behind another, in the order given; the index file is among `side`.
    ///
    /// # Errors
    /// A head that is damaged or cut, a tensor in two files, an index that does not tell the truth.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn from_heads(name: &str, heads: &[Head], side: &HashMap<String, Vec<u8>>) -> Result<ModelSource> {
        let mut source = ModelSource {
            path: name.into(),
            files: vec![],
            bytes: Bytes::Stream(HashMap::new()),
            tensors: vec![],
            index: HashMap::new(),
            gguf: None,
            side: side.clone(),
            ends: vec![],
            packed: HashMap::new(),
            scale_block: [1, 1],
        };
        let mut start = 0;
        for (i, head) in heads.iter().enumerate() {
            let cut = || {
                Error::file(
                    &head.name,
                    format!("ends at byte {} inside of its head: download it again", head.bytes.len()),
                )
            };
            let tensors = safetensors::parse_head(&head.bytes, head.size.unwrap_or(safetensors::UNKNOWN), &head.name)?
                .ok_or_else(cut)?;
            let header = u64::from_le_bytes(head.bytes[..8].try_into().unwrap_or_default());
            let end = tensors.iter().map(|t| t.offset + t.bytes).max().unwrap_or(8 + header);
            for t in tensors {
                if source.index.insert(t.name.clone(), (source.tensors.len(), i)).is_some() {
                    return Err(Error::file(&head.name, format!("tensor \"{}\" is in two files", t.name)));
                }
                source.tensors.push(TensorInfo { offset: start + t.offset, ..t });
            }
            start += end;
            source.ends.push(start);
        }
        if let Some(index) = side.get(safetensors::INDEX) {
            let file = |tensor: &str| source.index.get(tensor).map(|at| heads[at.1].name.as_str());
            Index::parse(index, safetensors::INDEX)?.check(file)?;
        }
        Ok(source)
    }

    /// Keeps bytes of a tensor in memory, behind those that it has: for the CPU, which reads them there.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn keep(&mut self, piece: &Piece) {
        if let (Bytes::Stream(kept), Some(t)) = (&mut self.bytes, self.tensors.get(piece.tensor)) {
            kept.entry(piece.tensor)
                .or_insert_with(|| Vec::with_capacity(t.bytes as usize))
                .extend_from_slice(&piece.bytes);
        }
    }
}

/// The first bytes of one of a model's files.
pub struct Head {
    pub name: String,
    /// Of the whole file, if it is known.
    pub size: Option<u64>,
    pub bytes: Vec<u8>,
}

fn wait(name: &str, head: &[u8]) -> Result<Option<ModelSource>> {
    if head.len() > MAX_HEAD {
        return Err(Error::file(name, format!("has a head of more than {MAX_HEAD} bytes, which no model has")));
    }
    Ok(None)
}

/// Bytes of one tensor as the file has them: whole blocks.
pub struct Piece<'a> {
    /// Index into [`ModelSource::tensors`].
    pub tensor: usize,
    /// The first block.
    pub block: u64,
    pub bytes: Cow<'a, [u8]>,
}

/// Walks a file from its start and says which bytes belong to which tensor. It holds less than a block between pushes.
pub struct Cursor {
    /// Tensors in the file's order.
    order: Vec<usize>,
    next: usize,
    at: u64,
    /// The beginning of a block.
    carry: Vec<u8>,
}

impl Cursor {
    pub fn new(source: &ModelSource) -> Cursor {
        let mut order: Vec<usize> = (0..source.tensors.len()).filter(|i| source.tensors[*i].bytes > 0).collect();
        order.sort_by_key(|i| source.tensors[*i].offset);
        Cursor { order, next: 0, at: 0, carry: vec![] }
    }

    /// The pieces in the file's next bytes, in order.
    pub fn push<'a>(&mut self, source: &ModelSource, bytes: &'a [u8]) -> Vec<Piece<'a>> {
        let mut out = vec![];
        let (start, end) = (self.at, self.at + bytes.len() as u64);
        while let Some(&tensor) = self.order.get(self.next) {
            let t = &source.tensors[tensor];
            let (from, to) = (self.at.max(t.offset), end.min(t.offset + t.bytes));
            if from >= to {
                break;
            }
            self.cut(tensor, t, from, &bytes[(from - start) as usize..(to - start) as usize], &mut out);
            self.at = to;
            self.next += (to == t.offset + t.bytes) as usize;
        }
        self.at = end;
        out
    }

    fn cut<'a>(&mut self, tensor: usize, t: &TensorInfo, from: u64, mut bytes: &'a [u8], out: &mut Vec<Piece<'a>>) {
        let unit = t.ty.block_bytes() as usize;
        let block = (from - t.offset - self.carry.len() as u64) / unit as u64;
        let mut first = block;
        if !self.carry.is_empty() {
            let (head, rest) = bytes.split_at(bytes.len().min(unit - self.carry.len()));
            self.carry.extend_from_slice(head);
            bytes = rest;
            if self.carry.len() < unit {
                return;
            }
            out.push(Piece { tensor, block, bytes: Cow::Owned(std::mem::take(&mut self.carry)) });
            first += 1;
        }
        let (whole, rest) = bytes.split_at(bytes.len() / unit * unit);
        self.carry = rest.to_vec();
        if !whole.is_empty() {
            out.push(Piece { tensor, block: first, bytes: Cow::Borrowed(whole) });
        }
    }

    /// Tells that one of several files has ended.
    ///
    /// # Errors
    /// Where it should not have.
    pub fn file_ends(&self, source: &ModelSource, name: &str) -> Result<()> {
        match source.ends.contains(&self.at) {
            true => Ok(()),
            false => Err(Error::file(name, "is shorter or longer than its head says: download it again")),
        }
    }

    /// # Errors
    /// A tensor that the bytes so far do not hold to its end.
    pub fn finish(&self, source: &ModelSource) -> Result<()> {
        let Some(t) = self.order.get(self.next).map(|i| &source.tensors[*i]) else { return Ok(()) };
        let what = format!(
            "ends at byte {} inside of tensor \"{}\", which goes to byte {}: download it again",
            self.at,
            t.name,
            t.offset + t.bytes
        );
        Err(Error::file(&source.path, what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A GGUF of two q8_0 rows, a gap, and three f16 elements.
    fn file() -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend(2u64.to_le_bytes());
        out.extend(0u64.to_le_bytes());
        for (name, dims, ty, offset) in [("a", vec![32u64, 2], 8u32, 0u64), ("b", vec![3], 1, 96)] {
            out.extend((name.len() as u64).to_le_bytes());
            out.extend(name.as_bytes());
            out.extend((dims.len() as u32).to_le_bytes());
            dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend(ty.to_le_bytes());
            out.extend(offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend((0..102).map(|i| i as u8));
        out
    }

    #[test]
    fn any_cut_gives_every_block_once() {
        let file = file();
        let side = HashMap::new();
        let whole = ModelSource::from_head("m", &file, Some(file.len() as u64), &side).unwrap().unwrap();
        for step in [1, 2, 3, 7, 33, 34, 35, 1000] {
            let (mut head, mut source, mut got) = (vec![], None, [vec![], vec![]]);
            let mut cursor = None;
            for chunk in file.chunks(step) {
                let mut fresh = chunk.to_vec();
                if source.is_none() {
                    head.extend_from_slice(chunk);
                    source = ModelSource::from_head("m", &head, Some(file.len() as u64), &side).unwrap();
                    fresh = head.clone();
                }
                let Some(source) = &source else { continue };
                for piece in cursor.get_or_insert_with(|| Cursor::new(source)).push(source, &fresh) {
                    let to: &mut Vec<u8> = &mut got[piece.tensor];
                    let unit = source.tensors()[piece.tensor].ty.block_bytes() as usize;
                    assert_eq!((to.len(), piece.bytes.len() % unit), (piece.block as usize * unit, 0), "cut at {step}");
                    to.extend_from_slice(&piece.bytes);
                }
            }
            cursor.unwrap().finish(&source.unwrap()).unwrap();
            for (t, got) in whole.tensors().iter().zip(&got) {
                assert_eq!(got[..], file[t.offset as usize..(t.offset + t.bytes) as usize], "{} cut at {step}", t.name);
            }
        }
    }

    #[test]
    fn heads_that_are_cut_or_wrong_are_told_apart() {
        let file = file();
        let open = |n: usize, size: usize| ModelSource::from_head("m", &file[..n], Some(size as u64), &HashMap::new());
        assert!(open(40, file.len()).unwrap().is_none());
        assert!(open(40, 40).err().unwrap().to_string().contains("bytes follow"));
        let short = open(file.len() - 10, file.len() - 10).err().unwrap().to_string();
        assert!(short.contains("\"b\"") && short.contains("download it again"), "{short}");
        let source = open(file.len(), file.len()).unwrap().unwrap();
        let mut cursor = Cursor::new(&source);
        cursor.push(&source, &file[..file.len() - 1]);
        assert!(cursor.finish(&source).unwrap_err().to_string().contains("inside of tensor \"b\""));
        assert!(
            ModelSource::from_head("m", b"PK\x03\x04 and more", None, &HashMap::new())
                .err()
                .unwrap()
                .to_string()
                .contains("not a GGUF")
        );
    }
}

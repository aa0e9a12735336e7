//! Where a model's bytes are: files on disk, or a stream that a browser hands in. The one place below the session that
//! does I/O.

#[cfg(not(target_arch = "wasm32"))]
mod disk;
#[cfg(all(feature = "fetch", not(target_arch = "wasm32")))]
mod fetch;
mod packed;
mod stream;

#[cfg(all(feature = "fetch", not(target_arch = "wasm32")))]
pub use fetch::{Fetcher, Progress};
pub use stream::{Cursor, Head, Piece};

use super::derived;
use super::gguf::Gguf;
use super::tensor::TensorInfo;
use crate::base::{Array, Error, Result, Type, Weights};
use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Small files of a model folder that are read whole, and the most bytes of each.
pub const SIDE_FILES: &[&str] = &[
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
    "1_Pooling/config.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "preprocessor_config.json",
    "processor_config.json",
];
#[cfg(not(target_arch = "wasm32"))]
const MAX_SIDE: u64 = 256 << 20;

/// A model: one .gguf file, or a folder with config.json, tokenizer.json and model.safetensors, or several such files that
/// model.safetensors.index.json names.
pub struct ModelSource {
    path: PathBuf,
    /// The files of a GGUF model on disk, in the order of its parts.
    files: Vec<PathBuf>,
    bytes: Bytes,
    tensors: Vec<TensorInfo>,
    /// Name → (index into `tensors`, file).
    index: HashMap<String, (usize, usize)>,
    gguf: Option<Gguf>,
    side: HashMap<String, Vec<u8>>,
    /// Where each of several files that arrive one behind another ends.
    ends: Vec<u64>,
    /// Tensors that are made of several, by name.
    packed: HashMap<String, packed::Packed>,
    /// Rows and columns of the blocks of a matrix that have a scale each.
    scale_block: [usize; 2],
}

/// Where tensors are read from.
enum Bytes {
    #[cfg(not(target_arch = "wasm32"))]
    Mapped(Vec<memmap2::Mmap>),
    /// Tensors that were kept of a stream, by their index.
    Stream(HashMap<usize, Vec<u8>>),
}

impl ModelSource {
    /// The file or folder; a name for bytes.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// The files of a GGUF model on disk.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }
    /// All tensors, in the order of the file.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }
    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.index.get(name).map(|(i, _)| &self.tensors[*i])
    }
    /// The metadata of a GGUF file.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn gguf(&self) -> Option<&Gguf> {
        self.gguf.as_ref()
    }
    /// A small file of a model folder, such as `tokenizer.json`.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn side_file(&self, name: &str) -> Option<&[u8]> {
        self.side.get(name).map(Vec::as_slice)
    }
    /// config.json of a model folder.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn config(&self) -> Result<Option<serde_json::Value>> {
        let Some(bytes) = self.side_file("config.json") else { return Ok(None) };
        let parsed = crate::base::json::parse(bytes);
        parsed.map(Some).map_err(|e| Error::file(self.path.join("config.json"), format!("is not valid JSON: {e}")))
    }
    /// Bytes of all tensors.
    pub fn weight_bytes(&self) -> u64 {
        self.tensors.iter().map(|t| t.bytes).sum()
    }
}

impl Weights for ModelSource {
    fn info(&self, name: &str) -> Result<Type> {
        if let (None, Some(made)) = (self.tensor(name), derived::info(self, name)) {
            return made;
        }
        if let Some(made) = self.packed_info(name) {
            return made;
        }
        let t = self.tensor(name).ok_or_else(|| Error::file(&self.path, format!("lacks tensor \"{name}\"")))?;
        let dtype = t.ty.dtype().ok_or_else(|| {
            Error::file(
                &self.path,
                format!(
                    "tensor \"{name}\" is {}: {} can be run, requantise the file",
                    t.ty.name(),
                    crate::format::names()
                ),
            )
        })?;
        let shape: Vec<i64> = t.shape.iter().map(|d| *d as i64).collect();
        Ok(Type::new(dtype, shape.as_slice()))
    }

    fn read(&self, name: &str, rows: Range<usize>) -> Result<Cow<'_, [u8]>> {
        if let (None, Some(made)) = (self.tensor(name), derived::read(self, name, rows.clone())) {
            return made;
        }
        if let Some(made) = self.packed_read(name, rows.clone()) {
            return made.map(Cow::Owned);
        }
        self.info(name)?;
        self.raw(name, rows).map(Cow::Borrowed)
    }
    fn arrives(&self) -> bool {
        matches!(&self.bytes, Bytes::Stream(kept) if kept.is_empty())
    }
}

impl ModelSource {
    /// The bytes of some rows of a tensor as they lie in the file.
    fn raw(&self, name: &str, rows: Range<usize>) -> Result<&[u8]> {
        let lacks = || Error::file(&self.path, format!("lacks tensor \"{name}\""));
        let (at, _file) = *self.index.get(name).ok_or_else(lacks)?;
        let t = &self.tensors[at];
        let row = t.bytes / t.shape.first().copied().unwrap_or(1).max(1);
        let (from, to) = (t.offset + rows.start as u64 * row, t.offset + rows.end as u64 * row);
        if rows.start > rows.end || to > t.offset + t.bytes {
            return Err(Error::file(
                &self.path,
                format!("rows {rows:?} are outside of tensor \"{name}\" {:?}", t.shape),
            ));
        }
        let bytes = match &self.bytes {
            #[cfg(not(target_arch = "wasm32"))]
            Bytes::Mapped(files) => &files[_file][from as usize..to as usize],
            Bytes::Stream(kept) => {
                let whole = kept
                    .get(&at)
                    .ok_or_else(|| Error::file(&self.path, format!("tensor \"{name}\" has not arrived")))?;
                &whole[(from - t.offset) as usize..(to - t.offset) as usize]
            }
        };
        Ok(bytes)
    }
}

/// An array of a tensor, whole: for small ones and for tests.
pub fn read_array(weights: &dyn Weights, name: &str) -> Result<Array> {
    let ty = weights.info(name)?;
    let shape = ty.shape.known().unwrap_or_default();
    let bytes = weights.read(name, 0..shape.first().copied().unwrap_or(1))?;
    Array::new(ty.dtype, &shape, bytes.into_owned())
}

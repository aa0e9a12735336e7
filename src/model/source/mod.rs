//! Model files on disk, the one place below the session that does I/O.

mod fetch;

pub use fetch::{Fetcher, Progress};

use super::gguf::Gguf;
use super::safetensors;
use super::tensor::{TensorInfo, TensorType};
use crate::base::{Array, Error, Result, Type, Weights};
use memmap2::Mmap;
use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A model: one .gguf file, or a folder with config.json, tokenizer.json and model.safetensors.
pub struct ModelSource {
    path: PathBuf,
    files: Vec<(PathBuf, Mmap)>,
    tensors: Vec<TensorInfo>,
    /// Name → (index into `tensors`, file).
    index: HashMap<String, (usize, usize)>,
    gguf: Option<Gguf>,
    side: HashMap<String, Vec<u8>>,
}

/// Small files of a folder that are read whole, and the most bytes of each.
const SIDE_FILES: &[&str] = &["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja", "1_Pooling/config.json"];
const MAX_SIDE: u64 = 256 << 20;

impl ModelSource {
    /// # Errors
    /// A path that is neither, a folder that lacks a file, a file that is not what it should be.
    pub fn open(path: impl AsRef<Path>) -> Result<ModelSource> {
        let path = path.as_ref();
        let meta = std::fs::metadata(path).map_err(|e| Error::file(path, format!("cannot be opened: {e}")))?;
        if meta.is_dir() { ModelSource::folder(path) } else { ModelSource::file(path) }
    }

    fn file(path: &Path) -> Result<ModelSource> {
        let map = map(path)?;
        let text = path.display().to_string();
        if map.get(..4) != Some(b"GGUF") {
            return Err(Error::file(path, "is not a GGUF file: give a .gguf, or a folder with config.json, tokenizer.json and model.safetensors"));
        }
        let gguf = Gguf::parse(&map, &text)?;
        let tensors = gguf.tensors.clone();
        let index = tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), (i, 0))).collect();
        Ok(ModelSource { path: path.into(), files: vec![(path.into(), map)], tensors, index, gguf: Some(gguf), side: HashMap::new() })
    }

    fn folder(path: &Path) -> Result<ModelSource> {
        let mut side = HashMap::new();
        for name in SIDE_FILES {
            let file = path.join(name);
            match std::fs::metadata(&file) {
                Ok(m) if !m.is_file() => return Err(Error::file(&file, "is not a regular file")),
                Ok(m) if m.len() > MAX_SIDE => return Err(Error::file(&file, format!("has {} bytes, at most {MAX_SIDE} are read", m.len()))),
                Ok(_) => {
                    side.insert(name.to_string(), std::fs::read(&file).map_err(|e| Error::file(&file, format!("cannot be read: {e}")))?);
                }
                Err(_) if *name == "config.json" || *name == "tokenizer.json" => {
                    return Err(Error::file(path, format!("lacks {name}: a model folder has config.json, tokenizer.json and model.safetensors")));
                }
                Err(_) => {}
            }
        }
        let mut source = ModelSource { path: path.into(), files: vec![], tensors: vec![], index: HashMap::new(), gguf: None, side };
        for file in weight_files(path)? {
            let map = map(&file)?;
            for tensor in safetensors::parse(&map, &file.display().to_string())? {
                let at = (source.tensors.len(), source.files.len());
                if source.index.insert(tensor.name.clone(), at).is_some() {
                    return Err(Error::file(&file, format!("tensor \"{}\" is in two files", tensor.name)));
                }
                source.tensors.push(tensor);
            }
            source.files.push((file, map));
        }
        Ok(source)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.index.get(name).map(|(i, _)| &self.tensors[*i])
    }
    pub fn gguf(&self) -> Option<&Gguf> {
        self.gguf.as_ref()
    }
    /// A small file of a model folder, such as `tokenizer.json`.
    pub fn side_file(&self, name: &str) -> Option<&[u8]> {
        self.side.get(name).map(Vec::as_slice)
    }
    /// config.json of a model folder.
    pub fn config(&self) -> Result<Option<serde_json::Value>> {
        let Some(bytes) = self.side_file("config.json") else { return Ok(None) };
        let parsed = serde_json::from_slice(bytes);
        parsed.map(Some).map_err(|e| Error::file(self.path.join("config.json"), format!("is not valid JSON: {e}")))
    }
    /// Bytes of all tensors.
    pub fn weight_bytes(&self) -> u64 {
        self.tensors.iter().map(|t| t.bytes).sum()
    }
}

impl Weights for ModelSource {
    fn info(&self, name: &str) -> Result<Type> {
        let t = self.tensor(name).ok_or_else(|| Error::file(&self.path, format!("lacks tensor \"{name}\"")))?;
        let dtype = t.ty.dtype().ok_or_else(|| {
            Error::file(&self.path, format!("tensor \"{name}\" is {}: f32, f16, bf16, q4_0, q4_1 and q8_0 can be run, requantise the file", t.ty.name()))
        })?;
        let shape: Vec<i64> = t.shape.iter().map(|d| *d as i64).collect();
        Ok(Type::new(dtype, shape.as_slice()))
    }

    fn read(&self, name: &str, rows: Range<usize>) -> Result<Cow<'_, [u8]>> {
        self.info(name)?;
        let (at, file) = self.index[name];
        let t = &self.tensors[at];
        let row = t.bytes / t.shape.first().copied().unwrap_or(1).max(1);
        let (from, to) = (t.offset + rows.start as u64 * row, t.offset + rows.end as u64 * row);
        if rows.start > rows.end || to > t.offset + t.bytes {
            return Err(Error::file(&self.path, format!("rows {rows:?} are outside of tensor \"{name}\" {:?}", t.shape)));
        }
        let bytes = &self.files[file].1[from as usize..to as usize];
        Ok(match t.ty {
            // The upper half of an f32.
            TensorType::Bf16 => bytes.chunks_exact(2).flat_map(|b| [0, 0, b[0], b[1]]).collect(),
            _ => Cow::Borrowed(bytes),
        })
    }
}

/// The safetensors files of a folder: one, or those that the index names.
fn weight_files(path: &Path) -> Result<Vec<PathBuf>> {
    let single = path.join("model.safetensors");
    if single.exists() {
        return Ok(vec![single]);
    }
    let index = path.join("model.safetensors.index.json");
    let Ok(bytes) = std::fs::read(&index) else {
        return Err(Error::file(path, "lacks model.safetensors: a model folder has config.json, tokenizer.json and model.safetensors"));
    };
    let json: serde_json::Value = serde_json::from_slice(&bytes).map_err(|e| Error::file(&index, format!("is not valid JSON: {e}")))?;
    let map = json.get("weight_map").and_then(|m| m.as_object()).ok_or_else(|| Error::file(&index, "lacks weight_map"))?;
    let mut names: Vec<&str> = map.values().filter_map(|v| v.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    match names.iter().find(|n| n.contains(['/', '\\']) || n.starts_with('.')) {
        Some(name) => Err(Error::file(&index, format!("names the file \"{name}\" outside of its folder"))),
        None => Ok(names.iter().map(|n| path.join(n)).collect()),
    }
}

fn map(path: &Path) -> Result<Mmap> {
    // A pipe or a device would be waited for without end.
    let meta = std::fs::metadata(path).map_err(|e| Error::file(path, format!("cannot be opened: {e}")))?;
    if !meta.is_file() {
        return Err(Error::file(path, "is not a regular file"));
    }
    let file = std::fs::File::open(path).map_err(|e| Error::file(path, format!("cannot be opened: {e}")))?;
    // SAFETY: the file is only read. Another process that cuts it while it is mapped would end this one, as with
    // every mapped file; model files are written under another name and renamed when whole.
    unsafe { Mmap::map(&file) }.map_err(|e| Error::file(path, format!("cannot be mapped: {e}")))
}

/// An array of a tensor, whole: for small ones and for tests.
pub fn read_array(weights: &dyn Weights, name: &str) -> Result<Array> {
    let ty = weights.info(name)?;
    let shape = ty.shape.known().unwrap_or_default();
    let bytes = weights.read(name, 0..shape.first().copied().unwrap_or(1))?;
    Array::new(ty.dtype, &shape, bytes.into_owned())
}

//! Models on disk: files are mapped, so that only what is read is loaded.

use super::{Bytes, MAX_SIDE, ModelSource, SIDE_FILES};
use crate::base::{Error, Result};
use crate::model::gguf::Gguf;
use crate::model::safetensors;
use memmap2::Mmap;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

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
        Ok(ModelSource { path: path.into(), bytes: Bytes::Mapped(vec![map]), tensors, index, gguf: Some(gguf), side: HashMap::new() })
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
        let mut source = ModelSource { path: path.into(), bytes: Bytes::Mapped(vec![]), tensors: vec![], index: HashMap::new(), gguf: None, side };
        let mut maps = vec![];
        for file in weight_files(path)? {
            let map = map(&file)?;
            for tensor in safetensors::parse(&map, &file.display().to_string())? {
                let at = (source.tensors.len(), maps.len());
                if source.index.insert(tensor.name.clone(), at).is_some() {
                    return Err(Error::file(&file, format!("tensor \"{}\" is in two files", tensor.name)));
                }
                source.tensors.push(tensor);
            }
            maps.push(map);
        }
        source.bytes = Bytes::Mapped(maps);
        Ok(source)
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

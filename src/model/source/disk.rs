//! Models on disk: files are mapped, so that only what is read is loaded.

use super::{Bytes, MAX_SIDE, ModelSource, SIDE_FILES};
use crate::base::{Error, Result};
use crate::model::TensorInfo;
use crate::model::gguf::Gguf;
use crate::model::safetensors::{self, Index};
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
            let hint = "give a .gguf, or a folder with config.json, tokenizer.json and model.safetensors";
            let what = mistaken(&map).unwrap_or_else(|| "is not a GGUF file".into());
            return Err(Error::file(path, format!("{what}: {hint}")));
        }
        let gguf = Gguf::parse(&map, &text)?;
        let mut source = ModelSource {
            path: path.into(),
            files: vec![],
            bytes: Bytes::Mapped(vec![]),
            tensors: vec![],
            index: HashMap::new(),
            gguf: None,
            side: HashMap::new(),
            ends: vec![],
        };
        let part = gguf.part(&text)?;
        source.add_part(path, map, &gguf.tensors)?;
        if let Some((no, count)) = part {
            source.add_others(path, no, count)?;
        }
        source.gguf = Some(gguf);
        Ok(source)
    }

    /// The other parts of a model whose first part is at `path`.
    fn add_others(&mut self, path: &Path, no: u64, count: u64) -> Result<()> {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let ending = |i: u64| format!("-{:05}-of-{count:05}.gguf", i + 1);
        let Some(stem) = name.strip_suffix(&ending(no)) else {
            let what = format!("is part {} of {count}, but its name does not end in {}: rename it", no + 1, ending(no));
            return Err(Error::file(path, what));
        };
        if no > 0 {
            return Err(Error::file(path, format!("is part {} of {count}: open {stem}{}", no + 1, ending(0))));
        }
        for i in 1..count {
            let other = path.with_file_name(format!("{stem}{}", ending(i)));
            if !other.is_file() {
                return Err(Error::file(&other, format!("is missing: it is part {} of {count} of the model", i + 1)));
            }
            let (map, text) = (map(&other)?, other.display().to_string());
            let gguf = Gguf::parse(&map, &text)?;
            if gguf.part(&text)? != Some((i, count)) {
                return Err(Error::file(&other, format!("is not part {} of {count}, as its name says", i + 1)));
            }
            self.add_part(&other, map, &gguf.tensors)?;
        }
        Ok(())
    }

    fn add_part(&mut self, path: &Path, map: Mmap, tensors: &[TensorInfo]) -> Result<()> {
        let number = self.files.len();
        for t in tensors {
            if self.index.insert(t.name.clone(), (self.tensors.len(), number)).is_some() {
                return Err(Error::file(path, format!("tensor \"{}\" is in another part, too", t.name)));
            }
            self.tensors.push(t.clone());
        }
        self.files.push(path.into());
        if let Bytes::Mapped(files) = &mut self.bytes {
            files.push(map);
        }
        Ok(())
    }

    /// The first bytes of the first file.
    pub fn head(&self) -> Option<&[u8]> {
        match &self.bytes {
            Bytes::Mapped(files) => files.first().map(|m| &m[..]),
            Bytes::Stream(_) => None,
        }
    }

    fn folder(path: &Path) -> Result<ModelSource> {
        let mut side = HashMap::new();
        for name in SIDE_FILES {
            let file = path.join(name);
            match std::fs::metadata(&file) {
                Ok(m) if !m.is_file() => return Err(Error::file(&file, "is not a regular file")),
                Ok(m) if m.len() > MAX_SIDE => {
                    return Err(Error::file(&file, format!("has {} bytes, at most {MAX_SIDE} are read", m.len())));
                }
                Ok(_) => {
                    let bytes = std::fs::read(&file).map_err(|e| Error::file(&file, format!("cannot be read: {e}")))?;
                    if let Some(what) = mistaken(&bytes).filter(|_| name.ends_with(".json")) {
                        return Err(Error::file(&file, format!("{what}: download it again")));
                    }
                    side.insert(name.to_string(), bytes);
                }
                Err(_) if *name == "config.json" => {
                    let what = match path.join("adapter_config.json").exists() {
                        true => {
                            "is an adapter (LoRA) without its base: merge it into the base model first, and give that"
                                .into()
                        }
                        false => format!(
                            "lacks {name}: a model folder has config.json, tokenizer.json and model.safetensors"
                        ),
                    };
                    return Err(Error::file(path, what));
                }
                Err(_) => {}
            }
        }
        let mut source = ModelSource {
            path: path.into(),
            files: vec![],
            bytes: Bytes::Mapped(vec![]),
            tensors: vec![],
            index: HashMap::new(),
            gguf: None,
            side,
            ends: vec![],
        };
        let (files, index) = weight_files(path)?;
        let mut maps = vec![];
        for file in &files {
            let map = map(file)?;
            if let Some(what) = mistaken(&map) {
                return Err(Error::file(file, format!("{what}: download it again")));
            }
            for tensor in safetensors::parse(&map, &file.display().to_string())? {
                let at = (source.tensors.len(), maps.len());
                if source.index.insert(tensor.name.clone(), at).is_some() {
                    return Err(Error::file(file, format!("tensor \"{}\" is in two files", tensor.name)));
                }
                source.tensors.push(tensor);
            }
            maps.push(map);
        }
        source.bytes = Bytes::Mapped(maps);
        if let Some(index) = index {
            let names: Vec<_> =
                files.iter().map(|f| f.file_name().unwrap_or_default().to_string_lossy().into_owned()).collect();
            index.check(|tensor| source.index.get(tensor).map(|at| names[at.1].as_str()))?;
        }
        Ok(source)
    }
}

/// The safetensors files of a folder: one, or those that an index names.
fn weight_files(path: &Path) -> Result<(Vec<PathBuf>, Option<Index>)> {
    let single = path.join("model.safetensors");
    if single.exists() {
        return Ok((vec![single], None));
    }
    let file = path.join(safetensors::INDEX);
    match std::fs::metadata(&file) {
        Err(_) => {
            return Err(Error::file(
                path,
                "lacks model.safetensors: a model folder has config.json, tokenizer.json and model.safetensors",
            ));
        }
        Ok(m) if !m.is_file() => return Err(Error::file(&file, "is not a regular file")),
        Ok(m) if m.len() > MAX_SIDE => {
            return Err(Error::file(&file, format!("has {} bytes, at most {MAX_SIDE} are read", m.len())));
        }
        Ok(_) => {}
    }
    let bytes = std::fs::read(&file).map_err(|e| Error::file(&file, format!("cannot be read: {e}")))?;
    let index = Index::parse(&bytes, &file.display().to_string())?;
    let files = index.files().into_iter().map(|n| path.join(n)).collect();
    Ok((files, Some(index)))
}

/// What a file is that is not what its name says, where its first bytes tell.
fn mistaken(bytes: &[u8]) -> Option<String> {
    let head = &bytes[..bytes.len().min(512)];
    let text = String::from_utf8_lossy(head).trim_start_matches('\u{feff}').trim_start().to_lowercase();
    let is = |what: &str| Some(what.to_string());
    match head {
        [] => is("is empty"),
        _ if text.starts_with("version https://git-lfs") => {
            is("is a Git LFS pointer, not the file itself (git lfs pull fetches it)")
        }
        _ if text.starts_with("<!doctype html") || text.starts_with("<html") => {
            is("is an HTML page, not a model (the link leads to a page about the file)")
        }
        _ if text.starts_with("<?xml") => is("is an XML page, not a model (a server's message)"),
        [b'P', b'K', 3, 4, ..] => {
            is("is a zip archive or a PyTorch file, not a model that can be read (safetensors and GGUF can)")
        }
        [b't', b'j', b'g', b'g', ..] | [b'f', b'm', b'g', b'g', ..] | [b'l', b'm', b'g', b'g', ..] => {
            is("is a GGML file of before GGUF, which no program reads any more (download the model anew)")
        }
        _ => None,
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

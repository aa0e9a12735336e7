//! Models on disk: files are mapped, so that only what is read is loaded.

use super::{Bytes, MAX_SIDE, ModelSource, SIDE_FILES};
use crate::base::{Error, Result};
use crate::model::TensorInfo;
use crate::model::gguf::Gguf;
use crate::model::safetensors::{self, Index};
use memmap2::Mmap;
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
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
            packed: HashMap::new(),
            scale_block: [1, 1],
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
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn head(&self) -> Option<&[u8]> {
        match &self.bytes {
            Bytes::Mapped(files) => files.first().map(|m| &m[..]),
            Bytes::Stream(_) => None,
        }
    }

    fn folder(path: &Path) -> Result<ModelSource> {
        let mut side = HashMap::new();
        for name in SIDE_FILES {
            match small_file(&path.join(name))? {
                Some(bytes) => {
                    side.insert(name.to_string(), bytes);
                }
                None if *name == "config.json" => {
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
                None => {}
            }
        }
        let modules = module_folders(path, &mut side)?;
        let mut source = ModelSource {
            path: path.into(),
            files: vec![],
            bytes: Bytes::Mapped(vec![]),
            tensors: vec![],
            index: HashMap::new(),
            gguf: None,
            side,
            ends: vec![],
            packed: HashMap::new(),
            scale_block: [1, 1],
        };
        let (files, index) = weight_files(path)?;
        for file in &files {
            source.add_safetensors(file, "")?;
        }
        for folder in &modules {
            source.add_safetensors(&path.join(folder).join("model.safetensors"), &format!("{folder}/"))?;
        }
        source.pack();
        if let Some(index) = index {
            let names: Vec<_> =
                files.iter().map(|f| f.file_name().unwrap_or_default().to_string_lossy().into_owned()).collect();
            index.check(|tensor| source.index.get(tensor).and_then(|at| names.get(at.1)).map(String::as_str))?;
        }
        Ok(source)
    }

    /// The tensors of a file, with `prefix` before their names.
    fn add_safetensors(&mut self, file: &Path, prefix: &str) -> Result<()> {
        let Bytes::Mapped(maps) = &mut self.bytes else { return Ok(()) };
        let map = map(file)?;
        if let Some(what) = mistaken(&map) {
            return Err(Error::file(file, format!("{what}: download it again")));
        }
        for mut tensor in safetensors::parse(&map, &file.display().to_string())? {
            tensor.name.insert_str(0, prefix);
            let at = (self.tensors.len(), maps.len());
            if self.index.insert(tensor.name.clone(), at).is_some() {
                return Err(Error::file(file, format!("tensor \"{}\" is in two files", tensor.name)));
            }
            self.tensors.push(tensor);
        }
        maps.push(map);
        Ok(())
    }
}

/// The most modules that a modules.json may name.
const MAX_MODULES: usize = 64;

/// Reads the configurations of the folders that modules.json names; gives those that have weights.
fn module_folders(path: &Path, side: &mut HashMap<String, Vec<u8>>) -> Result<Vec<String>> {
    let Some(bytes) = side.get("modules.json") else { return Ok(vec![]) };
    let file = path.join("modules.json");
    let wrong = |what: String| Error::file(&file, what);
    let list = crate::base::json::parse(bytes).map_err(|e| wrong(format!("is not valid JSON: {e}")))?;
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    if list.len() > MAX_MODULES {
        return Err(wrong(format!("names {} modules, up to {MAX_MODULES} are read", list.len())));
    }
    let mut with_weights = vec![];
    for folder in list.iter().filter_map(|m| m.get("path")?.as_str()).filter(|p| !p.is_empty()) {
        if folder.contains(['/', '\\', ':']) || folder.starts_with('.') || folder.len() > 100 {
            return Err(wrong(format!("names the folder \"{folder}\", which is not one beside it")));
        }
        let own = path.join(folder);
        if let Some(bytes) = small_file(&own.join("config.json"))? {
            side.insert(format!("{folder}/config.json"), bytes);
        }
        if own.join("model.safetensors").exists() {
            with_weights.push(folder.to_string());
        } else if own.join("pytorch_model.bin").exists() {
            return Err(Error::file(&own, "has its weights as pytorch_model.bin only: save them as model.safetensors"));
        }
    }
    Ok(with_weights)
}

/// A file that is read whole, if it is there.
fn small_file(file: &Path) -> Result<Option<Vec<u8>>> {
    if std::fs::metadata(file).is_err() {
        return Ok(None);
    }
    let (opened, size) = open(file)?;
    let mut bytes = vec![];
    let read = opened.take(MAX_SIDE + 1).read_to_end(&mut bytes);
    read.map_err(|e| Error::file(file, format!("cannot be read: {e}")))?;
    if bytes.len() as u64 > MAX_SIDE {
        return Err(Error::file(file, format!("has {size} bytes, at most {MAX_SIDE} are read")));
    }
    if let Some(what) = mistaken(&bytes).filter(|_| file.extension().is_some_and(|e| e == "json")) {
        return Err(Error::file(file, format!("{what}: download it again")));
    }
    Ok(Some(bytes))
}

/// A regular file, opened once, and its size: what is looked at is what is read.
fn open(path: &Path) -> Result<(File, u64)> {
    let fail = |e: std::io::Error| Error::file(path, format!("cannot be opened: {e}"));
    let regular = |m: &std::fs::Metadata| match m.is_file() {
        true => Ok(m.len()),
        false => Err(Error::file(path, "is not a regular file")),
    };
    // A pipe or a device would be waited for without end.
    regular(&std::fs::metadata(path).map_err(fail)?)?;
    let file = File::open(path).map_err(fail)?;
    let size = regular(&file.metadata().map_err(fail)?)?;
    Ok((file, size))
}

/// The safetensors files of a folder: one, or those that an index names.
fn weight_files(path: &Path) -> Result<(Vec<PathBuf>, Option<Index>)> {
    let single = path.join("model.safetensors");
    if single.exists() {
        return Ok((vec![single], None));
    }
    let file = path.join(safetensors::INDEX);
    let lacks = "lacks model.safetensors: a model folder has config.json, tokenizer.json and model.safetensors";
    let bytes = small_file(&file)?.ok_or_else(|| Error::file(path, lacks))?;
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
    let (file, _) = open(path)?;
    // SAFETY: the file is only read. Another process that cuts it while it is mapped would end this one, as with
    // every mapped file; model files are written under another name and renamed when whole.
    unsafe { Mmap::map(&file) }.map_err(|e| Error::file(path, format!("cannot be mapped: {e}")))
}

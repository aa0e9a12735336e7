//! Which model `simulate` prices: a preset, a config.json, a model file, or one of the catalogue. Only sizes are read.

use super::Simulate;
use crate::base::{Error, Result};
use crate::cli::{fetch, interrupt::Interrupt};
use crate::model::catalogue;
use crate::model::gguf::{Gguf, Value};
use crate::simulate::config::{from_config, from_metadata};
use crate::simulate::{self, Shape};
use serde_json::json;
use std::io::Read;
use std::path::Path;

/// A config is small, and so is a header beside its weights.
const MOST_CONFIG: u64 = 16 << 20;
const MOST_HEADER: u64 = 256 << 20;

impl Simulate {
    pub fn shape(&self) -> Result<Shape> {
        let shape = self.named()?;
        match self.layers {
            Some(0) => Err(Error::usage("--layers is 0, must be 1 or more")),
            Some(n) => Ok(Shape { layers: n, dense_layers: shape.dense_layers.min(n), ..shape }),
            None => Ok(shape),
        }
    }

    fn named(&self) -> Result<Shape> {
        let path = Path::new(&self.model);
        if path.exists()
            || self.model.contains(['/', '\\'])
            || [".gguf", ".json"].iter().any(|e| self.model.ends_with(e))
        {
            return file(path);
        }
        match simulate::preset(&self.model) {
            Ok(shape) => Ok(shape),
            Err(_) if catalogue::find(&self.model).is_ok() => {
                file(&fetch::resolve(&self.model, &self.plans.cache, &Interrupt::new())?)
            }
            Err(e) => {
                let more: Vec<String> = catalogue::entries().into_iter().map(|e| e.name).collect();
                Err(Error::usage(format!(
                    "{e}; of the catalogue {}; or give a config.json or .gguf file",
                    more.join(", ")
                )))
            }
        }
    }
}

fn read(path: &Path, most: u64) -> Result<(Vec<u8>, u64)> {
    let fail = |e: std::io::Error| Error::file(path, format!("cannot be read: {e}"));
    // A pipe would be waited for without end.
    let meta = std::fs::metadata(path).map_err(fail)?;
    if !meta.is_file() {
        return Err(Error::file(path, "is not a regular file"));
    }
    let file = std::fs::File::open(path).map_err(fail)?;
    let mut bytes = vec![];
    file.take(most).read_to_end(&mut bytes).map_err(fail)?;
    Ok((bytes, meta.len()))
}

fn file(path: &Path) -> Result<Shape> {
    let config = path.join("config.json");
    let path = if path.is_dir() { config.as_path() } else { path };
    let named = path.file_name().filter(|n| *n != "config.json").or(path.parent().and_then(Path::file_name));
    let name = named.map_or("model".into(), |n| n.to_string_lossy().into_owned());
    if path.extension().is_some_and(|e| e == "json") {
        let (bytes, size) = read(path, MOST_CONFIG)?;
        if size > MOST_CONFIG {
            return Err(Error::file(path, format!("has {size} bytes: no config.json is larger than {MOST_CONFIG}")));
        }
        let json =
            crate::base::json::parse(&bytes).map_err(|e| Error::file(path, format!("is not valid JSON: {e}")))?;
        return from_config(&json, &name);
    }
    let (bytes, _) = read(path, MOST_HEADER)?;
    // The weights may be missing: a header is enough.
    let parsed = Gguf::parse_head(&bytes, 1 << 50, &path.display().to_string())?;
    let gguf = parsed.ok_or_else(|| Error::file(path, "ends within its header, or its header is beyond 256 MiB"))?;
    let get = |key: &str| {
        gguf.get(key).and_then(|v| match v {
            Value::Text(t) => Some(json!(t)),
            // Sizes that differ by layer: their mean prices as well.
            Value::Ints(v) if !v.is_empty() => Some(json!((v.iter().sum::<i64>() as f64 / v.len() as f64).round())),
            other => other.float().map(|f| json!(f)),
        })
    };
    let rows = |name: &str| gguf.tensors.iter().find(|t| t.name == name).and_then(|t| t.shape.first().copied());
    let vocab = rows("token_embd.weight")
        .ok_or_else(|| Error::file(path, "lacks tensor \"token_embd.weight\", whose rows are the vocabulary"))?;
    from_metadata(&get, &name, usize::try_from(vocab).unwrap_or(usize::MAX), rows("output.weight").is_none())
}

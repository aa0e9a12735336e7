//! Models in other formats: a GGUF file read, its matrices encoded anew, and written.

use crate::base::{DType, Error, Result, Weights};
use crate::format::{self, Mix};
use crate::model::ModelSource;
use crate::model::write::{Planned, head};
use rayon::prelude::*;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Elements of a tensor that are decoded at a time.
const STEP: usize = 4 << 20;

/// What became of one tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantised {
    pub name: String,
    pub shape: Vec<u64>,
    pub from: DType,
    pub to: DType,
    /// Root of the mean square of what was lost, and of the values themselves.
    pub error: f64,
    pub size: f64,
}

/// Bytes of all tensors before and after, and their elements.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sizes {
    pub before: u64,
    pub after: u64,
    pub elements: u64,
}

/// Writes the model of a GGUF file in the formats of `mix` to `output`, which is there whole or not at all; `tell` hears of each
/// tensor.
///
/// # Errors
/// A model that is no GGUF file or of types that cannot be read; `output` that is the file read; values that are not finite; a disk
/// that is full.
pub fn quantize(
    input: &Path,
    output: &Path,
    mix: &Mix,
    tell: &mut dyn FnMut(&Quantised) -> Result<()>,
) -> Result<Sizes> {
    let source = ModelSource::open(input)?;
    let Some(gguf) = source.gguf() else {
        return Err(Error::file(input, "is a folder: quantize reads .gguf files, convert the folder to one first"));
    };
    let same = |p: &Path| std::fs::canonicalize(p).is_ok_and(|p| std::fs::canonicalize(output).is_ok_and(|o| o == p));
    if source.files().iter().any(|p| same(p)) {
        return Err(Error::file(output, "is the file that is read: give another name"));
    }
    let architecture = gguf.get("general.architecture").and_then(|v| v.text()).unwrap_or_default();
    let layers = gguf.get(&format!("{architecture}.block_count")).and_then(|v| v.int()).unwrap_or(0).max(0) as usize;
    let mut planned = vec![];
    for t in source.tensors() {
        let from = source.info(&t.name)?.dtype;
        let dtype = mix.of(&t.name, &t.shape, layers).unwrap_or(from);
        planned.push(Planned { name: t.name.clone(), dtype, shape: t.shape.clone() });
    }
    let (first, starts) = head(gguf, source.head().unwrap_or_default(), &planned, mix.file_type)?;
    let fresh = Fresh::new(output)?;
    let mut out = BufWriter::with_capacity(1 << 20, &fresh.file);
    let told = |e: std::io::Error| Error::file(output, format!("cannot be written: {e}"));
    out.write_all(&first).map_err(told)?;
    let (mut sizes, mut at) = (Sizes::default(), 0u64);
    for (p, start) in planned.iter().zip(starts) {
        out.write_all(&vec![0; (start - at) as usize]).map_err(told)?;
        at = start;
        let done = encode(&source, p, &mut |bytes| {
            at += bytes.len() as u64;
            out.write_all(bytes).map_err(told)
        })?;
        sizes.before += source.tensor(&p.name).map_or(0, |t| t.bytes);
        sizes.after += at - start;
        sizes.elements += p.shape.iter().product::<u64>();
        tell(&done)?;
    }
    out.flush().map_err(told)?;
    drop(out);
    fresh.keep(output)?;
    Ok(sizes)
}

/// Encodes a tensor piece by piece.
fn encode(source: &ModelSource, to: &Planned, write: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<Quantised> {
    let from = source.info(&to.name)?.dtype;
    let rows = to.shape.first().copied().unwrap_or(1) as usize;
    let inner = to.shape.iter().skip(1).product::<u64>().max(1) as usize;
    let (mut lost, mut all, mut count) = (0.0, 0.0, 0u64);
    // Rows of a vector are single elements; blocks stay whole.
    let step = (STEP / inner).max(1).next_multiple_of(if inner == 1 { from.block() } else { 1 });
    for first in (0..rows).step_by(step) {
        let bytes = source.read(&to.name, first..(first + step).min(rows))?;
        if from == to.dtype {
            write(&bytes)?;
            continue;
        }
        let values = format::decode(from, &bytes);
        if let Some(i) = values.iter().position(|x| !x.is_finite()) {
            let what = format!("element {} is {}: it has no value in {}", first * inner + i, values[i], to.dtype);
            return Err(Error::op("quantize", &to.name, what));
        }
        // Pieces of whole blocks.
        let piece = (1 << 16) / to.dtype.block() * to.dtype.block();
        let made: Vec<(Vec<u8>, f64, f64)> = values.par_chunks(piece).map(|v| one(to.dtype, v)).collect();
        for (bytes, error, size) in made {
            write(&bytes)?;
            (lost, all) = (lost + error, all + size);
        }
        count += values.len() as u64;
    }
    let root = |sum: f64| (sum / count.max(1) as f64).sqrt();
    let (error, size) = (root(lost), root(all));
    Ok(Quantised { name: to.name.clone(), shape: to.shape.clone(), from, to: to.dtype, error, size })
}

/// The blocks of values, and the sums of the squares of what they lose and of the values.
fn one(dtype: DType, values: &[f32]) -> (Vec<u8>, f64, f64) {
    let bytes = format::encode(dtype, values);
    let back = format::decode(dtype, &bytes);
    let lost = values.iter().zip(&back).map(|(a, b)| (*a as f64 - *b as f64).powi(2)).sum();
    (bytes, lost, values.iter().map(|x| (*x as f64).powi(2)).sum())
}

/// A file under another name, which goes unless it is kept.
struct Fresh {
    path: PathBuf,
    file: File,
}

impl Fresh {
    fn new(of: &Path) -> Result<Fresh> {
        let mut name = of.file_name().ok_or_else(|| Error::file(of, "is no name of a file"))?.to_os_string();
        name.push(format!(".part-{}", std::process::id()));
        let path = of.with_file_name(name);
        let file = File::create(&path).map_err(|e| Error::file(&path, format!("cannot be written: {e}")))?;
        Ok(Fresh { path, file })
    }
    fn keep(self, name: &Path) -> Result<()> {
        let told = |e: std::io::Error| Error::file(name, format!("cannot be written: {e}"));
        self.file.sync_all().map_err(told)?;
        std::fs::rename(&self.path, name).map_err(told)
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

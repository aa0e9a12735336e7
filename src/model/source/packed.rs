//! Tensors that a model folder holds in pieces: quants of 8 or 4 bits in one, and their scales in another.

use super::ModelSource;
use crate::base::{Array, DType, Error, Result, Type, Weights};
use crate::format;
use crate::model::tensor::{TensorInfo, TensorType};
use std::ops::Range;

/// One tensor of several.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Packed {
    /// Floats of 8 bits, each times a scale: of the whole, of its row, or of its block.
    Float8 { quants: String, scales: Option<String> },
    /// Floats of 4 bits, 32 to a power of two, as gpt-oss ships them.
    Microscaled { blocks: String, scales: String },
}

/// What the type is called in a file (Micikevicius et al., 2022).
pub const FLOAT8: &str = "f8_e4m3";

/// What stands behind the name of a matrix in the name of its scales, by who wrote the file.
#[cfg(not(target_arch = "wasm32"))]
const SCALES: [&str; 2] = ["_scale_inv", "_scale"];

/// Rows and columns of a block where config.json does not say.
#[cfg(not(target_arch = "wasm32"))]
const BLOCK: [usize; 2] = [128, 128];

impl ModelSource {
    /// Finds tensors that are in pieces.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn pack(&mut self) {
        let bytes = |t: &TensorInfo, name: &str| matches!(t.ty, TensorType::Other { name: n, .. } if n == name);
        let mut found = vec![];
        for t in &self.tensors {
            if bytes(t, FLOAT8) {
                let scales = SCALES.map(|s| format!("{}{s}", t.name)).into_iter().find(|n| self.tensor(n).is_some());
                found.push((t.name.clone(), Packed::Float8 { quants: t.name.clone(), scales }));
            }
            if let Some(stem) = t.name.strip_suffix("_blocks").filter(|_| bytes(t, "u8")) {
                let scales = format!("{stem}_scales");
                if self.tensor(&scales).is_some_and(|s| bytes(s, "u8")) {
                    found.push((stem.into(), Packed::Microscaled { blocks: t.name.clone(), scales }));
                }
            }
        }
        let block = self.config().ok().flatten().and_then(|c| {
            let sizes = c.get("quantization_config")?.get("weight_block_size")?.as_array()?.clone();
            let sizes: Option<Vec<usize>> = sizes.iter().map(|n| n.as_u64().map(|n| n as usize)).collect();
            <[usize; 2]>::try_from(sizes?).ok().filter(|s| s.iter().all(|n| *n > 0))
        });
        self.scale_block = block.unwrap_or(BLOCK);
        self.packed.extend(found);
    }

    /// Whether a tensor is made of pieces.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn is_packed(&self, name: &str) -> bool {
        self.packed.contains_key(name)
    }

    /// The tensors of the file that one is made of: itself mostly.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn pieces(&self, name: &str) -> Vec<String> {
        match self.packed.get(name) {
            None => vec![name.into()],
            Some(Packed::Microscaled { blocks, scales }) => vec![blocks.clone(), scales.clone()],
            Some(Packed::Float8 { quants, scales }) => [quants.clone()].into_iter().chain(scales.clone()).collect(),
        }
    }

    /// Weights of all tensors; scales are none.
    pub fn parameters(&self) -> u64 {
        let scales: Vec<&String> = self.packed.values().filter_map(Packed::scales).collect();
        let count = |t: &TensorInfo| {
            let n: u64 = t.shape.iter().product();
            // Two to a byte.
            if t.name.ends_with("_blocks") && self.is_packed(t.name.trim_end_matches("_blocks")) { n * 2 } else { n }
        };
        self.tensors.iter().filter(|t| !scales.contains(&&t.name)).map(count).sum()
    }

    /// Type and shape of a tensor that is made of pieces.
    pub(super) fn packed_info(&self, name: &str) -> Option<Result<Type>> {
        let packed = self.packed.get(name)?;
        let shape = |n: &str| self.tensor(n).map(|t| t.shape.clone()).unwrap_or_default();
        let wrong = |what: String| Some(Err(Error::file(&self.path, format!("tensor \"{name}\" {what}"))));
        let typed = |dtype: DType, shape: &[u64]| {
            Some(Ok(Type::new(dtype, shape.iter().map(|d| *d as i64).collect::<Vec<_>>().as_slice())))
        };
        match packed {
            Packed::Float8 { quants, scales } => {
                let (own, of_scales) = (shape(quants), scales.as_ref().map(|s| shape(s)));
                if own.len() != 2 || own.contains(&0) {
                    return wrong(format!("is {FLOAT8} {own:?}: only matrices can be run"));
                }
                match of_scales {
                    Some(s) if self.scale_cells(&own, &s).is_none() => {
                        let [r, c] = self.scale_block;
                        wrong(format!(
                            "is {own:?} with scales {s:?}: one of all, of each row, or of blocks of {r} by {c} can be run"
                        ))
                    }
                    _ => typed(format::SCALED_FLOAT8, &own),
                }
            }
            Packed::Microscaled { blocks, scales } => {
                let (own, of_scales) = (shape(blocks), shape(scales));
                match own.split_last() {
                    Some((last, rest))
                        if *last == format::MICROSCALED_BYTES as u64
                            && rest == of_scales
                            && rest.len() >= 2
                            && !rest.contains(&0) =>
                    {
                        let mut whole = rest.to_vec();
                        let last = whole.len() - 1;
                        whole[last] *= 32;
                        typed(format::MICROSCALED, &whole)
                    }
                    _ => wrong(format!(
                        "has blocks {own:?} with scales {of_scales:?}: blocks are of 16 bytes with a scale each"
                    )),
                }
            }
        }
    }

    /// Rows and columns of the weights that share a scale.
    fn scale_cells(&self, own: &[u64], scales: &[u64]) -> Option<[usize; 2]> {
        let [rows, cols] = [own[0] as usize, own[1] as usize];
        let [r, c] = self.scale_block;
        match scales {
            [] | [1] | [1, 1] => Some([rows, cols]),
            [n] | [n, 1] if *n as usize == rows => Some([1, cols]),
            [a, b] if *a as usize == rows.div_ceil(r) && *b as usize == cols.div_ceil(c) => Some([r, c]),
            _ => None,
        }
    }

    /// The bytes of some of its rows, in the type that [`ModelSource::packed_info`] gives.
    pub(super) fn packed_read(&self, name: &str, rows: Range<usize>) -> Option<Result<Vec<u8>>> {
        let packed = self.packed.get(name)?;
        let ty = match self.packed_info(name)? {
            Ok(ty) => ty,
            Err(e) => return Some(Err(e)),
        };
        let shape = ty.shape.known().unwrap_or_default();
        if rows.start > rows.end || rows.end > shape[0] {
            return Some(Err(Error::file(
                &self.path,
                format!("rows {rows:?} are outside of tensor \"{name}\" {shape:?}"),
            )));
        }
        Some(match packed {
            Packed::Float8 { quants, scales } => self.float8(quants, scales.as_deref(), &shape, rows),
            Packed::Microscaled { blocks, scales } => self.microscaled(blocks, scales, rows),
        })
    }

    /// Each number times its scale.
    fn float8(&self, quants: &str, scales: Option<&str>, shape: &[usize], rows: Range<usize>) -> Result<Vec<u8>> {
        let own: Vec<u64> = shape.iter().map(|d| *d as u64).collect();
        let (values, cells, across) = match scales {
            None => (vec![1.0], [shape[0], shape[1]], 1),
            Some(name) => {
                let of_scales = self.tensor(name).map(|t| t.shape.clone()).unwrap_or_default();
                let cells = self.scale_cells(&own, &of_scales).unwrap_or([shape[0], shape[1]]);
                let ty = self.info(name)?;
                if !ty.dtype.is_real() {
                    return Err(Error::file(
                        &self.path,
                        format!("tensor \"{name}\" is {}, it must be a plain float type", ty.dtype),
                    ));
                }
                let plain = ty.shape.known().unwrap_or_default();
                let bytes = self.raw(name, 0..plain.first().copied().unwrap_or(1))?.to_vec();
                (Array::new(ty.dtype, &plain, bytes)?.to_f32(), cells, shape[1].div_ceil(cells[1]))
            }
        };
        let bytes = self.raw(quants, rows.clone())?;
        let mut out = Vec::with_capacity(bytes.len() * 2);
        for (row, bytes) in rows.zip(bytes.chunks_exact(shape[1])) {
            for (cell, bytes) in bytes.chunks(cells[1]).enumerate() {
                let scale = values[row / cells[0] * across + cell];
                format::scaled_float8(bytes, scale, &mut out);
            }
        }
        Ok(out)
    }

    /// Blocks of the format.
    fn microscaled(&self, blocks: &str, scales: &str, rows: Range<usize>) -> Result<Vec<u8>> {
        let (nibbles, scales) = (self.raw(blocks, rows.clone())?, self.raw(scales, rows)?);
        let mut out = Vec::with_capacity(nibbles.len() + scales.len());
        format::microscaled(nibbles, scales, &mut out);
        Ok(out)
    }
}

impl Packed {
    fn scales(&self) -> Option<&String> {
        match self {
            Packed::Float8 { scales, .. } => scales.as_ref(),
            Packed::Microscaled { scales, .. } => Some(scales),
        }
    }
}

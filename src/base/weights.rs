//! Where weights are read from, whole or by pieces.

use super::{Array, DType, Error, Part, Result, Seat, Type};
use std::borrow::Cow;
use std::ops::Range;

/// Where a graph's weights come from: a model file, or arrays in memory.
///
/// ```
/// use std::collections::HashMap;
/// use warpweft::{Array, Weights};
///
/// let weights = HashMap::from([("w".to_string(), Array::f32(&[2, 2], &[1.0, 2.0, 3.0, 4.0]))]);
/// assert_eq!(weights.info("w")?.shape.known(), Some(vec![2, 2]));
/// assert!(weights.info("b").is_err());
/// # Ok::<(), warpweft::Error>(())
/// ```
pub trait Weights {
    /// Type and shape of a tensor; an unknown name is an error.
    fn info(&self, name: &str) -> Result<Type>;
    /// The bytes of rows (indices of axis 0) of a tensor, as its type stores them.
    fn read(&self, name: &str, rows: Range<usize>) -> Result<Cow<'_, [u8]>>;
    /// Whether the bytes are not here yet, but arrive in the file's order (a download) and are fed to the device then.
    fn arrives(&self) -> bool {
        false
    }
}

/// Weights in memory, by name.
impl Weights for std::collections::HashMap<String, Array> {
    fn info(&self, name: &str) -> Result<Type> {
        let array = self.get(name).ok_or_else(|| Error::usage(format!("there is no weight \"{name}\"")))?;
        Ok(Type::new(array.dtype, array.shape.as_slice()))
    }
    fn read(&self, name: &str, rows: Range<usize>) -> Result<Cow<'_, [u8]>> {
        self.info(name)?;
        let array = &self[name];
        let row = array.bytes.len() / array.shape.first().copied().unwrap_or(1).max(1);
        let bytes = array.bytes.get(rows.start * row..rows.end * row);
        bytes.map(Cow::Borrowed).ok_or_else(|| Error::usage(format!("rows {rows:?} are outside of weight \"{name}\"")))
    }
}

/// The piece of a tensor that one rank has, read by rows.
pub struct Piece<'a> {
    weights: &'a dyn Weights,
    name: &'a str,
    /// Type and shape of the piece.
    pub dtype: DType,
    pub shape: Vec<usize>,
    first_row: usize,
    /// Bytes of a whole row, and which of them are the piece's.
    columns: Option<(usize, Range<usize>)>,
}

impl<'a> Piece<'a> {
    /// # Errors
    /// A tensor that does not exist; a cut along a third axis, or inside of a quantised block.
    pub fn new(weights: &'a dyn Weights, part: &'a Part, seat: &Seat) -> Result<Piece<'a>> {
        let info = weights.info(&part.name)?;
        let wrong = |what: String| Error::op("weight", &part.name, what);
        let whole = info.shape.known().ok_or_else(|| wrong(format!("{} is not known", info.shape)))?;
        let ranges = part.ranges(&whole, seat);
        let cut = |axis: usize| ranges.get(axis).is_some_and(|r| r.len() != whole[axis]);
        if (2..whole.len()).any(cut) {
            return Err(wrong(format!("{whole:?} can be cut along its first two axes")));
        }
        let mut columns = None;
        if cut(1) {
            let inner: usize = whole[2..].iter().product();
            let bytes = |n: usize| info.dtype.bytes((n * inner) as u64).map(|b| b as usize);
            let (start, end, row) = (bytes(ranges[1].start), bytes(ranges[1].end), bytes(whole[1]));
            let (Some(start), Some(end), Some(row)) = (start, end, row) else {
                return Err(wrong(format!(
                    "columns {:?} end inside of a block of {} {}",
                    ranges[1],
                    info.dtype.block(),
                    info.dtype
                )));
            };
            columns = Some((row, start..end));
        }
        let shape = ranges.iter().map(Range::len).collect();
        Ok(Piece {
            weights,
            name: &part.name,
            dtype: info.dtype,
            shape,
            first_row: ranges.first().map_or(0, |r| r.start),
            columns,
        })
    }

    pub fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }
    /// The tensor's row with which the piece begins.
    pub fn first_row(&self) -> usize {
        self.first_row
    }
    /// Blocks of a whole row of the tensor, and which of them are the piece's.
    pub fn row_blocks(&self) -> (u64, Range<u64>) {
        let size = self.dtype.block_bytes();
        match &self.columns {
            Some((row, columns)) => ((row / size) as u64, (columns.start / size) as u64..(columns.end / size) as u64),
            None => {
                let row = (self.shape.iter().skip(1).product::<usize>() / self.dtype.block()) as u64;
                (row, 0..row)
            }
        }
    }

    /// The bytes of rows of the piece.
    pub fn read(&self, rows: Range<usize>) -> Result<Cow<'a, [u8]>> {
        let bytes = self.weights.read(self.name, self.first_row + rows.start..self.first_row + rows.end)?;
        let Some((row, columns)) = &self.columns else { return Ok(bytes) };
        let mut out = Vec::with_capacity(rows.len() * columns.len());
        bytes.chunks_exact(*row).for_each(|r| out.extend_from_slice(&r[columns.clone()]));
        Ok(Cow::Owned(out))
    }
}

/// All pieces of a weight, one after another along axis 0, as one array.
pub fn read_parts(weights: &dyn Weights, parts: &[Part], ty: &Type, seat: &Seat) -> Result<Array> {
    let names = || parts.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join(" + ");
    let shape = ty.shape.known().ok_or_else(|| Error::op("weight", &names(), format!("{} is not known", ty.shape)))?;
    let mut bytes = vec![];
    for part in parts {
        let piece = Piece::new(weights, part, seat)?;
        if piece.dtype != ty.dtype {
            return Err(Error::op("weight", &part.name, format!("is {}, it must be {}", piece.dtype, ty.dtype)));
        }
        bytes.extend_from_slice(&piece.read(0..piece.rows())?);
    }
    Array::new(ty.dtype, &shape, bytes).map_err(|e| Error::op("weight", &names(), format!("does not fill {ty}: {e}")))
}

/// The piece of an array that a rank has along one axis, by the indices of its cut.
pub fn take(array: &Array, axis: usize, indices: &[u64]) -> Array {
    let size = array.dtype.block_bytes();
    let inner: usize = array.shape[axis + 1..].iter().product::<usize>() * size;
    let outer: usize = array.shape[..axis].iter().product();
    let mut bytes = Vec::with_capacity(outer * inner * indices.len());
    for o in 0..outer {
        for i in indices {
            let at = (o * array.shape[axis] + *i as usize) * inner;
            bytes.extend_from_slice(&array.bytes[at..at + inner]);
        }
    }
    let mut shape = array.shape.clone();
    shape[axis] = indices.len();
    Array { dtype: array.dtype, shape, bytes }
}

//! Tensors that a file holds in another form than layers read them: rows of a matrix of several parts, matrices by columns,
//! norms less one. They are named by what is done: `rows(0..64, NAME)`, `transpose(NAME)`, `plus_one(NAME)`.

use crate::base::{Array, DType, Error, Result, Type, Weights};
use std::borrow::Cow;
use std::ops::Range;

enum Derived<'a> {
    Rows {
        from: usize,
        to: usize,
        of: &'a str,
    },
    Transpose {
        of: &'a str,
    },
    PlusOne {
        of: &'a str,
    },
    /// The same part of every expert, one behind another: `stack(8, NAME.*.NAME)`.
    Stack {
        count: usize,
        of: &'a str,
    },
}

fn parse(name: &str) -> Option<Derived<'_>> {
    let (what, rest) = name.strip_suffix(')')?.split_once('(')?;
    match what {
        "rows" => {
            let (range, of) = rest.split_once(", ")?;
            let (from, to) = range.split_once("..")?;
            Some(Derived::Rows { from: from.parse().ok()?, to: to.parse().ok()?, of })
        }
        "transpose" => Some(Derived::Transpose { of: rest }),
        "plus_one" => Some(Derived::PlusOne { of: rest }),
        "stack" => {
            let (count, of) = rest.split_once(", ")?;
            Some(Derived::Stack { count: count.parse().ok()?, of })
        }
        _ => None,
    }
}

/// Whether a name is of a tensor that must be made of one in the file.
pub fn is_derived(name: &str) -> bool {
    parse(name).is_some()
}

/// The tensors of the file that it is made of.
pub fn origins(name: &str) -> Vec<String> {
    match parse(name) {
        None => vec![name.into()],
        Some(Derived::Rows { of, .. } | Derived::Transpose { of } | Derived::PlusOne { of }) => origins(of),
        Some(Derived::Stack { count, of }) => (0..count).flat_map(|i| origins(&numbered(of, i))).collect(),
    }
}

fn numbered(of: &str, i: usize) -> String {
    of.replacen('*', &i.to_string(), 1)
}

/// Its type and shape, if the name is of such a tensor.
pub fn info(weights: &dyn Weights, name: &str) -> Option<Result<Type>> {
    let derived = parse(name)?;
    Some(info_of(weights, &derived, name))
}

fn info_of(weights: &dyn Weights, derived: &Derived, name: &str) -> Result<Type> {
    let known = |of: &str| -> Result<(DType, Vec<usize>)> {
        let ty = weights.info(of)?;
        Ok((ty.dtype, ty.shape.known().unwrap_or_default()))
    };
    let wrong = |what: String| Error::op("weight", name, what);
    let (dtype, shape) = match derived {
        Derived::Rows { from, to, of } => {
            let (dtype, mut shape) = known(of)?;
            if shape.is_empty() || from >= to || *to > shape[0] {
                return Err(wrong(format!("{shape:?} has no rows {from} to {to}")));
            }
            shape[0] = to - from;
            (dtype, shape)
        }
        Derived::Transpose { of } => {
            let (dtype, shape) = known(of)?;
            if shape.len() != 2 || dtype.is_quantised() {
                return Err(wrong(format!("{dtype} {shape:?} is no plain matrix")));
            }
            (dtype, vec![shape[1], shape[0]])
        }
        Derived::PlusOne { of } => {
            let (dtype, shape) = known(of)?;
            if dtype.is_quantised() || !dtype.is_float() {
                return Err(wrong(format!("is {dtype}, it must be a plain float type")));
            }
            (DType::F32, shape)
        }
        Derived::Stack { count, of } => {
            let (dtype, shape) = known(&numbered(of, 0))?;
            for i in 1..*count {
                if known(&numbered(of, i))? != (dtype, shape.clone()) {
                    return Err(wrong(format!("\"{}\" differs from the first in type or shape", numbered(of, i))));
                }
            }
            (dtype, [&[*count], &shape[..]].concat())
        }
    };
    Ok(Type::new(dtype, shape.as_slice()))
}

/// The bytes of some of its rows.
pub fn read<'a>(weights: &'a dyn Weights, name: &str, rows: Range<usize>) -> Option<Result<Cow<'a, [u8]>>> {
    let derived = parse(name)?;
    Some(read_of(weights, &derived, name, rows))
}

fn read_of<'a>(weights: &'a dyn Weights, derived: &Derived, name: &str, rows: Range<usize>) -> Result<Cow<'a, [u8]>> {
    let ty = info_of(weights, derived, name)?;
    let shape = ty.shape.known().unwrap_or_default();
    if rows.start > rows.end || rows.end > shape.first().copied().unwrap_or(1) {
        return Err(Error::op("weight", name, format!("rows {rows:?} are outside of {shape:?}")));
    }
    match derived {
        Derived::Rows { from, of, .. } => weights.read(of, from + rows.start..from + rows.end),
        Derived::Transpose { of } => {
            let (n, size) = (shape[1], ty.dtype.block_bytes());
            let all = weights.read(of, 0..n)?;
            let mut out = Vec::with_capacity(rows.len() * n * size);
            for column in rows {
                for row in 0..n {
                    let at = (row * shape[0] + column) * size;
                    out.extend_from_slice(&all[at..at + size]);
                }
            }
            Ok(Cow::Owned(out))
        }
        Derived::PlusOne { of } => {
            let from = weights.info(of)?.dtype;
            let bytes = weights.read(of, rows.clone())?.into_owned();
            let mut shape = shape;
            shape[0] = rows.len();
            let values = Array::new(from, &shape, bytes)?.to_f32();
            Ok(Cow::Owned(values.iter().flat_map(|x| (x + 1.0).to_le_bytes()).collect()))
        }
        Derived::Stack { of, .. } => {
            let each = shape.get(1).copied().unwrap_or(1);
            let mut out = vec![];
            for i in rows {
                out.extend_from_slice(&weights.read(&numbered(of, i), 0..each)?);
            }
            Ok(Cow::Owned(out))
        }
    }
}

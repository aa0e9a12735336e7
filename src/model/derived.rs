//! Tensors that a file holds in another form than layers read them: rows of a matrix of several parts, matrices by columns,
//! norms less one. They are named by what is done: `rows(0..64, NAME)`, `transpose(NAME)`, `plus_one(NAME)`.

use crate::base::{Array, DType, Error, Result, Type, Weights};
use std::borrow::Cow;
use std::ops::Range;

enum Derived<'a> {
    /// Rows `from .. to` of every `size` of a matrix: `rows(0..128/256, NAME)`.
    Heads {
        from: usize,
        to: usize,
        size: usize,
        of: &'a str,
    },
    /// Every `step`-th row of matrices one behind another, from `start` on, as rows of one: `every(0/2, NAME)`. Of a matrix
    /// every `step`-th element of its rows.
    Every {
        start: usize,
        step: usize,
        of: &'a str,
    },
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
    /// Matrices one behind another as one: `flat(NAME)`.
    Flat {
        of: &'a str,
    },
    /// Every `step`-th column of matrices one behind another, from `start` on, as rows of one: `columns(0/2, NAME)`. Of a
    /// matrix its columns stay columns.
    Columns {
        start: usize,
        step: usize,
        of: &'a str,
    },
}

fn parse(name: &str) -> Option<Derived<'_>> {
    let (what, rest) = name.strip_suffix(')')?.split_once('(')?;
    match what {
        "rows" => {
            let (range, of) = rest.split_once(", ")?;
            let (from, to) = range.split_once("..")?;
            if let Some((to, size)) = to.split_once('/') {
                let (from, to, size) = (from.parse().ok()?, to.parse().ok()?, size.parse().ok()?);
                return (from < to && to <= size).then_some(Derived::Heads { from, to, size, of });
            }
            Some(Derived::Rows { from: from.parse().ok()?, to: to.parse().ok()?, of })
        }
        "transpose" => Some(Derived::Transpose { of: rest }),
        "plus_one" => Some(Derived::PlusOne { of: rest }),
        "flat" => Some(Derived::Flat { of: rest }),
        "columns" => {
            let (range, of) = rest.split_once(", ")?;
            let (start, step) = range.split_once('/')?;
            let (start, step) = (start.parse().ok()?, step.parse().ok()?);
            (step > start).then_some(Derived::Columns { start, step, of })
        }
        "every" => {
            let (range, of) = rest.split_once(", ")?;
            let (start, step) = range.split_once('/')?;
            let (start, step) = (start.parse().ok()?, step.parse().ok()?);
            (step > start).then_some(Derived::Every { start, step, of })
        }
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
        Some(
            Derived::Rows { of, .. }
            | Derived::Transpose { of }
            | Derived::PlusOne { of }
            | Derived::Flat { of }
            | Derived::Heads { of, .. }
            | Derived::Every { of, .. }
            | Derived::Columns { of, .. },
        ) => origins(of),
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
        Derived::Heads { from, to, size, of } => {
            let (dtype, mut shape) = known(of)?;
            if shape.is_empty() || shape[0] == 0 || !shape[0].is_multiple_of(*size) {
                return Err(wrong(format!("{shape:?} is not of blocks of {size} rows")));
            }
            shape[0] = shape[0] / size * (to - from);
            (dtype, shape)
        }
        Derived::Every { step, of, .. } => {
            let (dtype, shape) = known(of)?;
            match shape[..] {
                [a, b] if !dtype.is_quantised() && b > 0 && b % step == 0 => (dtype, vec![a, b / step]),
                [a, b, c] if a > 0 && b > 0 && b % step == 0 => (dtype, vec![a * (b / step), c]),
                _ => return Err(wrong(format!("{dtype} {shape:?} has no such rows"))),
            }
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
            if shape.len() != 2 || *count == 0 {
                return Err(wrong(format!("{shape:?} is no matrix")));
            }
            (dtype, vec![count * shape[0], shape[1]])
        }
        Derived::Flat { of } => {
            let (dtype, shape) = known(of)?;
            if shape.len() != 3 || shape.contains(&0) {
                return Err(wrong(format!("{shape:?} is not a matrix for each expert")));
            }
            (dtype, vec![shape[0] * shape[1], shape[2]])
        }
        Derived::Columns { step, of, .. } => {
            let (dtype, shape) = known(of)?;
            let last = shape.last().copied().unwrap_or(0);
            if !(2..=3).contains(&shape.len()) || dtype.is_quantised() || last == 0 || last % step != 0 {
                return Err(wrong(format!("{dtype} {shape:?} has no such columns")));
            }
            match shape[..] {
                [rows, cols] => (dtype, vec![rows, cols / step]),
                _ => (dtype, vec![shape[0] * (last / step), shape[1]]),
            }
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
        Derived::Heads { from, to, size, of } => {
            let mut out = vec![];
            for (block, part) in by_expert(rows, to - from) {
                let first = block * size + from;
                out.extend_from_slice(&weights.read(of, first + part.start..first + part.end)?);
            }
            Ok(Cow::Owned(out))
        }
        Derived::Every { start, step, of } => every(weights, of, (*start, *step), rows, ty.dtype.block_bytes()),
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
        Derived::Stack { count, of } => {
            let each = shape[0] / count;
            let mut out = vec![];
            for (expert, part) in by_expert(rows, each) {
                out.extend_from_slice(&weights.read(&numbered(of, expert), part)?);
            }
            Ok(Cow::Owned(out))
        }
        Derived::Flat { of } => {
            let each = weights.info(of)?.shape.known().map_or(1, |s| s[1]);
            let mut out = vec![];
            for (expert, part) in by_expert(rows, each) {
                let all = weights.read(of, expert..expert + 1)?;
                let row = all.len() / each;
                out.extend_from_slice(&all[part.start * row..part.end * row]);
            }
            Ok(Cow::Owned(out))
        }
        Derived::Columns { start, step, of } => columns(weights, of, (*start, *step), rows, ty.dtype.block_bytes()),
    }
}

/// Every `step`th row of each expert, or element of a row, from `start` on.
fn every<'a>(
    weights: &'a dyn Weights,
    of: &str,
    (start, step): (usize, usize),
    rows: Range<usize>,
    size: usize,
) -> Result<Cow<'a, [u8]>> {
    let from = weights.info(of)?.shape.known().unwrap_or_default();
    let mut out = vec![];
    if let [_, cols] = from[..] {
        return Ok(elements(&weights.read(of, rows)?, cols, (start, step), size));
    }
    for (expert, part) in by_expert(rows, from[1] / step) {
        let all = weights.read(of, expert..expert + 1)?;
        let row = all.len() / from[1];
        for j in part {
            let at = (start + j * step) * row;
            out.extend_from_slice(&all[at..at + row]);
        }
    }
    Ok(Cow::Owned(out))
}

/// Every `step`th column, from `start` on, as rows.
fn columns<'a>(
    weights: &'a dyn Weights,
    of: &str,
    (start, step): (usize, usize),
    rows: Range<usize>,
    size: usize,
) -> Result<Cow<'a, [u8]>> {
    let from = weights.info(of)?.shape.known().unwrap_or_default();
    let mut out = vec![];
    if let [_, cols] = from[..] {
        return Ok(elements(&weights.read(of, rows)?, cols, (start, step), size));
    }
    let (inner, cols) = (from[1], from[2]);
    for (expert, part) in by_expert(rows, cols / step) {
        let all = weights.read(of, expert..expert + 1)?;
        for column in part.map(|j| start + j * step) {
            for i in 0..inner {
                let at = (i * cols + column) * size;
                out.extend_from_slice(&all[at..at + size]);
            }
        }
    }
    Ok(Cow::Owned(out))
}

/// Every `step`th element of rows of `cols`, from `start` on.
fn elements<'a>(rows: &[u8], cols: usize, (start, step): (usize, usize), size: usize) -> Cow<'a, [u8]> {
    let mut out = Vec::with_capacity(rows.len() / step);
    for row in rows.chunks_exact(cols * size) {
        row.chunks_exact(size).skip(start).step_by(step).for_each(|x| out.extend_from_slice(x));
    }
    Cow::Owned(out)
}

/// The experts that rows of all of them touch, and which rows of each.
fn by_expert(rows: Range<usize>, each: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
    let experts = rows.start / each.max(1)..rows.end.div_ceil(each.max(1));
    experts.map(move |e| (e, rows.start.max(e * each) - e * each..rows.end.min((e + 1) * each) - e * each))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    /// Each form by its rows one at a time, against what it means.
    #[test]
    fn rows_of_every_form_are_what_the_form_says() {
        let count = |n: usize| (0..n).map(|i| i as f32).collect::<Vec<_>>();
        let weights: HashMap<String, Array> = HashMap::from([
            ("m".into(), Array::f32(&[4, 3], &count(12))),
            ("e".into(), Array::f32(&[2, 3, 4], &count(24))),
            ("x.0.w".into(), Array::f32(&[2, 2], &[0.0, 1.0, 2.0, 3.0])),
            ("x.1.w".into(), Array::f32(&[2, 2], &[4.0, 5.0, 6.0, 7.0])),
        ]);
        let flat = |rows: &[[f32; 3]]| rows.concat();
        let cases: Vec<(&str, Vec<usize>, Vec<f32>)> = vec![
            ("rows(1..3, m)", vec![2, 3], count(12)[3..9].to_vec()),
            ("transpose(m)", vec![3, 4], (0..12).map(|i| (i % 4 * 3 + i / 4) as f32).collect()),
            ("rows(0..1, transpose(m))", vec![1, 4], vec![0.0, 3.0, 6.0, 9.0]),
            ("plus_one(m)", vec![4, 3], count(12).iter().map(|x| x + 1.0).collect()),
            ("stack(2, x.*.w)", vec![4, 2], count(8)),
            ("flat(e)", vec![6, 4], count(24)),
            ("columns(1/2, e)", vec![4, 3], flat(&[[1., 5., 9.], [3., 7., 11.], [13., 17., 21.], [15., 19., 23.]])),
            ("rows(1..2/2, m)", vec![2, 3], [&count(12)[3..6], &count(12)[9..12]].concat()),
            ("every(1/3, e)", vec![2, 4], [&count(24)[4..8], &count(24)[16..20]].concat()),
            ("every(1/3, m)", vec![4, 1], vec![1.0, 4.0, 7.0, 10.0]),
            ("columns(0/3, m)", vec![4, 1], vec![0.0, 3.0, 6.0, 9.0]),
        ];
        /// Reads derived names through their origins.
        struct Made<'a>(&'a HashMap<String, Array>);
        impl Weights for Made<'_> {
            fn info(&self, name: &str) -> Result<Type> {
                info(self, name).unwrap_or_else(|| self.0.info(name))
            }
            fn read(&self, name: &str, rows: Range<usize>) -> Result<Cow<'_, [u8]>> {
                read(self, name, rows.clone()).unwrap_or_else(|| self.0.read(name, rows))
            }
        }
        let made = Made(&weights);
        for (name, shape, want) in cases {
            assert_eq!(made.info(name).unwrap().shape.known().unwrap(), shape, "{name}");
            let bytes: Vec<u8> = (0..shape[0]).flat_map(|r| made.read(name, r..r + 1).unwrap().into_owned()).collect();
            assert_eq!(Array::new(DType::F32, &shape, bytes).unwrap().to_f32(), want, "{name}");
            let whole = made.read(name, 0..shape[0]).unwrap().into_owned();
            assert_eq!(Array::new(DType::F32, &shape, whole).unwrap().to_f32(), want, "{name} at once");
            assert!(made.read(name, 0..shape[0] + 1).is_err(), "{name} beyond its end");
        }
        for bad in [
            "rows(2..9, m)",
            "transpose(e)",
            "columns(0/5, m)",
            "rows(0..1/3, m)",
            "every(0/5, e)",
            "flat(m)",
            "stack(3, x.*.w)",
            "rows(0..1, z)",
        ] {
            assert!(made.info(bad).is_err(), "{bad}");
        }
        assert_eq!(origins("rows(0..1, stack(2, x.*.w))"), ["x.0.w", "x.1.w"]);
    }
}

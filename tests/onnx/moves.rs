//! Ops of ONNX that move, pick and repeat elements, written with tensors. Shapes, axes and lengths are known when a node is
//! built: they are read from its operands.

use super::proto::{Host, kind};
use super::{Call, at};
use warpweft::{DType, Tensor};

type Made<'g> = Result<Vec<(Tensor<'g>, u64)>, String>;

/// The ops of this file; `None` for others.
pub fn op<'g>(c: &Call<'g, '_>) -> Option<Made<'g>> {
    let made = match &*c.node.op {
        "Reshape" => reshape(c),
        "Flatten" => flatten(c),
        "Squeeze" => squeeze(c),
        "Unsqueeze" => unsqueeze(c),
        "Transpose" => transpose(c),
        "Concat" => concat(c),
        "Split" => return Some(split(c)),
        "Slice" => slice(c),
        "Expand" => c.host(1).and_then(|s| Ok(c.x(0)?.expand(&s.ints()[..]))),
        "Tile" => tile(c),
        "Pad" => pad(c),
        "Gather" => gather(c),
        "GatherElements" => gather_elements(c),
        "GatherND" => gather_nd(c),
        "ScatterElements" | "Scatter" => scatter_elements(c),
        "ScatterND" => scatter_nd(c),
        "DepthToSpace" => depth_to_space(c),
        "SpaceToDepth" => space_to_depth(c),
        "Trilu" => trilu(c),
        "TopK" => return Some(topk(c)),
        "OneHot" => return Some(one_hot(c)),
        "EyeLike" => return Some(eye(c)),
        "ReverseSequence" => reverse_sequence(c),
        "Compress" => compress(c),
        "CenterCropPad" => center_crop_pad(c),
        "TensorScatter" => tensor_scatter(c),
        _ => return None,
    };
    Some(made.map(|x| vec![(x, c.kind(0))]))
}

fn known(x: Tensor) -> Vec<usize> {
    x.shape().known().unwrap_or_default()
}

fn reshape<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let x = c.x(0)?;
    let from = known(x);
    let zero = c.node.int("allowzero", 0) == 0;
    let to = c.host(1)?.ints();
    let mut shape: Vec<i64> =
        to.iter().enumerate().map(|(i, d)| if *d == 0 && zero { from[i] as i64 } else { *d }).collect();
    if let Some(i) = shape.iter().position(|d| *d == -1) {
        let rest: i64 = shape.iter().filter(|d| **d != -1).product();
        shape[i] = from.iter().product::<usize>() as i64 / rest.max(1);
    }
    Ok(x.reshape(&shape[..]))
}

fn flatten<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let x = c.x(0)?;
    let shape = known(x);
    let axis = match c.node.int("axis", 1) {
        a if a < 0 => (a + shape.len() as i64) as usize,
        a => a as usize,
    };
    let (a, b): (usize, usize) = (shape[..axis].iter().product(), shape[axis..].iter().product());
    Ok(x.reshape([a, b]))
}

/// Axes by attribute (older versions) or second operand.
fn axes(c: &Call, rank: usize) -> Result<Option<Vec<usize>>, String> {
    let given = match c.node.ints("axes") {
        Some(axes) => axes,
        None if c.has(1) => c.host(1)?.ints(),
        None => return Ok(None),
    };
    Ok(Some(given.iter().map(|a| at(*a, rank)).collect()))
}

fn squeeze<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let x = c.x(0)?;
    let shape = known(x);
    let gone = axes(c, shape.len())?.unwrap_or_else(|| (0..shape.len()).filter(|i| shape[*i] == 1).collect());
    let left: Vec<usize> = (0..shape.len()).filter(|i| !gone.contains(i)).map(|i| shape[i]).collect();
    Ok(x.reshape(&left[..]))
}

fn unsqueeze<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let mut x = c.x(0)?;
    let count = c.node.ints("axes").map_or_else(|| c.host(1).map(|h| h.data.len()), |a| Ok(a.len()))?;
    let mut axes = axes(c, x.shape().rank() + count)?.unwrap_or_default();
    axes.sort_unstable();
    for axis in axes {
        x = x.unsqueeze(axis);
    }
    Ok(x)
}

fn transpose<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let x = c.x(0)?;
    let rank = x.shape().rank();
    let perm =
        c.node.ints("perm").map_or((0..rank).rev().collect::<Vec<_>>(), |p| p.iter().map(|a| *a as usize).collect());
    Ok(x.transpose(&perm))
}

fn concat<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let all = (0..c.node.inputs.len()).map(|i| c.x(i)).collect::<Result<Vec<_>, _>>()?;
    Ok(c.g.concat(&all, at(c.node.int("axis", 0), all[0].shape().rank())))
}

fn split<'g>(c: &Call<'g, '_>) -> Made<'g> {
    let x = c.x(0)?;
    let shape = known(x);
    let axis = at(c.node.int("axis", 0), shape.len());
    let n = c.node.outputs.len();
    let lengths: Vec<usize> = match c.node.ints("split") {
        Some(s) => s.iter().map(|n| *n as usize).collect(),
        None if c.has(1) => c.host(1)?.ints().iter().map(|n| *n as usize).collect(),
        None => {
            let each = shape[axis].div_ceil(n.max(1));
            (0..n).map(|i| each.min(shape[axis].saturating_sub(i * each))).collect()
        }
    };
    Ok(x.split(axis, &lengths).into_iter().map(|x| (x, c.kind(0))).collect())
}

fn slice<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let mut x = c.x(0)?;
    let shape = known(x);
    let list = |i: usize, name: &str| match c.node.ints(name) {
        Some(list) => Ok(Some(list)),
        None if c.has(i) => c.host(i).map(|h| Some(h.ints())),
        None => Ok(None),
    };
    let starts = list(1, "starts")?.ok_or("no starts")?;
    let ends = list(2, "ends")?.ok_or("no ends")?;
    let axes = list(3, "axes")?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = list(4, "steps")?.unwrap_or_else(|| vec![1; starts.len()]);
    for i in 0..starts.len() {
        let axis = at(axes[i], shape.len());
        let (n, step) = (shape[axis] as i64, steps[i]);
        let wrap = |v: i64| if v < 0 { v.saturating_add(n) } else { v };
        if step > 0 {
            let (from, to) = (wrap(starts[i]).clamp(0, n), wrap(ends[i]).clamp(0, n));
            let len = if to > from { (to - from + step - 1) / step } else { 0 };
            x = if len == 0 { x.slice(axis, 0, 0) } else { x.slice_step(axis, from, len, step as u32) };
        } else {
            let (from, to) = (wrap(starts[i]).clamp(-1, n - 1), wrap(ends[i]).clamp(-1, n - 1));
            let len = if from > to { (from - to - step - 1) / -step } else { 0 };
            x = match len {
                0 => x.slice(axis, 0, 0),
                _ => x.flip(axis).slice_step(axis, n - 1 - from, len, -step as u32),
            };
        }
    }
    Ok(x)
}

fn tile<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let mut x = c.x(0)?;
    for (axis, n) in c.host(1)?.ints().into_iter().enumerate() {
        x = if n == 0 { x.slice(axis, 0, 0) } else { x.repeat(axis, n as usize) };
    }
    Ok(x)
}

fn pad<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let mut x = c.x(0)?;
    let shape = known(x);
    let pads = match c.node.ints("pads") {
        Some(p) => p,
        None => c.host(1)?.ints(),
    };
    let axes: Vec<usize> = match c.has(3) {
        true => c.host(3)?.ints().iter().map(|a| at(*a, shape.len())).collect(),
        false => (0..shape.len()).collect(),
    };
    let value =
        if c.has(2) { c.host(2)?.data.first().copied().unwrap_or(0.0) as f32 } else { c.node.float("value", 0.0) };
    for (i, axis) in axes.iter().enumerate() {
        let (mut before, mut after) = (pads[i], pads[i + axes.len()]);
        let mut n = shape[*axis] as i64;
        // Negative pads take away.
        if before < 0 || after < 0 {
            let (from, to) = ((-before).max(0), n - (-after).max(0));
            x = x.slice(*axis, from, to - from);
            (n, before, after) = (to - from, before.max(0), after.max(0));
        }
        if before + after == 0 {
            continue;
        }
        x = match c.node.text("mode", "constant") {
            "constant" => x.pad(*axis, before as usize, after as usize, value),
            mode => {
                let place = |i: i64| match mode {
                    "edge" => i.clamp(0, n - 1),
                    "wrap" => i.rem_euclid(n),
                    _ => {
                        let period = (2 * n - 2).max(1);
                        let i = i.rem_euclid(period);
                        if i < n { i } else { period - i }
                    }
                };
                let places: Vec<f64> = (-before..n + after).map(|i| place(i) as f64).collect();
                x.take(*axis, c.literal(Host::new(kind::I32, &[places.len()], places))?)
            }
        };
    }
    Ok(x)
}

/// Ids with negative ones counted from the end.
fn ids<'g>(c: &Call<'g, '_>, i: usize, n: usize) -> Result<Tensor<'g>, String> {
    let mut host = c.host(i)?.clone();
    host.data.iter_mut().filter(|d| **d < 0.0).for_each(|d| *d += n as f64);
    host.kind = kind::I32;
    c.literal(host)
}

fn gather<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let x = c.x(0)?;
    let shape = known(x);
    let axis = at(c.node.int("axis", 0), shape.len());
    Ok(x.take(axis, ids(c, 1, shape[axis])?))
}

fn gather_elements<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let x = c.x(0)?;
    let shape = known(x);
    let axis = at(c.node.int("axis", 0), shape.len());
    Ok(x.take_along(axis, ids(c, 1, shape[axis])?))
}

/// Rows of the first `depth` axes of `shape` that index tuples name, and the shape of tuples.
fn tuples(index: &Host, shape: &[usize], from: usize) -> (Vec<f64>, usize) {
    let depth = index.shape.last().copied().unwrap_or(1);
    let rows = index.data.chunks(depth.max(1)).map(|t| {
        t.iter().enumerate().fold(0.0, |at, (i, v)| {
            let n = shape[from + i] as f64;
            at * n + if *v < 0.0 { v + n } else { *v }
        })
    });
    (rows.collect(), depth)
}

fn gather_nd<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let x = c.x(0)?;
    let (shape, index) = (known(x), c.host(1)?);
    let batch = c.node.int("batch_dims", 0) as usize;
    let (mut rows, depth) = tuples(index, &shape, batch);
    let per: usize = shape[batch..batch + depth].iter().product();
    let batches: usize = shape[..batch].iter().product();
    let each = rows.len() / batches.max(1);
    rows.iter_mut().enumerate().for_each(|(i, r)| *r += (i / each.max(1) * per) as f64);
    let table: Vec<usize> = std::iter::once(batches * per).chain(shape[batch + depth..].iter().copied()).collect();
    let out: Vec<usize> = [&index.shape[..index.shape.len() - 1], &shape[batch + depth..]].concat();
    let rows = c.literal(Host::new(kind::I32, &[rows.len()], rows))?;
    Ok(x.reshape(&table[..]).gather(rows).reshape(&out[..]))
}

/// Rows of `x` replaced, or brought together with what is there.
fn placed<'g>(c: &Call<'g, '_>, x: Tensor<'g>, rows: Vec<f64>, new: Tensor<'g>) -> Result<Tensor<'g>, String> {
    let n = known(x)[0];
    let ids = c.literal(Host::new(kind::I32, &[rows.len()], rows.clone()))?;
    match c.node.text("reduction", "none") {
        "none" => Ok(x.scatter(ids, new)),
        mode => {
            // One after another where a row is named twice.
            let mut rounds: Vec<Vec<usize>> = vec![];
            for (i, row) in rows.iter().enumerate() {
                match rounds.iter_mut().find(|r| r.iter().all(|j| rows[*j] != *row)) {
                    Some(round) => round.push(i),
                    None => rounds.push(vec![i]),
                }
            }
            let mut x = x;
            for round in rounds {
                let list = |of: Vec<f64>| c.literal(Host::new(kind::I32, &[of.len()], of));
                let places = list(round.iter().map(|i| *i as f64).collect())?;
                let at = list(round.iter().map(|i| rows[*i]).collect())?;
                let (old, more) = (x.gather(at), new.gather(places));
                let both = match mode {
                    "add" => old + more,
                    "mul" => old * more,
                    "max" => old.maximum(more),
                    _ => old.minimum(more),
                };
                x = x.scatter(at, both);
            }
            let _ = (ids, n);
            Ok(x)
        }
    }
}

fn scatter_elements<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let (x, new) = (c.x(0)?, c.x(2)?);
    let (shape, index) = (known(x), c.host(1)?);
    let axis = at(c.node.int("axis", 0), shape.len());
    let mut rows = vec![];
    for (i, v) in index.data.iter().enumerate() {
        let (mut rest, mut place, mut stride) = (i, 0, 1);
        for a in (0..shape.len()).rev() {
            let own = rest % index.shape[a];
            rest /= index.shape[a];
            let v = if *v < 0.0 { *v as i64 + shape[axis] as i64 } else { *v as i64 };
            place += stride * if a == axis { v as usize } else { own };
            stride *= shape[a];
        }
        rows.push(place as f64);
    }
    Ok(placed(c, x.reshape([-1]), rows, new.reshape([-1]))?.reshape(&shape[..]))
}

fn scatter_nd<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let (x, new) = (c.x(0)?, c.x(2)?);
    let shape = known(x);
    let (rows, depth) = tuples(c.host(1)?, &shape, 0);
    let lead: usize = shape[..depth].iter().product();
    let wide = |n: usize| std::iter::once(n).chain(shape[depth..].iter().copied()).collect::<Vec<_>>();
    let n = rows.len();
    Ok(placed(c, x.reshape(&wide(lead)[..]), rows, new.reshape(&wide(n)[..]))?.reshape(&shape[..]))
}

fn depth_to_space<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let x = c.x(0)?;
    let [n, d, h, w] = known(x)[..] else { return Err("not four axes".into()) };
    let b = c.node.int("blocksize", 1) as usize;
    let y = match c.node.text("mode", "DCR") {
        "DCR" => x.reshape([n, b, b, d / (b * b), h, w]).transpose(&[0, 3, 4, 1, 5, 2]),
        _ => x.reshape([n, d / (b * b), b, b, h, w]).transpose(&[0, 1, 4, 2, 5, 3]),
    };
    Ok(y.reshape([n, d / (b * b), h * b, w * b]))
}

fn space_to_depth<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let x = c.x(0)?;
    let [n, d, h, w] = known(x)[..] else { return Err("not four axes".into()) };
    let b = c.node.int("blocksize", 1) as usize;
    let y = match c.node.text("mode", "DCR") {
        "CRD" => x.reshape([n, d, h / b, b, w / b, b]).transpose(&[0, 1, 3, 5, 2, 4]),
        _ => x.reshape([n, d, h / b, b, w / b, b]).transpose(&[0, 3, 5, 1, 2, 4]),
    };
    Ok(y.reshape([n, d * b * b, h / b, w / b]))
}

fn trilu<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let x = c.x(0)?;
    let k = if c.has(1) { c.host(1)?.ints()[0] } else { 0 };
    let float = x.cast(DType::F32);
    let small = c.host(0)?.data.iter().all(|v| v.abs() < 16_777_216.0);
    if x.dtype() != DType::F32 && !small {
        return Err("whole numbers beyond 2^24".into());
    }
    Ok(if c.node.int("upper", 1) == 1 { float.triu(k) } else { float.tril(k) }.cast(x.dtype()))
}

fn topk<'g>(c: &Call<'g, '_>) -> Made<'g> {
    let x = c.x(0)?;
    let axis = at(c.node.int("axis", -1), x.shape().rank());
    let k = match c.node.attribute("k") {
        Some(k) => k.int,
        None => c.host(1)?.ints()[0],
    };
    let last = x.shape().rank() - 1;
    let mut perm: Vec<usize> = (0..=last).collect();
    perm.swap(axis, last);
    if c.host(0)?.data.iter().any(|v| v.is_finite() && v.abs() > 16_777_216.0) && x.dtype().is_int() {
        return Err("whole numbers beyond 2^24".into());
    }
    let y = x.cast(DType::F32).transpose(&perm);
    let largest = c.node.int("largest", 1) == 1;
    let (v, i) = if largest { y } else { -y }.topk(k as usize);
    let v = if largest { v } else { -v };
    Ok(vec![(v.transpose(&perm).cast(x.dtype()), c.kind(0)), (i.transpose(&perm), kind::I64)])
}

fn one_hot<'g>(c: &Call<'g, '_>) -> Made<'g> {
    let depth = c.host(1)?.data[0] as usize;
    let values = c.x(2)?;
    let mut index = c.host(0)?.clone();
    index.data.iter_mut().filter(|d| **d < 0.0).for_each(|d| *d += depth as f64);
    index.kind = kind::I32;
    let rank = index.shape.len() + 1;
    let hot = c.literal(index)?.one_hot(depth).cast(DType::Bool);
    let axis = at(c.node.int("axis", -1), rank);
    let perm: Vec<usize> = (0..axis).chain([rank - 1]).chain(axis..rank - 1).collect();
    let (off, on) = (values.slice(0, 0, 1), values.slice(0, 1, 1));
    Ok(vec![(hot.transpose(&perm).select(on, off), c.kind(2))])
}

fn eye<'g>(c: &Call<'g, '_>) -> Made<'g> {
    let shape = c.host(0)?.shape.clone();
    let to = c.node.attribute("dtype").map_or(c.kind(0), |a| a.int as u64);
    let (n, m) = (shape[0], shape[1]);
    let row = c.g.iota(DType::I32, [n, 1], 0, c.node.int("k", 0));
    let y = row.eq(c.g.iota(DType::I32, [1, m], 1, 0));
    Ok(vec![(y.cast(super::dtype(to).ok_or("type")?), to)])
}

fn reverse_sequence<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let x = c.x(0)?;
    let shape = known(x);
    let (time, batch) = (c.node.int("time_axis", 0) as usize, c.node.int("batch_axis", 1) as usize);
    let lengths = c.host(1)?.ints();
    let (t, b) = (shape[time], shape[batch]);
    let mut table = vec![];
    for i in 0..t * b {
        let (row, column) = if time < batch { (i / b, i % b) } else { (i % t, i / t) };
        let n = lengths[column] as usize;
        table.push(if row < n { n - 1 - row } else { row } as f64);
    }
    let mut wide = vec![1; shape.len()];
    (wide[time], wide[batch]) = (t, b);
    let ids = c.literal(Host::new(kind::I32, &wide, table))?;
    Ok(x.take_along(time, ids.broadcast(&shape[..])))
}

fn compress<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let places: Vec<f64> =
        c.host(1)?.data.iter().enumerate().filter(|(_, v)| **v != 0.0).map(|(i, _)| i as f64).collect();
    let ids = c.literal(Host::new(kind::I32, &[places.len()], places))?;
    let x = c.x(0)?;
    Ok(match c.node.attribute("axis") {
        Some(a) => x.take(at(a.int, x.shape().rank()), ids),
        None => x.reshape([-1]).take(0, ids),
    })
}

fn center_crop_pad<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let mut x = c.x(0)?;
    let shape = known(x);
    let axes: Vec<usize> = match c.node.ints("axes") {
        Some(axes) => axes.iter().map(|a| at(*a, shape.len())).collect(),
        None => (0..shape.len()).collect(),
    };
    for (axis, to) in axes.into_iter().zip(c.host(1)?.ints()) {
        let (n, to) = (shape[axis], to as usize);
        x = if to < n {
            x.slice(axis, (n - to) / 2, to)
        } else {
            x.pad(axis, (to - n) / 2, to - n - (to - n) / 2, 0.0)
        };
    }
    Ok(x)
}

fn tensor_scatter<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let (x, new) = (c.x(0)?, c.x(1)?);
    let (shape, wide) = (known(x), known(new));
    let axis = at(c.node.int("axis", -2), shape.len());
    let starts = if c.has(2) { c.host(2)?.ints() } else { vec![0; shape[0]] };
    let n: usize = wide.iter().product();
    let inner: usize = wide[axis + 1..].iter().product();
    let per: usize = wide[1..].iter().product();
    let circular = c.node.text("mode", "linear") == "circular";
    let place = |i: usize| {
        let row = starts[i / per.max(1)] as usize + i / inner % wide[axis];
        if circular { row % shape[axis] } else { row }
    };
    let places: Vec<f64> = (0..n).map(|i| place(i) as f64).collect();
    Ok(x.scatter_along(axis, c.literal(Host::new(kind::I32, &wide, places))?, new))
}

//! One op on tensors.

use super::call::Call;
use super::value::{Data, Real, Tensor};
use super::{delta, matmul, native};
use crate::base::{DType, Error, Result};
use crate::op::{Attrs, Body, Primitive, Reduce};
use rayon::prelude::*;

impl<T: Real> Call<'_, T> {
    pub fn run(&self) -> Result<Tensor<T>> {
        let made = self.made()?;
        for operand in self.operands {
            if let Data::Rows(rows) = &operand.data {
                rows.fault()?;
            }
        }
        Ok(made)
    }

    fn made(&self) -> Result<Tensor<T>> {
        match &self.def.body {
            Body::Scalar(s) => Ok(self.scalar(s.cpu)),
            Body::View => self.view(),
            Body::Composite { fused, .. } => native::run(self, *fused),
            // A group of one has nobody to exchange with; groups are run by `ranks`.
            Body::Collective(_) => self.operands.first().map(|x| (*x).clone()).ok_or_else(|| self.wrong()),
            Body::Primitive(p) => match p {
                Primitive::Matmul => matmul::run(self),
                Primitive::Reduce(kind) => self.reduce(*kind),
                Primitive::Gather => self.gather(),
                Primitive::ScatterAdd => Ok(self.scatter_add()),
                Primitive::DeltaRule => Ok(delta::run(self)),
                Primitive::Concat => self.concat(),
                Primitive::Pad => self.pad(),
                Primitive::Cast => Ok(self.cast()),
                Primitive::Iota => self.iota(),
                Primitive::Append | Primitive::Assign => Err(self.wrong()),
            },
        }
    }

    fn scalar(&self, cpu: fn(&[f64]) -> f64) -> Tensor<T> {
        if let Some(fast) = native::scalar(self) {
            return fast;
        }
        let value = |args: &[f64]| match (self.dtype.is_int(), self.def.name) {
            // WGSL: an integer divided by zero stays.
            (true, "div") if args[1] == 0.0 => args[0],
            // Integers wrap; their product may have more bits than an f64 holds.
            (true, "mul") => (args[0] as i64).wrapping_mul(args[1] as i64) as u32 as f64,
            _ => cpu(args),
        };
        if let Some(out) = self.plain_scalar(value) {
            return self.result(out);
        }
        let views: Vec<Tensor<T>> = self.operands.iter().map(|o| o.broadcast(&self.shape)).collect();
        let mut walks: Vec<_> = views.iter().map(Tensor::offsets).collect();
        let mut args = vec![0.0; views.len()];
        let n = self.shape.iter().product();
        let mut out = Vec::with_capacity(n);
        for _ in 0..n {
            for (slot, (walk, view)) in args.iter_mut().zip(walks.iter_mut().zip(&views)) {
                *slot = walk.next().map_or(0.0, |i| view.at(i));
            }
            out.push(value(&args));
        }
        self.result(out)
    }

    /// Operands that lie as the result does, or are one element: nothing has to be looked for.
    fn plain_scalar(&self, value: impl Fn(&[f64]) -> f64 + Sync) -> Option<Vec<f64>> {
        let alike = |o: &Tensor<T>| o.shape == self.shape && o.is_contiguous();
        if self.operands.len() > 3 || !self.operands.iter().all(|o| alike(o) || o.count() == 1) {
            return None;
        }
        let of: Vec<(&Tensor<T>, usize)> = self.operands.iter().map(|o| (*o, alike(o) as usize)).collect();
        let one = |i: usize| {
            let mut args = [0.0; 3];
            args.iter_mut().zip(&of).for_each(|(a, (o, step))| *a = o.at(o.offset + i * step));
            value(&args[..of.len()])
        };
        let n: usize = self.shape.iter().product();
        Some(if n < native::MANY { (0..n).map(one).collect() } else { (0..n).into_par_iter().map(one).collect() })
    }

    fn view(&self) -> Result<Tensor<T>> {
        let x = self.operands[0];
        Ok(match self.attrs {
            Attrs::Perm(perm) => Tensor {
                data: x.data.clone(),
                shape: self.shape.clone(),
                strides: perm.iter().map(|&p| x.strides[p]).collect(),
                offset: x.offset,
            },
            Attrs::Slice { axis, start, len, step } => {
                let (start, len, step) =
                    (start.eval(self.bindings)? as usize, len.eval(self.bindings)? as usize, *step as usize);
                if len > 0 && start + (len - 1) * step >= x.shape[*axis] || start > x.shape[*axis] {
                    return Err(Error::op(
                        "slice",
                        "",
                        format!("{len} from {start} by {step} reaches past axis {axis} of {:?}", x.shape),
                    ));
                }
                let mut strides = x.strides.clone();
                strides[*axis] *= step;
                Tensor {
                    data: x.data.clone(),
                    shape: self.shape.clone(),
                    strides,
                    offset: x.offset + start * x.strides[*axis],
                }
            }
            Attrs::Shape(_) if self.def.name == "broadcast" => x.broadcast(&self.shape),
            Attrs::Shape(_) => x.reshaped(&self.shape),
            _ => return Err(self.wrong()),
        })
    }

    fn reduce(&self, kind: Reduce) -> Result<Tensor<T>> {
        let Attrs::Reduce { axes, .. } = self.attrs else { return Err(self.wrong()) };
        let x = self.operands[0];
        let kept: Vec<usize> = (0..x.shape.len()).filter(|i| !axes.contains(i)).collect();
        let mut reduced = axes.clone();
        reduced.sort_unstable();
        let part = |which: &[usize]| Tensor {
            data: x.data.clone(),
            shape: which.iter().map(|&i| x.shape[i]).collect(),
            strides: which.iter().map(|&i| x.strides[i]).collect(),
            offset: 0,
        };
        let (outer, inner): (Tensor<T>, Tensor<T>) = (part(&kept), part(&reduced));
        let steps: Vec<usize> = inner.offsets().collect();
        let fold = |base: usize| {
            let items = steps.iter().map(|s| x.at(x.offset + base + s));
            match kind {
                Reduce::Sum => items.sum(),
                Reduce::Mean => items.sum::<f64>() / steps.len() as f64,
                // A NaN wins, whichever is asked for.
                Reduce::Max => items.fold(f64::NEG_INFINITY, |b, v| if v > b || v.is_nan() { v } else { b }),
                Reduce::Min => items.fold(f64::INFINITY, |b, v| if v < b || v.is_nan() { v } else { b }),
                Reduce::Argmax => {
                    items
                        .enumerate()
                        .fold(
                            (0, f64::NEG_INFINITY),
                            |b, (i, v)| if v > b.1 || (v.is_nan() && !b.1.is_nan()) { (i, v) } else { b },
                        )
                        .0 as f64
                }
            }
        };
        Ok(self.result(outer.offsets().map(fold).collect()))
    }

    fn gather(&self) -> Result<Tensor<T>> {
        let (table, ids) = (self.operands[0], self.operands[1]);
        let rows = table.shape[0];
        if let Data::Rows(held) = &table.data {
            let mut out = vec![0.0; self.shape.iter().product()];
            for (i, row) in ids.offsets().zip(out.chunks_exact_mut(held.width())) {
                let id = ids.at(i);
                if id >= 0.0 && (id as usize) < rows {
                    held.row(id as usize, row)?;
                }
            }
            return Ok(Tensor::floats(T::from_f32s(out), &self.shape));
        }
        let row = Tensor {
            data: table.data.clone(),
            shape: table.shape[1..].to_vec(),
            strides: table.strides[1..].to_vec(),
            offset: 0,
        };
        let inner: Vec<usize> = row.offsets().collect();
        if let Data::Ints(x) = &table.data {
            let of = |id: f64, j: usize| match id >= 0.0 && (id as usize) < rows {
                true => x[table.offset + id as usize * table.strides[0] + j],
                false => 0,
            };
            let places = ids.offsets().map(|i| ids.at(i));
            let all = places.flat_map(|id| inner.iter().map(move |j| (id, *j))).map(|(id, j)| of(id, j));
            return Ok(Tensor::ints(all.collect(), &self.shape));
        }
        let mut out: Vec<T> = Vec::with_capacity(self.shape.iter().product());
        for i in ids.offsets() {
            let id = ids.at(i);
            if id >= 0.0 && (id as usize) < rows {
                let base = table.offset + id as usize * table.strides[0];
                match &table.data {
                    Data::Floats(x) => out.extend(inner.iter().map(|j| x[base + j])),
                    _ => out.extend(inner.iter().map(|j| T::of(table.at(base + j)))),
                }
            } else {
                out.extend(inner.iter().map(|_| T::default()));
            }
        }
        Ok(Tensor::floats(out, &self.shape))
    }

    fn scatter_add(&self) -> Tensor<T> {
        let (x, ids) = (self.operands[0].to_f64(), self.operands[1]);
        let width: usize = self.shape[1..].iter().product();
        let mut out = vec![0.0; self.shape[0] * width];
        for (i, at) in ids.offsets().enumerate() {
            let id = ids.at(at);
            if id >= 0.0 && (id as usize) < self.shape[0] {
                let row = &mut out[id as usize * width..(id as usize + 1) * width];
                row.iter_mut().zip(&x[i * width..(i + 1) * width]).for_each(|(y, x)| *y += x);
            }
        }
        self.result(out)
    }

    fn concat(&self) -> Result<Tensor<T>> {
        let Attrs::Axis(axis) = *self.attrs else { return Err(self.wrong()) };
        let n = self.shape.iter().product();
        let inner: usize = self.shape[axis + 1..].iter().product();
        let outer: usize = self.shape[..axis].iter().product();
        let mut out = Vec::with_capacity(n);
        let parts: Vec<Vec<f64>> = self.operands.iter().map(|o| o.to_f64()).collect();
        for o in 0..outer {
            for (part, operand) in parts.iter().zip(self.operands) {
                let run = operand.shape[axis] * inner;
                out.extend_from_slice(&part[o * run..(o + 1) * run]);
            }
        }
        Ok(self.result(out))
    }

    fn pad(&self) -> Result<Tensor<T>> {
        let Attrs::Pad { axis, before, after, value } = *self.attrs else { return Err(self.wrong()) };
        let x = self.operands[0].to_f64();
        let inner: usize = self.shape[axis + 1..].iter().product();
        let run = self.operands[0].shape[axis] * inner;
        let outer: usize = self.shape[..axis].iter().product();
        let mut out = vec![];
        for o in 0..outer {
            out.extend(std::iter::repeat_n(value as f64, before * inner));
            out.extend_from_slice(&x[o * run..(o + 1) * run]);
            out.extend(std::iter::repeat_n(value as f64, after * inner));
        }
        Ok(self.result(out))
    }

    fn cast(&self) -> Tensor<T> {
        let x = self.operands[0].to_f64();
        let convert = |v: f64| match self.dtype {
            DType::Bool => (v != 0.0) as u8 as f64,
            DType::I32 => v.trunc().clamp(i32::MIN as f64, i32::MAX as f64),
            DType::U32 => v.trunc().clamp(0.0, u32::MAX as f64),
            _ => v,
        };
        self.result(x.into_iter().map(convert).collect())
    }

    fn iota(&self) -> Result<Tensor<T>> {
        let Attrs::Iota { axis, start, .. } = self.attrs else { return Err(self.wrong()) };
        // A start may be negative where it stands for a limit, as in sliding windows.
        let start = crate::base::Expr::from(*start).eval(self.bindings)? as f64;
        let inner: usize = self.shape[axis + 1..].iter().product();
        let n: usize = self.shape.iter().product();
        Ok(self.result((0..n).map(|i| start + (i / inner.max(1) % self.shape[*axis].max(1)) as f64).collect()))
    }
}

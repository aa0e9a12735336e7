//! Matrix multiplication: plain loops in f64, a library's or quantised dot products in f32.

use super::call::Call;
use super::columns::{Matrix, Strided, columns, multiply_by_library};
use super::dot;
use super::rows::Rows;
use super::value::{Data, Real, Tensor};
use crate::base::Result;
use crate::op::Attrs;

pub fn run<T: Real>(call: &Call<T>) -> Result<Tensor<T>> {
    let Attrs::Matmul { ta, tb } = *call.attrs else { return Err(call.wrong()) };
    let (a, b) = (swapped(call.operands[0], ta), swapped(call.operands[1], tb));
    let k = a.shape[a.shape.len() - 1];
    match &b.data {
        Data::Blocks(bytes, dtype) => {
            return by_rows(&a, call, usize::MAX, |x, m, out| {
                columns(Matrix::Blocks(bytes, *dtype), k, x, m, out);
                Ok(())
            });
        }
        Data::Rows(rows) => {
            return by_rows(&a, call, Rows::most_rows(rows.width()), |x, m, out| rows.columns(x, m, out));
        }
        _ => {}
    }
    let rank = call.shape.len();
    let (m, n) = (call.shape[rank - 2], call.shape[rank - 1]);
    let lead = &call.shape[..rank - 2];
    let widen = |t: &Tensor<T>| t.broadcast(&[lead, &t.shape[t.shape.len() - 2..]].concat());
    let (a, b) = (widen(&a), widen(&b));
    let batch = |t: &Tensor<T>| Tensor {
        data: t.data.clone(),
        shape: lead.to_vec(),
        strides: t.strides[..rank - 2].to_vec(),
        offset: t.offset,
    };
    let (za, zb): (Tensor<T>, Tensor<T>) = (batch(&a), batch(&b));
    let mut out = vec![T::default(); call.shape.iter().product()];
    let (Data::Floats(x), Data::Floats(w)) = (&a.data, &b.data) else { return Err(call.wrong()) };
    for ((i, j), y) in za.offsets().zip(zb.offsets()).zip(out.chunks_exact_mut((m * n).max(1))) {
        let left = Strided { data: &x[i..], row: a.strides[rank - 2], col: a.strides[rank - 1] };
        let right = Strided { data: &w[j..], row: b.strides[rank - 2], col: b.strides[rank - 1] };
        multiply(left, right, y, (m, n, k));
    }
    Ok(Tensor::floats(out, &call.shape))
}

fn swapped<T: Real>(t: &Tensor<T>, swap: bool) -> Tensor<T> {
    let mut t = t.clone();
    if swap {
        let r = t.shape.len();
        t.shape.swap(r - 1, r - 2);
        t.strides.swap(r - 1, r - 2);
    }
    t
}

/// `y = a · b`, row-major.
fn multiply<T: Real>(a: Strided<T>, b: Strided<T>, y: &mut [T], (m, n, k): (usize, usize, usize)) {
    if !T::FALLBACK {
        for i in 0..m {
            for j in 0..n {
                y[i * n + j] = (0..k).map(|l| a.data[i * a.row + l * a.col] * b.data[l * b.row + j * b.col]).sum();
            }
        }
        return;
    }
    let parallel = if m * n * k > 1 << 16 { gemm::Parallelism::Rayon(0) } else { gemm::Parallelism::None };
    multiply_by_library(a, b, y, (m, n, k), parallel);
}

/// A product with weights `[n, k]` by `columns(x, m, out)`, for at most `most` rows of the left operand at a time.
fn by_rows<T: Real>(
    a: &Tensor<T>,
    call: &Call<T>,
    most: usize,
    columns: impl Fn(&[f32], usize, &mut [f32]) -> Result<()>,
) -> Result<Tensor<T>> {
    let k = a.shape[a.shape.len() - 1];
    let n = call.shape[call.shape.len() - 1];
    let m = a.count().checked_div(k).unwrap_or(0);
    let x: Vec<f32> = a.slice().iter().map(|v| v.get() as f32).collect();
    let (mut rows, most) = (vec![0.0; m * n], most.min(m.max(1)));
    // Columns first: each weight row makes one run of `m`.
    let mut made = vec![0.0; if m < 2 { 0 } else { most * n }];
    for (i, x) in x.chunks((most * k).max(1)).enumerate().filter(|_| n > 0) {
        let m = x.len() / k;
        let out = &mut rows[i * most * n..][..m * n];
        if m < 2 {
            columns(x, m, out)?;
        } else {
            columns(x, m, &mut made[..m * n])?;
            dot::transpose(&made[..m * n], m, out);
        }
    }
    Ok(Tensor::floats(T::from_f32s(rows), &call.shape))
}

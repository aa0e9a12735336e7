//! Whether an adapter computes products rightly in a precision below f32: drivers promise more than some keep.

use crate::base::{AdapterKind, Array, Bindings, DType, DeviceFault, Error, Precision, Result};
use crate::device::{Gpu, Program, Store};
use crate::format::{SAMPLES, encode};
use crate::graph::GraphBuilder;
use crate::kernel::matmul::{VARIANTS, Variant};
use crate::plan::{self, Options};
use std::collections::HashMap;
use std::sync::Arc;

/// Sizes of a product that every variant has edges in: rows, outputs, inner.
const SIZES: [(usize, usize, usize); 2] = [(3, 37, 128), (37, 37, 128)];

/// The precision that was asked for, if this adapter has it and gives the right answers to small products in it.
///
/// # Errors
/// f16 on an adapter without it; a variant that computes something else.
pub(super) async fn trusted(gpu: &Arc<Gpu>, precision: Precision) -> Result<Precision> {
    let refused = |what: String| {
        Error::device(DeviceFault::Unavailable, &gpu.report.name, format!("{what}: use --precision f32"))
    };
    if precision == Precision::F16 && !gpu.caps().f16 {
        return Err(refused("has no f16 arithmetic".into()));
    }
    let known = gpu.trusts(precision);
    if precision == Precision::F32 || known {
        return Ok(precision);
    }
    let software = gpu.caps().kind == AdapterKind::Software;
    let chosen = |v: &&Variant| v.precision == precision && v.requires(gpu.caps()) && (!software || v.tm * v.tn <= 16);
    for v in VARIANTS.iter().filter(chosen) {
        for sizes in SIZES {
            if !right(gpu, v, sizes).await? {
                return Err(refused(format!("computes a small product wrongly by {}", v.name)));
            }
        }
    }
    gpu.trust(precision);
    Ok(precision)
}

/// Whether a product of small whole numbers, which every precision holds exactly, comes out right.
async fn right(gpu: &Arc<Gpu>, v: &Variant, (m, n, k): (usize, usize, usize)) -> Result<bool> {
    // The largest of each block of 32 is 127, so that bytes are the numbers themselves.
    let x: Vec<f32> =
        (0..m * k).map(|i| if i % 32 == 5 { 127.0 } else { ((i * 7 + i / 11) % 61) as f32 - 30.0 }).collect();
    let w: Vec<f32> =
        (0..n * k).map(|i| if i % 32 == 3 { -127.0 } else { ((i * 5 + i / 13) % 41) as f32 - 20.0 }).collect();
    let g = GraphBuilder::new();
    // Blocks of bytes hold whole numbers as they are.
    let dtype = SAMPLES[SAMPLES.len() - 1];
    let weight = g.weight("w", dtype, [n, k]);
    g.output("y", g.input("x", DType::F32, [m, k]).matmul_t(weight));
    let mut options = Options::for_caps(gpu.caps());
    options.precision = v.precision;
    options.tuning.prefer(v.name);
    let bytes = encode(dtype, &w);
    let weights = HashMap::from([("w".to_string(), Array::new(dtype, &[n, k], bytes)?)]);
    let mut store = Store::new(gpu.clone());
    let made = plan::plan(&g.finish()?, gpu.caps(), &options)?;
    let mut program = Program::load(made, &mut store, &weights, &mut |_, _| {}).await?;
    let y = program.step(&Bindings::new(), &[("x", Array::f32(&[m, k], &x))], &["y"]).await?.remove(0).to_f32();
    let want = |i: usize| {
        let (row, column) = (&x[i / n * k..][..k], &w[i % n * k..][..k]);
        row.iter().zip(column).map(|(x, w)| *x as f64 * *w as f64).sum::<f64>()
    };
    // Factors are quotients, which devices may give in a few units of the last place.
    let size = 127.0 * 127.0 * k as f64;
    Ok(y.len() == m * n && y.iter().enumerate().all(|(i, y)| (*y as f64 - want(i)).abs() <= 2e-6 * size))
}

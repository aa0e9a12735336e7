//! What an adapter can do at best, measured: the floor that figures are held against.

use super::{Gpu, Program, Store};
use crate::base::units::median;
use crate::base::{Array, Bindings, Expr, Result, Type};
use crate::kernel::{Kernel, PROBE};
use crate::plan::{Arg, Buffer, BufferId, Ceil, Dispatch, Param, Plan, Port, Role};
use std::collections::HashMap;
use std::sync::Arc;
use web_time::Instant;

/// Medians of a few runs.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Probes {
    /// f32 FLOP per second of fused multiply-adds in registers.
    pub flops: f64,
    /// Bytes per second, read and written, of a copy by a shader.
    pub bandwidth: f64,
    /// Seconds of an empty submission and the wait for it.
    pub submit: f64,
    /// Seconds that one more small dispatch takes.
    pub dispatch: f64,
}

/// Vectors of four that the copy moves: 32 MiB there and back.
const VECTORS: usize = 2 << 20;
const ROUNDS: u32 = 256;

/// Measures the adapter; takes about a second.
pub async fn probe(gpu: &Arc<Gpu>) -> Result<Probes> {
    let lanes = if gpu.caps().kind == crate::base::AdapterKind::Software { 1 << 14 } else { 1 << 19 };
    let fma = seconds(gpu, Kernel::new(&PROBE).set("ROUNDS", ROUNDS), lanes, 1).await?;
    let copy = Kernel::new(&PROBE).hole("body", "fn run(i: u32) { y[i] = x[i] + p.seed; }");
    let moved = seconds(gpu, copy.clone(), VECTORS, 1).await?;
    let one = seconds(gpu, copy.clone(), 64, 1).await?;
    let many = seconds(gpu, copy, 64, 257).await?;
    Ok(Probes {
        flops: lanes as f64 * ROUNDS as f64 * 64.0 / (fma - one).max(1e-9),
        bandwidth: VECTORS as f64 * 32.0 / (moved - one).max(1e-9),
        submit: one,
        dispatch: ((many - one) / 256.0).max(0.0),
    })
}

/// Median seconds of a step of `repeat` dispatches of `kernel` over `n` vectors.
async fn seconds(gpu: &Arc<Gpu>, kernel: Kernel, n: usize, repeat: usize) -> Result<f64> {
    let bytes = n as u64 * 16;
    let port = |name: &str, buffer| Port { name: name.into(), ty: Type::f32([n, 4]), buffer: BufferId(buffer) };
    let buffer = |role, label: &str| Buffer { role, bytes, texels: false, label: label.into() };
    let arg = |name: &str, buffer, write| Arg { name: name.into(), buffer: BufferId(buffer), offset: 0, bytes, write };
    let one = || Ceil { n: Expr::new(1), by: 1 };
    let dispatch = Dispatch {
        label: "probe".into(),
        ops: vec!["probe"],
        kernel: 0,
        args: vec![arg("x", 0, false), arg("y", 1, true)],
        params: vec![("n".into(), Param::U(Expr::new(n as i64))), ("seed".into(), Param::F(0.5))],
        grid: [Ceil { n: Expr::new(n as i64), by: 64 }, one(), one()],
        flops: Expr::new(0),
        bytes: Expr::new(0),
    };
    let plan = Plan {
        kernels: vec![kernel],
        buffers: vec![buffer(Role::Input("x".into()), "x"), buffer(Role::Output("y".into()), "y")],
        dispatches: vec![dispatch; repeat],
        transfers: vec![],
        inputs: vec![port("x", 0)],
        outputs: vec![port("y", 1)],
        kept: vec![],
    };
    let mut store = Store::new(gpu.clone());
    let mut program = Program::load(plan, &mut store, &HashMap::new(), &mut |_, _| {}).await?;
    program.step(&Bindings::new(), &[("x", Array::f32(&[n, 4], &vec![0.25; n * 4]))], &[]).await?;
    gpu.done().await?;
    let mut times = vec![];
    for _ in 0..7 {
        let start = Instant::now();
        program.again(&Bindings::new())?;
        gpu.done().await?;
        times.push(start.elapsed().as_secs_f64());
    }
    Ok(median(times))
}

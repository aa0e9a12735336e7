//! What a device does beside computing rightly: limits, faults, refusals by name.

mod common;

use common::{Found, device};
use pollster::block_on;
use std::collections::HashMap;
use warpweft::base::{Array, Bindings, Caps, DType, DeviceFault, Error, Result};
use warpweft::device::{Program, Store};
use warpweft::graph::{Graph, GraphBuilder};
use warpweft::plan::{Options, plan};

/// `y = x · wᵀ` and the rows of `w` that `ids` name.
fn lookup_and_product(rows: usize, width: usize) -> Result<Graph> {
    let g = GraphBuilder::new();
    g.at("head");
    let w = g.weight("w", DType::F32, [rows, width])?;
    let x = g.input("x", DType::F32, [2, width])?;
    let ids = g.input("ids", DType::U32, [3])?;
    g.output("y", x.matmul_t(w)?)?;
    g.output("rows", w.gather(ids)?)?;
    Ok(g.finish())
}

#[test]
fn a_weight_beyond_the_binding_limit_is_split_and_right() {
    let caps = Caps { binding_bytes: 1 << 20, ..Caps::FLOOR };
    let Found::Device(gpu) = device(Some(&caps)) else { return };
    let (rows, width) = (5000, 64);
    let graph = lookup_and_product(rows, width).unwrap();
    let planned = plan(&graph, gpu.caps(), &Options::for_caps(gpu.caps())).unwrap();
    assert!(planned.buffers.iter().filter(|b| b.label.contains('w')).count() >= 1);
    let w: Vec<f32> = (0..rows * width).map(|i| ((i * 7919) % 1000) as f32 / 1000.0 - 0.5).collect();
    let weights = HashMap::from([("w".to_string(), Array::f32(&[rows, width], &w))]);
    let x: Vec<f32> = (0..2 * width).map(|i| (i % 13) as f32 / 13.0 - 0.4).collect();
    let ids = [0, 4095, rows as u32 - 1];
    let inputs = [("x", Array::f32(&[2, width], &x)), ("ids", Array::u32(&[3], &ids))];
    let mut store = Store::new(gpu.clone());
    let mut program = block_on(Program::load(planned, &mut store, &weights, &mut |_, _| {})).unwrap();
    program.poison();
    let got = block_on(program.step(&Bindings::new(), &inputs, &["y", "rows"])).unwrap();
    for (i, y) in got[0].to_f32().iter().enumerate() {
        let (r, n) = (i / rows, i % rows);
        let want: f64 = (0..width).map(|k| x[r * width + k] as f64 * w[n * width + k] as f64).sum();
        assert!((*y as f64 - want).abs() < 1e-4, "y[{r}, {n}] is {y}, {want} is right");
    }
    let want: Vec<f32> = ids.iter().flat_map(|id| w[*id as usize * width..(*id as usize + 1) * width].to_vec()).collect();
    assert_eq!(got[1].to_f32(), want);
}

#[test]
fn a_destroyed_device_is_a_lost_one() {
    let Found::Device(gpu) = device(None) else { return };
    let graph = lookup_and_product(4, 8).unwrap();
    let weights = HashMap::from([("w".to_string(), Array::f32(&[4, 8], &[0.5; 32]))]);
    let inputs = [("x", Array::f32(&[2, 8], &[1.0; 16])), ("ids", Array::u32(&[3], &[0, 1, 2]))];
    let planned = plan(&graph, gpu.caps(), &Options::for_caps(gpu.caps())).unwrap();
    let mut store = Store::new(gpu.clone());
    let mut program = block_on(Program::load(planned, &mut store, &weights, &mut |_, _| {})).unwrap();
    block_on(program.step(&Bindings::new(), &inputs, &["y"])).unwrap();
    gpu.destroy();
    for _ in 0..2 {
        let e = block_on(program.step(&Bindings::new(), &inputs, &["y"])).unwrap_err();
        assert!(matches!(&e, Error::Device { fault: DeviceFault::Lost, .. }), "{e:?}");
    }
}

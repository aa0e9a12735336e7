//! Layer-norm over rows: `cargo run --release --example layer_norm`.

use std::collections::HashMap;
use warpweft::{Array, Bindings, DType, Device, Engine, GraphBuilder, Result};

fn main() -> Result<()> {
    let g = GraphBuilder::new();
    let x = g.input("x", DType::F32, [2, 4]);
    let w = g.data("w", [4], vec![1.0; 4]);
    let b = g.data("b", [4], vec![0.0; 4]);
    g.output("y", x.layer_norm(w, b, 1e-5));
    let graph = g.finish()?;

    pollster::block_on(async {
        let mut engine = Engine::open(&Device::Auto, &graph, &HashMap::new()).await?;
        let x = Array::f32(&[2, 4], &[1.0, 2.0, 3.0, 4.0, 100.0, 102.0, 104.0, 106.0]);
        let y = engine.run(&Bindings::new(), &[("x", x)], &["y"]).await?[0].to_f32();
        println!("{y:.4?}");
        // Both rows are the same line: normalised they are equal.
        assert!(y[..4].iter().zip(&y[4..]).all(|(a, b)| (a - b).abs() < 1e-4));
        Ok(())
    })
}

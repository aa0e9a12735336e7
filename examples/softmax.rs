//! Softmax over rows, with a variable number of them: `cargo run --release --example softmax`.

use std::collections::HashMap;
use warpweft::{Array, Bindings, DType, Device, Engine, GraphBuilder, Result, Var};

fn main() -> Result<()> {
    let rows = Var::new("rows", 8);
    let g = GraphBuilder::new();
    let x = g.input("x", DType::F32, vec![rows.into(), 3.into()]);
    g.output("y", x.softmax());
    let graph = g.finish()?;

    pollster::block_on(async {
        let mut engine = Engine::open(&Device::Auto, &graph, &HashMap::new()).await?;
        // One plan, made once; each step says how many rows it has.
        for n in [1, 2] {
            let x = Array::f32(&[n, 3], &[0.0, 1.0, 2.0, 5.0, 5.0, 5.0][..n * 3]);
            let y = engine.run(&Bindings::new().with("rows", n as u64), &[("x", x)], &["y"]).await?;
            println!("{n} rows: {:?}", y[0].to_f32());
            for row in y[0].to_f32().chunks(3) {
                assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
            }
        }
        Ok(())
    })
}

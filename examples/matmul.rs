//! A matrix product on whatever device there is: `cargo run --release --example matmul`.

use std::collections::HashMap;
use warpweft::{Array, Bindings, DType, Device, Engine, GraphBuilder, Result};

fn main() -> Result<()> {
    let g = GraphBuilder::new();
    let a = g.input("a", DType::F32, [2, 3]);
    let b = g.input("b", DType::F32, [3, 2]);
    g.output("y", a.matmul(b));
    let graph = g.finish()?;

    pollster::block_on(async {
        let mut engine = Engine::open(&Device::Auto, &graph, &HashMap::new()).await?;
        let a = Array::f32(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let b = Array::f32(&[3, 2], &[1.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
        let y = engine.run(&Bindings::new(), &[("a", a), ("b", b)], &["y"]).await?;
        println!("{}: {:?}", engine.adapter(), y[0].to_f32());
        assert_eq!(y[0].to_f32(), [4.0, 5.0, 10.0, 11.0]);
        Ok(())
    })
}

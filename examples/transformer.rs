//! A two-layer transformer built by hand, with seeded weights: `cargo run --release --example transformer`.
//! The same graph runs on the chosen device and on the f64 reference, and both must agree.

use std::collections::HashMap;
use warpweft::base::{Array, Bindings, DType, Result};
use warpweft::graph::{Attention, Graph, GraphBuilder, Tensor};
use warpweft::reference::{Interpreter, sample::Random};
use warpweft::session::{DeviceChoice, Engine};

const VOCAB: usize = 50;
const WIDTH: usize = 32;
const HEADS: usize = 4;
const SEQ: usize = 9;

fn block<'g>(g: &'g GraphBuilder, layer: usize, x: Tensor<'g>) -> Tensor<'g> {
    let weight = |name: &str, rows, cols| g.weight(&format!("{layer}.{name}"), DType::F32, [rows, cols]);
    let ones = |name: &str| g.data(&format!("{layer}.{name}"), [WIDTH], vec![1.0; WIDTH]);
    let zeros = |name: &str| g.data(&format!("{layer}.{name}"), [WIDTH], vec![0.0; WIDTH]);

    g.at(format!("layer {layer} attention"));
    let h = x.layer_norm(ones("norm1.w"), zeros("norm1.b"), 1e-5);
    let heads = |w: Tensor<'g>| h.matmul_t(w).reshape([1, SEQ, HEADS, WIDTH / HEADS]);
    let (q, k, v) =
        (heads(weight("q", WIDTH, WIDTH)), heads(weight("k", WIDTH, WIDTH)), heads(weight("v", WIDTH, WIDTH)));
    let how = Attention { causal: Some(0.into()), ..Attention::scaled(1.0 / ((WIDTH / HEADS) as f32).sqrt()) };
    let y = q.attention(k, v, None, how).reshape([SEQ, WIDTH]);
    let x = x + y.matmul_t(weight("o", WIDTH, WIDTH));

    g.at(format!("layer {layer} network"));
    let h = x.layer_norm(ones("norm2.w"), zeros("norm2.b"), 1e-5);
    let h = h.matmul_t(weight("up", 4 * WIDTH, WIDTH)).gelu();
    x + h.matmul_t(weight("down", WIDTH, 4 * WIDTH))
}

fn transformer() -> Result<Graph> {
    let g = GraphBuilder::new();
    let tokens = g.input("tokens", DType::U32, [SEQ]);
    let table = g.weight("embedding", DType::F32, [VOCAB, WIDTH]);
    let mut x = table.gather(tokens);
    for layer in 0..2 {
        x = block(&g, layer, x);
    }
    g.at("head");
    g.output("logits", x.matmul_t(table));
    g.finish()
}

fn main() -> Result<()> {
    let mut random = Random::new(1);
    let mut matrix = |rows: usize, cols: usize| {
        let elements: Vec<f32> = (0..rows * cols).map(|_| (random.normal() * 0.2) as f32).collect();
        Array::f32(&[rows, cols], &elements)
    };
    let mut weights = HashMap::from([("embedding".to_string(), matrix(VOCAB, WIDTH))]);
    for layer in 0..2 {
        for name in ["q", "k", "v", "o"] {
            weights.insert(format!("{layer}.{name}"), matrix(WIDTH, WIDTH));
        }
        weights.insert(format!("{layer}.up"), matrix(4 * WIDTH, WIDTH));
        weights.insert(format!("{layer}.down"), matrix(WIDTH, 4 * WIDTH));
    }
    let graph = transformer()?;
    let tokens = Array::u32(&[SEQ], &[3, 1, 4, 1, 5, 9, 2, 6, 5]);
    let inputs = [("tokens", tokens)];

    let mut engine = pollster::block_on(Engine::open(&DeviceChoice::Auto, &graph, &weights))?;
    let got = pollster::block_on(engine.run(&Bindings::new(), &inputs, &["logits"]))?[0].to_f32();
    let want = Interpreter::<f64>::new(&graph, &weights)?.step_values(&Bindings::new(), &inputs)?.remove(0).1;
    let worst = got.iter().zip(&want).map(|(a, b)| (*a as f64 - b).abs()).fold(0.0, f64::max);
    println!("{}: {} logits, at most {worst:.1e} from the f64 reference", engine.adapter(), got.len());
    assert!(worst < 1e-4);
    Ok(())
}

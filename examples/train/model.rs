//! A small transformer that predicts the next character, and the step that trains it.
//!
//! Where things lie on a mesh is stated here and means nothing without one: samples along the data axis, heads and inner
//! elements along the tensor axis, and a layer for each pipeline stage that could be.

use warpweft::base::{Array, Cut, DType, MeshAxis, Placement, Result, Shape};
use warpweft::graph::{Attention, Graph, GraphBuilder, Optimiser, Parameters, Tensor, Zero};
use warpweft::reference::sample::Random;

/// Sizes of the model and of a step.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    pub vocab: usize,
    pub width: usize,
    pub heads: usize,
    pub layers: usize,
    /// Samples of a step, and characters of each.
    pub batch: usize,
    pub seq: usize,
}

/// A step's graph, and what its parameters hold before the first.
pub struct Training {
    pub graph: Graph,
    pub parameters: Vec<(String, Array)>,
}

/// Inputs `tokens` and `targets` (u32, `[batch, seq]`), `rate` and `step`; the output is `loss`, nats a character.
pub fn training(s: &Sizes, how: Optimiser, zero: Zero) -> Result<Training> {
    let g = GraphBuilder::new();
    let p = Parameters::new(&g, zero);
    let samples = |name: &str| g.input(name, DType::U32, [s.batch, s.seq]).place(MeshAxis::Data, Placement::Split(0));
    let (tokens, targets) = (samples("tokens"), samples("targets"));
    let (rate, step) = (g.input("rate", DType::F32, Shape::default()), g.input("step", DType::F32, Shape::default()));

    g.at("embedding");
    let x = p.add("embedding", [s.vocab, s.width], &[]).gather(tokens);
    let mut x = (x + p.add("positions", [s.seq, s.width], &[])).reshape([s.batch * s.seq, s.width]);
    for layer in 0..s.layers {
        g.layer(layer as u32);
        x = block(&g, &p, s, layer, x);
    }
    g.at("head");
    let x = x.layer_norm(p.add("norm.w", [s.width], &[]), p.add("norm.b", [s.width], &[]), 1e-5);
    let logits = x.matmul_t(p.add("head", [s.vocab, s.width], &[(MeshAxis::Tensor, Placement::Split(0), Cut::ONES)]));
    let loss = logits.cross_entropy(targets.reshape([s.batch * s.seq]));
    g.output("loss", loss);
    p.update(loss, how, rate, step);

    let mut random = Random::new(1);
    let parameters = p
        .list()
        .into_iter()
        .map(|(name, shape)| start(name, &shape.known().unwrap_or_default(), s, &mut random))
        .collect();
    Ok(Training { graph: g.finish()?, parameters })
}

fn block<'g>(g: &'g GraphBuilder, p: &Parameters<'g>, s: &Sizes, layer: usize, x: Tensor<'g>) -> Tensor<'g> {
    let (w, head) = (s.width, s.width / s.heads);
    let name = |part: &str| format!("{layer}.{part}");
    let across =
        |axis: usize, unit: usize| [(MeshAxis::Tensor, Placement::Split(axis), Cut::Even { unit: unit as u32 })];
    let norm = |part: &str, x: Tensor<'g>| {
        x.layer_norm(p.add(&name(&format!("{part}.w")), [w], &[]), p.add(&name(&format!("{part}.b")), [w], &[]), 1e-5)
    };

    g.at(name("attention"));
    let h = norm("norm1", x);
    let heads =
        |part: &str| h.matmul_t(p.add(&name(part), [w, w], &across(0, head))).reshape([s.batch, s.seq, s.heads, head]);
    let how = Attention { causal: Some(0.into()), ..Attention::scaled(1.0 / (head as f32).sqrt()) };
    let y = heads("q").attention(heads("k"), heads("v"), None, how).reshape([s.batch * s.seq, w]);
    let y = y.matmul_t(p.add(&name("o"), [w, w], &across(1, head))).place(MeshAxis::Tensor, Placement::Whole);
    let x = x + y;

    g.at(name("network"));
    let h = norm("norm2", x).matmul_t(p.add(&name("up"), [4 * w, w], &across(0, 1))).gelu();
    let y = h.matmul_t(p.add(&name("down"), [w, 4 * w], &across(1, 1))).place(MeshAxis::Tensor, Placement::Whole);
    x + y
}

/// Ones for scales, zeros for shifts, small random numbers for the rest.
fn start(name: String, shape: &[usize], s: &Sizes, random: &mut Random) -> (String, Array) {
    let scale = match name.rsplit('.').next() {
        Some("o" | "down") => 0.02 / (2.0 * s.layers as f64).sqrt() * 4.0,
        _ => 0.08,
    };
    let one = |r: &mut Random| match name.rsplit('.').next() {
        Some("w") => 1.0,
        Some("b") => 0.0,
        _ => (r.normal() * scale) as f32,
    };
    let elements: Vec<f32> = (0..shape.iter().product()).map(|_| one(random)).collect();
    (name, Array::f32(shape, &elements))
}

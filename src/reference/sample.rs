//! Seeded operands for the op table's cases.

use crate::base::{Array, DType, Part, Result, Type};
use crate::format;
use crate::graph::{Graph, Source};
use crate::op::{Build, Case, Fill, OpDef};
use std::collections::HashMap;

/// A small generator (SplitMix64: Steele, Lea and Flood, 2014), the same everywhere.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }
    #[allow(clippy::should_implement_trait, reason = "a generator of numbers is no sequence to be walked")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// In [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
    /// Standard normal (Box and Muller, 1958).
    pub fn normal(&mut self) -> f64 {
        let (u, v) = (1.0 - self.unit(), self.unit());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }
}

/// An operand of known shape, filled as the case asks.
pub fn operand(ty: &Type, fill: Fill, seed: u64) -> Array {
    let shape = ty.shape.known().unwrap_or_default();
    let n: usize = shape.iter().product();
    let mut r = Random::new(seed);
    let mut order: Vec<usize> = match fill {
        Fill::Different(n) => (0..n as usize).collect(),
        _ => vec![],
    };
    (1..order.len()).rev().for_each(|i| order.swap(i, r.below(i + 1)));
    let one = |i: usize, r: &mut Random| match fill {
        Fill::Normal => r.normal(),
        Fill::Positive if ty.dtype.is_float() => 0.1 + 3.9 * r.unit(),
        Fill::Positive => 1.0 + r.below(9) as f64,
        Fill::Within(most) => (2.0 * r.unit() - 1.0) * most as f64,
        Fill::Wide => match i % 8 {
            0 => 0.0,
            1 => -0.0,
            2 => 1e4 * r.normal(),
            3 => 1e-4 * r.normal(),
            _ => 4.0 * r.normal(),
        },
        Fill::Below(n) => r.below(n as usize) as f64,
        Fill::Different(_) => order[i] as f64,
        // Every third is true, so that a mask never hides all.
        Fill::Truth => (i.is_multiple_of(3) || r.below(2) == 1) as u8 as f64,
        Fill::Ties => r.below(7) as f64 - if ty.dtype == DType::U32 { 0.0 } else { 3.0 },
    };
    let values: Vec<f64> = (0..n).map(|i| one(i, &mut r)).collect();
    let floats: Vec<f32> = values.iter().map(|x| *x as f32).collect();
    let bytes = match ty.dtype {
        DType::I32 | DType::U32 | DType::Bool => values.iter().flat_map(|x| (*x as i64 as u32).to_le_bytes()).collect(),
        float => format::encode(float, &floats),
    };
    Array { dtype: ty.dtype, shape, bytes }
}

/// A one-op graph with its operands: quantised ones are weights, a state is a state, all others inputs.
pub struct CaseGraph {
    pub graph: Graph,
    pub inputs: Vec<(String, Array)>,
    pub weights: HashMap<String, Array>,
    pub states: Vec<(String, Array)>,
}

pub fn case_graph(def: &'static OpDef, case: &Case, seed: u64) -> Result<CaseGraph> {
    let mut graph = Graph::default();
    let (mut inputs, mut weights, mut states) = (vec![], HashMap::new(), vec![]);
    let mut args = vec![];
    for (i, (ty, fill)) in case.operands.iter().enumerate() {
        let name = format!("x{i}");
        let array = operand(ty, *fill, seed + i as u64);
        let source = if ty.dtype.is_quantised() {
            weights.insert(name.clone(), array);
            Source::Weight { parts: vec![Part::whole(&name)] }
        } else if matches!(def.name, "append" | "assign") && i == 0 {
            states.push((name.clone(), array));
            Source::State
        } else {
            inputs.push((name.clone(), array));
            Source::Input
        };
        args.push(graph.source(source, ty.clone(), &name)?);
    }
    graph.set_place(def.name);
    let y = graph.apply(def, case.attrs.clone(), &args)?;
    graph.output("y", y)?;
    Ok(CaseGraph { graph, inputs, weights, states })
}

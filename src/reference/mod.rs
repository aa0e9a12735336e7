//! Any graph on the CPU: in f64 the oracle that every device result is held against, in f32 the fallback on which
//! models run where there is no adapter.
//!
//! It shares no code with `plan`, `kernel` or `device`. In f64 every composite runs as its definition.

mod dot;
mod matmul;
mod native;
mod primitive;
pub mod sample;
mod value;

pub use value::Real;

use crate::base::{Array, Bindings, DType, Error, Result, Type, Weights};
use crate::graph::{Graph, Source};
use crate::op::{APPEND, Attrs, Body, Fused, OpDef, Value};
use std::collections::HashMap;
use value::{Data, Tensor};

/// Runs steps of one graph. States live here between steps.
pub struct Interpreter<T: Real> {
    graph: Graph,
    weights: HashMap<Value, Tensor<T>>,
    states: HashMap<String, Tensor<T>>,
    /// The last node that uses each value.
    last_use: Vec<usize>,
    peak: u64,
    check: bool,
}

/// A step under way: callers with one thread do other things between its nodes.
pub struct Step<'a, T: Real> {
    bindings: &'a Bindings,
    inputs: &'a [(&'a str, Array)],
    values: Vec<Option<Tensor<T>>>,
    /// Bytes of each value that owns its elements, and of those alive.
    sizes: Vec<u64>,
    alive: u64,
    next: usize,
}

/// Composites that have a native f32 form.
fn is_native(def: &OpDef) -> bool {
    matches!(&def.body, Body::Composite { fused, .. } if *fused != Fused::Parts)
}

impl<T: Real> Interpreter<T> {
    /// Loads the weights that `graph` names.
    ///
    /// # Errors
    /// A weight that is missing or of another type than the graph says.
    pub fn new(graph: &Graph, weights: &dyn Weights) -> Result<Self> {
        let graph = graph.expand(&|def| T::FALLBACK && is_native(def))?;
        let mut loaded = HashMap::new();
        for v in graph.values() {
            let node = graph.node(v);
            match &node.source {
                Source::Weight { parts } => {
                    loaded.insert(v, load(parts, &node.ty, &node.name, weights)?);
                }
                Source::Data(data) => {
                    let shape = node.ty.shape.known().unwrap_or_default();
                    loaded.insert(v, Tensor::floats(data.iter().map(|x| T::of(*x as f64)).collect(), &shape));
                }
                _ => {}
            }
        }
        let mut last_use = vec![0; graph.nodes.len()];
        for (i, node) in graph.nodes.iter().enumerate() {
            node.args().iter().for_each(|a| last_use[a.0 as usize] = i);
        }
        graph.outputs.iter().for_each(|(_, v)| last_use[v.0 as usize] = usize::MAX);
        Ok(Interpreter { graph, weights: loaded, states: HashMap::new(), last_use, peak: 0, check: false })
    }

    /// Whether steps stop at the first value that is not finite.
    pub fn check_numerics(&mut self, check: bool) {
        self.check = check;
    }

    /// Sets all states to zeros.
    pub fn reset(&mut self) {
        self.states.clear();
    }

    /// Bytes of weights and states, and the most that one step's values took beside them.
    pub fn memory_bytes(&self) -> u64 {
        let held = self.weights.values().chain(self.states.values()).map(Tensor::bytes).sum::<u64>();
        held + self.peak
    }

    /// Sets a state's contents; its shape is the graph's at the variables' bounds.
    pub fn set_state(&mut self, name: &str, array: &Array) {
        self.states.insert(name.into(), Tensor::from_array(array));
    }

    /// Runs one step; outputs in the graph's order, in the graph's types.
    pub fn step(&mut self, bindings: &Bindings, inputs: &[(&str, Array)]) -> Result<Vec<(String, Array)>> {
        let mut step = self.begin(bindings, inputs)?;
        while self.advance(&mut step)? {}
        self.end(&step)
    }

    /// Begins a step.
    pub fn begin<'a>(&mut self, bindings: &'a Bindings, inputs: &'a [(&'a str, Array)]) -> Result<Step<'a, T>> {
        if let Some((name, _)) = inputs.iter().find(|(n, _)| self.graph.find_input(n).is_none()) {
            return Err(Error::usage(format!("there is no input \"{name}\"")));
        }
        let n = self.graph.nodes.len();
        Ok(Step { bindings, inputs, values: vec![None; n], sizes: vec![0; n], alive: 0, next: 0 })
    }

    /// Computes the next node; false once all are.
    pub fn advance(&mut self, step: &mut Step<T>) -> Result<bool> {
        let i = step.next;
        if i >= self.graph.nodes.len() {
            return Ok(false);
        }
        let values = &mut step.values;
        // A state is written in place: nothing else may hold its elements then.
        if self.graph.nodes[i].def().is_some_and(|d| d.is(&APPEND)) {
            values[self.graph.nodes[i].args()[0].0 as usize] = None;
        }
        let value = self.evaluate(Value(i as u32), values, step.bindings, step.inputs)?;
        if self.check {
            self.check_finite(i, &value)?;
        }
        // Views, weights and states hold no elements of their own.
        let owns = self.graph.nodes[i].def().is_some_and(|d| !d.is(&APPEND)) && !self.graph.nodes[i].is_view();
        let size = if owns { value.bytes() } else { 0 };
        step.alive += size;
        step.sizes[i] = size;
        self.peak = self.peak.max(step.alive);
        values[i] = Some(value);
        for a in self.graph.nodes[i].args() {
            if self.last_use[a.0 as usize] == i {
                values[a.0 as usize] = None;
                step.alive -= step.sizes[a.0 as usize];
            }
        }
        step.next += 1;
        Ok(step.next < self.graph.nodes.len())
    }

    /// The outputs of a step of which all nodes are computed.
    pub fn end(&self, step: &Step<T>) -> Result<Vec<(String, Array)>> {
        let types: Vec<DType> = self.graph.outputs.iter().map(|(_, v)| self.graph.node(*v).ty.dtype).collect();
        Ok(self.outputs(step)?.into_iter().zip(types).map(|((name, t), dtype)| (name, t.to_array(dtype))).collect())
    }

    /// Like [`Interpreter::step`], with outputs in full precision and truth and integers as numbers.
    pub fn step_values(&mut self, bindings: &Bindings, inputs: &[(&str, Array)]) -> Result<Vec<(String, Vec<f64>)>> {
        let mut step = self.begin(bindings, inputs)?;
        while self.advance(&mut step)? {}
        Ok(self.outputs(&step)?.into_iter().map(|(name, t)| (name, t.to_f64())).collect())
    }

    fn outputs(&self, step: &Step<T>) -> Result<Vec<(String, Tensor<T>)>> {
        let outputs = self.graph.outputs.iter();
        outputs.map(|(name, v)| Ok((name.clone(), step.values[v.0 as usize].clone().ok_or_else(|| Error::usage("an output was not computed"))?))).collect()
    }

    fn check_finite(&self, i: usize, value: &Tensor<T>) -> Result<()> {
        let node = &self.graph.nodes[i];
        let Some(def) = node.def().filter(|d| !d.is(&APPEND) && node.ty.dtype.is_float()) else { return Ok(()) };
        match value.to_f64().into_iter().enumerate().find(|(_, x)| !x.is_finite()) {
            Some((index, x)) => Err(Error::NotFinite { op: def.name.into(), node: node.name.clone(), index, value: x.to_string() }),
            None => Ok(()),
        }
    }

    fn evaluate(&mut self, v: Value, values: &[Option<Tensor<T>>], bindings: &Bindings, inputs: &[(&str, Array)]) -> Result<Tensor<T>> {
        let node = self.graph.node(v);
        let shape = || node.ty.shape.eval(bindings);
        match &node.source {
            Source::Const(x) => Ok(Tensor::floats(vec![T::of(*x as f64)], &[])),
            Source::Weight { .. } | Source::Data(_) => Ok(self.weights[&v].clone()),
            Source::Input => input(&node.name, &node.ty, &shape()?, inputs),
            Source::State => {
                let bound: Vec<usize> = node.ty.shape.iter().map(|d| d.bound().max(0) as usize).collect();
                let zeros = || Tensor::zeros(node.ty.dtype, &bound);
                Ok(self.states.entry(node.name.clone()).or_insert_with(zeros).clone())
            }
            Source::Op { def, attrs, args } => {
                if def.is(&APPEND) {
                    return self.append(v, values, bindings);
                }
                let operands: Vec<&Tensor<T>> = args.iter().map(|a| values[a.0 as usize].as_ref()).collect::<Option<_>>()
                    .ok_or_else(|| Error::op(def.name, &node.name, "an operand was not computed"))?;
                let call = primitive::Call { def, attrs, operands: &operands, shape: shape()?, dtype: node.ty.dtype, bindings };
                call.run().map_err(|e| e.at_node(&node.name))
            }
        }
    }

    /// Writes rows into a state in place. The state's own tensor is the only one that holds its elements then.
    fn append(&mut self, v: Value, values: &[Option<Tensor<T>>], bindings: &Bindings) -> Result<Tensor<T>> {
        let node = self.graph.node(v);
        let Source::Op { attrs: Attrs::Append { at }, .. } = &node.source else {
            return Err(Error::op("append", &node.name, "lacks its attribute"));
        };
        let (state, rows) = (node.args()[0], node.args()[1]);
        let name = &self.graph.node(state).name;
        let at = at.eval(bindings)? as usize;
        let rows = values[rows.0 as usize].as_ref().ok_or_else(|| Error::op("append", &node.name, "its rows were not computed"))?;
        let tensor = self.states.get_mut(name).ok_or_else(|| Error::op("append", &node.name, "its state does not exist"))?;
        if at + rows.shape[0] > tensor.shape[0] {
            let what = format!("{} rows at {at} reach past the state's {}", rows.shape[0], tensor.shape[0]);
            return Err(Error::op("append", &node.name, what));
        }
        tensor.write_rows(at, rows);
        Ok(tensor.clone())
    }
}

fn input<T: Real>(name: &str, ty: &Type, shape: &[usize], inputs: &[(&str, Array)]) -> Result<Tensor<T>> {
    let given = inputs.iter().find(|(n, _)| *n == name);
    let (_, array) = given.ok_or_else(|| Error::usage(format!("input \"{name}\" {ty} is missing")))?;
    if array.shape != shape || array.dtype != ty.dtype {
        let (dtype, have) = (array.dtype, &array.shape);
        return Err(Error::usage(format!("input \"{name}\" is {dtype}{have:?}, it must be {}{shape:?}", ty.dtype)));
    }
    Ok(Tensor::from_array(array))
}

/// Reads the file tensors of one weight, one after another.
fn load<T: Real>(parts: &[String], ty: &Type, name: &str, weights: &dyn Weights) -> Result<Tensor<T>> {
    let shape = ty.shape.known().ok_or_else(|| Error::op("weight", name, format!("{} is not known", ty.shape)))?;
    let mut bytes = vec![];
    for part in parts {
        let info = weights.info(part)?;
        if info.dtype != ty.dtype {
            return Err(Error::op("weight", part, format!("is {}, it must be {}", info.dtype, ty.dtype)));
        }
        let rows = info.shape.first().and_then(|d| d.known()).unwrap_or(1) as usize;
        bytes.extend_from_slice(&weights.read(part, 0..rows)?);
    }
    let array = Array::new(ty.dtype, &shape, bytes)
        .map_err(|e| Error::op("weight", name, format!("{} do not fill {ty}: {e}", parts.join(" + "))))?;
    // The fallback keeps blocks as they are: memory traffic is what decoding costs.
    if T::FALLBACK && ty.dtype.is_quantised() {
        return Ok(Tensor { data: Data::Blocks(array.bytes.into(), ty.dtype), strides: value::strides(&shape), shape, offset: 0 });
    }
    Ok(Tensor::from_array(&array))
}

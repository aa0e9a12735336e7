//! Any graph on the CPU: in f64 the oracle that every device result is held against, in f32 the fallback on which
//! models run where there is no adapter.
//!
//! It shares no code with `plan`, `kernel` or `device`. In f64 every composite runs as its definition.

mod arrival;
mod call;
mod columns;
mod delta;
mod dot;
mod matmul;
mod native;
mod primitive;
mod ranks;
mod rows;
pub mod sample;
mod value;

pub use ranks::Ranks;
pub use rows::{MOST_MADE, MOST_SHARED, Member, Team, WORDS, pays};
pub use value::Real;

use crate::base::{Array, Bindings, DType, Error, Part, Result, Seat, Type, Weights, read_parts};
use crate::graph::{Graph, Source};
use crate::op::{APPEND, ASSIGN, Attrs, Body, Fused, OpDef, Value};
use arrival::Arrival;
use std::collections::HashMap;
use std::sync::Arc;
use value::{Data, Tensor};

/// Runs steps of one graph. States live here between steps.
pub struct Interpreter<T: Real> {
    graph: Graph,
    weights: HashMap<Value, Tensor<T>>,
    /// Weights that have not all come.
    arrival: Arrival,
    states: HashMap<String, Tensor<T>>,
    /// The last node that uses each value.
    last_use: Vec<usize>,
    peak: u64,
    check: bool,
}

/// A step under way: callers with one thread do other things between its nodes.
pub struct Running<T> {
    values: Vec<Option<Tensor<T>>>,
    sizes: Vec<u64>,
    alive: u64,
    /// The node that is next.
    at: usize,
}

/// Composites that have a native f32 form.
fn is_native(def: &OpDef) -> bool {
    matches!(&def.body, Body::Composite { fused, .. } if !matches!(fused, Fused::Parts | Fused::PagedAttention))
}

impl<T: Real> Interpreter<T> {
    /// Loads the weights that `graph` names.
    ///
    /// # Errors
    /// A weight that is missing or of another type than the graph says.
    pub fn new(graph: &Graph, weights: &dyn Weights) -> Result<Self> {
        Interpreter::at(graph, weights, &Seat::default())
    }

    /// Like [`Interpreter::new`], for one rank of a mesh: it loads its own pieces only.
    pub fn at(graph: &Graph, weights: &dyn Weights, seat: &Seat) -> Result<Self> {
        let mut interpreter = Interpreter::bare(graph)?;
        for v in interpreter.graph.values() {
            let node = interpreter.graph.node(v);
            if let Source::Weight { parts } = &node.source {
                interpreter.weights.insert(v, load(parts, &node.ty, seat, weights)?);
            }
        }
        Ok(interpreter)
    }

    /// Like [`Interpreter::new`] where the weights arrive later: [`Interpreter::feed`] takes them, and a team shares them.
    ///
    /// # Errors
    /// Beside those, memory that is not there.
    pub fn waiting(graph: &Graph, weights: &dyn Weights, team: Option<Arc<dyn Team>>) -> Result<Self> {
        let mut interpreter = Interpreter::bare(graph)?;
        interpreter.arrival = Arrival::of(&interpreter.graph, weights, team)?;
        Ok(interpreter)
    }

    /// Takes blocks of a tensor as the file stores them, from block `block` of it on.
    pub fn feed(&mut self, tensor: &str, block: u64, bytes: &[u8]) -> Result<()> {
        self.arrival.feed(tensor, block, bytes)
    }

    /// Ends the arrival of weights.
    ///
    /// # Errors
    /// A weight of which not every block came.
    pub fn arrived(&mut self) -> Result<()> {
        self.weights.extend(std::mem::take(&mut self.arrival).finish()?);
        Ok(())
    }

    /// Without its weights.
    fn bare(graph: &Graph) -> Result<Self> {
        let graph = graph.expand(&|def| T::FALLBACK && is_native(def))?;
        let mut loaded = HashMap::new();
        for v in graph.values() {
            let node = graph.node(v);
            if let Source::Data(data) = &node.source {
                let shape = node.ty.shape.known().unwrap_or_default();
                loaded.insert(v, Tensor::floats(data.iter().map(|x| T::of(*x as f64)).collect(), &shape));
            }
        }
        check_memory::<T>(&graph)?;
        let mut last_use = vec![0; graph.nodes.len()];
        for (i, node) in graph.nodes.iter().enumerate() {
            node.args().iter().for_each(|a| last_use[a.0 as usize] = i);
        }
        graph.outputs.iter().for_each(|(_, v)| last_use[v.0 as usize] = usize::MAX);
        Ok(Interpreter {
            graph,
            weights: loaded,
            arrival: Arrival::default(),
            states: HashMap::new(),
            last_use,
            peak: 0,
            check: false,
        })
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

    /// A state's contents; `None` before the first step has touched it.
    pub fn state(&self, name: &str) -> Option<Array> {
        let node = self.graph.nodes.iter().find(|n| n.source == Source::State && n.name == name)?;
        Some(self.states.get(name)?.to_array(node.ty.dtype))
    }

    /// Sets a state's contents; its shape is the graph's at the variables' bounds.
    pub fn set_state(&mut self, name: &str, array: &Array) {
        self.states.insert(name.into(), Tensor::from_array(array));
    }

    /// Runs one step; outputs in the graph's order, in the graph's types.
    pub fn step(&mut self, bindings: &Bindings, inputs: &[(&str, Array)]) -> Result<Vec<(String, Array)>> {
        let outputs = self.run(bindings, inputs)?;
        let types: Vec<DType> = self.graph.outputs.iter().map(|(_, v)| self.graph.node(*v).ty.dtype).collect();
        Ok(outputs.into_iter().zip(types).map(|((name, t), dtype)| (name, t.to_array(dtype))).collect())
    }

    /// Like [`Interpreter::step`], with outputs in full precision and truth and integers as numbers.
    pub fn step_values(&mut self, bindings: &Bindings, inputs: &[(&str, Array)]) -> Result<Vec<(String, Vec<f64>)>> {
        Ok(self.run(bindings, inputs)?.into_iter().map(|(name, t)| (name, t.to_f64())).collect())
    }

    fn run(&mut self, bindings: &Bindings, inputs: &[(&str, Array)]) -> Result<Vec<(String, Tensor<T>)>> {
        let mut running = self.begin(inputs)?;
        match self.advance(&mut running, bindings, inputs)? {
            None => self.finish(running),
            Some(v) => Err(self.lonely(v)),
        }
    }

    /// Begins a step, for [`Interpreter::node`] to go on with.
    pub fn begin(&self, inputs: &[(&str, Array)]) -> Result<Running<T>> {
        if let Some((name, _)) = inputs.iter().find(|(n, _)| self.graph.find_input(n).is_none()) {
            return Err(Error::usage(format!("there is no input \"{name}\"")));
        }
        let n = self.graph.nodes.len();
        Ok(Running { values: vec![None; n], sizes: vec![0; n], alive: 0, at: 0 })
    }

    /// Computes the next node; false once all are.
    pub fn node(&mut self, running: &mut Running<T>, bindings: &Bindings, inputs: &[(&str, Array)]) -> Result<bool> {
        if running.at < self.graph.nodes.len()
            && let Some(v) = self.one(running, bindings, inputs)?
        {
            return Err(self.lonely(v));
        }
        Ok(running.at < self.graph.nodes.len())
    }

    /// The outputs of a step of which all nodes are computed.
    pub fn end(&self, running: Running<T>) -> Result<Vec<(String, Array)>> {
        let types: Vec<DType> = self.graph.outputs.iter().map(|(_, v)| self.graph.node(*v).ty.dtype).collect();
        Ok(self.finish(running)?.into_iter().zip(types).map(|((name, t), dtype)| (name, t.to_array(dtype))).collect())
    }

    fn lonely(&self, v: Value) -> Error {
        let node = self.graph.node(v);
        Error::op(node.kind(), &node.name, "needs the other ranks of its mesh: run all of them together")
    }

    /// Computes until a collective of several ranks is due, whose operand is then there; `None` at the end.
    fn advance(
        &mut self,
        running: &mut Running<T>,
        bindings: &Bindings,
        inputs: &[(&str, Array)],
    ) -> Result<Option<Value>> {
        while running.at < self.graph.nodes.len() {
            if let Some(v) = self.one(running, bindings, inputs)? {
                return Ok(Some(v));
            }
        }
        Ok(None)
    }

    /// Computes one node, unless it is a collective of several ranks: that is given back.
    fn one(
        &mut self,
        running: &mut Running<T>,
        bindings: &Bindings,
        inputs: &[(&str, Array)],
    ) -> Result<Option<Value>> {
        let i = running.at;
        let node = &self.graph.nodes[i];
        if let Source::Op { attrs: Attrs::Collective(c), .. } = &node.source
            && c.ways > 1
        {
            return Ok(Some(Value(i as u32)));
        }
        // A state is written in place: nothing else may hold its elements then.
        if node.def().is_some_and(|d| d.is(&APPEND)) {
            running.values[node.args()[0].0 as usize] = None;
        }
        let value = self.evaluate(Value(i as u32), &running.values, bindings, inputs)?;
        self.supply(running, value)?;
        Ok(None)
    }

    /// Gives the node at hand its value and goes on to the next.
    fn supply(&mut self, running: &mut Running<T>, value: Tensor<T>) -> Result<()> {
        let i = running.at;
        if self.check {
            self.check_finite(i, &value)?;
        }
        // Views, weights and states hold no elements of their own.
        let owns = self.graph.nodes[i].def().is_some_and(|d| !d.is(&APPEND) && !d.is(&ASSIGN))
            && !self.graph.nodes[i].is_view();
        let size = if owns { value.bytes() } else { 0 };
        running.alive += size;
        running.sizes[i] = size;
        self.peak = self.peak.max(running.alive);
        running.values[i] = Some(value);
        for a in self.graph.nodes[i].args() {
            let a = a.0 as usize;
            if self.last_use[a] == i && running.values[a].take().is_some() {
                running.alive -= running.sizes[a];
            }
        }
        running.at += 1;
        Ok(())
    }

    fn finish(&self, running: Running<T>) -> Result<Vec<(String, Tensor<T>)>> {
        let value =
            |v: &Value| running.values[v.0 as usize].clone().ok_or_else(|| Error::usage("an output was not computed"));
        self.graph.outputs.iter().map(|(name, v)| Ok((name.clone(), value(v)?))).collect()
    }

    fn check_finite(&self, i: usize, value: &Tensor<T>) -> Result<()> {
        let node = &self.graph.nodes[i];
        let Some(def) = node.def().filter(|d| !d.is(&APPEND) && node.ty.dtype.is_float()) else { return Ok(()) };
        match value.to_f64().into_iter().enumerate().find(|(_, x)| !x.is_finite()) {
            Some((index, x)) => {
                Err(Error::NotFinite { op: def.name.into(), node: node.name.clone(), index, value: x.to_string() })
            }
            None => Ok(()),
        }
    }

    fn evaluate(
        &mut self,
        v: Value,
        values: &[Option<Tensor<T>>],
        bindings: &Bindings,
        inputs: &[(&str, Array)],
    ) -> Result<Tensor<T>> {
        let node = self.graph.node(v);
        let shape = || node.ty.shape.eval(bindings);
        match &node.source {
            Source::Const(x) => Ok(Tensor::floats(vec![T::of(*x as f64)], &[])),
            Source::Weight { .. } | Source::Data(_) => {
                let held = self.weights.get(&v).cloned();
                held.ok_or_else(|| Error::op("weight", &node.name, "has not arrived"))
            }
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
                if def.is(&ASSIGN) {
                    return self.assign(v, values);
                }
                let operands: Vec<&Tensor<T>> = args
                    .iter()
                    .map(|a| values[a.0 as usize].as_ref())
                    .collect::<Option<_>>()
                    .ok_or_else(|| Error::op(def.name, &node.name, "an operand was not computed"))?;
                let call =
                    call::Call { def, attrs, operands: &operands, shape: shape()?, dtype: node.ty.dtype, bindings };
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
        let rows = values[rows.0 as usize]
            .as_ref()
            .ok_or_else(|| Error::op("append", &node.name, "its rows were not computed"))?;
        let rounded;
        let rows = match node.ty.dtype {
            DType::F32 => rows,
            narrow if narrow.is_float() && self.graph.node(node.args()[1]).ty.dtype == DType::F32 => {
                rounded = rows.rounded(narrow);
                &rounded
            }
            _ => rows,
        };
        let tensor =
            self.states.get_mut(name).ok_or_else(|| Error::op("append", &node.name, "its state does not exist"))?;
        if let Some(ids) = node.args().get(2) {
            let ids = values[ids.0 as usize]
                .as_ref()
                .ok_or_else(|| Error::op("append", &node.name, "its ids were not computed"))?;
            for (i, id) in ids.to_f64().into_iter().enumerate() {
                if id >= 0.0 && (id as usize) < tensor.shape[0] {
                    tensor.write_rows(id as usize, &rows.row(i));
                }
            }
            return Ok(tensor.clone());
        }
        if at + rows.shape[0] > tensor.shape[0] {
            let what = format!("{} rows at {at} reach past the state's {}", rows.shape[0], tensor.shape[0]);
            return Err(Error::op("append", &node.name, what));
        }
        tensor.write_rows(at, rows);
        Ok(tensor.clone())
    }

    /// Gives a state new contents. Whoever read the old ones keeps them.
    fn assign(&mut self, v: Value, values: &[Option<Tensor<T>>]) -> Result<Tensor<T>> {
        let node = self.graph.node(v);
        let (state, x) = (node.args()[0], node.args()[1]);
        let x = values[x.0 as usize]
            .as_ref()
            .ok_or_else(|| Error::op("assign", &node.name, "its value was not computed"))?;
        let new = x.owned();
        self.states.insert(self.graph.node(state).name.clone(), new.clone());
        Ok(new)
    }
}

/// Refuses states that the machine has no memory for before the first step needs them.
fn check_memory<T: Real>(graph: &Graph) -> Result<()> {
    let states = graph.nodes.iter().filter(|n| n.source == Source::State);
    let count = |n: &crate::graph::Node| {
        n.ty.shape.iter().map(|d| d.bound().max(0) as usize).try_fold(1usize, usize::checked_mul)
    };
    let total = states.clone().try_fold(0usize, |sum, n| sum.checked_add(count(n)?));
    let mut room: Vec<T> = vec![];
    if total.is_some_and(|n| room.try_reserve_exact(n).is_ok()) {
        return Ok(());
    }
    let first = states.map(|n| n.name.as_str()).next().unwrap_or_default();
    let bytes = total.map_or("beyond 2^64".into(), |n| (n as u64 * size_of::<T>() as u64).to_string());
    Err(Error::op(
        "state",
        first,
        format!("and the other states take {bytes} bytes, which this machine does not have: choose a smaller context"),
    ))
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

/// Reads the pieces of one weight that this rank has.
fn load<T: Real>(parts: &[Part], ty: &Type, seat: &Seat, weights: &dyn Weights) -> Result<Tensor<T>> {
    let array = read_parts(weights, parts, ty, seat)?;
    // The fallback keeps blocks as they are: memory traffic is what decoding costs.
    if T::FALLBACK && ty.dtype.is_quantised() {
        return Ok(Tensor {
            data: Data::Blocks(array.bytes.into(), ty.dtype),
            strides: value::strides(&array.shape),
            shape: array.shape,
            offset: 0,
        });
    }
    Ok(Tensor::from_array(&array))
}

/// One of the outputs that were made, by its name.
///
/// # Errors
/// A name that no output has.
pub fn output_of(made: &[(String, Array)], name: &str) -> Result<Array> {
    let found = made.iter().find(|(n, _)| n == name);
    found.map(|f| f.1.clone()).ok_or_else(|| Error::usage(format!("there is no output \"{name}\"")))
}

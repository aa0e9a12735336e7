//! The CPU as a back end: a graph becomes a program once, which worker threads run step by step.
//!
//! Products with weights are what a step consists of. Weights lie in rows interleaved by sixteen ([`pack`]); a product takes
//! the bias, the residual and the activation that follow it along ([`compile`]). Where weights are quantised, their left
//! operand may be too ([`Precision::Int8`]): by blocks of 32, with integer products ([`product`]). Memory is planned for a
//! step's sizes and stays ([`resolve`]); a step that is no larger than one before allocates nothing. Every result has the same bits for
//! any number of threads: how work is cut into tasks does not depend on it.

mod attend;
mod blocks;
mod columns;
mod compile;
mod delta;
mod exec;
mod isa;
mod kv;
mod lines;
mod map;
mod pack;
mod pages;
mod panels;
mod pool;
mod product;
mod program;
mod resolve;
mod rows;
mod view;

pub use crate::base::Precision;
pub use isa::Set;
pub use pool::available;

use crate::base::{Array, Bindings, DType, Error, Piece, Result, Seat, Weights};
use crate::format;
use crate::graph::Graph;
use crate::op::Value;
use exec::{Core, State};
use lines::Lines;
use pack::{Form, Packed};
use pool::Pool;
use program::From;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use web_time::Instant;

/// The most axes of a value.
const RANK: usize = 8;

/// How a program runs.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub precision: Precision,
    /// How many threads; as many as this process may run at once where 0.
    pub threads: usize,
    pub set: Set,
    /// Whether ops become part of those before them.
    pub fuse: bool,
    /// Whether a step stops at the first value that is not finite: then nothing is fused.
    pub check: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { precision: Precision::default(), threads: 0, set: Set::best(), fuse: true, check: false }
    }
}

/// A graph on the CPU, with its weights and states.
pub struct Program {
    pool: Pool<Core>,
    /// The graph's nodes, for messages.
    names: Vec<(&'static str, String)>,
    /// Parts of weights that are still to come.
    parts: HashMap<String, Vec<Part>>,
    arrived: bool,
    /// Whether a task has panicked: what memory holds is not known then.
    broken: bool,
}

/// A file's tensor within a weight.
struct Part {
    weight: usize,
    first: usize,
    blocks: usize,
    got: usize,
}

impl Program {
    /// Compiles a graph and loads its weights, unless they arrive later ([`Program::feed`]).
    ///
    /// # Errors
    /// Ops that cannot run; weights that are missing or of another type than the graph says; memory that is not there.
    pub fn new(graph: &Graph, weights: &dyn Weights, options: &Options) -> Result<Program> {
        if options.precision == Precision::F16 {
            let what = "the CPU multiplies in f32 or int8, f16 is for adapters that have it: give another --precision or --device";
            return Err(Error::usage(what));
        }
        let graph = &compile::expanded(graph)?;
        let program = compile::compile(graph, options.precision, options.fuse && !options.check)?;
        let names = graph.nodes.iter().map(|n| (n.kind(), n.name.clone())).collect();
        let mut state = State::default();
        make_literals(&program, &mut state)?;
        make_states(&program, &mut state)?;
        let threads = if options.threads == 0 { available() } else { options.threads.min(MOST_THREADS) };
        state.memory.scratch = (0..threads).map(|_| Lines::default()).collect();
        let parts = make_weights(graph, &program, &mut state, weights)?;
        let core = Core::new(program, options.set, options.check, state);
        let pool = Pool::new(threads, Arc::new(core));
        let mut out = Program { pool, names, parts, arrived: false, broken: false };
        if !weights.arrives() {
            out.load(weights)?;
        }
        Ok(out)
    }

    fn load(&mut self, weights: &dyn Weights) -> Result<()> {
        let names: Vec<String> = self.parts.keys().cloned().collect();
        for name in names {
            let ty = weights.info(&name)?;
            let rows = ty.shape.known().and_then(|s| s.first().copied()).unwrap_or(1);
            let bytes = weights.read(&name, 0..rows)?;
            self.feed(&name, 0, &bytes)?;
        }
        self.arrived()
    }

    /// Takes blocks of a file's tensor, from block `block` of it on. What no weight is made of is left.
    ///
    /// # Errors
    /// More blocks than the tensor has.
    pub fn feed(&mut self, tensor: &str, block: u64, bytes: &[u8]) -> Result<()> {
        let threads = self.threads().min(self.pool.cores());
        let core = self.pool.work();
        // SAFETY: no step is under way.
        let memory = unsafe { &mut core.state().memory };
        for part in self.parts.get_mut(tensor).into_iter().flatten() {
            let weight = &core.program.weights[part.weight];
            let n = bytes.len() / weight.ty.dtype.block_bytes();
            if block as usize + n > part.blocks {
                let what = format!("has {} blocks, block {} came", part.blocks, block as usize + n);
                return Err(Error::op("weight", tensor, what));
            }
            part.got += n;
            let first = part.first + block as usize;
            match &mut memory.packed[part.weight] {
                Some(packed) => packed.put(first, bytes, threads).map_err(|e| e.at_node(&weight.name))?,
                None => {
                    let to = memory.weights[part.weight].bytes_mut();
                    let size = weight.ty.dtype.block();
                    for (word, to) in words(weight.ty.dtype, bytes).zip(to[first * size * 4..].chunks_exact_mut(4)) {
                        to.copy_from_slice(&word.to_le_bytes());
                    }
                }
            }
        }
        Ok(())
    }

    /// Ends the arrival of weights.
    ///
    /// # Errors
    /// A tensor of which not every block came.
    pub fn arrived(&mut self) -> Result<()> {
        for (name, parts) in &self.parts {
            if let Some(p) = parts.iter().find(|p| p.got != p.blocks) {
                return Err(Error::op("weight", name, format!("{} of {} blocks have come", p.got, p.blocks)));
            }
        }
        self.arrived = true;
        Ok(())
    }

    pub fn threads(&self) -> usize {
        self.pool.threads()
    }
    pub fn set(&self) -> Set {
        self.pool.work().set
    }

    /// Sets all states to zeros.
    pub fn reset(&mut self) {
        // SAFETY: no step is under way.
        unsafe { self.pool.work().state().memory.states.iter_mut().for_each(|s| s.bytes_mut().fill(0)) }
    }

    /// Bytes of weights, states and the largest step so far.
    pub fn memory_bytes(&self) -> u64 {
        // SAFETY: no step is under way.
        unsafe { self.pool.work().state().memory.bytes() }
    }

    /// A state's contents: its shape is the graph's at the variables' bounds.
    pub fn state(&self, name: &str) -> Option<Array> {
        let core = self.pool.work();
        let at = core.program.states.iter().position(|s| s.name == name)?;
        let ty = &core.program.states[at].ty;
        let shape: Vec<usize> = ty.shape.iter().map(|d| d.bound().max(0) as usize).collect();
        // SAFETY: no step is under way.
        let bytes = unsafe { core.state().memory.states[at].bytes() };
        let (layout, row) = (core.program.states[at].layout, shape.iter().skip(1).product::<usize>());
        let count: usize = shape.iter().product();
        let words = (0..count).map(|i| layout.word(bytes, (i / row, i % row), row));
        Some(array(ty.dtype, &shape, words))
    }

    /// Sets a state's contents.
    pub fn set_state(&mut self, name: &str, array: &Array) {
        let core = self.pool.work();
        let Some(at) = core.program.states.iter().position(|s| s.name == name) else { return };
        let (layout, row) = (core.program.states[at].layout, array.shape.iter().skip(1).product::<usize>());
        // SAFETY: no step is under way.
        let to = unsafe { core.state().memory.states[at].bytes_mut() };
        let words: Vec<u32> = words(array.dtype, &array.bytes).collect();
        for (at, words) in words.chunks_exact(row.max(1)).enumerate() {
            layout.set_row(to, at, words);
        }
    }

    /// Runs one step; outputs in the graph's order, in the graph's types.
    ///
    /// # Errors
    /// Inputs that are missing, unknown or of the wrong type or shape; variables out of bounds.
    pub fn step(&mut self, bindings: &Bindings, inputs: &[(&str, Array)]) -> Result<Vec<(String, Array)>> {
        let names: Vec<String> = self.pool.work().program.outputs.iter().map(|o| o.0.clone()).collect();
        self.begin(bindings, inputs)?;
        self.advance(&AtomicBool::new(false), None)?;
        names.into_iter().map(|n| Ok((n.clone(), self.output(&n)?))).collect()
    }

    /// Begins a step, for [`Program::advance`] to go on with.
    pub fn begin(&mut self, bindings: &Bindings, inputs: &[(&str, Array)]) -> Result<()> {
        if self.broken {
            return Err(Error::usage("a task of an earlier step has failed: open the model anew"));
        }
        let core = self.pool.work();
        // SAFETY: no step is under way.
        let state = unsafe { core.state() };
        let p = &core.program;
        if let Some((name, _)) = inputs.iter().find(|(n, _)| p.inputs.iter().all(|i| i.0 != *n)) {
            return Err(Error::usage(format!("there is no input \"{name}\"")));
        }
        if let Some(w) = p.weights.first().filter(|_| !self.arrived) {
            return Err(Error::op("weight", &w.name, "has not arrived"));
        }
        for (name, ty, _) in &p.inputs {
            let shape = ty.shape.eval(bindings)?;
            let found = inputs.iter().find(|(n, _)| n == name);
            let (_, array) = found.ok_or_else(|| Error::usage(format!("input \"{name}\" {ty} is missing")))?;
            if array.shape != shape || array.dtype != ty.dtype {
                let (dtype, have) = (array.dtype, &array.shape);
                return Err(Error::usage(format!(
                    "input \"{name}\" is {dtype}{have:?}, it must be {}{shape:?}",
                    ty.dtype
                )));
            }
        }
        state.memory.reach = reach(p, inputs);
        state.memory.resolve(p, bindings)?;
        for (name, _, id) in &p.inputs {
            let Some((_, array)) = inputs.iter().find(|(n, _)| n == name) else { continue };
            let view = state.memory.views[*id];
            for (i, word) in words(array.dtype, &array.bytes).enumerate() {
                // SAFETY: the value has as many words as the array, whose shape was compared.
                unsafe { *view.ptr.add(i) = word };
            }
        }
        (state.at, state.error) = (0, None);
        Ok(())
    }

    /// Goes on with a step until it ends, or for about so long; whether it has ended.
    ///
    /// # Errors
    /// [`Error::Cancelled`] once `cancel` is set; with checks on, the first value that is not finite.
    pub fn advance(&mut self, cancel: &AtomicBool, most: Option<Duration>) -> Result<bool> {
        {
            // SAFETY: no step is under way.
            let state = unsafe { self.pool.work().state() };
            state.cancel = Some(cancel);
            state.until = most.map(|d| (Instant::now(), d));
        }
        // SAFETY: the step was resolved, and nobody else touches the memory until this returns.
        let well = unsafe { self.pool.drive() };
        // SAFETY: the step has ended or stopped.
        let state = unsafe { self.pool.work().state() };
        state.cancel = None;
        if !well {
            self.broken = true;
            return Err(Error::usage("a task on the CPU has failed: this is a bug; open the model anew"));
        }
        match state.error.take() {
            Some(Error::NotFinite { node, index, value, .. }) => {
                let instr = node.parse::<usize>().ok().and_then(|at| self.pool.work().program.instrs.get(at));
                let (op, node) = instr.map_or(("", String::new()), |i| self.named(i.node));
                Err(Error::NotFinite { op: op.into(), node, index, value })
            }
            Some(error) => Err(error),
            None => Ok(state.at >= self.pool.work().program.instrs.len()),
        }
    }

    /// An output of the last step.
    pub fn output(&self, name: &str) -> Result<Array> {
        let core = self.pool.work();
        let found = core.program.outputs.iter().find(|o| o.0 == name);
        let (_, dtype, id) = found.ok_or_else(|| Error::usage(format!("there is no output \"{name}\"")))?;
        // SAFETY: no step is under way.
        let view = unsafe { core.state().memory.views[*id] };
        if !dtype.is_narrow() && view.is_dense() {
            // SAFETY: the value has as many words, one behind the other.
            let bytes = unsafe { std::slice::from_raw_parts(view.ptr.cast::<u8>(), view.count() * 4) };
            return Ok(Array { dtype: *dtype, shape: view.shape().to_vec(), bytes: bytes.to_vec() });
        }
        // SAFETY: every element is within the value's memory.
        let words = (0..view.count()).map(|i| unsafe { *view.ptr.add(view.offset(i)) });
        Ok(array(*dtype, view.shape(), words))
    }

    fn named(&self, v: Value) -> (&'static str, String) {
        self.names.get(v.0 as usize).cloned().unwrap_or_default()
    }
}

/// Keys in pages that some row sees at most: known before a step where positions are an input.
fn reach(p: &program::Program, inputs: &[(&str, Array)]) -> usize {
    let (mut most, mut seen) = (0, None);
    for instr in &p.instrs {
        let program::Op::Pages { positions, .. } = &instr.op else { continue };
        if seen == Some(*positions) {
            continue;
        }
        seen = Some(*positions);
        let name = p.inputs.iter().find(|i| i.2 == *positions).map(|i| &i.0);
        let Some((_, given)) = name.and_then(|name| inputs.iter().find(|(n, _)| n == name)) else { return usize::MAX };
        let last = words(given.dtype, &given.bytes).max().unwrap_or(0);
        most = most.max(last as usize + 1);
    }
    most
}

/// More threads than any machine has help nobody.
const MOST_THREADS: usize = 1024;

/// A file's elements as words.
fn words(dtype: DType, bytes: &[u8]) -> Box<dyn Iterator<Item = u32> + '_> {
    match dtype {
        DType::F32 | DType::I32 | DType::U32 | DType::Bool => {
            Box::new(bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])))
        }
        float => Box::new(format::decode(float, bytes).into_iter().map(f32::to_bits)),
    }
}

fn array(dtype: DType, shape: &[usize], words: impl Iterator<Item = u32>) -> Array {
    let bytes = match dtype {
        kept if kept.is_float() && kept != DType::F32 => {
            format::encode(kept, &words.map(f32::from_bits).collect::<Vec<_>>())
        }
        _ => words.flat_map(u32::to_le_bytes).collect(),
    };
    Array { dtype, shape: shape.to_vec(), bytes }
}

fn make_literals(program: &program::Program, state: &mut State) -> Result<()> {
    for val in &program.vals {
        let floats = match &val.from {
            From::Const(x) => std::slice::from_ref(x),
            From::Data(data) => &data[..],
            _ => &[],
        };
        let mut lines = Lines::new(floats.len() * 4)?;
        lines.bytes_mut().copy_from_slice(bytemuck::cast_slice(floats));
        state.memory.literals.push(lines);
    }
    Ok(())
}

/// Refuses states that the machine has no memory for before the first step needs them.
fn make_states(program: &program::Program, state: &mut State) -> Result<()> {
    let count = |s: &program::StateInfo| {
        let mut dims = s.ty.shape.iter().map(|d| d.bound().max(0) as usize);
        let rows = dims.next().unwrap_or(1);
        s.layout.bytes(rows, dims.try_fold(1usize, usize::checked_mul)?)
    };
    let total = program.states.iter().try_fold(0usize, |sum, s| sum.checked_add(count(s)?));
    let mut room: Vec<u8> = vec![];
    if total.is_none_or(|n| room.try_reserve_exact(n).is_err()) {
        let first = program.states.first().map_or("", |s| s.name.as_str());
        let bytes = total.map_or("beyond 2^64".into(), |n| n.to_string());
        let what = format!(
            "and the other states take {bytes} bytes, which this machine does not have: choose a smaller context"
        );
        return Err(Error::op("state", first, what));
    }
    drop(room);
    for s in &program.states {
        state.memory.states.push(Lines::new(count(s).unwrap_or(0))?);
    }
    Ok(())
}

/// Makes room for all weights; which tensors they are made of.
fn make_weights(
    graph: &Graph,
    program: &program::Program,
    state: &mut State,
    weights: &dyn Weights,
) -> Result<HashMap<String, Vec<Part>>> {
    let mut out: HashMap<String, Vec<Part>> = HashMap::new();
    for (at, w) in program.weights.iter().enumerate() {
        let wrong = |what: String| Error::op("weight", &w.name, what);
        let crate::graph::Source::Weight { parts } = &graph.node(w.node).source else {
            return Err(wrong("is no weight of the graph".into()));
        };
        let dtype = w.ty.dtype;
        let shape = w.ty.shape.known().ok_or_else(|| wrong(format!("{} is not known", w.ty)))?;
        let mut first = 0;
        for part in parts {
            let piece = Piece::new(weights, part, &Seat::default())?;
            if piece.dtype != dtype {
                return Err(Error::op("weight", &part.name, format!("is {}, it must be {dtype}", piece.dtype)));
            }
            let blocks = piece.shape.iter().product::<usize>() / dtype.block();
            out.entry(part.name.clone()).or_default().push(Part { weight: at, first, blocks, got: 0 });
            first += blocks;
        }
        let count = shape.iter().product::<usize>();
        if first * dtype.block() != count {
            return Err(wrong(format!("does not fill {}", w.ty)));
        }
        let form = Form::of(dtype).filter(|_| w.packed);
        let (packed, plain) = match (form, &shape[..]) {
            (Some(_), &[n, k]) => (Some(Packed::new(dtype, n, k).map_err(|e| e.at_node(&w.name))?), 0),
            _ => (None, count * 4),
        };
        state.memory.packed.push(packed);
        state.memory.weights.push(Lines::new(plain)?);
    }
    Ok(out)
}

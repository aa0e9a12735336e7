//! A graph that can be stepped, on an adapter or on the CPU.

use super::mesh::MeshEngine;
use super::{DeviceChoice, Notice, pick};
use crate::base::{Array, Bindings, DType, Error, Result, Weights};
use crate::device::{Gpu, Program, Store};
use crate::graph::Graph;
use crate::plan::{self, Options, Tuning};
use crate::reference::Interpreter;
use std::sync::Arc;

/// One or more graphs that share weights and states, loaded.
pub struct Engine {
    inner: Inner,
}

enum Inner {
    Device { programs: Vec<Program>, store: Store, check: bool },
    Cpu { interpreter: Box<Interpreter<f32>>, threads: usize },
    Mesh(Box<MeshEngine>),
}

impl Engine {
    /// Loads one graph onto the chosen device.
    ///
    /// # Errors
    /// A device that does not exist; an op, type or size that cannot run there, by name; weights that do not fit.
    pub async fn open(device: &DeviceChoice, graph: &Graph, weights: &dyn Weights) -> Result<Engine> {
        let gpu = pick(device).await?.gpu;
        Engine::new(gpu, std::slice::from_ref(graph), weights, false, None, &mut |_| {}).await
    }

    /// Runs one step and reads the named outputs.
    ///
    /// # Errors
    /// Inputs that are missing, unknown or of the wrong type or shape; variables out of bounds; device faults.
    pub async fn run(&mut self, bindings: &Bindings, inputs: &[(&str, Array)], outputs: &[&str]) -> Result<Vec<Array>> {
        self.step(0, 0, bindings, inputs, outputs).await
    }

    pub(super) async fn new(
        gpu: Option<Arc<Gpu>>,
        graphs: &[Graph],
        weights: &dyn Weights,
        check: bool,
        tuning: Option<Tuning>,
        notify: &mut dyn FnMut(Notice),
    ) -> Result<Engine> {
        let Some(gpu) = gpu else {
            let mut interpreter = Box::new(Interpreter::new(&graphs[0], weights)?);
            interpreter.check_numerics(check);
            return Ok(Engine { inner: Inner::Cpu { interpreter, threads: rayon::current_num_threads() } });
        };
        let mut options = Options::for_caps(gpu.caps());
        options.keep_values = check;
        if let Some(tuning) = tuning {
            options.tuning = tuning;
        }
        let mut store = Store::new(gpu.clone());
        let mut programs = vec![];
        for graph in graphs {
            let plan = plan::plan(graph, gpu.caps(), &options)?;
            programs.push(Program::load(plan, &mut store, weights, &mut |done, of| notify(Notice::Compiling { done, of })).await?);
        }
        Ok(Engine { inner: Inner::Device { programs, store, check } })
    }

    /// Several ranks of a mesh as one engine.
    pub(super) fn over(mesh: MeshEngine) -> Engine {
        Engine { inner: Inner::Mesh(Box::new(mesh)) }
    }
    pub(super) fn mesh(&mut self) -> Option<&mut MeshEngine> {
        match &mut self.inner {
            Inner::Mesh(mesh) => Some(mesh),
            _ => None,
        }
    }

    /// Runs a step of graph `which` on a replica. The CPU has only the first graph, which takes every step.
    pub(super) async fn step(&mut self, which: usize, replica: usize, bindings: &Bindings, inputs: &[(&str, Array)], outputs: &[&str]) -> Result<Vec<Array>> {
        match &mut self.inner {
            Inner::Device { programs, check, .. } => {
                let program = &mut programs[which];
                let out = program.step(bindings, inputs, outputs).await?;
                if *check {
                    find_nonfinite(program, bindings).await?;
                }
                Ok(out)
            }
            Inner::Cpu { interpreter, .. } => {
                let made = interpreter.step(bindings, inputs)?;
                outputs.iter().map(|name| output_of(&made, name)).collect()
            }
            Inner::Mesh(mesh) => mesh.step(which, replica, bindings, inputs, outputs).await,
        }
    }

    pub fn adapter(&self) -> String {
        match &self.inner {
            Inner::Device { store, .. } => format!("{} ({})", store.gpu().report.name, store.gpu().report.backend),
            Inner::Cpu { threads, .. } => format!("CPU fallback ({threads} threads)"),
            Inner::Mesh(mesh) => mesh.adapter(),
        }
    }

    /// # Errors
    /// On the CPU fallback, or where the adapter has no timestamps.
    pub(super) fn can_profile(&self) -> Result<()> {
        match &self.inner {
            Inner::Device { store, .. } if store.gpu().caps().timestamps => Ok(()),
            Inner::Device { .. } => Err(Error::usage(format!("{} has no timestamp queries: it cannot be profiled", self.adapter()))),
            Inner::Mesh(mesh) => mesh.can_trace(),
            Inner::Cpu { .. } => Err(Error::usage(format!("the {} has no dispatches to time: choose an adapter with --device", self.adapter()))),
        }
    }

    pub fn peak_bytes(&self) -> u64 {
        match &self.inner {
            Inner::Device { store, .. } => store.gpu().peak_bytes(),
            Inner::Cpu { interpreter, .. } => interpreter.memory_bytes(),
            Inner::Mesh(mesh) => mesh.rank_bytes().iter().map(|r| r.1).sum(),
        }
    }

    pub(super) fn programs(&mut self) -> &mut [Program] {
        match &mut self.inner {
            Inner::Device { programs, .. } => programs,
            Inner::Cpu { .. } | Inner::Mesh(_) => &mut [],
        }
    }
}

/// An output by its name.
pub(super) fn output_of(made: &[(String, Array)], name: &str) -> Result<Array> {
    let found = made.iter().find(|(n, _)| n == name);
    found.map(|f| f.1.clone()).ok_or_else(|| Error::usage(format!("there is no output \"{name}\"")))
}

/// The first float in the order of computation that is NaN or infinite.
async fn find_nonfinite(program: &Program, bindings: &Bindings) -> Result<()> {
    for kept in program.plan().kept.iter().filter(|k| k.ty.dtype == DType::F32) {
        let count = match kept.op {
            // Rows beyond the newest have not been written: only what an op made is looked at.
            "append" => continue,
            _ => kept.ty.shape.eval(bindings)?.iter().product::<usize>(),
        };
        let bytes = program.buffer_bytes(kept.buffer).await?;
        let values = bytes.chunks_exact(4).take(count).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        if let Some((index, value)) = values.enumerate().find(|(_, x)| !x.is_finite()) {
            // A kernel may compute several ops at once.
            let writes = |d: &&plan::Dispatch| d.args.iter().any(|a| a.write && a.buffer == kept.buffer);
            let op = program.plan().dispatches.iter().find(writes).map_or(kept.op.to_string(), |d| d.ops.join("+"));
            return Err(Error::NotFinite { op, node: kept.name.clone(), index, value: value.to_string() });
        }
    }
    Ok(())
}

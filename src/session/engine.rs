//! A graph that can be stepped, on an adapter or on the CPU.

use super::mesh::MeshEngine;
use super::trust::trusted;
use super::{Breathe, Cancel, DeviceChoice, Notice, Options, pick};
use crate::base::units::median;
use crate::base::{Array, Bindings, DType, Error, Result, Type, Weights};
use crate::cpu;
use crate::device::{Gpu, Program, Store};
use crate::graph::{Graph, Source};
use crate::plan::{self, Tuning};
use crate::reference::{Interpreter, output_of};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use web_time::Instant;

/// How long the CPU computes before its host may breathe.
const BREATH: Duration = Duration::from_millis(30);

/// One or more graphs that share weights and states, loaded.
///
/// ```
/// use std::collections::HashMap;
/// use warpweft::{Array, Bindings, DType, Device, Engine, GraphBuilder};
///
/// let g = GraphBuilder::new();
/// g.output("y", g.input("x", DType::F32, [2]) * 2.0);
/// let graph = g.finish()?;
/// let y = pollster::block_on(async {
///     let mut engine = Engine::open(&Device::Cpu, &graph, &HashMap::new()).await?;
///     engine.run(&Bindings::new(), &[("x", Array::from(vec![1.0f32, 2.0]))], &["y"]).await
/// })?;
/// assert_eq!(y[0].to_f32(), [2.0, 4.0]);
/// # Ok::<(), warpweft::Error>(())
/// ```
pub struct Engine {
    inner: Inner,
    /// The states that can be set and read: names and types.
    states: Vec<(String, Type)>,
}

#[allow(clippy::large_enum_variant, reason = "there is one for each engine")]
enum Inner {
    Device {
        programs: Vec<Program>,
        store: Store,
        check: bool,
    },
    Cpu {
        program: Box<cpu::Program>,
        breathe: Option<Breathe>,
    },
    /// Where a team shares the weights.
    Team {
        interpreter: Box<Interpreter<f32>>,
        threads: usize,
        breathe: Option<Breathe>,
    },
    Mesh(Box<MeshEngine>),
}

impl Engine {
    /// Loads one graph onto the chosen device; on the CPU its products are computed in f32, whatever weights are stored in.
    ///
    /// # Errors
    /// A device that does not exist; an op, type or size that cannot run there, by name; weights that do not fit.
    pub async fn open(device: &DeviceChoice, graph: &Graph, weights: &dyn Weights) -> Result<Engine> {
        let gpu = pick(device).await?.gpu;
        Engine::load(gpu, graph, weights, &Options { precision: cpu::Precision::F32, ..Options::default() }).await
    }

    /// Loads one graph onto a device that was picked before; `None` is the CPU.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub async fn load(
        gpu: Option<Arc<Gpu>>,
        graph: &Graph,
        weights: &dyn Weights,
        options: &Options,
    ) -> Result<Engine> {
        Engine::new(gpu, std::slice::from_ref(graph), weights, options, None, &mut |_| {}).await
    }

    /// Runs one step and reads the named outputs.
    ///
    /// # Errors
    /// Inputs that are missing, unknown or of the wrong type or shape; variables out of bounds; device faults.
    pub async fn run(&mut self, bindings: &Bindings, inputs: &[(&str, Array)], outputs: &[&str]) -> Result<Vec<Array>> {
        self.run_until(bindings, inputs, outputs, &Cancel::new()).await
    }

    /// Like [`Engine::run`], until `cancel` is set.
    ///
    /// # Errors
    /// Beside those, [`Error::Cancelled`] from within the step.
    pub async fn run_until(
        &mut self,
        bindings: &Bindings,
        inputs: &[(&str, Array)],
        outputs: &[&str],
        cancel: &Cancel,
    ) -> Result<Vec<Array>> {
        self.step(0, 0, bindings, inputs, outputs, cancel.flag()).await
    }

    /// Sets a state's contents, as a parameter's before it is trained.
    ///
    /// # Errors
    /// No state of that name; contents of another type or shape.
    pub fn set_state(&mut self, name: &str, contents: &Array) -> Result<()> {
        let ty = self.state_type(name)?;
        if contents.dtype != ty.dtype || Some(&contents.shape) != ty.shape.known().as_ref() {
            return Err(Error::usage(format!(
                "state \"{name}\" is {ty}, it cannot hold {}{:?}",
                contents.dtype, contents.shape
            )));
        }
        match &mut self.inner {
            Inner::Device { programs, .. } => programs[0].set_state(name, contents).map(drop),
            Inner::Cpu { program, .. } => {
                program.set_state(name, contents);
                Ok(())
            }
            Inner::Team { interpreter, .. } => {
                interpreter.set_state(name, contents);
                Ok(())
            }
            Inner::Mesh(_) => Ok(()),
        }
    }

    /// A state's contents: zeros before anything was written.
    ///
    /// # Errors
    /// No state of that name, or one whose size varies; device faults.
    pub async fn state(&self, name: &str) -> Result<Array> {
        let ty = self.state_type(name)?;
        let shape = ty
            .shape
            .known()
            .ok_or_else(|| Error::usage(format!("state \"{name}\" is {ty}: it has no one size to be read")))?;
        let bytes = ty.dtype.bytes(shape.iter().product::<usize>() as u64).unwrap_or(0) as usize;
        let found = match &self.inner {
            Inner::Device { programs, .. } => match programs[0].state_buffer(name) {
                Some(id) => Some(programs[0].buffer_bytes(id).await?[..bytes].to_vec()),
                None => None,
            },
            Inner::Cpu { program, .. } => program.state(name).map(|a| a.bytes),
            Inner::Team { interpreter, .. } => interpreter.state(name).map(|a| a.bytes),
            Inner::Mesh(_) => None,
        };
        Array::new(ty.dtype, &shape, found.unwrap_or(vec![0; bytes]))
    }

    fn state_type(&self, name: &str) -> Result<&Type> {
        let known = || self.states.iter().map(|s| s.0.as_str()).collect::<Vec<_>>().join(", ");
        let found = self.states.iter().find(|s| s.0 == name);
        found.map(|s| &s.1).ok_or_else(|| Error::usage(format!("there is no state \"{name}\", there are: {}", known())))
    }

    /// Median seconds of a step without reading its outputs, of some rounds of `repeat` steps each.
    pub async fn seconds(&mut self, bindings: &Bindings, inputs: &[(&str, Array)], repeat: usize) -> Result<f64> {
        let never = AtomicBool::new(false);
        self.step(0, 0, bindings, inputs, &[], &never).await?;
        let mut times = vec![];
        for _ in 0..7 {
            let start = Instant::now();
            match &mut self.inner {
                Inner::Device { programs, store, .. } => {
                    (0..repeat).try_for_each(|_| programs[0].again(bindings))?;
                    store.gpu().done().await?;
                }
                _ => {
                    for _ in 0..repeat {
                        self.step(0, 0, bindings, inputs, &[], &never).await?;
                    }
                }
            }
            times.push(start.elapsed().as_secs_f64() / repeat.max(1) as f64);
        }
        Ok(median(times))
    }

    /// The device, of a mesh that of its first rank here; `None` is the CPU.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn gpu(&self) -> Option<&Arc<Gpu>> {
        match &self.inner {
            Inner::Device { store, .. } => Some(store.gpu()),
            Inner::Cpu { .. } | Inner::Team { .. } => None,
            Inner::Mesh(mesh) => mesh.gpu(),
        }
    }

    pub(super) async fn new(
        gpu: Option<Arc<Gpu>>,
        graphs: &[Graph],
        weights: &dyn Weights,
        how: &Options,
        tuning: Option<Tuning>,
        notify: &mut dyn FnMut(Notice),
    ) -> Result<Engine> {
        let Some(gpu) = gpu else {
            let inner = match how.team.clone().filter(|_| weights.arrives()) {
                Some(team) => {
                    let threads = team.threads();
                    let mut interpreter = Box::new(Interpreter::waiting(&graphs[0], weights, Some(team))?);
                    interpreter.check_numerics(how.check_numerics);
                    Inner::Team { interpreter, threads, breathe: how.breathe }
                }
                // In a browser one thread and a team agree in every bit: both interpret.
                None if cfg!(target_arch = "wasm32") => {
                    let mut interpreter = Box::new(match weights.arrives() {
                        true => Interpreter::waiting(&graphs[0], weights, None)?,
                        false => Interpreter::new(&graphs[0], weights)?,
                    });
                    interpreter.check_numerics(how.check_numerics);
                    Inner::Team { interpreter, threads: 1, breathe: how.breathe }
                }
                None => {
                    let (precision, threads, check) = (how.precision, how.threads, how.check_numerics);
                    let options = cpu::Options { precision, threads, check, ..cpu::Options::default() };
                    let program = Box::new(cpu::Program::new(&graphs[0], weights, &options)?);
                    Inner::Cpu { program, breathe: how.breathe }
                }
            };
            return Ok(Engine { inner, states: states(graphs) });
        };
        let mut options = plan::Options::for_caps(gpu.caps());
        options.keep_values = how.check_numerics;
        options.precision = trusted(&gpu, how.precision).await?;
        if let Some(tuning) = tuning {
            options.tuning = tuning;
        }
        let mut store = Store::new(gpu.clone());
        let mut programs = vec![];
        for graph in graphs {
            let plan = plan::plan(graph, gpu.caps(), &options)?;
            programs.push(
                Program::load(plan, &mut store, weights, &mut |done, of| notify(Notice::Compiling { done, of }))
                    .await?,
            );
        }
        Ok(Engine { inner: Inner::Device { programs, store, check: how.check_numerics }, states: states(graphs) })
    }

    /// Several ranks of a mesh as one engine.
    pub(super) fn over(mesh: MeshEngine) -> Engine {
        Engine { inner: Inner::Mesh(Box::new(mesh)), states: vec![] }
    }
    pub(super) fn mesh(&mut self) -> Option<&mut MeshEngine> {
        match &mut self.inner {
            Inner::Mesh(mesh) => Some(mesh),
            _ => None,
        }
    }

    /// Takes blocks of a weight that arrives after the engine was made.
    pub(super) async fn feed(&mut self, tensor: &str, block: u64, bytes: &[u8]) -> Result<()> {
        match &mut self.inner {
            Inner::Device { store, .. } => store.feed(tensor, block, bytes).await,
            Inner::Cpu { program, .. } => program.feed(tensor, block, bytes),
            Inner::Team { interpreter, .. } => interpreter.feed(tensor, block, bytes),
            Inner::Mesh(mesh) => mesh.feed(tensor, block, bytes).await,
        }
    }

    /// Ends the arrival of weights.
    pub(super) async fn finish(&mut self) -> Result<()> {
        match &mut self.inner {
            Inner::Device { store, .. } => store.finish().await,
            Inner::Cpu { program, .. } => program.arrived(),
            Inner::Team { interpreter, .. } => interpreter.arrived(),
            Inner::Mesh(mesh) => mesh.arrived().await,
        }
    }

    /// Whether such a step of graph `which` has no part that keeps a device for too long. `None` where steps do not hear a
    /// cancel, so that a whole step may not take long.
    pub(super) fn is_brisk(&self, which: usize, bindings: &Bindings) -> Result<Option<bool>> {
        match &self.inner {
            Inner::Device { programs, .. } => programs[which].is_brisk(bindings).map(Some),
            Inner::Cpu { .. } | Inner::Team { .. } => Ok(Some(true)),
            // Processes must all take the same portion, whatever time they measure.
            Inner::Mesh(mesh) => Ok(mesh.is_shared().then_some(true)),
        }
    }

    /// Runs a step of graph `which` on a replica. The CPU has only the first graph, which takes every step.
    pub(super) async fn step(
        &mut self,
        which: usize,
        replica: usize,
        bindings: &Bindings,
        inputs: &[(&str, Array)],
        outputs: &[&str],
        cancel: &AtomicBool,
    ) -> Result<Vec<Array>> {
        match &mut self.inner {
            Inner::Device { programs, check, .. } => {
                let program = &mut programs[which];
                let out = program.step_until(bindings, inputs, outputs, cancel).await?;
                if *check {
                    find_nonfinite(program, bindings).await?;
                }
                Ok(out)
            }
            Inner::Cpu { program, breathe } => {
                program.begin(bindings, inputs)?;
                // Without a host that wants to breathe, only a cancel stops a step.
                while !program.advance(cancel, breathe.map(|_| BREATH))? {
                    if let Some(breathe) = breathe {
                        breathe().await;
                    }
                }
                outputs.iter().map(|name| program.output(name)).collect()
            }
            Inner::Team { interpreter, breathe, .. } => {
                let made = compute(interpreter, bindings, inputs, *breathe, cancel).await?;
                outputs.iter().map(|name| output_of(&made, name)).collect()
            }
            Inner::Mesh(mesh) => mesh.step(which, replica, bindings, inputs, outputs).await,
        }
    }

    /// The name of the device, or what the CPU does.
    pub fn adapter(&self) -> String {
        match &self.inner {
            Inner::Device { store, .. } => format!("{} ({})", store.gpu().report.name, store.gpu().report.backend),
            Inner::Cpu { program, .. } => format!("CPU fallback ({} threads)", program.threads()),
            Inner::Team { threads, .. } => format!("CPU fallback ({threads} threads)"),
            Inner::Mesh(mesh) => mesh.adapter(),
        }
    }

    /// Threads of the CPU fallback; none where a device computes.
    pub fn threads(&self) -> usize {
        match &self.inner {
            Inner::Cpu { program, .. } => program.threads(),
            Inner::Team { threads, .. } => *threads,
            Inner::Device { .. } | Inner::Mesh(_) => 0,
        }
    }

    /// # Errors
    /// On the CPU fallback, or where the adapter has no timestamps.
    pub(super) fn can_profile(&self) -> Result<()> {
        match &self.inner {
            Inner::Device { store, .. } if store.gpu().caps().timestamps => Ok(()),
            Inner::Device { .. } => {
                Err(Error::usage(format!("{} has no timestamp queries: it cannot be profiled", self.adapter())))
            }
            Inner::Mesh(mesh) => mesh.can_trace(),
            Inner::Cpu { .. } | Inner::Team { .. } => Err(Error::usage(format!(
                "the {} has no dispatches to time: choose an adapter with --device",
                self.adapter()
            ))),
        }
    }

    /// The most bytes that weights, states and values took at once.
    pub fn peak_bytes(&self) -> u64 {
        match &self.inner {
            Inner::Device { store, .. } => store.gpu().peak_bytes(),
            Inner::Cpu { program, .. } => program.memory_bytes(),
            Inner::Team { interpreter, .. } => interpreter.memory_bytes(),
            Inner::Mesh(mesh) => mesh.rank_bytes().iter().map(|r| r.1).sum(),
        }
    }

    pub(super) fn programs(&mut self) -> &mut [Program] {
        match &mut self.inner {
            Inner::Device { programs, .. } => programs,
            Inner::Cpu { .. } | Inner::Team { .. } | Inner::Mesh(_) => &mut [],
        }
    }
}

/// A step on the CPU, with a breath and a look at `cancel` now and then.
async fn compute(
    interpreter: &mut Interpreter<f32>,
    bindings: &Bindings,
    inputs: &[(&str, Array)],
    breathe: Option<Breathe>,
    cancel: &AtomicBool,
) -> Result<Vec<(String, Array)>> {
    let mut running = interpreter.begin(inputs)?;
    let mut since = Instant::now();
    while interpreter.node(&mut running, bindings, inputs)? {
        if since.elapsed() > BREATH {
            if let Some(breathe) = breathe {
                breathe().await;
            }
            since = Instant::now();
        }
        if cancel.load(Ordering::Relaxed) {
            return Err(Error::Cancelled);
        }
    }
    interpreter.end(running)
}

/// The states of the first graph: all of one engine share them.
fn states(graphs: &[Graph]) -> Vec<(String, Type)> {
    let nodes = graphs.first().map_or(&[][..], |g| &g.nodes);
    nodes.iter().filter(|n| n.source == Source::State).map(|n| (n.name.clone(), n.ty.clone())).collect()
}

/// The first float in the order of computation that is NaN or infinite.
async fn find_nonfinite(program: &Program, bindings: &Bindings) -> Result<()> {
    for kept in program.plan().kept.iter().filter(|k| k.ty.dtype == DType::F32) {
        let count = match kept.op {
            // Rows beyond the newest have not been written: only what an op made is looked at.
            "append" | "assign" => continue,
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

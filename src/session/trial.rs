//! A model's steps on an adapter, timed beside probes of its kernels: what a prediction for the adapter at hand is made of
//! and held against.

use super::probes::{Probes, Rate};
use super::trust::trusted;
use super::{Notice, Options, pick_with, tune};
use crate::base::{Array, Bindings, DType, Error, Result, Var};
use crate::device::{Gpu, Program, Store};
use crate::model::{Model, StepShape};
use crate::plan::{self, Plan};
use std::sync::Arc;
use web_time::Instant;

/// One kind of step.
struct Case {
    name: String,
    program: Program,
    bindings: Bindings,
    inputs: Vec<(&'static str, Array)>,
    output: &'static str,
    tokens: usize,
    times: Vec<f64>,
}

/// A model on an adapter, with its probes.
pub struct Trial {
    gpu: Arc<Gpu>,
    cases: Vec<Case>,
    probes: Probes,
    _store: Store,
}

/// What a step is, and what it took.
pub struct Measured<'a> {
    pub name: &'a str,
    pub plan: &'a Plan,
    pub bindings: &'a Bindings,
    pub tokens: usize,
    /// Bytes that are read back.
    pub output_bytes: u64,
    /// Median of all rounds; what the first and the last quarter lie around.
    pub seconds: f64,
    pub spread: (f64, f64),
}

impl Trial {
    /// Loads a decoder's steps that read `tokens` tokens and that decode one after `tokens`, or an encoder's of one text.
    ///
    /// # Errors
    /// No adapter: the CPU fallback runs no plans. Those of loading a model.
    pub async fn open(
        model: &Model,
        tokens: usize,
        options: &Options,
        notify: &mut dyn FnMut(Notice),
    ) -> Result<Trial> {
        let info = model.info();
        if tokens < 2 || tokens >= info.context {
            return Err(Error::usage(format!(
                "{tokens} tokens are too few or too many: {} takes 2 to {}",
                info.name,
                info.context - 1
            )));
        }
        let gpu = match pick_with(&options.device, options.cache.as_deref(), notify).await?.gpu {
            Some(gpu) => gpu,
            None => {
                return Err(Error::usage(
                    "the CPU fallback runs no plans: choose an adapter with --device (see `warpweft devices`)",
                ));
            }
        };
        let mut plan_options = plan::Options::for_caps(gpu.caps());
        plan_options.precision = trusted(&gpu, options.precision).await?;
        if let Some(tuning) = tune::tuned(&gpu, options.cache.as_deref(), notify).await? {
            plan_options.tuning = tuning;
        }
        let mut store = Store::new(gpu.clone());
        let mut cases = vec![];
        for step in steps(model, tokens)? {
            let plan = plan::plan(&step.graph, gpu.caps(), &plan_options)?;
            let mut progress = |done, of| notify(Notice::Compiling { done, of });
            let program = Program::load(plan, &mut store, &model.source, &mut progress).await?;
            cases.push(Case {
                name: step.name,
                program,
                bindings: step.bindings,
                inputs: step.inputs,
                output: step.output,
                tokens: step.tokens,
                times: vec![],
            });
        }
        let plans: Vec<(&Plan, &Bindings)> = cases.iter().map(|c| (c.program.plan(), &c.bindings)).collect();
        let mut progress = |done, of| notify(Notice::Compiling { done, of });
        let probes = Probes::open(&gpu, &plan_options, &plans, &mut progress).await?;
        let mut trial = Trial { gpu, cases, probes, _store: store };
        // What happens once, happens now.
        trial.run().await?;
        trial.cases.iter_mut().for_each(|c| c.times.clear());
        Ok(trial)
    }

    async fn run(&mut self) -> Result<()> {
        for c in &mut self.cases {
            let start = Instant::now();
            c.program.step(&c.bindings, &c.inputs, &[c.output]).await?;
            c.times.push(start.elapsed().as_secs_f64());
        }
        Ok(())
    }

    /// Times the probes, the steps, and the probes again.
    pub async fn round(&mut self) -> Result<()> {
        self.probes.round().await?;
        self.run().await?;
        self.run().await
    }

    pub fn adapter(&self) -> String {
        format!("{} ({})", self.gpu.report.name, self.gpu.report.backend)
    }
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }
    pub fn rates(&self) -> Vec<Rate> {
        self.probes.rates()
    }
    /// Seconds of a step beside its dispatches, and for each byte that it reads back.
    pub fn step_seconds(&self) -> (f64, f64) {
        self.probes.step()
    }

    /// Medians of all rounds so far.
    pub fn measured(&self) -> Result<Vec<Measured<'_>>> {
        let one = |c: &'_ Case| {
            let mut sorted = c.times.clone();
            sorted.sort_by(f64::total_cmp);
            let at = |share: f64| {
                sorted.get((sorted.len().saturating_sub(1) as f64 * share).round() as usize).copied().unwrap_or(0.0)
            };
            let port = c.program.plan().outputs.iter().find(|p| p.name == c.output);
            let count = port.map(|p| p.ty.shape.count().eval(&c.bindings)).transpose()?.unwrap_or(0);
            Ok((count.max(0) as u64 * 4, at(0.5), (at(0.25), at(0.75))))
        };
        let of = |c| {
            one(c).map(|(output_bytes, seconds, spread)| Measured {
                name: &c.name,
                plan: c.program.plan(),
                bindings: &c.bindings,
                tokens: c.tokens,
                output_bytes,
                seconds,
                spread,
            })
        };
        self.cases.iter().map(of).collect()
    }
}

struct Step {
    name: String,
    graph: crate::graph::Graph,
    bindings: Bindings,
    inputs: Vec<(&'static str, Array)>,
    output: &'static str,
    tokens: usize,
}

fn steps(model: &Model, n: usize) -> Result<Vec<Step>> {
    let ids: Vec<u32> = (0..n as u32).map(|i| (i * 97 + 13) % model.info().vocab as u32).collect();
    if model.sentence().is_some() {
        let graph = model.embed_graph(Var::new("batch", 1), Var::new("seq", n as u32))?;
        let mask = Array { dtype: DType::Bool, ..Array::u32(&[1, n], &vec![1; n]) };
        let inputs = vec![("tokens", Array::u32(&[1, n], &ids)), ("mask", mask)];
        let bindings = Bindings::new().with("batch", 1).with("seq", n as u64);
        return Ok(vec![Step {
            name: format!("encode {n} tokens"),
            graph,
            bindings,
            inputs,
            output: "embeddings",
            tokens: n,
        }]);
    }
    let total = Var::new("total", n as u32 + 1);
    let many = StepShape { seq: n.into(), total, context: n + 1, last_only: true, sequence_parallel: false };
    let one = StepShape { seq: 1.into(), ..many };
    let bindings = |total: usize| Bindings::new().with("total", total as u64);
    Ok(vec![
        Step {
            name: format!("read {n} tokens"),
            graph: model.step_graph(&many)?,
            bindings: bindings(n),
            inputs: vec![("tokens", Array::u32(&[n], &ids))],
            output: "logits",
            tokens: n,
        },
        Step {
            name: format!("decode after {n}"),
            graph: model.step_graph(&one)?,
            bindings: bindings(n + 1),
            inputs: vec![("tokens", Array::u32(&[1], &ids[..1]))],
            output: "logits",
            tokens: 1,
        },
    ])
}

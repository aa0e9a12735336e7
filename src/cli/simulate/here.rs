//! `simulate --here`: a model's steps on the adapter at hand, predicted from probes of its kernels, and run.

use super::Simulate;
use crate::base::{Bindings, Error, Result, Seat};
use crate::cli::{interrupt::Interrupt, notify, style};
use crate::device::probe;
use crate::model::Model;
use crate::plan::Policy;
use crate::session::{DeviceChoice, Measured, Options, Trial};
use crate::simulate::page::Roof;
use crate::simulate::plans::{self, Adapter, Outcome, Rank, Told};
use clap::Args;
use serde_json::json;
use std::fmt::Write;

/// The adapter at hand.
#[derive(Args)]
#[command(next_help_heading = "Here")]
pub struct Here {
    /// Predict the steps of MODEL on an adapter of this machine from probes of its kernels, run them in turn with the probes, and print both
    #[arg(long, conflicts_with_all = ["cluster", "plan", "mesh", "serve", "layers"])]
    pub here: bool,
    /// The adapter: an index (see `devices`) or a part of its name
    #[arg(long, default_value = "0", value_name = "WHICH", requires = "here")]
    pub device: DeviceChoice,
    /// Rounds of probes and steps; medians are told
    #[arg(long, default_value_t = 5, value_name = "N", requires = "here")]
    pub rounds: usize,
}

/// Tokens of the prompt where --step names none.
const PROMPT: usize = 32;

/// A step's prediction.
struct Predicted<'a> {
    measured: Measured<'a>,
    outcome: Outcome,
    /// Dispatches of forms that have no probe.
    unknown: usize,
}

impl Simulate {
    pub async fn predict_here(&self) -> Result<()> {
        if self.here.rounds == 0 || self.here.rounds > 1000 {
            return Err(Error::usage(format!("--rounds is {}, must be 1 to 1000", self.here.rounds)));
        }
        let model = self.plans.open(&self.model)?;
        let tokens = if self.plans.step > 1 { self.plans.step } else { PROMPT };
        let interrupt = Interrupt::new();
        let options = Options {
            device: self.here.device.clone(),
            cache: Some(self.plans.cache.folder()?),
            cancel: interrupt.cancel.clone(),
            ..Options::default()
        };
        let mut trial = Trial::open(&model, tokens, &options, &mut notify).await?;
        for i in 0..self.here.rounds {
            style::status(&format!("round {} of {}", i + 1, self.here.rounds));
            interrupt.cancel.check()?;
            trial.round().await?;
        }
        let plain = probe(trial.gpu()).await?;
        let roof = Roof { flops: plain.flops, bandwidth: plain.bandwidth, format: "f32 multiply-adds".into() };
        let measured = trial.measured()?;
        let all = measured.into_iter().map(|m| predict(&trial, m, &plain)).collect::<Result<Vec<_>>>()?;
        let on = trial.adapter();
        self.tell(&model, &trial, &all, &on, roof)
    }

    fn tell(&self, model: &Model, trial: &Trial, all: &[Predicted], on: &str, roof: Roof) -> Result<()> {
        let name = model.info().name;
        // The last kind of step is a decoder's decode: what pictures show.
        let Some(last) = all.last() else { return Ok(()) };
        let bindings = last.measured.bindings.clone();
        let ranks = [Rank { seat: Seat::default(), plan: last.measured.plan, bindings }];
        let trace = plans::dispatches(&last.outcome, &ranks, on);
        let told = Told {
            model: &name,
            on,
            mesh: String::new(),
            tokens: last.measured.tokens as f64,
            of: &plans::Of::Answer { total: 0 },
            prices: self.prices(),
        };
        let page = || Ok(plans::page(&last.outcome, &ranks, &told, roof.clone(), 0.0, &trace));
        let compared = self.pictures(&|| Ok(trace.clone()), &page)?;
        let text = || {
            let mut out = format!(
                "{name} on {on}: predicted from {} probes of its kernel forms, run in turn, medians of {} rounds\n\n",
                trial.rates().len(),
                self.here.rounds
            );
            let _ = writeln!(
                out,
                "{:<24} {:>11} {:>11} {:>9}   half of the runs took",
                "", "predicted", "measured", "off by"
            );
            for p in all {
                let (a, b) = (p.outcome.seconds, p.measured.seconds);
                let (from, to) = p.measured.spread;
                let show = |s: f64| crate::base::units::Seconds(s).to_string();
                let _ = writeln!(
                    out,
                    "{:<24} {:>11} {:>11} {:>+7.1} %   {} to {}",
                    p.measured.name,
                    show(a),
                    show(b),
                    100.0 * (a / b - 1.0),
                    show(from),
                    show(to)
                );
            }
            let unknown: usize = all.iter().map(|p| p.unknown).sum();
            if unknown > 0 {
                let _ = writeln!(
                    out,
                    "{unknown} dispatches are of forms without a probe: they are priced by the rates of multiply-adds and copies"
                );
            }
            let _ = writeln!(out, "\nwhere the time of \"{}\" goes, as predicted", last.measured.name);
            for c in plans::costs(&last.outcome, &ranks).iter().take(5) {
                let _ = writeln!(
                    out,
                    "    {:<34} {:>9}  {:>5.1} %",
                    c.name,
                    crate::base::units::Seconds(c.seconds),
                    100.0 * c.seconds / last.outcome.seconds
                );
            }
            out
        };
        let json = || {
            let step = |p: &Predicted| {
                json!({
                    "step": p.measured.name, "tokens": p.measured.tokens, "predicted_seconds": p.outcome.seconds, "measured_seconds": p.measured.seconds,
                    "measured_quartiles_seconds": [p.measured.spread.0, p.measured.spread.1], "unprobed_dispatches": p.unknown, "flops": p.outcome.traffic.all_flops(),
                })
            };
            let rates: Vec<_> =
                trial.rates().iter().map(|r| json!({ "form": r.form, "size": r.size, "seconds": r.seconds })).collect();
            json!({ "model": name, "adapter": on, "rounds": self.here.rounds, "steps": all.iter().map(step).collect::<Vec<_>>(), "probes": rates })
        };
        self.print(compared, text, json);
        Ok(())
    }
}

fn predict<'a>(trial: &Trial, measured: Measured<'a>, plain: &crate::device::Probes) -> Result<Predicted<'a>> {
    let (step, byte) = trial.step_seconds();
    let mut adapter =
        Adapter::new(step + byte * measured.output_bytes as f64, (plain.flops, plain.bandwidth, plain.dispatch));
    trial.rates().iter().for_each(|r| adapter.learn(&r.form, r.size, r.seconds));
    let bindings: Bindings = measured.bindings.clone();
    let outcome =
        plans::run(&[Rank { seat: Seat::default(), plan: measured.plan, bindings }], &Policy::default(), &adapter)?;
    let unknown = measured.plan.dispatches.iter().filter(|d| !adapter.knows(&measured.plan.form(d))).count();
    Ok(Predicted { measured, outcome, unknown })
}

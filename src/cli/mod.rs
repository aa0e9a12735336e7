//! The command line: thin over [`crate::session`]. Text goes to stdout, everything else to stderr.

mod ask;
mod cluster;
mod fetch;
mod look;
mod simulate;
mod style;
mod validate;

use crate::base::{Error, Result};
use crate::session::{DeviceChoice, Notice, Options};
use crate::text::Sampling;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Parser)]
#[command(name = "warpweft", version, about = "Language models in WGSL compute shaders, on any adapter or none", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answer a prompt, token by token
    Run(ask::Run),
    /// Talk with a model, turn after turn
    Chat(ask::Chat),
    /// Print normalised sentence embeddings
    Embed(ask::Embed),
    /// Fetch a model of the catalogue into the cache folder
    Pull(fetch::Pull),
    /// List the catalogue
    Models,
    /// List every adapter with what it offers
    Devices(look::Devices),
    /// Show a model file's metadata, tensors and sizes, and whether it fits
    Inspect(look::Inspect),
    /// Show the plan of a model's step: dispatches, buffers, FLOPs and bytes
    Plan(look::PlanCommand),
    /// List machines and draw them
    Cluster(cluster::Cluster),
    /// Predict time, memory and energy of a model on a machine that is not here
    Simulate(simulate::Simulate),
    /// Hold predictions against published measurements
    Validate(validate::Validate),
    /// Fit a device's constants to measurements (assets/devices says which)
    #[command(hide = true)]
    Fit(validate::Fit),
    /// Time the kernel variants of an adapter and remember the fastest
    Tune(look::Tune),
}

/// Where and how a model runs.
#[derive(Args, Clone)]
struct Place {
    /// auto, cpu, an adapter's index (see `devices`) or a part of its name
    #[arg(long, default_value = "auto", value_name = "WHICH")]
    device: DeviceChoice,
    /// Tokens of context [default: the model's, up to 4096]
    #[arg(long, value_name = "N")]
    ctx: Option<usize>,
    /// After every step, name the first value that is NaN or infinite (slow)
    #[arg(long)]
    check_numerics: bool,
    #[command(flatten)]
    cache: Cache,
}

#[derive(Args, Clone)]
struct Cache {
    /// Where models and timings are kept [default: the user's cache folder]
    #[arg(long, env = "WARPWEFT_CACHE", value_name = "DIR")]
    cache: Option<PathBuf>,
}

impl Cache {
    fn folder(&self) -> Result<PathBuf> {
        if let Some(given) = &self.cache {
            return Ok(given.clone());
        }
        use etcetera::BaseStrategy;
        let base = etcetera::choose_base_strategy().map_err(|e| Error::usage(format!("there is no cache folder ({e}): give one with --cache")))?;
        Ok(base.cache_dir().join("warpweft"))
    }
}

impl Place {
    fn options(&self) -> Result<Options> {
        Ok(Options { device: self.device.clone(), context: self.ctx, check_numerics: self.check_numerics, cache: Some(self.cache.folder()?) })
    }
}

/// How the next token is chosen.
#[derive(Args, Clone)]
struct Choosing {
    /// Temperature; 0 always takes the likeliest token
    #[arg(long, default_value_t = 0.0, value_name = "T")]
    temp: f32,
    /// Only the K likeliest; 0 for all
    #[arg(long, default_value_t = 40, value_name = "K")]
    top_k: usize,
    /// Only the likeliest that together reach this probability
    #[arg(long, default_value_t = 0.95, value_name = "P")]
    top_p: f32,
    /// Only those at least this times as likely as the likeliest
    #[arg(long, default_value_t = 0.05, value_name = "P")]
    min_p: f32,
    /// Divide logits of the last 64 tokens by this
    #[arg(long, default_value_t = 1.0, value_name = "X")]
    repeat_penalty: f32,
    /// The same seed gives the same text on the same device
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
}

impl Choosing {
    fn sampling(&self) -> Sampling {
        Sampling {
            temperature: self.temp,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repeat_penalty: self.repeat_penalty,
            seed: self.seed,
            ..Sampling::default()
        }
    }
}

/// Parses the arguments and runs the command; errors are one line on stderr and exit code 1.
pub fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("off")).init();
    let cli = Cli::parse();
    match pollster::block_on(run(cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error::Cancelled) => {
            style::note("cancelled");
            ExitCode::from(130)
        }
        Err(e) => {
            style::error(&e.to_string());
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<()> {
    match command {
        Command::Run(c) => c.run().await,
        Command::Chat(c) => c.run().await,
        Command::Embed(c) => c.run().await,
        Command::Pull(c) => c.run(),
        Command::Models => fetch::list(),
        Command::Devices(c) => c.run().await,
        Command::Inspect(c) => c.run().await,
        Command::Plan(c) => c.run().await,
        Command::Cluster(c) => c.run(),
        Command::Simulate(c) => c.run(),
        Command::Validate(c) => c.run(),
        Command::Fit(c) => c.run(),
        Command::Tune(c) => c.run().await,
    }
}

/// A flag that Ctrl-C sets; a second Ctrl-C ends the process.
fn cancel_on_ctrl_c() -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(false));
    let set = flag.clone();
    let _ = ctrlc::set_handler(move || {
        if set.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    });
    flag
}

/// Shows what happens while a model opens.
fn notify(notice: Notice) {
    match notice {
        Notice::Say(text) => style::note(&text),
        Notice::Compiling { done, of } => style::status(&format!("compiling kernels {done}/{of}")),
    }
}

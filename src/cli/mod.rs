//! The command line: thin over [`crate::session`]. Text goes to stdout, everything else to stderr.

mod ask;
mod cluster;
mod embed;
mod examples;
mod fetch;
mod interrupt;
mod look;
mod quantize;
#[cfg(feature = "serve")]
mod serve;
mod simulate;
mod spread;
mod style;
mod transcribe;
mod validate;
mod web;

use crate::base::{Error, Result};
use crate::session::{DeviceChoice, Notice, Options, Speculation};
use crate::text::Sampling;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use interrupt::Interrupt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Parser)]
#[command(
    name = "warpweft",
    version,
    about = "Language models in WGSL compute shaders, on any adapter or none",
    max_term_width = 100
)]
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
    /// Print normalised embeddings of texts and images
    Embed(embed::Embed),
    /// Write down what is said in a WAV file
    Transcribe(transcribe::Transcribe),
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
    Simulate(Box<simulate::Simulate>),
    /// Hold predictions against published measurements
    Validate(validate::Validate),
    /// Fit a device's constants to measurements (assets/devices says which)
    #[command(hide = true)]
    Fit(validate::Fit),
    /// Write a model in another format, and say what that loses
    Quantize(quantize::Quantize),
    /// Time the kernel variants of an adapter and remember the fastest
    Tune(look::Tune),
    /// Serve models to many clients over HTTP, as OpenAI, Anthropic and Ollama do
    #[cfg(feature = "serve")]
    Serve(Box<serve::Serve>),
    /// Serve the demo page to a browser on this machine
    Web(web::Web),
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
    /// Threads of the CPU; as many as this process may run at once where not given
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    threads: usize,
    /// What products are computed in; int8 (of quantised weights) and f16 (on adapters that have it) are faster, and close answers may turn out otherwise
    #[arg(long, default_value = "f32", value_name = "f32|f16|int8")]
    precision: crate::session::Precision,
    /// What keys and values are kept in on the CPU: half or a quarter of f32's bytes, and close answers may turn out otherwise
    #[arg(long, value_name = "f32|f16|q8_0", value_parser = kv)]
    kv: Option<crate::base::DType>,
    /// Compute token by token, never ahead what followed the last tokens where they stood before (the text is the same)
    #[arg(long)]
    no_speculation: bool,
    /// After every step, name the first value that is NaN or infinite (slow)
    #[arg(long)]
    check_numerics: bool,
    #[command(flatten)]
    spread: spread::Spread,
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
        let base = etcetera::choose_base_strategy()
            .map_err(|e| Error::usage(format!("there is no cache folder ({e}): give one with --cache")))?;
        Ok(base.cache_dir().join("warpweft"))
    }
}

impl Place {
    fn options(&self, interrupt: &Interrupt) -> Result<Options> {
        Ok(Options {
            device: self.device.clone(),
            context: self.ctx,
            check_numerics: self.check_numerics,
            threads: self.threads,
            precision: self.precision,
            kv: self.kv,
            speculation: if self.no_speculation { Speculation::Off } else { Speculation::Lookup },
            cache: Some(self.cache.folder()?),
            layout: self.spread.layout()?,
            cancel: interrupt.cancel.clone(),
            ..Options::default()
        })
    }
}

/// In what keys and values are kept.
fn kv(name: &str) -> std::result::Result<crate::base::DType, String> {
    let known = crate::format::KEPT.map(|kv| kv.to_string());
    let found = crate::format::KEPT.into_iter().find(|kv| kv.name() == name);
    found.ok_or_else(|| format!("give one of {}", known.join(", ")))
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

/// Parses the arguments and runs the command; errors are one line on stderr and exit code 1 (2 for wrong arguments,
/// 130 for Ctrl-C).
pub fn main() -> ExitCode {
    quiet_loaders();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("off,warpweft::serve=warn")).init();
    let hook = std::panic::take_hook();
    // What the tokenizers library panics on becomes an error, which is told once.
    std::panic::set_hook(Box::new(move |info| {
        if !crate::text::is_guarded() {
            hook(info)
        }
    }));
    let parsed = examples::with_examples(Cli::command()).try_get_matches();
    let cli = match parsed.and_then(|m| Cli::from_arg_matches(&m)) {
        Ok(cli) => cli,
        Err(e) => return wrong_arguments(&e),
    };
    spread::hush();
    let done = pollster::block_on(run(cli.command));
    if let Some(fault) = style::fault() {
        style::error(&fault);
        return ExitCode::FAILURE;
    }
    match done {
        Ok(code) => code,
        Err(Error::Cancelled) => {
            style::note("cancelled");
            ExitCode::from(interrupt::CODE)
        }
        Err(e) => {
            style::error(&e.to_string());
            ExitCode::FAILURE
        }
    }
}

/// The text of a file that is no larger than `most`, or why it is no `what`.
fn read_text(path: &Path, what: &str, (most, limit): (u64, &str)) -> Result<String> {
    let fail = |e: std::io::Error| Error::file(path, format!("cannot be read: {e}"));
    let meta = std::fs::metadata(path).map_err(fail)?;
    if !meta.is_file() || meta.len() > most {
        return Err(Error::file(path, format!("is no {what}: a regular file of up to {limit} is read")));
    }
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(fail)?;
    std::io::Read::read_to_string(&mut std::io::Read::take(file, most), &mut text).map_err(fail)?;
    Ok(text)
}

/// Help and version as they are; what is wrong in one line, with clap's tips.
fn wrong_arguments(e: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion};
    if matches!(e.kind(), DisplayHelp | DisplayVersion | DisplayHelpOnMissingArgumentOrSubcommand) {
        let _ = e.print();
        return ExitCode::from(e.exit_code() as u8);
    }
    let text = e.to_string();
    let told = text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with("Usage:") && !l.starts_with("For more information"));
    let told: Vec<&str> = told.map(|l| l.trim_start_matches("error: ").trim_start_matches("tip: ")).collect();
    style::error(&format!("{} (--help lists all)", told.join("; ").replace(":; ", ": ")));
    ExitCode::from(2)
}

/// Mesa's loaders complain on stderr where no session set this folder, as in containers.
fn quiet_loaders() {
    let name = "XDG_RUNTIME_DIR";
    if cfg!(target_os = "linux") && std::env::var_os(name).is_none() {
        // SAFETY: the program's first statement: no other thread is there that could read the environment.
        unsafe { std::env::set_var(name, std::env::temp_dir()) };
    }
}

async fn run(command: Command) -> Result<ExitCode> {
    let done = |()| ExitCode::SUCCESS;
    match command {
        Command::Run(c) => c.run().await,
        Command::Chat(c) => c.run().await.map(done),
        Command::Embed(c) => c.run().await.map(done),
        Command::Transcribe(c) => c.run().await.map(done),
        Command::Pull(c) => c.run().map(done),
        Command::Models => fetch::list().map(done),
        Command::Devices(c) => c.run().await.map(done),
        Command::Inspect(c) => c.run().await.map(done),
        Command::Plan(c) => c.run().await.map(done),
        Command::Cluster(c) => c.run().map(done),
        Command::Simulate(c) => c.run().await.map(done),
        Command::Validate(c) => c.run().map(done),
        Command::Fit(c) => c.run().map(done),
        Command::Quantize(c) => c.run().await.map(done),
        Command::Tune(c) => c.run().await.map(done),
        #[cfg(feature = "serve")]
        Command::Serve(c) => c.run(),
        Command::Web(c) => c.run().map(done),
    }
}

/// Shows what happens while a model opens.
fn notify(notice: Notice) {
    match notice {
        Notice::Say(text) => style::note(&text),
        Notice::Compiling { done, of } => style::status(&format!("compiling kernels {done}/{of}")),
    }
}

//! `serve`: models for many clients, over HTTP.

use super::interrupt::Interrupt;
use super::{Place, fetch, style};
use crate::base::{Error, Result};
use crate::serve::http::{App, Config, bind, serve};
use crate::serve::{Engine, Limits, State};
use clap::Args;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

#[derive(Args)]
pub struct Serve {
    /// Names of the catalogue (see `models`), .gguf files, or model folders; NAME=MODEL serves it under that name
    #[arg(required = true, value_name = "MODEL")]
    models: Vec<String>,
    /// The address to listen on
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    host: String,
    /// The port; 0 takes a free one
    #[arg(long, default_value_t = 8080, value_name = "N")]
    port: u16,
    /// A file with the token that clients must send
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Another name by which clients may call this server
    #[arg(long, value_name = "NAME")]
    allow_host: Vec<String>,
    /// A site whose pages may ask this server, as https://example.org
    #[arg(long, value_name = "ORIGIN")]
    allow_origin: Vec<String>,
    /// Requests that may wait for each model; more are refused with status 429
    #[arg(long, default_value_t = 256, value_name = "N")]
    max_queue: usize,
    /// Requests that are computed together
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    parallel: u16,
    /// Bytes of keys and values of each model; 1 GiB, or one whole context, where not given
    #[arg(long, value_name = "N")]
    kv_bytes: Option<u64>,
    /// A request's tokens are those that it gets alone, on adapters too (the CPU gives no others), at some cost
    #[arg(long)]
    deterministic: bool,
    /// Connections at a time; more are closed
    #[arg(long, default_value_t = 512, value_name = "N")]
    max_connections: usize,
    /// Bytes of a request
    #[arg(long, default_value_t = 8 << 20, value_name = "N")]
    max_body: usize,
    /// Seconds within which a client must send its request, and read what it is sent
    #[arg(long, default_value_t = 30, value_name = "S", value_parser = clap::value_parser!(u64).range(1..))]
    io_timeout: u64,
    /// Seconds within which a request must be answered; 0 for no limit
    #[arg(long, default_value_t = 600, value_name = "S")]
    request_timeout: u64,
    /// Seconds that running answers may go on after Ctrl-C
    #[arg(long, default_value_t = 10, value_name = "S")]
    grace: u64,
    #[command(flatten)]
    place: Place,
}

impl Serve {
    pub fn run(&self) -> Result<ExitCode> {
        let interrupt = Interrupt::default();
        let config = self.config()?;
        let mut models = vec![];
        for given in &self.models {
            let (name, model) = named(given);
            if models.iter().any(|(n, _)| *n == name) {
                return Err(Error::usage(format!("two models are called {name}: give NAME=MODEL")));
            }
            models.push((name, fetch::resolve(model, &self.place.cache, &interrupt)?));
        }
        let options = self.place.options(&interrupt)?;
        if options.layout.processes {
            return Err(Error::usage("serve runs in one process: start it without mpirun"));
        }
        let failed = |e: std::io::Error| Error::usage(format!("the server cannot be started: {e}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let done = runtime.block_on(async {
            let listener = bind(&self.host, self.port).await?;
            let at = listener.local_addr().map_err(failed)?;
            let limits = Limits {
                queue: self.max_queue,
                parallel: self.parallel as usize,
                kv_bytes: self.kv_bytes,
                deterministic: self.deterministic,
            };
            let engines: Vec<_> =
                models.into_iter().map(|(n, path)| (n, Engine::open(path, &options, limits.clone()))).collect();
            style::out(&format!("http://{at}/\n"));
            if !at.ip().is_loopback() && config.api_key.is_none() {
                style::note("everybody who reaches this machine can ask: give --api-key-file");
            }
            engines.iter().for_each(|(n, e)| tell(n.clone(), e.clone()));
            let app = Arc::new(App::new(engines, config));
            serve(app, listener, ctrl_c).await
        });
        // A model that is still being opened hears it.
        interrupt.cancel.cancel();
        runtime.shutdown_timeout(Duration::from_millis(500));
        done?;
        style::note("ended");
        Ok(ExitCode::SUCCESS)
    }

    fn config(&self) -> Result<Config> {
        let key = |file: &PathBuf| -> Result<String> {
            let text = super::read_text(file, "file of a token", (64 << 10, "64 KiB"))?;
            match text.trim() {
                "" => Err(Error::file(file, "holds no token")),
                key => Ok(key.to_string()),
            }
        };
        Ok(Config {
            hosts: self.allow_host.clone(),
            origins: self.allow_origin.clone(),
            api_key: self.api_key_file.as_ref().map(key).transpose()?,
            max_body: self.max_body,
            max_connections: self.max_connections,
            io_timeout: Duration::from_secs(self.io_timeout),
            request_timeout: (self.request_timeout > 0).then(|| Duration::from_secs(self.request_timeout)),
            grace: Duration::from_secs(self.grace),
        })
    }
}

/// The name under which a model is served, and what it is.
fn named(given: &str) -> (String, &str) {
    if let Some((name, model)) = given.split_once('=').filter(|(n, m)| !n.contains(['/', '\\']) && !m.is_empty()) {
        return (name.to_string(), model);
    }
    let stem = Path::new(given).file_name().map(|n| n.to_string_lossy().into_owned());
    let name = stem.unwrap_or_else(|| given.to_string());
    (name.strip_suffix(".gguf").unwrap_or(&name).to_string(), given)
}

/// Says when a model can be asked, or why it cannot.
fn tell(name: String, engine: Engine) {
    tokio::spawn(async move {
        match engine.ready().await {
            Ok(card) => style::note(&format!("{name} is ready on {}", card.adapter)),
            Err(_) => {
                if let State::Failed(e) = engine.state() {
                    style::error(&format!("{name}: {e}"));
                }
            }
        }
    });
}

/// Ctrl-C, or the word of whoever manages processes.
async fn ctrl_c() {
    #[cfg(unix)]
    {
        use std::pin::pin;
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut term) = signal(SignalKind::terminate()) {
            let interrupt = tokio::signal::ctrl_c();
            futures_util::future::select(pin!(interrupt), pin!(term.recv())).await;
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}

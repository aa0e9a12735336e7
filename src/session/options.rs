//! How a model is opened, and what is told meanwhile.

use super::{Cancel, DeviceChoice, Layout, Precision, Team};
use crate::base::DType;
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

/// How a model is opened.
///
/// ```
/// use warpweft::{Device, Options, Precision};
///
/// let options = Options::new().device(Device::Cpu).context(512).precision(Precision::Int8).threads(2);
/// assert_eq!(options.context, Some(512));
/// ```
#[derive(Debug, Clone, Default)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct Options {
    /// Where it runs.
    pub device: DeviceChoice,
    /// Tokens of context; the model's own, up to 4,096, where not given.
    pub context: Option<usize>,
    /// What products are computed in: f32 unless said otherwise.
    pub precision: Precision,
    /// In what keys and values are kept: f32, f16 or q8_0; f32 where not given, f16 where the CPU rounds to int8. Others than f32 are
    /// for one device that is the CPU.
    pub kv: Option<DType>,
    /// Whether steps of a conversation compute tokens ahead that may follow.
    pub speculation: Speculation,
    /// Threads of the CPU; as many as this process may run at once where 0.
    pub threads: usize,
    /// After every step, look for the first value that is not finite. Slow; costs nothing when off.
    pub check_numerics: bool,
    /// Where timings are remembered; nowhere if `None`.
    pub cache: Option<PathBuf>,
    /// Over how many ranks, and how.
    pub layout: Layout,
    /// Set by another thread, it ends opening with [`Error::Cancelled`](crate::base::Error::Cancelled).
    pub cancel: Cancel,
    /// Who hears what happens while a model opens.
    pub notices: Notices,
    /// What a host with one thread does while the CPU computes for long.
    #[doc(hidden)]
    pub breathe: Option<Breathe>,
    /// Asked for others to compute with, where a model that arrives turns out to run on the CPU.
    #[doc(hidden)]
    pub gather: Option<Gather>,
    /// Who shares the weights that arrive; [`super::Loading`] sets what `gather` gave.
    #[doc(hidden)]
    pub team: Option<Arc<dyn Team>>,
}

impl Options {
    /// The best device, one rank, the model's own context.
    pub fn new() -> Options {
        Options::default()
    }
    /// Sets [`Options::device`].
    #[must_use]
    pub fn device(self, device: DeviceChoice) -> Options {
        Options { device, ..self }
    }
    /// Sets [`Options::context`], in tokens.
    #[must_use]
    pub fn context(self, tokens: usize) -> Options {
        Options { context: Some(tokens), ..self }
    }
    /// Sets [`Options::precision`].
    #[must_use]
    pub fn precision(self, precision: Precision) -> Options {
        Options { precision, ..self }
    }
    /// Sets [`Options::kv`].
    #[must_use]
    pub fn kv(self, kv: DType) -> Options {
        Options { kv: Some(kv), ..self }
    }
    /// Sets [`Options::speculation`].
    #[must_use]
    pub fn speculation(self, speculation: Speculation) -> Options {
        Options { speculation, ..self }
    }
    /// Sets [`Options::threads`].
    #[must_use]
    pub fn threads(self, threads: usize) -> Options {
        Options { threads, ..self }
    }
    /// Sets [`Options::check_numerics`].
    #[must_use]
    pub fn check_numerics(self, check_numerics: bool) -> Options {
        Options { check_numerics, ..self }
    }
    /// Sets [`Options::cache`].
    #[must_use]
    pub fn cache(self, folder: impl Into<PathBuf>) -> Options {
        Options { cache: Some(folder.into()), ..self }
    }
    /// Sets [`Options::layout`].
    #[must_use]
    pub fn layout(self, layout: Layout) -> Options {
        Options { layout, ..self }
    }
    /// Sets [`Options::cancel`].
    #[must_use]
    pub fn cancel(self, cancel: &Cancel) -> Options {
        Options { cancel: cancel.clone(), ..self }
    }
    /// Sets [`Options::notices`].
    #[must_use]
    pub fn notices(self, notices: Notices) -> Options {
        Options { notices, ..self }
    }
}

/// Whether logits are made ahead of tokens that may follow. The text is the same with and without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Speculation {
    /// What followed the last tokens where they stood before, on the CPU, and as long as it saves time.
    #[default]
    Lookup,
    /// Token by token.
    Off,
}

/// What happens while a model opens, for whoever shows it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Notice {
    /// A sentence for people.
    Say(String),
    /// Pipelines compiled, of how many.
    Compiling {
        /// How many are.
        done: usize,
        /// How many there are.
        of: usize,
    },
}

/// Who hears what happens while a model opens; nobody by default.
///
/// ```
/// use warpweft::{Notice, Notices, Options};
///
/// let (send, heard) = std::sync::mpsc::channel();
/// let options = Options::new().notices(Notices::to(move |notice| drop(send.send(notice))));
/// options.notices.tell(Notice::Say("opening".into()));
/// assert_eq!(heard.recv(), Ok(Notice::Say("opening".into())));
/// ```
#[derive(Clone, Default)]
pub struct Notices(Option<Arc<dyn Fn(Notice) + Send + Sync>>);

impl Notices {
    /// Each notice goes to `hear`, on the thread that opens.
    pub fn to(hear: impl Fn(Notice) + Send + Sync + 'static) -> Notices {
        Notices(Some(Arc::new(hear)))
    }
    /// Tells a notice.
    pub fn tell(&self, notice: Notice) {
        if let Some(hear) = &self.0 {
            hear(notice);
        }
    }
}

impl fmt::Debug for Notices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "heard" } else { "unheard" })
    }
}

/// Calls a team together; `None` where there is nobody else.
pub type Gather = fn() -> Pin<Box<dyn Future<Output = Option<Arc<dyn Team>>>>>;

/// Gives the thread back for a moment: browsers hear of a cancel only then.
pub type Breathe = fn() -> Pin<Box<dyn Future<Output = ()>>>;

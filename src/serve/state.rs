//! Where an engine stands, and what callers may know of its model.

use crate::base::{Error, Result};
use crate::model::ModelInfo;
use crate::session::Words;
use std::sync::Arc;

/// Where an engine stands.
#[derive(Debug, Clone)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum State {
    /// The model is being opened; the last thing that was said of it.
    Loading(String),
    /// It answers.
    Ready(Arc<Card>),
    /// The model could not be opened, or the engine ended.
    Failed(Error),
}

/// What callers may know of a model that is open.
#[derive(Debug)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct Card {
    /// Its sizes.
    pub info: ModelInfo,
    /// The device.
    pub adapter: String,
    /// What it does.
    pub kind: Kind,
}

/// What a model does.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum Kind {
    /// It generates text, within a context of so many tokens.
    Decoder {
        /// What makes prompts for it.
        words: Arc<Words>,
        /// Tokens that fit into a conversation.
        context: usize,
    },
    /// It makes embeddings of texts, of which so many tokens are read.
    Encoder {
        /// Tokens that are read of a text.
        tokens: usize,
    },
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Kind::Decoder { context, .. } => write!(f, "Decoder({context})"),
            Kind::Encoder { tokens } => write!(f, "Encoder({tokens})"),
        }
    }
}

impl Card {
    /// What makes prompts.
    ///
    /// # Errors
    /// An encoder has none.
    pub fn words(&self) -> Result<&Arc<Words>> {
        match &self.kind {
            Kind::Decoder { words, .. } => Ok(words),
            Kind::Encoder { .. } => {
                Err(Error::model(&self.info.name, "is an encoder: it makes embeddings, it does not generate text"))
            }
        }
    }
}

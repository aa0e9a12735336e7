//! Text to tokens and back, chat templates, and choosing the next token.

mod bytes;
mod chat;
#[cfg(feature = "grammar")]
mod grammar;
mod guard;
mod sampler;
mod stream;
mod tokenizer;

pub use chat::{ChatTemplate, Message};
#[cfg(feature = "grammar")]
pub use grammar::{Grammar, Grammars};
pub use sampler::{Choice, Constraint, Dry, Sampler, Sampling, top_logprobs};
pub use stream::StreamDecoder;
pub use tokenizer::{Tokenizer, Vocabulary, is_guarded};

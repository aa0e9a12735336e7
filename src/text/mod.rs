//! Text to tokens and back, chat templates, and choosing the next token.

mod bytes;
#[cfg(feature = "grammar")]
mod grammar;
mod json;
mod sampler;
mod stream;
mod template;
mod tokenizer;
mod vocab;

#[cfg(feature = "grammar")]
pub use grammar::{Grammar, Grammars};
pub use sampler::{Choice, Constraint, Dry, Sampler, Sampling, top_logprobs};
pub use stream::StreamDecoder;
pub use template::{ChatTemplate, Message, Variable};
pub use tokenizer::{Tokenizer, Vocabulary, is_guarded};

use tokenizer::guarded;

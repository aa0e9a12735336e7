//! Text to tokens and back, chat templates, and choosing the next token.

mod json;
mod sampler;
mod stream;
mod template;
mod tokenizer;
mod vocab;

pub use sampler::{Choice, Sampler, Sampling, top_logprobs};
pub use stream::StreamDecoder;
pub use template::{ChatTemplate, Message, Variable};
pub use tokenizer::{Tokenizer, Vocabulary, is_guarded};

use tokenizer::guarded;

//! Text to tokens and back, chat templates, and choosing the next token.

mod chat;
mod sampler;
mod stream;
mod tokenizer;

pub use chat::{ChatTemplate, Message};
pub use sampler::{Choice, Sampler, Sampling, top_logprobs};
pub use stream::StreamDecoder;
pub use tokenizer::{Tokenizer, Vocabulary, is_guarded};

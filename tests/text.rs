//! Text: templates and tokenizers against figures from elsewhere, and what hostile ones of each kind may take.

mod common;

#[path = "text/hostile.rs"]
mod hostile;
#[path = "text/templates.rs"]
mod templates;
#[path = "text/tokens.rs"]
mod tokens;

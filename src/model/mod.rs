//! Model files and families: bytes become a graph and weights.

pub mod bert;
#[cfg(feature = "fetch")]
pub mod catalogue;
mod family;
pub mod gguf;
pub mod llama;
pub mod safetensors;
pub mod source;
mod tensor;

pub use family::{Family, Model, ModelInfo, StepShape};
pub use source::ModelSource;
pub use tensor::{TensorInfo, TensorType};

//! Model files and families: bytes become a graph and weights.

pub mod arch;
#[cfg(feature = "fetch")]
pub mod catalogue;
mod derived;
pub mod gguf;
mod keys;
pub mod layers;
mod open;
pub mod safetensors;
pub mod source;
mod tensor;
#[cfg(not(target_arch = "wasm32"))]
pub mod write;

pub use arch::{Architecture, bert, llama};
pub use layers::{PagedShape, StepShape};
pub use open::{Model, ModelInfo};
pub use source::ModelSource;
pub use tensor::{TensorInfo, TensorType};

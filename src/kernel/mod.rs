//! WGSL templates, filled and reflected.
//!
//! A template in `shaders/` is valid WGSL as it stands. Two things in it may be replaced, and nothing else:
//!
//! - a **hole**: the lines between `//{ name` and `//}`;
//! - a **number**: the value of a module constant `const NAME: u32 = 4u;` (or `i32`, `f32`).
//!
//! A [`Kernel`] is a template with its holes and numbers: hashable, so it is the pipeline cache's key.
//! Bindings, parameter offsets and the workgroup's size are read back from the filled text by naga
//! ([`Kernel::reflect`]), never typed a second time in Rust.

mod reflect;
mod template;

pub use reflect::{Access, Binding, Field, Reflection};
pub use template::{Kernel, Template};

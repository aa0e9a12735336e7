//! What every room shares: errors, element types, dimensions, shapes, layouts, the description of a device's
//! abilities, and the budget of what a file may make grow. Pure data; imports nothing of the project but how elements are stored.

mod array;
mod budget;
mod caps;
mod dim;
mod error;
mod expr;
pub mod json;
mod layout;
mod mesh;
mod placement;
mod precision;
mod shape;
mod texts;
pub mod units;
mod weights;

pub use crate::format::{DType, TYPICAL};
pub use array::{Array, Element};
pub use budget::{Budget, Level, Limits};
pub use caps::{AdapterKind, Caps, TEXELS};
pub use dim::{Bindings, Dim, Var};
pub use error::{DeviceFault, Error, Result, plain};
pub use expr::Expr;
pub use layout::Layout;
pub use mesh::{MeshAxis, Seat};
pub use placement::{Combine, Cut, ELSEWHERE, Local, LocalKind, Part, PartSplit, Placement};
pub use precision::Precision;
pub use shape::{Shape, Type};
pub use texts::Texts;
pub use weights::{Piece, Weights, read_parts, take};

//! What every room shares: errors, element types, dimensions, shapes, layouts and the description of a device's
//! abilities. Pure data; imports nothing of the project but how elements are stored.

mod array;
mod caps;
mod dim;
mod error;
mod expr;
mod layout;
mod mesh;
mod placement;
mod shape;
pub mod units;
mod weights;

pub use crate::format::{DType, TYPICAL};
pub use array::{Array, Element};
pub use caps::{AdapterKind, Caps, TEXELS};
pub use dim::{Bindings, Dim, Var};
pub use error::{DeviceFault, Error, Result};
pub use expr::Expr;
pub use layout::Layout;
pub use mesh::{MeshAxis, Seat};
pub use placement::{Combine, Cut, Local, LocalKind, Part, PartSplit, Placement};
pub use shape::{Shape, Type};
pub use weights::{Piece, Weights, read_parts, take};

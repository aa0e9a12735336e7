//! Words that are no floats.

use super::{Class, Format};

pub static I32: Format =
    Format { name: "i32", ggml: None, class: Class::Int, block: 1, bytes: 4, planes: &[], float: None };
pub static U32: Format =
    Format { name: "u32", ggml: None, class: Class::Int, block: 1, bytes: 4, planes: &[], float: None };
pub static BOOL: Format =
    Format { name: "bool", ggml: None, class: Class::Bool, block: 1, bytes: 4, planes: &[], float: None };

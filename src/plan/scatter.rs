//! Rows of a map's result that go where ids say.

use super::BufferId;
use super::code::Code;
use crate::base::{DType, Expr};

/// Rows of a target, by ids.
pub struct Rows {
    pub ids: BufferId,
    pub dtype: DType,
    /// Where ids begin, elements of a row, and rows that there are.
    pub first: Expr,
    pub row: Expr,
    pub all: Expr,
}

/// The text of a segment whose rows go where ids say: outside of the target nothing is written.
pub fn scattered(code: &mut Code, rows: &Rows, (k, y, n): (usize, &str, &str), dtype: DType) -> String {
    let ids = code.bind(rows.ids, rows.dtype, false);
    let (first, row, all) = (code.param(&rows.first), code.param(&rows.row), code.param(&rows.all));
    let id = |i: &str| format!("            let id = u32({ids}[{first} + {i} / {row}]);\n");
    match dtype.store() {
        Some(store) => format!(
            "    if (j < {n}) {{\n        if (2u * j < {n}) {{\n{}            let a = f{k}(2u * j);\n            let b = f{k}(2u * j + 1u);\n            if (id < {all}) {{ {y}[(id * {row} + (2u * j) % {row}) / 2u] = {}; }}\n        }}\n        return;\n    }}\n    j -= {n};\n",
            id("(2u * j)"),
            (store.pack)("a", "b")
        ),
        None => format!(
            "    if (j < {n}) {{\n{}            if (id < {all}) {{ {y}[id * {row} + j % {row}] = f{k}(j); }}\n        return;\n    }}\n    j -= {n};\n",
            id("j")
        ),
    }
}

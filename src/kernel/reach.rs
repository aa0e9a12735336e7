//! How far into each of its bindings a kernel reads or writes, from its numbers.

use super::Kernel;
use crate::base::Expr;

/// The end, in elements of four bytes, of what the kernel touches of binding `name`; `None` where its numbers alone do not say. An empty
/// axis makes it less than it is: then no invocation runs.
pub fn reach(kernel: &Kernel, name: &str, number: &dyn Fn(&str) -> Expr) -> Option<Expr> {
    let n = number;
    let last = |count: &str| n(count) + Expr::new(-1);
    Some(match (kernel.name(), name) {
        ("softmax" | "layer_norm" | "rms_norm", "x" | "y") => n(&format!("{name}0")) + n("rows") * n("cols"),
        ("layer_norm" | "rms_norm", "w" | "b") => n(&format!("{name}0")) + n("cols"),
        ("reduce", "r0") => n("y0") + n("n"),
        ("gather", "ids") => n("ids0") + n("n"),
        ("gather", "y") => n("y0") + n("n") * n("width"),
        ("scatter_add", "y") => n("rows") * n("width"),
        ("scatter_add", "x") => n("x0") + (n("first") + n("n")) * n("width"),
        ("scatter_add", "ids") => n("ids0") + n("first") + n("n"),
        ("quantise", "a") => n("a0") + last("m") * n("a_row") + n("k"),
        ("quantise", "y") => n("m") * n("blocks") * Expr::new(12),
        ("matmul_int8" | "matvec_int8" | "matvec_subgroup_int8", "a") => n("m") * n("blocks") * Expr::new(12),
        ("matmul_sum", "y") => n("y0") + n("count"),
        ("matmul_sum", "x") => n("count") * n("parts"),
        ("attention" | "attention_tiles", "q") => {
            n("q0")
                + last("batch") * n("q_batch")
                + last("queries") * n("q_row")
                + last("heads") * n("q_head")
                + n("width")
        }
        ("attention" | "attention_tiles", "k" | "v") => {
            let of = |part: &str| n(&format!("{name}{part}"));
            // Of pages any row of the pool.
            let rows = if n("pool").is(0) { last("keys") } else { last("pool") };
            of("0") + last("batch") * of("_batch") + rows * of("_row") + last("kv_heads") * of("_head") + n("width")
        }
        ("attention", "y") => n("y0") + n("batch") * n("queries") * n("heads") * n("width"),
        ("attention_tiles", "y") if n("parts").is(1) => n("y0") + n("batch") * n("queries") * n("heads") * n("width"),
        ("attention_tiles", "y") => {
            n("parts") * n("batch") * n("queries") * n("heads") * (n("width") + Expr::new(4)) + n("y0")
        }
        ("attention" | "attention_tiles", "sinks") => n("sinks0") + n("heads"),
        ("attention", "tables") => n("tables0") + n("sequences") * n("per"),
        ("attention", "sequences" | "positions") => n(&format!("{name}0")) + n("queries"),
        ("delta_rule", "q" | "k") => {
            let of = |part: &str| n(&format!("{name}{part}"));
            of("0") + last("n") * of("_row") + last("key_heads") * of("_head") + n("d")
        }
        ("delta_rule", "v") => n("v0") + last("n") * n("v_row") + last("heads") * n("v_head") + n("e"),
        ("delta_rule", "gates") => n("gates0") + n("n") * n("heads") * Expr::new(2),
        ("delta_rule", "states") => n("states0") + n("slots") * n("d") * n("heads") * n("e"),
        ("delta_rule", "first") => n("slots0") + n("sequences"),
        ("delta_rule", "owners") => n("owners0") + n("n"),
        ("delta_rule", "y") => n("y0") + (n("n") + n("sequences") * n("d")) * n("heads") * n("e"),
        ("attention_merge", "y") => n("y0") + n("rows") * n("width"),
        ("attention_merge", "x") => n("rows") * n("parts") * (n("width") + Expr::new(4)),
        _ => return None,
    })
}

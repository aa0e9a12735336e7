//! How often the loops of an invocation turn. Some software adapters end all loops of a shader, without a word, after so many turns
//! together; plans for them keep below that.

use super::Kernel;

/// Turns after which llvmpipe ends all loops of a shader.
pub const MOST: u64 = 65_535;
/// Turns that one loop is given there: what stands around it needs some, too.
pub const LONG: u64 = 60_000;

/// The most turns that an invocation of this kernel takes, from its numbers; `None` for a kernel that is not known.
pub fn turns(kernel: &Kernel, number: impl Fn(&str) -> u64) -> Option<u64> {
    let wide = |hole: &str| kernel.filled(hole);
    // The sums over lanes that follow a loop.
    let tree = 16;
    Some(match kernel.name() {
        "map" | "gather" => 0,
        "probe" => 256,
        "reduce" if wide("form") => number("len").div_ceil(64) + tree,
        "reduce" => number("len") + 64,
        "softmax" | "layer_norm" | "rms_norm" if wide("entry") => number("cols").div_ceil(4 * 64) + 2 * 64,
        "softmax" if wide("form") => 3 * number("cols").div_ceil(64) + 2 * tree,
        "softmax" => 3 * number("cols"),
        "layer_norm" if wide("form") => 3 * number("cols").div_ceil(64) + 2 * tree,
        "layer_norm" => 3 * number("cols"),
        "rms_norm" if wide("form") => 2 * number("cols").div_ceil(64) + tree,
        "rms_norm" => 2 * number("cols"),
        "scatter_add" => number("n"),
        "expert_matmul" => number("k"),
        // Rows, four parts each; and runs of rows that are looked through.
        "delta_rule" => number("n") * 6 + number("n").div_ceil(64) * 66,
        "matmul" | "matmul_f16" => number("k").div_ceil(16) * 5,
        "quantise" => 0,
        "matmul_int8" => number("k").div_ceil(32) * 3,
        "matmul_sum" => number("parts"),
        // A quantised block is a turn and four within it; two times four for eight bits.
        "matmul_rows" => number("k").div_ceil(32) * 9,
        "matvec" | "matvec_subgroup" | "matvec_int8" | "matvec_subgroup_int8" => number("k").div_ceil(32) + 64 * tree,
        "attention_tiles" => {
            number("keys").div_ceil(32)
                * (1 + number("width").div_ceil(16) * 5 + 8 + if number("width") > 128 { 16 } else { 12 })
                + 8
        }
        "attention_merge" => 2 * number("parts"),
        "attention" if wide("form") => number("keys").div_ceil(64) * (1 + number("width") + 2 * tree + 4 * 64 + 4),
        "attention" if wide("body") => number("keys"),
        "attention" => number("keys") * (2 * number("width") + 1) + 2 * number("width"),
        _ => return None,
    })
}

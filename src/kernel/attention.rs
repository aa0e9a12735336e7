//! Attention: the text of one query's loop, by head width and form.

use super::{Kernel, Template, turns};
use std::fmt::Write;

pub static ATTENTION: Template = Template { name: "attention", source: include_str!("../../shaders/attention.wgsl") };

/// Invocations of a workgroup, lanes along the keys.
const GROUP: u32 = 64;
/// Invocations of a workgroup in the serial form: one vector of a CPU, for small workgroups keep all cores busy.
const SERIAL_GROUP: u32 = 8;
/// The widest head that has a kernel.
pub const MAX_WIDTH: u32 = 256;

/// Keys that the serial form may be given on adapters that count the turns of loops.
pub fn serial_keys(width: u32) -> u64 {
    if named(width) { turns::LONG } else { turns::LONG / (2 * width as u64 + 1) }
}

/// Whether the serial form has its accumulators in named registers: wider heads do not fit, theirs stay an array.
fn named(width: u32) -> bool {
    width.is_multiple_of(4) && width <= 64
}

/// What a kernel is filled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    pub width: u32,
    pub causal: bool,
    pub window: bool,
    /// `None`, or whether the mask is boolean.
    pub mask: Option<bool>,
    /// Whether scores are bent to within a cap.
    pub softcap: bool,
    /// Whether each head has a score beside those of its keys.
    pub sinks: bool,
    /// Queries are rows of many sequences, whose keys lie in pages.
    pub pages: bool,
    /// One invocation a query (adapters that run on a CPU, long prompts); else a workgroup, lanes along the keys.
    pub serial: bool,
}

/// The kernel, and the queries (of all heads) that one workgroup makes.
pub fn kernel(spec: Spec) -> (Kernel, u32) {
    let group = if spec.serial { SERIAL_GROUP } else { GROUP };
    let mut kernel = Kernel::new(&ATTENTION).set("WG", group);
    for (name, text) in holes(spec) {
        kernel = kernel.hole(name, text);
    }
    if !spec.serial {
        let body = include_str!("../../shaders/shared/workgroup_attention.wgsl");
        return (kernel.hole("form", super::row::WORKGROUP_ROW).hole("body", body), 1);
    }
    if named(spec.width) {
        kernel = kernel.hole("body", serial_body(spec.width / 4));
    }
    (kernel, group)
}

/// What all kernels of attention have in common: which keys a query sees, and what becomes of a score.
pub fn holes(spec: Spec) -> Vec<(&'static str, String)> {
    let mask = spec.mask.map(|boolean| ("mask", mask(boolean)));
    let cap = spec.softcap.then(|| ("cap", CAP.to_string()));
    let sinks = spec.sinks.then(|| ("sinks", SINKS.to_string()));
    let last = match spec.pages {
        true => Some(("last", pages_end(spec.window))),
        false => spec.causal.then(|| ("last", last(spec.window))),
    };
    let place = spec.pages.then(|| ("place", PLACE.to_string()));
    [mask, cap, sinks, last, place].into_iter().flatten().collect()
}

/// Beyond ±15 tanh is ±1 in f32, and some drivers overflow in exp there.
const CAP: &str = "fn capped(score: f32) -> f32 { return p.softcap * tanh(clamp(score / p.softcap, -15.0, 15.0)); }\n";

/// The running maximum and sum begin with the head's own score.
const SINKS: &str = "@group(0) @binding(5) var<storage, read> sinks: array<f32>;\n\
    fn first_score(h: u32) -> f32 { return sinks[p.sinks0 + h]; }\n\
    fn first_sum() -> f32 { return 1.0; }\n";

fn mask(boolean: bool) -> String {
    let element = if boolean { "u32" } else { "f32" };
    let value = if boolean { "select(-3.4028234e38, score, m != 0u)" } else { "score + m" };
    format!(
        "@group(0) @binding(5) var<storage, read> mask: array<{element}>;\n\
         fn masked(score: f32, b: u32, h: u32, s: u32, t: u32) -> f32 {{\n    \
         let m = mask[p.mask0 + b * p.mask_batch + h * p.mask_head + s * p.mask_row + t * p.mask_key];\n    \
         return {value};\n}}\n"
    )
}

fn last(window: bool) -> String {
    let start = if window {
        "let end = p.past + s + 1u;\n    return select(0u, end - p.window, end > p.window);"
    } else {
        "return 0u;"
    };
    format!(
        "fn keys_end(s: u32) -> u32 {{ return min(p.past + s + 1u, p.keys); }}\nfn keys_start(s: u32) -> u32 {{\n    {start}\n}}\n"
    )
}

/// Entries beyond the pool stand for its last page: nothing is read outside of it.
const PLACE: &str = "fn place(s: u32, t: u32) -> u32 {\n    \
    let entry = tables[p.tables0 + sequences[p.sequences0 + s] * p.per + t / p.page];\n    \
    return min(entry, p.pool / p.page - 1u) * p.page + t % p.page;\n}\n";

/// A row sees keys up to its position, and none of a sequence that there is not.
fn pages_end(window: bool) -> String {
    let start = if window {
        "let end = positions[p.positions0 + s];\n    return select(0u, end - p.window + 1u, end >= p.window);"
    } else {
        "return 0u;"
    };
    format!(
        "@group(0) @binding(6) var<storage, read> tables: array<u32>;\n\
         @group(0) @binding(7) var<storage, read> sequences: array<u32>;\n\
         @group(0) @binding(8) var<storage, read> positions: array<u32>;\n\
         fn keys_end(s: u32) -> u32 {{\n    \
         if (sequences[p.sequences0 + s] >= p.sequences) {{ return 0u; }}\n    \
         return min(positions[p.positions0 + s], p.keys - 1u) + 1u;\n}}\n\
         fn keys_start(s: u32) -> u32 {{\n    {start}\n}}\n"
    )
}

/// The loop with the query and the accumulators in named registers.
fn serial_body(vectors: u32) -> String {
    let mut t = String::from(
        "fn query(b: u32, s: u32, h: u32, lane: u32) {\n    let g = h / (p.heads / p.kv_heads);\n    \
         let q_at = p.q0 + b * p.q_batch + s * p.q_row + h * p.q_head;\n    \
         let k_at = p.k0 + b * p.k_batch + g * p.k_head;\n    \
         let v_at = p.v0 + b * p.v_batch + g * p.v_head;\n    \
         let out = p.y0 + ((b * p.queries + s) * p.heads + h) * p.width;\n    \
         var most = first_score(h);\n    var sum = first_sum();\n",
    );
    let load = |name: &str, at: &str| {
        format!("vec4<f32>({name}[{at}], {name}[{at} + 1u], {name}[{at} + 2u], {name}[{at} + 3u])")
    };
    for i in 0..vectors {
        let _ = writeln!(
            t,
            "    let q{i} = {} * p.scale;\n    var a{i} = vec4<f32>(0.0);",
            load("q", &format!("q_at + {}u", i * 4))
        );
    }
    t += "    for (var t = keys_start(s); t < keys_end(s); t++) {\n        let row = place(s, t);\n        let kt = k_at + row * p.k_row;\n        let vt = v_at + row * p.v_row;\n        var score = 0.0;\n";
    for i in 0..vectors {
        let _ = writeln!(t, "        score += dot(q{i}, {});", load("k", &format!("kt + {}u", i * 4)));
    }
    t += "        score = masked(capped(score), b, h, s, t);\n        let next = max(most, score);\n        let keep = exp(most - next);\n        let e = select(0.0, exp(score - next), score > -3.4028234e38);\n        sum = sum * keep + e;\n        most = next;\n";
    for i in 0..vectors {
        let _ = writeln!(t, "        a{i} = a{i} * keep + e * {};", load("v", &format!("vt + {}u", i * 4)));
    }
    t += "    }\n    let share = select(0.0, 1.0 / sum, sum > 0.0);\n";
    for i in 0..vectors {
        for (j, c) in ["x", "y", "z", "w"].iter().enumerate() {
            let _ = writeln!(t, "    y[out + {}u] = a{i}.{c} * share;", i * 4 + j as u32);
        }
    }
    t + "}\n"
}

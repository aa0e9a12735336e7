//! Matrix multiplication: forms, variants and the text of their inner loops.

use super::Template;
use crate::format::{RUN, Wgsl};
use std::fmt::Write;

pub use super::operands::{Form, Right};
pub use super::variants::{VARIANTS, Variant};

pub static ROWS: Template = Template { name: "matmul_rows", source: include_str!("../../shaders/matmul_rows.wgsl") };
/// Fills the hole `entry` of [`ROWS`] where tiles are made with broadcasts.
pub static SUBGROUP_ROWS: &str = include_str!("../../shaders/shared/subgroup_rows.wgsl");
/// Lanes of a workgroup of the rows form, one vector of a CPU: small workgroups keep all cores busy.
pub const ROWS_LANES: u32 = 8;

/// Sizes of uniform bindings for the left operand; the last is what every device binds.
pub const UNIFORM_BYTES: [u64; 2] = [16 << 10, 64 << 10];

/// `load_b(base, k, n)`: one element of any format, for the tiled form. It loads by [`Right::access`], as all forms do.
pub fn load_b(right: Right) -> String {
    let body = match right.wgsl() {
        Wgsl::Plain(_) => "return plain_at(base + k * p.b_col + n * p.b_row);".to_string(),
        Wgsl::Blocks(_) => format!(
            "let r = run_at(n * (p.k / {RUN}u) + k / {RUN}u, vec2<u32>(p.s0, p.s1));\n    return value(r, (k % {RUN}u) / 8u, k % 8u);"
        ),
    };
    format!("fn load_b(base: u32, k: u32, n: u32) -> f32 {{\n    {body}\n}}\n")
}

/// The inner loop of the rows form: `tile(m0, n0, za, zb, z, lane)` computes and stores TM × TN outputs in registers. With
/// `broadcast`, each lane of a subgroup loads a row of the left operand, for all lanes; else each lane loads all rows.
/// Accumulators are spelled out, for no compiler here is asked to unroll, and parameters are read before the loops: a CPU's
/// compiler leaves them where they stand.
///
/// With `pair`, half of the columns are those of the second half of the weight's rows, and one result is made of two sums.
pub fn tile(right: Right, v: Variant, broadcast: bool, pair: bool) -> String {
    let mut t = "fn tile(m0: u32, n0: u32, za: u32, zb: u32, z: u32, lane: u32) {\n".to_string();
    let left = Left { rows: v.tm, broadcast };
    left.begin(&mut t);
    if right.rows {
        rows_tile(&mut t, right, v, left, pair)
    } else {
        columns_tile(&mut t, v, left)
    }
    t + "}\n"
}

/// How the rows of the left operand get into registers.
#[derive(Clone, Copy)]
struct Left {
    rows: u32,
    broadcast: bool,
}

impl Left {
    /// Loads that each lane makes.
    fn loads(self) -> u32 {
        if self.broadcast { self.rows / ROWS_LANES } else { self.rows }
    }
    /// Where they begin, before the loops. Rows beyond the edge repeat the last one: their results are dropped.
    fn begin(self, t: &mut String) {
        for i in 0..self.loads() {
            let row = if self.broadcast { format!("{}u + lane", i * ROWS_LANES) } else { format!("{i}u") };
            let _ = writeln!(t, "    let a{i} = (za + min(m0 + {row}, p.m - 1u) * p.a_row) / 4u;");
        }
    }
    /// All rows at vector `at`, as `x` and their numbers.
    fn load(self, t: &mut String, pad: &str, x: &str, at: &str) {
        if self.broadcast {
            for g in 0..self.loads() {
                let _ = writeln!(t, "{pad}let {x}g{g} = a[a{g} + {at}];");
            }
        }
        for r in 0..self.rows {
            let _ = match self.broadcast {
                true => {
                    writeln!(t, "{pad}let {x}{r} = subgroupBroadcast({x}g{}, {}u);", r / ROWS_LANES, r % ROWS_LANES)
                }
                false => writeln!(t, "{pad}let {x}{r} = a[a{r} + {at}];"),
            };
        }
    }
}

/// `store` of [`ROWS`] for pairs.
pub static PAIR_STORE: &str = "fn store(to: u32, o: u32, inside: bool, acc: f32, other: f32) {
    if (inside) { y[to + o] = epilogue(acc, other, o); }
}
";

fn rows_tile(t: &mut String, right: Right, v: Variant, left: Left, pair: bool) {
    let column = |c: u32| match pair && c >= v.tn / 2 {
        true => format!("(p.n + min(n0 + {}u, p.n - 1u))", c - v.tn / 2),
        false => format!("min(n0 + {c}u, p.n - 1u)"),
    };
    let blocks = matches!(right.wgsl(), Wgsl::Blocks(_));
    if blocks {
        let _ = writeln!(t, "    let runs = p.k / {RUN}u;\n    let s = vec2<u32>(p.s0, p.s1);\n    let four = p.four;");
    } else {
        *t += "    let k4 = p.k / 4u;\n";
    }
    for c in 0..v.tn {
        let first =
            if blocks { format!("{} * runs", column(c)) } else { format!("(zb + {} * p.b_row) / 4u", column(c)) };
        let _ = writeln!(t, "    let w{c} = {first};");
        for r in 0..v.tm {
            let _ = writeln!(t, "    var s{r}_{c} = 0.0;");
        }
    }
    let accumulate = |t: &mut String, pad: &str, weight: &str, x: &str| {
        left.load(t, pad, x, if x == "l" { "lo" } else { "hi" });
        for r in 0..v.tm {
            for c in 0..v.tn {
                let _ = writeln!(t, "{pad}s{r}_{c} += dot({weight}{c}, {x}{r});");
            }
        }
    };
    if blocks {
        *t += "    for (var kb = 0u; kb < runs; kb++) {\n";
        for c in 0..v.tn {
            let _ = writeln!(t, "        let r{c} = run_at(w{c} + kb, s);");
        }
        let _ = writeln!(
            t,
            "        for (var j = 0u; j < four; j++) {{\n            let lo = kb * {}u + 2u * j;\n            let hi = lo + 1u;",
            RUN / 4
        );
        let offset = |c: u32| if right.offset() { format!(" + f{c}.y") } else { String::new() };
        for c in 0..v.tn {
            let _ = writeln!(t, "            let q{c} = packed(r{c}, j);\n            let f{c} = scale(r{c}, j);");
            for (name, lane) in [("u", "x"), ("v", "y")] {
                let offset = offset(c);
                let _ = writeln!(t, "            let {name}{c} = vec4<f32>(unpack4xI8(q{c}.{lane})) * f{c}.x{offset};");
            }
        }
        accumulate(t, "            ", "u", "l");
        accumulate(t, "            ", "v", "h");
        *t += "        }\n    }\n";
    } else {
        *t += "    for (var lo = 0u; lo < k4; lo++) {\n";
        for c in 0..v.tn {
            let _ = writeln!(t, "        let u{c} = four(w{c} + lo);");
        }
        accumulate(t, "        ", "u", "l");
        *t += "    }\n";
    }
    match pair {
        true => store_tile(t, Variant { tn: v.tn / 2, ..v }, |r, c| format!("s{r}_{c}, s{r}_{}", c + v.tn / 2)),
        false => store_tile(t, v, |r, c| format!("s{r}_{c}")),
    }
}

/// Outputs in registers through the epilogue.
fn store_tile(t: &mut String, v: Variant, sum: impl Fn(u32, u32) -> String) {
    *t += "    let row = p.y_row;\n    let first = (z * p.m + p.m0 + m0) * row + p.n0 + n0;\n    let to = p.y0;\n";
    // Lanes beyond the last column have none.
    *t += "    let rows = p.m - m0;\n    let cols = max(p.n, n0) - n0;\n";
    for (r, c) in (0..v.tm).flat_map(|r| (0..v.tn).map(move |c| (r, c))) {
        let _ = writeln!(t, "    store(to, first + {r}u * row + {c}u, {r}u < rows && {c}u < cols, {});", sum(r, c));
    }
}

/// TN counts columns; four lie in one vector.
fn columns_tile(t: &mut String, v: Variant, left: Left) {
    let vectors = v.tn / 4;
    *t += "    let k4 = p.k / 4u;\n    let col = p.b_col / 4u;\n";
    for c in 0..vectors {
        let _ = writeln!(t, "    let w{c} = (zb + min(n0 + {}u, p.n - 4u)) / 4u;", c * 4);
        for r in 0..v.tm {
            let _ = writeln!(t, "    var s{r}_{c} = vec4<f32>(0.0);");
        }
    }
    *t += "    for (var k = 0u; k < k4; k++) {\n";
    left.load(t, "        ", "x", "k");
    for (i, lane) in ["x", "y", "z", "w"].iter().enumerate() {
        for c in 0..vectors {
            let _ = writeln!(t, "        let b{i}_{c} = four(w{c} + (k * 4u + {i}u) * col);");
            for r in 0..v.tm {
                let _ = writeln!(t, "        s{r}_{c} += b{i}_{c} * x{r}.{lane};");
            }
        }
    }
    *t += "    }\n";
    store_tile(t, v, |r, c| format!("s{r}_{}.{}", c / 4, ["x", "y", "z", "w"][c as usize % 4]));
}

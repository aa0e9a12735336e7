//! Matrix multiplication: forms, variants and the text of their inner loops.

use super::Template;
use crate::base::{DType, TEXELS};
use std::fmt::Write;

pub use super::variants::{Form, VARIANTS, Variant};

pub static ROWS: Template = Template { name: "matmul_rows", source: include_str!("../../shaders/matmul_rows.wgsl") };
/// Fills the hole `entry` of [`ROWS`] where tiles are made with broadcasts.
pub static SUBGROUP_ROWS: &str = include_str!("../../shaders/shared/subgroup_rows.wgsl");
/// Lanes of a workgroup of the rows form, one vector of a CPU: small workgroups keep all cores busy.
pub const ROWS_LANES: u32 = 8;

/// Sizes of uniform bindings for the left operand; the last is what every device binds.
pub const UNIFORM_BYTES: [u64; 2] = [16 << 10, 64 << 10];

/// How the right operand lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Right {
    pub dtype: DType,
    /// Rows of k elements, one an output column, as weights are; else columns of n.
    pub rows: bool,
    /// In the texels of a texture, sixteen bytes each; else in a storage buffer.
    pub texels: bool,
}

impl Right {
    /// The types of the elements of `b` and, where quantised, of its scales.
    pub fn elements(self, form: Form) -> (&'static str, Option<&'static str>) {
        match (self.dtype, form) {
            (DType::F32, Form::Tiled) => ("f32", None),
            (DType::F32, _) => ("vec4<f32>", None),
            (DType::F16, Form::Tiled) => ("u32", None),
            (DType::F16, _) => ("vec2<u32>", None),
            (_, Form::Tiled) => ("u32", Some("u32")),
            (_, _) => ("vec4<u32>", Some("u32")),
        }
    }

    /// Functions that all forms load it by: `b_at(i)`, element `i`; where quantised, `scale(s0, i)`, factor and offset of
    /// block `i`, whose plane begins at texel `s0`.
    pub fn access(self, form: Form) -> String {
        self.access_as(self.elements(form))
    }

    /// The same for elements of other types.
    pub fn access_as(self, (element, scales): (&'static str, Option<&'static str>)) -> String {
        let load = match (self.texels, element) {
            (false, _) => "return b[i];",
            (true, "vec4<f32>") => "return bitcast<vec4<f32>>(texel(i));",
            (true, "vec4<u32>") => "return texel(i);",
            (true, "vec2<u32>") => "let t = texel(i / 2u); return select(t.xy, t.zw, (i & 1u) == 1u);",
            (true, "f32") => "return bitcast<f32>(texel(i / 4u)[i % 4u]);",
            (true, _) => "return texel(i / 4u)[i % 4u];",
        };
        let mut t = String::new();
        if self.texels {
            let _ = writeln!(
                t,
                "fn texel(i: u32) -> vec4<u32> {{ return textureLoad(b, vec2<u32>(i % {TEXELS}u, i / {TEXELS}u), 0); }}"
            );
        }
        let _ = writeln!(t, "fn b_at(i: u32) -> {element} {{ {load} }}");
        if scales.is_some() {
            let word = if self.texels { "texel(s0 + i / 4u)[i % 4u]" } else { "s[i]" };
            let _ = writeln!(t, "fn s_at(s0: u32, i: u32) -> u32 {{ return {word}; }}");
            t += &scale_function(self.dtype);
        }
        t
    }
}

/// `scale(s0, i)` of a quantised type, in two steps: `s_word(s0, i)` loads the word that has it, `scale_of(word, i)` takes it out.
fn scale_function(dtype: DType) -> String {
    let (word, body) = match dtype {
        DType::Q4_1 => ("i", "return unpack2x16float(word);".to_string()),
        _ => {
            let offset = if dtype == DType::Q4_0 { "-8.0 * d" } else { "0.0" };
            let body = format!(
                "let pair = unpack2x16float(word);\n    let d = select(pair.x, pair.y, (i & 1u) == 1u);\n    return vec2<f32>(d, {offset});"
            );
            ("i >> 1u", body)
        }
    };
    format!(
        "fn s_word(s0: u32, i: u32) -> u32 {{ return s_at(s0, {word}); }}\nfn scale_of(word: u32, i: u32) -> vec2<f32> {{\n    {body}\n}}\n\
         fn scale(s0: u32, i: u32) -> vec2<f32> {{ return scale_of(s_word(s0, i), i); }}\n"
    )
}

/// `load_b(base, k, n)`: one element of any format, for the tiled form. It loads by [`Right::access`], as all forms do.
pub fn load_b(right: Right) -> String {
    let body = match right.dtype {
        DType::F16 => "let at = base + k * p.b_col + n * p.b_row;\n    let pair = unpack2x16float(b_at(at >> 1u));\n    return select(pair.x, pair.y, (at & 1u) == 1u);".to_string(),
        DType::Q4_0 | DType::Q4_1 => "let block = n * (p.k / 32u) + k / 32u;\n    let word = b_at(block * 4u + (k % 16u) / 4u);\n    let q = (word >> (8u * (k % 4u) + 4u * ((k % 32u) / 16u))) & 15u;\n    let d = scale(p.s0, block);\n    return f32(q) * d.x + d.y;".to_string(),
        DType::Q8_0 => "let block = n * (p.k / 32u) + k / 32u;\n    let word = b_at(block * 8u + (k % 32u) / 4u);\n    let q = extractBits(bitcast<i32>(word), 8u * (k % 4u), 8u);\n    return f32(q) * scale(p.s0, block).x;".to_string(),
        _ => "return b_at(base + k * p.b_col + n * p.b_row);".to_string(),
    };
    format!("fn load_b(base: u32, k: u32, n: u32) -> f32 {{\n    {body}\n}}\n")
}

/// The inner loop of the rows form: `tile(m0, n0, za, zb, z, lane)` computes and stores TM × TN outputs in registers. With
/// `broadcast`, each lane of a subgroup loads a row of the left operand, for all lanes; else each lane loads all rows.
/// Accumulators are spelled out, for no compiler here is asked to unroll, and parameters are read before the loops: a CPU's
/// compiler leaves them where they stand.
pub fn tile(right: Right, v: Variant, broadcast: bool) -> String {
    let mut t = "fn tile(m0: u32, n0: u32, za: u32, zb: u32, z: u32, lane: u32) {\n".to_string();
    let left = Left { rows: v.tm, broadcast };
    left.begin(&mut t);
    if right.rows {
        rows_tile(&mut t, right.dtype, v, left)
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

fn rows_tile(t: &mut String, dtype: DType, v: Variant, left: Left) {
    *t += if dtype.is_quantised() {
        "    let blocks = p.k / 32u;\n    let s0 = p.s0;\n    let four = p.four;\n"
    } else {
        "    let k4 = p.k / 4u;\n"
    };
    for c in 0..v.tn {
        let first = if dtype.is_quantised() {
            format!("min(n0 + {c}u, p.n - 1u) * blocks")
        } else {
            format!("(zb + min(n0 + {c}u, p.n - 1u) * p.b_row) / 4u")
        };
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
    match dtype {
        DType::Q4_0 | DType::Q4_1 => {
            *t += "    for (var kb = 0u; kb < blocks; kb++) {\n";
            for c in 0..v.tn {
                let _ = writeln!(
                    t,
                    "        let at{c} = w{c} + kb;\n        let d{c} = scale(s0, at{c});\n        let q{c} = b_at(at{c});"
                );
            }
            *t += "        for (var j = 0u; j < four; j++) {\n            let lo = kb * 8u + j;\n            let hi = lo + 4u;\n";
            for c in 0..v.tn {
                let _ = writeln!(
                    t,
                    "            let u{c} = vec4<f32>(unpack4xU8(q{c}[j] & 0x0f0f0f0fu)) * d{c}.x + d{c}.y;"
                );
                let _ = writeln!(
                    t,
                    "            let v{c} = vec4<f32>(unpack4xU8((q{c}[j] >> 4u) & 0x0f0f0f0fu)) * d{c}.x + d{c}.y;"
                );
            }
            accumulate(t, "            ", "u", "l");
            accumulate(t, "            ", "v", "h");
            *t += "        }\n    }\n";
        }
        DType::Q8_0 => {
            *t += "    for (var kb = 0u; kb < blocks; kb++) {\n";
            for c in 0..v.tn {
                let _ = writeln!(t, "        let at{c} = w{c} + kb;\n        let d{c} = scale(s0, at{c}).x;");
            }
            for half in 0..2 {
                for c in 0..v.tn {
                    let _ = writeln!(t, "        let q{half}{c} = b_at(at{c} * 2u + {half}u);");
                }
                let _ = writeln!(
                    t,
                    "        for (var j = 0u; j < four; j++) {{\n            let lo = kb * 8u + {}u + j;",
                    half * 4
                );
                for c in 0..v.tn {
                    let _ = writeln!(t, "            let u{c} = vec4<f32>(unpack4xI8(q{half}{c}[j])) * d{c};");
                }
                accumulate(t, "            ", "u", "l");
                *t += "        }\n";
            }
            *t += "    }\n";
        }
        _ => {
            *t += "    for (var lo = 0u; lo < k4; lo++) {\n";
            for c in 0..v.tn {
                let at = format!("w{c} + lo");
                match dtype {
                    DType::F16 => {
                        let _ = writeln!(
                            t,
                            "        let h{c} = b_at({at});\n        let u{c} = vec4<f32>(unpack2x16float(h{c}.x), unpack2x16float(h{c}.y));"
                        );
                    }
                    _ => {
                        let _ = writeln!(t, "        let u{c} = b_at({at});");
                    }
                }
            }
            accumulate(t, "        ", "u", "l");
            *t += "    }\n";
        }
    }
    store_tile(t, v, |r, c| format!("s{r}_{c}"));
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
            let _ = writeln!(t, "        let b{i}_{c} = b_at(w{c} + (k * 4u + {i}u) * col);");
            for r in 0..v.tm {
                let _ = writeln!(t, "        s{r}_{c} += b{i}_{c} * x{r}.{lane};");
            }
        }
    }
    *t += "    }\n";
    store_tile(t, v, |r, c| format!("s{r}_{}.{}", c / 4, ["x", "y", "z", "w"][c as usize % 4]));
}

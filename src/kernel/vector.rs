//! Products with few rows on the left, for GPUs: the text of a workgroup that makes several outputs of all rows.
//!
//! What takes the time is reading weights. A lane loads sixteen bytes at once, its neighbours the next sixteen, and those of
//! several outputs are on their way at the same time; each weight is decoded once, for all rows.

use super::matmul::{Form, Right};
use super::{Kernel, Template, int8};
use crate::base::DType;
use crate::format::{RUN, Wgsl};
use std::fmt::Write;

pub static VECTOR: Template = Template { name: "matvec", source: include_str!("../../shaders/matvec.wgsl") };
/// The same text, whose lanes add up by subgroups.
pub static SUBGROUP: Template = Template { name: "matvec_subgroup", source: VECTOR.source };

/// Those whose left operand is bytes.
pub static INT8: Template = Template { name: "matvec_int8", source: VECTOR.source };
pub static SUBGROUP_INT8: Template = Template { name: "matvec_subgroup_int8", source: VECTOR.source };

/// Invocations of a workgroup.
pub const LANES: u32 = 64;

/// What the text is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    pub right: Right,
    /// Rows of the left operand, all of which each workgroup makes.
    pub rows: u32,
    /// Outputs that a lane works on at the same time, a multiple of four.
    pub outputs: u32,
    /// Lanes along k: [`LANES`] or a part of them, which lets a workgroup make several times as many outputs.
    pub along: u32,
    /// Whether lanes add up by subgroups. Then all of them lie along k, for which of them are neighbours is not known.
    pub subgroups: bool,
    /// Whether the left operand is bytes, as [`int8::QUANTISE`] makes them.
    pub int8: bool,
    /// Whether each result is made of two sums, one of the second half of the weight's rows: of four outputs of a lane two are of the first.
    pub pair: bool,
    /// Whether rows are brought to a mean square of one, and multiplied by `g`, as they are read: an RMS-norm.
    pub norm: bool,
}

/// Weights that a lane takes at a time: sixteen bytes of plain ones, or a run of a block.
pub fn chunk(dtype: DType) -> u32 {
    if dtype.is_quantised() { RUN as u32 } else { 16 / dtype.block_bytes() as u32 }
}

impl Spec {
    /// The types of the right operand's elements and, where blocks have planes beside the first, of those.
    pub fn right_elements(&self) -> (&'static str, Option<&'static str>) {
        match self.right.wgsl() {
            Wgsl::Plain(p) if p.four == "vec4<f32>" => ("vec4<f32>", None),
            Wgsl::Plain(_) => ("vec4<u32>", None),
            Wgsl::Blocks(_) => self.right.elements(Form::Vector),
        }
    }
    /// Outputs of a workgroup.
    pub fn group(&self) -> u32 {
        self.results() * (LANES / self.along)
    }
    /// Results of a lane.
    fn results(&self) -> u32 {
        if self.pair { self.outputs / 2 } else { self.outputs }
    }
    /// Vectors of sums: of outputs, and of squares.
    fn fours(&self) -> u32 {
        self.rows * self.outputs / 4 + if self.norm { self.rows.div_ceil(4) } else { 0 }
    }
    /// The row of the weight that makes output `r`.
    fn weight_row(&self, r: u32) -> String {
        match (self.pair, r % 4) {
            (false, _) => format!("min(n0 + {r}u, p.n - 1u)"),
            (true, j @ 0..2) => format!("min(n0 + {}u, p.n - 1u)", r / 4 * 2 + j),
            (true, j) => format!("(p.n + min(n0 + {}u, p.n - 1u))", r / 4 * 2 + j - 2),
        }
    }

    /// The kernel, but for its interface; `body` defines `epilogue`.
    pub fn kernel(&self, body: &str) -> Kernel {
        let body = format!("{body}{}", self.right.access_as(self.right_elements()));
        let template = match (self.subgroups, self.int8) {
            (false, false) => &VECTOR,
            (true, false) => &SUBGROUP,
            (false, true) => &INT8,
            (true, true) => &SUBGROUP_INT8,
        };
        // With subgroups, each has a place for each of its sums: sixteen are the most of a workgroup.
        let room = if self.subgroups { 16 * self.fours() } else { LANES };
        let kernel = Kernel::new(template).set("ALONG", self.along).set("ROOM", room);
        let kernel = if self.pair { kernel.hole("store", PAIR_STORE) } else { kernel };
        kernel.hole("body", body).hole("entry", self.entry())
    }

    fn entry(&self) -> String {
        let mut t = if self.subgroups { SUBGROUP_HEAD.to_string() } else { HEAD.to_string() };
        let each = chunk(self.right.dtype);
        let _ = writeln!(
            t,
            "    let n0 = ((group.y * groups.x + group.x) * {}u + lane / ALONG) * {}u;",
            LANES / self.along,
            self.results()
        );
        let _ = writeln!(t, "    let place = lane % ALONG;\n    let chunks = p.k / {each}u;");
        for r in 0..self.outputs {
            let _ = match self.right.dtype.is_quantised() {
                true => writeln!(t, "    let w{r} = {} * chunks;", self.weight_row(r)),
                false => writeln!(t, "    let w{r} = p.b0 / {each}u + {} * chunks;", self.weight_row(r)),
            };
        }
        for i in 0..self.rows {
            let _ = match self.int8 {
                true => writeln!(t, "    let x{i} = min({i}u, p.m - 1u) * chunks * {}u;", int8::VECTORS),
                false => writeln!(t, "    let x{i} = (p.a0 + min({i}u, p.m - 1u) * p.a_row) / 4u;"),
            };
            if self.norm {
                let _ = writeln!(t, "    var squares{i} = 0.0;");
            }
            for r in 0..self.outputs {
                let _ = writeln!(t, "    var s{i}_{r} = 0.0;");
            }
        }
        t += "    for (var c = place; c < chunks; c += ALONG) {\n";
        self.step(&mut t);
        t += "    }\n";
        self.sums(&mut t);
        t + "}\n"
    }

    /// One chunk of each output, with all rows.
    fn step(&self, t: &mut String) {
        match self.right.wgsl() {
            Wgsl::Plain(p) => {
                for r in 0..self.outputs {
                    let _ = writeln!(t, "        let q{r} = b_at(w{r} + c);");
                }
                match p.four {
                    "vec4<f32>" => self.plain(t, 1, |r, _| format!("q{r}")),
                    _ => self.plain(t, 2, |r, j| (p.widen)(&format!("q{r}.{}", ["xy", "zw"][j as usize]))),
                }
            }
            Wgsl::Blocks(_) if self.int8 => self.integers(t),
            Wgsl::Blocks(_) => self.blocks(t),
        }
    }

    /// A run of each output as integers: those that share a factor are multiplied with the rows' bytes, and scaled once.
    fn integers(&self, t: &mut String) {
        for r in 0..self.outputs {
            let _ = writeln!(t, "        let r{r} = run_at(w{r} + c, vec2<u32>(p.s0, p.s1));");
        }
        for i in 0..self.rows {
            for (v, name) in ["x", "y", "d"].iter().enumerate() {
                let _ = writeln!(t, "        let {name}{i}_ = a[x{i} + c * {}u + {v}u];", int8::VECTORS);
            }
            let _ = writeln!(t, "        let e{i} = bitcast<vec4<f32>>(d{i}_);");
        }
        let halves: &[&[usize]] = if int8::group(self.right) == 16 { &[&[0], &[1]] } else { &[&[0, 1]] };
        for half in halves {
            *t += "        {\n";
            let sum = match half {
                [0] => "e{i}.y",
                [_] => "e{i}.z",
                _ => "(e{i}.y + e{i}.z)",
            };
            for r in 0..self.outputs {
                for h in *half {
                    let _ = writeln!(
                        t,
                        "            let q{r}_{h} = vec4<u32>(packed(r{r}, {}u), packed(r{r}, {}u));",
                        2 * h,
                        2 * h + 1
                    );
                }
                let _ = writeln!(t, "            let f{r} = scale(r{r}, {}u);", 2 * half[0]);
            }
            for (i, r) in (0..self.rows).flat_map(|i| (0..self.outputs).map(move |r| (i, r))) {
                let dots: Vec<String> = half
                    .iter()
                    .flat_map(|h| {
                        let x = ["x", "y"][*h];
                        LETTERS.map(|l| format!("dot4I8Packed({x}{i}_.{l}, q{r}_{h}.{l})"))
                    })
                    .collect();
                let _ =
                    writeln!(t, "            s{i}_{r} = fma(f32({}) * e{i}.x, f{r}.x, s{i}_{r});", dots.join(" + "));
                if self.right.offset() {
                    let sum = sum.replace("{i}", &i.to_string());
                    let _ = writeln!(t, "            s{i}_{r} = fma({sum}, f{r}.y, s{i}_{r});");
                }
            }
            *t += "        }\n";
        }
    }

    /// Vector `at` of row i of the left operand.
    fn load(&self, t: &mut String, pad: &str, name: &str, i: u32, at: &str) {
        if !self.norm {
            let _ = writeln!(t, "{pad}let {name} = a[x{i} + {at}];");
            return;
        }
        let _ = writeln!(
            t,
            "{pad}let raw_{name} = a[x{i} + {at}];\n{pad}squares{i} = {};\n{pad}let {name} = raw_{name} * g[p.g0 / 4u + {at}];",
            fma(&format!("raw_{name}"), &format!("raw_{name}"), &format!("squares{i}"))
        );
    }

    /// Weights that are values as they lie: vector j of output r is `weight(r, j)`.
    fn plain(&self, t: &mut String, vectors: u32, weight: impl Fn(u32, u32) -> String) {
        for j in 0..vectors {
            for i in 0..self.rows {
                self.load(t, "        ", &format!("v{i}_{j}"), i, &format!("c * {vectors}u + {j}u"));
            }
        }
        for j in 0..vectors {
            for r in 0..self.outputs {
                let _ = writeln!(t, "        let u{r}_{j} = {};", weight(r, j));
                for i in 0..self.rows {
                    let sum = fma(&format!("u{r}_{j}"), &format!("v{i}_{j}"), &format!("s{i}_{r}"));
                    let _ = writeln!(t, "        s{i}_{r} = {sum};");
                }
            }
        }
    }

    /// A run of each output, eight weights of one scale at a time: multiplied as whole numbers and scaled once, with the sum of what they
    /// met for the offset. Signed bytes are made unsigned by an offset of 128: unsigned ones convert in one instruction on GPUs.
    fn blocks(&self, t: &mut String) {
        let (flip, shift) = match self.right.offset() {
            true => ("", ""),
            false => (" ^ vec2<u32>(0x80808080u)", " - 128.0 * f{r}.x"),
        };
        for r in 0..self.outputs {
            let _ = writeln!(t, "        let r{r} = run_at(w{r} + c, vec2<u32>(p.s0, p.s1));");
        }
        for j in 0..RUN / 8 {
            *t += "        {\n";
            for r in 0..self.outputs {
                let _ = writeln!(
                    t,
                    "            let q{r} = packed(r{r}, {j}u){flip};\n            let f{r} = scale(r{r}, {j}u);\n            \
                     let o{r} = f{r}.y{};\n            let u{r} = vec4<f32>(unpack4xU8(q{r}.x));\n            let v{r} = vec4<f32>(unpack4xU8(q{r}.y));",
                    shift.replace("{r}", &r.to_string())
                );
            }
            for i in 0..self.rows {
                self.load(t, "            ", &format!("l{i}"), i, &format!("c * {}u + {}u", RUN / 4, 2 * j));
                self.load(t, "            ", &format!("h{i}"), i, &format!("c * {}u + {}u", RUN / 4, 2 * j + 1));
                let _ = writeln!(
                    t,
                    "            let m{i} = l{i} + h{i};\n            let sum{i} = m{i}.x + m{i}.y + m{i}.z + m{i}.w;"
                );
                for r in 0..self.outputs {
                    let low = fma(&format!("u{r}"), &format!("l{i}"), "0.0");
                    let all = fma(&format!("v{r}"), &format!("h{i}"), &low);
                    let _ = writeln!(t, "            s{i}_{r} = fma({all}, f{r}.x, fma(sum{i}, o{r}, s{i}_{r}));");
                }
            }
            *t += "        }\n";
        }
    }

    /// The lanes' sums of four outputs at a time, and their stores.
    fn sums(&self, t: &mut String) {
        let fours: Vec<(u32, u32)> = (0..self.rows).flat_map(|i| (0..self.outputs / 4).map(move |v| (i, v))).collect();
        let four = |of: &dyn Fn(u32) -> String| format!("vec4<f32>({}, {}, {}, {})", of(0), of(1), of(2), of(3));
        let mut all: Vec<String> = fours.iter().map(|(i, v)| four(&|k| format!("s{i}_{}", v * 4 + k))).collect();
        let squares = all.len();
        if self.norm {
            let of = |i: u32| if i < self.rows { format!("squares{i}") } else { "0.0".into() };
            all.extend((0..self.rows.div_ceil(4)).map(|v| four(&|k| of(v * 4 + k))));
        }
        if self.subgroups {
            for (k, f) in all.iter().enumerate() {
                let _ = writeln!(t, "    let part{k} = subgroupAdd({f});");
            }
            for k in 0..all.len() {
                let _ = writeln!(t, "    if (first == 0u) {{ part[mine * {}u + {k}u] = part{k}; }}", all.len());
            }
            *t += "    workgroupBarrier();\n    if (place < 4u) {\n";
            for k in 0..all.len() {
                let _ = writeln!(
                    t,
                    "        var sum{k} = vec4<f32>(0.0);\n        for (var s = 0u; s < subgroups; s++) {{ sum{k} += part[s * {}u + {k}u]; }}",
                    all.len()
                );
            }
        } else {
            for (k, f) in all.iter().enumerate() {
                let _ = writeln!(t, "    let sum{k} = total({f}, lane);");
            }
            *t += "    if (place < 4u) {\n";
        }
        if self.norm {
            for i in 0..self.rows {
                let of = format!("sum{}.{}", squares + i as usize / 4, LETTERS[i as usize % 4]);
                let _ = writeln!(t, "        let by{i} = inverseSqrt({of} / f32(p.k) + bitcast<f32>(p.eps));");
            }
        }
        for (k, (i, v)) in fours.iter().enumerate() {
            let by = if self.norm { format!(" * by{i}") } else { String::new() };
            let _ = match self.pair {
                true => writeln!(
                    t,
                    "        if (place < 2u) {{ store({i}u, n0 + {}u + place, sum{k}[place]{by}, sum{k}[place + 2u]{by}); }}",
                    v * 2
                ),
                false => writeln!(t, "        store({i}u, n0 + {}u + place, sum{k}[place]{by});", v * 4),
            };
        }
        *t += "    }\n";
    }
}

/// `store` for pairs.
const PAIR_STORE: &str = "fn store(m: u32, n: u32, sum: f32, other: f32) {
    if (m < p.m && n < p.n) {
        let o = m * p.y_row + p.n0 + n;
        y[p.y0 + o] = epilogue(sum, other, o);
    }
}
";

const LETTERS: [&str; 4] = ["x", "y", "z", "w"];

/// Four multiply-adds into `sum`.
fn fma(a: &str, b: &str, sum: &str) -> String {
    format!("fma({a}.x, {b}.x, fma({a}.y, {b}.y, fma({a}.z, {b}.z, fma({a}.w, {b}.w, {sum}))))")
}

const HEAD: &str = "@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
";
const SUBGROUP_HEAD: &str = "@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32,
    @builtin(num_subgroups) subgroups: u32, @builtin(subgroup_id) mine: u32, @builtin(subgroup_invocation_id) first: u32,
) {
";

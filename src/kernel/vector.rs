//! Products with few rows on the left, for GPUs: the text of a workgroup that makes several outputs of all rows.
//!
//! What takes the time is reading weights. A lane loads sixteen bytes at once, its neighbours the next sixteen, and those of
//! several outputs are on their way at the same time; each weight is decoded once, for all rows.

use super::matmul::Right;
use super::{Kernel, Template};
use crate::base::DType;
use std::fmt::Write;

pub static VECTOR: Template = Template { name: "matvec", source: include_str!("../../shaders/matvec.wgsl") };
/// The same text, whose lanes add up by subgroups.
pub static SUBGROUP: Template = Template { name: "matvec_subgroup", source: VECTOR.source };

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
}

/// Weights in sixteen bytes.
pub const fn chunk(dtype: DType) -> u32 {
    match dtype {
        DType::F32 => 4,
        DType::F16 => 8,
        DType::Q8_0 => 16,
        _ => 32,
    }
}

impl Spec {
    /// The types of the right operand's elements and, where quantised, of its scales.
    pub fn right_elements(&self) -> (&'static str, Option<&'static str>) {
        let element = if self.right.dtype == DType::F32 { "vec4<f32>" } else { "vec4<u32>" };
        (element, self.right.dtype.is_quantised().then_some("u32"))
    }
    /// Outputs of a workgroup.
    pub fn group(&self) -> u32 {
        self.outputs * (LANES / self.along)
    }

    /// The kernel, but for its interface; `body` defines `epilogue`.
    pub fn kernel(&self, body: &str) -> Kernel {
        let body = format!("{body}{}", self.right.access_as(self.right_elements()));
        let template = if self.subgroups { &SUBGROUP } else { &VECTOR };
        // With subgroups, each has a place for each of its sums: sixteen are the most of a workgroup.
        let room = if self.subgroups { 16 * self.rows * self.outputs / 4 } else { LANES };
        Kernel::new(template).set("ALONG", self.along).set("ROOM", room).hole("body", body).hole("entry", self.entry())
    }

    fn entry(&self) -> String {
        let mut t = if self.subgroups { SUBGROUP_HEAD.to_string() } else { HEAD.to_string() };
        let each = chunk(self.right.dtype);
        let _ = writeln!(
            t,
            "    let n0 = ((group.y * groups.x + group.x) * {}u + lane / ALONG) * {}u;",
            LANES / self.along,
            self.outputs
        );
        let _ = writeln!(t, "    let place = lane % ALONG;\n    let chunks = p.k / {each}u;");
        for r in 0..self.outputs {
            let _ = match self.right.dtype.is_quantised() {
                true => writeln!(t, "    let w{r} = min(n0 + {r}u, p.n - 1u) * chunks;"),
                false => writeln!(t, "    let w{r} = p.b0 / {each}u + min(n0 + {r}u, p.n - 1u) * chunks;"),
            };
        }
        for i in 0..self.rows {
            let _ = writeln!(t, "    let x{i} = (p.a0 + min({i}u, p.m - 1u) * p.a_row) / 4u;");
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
        let (dtype, outputs) = (self.right.dtype, self.outputs);
        for r in 0..outputs {
            let _ = writeln!(t, "        let q{r} = b_at(w{r} + c);");
        }
        let block = |r: u32| if dtype == DType::Q8_0 { format!("(w{r} + c) / 2u") } else { format!("w{r} + c") };
        if dtype.is_quantised() {
            for r in 0..outputs {
                let _ = writeln!(t, "        let d{r} = scale(p.s0, {});", block(r));
            }
        }
        match dtype {
            DType::F32 => self.plain(t, 1, |r, _| format!("q{r}")),
            DType::F16 => self.plain(t, 2, |r, j| {
                let (a, b) = if j == 0 { ("x", "y") } else { ("z", "w") };
                format!("vec4<f32>(unpack2x16float(q{r}.{a}), unpack2x16float(q{r}.{b}))")
            }),
            DType::Q8_0 => {
                self.blocks(t, 4, |r, j| format!("vec4<f32>(unpack4xU8(q{r}.{} ^ 0x80808080u))", WORDS[j as usize]))
            }
            _ => self.blocks(t, 8, |r, j| match j < 4 {
                true => format!("vec4<f32>(unpack4xU8(q{r}.{} & 0x0f0f0f0fu))", WORDS[j as usize]),
                false => format!("vec4<f32>(unpack4xU8((q{r}.{} >> 4u) & 0x0f0f0f0fu))", WORDS[j as usize - 4]),
            }),
        }
    }

    /// Weights that are values as they lie: vector j of output r is `weight(r, j)`.
    fn plain(&self, t: &mut String, vectors: u32, weight: impl Fn(u32, u32) -> String) {
        for j in 0..vectors {
            for i in 0..self.rows {
                let _ = writeln!(t, "        let v{i}_{j} = a[x{i} + c * {vectors}u + {j}u];");
            }
        }
        for j in 0..vectors {
            for r in 0..self.outputs {
                let _ = writeln!(t, "        let u{r}_{j} = {};", weight(r, j));
                for i in 0..self.rows {
                    let _ = writeln!(
                        t,
                        "        s{i}_{r} = {};",
                        fma(&format!("u{r}_{j}"), &format!("v{i}_{j}"), &format!("s{i}_{r}"))
                    );
                }
            }
        }
    }

    /// Weights of one scale, multiplied as whole numbers; scaled once, with the sum of what they met for the offset.
    fn blocks(&self, t: &mut String, vectors: u32, weight: impl Fn(u32, u32) -> String) {
        // Signed bytes are made unsigned by an offset of 128: those convert in one instruction on GPUs, and others take two.
        let signed = self.right.dtype == DType::Q8_0;
        for i in 0..self.rows {
            for r in 0..self.outputs {
                let _ = writeln!(t, "        var t{i}_{r} = 0.0;");
            }
            let _ = writeln!(t, "        var all{i} = vec4<f32>(0.0);");
        }
        for j in 0..vectors {
            *t += "        {\n";
            for r in 0..self.outputs {
                let _ = writeln!(t, "            let u{r} = {};", weight(r, j));
            }
            for i in 0..self.rows {
                let _ =
                    writeln!(t, "            let v{i} = a[x{i} + c * {vectors}u + {j}u];\n            all{i} += v{i};");
                for r in 0..self.outputs {
                    let _ = writeln!(
                        t,
                        "            t{i}_{r} = {};",
                        fma(&format!("u{r}"), &format!("v{i}"), &format!("t{i}_{r}"))
                    );
                }
            }
            *t += "        }\n";
        }
        for i in 0..self.rows {
            let _ = writeln!(t, "        let sum{i} = all{i}.x + all{i}.y + all{i}.z + all{i}.w;");
            for r in 0..self.outputs {
                let offset = if signed { format!("-128.0 * d{r}.x") } else { format!("d{r}.y") };
                let _ = writeln!(t, "        s{i}_{r} = fma(t{i}_{r}, d{r}.x, fma(sum{i}, {offset}, s{i}_{r}));");
            }
        }
    }

    /// The lanes' sums of four outputs at a time, and their stores.
    fn sums(&self, t: &mut String) {
        let fours: Vec<(u32, u32)> = (0..self.rows).flat_map(|i| (0..self.outputs / 4).map(move |v| (i, v))).collect();
        let four = |(i, v): (u32, u32)| {
            let at = |k: u32| format!("s{i}_{}", v * 4 + k);
            format!("vec4<f32>({}, {}, {}, {})", at(0), at(1), at(2), at(3))
        };
        let store = |t: &mut String, (i, v): (u32, u32), value: &str| {
            let _ = writeln!(t, "    if (place < 4u) {{ store({i}u, n0 + {}u + place, {value}[place]); }}", v * 4);
        };
        if !self.subgroups {
            for (k, f) in fours.iter().enumerate() {
                let _ = writeln!(t, "    let sum{k} = total({}, lane);", four(*f));
                store(t, *f, &format!("sum{k}"));
            }
            return;
        }
        for (k, f) in fours.iter().enumerate() {
            let _ = writeln!(t, "    let part{k} = subgroupAdd({});", four(*f));
        }
        for k in 0..fours.len() {
            let _ = writeln!(t, "    if (first == 0u) {{ part[mine * {}u + {k}u] = part{k}; }}", fours.len());
        }
        *t += "    workgroupBarrier();\n";
        for (k, f) in fours.iter().enumerate() {
            let _ = writeln!(
                t,
                "    if (place < 4u) {{\n        var sum{k} = vec4<f32>(0.0);\n        for (var s = 0u; s < subgroups; s++) {{ sum{k} += part[s * {}u + {k}u]; }}",
                fours.len()
            );
            let _ = write!(t, "    ");
            store(t, *f, &format!("sum{k}"));
            *t += "    }\n";
        }
    }
}

const WORDS: [&str; 4] = ["x", "y", "z", "w"];

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

//! Products of integers for GPUs: a left operand that was rounded to bytes, and weights whose numbers fit into bytes
//! (`dot4I8Packed`). A dispatch rounds the left operand first; tiles of both are multiplied here, vectors in [`vector`](super::vector).

use super::operands::Right;
use super::variants::Tile;
use super::{Kernel, Template};
use crate::format::RUN;
use std::fmt::Write;

pub static QUANTISE: Template = Template { name: "quantise", source: include_str!("../../shaders/quantise.wgsl") };
pub static TILES: Template = Template { name: "matmul_int8", source: include_str!("../../shaders/matmul_int8.wgsl") };

/// Vectors of sixteen bytes in which [`QUANTISE`] writes a block of 32 elements.
pub const VECTORS: u32 = 3;
/// Blocks that a workgroup of [`QUANTISE`] makes.
pub const GROUP: u32 = 64;

/// Bytes of a left operand of `rows` rows of `k` elements.
pub fn left_bytes(rows: u64, k: u64) -> u64 {
    rows.saturating_mul(k / RUN as u64).saturating_mul(16 * VECTORS as u64)
}

/// Elements of a weight with a factor of their own: a run, or half of it.
pub fn group(right: Right) -> u32 {
    right.dtype.format().float().and_then(|f| f.levels.as_ref()).map_or(16, |l| l.scales.run().min(RUN) as u32)
}

/// What the text of tiles is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    pub tile: Tile,
    pub right: Right,
}

const HEAD: &str = "@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group_id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let group = workgroup_at(group_id, groups);
    let m0 = group.y * BM;
    let n0 = group.x * BN;
    let runs = p.k / 32u;
    let s = vec2<u32>(p.s0, p.s1);
";

impl Spec {
    /// The kernel, but for its interface; `body` defines `epilogue`.
    pub fn kernel(&self, body: &str) -> Kernel {
        let access = self.right.access_as(self.right.elements(super::matmul::Form::Tiled));
        Kernel::new(&TILES)
            .set("BM", self.tile.bm)
            .set("BN", self.tile.bn)
            .set("LANES", self.tile.lanes())
            .hole("body", format!("{body}{access}"))
            .hole("entry", self.entry())
    }

    fn entry(&self) -> String {
        let tile = self.tile;
        let mut t = HEAD.to_string();
        let tx = tile.bn / tile.tn;
        let _ = writeln!(t, "    let tx = lane % {tx}u;\n    let ty = lane / {tx}u;");
        let stages = self.stages();
        for stage in &stages {
            stage.begin(&mut t);
        }
        for (r, c) in self.outputs() {
            let _ = writeln!(t, "    var s{r}_{c} = 0.0;");
        }
        for stage in &stages {
            stage.fetch(&mut t, "    ", "0u");
        }
        t += "    for (var run = 0u; run < runs; run++) {\n        workgroupBarrier();\n";
        for stage in &stages {
            stage.store(&mut t);
        }
        t += "        workgroupBarrier();\n        let next = min(run + 1u, runs - 1u);\n";
        for stage in &stages {
            stage.fetch(&mut t, "        ", "next");
        }
        match group(self.right) {
            16 => {
                self.multiply(&mut t, &[0]);
                self.multiply(&mut t, &[1]);
            }
            _ => self.multiply(&mut t, &[0, 1]),
        }
        t += "    }\n";
        for (r, c) in self.outputs() {
            let ty = tile.bm / tile.tm;
            let _ = writeln!(t, "    store(m0 + ty + {}u, n0 + tx + {}u, s{r}_{c});", r * ty, c * tx);
        }
        t + "}\n"
    }

    /// Rows and columns of a lane's outputs.
    fn outputs(&self) -> impl Iterator<Item = (u32, u32)> {
        let Tile { tm, tn, .. } = self.tile;
        (0..tm).flat_map(move |r| (0..tn).map(move |c| (r, c)))
    }

    /// Products of the halves of a run that share a factor.
    fn multiply(&self, t: &mut String, halves: &[u32]) {
        let Tile { bm, bn, tm, tn } = self.tile;
        let (tx, ty) = (bn / tn, bm / tm);
        *t += "        {\n";
        for c in 0..tn {
            for h in halves {
                let _ = writeln!(t, "            let w{c}_{h} = tile_b[{}u + tx];", h * bn + c * tx);
            }
            let of = if halves[0] == 1 { "zw" } else { "xy" };
            let _ = writeln!(t, "            let f{c} = scale_b[{}u + tx].{of};", c * tx);
        }
        for r in 0..tm {
            for h in halves {
                let _ = writeln!(t, "            let x{r}_{h} = tile_a[{}u + ty];", h * bm + r * ty);
            }
            let _ = writeln!(t, "            let e{r} = scale_a[{}u + ty];", r * ty);
            for c in 0..tn {
                let dots: Vec<String> = halves.iter().map(|h| format!("dots(x{r}_{h}, w{c}_{h})")).collect();
                let _ =
                    writeln!(t, "            s{r}_{c} = fma(f32({}) * e{r}.x, f{c}.x, s{r}_{c});", dots.join(" + "));
                if self.right.offset() {
                    let sum = match halves {
                        [0] => format!("e{r}.y"),
                        [1] => format!("e{r}.z"),
                        _ => format!("(e{r}.y + e{r}.z)"),
                    };
                    let _ = writeln!(t, "            s{r}_{c} = fma({sum}, f{c}.y, s{r}_{c});");
                }
            }
        }
        *t += "        }\n";
    }

    /// Runs of both operands dealt to the lanes.
    fn stages(&self) -> Vec<Stage> {
        let (left, lanes) = (self.tile.bm, self.tile.lanes());
        let all = left + self.tile.bn;
        let one = |i: u32| {
            let first = i * lanes;
            Stage { i, first, left, right: all - left, lanes: lanes.min(all - first), all: lanes }
        };
        (0..all.div_ceil(lanes)).map(one).collect()
    }
}

/// Runs that each lane stages: of rows first, then of columns.
struct Stage {
    i: u32,
    /// The first lane's run.
    first: u32,
    left: u32,
    right: u32,
    /// Lanes that have one, of all.
    lanes: u32,
    all: u32,
}

impl Stage {
    /// Runs `write` for the sides that take part: true for the left operand.
    fn sides(&self, t: &mut String, pad: &str, write: impl Fn(&mut String, &str, bool)) {
        let deeper = format!("{pad}    ");
        let last = self.first + self.lanes;
        let rows = self.left.saturating_sub(self.first).min(self.lanes);
        if rows > 0 && rows < self.all {
            let _ = writeln!(t, "{pad}if (lane < {rows}u) {{");
            write(t, &deeper, true);
            if last > self.left {
                let rest = if self.lanes < self.all { format!(" if (lane < {}u)", self.lanes) } else { String::new() };
                let _ = writeln!(t, "{pad}}} else{rest} {{");
                write(t, &deeper, false);
            }
            let _ = writeln!(t, "{pad}}}");
        } else if rows > 0 {
            write(t, pad, true);
        } else if self.lanes < self.all {
            let _ = writeln!(t, "{pad}if (lane < {}u) {{", self.lanes);
            write(t, &deeper, false);
            let _ = writeln!(t, "{pad}}}");
        } else {
            write(t, pad, false);
        }
    }

    /// Whether any lane has a row, and any a column.
    fn has(&self) -> (bool, bool) {
        (self.first < self.left, self.first + self.lanes > self.left)
    }

    /// The place in a tile of a row (or column).
    fn place(&self, left: bool) -> String {
        match (left, self.first >= self.left) {
            (true, _) if self.first == 0 => "lane".into(),
            (true, _) => format!("(lane + {}u)", self.first),
            (false, true) if self.first == self.left => "lane".into(),
            (false, true) => format!("(lane + {}u)", self.first - self.left),
            (false, false) => format!("(lane - {}u)", self.left - self.first),
        }
    }

    /// Where runs begin, before the loop, and what holds them.
    fn begin(&self, t: &mut String) {
        let (i, (rows, columns)) = (self.i, self.has());
        debug_assert!(self.right > 0);
        let _ = writeln!(t, "    var at{i} = 0u;\n    var to{i} = 0u;");
        if rows {
            let _ = writeln!(t, "    var x{i}_0: vec4<u32>;\n    var x{i}_1: vec4<u32>;\n    var x{i}_2: vec4<u32>;");
        }
        if columns {
            let _ = writeln!(t, "    var r{i}: Run;");
        }
        self.sides(t, "    ", |t, pad, left| {
            let place = self.place(left);
            let (edge, by) = if left { ("m", VECTORS) } else { ("n", 1) };
            let _ =
                writeln!(t, "{pad}to{i} = {place};\n{pad}at{i} = min({edge}0 + to{i}, p.{edge} - 1u) * runs * {by}u;");
        });
    }

    fn fetch(&self, t: &mut String, pad: &str, run: &str) {
        let i = self.i;
        self.sides(t, pad, |t, pad, left| {
            if !left {
                let _ = writeln!(t, "{pad}r{i} = run_at(at{i} + {run}, s);");
                return;
            }
            for v in 0..VECTORS {
                let _ = writeln!(t, "{pad}x{i}_{v} = a[at{i} + {run} * {VECTORS}u + {v}u];");
            }
        });
    }

    fn store(&self, t: &mut String) {
        let i = self.i;
        self.sides(t, "        ", |t, pad, left| {
            if left {
                let _ = writeln!(
                    t,
                    "{pad}tile_a[to{i}] = x{i}_0;\n{pad}tile_a[BM + to{i}] = x{i}_1;\n{pad}scale_a[to{i}] = bitcast<vec4<f32>>(x{i}_2);"
                );
                return;
            }
            let _ = writeln!(
                t,
                "{pad}tile_b[to{i}] = vec4<u32>(packed(r{i}, 0u), packed(r{i}, 1u));\n\
                 {pad}tile_b[BN + to{i}] = vec4<u32>(packed(r{i}, 2u), packed(r{i}, 3u));\n\
                 {pad}scale_b[to{i}] = vec4<f32>(scale(r{i}, 0u), scale(r{i}, 2u));"
            );
        });
    }
}

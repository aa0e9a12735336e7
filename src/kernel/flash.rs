//! Attention by tiles of keys in workgroup memory, for GPUs: the text, by head width.

use super::{Kernel, Template};
use std::fmt::Write;

pub static TILES: Template =
    Template { name: "attention_tiles", source: include_str!("../../shaders/attention_tiles.wgsl") };
pub static MERGE: Template =
    Template { name: "attention_merge", source: include_str!("../../shaders/attention_merge.wgsl") };

/// Rows of a workgroup, and keys of a tile.
pub const ROWS: u32 = 32;
/// The least keys that make a part.
const PART: u64 = 128;
/// Workgroups that keep a GPU busy.
const GROUPS: u64 = 128;
/// The most parts: each is read again by every element of its row.
const MOST_PARTS: u64 = 32;

/// Parts into which keys are cut so that a GPU has enough workgroups.
pub fn parts(groups: u64, keys: u64) -> u64 {
    GROUPS.div_ceil(groups.max(1)).min(keys / PART).clamp(1, MOST_PARTS)
}

const LANES: [&str; 4] = ["x", "y", "z", "w"];

/// The text of `main` for heads of `width` elements, a multiple of four.
pub fn kernel(width: u32, parts: bool) -> Kernel {
    Kernel::new(&TILES).hole("entry", Text { width, parts }.entry())
}

struct Text {
    width: u32,
    parts: bool,
}

impl Text {
    /// Vectors of a row's outputs that a lane makes.
    fn vectors(&self) -> u32 {
        self.width.div_ceil(32)
    }
    /// Keys whose values lie in workgroup memory at once.
    fn values(&self) -> u32 {
        if self.width > 128 { 4 } else { 8 }
    }

    fn entry(&self) -> String {
        let room = self.values() * self.vectors() * 8;
        let mut t = format!(
            "var<workgroup> tile_q: array<vec4<f32>, 128>;\nvar<workgroup> tile_k: array<vec4<f32>, 128>;\n\
             var<workgroup> tile_v: array<vec4<f32>, {room}>;\nvar<workgroup> weights: array<vec4<f32>, 256>;\n\
             var<workgroup> shared_rows: array<vec4<f32>, 64>;\n"
        );
        t += HEAD;
        t += match self.parts {
            true => PART_RANGE,
            false => "    let begin = keys_start(first) / 32u * 32u;\n    let end = keys_end(last);\n",
        };
        for (r, j) in self.outputs() {
            let _ = writeln!(t, "    var a{r}_{j} = vec4<f32>(0.0);");
        }
        t += "    for (var t0 = begin; t0 < end; t0 += 32u) {\n";
        self.scores(&mut t);
        self.softmax(&mut t);
        self.weigh(&mut t);
        t += "    }\n";
        self.store(&mut t);
        t + "}\n"
    }

    fn outputs(&self) -> impl Iterator<Item = (u32, u32)> + use<> {
        let vectors = self.vectors();
        (0..4).flat_map(move |r| (0..vectors).map(move |j| (r, j)))
    }

    /// Scores of four rows with four keys, by tiles of sixteen elements.
    fn scores(&self, t: &mut String) {
        for r in 0..4 {
            let _ = writeln!(t, "        var s{r} = vec4<f32>(0.0);");
        }
        let _ = writeln!(
            t,
            "        for (var d0 = 0u; d0 < {}u; d0 += 4u) {{\n            workgroupBarrier();",
            self.width.div_ceil(16) * 4
        );
        let (mut queries, mut keys) = (String::new(), String::new());
        for j in 0..4 {
            let at = if self.width.is_multiple_of(16) {
                "d0 + pd".to_string()
            } else {
                format!("min(d0 + pd, {}u)", self.width / 4 - 1)
            };
            let zero = |value: String| match self.width.is_multiple_of(16) {
                true => value,
                false => format!("select(vec4<f32>(0.0), {value}, d0 + pd < {}u)", self.width / 4),
            };
            let _ = writeln!(queries, "                r{j} = {};", zero(format!("q[f{j} + {at}] * p.scale")));
            let _ = writeln!(
                keys,
                "                r{j} = {};",
                zero(format!("k[k_at + min(t0 + pv * 4u + {j}u, p.keys - 1u) * k_row + {at}]"))
            );
            let _ = writeln!(t, "            var r{j} = vec4<f32>(0.0);");
        }
        let _ = writeln!(t, "            if (lane < 32u) {{\n{queries}            }} else {{\n{keys}            }}");
        for (name, condition) in [("tile_q", "lane < 32u"), ("tile_k", "lane >= 32u")] {
            let _ = writeln!(t, "            if ({condition}) {{");
            for (i, c) in LANES.iter().enumerate() {
                let _ =
                    writeln!(t, "                {name}[to + {}u] = vec4<f32>(r0.{c}, r1.{c}, r2.{c}, r3.{c});", i * 8);
            }
            *t += "            }\n";
        }
        *t += "            workgroupBarrier();\n            for (var d = 0u; d < 4u; d++) {\n                let x0 = d * 32u + (ty ^ (d * 2u));\n                let w0 = d * 32u + (tx ^ (d * 2u));\n";
        for i in 0..4 {
            let _ = writeln!(
                t,
                "                let x{i}v = tile_q[x0 + {}u];\n                let w{i}v = tile_k[w0 + {}u];",
                i * 8,
                i * 8
            );
            for (r, c) in LANES.iter().enumerate() {
                let _ = writeln!(t, "                s{r} = fma(vec4<f32>(x{i}v.{c}), w{i}v, s{r});");
            }
        }
        *t += "            }\n        }\n";
    }

    /// Weights of the tile's keys, beside the largest score so far. What each lane adds up of them is summed at the end.
    fn softmax(&self, t: &mut String) {
        for r in 0..4 {
            let _ = writeln!(
                t,
                "        {{\n            let row = min(row0 + ty * 4u + {r}u, rows - 1u);\n            let s = row / each;\n            let h = group.y * each + row % each;"
            );
            for (i, c) in LANES.iter().enumerate() {
                let _ = writeln!(
                    t,
                    "            {{\n                let t = t0 + tx * 4u + {i}u;\n                let seen = t < keys_end(s) && t >= keys_start(s);\n                s{r}.{c} = select(HIDDEN, masked(capped(s{r}.{c}), b, h, s, min(t, p.keys - 1u)), seen);\n            }}"
                );
            }
            *t += "        }\n";
        }
        let row_most = |r: u32| format!("max(max(s{r}.x, s{r}.y), max(s{r}.z, s{r}.w))");
        let _ = writeln!(
            t,
            "        shared_rows[lane] = vec4<f32>({}, {}, {}, {});",
            row_most(0),
            row_most(1),
            row_most(2),
            row_most(3)
        );
        *t += "        workgroupBarrier();\n        var next = most;\n        for (var i = 0u; i < 8u; i++) { next = max(next, shared_rows[ty * 8u + i]); }\n        let keep = exp(most - next);\n        most = next;\n";
        for (r, c) in LANES.iter().enumerate() {
            let _ = writeln!(
                t,
                "        s{r} = select(vec4<f32>(0.0), exp(s{r} - vec4<f32>(next.{c})), s{r} > vec4<f32>(HIDDEN));"
            );
        }
        let row_sum = |r: u32| format!("s{r}.x + s{r}.y + s{r}.z + s{r}.w");
        let _ = writeln!(
            t,
            "        sum = sum * keep + vec4<f32>({}, {}, {}, {});",
            row_sum(0),
            row_sum(1),
            row_sum(2),
            row_sum(3)
        );
        for (i, c) in LANES.iter().enumerate() {
            let _ = writeln!(
                t,
                "        weights[(tx * 4u + {i}u) * 8u + (ty ^ tx)] = vec4<f32>(s0.{c}, s1.{c}, s2.{c}, s3.{c});"
            );
        }
        for (r, j) in self.outputs() {
            let _ = writeln!(t, "        a{r}_{j} *= keep.{};", LANES[r as usize]);
        }
    }

    /// Adds the tile's values, each times its weight.
    fn weigh(&self, t: &mut String) {
        let (keys, vectors) = (self.values(), self.vectors());
        let pitch = vectors * 8;
        let _ = writeln!(t, "        for (var c0 = 0u; c0 < 32u; c0 += {keys}u) {{\n            workgroupBarrier();");
        for i in 0..keys * pitch / 64 {
            let _ = writeln!(
                t,
                "            {{\n                let at = lane + {}u;\n                let key = min(t0 + c0 + at / {pitch}u, p.keys - 1u);\n                tile_v[at] = v[v_at + key * v_row + min(at % {pitch}u, {}u)];\n            }}",
                i * 64,
                self.width / 4 - 1
            );
        }
        let _ = writeln!(
            t,
            "            workgroupBarrier();\n            for (var i = 0u; i < {keys}u; i += 4u) {{\n                let w0 = (c0 + i) * 8u + (ty ^ ((c0 + i) / 4u));\n                let v0 = i * {pitch}u + tx;"
        );
        for k in 0..4 {
            let _ = writeln!(t, "                let p{k} = weights[w0 + {}u];", k * 8);
            for j in 0..vectors {
                let _ = writeln!(t, "                let v{k}_{j} = tile_v[v0 + {}u];", k * pitch + j * 8);
            }
            for (r, j) in self.outputs() {
                let _ = writeln!(
                    t,
                    "                a{r}_{j} = fma(vec4<f32>(p{k}.{}), v{k}_{j}, a{r}_{j});",
                    LANES[r as usize]
                );
            }
        }
        *t += "            }\n        }\n";
    }

    fn store(&self, t: &mut String) {
        let vectors = self.width / 4;
        *t += "    workgroupBarrier();\n    shared_rows[lane] = sum;\n    workgroupBarrier();\n    var all = vec4<f32>(0.0);\n    for (var i = 0u; i < 8u; i++) { all += shared_rows[ty * 8u + i]; }\n";
        for (r, c) in LANES.iter().enumerate() {
            let _ = writeln!(
                t,
                "    if (row0 + ty * 4u + {r}u < rows) {{\n        let row = row0 + ty * 4u + {r}u;\n        let at = (b * p.queries + row / each) * p.heads + group.y * each + row % each;"
            );
            let share = match self.parts {
                true => {
                    let _ = writeln!(
                        t,
                        "        let out = (part * p.batch * p.queries * p.heads + at) * {}u;",
                        vectors + 1
                    );
                    let _ = writeln!(
                        t,
                        "        if (tx == 0u) {{ y[out + {vectors}u] = vec4<f32>(most.{c}, all.{c}, 0.0, 0.0); }}"
                    );
                    String::new()
                }
                false => {
                    let _ = writeln!(
                        t,
                        "        let out = p.y0 / 4u + at * {vectors}u;\n        let share = select(0.0, 1.0 / all.{c}, all.{c} > 0.0);"
                    );
                    " * share".into()
                }
            };
            for j in 0..self.vectors() {
                let value = format!("y[out + tx + {}u] = a{r}_{j}{share};", j * 8);
                let _ = match (j + 1) * 8 <= vectors {
                    true => writeln!(t, "        {value}"),
                    false => writeln!(t, "        if (tx + {}u < {vectors}u) {{ {value} }}", j * 8),
                };
            }
            *t += "    }\n";
        }
    }
}

/// Lanes lie 8 × 8 over rows and keys. For staging, half of them take 4 × 4 patches of queries, half of keys.
const HEAD: &str = "@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let each = p.heads / p.kv_heads;
    let rows = p.queries * each;
    let b = group.z % p.batch;
    let row0 = group.x * 32u;
    let tx = lane % 8u;
    let ty = lane / 8u;
    let k_at = (p.k0 + b * p.k_batch + group.y * p.k_head) / 4u;
    let v_at = (p.v0 + b * p.v_batch + group.y * p.v_head) / 4u;
    let k_row = p.k_row / 4u;
    let v_row = p.v_row / 4u;
    let pd = lane % 4u;
    let pv = lane / 4u % 8u;
    let to = pd * 32u + (pv ^ (pd * 2u));
    let q_at = p.q0 + b * p.q_batch + group.y * each * p.q_head;
    let g0 = min(row0 + pv * 4u, rows - 1u);
    let g1 = min(row0 + pv * 4u + 1u, rows - 1u);
    let g2 = min(row0 + pv * 4u + 2u, rows - 1u);
    let g3 = min(row0 + pv * 4u + 3u, rows - 1u);
    let f0 = (q_at + g0 / each * p.q_row + g0 % each * p.q_head) / 4u;
    let f1 = (q_at + g1 / each * p.q_row + g1 % each * p.q_head) / 4u;
    let f2 = (q_at + g2 / each * p.q_row + g2 % each * p.q_head) / 4u;
    let f3 = (q_at + g3 / each * p.q_row + g3 % each * p.q_head) / 4u;
    let first = row0 / each;
    let last = min(row0 + 31u, rows - 1u) / each;
    let h0 = group.y * each;
    let r0 = row0 + ty * 4u;
    var most = vec4<f32>(
        first_score(h0 + r0 % each), first_score(h0 + (r0 + 1u) % each), first_score(h0 + (r0 + 2u) % each), first_score(h0 + (r0 + 3u) % each),
    );
    // One lane of a row, of one part, counts what there is beside the keys.
    var sum = vec4<f32>(select(0.0, first_sum(), tx == 0u && group.z < p.batch));
";

/// Keys of a part: whole tiles.
const PART_RANGE: &str = "    let part = group.z / p.batch;
    let per = ((p.keys + 31u) / 32u + p.parts - 1u) / p.parts * 32u;
    let begin = max(keys_start(first) / 32u * 32u, part * per);
    let end = min(keys_end(last), (part + 1u) * per);
";

//! Matrix multiplication for GPUs: register tiles over tiles in workgroup memory, as text for each layout of the operands.

pub use super::variants::{STEPS, Tile};

use super::operands::{Form, Right};
use super::{Kernel, Template};
use crate::base::DType;
use crate::format::{RUN, Wgsl};
use std::fmt::Write;

pub static TILES: Template = Template { name: "matmul", source: include_str!("../../shaders/matmul.wgsl") };
/// The same text, whose tiles hold f16.
pub static HALF_TILES: Template = Template { name: "matmul_f16", source: TILES.source };
/// Adds up the parts of a product whose k was cut.
pub static SUM: Template = Template { name: "matmul_sum", source: include_str!("../../shaders/matmul_sum.wgsl") };

/// How an operand lies in storage: which loads it allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lay {
    /// Four steps along k lie in one aligned vector.
    Along,
    /// Four rows (of the left operand) or columns (of the right one) do.
    Across,
    /// Anything else: one element at a time.
    Loose,
}

/// What the text is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    pub tile: Tile,
    pub left: Lay,
    /// A plain float.
    pub left_dtype: DType,
    pub right: Right,
    pub lay: Lay,
    /// Whether k is a multiple of [`STEPS`] whatever the step: no load needs a guard.
    pub whole: bool,
    /// Whether rows of the result are whole vectors: they are stored as such.
    pub wide: bool,
    /// Whether k is cut into parts, each with results of its own: `group.z` counts the batches of all parts.
    pub split: bool,
    /// Whether tiles hold f16: both operands are rounded, products and sums are f32.
    pub half: bool,
}

impl Spec {
    /// The WGSL type of the left operand's elements.
    pub fn left_element(&self) -> &'static str {
        plain(self.left, self.left_dtype)
    }
    /// The types of the right operand's elements and, where blocks have planes beside the first, of those.
    pub fn right_elements(&self) -> (&'static str, Option<&'static str>) {
        match self.right.wgsl() {
            Wgsl::Plain(_) => (plain(self.lay, self.right.dtype), None),
            Wgsl::Blocks(_) => self.right.elements(Form::Tiled),
        }
    }
    pub fn result_element(&self) -> &'static str {
        if self.wide { "vec4<f32>" } else { "f32" }
    }

    /// The kernel, but for its interface; `body` defines `batch_a`, `batch_b` and `epilogue`.
    pub fn kernel(&self, body: &str) -> Kernel {
        let (left, right) = (Side::left(self), Side::right(self));
        let access = self.right.access_as(self.right_elements());
        let body = format!("{body}{access}{}{}", left.functions(), right.functions());
        let kernel = match self.half {
            true => Kernel::new(&HALF_TILES).hole("element", "alias Four = vec4<f16>;"),
            false => Kernel::new(&TILES),
        };
        kernel
            .set("BM", self.tile.bm)
            .set("BN", self.tile.bn)
            .set("LANES", self.tile.lanes())
            .hole("body", body)
            .hole("entry", self.entry(&left, &right))
    }

    fn entry(&self, left: &Side, right: &Side) -> String {
        let tile = self.tile;
        let (tx, _) = tile.across();
        let mut t = put(self.wide);
        t += "@compute @workgroup_size(LANES)\nfn main(@builtin(workgroup_id) group_id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {\n    let group = workgroup_at(group_id, groups);\n";
        t += match self.split {
            true => {
                "    let z = group.z % p.batches;\n    let begin = (group.z / p.batches) * p.part;\n    let end = min(begin + p.part, p.k);\n"
            }
            false => "    let z = group.z;\n    let begin = 0u;\n    let end = p.k;\n",
        };
        t += "    let za = p.a0 + batch_a(z);\n    let zb = p.b0 + batch_b(z);\n    let m0 = group.y * BM;\n    let n0 = group.x * BN;\n";
        let _ = writeln!(t, "    let tx = lane % {tx}u;\n    let ty = lane / {tx}u;");
        let stages = stages(tile);
        for (i, stage) in stages.iter().enumerate() {
            stage.begin(&mut t, i, left, right);
        }
        for (r, c) in self.outputs() {
            let _ = writeln!(t, "    var s{r}_{c} = vec4<f32>(0.0);");
        }
        // A parameter is the same for all lanes: so is what follows from it.
        t += "    if (begin < end) {\n";
        for (i, stage) in stages.iter().enumerate() {
            stage.fetch(&mut t, i, "begin", left, right);
        }
        t += "    }\n    for (var k0 = begin; k0 < end; k0 += 16u) {\n        workgroupBarrier();\n";
        for (i, stage) in stages.iter().enumerate() {
            stage.store(&mut t, i, left, right);
        }
        t += "        workgroupBarrier();\n";
        t += if self.whole { "        let k1 = min(k0 + 16u, end - 16u);\n" } else { "        let k1 = k0 + 16u;\n" };
        for (i, stage) in stages.iter().enumerate() {
            stage.fetch(&mut t, i, "k1", left, right);
        }
        self.multiply(&mut t);
        t += "    }\n";
        self.store(&mut t);
        t + "}\n"
    }

    /// A vector of a tile as f32.
    fn read(&self, at: &str) -> String {
        if self.half { format!("vec4<f32>({at})") } else { at.to_string() }
    }

    /// Rows and vectors of columns of a lane's outputs.
    fn outputs(&self) -> impl Iterator<Item = (u32, u32)> {
        let (tm, vectors) = (self.tile.tm, self.tile.tn / 4);
        (0..tm).flat_map(move |r| (0..vectors).map(move |c| (r, c)))
    }

    /// One tile's products. Four steps are spelled out: no compiler is asked to unroll registers.
    fn multiply(&self, t: &mut String) {
        let tile = self.tile;
        let (tx, ty) = tile.across();
        *t += "        for (var q = 0u; q < 4u; q++) {\n";
        let places = |t: &mut String, name: &str, lane: &str, lanes: u32, vectors: u32, pitch: u32| {
            for v in 0..vectors {
                let _ = match lanes.is_multiple_of(8) {
                    true if v > 0 => writeln!(t, "            let {name}{v} = {name}0 + {}u;", v * lanes),
                    _ => writeln!(
                        t,
                        "            let {name}{v} = (({lane} + {}u) ^ (q * 2u)) + q * {pitch}u;",
                        v * lanes
                    ),
                };
            }
        };
        places(t, "ia", "ty", ty, tile.tm / 4, tile.bm);
        places(t, "ib", "tx", tx, tile.tn / 4, tile.bn);
        for k in 0..4 {
            *t += "            {\n";
            for v in 0..tile.tm / 4 {
                let _ = writeln!(
                    t,
                    "                let x{v} = {};",
                    self.read(&format!("tile_a[ia{v} + {}u]", k * tile.bm / 4))
                );
            }
            for v in 0..tile.tn / 4 {
                let _ = writeln!(
                    t,
                    "                let w{v} = {};",
                    self.read(&format!("tile_b[ib{v} + {}u]", k * tile.bn / 4))
                );
            }
            for (r, c) in self.outputs() {
                let x = format!("x{}.{}", r / 4, LANES[r as usize % 4]);
                let _ = writeln!(t, "                s{r}_{c} = fma(vec4<f32>({x}), w{c}, s{r}_{c});");
            }
            *t += "            }\n";
        }
        *t += "        }\n";
    }

    fn store(&self, t: &mut String) {
        let (tx, ty) = self.tile.across();
        for (r, c) in self.outputs() {
            let m = format!("m0 + ty * 4u + {}u", r / 4 * ty * 4 + r % 4);
            let n = format!("n0 + tx * 4u + {}u", c * tx * 4);
            let _ = writeln!(t, "    put(group.z, {m}, {n}, s{r}_{c});");
        }
    }
}

const LANES: [&str; 4] = ["x", "y", "z", "w"];

/// The type by which four plain elements, or one, are loaded.
fn plain(lay: Lay, dtype: DType) -> &'static str {
    let p = dtype.plain();
    if lay == Lay::Loose { p.map_or("f32", |p| p.word) } else { p.map_or("vec4<f32>", |p| p.four) }
}

/// `put(z, m, n, acc)`: four outputs of a row, those within the result.
fn put(wide: bool) -> String {
    let mut t = "fn put(z: u32, m: u32, n: u32, acc: vec4<f32>) {\n    if (m >= p.m) { return; }\n    \
                 let o = (z * p.m + m) * p.y_row + p.n0 + n;\n"
        .to_string();
    if wide {
        t += "    if (n < p.n) {\n        y[(p.y0 + o) / 4u] = vec4<f32>(epilogue(acc.x, o), epilogue(acc.y, o + 1u), epilogue(acc.z, o + 2u), epilogue(acc.w, o + 3u));\n    }\n";
    } else {
        for (i, lane) in LANES.iter().enumerate() {
            let _ = writeln!(t, "    if (n + {i}u < p.n) {{ y[p.y0 + o + {i}u] = epilogue(acc.{lane}, o + {i}u); }}");
        }
    }
    t + "}\n"
}

/// One of the two operands.
struct Side {
    /// `a` or `b`.
    name: char,
    lay: Lay,
    dtype: DType,
    /// Rows (or columns) of its tile.
    size: u32,
    whole: bool,
    half: bool,
}

impl Side {
    fn left(s: &Spec) -> Side {
        Side { name: 'a', lay: s.left, dtype: s.left_dtype, size: s.tile.bm, whole: s.whole, half: s.half }
    }
    fn right(s: &Spec) -> Side {
        Side { name: 'b', lay: s.lay, dtype: s.right.dtype, size: s.tile.bn, whole: s.whole, half: s.half }
    }
    /// The length of the axis that is not k.
    fn edge(&self) -> char {
        if self.name == 'a' { 'm' } else { 'n' }
    }
    fn load(&self, at: &str) -> String {
        if self.name == 'a' { format!("a[{at}]") } else { format!("b_at({at})") }
    }

    /// `fetch_a(base, k)`: four steps of one row as they lie in storage, in registers; `decode_a(raw)`: their values. Decoding plain
    /// elements comes later, when the words have arrived; blocks are decoded at once. The same for `b`; with [`Lay::Across`] four
    /// rows of one step.
    fn functions(&self) -> String {
        let name = self.name;
        let (fetch, decode) = match (self.lay, self.dtype.plain()) {
            (Lay::Loose, Some(_)) => (self.loose(), "bitcast<vec4<f32>>(raw)".to_string()),
            (_, Some(plain)) if plain.four == "vec4<f32>" => (
                format!("    return bitcast<vec4<u32>>({});\n", self.load("at / 4u")),
                "bitcast<vec4<f32>>(raw)".into(),
            ),
            (_, Some(plain)) => {
                (format!("    return vec4<u32>({}, 0u, 0u);\n", self.load("at / 4u")), (plain.widen)("raw.xy"))
            }
            (_, None) => (BLOCK.replace("RUN", &format!("{RUN}u")), "bitcast<vec4<f32>>(raw)".into()),
        };
        let at = match (self.lay, self.dtype.is_quantised()) {
            (Lay::Along, false) => "    let at = base + k;\n".to_string(),
            (Lay::Across, _) => format!("    let at = base + k * p.{name}_col;\n"),
            _ => String::new(),
        };
        format!(
            "fn fetch_{name}(base: u32, k: u32) -> vec4<u32> {{\n{at}{fetch}}}\nfn decode_{name}(raw: vec4<u32>) -> vec4<f32> {{\n    return {decode};\n}}\n"
        )
    }

    /// Four steps of a row, element by element.
    fn loose(&self) -> String {
        let name = self.name;
        let per_word = 4 / self.dtype.block_bytes();
        let mut t = String::new();
        for i in 0..4 {
            let k = if self.whole { format!("k + {i}u") } else { format!("min(k + {i}u, p.k - 1u)") };
            let _ = writeln!(t, "    let at{i} = base + ({k}) * p.{name}_col;");
            let _ = writeln!(t, "    let w{i} = {};", self.load(&format!("at{i} / {per_word}u")));
            let value = self.dtype.plain().map_or(format!("w{i}"), |p| (p.pick)(&format!("w{i}"), &format!("at{i}")));
            let _ = match self.whole {
                true => writeln!(t, "    let e{i} = {value};"),
                false => writeln!(t, "    let e{i} = select(0.0, {value}, k + {i}u < p.k);"),
            };
        }
        t + "    return bitcast<vec4<u32>>(vec4<f32>(e0, e1, e2, e3));\n"
    }
}

/// Four steps of a block's run.
const BLOCK: &str = "    let r = run_at(base + k / RUN, vec2<u32>(p.s0, p.s1));
    let j = k % RUN / 8u;
    let q = packed(r, j);
    let factor = scale(r, j);
    return bitcast<vec4<u32>>(vec4<f32>(unpack4xI8(select(q.x, q.y, (k & 4u) != 0u))) * factor.x + factor.y);
";

/// A 4 × 4 patch of a tile that each lane stages, or only those of one side of `cut`.
struct Stage {
    /// Which side lanes below and from `cut` on take: the left operand's below it.
    cut: Option<u32>,
    left: bool,
    /// What to add to the lane's number for the patch's.
    first_left: u32,
    first_right: i64,
    /// Lanes that have a patch, where not all do.
    busy: Option<u32>,
}

/// Patches of both operands dealt to the lanes.
fn stages(tile: Tile) -> Vec<Stage> {
    let (left, right, lanes) = (tile.bm, tile.bn, tile.lanes());
    let all = left + right;
    (0..all.div_ceil(lanes))
        .map(|i| {
            let (first, last) = (i * lanes, (i + 1) * lanes);
            let cut = (first < left && last > left).then(|| left - first);
            let busy = (last > all).then(|| all - first);
            Stage { cut, left: first < left, first_left: first, first_right: first as i64 - left as i64, busy }
        })
        .collect()
}

impl Stage {
    /// Runs `write` for the sides that take part, under a condition where both do.
    fn sides(&self, t: &mut String, pad: &str, left: &Side, right: &Side, write: impl Fn(&mut String, &str, &Side)) {
        let deeper = format!("{pad}    ");
        let one = if self.left { left } else { right };
        match (self.cut, self.busy) {
            (None, None) => write(t, pad, one),
            (None, Some(busy)) => {
                let _ = writeln!(t, "{pad}if (lane < {busy}u) {{");
                write(t, &deeper, one);
                let _ = writeln!(t, "{pad}}}");
            }
            (Some(cut), busy) => {
                let _ = writeln!(t, "{pad}if (lane < {cut}u) {{");
                write(t, &deeper, left);
                let _ = match busy {
                    Some(busy) => writeln!(t, "{pad}}} else if (lane < {busy}u) {{"),
                    None => writeln!(t, "{pad}}} else {{"),
                };
                write(t, &deeper, right);
                let _ = writeln!(t, "{pad}}}");
            }
        }
    }

    /// The patch's place and where its rows begin in storage, before the loop.
    fn begin(&self, t: &mut String, i: usize, left: &Side, right: &Side) {
        let _ = writeln!(t, "    var q{i} = 0u;\n    var v{i} = 0u;");
        for j in 0..4 {
            let _ = writeln!(t, "    var g{i}_{j} = 0u;\n    var r{i}_{j} = vec4<u32>(0u);");
        }
        self.sides(t, "    ", left, right, |t, pad, side| {
            let first = if side.name == 'a' { self.first_left as i64 } else { self.first_right };
            let patch = match first {
                0 => "lane".to_string(),
                n if n > 0 => format!("(lane + {n}u)"),
                n => format!("(lane - {}u)", -n),
            };
            // Neighbouring lanes load neighbouring vectors.
            let (q, v) = match side.lay {
                Lay::Across => (format!("{patch} / {}u", side.size / 4), format!("{patch} % {}u", side.size / 4)),
                _ => (format!("{patch} % 4u"), format!("{patch} / 4u")),
            };
            let _ = writeln!(t, "{pad}q{i} = {q};\n{pad}v{i} = {v};");
            let (name, edge) = (side.name, side.edge());
            for j in 0..4 {
                let place = |back: u32| format!("min({edge}0 + v{i} * 4u + {j}u, p.{edge} - {back}u)");
                let _ = match side.lay {
                    // One place for all four rows, and steps along k.
                    Lay::Across if j > 0 => continue,
                    Lay::Across => writeln!(t, "{pad}g{i}_0 = z{name} + min({edge}0 + v{i} * 4u, p.{edge} - 4u);"),
                    _ if side.dtype.is_quantised() => writeln!(t, "{pad}g{i}_{j} = {} * (p.k / {RUN}u);", place(1)),
                    _ => writeln!(t, "{pad}g{i}_{j} = z{name} + {} * p.{name}_row;", place(1)),
                };
            }
        });
    }

    /// Loads the patch of the tile that begins at step `k0`.
    fn fetch(&self, t: &mut String, i: usize, k0: &str, left: &Side, right: &Side) {
        self.sides(t, "        ", left, right, |t, pad, side| {
            let name = side.name;
            for j in 0..4 {
                let (base, k) = match side.lay {
                    Lay::Across => (format!("g{i}_0"), format!("{k0} + q{i} * 4u + {j}u")),
                    _ => (format!("g{i}_{j}"), format!("{k0} + q{i} * 4u")),
                };
                let _ = match (side.whole, side.lay) {
                    (true, _) | (_, Lay::Loose) => writeln!(t, "{pad}r{i}_{j} = fetch_{name}({base}, {k});"),
                    (false, lay) => {
                        let back = if lay == Lay::Across { 1 } else { 4 };
                        writeln!(
                            t,
                            "{pad}r{i}_{j} = select(vec4<u32>(0u), fetch_{name}({base}, min({k}, p.k - {back}u)), {k} < p.k);"
                        )
                    }
                };
            }
        });
    }

    /// Stores the patch into its tile, four outputs a vector.
    fn store(&self, t: &mut String, i: usize, left: &Side, right: &Side) {
        self.sides(t, "        ", left, right, |t, pad, side| {
            let (name, pitch) = (side.name, side.size / 4);
            let _ = writeln!(t, "{pad}let to{i} = q{i} * {}u + (v{i} ^ (q{i} * 2u));", pitch * 4);
            for j in 0..4 {
                let _ = writeln!(t, "{pad}let d{i}_{j} = decode_{name}(r{i}_{j});");
            }
            for (j, lane) in LANES.iter().enumerate() {
                let value = match side.lay {
                    Lay::Across => format!("d{i}_{j}"),
                    _ => format!("vec4<f32>(d{i}_0.{lane}, d{i}_1.{lane}, d{i}_2.{lane}, d{i}_3.{lane})"),
                };
                let value = if side.half { format!("vec4<f16>({value})") } else { value };
                let _ = writeln!(t, "{pad}tile_{name}[to{i} + {}u] = {value};", j as u32 * pitch);
            }
        });
    }
}

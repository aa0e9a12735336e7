//! Softmax and the norms: one row an invocation, or one row a workgroup.

use super::{Kernel, Template};
use std::fmt::Write;

pub static SOFTMAX: Template = Template { name: "softmax", source: include_str!("../../shaders/softmax.wgsl") };
pub static LAYER_NORM: Template =
    Template { name: "layer_norm", source: include_str!("../../shaders/layer_norm.wgsl") };
pub static RMS_NORM: Template = Template { name: "rms_norm", source: include_str!("../../shaders/rms_norm.wgsl") };

/// Invocations of a workgroup.
pub const GROUP: u32 = 64;
/// Those of rows that many lanes share.
const WIDE: u32 = 256;
/// The most vectors of a row that a lane keeps in registers.
const REGISTERS: u64 = 8;

/// The form hole of kernels that give a row, or a query, to a workgroup.
pub static WORKGROUP_ROW: &str = include_str!("../../shaders/shared/workgroup_row.wgsl");
/// The same by subgroups of any width.
static SUBGROUP_ROW: &str = include_str!("../../shaders/shared/subgroup_row.wgsl");

/// The kernel, and the rows that one workgroup makes.
pub fn kernel(template: &'static Template, serial: bool) -> (Kernel, u32) {
    let kernel = Kernel::new(template).set("WG", GROUP);
    if serial { (kernel, GROUP) } else { (kernel.hole("form", WORKGROUP_ROW), 1) }
}

/// The kernel by which a workgroup makes a row of at most `cols` elements, loaded by sixteen bytes; `None` where rows are too long for it.
/// What fits into registers is read once; longer rows twice.
pub fn wide(template: &'static Template, cols: u64, log: bool, subgroups: bool) -> Option<Kernel> {
    let vectors = cols.div_ceil(4).max(1);
    let lanes = if vectors <= 2 * GROUP as u64 { GROUP } else { WIDE };
    let registers = vectors.div_ceil(lanes as u64);
    let body = match template.name {
        "softmax" if registers <= REGISTERS => softmax(registers, log),
        "softmax" => LONG_SOFTMAX.replace("RESULT", if log { "v - most - log(sum)" } else { "exp(v - most) / sum" }),
        "rms_norm" if registers <= REGISTERS => rms_norm(registers),
        "rms_norm" => LONG_RMS_NORM.to_string(),
        _ if registers <= REGISTERS => layer_norm(registers),
        _ => return None,
    };
    let (head, form) = if subgroups { (SUBGROUP_HEAD, SUBGROUP_ROW) } else { (HEAD, WORKGROUP_ROW) };
    let names: &[&str] = match template.name {
        "softmax" => &["x"],
        "rms_norm" => &["x", "w"],
        _ => &["x", "w", "b"],
    };
    let mut bindings = String::new();
    for (i, name) in names.iter().enumerate() {
        let _ = writeln!(bindings, "@group(0) @binding({}) var<storage, read> {name}: array<vec4<f32>>;", i + 1);
    }
    let _ = writeln!(bindings, "@group(0) @binding({}) var<storage, read_write> y: array<vec4<f32>>;", names.len() + 1);
    let entry = format!("{head}{START}{body}}}\n");
    Some(Kernel::new(template).set("WG", lanes).hole("bindings", bindings).hole("form", form).hole("entry", entry))
}

/// A row's vectors in registers, `fill` beyond its end.
fn load(registers: u64, fill: &str) -> String {
    (0..registers).fold(String::new(), |mut t, i| {
        let _ = writeln!(
            t,
            "    let i{i} = lane + {i}u * WG;\n    var v{i} = vec4<f32>({fill});\n    if (i{i} < vectors) {{ v{i} = x[first + i{i}]; }}"
        );
        t
    })
}

fn join(registers: u64, sign: &str, one: impl Fn(u64) -> String) -> String {
    (0..registers).map(one).collect::<Vec<_>>().join(sign)
}

fn store(registers: u64, value: impl Fn(u64) -> String) -> String {
    join(registers, "", |i| format!("    if (i{i} < vectors) {{ y[out + i{i}] = {}; }}\n", value(i)))
}

fn softmax(registers: u64, log: bool) -> String {
    let mut t = load(registers, "-3.4028234e38") + "    var m = vec4<f32>(-3.4028234e38);\n";
    t += &join(registers, "", |i| format!("    m = max(m, v{i});\n"));
    t += "    let most = all_max(max(max(m.x, m.y), max(m.z, m.w)), lane);\n    var s = vec4<f32>(0.0);\n";
    t += &join(registers, "", |i| {
        format!("    let e{i} = select(vec4<f32>(0.0), exp(v{i} - most), i{i} < vectors);\n    s += e{i};\n")
    });
    t += "    let sum = all_sum(s.x + s.y + s.z + s.w, lane);\n";
    if log {
        t += "    let less = most + log(sum);\n";
        return t + &store(registers, |i| format!("v{i} - less"));
    }
    t + &store(registers, |i| format!("e{i} / sum"))
}

fn rms_norm(registers: u64) -> String {
    let squares = join(registers, " + ", |i| format!("dot(v{i}, v{i})"));
    load(registers, "0.0")
        + &format!(
            "    let squares = all_sum({squares}, lane);\n    let scale = inverseSqrt(squares / f32(p.cols) + p.eps);\n"
        )
        + &store(registers, |i| format!("v{i} * scale * w[p.w0 / 4u + i{i}]"))
}

fn layer_norm(registers: u64) -> String {
    let sum = join(registers, " + ", |i| format!("dot(v{i}, vec4<f32>(1.0))"));
    let mut t = load(registers, "0.0") + &format!("    let mean = all_sum({sum}, lane) / f32(p.cols);\n");
    t += &join(registers, "", |i| format!("    let d{i} = select(vec4<f32>(0.0), v{i} - mean, i{i} < vectors);\n"));
    let squares = join(registers, " + ", |i| format!("dot(d{i}, d{i})"));
    t += &format!(
        "    let squares = all_sum({squares}, lane);\n    let scale = inverseSqrt(squares / f32(p.cols) + p.eps);\n"
    );
    t + &store(registers, |i| format!("d{i} * scale * w[p.w0 / 4u + i{i}] + b[p.b0 / 4u + i{i}]"))
}

const HEAD: &str = "@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
";
const SUBGROUP_HEAD: &str = "@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32,
    @builtin(num_subgroups) subgroups: u32, @builtin(subgroup_id) mine: u32, @builtin(subgroup_invocation_id) place: u32,
) {
    subgroup = vec3<u32>(subgroups, mine, place);
";
const START: &str = "    let row = group.y * groups.x + group.x;
    if (row >= p.rows) { return; }
    let vectors = p.cols / 4u;
    let first = p.x0 / 4u + row * vectors;
    let out = p.y0 / 4u + row * vectors;
";
/// Sums beside the largest so far (Milakov and Gimelshein, 2018), then the results.
const LONG_SOFTMAX: &str = "    var m = -3.4028234e38;
    var s = 0.0;
    for (var i = lane; i < vectors; i += WG) {
        let v = x[first + i];
        let next = max(m, max(max(v.x, v.y), max(v.z, v.w)));
        let e = exp(v - next);
        s = s * exp(m - next) + e.x + e.y + e.z + e.w;
        m = next;
    }
    let most = all_max(m, lane);
    let sum = all_sum(s * exp(m - most), lane);
    for (var i = lane; i < vectors; i += WG) {
        let v = x[first + i];
        y[out + i] = RESULT;
    }
";
const LONG_RMS_NORM: &str = "    var s = vec4<f32>(0.0);
    for (var i = lane; i < vectors; i += WG) {
        let v = x[first + i];
        s += v * v;
    }
    let scale = inverseSqrt(all_sum(s.x + s.y + s.z + s.w, lane) / f32(p.cols) + p.eps);
    for (var i = lane; i < vectors; i += WG) { y[out + i] = x[first + i] * scale * w[p.w0 / 4u + i]; }
";

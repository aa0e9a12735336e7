// rms_norm: y = x / sqrt(mean(x * x) + eps) * w over rows.

const WG: u32 = 64u;

struct Params { rows: u32, cols: u32, x0: u32, w0: u32, y0: u32, eps: f32 }
@group(0) @binding(0) var<uniform> p: Params;
//{ bindings
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> w: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
//}

//{ form
const LANES: u32 = 1u;
fn row_of(group: u32, lane: u32) -> u32 { return group * WG + lane; }
fn lane_of(lane: u32) -> u32 { return 0u; }
fn all_sum(x: f32, lane: u32) -> f32 { return x; }
fn all_max(x: f32, lane: u32) -> f32 { return x; }
//}

//{ entry
@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let row = row_of(group.y * groups.x + group.x, local);
    if (row >= p.rows) { return; }
    let first = p.x0 + row * p.cols;
    let out = p.y0 + row * p.cols;
    var squares = 0.0;
    for (var i = lane_of(local); i < p.cols; i += LANES) { squares += x[first + i] * x[first + i]; }
    let scale = inverseSqrt(all_sum(squares, local) / f32(p.cols) + p.eps);
    for (var i = lane_of(local); i < p.cols; i += LANES) { y[out + i] = x[first + i] * scale * w[p.w0 + i]; }
}
//}

// softmax: y = exp(x - max) / sum(exp(x - max)) over rows; with LOG, x - max - log(sum(exp(x - max))).
// As it stands one invocation makes a row; the form hole gives a row to a workgroup.

const WG: u32 = 64u;
const LOG: u32 = 0u;

struct Params { rows: u32, cols: u32, x0: u32, y0: u32 }
@group(0) @binding(0) var<uniform> p: Params;
//{ bindings
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
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
    var most = -3.4028234e38;
    for (var i = lane_of(local); i < p.cols; i += LANES) { most = max(most, x[first + i]); }
    most = all_max(most, local);
    var sum = 0.0;
    for (var i = lane_of(local); i < p.cols; i += LANES) {
        let e = exp(x[first + i] - most);
        sum += e;
        if (LOG == 0u) { y[out + i] = e; }
    }
    sum = all_sum(sum, local);
    let log_sum = log(sum);
    for (var i = lane_of(local); i < p.cols; i += LANES) {
        // Each invocation reads back only what it wrote itself.
        if (LOG == 0u) { y[out + i] = y[out + i] / sum; } else { y[out + i] = x[first + i] - most - log_sum; }
    }
}
//}

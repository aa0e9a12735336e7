// matvec: a workgroup makes TN outputs of one row, its lanes run along k: for few rows on a GPU, where neighbouring
// lanes must read neighbouring memory. Weights are rows of whole blocks of 32.

const WG: u32 = 64u;
const TN: u32 = 4u;

//{ interface
struct Params { m: u32, n: u32, k: u32, a0: u32, a_row: u32, y0: u32, y_row: u32, n0: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
//}

//{ body
fn block_dot(n: u32, kb: u32, x0: u32) -> f32 {
    let at = n * (p.k / 32u) + kb;
    var sum = 0.0;
    for (var j = 0u; j < 8u; j++) { sum += dot(b[at * 8u + j], a[x0 + j]); }
    return sum;
}
fn epilogue(acc: f32, o: u32) -> f32 { return acc; }
//}

//{ grid
// The place of a workgroup; grids that are folded fill in how they unfold.
fn workgroup_at(group: vec3<u32>, groups: vec3<u32>) -> vec3<u32> { return group; }
//}

// What a lane has of output c.
fn part_of(group: vec3<u32>, lane: u32, c: u32) -> f32 {
    let n_first = group.x * TN;
    let row = (p.a0 + group.y * p.a_row) / 4u;
    let n = min(n_first + c, p.n - 1u);
    var sum = 0.0;
    for (var kb = lane; kb < p.k / 32u; kb += WG) { sum += block_dot(n, kb, row + kb * 8u); }
    return sum;
}

fn store(group: vec3<u32>, c: u32, sum: f32) {
    let n = group.x * TN + c;
    if (n < p.n) {
        let o = group.y * p.y_row + p.n0 + n;
        y[p.y0 + o] = epilogue(sum, o);
    }
}

var<workgroup> part: array<f32, WG * TN>;

//{ sums
@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group_id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let group = workgroup_at(group_id, groups);
    for (var c = 0u; c < TN; c++) { part[c * WG + lane] = part_of(group, lane, c); }
    workgroupBarrier();
    for (var step = WG / 2u; step > 0u; step = step / 2u) {
        if (lane < step) {
            for (var c = 0u; c < TN; c++) { part[c * WG + lane] += part[c * WG + lane + step]; }
        }
        workgroupBarrier();
    }
    if (lane < TN) { store(group, lane, part[lane * WG]); }
}
//}

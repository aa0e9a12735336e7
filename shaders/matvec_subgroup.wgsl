// matvec_subgroup: as matvec, but lanes add up by subgroups of any width: one barrier in place of one for each halving.

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

// One row a subgroup; there may be as many as lanes.
var<workgroup> part: array<f32, WG * TN>;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32,
    @builtin(num_subgroups) subgroups: u32, @builtin(subgroup_id) mine: u32, @builtin(subgroup_invocation_id) place: u32,
) {
    let n_first = group.x * TN;
    let row = (p.a0 + group.y * p.a_row) / 4u;
    for (var c = 0u; c < TN; c++) {
        let n = min(n_first + c, p.n - 1u);
        var sum = 0.0;
        for (var kb = lane; kb < p.k / 32u; kb += WG) { sum += block_dot(n, kb, row + kb * 8u); }
        let all = subgroupAdd(sum);
        if (place == 0u) { part[mine * TN + c] = all; }
    }
    workgroupBarrier();
    if (lane < TN && n_first + lane < p.n) {
        var sum = 0.0;
        for (var s = 0u; s < subgroups; s++) { sum += part[s * TN + lane]; }
        let o = group.y * p.y_row + p.n0 + n_first + lane;
        y[p.y0 + o] = epilogue(sum, o);
    }
}

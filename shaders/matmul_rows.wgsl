// matmul_rows: a register tile an invocation, no workgroup memory and no barriers: for adapters that run shaders on
// a CPU, where a barrier costs more than it saves and registers are what is fast.
// The left operand's rows are contiguous and whole vectors; the right one is rows of weights in any format, or
// contiguous columns of f32. Row 0 of the left operand makes row m0 of the result.

const WG: u32 = 32u;
const TM: u32 = 1u;
const TN: u32 = 1u;

//{ interface
struct Params {
    m: u32, n: u32, k: u32, a0: u32, a_row: u32, b0: u32, b_row: u32, b_col: u32, y0: u32, y_row: u32, m0: u32,
    n0: u32, four: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
//}

//{ store
// Element `o` of the result, which begins at `to`.
fn store(to: u32, o: u32, inside: bool, acc: f32) {
    if (inside) { y[to + o] = epilogue(acc, o); }
}
//}

//{ body
fn batch_a(z: u32) -> u32 { return 0u; }
fn batch_b(z: u32) -> u32 { return 0u; }
fn epilogue(acc: f32, o: u32) -> f32 { return acc; }
fn tile(m0: u32, n0: u32, za: u32, zb: u32, z: u32, lane: u32) {
    let row = (za + min(m0, p.m - 1u) * p.a_row) / 4u;
    let w = (zb + min(n0, p.n - 1u) * p.b_row) / 4u;
    var sum = 0.0;
    for (var k = 0u; k < p.k / 4u; k++) { sum += dot(b[w + k], a[row + k]); }
    let o = (z * p.m + p.m0 + m0) * p.y_row + p.n0 + n0;
    store(p.y0, o, m0 < p.m && n0 < p.n, sum);
}
//}

//{ grid
// The place of a workgroup; grids that are folded fill in how they unfold.
fn workgroup_at(group: vec3<u32>, groups: vec3<u32>) -> vec3<u32> { return group; }
//}

//{ entry
@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group_id: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let group = workgroup_at(group_id, groups);
    let n = (group.x * WG + lane) * TN;
    if (n >= p.n) { return; }
    tile(group.y * TM, n, p.a0 + batch_a(group.z), p.b0 + batch_b(group.z), group.z, lane);
}
//}

// matmul: y[z, m, n] = epilogue(sum over k of a[z, m, k] * b[z, k, n]).
// Tiles of both operands are staged in workgroup memory; each invocation keeps TM × TN outputs in registers.

const BM: u32 = 64u;
const BN: u32 = 64u;
const BK: u32 = 16u;
const TM: u32 = 4u;
const TN: u32 = 4u;

//{ interface
struct Params { m: u32, n: u32, k: u32, a0: u32, a_row: u32, a_col: u32, b0: u32, b_row: u32, b_col: u32, y0: u32, y_row: u32, n0: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
//}

//{ body
fn load_a(at: u32) -> f32 { return a[at]; }
fn load_b(base: u32, k: u32, n: u32) -> f32 { return b[base + k * p.b_col + n * p.b_row]; }
fn batch_a(z: u32) -> u32 { return 0u; }
fn batch_b(z: u32) -> u32 { return 0u; }
fn epilogue(acc: f32, o: u32) -> f32 { return acc; }
//}

//{ grid
// The place of a workgroup; grids that are folded fill in how they unfold.
fn workgroup_at(group: vec3<u32>, groups: vec3<u32>) -> vec3<u32> { return group; }
//}

var<workgroup> tile_a: array<f32, BM * BK>;
var<workgroup> tile_b: array<f32, BK * BN>;

@compute @workgroup_size(BN / TN, BM / TM)
fn main(@builtin(workgroup_id) group_id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let group = workgroup_at(group_id, groups);
    let m_first = group.y * BM;
    let n_first = group.x * BN;
    let lanes = (BN / TN) * (BM / TM);
    let za = p.a0 + batch_a(group.z);
    let zb = p.b0 + batch_b(group.z);
    var acc: array<f32, TM * TN>;
    for (var i = 0u; i < TM * TN; i++) { acc[i] = 0.0; }
    for (var k_first = 0u; k_first < p.k; k_first += BK) {
        for (var i = lane; i < BM * BK; i += lanes) {
            let m = m_first + i / BK;
            let k = k_first + i % BK;
            var x = 0.0;
            if (m < p.m && k < p.k) { x = load_a(za + m * p.a_row + k * p.a_col); }
            // Transposed, so that a column of the tile is read side by side.
            tile_a[(i % BK) * BM + i / BK] = x;
        }
        for (var i = lane; i < BK * BN; i += lanes) {
            let k = k_first + i % BK;
            let n = n_first + i / BK;
            var x = 0.0;
            if (k < p.k && n < p.n) { x = load_b(zb, k, n); }
            tile_b[(i % BK) * BN + i / BK] = x;
        }
        workgroupBarrier();
        for (var k = 0u; k < BK; k++) {
            var row: array<f32, TN>;
            for (var j = 0u; j < TN; j++) { row[j] = tile_b[k * BN + local.x * TN + j]; }
            for (var i = 0u; i < TM; i++) {
                let x = tile_a[k * BM + local.y * TM + i];
                for (var j = 0u; j < TN; j++) { acc[i * TN + j] = fma(x, row[j], acc[i * TN + j]); }
            }
        }
        workgroupBarrier();
    }
    for (var i = 0u; i < TM; i++) {
        for (var j = 0u; j < TN; j++) {
            let m = m_first + local.y * TM + i;
            let n = n_first + local.x * TN + j;
            if (m < p.m && n < p.n) {
                let o = (group.z * p.m + m) * p.y_row + p.n0 + n;
                y[p.y0 + o] = epilogue(acc[i * TN + j], o);
            }
        }
    }
}

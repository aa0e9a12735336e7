// matmul: y[z, m, n] = epilogue(sum over k of a[z, m, k] * b[z, k, n]), for GPUs. A workgroup makes BM × BN
// outputs, a lane TM × TN of them in registers. Both operands go through workgroup memory in tiles of 16 steps
// along k, each row of a tile holding the 16 bytes of four neighbouring outputs. What the next tile needs is
// loaded before the current one is multiplied. Rows and columns beyond the edge repeat the last one: their results
// are not stored. As it stands: tiles of 32 × 32, 4 × 4 outputs a lane, one element of storage at a time.

const BM: u32 = 32u;
const BN: u32 = 32u;
const LANES: u32 = 64u;

//{ interface
struct Params {
    m: u32, n: u32, k: u32, a0: u32, a_row: u32, a_col: u32, b0: u32, b_row: u32, b_col: u32, y0: u32, y_row: u32,
    n0: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
//}

//{ element
// Four neighbouring elements of a tile.
alias Four = vec4<f32>;
//}

// Row k of a tile begins at k * BM / 4 (BN / 4); its vectors are swapped in pairs by k / 4, so that neither
// lanes that store a 4 × 4 patch nor lanes that read a row meet in one bank.
var<workgroup> tile_a: array<Four, BM * 4u>;
var<workgroup> tile_b: array<Four, BN * 4u>;

//{ body
fn batch_a(z: u32) -> u32 { return 0u; }
fn batch_b(z: u32) -> u32 { return 0u; }
fn epilogue(acc: f32, o: u32) -> f32 { return acc; }
//}

//{ grid
// The place of a workgroup; grids that are folded fill in how they unfold.
fn workgroup_at(group: vec3<u32>, groups: vec3<u32>) -> vec3<u32> { return group; }
//}

//{ entry
fn put(z: u32, m: u32, n: u32, acc: vec4<f32>) {
    let first = (z * p.m + m) * p.y_row + p.n0 + n;
    for (var i = 0u; i < 4u; i++) {
        if (m < p.m && n + i < p.n) { y[p.y0 + first + i] = epilogue(acc[i], first + i); }
    }
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group_id: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let group = workgroup_at(group_id, groups);
    let za = p.a0 + batch_a(group.z);
    let zb = p.b0 + batch_b(group.z);
    let m4 = lane / 8u;
    let n4 = lane % 8u;
    var acc: array<vec4<f32>, 4>;
    for (var k0 = 0u; k0 < p.k; k0 += 16u) {
        workgroupBarrier();
        // Half of the lanes stage patches of the left operand, half of the right one.
        let q = (lane / 8u) % 4u;
        for (var i = 0u; i < 4u; i++) {
            let k = k0 + q * 4u + i;
            var v = vec4<f32>(0.0);
            for (var j = 0u; j < 4u; j++) {
                let m = min(group.y * BM + n4 * 4u + j, p.m - 1u);
                let n = min(group.x * BN + n4 * 4u + j, p.n - 1u);
                if (k < p.k) {
                    if (lane < 32u) {
                        v[j] = a[za + m * p.a_row + k * p.a_col];
                    } else {
                        v[j] = b[zb + n * p.b_row + k * p.b_col];
                    }
                }
            }
            let at = (q * 4u + i) * 8u + (n4 ^ (q * 2u));
            if (lane < 32u) { tile_a[at] = v; } else { tile_b[at] = v; }
        }
        workgroupBarrier();
        for (var k = 0u; k < 16u; k++) {
            let x = tile_a[k * 8u + (m4 ^ (k / 4u * 2u))];
            let w = tile_b[k * 8u + (n4 ^ (k / 4u * 2u))];
            for (var i = 0u; i < 4u; i++) { acc[i] = fma(vec4<f32>(x[i]), w, acc[i]); }
        }
    }
    for (var i = 0u; i < 4u; i++) { put(group.z, group.y * BM + m4 * 4u + i, group.x * BN + n4 * 4u, acc[i]); }
}
//}

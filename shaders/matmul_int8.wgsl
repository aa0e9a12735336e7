// matmul_int8: rows of bytes, as quantise makes them, times a weight of blocks whose numbers fit into bytes, for GPUs.
// A workgroup makes BM × BN outputs, a lane some of them in registers. Tiles are a run of 32 steps along k, in which
// neighbouring lanes read neighbouring vectors of 16 steps. As it stands: tiles of 8 × 8, an output a lane, weights
// that are quantised likewise.

const BM: u32 = 8u;
const BN: u32 = 8u;
const LANES: u32 = 64u;

//{ interface
struct Params { m: u32, n: u32, k: u32, y0: u32, y_row: u32, n0: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
//}

// Halves of a run one after another, a vector for each row.
var<workgroup> tile_a: array<vec4<u32>, BM * 2u>;
var<workgroup> tile_b: array<vec4<u32>, BN * 2u>;
// Of a row its factor and the sums of both halves; of a column factor and offset of both halves.
var<workgroup> scale_a: array<vec4<f32>, BM>;
var<workgroup> scale_b: array<vec4<f32>, BN>;

//{ body
fn epilogue(acc: f32, o: u32) -> f32 { return acc; }
//}

//{ grid
// The place of a workgroup; grids that are folded fill in how they unfold.
fn workgroup_at(group: vec3<u32>, groups: vec3<u32>) -> vec3<u32> { return group; }
//}

fn dots(x: vec4<u32>, w: vec4<u32>) -> i32 {
    return dot4I8Packed(x.x, w.x) + dot4I8Packed(x.y, w.y) + dot4I8Packed(x.z, w.z) + dot4I8Packed(x.w, w.w);
}

fn store(m: u32, n: u32, sum: f32) {
    if (m < p.m && n < p.n) {
        let o = m * p.y_row + p.n0 + n;
        y[p.y0 + o] = epilogue(sum, o);
    }
}

//{ entry
@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group_id: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let group = workgroup_at(group_id, groups);
    let m0 = group.y * BM;
    let n0 = group.x * BN;
    let runs = p.k / 32u;
    var sum = 0.0;
    for (var run = 0u; run < runs; run++) {
        workgroupBarrier();
        if (lane < BM) {
            let at = (min(m0 + lane, p.m - 1u) * runs + run) * 3u;
            tile_a[lane] = a[at];
            tile_a[BM + lane] = a[at + 1u];
            scale_a[lane] = bitcast<vec4<f32>>(a[at + 2u]);
        } else if (lane < BM + BN) {
            let at = (min(n0 + lane - BM, p.n - 1u) * runs + run) * 3u;
            tile_b[lane - BM] = b[at];
            tile_b[BN + lane - BM] = b[at + 1u];
            scale_b[lane - BM] = bitcast<vec4<f32>>(b[at + 2u]);
        }
        workgroupBarrier();
        let row = lane / BN;
        let column = lane % BN;
        let t = dots(tile_a[row], tile_b[column]) + dots(tile_a[BM + row], tile_b[BN + column]);
        sum = fma(f32(t) * scale_a[row].x, scale_b[column].x, sum);
    }
    store(m0 + lane / BN, n0 + lane % BN, sum);
}
//}

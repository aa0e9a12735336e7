// matvec: a workgroup makes several outputs of all rows, lanes run along k: for few rows on a GPU, where neighbouring
// lanes must read neighbouring memory. Weights are rows of whole blocks of 32. As it stands, one row and four outputs.

const WG: u32 = 64u;
const ALONG: u32 = 64u;
const ROOM: u32 = 64u;

//{ interface
struct Params { m: u32, n: u32, k: u32, a0: u32, a_row: u32, b0: u32, y0: u32, y_row: u32, n0: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
//}

//{ body
fn epilogue(acc: f32, o: u32) -> f32 { return acc; }
//}

var<workgroup> part: array<vec4<f32>, ROOM>;

// The sum over the lanes that lie along k.
fn total(x: vec4<f32>, lane: u32) -> vec4<f32> {
    part[lane] = x;
    workgroupBarrier();
    for (var step = ALONG / 2u; step > 0u; step = step / 2u) {
        if (lane % ALONG < step) { part[lane] += part[lane + step]; }
        workgroupBarrier();
    }
    let sum = part[lane / ALONG * ALONG];
    workgroupBarrier();
    return sum;
}

//{ store
fn store(m: u32, n: u32, sum: f32) {
    if (m < p.m && n < p.n) {
        let o = m * p.y_row + p.n0 + n;
        y[p.y0 + o] = epilogue(sum, o);
    }
}
//}

//{ entry
@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let n0 = (group.y * groups.x + group.x) * 4u;
    var s = vec4<f32>(0.0);
    for (var c = lane; c < p.k / 4u; c += WG) {
        for (var r = 0u; r < 4u; r++) {
            s[r] += dot(b[p.b0 / 4u + min(n0 + r, p.n - 1u) * (p.k / 4u) + c], a[p.a0 / 4u + c]);
        }
    }
    let sum = total(s, lane);
    if (lane < 4u) { store(0u, n0 + lane, sum[lane]); }
}
//}

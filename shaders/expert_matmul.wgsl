// expert_matmul: rows of a weight from a first one on, chosen for each token and slot, times the token's elements.
// One invocation makes one output, without barriers. A weight in several buffers is read piece by piece: each
// output is made by the piece that holds its row, one outside of all by the first.

const WG: u32 = 64u;

//{ table
struct Params {
    n: u32, slots: u32, outs: u32, k: u32, first0: u32, x0: u32, x_row: u32, x_slot: u32, x_col: u32, y0: u32,
    row0: u32, rows: u32, all: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> first: array<u32>;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<storage, read> b: array<f32>;
fn element(row: u32, i: u32) -> f32 { return b[row * p.k + i]; }
//}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let at = (group.y * groups.x + group.x) * WG + local;
    if (at >= p.n * p.outs) { return; }
    let place = at / p.outs;
    let row = first[p.first0 + place] + at % p.outs;
    if (row >= p.row0 && row - p.row0 < p.rows) {
        let x_at = p.x0 + (place / p.slots) * p.x_row + (place % p.slots) * p.x_slot;
        var sum = 0.0;
        for (var i = 0u; i < p.k; i++) { sum += x[x_at + i * p.x_col] * element(row - p.row0, i); }
        y[p.y0 + at] = sum;
    } else if (row >= p.all && p.row0 == 0u) {
        y[p.y0 + at] = 0.0;
    }
}

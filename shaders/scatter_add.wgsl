// scatter_add: row r of the result is the sum of all rows of x whose id is r. One invocation an element of the
// result walks the ids in order, so that the sum is the same every time and needs no atomics. Many ids go in
// parts: each dispatch takes those from `first` on, `n` of them, and adds to what the one before it left.

const WG: u32 = 64u;

struct Params { n: u32, rows: u32, width: u32, ids0: u32, x0: u32, first: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> ids: array<u32>;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let at = (group.y * groups.x + group.x) * WG + local;
    if (at >= p.rows * p.width) { return; }
    let row = at / p.width;
    let column = at % p.width;
    var sum = 0.0;
    if (p.first > 0u) { sum = y[at]; }
    for (var i = p.first; i < p.first + p.n; i++) {
        if (ids[p.ids0 + i] == row) { sum += x[p.x0 + i * p.width + column]; }
    }
    y[at] = sum;
}

// gather: rows of a table by index. An id outside of the table gives zeros. A table in several buffers is read
// piece by piece: each id is answered by the piece that holds it, an id outside of all by the first.

const WG: u32 = 64u;

//{ table
struct Params { n: u32, width: u32, ids0: u32, y0: u32, row0: u32, rows: u32, all: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> ids: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<storage, read> b: array<f32>;
alias R = f32;
fn element(row: u32, i: u32) -> R { return b[row * p.width + i]; }
//}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let at = (group.y * groups.x + group.x) * WG + local;
    if (at >= p.n * p.width) { return; }
    let id = ids[p.ids0 + at / p.width];
    if (id >= p.row0 && id - p.row0 < p.rows) {
        y[p.y0 + at] = element(id - p.row0, at % p.width);
    } else if (id >= p.all && p.row0 == 0u) {
        y[p.y0 + at] = R(0);
    }
}

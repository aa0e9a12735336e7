// matmul_sum: y[o] = epilogue(sum over parts of x[part, o]): where k of a product was cut into parts, so that a GPU has
// enough workgroups, each part's results lie one after another.

const WG: u32 = 64u;

//{ interface
struct Params { count: u32, parts: u32, y0: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
//}

//{ body
fn epilogue(acc: f32, o: u32) -> f32 { return acc; }
//}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let o = (group.y * groups.x + group.x) * WG + local;
    if (o >= p.count) { return; }
    var sum = 0.0;
    for (var part = 0u; part < p.parts; part++) { sum += x[part * p.count + o]; }
    y[p.y0 + o] = epilogue(sum, o);
}

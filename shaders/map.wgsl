// map: every element of one or more results is a function of its index.
// A plan writes the interface (bindings, sizes) and the functions for what it fused.

const WG: u32 = 64u;

//{ interface
struct Params { n0: u32, y0: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x0: array<f32>;
@group(0) @binding(2) var<storage, read_write> r0: array<f32>;
//}

//{ body
fn run(index: u32) {
    if (index < p.n0) { r0[p.y0 + index] = x0[index]; }
}
//}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    run((group.y * groups.x + group.x) * WG + local);
}

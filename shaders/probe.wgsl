// probe: what an adapter can do at best. As it stands, chains of fused multiply-adds in registers; the body hole
// makes it a copy.

const WG: u32 = 64u;
const ROUNDS: u32 = 256u;

struct Params { n: u32, seed: f32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;

//{ body
// Eight chains of four lanes: 64 FLOP a round.
fn run(i: u32) {
    var a = x[i] + p.seed;
    var b = a + 1.0; var c = a + 2.0; var d = a + 3.0;
    var e = a + 4.0; var f = a + 5.0; var g = a + 6.0; var h = a + 7.0;
    let m = a * 0.999;
    for (var r = 0u; r < ROUNDS; r++) {
        a = fma(a, m, m); b = fma(b, m, m); c = fma(c, m, m); d = fma(d, m, m);
        e = fma(e, m, m); f = fma(f, m, m); g = fma(g, m, m); h = fma(h, m, m);
    }
    y[i] = a + b + c + d + e + f + g + h;
}
//}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * WG + local;
    if (i < p.n) { run(i); }
}

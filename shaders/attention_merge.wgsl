// attention_merge: what parts of the keys gave, as one. Row r of part i holds the weighted sum of values,
// unscaled, and behind it the largest score and the sum of weights.

const WG: u32 = 64u;

struct Params { rows: u32, width: u32, parts: u32, y0: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let at = (group.y * groups.x + group.x) * WG + local;
    let vectors = p.width / 4u;
    if (at >= p.rows * vectors) { return; }
    let row = at / vectors;
    var most = -3.4028234e38;
    for (var i = 0u; i < p.parts; i++) { most = max(most, x[(i * p.rows + row) * (vectors + 1u) + vectors].x); }
    var sum = 0.0;
    var acc = vec4<f32>(0.0);
    for (var i = 0u; i < p.parts; i++) {
        let first = (i * p.rows + row) * (vectors + 1u);
        let behind = x[first + vectors];
        let keep = exp(behind.x - most);
        sum += behind.y * keep;
        acc += x[first + at % vectors] * keep;
    }
    y[p.y0 / 4u + at] = select(vec4<f32>(0.0), acc / sum, sum > 0.0);
}

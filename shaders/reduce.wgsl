// reduce: y[o] = finish(combine over r of load(o, r)).
// One invocation an output: no barriers, for many outputs or adapters that run on a CPU.

const WG: u32 = 64u;
// 0 sum, 1 mean, 2 max, 3 min, 4 argmax.
const KIND: u32 = 0u;

//{ interface
struct Params { n: u32, len: u32, y0: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x0: array<f32>;
@group(0) @binding(2) var<storage, read_write> r0: array<f32>;
alias R = f32;
//}

//{ body
fn load(o: u32, r: u32) -> f32 { return x0[o * p.len + r]; }
fn finish(acc: f32, o: u32) -> f32 { return acc; }
//}

// Adds in sixteen partial sums, so that long sums keep their accuracy.
fn total(o: u32) -> f32 {
    var part: array<f32, 16>;
    for (var j = 0u; j < 16u; j++) { part[j] = 0.0; }
    let chunk = (p.len + 15u) / 16u;
    for (var j = 0u; j < 16u; j++) {
        var sum = 0.0;
        for (var r = j * chunk; r < min((j + 1u) * chunk, p.len); r++) { sum += load(o, r); }
        part[j] = sum;
    }
    for (var step = 8u; step > 0u; step = step / 2u) {
        for (var j = 0u; j < step; j++) { part[j] += part[j + step]; }
    }
    return part[0];
}

fn reduce(o: u32) -> f32 {
    if (KIND < 2u) {
        let sum = total(o);
        return select(sum, sum / f32(p.len), KIND == 1u);
    }
    var best = load(o, 0u);
    for (var r = 1u; r < p.len; r++) {
        let x = load(o, r);
        // A NaN wins, as in the reference.
        if (KIND == 2u) { best = max(best, x); } else { best = min(best, x); }
    }
    return best;
}

fn argmax(o: u32) -> u32 {
    var best = load(o, 0u);
    var at = 0u;
    for (var r = 1u; r < p.len; r++) {
        let x = load(o, r);
        if (x > best) { best = x; at = r; }
    }
    return at;
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let o = (group.y * groups.x + group.x) * WG + local;
    if (o >= p.n) { return; }
    if (KIND == 4u) { r0[p.y0 + o] = R(argmax(o)); } else { r0[p.y0 + o] = R(finish(reduce(o), o)); }
}

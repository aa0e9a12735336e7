// reduce: y[o] = finish(combine over r of load(o, r)). A NaN among the operands makes the result NaN; the largest
// and smallest of nothing are infinite. As it stands one invocation makes an output, without barriers: for many
// outputs, or adapters that run on a CPU. The form hole gives an output to a workgroup.

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

// By its bits: compilers may take comparisons with NaN for what they like.
fn is_nan(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u; }

// Whether x at place r is rather the result than the best so far. A NaN is; of equals the first.
fn beats(x: f32, r: u32, best: f32, at: u32) -> bool {
    let nan = is_nan(best);
    if (is_nan(x) || nan) { return is_nan(x) && (!nan || r < at); }
    return select(x > best, x < best, KIND == 3u) || (x == best && r < at);
}

// What anything beats. Infinities may not be constants.
fn worst() -> f32 { return bitcast<f32>(select(0xff800000u, 0x7f800000u, KIND == 3u) | min(p.n, 0u)); }

//{ form
// Sums in sixteen parts, so that long ones keep their accuracy.
fn total(o: u32, lane: u32) -> f32 {
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

var<private> place: u32;
fn extreme(o: u32, lane: u32) -> f32 {
    var best = worst();
    var at = 0u;
    for (var r = 0u; r < p.len; r++) {
        let x = load(o, r);
        if (beats(x, r, best, at)) { best = x; at = r; }
    }
    place = at;
    return best;
}

fn output_of(group: u32, lane: u32) -> u32 { return group * WG + lane; }
fn stores(lane: u32) -> bool { return true; }
//}

fn reduce(o: u32, lane: u32) -> f32 {
    if (KIND < 2u) {
        let sum = total(o, lane);
        return select(sum, sum / f32(p.len), KIND == 1u);
    }
    return extreme(o, lane);
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let o = output_of(group.y * groups.x + group.x, local);
    if (o >= p.n) { return; }
    let result = reduce(o, local);
    if (!stores(local)) { return; }
    if (KIND == 4u) { r0[p.y0 + o] = R(place); } else { r0[p.y0 + o] = R(finish(result, o)); }
}

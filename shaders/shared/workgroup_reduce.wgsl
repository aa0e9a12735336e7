// A workgroup makes one output: lanes take every WG-th element, then the better half of what lanes have, until one
// is left.
var<workgroup> part: array<f32, WG>;
var<workgroup> places: array<u32, WG>;
fn total(o: u32, lane: u32) -> f32 {
    var sums = vec4<f32>(0.0);
    for (var r = lane; r < p.len; r += WG) { sums = vec4<f32>(sums.yzw, sums.x + load(o, r)); }
    part[lane] = (sums.x + sums.y) + (sums.z + sums.w);
    workgroupBarrier();
    for (var step = WG / 2u; step > 0u; step = step / 2u) {
        if (lane < step) { part[lane] += part[lane + step]; }
        workgroupBarrier();
    }
    return part[0];
}

var<private> place: u32;
fn extreme(o: u32, lane: u32) -> f32 {
    var best = worst();
    var at = 0u;
    for (var r = lane; r < p.len; r += WG) {
        let x = load(o, r);
        if (beats(x, r, best, at)) { best = x; at = r; }
    }
    part[lane] = best;
    places[lane] = at;
    workgroupBarrier();
    for (var step = WG / 2u; step > 0u; step = step / 2u) {
        if (lane < step && beats(part[lane + step], places[lane + step], part[lane], places[lane])) {
            part[lane] = part[lane + step];
            places[lane] = places[lane + step];
        }
        workgroupBarrier();
    }
    place = places[0];
    return part[0];
}

fn output_of(group: u32, lane: u32) -> u32 { return group; }
fn stores(lane: u32) -> bool { return lane == 0u; }

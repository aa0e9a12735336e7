const LANES: u32 = WG;
var<workgroup> part: array<f32, WG>;
fn row_of(group: u32, lane: u32) -> u32 { return group; }
fn lane_of(lane: u32) -> u32 { return lane; }
fn all_sum(x: f32, lane: u32) -> f32 {
    part[lane] = x;
    workgroupBarrier();
    for (var step = WG / 2u; step > 0u; step = step / 2u) {
        if (lane < step) { part[lane] += part[lane + step]; }
        workgroupBarrier();
    }
    let total = part[0];
    workgroupBarrier();
    return total;
}
fn all_max(x: f32, lane: u32) -> f32 {
    part[lane] = x;
    workgroupBarrier();
    for (var step = WG / 2u; step > 0u; step = step / 2u) {
        if (lane < step) { part[lane] = max(part[lane], part[lane + step]); }
        workgroupBarrier();
    }
    let largest = part[0];
    workgroupBarrier();
    return largest;
}

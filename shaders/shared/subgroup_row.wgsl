// Lanes add up by subgroups of any width: subgroups of the workgroup, which of them this is, and the lane's place
// in it.
var<private> subgroup: vec3<u32>;
var<workgroup> part: array<f32, WG>;
fn all_sum(x: f32, lane: u32) -> f32 {
    let mine = subgroupAdd(x);
    if (subgroup.z == 0u) { part[subgroup.y] = mine; }
    workgroupBarrier();
    var total = 0.0;
    for (var i = 0u; i < subgroup.x; i++) { total += part[i]; }
    workgroupBarrier();
    return total;
}
fn all_max(x: f32, lane: u32) -> f32 {
    let mine = subgroupMax(x);
    if (subgroup.z == 0u) { part[subgroup.y] = mine; }
    workgroupBarrier();
    var largest = part[0];
    for (var i = 1u; i < subgroup.x; i++) { largest = max(largest, part[i]); }
    workgroupBarrier();
    return largest;
}

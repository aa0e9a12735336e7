// Lanes add up by subgroups of any width: one barrier in place of one for each halving.
@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group_id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32,
    @builtin(num_subgroups) subgroups: u32, @builtin(subgroup_id) mine: u32, @builtin(subgroup_invocation_id) place: u32,
) {
    let group = workgroup_at(group_id, groups);
    for (var c = 0u; c < TN; c++) {
        let sum = part_of(group, lane, c);
        let all = subgroupAdd(sum);
        if (place == 0u) { part[mine * TN + c] = all; }
    }
    workgroupBarrier();
    if (lane < TN) {
        var sum = 0.0;
        for (var s = 0u; s < subgroups; s++) { sum += part[s * TN + lane]; }
        store(group, lane, sum);
    }
}

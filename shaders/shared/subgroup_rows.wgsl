// What each lane loads of the left operand, all lanes get by broadcasts: so all of them stay, also those beyond
// the last column.
@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group_id: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let group = workgroup_at(group_id, groups);
    tile(group.y * TM, (group.x * WG + local) * TN, p.a0 + batch_a(group.z), p.b0 + batch_b(group.z), group.z, lane);
}

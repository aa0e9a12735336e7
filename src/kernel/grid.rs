//! Grids beyond what a device dispatches along one axis: folded here, and here unfolded.

/// Workgroups along each axis, none above `limit`, at least as many as `grid` has. Where an axis is longer, the workgroups are
/// counted through, x fastest, and dealt out again; a kernel finds its place by [`unfold`], or, where its grid is a single row, by
/// `group.y * groups.x + group.x`. Groups beyond the last have nothing to do.
pub fn fold(grid: [u32; 3], limit: u32) -> [u32; 3] {
    let limit = limit.max(1) as u64;
    if grid.contains(&0) {
        return [0; 3];
    }
    if grid.iter().all(|n| *n as u64 <= limit) {
        return grid;
    }
    let all: u128 = grid.iter().map(|n| *n as u128).product();
    let square = (limit * limit) as u128;
    let z = all.div_ceil(square);
    let y = all.div_ceil(z).div_ceil(limit as u128);
    let x = all.div_ceil(y * z);
    [x, y, z].map(|n| n.min(u32::MAX as u128) as u32)
}

/// Fills the hole `grid`: the place of a workgroup in a grid of ⌈p.n / by.0⌉ × ⌈p.m / by.1⌉ × p.batch that [`fold`] may have
/// folded. Those beyond the last are placed behind the last column.
pub fn unfold((x, y): (u32, u32)) -> String {
    format!(
        "fn workgroup_at(group: vec3<u32>, groups: vec3<u32>) -> vec3<u32> {{
    let at = (group.z * groups.y + group.y) * groups.x + group.x;
    let nx = (p.n + {}u) / {x}u;
    let ny = (p.m + {}u) / {y}u;
    let z = at / (nx * ny);
    if (z >= p.batch) {{ return vec3<u32>(nx, 0u, 0u); }}
    return vec3<u32>(at % nx, (at / nx) % ny, z);
}}
",
        x - 1,
        y - 1
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folded_grids_keep_all_groups_within_the_limit() {
        for grid in [[1, 1, 1], [70_000, 1, 1], [70_000, 3, 1], [2, 3, 70_000], [9, 70_000, 5], [1 << 20, 1 << 12, 7]] {
            let folded = fold(grid, 65_535);
            let count = |g: [u32; 3]| g.iter().map(|n| *n as u64).product::<u64>();
            assert!(folded.iter().all(|n| *n <= 65_535), "{grid:?} became {folded:?}");
            assert!(count(folded) >= count(grid) && count(folded) < count(grid) + 3 * 65_536, "{grid:?} {folded:?}");
        }
        assert_eq!(fold([65_535, 65_535, 2], 65_535), [65_535, 65_535, 2]);
        assert_eq!(fold([0, 4, 4], 2), [0; 3], "nothing stays nothing");
    }
}

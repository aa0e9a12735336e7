// quantise: rows of f32 become signed bytes by blocks of 32 with a factor each, for products of integers. An
// invocation makes a block of three vectors: 16 elements, 16 elements, and the bits of three f32: the factor, and the
// sums of each half's elements as they were rounded. A block with anything that is not finite becomes NaN. Dispatched
// as a single row of groups.

const WG: u32 = 64u;

//{ interface
struct Params { m: u32, k: u32, a0: u32, a_row: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<u32>>;
//}

fn largest(x: vec4<f32>) -> u32 {
    let bits = bitcast<vec4<u32>>(x) & vec4<u32>(0x7fffffffu);
    return max(max(bits.x, bits.y), max(bits.z, bits.w));
}

// Four rounded elements of whole numbers up to 127, and what they add to a sum.
struct Four { bytes: u32, sum: i32 }
fn rounded(x: vec4<f32>, by: f32) -> Four {
    let q = vec4<i32>(clamp(round(x * by), vec4<f32>(-127.0), vec4<f32>(127.0)));
    return Four(pack4xI8(q), q.x + q.y + q.z + q.w);
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * WG + local;
    let blocks = p.k / 32u;
    if (i >= p.m * blocks) { return; }
    let at = (p.a0 + (i / blocks) * p.a_row) / 4u + (i % blocks) * 8u;
    let x0 = a[at];
    let x1 = a[at + 1u];
    let x2 = a[at + 2u];
    let x3 = a[at + 3u];
    let x4 = a[at + 4u];
    let x5 = a[at + 5u];
    let x6 = a[at + 6u];
    let x7 = a[at + 7u];
    // Bits of floats without sign are ordered as the floats are, with NaN above all.
    let top = max(
        max(max(largest(x0), largest(x1)), max(largest(x2), largest(x3))),
        max(max(largest(x4), largest(x5)), max(largest(x6), largest(x7))),
    );
    let most = bitcast<f32>(top);
    let finite = top < 0x7f800000u;
    // Blocks of numbers so small that they have no inverse count as zeros.
    let by = select(0.0, 127.0 / most, finite && most > 1e-36);
    let factor = select(bitcast<f32>(top | 0x7fc00000u), most / 127.0, finite);
    let q0 = rounded(x0, by);
    let q1 = rounded(x1, by);
    let q2 = rounded(x2, by);
    let q3 = rounded(x3, by);
    let q4 = rounded(x4, by);
    let q5 = rounded(x5, by);
    let q6 = rounded(x6, by);
    let q7 = rounded(x7, by);
    let first = f32(q0.sum + q1.sum + q2.sum + q3.sum) * factor;
    let second = f32(q4.sum + q5.sum + q6.sum + q7.sum) * factor;
    y[i * 3u] = vec4<u32>(q0.bytes, q1.bytes, q2.bytes, q3.bytes);
    y[i * 3u + 1u] = vec4<u32>(q4.bytes, q5.bytes, q6.bytes, q7.bytes);
    y[i * 3u + 2u] = bitcast<vec4<u32>>(vec4<f32>(factor, first, second, 0.0));
}

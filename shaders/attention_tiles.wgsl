// attention_tiles: softmax(q kᵀ · scale + mask) v by tiles of keys (Dao et al., 2022), for GPUs. A workgroup makes
// 32 rows: queries of all heads that share keys, so that tiles of keys and values in workgroup memory serve all of
// them. Keys may be cut into parts, for few queries: then what it stores are sums, with the largest score and the
// sum of weights behind them, and `attention_merge` ends it. A query that sees no key gives zeros. As it stands,
// one lane a row, without tiles.

const LANES: u32 = 64u;

struct Params {
    batch: u32, queries: u32, heads: u32, keys: u32, kv_heads: u32, width: u32,
    q0: u32, q_batch: u32, q_row: u32, q_head: u32,
    k0: u32, k_batch: u32, k_row: u32, k_head: u32,
    v0: u32, v_batch: u32, v_row: u32, v_head: u32,
    y0: u32, past: u32, window: u32, scale: f32, softcap: f32, sinks0: u32,
    mask0: u32, mask_batch: u32, mask_head: u32, mask_row: u32, mask_key: u32, parts: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4<f32>>;

// What no score is below: that of a key that is not seen.
const HIDDEN: f32 = -3.4028234e38;

//{ mask
fn masked(score: f32, b: u32, h: u32, s: u32, t: u32) -> f32 { return score; }
//}

//{ cap
fn capped(score: f32) -> f32 { return score; }
//}

//{ sinks
// What the running maximum and sum of a head's scores begin with.
fn first_score(h: u32) -> f32 { return HIDDEN; }
fn first_sum() -> f32 { return 0.0; }
//}

//{ last
// The last key that query s sees, plus one; and the first.
fn keys_end(s: u32) -> u32 { return p.keys; }
fn keys_start(s: u32) -> u32 { return 0u; }
//}

//{ entry
@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let each = p.heads / p.kv_heads;
    let row = group.x * 32u + lane;
    if (lane >= 32u || row >= p.queries * each) { return; }
    let b = group.z;
    let s = row / each;
    let h = group.y * each + row % each;
    let at = (p.q0 + b * p.q_batch + s * p.q_row + h * p.q_head) / 4u;
    let out = ((b * p.queries + s) * p.heads + h) * (p.width / 4u);
    for (var i = 0u; i < p.width / 4u; i++) {
        var most = first_score(h);
        var sum = first_sum();
        var acc = vec4<f32>(0.0);
        for (var t = keys_start(s); t < keys_end(s); t++) {
            let kt = (p.k0 + b * p.k_batch + group.y * p.k_head + t * p.k_row) / 4u;
            var score = 0.0;
            for (var j = 0u; j < p.width / 4u; j++) { score += dot(q[at + j], k[kt + j]); }
            score = masked(capped(score * p.scale), b, h, s, t);
            let next = max(most, score);
            let e = select(0.0, exp(score - next), score > HIDDEN);
            sum = sum * exp(most - next) + e;
            acc = acc * exp(most - next) + e * v[(p.v0 + b * p.v_batch + group.y * p.v_head + t * p.v_row) / 4u + i];
            most = next;
        }
        y[p.y0 / 4u + out + i] = select(vec4<f32>(0.0), acc / sum, sum > 0.0);
    }
}
//}

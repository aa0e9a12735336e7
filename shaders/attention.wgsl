// attention: softmax(q kᵀ · scale + mask) v for each head in one pass over the keys (online softmax:
// Milakov and Gimelshein, 2018; Dao et al., 2022). As it stands one invocation makes one query of one head, without
// barriers; the form and body holes give a query to a workgroup.
// A query that sees no key gives zeros.

const WG: u32 = 64u;

struct Params {
    batch: u32, queries: u32, heads: u32, keys: u32, kv_heads: u32, width: u32,
    q0: u32, q_batch: u32, q_row: u32, q_head: u32,
    k0: u32, k_batch: u32, k_row: u32, k_head: u32,
    v0: u32, v_batch: u32, v_row: u32, v_head: u32,
    y0: u32, past: u32, window: u32, scale: f32,
    softcap: f32, sinks0: u32,
    mask0: u32, mask_batch: u32, mask_head: u32, mask_row: u32, mask_key: u32,
    pool: u32, page: u32, per: u32, sequences: u32, tables0: u32, sequences0: u32, positions0: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> q: array<f32>;
@group(0) @binding(2) var<storage, read> k: array<f32>;
@group(0) @binding(3) var<storage, read> v: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

//{ form
fn row_of(group: u32, lane: u32) -> u32 { return group * WG + lane; }
//}

//{ mask
fn masked(score: f32, b: u32, h: u32, s: u32, t: u32) -> f32 { return score; }
//}

//{ cap
fn capped(score: f32) -> f32 { return score; }
//}

//{ sinks
// What the running maximum and sum of a head's scores begin with.
fn first_score(h: u32) -> f32 { return -3.4028234e38; }
fn first_sum() -> f32 { return 0.0; }
//}

//{ last
// The last key that query s sees, plus one; and the first.
fn keys_end(s: u32) -> u32 { return p.keys; }
fn keys_start(s: u32) -> u32 { return 0u; }
//}

//{ place
// The row in memory of key t, as query s finds it.
fn place(s: u32, t: u32) -> u32 { return t; }
//}

//{ body
fn query(b: u32, s: u32, h: u32, lane: u32) {
    let g = h / (p.heads / p.kv_heads);
    let q_at = p.q0 + b * p.q_batch + s * p.q_row + h * p.q_head;
    let k_at = p.k0 + b * p.k_batch + g * p.k_head;
    let v_at = p.v0 + b * p.v_batch + g * p.v_head;
    let out = p.y0 + ((b * p.queries + s) * p.heads + h) * p.width;
    var most = first_score(h);
    var sum = first_sum();
    var acc: array<f32, 256>;
    for (var i = 0u; i < p.width; i++) { acc[i] = 0.0; }
    for (var t = keys_start(s); t < keys_end(s); t++) {
        var score = 0.0;
        for (var i = 0u; i < p.width; i++) { score += q[q_at + i] * k[k_at + place(s, t) * p.k_row + i]; }
        score = masked(capped(score * p.scale), b, h, s, t);
        let next = max(most, score);
        let keep = exp(most - next);
        let e = select(0.0, exp(score - next), score > -3.4028234e38);
        sum = sum * keep + e;
        for (var i = 0u; i < p.width; i++) { acc[i] = acc[i] * keep + e * v[v_at + place(s, t) * p.v_row + i]; }
        most = next;
    }
    for (var i = 0u; i < p.width; i++) { y[out + i] = select(0.0, acc[i] / sum, sum > 0.0); }
}
//}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let at = row_of(group.y * groups.x + group.x, local);
    if (at >= p.batch * p.queries * p.heads) { return; }
    // Heads of one query side by side share keys.
    query(at / (p.queries * p.heads), (at / p.heads) % p.queries, at % p.heads, local);
}

// delta_rule: the gated delta rule (Yang et al., 2024). A workgroup has COLUMNS columns of the matrix of one head of
// one sequence and goes through the sequence's rows; each column is shared by PARTS lanes, which keep their vectors of
// it in registers. What a row adds is known after one sum over keys, of both products:
// y = decay · qᵀS + (q · k) · change.
// The workgroups behind the last sequence write the zeros of rows that are of none.

const WG: u32 = 64u;
const COLUMNS: u32 = 16u;
const PARTS: u32 = 4u;
// Vectors of four keys that a lane has.
const VECTORS: u32 = 1u;

struct Params {
    n: u32, sequences: u32, slots: u32, heads: u32, key_heads: u32, d: u32, e: u32, blocks: u32,
    q0: u32, q_row: u32, q_head: u32, k0: u32, k_row: u32, k_head: u32, v0: u32, v_row: u32, v_head: u32,
    gates0: u32, states0: u32, slots0: u32, owners0: u32, y0: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> q: array<f32>;
@group(0) @binding(2) var<storage, read> k: array<f32>;
@group(0) @binding(3) var<storage, read> v: array<f32>;
@group(0) @binding(4) var<storage, read> gates: array<f32>;
@group(0) @binding(5) var<storage, read> states: array<f32>;
@group(0) @binding(6) var<storage, read> first: array<u32>;
@group(0) @binding(7) var<storage, read> owners: array<u32>;
@group(0) @binding(8) var<storage, read_write> y: array<f32>;

// Rows of a run that are of the sequence, and how many.
var<workgroup> mine: array<u32, WG>;
var<workgroup> rows: array<u32, WG>;
var<workgroup> count: u32;
// Queries and keys of a row and of the next.
var<workgroup> queries: array<vec4<f32>, 2u * PARTS * VECTORS>;
var<workgroup> keys: array<vec4<f32>, 2u * PARTS * VECTORS>;
var<workgroup> sums: array<vec4<f32>, WG>;

// Which of the p.n rows from `start` on are of the sequence, in their order.
fn find(start: u32, sequence: u32, lane: u32) {
    workgroupBarrier();
    let row = start + lane;
    mine[lane] = 0u;
    if (row < p.n) { mine[lane] = u32(min(owners[p.owners0 + row], p.sequences) == sequence); }
    workgroupBarrier();
    if (lane == 0u) {
        var found = 0u;
        for (var i = 0u; i < WG; i++) {
            if (mine[i] != 0u) {
                rows[found] = start + i;
                found++;
            }
        }
        count = found;
    }
}

// A vector of a row's queries and keys; nothing beyond the last.
fn stage(at: u32, row: u32, head: u32, lane: u32) {
    for (var t = lane; t < PARTS * VECTORS; t += WG) {
        let g = head / (p.heads / p.key_heads);
        let from_q = p.q0 + row * p.q_row + g * p.q_head;
        let from_k = p.k0 + row * p.k_row + g * p.k_head;
        var a = vec4<f32>(0.0);
        var b = vec4<f32>(0.0);
        if (t * 4u + 0u < p.d) { a.x = q[from_q + t * 4u]; b.x = k[from_k + t * 4u]; }
        if (t * 4u + 1u < p.d) { a.y = q[from_q + t * 4u + 1u]; b.y = k[from_k + t * 4u + 1u]; }
        if (t * 4u + 2u < p.d) { a.z = q[from_q + t * 4u + 2u]; b.z = k[from_k + t * 4u + 2u]; }
        if (t * 4u + 3u < p.d) { a.w = q[from_q + t * 4u + 3u]; b.w = k[from_k + t * 4u + 3u]; }
        queries[at + t] = a;
        keys[at + t] = b;
    }
}

// Four keys of a column of the matrix that lies at `start`; nothing beyond the last.
fn load_state(start: u32, i: u32, held: bool) -> vec4<f32> {
    let stride = p.heads * p.e;
    var s = vec4<f32>(0.0);
    if (held && i + 0u < p.d) { s.x = states[start + i * stride]; }
    if (held && i + 1u < p.d) { s.y = states[start + (i + 1u) * stride]; }
    if (held && i + 2u < p.d) { s.z = states[start + (i + 2u) * stride]; }
    if (held && i + 3u < p.d) { s.w = states[start + (i + 3u) * stride]; }
    return s;
}

fn store_state(to: u32, i: u32, s: vec4<f32>) {
    let stride = p.heads * p.e;
    if (i + 0u < p.d) { y[to + i * stride] = s.x; }
    if (i + 1u < p.d) { y[to + (i + 1u) * stride] = s.y; }
    if (i + 2u < p.d) { y[to + (i + 2u) * stride] = s.z; }
    if (i + 3u < p.d) { y[to + (i + 3u) * stride] = s.w; }
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = group.y * groups.x + group.x;
    let sequence = at / (p.blocks * p.heads);
    if (sequence > p.sequences) { return; }
    let head = (at / p.blocks) % p.heads;
    let column = (at % p.blocks) * COLUMNS + lane % COLUMNS;
    let part = lane / COLUMNS;
    let inside = column < p.e;
    let lonely = sequence == p.sequences;
    let stride = p.heads * p.e;
    var slot = p.slots;
    if (!lonely) { slot = min(first[p.slots0 + sequence], p.slots); }
    let held = inside && slot < p.slots;
    let begin = p.states0 + slot * p.d * stride + head * p.e + column;
    let part0 = part * VECTORS;
    //{ load
    var s0 = load_state(begin, part0 * 4u, held);
    //}
    for (var start = 0u; start < p.n; start += WG) {
        find(start, sequence, lane);
        let here = workgroupUniformLoad(&count);
        for (var j = 0u; j < here; j++) {
            let row = rows[j];
            let side = (j & 1u) * PARTS * VECTORS;
            let out = p.y0 + row * stride + head * p.e + column;
            if (lonely) {
                if (inside && part == 0u) { y[out] = 0.0; }
            } else {
                stage(side, row, head, lane);
            }
            workgroupBarrier();
            let gate = p.gates0 + (row * p.heads + head) * 2u;
            let decay = gates[gate];
            let mine0 = side + part0;
            // Sums over keys: of keys times the matrix, of queries times the matrix, of queries times keys.
            var sum = vec4<f32>(0.0);
            //{ forget
            if (decay == 0.0) { s0 = vec4<f32>(0.0); }
            //}
            //{ sum
            sum += vec4<f32>(dot(keys[mine0], s0), dot(queries[mine0], s0), dot(queries[mine0], keys[mine0]), 0.0);
            //}
            sums[lane] = sum;
            workgroupBarrier();
            var all = vec4<f32>(0.0);
            for (var i = 0u; i < PARTS; i++) { all += sums[lane % COLUMNS + i * COLUMNS]; }
            if (inside && !lonely) {
                let value = v[p.v0 + row * p.v_row + head * p.v_head + column];
                let change = gates[gate + 1u] * (value - decay * all.x);
                if (part == 0u) { y[out] = decay * all.y + all.z * change; }
                //{ change
                s0 = decay * s0 + keys[mine0] * change;
                //}
            }
        }
    }
    if (inside && !lonely) {
        let to = p.y0 + (p.n + sequence * p.d) * stride + head * p.e + column;
        //{ store
        store_state(to, part0 * 4u, s0);
        //}
    }
}

// A workgroup makes one query of one head: lanes over a tile of keys for the scores, then over the head's elements for
// the weighted sum, so that both read neighbouring memory.
var<workgroup> weight: array<f32, WG>;
fn query(b: u32, s: u32, h: u32, lane: u32) {
    let g = h / (p.heads / p.kv_heads);
    let q_at = p.q0 + b * p.q_batch + s * p.q_row + h * p.q_head;
    let k_at = p.k0 + b * p.k_batch + g * p.k_head;
    let v_at = p.v0 + b * p.v_batch + g * p.v_head;
    let out = p.y0 + ((b * p.queries + s) * p.heads + h) * p.width;
    let end = keys_end(s);
    var most = first_score(h);
    var sum = first_sum();
    var acc: array<f32, 4>;
    for (var i = 0u; i < 4u; i++) { acc[i] = 0.0; }
    for (var first = keys_start(s); first < end; first += WG) {
        let t = first + lane;
        var score = -3.4028234e38;
        if (t < end) {
            score = 0.0;
            for (var i = 0u; i < p.width; i++) { score += q[q_at + i] * k[k_at + place(s, t) * p.k_row + i]; }
            score = masked(capped(score * p.scale), b, h, s, t);
        }
        let next = max(most, all_max(score, lane));
        let keep = exp(most - next);
        let e = select(0.0, exp(score - next), t < end && score > -3.4028234e38);
        weight[lane] = e;
        sum = sum * keep + all_sum(e, lane);
        most = next;
        let tile = min(WG, end - first);
        for (var i = 0u; i < 4u; i++) {
            let d = lane + i * WG;
            if (d < p.width) {
                var a = acc[i] * keep;
                for (var j = 0u; j < tile; j++) { a += weight[j] * v[v_at + place(s, first + j) * p.v_row + d]; }
                acc[i] = a;
            }
        }
        workgroupBarrier();
    }
    for (var i = 0u; i < 4u; i++) {
        let d = lane + i * WG;
        if (d < p.width) { y[out + d] = select(0.0, acc[i] / sum, sum > 0.0); }
    }
}

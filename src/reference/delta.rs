//! The gated delta rule, row by row.

use super::call::Call;
use super::value::{Real, Tensor};

pub fn run<T: Real>(call: &Call<T>) -> Tensor<T> {
    let [q, k, v, gates, states, slots, owners] = [0, 1, 2, 3, 4, 5, 6].map(|i| call.operands[i].to_f64());
    let (of_keys, of_values) = (&call.operands[0].shape, &call.operands[2].shape);
    let (n, g, d) = (of_keys[0], of_keys[1], of_keys[2]);
    let (h, e) = (of_values[1], of_values[2]);
    let mut out = vec![0.0; call.shape.iter().product()];
    for (sequence, slot) in slots.iter().enumerate() {
        let behind = n + sequence * d;
        for head in 0..h {
            let at = |i: usize, j: usize| (i * h + head) * e + j;
            let mut s = vec![0.0; d * e];
            if (*slot as usize) < call.operands[4].shape[0] {
                for (i, x) in s.iter_mut().enumerate() {
                    *x = states[at(*slot as usize * d + i / e, i % e)];
                }
            }
            for row in (0..n).filter(|row| owners[*row] as usize == sequence) {
                let keys = (row * g + head * g / h) * d;
                let (q, k) = (&q[keys..keys + d], &k[keys..keys + d]);
                let (decay, rate) = (gates[(row * h + head) * 2], gates[(row * h + head) * 2 + 1]);
                for j in 0..e {
                    let column = (0..d).map(|i| i * e + j);
                    column.clone().for_each(|i| s[i] = if decay == 0.0 { 0.0 } else { decay * s[i] });
                    let held: f64 = column.clone().zip(k).map(|(i, k)| k * s[i]).sum();
                    let change = rate * (v[at(row, j)] - held);
                    column.clone().zip(k).for_each(|(i, k)| s[i] += k * change);
                    out[at(row, j)] = column.zip(q).map(|(i, q)| q * s[i]).sum();
                }
            }
            s.iter().enumerate().for_each(|(i, x)| out[at(behind + i / e, i % e)] = *x);
        }
    }
    call.result(out)
}

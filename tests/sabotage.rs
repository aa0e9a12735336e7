//! Each kernel broken on purpose, one constant, barrier or bound at a time: the op suite's comparison must see it.

mod common;

use common::{Found, device, run_changed};
use warpweft::base::{Array, Bindings, DType};
use warpweft::kernel::{Kernel, Template};
use warpweft::op;
use warpweft::plan::{Options, Plan};
use warpweft::reference::Interpreter;
use warpweft::reference::sample::{CaseGraph, case_graph};

/// Op, whether the forms without barriers are planned, kernel, what is replaced, by what.
const BREAKS: &[(&str, bool, &str, &str, &str)] = &[
    ("add", true, "map", "var j = index;", "var j = index + 1u;"),
    ("add", true, "map", "(v1 + v2)", "(v1 - v2)"),
    ("gelu", true, "map", "0.254829592", "0.264829592"),
    ("concat", true, "map", "else {", "else if (false) {"),
    ("cast", true, "map", "pack2x16float(vec2<f32>(a, b))", "pack2x16float(vec2<f32>(b, a))"),
    ("sum", true, "reduce", "sum += load(o, r);", "sum = load(o, r);"),
    ("sum", true, "reduce", "r < min(", "r + 1u < min("),
    ("mean", true, "reduce", "sum / f32(p.len)", "sum / f32(p.len + 1u)"),
    ("max", true, "reduce", "select(x > best, x < best,", "select(x < best, x < best,"),
    (
        "min",
        true,
        "reduce",
        "for (var r = 0u; r < p.len; r++) {\n        let x",
        "for (var r = 1u; r < p.len; r++) {\n        let x",
    ),
    ("argmax", true, "reduce", "(x == best && r < at)", "(x == best && r > at)"),
    ("softmax", true, "softmax", "sum += e;", "sum = e;"),
    ("softmax", true, "softmax", "i < p.cols", "i + 1u < p.cols"),
    ("softmax", false, "softmax", "part[lane] = x;\n    workgroupBarrier();", "part[lane] = x;"),
    ("log_softmax", true, "softmax", "- most - log_sum", "- log_sum"),
    ("layer_norm", true, "layer_norm", "inverseSqrt(", "sqrt("),
    ("layer_norm", true, "layer_norm", "+ b[p.b0 + i]", ""),
    ("layer_norm", false, "layer_norm", "part[lane] += part[lane + step];", ""),
    ("rms_norm", true, "rms_norm", "/ f32(p.cols)", "/ f32(p.cols + 1u)"),
    ("rms_norm", false, "rms_norm", "step > 0u", "step > 1u"),
    ("attention", true, "attention", "let keep = exp(most - next);", "let keep = 1.0;"),
    ("attention", true, "attention", "p.past + s + 1u, p.keys", "p.past + s, p.keys"),
    ("attention", true, "attention", "end > p.window", "false"),
    ("attention", true, "attention", "m != 0u", "m == 0u"),
    ("attention", true, "attention", "h / (p.heads / p.kv_heads)", "0u"),
    ("attention", false, "attention", "workgroupBarrier();", ""),
    ("paged_attention", true, "attention", "p.page - 1u) * p.page", "p.page) * p.page"),
    ("paged_attention", true, "attention", "s] * p.per", "s]"),
    ("paged_attention", true, "attention", "select(0u, end - p.window + 1u", "select(0u, end - p.window"),
    ("paged_attention", true, "attention", ">= p.sequences) { return 0u; }", ">= p.sequences) { }"),
    ("paged_attention", false, "attention", "place(s, first + j)", "(first + j)"),
    ("append", true, "map", "if (id <", "if (id + 1u <"),
    ("sum", false, "reduce", "part[lane] += part[lane + step];", ""),
    ("max", false, "reduce", "part[lane] = best;\n", ""),
    ("argmax", false, "reduce", "places[lane] = places[lane + step];", ""),
    ("rms_norm", false, "rms_norm", "dot(v0, v0)", "dot(v0, vec4<f32>(1.0))"),
    ("layer_norm", false, "layer_norm", "v0 - mean, i0 < vectors", "v0 - mean, true"),
    ("softmax", false, "softmax", "e0 / sum", "e0"),
    ("softmax", false, "softmax", "exp(v0 - most), i0 < vectors", "exp(v0), i0 < vectors"),
    ("attention", false, "attention_tiles", "let keep = exp(most - next);", "let keep = vec4<f32>(1.0);"),
    ("attention", false, "attention_tiles", "t < keys_end(s) && ", ""),
    ("attention", false, "attention_tiles", "weights[(tx * 4u + 1u)", "weights[(tx * 4u + 2u)"),
    ("attention", false, "attention_tiles", "all += shared_rows[ty * 8u + i]", "all = shared_rows[ty * 8u + i]"),
    ("attention", false, "attention_tiles", "min(keys_end(last), (part + 1u) * per)", "keys_end(last)"),
    ("attention", false, "attention_tiles", "p.past + s + 1u, p.keys", "p.past + s, p.keys"),
    ("attention", false, "attention_merge", "sum += behind.y * keep", "sum += behind.y"),
    ("gather", true, "gather", "at % p.width", "0u"),
    ("gather", true, "gather", "id - p.row0 < p.rows", "id + 1u < p.rows"),
    ("attention", true, "attention", "tanh(clamp(score / p.softcap", "(clamp(score / p.softcap"),
    ("attention", true, "attention", "first_sum() -> f32 { return 1.0; }", "first_sum() -> f32 { return 0.0; }"),
    ("expert_matmul", true, "expert_matmul", "(place % p.slots) * p.x_slot", "0u"),
    ("expert_matmul", true, "expert_matmul", "i < p.k", "i + 1u < p.k"),
    ("expert_matmul", true, "expert_matmul", "+ at % p.outs", ""),
    ("delta_rule", true, "delta_rule", "== 0.0) {", "!= 0.0) {"),
    ("delta_rule", true, "delta_rule", "change = gates[gate + 1u]", "change = gates[gate]"),
    ("delta_rule", true, "delta_rule", "all += sums[", "all = sums["),
    ("delta_rule", true, "delta_rule", "all.z * change", "change"),
    ("delta_rule", true, "delta_rule", "rows[found] = start + i;", "rows[found] = i;"),
    ("delta_rule", true, "delta_rule", "/ (p.heads / p.key_heads)", "* 0u"),
    ("scatter_add", true, "scatter_add", "sum += x[", "sum = x["),
    ("scatter_add", true, "scatter_add", "i < p.first + p.n", "i + 1u < p.n"),
    ("erf", true, "map", "0.254829592", "0.264829592"),
    ("assign", true, "map", "var j = index;", "var j = index + 1u;"),
    ("matmul", true, "matmul_rows", "0x0f0f0f0fu", "0x0e0e0e0eu"),
    ("matmul", true, "matmul_rows", "-8.0 * d", "-7.0 * d"),
    ("matmul", true, "matmul_rows", "unpack4xI8", "unpack4xU8"),
    ("matmul", true, "matmul_rows", "half_at(s.x, i)", "half_at(s.x, 0u)"),
    ("gather", true, "gather", "8u * (i & 3u)", "8u * (i & 1u)"),
    ("matmul", true, "matmul_rows", "i % 1024u, i / 1024u", "i % 1024u, 0u"),
    ("matmul", true, "matmul_rows", "texel(i / 4u)[i % 4u]", "texel(i / 4u).x"),
    ("matmul", true, "matmul_rows", "subgroupBroadcast(lg0, 1u)", "subgroupBroadcast(lg0, 0u)"),
    ("matmul", true, "matmul_rows", "select(t.xy, t.zw", "select(t.xy, t.xy"),
    ("gather", true, "gather", "texel(i / 4u)[i % 4u]", "texel(i / 4u).x"),
    ("matmul", true, "matmul_rows", "k < k4", "k + 1u < k4"),
    ("matmul", true, "matmul_rows", "max(p.n, n0) - n0", "max(p.n - 1u, n0) - n0"),
    ("matmul", false, "matmul", "workgroupBarrier();\n        let k1", "let k1"),
    ("matmul", false, "matmul", "let end = p.k;", "let end = p.k / 2u;"),
    ("matmul", false, "matmul", "if (m >= p.m)", "if (m + 1u >= p.m)"),
    ("matmul", false, "matmul", "n + 0u < p.n", "n + 1u < p.n"),
    ("matmul", false, "matmul", "s1_0 = fma(vec4<f32>(x0.y)", "s1_0 = fma(vec4<f32>(x0.x)"),
    ("matmul", false, "matmul", "^ (q0 * 2u)", "^ (q0 * 4u)"),
    ("matmul", false, "matmul", "& vec2<u32>(0x0f0f0f0fu)", "& vec2<u32>(0x0e0e0e0eu)"),
    ("matmul", false, "matmul", "(group.z / p.batches) * p.part", "0u"),
    ("matmul", false, "matmul_sum", "part < p.parts", "part + 1u < p.parts"),
    ("matmul", false, "matmul_sum", "x[part * p.count + o]", "x[o]"),
    ("matmul", false, "matvec", "c += ALONG", "c += 2u * ALONG"),
    ("matmul", false, "matvec", "min(n0 + 1u, p.n - 1u)", "min(n0, p.n - 1u)"),
    ("matmul", false, "matvec", "step > 0u", "step > 1u"),
    ("matmul", false, "matvec", "m < p.m && n < p.n", "m < p.m && n + 1u < p.n"),
    (
        "matmul",
        false,
        "matvec_subgroup",
        "subgroupAdd(vec4<f32>(s0_0, s0_1, s0_2, s0_3))",
        "vec4<f32>(s0_0, s0_1, s0_2, s0_3)",
    ),
    ("matmul", false, "matvec_subgroup", "s < subgroups", "s + 1u < subgroups"),
    ("matmul", false, "matvec_subgroup", "workgroupBarrier();", ""),
];

/// The kernel with its text changed; `None` where the text is not in it.
fn broken(kernel: &Kernel, from: &str, to: &str) -> Option<Kernel> {
    let source = kernel.source().unwrap();
    if !source.contains(from) {
        return None;
    }
    let source = source.replace(from, to);
    Some(Kernel::new(Box::leak(Box::new(Template { name: kernel.name(), source: Box::leak(source.into_boxed_str()) }))))
}

fn reference(case: &CaseGraph, inputs: &[(&str, Array)]) -> Vec<f64> {
    let mut oracle = Interpreter::<f64>::new(&case.graph, &case.weights).unwrap();
    case.states.iter().for_each(|(n, a)| oracle.set_state(n, a));
    oracle.step_values(&Bindings::new(), inputs).unwrap().remove(0).1
}

#[test]
fn every_broken_kernel_is_seen() {
    let Found::Device(gpu) = device(None) else { return };
    let mut missed = vec![];
    for (name, serial, template, from, to) in BREAKS {
        let def = op::find(name).unwrap();
        let mut options = Options::for_caps(gpu.caps());
        options.tuning.serial = *serial;
        if *template == "matvec_subgroup" {
            common::by_subgroups(&mut options);
        }
        let (mut applied, mut seen) = (0, 0);
        for (i, case) in (def.cases)().iter().enumerate() {
            let case = case_graph(def, case, 1000 + i as u64).unwrap();
            let inputs: Vec<(&str, Array)> = case.inputs.iter().map(|(n, a)| (n.as_str(), a.clone())).collect();
            let mut changed = false;
            let mut change = |plan: &mut Plan| {
                for k in plan.kernels.iter_mut().filter(|k| k.name() == *template) {
                    if let Some(other) = broken(k, from, to) {
                        *k = other;
                        changed = true;
                    }
                }
            };
            // A kernel that no longer compiles is seen, too.
            let Ok(got) = run_changed(&gpu, &case, &options, &mut change) else {
                (applied, seen) = (applied + 1, seen + 1);
                continue;
            };
            if changed {
                applied += 1;
                let values: Vec<f64> = match got.dtype {
                    DType::I32 => got.to_u32().iter().map(|w| *w as i32 as f64).collect(),
                    _ => got.to_f32().iter().map(|x| *x as f64).collect(),
                };
                seen += !values.iter().zip(&reference(&case, &inputs)).all(|(g, w)| def.within.holds(*g, *w)) as usize;
                if seen > 0 {
                    break;
                }
            }
        }
        if applied == 0 {
            missed.push(format!("{name} serial={serial}: no kernel {template} holds {from:?}"));
        } else if seen == 0 {
            missed.push(format!(
                "{name} serial={serial}: {template} with {to:?} for {from:?} went unseen in {applied} cases"
            ));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
    // The other way round: unbroken kernels are not seen as broken.
    let def = op::find("add").unwrap();
    let case = case_graph(def, &(def.cases)()[0], 1000).unwrap();
    let inputs: Vec<(&str, Array)> = case.inputs.iter().map(|(n, a)| (n.as_str(), a.clone())).collect();
    let got = run_changed(&gpu, &case, &Options::for_caps(gpu.caps()), &mut |_| {}).unwrap();
    assert!(got.to_f32().iter().zip(&reference(&case, &inputs)).all(|(g, w)| def.within.holds(*g as f64, *w)));
}

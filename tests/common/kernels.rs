//! Every kernel that plans fill.

use super::seeded;
use std::collections::HashSet;
use warpweft::base::{AdapterKind, Caps, DType, Precision};
use warpweft::graph::GraphBuilder;
use warpweft::kernel::matmul::{VARIANTS, Variant};
use warpweft::kernel::{Kernel, PROBE};
use warpweft::op;
use warpweft::plan::{Options, Tuning, plan};
use warpweft::reference::sample::case_graph;

/// Kernels of all cases of all ops, in both forms, with every matmul variant; of small models; of probes and collectives.
pub fn all() -> HashSet<Kernel> {
    let mut out: HashSet<Kernel> = warpweft::device::cluster::kernels().into_iter().collect();
    out.insert(Kernel::new(&PROBE));
    out.insert(Kernel::new(&PROBE).hole("body", "fn run(i: u32) { y[i] = x[i] + p.seed; }"));
    for (kind, texels) in
        [AdapterKind::Discrete, AdapterKind::Software].into_iter().flat_map(|k| [(k, false), (k, true)])
    {
        let subgroup = if kind == AdapterKind::Discrete || texels { 8 } else { 0 };
        let caps = Caps { kind, subgroup, ..Caps::FLOOR };
        let mut options = Options::for_caps(&caps);
        options.tuning.texels = texels;
        for fuse in [true, false] {
            options.fuse = fuse;
            of_cases(&caps, &mut options, &mut out);
        }
        for v in VARIANTS.iter().filter(|v| v.precision != Precision::F32) {
            below_f32(&Caps { f16: true, ..caps.clone() }, v, texels, &mut out);
        }
        for dtype in DType::weights() {
            let model = seeded::quantised(4, 2, 2, 1, dtype);
            for seq in [1, 32] {
                out.extend(plan(&model.graph(seq, 64, false, true), &caps, &options).unwrap().kernels);
            }
        }
    }
    out
}

/// Products of a variant below f32, with few rows and with many.
fn below_f32(caps: &Caps, v: &Variant, texels: bool, out: &mut HashSet<Kernel>) {
    let mut options = Options::for_caps(caps);
    options.tuning.texels = texels;
    options.precision = v.precision;
    options.tuning.prefer(v.name);
    let large = v.tm * v.tn > 16;
    for dtype in DType::weights().filter(|d| !large || [DType::Q8_0, DType::Q6_K].contains(d)) {
        for m in [1, 3, 40] {
            let g = GraphBuilder::new();
            let y = g.input("x", DType::F32, [m, 256]).matmul_t(g.weight("w", dtype, [70, 256]));
            g.output("y", y);
            out.extend(plan(&g.finish().unwrap(), caps, &options).unwrap().kernels);
        }
    }
}

fn of_cases(caps: &Caps, options: &mut Options, out: &mut HashSet<Kernel>) {
    // Texts follow from types and from whether rows are few, not from sizes: blocks are tried once each way.
    let mut seen = HashSet::new();
    for def in op::computing() {
        for case in (def.cases)() {
            let graph = case_graph(def, &case, 1).unwrap().graph;
            out.extend(plan(&graph, caps, options).unwrap().kernels);
            if def.name == "matmul" && options.fuse {
                let dtype = case.operands[1].0.dtype;
                let left = &case.operands[0].0.shape;
                let few = left[left.rank() - 2].bound() < 5;
                if dtype.is_quantised() && !seen.insert((dtype, few)) {
                    continue;
                }
                for tall in [true, false] {
                    for rows in [true, false] {
                        let class = Tuning::matmul_class(dtype, rows, tall);
                        for variant in VARIANTS {
                            options.tuning.chosen.insert(class.clone(), variant.name.to_string());
                            out.extend(plan(&graph, caps, options).unwrap().kernels);
                        }
                    }
                }
                options.tuning.chosen.clear();
            }
        }
    }
}

//! Every kernel that plans fill goes through naga to SPIR-V, MSL and HLSL: that is how Metal and DX12 are held without
//! the hardware. And all of it stays within what every device binds.

use naga::back::{hlsl, msl, spv};
use std::collections::HashSet;
use warpweft::base::{AdapterKind, Caps};
use warpweft::kernel::{Kernel, matmul::VARIANTS};
use warpweft::op;
use warpweft::plan::{Options, Tuning, plan};
use warpweft::reference::sample::case_graph;

/// Kernels of all cases of all ops, in both forms, with every matmul variant.
fn kernels() -> HashSet<Kernel> {
    let mut out = HashSet::new();
    for kind in [AdapterKind::Discrete, AdapterKind::Software] {
        for fuse in [true, false] {
            let caps = Caps { kind, ..Caps::FLOOR };
            let mut options = Options::for_caps(&caps);
            options.fuse = fuse;
            for def in op::computing() {
                for case in (def.cases)() {
                    let graph = case_graph(def, &case, 1).unwrap().graph;
                    out.extend(plan(&graph, &caps, &options).unwrap().kernels);
                    if def.name == "matmul" && fuse {
                        let dtype = case.operands[1].0.dtype;
                        for tall in [true, false] {
                            for rows in [true, false] {
                                let class = Tuning::matmul_class(warpweft::kernel::matmul::Right { dtype, rows }, tall);
                                for index in 0..VARIANTS.len() {
                                    options.tuning.chosen.insert(class.clone(), index);
                                    out.extend(plan(&graph, &caps, &options).unwrap().kernels);
                                }
                            }
                        }
                        options.tuning.chosen.clear();
                    }
                }
            }
        }
    }
    out
}

#[test]
fn every_filled_kernel_translates() {
    let all = kernels();
    assert!(all.len() > 100, "only {} kernels were found", all.len());
    for kernel in &all {
        let name = kernel.name();
        let (module, info) = kernel.validate().unwrap_or_else(|e| panic!("{name}: {e}"));
        let words = spv::write_vec(&module, &info, &spv::Options::default(), None).unwrap_or_else(|e| panic!("{name} to SPIR-V: {e}"));
        assert!(words.len() > 20);
        let options = msl::Options { fake_missing_bindings: true, lang_version: (2, 4), ..msl::Options::default() };
        let (text, _) = msl::write_string(&module, &info, &options, &msl::PipelineOptions::default()).unwrap_or_else(|e| panic!("{name} to MSL: {e}"));
        assert!(text.contains("kernel void"));
        let mut text = String::new();
        let options = hlsl::Options { fake_missing_bindings: true, shader_model: hlsl::ShaderModel::V6_0, ..hlsl::Options::default() };
        let pipeline = hlsl::PipelineOptions::default();
        hlsl::Writer::new(&mut text, &options, &pipeline).write(&module, &info, None).unwrap_or_else(|e| panic!("{name} to HLSL: {e}"));
        assert!(text.contains("numthreads"));
        let r = kernel.reflect().unwrap();
        let storage = r.bindings.iter().filter(|b| b.access != warpweft::kernel::Access::Uniform).count();
        assert!(storage <= 8, "{name} binds {storage} storage buffers");
        assert!(r.workgroup.iter().product::<u32>() <= 256, "{name} has {:?} invocations", r.workgroup);
    }
}

//! Every kernel that plans fill goes through naga to SPIR-V, MSL and HLSL: that is how Metal and DX12 are held without
//! the hardware. And all of it stays within what every device binds. Tint, which Chrome runs, reads the same texts in
//! scripts/web-test.sh, from the folder that this test writes.

mod common;

use common::kernels::all;
use naga::back::{hlsl, msl, spv};
use std::path::Path;
use warpweft::kernel::Kernel;

/// The WGSL texts, one a file, for a reader in another language.
fn write(all: &[&Kernel]) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("wgsl");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    for (i, kernel) in all.iter().enumerate() {
        let source = kernel.source().unwrap();
        // A line that Tint asks for and naga refuses.
        let enable = if source.contains("subgroup") { "enable subgroups;\n" } else { "" };
        std::fs::write(folder.join(format!("{}-{i}.wgsl", kernel.name())), format!("{enable}{source}")).unwrap();
    }
}

#[test]
fn every_filled_kernel_translates() {
    let kernels = all();
    let mut all: Vec<&Kernel> = kernels.iter().collect();
    all.sort_by_cached_key(|k| k.source().unwrap());
    write(&all);
    assert!(all.len() > 100, "only {} kernels were found", all.len());
    for name in ["matvec_subgroup", "matvec_int8", "matvec_subgroup_int8", "matmul_int8", "matmul_f16", "quantise"] {
        assert!(all.iter().any(|k| k.name() == name), "{name} is not there");
    }
    for kernel in &all {
        let name = kernel.name();
        let (module, info) = kernel.validate().unwrap_or_else(|e| panic!("{name}: {e}"));
        let words = spv::write_vec(&module, &info, &spv::Options::default(), None)
            .unwrap_or_else(|e| panic!("{name} to SPIR-V: {e}"));
        assert!(words.len() > 20);
        let options = msl::Options { fake_missing_bindings: true, lang_version: (2, 4), ..msl::Options::default() };
        let (text, _) = msl::write_string(&module, &info, &options, &msl::PipelineOptions::default())
            .unwrap_or_else(|e| panic!("{name} to MSL: {e}"));
        assert!(text.contains("kernel void"));
        let mut text = String::new();
        let options = hlsl::Options {
            fake_missing_bindings: true,
            shader_model: hlsl::ShaderModel::V6_2,
            ..hlsl::Options::default()
        };
        let pipeline = hlsl::PipelineOptions::default();
        hlsl::Writer::new(&mut text, &options, &pipeline)
            .write(&module, &info, None)
            .unwrap_or_else(|e| panic!("{name} to HLSL: {e}"));
        assert!(text.contains("numthreads"));
        let r = kernel.reflect().unwrap();
        let storage = r.bindings.iter().filter(|b| b.access != warpweft::kernel::Access::Uniform).count();
        assert!(storage <= 8, "{name} binds {storage} storage buffers");
        assert!(r.workgroup.iter().product::<u32>() <= 256, "{name} has {:?} invocations", r.workgroup);
    }
}

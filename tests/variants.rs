//! Every kernel that is meant for GPUs, one a file under the name of its variant, for what a GPU's compiler makes of it
//! (scripts/isa.sh). Planned for a GPU, so no adapter is needed.

use std::collections::BTreeMap;
use std::path::Path;
use warpweft::base::{AdapterKind, Caps, DType, Dim, Precision, Var};
use warpweft::graph::{Graph, GraphBuilder};
use warpweft::kernel::matmul::{Form, VARIANTS, Variant};
use warpweft::kernel::{Kernel, vector};
use warpweft::op::Attention;
use warpweft::plan::{Options, Plan, plan};

/// A GPU with subgroups, and otherwise what every device has.
const GPU: Caps = Caps { kind: AdapterKind::Discrete, subgroup: 32, f16: true, ..Caps::FLOOR };

fn planned(graph: &Graph, variant: Option<&Variant>) -> Plan {
    let mut options = Options::for_caps(&GPU);
    if let Some(v) = variant {
        options.tuning.prefer(v.name);
        options.precision = v.precision;
    }
    plan(graph, &GPU, &options).unwrap()
}

/// m rows times a weight of this type, in rows of k or in columns.
fn product(m: usize, dtype: DType, rows: bool) -> Graph {
    let g = GraphBuilder::new();
    let x = g.input("x", DType::F32, [m, 4096]);
    let y = if rows {
        x.matmul_t(g.weight("w", dtype, [4096, 4096]))
    } else {
        x.matmul(g.weight("w", dtype, [4096, 4096]))
    };
    g.output("y", y);
    g.finish().unwrap()
}

fn attention(queries: usize, heads: usize, kv_heads: usize, width: usize) -> Graph {
    let total = Var::new("total", 4096);
    let g = GraphBuilder::new();
    let q = g.input("q", DType::F32, [1, queries, heads, width]);
    let kv = |name: &str| g.input(name, DType::F32, vec![1.into(), total.into(), kv_heads.into(), width.into()]);
    let past = Dim::from(total) - Dim::from(queries);
    let how = Attention { causal: Some(past), ..Attention::scaled(0.1) };
    g.output("y", q.attention(kv("k"), kv("v"), None, how));
    g.finish().unwrap()
}

fn rows(name: &str, cols: usize) -> Graph {
    let g = GraphBuilder::new();
    let x = g.input("x", DType::F32, [64, cols]);
    let ones = g.data("ones", [cols], vec![1.0; cols]);
    g.output(
        "y",
        match name {
            "softmax" => x.softmax(),
            "log_softmax" => x.log_softmax(),
            "rms_norm" => x.rms_norm(ones, 1e-5),
            "layer_norm" => x.layer_norm(ones, ones, 1e-5),
            "max" => x.max(&[1]),
            _ => x.sum(&[1]),
        },
    );
    g.finish().unwrap()
}

/// Kernels by name, with the line that tells the reader what a lane takes in from memory.
fn all() -> BTreeMap<String, (Kernel, String)> {
    let mut out = BTreeMap::new();
    let mut add = |name: String, plan: &Plan, line: String| {
        let more = plan.kernels.len() > 1;
        for (i, k) in plan.kernels.iter().enumerate() {
            if k.name() == "quantise" {
                out.insert("quantise".into(), (k.clone(), String::new()));
                continue;
            }
            let first = i == 0 || plan.kernels[i - 1].name() == "quantise";
            let name = if more && !first { format!("{name}-{}", k.name()) } else { name.clone() };
            out.insert(name, (k.clone(), line.clone()));
        }
    };
    for v in VARIANTS.iter().filter(|v| v.form != Form::Rows) {
        let vectors = v.form != Form::Tiled;
        for dtype in DType::weights().filter(|d| v.precision != Precision::Int8 || d.is_quantised()) {
            let shapes: &[(usize, &str)] =
                if vectors { &[(1, ""), (4, "-4-rows"), (8, "-8-rows")] } else { &[(4096, "")] };
            for (m, suffix) in shapes {
                let read = v.tn * vector::chunk(dtype);
                let bytes = read as f64 * dtype.block_bytes() as f64 / dtype.block() as f64;
                let line =
                    if vectors && *m == 1 { format!("// isa: weights={read} bytes={bytes}\n") } else { String::new() };
                let form = if vectors { "matvec" } else { "matmul" };
                add(format!("{form}-{}-{dtype}{suffix}", v.name), &planned(&product(*m, dtype, true), Some(v)), line);
            }
            if !vectors && !dtype.is_quantised() && v.precision == Precision::F32 {
                add(
                    format!("matmul-{}-columns-{dtype}", v.name),
                    &planned(&product(4096, dtype, false), Some(v)),
                    String::new(),
                );
            }
        }
    }
    for width in [32, 64, 80, 128, 256] {
        add(format!("attention-prefill-{width}"), &planned(&attention(512, 32, 8, width), None), String::new());
        add(format!("attention-decode-{width}"), &planned(&attention(1, 9, 3, width), None), String::new());
    }
    for (name, cols) in ["softmax", "log_softmax", "rms_norm", "layer_norm", "max", "sum"]
        .iter()
        .flat_map(|n| [(n, 64), (n, 4096), (n, 32_768)])
    {
        add(format!("row-{name}-{cols}"), &planned(&rows(name, cols), None), String::new());
    }
    out
}

#[test]
fn gpu_variants_are_planned_and_written_for_their_compilers() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("isa");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    let all = all();
    for (name, (kernel, line)) in &all {
        std::fs::write(folder.join(format!("{name}.wgsl")), format!("{line}{}", kernel.source().unwrap())).unwrap();
    }
    for v in VARIANTS.iter().filter(|v| v.form != Form::Rows) {
        let mine = all.iter().filter(|(name, _)| name.contains(&format!("-{}-", v.name))).count();
        let formats = DType::weights().filter(|d| v.precision != Precision::Int8 || d.is_quantised()).count();
        assert!(mine >= formats, "{}: {mine} kernels", v.name);
    }
    let of = |start: &str, kernel: &str| all.iter().any(|(name, (k, _))| name.starts_with(start) && k.name() == kernel);
    assert!(of("attention-prefill", "attention_tiles") && of("attention-decode", "attention_merge"));
    assert!(of("matmul-tiled", "matmul") && of("matvec-subgroup", "matvec_subgroup") && of("matvec-vector", "matvec"));
}

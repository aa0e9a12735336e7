//! Every op of the table, every case: the device, the fallback and the unfused plan against the f64 reference.

mod common;

use common::{Found, device};
use std::sync::Arc;
use warpweft::base::{Array, Bindings, Caps, DType, Precision};
use warpweft::device::Gpu;
use warpweft::kernel::Kernel;
use warpweft::kernel::matmul::{Form, VARIANTS, Variant};
use warpweft::op::{self, OpDef, Within};
use warpweft::plan::{Options, plan};
use warpweft::reference::Interpreter;
use warpweft::reference::sample::{CaseGraph, case_graph};

/// The ops that are tested: all, or while one is written those that WARPWEFT_OPS names (`WARPWEFT_OPS=pow,log1p`).
fn chosen() -> impl Iterator<Item = &'static OpDef> {
    let names = std::env::var("WARPWEFT_OPS").ok();
    op::computing().filter(move |def| names.as_ref().is_none_or(|n| n.split(',').any(|n| n == def.name)))
}

fn reference(case: &CaseGraph) -> Vec<f64> {
    let mut oracle = Interpreter::<f64>::new(&case.graph, &case.weights).unwrap();
    case.states.iter().for_each(|(n, a)| oracle.set_state(n, a));
    let inputs: Vec<(&str, Array)> = case.inputs.iter().map(|(n, a)| (n.as_str(), a.clone())).collect();
    oracle.step_values(&Bindings::new(), &inputs).unwrap().remove(0).1
}

fn numbers(a: &Array) -> Vec<f64> {
    match a.dtype {
        DType::I32 => a.to_u32().iter().map(|w| *w as i32 as f64).collect(),
        DType::U32 | DType::Bool => a.to_u32().iter().map(|w| *w as f64).collect(),
        _ => a.to_f32().iter().map(|x| *x as f64).collect(),
    }
}

fn compare(what: &str, within: Within, got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!(within.holds(*g, *w), "{what}: element {i} is {g}, the reference says {w}");
    }
}

/// Holds every case of an op on the device to the reference; `see` looks at each first.
fn hold(gpu: &Arc<Gpu>, def: &'static OpDef, options: &Options, how: &str, see: impl FnMut(&str, &CaseGraph)) {
    hold_some(gpu, def, options, how, |_| true, see);
}

/// The same for some of the cases, by their numbers.
fn hold_some(
    gpu: &Arc<Gpu>,
    def: &'static OpDef,
    options: &Options,
    how: &str,
    which: impl Fn(usize) -> bool,
    mut see: impl FnMut(&str, &CaseGraph),
) {
    for (i, case) in (def.cases)().iter().enumerate().filter(|(i, _)| which(*i)) {
        let graph = case_graph(def, case, 1000 + i as u64).unwrap();
        let what = format!("{} case {i} {:?} {how}", def.name, case.types());
        see(&what, &graph);
        let got = common::run_case(gpu, &graph, options).unwrap_or_else(|e| panic!("{what}: {e}"));
        compare(&what, def.within, &numbers(&got), &reference(&graph));
    }
}

#[test]
fn the_fallback_equals_the_reference() {
    for def in chosen() {
        for (i, case) in (def.cases)().iter().enumerate() {
            let graph = case_graph(def, case, 1000 + i as u64).unwrap();
            let want = reference(&graph);
            let mut fallback = Interpreter::<f32>::new(&graph.graph, &graph.weights).unwrap();
            graph.states.iter().for_each(|(n, a)| fallback.set_state(n, a));
            let inputs: Vec<(&str, Array)> = graph.inputs.iter().map(|(n, a)| (n.as_str(), a.clone())).collect();
            let got = fallback.step(&Bindings::new(), &inputs).unwrap().remove(0).1;
            compare(&format!("{} case {i} {:?}", def.name, case.types()), def.within, &numbers(&got), &want);
        }
    }
}

#[test]
fn the_device_equals_the_reference_fused_and_unfused() {
    let Found::Device(gpu) = device(None) else { return };
    for fuse in [true, false] {
        for serial in [true, false] {
            let mut options = Options::for_caps(gpu.caps());
            options.fuse = fuse;
            options.tuning.serial = serial;
            for def in chosen() {
                hold(&gpu, def, &options, &format!("fuse={fuse} serial={serial}"), |_, _| {});
            }
        }
    }
}

#[test]
fn right_operands_lie_in_textures_or_buffers() {
    let Found::Device(gpu) = device(None) else { return };
    for serial in [true, false] {
        for texels in [true, false] {
            let mut options = Options::for_caps(gpu.caps());
            (options.tuning.serial, options.tuning.texels) = (serial, texels);
            for def in [&op::MATMUL, &op::GATHER] {
                hold(&gpu, def, &options, &format!("serial={serial} texels={texels}"), |what, case| {
                    let plan = plan(&case.graph, gpu.caps(), &options).unwrap();
                    // Texels hold floats; a table of integers is a buffer.
                    let floats = case.graph.nodes[0].ty.dtype.is_float();
                    assert_eq!(plan.buffers.iter().any(|b| b.texels), texels && floats, "{what}");
                });
            }
        }
    }
}

#[test]
fn sums_over_subgroups_equal_the_reference() {
    let Found::Device(gpu) = device(None) else { return };
    if gpu.caps().subgroup == 0 {
        return common::skip("WARPWEFT_REQUIRE_DEVICE", "this adapter has no subgroups");
    }
    let mut options = Options::for_caps(gpu.caps());
    common::by_subgroups(&mut options);
    let mut planned = 0;
    hold(&gpu, &op::MATMUL, &options, "by subgroups", |_, case| {
        let plan = plan(&case.graph, gpu.caps(), &options).unwrap();
        planned += plan.kernels.iter().filter(|k| k.name() == "matvec_subgroup").count();
    });
    assert!(planned >= 5, "only {planned} cases sum over subgroups");
}

/// Whether a kernel was filled for this variant.
fn is_of(kernel: &Kernel, v: &Variant) -> bool {
    let number = |name: &str, n: u32| kernel.number(name) == Some(&format!("{n}u"));
    match v.form {
        Form::Tiled => number("BM", v.bm) && number("BN", v.bn) && number("LANES", v.tile().lanes()),
        Form::Rows => number("TM", v.tm) && number("TN", v.tn),
        Form::Vector => kernel.name() == "matvec" && number("ALONG", 64 * v.tn / v.bn),
        Form::Subgroup => kernel.name() == "matvec_subgroup",
    }
}

#[test]
fn every_variant_of_the_table_equals_the_reference() {
    let Found::Device(gpu) = device(None) else { return };
    for (number, variant) in
        VARIANTS.iter().enumerate().filter(|(_, v)| v.precision == Precision::F32 && v.requires(gpu.caps()))
    {
        let mut options = Options::for_caps(gpu.caps());
        options.tuning.serial = variant.form == Form::Rows;
        options.tuning.prefer(variant.name);
        let mut planned = 0;
        // What compiles for seconds on a CPU takes its turn with the cases; its text differs from the others' by numbers only.
        let which = |case: usize| case % if variant.tm * variant.tn < 32 { 4 } else { 12 } == number % 4;
        hold_some(&gpu, &op::MATMUL, &options, variant.name, which, |_, case| {
            let plan = plan(&case.graph, gpu.caps(), &options).unwrap();
            planned += plan.kernels.iter().filter(|k| is_of(k, variant)).count();
        });
        assert!(planned >= 2, "{}: only {planned} products were planned", variant.name);
    }
}

#[test]
fn every_op_runs_within_the_floor_that_all_devices_have() {
    let Found::Device(gpu) = device(Some(&Caps::FLOOR)) else { return };
    let options = Options::for_caps(gpu.caps());
    for def in chosen() {
        hold(&gpu, def, &options, "at the floor", |_, _| {});
    }
}

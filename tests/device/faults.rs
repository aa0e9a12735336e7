//! Faults are typed errors that name what failed: nothing hangs, nothing panics.

use super::{Memory, loaded, lookup_and_product, matrix, planned};
use crate::common::tiny::Tiny;
use crate::common::{Folder, Found, device, needed_adapter, seeded};
use pollster::block_on;
use std::sync::Arc;
use warpweft::base::{Array, Bindings, Caps, DType, DeviceFault, Error, MeshAxis, Result, Var};
use warpweft::device::cluster::RankPlan;
use warpweft::device::{Cluster, Gpu, Program, Store, adapters};
use warpweft::graph::{Graph, GraphBuilder, Node, Source};
use warpweft::kernel::{Kernel, Template};
use warpweft::model::{Model, ModelSource};
use warpweft::plan::shard::shard;
use warpweft::plan::{Options, Policy, plan};

fn fault<T>(result: Result<T>) -> (DeviceFault, String) {
    match result.err() {
        Some(Error::Device { fault, what, .. }) => (fault, what),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_destroyed_device_is_a_lost_one() {
    let Found::Device(gpu) = device(None) else { return };
    let graph = lookup_and_product(DType::F32, 4, 8).unwrap();
    let weights = Memory::from([("w".into(), matrix(DType::F32, 4, 8, 1))]);
    let inputs = [("x", matrix(DType::F32, 2, 8, 2)), ("ids", Array::u32(&[4], &[0, 1, 2, 3]))];
    let (mut program, mut store) = loaded(&gpu, &graph, &weights).unwrap();
    let y = program.plan().outputs[0].buffer;
    block_on(program.step(&Bindings::new(), &inputs, &["y"])).unwrap();
    gpu.destroy();
    // Whatever is asked, and however often.
    for _ in 0..2 {
        assert_eq!(fault(block_on(program.step(&Bindings::new(), &inputs, &["y"]))).0, DeviceFault::Lost);
        assert_eq!(fault(block_on(program.profile(&Bindings::new(), &inputs))).0, DeviceFault::Lost);
        assert_eq!(fault(block_on(program.buffer_bytes(y))).0, DeviceFault::Lost);
        assert_eq!(fault(gpu.wait()).0, DeviceFault::Lost);
        let plan = planned(&gpu, &graph).unwrap();
        assert_eq!(fault(block_on(Program::load(plan, &mut store, &weights, &mut |_, _| {}))).0, DeviceFault::Lost);
        assert_eq!(fault(loaded(&gpu, &graph, &weights)).0, DeviceFault::Lost);
    }
    // Another device of the same adapter is not touched.
    let Found::Device(other) = device(None) else { return };
    let (mut program, _store) = loaded(&other, &graph, &weights).unwrap();
    block_on(program.step(&Bindings::new(), &inputs, &["y"])).unwrap();
}

#[test]
fn a_kernel_that_does_not_compile_is_named() {
    let Found::Device(gpu) = device(None) else { return };
    let graph = lookup_and_product(DType::F32, 4, 8).unwrap();
    let weights = Memory::from([("w".into(), matrix(DType::F32, 4, 8, 1))]);
    type Break = (&'static str, fn(&str) -> String);
    let breaks: [Break; 3] = [
        ("not WGSL", |s| s.replacen("fn main", "fnord main", 1)),
        ("an unknown name", |s| {
            s.replacen("workgroup_id", "workgroup_idea", 1).replacen("global_invocation_id", "global_idea", 1)
        }),
        ("a workgroup beyond the limit", |s| {
            let at = s.find("@workgroup_size(").unwrap();
            let end = at + s[at..].find(')').unwrap();
            format!("{}@workgroup_size(65536{}", &s[..at], &s[end..])
        }),
    ];
    for (what, change) in breaks {
        let mut plan = planned(&gpu, &graph).unwrap();
        let source: &'static str = Box::leak(change(&plan.kernels[0].source().unwrap()).into_boxed_str());
        let name = plan.kernels[0].name();
        plan.kernels[0] = Kernel::new(Box::leak(Box::new(Template { name, source })));
        let mut store = Store::new(gpu.clone());
        let (fault, said) = fault(block_on(Program::load(plan, &mut store, &weights, &mut |_, _| {})));
        assert_eq!(fault, DeviceFault::Pipeline, "{what}: {said}");
        assert!(
            said.starts_with(&format!("kernel {name} did not compile: ")) && !said.contains('\n'),
            "{what}: {said}"
        );
    }
    // The device is none the worse.
    loaded(&gpu, &graph, &weights).unwrap();
}

/// What is too large for a device is refused when it is planned, by name, not at the first token.
#[test]
fn sizes_beyond_the_limits_are_refused_by_name() {
    let small = Caps { binding_bytes: 1 << 20, buffer_bytes: 1 << 20, ..Caps::FLOOR };
    let big = 300_000;
    let build = |what: &str| -> Result<warpweft::graph::Graph> {
        let g = GraphBuilder::new();
        g.at("middle");
        let x = g.input("x", DType::F32, [1, 64]);
        match what {
            "an input" => g.output("y", g.input("large", DType::F32, [big]).sum(&[0])),
            "an input at its bound" => {
                g.output("y", g.input("large", DType::F32, vec![Var::new("seq", big as u32).into()]).sum(&[0]))
            }
            "an output" => g.output("y", x.reshape([64, 1]).matmul(g.input("z", DType::F32, [1, 5000]))),
            "a value between" => {
                let wide = x.reshape([64, 1]).matmul(g.input("z", DType::F32, [1, 5000]));
                g.output("y", wide.softmax().sum(&[0, 1]));
            }
            "a state" => g.output("y", g.state("cache", DType::F32, [big, 1]).append(x.slice(1, 0, 1), 0).sum(&[0, 1])),
            "literals" => g.output("y", g.data("table", [big], vec![0.0; big]).sum(&[0])),
            "a row of a weight" => g.output("y", g.weight("w", DType::F32, [2, big]).sum(&[1])),
            _ => g.output("y", x),
        }
        g.finish()
    };
    let names = [
        "an input",
        "an input at its bound",
        "an output",
        "a value between",
        "a state",
        "literals",
        "a row of a weight",
    ];
    let mut said = String::new();
    for what in names {
        let e = plan(&build(what).unwrap(), &small, &Options::for_caps(&small)).map(|p| p.to_string()).expect_err(what);
        said += &format!("{what}\n    {e}\n");
    }
    insta::assert_snapshot!(said);
}

#[test]
fn a_model_too_large_for_a_context_names_the_state() {
    let folder = Folder::new("context");
    let path = folder.file("tiny.gguf", Tiny { context: 1 << 20, ..Tiny::default() }.gguf().bytes());
    let model = Model::new(ModelSource::open(path).unwrap()).unwrap();
    let caps = Caps { binding_bytes: 8 << 20, ..Caps::FLOOR };
    let (graph, _) = model.typical_step(100_000).unwrap();
    let e = plan(&graph, &caps, &Options::for_caps(&caps)).unwrap_err().to_string();
    assert_eq!(
        e,
        "state: \"layers.0.k\" f32[100000, 32] takes 12800000 bytes, this device binds at most 8388608: use shorter sequences or a smaller context"
    );
}

#[test]
fn an_adapter_that_is_not_there_is_said() {
    let n = block_on(adapters()).len();
    let e = block_on(Gpu::open(n)).err().unwrap();
    assert_eq!(
        e.to_string(),
        format!("adapter {n}: is not there: this machine has {n} (`warpweft devices` lists them)")
    );
}

/// A tiny model's step as it is loaded and run on a device.
fn everything(gpu: &Arc<Gpu>, model: &Model, step: &(Graph, Bindings)) -> Result<Vec<f32>> {
    let mut store = Store::new(gpu.clone());
    let mut program = block_on(Program::load(planned(gpu, &step.0)?, &mut store, &model.source, &mut |_, _| {}))?;
    let inputs = zeros(&step.0, &step.1);
    let inputs: Vec<(&str, Array)> = inputs.iter().map(|(n, a)| (n.as_str(), a.clone())).collect();
    let output = program.plan().outputs[0].clone();
    let out = block_on(program.step(&step.1, &inputs, &[&output.name]))?;
    block_on(program.buffer_bytes(output.buffer))?;
    if gpu.caps().timestamps {
        block_on(program.profile(&step.1, &inputs))?;
    }
    Ok(out[0].to_f32())
}

fn zeros(graph: &Graph, bindings: &Bindings) -> Vec<(String, Array)> {
    let one = |n: &Node| {
        let shape = n.ty.shape.eval(bindings).unwrap();
        let count = shape.iter().product::<usize>() as u64;
        let bytes = vec![0; n.ty.dtype.bytes(count).unwrap() as usize];
        (n.name.clone(), Array::new(n.ty.dtype, &shape, bytes).unwrap())
    };
    graph.nodes.iter().filter(|n| n.source == Source::Input).map(one).collect()
}

#[test]
fn whichever_allocation_fails_nothing_is_half_done() {
    let Found::Device(gpu) = device(None) else { return };
    let folder = Folder::new("allocations");
    for dtype in [DType::F32, DType::Q4_1] {
        let path = folder.file("tiny.gguf", Tiny { dtype, layers: 1, ..Tiny::default() }.gguf().bytes());
        let model = Model::new(ModelSource::open(path).unwrap()).unwrap();
        let step = model.typical_step(16).unwrap();
        let before = gpu.used_bytes();
        let counted = gpu.counts().buffers;
        let want = everything(&gpu, &model, &step).unwrap();
        let all = gpu.counts().buffers - counted;
        assert!(all > 20 && want.iter().all(|x| x.is_finite()), "{all}");
        assert_eq!(gpu.used_bytes(), before);
        for k in 1..=all {
            gpu.fail_allocation(k);
            let (fault, said) = fault(everything(&gpu, &model, &step));
            assert_eq!(fault, DeviceFault::OutOfMemory, "{k} of {all}: {said}");
            assert!(said.starts_with("no memory left for ") && !said.contains('\n'), "{said}");
            assert_eq!(gpu.used_bytes(), before, "{k} of {all} left something behind: {said}");
        }
        gpu.fail_allocation(0);
        assert_eq!(everything(&gpu, &model, &step).unwrap(), want);

        // A store that loading failed in can be asked again: what it has is whole.
        let inputs = zeros(&step.0, &step.1);
        let inputs: Vec<(&str, Array)> = inputs.iter().map(|(n, a)| (n.as_str(), a.clone())).collect();
        for k in (1..=all).step_by(5) {
            let mut store = Store::new(gpu.clone());
            let mut load = |k| {
                gpu.fail_allocation(k);
                block_on(Program::load(planned(&gpu, &step.0).unwrap(), &mut store, &model.source, &mut |_, _| {}))
            };
            let first = load(k);
            gpu.fail_allocation(0);
            let mut program = match first {
                Ok(program) => program,
                Err(_) => load(0).unwrap(),
            };
            let name = program.plan().outputs[0].name.clone();
            assert_eq!(block_on(program.step(&step.1, &inputs, &[&name])).unwrap()[0].to_f32(), want, "{k}");
        }
        assert_eq!(gpu.used_bytes(), before);
    }
}

#[test]
fn whichever_allocation_of_a_mesh_fails_nothing_is_half_done() {
    let Found::Device(gpu) = device(None) else { return };
    let model = seeded::llama(6, 3, 1, 5);
    let graph = model.graph(4, 16, false, true);
    let load = || -> Result<()> {
        let sharded = shard(&graph, &[(MeshAxis::Tensor, 3)])?;
        let options = Options::for_caps(gpu.caps());
        let mut plans = vec![];
        for rank in 0..sharded.ranks() {
            let plan = plan(&sharded.class(rank).graph, gpu.caps(), &options)?;
            plans.push(RankPlan { rank, plan, largest: sharded.bindings(rank, &graph.largest())? });
        }
        let mut stores: Vec<Store> = sharded.seats.iter().map(|s| Store::at(gpu.clone(), s.clone())).collect();
        let seats = sharded.seats.clone();
        block_on(Cluster::load(seats, plans, &mut stores, &model.weights, Policy::default(), &mut |_, _| {}))
            .map(|_| ())
    };
    let (before, counted) = (gpu.used_bytes(), gpu.counts().buffers);
    load().unwrap();
    let all = gpu.counts().buffers - counted;
    for k in 1..=all {
        gpu.fail_allocation(k);
        assert_eq!(fault(load()).0, DeviceFault::OutOfMemory, "{k} of {all}");
        assert_eq!(gpu.used_bytes(), before, "{k} of {all}");
    }
    gpu.fail_allocation(0);
    load().unwrap();
    assert!(all > 12 && gpu.used_bytes() == before, "{all}");
}

/// The device's memory is at its end: a limit on the process's address space does it, in a process of its own.
#[cfg(unix)]
#[test]
fn no_memory_left_is_said_with_the_buffer_that_did_not_fit() {
    if needed_adapter().is_none() {
        return;
    }
    if std::env::var_os("WARPWEFT_TEST_NO_MEMORY").is_some() {
        println!("said: {}", exhaust());
        return;
    }
    let test = "faults::no_memory_left_is_said_with_the_buffer_that_did_not_fit";
    let limited =
        format!("ulimit -v 8000000; exec '{}' --exact {test} --nocapture", std::env::current_exe().unwrap().display());
    let out =
        std::process::Command::new("sh").args(["-c", &limited]).env("WARPWEFT_TEST_NO_MEMORY", "1").output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let said = text
        .lines()
        .find_map(|l| l.split_once("said: ").map(|s| s.1))
        .unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&out.stderr)));
    assert!(said.starts_with("OutOfMemory no memory left for ") && said.contains("bytes of \"state "), "{said}");
}

/// Loads states of 100 MiB until there is no more memory, then a small plan, which must still work.
#[cfg(unix)]
fn exhaust() -> String {
    let Found::Device(gpu) = device(None) else { return "skipped".into() };
    let g = GraphBuilder::new();
    let x = g.input("x", DType::F32, [1, 1024]);
    for i in 0..200 {
        let state = g.state(&format!("state {i}"), DType::F32, [25 << 10, 1024]);
        g.output(&format!("y{i}"), state.append(x, 0).slice(0, 0, 1));
    }
    let (fault, what) = fault(loaded(&gpu, &g.finish().unwrap(), &Memory::new()));
    let graph = lookup_and_product(DType::F32, 4, 8).unwrap();
    loaded(&gpu, &graph, &Memory::from([("w".into(), matrix(DType::F32, 4, 8, 1))])).unwrap();
    format!("{fault:?} {what}")
}

//! What a decode step makes and sends: no pipeline, no bind group, no buffer; one upload of parameters, one submit.

use super::{Memory, loaded};
use crate::common::tiny::Tiny;
use crate::common::{Folder, Found, device, model, needed_adapter};
use pollster::block_on;
use std::sync::atomic::AtomicBool;
use warpweft::base::{Array, Bindings, Caps, DType, Var};
use warpweft::device::{Counts, Gpu};
use warpweft::graph::GraphBuilder;
use warpweft::model::{Model, ModelSource, StepShape};
use warpweft::plan::{Options as PlanOptions, Plan, plan};
use warpweft::reference::Interpreter;

/// What came on top between two counts.
fn between(before: Counts, after: Counts) -> Counts {
    Counts {
        pipelines: after.pipelines - before.pipelines,
        bind_groups: after.bind_groups - before.bind_groups,
        buffers: after.buffers - before.buffers,
        uploads: after.uploads - before.uploads,
        submits: after.submits - before.submits,
    }
}

fn tiny(layers: usize) -> (Folder, Model) {
    let folder = Folder::new("steps");
    let path = folder.file("tiny.gguf", Tiny { layers, ..Tiny::default() }.gguf().bytes());
    let model = Model::new(ModelSource::open(path).unwrap()).unwrap();
    (folder, model)
}

fn one_token(model: &Model) -> warpweft::graph::Graph {
    let shape = StepShape {
        seq: 1.into(),
        total: Var::new("total", 64),
        context: 64,
        last_only: true,
        sequence_parallel: false,
    };
    model.step_graph(&shape).unwrap()
}

#[test]
fn decoding_makes_nothing_and_sends_two_uploads_and_one_submit_a_token() {
    let Found::Device(gpu) = device(None) else { return };
    let (_folder, model) = tiny(3);
    let (mut program, _store) = loaded(&gpu, &one_token(&model), &model.source).unwrap();
    let dispatches = program.plan().dispatches.len() as u64;
    let made = gpu.counts();
    assert!(made.pipelines >= 3 && made.pipelines <= 16, "{made:?}");
    assert_eq!(made.bind_groups, dispatches);
    let mut step = |total: u64| {
        let bindings = Bindings::new().with("seq", 1).with("total", total);
        block_on(program.step(&bindings, &[("tokens", Array::u32(&[1], &[total as u32]))], &["logits"])).unwrap();
    };
    step(1);
    let mut cut = 0;
    for total in 2..20 {
        let before = gpu.counts();
        step(total);
        let made = between(before, gpu.counts());
        // The token, and the parameters of all dispatches.
        assert_eq!(made, Counts { uploads: 2, submits: made.submits, ..Counts::default() });
        cut += (made.submits != 1) as usize;
    }
    // A machine that pauses for a moment makes the next steps careful.
    assert!(cut <= 4, "{cut} of 18 steps were cut");
}

#[test]
fn layers_share_their_pipelines() {
    let Found::Device(gpu) = device(None) else { return };
    let pipelines = |layers: usize| {
        let (_folder, model) = tiny(layers);
        let kernels = plan(&one_token(&model), gpu.caps(), &PlanOptions::for_caps(gpu.caps())).unwrap().kernels;
        assert!(kernels.iter().enumerate().all(|(i, k)| !kernels[..i].contains(k)), "a kernel is there twice");
        kernels.len()
    };
    assert_eq!(pipelines(2), pipelines(12));
    // A second plan of the same kernels compiles nothing.
    let (_folder, model) = tiny(2);
    let graph = one_token(&model);
    let _first = loaded(&gpu, &graph, &model.source).unwrap();
    let before = gpu.counts().pipelines;
    let _second = loaded(&gpu, &graph, &model.source).unwrap();
    assert_eq!(gpu.counts().pipelines, before);
}

#[test]
fn a_layer_of_smollm2_takes_at_most_eight_dispatches_on_this_device_and_at_the_floor() {
    let Some(path) = model("smollm2-135m") else { return };
    let model = Model::new(ModelSource::open(path).unwrap()).unwrap();
    let (graph, _) = model.typical_step(512).unwrap();
    let mut plans: Vec<(String, Plan)> =
        vec![("the floor".into(), plan(&graph, &Caps::FLOOR, &PlanOptions::for_caps(&Caps::FLOOR)).unwrap())];
    if let Found::Device(gpu) = device(None) {
        plans.push((gpu.report.name.clone(), plan(&graph, gpu.caps(), &PlanOptions::for_caps(gpu.caps())).unwrap()));
    }
    for (name, plan) in plans {
        for layer in 0..30 {
            let of = plan.dispatches.iter().filter(|d| d.label.starts_with(&format!("layers.{layer}."))).count();
            assert!((1..=8).contains(&of), "{name}: layer {layer} takes {of} dispatches");
        }
        let rest = plan.dispatches.iter().filter(|d| !d.label.starts_with("layers.")).count();
        assert!(rest <= 6, "{name}: {rest} dispatches outside of the layers");
        assert!(plan.kernels.len() <= 16, "{name}: {} kernels", plan.kernels.len());
    }
}

/// Wrong calls are refused in the same words on the device and on the fallback.
#[test]
fn wrong_inputs_and_variables_are_refused_by_name() {
    let g = GraphBuilder::new();
    let rows = Var::new("rows", 8);
    let x = g.input("x", DType::F32, vec![rows.into(), 4.into()]);
    g.output("y", x * 2.0);
    let graph = g.finish().unwrap();
    let good = || ("x", Array::f32(&[2, 4], &[1.0; 8]));
    let two = || Bindings::new().with("rows", 2);
    type Case = (&'static str, Bindings, Vec<(&'static str, Array)>);
    let cases: Vec<Case> = vec![
        ("an input is missing", two(), vec![]),
        ("an input is unknown", two(), vec![good(), ("z", Array::f32(&[1], &[0.0]))]),
        ("another shape", two(), vec![("x", Array::f32(&[2, 5], &[0.0; 10]))]),
        ("another number of rows than bound", Bindings::new().with("rows", 3), vec![good()]),
        ("another type", two(), vec![("x", Array::u32(&[2, 4], &[0; 8]))]),
        ("no value for a variable", Bindings::new(), vec![good()]),
        ("a variable beyond its bound", Bindings::new().with("rows", 9), vec![("x", Array::f32(&[9, 4], &[0.0; 36]))]),
    ];
    let mut fallback = Interpreter::<f32>::new(&graph, &Memory::new()).unwrap();
    let mut on_device = match device(None) {
        Found::Device(gpu) => Some(loaded(&gpu, &graph, &Memory::new()).unwrap()),
        Found::Skipped => None,
    };
    let mut said = String::new();
    for (what, bindings, inputs) in &cases {
        let e = fallback.step(bindings, inputs).unwrap_err().to_string();
        if let Some((program, _)) = &mut on_device {
            assert_eq!(block_on(program.step(bindings, inputs, &["y"])).unwrap_err().to_string(), e, "{what}");
        }
        said += &format!("{what}\n    {e}\n");
    }
    if let Some((program, _)) = &mut on_device {
        let e = block_on(program.step(&two(), &[good()], &["z"])).unwrap_err().to_string();
        assert_eq!(e, "there is no output \"z\", there are: y");
        // None of this harms the program.
        assert_eq!(block_on(program.step(&two(), &[good()], &["y"])).unwrap()[0].to_f32(), [2.0; 8]);
        // No rows are no work and no result.
        let none = block_on(program.step(&Bindings::new().with("rows", 0), &[("x", Array::f32(&[0, 4], &[]))], &["y"]))
            .unwrap();
        assert_eq!(none[0].shape, [0, 4]);
    }
    insta::assert_snapshot!(said);
}

#[test]
fn a_generator_decodes_without_making_anything() {
    use warpweft::session::{DeviceChoice, Generator, Options, Request};
    let Some(index) = needed_adapter() else { return };
    let folder = Folder::new("generator");
    let path = folder.file("tiny.gguf", Tiny::default().gguf().bytes());
    let gpu = std::sync::Arc::new(block_on(Gpu::open(index)).unwrap());
    let options = Options { device: DeviceChoice::Open(gpu.clone()), ..Options::default() };
    let mut model = block_on(Generator::open(&path, &options)).unwrap();
    let request =
        Request { prompt: vec![5, 6, 7], sampling: warpweft::text::Sampling::greedy(), max_tokens: Some(12), top: 0 };
    let mut answer = || {
        let mut counts = vec![];
        let mut on_token = |_: &warpweft::session::Token| {
            counts.push(gpu.counts());
            Ok(())
        };
        block_on(model.generate(&request, &AtomicBool::new(false), &mut on_token)).unwrap();
        assert_eq!(counts.len(), 12);
        let made: Vec<Counts> = counts.windows(2).map(|pair| between(pair[0], pair[1])).collect();
        for step in &made {
            // Parameters, and what rows and pages are told.
            assert_eq!(Counts { submits: 1, ..*step }, Counts { uploads: 6, submits: 1, ..Counts::default() });
        }
        made.iter().all(|step| step.submits == 1)
    };
    // Steps on a machine that stops for a moment are cut for a while: one answer of several has to be without.
    assert!((0..4).any(|_| answer()), "no answer took one submission a token");
}

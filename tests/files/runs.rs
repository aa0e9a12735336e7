//! Tiny models of every storage type run on the device and on the fallback as in the f64 reference.

use crate::common::tiny::Tiny;
use crate::common::{Folder, Found, adapter, device, needed_adapter};
use pollster::block_on;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use warpweft::base::{Array, Bindings, DType, Error, Var};
use warpweft::device::{Gpu, Program, Store};
use warpweft::model::{Model, ModelSource, StepShape};
use warpweft::plan::{Options as PlanOptions, plan};
use warpweft::reference::Interpreter;
use warpweft::session::{DeviceChoice, Generator, Options, Request};
use warpweft::text::{Message, Sampling};

const PROMPT: [u32; 9] = [72, 70, 1, 127, 33, 0, 5, 99, 33];
/// Tokens of each step: a chunk, then one by one.
const STEPS: [&[u32]; 4] = [&PROMPT, &[17], &[18], &[17, 64, 90]];

/// Logits of every position of [`STEPS`].
fn steps(mut step: impl FnMut(&Bindings, &[(&str, Array)]) -> Vec<f64>) -> Vec<f64> {
    let (mut total, mut out) = (0, vec![]);
    for tokens in STEPS {
        total += tokens.len();
        let bindings = Bindings::new().with("seq", tokens.len() as u64).with("total", total as u64);
        out.extend(step(&bindings, &[("tokens", Array::u32(&[tokens.len()], tokens))]));
    }
    out
}

fn oracle(model: &Model) -> Vec<f64> {
    let mut reference = Interpreter::<f64>::new(&graph(model), &model.source).unwrap();
    steps(|b, i| reference.step_values(b, i).unwrap().remove(0).1)
}

fn graph(model: &Model) -> warpweft::graph::Graph {
    let shape = StepShape {
        seq: Var::new("seq", 16).into(),
        total: Var::new("total", 64),
        context: 64,
        last_only: false,
        sequence_parallel: false,
    };
    model.step_graph(&shape).unwrap()
}

fn on_device(gpu: &Arc<Gpu>, model: &Model, serial: bool) -> Vec<f64> {
    let mut options = PlanOptions::for_caps(gpu.caps());
    options.tuning.serial = serial;
    let mut store = Store::new(gpu.clone());
    let planned = plan(&graph(model), gpu.caps(), &options).unwrap();
    let mut program = block_on(Program::load(planned, &mut store, &model.source, &mut |_, _| {})).unwrap();
    program.poison();
    steps(|b, i| block_on(program.step(b, i, &["logits"])).unwrap()[0].to_f32().iter().map(|x| *x as f64).collect())
}

fn close(what: &str, got: &[f64], want: &[f64], bound: f64) {
    assert_eq!(got.len(), want.len());
    let worst = got.iter().zip(want).map(|(g, w)| (g - w).abs()).fold(0.0, f64::max);
    assert!(worst <= bound && got.iter().all(|x| x.is_finite()), "{what}: {worst} from the reference");
    assert!(want.iter().any(|w| w.abs() > 0.3), "{what}: logits that say nothing");
}

fn model(path: &Path) -> Model {
    Model::new(ModelSource::open(path).unwrap()).unwrap()
}

#[test]
fn every_kind_of_tiny_model_equals_the_reference() {
    let Found::Device(gpu) = device(None) else { return };
    let folder = Folder::new("runs");
    for dtype in DType::weights() {
        // The larger blocks take larger models: one of the two is enough.
        let kinds = [(true, None), (false, Some(4))];
        for (tied, window) in kinds.into_iter().take(if dtype.block() > 32 { 1 } else { 2 }) {
            // Rows are of whole blocks.
            let whole = |n: usize| n.next_multiple_of(dtype.block());
            let (width, ffn) = (whole(Tiny::default().width), whole(Tiny::default().ffn));
            let tiny = Tiny { dtype, tied, window, width, ffn, ..Tiny::default() };
            let bound = if width > 64 { 1e-3 } else { 2e-4 };
            let what = format!("{dtype} tied={tied} window={window:?}");
            let model = model(&folder.file("m.gguf", tiny.gguf().bytes()));
            let want = oracle(&model);
            let mut fallback = Interpreter::<f32>::new(&graph(&model), &model.source).unwrap();
            let got = steps(|b, i| fallback.step(b, i).unwrap()[0].1.to_f32().iter().map(|x| *x as f64).collect());
            close(&format!("{what} on the fallback"), &got, &want, bound);
            for serial in [true, false] {
                close(
                    &format!("{what} on the device, serial={serial}"),
                    &on_device(&gpu, &model, serial),
                    &want,
                    bound,
                );
            }
        }
    }
}

#[test]
fn a_window_changes_what_is_seen() {
    let folder = Folder::new("window");
    let all = oracle(&model(&folder.file("a.gguf", Tiny::default().gguf().bytes())));
    let near = oracle(&model(&folder.file("b.gguf", Tiny { window: Some(4), ..Tiny::default() }.gguf().bytes())));
    let apart = |position: usize| (0..128).any(|i| (all[position * 128 + i] - near[position * 128 + i]).abs() > 1e-3);
    assert!(!apart(3) && apart(5), "the fourth token sees all, the sixth does not");
}

#[test]
fn a_folder_is_the_same_model_as_a_gguf() {
    let Found::Device(gpu) = device(None) else { return };
    for (tied, window) in [(true, Some(3)), (false, None)] {
        let folder = Folder::new("same");
        let tiny = Tiny { tied, window, ..Tiny::default() };
        tiny.folder(&folder.path().join("f32"), false);
        let (gguf, hf) = (model(&folder.file("m.gguf", tiny.gguf().bytes())), model(&folder.path().join("f32")));
        let want = oracle(&gguf);
        close("f32 folder", &oracle(&hf), &want, 1e-9);
        close("f32 folder on the device", &on_device(&gpu, &hf, true), &want, 2e-4);
        // Narrower types are held to their own reference, and lie near the wide one.
        Tiny { dtype: DType::F16, ..tiny.clone() }.folder(&folder.path().join("f16"), false);
        tiny.folder(&folder.path().join("bf16"), true);
        for (name, near) in [("f16", 0.02), ("bf16", 0.15)] {
            let hf = model(&folder.path().join(name));
            let own = oracle(&hf);
            close(name, &own, &want, near);
            close(&format!("{name} on the device"), &on_device(&gpu, &hf, true), &own, 2e-4);
        }
    }
}

/// Ids and text of a greedy answer.
fn answer(path: &Path, device: DeviceChoice, n: usize) -> (Vec<u32>, String, warpweft::session::Stop) {
    let mut model = block_on(Generator::open(path, &Options { device, ..Options::default() })).unwrap();
    let prompt = model.chat_prompt(&[Message::new("user", "Hi there")]).unwrap();
    let request = Request { prompt, sampling: Sampling::greedy(), max_tokens: Some(n), top: 0 };
    let (mut ids, mut text) = (vec![], String::new());
    let done = block_on(model.generate(&request, &AtomicBool::new(false), &mut |t| {
        ids.push(t.id);
        text += &t.text;
        Ok(())
    }));
    (ids, text, done.unwrap().stop)
}

#[test]
fn a_tiny_model_generates_the_same_everywhere_and_from_either_kind_of_file() {
    let Some(index) = needed_adapter() else { return };
    let folder = Folder::new("generate");
    let gguf = folder.file("m.gguf", Tiny::default().gguf().bytes());
    Tiny::default().folder(&folder.path().join("hf"), false);
    let here = answer(&gguf, DeviceChoice::Cpu, 20);
    assert_eq!(here.0.len(), 20);
    assert_eq!(answer(&gguf, DeviceChoice::Index(index), 20), here);
    assert_eq!(answer(&folder.path().join("hf"), DeviceChoice::Cpu, 20), here);
}

#[test]
fn numerics_checks_name_where_a_value_stopped_being_finite() {
    let Found::Device(_) = device(None) else { return };
    let folder = Folder::new("numerics");
    let mut file = Tiny::default().gguf();
    let t = file.tensor("blk.1.ffn_down.weight");
    // Row 5 of the second layer's last product.
    t.data[5 * 96 * 4..5 * 96 * 4 + 4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    let path = folder.file("m.gguf", file.bytes());
    let mut said = vec![];
    for device in [DeviceChoice::Cpu, DeviceChoice::Index(adapter().unwrap())] {
        let options = Options { device, check_numerics: true, ..Options::default() };
        let mut model = block_on(Generator::open(&path, &options)).unwrap();
        let e = block_on(model.logits(&[7])).unwrap_err();
        let Error::NotFinite { node, index, .. } = &e else { panic!("{e}") };
        assert_eq!((node.as_str(), *index), ("layers.1.network.down", 5), "{e}");
        said.push(e.to_string());
    }
    assert!(said[0].starts_with("matmul \"layers.1.network.down\": element 5 is "), "{said:?}");
    // Off, it costs nothing and the sampler still refuses nonsense.
    let mut model =
        block_on(Generator::open(&path, &Options { device: DeviceChoice::Cpu, ..Options::default() })).unwrap();
    let request = Request { prompt: vec![7], sampling: Sampling::greedy(), max_tokens: Some(1), top: 0 };
    let e = block_on(model.generate(&request, &AtomicBool::new(false), &mut |_| Ok(()))).unwrap_err();
    assert!(e.to_string().contains("--check-numerics"), "{e}");
}

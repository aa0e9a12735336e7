//! A real model over many ranks: the text and the logits of one device, each rank with its own pieces only.

mod common;

use common::{Found, device, model};
use pollster::block_on;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use warpweft::session::{DeviceChoice, Generator, Layout, Options, Precision, Request, mesh};
use warpweft::text::{Message, Sampling};

fn open(path: &Path, device: DeviceChoice, axes: &str, sequence_parallel: bool) -> Generator {
    let layout = Layout { mesh: mesh(axes).unwrap(), sequence_parallel, ..Layout::default() };
    let options = Options { device, context: Some(128), layout, precision: Precision::F32, ..Options::default() };
    block_on(Generator::open(path, &options)).unwrap_or_else(|e| panic!("{axes}: {e}"))
}

fn answer(model: &mut Generator, replica: usize, question: &str, tokens: usize) -> (String, Vec<u32>) {
    let prompt = model.chat_prompt(&[Message::new("user", question)]).unwrap();
    let request = Request { prompt, sampling: Sampling::greedy(), max_tokens: Some(tokens), top: 0 };
    let (mut text, mut ids) = (String::new(), vec![]);
    let mut on_token = |t: &warpweft::session::Token| {
        text.push_str(&t.text);
        ids.push(t.id);
        Ok(())
    };
    block_on(model.generate_on(replica, &request, &AtomicBool::new(false), &mut on_token)).unwrap();
    (text, ids)
}

const FRANCE: &str = "What is the capital of France?";
const ITALY: &str = "What is the capital of Italy?";

fn logits_are_near(got: &[Vec<f32>], want: &[Vec<f32>], axes: &str) {
    for (g, w) in got.iter().zip(want) {
        let worst = g.iter().zip(w).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 2e-3, "{axes}: logits differ by {worst}");
    }
}

#[test]
fn the_fallback_over_a_mesh_answers_as_one_rank_does() {
    let Some(path) = model("smollm2-135m") else { return };
    let mut plain = open(&path, DeviceChoice::Cpu, "", false);
    let (text, ids) = answer(&mut plain, 0, FRANCE, 12);
    assert!(text.contains("Paris"), "{text}");
    let italy = answer(&mut plain, 0, ITALY, 12);
    let tokens = [504, 3575, 282, 4649, 314];
    let want = block_on(plain.logits(&tokens)).unwrap();
    for axes in ["tp=1", "tp=2", "tp=3", "tp=9", "pp=2", "pp=3", "pp=2,tp=3", "cp=2", "cp=3", "cp=2,tp=3"] {
        let mut spread = open(&path, DeviceChoice::Cpu, axes, false);
        assert_eq!(answer(&mut spread, 0, FRANCE, 12), (text.clone(), ids.clone()), "{axes}");
        logits_are_near(&block_on(spread.logits(&tokens)).unwrap(), &want, axes);
    }
    let mut norms = open(&path, DeviceChoice::Cpu, "tp=3", true);
    assert_eq!(answer(&mut norms, 0, FRANCE, 12), (text.clone(), ids.clone()), "sequence parallel");
    // Two replicas, each with a prompt of its own, in turns.
    let mut twice = open(&path, DeviceChoice::Cpu, "dp=2", false);
    assert_eq!(answer(&mut twice, 1, ITALY, 12), italy);
    assert_eq!(answer(&mut twice, 0, FRANCE, 12), (text, ids));
    assert_eq!(twice.replicas(), 2);
}

#[test]
fn virtual_devices_answer_as_one_device_does() {
    let (Some(path), Found::Device(_)) = (model("smollm2-135m"), device(None)) else { return };
    let mut plain = open(&path, DeviceChoice::Cpu, "", false);
    let (text, ids) = answer(&mut plain, 0, FRANCE, 8);
    let tokens = [504, 3575, 282];
    let want = block_on(plain.logits(&tokens)).unwrap();
    for axes in ["tp=3", "cp=2"] {
        let mut spread = open(&path, DeviceChoice::Index(0), axes, false);
        assert_eq!(answer(&mut spread, 0, FRANCE, 8), (text.clone(), ids.clone()), "{axes}");
        logits_are_near(&block_on(spread.logits(&tokens)).unwrap(), &want, axes);
        let (bytes, messages) = spread.sent().unwrap();
        assert!(bytes > 0 && messages > 0, "{axes}: nothing was sent");
    }
}

#[test]
fn each_rank_holds_its_own_pieces_only() {
    let (Some(path), Found::Device(_)) = (model("smollm2-135m"), device(None)) else { return };
    let whole = open(&path, DeviceChoice::Index(0), "tp=1", false).rank_bytes()[0].1 as f64;
    // The embedding, a third of this model, is the head, too: with stages, both ends have it.
    for (axes, shares) in [("tp=3", vec![0.37; 3]), ("pp=2,tp=3", vec![0.28; 6]), ("pp=3", vec![0.6, 0.3, 0.6])] {
        let mut spread = open(&path, DeviceChoice::Index(0), axes, false);
        let bytes = spread.rank_bytes();
        assert_eq!(bytes.len(), shares.len());
        for ((rank, b), most) in bytes.into_iter().zip(shares) {
            let share = b as f64 / whole;
            assert!(share < most, "{axes}: rank {rank} holds {:.0} % of what one device holds", share * 100.0);
        }
    }
}

#[test]
fn meshes_that_do_not_fit_are_refused_with_the_numbers() {
    let Some(path) = model("smollm2-135m") else { return };
    let refused = |axes: &str, devices: Vec<DeviceChoice>| {
        let layout = Layout { mesh: mesh(axes)?, devices, ..Layout::default() };
        let options = Options { device: DeviceChoice::Cpu, context: Some(64), layout, ..Options::default() };
        block_on(Generator::open(&path, &options)).map(drop)
    };
    let says = |axes: &str, devices: Vec<DeviceChoice>, text: &str| {
        let e = refused(axes, devices).expect_err(axes).to_string();
        assert_eq!(e, text);
    };
    says(
        "tp=10",
        vec![],
        "an axis of \"blk.0.attn_q.weight\" of 576 has 9 heads: too few for tp=10, choose tp up to 9",
    );
    says("pp=40", vec![], "pp=40 needs 40 layers or more, this graph has 32: choose pp up to 32");
    says("tp=2", vec![DeviceChoice::Cpu; 3], "--devices names 3 devices, mesh tp=2 has 2 ranks: name one a rank");
    says("tp=2,tp=2", vec![], "mesh \"tp=2,tp=2\": axis tp is named twice");
    says("zz=2", vec![], "mesh \"zz=2\": there is no axis \"zz\": axes are dp, pp, tp, cp, sp, ep");
}

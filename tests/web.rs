//! What the browser tests (tests/web) compare with: seeded checkpoints, and what the native engine answers to them.
//! They are written into a folder of the build; scripts/web-test.sh takes them from there.

mod common;

use common::gguf::RawTensor;
use common::tiny::{Tiny, with_header};
use common::{Found, adapter, device};
use pollster::block_on;
use serde_json::json;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use warpweft::base::DType;
use warpweft::session::{DeviceChoice, Generator, Options, Precision, Request};
use warpweft::text::{Message, Sampling};

const PROMPT: &str = "the weft goes over and under the warp";
const TOKENS: usize = 24;

/// Greedy tokens, their text, and the least distance between the likeliest two of a step.
fn answer(path: &Path, device: DeviceChoice, chat: bool) -> (Vec<u32>, String, f32) {
    let options = Options { device, precision: Precision::F32, ..Options::default() };
    let mut model = block_on(Generator::open(path, &options)).unwrap();
    let prompt = match chat {
        true => model.chat_prompt(&[Message::new("user", PROMPT)]).unwrap(),
        false => model.raw_prompt(PROMPT).unwrap(),
    };
    let request = Request { prompt, sampling: Sampling::greedy(), max_tokens: Some(TOKENS), top: 2 };
    let (mut ids, mut text, mut margin) = (vec![], String::new(), f32::INFINITY);
    let mut on_token = |t: &warpweft::session::Token| {
        ids.push(t.id);
        text += &t.text;
        margin = margin.min(t.top[0].logprob - t.top[1].logprob);
        Ok(())
    };
    block_on(model.generate(&request, &AtomicBool::new(false), &mut on_token)).unwrap();
    (ids, text, margin)
}

#[test]
fn checkpoints_for_the_browser_are_written_with_their_answers() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("web");
    std::fs::create_dir_all(&folder).unwrap();
    let small = |dtype, seed| Tiny { dtype, seed, context: 128, layers: 3, ..Tiny::default() };
    let mut models = serde_json::Map::new();
    for (name, tiny) in [("first", small(DType::F32, FIRST)), ("second", small(DType::Q8_0, SECOND))] {
        let path = folder.join(format!("{name}.gguf"));
        std::fs::write(&path, tiny.gguf().bytes()).unwrap();
        let chat = answer(&path, DeviceChoice::Cpu, true);
        assert!(chat.2 > 5e-3, "{name} in its chat form: two tokens are {} apart, another seed is needed", chat.2);
        let (ids, text, margin) = answer(&path, DeviceChoice::Cpu, false);
        assert_eq!(ids.len(), TOKENS, "{name} ends early: another seed is needed");
        assert!(ids.iter().collect::<std::collections::HashSet<_>>().len() > 6, "{name} repeats itself: {ids:?}");
        // So that no rounding of another device decides a token.
        assert!(margin > 5e-3, "{name}: two tokens are {margin} apart, another seed is needed");
        if let Found::Device(_) = device(None) {
            assert_eq!(answer(&path, DeviceChoice::Index(adapter().unwrap()), false).0, ids, "{name} on the device");
        }
        models.insert(name.into(), json!({ "file": format!("{name}.gguf"), "ids": ids, "text": text, "chat": chat.1 }));
    }
    small(DType::F32, FIRST).folder(&folder.join("first"), false);
    small(DType::F32, FIRST).folder_in_two(&folder.join("two"));
    // The same tokens of a folder in two files as of one.
    assert_eq!(
        answer(&folder.join("two"), DeviceChoice::Cpu, false).0,
        answer(&folder.join("first"), DeviceChoice::Cpu, false).0
    );
    let hollow = json!([hollow_gguf(&folder), hollow_folder(&folder)]);
    let written = json!({ "prompt": PROMPT, "models": models, "hollow": hollow });
    std::fs::write(folder.join("expected.json"), written.to_string()).unwrap();
}

/// Elements of a tensor that nobody needs, with which a file takes more than 4 GiB: four times as many bytes.
const UNUSED: u64 = 1_130_000_000;

/// The first model behind an unused tensor of zeros, without those: where they belong, and how many bytes they are.
fn hollow_gguf(folder: &Path) -> serde_json::Value {
    let mut file = Tiny { seed: FIRST, context: 128, layers: 3, ..Tiny::default() }.gguf();
    let mut at = UNUSED * 4;
    for t in &mut file.tensors {
        t.offset = Some(at);
        at += t.data.len().next_multiple_of(file.align) as u64;
    }
    file.tensors.insert(
        0,
        RawTensor {
            name: "unused.rotary_emb.inv_freq".into(),
            dims: vec![UNUSED],
            ty: 0,
            data: vec![],
            offset: Some(0),
        },
    );
    let bytes = file.bytes();
    // The last tensor is not padded.
    let (last, others) = file.tensors.split_last().unwrap();
    let data = others.iter().map(|t| t.data.len().next_multiple_of(file.align)).sum::<usize>() + last.data.len();
    std::fs::write(folder.join("hollow.gguf"), &bytes).unwrap();
    json!({ "path": "/hollow.gguf", "at": bytes.len() - data, "zeros": UNUSED * 4 })
}

/// The same as a folder of two files, the first of which takes more than 4 GiB.
fn hollow_folder(folder: &Path) -> serde_json::Value {
    let to = folder.join("hollow");
    Tiny { seed: FIRST, context: 128, layers: 3, ..Tiny::default() }.folder_in_two(&to);
    let name = "model-00001-of-00002.safetensors";
    let bytes = std::fs::read(to.join(name)).unwrap();
    let head = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&bytes[8..head]).unwrap();
    for entry in header.values_mut() {
        let moved = [0, 1].map(|i| entry["data_offsets"][i].as_u64().unwrap() + UNUSED * 4);
        entry["data_offsets"] = json!(moved);
    }
    header.insert(
        "unused.rotary_emb.inv_freq".into(),
        json!({ "dtype": "F32", "shape": [UNUSED], "data_offsets": [0, UNUSED * 4] }),
    );
    let text = json!(header).to_string();
    std::fs::write(to.join(name), with_header(&text, &bytes[head..])).unwrap();
    json!({ "path": format!("/hollow/{name}"), "at": 8 + text.len(), "zeros": UNUSED * 4 })
}

const FIRST: u64 = 1;
const SECOND: u64 = 2;

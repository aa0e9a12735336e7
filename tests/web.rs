//! What the browser tests (tests/web) compare with: seeded checkpoints, and what the native engine answers to them.
//! They are written into a folder of the build; scripts/web-test.sh takes them from there.

mod common;

use common::tiny::Tiny;
use common::{Found, adapter, device};
use pollster::block_on;
use serde_json::json;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use warpweft::base::DType;
use warpweft::session::{DeviceChoice, Generator, Options, Request};
use warpweft::text::{Message, Sampling};

const PROMPT: &str = "the weft goes over and under the warp";
const TOKENS: usize = 24;

/// Greedy tokens, their text, and the least distance between the likeliest two of a step.
fn answer(path: &Path, device: DeviceChoice, chat: bool) -> (Vec<u32>, String, f32) {
    let options = Options { device, ..Options::default() };
    let mut model = block_on(Generator::open(path, &options, &mut |_| {})).unwrap();
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
    let written = json!({ "prompt": PROMPT, "models": models });
    std::fs::write(folder.join("expected.json"), written.to_string()).unwrap();
}

const FIRST: u64 = 1;
const SECOND: u64 = 2;

//! Models that open while their bytes arrive: on a device and on the CPU they answer as models from disk do.

mod common;

use common::{Found, Later, device, model, values};
use pollster::block_on;
use std::collections::HashMap;
use std::sync::Arc;
use warpweft::base::{Array, Bindings, DType, Error, Result};
use warpweft::device::{Gpu, Program, Store};
use warpweft::format;
use warpweft::graph::GraphBuilder;
use warpweft::plan::{self, Options, Role};
use warpweft::session::{self, DeviceChoice, Generator, Head, Layout, Loading, Opened, Request};
use warpweft::text::Sampling;

/// Sums over x · aᵀ and x · bᵀ where a and b have odd numbers of blocks a row, so that neither ends on a whole word.
fn joined(gpu: &Arc<Gpu>, dtype: DType, k: usize, feed: Option<usize>) -> Vec<f32> {
    let rows = [("a", 3), ("b", 5)];
    let weights: HashMap<String, Array> = rows
        .iter()
        .map(|(n, r)| (n.to_string(), Array::new(dtype, &[*r, k], format::encode(dtype, &values(r * k))).unwrap()))
        .collect();
    let g = GraphBuilder::new();
    let x = g.input("x", DType::F32, [2, k]);
    // Products with one left operand: the plan puts both weights into one buffer.
    let [y, z] = rows.map(|(n, r)| x.matmul_t(g.weight(n, dtype, [r, k])));
    g.output("y", y.sum(&[1]) + z.sum(&[1]));
    let plan = plan::plan(&g.finish().unwrap(), gpu.caps(), &Options::for_caps(gpu.caps())).unwrap();
    assert!(
        plan.buffers.iter().any(|b| matches!(&b.role, Role::Weight { parts, .. } if parts.len() == 2)),
        "the weights share a buffer"
    );
    let mut store = Store::new(gpu.clone());
    let input = Array::f32(&[2, k], &values(2 * k));
    block_on(async {
        let mut program = match feed {
            None => Program::load(plan, &mut store, &weights, &mut |_, _| {}).await?,
            Some(blocks) => {
                let program = Program::load(plan, &mut store, &Later(&weights), &mut |_, _| {}).await?;
                // The second tensor first, and each in pieces from its end.
                for name in ["b", "a"] {
                    let size = blocks * dtype.block_bytes();
                    let pieces: Vec<&[u8]> = weights[name].bytes.chunks(size).collect();
                    for (i, piece) in pieces.iter().enumerate().rev() {
                        store.feed(name, (i * blocks) as u64, piece).await?;
                    }
                }
                store.finish().await?;
                program
            }
        };
        program.step(&Bindings::new(), &[("x", input)], &["y"]).await
    })
    .unwrap()[0]
        .to_f32()
}

#[test]
fn weights_that_are_fed_in_any_order_are_those_that_are_read() {
    let Found::Device(gpu) = device(None) else { return };
    for (dtype, k) in [(DType::Q8_0, 32), (DType::Q4_0, 96), (DType::Q4_1, 32), (DType::F16, 7), (DType::F32, 5)] {
        let read = joined(&gpu, dtype, k, None);
        for blocks in [1, 2, 3] {
            assert_eq!(joined(&gpu, dtype, k, Some(blocks)), read, "{dtype} fed {blocks} blocks at a time");
        }
    }
}

#[test]
fn a_weight_of_which_a_block_is_missing_is_named() {
    let Found::Device(gpu) = device(None) else { return };
    let weights = HashMap::from([("w".to_string(), Array::f32(&[2, 4], &[1.0; 8]))]);
    let g = GraphBuilder::new();
    let y = g.weight("w", DType::F32, [2, 4]).exp();
    g.output("y", y);
    let plan = plan::plan(&g.finish().unwrap(), gpu.caps(), &Options::for_caps(gpu.caps())).unwrap();
    let mut store = Store::new(gpu.clone());
    let said = block_on(async {
        let _program = Program::load(plan, &mut store, &Later(&weights), &mut |_, _| {}).await.unwrap();
        store.feed("w", 0, &weights["w"].bytes[..28]).await.unwrap();
        store.finish().await.unwrap_err().to_string()
    });
    assert!(said.contains("\"w\"") && said.contains("7 of 8"), "{said}");
}

/// The tokens of a short answer.
fn answer(model: &mut Generator) -> Vec<u32> {
    let prompt = model.raw_prompt("The capital of France is").unwrap();
    let request = Request::new(prompt).sampling(Sampling::default()).max_tokens(6);
    let mut tokens = model.stream(&request).unwrap();
    block_on(async {
        let mut ids = vec![];
        while let Some(token) = tokens.next().await {
            ids.push(token.unwrap().id);
        }
        ids
    })
}

#[test]
fn an_answer_is_a_stream_that_ends_where_it_is_dropped() {
    use futures_core::Stream;
    let Some(path) = model("smollm2-135m") else { return };
    let mut model =
        block_on(Generator::open(&path, &session::Options::new().device(DeviceChoice::Cpu).context(128))).unwrap();
    let prompt = model.raw_prompt("The capital of France is").unwrap();
    let request = Request::new(prompt).max_tokens(8);
    let whole: Vec<u32> = block_on(async {
        let mut tokens = model.stream(&request).unwrap();
        let mut ids = vec![];
        while let Some(token) = std::future::poll_fn(|cx| std::pin::Pin::new(&mut tokens).poll_next(cx)).await {
            ids.push(token.unwrap().id);
        }
        assert!(tokens.next().await.is_none(), "a stream that has ended stays ended");
        assert_eq!(tokens.figures().unwrap().tokens, ids.len());
        ids
    });
    assert_eq!(whole.len(), 8);
    // Dropped after three tokens, the answer is over, and the model can be asked again.
    let mut tokens = model.stream(&request).unwrap();
    let three: Vec<u32> = (0..3).map(|_| block_on(tokens.next()).unwrap().unwrap().id).collect();
    drop(tokens);
    assert_eq!(three, whole[..3]);
    let text = block_on(model.stream(&request).unwrap().text()).unwrap();
    assert_eq!(text, model.tokenizer().decode(&whole, true).unwrap());
}

fn arrived(path: &std::path::Path, device: DeviceChoice, cut: usize) -> Result<Opened> {
    let bytes = std::fs::read(path).unwrap();
    let options = session::Options { device, context: Some(64), ..Default::default() };
    let mut loading = Loading::new("m.gguf", Some(bytes.len() as u64), HashMap::new(), options);
    block_on(async {
        for chunk in bytes[..cut.min(bytes.len())].chunks(1_000_003) {
            loading.push(chunk).await?;
        }
        loading.finish().await
    })
}

#[test]
fn smollm2_answers_the_same_however_it_came() {
    let Some(path) = model("smollm2-135m") else { return };
    let mut devices = vec![DeviceChoice::Cpu];
    if let Found::Device(_) = device(None) {
        devices.push(DeviceChoice::Index(0));
    }
    for device in devices {
        let options = session::Options { device: device.clone(), context: Some(64), ..Default::default() };
        let mut whole = block_on(Generator::open(&path, &options)).unwrap();
        let Opened::Generator(mut fed) = arrived(&path, device, usize::MAX).unwrap() else {
            panic!("a llama generates")
        };
        assert_eq!(answer(&mut fed), answer(&mut whole));
        // Half of the answer from one, and half from the other: what happens when a device is lost.
        let prompt = fed.raw_prompt("The capital of France is").unwrap();
        let request = Request {
            prompt,
            sampling: Sampling { temperature: 0.8, seed: 3, ..Sampling::default() },
            max_tokens: Some(6),
            top: 0,
        };
        let never = session::Cancel::new();
        let ids = |from: &[usize], models: &mut [&mut Generator]| {
            let mut g = models[0].begin(&request).unwrap();
            from.iter().map(|m| block_on(models[*m].next(&mut g, &never)).unwrap().unwrap().id).collect::<Vec<_>>()
        };
        let models = &mut [&mut whole, &mut *fed];
        assert_eq!(ids(&[0, 0, 0, 0, 0, 0], models), ids(&[0, 1, 1, 0, 1, 0], models));
    }
}

#[test]
fn a_model_folder_answers_the_same_in_small_pieces_and_of_unknown_size() {
    let folder = common::Folder::new("pieces");
    common::tiny::Tiny { layers: 3, ..Default::default() }.folder(folder.path(), false);
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    let bytes = read("model.safetensors");
    assert!(bytes.len() > 100_000, "its head is read before its end is here");
    let options = session::Options { device: DeviceChoice::Cpu, ..Default::default() };
    let mut whole = block_on(Generator::open(folder.path(), &options)).unwrap();
    let arrive = |bytes: &[u8], size: Option<u64>| {
        let side = ["config.json", "tokenizer.json", "tokenizer_config.json"].map(|n| (n.to_string(), read(n)));
        let mut loading = Loading::new("model.safetensors", size, HashMap::from(side), options.clone());
        block_on(async {
            for piece in bytes.chunks(10_007) {
                loading.push(piece).await?;
            }
            loading.finish().await
        })
    };
    for size in [Some(bytes.len() as u64), None] {
        let Opened::Generator(mut fed) = arrive(&bytes, size).unwrap() else { panic!("a llama generates") };
        assert_eq!(answer(&mut fed), answer(&mut whole));
    }
    let wrong =
        arrive(&bytes, Some(bytes.len() as u64 + 40)).err().expect("a size that is wrong is refused").to_string();
    assert!(wrong.contains("follow its header"), "{wrong}");
    let cut = arrive(&bytes[..bytes.len() - 40], None).err().expect("a file that ends early is refused").to_string();
    assert!(cut.contains("download it again"), "{cut}");
}

/// A tiny model in two files, whose bytes arrive in small pieces after both heads.
fn in_two(
    folder: &std::path::Path,
    device: DeviceChoice,
    change: impl Fn(&str, Vec<u8>) -> Vec<u8>,
) -> Result<Vec<u32>> {
    let read = |name: &str| change(name, std::fs::read(folder.join(name)).unwrap());
    let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let side = ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors.index.json"]
        .map(|n| (n.to_string(), read(n)));
    let files = names.map(read);
    let head = |(name, bytes): (&str, &Vec<u8>)| Head {
        name: name.into(),
        size: Some(bytes.len() as u64),
        bytes: bytes[..bytes.len().min(5000)].to_vec(),
    };
    let heads: Vec<Head> = names.into_iter().zip(&files).map(head).collect();
    let options = session::Options { device, ..Default::default() };
    block_on(async {
        let mut loading = Loading::of_files("m", &heads, HashMap::from(side), options).await?;
        for (name, bytes) in names.iter().zip(&files) {
            for piece in bytes.chunks(10_007) {
                loading.push(piece).await?;
            }
            loading.file_ends(name)?;
        }
        let Opened::Generator(mut model) = loading.finish().await? else { panic!("a llama generates") };
        Ok(answer(&mut model))
    })
}

#[test]
fn a_model_in_two_files_answers_as_in_one_and_an_index_that_lies_is_told() {
    let (one, two) = (common::Folder::new("one"), common::Folder::new("two"));
    let tiny = common::tiny::Tiny { layers: 3, ..Default::default() };
    tiny.folder(one.path(), false);
    tiny.folder_in_two(two.path());
    let options = session::Options { device: DeviceChoice::Cpu, ..Default::default() };
    let open = |path: &std::path::Path| block_on(Generator::open(path, &options));
    let wanted = answer(&mut open(one.path()).unwrap());
    assert_eq!(answer(&mut open(two.path()).unwrap()), wanted);
    let mut devices = vec![DeviceChoice::Cpu];
    if let Found::Device(_) = device(None) {
        devices.push(DeviceChoice::Index(0));
    }
    for device in devices {
        assert_eq!(in_two(two.path(), device, |_, bytes| bytes).unwrap(), wanted);
    }
    let index = std::fs::read_to_string(two.path().join("model.safetensors.index.json")).unwrap();
    let (a, b) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
    let swapped = index.replace(a, "x").replace(b, a).replace('x', b);
    let lies = [
        ("a tensor elsewhere", swapped, "it is in model-0000"),
        (
            "a tensor that is nowhere",
            index.replacen("model.norm.weight", "model.warp.weight", 1),
            "\"model.warp.weight\" is in model-00001-of-00002.safetensors, it is in none",
        ),
        ("a file outside", index.replacen(a, "../x.safetensors", 1), "outside of its folder"),
        ("a number", index.replacen(&format!("\"{a}\""), "7", 1), "expected a string"),
        ("nothing", "{\"weight_map\":{}}".into(), "names no tensor"),
        ("no JSON", "[".into(), "not a valid index"),
    ];
    for (what, lie, says) in lies {
        let change =
            |name: &str, bytes: Vec<u8>| if name.ends_with("index.json") { lie.clone().into_bytes() } else { bytes };
        let said = in_two(two.path(), DeviceChoice::Cpu, change).unwrap_err().to_string();
        assert!(
            said.contains(says) && said.contains("model.safetensors.index.json") && !said.contains('\n'),
            "{what}: {said}"
        );
        std::fs::write(two.path().join("model.safetensors.index.json"), lie).unwrap();
        let said = open(two.path()).err().expect("lies are refused").to_string();
        assert!(said.contains(says) && said.contains("model.safetensors.index.json"), "{what} on disk: {said}");
    }
    std::fs::write(two.path().join("model.safetensors.index.json"), index).unwrap();
    // A file that changed between its head and its end.
    let cut = in_two(
        two.path(),
        DeviceChoice::Cpu,
        |name, bytes| if name == a { bytes[..bytes.len() - 4].to_vec() } else { bytes },
    )
    .unwrap_err()
    .to_string();
    assert!(cut.contains(a) && cut.contains("download it again"), "{cut}");
    let twice = in_two(two.path(), DeviceChoice::Cpu, |name, bytes| match name == b {
        true => std::fs::read(two.path().join(a)).unwrap(),
        false => bytes,
    });
    assert!(twice.unwrap_err().to_string().contains("in two files"));
}

#[test]
fn a_mesh_takes_its_pieces_as_they_arrive() {
    let Found::Device(_) = device(None) else { return };
    let file = common::tiny::Tiny { layers: 2, width: 128, heads: 4, kv_heads: 2, ..Default::default() }.gguf().bytes();
    let arrive = |mesh: Option<&str>| {
        let layout =
            mesh.map_or(Layout::default(), |m| Layout { mesh: session::mesh(m).unwrap(), ..Layout::default() });
        let options = session::Options { device: DeviceChoice::Index(0), layout, ..Default::default() };
        let mut loading = Loading::new("m.gguf", Some(file.len() as u64), HashMap::new(), options);
        block_on(async {
            for piece in file.chunks(9_001) {
                loading.push(piece).await?;
            }
            loading.finish().await
        })
    };
    let Opened::Generator(mut one) = arrive(None).unwrap() else { panic!("a llama generates") };
    let wanted = answer(&mut one);
    for mesh in ["tp=2", "pp=2"] {
        let Opened::Generator(mut model) = arrive(Some(mesh)).unwrap() else { panic!("a llama generates") };
        assert_eq!(answer(&mut model), wanted, "{mesh}");
        assert_eq!(model.rank_bytes().len(), 2);
    }
}

#[test]
fn a_download_that_ends_early_is_told_where() {
    let Some(path) = model("smollm2-135m") else { return };
    for (cut, says) in [(1000, "head"), (20_000_000, "inside of tensor")] {
        let e = arrived(&path, DeviceChoice::Cpu, cut).err().expect("cut files are refused").to_string();
        assert!(e.contains(says) && e.contains("download it again"), "{e}");
    }
}

#[test]
fn a_cancel_is_heard_within_a_step() {
    let Some(path) = model("smollm2-135m") else { return };
    let options = session::Options { device: DeviceChoice::Cpu, context: Some(256), ..Default::default() };
    let mut model = block_on(Generator::open(&path, &options)).unwrap();
    let prompt = model.raw_prompt(&"word ".repeat(120)).unwrap();
    let request = Request { prompt, sampling: Sampling::default(), max_tokens: Some(4), top: 0 };
    let cancel = session::Cancel::new();
    cancel.cancel();
    let mut tokens = model.stream(&request).unwrap().until(&cancel);
    assert!(block_on(tokens.next()).is_none());
    let done = tokens.figures().unwrap();
    assert_eq!((done.tokens, done.stop), (0, session::Stop::Cancelled));
    // Work enough for several submissions of a software device, or of any device that nothing is known of yet.
    let mut devices = vec![DeviceChoice::Cpu];
    if let Found::Device(_) = device(None) {
        devices.push(DeviceChoice::Index(0));
    }
    for device in devices {
        let stepped = block_on(async {
            let graph = GraphBuilder::new();
            let x = graph.input("x", DType::F32, [768, 768]);
            graph.output("y", x.matmul(x).matmul(x).matmul(x));
            let mut engine = session::Engine::open(&device, &graph.finish()?, &HashMap::new()).await?;
            engine
                .run_until(&Bindings::new(), &[("x", Array::f32(&[768, 768], &vec![0.01; 768 * 768]))], &["y"], &cancel)
                .await
        });
        assert_eq!(stepped, Err(Error::Cancelled), "on {device:?}");
    }
}

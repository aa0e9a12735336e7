//! What the tests share: a device, or the word that there is none.
#![allow(dead_code)]

pub mod gguf;
pub mod kernels;
pub mod seeded;
pub mod tiny;

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use warpweft::base::{AdapterKind, Array, Bindings, Caps, Result, Type, Weights};
use warpweft::device::{Gpu, Program, Store};
use warpweft::plan::{self, Options, Role};
use warpweft::reference::sample::CaseGraph;

/// Weights of which only types and shapes are known: their bytes arrive.
pub struct Later<'a>(pub &'a HashMap<String, Array>);

impl Weights for Later<'_> {
    fn info(&self, name: &str) -> Result<Type> {
        self.0.info(name)
    }
    fn read(&self, name: &str, _: std::ops::Range<usize>) -> Result<std::borrow::Cow<'_, [u8]>> {
        panic!("{name} was read, it arrives")
    }
    fn arrives(&self) -> bool {
        true
    }
}

/// What a GPU with a GiB for a buffer offers; nothing else beyond what all have.
pub fn large_gpu() -> Caps {
    Caps {
        kind: AdapterKind::Discrete,
        binding_bytes: 1 << 30,
        buffer_bytes: 1 << 30,
        storage_buffers: 16,
        ..Caps::FLOOR
    }
}

/// Elements that differ from their neighbours.
pub fn values(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 20.0).collect()
}

pub enum Found {
    Device(Arc<Gpu>),
    Skipped,
}

/// Says that a test is skipped, past libtest's capture of what passing tests print. The variable makes it a failure.
pub fn skip(variable: &str, why: &str) {
    assert!(!std::env::var(variable).is_ok_and(|v| v == "1"), "{why}, and {variable}=1 forbids to skip");
    let name = std::thread::current().name().unwrap_or("a test").to_string();
    let _ = writeln!(std::io::stderr(), "skipped: {name}: {why}");
}

/// The adapter that tests run on: the first that is not GL, whose software form is slow and short of features.
pub fn adapter() -> Option<usize> {
    let all = pollster::block_on(warpweft::device::adapters());
    all.iter().position(|a| a.backend != "gl").or((!all.is_empty()).then_some(0))
}

/// [`adapter`] for tests that need one: where there is none they are skipped, which is said.
pub fn needed_adapter() -> Option<usize> {
    let found = adapter();
    if found.is_none() {
        skip("WARPWEFT_REQUIRE_DEVICE", "there is no adapter");
    }
    found
}

/// A device on [`adapter`]. Where there is none the test is skipped, which WARPWEFT_REQUIRE_DEVICE=1 makes a failure.
pub fn device(within: Option<&Caps>) -> Found {
    let Some(index) = needed_adapter() else { return Found::Skipped };
    let opened = pollster::block_on(async {
        match within {
            Some(caps) => Gpu::open_within(index, caps).await,
            None => Gpu::open(index).await,
        }
    });
    Found::Device(Arc::new(opened.unwrap()))
}

/// Runs a case on the device with every result poisoned before, and checks that nothing behind it was touched.
pub fn run_case(gpu: &Arc<Gpu>, case: &CaseGraph, options: &Options) -> Result<Array> {
    run_changed(gpu, case, options, &mut |_| {})
}

/// Like [`run_case`], with the plan changed first.
pub fn run_changed(
    gpu: &Arc<Gpu>,
    case: &CaseGraph,
    options: &Options,
    change: &mut dyn FnMut(&mut plan::Plan),
) -> Result<Array> {
    pollster::block_on(async {
        let mut store = Store::new(gpu.clone());
        let mut plan = plan::plan(&case.graph, gpu.caps(), options)?;
        change(&mut plan);
        let mut program = Program::load(plan, &mut store, &case.weights, &mut |_, _| {}).await?;
        for (name, array) in &case.states {
            let at = program.plan().buffers.iter().position(|b| b.role == Role::State(name.clone())).unwrap();
            program.write_buffer(plan::BufferId(at as u32), &array.bytes)?;
        }
        program.poison();
        let inputs: Vec<(&str, Array)> = case.inputs.iter().map(|(n, a)| (n.as_str(), a.clone())).collect();
        let result = program.step(&Bindings::new(), &inputs, &["y"]).await?.remove(0);
        let port = program.plan().outputs[0].buffer;
        let bytes = program.buffer_bytes(port).await?;
        let used = result.bytes.len().next_multiple_of(4);
        assert!(bytes[used..].iter().all(|b| *b == 0xff), "the guard behind the result was written");
        Ok(result)
    })
}

/// A model of the catalogue from the cache, fetched where WARPWEFT_REQUIRE_MODELS=1; else skipped.
pub fn model(name: &str) -> Option<std::path::PathBuf> {
    use warpweft::model::{catalogue, source::Fetcher};
    let fetcher = Fetcher::new(cache());
    let entry = catalogue::find(name).unwrap();
    if fetcher.is_cached(&entry) {
        return Some(fetcher.path(&entry));
    }
    if std::env::var("WARPWEFT_REQUIRE_MODELS").is_ok_and(|v| v == "1") {
        return Some(fetcher.fetch(&entry, &mut |_| {}, &std::sync::atomic::AtomicBool::new(false)).unwrap());
    }
    skip("WARPWEFT_REQUIRE_MODELS", &format!("{name} is not cached (warpweft pull {name})"));
    None
}

/// The cache folder that the command line would use.
pub fn cache() -> std::path::PathBuf {
    use etcetera::BaseStrategy;
    match std::env::var_os("WARPWEFT_CACHE") {
        Some(dir) => dir.into(),
        None => etcetera::choose_base_strategy().unwrap().cache_dir().join("warpweft"),
    }
}

/// A folder of its own that goes with the test.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Folder {
        use std::sync::atomic::{AtomicUsize, Ordering};
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}-{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
    pub fn path(&self) -> &Path {
        &self.0
    }
    /// A file of these bytes in it.
    pub fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Plans products of few rows with sums over subgroups.
pub fn by_subgroups(options: &mut Options) {
    options.tuning.serial = false;
    options.tuning.prefer("subgroup-4");
}

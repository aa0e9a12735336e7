//! Loading a model holds little memory on the host beside the mapped file.

use super::loaded;
use crate::common::{Found, device, model};
use pollster::block_on;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use warpweft::base::{Array, Bindings, Var};
use warpweft::model::{Model, ModelSource, StepShape};

/// Counts what all threads of this program hold.
struct Counting;

static HELD: AtomicI64 = AtomicI64::new(0);
static PEAK: AtomicI64 = AtomicI64::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size() as i64, Ordering::Relaxed) + layout.size() as i64;
        PEAK.fetch_max(held, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size() as i64, Ordering::Relaxed);
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Bytes of this process that no file backs: on a software adapter the device's own buffers are among them.
fn anonymous() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<i64>().ok()? * 1024)
}

const ALLOWED: i64 = 64 << 20;

/// In a process of its own, where no other test allocates.
#[test]
fn loading_smollm2_stays_within_64_mib_beside_the_file() {
    let (Some(path), Found::Device(gpu)) = (model("smollm2-135m"), device(None)) else { return };
    if std::env::var_os("WARPWEFT_TEST_LOADING").is_none() {
        let test = "load::loading_smollm2_stays_within_64_mib_beside_the_file";
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        let out = child.args(["--exact", test, "--nocapture"]).env("WARPWEFT_TEST_LOADING", "1").output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout);
        assert!(out.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&out.stderr));
        return;
    }
    let model = Model::new(ModelSource::open(&path).unwrap()).unwrap();
    // A small context, so that what is on the device is weights.
    let shape = StepShape {
        seq: 1.into(),
        total: Var::new("total", 16),
        context: 16,
        last_only: true,
        sequence_parallel: false,
    };
    let graph = model.step_graph(&shape).unwrap();
    let (heap, anon) = (HELD.load(Ordering::Relaxed), anonymous());
    PEAK.store(heap, Ordering::Relaxed);
    let (done, most) = (AtomicBool::new(false), AtomicI64::new(0));
    let (mut program, _store) = std::thread::scope(|s| {
        s.spawn(|| {
            while let (false, Some(now), Some(before)) = (done.load(Ordering::Relaxed), anonymous(), anon) {
                most.fetch_max(now - before - gpu.used_bytes() as i64, Ordering::Relaxed);
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
        });
        let made = loaded(&gpu, &graph, &model.source);
        done.store(true, Ordering::Relaxed);
        made.unwrap()
    });
    let held = PEAK.load(Ordering::Relaxed) - heap;
    assert!(gpu.used_bytes() > 90 << 20, "the weights are on the device");
    assert!(held < ALLOWED, "the program held {held} bytes");
    let most = most.load(Ordering::Relaxed);
    assert!(most < ALLOWED, "the process held {most} bytes beside the device's buffers");
    println!("held {held} bytes on the heap, {most} in the process beside the device's buffers");
    let bindings = Bindings::new().with("seq", 1).with("total", 1);
    block_on(program.step(&bindings, &[("tokens", Array::u32(&[1], &[504]))], &["logits"])).unwrap();
}

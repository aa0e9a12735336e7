//! Ctrl-C, readers that go away, and terminals.
#![cfg(unix)]

use super::{command, device, tiny};
use crate::common::model;
use crate::common::tiny::Tiny;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Ctrl-C is to stop within a second; beside other tests on few cores it may take a little longer.
const PROMPT_STOP: Duration = Duration::from_millis(1800);

fn interrupt(child: &Child) {
    // SAFETY: a signal to a process that this test started and has not waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGINT) }, 0);
}

/// What takes long to answer.
const STORY: &str = "Write a very long story about a dragon.";

/// Waits, but not for ever.
fn ended(child: &mut Child) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if start.elapsed() > Duration::from_secs(20) {
            let _ = child.kill();
            panic!("still running 20 seconds later");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends Ctrl-C once `ready`, and gives what was said.
fn interrupted(what: &str, args: &[&str], ready: impl FnOnce(&mut Child)) -> (String, String) {
    let mut child = command(args).spawn().unwrap();
    ready(&mut child);
    let start = Instant::now();
    interrupt(&child);
    // The last word is what a user waits for: a process whose drivers have idle threads may linger on a busy machine.
    let (mut err, mut took) = (String::new(), None);
    for line in BufReader::new(child.stderr.take().unwrap()).lines().map_while(|l| l.ok()) {
        if line.ends_with("cancelled") {
            took = Some(start.elapsed());
        }
        err += &format!("{line}\n");
    }
    let status = ended(&mut child);
    let mut out = String::new();
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    assert_eq!(status.code(), Some(130), "{what}: {err}");
    assert!(took.is_some_and(|t| t < PROMPT_STOP), "{what}: took {took:?}: {err}");
    assert!(!err.contains("panicked"), "{what}: {err}");
    assert!(err.ends_with("cancelled\n"), "{what}: {err}");
    (out, err)
}

/// Reads one byte of stdout: the answer has begun.
fn begun(child: &mut Child) {
    let mut byte = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
}

fn after(millis: u64) -> impl FnOnce(&mut Child) {
    move |_| std::thread::sleep(Duration::from_millis(millis))
}

#[test]
fn ctrl_c_stops_an_answer_on_the_fallback_and_on_the_device() {
    let (Some(_), Some(index)) = (model("smollm2-135m"), device()) else { return };
    for place in ["cpu", &index] {
        let (_, err) = interrupted(place, &["run", "smollm2-135m", "-p", STORY, "--device", place], begun);
        // A slow device may be in a step that does not end in time: then there are no figures.
        assert!(place != "cpu" || err.contains("; generated ") && err.ends_with("; cancelled\n"), "{place}: {err}");
    }
}

#[test]
fn ctrl_c_stops_the_reading_of_a_long_prompt() {
    let (Some(_), Some(index)) = (model("smollm2-135m"), device()) else { return };
    let long = "The quick brown fox jumps over the lazy dog. ".repeat(300);
    for place in ["cpu", &index] {
        let (out, _) = interrupted(place, &["run", "smollm2-135m", "-p", &long, "--device", place], after(2500));
        assert_eq!(out.trim(), "", "{place}: nothing was generated yet");
    }
}

#[test]
fn ctrl_c_stops_the_opening_of_a_model_and_the_wait_for_a_prompt() {
    let (Some(_), Some(index)) = (model("smollm2-135m"), device()) else { return };
    for place in ["cpu", &index] {
        for millis in [150, 300, 600] {
            interrupted(place, &["run", "smollm2-135m", "-p", STORY, "--device", place], after(millis));
        }
    }
    let (_folder, path) = tiny(Tiny::default());
    let mut waits = command(&["run", &path, "--device", "cpu"]);
    let mut child = waits.stdin(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    interrupt(&child);
    assert_eq!(ended(&mut child).code(), Some(130));
}

#[test]
fn json_tells_of_a_cancel() {
    if model("smollm2-135m").is_none() {
        return;
    }
    let mut child = command(&["run", "smollm2-135m", "-p", "Write a very long story.", "--json", "--device", "cpu"])
        .spawn()
        .unwrap();
    begun(&mut child);
    interrupt(&child);
    let mut out = String::new();
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    assert_eq!(ended(&mut child).code(), Some(130));
    let last: serde_json::Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    assert_eq!(last["done"]["stop"], "cancelled");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let (_folder, path) = tiny(Tiny { context: 8192, ..Tiny::default() });
    let commands: &[&[&str]] = &[
        &["run", &path, "-p", "Hi", "--device", "cpu", "--ctx", "8000"],
        &["run", &path, "-p", "Hi", "--device", "cpu", "--ctx", "8000", "--json"],
        &["plan", &path, "--floor"],
        &["inspect", &path, "--tensors", "--device", "cpu"],
        &["models"],
        &["devices"],
    ];
    for args in commands {
        let mut child = command(args).spawn().unwrap();
        begun(&mut child);
        drop(child.stdout.take());
        let mut err = String::new();
        child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        assert_eq!(ended(&mut child).code(), Some(0), "{args:?}: {err}");
        assert!(!err.contains("panicked") && !err.contains("error:"), "{args:?}: {err}");
    }
}

/// Both ends of a pseudo-terminal.
fn terminal() -> (std::fs::File, OwnedFd) {
    let (mut outer, mut inner) = (0, 0);
    // SAFETY: two descriptors that nobody else owns, taken over at once.
    unsafe {
        assert_eq!(
            libc::openpty(&mut outer, &mut inner, std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut()),
            0
        );
        (std::fs::File::from_raw_fd(outer), OwnedFd::from_raw_fd(inner))
    }
}

/// What a terminal on stderr sees.
fn on_terminal(args: &[&str], vars: &[(&str, &str)]) -> String {
    let (mut outer, inner) = terminal();
    let mut command = command(args);
    command.stderr(Stdio::from(inner)).stdout(Stdio::null()).env("TERM", "xterm-256color").env_remove("CI");
    vars.iter().for_each(|(k, v)| {
        command.env(k, v);
    });
    let mut child = command.spawn().unwrap();
    drop(command);
    assert!(outer.as_raw_fd() >= 0);
    let (mut seen, mut buffer) = (vec![], [0; 4096]);
    // Linux says EIO once the other side is closed.
    while let Ok(n @ 1..) = outer.read(&mut buffer) {
        seen.extend_from_slice(&buffer[..n]);
    }
    ended(&mut child);
    String::from_utf8_lossy(&seen).into_owned()
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let (_folder, path) = tiny(Tiny::default());
    let args = ["run", &path, "-p", "Hi", "-n", "1", "--device", "cpu"];
    let plain = on_terminal(&args, &[("NO_COLOR", "1")]);
    assert!(on_terminal(&args, &[]).contains("\u{1b}[2m"));
    assert!(!plain.contains("[2m") && plain.contains("CPU fallback"), "{plain:?}");
    let error = ["run", "nothing-like-it", "-p", "x"];
    assert!(on_terminal(&error, &[]).starts_with("\u{1b}[1;31merror:\u{1b}[0m"));
    assert!(on_terminal(&error, &[("NO_COLOR", "1")]).starts_with("error: there is no model"));
    assert!(on_terminal(&error, &[("TERM", "dumb")]).starts_with("error: there is no model"));
}

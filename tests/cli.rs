//! The program as a user runs it: output, errors, exit codes.

mod common;

use std::process::{Command, Output, Stdio};

fn warpweft(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_warpweft"));
    command.args(args).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn the_first_command_of_the_readme_answers_paris_on_the_fallback() {
    if common::model("smollm2-135m").is_none() {
        return;
    }
    let out = warpweft(&["run", "smollm2-135m", "-p", "What is the capital of France?", "--device", "cpu"]);
    assert_eq!(text(&out.stdout), "The capital of France is Paris.\n");
    let figures = text(&out.stderr);
    assert!(figures.starts_with("CPU fallback") && figures.trim_end().ends_with("end of turn"), "{figures}");
    assert_eq!(out.status.code(), Some(0));
}

#[test]
fn a_wrong_model_is_one_line_and_a_failure() {
    let out = warpweft(&["run", "smolm2-135m", "-p", "x"]);
    let message = text(&out.stderr);
    assert_eq!((out.status.code(), message.lines().count(), out.stdout.len()), (Some(1), 1, 0), "{message}");
    assert!(message.ends_with("Did you mean smollm2-135m?\n"), "{message}");
}

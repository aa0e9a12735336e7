//! Ranks in several processes under Open MPI's launcher: the text of one process, and errors that surface.
#![cfg(all(feature = "mpi", unix))]

mod common;

use common::{Found, device, model};
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

const QUESTION: &str = "What is the capital of France?";

/// One launcher at a time: each has as many processes as it is given, on however few cores.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(|e| e.into_inner())
}

/// `mpirun -n N warpweft …` on the first adapter.
fn launch(ranks: usize, args: &[&str]) -> Child {
    Command::new("mpirun")
        .args([
            "--allow-run-as-root",
            "--oversubscribe",
            "-n",
            &ranks.to_string(),
            env!("CARGO_BIN_EXE_warpweft"),
            "run",
        ])
        .args(args)
        .args(["--device", "0", "--ctx", "128"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("mpirun starts: install openmpi-bin")
}

fn finish(child: Child) -> (String, String, bool) {
    let out = child.wait_with_output().unwrap();
    (
        String::from_utf8_lossy(&out.stdout).into_owned(),
        String::from_utf8_lossy(&out.stderr).into_owned(),
        out.status.success(),
    )
}

fn answers(ranks: usize, mesh: &str) {
    let path = model("smollm2-135m").unwrap();
    let (text, told, fine) =
        finish(launch(ranks, &[path.to_str().unwrap(), "-p", QUESTION, "-n", "8", "--mesh", mesh]));
    assert!(fine, "{mesh}: {told}");
    assert_eq!(text.trim(), "The capital of France is Paris.", "{mesh}: {told}");
    assert!(told.contains(&format!("rank 0 of {ranks} through MPI")), "{told}");
}

#[test]
fn two_and_four_processes_answer_as_one_does() {
    let (Some(_), Found::Device(_)) = (model("smollm2-135m"), device(None)) else { return };
    let _turn = turn();
    answers(2, "tp=2");
    answers(4, "pp=2,tp=2");
}

#[test]
fn replicas_answer_their_own_prompts() {
    let (Some(path), Found::Device(_)) = (model("smollm2-135m"), device(None)) else { return };
    let _turn = turn();
    let args =
        [path.to_str().unwrap(), "-p", QUESTION, "-p", "What is the capital of Italy?", "-n", "8", "--mesh", "dp=2"];
    let (text, told, fine) = finish(launch(2, &args));
    assert!(fine, "{told}");
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.contains(&"The capital of France is Paris.") && lines.len() == 2, "{text}\n{told}");
}

#[test]
fn another_number_of_processes_than_ranks_is_an_error() {
    let (Some(path), Found::Device(_)) = (model("smollm2-135m"), device(None)) else { return };
    let _turn = turn();
    let (_, told, fine) = finish(launch(3, &[path.to_str().unwrap(), "-p", QUESTION, "--mesh", "tp=2"]));
    assert!(
        !fine && told.contains("the launcher started 3 processes, the mesh has 2 ranks: start mpirun -n 2"),
        "{told}"
    );
}

/// Processes of a launcher that run this program.
fn children(of: u32) -> Vec<u32> {
    let path = format!("/proc/{of}/task/{of}/children");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().filter_map(|p| p.parse().ok()).collect()
}

/// Whether a process is there and has not ended (a parent may be slow to take note).
fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !matches!(rest.trim().chars().next(), None | Some('Z' | 'X')))
}

#[test]
fn one_rank_killed_ends_the_others_with_an_error_within_five_seconds() {
    let (Some(path), Found::Device(_)) = (model("smollm2-135m"), device(None)) else { return };
    let _turn = turn();
    let mut child =
        launch(2, &[path.to_str().unwrap(), "--raw", "-p", "Once upon a time", "-n", "100", "--mesh", "tp=2"]);
    // Until the first text is there, both ranks are at work.
    let mut first = [0u8; 1];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    let ranks = children(child.id());
    assert_eq!(ranks.len(), 2, "both ranks run");
    let kill = |pid: u32| Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    kill(ranks[1]);
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(start.elapsed() < Duration::from_secs(5), "the launcher still runs 5 s after a rank was killed");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(!status.success());
    while runs(ranks[0]) {
        assert!(start.elapsed() < Duration::from_secs(5), "the other rank still runs 5 s after");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut told = String::new();
    child.stderr.as_mut().unwrap().read_to_string(&mut told).unwrap();
    child.stdout.as_mut().unwrap().read_to_string(&mut told).unwrap();
    assert!(told.contains("killed") || told.contains("signal 9") || told.contains("error"), "{told}");
}

//! The program as a user runs it: answers, output, errors, exit codes.

mod common;
#[path = "cli/interrupt.rs"]
mod interrupt;
#[path = "cli/look.rs"]
mod look;
#[path = "cli/refusals.rs"]
mod refusals;
#[path = "cli/simulate.rs"]
mod simulate;

use common::tiny::Tiny;
use common::{Folder, model, needed_adapter};
use serde_json::Value as Json;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// What a run left.
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_warpweft"));
    command
        .args(args)
        .env_remove("NO_COLOR")
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs the program to its end, with `stdin` given to it.
fn warpweft_with(args: &[&str], stdin: &str) -> Said {
    let mut child = command(args).stdin(Stdio::piped()).spawn().unwrap();
    // A program that does not want it may have closed it.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let out = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let said = Said { code: out.status.code(), out: text(out.stdout), err: text(out.stderr) };
    assert!(!said.out.contains('\u{1b}') && !said.err.contains('\u{1b}'), "escape codes into a pipe: {args:?}");
    assert!(!said.err.contains("panicked") && !said.err.contains("XDG_RUNTIME_DIR"), "{args:?}: {}", said.err);
    said
}

fn warpweft(args: &[&str]) -> Said {
    warpweft_with(args, "")
}

/// `--device` for the adapter of the tests; a test that needs one is skipped where there is none.
fn device() -> Option<String> {
    needed_adapter().map(|i| i.to_string())
}

/// A tiny model's file in a folder of its own.
fn tiny(tiny: Tiny) -> (Folder, String) {
    let folder = Folder::new("cli");
    let path = folder.file("tiny.gguf", tiny.gguf().bytes()).display().to_string();
    (folder, path)
}

const FRANCE: [&str; 4] = ["run", "smollm2-135m", "-p", "What is the capital of France?"];

#[test]
fn the_first_command_of_the_readme_answers() {
    if model("smollm2-135m").is_none() {
        return;
    }
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let first = readme.split("```sh\n").nth(1).unwrap().lines().next().unwrap();
    assert_eq!(first, "cargo run --release -- run smollm2-135m -p \"What is the capital of France?\"");
    let said = warpweft(&FRANCE);
    assert_eq!((said.out.as_str(), said.code), ("The capital of France is Paris.\n", Some(0)));
    let figures = said.err.lines().last().unwrap();
    let parts: Vec<&str> = figures.split("; ").collect();
    assert!(parts[0].contains(": prompt 37 tokens, ") && parts[0].ends_with(" tokens/s"), "{figures}");
    assert!(parts[1].starts_with("generated 8 tokens, ") && parts[2].starts_with("peak memory "), "{figures}");
    assert_eq!(parts[3], "end of turn");
}

#[test]
fn the_fallback_and_the_device_answer_the_same() {
    let (Some(_), Some(index)) = (model("smollm2-135m"), device()) else { return };
    let on_cpu = warpweft(&[&FRANCE[..], &["--device", "cpu", "--precision", "f32"]].concat());
    assert_eq!(on_cpu.out, "The capital of France is Paris.\n");
    assert!(on_cpu.err.starts_with("CPU fallback ("), "{}", on_cpu.err);
    let on_device = warpweft(&[&FRANCE[..], &["--device", &index, "-n", "7"]].concat());
    assert_eq!((on_device.out.as_str(), on_device.code), ("The capital of France is Paris.\n", Some(0)));
    assert!(on_device.err.trim_end().ends_with("as long as asked for (-n)"), "{}", on_device.err);
}

#[test]
fn json_lines_have_the_promised_fields_and_no_others() {
    let (_folder, path) = tiny(Tiny::default());
    let said = warpweft(&["run", &path, "-p", "Hi", "-n", "3", "--json", "--device", "cpu"]);
    let lines: Vec<Json> = said.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let keys = |v: &Json| {
        let mut keys: Vec<String> = v.as_object().unwrap().keys().cloned().collect();
        keys.sort();
        keys.join(" ")
    };
    assert_eq!((lines.len(), said.code), (4, Some(0)));
    for token in &lines[..3] {
        assert_eq!(keys(token), "id logprob text top");
        let top = token["top"].as_array().unwrap();
        assert_eq!(top.len(), 10);
        assert!(top.iter().all(|t| keys(t) == "id logprob text"));
        // Greedy: the chosen token is the likeliest, and the list falls.
        assert_eq!((&token["id"], &token["logprob"]), (&top[0]["id"], &top[0]["logprob"]));
        assert!(top.windows(2).all(|w| w[0]["logprob"].as_f64() >= w[1]["logprob"].as_f64()));
    }
    assert_eq!(keys(&lines[3]), "done");
    assert_eq!(keys(&lines[3]["done"]), "adapter peak_bytes prompt_ids prompt_tokens_per_s stop tokens_per_s");
    assert_eq!(lines[3]["done"]["stop"], "length");
    assert!(lines[3]["done"]["prompt_ids"].as_array().unwrap().iter().all(|i| i.as_u64().is_some()));
    assert!(said.err.is_empty(), "{}", said.err);
}

fn stop(args: &[&str]) -> String {
    let said = warpweft(&[&["run", "--json", "--device", "cpu", "-p", "Hi"], args].concat());
    let last: Json = serde_json::from_str(said.out.lines().last().unwrap()).unwrap();
    last["done"]["stop"].as_str().unwrap().to_string()
}

#[test]
fn every_reason_to_stop_is_named() {
    let (_folder, path) = tiny(Tiny::default());
    assert_eq!(stop(&[&path, "-n", "2"]), "length");
    assert_eq!(stop(&[&path, "-n", "0"]), "length");
    let full = warpweft(&["run", &path, "-p", "Hi", "--raw", "--ctx", "12", "--json", "--device", "cpu"]);
    let lines: Vec<Json> = full.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let end = &lines.last().unwrap()["done"];
    // Two tokens of the prompt, ten more in the context, and one that needs no place in it.
    assert_eq!(
        (end["stop"].as_str(), end["prompt_ids"].as_array().unwrap().len(), lines.len() - 1),
        (Some("context"), 2, 11)
    );
    let plain = warpweft(&["run", &path, "-p", "Hi", "--raw", "--ctx", "12", "--device", "cpu"]);
    assert!(plain.err.trim_end().ends_with("the context is full (--ctx)"), "{}", plain.err);
    if model("smollm2-135m").is_some() {
        assert_eq!(stop(&["smollm2-135m"]), "end");
    }
}

#[test]
fn prompts_come_from_stdin_and_may_be_empty_in_chat_form() {
    let (_folder, path) = tiny(Tiny::default());
    let args = ["run", &path, "-n", "4", "--device", "cpu"];
    let given = warpweft(&[&args[..], &["-p", "Hi\nthere"]].concat());
    let piped = warpweft_with(&args, "Hi\nthere");
    assert_eq!((given.code, &given.out), (Some(0), &piped.out));
    assert_eq!(warpweft_with(&args, "").code, Some(0));
    let raw = warpweft_with(&[&args[..], &["--raw"]].concat(), "");
    assert_eq!((raw.code, raw.err.as_str()), (Some(1), "error: the prompt is empty\n"));
}

#[test]
fn seeds_repeat_and_differ() {
    let (_folder, path) = tiny(Tiny::default());
    let run = |seed: &str, extra: &[&str]| {
        let args = [
            "run", &path, "-p", "Hi", "-n", "24", "--temp", "1.5", "--top-k", "0", "--top-p", "1", "--min-p", "0",
            "--device", "cpu", "--seed", seed,
        ];
        warpweft(&[&args[..], extra].concat()).out
    };
    assert_eq!(run("1", &[]), run("1", &[]));
    assert_ne!(run("1", &[]), run("2", &[]));
    assert_ne!(run("1", &[]), run("1", &["--repeat-penalty", "5"]));
}

#[test]
fn a_chat_through_a_pipe_remembers_what_was_said() {
    if model("smollm2-135m").is_none() {
        return;
    }
    let talk = "What is the capital of France?\nAnd of Italy?\n/new\nAnd of Italy?\n";
    let said = warpweft_with(&["chat", "smollm2-135m", "-n", "24", "--device", "cpu"], talk);
    let lines: Vec<&str> = said.out.lines().collect();
    assert_eq!(said.code, Some(0));
    assert_eq!((lines[0], lines[1]), ("The capital of France is Paris.", "The capital of Italy is Rome."));
    assert_ne!(lines[2], lines[1], "after /new nothing is remembered");
    let figures = said.err.lines().filter(|l| l.contains("tokens/s")).count();
    assert_eq!(figures, 3, "{}", said.err);
}

#[test]
fn a_turn_that_does_not_fit_is_told_and_the_talk_goes_on() {
    let (_folder, path) = tiny(Tiny::default());
    let talk = format!("{}\nHi\n", "x ".repeat(200));
    let said = warpweft_with(&["chat", &path, "-n", "3", "--device", "cpu"], &talk);
    let errors: Vec<&str> = said.err.lines().filter(|l| l.starts_with("error:")).collect();
    assert_eq!((said.code, errors.len()), (Some(0), 1), "{}", said.err);
    assert!(errors[0].starts_with("error: the prompt has ") && said.err.contains("generated 3 tokens"), "{}", said.err);
}

#[test]
fn embeddings_come_as_rows_json_and_a_table() {
    if model("minilm").is_none() {
        return;
    }
    let texts = ["a cat sits outside", "a kitten in the garden", "interest rates rose"];
    let run = |extra: &[&str]| {
        let said = warpweft(&[&["embed", "minilm", "--device", "cpu"], &texts[..], extra].concat());
        assert_eq!(said.code, Some(0), "{}", said.err);
        assert!(said.err.starts_with("CPU fallback (") && said.err.contains("3 texts of 384 numbers"), "{}", said.err);
        said.out
    };
    let vectors: Vec<Vec<f64>> = serde_json::from_str(&run(&["--json"])).unwrap();
    assert!(vectors.len() == 3 && vectors.iter().all(|v| v.len() == 384));
    assert!(vectors.iter().all(|v| (v.iter().map(|x| x * x).sum::<f64>() - 1.0).abs() < 1e-5));
    let rows = run(&[]);
    let rows: Vec<Vec<f64>> = rows.lines().map(|l| l.split(' ').map(|x| x.parse().unwrap()).collect()).collect();
    assert!(rows.iter().flatten().zip(vectors.iter().flatten()).all(|(a, b)| (a - b).abs() < 1e-6));
    let table = run(&["--similarity"]);
    let lines: Vec<Vec<&str>> = table.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(lines.len(), 4);
    assert_eq!(lines[0], ["1", "2", "3"]);
    let cell = |i: usize, j: usize| lines[i][j].parse::<f64>().unwrap();
    assert!(cell(1, 1) == 1.0 && cell(1, 2) > cell(1, 3) && cell(1, 2) == cell(2, 1), "{table}");
}

#[test]
fn numerics_checks_name_op_layer_and_element_on_both() {
    let Some(index) = device() else { return };
    let folder = Folder::new("numerics");
    let mut file = Tiny::default().gguf();
    file.tensor("blk.1.ffn_down.weight").data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let path = folder.file("tiny.gguf", file.bytes()).display().to_string();
    for place in ["cpu", &index] {
        let said = warpweft(&["run", &path, "-p", "H", "--raw", "--check-numerics", "--device", place]);
        let last = said.err.lines().last().unwrap();
        // On a device the residual is added in the same kernel.
        let op = if place == "cpu" { "matmul" } else { "matmul+add" };
        assert_eq!(
            (said.code, last),
            (
                Some(1),
                format!("error: {op} \"layers.1.network.down\": element 0 is NaN, the first that is not finite")
                    .as_str()
            )
        );
    }
}

/// Where there are only software adapters, the first is timed beside the fallback once, and the faster one is taken.
#[test]
fn auto_takes_the_faster_of_a_software_adapter_and_the_fallback() {
    let all = pollster::block_on(warpweft::device::adapters());
    if needed_adapter().is_none() || all.iter().any(|a| a.caps.kind != warpweft::base::AdapterKind::Software) {
        // A real GPU is taken without a word; that is for a machine that has one.
        return;
    }
    let (folder, path) = tiny(Tiny::default());
    let cache = folder.path().join("cache");
    let run = || {
        let said = warpweft(&["run", &path, "-p", "Hi", "-n", "1", "--cache", &cache.display().to_string()]);
        assert_eq!(said.code, Some(0), "{}", said.err);
        said.err
    };
    let first = run();
    let lines: Vec<&str> = first.lines().collect();
    assert!(
        lines[0].starts_with(&format!("only a software adapter ({}); for a GPU ", all[0].name))
            && lines[0].contains("timing it beside the CPU (once; remembered in "),
        "{first}"
    );
    assert!(
        lines[1].starts_with(&format!("only a software adapter ({}): ", all[0].name))
            && lines[1].contains(" times as fast"),
        "{first}"
    );
    let remembered = std::fs::read_dir(cache.join("tuning")).unwrap().map(|e| e.unwrap().path());
    let file = remembered.into_iter().find(|p| p.to_string_lossy().contains("beside-cpu")).unwrap();
    for (times, taken) in [
        (r#"{"adapter":0.001,"cpu":0.004}"#, &all[0].name),
        (r#"{"adapter":0.004,"cpu":0.001}"#, &"CPU fallback".to_string()),
    ] {
        std::fs::write(&file, times).unwrap();
        let said = run();
        assert!(!said.contains("beside the CPU (once") && said.contains("4.0 times as fast"), "{said}");
        assert!(said.lines().last().unwrap().starts_with(taken.as_str()), "{said}");
    }
    // What is damaged is measured anew.
    std::fs::write(&file, "{").unwrap();
    assert!(run().contains("beside the CPU (once"));
}

#[test]
fn a_profile_is_a_trace_that_names_every_dispatch() {
    let Some(index) = device() else { return };
    let (folder, path) = tiny(Tiny::default());
    let file = folder.path().join("trace.json").display().to_string();
    let said = warpweft(&["run", &path, "-p", "Hi", "-n", "2", "--device", &index, "--profile", &file]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    let trace: Json = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let spans: Vec<&Json> = trace["traceEvents"].as_array().unwrap().iter().filter(|e| e["ph"] == "X").collect();
    let planned = warpweft(&["plan", &path, "--device", &index]);
    // Where shaders run on a CPU a conversation goes over pages: its rows look up their positions, its layers are as planned.
    let numbered = |l: &&str| l.trim_start().starts_with(|c: char| c.is_ascii_digit());
    let of_layers = planned.out.lines().filter(numbered).filter(|l| l.contains("\"layers.")).count();
    let seen = spans.iter().filter(|s| s["name"].as_str().is_some_and(|n| n.contains("layers."))).count();
    assert!(seen > 0 && seen == of_layers, "{seen} spans of layers: {}", planned.out);
    for span in &spans {
        let name = span["name"].as_str().unwrap();
        assert!(["embedding", "layers.0.", "layers.1.", "head"].iter().any(|p| name.contains(p)), "{name}");
        assert!(span["dur"].as_f64().unwrap() >= 0.0 && span["ts"].as_f64().unwrap() >= 0.0);
        assert!(
            !span["args"]["kernel"].as_str().unwrap().is_empty() && !span["args"]["ops"].as_str().unwrap().is_empty()
        );
    }
    // On the fallback there is nothing to time, and that is said before anything is generated.
    let said = warpweft(&["run", &path, "-p", "Hi", "--device", "cpu", "--profile", &file]);
    assert_eq!((said.code, said.out.as_str()), (Some(1), ""));
}

/// Where the examples lie that `cargo test` has built.
fn example(name: &str) -> PathBuf {
    let here = std::env::current_exe().unwrap();
    let path =
        here.ancestors().nth(2).unwrap().join("examples").join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    assert!(path.exists(), "{} is not built: `cargo test` without --test does it", path.display());
    path
}

#[test]
fn every_example_runs() {
    let all = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/examples")).unwrap();
    let programs = all.map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "rs"));
    let mut names: Vec<String> = programs.map(|p| p.file_stem().unwrap().to_string_lossy().into_owned()).collect();
    names.sort();
    assert_eq!(names, ["embed", "generate", "layer_norm", "matmul", "softmax", "train", "transformer"]);
    for name in names {
        let path = match name.as_str() {
            "generate" => Some(model("smollm2-135m")),
            "embed" => Some(model("minilm")),
            _ => None,
        };
        // Skipped only where its model is not there.
        let Some(path) = path.map_or(Some(None), |p| p.map(Some)) else { continue };
        let out = Command::new(example(&name)).args(path).output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        assert!(out.status.success(), "{name}: {}", String::from_utf8_lossy(&out.stderr));
        let expected = match name.as_str() {
            "generate" => "The capital of France is Paris.",
            "embed" => "A kitten is in the garden",
            "layer_norm" => "[-1.3416, -0.4472, 0.4472, 1.3416",
            "matmul" => "[4.0, 5.0, 10.0, 11.0]",
            "softmax" => "2 rows: [0.09003",
            "train" => "well below the bigram model's",
            _ => "from the f64 reference",
        };
        assert!(text.contains(expected), "{name}: {text}");
    }
}

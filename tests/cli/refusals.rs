//! What cannot be done is one line on stderr, nothing on stdout, and a failure.

use super::{device, tiny, warpweft};
use crate::common::model;
use crate::common::tiny::Tiny;

/// The message of a command that fails.
fn refused(args: &[&str]) -> String {
    let said = warpweft(args);
    let lines: Vec<&str> = said.err.lines().collect();
    assert_eq!((lines.len(), said.out.as_str()), (1, ""), "{args:?}: {}", said.err);
    assert!(matches!(said.code, Some(1 | 2)), "{args:?}: {:?}", said.code);
    let message = lines[0].strip_prefix("error: ").unwrap_or_else(|| panic!("{args:?}: {}", lines[0]));
    format!("{} ({})", message, said.code.unwrap())
}

#[test]
fn wrong_commands() {
    let (folder, path) = tiny(Tiny::default());
    let run = |args: &[&str]| refused(&[&["run", &path, "-p", "Hi", "--device", "cpu"], args].concat());
    let commands: Vec<(&str, String)> = vec![
        ("an unknown command", refused(&["frobnicate"])),
        ("no model", refused(&["run"])),
        ("an unknown model", refused(&["run", "smolm2-135m", "-p", "x"])),
        ("a model unlike any", refused(&["run", "qqqqqqqqqqqqqqqqqqqqqqqqqq", "-p", "x"])),
        ("a file that is not there", refused(&["run", "./nothing.gguf", "-p", "x"])),
        ("a file that is no model", refused(&["run", "./Cargo.toml", "-p", "x"])),
        ("a folder that is no model", refused(&["inspect", "./src"])),
        ("an unknown option", run(&["--tempp", "1"])),
        ("a temperature that is a word", run(&["--temp", "hot"])),
        ("a temperature below 0", run(&["--temp=-1"])),
        ("a temperature that is NaN", run(&["--temp", "NaN"])),
        ("top-p above 1", run(&["--top-p", "1.5"])),
        ("min-p below 0", run(&["--min-p=-0.1"])),
        ("a repetition penalty of 0", run(&["--repeat-penalty", "0"])),
        ("a negative length", run(&["-n=-1"])),
        ("a seed that is a word", run(&["--seed", "x"])),
        (
            "an unknown adapter",
            refused(&["run", &path, "-p", "Hi", "--device", "voodoo2"]).replace(&adapters(), "ADAPTERS"),
        ),
        (
            "an adapter beyond the last",
            refused(&["run", &path, "-p", "Hi", "--device", "99"]).replace(&format!("has {} ", count()), "has N "),
        ),
        ("an empty device", refused(&["run", &path, "-p", "Hi", "--device", ""])),
        ("a context of 0", run(&["--ctx", "0"])),
        ("a mesh of no ranks", run(&["--mesh", "tp=0"])),
        ("a mesh of more ranks than can be run", run(&["--mesh", "dp=100000"])),
        ("a mesh of more ranks than the sequence has tokens", run(&["--mesh", "cp=1000000"])),
        ("a mesh of more ranks than tokens that can be run", run(&["--mesh", "cp=65"])),
        ("a mesh of more ranks than heads", run(&["--mesh", "tp=1000"])),
        ("expert ranks of a model without experts", run(&["--mesh", "ep=2"])),
        ("a context beyond the model's", run(&["--ctx", "65"])),
        (
            "a profile of the fallback",
            run(&["--profile", "/dev/null"])
                .replace(|c: char| c.is_ascii_digit(), "N")
                .replace("NN", "N")
                .replace("NN", "N"),
        ),
        ("plain text with a system message", run(&["--raw", "--system", "x"])),
        ("an embedding of nothing", refused(&["embed", "minilm"])),
        ("an embedding of two forms", refused(&["embed", "minilm", "x", "--json", "--similarity"])),
        ("an embedding by a model that generates", refused(&["embed", &path, "x"])),
        (
            "a kernel beyond the last",
            refused(&["plan", &path, "--floor", "--wgsl", "999"])
                .replace(|c: char| c.is_ascii_digit(), "N")
                .replace("NN", "N")
                .replace("NN", "N"),
        ),
        ("a context for a plan beyond the model's", refused(&["plan", &path, "--floor", "--ctx", "65"])),
        ("an unknown model to fetch", refused(&["pull", "gpt-5"])),
        ("no model to fetch", refused(&["pull"])),
    ];
    let at = format!("{}/", folder.path().display());
    let said: String = commands.iter().map(|(what, said)| format!("{what}\n    {}\n", said.replace(&at, ""))).collect();
    insta::assert_snapshot!(said);
}

fn adapters() -> String {
    let names: Vec<String> = pollster::block_on(warpweft::device::adapters()).into_iter().map(|a| a.name).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

fn count() -> usize {
    pollster::block_on(warpweft::device::adapters()).len()
}

#[test]
fn a_prompt_longer_than_the_context() {
    let (_folder, path) = tiny(Tiny::default());
    let said = refused(&["run", &path, "--raw", "--device", "cpu", "-p", &"x".repeat(64)]);
    assert_eq!(said, "the prompt has 64 tokens, the context 64: shorten it, or raise --ctx (up to 64) (1)");
    let said = warpweft(&["run", &path, "--raw", "--device", "cpu", "-p", &"x".repeat(63)]);
    assert_eq!(said.code, Some(0), "{}", said.err);
}

#[test]
fn an_encoder_does_not_talk() {
    if model("minilm").is_none() {
        return;
    }
    let said = "model minilm: is an encoder: it makes embeddings, it does not generate text (1)";
    assert_eq!(refused(&["run", "minilm", "-p", "x"]), said);
    assert_eq!(refused(&["chat", "minilm"]), said);
}

#[test]
fn a_context_that_no_memory_holds() {
    let (_folder, path) = tiny(Tiny { context: 1 << 31, ..Tiny::default() });
    let said = refused(&["run", &path, "-p", "Hi", "--device", "cpu", "--ctx", "2147483647"]);
    assert_eq!(
        said,
        "model tiny: a context of 2147483647 tokens is more than can be planned: up to 8388608 for this model (1)"
    );
    let Some(index) = device() else { return };
    let said = refused(&["run", &path, "-p", "Hi", "--device", &index, "--ctx", "1100000"]);
    assert!(said.contains("layers.0.k"), "the state is named: {said}");
}
